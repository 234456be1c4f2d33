"""The PhysioNet/CinC Challenge 2012 files, loaded as published, on an invented calendar."""

import tarfile
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pyarrow import csv
from sqlalchemy import Engine

from rnn_core.contracts.errors import ContractError, ForecastError
from sql.loaders import LoadReport, Progress, make_schema, quoted, replace_table, silent

START = datetime(2026, 1, 1, tzinfo=UTC)
_DAYS = 365

_HEADER = b"Time,Parameter,Value"
_MEASUREMENT = pa.schema(
    [("record_id", pa.int64()), ("time", pa.string()), ("parameter", pa.string()), ("value", pa.string())]
)
_OUTCOME = {
    "RecordID": "record_id",
    "SAPS-I": "saps_i",
    "SOFA": "sofa",
    "Length_of_stay": "length_of_stay",
    "Survival": "survival",
    "In-hospital_death": "in_hospital_death",
}
_INDICES = {
    "record": ("(set_name, record_id)", "(intime)"),
    "measurement": (
        "(set_name, record_id)",
        "(set_name, record_id) where time = '00:00' and parameter in ('Age', 'Gender', 'Height', 'ICUType', 'Weight')",
    ),
    "outcome": ("(set_name, record_id)",),
}


def load(
    engine: Engine,
    paths: Path | str | Collection[Path | str],
    sets: Collection[str] | None = None,
    schema: str = "public",
    layout: Literal["calendar", "together"] = "calendar",
    seed: int = 0,
    start: datetime = START,
    withhold_outcomes: bool | Collection[str] = False,
    progress: Progress = silent,
) -> LoadReport:
    """Load the sets found under `paths` into the tables `record`, `measurement` and `outcome`; replaces an earlier load.

    paths: folders that hold set-a.tar.gz (or the unpacked set-a) and Outcomes-a.txt, and the like for b and c.
    sets: which of a, b, c; all that are found if None.
    layout: "calendar" begins each stay at a whole hour drawn uniformly from the 365 days after `start`, by `seed` and
        the name of the set alone; "together" begins all stays at `start`.
    withhold_outcomes: sets whose outcomes are not loaded (True: all): their stays are open.
    Raises ForecastError if a set or its outcomes are missing or not as published, ContractError for any other argument.
    """
    folders = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    places = _find_sets(folders, sets)
    withheld = set(places) if withhold_outcomes is True else set(withhold_outcomes or ())
    if layout not in ("calendar", "together") or not withheld <= set(places):
        raise ContractError(
            f"layout is 'calendar' or 'together' (found {layout!r}); withhold_outcomes names sets that are loaded, "
            f"{sorted(places)} (found {sorted(withheld)})."
        )
    tables: dict[str, list[pa.Table]] = {"record": [], "measurement": [], "outcome": [_outcome_table({}, "")]}
    malformed = 0
    for name, place in places.items():
        ids, measurements, bad_lines = _read_set(place, name)
        malformed += bad_lines
        tables["record"].append(_lay_out(ids, name, layout, seed, start))
        tables["measurement"].append(measurements)
        if name not in withheld:
            tables["outcome"].append(_read_outcomes(name, [place.parent, *folders]))
        progress(f"set {name}: {len(ids):,} stays, {len(measurements):,} measurements read")

    rows = {}
    with engine.begin() as connection:
        make_schema(connection, schema)
        for table, parts in tables.items():
            rows[table] = replace_table(connection, schema, table, pa.concat_tables(parts), _INDICES[table])
            progress(f"{table}: {rows[table]:,} rows")
    return LoadReport(rows, tuple(_notes(layout, seed, start, withheld, malformed)))


def read_saps_i(engine: Engine, schema: str = "public") -> dict[str, int]:
    """SAPS-I as published with the outcomes that are loaded, by stay_id of the adapter; missing scores left out."""
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(
            f"select set_name || '-' || record_id, saps_i from {quoted(connection, schema, 'outcome')} where saps_i >= 0"
        )
        return {stay_id: score for stay_id, score in rows}


def _find_sets(folders: list[Path], sets: Collection[str] | None) -> dict[str, Path]:
    """The location of each wanted set: a folder of text files or the published archive."""
    found = {}
    for name in "abc":
        candidates = [folder / form for folder in folders for form in (f"set-{name}", f"set-{name}.tar.gz")]
        candidates += [folder for folder in folders if folder.name == f"set-{name}"]
        if place := next(filter(Path.exists, candidates), None):
            found[name] = place
    wanted = sorted(found if sets is None else sets)
    missing = [name for name in wanted if name not in found]
    if missing or not wanted:
        raise ForecastError(
            f"The Challenge 2012 files of {', '.join(f'set {name}' for name in missing) or 'any set'} are not in "
            f"{', '.join(map(str, folders))}; expected set-a.tar.gz as published, or unpacked into the folder set-a."
        )
    return {name: found[name] for name in wanted}


def _read_files(place: Path) -> Iterator[tuple[str, bytes]]:
    """Record id and content of each stay's text file."""
    if place.is_dir():
        for file in sorted(place.glob("[0-9]*.txt")):
            yield file.stem, file.read_bytes()
        return
    with tarfile.open(place) as archive:
        for member in archive:
            name = Path(member.name)
            if member.isfile() and name.suffix == ".txt" and name.stem.isdigit():
                yield name.stem, archive.extractfile(member).read()


def _read_set(place: Path, name: str) -> tuple[np.ndarray, pa.Table, int]:
    """Record ids, all rows of a set as published, and the number of lines without exactly three fields.

    The files become one text with the record id before each line, which Arrow then reads at once.
    """
    ids, texts = [], []
    for record, content in _read_files(place):
        header, _, body = content.replace(b"\r\n", b"\n").partition(b"\n")
        if header.strip() != _HEADER:
            raise ForecastError(
                f"A file of set {name} does not begin with {_HEADER.decode()}; "
                "expected the files of the PhysioNet Challenge 2012 as published."
            )
        ids.append(int(record))
        if body := body.rstrip(b"\n"):
            prefix = b"%s," % record.encode()
            texts.append(prefix + body.replace(b"\n", b"\n" + prefix) + b"\n")
    if not ids:
        raise ForecastError(f"{place} contains no stay, such as 132539.txt; expected a set as published.")

    bad_lines: list[str] = []
    rows = _MEASUREMENT.empty_table()
    if texts:
        rows = csv.read_csv(
            pa.BufferReader(b"".join(texts)),
            csv.ReadOptions(column_names=_MEASUREMENT.names, block_size=1 << 24),
            csv.ParseOptions(quote_char=False, invalid_row_handler=lambda row: bad_lines.append(row.text) or "skip"),
            csv.ConvertOptions(column_types=_MEASUREMENT, strings_can_be_null=False),
        )
    rows = pa.concat_tables([rows, _kept_lines(bad_lines)]).combine_chunks()
    return np.sort(ids), rows.add_column(1, "set_name", pa.repeat(name, len(rows))), len(bad_lines)


def _kept_lines(lines: list[str]) -> pa.Table:
    """Lines with too few or too many fields: missing fields are null, surplus ones go to the value."""
    fields = [(line.split(",", 3) + [None] * 3)[:4] for line in lines]
    record, *others = zip(*fields, strict=True) if fields else ((), (), (), ())
    return pa.table([pa.array(map(int, record), pa.int64()), *others], schema=_MEASUREMENT)


def _lay_out(ids: np.ndarray, name: str, layout: str, seed: int, start: datetime) -> pa.Table:
    """One row per stay with its assigned time."""
    hours = np.zeros(len(ids), dtype="int64")
    if layout == "calendar":
        # The name is part of the seed, so that a set keeps its times whichever others are loaded.
        hours = np.random.default_rng([seed, ord(name)]).integers(0, _DAYS * 24, len(ids))
    begin = np.datetime64(start.astimezone(UTC).replace(tzinfo=None), "us")
    intime = pa.array(begin + hours * np.timedelta64(1, "h"), pa.timestamp("us", "UTC"))
    return pa.table({"record_id": ids, "set_name": pa.repeat(name, len(ids)), "intime": intime})


def _read_outcomes(name: str, folders: list[Path]) -> pa.Table:
    file = next(filter(Path.is_file, (folder / f"Outcomes-{name}.txt" for folder in folders)), None)
    if file is None:
        raise ForecastError(
            f"Outcomes-{name}.txt is not next to set {name}; put it there, or withhold the outcomes of this set, "
            "so that its stays are open."
        )
    try:
        table = csv.read_csv(file, convert_options=csv.ConvertOptions(column_types=dict.fromkeys(_OUTCOME, pa.int64())))
        return _outcome_table({column: table[column] for column in _OUTCOME}, name)
    except (pa.ArrowInvalid, KeyError):
        raise ForecastError(
            f"{file.name} is not as published: expected whole numbers in the columns {', '.join(_OUTCOME)}."
        ) from None


def _outcome_table(columns: dict[str, pa.ChunkedArray], name: str) -> pa.Table:
    table = pa.table({own: columns.get(published, pa.array([], pa.int64())) for published, own in _OUTCOME.items()})
    return table.add_column(1, "set_name", pa.repeat(name, len(table)))


def _notes(layout: str, seed: int, start: datetime, withheld: set[str], malformed: int) -> Iterator[str]:
    if layout == "calendar":
        yield (
            f"The files have no dates: each stay begins at a whole hour drawn uniformly from the {_DAYS} days after "
            f"{start:%Y-%m-%d %H:%M} UTC (seed {seed})."
        )
    else:
        yield f"The files have no dates: all stays begin together at {start:%Y-%m-%d %H:%M} UTC."
    if withheld:
        named = ", ".join(f"set {name}" for name in sorted(withheld))
        yield f"The outcomes of {named} are withheld: these stays are open."
    if malformed:
        yield f"{malformed:,} lines do not have exactly three fields and were kept as they are."
