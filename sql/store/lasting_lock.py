"""A lock that lasts as long as a job: its session may idle, and a session that is lost is replaced."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

# Below the idle limits of poolers and firewalls, which are minutes.
BEAT_SECONDS = 30.0
_POLL_SECONDS = 1.0

# Not every version has all of them. A session may set them for itself.
_NO_LIMITS = text(
    "select set_config(name, '0', false) from pg_settings"
    " where name in ('idle_session_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')"
)
_TAKE = text("select pg_try_advisory_lock(hashtextextended(:name, 0))")
_GIVE_BACK = text("select pg_advisory_unlock(hashtextextended(:name, 0))")
_HOLDS = text(
    "select exists (select from pg_locks where locktype = 'advisory' and granted and pid = pg_backend_pid()"
    " and (classid::bigint << 32 | objid::bigint) = hashtextextended(:name, 0))"
)


@contextmanager
def lasting_lock(engine: Engine, name: str, patience: float = 0.0) -> Iterator[bool]:
    """Hold a lock called `name`; yields False if another session still holds it after `patience` seconds.

    A server or a pooler may end a session that does nothing for minutes, and the lock with it. This session asks for no
    limit, does something every `BEAT_SECONDS`, and is opened again when it was ended. In between another job can take the
    lock: what the holder writes must check within its transaction that it still may (`runs.lock_open_run`).
    """
    holder = _Holder(engine, name)
    until = time.monotonic() + patience
    while not (got := holder.take()) and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
    keeper = Thread(target=holder.keep, name=f"keeps {name}", daemon=True)
    if got:
        keeper.start()
    try:
        yield got
    finally:
        holder.over.set()
        if got:
            # A statement on a dead network ends with the keep-alives, after a minute; nobody waits for that.
            keeper.join(5)
        if not keeper.is_alive():
            holder.close()


class _Holder:
    """The session that holds the lock, used by one thread at a time."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine, self.name, self.over = engine, {"name": name}, Event()
        self.session: Connection | None = None
        self.holds = False

    def take(self) -> bool:
        if self.session is None:
            self.session = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            # Of no pool: its end is that of the lock.
            self.session.detach()
            self.session.execute(_NO_LIMITS)
        self.holds = self.session.execute(_TAKE, self.name).scalar_one()
        return self.holds

    def keep(self) -> None:
        while not self.over.wait(BEAT_SECONDS):
            try:
                if self.session is None or not self.session.execute(_HOLDS, self.name).scalar_one():
                    self.take()
            except SQLAlchemyError:
                self.close()
                with suppress(SQLAlchemyError):
                    self.take()

    def close(self) -> None:
        """The lock of a session that is gone is free, and its error would hide the one that matters."""
        session, self.session = self.session, None
        if session is not None:
            with suppress(SQLAlchemyError):
                # A pooler may keep the session for others.
                if self.holds:
                    session.execute(_GIVE_BACK, self.name)
            with suppress(SQLAlchemyError):
                session.close()
