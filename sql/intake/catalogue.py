"""Looks at a source before it is read: its tables, columns, grants, SELECTs and indices, in its catalogue and plans."""

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
from psycopg.sql import Identifier
from sqlalchemy import Column, Engine, MetaData, Table, false, inspect, select, text
from sqlalchemy.exc import DBAPIError, NoSuchTableError

from rnn_core.contracts.errors import SourceError
from sql.intake.adapter import Adapter
from sql.intake.reading import BEGINNING, NOT_AFFECTED, bounds, explain, statement, with_literals
from sql.store.deadline import within
from sql.store.engine import address
from sql.store.refusals import is_refused_connection, refusal, unreachable

T = TypeVar("T")
# A look takes milliseconds: it waits as long as a read may take, within these limits.
_LOOK_SECONDS = (5.0, 120.0)
_EXPLAINS = frozenset(("postgresql", "duckdb", "sqlite", "mysql", "mariadb"))


def check_source(adapter: Adapter, engine: Engine) -> None:
    """Raises SourceError with one sentence if the database is down, lacks a selected table or column, or refuses a SELECT."""
    if engine.dialect.name not in adapter.dialects:
        raise SourceError(
            f"The source {adapter.name} is written for {', '.join(adapter.dialects)}, not for {engine.dialect.name}; "
            "copy its folder and translate its SELECTs."
        )
    if engine.dialect.name in ("duckdb", "sqlite") and not Path(engine.url.database or "").is_file():
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
        found = _columns(engine, schema, table)
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
    if engine.dialect.name not in _EXPLAINS:
        return _check_grants(adapter, engine)
    for file, sql in adapter.selects().items():
        sql, bound = statement(adapter, sql, engine), bounds(adapter, BEGINNING, BEGINNING)
        try:
            with engine.connect() as connection:
                if engine.dialect.name == "postgresql":
                    explain(connection, "explain", with_literals(sql, bound))
                else:
                    connection.execute(text(f"explain {sql}"), bound)
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


def _columns(engine: Engine, schema: str, table: str) -> set[str]:
    """Names of a table's columns in lower case, none where there is no such table."""
    if engine.dialect.name in ("duckdb", "mysql", "mariadb"):
        # To reflect a table, SQLAlchemy needs more on MySQL than the grants of columns that `source grants` prints.
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
    except DBAPIError as error:
        # Some databases refuse to show a schema that does not exist, or that this user may not use.
        if is_refused_connection(error) or error.connection_invalidated:
            raise
        return set()
    # SQLite keeps the case of the imported file and ignores it.
    return {name.lower() for name in found} if engine.dialect.name == "sqlite" else found


def _refused(adapter: Adapter, engine: Engine, error: DBAPIError) -> SourceError:
    if is_refused_connection(error):
        return SourceError(f"The source {adapter.name} {unreachable(error, engine)}. {NOT_AFFECTED}")
    return SourceError(
        f"The database of the source {adapter.name} refused a query: {refusal(error, engine) or 'it broke the connection'}. "
        f"{NOT_AFFECTED}"
    )


def sequential_scans(adapter: Adapter, engine: Engine, since: datetime, until: datetime) -> dict[str, int]:
    """Tables of which no index serves a read of this slice, with the database's estimate of their rows.

    A table that the planner scans although it has such an index, since it is small or its statistics are old, is not among
    them. PostgreSQL only; none for other engines. Raises SourceError if the database refuses to plan the SELECT.
    """
    if engine.dialect.name != "postgresql":
        return {}
    return _look(adapter, engine, lambda: _scans(adapter, engine, since, until))


def _scans(adapter: Adapter, engine: Engine, since: datetime, until: datetime) -> dict[str, int]:
    whole: set[tuple[str, str]] = set()
    with engine.connect() as connection:
        connection.exec_driver_sql("set local enable_seqscan = off")
        for select in adapter.selects().values():
            planned = with_literals(statement(adapter, select, engine), bounds(adapter, since, until))
            (plan,) = explain(connection, "explain (verbose, format json)", planned).scalar_one()
            scanned = [node for node in _nodes(plan["Plan"]) if _reads_all(node)]
            whole |= {(node["Schema"], node["Relation Name"]) for node in scanned}
        rows = text("select greatest(reltuples, 0)::bigint from pg_class where oid = to_regclass(:name)")
        return {
            table: connection.execute(
                rows, {"name": Identifier(schema, table).as_string(connection.connection.driver_connection)}
            ).scalar_one()
            for schema, table in sorted(whole)
        }


def _reads_all(node: dict) -> bool:
    """Whether a node of a plan reads a whole table: row by row, or by an index without a condition on it."""
    kind = node["Node Type"]
    return kind == "Seq Scan" or (kind in ("Index Scan", "Index Only Scan") and "Index Cond" not in node)


def _nodes(plan: dict) -> Iterator[dict]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)
