"""Connections: one way to open a database, with errors that never show a password."""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode
from weakref import WeakKeyDictionary, finalize

from psycopg.conninfo import make_conninfo
from psycopg.pq import Conninfo
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from rnn_core.contracts.errors import ForecastError

if TYPE_CHECKING:
    from adbc_driver_manager.dbapi import Connection as ArrowConnection

# A peer that vanished is noticed within a minute instead of the usual two hours.
KEEPALIVES = {"keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3"}

_SEVERAL_HOSTS = r"(postgres[^:]*://(?:[^/]*@)?)([^/?@]+,[^/?@]+)(/[^?]*)?(?:\?(.*))?"

# What ADBC learned about the types of a database; without a session.
_known_types: "WeakKeyDictionary[Engine, ArrowConnection]" = WeakKeyDictionary()


def open_engine(url: str | URL, application: str = "icu-forecast", *, keep: bool = False) -> Engine:
    """An engine on `url`; PostgreSQL sessions run in UTC, exchange text in UTF-8 and name the application.

    Connections are closed after use: a job that computes for minutes holds no idle session on a hospital's server.
    keep: one stays open for the next use instead, for our own database: a new session takes 20 ms of both machines, and a
    job asks some forty times. One that broke while it idled is replaced unnoticed.
    Raises ForecastError for a URL that no driver understands.
    """
    try:
        url = make_url(_with_hosts_apart(url))
    except (ArgumentError, ValueError):
        raise ForecastError(
            "A database URL cannot be read; it is driver://user:password@host:port/database, with @, / and : of a password "
            "written as %40, %2F and %3A."
        ) from None
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if not url.drivername.startswith("postgresql"):
        return _open_other(url)
    options = _session_options(url, application)
    pool = {"pool_size": 1, "max_overflow": -1, "pool_pre_ping": True} if keep else {"poolclass": NullPool}
    return create_engine(url, connect_args=options, execution_options={"libpq": options}, **pool)


def _with_hosts_apart(url: str | URL) -> str | URL:
    """libpq's form of a URL with several hosts, `//user@one:5432,two:5432/db`, in SQLAlchemy's: each in the query."""
    found = isinstance(url, str) and re.fullmatch(_SEVERAL_HOSTS, url)
    if not found:
        return url
    before, hosts, path, query = found.groups()
    apart = "&".join(f"host={host}" for host in hosts.split(","))
    return f"{before}{path or '/'}?{apart}{'&' + query if query else ''}"


def _session_options(url: URL, application: str) -> dict[str, str]:
    """libpq's parameters besides those of the URL, which keep what it says. Raises ForecastError for one that libpq does
    not know."""
    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    if unknown := sorted(set(url.query) - known):
        # What looks like no name may be part of a password with a question mark.
        name = unknown[0] if re.fullmatch("[a-z_]{1,30}", unknown[0]) else "an option"
        likely = get_close_matches(name, known, 1)
        raise ForecastError(
            f"The URL of a database on {url.host or 'this machine'} has {name}, which PostgreSQL's driver does not know"
            + (f"; did you mean {likely[0]}?" if likely else ".")
        )
    defaults = {"application_name": application, "connect_timeout": "10", **KEEPALIVES}
    return {name: value for name, value in defaults.items() if name not in url.query} | {
        "options": f"{url.query.get('options', '')} -c timezone=UTC".strip(),
        "client_encoding": "utf8",
    }


def _open_other(url: URL) -> Engine:
    try:
        return create_engine(url, poolclass=NullPool)
    except (NoSuchModuleError, ModuleNotFoundError):
        raise ForecastError(
            f"There is no driver for {url.drivername} databases here; install the SQLAlchemy dialect of that name, or use "
            "postgresql, duckdb or sqlite, which come with icu-forecast."
        ) from None


def libpq_parameters(engine: Engine) -> dict[str, str]:
    """What libpq needs for a session like the engine's own, the password included; never logged."""
    _, of_url = engine.dialect.create_connect_args(engine.url)
    given = of_url | engine.get_execution_options()["libpq"]
    return {name: str(value) for name, value in given.items() if isinstance(value, str | int)}


def libpq_uri(engine: Engine, *, password: bool = True) -> str:
    """The engine's URL for other programs of libpq; never logged with its password."""
    _, of_url = engine.dialect.create_connect_args(engine.url)
    names = [*engine.url.query, *(["port"] if "host" in engine.url.query and "port" in of_url else [])]
    query = {name: of_url[name] for name in names}
    # SQLAlchemy writes a blank as + in a query and as it is in a password; libpq takes neither.
    plain = engine.url.set(drivername="postgresql", query={})
    # `set` takes None for "as it is".
    address = (plain if password else plain._replace(password=None)).render_as_string(hide_password=False)
    return address.replace(" ", "%20") + (f"?{urlencode(query, quote_via=quote)}" if engine.url.query else "")


def address(engine: Engine) -> str:
    """Where the engine connects to, for people: without a password and the options of its URL."""
    hosts = {name: value for name, value in engine.url.query.items() if name in ("host", "port")}
    return engine.url.set(query=hosts).render_as_string(hide_password=True)


def connect_arrow(engine: Engine) -> "ArrowConnection":
    """A new session through ADBC, which gives Arrow columns; PostgreSQL only. Raises the errors of `adbc_driver_manager`.

    Before the first session ADBC reads all types and columns of the database: 70 ms of CPU where there are 50 tables. Later
    sessions of the engine share what it found.
    """
    import adbc_driver_postgresql.dbapi as adbc

    if engine not in _known_types:
        first = adbc.connect(make_conninfo(**libpq_parameters(engine)))
        first.adbc_connection.close()
        finalize(engine, first.close)
        _known_types[engine] = first
    return _known_types[engine].adbc_clone()


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
