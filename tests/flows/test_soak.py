"""The soak: most of a year of real stays, replayed at high speed under random faults, against the undisturbed replay."""

import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from builders_sql import tuples
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from flows.jobs.ingest import ingest
from flows.jobs.train import train
from flows.runtime.databases import open_store
from flows.runtime.settings import load_settings
from sql.loaders import clif
from sql.store.engine import open_engine

pytestmark = pytest.mark.soak

REPLAY = Path(__file__).parent / "replay.py"
YEAR = datetime(2025, 1, 1, tzinfo=UTC)
START = datetime(2025, 5, 1, tzinfo=UTC)
# 510 publications, twelve hours apart: the last two thirds of the year and a little more.
EVERY_HOURS, PUBLICATIONS = 12, int(os.environ.get("SOAK_PUBLICATIONS", "510"))
DAYS = 365
# Seconds between faults. A process needs about ten to come up again, so most kills hit it at work.
PAUSE = (12, 40)
SEED = 0

TABLES = {
    "icu.observation": "select stay_id, concept, observed_at, available_at, value from icu.observation order by 1, 2, 3, 4",
    "icu.stay_version": "select stay_id, available_at, intime, outtime, outcome from icu.stay_version order by 1, 2",
    "forecast.stay_forecast": "select prediction_time, stay_id, status, status_reason, mortality_risk, prolonged_stay_risk,"
    " remaining_los_p10_hours, remaining_los_p50_hours, remaining_los_p90_hours, risk_band, n_observations"
    " from forecast.stay_forecast order by 1, 2",
    "forecast.stay_forecast_driver": "select prediction_time, stay_id, rank, driver, contribution"
    " from forecast.stay_forecast_driver order by 1, 2, 3",
}
DOUBLED = "select count(*) from (select prediction_time, stay_id from forecast.stay_forecast group by 1, 2 having count(*) > 1) d"


def settings(patch, home: Path, store, source) -> dict[str, str]:
    """The environment of an installation; also of this process."""
    patch.setenv("ICU_HOME", str(home))
    patch.setenv("ICU_DATABASE_URL", store.render_as_string(hide_password=False))
    patch.setenv("ICU_SOURCES__CLIF__URL", source.render_as_string(hide_password=False))
    load_settings.cache_clear()
    return dict(os.environ)


def replay(environment: dict[str, str], log: Path) -> subprocess.Popen:
    words = [sys.executable, str(REPLAY), START.isoformat(), str(EVERY_HOURS), str(PUBLICATIONS)]
    with log.open("a") as file:
        return subprocess.Popen(words, env=environment, stdout=file, stderr=file)


def add_bad_rows(source) -> int:
    """One in a hundred laboratory results and one in two hundred vital signs comes a second time, seven minutes later, as
    nonsense; and some of patients nobody knows. Returns how many."""
    nonsense = [
        "insert into labs select (l).* from (select jsonb_populate_record(labs, jsonb_build_object('lab_value', 'ERROR',"
        " 'lab_value_numeric', null, 'lab_collect_dttm', lab_collect_dttm + interval '7 minutes',"
        " 'lab_result_dttm', lab_result_dttm + interval '7 minutes')) as l from labs where hashtext(labs::text) % 100 = 0) b",
        "insert into vitals select (v).* from (select jsonb_populate_record(vitals, jsonb_build_object('vital_value', 99999,"
        " 'recorded_dttm', recorded_dttm + interval '7 minutes')) as v from vitals where hashtext(vitals::text) % 200 = 0) b",
        "insert into vitals select (v).* from (select jsonb_populate_record(vitals,"
        " jsonb_build_object('hospitalization_id', 'nobody')) as v from vitals where hashtext(vitals::text) % 200 = 1) b",
    ]
    with open_engine(source).begin() as connection:
        return sum(connection.execute(text(statement)).rowcount for statement in nonsense)


def kill_the_process(running: subprocess.Popen, store) -> None:
    running.kill()
    running.wait()


def end_all_sessions(running: subprocess.Popen, store) -> None:
    """As a server does that restarts: the process goes on and finds its connections gone."""
    with store.connect() as connection:
        connection.execute(
            text(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )
        )


def run_through_faults(environment: dict[str, str], store, log: Path) -> Counter:
    """Replay to the end while faults strike; returns how often each did."""
    chance, faults = random.Random(SEED), Counter()
    running = replay(environment, log)
    while True:
        try:
            running.wait(chance.uniform(*PAUSE))
        except subprocess.TimeoutExpired:
            fault = chance.choice([kill_the_process, end_all_sessions])
            try:
                fault(running, store)
            except DBAPIError:
                continue
            faults[fault.__name__.replace("_", " ")] += 1
        else:
            if running.returncode == 0:
                return faults
            faults["ended by an error and started again"] += running.returncode > 0
        if running.poll() is not None:
            running = replay(environment, log)


def test_a_disturbed_year_leaves_the_same_rows_as_an_undisturbed_one(make_database, tmp_path, monkeypatch, capsys):
    calm_source, wild_source = make_database("calm_source"), make_database("wild_source")
    for source in (calm_source, wild_source):
        clif.load(open_engine(source), reanchor=True, anchor=YEAR, days=DAYS)
    calm, wild = make_database("calm"), make_database("wild")
    homes = {name: tmp_path / name for name in ("calm", "wild")}
    environments = {"calm": settings(monkeypatch, homes["calm"], calm, calm_source)}
    ingest.fn("clif", START - timedelta(hours=EVERY_HOURS))
    train.fn("clif", START - timedelta(hours=EVERY_HOURS), epochs=3, members=2)
    stores = {"calm": open_store()}
    with (
        open_engine(calm.set(database="postgres"))
        .connect()
        .execution_options(isolation_level="AUTOCOMMIT") as connection
    ):
        # A session that has just been closed may still be there.
        ended = text("select pg_terminate_backend(pid) from pg_stat_activity where datname = :name")
        connection.execute(ended, {"name": calm.database})
        connection.exec_driver_sql(f"drop database {wild.database}")
        connection.exec_driver_sql(f"create database {wild.database} template {calm.database}")
    shutil.copytree(homes["calm"] / "artifacts", homes["wild"] / "artifacts")

    began = time.monotonic()
    assert replay(environments["calm"], tmp_path / "calm.log").wait() == 0, (tmp_path / "calm.log").read_text()[-2000:]
    calm_seconds = time.monotonic() - began

    environments["wild"] = settings(monkeypatch, homes["wild"], wild, wild_source)
    stores["wild"] = open_store()
    bad = add_bad_rows(wild_source)
    began = time.monotonic()
    faults = run_through_faults(environments["wild"], stores["wild"], tmp_path / "wild.log")
    wild_seconds = time.monotonic() - began
    load_settings.cache_clear()

    found = {name: {table: tuples(store, query) for table, query in TABLES.items()} for name, store in stores.items()}
    lost = {t: len(set(found["calm"][t]) - set(found["wild"][t])) for t in TABLES}
    added = {t: len(set(found["wild"][t]) - set(found["calm"][t])) for t in TABLES}
    ((published, runs),) = tuples(
        stores["wild"],
        "select count(distinct as_of) filter (where status = 'published'), count(*) from forecast.run where kind = 'forecast'",
    )
    quarantined = {
        name: tuples(store, "select count(*) from quality.quarantine")[0][0] for name, store in stores.items()
    }
    with capsys.disabled():
        print(
            f"\n{published} publications in {runs} runs; undisturbed {calm_seconds:.0f} s, disturbed {wild_seconds:.0f} s"
        )
        print("\n| fault | injected |\n|---|---|")
        for fault, n in (
            *sorted(faults.items()),
            ("bad rows in the source", bad),
            ("in quarantine, of all that came by the last hour", quarantined["wild"]),
        ):
            print(f"| {fault} | {n} |")
        print("\n| table | rows | lost | doubled or changed |\n|---|---|---|---|")
        for table in TABLES:
            print(f"| {table} | {len(found['calm'][table])} | {lost[table]} | {added[table]} |")
    assert published == PUBLICATIONS
    assert found["wild"] == found["calm"]
    assert tuples(stores["wild"], DOUBLED) == [(0,)]
    assert faults["kill the process"] >= PUBLICATIONS / 100 and faults["end all sessions"] >= PUBLICATIONS / 100
    assert bad > 500 and quarantined["wild"] > quarantined["calm"] + 10
    assert tuples(stores["wild"], "select count(*) from forecast.run where status = 'running'") == [(0,)]
