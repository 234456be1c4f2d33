"""Any database with a SQLAlchemy driver: the interface of all engines, with what serves where one has no way of its own."""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, inspect, text
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, NoSuchTableError

from rnn_core.contracts.errors import ForecastError
from sql.engines.cells import NO_TIME, readable_texts
from sql.engines.refusals import STANDARD, Refusal, Said, refusal_of

ROWS_AT_ONCE = 100_000
# Columns of the SELECTs that hold times.
TIMES = frozenset(
    (
        "available_at",
        "observed_at",
        "intime",
        "outtime",
        "hospital_intime",
        "hospital_outtime",
        "died_at",
        "expected_at",
    )
)
BOUND = re.compile(r"(?<!:):(since|until)\b")

_UNKNOWN_NEEDS = (
    "the SQLAlchemy dialect of that name, or use postgresql, duckdb, sqlite or mysql, which come with icu-forecast"
)


class Generic:
    """names: SQLAlchemy's dialects of this engine; `dialects` in source.yaml may have any of them.

    driver: what opens a URL that names none. needs: what must be installed for it.
    is_a_file: the database is a file, without users.
    has_one_schema: no setting can name another.
    can_plan: `plan` has the database check a SELECT without reading a row.
    with_zone: what its types of times with a zone are called.
    grant_on_schema, grant_on_table: the statements that let a role see a schema and select columns; empty if not needed, or
        not known.
    known_codes: what the codes of its errors mean. no_answer: codes with which the driver says that nobody answered.
    """

    names: tuple[str, ...] = ()
    driver, needs = "", ""
    is_a_file = False
    has_one_schema = False
    can_plan = False
    with_zone = re.compile("with (local )?time zone|datetimeoffset|timestamptz|timestamp_[lt]tz", re.IGNORECASE)
    grant_on_schema, grant_on_table = "", ""
    known_codes: ClassVar[Mapping[str, Said]] = STANDARD
    no_answer: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, names: tuple[str, ...] = ()) -> None:
        self.names = names or self.names

    def serves(self, dialects: Iterable[str]) -> bool:
        """Whether SELECTs written for these dialects run here."""
        return not set(self.names).isdisjoint(dialects)

    # -------------------------------------------------------------------------------------------- sessions

    def open(self, url: URL, application: str, keep: bool) -> Engine:
        """An engine on `url`; application: the name that the server shows for its sessions, where it can; keep: as
        `open_engine` says. Raises ForecastError where there is no driver, or an option that it does not know."""
        if self.driver and "+" not in url.drivername:
            url = url.set(drivername=self.driver)
        try:
            return create_engine(url, poolclass=NullPool)
        except (NoSuchModuleError, ImportError):
            raise ForecastError(
                f"There is no driver for {url.get_backend_name()} databases here; install {self.needs or _UNKNOWN_NEEDS}."
            ) from None

    def make_read_only(self, engine: Engine) -> None:
        """Have the engine's sessions refuse to write, where this database can; a source is never changed."""

    # -------------------------------------------------------------------------------------------- names and grants

    def published_schema(self, schema: str, url: URL) -> str:
        """Where tables of a schema that an adapter names are, if no setting says so; "public": where a table is that is
        named without a schema."""
        return schema

    def quote(self, dialect: Dialect, name: str) -> str:
        """A name as it is, quoted for a statement."""
        # Drivers with parameters like %s have the percent signs of a name doubled.
        return dialect.identifier_preparer.quote_identifier(name).replace("%%", "%")

    def grants(self, role: str, relations: list[tuple[str, str, list[str]]], dialect: Dialect) -> list[str]:
        """Statements that let `role` select the columns of (schema, table, columns), and nothing else.

        Raises ForecastError for a database without users, and for one whose grants are not known here.
        """
        if not self.grant_on_table:
            reason = "it is a file, so let the user read that file." if self.is_a_file else "ask its manual."
            raise ForecastError(f"There are no grants for a {dialect.name} source: {reason}")

        def quote(name: str) -> str:
            return self.quote(dialect, name)

        schemas = dict.fromkeys(schema for schema, _, _ in relations) if self.grant_on_schema else {}
        return [self.grant_on_schema.format(schema=quote(schema), role=quote(role)) for schema in schemas] + [
            self.grant_on_table.format(
                columns=", ".join(map(quote, columns)), table=f"{quote(schema)}.{quote(table)}", role=quote(role)
            )
            for schema, table, columns in relations
        ]

    # -------------------------------------------------------------------------------------------- looks

    def columns(self, engine: Engine, schema: str, table: str) -> dict[str, str]:
        """Types of a table's columns by name, none where there is no such table. Raises DBAPIError where the database is down."""
        try:
            found = inspect(engine).get_columns(table, schema=schema)
        except NoSuchTableError:
            return {}
        except DBAPIError as error:
            # Some databases refuse to show a schema that does not exist, or that this user may not use.
            if error.statement is None or error.connection_invalidated:
                raise
            return {}
        zoned = " with time zone"
        return {c["name"]: str(c["type"]) + (zoned if getattr(c["type"], "timezone", False) else "") for c in found}

    def plan(self, engine: Engine, sql: str, bound: Mapping[str, Any]) -> None:
        """Have the database plan a SELECT; no row is read. Raises DBAPIError where it refuses."""
        with engine.connect() as connection:
            connection.execute(text(f"explain {sql}"), self.bind(bound))

    def whole_reads(self, engine: Engine, selects: Iterable[str], bound: Mapping[str, Any]) -> dict[str, int]:
        """Tables that these SELECTs would read as a whole, since no index serves them, with an estimate of their rows."""
        return {}

    # -------------------------------------------------------------------------------------------- reads

    def spell(self, select: str) -> str:
        """A SELECT that keeps to what several engines share, as this one spells it."""
        return select

    def bind(self, bound: Mapping[str, Any]) -> Mapping[str, Any]:
        """The bounds of a read as this engine compares them with a column of times."""
        return bound

    def prepare(self, connection: Connection, seconds: float) -> None:
        """Called before a read: UTC, and the server's own limit of time, where it has these."""

    def read(self, engine: Engine, sql: str, bound: Mapping[str, Any], seconds: float) -> Iterator[pa.RecordBatch]:
        """Stream a SELECT with its two bounds, a few batches in memory: times typed, texts as `readable_texts` gives them.

        seconds: the server's own limit, where it has one. Raises DBAPIError and `driver_errors`.
        Here, row by row: times typed, all else as text, since drivers report no types.
        """
        with engine.connect().execution_options(stream_results=True) as connection:
            self.prepare(connection, seconds)
            result = connection.execute(text(sql), self.bind(bound))
            names = list(result.keys())
            for rows in result.partitions(ROWS_AT_ONCE):
                columns = zip(*rows, strict=True)
                yield pa.RecordBatch.from_arrays(
                    [_column(name, values) for name, values in zip(names, columns, strict=True)], names
                )

    def driver_errors(self) -> tuple[type[Exception], ...]:
        """What `read` raises besides DBAPIError."""
        return ()

    # -------------------------------------------------------------------------------------------- refusals

    def refusal(self, error: BaseException, engine: Engine) -> Refusal | None:
        """Why the database refused; None if it said nothing: it did not answer, or the connection broke."""
        codes = self.codes(getattr(error, "orig", error)) or self.codes_of_connecting(engine)
        return refusal_of(codes, self.known_codes) if codes and self.no_answer.isdisjoint(codes) else None

    def codes(self, error: Any) -> list[str]:
        """Numbers, names and SQLSTATE of a driver's error, the most precise first."""
        said = [getattr(error, "errno", None), *getattr(error, "args", ())[:1]]
        said += [getattr(error, name, None) for name in ("sqlstate", "sqlite_errorname")]
        return [str(code) for code in said if re.fullmatch(r"[0-9A-Z]{5}|\d{3,5}|SQLITE_\w+", str(code))]

    def codes_of_connecting(self, engine: Engine) -> list[str]:
        """Codes of a refused connection, where the driver's error has none."""
        return []

    def why_it_broke(self, error: Exception, engine: Engine, sql: str, bound: Mapping[str, Any]) -> Refusal | None:
        """Why a read broke off, where the driver's error alone does not say so."""
        return None


def columns_of_information_schema(engine: Engine, schema: str, table: str) -> dict[str, str]:
    """The columns that the user may see, in lower case, where SQLAlchemy cannot show them."""
    query = text(
        "select lower(column_name), lower(data_type) from information_schema.columns"
        " where lower(table_schema) = lower(:schema) and lower(table_name) = lower(:table)"
    )
    with engine.connect() as connection:
        return {name: kind for name, kind in connection.execute(query, {"schema": schema, "table": table})}


def at_utc(bound: Mapping[str, Any]) -> dict[str, Any]:
    """The bounds without a zone, in UTC, for drivers that would drop it."""
    return {name: time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time for name, time in bound.items()}


def _column(name: str, values: tuple[Any, ...]) -> pa.Array:
    if name not in TIMES:
        said = [v if v is None or isinstance(v, bytes) else str(v).encode(errors="surrogatepass") for v in values]
        return readable_texts(pa.array(said, pa.large_binary()))
    if all(value is None or isinstance(value, datetime) for value in values):
        zoned = {value.tzinfo is not None for value in values if value is not None}
        if len(zoned) < 2:
            return pa.array(values, pa.timestamp("us", "UTC" if True in zoned else None))
    texts = pd.Series(values, dtype=object)
    has_zone = texts.astype(str).str.contains(r"(?:Z|[+-]\d\d:?\d\d)$", regex=True).any()
    times = pd.to_datetime(texts, format="ISO8601", errors="coerce", utc=bool(has_zone)).dt.as_unit("us")
    column = pa.Array.from_pandas(times)
    # What is there and no time must not count as missing: a stay without an end is open.
    is_none = pa.array(times.isna().to_numpy() & texts.notna().to_numpy())
    return pc.if_else(is_none, pa.scalar(NO_TIME.replace(tzinfo=column.type.tz and UTC), column.type), column)
