"""A real MariaDB with users: rights by column, limits of time and of connections, reads that break off, and memory."""

import re
import resource
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import hospital
import pandas as pd
import pytest
from builders_source import BEGINNING, END, read
from hospital import site
from mariadb import SERVER, MariaDB
from sqlalchemy.exc import DBAPIError

from rnn_core.contracts.errors import SourceError
from sql.intake import adapter as adapters
from sql.intake.adapter import Adapter, load_adapter
from sql.intake.catalogue import check_source, sequential_scans, times_with_a_zone
from sql.intake.reading import read_observations
from sql.store.engine import open_engine, read_only

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(SERVER is None, reason="no MariaDB server is installed here (mariadbd)"),
]
READER = "reader"


@pytest.fixture(scope="module")
def maria():
    folder = Path(tempfile.mkdtemp(prefix="icu-maria-"))
    made = MariaDB(folder, with_users=True)
    yield made
    made.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def ward(maria) -> Adapter:
    """The described hospital in the database `ward`, and a user with the rights that `source grants` prints."""
    owner = open_engine(maria.make_database("ward"))
    site.build(owner)
    adapter = load_adapter("site").on(owner)
    with owner.begin() as connection:
        connection.exec_driver_sql(f"create user {READER} identified by 'not-a-secret'")
        for statement in adapter.grants(READER, owner.dialect):
            connection.exec_driver_sql(statement)
        connection.exec_driver_sql("alter table ward_stay add column free_text varchar(100)")
    return adapter


@pytest.fixture
def as_reader(maria, ward) -> Callable:
    def open_as(password: str = "not-a-secret", database: str = "ward", dialect: str = "mariadb"):
        return read_only(open_engine(maria.url(database, f"{READER}:{password}", dialect)))

    return open_as


@pytest.mark.parametrize("dialect", ["mysql", "mariadb"])
def test_the_printed_grants_are_enough_under_either_name_of_the_engine(as_reader, ward, dialect):
    engine = as_reader(dialect=dialect)
    assert ward.dialects == ("postgresql", "mysql")
    check_source(ward, engine)
    assert len(read(engine, ward, "stays")) == 2 * len(hospital.STAYS)
    assert len(read(engine, ward, "observations")) == len(hospital.CHARTED) + 2
    assert set(read(engine, ward, "arrivals")["planned_id"]) == {"1", "2"}
    with pytest.raises(DBAPIError, match="1143"), engine.connect() as connection:
        connection.exec_driver_sql("select free_text from ward_stay")
    with pytest.raises(
        SourceError, match=r"needs the column free_text in ward\.ward_stay, which does not exist or is not"
    ):
        check_source(replace(ward, tables={"ward_stay": ["stay_no", "free_text"]}), engine)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"password": "wrong"}, r"refuses this user or the password \(error 1045\)"),
        ({"database": "nowhere"}, r"no database of that name, or none that this user may use \(error 1044\)"),
    ],
)
def test_a_refused_connection_says_why(as_reader, ward, options, sentence):
    with pytest.raises(SourceError, match=sentence):
        check_source(ward, as_reader(**options))


def test_the_limit_of_a_read_is_the_server_s_too(as_reader, ward):
    slow = ward.observations_sql.replace("value.value\n", "sleep(60) as value\n", 1)
    with pytest.raises(SourceError, match=r"took longer than 0\.02 minutes|own time limit was exceeded \(error 1969\)"):
        read(as_reader(), replace(ward, observations_sql=slow, read_timeout_minutes=0.02), "observations")
    with open_engine(as_reader().url).connect() as connection:
        assert connection.exec_driver_sql("select count(*) from information_schema.processlist").scalar() == 1


def test_a_table_that_an_hour_would_read_whole_and_a_column_with_a_zone_are_found(maria, ward):
    owner = open_engine(maria.url("ward"))
    since, until = hospital.BEGIN + timedelta(hours=20), hospital.BEGIN + timedelta(hours=21)
    assert set(sequential_scans(ward, owner, since, until)) == {"ward_stay", "ward_value", "ward_plan"}
    with owner.begin() as connection:
        for column in ("stored_ts", "observed_ts"):
            connection.exec_driver_sql(f"create index {column} on ward_value ({column})")
    assert "ward_value" not in sequential_scans(ward, owner, since, until)
    assert times_with_a_zone(ward, owner) == []
    with owner.begin() as connection:
        connection.exec_driver_sql("alter table ward_plan modify entered_ts timestamp null")
    assert times_with_a_zone(ward, owner) == ["ward_plan.entered_ts (timestamp)"]
    with owner.begin() as connection:
        connection.exec_driver_sql("alter table ward_plan modify entered_ts datetime(6)")


# Half a million rows, which MariaDB makes up.
MANY = """
select 'x' as stay_id, 'HR' as variable, null as unit, cast('2026-03-02 09:00:00' as datetime) as observed_at,
    cast('2026-03-02 09:00:00' as datetime) as available_at, seq as value
from seq_1_to_500000, {schema}.ward_plan where plan_no = '3' and :since < :until
"""


def test_a_large_read_stays_in_bounded_memory(maria, ward):
    many = replace(ward, observations_sql=MANY)
    batches = read_observations(many, open_engine(maria.url("ward")), BEGINNING, END)
    n = next(batches).num_rows
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    n += sum(batch.num_rows for batch in batches)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert n == 500_000 and grown_mib < 150


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # PyMySQL reads on as it is collected.
def test_a_server_that_dies_in_mid_read_is_named(ward):
    folder = Path(tempfile.mkdtemp(prefix="icu-maria-"))
    dying = MariaDB(folder)
    engine = open_engine(dying.make_database("ward"))
    site.build(engine)
    batches = read_observations(replace(ward, observations_sql=MANY), engine, BEGINNING, END)
    next(batches)
    killer = threading.Thread(target=dying.stop)
    killer.start()
    with pytest.raises(SourceError, match=r"its database broke the connection|driver raised an error"):
        list(batches)
    killer.join()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_column_of_instants_is_read_in_utc_whatever_the_zone_of_the_server(maria, ward):
    owner = open_engine(maria.url("ward"))
    with owner.begin() as connection:
        connection.exec_driver_sql("set global time_zone = '+05:00'")
        connection.exec_driver_sql("create table instants (at timestamp)")
        connection.exec_driver_sql("insert into instants values (from_unixtime(1772442000))")
    select = (
        "select 's' as stay_id, 'HR' as variable, null as unit, at as observed_at, at as available_at, 1 as value"
        " from {schema}.instants where at > :since and at <= :until"
    )
    adapter = replace(ward, observations_sql=select, local_times=False)
    hour = hospital.BEGIN + timedelta(hours=1)
    found = read(open_engine(owner.url), adapter, "observations", since=hour - timedelta(hours=1), until=hour)
    assert found["observed_at"].tolist() == [hour]


def in_mariadb(script: str) -> list[str]:
    """The statements of the documentation's tables and rows in the database `own`, with MariaDB's names of types."""
    script = script.replace("create schema ward;", "").replace("ward.", "own.")
    script = re.sub(r"\btext primary key", "varchar(20) primary key", script)
    script = re.sub(r"\btext\b", "varchar(100)", re.sub(r"\btimestamp\b", "datetime", script))
    script = re.sub(r"create index on (\S+) \((\w+)\)", r"create index by_\2 on \1 (\2)", script)
    return [statement for statement in script.split(";") if statement.strip()]


def test_the_worked_example_of_the_documentation_reads_the_same_in_mysql(maria, make_database, tmp_path, monkeypatch):
    document = (Path(__file__).parents[2] / "docs" / "your-own-database.md").read_text(encoding="utf-8")
    files = dict(re.findall(r"^```\w+ file=(\S+)\n(.*?)^```", document, re.DOTALL | re.MULTILINE))
    files["source.mysql.yaml"] = files["source.yaml"] + "dialects: [mysql]\nlocal_times: true\n"
    monkeypatch.setattr(adapters, "_FOLDER", tmp_path)
    maria.make_database("own")
    found = {}
    for engine in (open_engine(make_database("ward")), open_engine(maria.url("own"))):
        name = engine.dialect.name
        is_mysql = name == "mysql"
        (tmp_path / name).mkdir()
        for file in ("stays.sql", "observations.sql", "concept_map.csv", "source.yaml"):
            kind = file.replace(".", ".mysql.", 1) if is_mysql else file
            (tmp_path / name / file).write_text(files.get(kind, files[file]), encoding="utf-8")
        script = files["hospital.sql"] + files["rows.sql"]
        with engine.begin() as connection:
            for statement in in_mariadb(script) if is_mysql else [script]:
                connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
        adapter = load_adapter(name)
        adapter = replace(adapter, schemas={"schema": "own" if is_mysql else "ward"}, timezone="Europe/Zurich")
        check_source(adapter, engine)
        for which in ("stays", "observations"):
            rows = read(engine, adapter, which)
            found.setdefault(which, []).append(rows.drop(columns=NUMBERS, errors="ignore"))
            found.setdefault(f"numbers of {which}", []).append(rows.filter(NUMBERS).astype(float))
    for which, (one, other) in found.items():
        in_order = [
            frame.reindex(columns=sorted(one)).sort_values(sorted(one), ignore_index=True) for frame in (one, other)
        ]
        pd.testing.assert_frame_equal(*in_order, check_dtype=False, obj=which)
    assert len(found["stays"][0]) == 3 and len(found["observations"][0]) > 8


# Texts in one engine and numbers in the other.
NUMBERS = ["age_years", "height_cm", "weight_kg", "end_precision_hours"]
