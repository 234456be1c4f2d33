"""Reads a source: an adapter's SELECTs on the engine that holds the tables, streamed as Arrow, times in UTC."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from psycopg.sql import Literal
from sqlalchemy import Column, Engine, MetaData, Table, false, inspect, select, text
from sqlalchemy.exc import DBAPIError, NoSuchTableError, OperationalError

from rnn_core.contracts.errors import SourceError
from sql.intake.adapter import Adapter
from sql.store.engine import connect_arrow

_ROWS_AT_ONCE = 100_000
_TIMES = frozenset(
    ("available_at", "observed_at", "intime", "outtime", "hospital_intime", "hospital_outtime", "died_at")
)
# More than any clock is ever set back, so that bounds on a local clock lose nothing; the excess is cut off.
_CLOCK_CHANGE = timedelta(hours=3)


def check_source(adapter: Adapter, engine: Engine) -> None:
    """Raises SourceError with one sentence if the database is down or lacks a selected table or column."""
    if engine.dialect.name not in adapter.dialects:
        raise SourceError(
            f"The source {adapter.name} is written for {', '.join(adapter.dialects)}, not for {engine.dialect.name}; "
            "copy its folder and translate its two SELECTs."
        )
    if engine.dialect.name in ("duckdb", "sqlite") and not Path(engine.url.database or "").is_file():
        raise SourceError(f"The source {adapter.name} has no file at {engine.url.database}; check the path in its URL.")
    try:
        for schema, table, columns in adapter.relations():
            found = _columns(engine, schema, table)
            if not found:
                raise SourceError(
                    f"The source {adapter.name} needs the table {schema}.{table}, which does not exist or cannot be read; "
                    "check the schema setting and the grants."
                )
            if missing := [column for column in columns if column not in found]:
                raise SourceError(
                    f"The source {adapter.name} needs the column {', '.join(missing)} in {schema}.{table}, which does not "
                    "exist; was the table renamed or upgraded? Fix the adapter's SELECT."
                )
    except DBAPIError as error:
        raise _unreachable(adapter, engine, error) from None


def refused_tables(adapter: Adapter, engine: Engine) -> list[str]:
    """Tables (schema.table) that this user can see but not read: a catalogue shows columns to everyone."""
    refused = []
    for schema, name, columns in adapter.relations():
        query = select(Table(name, MetaData(), *map(Column, columns), schema=schema)).where(false())
        try:
            with engine.connect() as connection:
                connection.execute(query)
        except DBAPIError:
            refused.append(f"{schema}.{name}")
    return refused


def _columns(engine: Engine, schema: str, table: str) -> set[str]:
    """Names of a table's columns in lower case, none where there is no such table."""
    if engine.dialect.name == "duckdb":
        query = text(
            "select lower(column_name) from information_schema.columns"
            " where lower(table_schema) = lower(:schema) and lower(table_name) = lower(:table)"
        )
        with engine.connect() as connection:
            return set(connection.execute(query, {"schema": schema, "table": table}).scalars())
    try:
        found = {column["name"] for column in inspect(engine).get_columns(table, schema=schema)}
    except NoSuchTableError:
        return set()
    # SQLite keeps the case of the imported file and ignores it.
    return {name.lower() for name in found} if engine.dialect.name == "sqlite" else found


def _unreachable(adapter: Adapter, engine: Engine, error: DBAPIError) -> SourceError:
    if engine.dialect.name == "postgresql" and not isinstance(error, OperationalError):
        return SourceError(
            f"The source {adapter.name} refuses the query ({type(error.orig).__name__}); check the grants, and that its "
            f"SELECTs run there. `icu-forecast source grants {adapter.name}` prints what they need."
        )
    return SourceError(
        f"The source {adapter.name} does not answer at {engine.url.render_as_string(hide_password=True)} "
        f"({type(error.orig).__name__}); check that it runs, its URL and the credentials. "
        "Published forecasts are not affected."
    )


def read_stays(adapter: Adapter, engine: Engine, since: datetime, until: datetime) -> Iterator[pa.RecordBatch]:
    """Stream the stay versions with since < available_at <= until; see `_read` for what it raises."""
    return _read(adapter, adapter.stays_sql, engine, since, until)


def read_observations(adapter: Adapter, engine: Engine, since: datetime, until: datetime) -> Iterator[pa.RecordBatch]:
    """Stream the observations with since < available_at <= until; see `_read` for what it raises."""
    return _read(adapter, adapter.observations_sql, engine, since, until)


def _read(adapter: Adapter, select: str, engine: Engine, since: datetime, until: datetime) -> Iterator[pa.RecordBatch]:
    """Stream one of the adapter's SELECTs as record batches, rows with since < available_at <= until, times with a zone.

    Memory holds a few batches, however many rows there are. Raises SourceError; its text never quotes a row.
    """
    sql, bound = statement(adapter, select, engine), bounds(adapter, since, until)
    read = {"postgresql": _read_adbc, "duckdb": _read_duckdb}.get(engine.dialect.name, _read_rows)
    zone = adapter.timezone if adapter.local_times else "UTC"
    try:
        for rows in read(engine, sql, bound, adapter.read_timeout_minutes):
            if adapter.local_times or adapter.shift_days:
                rows = _with_real_times(adapter, rows)
            rows = _moved(rows, timedelta(days=adapter.shift_days)) if adapter.shift_days else rows
            yield _within(_with_zone(rows, zone), since, until)
    # Once batches flow, the driver reports a broken stream as an OSError.
    except (DBAPIError, *_driver_errors(engine), OSError) as error:
        raise SourceError(
            f"Reading the source {adapter.name} failed ({type(error).__name__}): its database broke the connection, "
            f"refused the SELECT, or took longer than {adapter.read_timeout_minutes:g} minutes. Run "
            f"`icu-forecast source check {adapter.name}`. Published forecasts are not affected."
        ) from None


def statement(adapter: Adapter, select: str, engine: Engine) -> str:
    """The SELECT in the dialect of the engine, with schemas and lists of numbers filled in; the bounds are still to be bound."""
    delays = adapter.delays() or {0: 0.0}
    select = select.replace("{items}", ", ".join(map(str, adapter.items())))
    select = select.replace("{icu_concepts}", ", ".join(map(str, adapter.icu_concepts)))
    select = select.replace("{delays}", ", ".join(f"({item}, {hours:g})" for item, hours in delays.items()))
    for placeholder, schema in adapter.schemas.items():
        select = select.replace(f"{{{placeholder}}}", engine.dialect.identifier_preparer.quote(schema))
    return _without_intervals(select) if engine.dialect.name == "sqlite" else select


def _without_intervals(select: str) -> str:
    """SQLite has no intervals; its datetime() gives the same text for the sum of a column and an interval."""
    return re.sub(r"([\w.:]+) ([+-]) interval '(\d+ \w+)'", r"datetime(\1, '\2\3')", select)


def bounds(adapter: Adapter, since: datetime, until: datetime) -> dict[str, datetime]:
    """The bounds of a read as the SELECTs compare them: with a zone, or on the source's clock and a little wider."""
    since, until = (time - timedelta(days=adapter.shift_days) for time in (since, until))
    if not adapter.local_times:
        return {"since": since, "until": until}
    zone = ZoneInfo(adapter.timezone)
    since, until = (time.astimezone(zone).replace(tzinfo=None, fold=0) for time in (since, until))
    return {"since": since - _CLOCK_CHANGE, "until": until + _CLOCK_CHANGE}


def _with_real_times(adapter: Adapter, rows: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows, dates as their midnight. Raises SourceError for a time that is text."""
    for position, column in enumerate(rows.schema):
        if column.name not in _TIMES or pa.types.is_timestamp(column.type) or pa.types.is_null(column.type):
            continue
        if not pa.types.is_date(column.type):
            raise SourceError(
                f"The source {adapter.name} returns {column.name} as {column.type}; a source with local_times or shift_days "
                "must return times as times. Cast it in the SELECT."
            )
        rows = rows.set_column(position, column.name, rows.column(position).cast(pa.timestamp("us")))
    return rows


def _moved(rows: pa.RecordBatch, shift: timedelta) -> pa.RecordBatch:
    """The same rows with every time moved."""
    for position, column in enumerate(rows.schema):
        if pa.types.is_timestamp(column.type):
            times = pc.add(rows.column(position), pa.scalar(shift, pa.duration(column.type.unit)))
            rows = rows.set_column(position, column.name, times)
    return rows


def _with_zone(rows: pa.RecordBatch, zone: str) -> pa.RecordBatch:
    """The same rows, times without a zone taken from the clock of `zone`.

    An hour that occurs twice in autumn is the second one, an hour skipped in spring is its end: nothing counts as known too
    early, and the order of times is kept.
    """
    for position, column in enumerate(rows.schema):
        if pa.types.is_timestamp(column.type) and column.type.tz is None:
            times = pc.assume_timezone(rows.column(position), zone, ambiguous="latest", nonexistent="latest")
            rows = rows.set_column(position, column.name, times.cast(pa.timestamp(column.type.unit, "UTC")))
    return rows


def _within(rows: pa.RecordBatch, since: datetime, until: datetime) -> pa.RecordBatch:
    """Rows of the slice; a row whose time is unknown is kept, to be quarantined."""
    available = rows.column("available_at")
    if not pa.types.is_timestamp(available.type):
        return rows
    kept = pc.and_(
        pc.greater(available, pa.scalar(since, available.type)),
        pc.less_equal(available, pa.scalar(until, available.type)),
    )
    return rows.filter(pc.fill_null(kept, True))


def _driver_errors(engine: Engine) -> tuple[type[Exception], ...]:
    if engine.dialect.name == "postgresql":
        import adbc_driver_manager

        return (adbc_driver_manager.Error,)
    if engine.dialect.name == "duckdb":
        import duckdb

        return (duckdb.Error,)
    return ()


def _read_adbc(engine: Engine, sql: str, bound: dict[str, Any], timeout_minutes: float) -> Iterator[pa.RecordBatch]:
    with connect_arrow(engine) as connection, connection.cursor() as cursor:
        cursor.execute("set transaction read only")
        cursor.execute(f"set local statement_timeout = {int(timeout_minutes * 60_000)}")
        cursor.execute("set local timezone = 'UTC'")
        cursor.execute(_with_literals(sql, bound))
        yield from cursor.fetch_record_batch()


def _with_literals(sql: str, bound: dict[str, Any]) -> str:
    """The SELECT with its two bounds written in.

    COPY takes no parameters, and without COPY the driver collects the whole result before its first batch. The bounds are
    therefore quoted here by psycopg, as its cursor.copy() does; the planner sees them.
    """
    literals = {name: Literal(value).as_string() for name, value in bound.items()}
    return re.sub(r"(?<!:):(since|until)\b", lambda m: literals[m[1]], sql)


def _read_duckdb(engine: Engine, sql: str, bound: dict[str, Any], _: float) -> Iterator[pa.RecordBatch]:
    with engine.connect() as connection:
        session = connection.connection.driver_connection
        # Otherwise times with and without a zone are compared on the clock of this machine.
        session.execute("set timezone = 'UTC'")
        yield from session.sql(re.sub(r":(since|until)\b", r"$\1", sql), params=bound).to_arrow_reader(_ROWS_AT_ONCE)


def _read_rows(engine: Engine, sql: str, bound: dict[str, Any], _: float) -> Iterator[pa.RecordBatch]:
    """Any other database through its SQLAlchemy driver: times typed, all else as text, since drivers report no types."""
    if engine.dialect.name == "sqlite":
        # Times are text there, with or without fractions of a second: read a second more and cut off the excess.
        margin = {"since": -timedelta(seconds=1), "until": timedelta(seconds=1)}
        bound = {name: (value + margin[name]).strftime("%Y-%m-%d %H:%M:%S") for name, value in bound.items()}
    with engine.connect().execution_options(stream_results=True) as connection:
        result = connection.execute(text(sql), bound)
        names = list(result.keys())
        for rows in result.partitions(_ROWS_AT_ONCE):
            columns = zip(*rows, strict=True)
            yield pa.RecordBatch.from_arrays(
                [_column(name, values) for name, values in zip(names, columns, strict=True)], names
            )


def _column(name: str, values: tuple[Any, ...]) -> pa.Array:
    if name in _TIMES:
        texts = pd.Series(values, dtype=object)
        has_zone = texts.astype(str).str.contains(r"(?:Z|[+-]\d\d:?\d\d)$", regex=True).any()
        times = pd.to_datetime(texts, format="ISO8601", errors="coerce", utc=bool(has_zone))
        return pa.Array.from_pandas(times.dt.as_unit("us"))
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def sequential_scans(adapter: Adapter, engine: Engine, since: datetime, until: datetime) -> dict[str, int]:
    """Tables of which no index serves a read of this slice, with the database's estimate of their rows.

    A table that the planner scans although it has such an index, since it is small or its statistics are old, is not among
    them. PostgreSQL only; none for other engines. Raises SourceError if the database refuses to plan the SELECT.
    """
    if engine.dialect.name != "postgresql":
        return {}
    whole: set[tuple[str, str]] = set()
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("set local enable_seqscan = off")
            for select in (adapter.stays_sql, adapter.observations_sql):
                planned = _with_literals(statement(adapter, select, engine), bounds(adapter, since, until))
                explained = "explain (verbose, format json) " + planned.replace("%", "%%")
                (plan,) = connection.exec_driver_sql(explained).scalar_one()
                scanned = [node for node in _nodes(plan["Plan"]) if _reads_all(node)]
                whole |= {(node["Schema"], node["Relation Name"]) for node in scanned}
            rows = text("select greatest(reltuples, 0)::bigint from pg_class where oid = to_regclass(:name)")
            quote = engine.dialect.identifier_preparer.quote
            return {
                table: connection.execute(rows, {"name": f"{quote(schema)}.{quote(table)}"}).scalar_one()
                for schema, table in sorted(whole)
            }
    except DBAPIError as error:
        raise _unreachable(adapter, engine, error) from None


def _reads_all(node: dict) -> bool:
    """Whether a node of a plan reads a whole table: row by row, or by an index without a condition on it."""
    kind = node["Node Type"]
    return kind == "Seq Scan" or (kind in ("Index Scan", "Index Only Scan") and "Index Cond" not in node)


def _nodes(plan: dict) -> Iterator[dict]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)
