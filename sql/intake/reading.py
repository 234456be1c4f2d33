"""Reads a source: an adapter's SELECTs on the engine that holds the tables, streamed as Arrow, times in UTC."""

import codecs
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from psycopg.sql import Literal
from sqlalchemy import Connection, CursorResult, Engine, text
from sqlalchemy.exc import DBAPIError

from rnn_core.contracts.errors import SourceError
from sql.intake.adapter import Adapter
from sql.intake.ascii_sql import in_ascii
from sql.intake.cells import FIRST_TIME, NO_TIME, readable_text, readable_texts, readable_times
from sql.store.deadline import fetch_ahead
from sql.store.engine import connect_arrow
from sql.store.refusals import Refusal, refusal

NOT_AFFECTED = "Published forecasts are not affected."
# Earlier than any record, later than PostgreSQL's, Python's and MySQL's own limits.
BEGINNING = FIRST_TIME
_ROWS_AT_ONCE = 100_000
_TIMES = frozenset(
    (
        "available_at",
        "observed_at",
        "intime",
        "outtime",
        "hospital_intime",
        "hospital_outtime",
        "died_at",
        "expected_at",
    )
)
# More than any clock is ever set back, so that bounds on a local clock lose nothing; the excess is cut off.
_CLOCK_CHANGE = timedelta(hours=3)


def read_stays(adapter: Adapter, engine: Engine, since: datetime, until: datetime) -> Iterator[pa.RecordBatch]:
    """Stream the stay versions with since < available_at <= until; see `read` for what it raises."""
    return read(adapter, "stays.sql", engine, since, until)


def read_observations(adapter: Adapter, engine: Engine, since: datetime, until: datetime) -> Iterator[pa.RecordBatch]:
    """Stream the observations with since < available_at <= until; see `read` for what it raises."""
    return read(adapter, "observations.sql", engine, since, until)


def read(adapter: Adapter, file: str, engine: Engine, since: datetime, until: datetime) -> Iterator[pa.RecordBatch]:
    """Stream the SELECT in a file of the adapter as record batches, rows with since < available_at <= until, times with a zone.

    Each batch is fetched while the one before is used. Memory holds a few batches, however many rows there are. Raises
    SourceError, also where the whole takes longer than the read timeout; its text never quotes a row.
    """
    sql, bound = statement(adapter, adapter.selects()[file], engine), bounds(adapter, since, until)
    of_engine = {"postgresql": _read_adbc, "duckdb": _read_duckdb}.get(engine.dialect.name, _read_rows)
    rows = (_within(_with_real_times(adapter, rows), since, until) for rows in of_engine(engine, sql, bound, adapter))
    began, limit = time.monotonic(), adapter.read_timeout_minutes * 60
    try:
        yield from fetch_ahead(rows, limit)
    except TimeoutError:
        raise SourceError(_too_slow(adapter)) from None
    # Once batches flow, the driver reports a broken stream as an OSError, or as an error of Arrow.
    except (DBAPIError, *_driver_errors(engine), pa.ArrowException, OSError) as error:
        if time.monotonic() - began >= limit:
            raise SourceError(_too_slow(adapter)) from None
        why = refusal(error, engine) or _why_it_broke(error, engine, sql, bound)
        raise SourceError(f"Reading the source {adapter.name} failed: {why}. {NOT_AFFECTED}") from None


def _why_it_broke(error: Exception, engine: Engine, sql: str, bound: dict[str, Any]) -> Refusal | str:
    """ADBC passes on no SQLSTATE once rows flow: have the server execute the SELECT again, without sending a row."""
    if "PGRES_FATAL_ERROR" in str(error):
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("set local statement_timeout = '1min'")
                explain(connection, "explain (analyze, timing off)", with_literals(sql, bound))
        except DBAPIError as again:
            if found := refusal(again, engine):
                return found
    said = getattr(error, "orig", error)
    is_broken = isinstance(said, OSError) or type(said).__name__ in ("OperationalError", "InterfaceError")
    what = "its database broke the connection" if is_broken else "its driver raised an error"
    return f"{what} ({type(said).__name__})"


def _too_slow(adapter: Adapter) -> str:
    return (
        f"Reading the source {adapter.name} took longer than {adapter.read_timeout_minutes:g} minutes: its server hangs, an "
        f"index is missing (`icu-forecast source check {adapter.name}`), or READ_TIMEOUT_MINUTES is too short. {NOT_AFFECTED}"
    )


def statement(adapter: Adapter, select: str, engine: Engine) -> str:
    """The SELECT in the dialect of the engine, with schemas and lists of numbers filled in; the bounds are still to be bound."""
    delays = adapter.delays() or {0: 0.0}
    select = select.replace("{items}", ", ".join(map(str, adapter.items())))
    select = select.replace("{icu_concepts}", ", ".join(map(str, adapter.icu_concepts)))
    select = select.replace("{delays}", ", ".join(f"({item}, {hours:g})" for item, hours in delays.items()))
    for placeholder, schema in adapter.schemas.items():
        # Drivers with parameters like %s have the percent signs of a name doubled.
        quoted = engine.dialect.identifier_preparer.quote(schema).replace("%%", "%")
        select = select.replace(f"{{{placeholder}}}", quoted)
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
    """The same rows, their times as timestamps in UTC. Raises SourceError for a time that is text and should be moved."""
    zone, is_moved = (adapter.timezone if adapter.local_times else "UTC"), adapter.local_times or adapter.shift_days
    for position, column in enumerate(rows.schema):
        if pa.types.is_timestamp(column.type) or (pa.types.is_date(column.type) and column.name in _TIMES):
            times = readable_times(rows.column(position), zone, adapter.shift_days)
            rows = rows.set_column(position, column.name, times)
        elif is_moved and column.name in _TIMES and not pa.types.is_null(column.type):
            raise SourceError(
                f"The source {adapter.name} returns {column.name} as {column.type}; a source with local_times or shift_days "
                "must return times as times. Cast it in the SELECT."
            )
    return rows


def _within(rows: pa.RecordBatch, since: datetime, until: datetime) -> pa.RecordBatch:
    """Rows of the slice; a row whose time is unknown or none is kept, to be quarantined."""
    available = rows.column("available_at")
    if not pa.types.is_timestamp(available.type):
        return rows
    kept = pc.and_(
        pc.greater(available, pa.scalar(since, available.type)),
        pc.less_equal(available, pa.scalar(until, available.type)),
    )
    return rows.filter(pc.fill_null(pc.or_(kept, pc.equal(available, pa.scalar(NO_TIME, available.type))), True))


def _driver_errors(engine: Engine) -> tuple[type[Exception], ...]:
    if engine.dialect.name == "postgresql":
        import adbc_driver_manager

        return (adbc_driver_manager.Error,)
    if engine.dialect.name == "duckdb":
        import duckdb

        return (duckdb.Error,)
    return ()


def _read_adbc(engine: Engine, sql: str, bound: dict[str, Any], adapter: Adapter) -> Iterator[pa.RecordBatch]:
    with connect_arrow(engine) as connection, connection.cursor() as cursor:
        cursor.execute("set transaction read only")
        cursor.execute(f"set local statement_timeout = {max(1, int(adapter.read_timeout_minutes * 60_000))}")
        cursor.execute("set local timezone = 'UTC'")
        cursor.execute("select current_setting('server_encoding'), current_setting('server_version_num')::int")
        encoding, version = cursor.fetchone()
        if version >= 130_000 and encoding not in ("UTF8", "SQL_ASCII"):
            sql = in_ascii(sql)
        if (codec := _codec(encoding)) and (sql.isascii() or encoding == "SQL_ASCII"):
            # As stored: converting to UTF-8, the server would refuse all rows for one byte that is no text.
            cursor.execute(f"set local client_encoding = '{encoding}'")
        else:
            codec = "utf-8"
        # The driver puts it into parentheses: a comment at its end must not take in the closing one.
        cursor.execute(with_literals(sql, bound) + "\n")
        for rows in cursor.fetch_record_batch():
            yield _with_text(rows, codec)


def _codec(encoding: str) -> str | None:
    """Python's name of an encoding of PostgreSQL; None where only the server can convert it."""
    if encoding == "SQL_ASCII":  # Bytes without a meaning, today most likely UTF-8.
        return "utf-8"
    try:
        return codecs.lookup(encoding.replace("WIN", "cp")).name
    except LookupError:
        return None


def _with_text(rows: pa.RecordBatch, codec: str = "utf-8") -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([readable_texts(column, codec) for column in rows.columns], rows.schema.names)


def with_literals(sql: str, bound: dict[str, Any]) -> str:
    """The SELECT with its two bounds written in.

    COPY takes no parameters, and without COPY the driver collects the whole result before its first batch. The bounds are
    therefore quoted here by psycopg, as its cursor.copy() does; the planner sees them.
    """
    literals = {name: Literal(value).as_string() for name, value in bound.items()}
    return re.sub(r"(?<!:):(since|until)\b", lambda m: literals[m[1]], sql)


def explain(connection: Connection, how: str, sql: str) -> CursorResult:
    """The plan of a SELECT `with_literals`; how: the words before it (PostgreSQL)."""
    return connection.exec_driver_sql(f"{how} {sql}".replace("%", "%%"))


def _read_duckdb(engine: Engine, sql: str, bound: dict[str, Any], _: Adapter) -> Iterator[pa.RecordBatch]:
    with engine.connect() as connection:
        session = connection.connection.driver_connection
        # Otherwise times with and without a zone are compared on the clock of this machine.
        session.execute("set timezone = 'UTC'")
        for rows in session.sql(re.sub(r":(since|until)\b", r"$\1", sql), params=bound).to_arrow_reader(_ROWS_AT_ONCE):
            yield _with_text(rows)


def _read_rows(engine: Engine, sql: str, bound: dict[str, Any], _: Adapter) -> Iterator[pa.RecordBatch]:
    """Any other database through its SQLAlchemy driver: times typed, all else as text, since drivers report no types."""
    if engine.dialect.name == "sqlite":
        # Times are text there, with or without fractions of a second: read a second more and cut off the excess.
        margin = {"since": -timedelta(seconds=1), "until": timedelta(seconds=1)}
        bound = {name: _iso(value + margin[name]) for name, value in bound.items()}
    with engine.connect().execution_options(stream_results=True) as connection:
        if engine.dialect.name == "sqlite":
            connection.connection.driver_connection.text_factory = readable_text
        result = connection.execute(text(sql), bound)
        names = list(result.keys())
        for rows in result.partitions(_ROWS_AT_ONCE):
            columns = zip(*rows, strict=True)
            yield pa.RecordBatch.from_arrays(
                [_column(name, values) for name, values in zip(names, columns, strict=True)], names
            )


def _iso(time: datetime) -> str:
    """With four digits of the year, which strftime leaves out before 1000: texts compare."""
    return time.replace(tzinfo=None).isoformat(" ", "seconds")


def _column(name: str, values: tuple[Any, ...]) -> pa.Array:
    if name not in _TIMES:
        said = [v if v is None or isinstance(v, bytes) else str(v).encode(errors="surrogatepass") for v in values]
        return readable_texts(pa.array(said, pa.large_binary()))
    texts = pd.Series(values, dtype=object)
    has_zone = texts.astype(str).str.contains(r"(?:Z|[+-]\d\d:?\d\d)$", regex=True).any()
    times = pd.to_datetime(texts, format="ISO8601", errors="coerce", utc=bool(has_zone)).dt.as_unit("us")
    column = pa.Array.from_pandas(times)
    # What is there and no time must not count as missing: a stay without an end is open.
    is_none = pa.array(times.isna().to_numpy() & texts.notna().to_numpy())
    return pc.if_else(is_none, pa.scalar(NO_TIME.replace(tzinfo=column.type.tz and UTC), column.type), column)
