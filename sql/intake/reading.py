"""Reads a source: an adapter's SELECTs on the engine that holds the tables, streamed as Arrow, times in UTC."""

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from rnn_core.contracts.errors import SourceError
from sql import engines
from sql.engines.cells import FIRST_TIME, NO_TIME, readable_times
from sql.engines.generic import TIMES
from sql.intake.adapter import Adapter
from sql.store.deadline import fetch_ahead

NOT_AFFECTED = "Published forecasts are not affected."
# Earlier than any record, later than PostgreSQL's, Python's and MySQL's own limits.
BEGINNING = FIRST_TIME
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
    kind = engines.of(engine)
    sql, bound = statement(adapter, adapter.selects()[file], engine), bounds(adapter, since, until)
    began, limit = time.monotonic(), adapter.read_timeout_minutes * 60
    read_rows = kind.read(engine, sql, bound, limit)
    rows = (_within(_with_real_times(adapter, rows), since, until) for rows in read_rows)
    try:
        yield from fetch_ahead(rows, limit)
    except TimeoutError:
        raise SourceError(_too_slow(adapter)) from None
    # Once batches flow, the driver reports a broken stream as an OSError, or as an error of Arrow.
    except (DBAPIError, *kind.driver_errors(), pa.ArrowException, OSError) as error:
        if time.monotonic() - began >= limit:
            raise SourceError(_too_slow(adapter)) from None
        why = kind.refusal(error, engine) or kind.why_it_broke(error, engine, sql, bound) or _driver_said(error)
        raise SourceError(f"Reading the source {adapter.name} failed: {why}. {NOT_AFFECTED}") from None


def _driver_said(error: Exception) -> str:
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
    kind, delays = engines.of(engine), adapter.delays() or {0: 0.0}
    select = select.replace("{items}", ", ".join(map(str, adapter.items())))
    select = select.replace("{icu_concepts}", ", ".join(map(str, adapter.icu_concepts)))
    select = select.replace("{delays}", ", ".join(f"({item}, {hours:g})" for item, hours in delays.items()))
    for placeholder, schema in adapter.schemas.items():
        select = select.replace(f"{{{placeholder}}}", kind.quote(engine.dialect, schema))
    return kind.spell(select)


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
        if pa.types.is_timestamp(column.type) or (pa.types.is_date(column.type) and column.name in TIMES):
            times = readable_times(rows.column(position), zone, adapter.shift_days)
            rows = rows.set_column(position, column.name, times)
        elif is_moved and column.name in TIMES and not pa.types.is_null(column.type):
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
