"""Reads that see one state of the tables: a transaction of several statements, its snapshot in a second session, and a cut
between ingests that holds for reads at any later time, in any process."""

from collections.abc import Iterator
from contextlib import contextmanager

from adbc_driver_manager.dbapi import Cursor
from psycopg.sql import Literal
from sqlalchemy import Connection, Engine, text

_INGEST = "hashtextextended('icu-forecast takes over ' || :source, 0)"


@contextmanager
def one_snapshot(engine: Engine) -> Iterator[Connection]:
    """A read-only transaction whose statements all see the database as it was at the first of them."""
    with engine.connect() as connection:
        yield connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def share_snapshot(owner: Connection, cursor: Cursor) -> None:
    """Let the cursor, before its first statement, see what the transaction `owner` sees, which must stay open until then."""
    snapshot = owner.execute(text("select pg_export_snapshot()")).scalar_one()
    cursor.execute("set transaction isolation level repeatable read, read only")
    cursor.execute(f"set transaction snapshot {Literal(snapshot).as_string()}")


def begin_commit_of_ingest(connection: Connection, source: str) -> None:
    """Called before the time of an ingest is written, in its transaction: nobody takes a cut until it has committed."""
    connection.execute(text(f"select pg_advisory_xact_lock({_INGEST})"), {"source": source})


def cut_between_ingests(connection: Connection, source: str) -> None:
    """Until this transaction ends, the clock separates ingests: batches with an earlier `ingested_at` are visible to
    everybody, others get a later one. So `ingested_by` such a time gives the same rows in every later read."""
    connection.execute(text(f"select pg_advisory_xact_lock_shared({_INGEST})"), {"source": source})
