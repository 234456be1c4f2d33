"""The lock of a job outlives what servers and poolers do to sessions that seem idle."""

import time

import builders_sql as b
import pytest
from sqlalchemy import text

from sql.store import lasting_lock as module
from sql.store.engine import open_engine
from sql.store.lasting_lock import lasting_lock

HOLDER = "select pid from pg_locks where locktype = 'advisory' and granted and database = " + (
    "(select oid from pg_database where datname = current_database())"
)


@pytest.fixture
def database(make_database):
    return open_engine(make_database("locks"))


def holders(engine) -> list[int]:
    return [pid for (pid,) in b.tuples(engine, HOLDER)]


def is_free(engine) -> bool:
    with lasting_lock(engine, "job") as got:
        return got


def test_a_server_that_ends_idle_sessions_does_not_end_the_lock(database):
    with database.connect() as connection:
        name = connection.execute(text("select current_database()")).scalar_one()
        connection.exec_driver_sql(f"alter database {name} set idle_session_timeout = '50ms'")
        connection.commit()
    with lasting_lock(database, "job") as got:
        time.sleep(0.3)
        assert got and not is_free(database)
        assert len(holders(database)) == 1
    assert is_free(database) and holders(database) == []


def test_a_session_that_was_ended_is_replaced_and_the_lock_taken_again(database, monkeypatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.02)
    with lasting_lock(database, "job") as got:
        (pid,) = holders(database)
        b.tuples(database, "select pg_terminate_backend(:pid)", pid=pid)
        until = time.monotonic() + 5
        while holders(database) in ([], [pid]) and time.monotonic() < until:
            time.sleep(0.02)
        (other,) = holders(database)
        assert got and other != pid and not is_free(database)
    assert is_free(database)


def test_a_lock_that_another_took_meanwhile_is_left_to_it_and_waited_for(database, monkeypatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.02)
    with lasting_lock(database, "job"):
        holder = holders(database)[0]
        with database.connect() as connection:
            connection.execute(text("select pg_terminate_backend(:pid)"), {"pid": holder})
            # Waits until the server has ended that session, and is first in the queue then.
            connection.execute(text("select pg_advisory_lock(hashtextextended('job', 0))"))
            time.sleep(0.2)
            assert len(holders(database)) == 1, "the first holder does not have it"
            assert not is_free(database)
    with lasting_lock(database, "job", patience=5) as got:
        assert got


def test_a_lock_that_is_held_is_refused_and_its_patience_is_kept(database, monkeypatch):
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.02)
    with lasting_lock(database, "job"):
        begun = time.monotonic()
        with lasting_lock(database, "job", patience=0.1) as got:
            assert not got and time.monotonic() - begun >= 0.1
        assert not is_free(database), "whoever was refused did not free it"
