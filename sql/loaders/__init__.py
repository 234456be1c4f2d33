"""Loaders put public data sets, as published, into a database that plays the hospital's, for trials."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pyarrow as pa
from sqlalchemy import Connection

from sql.copy import copy_arrow

Progress = Callable[[str], None]


@dataclass(frozen=True)
class LoadReport:
    """What a loader did: rows of each table it filled, and sentences on what it changed or found."""

    rows: dict[str, int]
    notes: tuple[str, ...] = ()


def silent(message: str) -> None:
    """The progress callback of those who want none."""


def quoted(connection: Connection, *names: str) -> str:
    """A possibly qualified identifier, quoted for a statement of this connection."""
    return ".".join(map(connection.dialect.identifier_preparer.quote_identifier, names))


def make_schema(connection: Connection, schema: str) -> None:
    connection.exec_driver_sql(f"create schema if not exists {quoted(connection, schema)}")


def replace_table(connection: Connection, schema: str, table: str, data: pa.Table, indices: Iterable[str] = ()) -> int:
    """Drop the table, create it with the columns of `data`, fill it and index it; the number of its rows.

    indices: what follows "create index on <table>", such as "(recorded_dttm)".
    """
    relation = quoted(connection, schema, table)
    columns = ", ".join(f"{quoted(connection, field.name)} {_column_type(field.type)}" for field in data.schema)
    connection.exec_driver_sql(f"drop table if exists {relation}")
    connection.exec_driver_sql(f"create table {relation} ({columns})")
    rows = copy_arrow(connection, f"{schema}.{table}", data)
    for index in indices:
        connection.exec_driver_sql(f"create index on {relation} {index}")
    connection.exec_driver_sql(f"analyze {relation}")
    return rows


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
