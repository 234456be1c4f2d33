"""Reading a source: clocks that change, engines that differ, and what is said when a source is not as expected."""

import itertools
import os
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pytest
from builders_source import BEGINNING, END, adapter_at, read
from sqlalchemy import event, make_url, text
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import OperationalError

from rnn_core.contracts.errors import ForecastError, SourceError
from sql.engines.ascii_sql import in_ascii
from sql.engines.cells import MARK, NO_TIME
from sql.engines.postgresql import connect_arrow, libpq_parameters, libpq_uri
from sql.intake.adapter import load_adapter
from sql.intake.catalogue import check_source, sequential_scans
from sql.intake.reading import bounds
from sql.loaders import replace_table
from sql.store import refusals
from sql.store.engine import address, open_engine, read_only
from sql.store.refusals import connect_arrow_when_free, wait_for_a_free_connection

_numbers = itertools.count()
ZURICH = "Europe/Zurich"
DIALECTS = ["postgresql", "duckdb", "sqlite", "mysql"]


@pytest.fixture
def make_engine(request, make_database, tmp_path):
    def make(dialect: str):
        if dialect == "mysql":
            server = request.getfixturevalue("mariadb")
            return open_engine(server.make_database(f"reading_{next(_numbers)}"))
        return open_engine(
            make_database("reading") if dialect == "postgresql" else f"{dialect}:///{tmp_path / 'hospital.db'}"
        )

    return make


def charted(engine, dialect: str, times: list[str]):
    """A table of values that were charted and stored at these times of the wall clock, and an adapter that reads it."""
    schema = {"postgresql": "public", "mysql": engine.url.database}.get(dialect, "main")
    stored = pa.array([datetime.fromisoformat(t) for t in times], pa.timestamp("us"))
    values = pa.array([float(n) for n in range(len(times))])
    with engine.begin() as connection:
        replace_table(connection, schema, "chart", pa.table({"stored": stored, "value": values}))
    select = (
        "select 's' as stay_id, 'hf' as variable, null as unit, stored as observed_at, stored as available_at, value"
        " from {schema}.chart where stored > :since and stored <= :until"
    )
    dialects = (*load_adapter("mimic_iii").dialects, "mysql")
    return replace(
        adapter_at("mimic_iii", schema, timezone=ZURICH, dialects=dialects),
        observations_sql=select,
        tables={"chart": ["stored", "value"]},
    )


def known(engine, adapter, since=BEGINNING, until=END) -> list[str]:
    rows = read(engine, adapter, "observations", since=since, until=until)
    return [t.strftime("%m-%d %H:%M") for t in rows["available_at"]] if len(rows) else []


# Wall clock in Zurich, and UTC: spring has no 02:30, autumn has it twice and counts as the second.
SPRING = {"2026-03-29 01:30": "03-29 00:30", "2026-03-29 02:30": "03-29 01:00", "2026-03-29 03:30": "03-29 01:30"}
AUTUMN = {"2026-10-25 01:30": "10-24 23:30", "2026-10-25 02:30": "10-25 01:30", "2026-10-25 03:30": "10-25 02:30"}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("clock", [SPRING, AUTUMN], ids=["spring", "autumn"])
def test_times_without_a_zone_are_read_on_the_clock_of_the_source(make_engine, dialect, clock):
    engine = make_engine(dialect)
    adapter = charted(engine, dialect, list(clock))
    assert known(engine, adapter) == list(clock.values())


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"], ids=["spring", "autumn"])
def test_hourly_slices_over_a_change_of_the_clock_lose_and_double_nothing(make_engine, dialect, day):
    minutes = pd.date_range(f"{day} 00:00", f"{day} 05:00", freq="10min")
    engine = make_engine(dialect)
    adapter = charted(engine, dialect, [str(m) for m in minutes])
    edges = [datetime.fromisoformat(f"{day}T00:00+00:00") + timedelta(hours=h) for h in range(-3, 7)]
    parts = [known(engine, adapter, since, until) for since, until in pairwise(edges)]
    together = [time for part in parts for time in part]
    assert together == known(engine, adapter) and len(together) == len(minutes)
    for part, (since, until) in zip(parts, pairwise(edges), strict=True):
        assert all(f"{since:%m-%d %H:%M}" < time <= f"{until:%m-%d %H:%M}" for time in part)


def test_nothing_counts_as_known_before_it_was_in_an_hour_that_comes_twice(make_engine):
    """02:30 of the night may be 00:30 or 01:30 UTC; a run at 01:00 UTC does not see it."""
    engine = make_engine("postgresql")
    adapter = charted(engine, "postgresql", ["2026-10-25 02:30"])
    assert known(engine, adapter, until=datetime(2026, 10, 25, 1, tzinfo=UTC)) == []
    assert known(engine, adapter, until=datetime(2026, 10, 25, 2, tzinfo=UTC)) == ["10-25 01:30"]


def test_bounds_of_a_source_with_zones_are_the_slice_itself():
    since, until = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    assert bounds(adapter_at("clif"), since, until) == {"since": since, "until": until}


def test_duckdb_reads_the_slice_whatever_the_clock_of_this_machine(make_engine, monkeypatch):
    engine = make_engine("duckdb")
    adapter = replace(charted(engine, "duckdb", [f"2026-03-01 0{h}:00" for h in range(1, 9)]), local_times=False)
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    found = known(engine, adapter, datetime(2026, 3, 1, 5, tzinfo=UTC), datetime(2026, 3, 1, 8, tzinfo=UTC))
    monkeypatch.undo()
    time.tzset()
    assert found == ["03-01 06:00", "03-01 07:00", "03-01 08:00"]


@pytest.mark.parametrize("form", ["2026-03-01 08:00:00", "2026-03-01 08:00:00.000000", "2026-03-01 08:00:00+00:00"])
def test_times_that_sqlite_keeps_as_text_are_cut_at_the_bounds_in_any_form(make_engine, form):
    engine = make_engine("sqlite")
    adapter = replace(charted(engine, "sqlite", ["2026-03-01 08:00"]), local_times=False)
    with engine.begin() as connection:
        connection.execute(text("update chart set stored = :form"), {"form": form})
    eight = datetime(2026, 3, 1, 8, tzinfo=UTC)
    assert known(engine, adapter, eight - timedelta(hours=1), eight) == ["03-01 08:00"]
    assert known(engine, adapter, eight, eight + timedelta(hours=1)) == []


def test_a_time_as_text_has_no_clock_and_a_date_is_its_midnight(make_engine):
    engine = make_engine("postgresql")
    adapter = charted(engine, "postgresql", ["2026-03-01 10:00"])
    dated = adapter.observations_sql.replace("stored as observed_at", "stored::date as observed_at")
    rows = read(engine, replace(adapter, observations_sql=dated), "observations")
    assert rows["observed_at"].iloc[0] == pd.Timestamp("2026-02-28 23:00", tz="UTC")
    worded = adapter.observations_sql.replace("stored as observed_at", "stored::text as observed_at")
    with pytest.raises(SourceError, match="returns observed_at as string; a source with local_times"):
        read(engine, replace(adapter, observations_sql=worded), "observations")


# -------------------------------------------------------------------------------------------- cells that are odd

# Per encoding of a server: bytes of a cell that is text, the text, and bytes that are none (LATIN1 has none such).
ENCODED = {
    "LATIN1": (rb"S\xfcd", "Süd", None),
    "WIN1252": (rb"S\xfcd \x80", "Süd €", rb"S\x81d"),
    "EUC_JP": (rb"\xc5\xec", "東", None),
    "SQL_ASCII": (rb"S\xc3\xbcd", "Süd", rb"S\xfcd"),
}


@pytest.mark.parametrize("encoding", ENCODED)
def test_text_is_read_whatever_the_encoding_of_the_server_and_a_byte_that_is_none_is_marked(make_database, encoding):
    engine = open_engine(make_database("encoded", encoding=encoding))
    adapter = charted(engine, "postgresql", ["2026-03-01 10:00", "2026-03-01 11:00"])
    stored, meant, odd = ENCODED[encoding]
    with engine.begin() as connection:
        connection.exec_driver_sql("alter table chart add ward text")
        for cell, hour in ((stored, 10), (odd, 11)):
            quoted = "null" if cell is None else f"E'{cell.decode()}'"
            connection.exec_driver_sql(f"update chart set ward = {quoted} where stored = '2026-03-01 {hour}:00'")
    plain = adapter.observations_sql.replace("null as unit", "ward as unit")
    of_this_alphabet = plain.replace("'hf'", f"'{meant} \\ ' || E'\\\\{meant}' || $${meant}'$$ /* {meant} */")
    of_this_alphabet += f" and (ward is distinct from '{meant}' or ward = '{meant}') -- {meant}"
    for select, variable in ((plain, "hf"), (of_this_alphabet, f"{meant} \\ \\{meant}{meant}'")):
        adapter = replace(adapter, observations_sql=select, stays_sql=select, tables={"chart": ["ward"]})
        check_source(adapter, engine)
        found = read(engine, adapter, "observations").sort_values("available_at")
        assert found["unit"].dropna().tolist() == ([meant, odd.decode() + MARK] if odd else [meant])
        assert set(found["variable"]) == {variable}
    if encoding != "SQL_ASCII":
        unknown = replace(adapter, stays_sql=plain, observations_sql=plain + " -- \N{BLACK CHESS KNIGHT}")
        with pytest.raises(
            SourceError, match=r"refuses observations\.sql: .*no equivalent in encoding.* Correct the SELECT"
        ):
            check_source(unknown, engine)


def test_a_select_in_ascii_means_the_same(make_engine):
    written = (
        r"""select 'µ''\' as a, E'\t\'😀\\' as b, U&'\00e4ä' as c, $a$Ö'\$a$ as größe, /* ü ' */ '😀' as "Ä""é" """
        "-- 'ß"
    )
    assert in_ascii(written).isascii() and in_ascii("select 'a' -- 'b") == "select 'a' -- 'b"
    with make_engine("postgresql").connect() as connection:
        meant, found = (connection.exec_driver_sql(select).mappings().one() for select in (written, in_ascii(written)))
    assert dict(found) == dict(meant)
    assert meant == {"a": "µ'\\", "b": "\t'😀\\", "c": "ää", "größe": "Ö'\\", 'Ä"é': "😀"}


def test_a_time_that_is_none_is_kept_apart_from_one_that_is_missing(make_engine):
    """A missing end is an open stay; an infinite one costs its row."""
    engine = make_engine("postgresql")
    adapter = charted(engine, "postgresql", ["2026-03-01 10:00"])
    for kind in ("timestamptz", "timestamp", "date"):
        times = (
            "-infinity",
            "infinity",
            "0044-03-15 BC",
            "0001-01-01",
            "0999-12-31",
            "12000-01-01",
            None,
            "2026-03-01",
        )
        cells = ", ".join("null" if time is None else f"'{time}'" for time in times)
        select = f"select 's' as stay_id, t::{kind} as observed_at, {{schema}}.chart.stored as available_at"
        select += f" from {{schema}}.chart, unnest(array[{cells}]) t where :since < :until"
        found = read(engine, replace(adapter, observations_sql=select), "observations")["observed_at"]
        assert found.isna().tolist() == [False] * 6 + [True, False], kind
        assert (found == pd.Timestamp(NO_TIME)).tolist() == [True] * 6 + [False, False], kind


@pytest.mark.parametrize("dialect", ["duckdb", "sqlite"])
def test_odd_cells_of_a_file_are_marked_too(make_engine, dialect):
    engine = make_engine(dialect)
    adapter = charted(engine, dialect, ["2026-03-01 10:00"])
    odd = {"nul": "'a' || chr(0)", "long": "repeat('x', 3000)", "observed_at": "timestamp 'infinity'"}
    if dialect == "sqlite":
        odd = {"nul": "'a' || char(0)", "long": "hex(zeroblob(1500))", "observed_at": "'0000-00-00'"}
        odd["bytes"] = "cast(x'53fc64' as text)"
    cells = ", ".join(f'{cell} as "{name}"' for name, cell in odd.items())
    select = f"select {cells}, stored as available_at from {{schema}}.chart where :since < :until"
    (row,) = read(engine, replace(adapter, observations_sql=select), "observations").to_dict("records")
    assert row["nul"] == r"a\x00" + MARK and len(row["long"].rstrip(MARK)) == 500 < len(row["long"])
    assert row["observed_at"] == pd.Timestamp(NO_TIME)
    assert dialect != "sqlite" or row["bytes"] == rf"S\xfcd{MARK}"


# -------------------------------------------------------------------------------------------- what is said, and refused


def refusing(dialect: str, statement: str | None, *said, sqlstate: str | None = None):
    """An engine of a database whose driver gives this error, of a statement or of the connection itself."""
    error = Exception(*said)
    error.sqlstate = sqlstate

    def connect():
        raise OperationalError(statement, {}, error)

    return SimpleNamespace(
        dialect=SimpleNamespace(name=dialect), url=make_url(f"{dialect}://reader:secret@db/ward?x=1"), connect=connect
    )


# As PyMySQL 1.2 gives what MariaDB 10.11 says; and as pyodbc does, with an SQLSTATE alone.
@pytest.mark.parametrize(
    ("said", "sqlstate", "sentence"),
    [
        (
            (2003, "Can't connect"),
            None,
            r"ward does not answer at mysql://reader:\*\*\*@db/ward \(Exception\); check that it runs",
        ),
        (
            (1045, "denied for secret"),
            "28000",
            r"ward refused the connection at .*: it refuses this user or .* \(error 1045\); check",
        ),
        ((1049, "Unknown database"), "42000", r"it has no database of that name \(error 1049\)"),
        ((1044, "Access denied"), "42000", r"no database of that name, or none that this user may use \(error 1044\)"),
        ((1040, "Too many connections"), "08004", r"it has no free connection \(error 1040\); try again later"),
        ((1226, "max_user_connections"), "42000", r"it has no free connection \(error 1226\); try again later"),
        (("28000", "[28000] login failed"), None, r"it refuses this user or the password \(SQLSTATE 28000\)"),
        ((4711, "secret"), "57P03", r"it is starting, or was shut down \(SQLSTATE 57P03\)"),
        ((4711, "secret"), None, r"it refused \(error 4711\); look the code up"),
    ],
)
def test_a_server_that_refuses_a_connection_is_quoted_by_its_code_alone(said, sqlstate, sentence):
    engine = refusing("mysql", None, *said, sqlstate=sqlstate)
    with pytest.raises(SourceError, match=sentence) as refused:
        check_source(replace(adapter_at("clif"), name="ward", dialects=("mysql",)), engine)
    assert "secret" not in str(refused.value) and "affected" in str(refused.value)


class OfOracle:
    """What python-oracledb gives as the argument of an error."""

    def __init__(self, number: int) -> None:
        self.code, self.full_code = number, f"ORA-{number:05d}"

    def __str__(self) -> str:
        return "secret"


# As pyodbc and python-oracledb give them, by their manuals: no server could be asked.
@pytest.mark.parametrize(
    ("dialect", "said", "sentence"),
    [
        (
            "mssql",
            ("28000", "[28000] Login failed for 'secret'. (18456) (SQLDriverConnect)"),
            r"this user .*\(error Msg 18456\)",
        ),
        (
            "mssql",
            ("42S02", "[42S02] Invalid object name 'secret'. (208) (SQLExecDirectW)"),
            r"is missing \(error Msg 208\)",
        ),
        ("mssql", ("08001", "[08001] secret (10061) (SQLDriverConnect)"), r"does not answer at mssql://"),
        ("mssql", ("HYT00", "[HYT00] Login timeout (0) (SQLDriverConnect)"), r"does not answer at mssql://"),
        ("oracle", (OfOracle(1017),), r"refuses this user or the password \(error ORA-01017\)"),
        ("oracle", (OfOracle(942),), r"a table or schema is missing \(error ORA-00942\)"),
        ("oracle", (OfOracle(12541),), r"does not answer at oracle://"),
        ("oracle", (OfOracle(4711),), r"it refused \(error ORA-04711\); look the code up"),
    ],
)
def test_numbers_of_sql_server_and_oracle_are_found_and_never_their_texts(dialect, said, sentence):
    with pytest.raises(SourceError, match=sentence) as refused:
        check_source(replace(adapter_at("clif"), dialects=(dialect,)), refusing(dialect, None, *said))
    assert "reader:***" in str(refused.value) and "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "call", [lambda: int(misspelt=1), lambda: None.encoding, lambda: Path("/nowhere").read_bytes()]
)
def test_an_option_of_the_url_that_another_driver_cannot_use_is_said_so(call):
    engine = refusing("mysql", None)
    engine.connect = call
    with pytest.raises(SourceError, match="has an option that the driver for mysql cannot use"):
        check_source(replace(adapter_at("clif"), dialects=("mysql",)), engine)


class OfMySql:
    """A session of MySQL that shows the columns granted to its user, and plans every SELECT."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def execute(self, query, _):
        assert "information_schema.columns" in str(query) or str(query).startswith("explain ")
        return [("stored", "datetime"), ("value", "double")]


def test_a_user_of_mysql_needs_no_more_than_the_grants_of_columns():
    """SQLAlchemy's reflection runs SHOW CREATE TABLE, which MariaDB refuses to whom only columns are granted."""
    engine = SimpleNamespace(dialect=mysql.dialect(), connect=OfMySql)
    adapter = replace(adapter_at("clif"), dialects=("mysql",), tables={"chart": ["stored", "value"]})
    check_source(adapter, engine)
    with pytest.raises(SourceError, match=r"needs the column ward in .*chart, which does not exist or is not granted"):
        check_source(replace(adapter, tables={"chart": ["stored", "ward"]}), engine)


def test_a_catalogue_that_refuses_a_schema_is_a_missing_table_and_not_a_server_that_is_down(make_engine):
    """As some do for a schema that does not exist."""
    engine = make_engine("sqlite")
    adapter = charted(engine, "sqlite", ["2026-03-01 10:00"])

    def refuse(*_):
        raise sqlite3.OperationalError(1049, "Unknown database 'ward'")

    event.listen(engine, "do_execute", refuse)
    with pytest.raises(SourceError, match=r"needs the table main\.chart, which does not exist or cannot be read"):
        check_source(adapter, engine)


def test_a_database_that_an_adapter_is_not_written_for_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"clif is written for postgresql, not for sqlite; copy its folder and write"):
        check_source(adapter_at("clif"), open_engine(f"sqlite:///{tmp_path / 'x.db'}"))


@pytest.fixture(scope="module")
def make_url_with(make_database):
    """A function that gives the URL of one empty database with other parts."""
    url = make_database("refusing")

    def make(query: dict | None = None, **parts):
        return url.set(**parts).update_query_dict(query or {})

    return make


@pytest.mark.parametrize(
    ("query", "parts", "sentence"),
    [
        ({}, {"username": "nobody"}, r"refuses this user or the password \(SQLSTATE 28000\)"),
        ({}, {"database": "nowhere"}, r"has no database of that name \(SQLSTATE 3D000\)"),
        ({}, {"username": "latecomer"}, r"has no free connection \(SQLSTATE 53300\)"),
        ({"options": "-c misspelt=1"}, {}, r"does not know a setting or name \(SQLSTATE 42704\); check `options`"),
        ({"sslmod": "require"}, {}, r"has sslmod, which PostgreSQL's driver does not know; did you mean sslmode\?"),
        ({"host": "/nowhere"}, {}, r"does not answer at .*\(OperationalError\); check that it runs"),
    ],
)
def test_a_connection_that_is_refused_says_why(make_url_with, query, parts, sentence):
    with open_engine(make_url_with()).begin() as connection:
        connection.exec_driver_sql("drop role if exists latecomer; create role latecomer login connection limit 0")
    with pytest.raises(ForecastError, match=sentence):
        check_source(adapter_at("clif"), open_engine(make_url_with(query, **parts)))


def test_our_database_without_a_free_connection_is_waited_for_and_then_named(make_url_with, monkeypatch):
    with open_engine(make_url_with()).begin() as connection:
        connection.exec_driver_sql("drop role if exists lonely; create role lonely login connection limit 1")
    engine = wait_for_a_free_connection(open_engine(make_url_with(username="lonely")))
    monkeypatch.setattr(refusals, "_TRY_AGAIN", 0.05)

    def both_drivers() -> None:
        with engine.connect():
            pass
        connect_arrow_when_free(engine).close()

    with engine.connect():
        monkeypatch.setattr(refusals, "FREE_WITHIN", 0.2)
        for connect in (engine.connect, lambda: connect_arrow_when_free(engine)):
            with pytest.raises(ForecastError, match=r"no free connection for 0\.2 s; give its user more"):
                connect()
        monkeypatch.setattr(refusals, "FREE_WITHIN", 60.0)
        waiting = ThreadPoolExecutor(1).submit(both_drivers)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.3)
    waiting.result(timeout=30)
    wrong = wait_for_a_free_connection(open_engine(make_url_with(username="nobody")))
    with pytest.raises(OperationalError):
        wrong.connect()


def test_both_drivers_take_the_options_and_the_several_hosts_of_a_url(make_url_with):
    url = make_url_with({"options": "-c search_path=ward", "application_name": "own name"})
    (socket,) = [url.query["host"]]
    several = make_url(
        f"postgresql://{url.username}@/{url.database}?host=/nowhere,{socket}&options=-c%20search_path%3Dward"
    )
    shown = "select current_setting('search_path'), current_setting('timezone'), current_setting('client_encoding')"
    for engine in map(open_engine, (url, several)):
        with engine.connect() as connection, connect_arrow(engine) as arrow, arrow.cursor() as cursor:
            cursor.execute(shown)
            found = [tuple(connection.exec_driver_sql(shown).one()), cursor.fetchone()]
        assert found == [("ward", "UTC", "UTF8")] * 2
    hosts = open_engine("postgresql://reader:secret@one:5432,two:5433/ward?sslmode=require")
    assert libpq_parameters(hosts) | {"host": "one,two", "port": "5432,5433"} == libpq_parameters(hosts)
    assert "secret" not in address(hosts) and "one" in address(hosts) and "two" in address(hosts)
    assert libpq_uri(hosts).startswith("postgresql://reader:secret@/ward?")
    assert libpq_uri(hosts, password=False) == libpq_uri(hosts).replace(":secret", "")
    spaced = open_engine("postgresql://reader:a b+c@one:5432/ward?options=-c%20a%3Db")
    assert libpq_uri(spaced) == "postgresql://reader:a%20b+c@one:5432/ward?options=-c%20a%3Db"
    with pytest.raises(ForecastError, match="cannot be read"):
        open_engine("postgresql://reader:pass/word@db:port/ward")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_select_that_the_database_refuses_is_named_with_its_line_and_message(make_engine, dialect):
    engine = make_engine(dialect)
    adapter = charted(engine, dialect, ["2026-03-01 10:00"])
    misspelt = adapter.observations_sql.replace(" from {schema}", ",\n    valeu\nfrom {schema}")
    line = ", line 2" if dialect == "postgresql" else ""
    with pytest.raises(SourceError, match=rf"mimic_iii refuses stays\.sql{line}: .*valeu.* Correct the SELECT, and"):
        check_source(replace(adapter, stays_sql=misspelt), engine)
    with pytest.raises(SourceError, match=r"refuses observations\.sql.*(syntax error|your SQL syntax)"):
        check_source(
            replace(
                adapter, stays_sql=adapter.observations_sql, observations_sql="selct" + adapter.observations_sql[6:]
            ),
            engine,
        )


def test_a_schema_with_a_percent_sign_is_read(make_engine):
    engine = make_engine("postgresql")
    with engine.begin() as connection:
        connection.exec_driver_sql('create schema "50%% ""ward"""')
    adapter = charted(engine, "postgresql", ["2026-03-01 10:00"])
    with engine.begin() as connection:
        connection.exec_driver_sql('alter table chart set schema "50%% ""ward"""')
    adapter = replace(adapter, schemas={"schema": '50% "ward"'}, stays_sql=adapter.observations_sql)
    check_source(adapter, engine)
    assert known(engine, adapter) == ["03-01 09:00"]
    assert set(sequential_scans(adapter, engine, BEGINNING, END)) == {"chart"}


def test_a_database_without_a_driver_is_refused_with_what_to_do():
    with pytest.raises(
        ForecastError, match=r"no driver for snowflake databases here; install the .* or mysql, which come"
    ):
        open_engine("snowflake://u:p@db/x")


@pytest.mark.parametrize("dialect", ["duckdb", "sqlite"])
def test_a_file_that_is_not_there_is_named_and_not_made(tmp_path, dialect):
    path = tmp_path / "none.db"
    with pytest.raises(SourceError, match=r"has no file at .*none\.db"):
        check_source(adapter_at("mimic_iii", "main"), read_only(open_engine(f"{dialect}:///{path}")))
    assert not path.exists()


@pytest.mark.parametrize("dialect", ["duckdb", "sqlite"])
def test_a_missing_table_and_a_missing_column_are_named(make_engine, dialect):
    engine = make_engine(dialect)
    adapter = charted(engine, dialect, ["2026-03-01 10:00"])
    adapter = replace(adapter, stays_sql=adapter.observations_sql)
    check_source(adapter, engine)
    with pytest.raises(SourceError, match=r"needs the column stored_by in main\.chart"):
        check_source(replace(adapter, tables={"chart": ["stored", "stored_by"]}), engine)
    with pytest.raises(SourceError, match=r"needs the table main\.lab"):
        check_source(replace(adapter, tables={"lab": ["value"]}), engine)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_source_cannot_be_written_to(make_engine, dialect):
    engine = make_engine(dialect)
    charted(engine, dialect, ["2026-03-01 10:00"])
    engine.dispose()
    with pytest.raises(Exception, match=r"(?i)read.?only"), read_only(engine).begin() as connection:
        connection.execute(text("delete from chart"))


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
def test_a_read_ends_at_its_limit_although_the_database_hangs(make_engine, dialect):
    """Not even the server's own limit ends a statement of a process that is stopped."""
    engine = make_engine(dialect)
    adapter = replace(charted(engine, dialect, ["2026-03-01 10:00"]), read_timeout_minutes=0.025)
    if dialect == "sqlite":
        event.listen(engine, "connect", lambda session, _: session.create_function("hang", 0, lambda: time.sleep(2)))
        adapter = replace(
            adapter, observations_sql=adapter.observations_sql.replace("value from", "hang() as value from")
        )
        with pytest.raises(SourceError, match=r"took longer than 0\.025 minutes: its server hangs"):
            read(engine, adapter, "observations")
        return
    stopped = []

    def stop_the_server_process() -> None:
        query = "select pid from pg_stat_activity where query like '%pg_sleep(77)%' and pid <> pg_backend_pid()"
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not (found := connection.exec_driver_sql(query.replace("%", "%%")).scalars().all()):
                time.sleep(0.02)
        os.kill(found[0], signal.SIGSTOP)
        stopped.append(found[0])

    asleep = adapter.observations_sql.replace("value from", "pg_sleep(77)::text as value from")
    stopper = threading.Thread(target=stop_the_server_process)
    stopper.start()
    try:
        with pytest.raises(SourceError, match=r"took longer than 0\.05 minutes: its server hangs"):
            read(engine, replace(adapter, observations_sql=asleep, read_timeout_minutes=0.05), "observations")
    finally:
        stopper.join()
        os.kill(stopped[0], signal.SIGCONT)


def test_a_row_on_which_the_select_fails_is_not_quoted_and_its_sqlstate_is(make_engine):
    """Long after the first rows: by then the driver passes on no SQLSTATE."""
    engine = make_engine("postgresql")
    adapter = charted(engine, "postgresql", ["2026-03-01 10:00"])
    values = "select case when n = 300000 then 'secret_77' else '1' end as value from generate_series(1, 300000) n"
    rows = f"({values}) v cross join (select stored from {{schema}}.chart) c"
    select = adapter.observations_sql.replace(" value from {schema}.chart", f" value::float8 from {rows}")
    with pytest.raises(
        SourceError, match=r"could not convert or compute a value of the SELECT \(SQLSTATE 22P02\)"
    ) as refused:
        read(engine, replace(adapter, observations_sql=select), "observations")
    assert "secret_77" not in str(refused.value)
    select = adapter.observations_sql.replace(" value from", r" convert_from('\xff', 'UTF8') as value from")
    with pytest.raises(
        SourceError, match=r"not convert a text .* \(SQLSTATE 22021\); mend that text in its table, and keep"
    ):
        read(engine, replace(adapter, observations_sql=select), "observations")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_select_that_fails_says_no_value_of_a_row(make_engine, dialect):
    engine = make_engine(dialect)
    adapter = charted(engine, dialect, ["2026-03-01 10:00"])
    broken = replace(adapter, observations_sql=adapter.observations_sql.replace("value from", "secret_77 from"))
    with pytest.raises(SourceError, match="Reading the source mimic_iii failed") as refused:
        read(engine, broken, "observations")
    assert "secret_77" not in str(refused.value)


def test_a_table_that_an_hour_would_read_whole_is_found(make_engine):
    engine = make_engine("postgresql")
    times = [str(t) for t in pd.date_range("2026-01-01", periods=20_000, freq="1min")]
    adapter = charted(engine, "postgresql", times)
    adapter = replace(adapter, stays_sql=load_adapter("mimic_iii").stays_sql.split("with stay")[0] + "select 1 as x")
    hour = datetime(2026, 1, 5, tzinfo=UTC)
    assert sequential_scans(adapter, engine, hour, hour + timedelta(hours=1)) == {"chart": 20_000}
    with engine.begin() as connection:
        connection.execute(text("create index on chart (stored)"))
    assert sequential_scans(adapter, engine, hour, hour + timedelta(hours=1)) == {}
    # Nor is one that the planner scans in spite of its index, here for a slice of all its rows.
    assert sequential_scans(adapter, engine, BEGINNING, END) == {}
