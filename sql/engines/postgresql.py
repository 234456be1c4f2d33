"""PostgreSQL, through psycopg, and through ADBC where Arrow columns are read. Our own database is one too."""

import codecs
import ctypes
import re
import select
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode
from weakref import WeakKeyDictionary, finalize

import pyarrow as pa
from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.pq import Conninfo
from psycopg.sql import Identifier, Literal
from sqlalchemy import URL, Connection, CursorResult, Engine, NullPool, create_engine, event, text
from sqlalchemy.exc import DBAPIError

from rnn_core.contracts.errors import ForecastError
from sql.engines.ascii_sql import in_ascii
from sql.engines.cells import readable_texts
from sql.engines.generic import BOUND, Generic
from sql.engines.refusals import Refusal

if TYPE_CHECKING:
    from adbc_driver_manager.dbapi import Connection as ArrowConnection

# A peer that vanished is noticed within a minute instead of the usual two hours.
KEEPALIVES = {"keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3"}
# SQLSTATE of a connection that is made.
CONNECTED = "00000"

_WAIT_SECONDS = 10
_SQLSTATE_ONLY = 3  # PQERRORS_SQLSTATE of libpq

# What ADBC learned about the types of a database; without a session.
_known_types: "WeakKeyDictionary[Engine, ArrowConnection]" = WeakKeyDictionary()


class PostgreSQL(Generic):
    names = ("postgresql", "postgres")
    can_plan = True
    grant_on_schema = "grant usage on schema {schema} to {role};"
    grant_on_table = "grant select ({columns}) on {table} to {role};"

    def open(self, url: URL, application: str, keep: bool) -> Engine:
        """Sessions run in UTC and exchange text in UTF-8."""
        if "+" not in url.drivername:
            url = url.set(drivername="postgresql+psycopg")
        options = _session_options(url, application)
        pool = {"pool_size": 1, "max_overflow": -1, "pool_pre_ping": True} if keep else {"poolclass": NullPool}
        return create_engine(url, connect_args=options, execution_options={"libpq": options}, **pool)

    def make_read_only(self, engine: Engine) -> None:
        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql("set transaction read only")

    def plan(self, engine: Engine, sql: str, bound: Mapping[str, Any]) -> None:
        with engine.connect() as connection:
            _explain(connection, "explain", sql, bound)

    def whole_reads(self, engine: Engine, selects: Iterable[str], bound: Mapping[str, Any]) -> dict[str, int]:
        """Also a table that the planner scans although it has an index, since it is small or its statistics are old, is not
        among them."""
        whole: set[tuple[str, str]] = set()
        with engine.connect() as connection:
            connection.exec_driver_sql("set local enable_seqscan = off")
            for sql in selects:
                (plan,) = _explain(connection, "explain (verbose, format json)", sql, bound).scalar_one()
                scanned = [node for node in _nodes(plan["Plan"]) if _reads_all(node)]
                whole |= {(node["Schema"], node["Relation Name"]) for node in scanned}
            rows = text("select greatest(reltuples, 0)::bigint from pg_class where oid = to_regclass(:name)")
            return {
                table: connection.execute(
                    rows, {"name": Identifier(schema, table).as_string(connection.connection.driver_connection)}
                ).scalar_one()
                for schema, table in sorted(whole)
            }

    def read(self, engine: Engine, sql: str, bound: Mapping[str, Any], seconds: float) -> Iterator[pa.RecordBatch]:
        with connect_arrow(engine) as connection, connection.cursor() as cursor:
            cursor.execute("set transaction read only")
            cursor.execute(f"set local statement_timeout = {max(1, int(1000 * seconds))}")
            cursor.execute("set local timezone = 'UTC'")
            cursor.execute("select current_setting('server_encoding'), current_setting('server_version_num')::int")
            encoding, version = cursor.fetchone()
            if version >= 130_000 and encoding not in ("UTF8", "SQL_ASCII"):
                sql = in_ascii(sql)
            if (codec := _codec(encoding)) and (sql.isascii() or encoding == "SQL_ASCII"):
                # As stored: converting to UTF-8, the server would refuse all rows for one byte that is no text.
                cursor.execute(f"set local client_encoding = '{encoding}'")
            else:
                codec = "utf-8"
            # The driver puts it into parentheses: a comment at its end must not take in the closing one.
            cursor.execute(_with_literals(sql, bound) + "\n")
            for rows in cursor.fetch_record_batch():
                texts = [readable_texts(column, codec) for column in rows.columns]
                yield pa.RecordBatch.from_arrays(texts, rows.schema.names)

    def driver_errors(self) -> tuple[type[Exception], ...]:
        import adbc_driver_manager

        return (adbc_driver_manager.Error,)

    def codes_of_connecting(self, engine: Engine) -> list[str]:
        return [state for state in [state_of_connecting(engine)] if state not in (None, CONNECTED)]

    def why_it_broke(self, error: Exception, engine: Engine, sql: str, bound: Mapping[str, Any]) -> Refusal | None:
        """ADBC passes on no SQLSTATE once rows flow: have the server execute the SELECT again, without sending a row."""
        if "PGRES_FATAL_ERROR" not in str(error):
            return None
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("set local statement_timeout = '1min'")
                _explain(connection, "explain (analyze, timing off)", sql, bound)
        except DBAPIError as again:
            return self.refusal(again, engine)
        return None


def _reads_all(node: dict) -> bool:
    """Whether a node of a plan reads a whole table: row by row, or by an index without a condition on it."""
    kind = node["Node Type"]
    return kind == "Seq Scan" or (kind in ("Index Scan", "Index Only Scan") and "Index Cond" not in node)


def _nodes(plan: dict) -> Iterator[dict]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)


def _codec(encoding: str) -> str | None:
    """Python's name of an encoding of PostgreSQL; None where only the server can convert it."""
    if encoding == "SQL_ASCII":  # Bytes without a meaning, today most likely UTF-8.
        return "utf-8"
    try:
        return codecs.lookup(encoding.replace("WIN", "cp")).name
    except LookupError:
        return None


def _with_literals(sql: str, bound: Mapping[str, Any]) -> str:
    """The SELECT with its two bounds written in.

    COPY takes no parameters, and without COPY the driver collects the whole result before its first batch. The bounds are
    therefore quoted here by psycopg, as its cursor.copy() does; the planner sees them.
    """
    literals = {name: Literal(value).as_string() for name, value in bound.items()}
    return BOUND.sub(lambda m: literals[m[1]], sql)


def _explain(connection: Connection, how: str, sql: str, bound: Mapping[str, Any]) -> CursorResult:
    """The plan of a SELECT; how: the words before it."""
    return connection.exec_driver_sql(f"{how} {_with_literals(sql, bound)}".replace("%", "%%"))


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


def state_of_connecting(engine: Engine) -> str | None:
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
        return CONNECTED if is_made else states[-1].decode()
    return "28P01" if needs_password else None
