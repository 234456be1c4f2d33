"""Looks at a source before it is read: its tables, columns, grants, SELECTs and indices, in its catalogue and plans."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
from sqlalchemy import Column, Engine, MetaData, Table, false, select
from sqlalchemy.exc import DBAPIError

from rnn_core.contracts.errors import SourceError
from sql import engines
from sql.intake.adapter import Adapter
from sql.intake.reading import BEGINNING, NOT_AFFECTED, bounds, statement
from sql.store.deadline import within
from sql.store.engine import address
from sql.store.refusals import is_refused_connection, unreachable

T = TypeVar("T")
# A look takes milliseconds: it waits as long as a read may take, within these limits.
_LOOK_SECONDS = (5.0, 120.0)


def check_source(adapter: Adapter, engine: Engine) -> None:
    """Raises SourceError with one sentence if the database is down, lacks a selected table or column, or refuses a SELECT."""
    kind = engines.of(engine)
    if not kind.serves(adapter.dialects):
        raise SourceError(
            f"The source {adapter.name} is written for {', '.join(adapter.dialects)}, not for {engine.dialect.name}; "
            f"copy its folder and write its SELECTs for that engine (`icu-forecast source translate` helps)."
        )
    if kind.is_a_file and not Path(engine.url.database or "").is_file():
        raise SourceError(f"The source {adapter.name} has no file at {engine.url.database}; check the path in its URL.")
    _look(adapter, engine, lambda: _check_tables(adapter, engine))
    _look(adapter, engine, lambda: _check_selects(adapter, engine))


def _check_tables(adapter: Adapter, engine: Engine) -> None:
    try:
        with engine.connect():
            pass  # What fails here is the connection; what fails below is a table.
    except (TypeError, ValueError, AttributeError, OSError) as error:
        # A driver's own, before it calls the server: an option that it does not know, no such character set, no such file.
        raise SourceError(
            f"The URL of the source {adapter.name} has an option that the driver for {engine.dialect.name} cannot use "
            f"({type(error).__name__}); check their names and values, and the files that they name."
        ) from None
    for schema, table, columns in adapter.relations():
        found = engines.of(engine).columns(engine, schema, table)
        if not found:
            raise SourceError(
                f"The source {adapter.name} needs the table {schema}.{table}, which does not exist or cannot be read; "
                "check the schema setting and the grants."
            )
        if missing := [column for column in columns if column not in found]:
            raise SourceError(
                f"The source {adapter.name} needs the column {', '.join(missing)} in {schema}.{table}, which does not "
                "exist or is not granted; was the table renamed or upgraded? Fix the adapter's SELECT, or the grants."
            )


def _check_selects(adapter: Adapter, engine: Engine) -> None:
    """Have the SELECTs planned. The database's own message is shown: no row was read yet, so it quotes none."""
    kind = engines.of(engine)
    if not kind.can_plan:
        return _check_grants(adapter, engine)
    for file, sql in adapter.selects().items():
        try:
            kind.plan(engine, statement(adapter, sql, engine), bounds(adapter, BEGINNING, BEGINNING))
        except DBAPIError as error:
            if is_refused_connection(error):
                raise
            _check_grants(adapter, engine)
            place, message = _place_and_message(error)
            raise SourceError(
                f"The database of the source {adapter.name} refuses {file}{place}: {message} Correct the SELECT, and "
                "`tables` in source.yaml."
            ) from None


def _place_and_message(error: DBAPIError) -> tuple[str, str]:
    """The line of the SELECT that the database names, and its message."""
    diagnosis = getattr(error.orig, "diag", None)
    said = getattr(diagnosis, "message_primary", None) or str(error.orig.args[-1]).strip()
    message = " ".join(said.split())[:300].rstrip(".") + "."
    if position := getattr(diagnosis, "statement_position", None):
        sent = str(error.statement).replace("%%", "%")
        return f", line {sent.count(chr(10), 0, int(position) - 1) + 1}", message
    return "", message


def _check_grants(adapter: Adapter, engine: Engine) -> None:
    """Raises SourceError with the tables that this user can see but not read: a catalogue shows columns to everyone."""
    refused = []
    for schema, name, columns in adapter.relations():
        query = select(Table(name, MetaData(), *map(Column, columns), schema=schema)).where(false())
        try:
            with engine.connect() as connection:
                connection.execute(query)
        except DBAPIError:
            refused.append(f"{schema}.{name}")
    if refused:
        raise SourceError(
            f"The source {adapter.name} may not select what its adapter reads of {', '.join(refused)}; grant select on them, "
            f"as `icu-forecast source grants {adapter.name}` prints."
        )


def _look(adapter: Adapter, engine: Engine, call: Callable[[], T]) -> T:
    """What `call` finds in the catalogue. Raises SourceError if the database refuses it or does not answer in time."""
    seconds = float(np.clip(adapter.read_timeout_minutes * 60, *_LOOK_SECONDS))
    try:
        return within(seconds, call)
    except TimeoutError:
        raise SourceError(
            f"The source {adapter.name} does not answer at {address(engine)} within {seconds:g} seconds; does its server "
            f"hang? {NOT_AFFECTED}"
        ) from None
    except DBAPIError as error:
        raise _refused(adapter, engine, error) from None


def _refused(adapter: Adapter, engine: Engine, error: DBAPIError) -> SourceError:
    if is_refused_connection(error):
        return SourceError(f"The source {adapter.name} {unreachable(error, engine)}. {NOT_AFFECTED}")
    why = engines.of(engine).refusal(error, engine) or "it broke the connection"
    return SourceError(f"The database of the source {adapter.name} refused a query: {why}. {NOT_AFFECTED}")


def times_with_a_zone(adapter: Adapter, engine: Engine) -> list[str]:
    """The columns that an adapter reads whose type of time has a zone, as `table.column (type)`."""
    kind = engines.of(engine)

    def look() -> list[str]:
        return [
            f"{table}.{column} ({found[column].lower()})"
            for schema, table, columns in adapter.relations()
            for found in (kind.columns(engine, schema, table),)
            for column in columns
            if kind.with_zone.search(found.get(column, ""))
        ]

    return _look(adapter, engine, look)


def sequential_scans(adapter: Adapter, engine: Engine, since: datetime, until: datetime) -> dict[str, int]:
    """Tables of which no index serves a read of this slice, with the database's estimate of their rows.

    A table that the planner scans although it has such an index, since it is small or its statistics are old, is not among
    them. PostgreSQL, MySQL and MariaDB only. Raises SourceError if the database refuses to plan the SELECT.
    """
    selects = [statement(adapter, select, engine) for select in adapter.selects().values()]
    bound = bounds(adapter, since, until)
    return _look(adapter, engine, lambda: engines.of(engine).whole_reads(engine, selects, bound))
