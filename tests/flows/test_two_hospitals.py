"""Several sources in one installation: each with its own watermark and fate, even when they are read at once."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from builders_sql import tuples

from flows.jobs.forecast import forecast
from flows.jobs.ingest import ingest
from flows.runtime.databases import open_source, open_store
from flows.runtime.settings import load_settings
from rnn_core.contracts.errors import ForecastError, SourceError
from sql.intake import landing
from sql.published import registry

AT = datetime(2026, 1, 19, tzinfo=UTC)
LATER = datetime(2026, 1, 19, 6, tzinfo=UTC)
EARLY = datetime(2026, 1, 12, tzinfo=UTC)
HOSPITALS = ("north", "south")
KEY = "select count(*) from pg_constraint where conname = 'pk_observation' and convalidated"


def content(store, source: str) -> dict:
    """All that was taken over of a source, without the numbers of batches."""
    return {
        "stays": tuples(
            store,
            "select stay_id, available_at, patient_id, unit, intime, outtime, outcome from icu.stay_version"
            " where source = :source order by 1, 2",
            source=source,
        ),
        "observations": tuples(
            store,
            "select stay_id, concept, observed_at, available_at, value from icu.observation where source = :source"
            " order by 1, 2, 3, 4",
            source=source,
        ),
        "quarantine": tuples(
            store,
            "select row_hash, check_name from quality.quarantine where source = :source order by 1, 2",
            source=source,
        ),
        "watermark": tuples(
            store, "select max(watermark) from icu.batch where source = :source and status = 'done'", source=source
        ),
    }


def shown(store, source: str) -> dict:
    """What readers see of a source, and its runs; no ages, which go on."""
    return {
        "stays": tuples(
            store,
            "select stay_id, prediction_time, mortality_risk, status, run_id from forecast.current_risk"
            " where source = :source order by 1",
            source=source,
        ),
        "runs": tuples(
            store,
            "select run_id, kind, as_of, status, finished_at, watermark from forecast.run where source = :source"
            " order by 1",
            source=source,
        ),
    }


@pytest.fixture
def hospitals(installation, small_clif_source, monkeypatch):
    """Two sources with the same adapter: the same patients in both, so that anything mixed up would show."""
    for name in HOSPITALS:
        monkeypatch.setenv(f"ICU_SOURCES__{name.upper()}__ADAPTER", "clif")
        monkeypatch.setenv(f"ICU_SOURCES__{name.upper()}__URL", small_clif_source.render_as_string(hide_password=False))
    load_settings.cache_clear()
    return installation


def ingest_both_at_once(as_of: datetime) -> None:
    command = [sys.executable, "-m", "flows.cli", "ingest", "--direct", "--as-of", as_of.isoformat()]
    at_work = [
        subprocess.Popen([*command, name], env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for name in HOSPITALS
    ]
    told = [process.communicate(timeout=200)[1] for process in at_work]
    assert [process.returncode for process in at_work] == [0, 0], [text[-800:] for text in told]


def enter(store, monkeypatch) -> None:
    monkeypatch.setenv("ICU_DATABASE_URL", store.render_as_string(hide_password=False))
    load_settings.cache_clear()


@pytest.mark.soak
def test_two_sources_read_at_once_give_what_each_gives_alone(hospitals, make_database, monkeypatch):
    """Both begin on a database without a table; the second time each goes on from its own watermark."""
    enter(make_database("together"), monkeypatch)
    for as_of in (EARLY, AT):
        ingest_both_at_once(as_of)
    store = open_store()
    together = {name: content(store, name) for name in HOSPITALS}
    assert tuples(store, KEY) == [(1,)]
    store.dispose()

    enter(make_database("alone"), monkeypatch)
    for as_of in (EARLY, AT):
        ingest.fn("north", as_of)
    store = open_store()
    assert together["north"] == content(store, "north") == together["south"]
    assert len(together["north"]["observations"]) > 50_000
    store.dispose()


def wait_until(condition, what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited 30 s for {what}"
        time.sleep(0.02)


def test_first_loads_that_meet_at_the_empty_table_take_turns(hospitals):
    """Both come to the empty table of observations in the same instant: a lock holds them back until both are there."""

    def load(*prepared):
        with hospitals.begin() as connection:
            return landing.take_over(connection, *prepared)

    ready = []
    for name in HOSPITALS:
        adapter, database = open_source(name)
        batch = landing.begin_batch(hospitals, name, EARLY)
        landing.land(hospitals, batch, adapter, database, lambda _: None)
        landing.cast_and_map(hospitals, batch, adapter)
        ready.append((batch, landing.check(hospitals, batch), adapter.units))
    with ThreadPoolExecutor(2) as pool:
        with hospitals.begin() as gate:
            gate.exec_driver_sql("lock table icu.observation in access exclusive mode")
            loads = [pool.submit(load, *prepared) for prepared in ready]
            waiting = "select count(*) from pg_locks where relation = 'icu.observation'::regclass and not granted"
            wait_until(lambda: tuples(hospitals, waiting) == [(2,)], "both loads to stand at the gate")
        added = {one.result(timeout=60).observations_added for one in loads}
    found = {name: content(hospitals, name) for name in HOSPITALS}
    assert found["north"] == found["south"]
    assert added == {len(found["north"]["observations"])} and added != {0}
    assert tuples(hospitals, KEY) == [(1,)]


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("URL", "postgresql://nobody@127.0.0.1:1/hospital", "The source south does not answer"),
        pytest.param("DB_SCHEMA", "nowhere", "needs the table nowhere", marks=pytest.mark.soak),
    ],
)
def test_a_source_that_is_down_touches_no_other(published, clif_source, monkeypatch, setting, value, sentence):
    monkeypatch.setenv("ICU_SOURCES__SOUTH__ADAPTER", "clif")
    monkeypatch.setenv("ICU_SOURCES__SOUTH__URL", clif_source.render_as_string(hide_password=False))
    monkeypatch.setenv(f"ICU_SOURCES__SOUTH__{setting}", value)
    load_settings.cache_clear()
    before = {"tables": content(published, "clif"), "shown": shown(published, "clif")}
    for _ in range(2):
        with pytest.raises(SourceError, match=sentence):
            ingest.fn("south", AT)
    assert {"tables": content(published, "clif"), "shown": shown(published, "clif")} == before
    assert before["shown"]["stays"] and before["shown"]["runs"]
    south = content(published, "south")
    assert (south["stays"], south["observations"], south["watermark"]) == ([], [], [(None,)])

    ingest.fn("clif", LATER)
    assert content(published, "clif")["watermark"] > before["tables"]["watermark"]
    health = {row.source: row for row in tuples(published, "select * from forecast.run_health where kind = 'ingest'")}
    assert (health["clif"].last_run_status, health["clif"].last_run_error) == ("published", None)
    assert (health["clif"].last_good_as_of, health["clif"].consecutive_failures) == (LATER, 0)
    assert (health["south"].last_run_status, health["south"].last_good_as_of) == ("failed", None)
    assert (health["south"].stale, health["south"].consecutive_failures) == (True, 2)
    assert sentence in health["south"].last_run_error


def test_the_same_stay_ids_in_two_hospitals_do_not_mix(published, small_clif_source, monkeypatch):
    """The clif model serves a second hospital whose patients bear the same ids, at another hour."""
    monkeypatch.setenv("ICU_SOURCES__SOUTH__ADAPTER", "clif")
    monkeypatch.setenv("ICU_SOURCES__SOUTH__URL", small_clif_source.render_as_string(hide_password=False))
    load_settings.cache_clear()
    numbers = "select stay_id, status, n_observations, mortality_risk from forecast.stay_forecast where source = 'clif'"
    before = set(tuples(published, numbers))
    ingest.fn("south", LATER)
    with pytest.raises(ForecastError, match="No model serves south"):
        forecast.fn("south", LATER)
    serving = registry.serving_model(published, "clif", "stay")
    copied = {
        name: value for name, value in serving.items() if name in (*registry._REQUIRED, "ends_at", "concept_hash")
    }
    with published.begin() as connection:
        registry.register(connection, copied | {"model_id": "south-stay", "source": "south"})
    registry.set_stage(published, "south-stay", "champion", "the same model, for this test")
    counts = {"clif": forecast.fn("clif", AT), "south": forecast.fn("south", LATER)}
    assert set(tuples(published, numbers)) == before
    at_risk = tuples(published, "select source, stay_id, prediction_time, model_id from forecast.current_risk")
    by_source = {name: {row for row in at_risk if row.source == name} for name in counts}
    assert {row.prediction_time for row in by_source["clif"]} == {AT}
    assert {(row.prediction_time, row.model_id) for row in by_source["south"]} == {(LATER, "south-stay")}
    both = {row.stay_id for row in by_source["clif"]} & {row.stay_id for row in by_source["south"]}
    assert len(both) > 2
    for name, found in counts.items():
        assert len(by_source[name]) <= found["stays_scored"] + found["stays_abstained"]
    census = tuples(published, "select source, sum(n_patients) from forecast.unit_census group by 1 order by 1")
    assert [name for name, _ in census] == ["clif", "south"]
