"""Loaders put public data sets, as published, into a stand-in for the hospital's database, for demos and tests."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pyarrow as pa
from sqlalchemy import BigInteger, Boolean, Column, Connection, Date, DateTime, Double, MetaData, String, Table
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

from sql import engines
from sql.store.copy import copy_arrow

Progress = Callable[[str], None]


@dataclass(frozen=True)
class LoadReport:
    """What a loader did: rows of each table it filled, and sentences about what it changed or found."""

    rows: dict[str, int]
    notes: tuple[str, ...] = ()


def silent(message: str) -> None:
    """The progress callback that does nothing."""


def quoted(connection: Connection, *names: str) -> str:
    """A possibly qualified identifier, quoted for a statement of this connection."""
    return ".".join(map(connection.dialect.identifier_preparer.quote_identifier, names))


def make_schema(connection: Connection, schema: str) -> None:
    if not engines.of(connection.engine).has_one_schema:
        connection.exec_driver_sql(f"create schema if not exists {quoted(connection, schema)}")


def replace_table(connection: Connection, schema: str, table: str, data: pa.Table, indices: Iterable[str] = ()) -> int:
    """Drop the table, create it with the columns of `data`, fill it and index it; the number of its rows.

    indices: what follows "create index on <table>", such as "(recorded_dttm)"; PostgreSQL and SQLite only.
    """
    connection.exec_driver_sql(f"drop table if exists {quoted(connection, schema, table)}")
    fill = _FILLS.get(connection.dialect.name, _fill_by_rows)
    fill(connection, schema, table, data, indices)
    return data.num_rows


def _fill_postgresql(connection: Connection, schema: str, table: str, data: pa.Table, indices: Iterable[str]) -> None:
    relation = quoted(connection, schema, table)
    columns = ", ".join(f"{quoted(connection, field.name)} {_column_type(field.type)}" for field in data.schema)
    connection.exec_driver_sql(f"create table {relation} ({columns})")
    copy_arrow(connection, f"{schema}.{table}", data)
    for index in indices:
        connection.exec_driver_sql(f"create index on {relation} {index}")
    connection.exec_driver_sql(f"analyze {relation}")


def _fill_duckdb(connection: Connection, schema: str, table: str, data: pa.Table, _: Iterable[str]) -> None:
    relation = quoted(connection, schema, table)
    connection.connection.driver_connection.execute(f"create table {relation} as select * from data")


def _fill_sqlite(connection: Connection, _: str, table: str, data: pa.Table, indices: Iterable[str]) -> None:
    """As in the SQLite builds of MIMIC: columns by name, times as text."""
    names = ", ".join(quoted(connection, name) for name in data.column_names)
    connection.exec_driver_sql(f"create table {quoted(connection, table)} ({names})")
    places = ", ".join("?" * data.num_columns)
    for batch in data.to_batches(max_chunksize=100_000):
        columns = [c.cast(pa.string()) if pa.types.is_timestamp(c.type) else c for c in batch.columns]
        rows = list(zip(*(c.to_pylist() for c in columns), strict=True))
        connection.exec_driver_sql(f"insert into {quoted(connection, table)} values ({places})", rows)
    for number, index in enumerate(indices):
        connection.exec_driver_sql(f"create index {quoted(connection, f'{table}_{number}')} on {table} {index}")


def _fill_by_rows(connection: Connection, schema: str, table: str, data: pa.Table, _: Iterable[str]) -> None:
    """Any other engine: types and statements are SQLAlchemy's."""
    columns = (Column(field.name, _sqlalchemy_type(field.type)) for field in data.schema)
    made = Table(table, MetaData(), *columns, schema=schema)
    made.create(connection)
    if data.num_rows:
        connection.execute(made.insert(), data.to_pylist())


_FILLS = {"postgresql": _fill_postgresql, "duckdb": _fill_duckdb, "sqlite": _fill_sqlite}


def _sqlalchemy_type(arrow: pa.DataType) -> TypeEngine:
    if pa.types.is_timestamp(arrow):
        return DateTime(timezone=bool(arrow.tz)).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    if pa.types.is_floating(arrow):
        return Double()
    if pa.types.is_integer(arrow):
        return BigInteger()
    if pa.types.is_boolean(arrow):
        return Boolean()
    return Date() if pa.types.is_date(arrow) else String(500)


def _column_type(arrow: pa.DataType) -> str:
    if pa.types.is_timestamp(arrow):
        return "timestamptz" if arrow.tz else "timestamp"
    if pa.types.is_float32(arrow):
        return "real"
    if pa.types.is_floating(arrow):
        return "double precision"
    if pa.types.is_integer(arrow):
        return "bigint"
    if pa.types.is_boolean(arrow):
        return "boolean"
    if pa.types.is_date(arrow):
        return "date"
    return "text"
