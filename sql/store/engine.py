"""Connections: one way to open a database, with errors that never show a password."""

import re

from sqlalchemy import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError

from rnn_core.contracts.errors import ForecastError
from sql import engines

_SEVERAL_HOSTS = r"(postgres[^:]*://(?:[^/]*@)?)([^/?@]+,[^/?@]+)(/[^?]*)?(?:\?(.*))?"


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
    return engines.named(url.get_backend_name()).open(url, application, keep)


def _with_hosts_apart(url: str | URL) -> str | URL:
    """libpq's form of a URL with several hosts, `//user@one:5432,two:5432/db`, in SQLAlchemy's: each in the query."""
    found = isinstance(url, str) and re.fullmatch(_SEVERAL_HOSTS, url)
    if not found:
        return url
    before, hosts, path, query = found.groups()
    apart = "&".join(f"host={host}" for host in hosts.split(","))
    return f"{before}{path or '/'}?{apart}{'&' + query if query else ''}"


def address(engine: Engine) -> str:
    """Where the engine connects to, for people: without a password and the options of its URL."""
    hosts = {name: value for name, value in engine.url.query.items() if name in ("host", "port")}
    return engine.url.set(query=hosts).render_as_string(hide_password=True)


def read_only(engine: Engine) -> Engine:
    """The same engine, read-only if the database supports it: a source is never changed."""
    engines.of(engine).make_read_only(engine)
    return engine
