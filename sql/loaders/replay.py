"""Real stays, moved in time as a plan says, written as the tables of a made-up hospital (source `replay`)."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
from sqlalchemy import Connection, Engine, text

from rnn_core.contracts.concepts import CONCEPTS, NAMES
from rnn_core.contracts.errors import ForecastError
from rnn_core.contracts.frames import STAY_COLUMNS, Observations
from sql.intake.adapter import load_adapter
from sql.loaders import LoadReport, Progress, make_schema, quoted, replace_table, silent
from sql.published import canonical
from sql.store.copy import copy_arrow

# Stays whose values are in memory at a time.
_STAYS_AT_ONCE = 200
_TIME = pa.timestamp("us", "UTC")
_TIMES = ("available_at", "intime", "outtime", "hospital_intime", "hospital_outtime", "died_at")
_NUMBERS = ("end_precision_hours", "age_years", "height_cm", "weight_kg")
_COLUMNS = ("stay_id", "available_at", *(c for c in STAY_COLUMNS if c not in ("source", "stay_id", "ends_at")))
STAY = pa.schema(
    [(c, _TIME if c in _TIMES else pa.float64() if c in _NUMBERS else pa.string()) for c in _COLUMNS],
)
VALUE = pa.schema(
    [
        ("stay_id", pa.string()),
        ("concept", pa.string()),
        ("unit", pa.string()),
        ("observed_at", _TIME),
        ("available_at", _TIME),
        ("value", pa.float64()),
    ]
)
UNIT = pa.schema([("unit", pa.string()), ("beds", pa.int64()), ("staffed_beds", pa.int64()), ("available_at", _TIME)])
_PROCESS = pa.schema([("parameters", pa.string())])
_VERSIONS = f"""
select source, {", ".join(_COLUMNS)} from icu.stay_version
where source = :source and stay_id = any(:stay_ids) order by stay_id, available_at
"""
# Before any calendar: a number of beds holds since ever.
_BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)


def read_pool(store: Engine, sources: Sequence[str], as_of: datetime) -> pd.DataFrame:
    """The whole stays of the sources as known at `as_of`, as `canonical.read_stays` gives them: those that have ended, with an
    outcome, and with nothing for the audit to find.

    Raises ForecastError for a source without any, and for one whose stays are not whole unit stays.
    """
    if not sources:
        raise ForecastError("replay needs --from: sources that are loaded and ingested here, such as eicu.")
    parts = []
    for source in sources:
        stays = canonical.read_stays(store, source, as_of, only_sound=True)
        whole = stays[stays["outtime"].notna() & stays["outcome"].notna()]
        if whole.empty:
            raise ForecastError(
                f"There is no whole stay of {source}: load and ingest it first "
                f"(icu-forecast load {source}, icu-forecast ingest {source})."
            )
        if (whole["ends_at"] != "unit").any() or np.isfinite(_data_hours(source)):
            raise ForecastError(
                f"The stays of {source} end with the hospital stay, or their data stop earlier; a replay needs whole "
                "unit stays, as eicu, clif and mimic_iii have."
            )
        parts.append(whole)
    return pd.concat(parts, ignore_index=True)


def _data_hours(source: str) -> float:
    from sql.intake.adapter import adapter_names

    return load_adapter(source).sampling.data_hours if source in adapter_names() else np.inf


def load(
    engine: Engine,
    store: Engine,
    plan: pd.DataFrame,
    beds: Mapping[str, int],
    process: str,
    schema: str = "public",
    progress: Progress = silent,
) -> LoadReport:
    """Write the hospital's tables into `schema`; those of an earlier load are replaced. All or nothing.

    plan: one row per stay of the hospital: source and stay_id of the real one, unit, and shift (timedelta64), by which all
        times of the stay and of its values are moved. The rows get new ids for stay and patient, in their order.
    process: the parameters of the process, as text. Memory holds the values of some hundred stays.
    Raises ForecastError for a database that is not PostgreSQL.
    """
    if engine.dialect.name != "postgresql":
        raise ForecastError(f"replay is loaded into PostgreSQL; its URL is one of {engine.dialect.name}.")
    plan = plan.assign(new_id=[f"{number:06d}" for number in range(1, len(plan) + 1)])
    rows = dict.fromkeys(("replay_stay", "replay_value", "replay_unit", "replay_process"), 0)
    with engine.begin() as connection:
        make_schema(connection, schema)
        for table, columns in (("replay_stay", STAY), ("replay_value", VALUE)):
            replace_table(connection, schema, table, columns.empty_table(), ["(available_at)"])
        units = [
            {"unit": unit, "beds": n, "staffed_beds": None, "available_at": _BEGINNING} for unit, n in beds.items()
        ]
        rows["replay_unit"] = replace_table(connection, schema, "replay_unit", pa.Table.from_pylist(units, UNIT))
        parameters = pa.Table.from_pylist([{"parameters": process}], _PROCESS)
        rows["replay_process"] = replace_table(connection, schema, "replay_process", parameters)
        for first in range(0, len(plan), _STAYS_AT_ONCE):
            part = plan.iloc[first : first + _STAYS_AT_ONCE]
            for stays, values in _moved(store, part):
                rows["replay_stay"] += copy_arrow(connection, f"{schema}.replay_stay", stays)
                rows["replay_value"] += copy_arrow(connection, f"{schema}.replay_value", values)
            progress(f"{first + len(part):,} of {len(plan):,} stays, {rows['replay_value']:,} values written")
        for table in ("replay_stay", "replay_value"):
            connection.exec_driver_sql(f"analyze {quoted(connection, schema, table)}")
    return LoadReport(rows)


def read_process(connection: Connection, schema: str = "public") -> str:
    """The parameters of the process that the hospital was made with."""
    return connection.exec_driver_sql(
        f"select parameters from {quoted(connection, schema, 'replay_process')}"
    ).scalar_one()


def _moved(store: Engine, plan: pd.DataFrame) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Versions and values of the planned stays of each source, moved and under their new ids."""
    for source, part in plan.groupby("source", sort=True):
        real = pd.DataFrame({"stay_id": part["stay_id"].unique()})
        with store.connect() as connection:
            bound = {"source": source, "stay_ids": real["stay_id"].tolist()}
            versions = pd.read_sql_query(text(_VERSIONS), connection, params=bound)
        end_of_time = datetime.max.replace(tzinfo=UTC)
        values = canonical.read_observations(store, str(source), real, end_of_time)
        yield _moved_stays(versions, part), _moved_values(values, real, part)


def _moved_stays(versions: pd.DataFrame, plan: pd.DataFrame) -> pa.Table:
    planned = plan[["stay_id", "unit", "shift", "new_id"]]
    rows = planned.merge(versions.drop(columns="unit"), on="stay_id").sort_values(["new_id", "available_at"])
    for column in _TIMES:
        rows[column] = pd.to_datetime(rows[column], utc=True).astype("datetime64[us, UTC]") + rows["shift"]
    rows = rows.assign(stay_id="R" + rows["new_id"], patient_id="P" + rows["new_id"])
    return pa.Table.from_pandas(rows[list(_COLUMNS)], STAY, preserve_index=False)


def _moved_values(values: Observations, real: pd.DataFrame, plan: pd.DataFrame) -> pa.Table:
    """values: of the stays `real`, each of which the plan may use several times."""
    order = np.argsort(values.stay, kind="stable")
    counts = np.bincount(values.stay, minlength=len(real))
    number = pd.Index(real["stay_id"]).get_indexer(plan["stay_id"])
    copies = counts[number]
    # Row k of a copy is row k of the real stay's run within `order`.
    within = np.arange(copies.sum()) - np.repeat(np.cumsum(copies) - copies, copies)
    row = order[np.repeat((np.cumsum(counts) - counts)[number], copies) + within]
    shift = np.repeat(plan["shift"].to_numpy("timedelta64[us]"), copies)
    concept = pa.array(values.concept[row])
    return pa.table(
        {
            "stay_id": pa.array(np.repeat("R" + plan["new_id"].to_numpy(object), copies), pa.string()),
            "concept": pa.array(NAMES).take(concept),
            "unit": pa.array([c.unit for c in CONCEPTS]).take(concept),
            "observed_at": pa.array(values.observed_at[row] + shift).cast(_TIME),
            "available_at": pa.array(values.available_at[row] + shift).cast(_TIME),
            "value": values.value[row],
        },
        schema=VALUE,
    )
