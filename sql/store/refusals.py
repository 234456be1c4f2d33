"""Sentences about a database that is not reached, and our own waited for where it has no free connection."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Engine, event, text
from sqlalchemy.exc import DBAPIError

from rnn_core.contracts.errors import ForecastError
from sql import engines
from sql.engines.postgresql import CONNECTED, connect_arrow, state_of_connecting
from sql.store.engine import address

if TYPE_CHECKING:
    from adbc_driver_manager.dbapi import Connection as ArrowConnection

# Seconds that a job waits for a free connection of our database, and between two tries.
FREE_WITHIN, _TRY_AGAIN = 60.0, 1.0
_FULL = "53300"

T = TypeVar("T")


def wait_for_a_free_connection(engine: Engine) -> Engine:
    """The engine, which from now on waits up to `FREE_WITHIN` seconds where the server or the user has no connection left.
    After that it raises ForecastError."""

    @event.listens_for(engine, "do_connect")
    def _connect(dialect: Any, _record: object, args: list, options: dict) -> Any:
        return when_free(engine, lambda: dialect.connect(*args, **options))

    return engine


def when_free(engine: Engine, connect: Callable[[], T], of: type[Exception] = Exception) -> T:
    """What `connect` returns, tried again as `wait_for_a_free_connection` says; other errors are raised as they are.

    of: errors that may come of a connection that was not free.
    """
    until = time.monotonic() + FREE_WITHIN
    while True:
        try:
            return connect()
        except of:
            # Where the driver's try failed and this one connects, one was just given back.
            state = state_of_connecting(engine)
            if state not in (_FULL, CONNECTED) or (state == CONNECTED and time.monotonic() > until):
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
    if refused := engines.of(engine).refusal(error, engine):
        return f"refused the connection at {address(engine)}: {refused}"
    return f"does not answer at {address(engine)} ({type(error.orig).__name__}); check that it runs, its host and port, and TLS"


def is_refused_connection(error: DBAPIError) -> bool:
    """Whether no connection was made, so that no statement is to blame."""
    return error.statement is None
