"""Says why a database refused, by its SQLSTATE or its number for the error, never by its text, which may quote a row."""

import ctypes
import re
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from psycopg import pq
from psycopg.conninfo import make_conninfo
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import DBAPIError

from rnn_core.contracts.errors import ForecastError
from sql.store.engine import address, connect_arrow, libpq_parameters

if TYPE_CHECKING:
    from adbc_driver_manager.dbapi import Connection as ArrowConnection

_WAIT_SECONDS = 10
# Seconds that a job waits for a free connection of our database, and between two tries.
FREE_WITHIN, _TRY_AGAIN = 60.0, 1.0
_FULL, _CONNECTED = "53300", "00000"
_SQLSTATE_ONLY = 3  # PQERRORS_SQLSTATE of libpq

T = TypeVar("T")


@dataclass(frozen=True)
class Refusal:
    """code: SQLSTATE, number or name of the error, empty if there is none. cause and advice: parts of a sentence."""

    code: str
    cause: str
    advice: str

    def __str__(self) -> str:
        return f"{self.cause} ({self.code}); {self.advice}"


# By SQLSTATE, by the first digits of one, or by MySQL's number.
_REFUSALS = {
    "28 1045 1698": (
        "it refuses this user or the password",
        "check both, and that the server admits the user from here",
    ),
    "1044": (
        "it has no database of that name, or none that this user may use",
        "check the name at the end of the URL, and the grants",
    ),
    "3D000 1049": ("it has no database of that name", "check the name at the end of the URL"),
    "53300 1040 1203 1226": ("it has no free connection", "try again later, or ask its administrator for more"),
    "57P 1053": ("it is starting, or was shut down", "try again later"),
    "57014 1969 3024": (
        "its own time limit was exceeded",
        "raise it for this user (statement_timeout, max_statement_time), or add an index",
    ),
    "42501 1142 1143": (
        "this user may not select what is read",
        "grant it; `source grants` prints what is needed",
    ),
    "42P01 3F000 1146": ("a table or schema is missing", "check the schema setting and the SELECT"),
    "42703 1054": ("a column is missing", "check the SELECT against the table"),
    "42601 1064": ("the SELECT is not valid SQL there", "correct it"),
    "42704 22023": ("it does not know a setting or name", "check `options` of the URL, and the SELECT"),
    "22021 22P05": (
        "it could not convert a text or a character to the other encoding",
        "mend that text in its table, and keep the SELECT in plain ASCII",
    ),
    "22": (
        "it could not convert or compute a value of the SELECT",
        "let the SELECT pass on text that is no number or time",
    ),
    "42": ("the SELECT does not fit its tables", "run `source check`"),
    "53": ("it has no memory or disk left", "ask its administrator"),
    "08": ("it broke the connection", "check the network and its log"),
}

# MySQL's client: no server there, or it went away.
_NO_ANSWER = frozenset(("2002", "2003", "2005", "2006", "2013"))


def refusal(error: BaseException, engine: Engine) -> Refusal | None:
    """Why the database refused; None if it said nothing: it did not answer, or the connection broke."""
    codes = _codes(getattr(error, "orig", error))
    if not codes and engine.dialect.name == "postgresql":
        codes = [code for code in [_state_of_connecting(engine)] if code not in (None, _CONNECTED)]
    if not codes or codes[0] in _NO_ANSWER:
        return None
    code, (cause, advice) = next(
        ((code, said) for code in codes if (said := _said_of(code))),
        (codes[0], ("it refused", "look the code up in its manual")),
    )
    return Refusal(f"SQLSTATE {code}" if len(code) == 5 else f"error {code}", cause, advice)


def _said_of(code: str) -> tuple[str, str] | None:
    found = {prefix: said for codes, said in _REFUSALS.items() for prefix in codes.split() if code.startswith(prefix)}
    return found[max(found, key=len)] if found else None


def _codes(error: Any) -> list[str]:
    """Numbers, names and SQLSTATE of a driver's error. The number comes first: to MySQL, a database that does not exist and
    one that this user may not use have the SQLSTATE of a syntax error."""
    said = [getattr(error, "errno", None), *getattr(error, "args", ())[:1]]
    said += [getattr(error, name, None) for name in ("sqlstate", "sqlite_errorname")]
    return [str(code) for code in said if re.fullmatch(r"[0-9A-Z]{5}|\d{3,5}|SQLITE_\w+", str(code))]


def _state_of_connecting(engine: Engine) -> str | None:
    """SQLSTATE with which PostgreSQL refuses a connection, 00000 if it connects, None if it does not answer.

    Drivers pass on only the text of such an error, in the server's language. libpq shows the SQLSTATE instead if it is
    set so before the connection is made; psycopg has no call for that, its library does.
    """
    connection = pq.PGconn.connect_start(make_conninfo(**libpq_parameters(engine)).encode())
    try:
        library = ctypes.CDLL(import_module("psycopg_binary.pq").__file__)
        library.PQsetErrorVerbosity(ctypes.c_void_p(connection.pgconn_ptr), _SQLSTATE_ONLY)
    except (ImportError, AttributeError, OSError):
        return None
    status = pq.PollingStatus.WRITING
    while status in (pq.PollingStatus.READING, pq.PollingStatus.WRITING):
        if connection.status == pq.ConnStatus.BAD:
            break
        ready = ([connection.socket], []) if status == pq.PollingStatus.READING else ([], [connection.socket])
        if not any(select.select(*ready, [], _WAIT_SECONDS)):
            return None
        status = connection.connect_poll()
    states = re.findall(rb":\s+([0-9A-Z]{5})\s*$", connection.error_message, re.MULTILINE)
    needs_password, is_made = connection.needs_password, status == pq.PollingStatus.OK
    connection.finish()
    if states or is_made:
        return _CONNECTED if is_made else states[-1].decode()
    return "28P01" if needs_password else None


def wait_for_a_free_connection(engine: Engine) -> Engine:
    """The engine, which from now on waits up to `FREE_WITHIN` seconds where the server or the user has no connection left.
    After that it raises ForecastError."""

    @event.listens_for(engine, "do_connect")
    def _connect(dialect: Any, _record: object, args: list, options: dict) -> Any:
        return when_free(engine, lambda: dialect.connect(*args, **options))

    return engine


def when_free(engine: Engine, connect: Callable[[], T]) -> T:
    """What `connect` returns, tried again as `wait_for_a_free_connection` says; other errors are raised as they are."""
    until = time.monotonic() + FREE_WITHIN
    while True:
        try:
            return connect()
        except Exception:
            # Where the driver's try failed and this one connects, one was just given back.
            state = _state_of_connecting(engine)
            if state not in (_FULL, _CONNECTED) or (state == _CONNECTED and time.monotonic() > until):
                raise
            if time.monotonic() > until:
                raise ForecastError(
                    f"The database of icu-forecast at {address(engine)} has had no free connection for {FREE_WITHIN:g} s; give "
                    "its user more, or start fewer workers (docs/scale.md)."
                ) from None
        time.sleep(_TRY_AGAIN)


def connect_arrow_when_free(engine: Engine) -> "ArrowConnection":
    """`connect_arrow` to our database, waited for as `wait_for_a_free_connection` says."""
    return when_free(engine, lambda: connect_arrow(engine))


def check_reachable(engine: Engine, what: str) -> None:
    """Raises ForecastError with a sentence when `what` (a name for people) does not answer or refuses the connection."""
    try:
        with engine.connect() as connection:
            connection.execute(text("select 1"))
    except DBAPIError as error:
        raise ForecastError(f"The {what} {unreachable(error, engine)}.") from None


def unreachable(error: DBAPIError, engine: Engine) -> str:
    """The end of a sentence about a database to which no connection could be made."""
    if refused := refusal(error, engine):
        return f"refused the connection at {address(engine)}: {refused}"
    return f"does not answer at {address(engine)} ({type(error.orig).__name__}); check that it runs, its host and port, and TLS"


def is_refused_connection(error: DBAPIError) -> bool:
    """Whether no connection was made, so that no statement is to blame."""
    return error.statement is None
