"""A source's adapter: a folder of SELECTs in that database's own dialect, a concept map, and what it promises."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from psycopg.sql import Literal
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DBAPIError, NoSuchTableError, OperationalError

from rnn_core.concepts import BY_NAME
from rnn_core.config import Sampling
from rnn_core.errors import ContractError, SourceError
from sql.engine import KEEPALIVES, libpq_uri

_FOLDER = Path(__file__).parent / "sources"
_ROWS_AT_ONCE = 100_000


@dataclass(frozen=True)
class MappedVariable:
    """One line of concept_map.csv: value in the concept's unit = value * scale + offset; no concept: not used on purpose."""

    variable: str
    unit: str
    concept: str | None
    scale: float
    offset: float


@dataclass(frozen=True)
class Adapter:
    name: str
    title: str
    licence: str
    ends_at: str
    sampling: Sampling
    availability: str
    dialects: tuple[str, ...]
    tables: dict[str, list[str]]
    units: dict[str, int | None]
    stays_sql: str
    observations_sql: str
    concept_map: tuple[MappedVariable, ...]
    read_timeout_minutes: float = 60.0


def adapter_names() -> list[str]:
    """Every source this installation knows, by the name of its folder."""
    return sorted(path.parent.name for path in _FOLDER.glob("*/source.yaml"))


def load_adapter(name: str) -> Adapter:
    """Read and check the folder of a source; raises ContractError with the line to mend."""
    folder = _FOLDER / name
    if not (folder / "source.yaml").is_file():
        raise ContractError(f"There is no source called {name!r}; known are {', '.join(adapter_names())}.")
    promises = yaml.safe_load((folder / "source.yaml").read_text())
    return Adapter(
        name=name,
        title=promises["title"],
        licence=promises["licence"],
        ends_at=promises["ends_at"],
        sampling=Sampling(
            float(promises.get("delayed_entry_hours", 0)), float(promises.get("data_hours", float("inf")))
        ),
        availability=promises["availability"],
        dialects=tuple(promises.get("dialects", ["postgresql"])),
        tables=promises["tables"],
        units=promises.get("units") or {},
        stays_sql=_read_select(folder / "stays.sql"),
        observations_sql=_read_select(folder / "observations.sql"),
        concept_map=_read_concept_map(folder / "concept_map.csv"),
    )


def _read_select(path: Path) -> str:
    sql = path.read_text()
    for needed in (":since", ":until", "{schema}"):
        if needed not in sql:
            raise ContractError(
                f"{path.parent.name}/{path.name} needs {needed}; a read is bounded by what was known when."
            )
    return sql


def _read_concept_map(path: Path) -> tuple[MappedVariable, ...]:
    rows, seen = [], set()
    with path.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            place = f"{path.parent.name}/concept_map.csv, line {number}"
            concept = row["concept"] or None
            if concept and concept not in BY_NAME:
                raise ContractError(f"{place}: {concept!r} is no concept of rnn_core/concepts.py.")
            if (key := (row["variable"], row["unit"])) in seen:
                raise ContractError(f"{place}: variable and unit stand there already.")
            seen.add(key)
            try:
                scale, offset = float(row["scale"] or 1), float(row["offset"] or 0)
            except ValueError:
                raise ContractError(f"{place}: scale and offset are numbers.") from None
            rows.append(MappedVariable(row["variable"], row["unit"], concept, scale, offset))
    return tuple(rows)


def check_source(adapter: Adapter, engine: Engine, schema: str) -> None:
    """Raises SourceError with one sentence where the database is away or lacks a table or column that is selected."""
    if engine.dialect.name not in adapter.dialects:
        raise SourceError(
            f"The source {adapter.name} is written for {', '.join(adapter.dialects)}, not for {engine.dialect.name}; "
            "copy its folder and translate its two SELECTs."
        )
    try:
        inspector = inspect(engine)
        for table, columns in adapter.tables.items():
            try:
                found = {column["name"] for column in inspector.get_columns(table, schema=schema)}
            except NoSuchTableError:
                raise SourceError(
                    f"The source {adapter.name} needs the table {schema}.{table}, which is not there or may not be read; "
                    "check the schema setting and the grants."
                ) from None
            if missing := [column for column in columns if column not in found]:
                raise SourceError(
                    f"The source {adapter.name} needs the column {', '.join(missing)} in {schema}.{table}, which is not "
                    "there; was the table renamed or upgraded? Mend the adapter's SELECT."
                )
    except OperationalError as error:
        raise _unreachable(adapter, engine, error) from None


def _unreachable(adapter: Adapter, engine: Engine, error: DBAPIError) -> SourceError:
    return SourceError(
        f"The source {adapter.name} does not answer at {engine.url.render_as_string(hide_password=True)} "
        f"({type(error.orig).__name__}); check that it runs, the address and the credentials. "
        "Published forecasts stay as they are."
    )


def read_select(
    adapter: Adapter, select: str, engine: Engine, schema: str, since: datetime, until: datetime
) -> Iterator[pa.RecordBatch]:
    """Stream one of the adapter's SELECTs as record batches, rows with since < available_at <= until.

    Raises SourceError; its text never quotes a row.
    """
    sql = select.replace("{schema}", engine.dialect.identifier_preparer.quote(schema))
    bound = {"since": since, "until": until}
    try:
        if engine.dialect.name == "postgresql":
            yield from _read_adbc(engine, sql, bound, adapter.read_timeout_minutes)
        else:
            yield from _read_rows(engine, sql, bound)
    # Once batches flow, the driver reports a broken stream as an OSError.
    except (DBAPIError, _adbc_error(), OSError) as error:
        raise SourceError(
            f"Reading the source {adapter.name} failed ({type(error).__name__}): its database broke the connection, "
            f"refused the SELECT, or took longer than {adapter.read_timeout_minutes:g} minutes. Run "
            f"`icu-forecast source check {adapter.name}`. Published forecasts stay as they are."
        ) from None


def _adbc_error() -> type[Exception]:
    import adbc_driver_manager

    return adbc_driver_manager.Error


def _read_adbc(engine: Engine, sql: str, bound: dict[str, Any], timeout_minutes: float) -> Iterator[pa.RecordBatch]:
    import adbc_driver_postgresql.dbapi as adbc

    # COPY takes no parameters, and without COPY the driver collects the whole result before its first batch. So the two
    # times are bound on this side, by psycopg's own quoting, as its cursor.copy() does too; the planner sees them.
    literals = {name: Literal(value).as_string() for name, value in bound.items()}
    streamed = re.sub(r"(?<!:):(since|until)\b", lambda m: literals[m[1]], sql)
    with adbc.connect(libpq_uri(engine, **KEEPALIVES)) as connection, connection.cursor() as cursor:
        cursor.execute("set transaction read only")
        cursor.execute(f"set local statement_timeout = {int(timeout_minutes * 60_000)}")
        cursor.execute("set local timezone = 'UTC'")
        cursor.execute(streamed)
        yield from cursor.fetch_record_batch()


def _read_rows(engine: Engine, sql: str, bound: dict[str, Any]) -> Iterator[pa.RecordBatch]:
    with engine.connect().execution_options(stream_results=True) as connection:
        result = connection.execute(text(sql), bound)
        for rows in result.mappings().partitions(_ROWS_AT_ONCE):
            yield pa.RecordBatch.from_pylist([dict(row) for row in rows])
