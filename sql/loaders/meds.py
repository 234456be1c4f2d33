"""Events in the form of MEDS: the Parquet files stay where they are, and a DuckDB file shows them as one table."""

from pathlib import Path

from sqlalchemy import Connection, Engine

from rnn_core.contracts.errors import ForecastError
from sql.loaders import LoadReport, make_schema, quoted

# A column of the table: its type, the names it may have in the files, and whether the files must have it.
_COLUMNS = {
    "subject_id": ("bigint", ("subject_id",), True),
    "time": ("timestamp", ("time",), True),
    "code": ("varchar", ("code",), True),
    "numeric_value": ("float", ("numeric_value", "value"), True),
    "text_value": ("varchar", ("text_value",), False),
    "available_at": ("timestamp", ("available_at",), False),
    "stay_id": ("varchar", ("stay_id", "icustay_id"), False),
}


def load(engine: Engine, folder: Path, schema: str) -> LoadReport:
    """Make the view `meds_event` of the events in `folder`, or in its `data` where it has one; nothing is copied.

    Raises ForecastError if the engine is not a DuckDB file, if there are no Parquet files, or if they lack a column.
    """
    if engine.dialect.name != "duckdb":
        raise ForecastError(
            "MEDS files are read by DuckDB: set ICU_SOURCES__MEDS__URL to a file that is to be made, such as "
            "duckdb:////data/meds.db."
        )
    root = (folder / "data" if (folder / "data").is_dir() else folder).resolve()
    if not any(root.rglob("*.parquet")):
        raise ForecastError(f"There are no Parquet files in {root}; give the folder of a MEDS data set.")
    with engine.begin() as connection:
        make_schema(connection, schema)
        n_rows, notes = _make_view(connection, root, schema)
    return LoadReport({"meds_event": n_rows}, notes)


def _make_view(connection: Connection, root: Path, schema: str) -> tuple[int, tuple[str, ...]]:
    session, relation = connection.connection.driver_connection, quoted(connection, schema, "meds_event")
    pattern = str(root / "**" / "*.parquet").replace("'", "''")
    files = f"read_parquet('{pattern}', union_by_name = true)"
    found = {name: kind for name, kind, *_ in session.execute(f"describe select * from {files}").fetchall()}
    chosen = {column: next((n for n in names if n in found), None) for column, (_, names, _) in _COLUMNS.items()}
    if missing := [column for column, (_, _, needed) in _COLUMNS.items() if needed and chosen[column] is None]:
        raise ForecastError(f"The files in {root} have no column {', '.join(missing)}; are they events of MEDS?")
    columns = ", ".join(
        f"{_at_utc(name, found)}::{kind} as {column}" if name else f"null::{kind} as {column}"
        for column, (kind, _, _) in _COLUMNS.items()
        for name in (chosen[column],)
    )
    session.execute(f"create or replace view {relation} as select {columns} from {files}")
    n_rows = session.execute(f"select count(*) from {relation}").fetchone()[0]
    assumed = "They have no available_at: values count as known at their time, laboratory results later (README.md)."
    return n_rows, () if chosen["available_at"] else (assumed,)


def _at_utc(name: str, found: dict[str, str]) -> str:
    return f"{name} at time zone 'UTC'" if found[name] == "TIMESTAMP WITH TIME ZONE" else name
