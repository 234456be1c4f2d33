"""Connections: one way to open a database, with errors that never show a password."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, finalize

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, NoSuchModuleError

from rnn_core.contracts.errors import ForecastError

if TYPE_CHECKING:
    from adbc_driver_manager.dbapi import Connection as ArrowConnection

# A peer that vanished is noticed within a minute instead of the usual two hours.
KEEPALIVES = {"keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3"}

# What ADBC learned about the types of a database; without a session.
_known_types: "WeakKeyDictionary[Engine, ArrowConnection]" = WeakKeyDictionary()


def open_engine(url: str | URL, application: str = "icu-forecast") -> Engine:
    """An engine on `url`; PostgreSQL sessions run in UTC and name the application.

    Connections are closed after use: a job that computes for minutes holds no idle session on a hospital's server.
    """
    url = make_url(url)
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if not url.drivername.startswith("postgresql"):
        return _open_other(url)
    options = {"application_name": application, "options": "-c timezone=UTC", "connect_timeout": 10, **KEEPALIVES}
    return create_engine(url, poolclass=NullPool, connect_args=options)


def _open_other(url: URL) -> Engine:
    try:
        return create_engine(url, poolclass=NullPool)
    except (NoSuchModuleError, ModuleNotFoundError):
        raise ForecastError(
            f"There is no driver for {url.drivername} databases here; install the SQLAlchemy dialect of that name, or use "
            "postgresql, duckdb or sqlite, which come with icu-forecast."
        ) from None


def libpq_uri(engine: Engine, **parameters: str) -> str:
    """The engine's URL for ADBC and psql, with further libpq parameters; contains the password, so it is never logged."""
    # SQLAlchemy leaves a blank in a password as it is; libpq refuses it in a URL.
    url = engine.url.set(drivername="postgresql").update_query_dict(parameters)
    return url.render_as_string(hide_password=False).replace(" ", "%20")


def connect_arrow(engine: Engine) -> "ArrowConnection":
    """A new session through ADBC, which gives Arrow columns; PostgreSQL only. Raises the errors of `adbc_driver_manager`.

    Before the first session ADBC reads all types and columns of the database: 70 ms of CPU where there are 50 tables. Later
    sessions of the engine share what it found.
    """
    import adbc_driver_postgresql.dbapi as adbc

    if engine not in _known_types:
        first = adbc.connect(libpq_uri(engine, **KEEPALIVES))
        first.adbc_connection.close()
        finalize(engine, first.close)
        _known_types[engine] = first
    return _known_types[engine].adbc_clone()


def check_reachable(engine: Engine, what: str) -> None:
    """Raises ForecastError with a sentence when `what` (a name for people) does not answer."""
    try:
        with engine.connect() as connection:
            connection.execute(text("select 1"))
    except DBAPIError as error:
        raise ForecastError(
            f"The {what} does not answer at {engine.url.render_as_string(hide_password=True)} "
            f"({type(error.orig).__name__}); check that it runs, its URL and the credentials."
        ) from None


@contextmanager
def advisory_lock(connection: Connection, name: str, patience: float = 0.0) -> Iterator[bool]:
    """Hold a session lock called `name`; yields False if another session still holds it after `patience` seconds."""
    until = time.monotonic() + patience
    while not (got := _try_lock(connection, name)) and time.monotonic() < until:
        time.sleep(1.0)
    try:
        yield got
    finally:
        if got and not connection.closed and not connection.invalidated:
            # A session that is gone holds no lock, and its error would hide the one that matters.
            with suppress(DBAPIError):
                connection.rollback()
                connection.execute(text("select pg_advisory_unlock(hashtextextended(:name, 0))"), {"name": name})
                connection.commit()


def _try_lock(connection: Connection, name: str) -> bool:
    got = connection.execute(
        text("select pg_try_advisory_lock(hashtextextended(:name, 0))"), {"name": name}
    ).scalar_one()
    connection.commit()
    return bool(got)


def read_only(engine: Engine) -> Engine:
    """The same engine, read-only if the database supports it: a source is never changed."""
    if engine.dialect.name == "postgresql":

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql("set transaction read only")

    if engine.dialect.name in ("duckdb", "sqlite"):

        @event.listens_for(engine, "do_connect")
        def _connect(_dialect: object, _record: object, args: list, options: dict) -> None:
            if engine.dialect.name == "duckdb":
                options["read_only"] = True
            else:
                # A plain path would create an empty database if there is none.
                args[0], options["uri"] = f"{Path(args[0]).resolve().as_uri()}?mode=ro", True

    return engine
