"""Reading a source: clocks that change, engines that differ, and what is said when a source is not as expected."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pytest
from builders_source import BEGINNING, END, adapter_at, read
from sqlalchemy import text
from sqlalchemy.exc import NoInspectionAvailable

from rnn_core.contracts.errors import ForecastError, SourceError
from sql.intake.adapter import load_adapter
from sql.intake.reading import bounds, check_source, sequential_scans
from sql.loaders import replace_table
from sql.store.engine import open_engine, read_only

ZURICH = "Europe/Zurich"
DIALECTS = ["postgresql", "duckdb", "sqlite"]


@pytest.fixture
def make_engine(make_database, tmp_path):
    def make(dialect: str):
        return open_engine(
            make_database("reading") if dialect == "postgresql" else f"{dialect}:///{tmp_path / 'hospital.db'}"
        )

    return make


def charted(engine, dialect: str, times: list[str]):
    """A table of values that were charted and stored at these times of the wall clock, and an adapter that reads it."""
    schema = {"postgresql": "public"}.get(dialect, "main")
    stored = pa.array([datetime.fromisoformat(t) for t in times], pa.timestamp("us"))
    values = pa.array([float(n) for n in range(len(times))])
    with engine.begin() as connection:
        replace_table(connection, schema, "chart", pa.table({"stored": stored, "value": values}))
    select = (
        "select 's' as stay_id, 'hf' as variable, null as unit, stored as observed_at, stored as available_at, value"
        " from {schema}.chart where stored > :since and stored <= :until"
    )
    return replace(
        adapter_at("mimic_iii", schema, timezone=ZURICH), observations_sql=select, tables={"chart": ["stored", "value"]}
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


# -------------------------------------------------------------------------------------------- what is said, and refused


def test_a_database_with_a_server_of_its_own_is_not_looked_for_as_a_file():
    engine = SimpleNamespace(dialect=SimpleNamespace(name="mysql"), url=SimpleNamespace(database="ward"))
    with pytest.raises(NoInspectionAvailable):
        check_source(replace(adapter_at("clif"), dialects=("mysql",)), engine)


def test_a_database_that_an_adapter_is_not_written_for_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"clif is written for postgresql, not for sqlite; copy its folder"):
        check_source(adapter_at("clif"), open_engine(f"sqlite:///{tmp_path / 'x.db'}"))


def test_a_database_without_a_driver_is_refused_with_what_to_do():
    with pytest.raises(ForecastError, match="no driver for oracle databases here; install"):
        open_engine("oracle://u:p@db/x")


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
    with pytest.raises(Exception, match=r"read-only|readonly|read_only"), read_only(engine).begin() as connection:
        connection.execute(text("delete from chart"))


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
