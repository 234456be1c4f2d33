"""Database engines: what differs between them, one module each. All else in icu-forecast is the same for every engine."""

from sqlalchemy import Engine

from sql.engines.duckdb import DuckDB
from sql.engines.generic import Generic
from sql.engines.mysql import MySQL
from sql.engines.oracle import Oracle
from sql.engines.postgresql import PostgreSQL
from sql.engines.sqlite import SQLite
from sql.engines.sqlserver import SQLServer

_BY_NAME = {
    name: kind for kind in (PostgreSQL(), DuckDB(), SQLite(), MySQL(), SQLServer(), Oracle()) for name in kind.names
}


def named(name: str) -> Generic:
    """The engine of a SQLAlchemy dialect; one without a module is read in the general way."""
    return _BY_NAME.get(name) or Generic((name,))


def of(engine: Engine) -> Generic:
    """What is special about the database that `engine` opens."""
    return named(engine.dialect.name)
