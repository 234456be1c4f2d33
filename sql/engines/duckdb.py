"""DuckDB: a file read as Arrow by its own client, which SQLAlchemy uses through the small dialect here."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
from sqlalchemy import URL, Engine, event
from sqlalchemy.dialects import registry
from sqlalchemy.engine.default import DefaultDialect

from sql.engines.cells import readable_texts
from sql.engines.generic import BOUND, ROWS_AT_ONCE, Generic, columns_of_information_schema

registry.register("duckdb", __name__, "DuckDBDialect")


class DuckDB(Generic):
    names = ("duckdb",)
    is_a_file = True
    can_plan = True
    columns = staticmethod(columns_of_information_schema)

    def make_read_only(self, engine: Engine) -> None:
        @event.listens_for(engine, "do_connect")
        def _connect(_dialect: object, _record: object, _args: list, options: dict) -> None:
            options["read_only"] = True

    def published_schema(self, schema: str, url: URL) -> str:
        return "main" if schema == "public" else schema

    def read(self, engine: Engine, sql: str, bound: Mapping[str, Any], seconds: float) -> Iterator[pa.RecordBatch]:
        with engine.connect() as connection:
            session = connection.connection.driver_connection
            # Otherwise times with and without a zone are compared on the clock of this machine.
            session.execute("set timezone = 'UTC'")
            for rows in session.sql(BOUND.sub(r"$\1", sql), params=dict(bound)).to_arrow_reader(ROWS_AT_ONCE):
                yield pa.RecordBatch.from_arrays([readable_texts(column) for column in rows.columns], rows.schema.names)

    def driver_errors(self) -> tuple[type[Exception], ...]:
        import duckdb

        return (duckdb.Error,)


class DuckDBDialect(DefaultDialect):
    """What SQLAlchemy needs of DuckDB to run statements; it reflects nothing and makes no tables."""

    name = driver = "duckdb"
    supports_statement_cache = True
    supports_native_boolean = True

    @classmethod
    def import_dbapi(cls) -> Any:
        import duckdb

        return duckdb

    def create_connect_args(self, url: URL) -> tuple[list, dict[str, Any]]:
        return [], {"database": url.database or ":memory:", "config": dict(url.query)}

    def connect(self, *args: Any, **options: Any) -> "_Session":
        return _Session(self.loaded_dbapi.connect(*args, **options))

    def do_begin(self, dbapi_connection: Any) -> None:
        dbapi_connection.execute("begin")

    def do_rollback(self, dbapi_connection: Any) -> None:
        # It complains where none is open.
        with suppress(self.loaded_dbapi.TransactionException):
            dbapi_connection.rollback()


class _Session:
    """A connection of DuckDB. Its own cursors would be further connections, with transactions of their own."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def cursor(self) -> "_Cursor":
        return _Cursor(self._connection)


class _Cursor(_Session):
    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        self._connection.execute(sql, list(parameters))

    def close(self) -> None:
        """The connection stays open."""
