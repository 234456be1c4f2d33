"""The job as it is operated: a Prefect server on PostgreSQL, two process workers, deployments, runs by hand and queued."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from builders_sql import tuples

from flows.runtime.clock import floor_hour
from sql.store.engine import open_engine

pytestmark = pytest.mark.soak

AT = datetime(2026, 1, 19, tzinfo=UTC)
SLOT = f"{AT:%Y-%m-%dT%HZ}"
PASSWORD = "icu:not-a-secret"
# By hand only, so that no schedule falls due during the test; but one, to see its time zone.
SCHEDULES = {
    "INGEST_HOURLY": "",
    "INGEST_NIGHTLY": "",
    "FORECAST_HOURLY": "",
    "CATCH_UP_HOURLY": "",
    "REFRESH_WEEKLY": "",
    "EVALUATE_DAILY": "30 6 1 1 *",
}


class Prefect:
    """The server's API, asked as any program would."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, auth=tuple(PASSWORD.split(":")), timeout=30)

    def get(self, path: str):
        return self.client.get(path).raise_for_status().json()

    def post(self, path: str, body: dict | None = None):
        return self.client.post(path, json=body or {}).raise_for_status().json()

    def start(self, deployment: str, scheduled: datetime | None = None, **parameters) -> str:
        """Id of a new run of `flow/name`, scheduled for a time or for now."""
        flow, name = deployment.split("/")
        found = self.get(f"/deployments/name/{flow}/{name}")
        state = {"type": "SCHEDULED", "state_details": {"scheduled_time": (scheduled or datetime.now(UTC)).isoformat()}}
        return self.post(f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters, "state": state})[
            "id"
        ]

    def wait(self, run_id: str, seconds: float = 240) -> dict:
        """The run once it has ended."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            run = self.get(f"/flow_runs/{run_id}")
            if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return run
            time.sleep(0.5)
        raise AssertionError(f"{run['name']} is still {run['state_name']} after {seconds} s")

    def wait_for(self, found, seconds: float = 120):
        """What `found()` gives, once it is something."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if there := found():
                return there
            time.sleep(0.5)
        raise AssertionError(f"nothing was found after {seconds} s")

    def started_again(self, run_id: str) -> list[dict]:
        """Runs that were started because this one died."""
        return self.post("/flow_runs/filter", {"flow_runs": {"tags": {"all_": [f"again:{run_id}"]}}})

    def runs_of(self, flow: str) -> list[dict]:
        return self.post("/flow_runs/filter", {"flows": {"name": {"any_": [flow]}}})


def start(command: list[str], environment: dict, log: Path) -> subprocess.Popen:
    """A process of its own group."""
    with log.open("a") as file:
        return subprocess.Popen(
            command, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, cwd=log.parent
        )


def end(started: subprocess.Popen) -> None:
    """Asks the whole group to end, and sees to it."""
    os.killpg(started.pid, signal.SIGTERM)
    try:
        started.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def cli(*words: str) -> list[str]:
    return [sys.executable, "-m", "flows.cli", *words]


def deploy(environment: dict, *options: str) -> list[dict]:
    done = subprocess.run(
        cli("deploy", *options, "--json"), env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def environment(make_database, clif_source, tmp_path_factory):
    """The settings of server, workers and command line alike, as the containers have them."""
    home, url = tmp_path_factory.mktemp("scheduled"), f"http://127.0.0.1:{free_port()}/api"
    server = make_database("server").set(drivername="postgresql+asyncpg")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ICU_", "PREFECT_"))}
    return clean | {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": url,
        "PREFECT_API_AUTH_STRING": PASSWORD,
        "PREFECT_SERVER_API_AUTH_STRING": PASSWORD,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": server.render_as_string(hide_password=False),
        "ICU_HOME": str(home),
        "ICU_DATABASE_URL": make_database("store").render_as_string(hide_password=False),
        "ICU_SOURCES__CLIF__URL": clif_source.render_as_string(hide_password=False),
        "ICU_SOURCES__CLIF__TIMEZONE": "Europe/Berlin",
        **{f"ICU_SOURCES__CLIF__SCHEDULES__{name}": cron for name, cron in SCHEDULES.items()},
    }


class Programs:
    """The server and the workers as processes, to be killed and started again."""

    def __init__(self, environment: dict) -> None:
        self.environment, self.home, self.running = environment, Path(environment["ICU_HOME"]), {}

    def start(self, name: str, command: list[str]) -> subprocess.Popen:
        self.running[name] = start(command, self.environment, self.home / f"{name}.log")
        return self.running[name]

    def serve(self) -> None:
        url = self.environment["PREFECT_API_URL"]
        where = ["--host", "127.0.0.1", "--port", str(httpx.URL(url).port)]
        server = self.start("server", [sys.executable, "-m", "prefect", "server", "start", *where])
        for _ in range(240):
            assert server.poll() is None, (self.home / "server.log").read_text()[-2000:]
            try:
                if httpx.get(f"{url}/health").is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.5)
        raise AssertionError("the server did not start")

    def work(self, pool: str) -> None:
        self.start(pool, cli("worker", pool))

    def kill(self, name: str) -> None:
        """SIGKILL for the program and all of its group; what it started in groups of their own lives on."""
        program = self.running.pop(name)
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()

    def stop(self) -> None:
        for program in reversed(self.running.values()):
            end(program)


@pytest.fixture(scope="module")
def programs(environment):
    found = Programs(environment)
    yield found
    found.stop()


@pytest.fixture(scope="module")
def prefect(environment, programs):
    """A server with both workers at work and everything deployed."""
    programs.serve()
    deploy(environment)
    for pool in ("cpu", "gpu"):
        programs.work(pool)
    return Prefect(environment["PREFECT_API_URL"])


@pytest.fixture(scope="module")
def triggered(prefect):
    """The main job by hand: ingest, a refresh that has the GPU pool train, then a forecast; the ended runs."""
    at = AT.isoformat()
    ended = {"ingest": prefect.wait(prefect.start("ingest/hourly", as_of=at))}
    ended["refresh"] = prefect.wait(prefect.start("refresh/weekly", as_of=at))
    (training,) = prefect.runs_of("train")
    ended["train"] = prefect.wait(training["id"])
    ended["forecast"] = prefect.wait(prefect.start("forecast/hourly", as_of=at))
    return ended


@pytest.fixture(scope="module")
def store(environment):
    engine = open_engine(environment["ICU_DATABASE_URL"])
    yield engine
    engine.dispose()


def test_every_triggered_run_ends_well_and_its_predictions_are_there_in_sql(triggered, store):
    assert {flow: run["state_type"] for flow, run in triggered.items()} == dict.fromkeys(triggered, "COMPLETED")
    published = tuples(store, "select kind, as_of, status, flow_run_id from forecast.run order by run_id")
    assert [(kind, as_of, status) for kind, as_of, status, _ in published] == [
        ("ingest", AT, "published"),
        ("refresh", AT, "published"),
        ("train", AT, "published"),
        ("forecast", AT, "published"),
    ]
    assert str(published[-1].flow_run_id) == triggered["forecast"]["id"]
    ((at_risk, without_reason),) = tuples(
        store,
        "select count(*), count(*) filter (where mortality_risk is null and status_reason is null) from forecast.current_risk",
    )
    assert at_risk > 10
    assert without_reason == 0


def test_training_runs_in_the_gpu_pool_and_nobody_waits_for_it(triggered):
    assert {flow: run["work_pool_name"] for flow, run in triggered.items()} == {
        "ingest": "cpu",
        "refresh": "cpu",
        "train": "gpu",
        "forecast": "cpu",
    }
    assert triggered["refresh"]["end_time"] < triggered["train"]["end_time"]


def test_run_and_step_names_tell_source_and_slot(prefect, triggered):
    assert {run["name"] for run in triggered.values()} == {f"{flow} clif {SLOT}" for flow in triggered}
    steps = prefect.post("/task_runs/filter", {"flow_runs": {"id": {"any_": [triggered["forecast"]["id"]]}}})
    assert len(steps) >= 5
    assert all(step["name"].endswith(f" clif {SLOT}") for step in steps)


def test_each_run_leaves_one_table_of_counts_and_no_patient(prefect, triggered, store):
    tables = prefect.post("/artifacts/filter", {"artifacts": {"type": {"any_": ["table"]}}})
    reports = {t["flow_run_id"]: t["data"] for t in tables}
    assert {run["id"] for run in triggered.values()} <= set(reports)
    assert len(reports) == len(tables)
    told = {flow: {line["what"] for line in json.loads(reports[run["id"]])} for flow, run in triggered.items()}
    assert all({"as of", "age of the data in hours"} <= told[flow] for flow in told)
    assert {"run", "stays_scored", "stays_abstained", "model"} <= told["forecast"]
    stays = tuples(store, "select stay_id from icu.stay_version union select patient_id from icu.stay_version")
    assert not [stay for (stay,) in stays if stay in " ".join(reports.values())]


def test_a_run_that_is_late_or_queued_speaks_for_the_hour_it_was_scheduled_for(prefect, triggered, store):
    """Both are due at once, one waits for the other: neither takes the hour at which it happened to run."""
    hours_ago = [datetime.now(UTC) - timedelta(hours=n) for n in (3, 2)]
    runs = [prefect.start("forecast/hourly", scheduled=time) for time in hours_ago]
    ended = [prefect.wait(run) for run in runs]
    assert [run["state_type"] for run in ended] == ["COMPLETED", "COMPLETED"]
    first, second = sorted(ended, key=lambda run: run["start_time"])
    assert second["start_time"] >= first["end_time"]
    slots = {
        str(flow_run_id): as_of
        for flow_run_id, as_of in tuples(store, "select flow_run_id, as_of from forecast.run where kind = 'forecast'")
    }
    assert [slots[run] for run in runs] == [floor_hour(time) for time in hours_ago]


def kill_run(run_id: str) -> None:
    """SIGKILL for the processes that work on a flow run, and for nobody else."""
    mark = f"PREFECT__FLOW_RUN_ID={run_id}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)
        except (OSError, ProcessLookupError):
            continue


def test_a_run_whose_process_is_killed_is_started_again_for_its_own_hour(prefect, triggered, store):
    """By the automations of the server: nobody but them starts the second run."""
    scheduled = datetime.now(UTC) - timedelta(hours=5)
    died = prefect.start("forecast/hourly", scheduled=scheduled)
    rows = "select status, as_of from forecast.run where flow_run_id = :run"
    prefect.wait_for(lambda: tuples(store, rows, run=died))
    kill_run(died)
    assert prefect.wait(died)["state_type"] == "CRASHED"
    assert tuples(store, rows, run=died) == [("running", floor_hour(scheduled))]
    (again,) = prefect.wait_for(lambda: prefect.started_again(died))
    ended = prefect.wait(again["id"])
    assert ended["state_type"] == "COMPLETED" and "attempt:2" in ended["tags"]
    assert tuples(store, rows, run=again["id"]) == [("published", floor_hour(scheduled))]
    assert tuples(store, "select error from forecast.run where flow_run_id = :run", run=died) == [
        ("Its process died; the next run closed it.",)
    ]
    assert len(prefect.started_again(died)) == 1


def test_a_run_that_dies_together_with_its_worker_is_found_by_its_heartbeat_and_started_again(
    prefect, programs, triggered, store
):
    """Nobody is left to say that it died; the new worker knows nothing of it."""
    scheduled = datetime.now(UTC) - timedelta(hours=7)
    died = prefect.start("forecast/hourly", scheduled=scheduled)
    rows = "select status, as_of from forecast.run where flow_run_id = :run"
    prefect.wait_for(lambda: tuples(store, rows, run=died))
    programs.kill("cpu")
    kill_run(died)
    assert prefect.get(f"/flow_runs/{died}")["state_type"] == "RUNNING"
    programs.work("cpu")
    assert prefect.wait(died, seconds=420)["state_type"] == "CRASHED"
    (again,) = prefect.wait_for(lambda: prefect.started_again(died), seconds=240)
    assert prefect.wait(again["id"])["state_type"] == "COMPLETED"
    assert tuples(store, rows, run=again["id"]) == [("published", floor_hour(scheduled))]


def test_a_run_during_which_the_prefect_server_is_killed_is_published_once(prefect, programs, triggered, store):
    """By itself, by the run that follows its death, or by the catching up of missed hours: readers see the hour whole."""
    scheduled = datetime.now(UTC) - timedelta(hours=8)
    hour = floor_hour(scheduled)
    prefect.start("forecast/hourly", scheduled=scheduled)
    runs = "select status from forecast.run where kind = 'forecast' and as_of = :hour order by run_id"
    prefect.wait_for(lambda: tuples(store, runs, hour=hour))
    programs.kill("server")
    time.sleep(20)
    programs.serve()

    def is_published() -> bool:
        return ("published",) in tuples(store, runs, hour=hour)

    try:
        prefect.wait_for(is_published, seconds=420)
    except AssertionError:
        assert prefect.wait(prefect.start("catch_up/hourly", as_of=hour.isoformat()))["state_type"] == "COMPLETED"
    assert is_published()
    per_stay = (
        "select count(*) from (select stay_id from forecast.stay_forecast where prediction_time = :hour"
        " group by stay_id having count(*) > 1) d"
    )
    assert tuples(store, per_stay, hour=hour) == [(0,)]


def test_a_run_that_dies_three_times_is_left_alone_and_told(prefect, triggered, store):
    run_id = prefect.start("forecast/hourly", scheduled=datetime.now(UTC) - timedelta(hours=6))
    for attempt in (1, 2, 3):
        prefect.wait_for(lambda run=run_id: prefect.get(f"/flow_runs/{run}")["state_type"] == "RUNNING")
        kill_run(run_id)
        assert prefect.wait(run_id)["state_type"] == "CRASHED"
        if attempt < 3:
            (again,) = prefect.wait_for(lambda run=run_id: prefect.started_again(run))
            run_id = again["id"]
    told = "select sentence from forecast.incident where kind = 'gave_up' and closed_at is null"
    ((sentence,),) = prefect.wait_for(lambda: tuples(store, told))
    assert "crashed 3 times and is not restarted" in sentence
    assert prefect.started_again(run_id) == []


def test_a_refresh_without_enough_new_stays_starts_no_training(prefect, triggered):
    ended = prefect.wait(prefect.start("refresh/weekly", as_of=AT.isoformat()))
    assert ended["state_type"] == "COMPLETED"
    assert len(prefect.runs_of("train")) == 1


def test_deploying_again_changes_nothing_and_removes_what_the_plan_does_not_know(prefect, environment):
    before = prefect.post("/deployments/filter")
    done = deploy(environment)
    assert {row["done"] for row in done} == {"updated"}
    after = prefect.post("/deployments/filter")
    assert {d["id"] for d in after} == {d["id"] for d in before}
    assert len(prefect.post("/automations/filter")) == 2
    several = environment | {"ICU_SOURCES__WARD__ADAPTER": "clif"}
    assert {row["name"] for row in deploy(several) if row["done"] == "removed"} == {
        "ingest/hourly",
        "ingest/nightly",
        "forecast/hourly",
        "catch_up/hourly",
        "evaluate/daily",
        "refresh/weekly",
        "train/weekly",
    }
    assert "forecast/hourly-ward" in {row["name"] for row in deploy(several, "ward")}
    names = {d["name"] for d in prefect.post("/deployments/filter")}
    assert {"hourly-clif", "hourly-ward"} <= names
    deploy(environment)
    assert len(prefect.post("/deployments/filter")) == len(before)


def test_deploying_again_leaves_paused_what_somebody_paused(prefect, environment):
    nightly, daily = (prefect.get(f"/deployments/name/{name}") for name in ("ingest/nightly", "evaluate/daily"))
    automation = prefect.post("/automations/filter")[0]
    prefect.client.patch(f"/deployments/{nightly['id']}", json={"paused": True}).raise_for_status()
    schedule = f"/deployments/{daily['id']}/schedules/{daily['schedules'][0]['id']}"
    prefect.client.patch(schedule, json={"active": False}).raise_for_status()
    prefect.client.patch(f"/automations/{automation['id']}", json={"enabled": False}).raise_for_status()
    prefect.client.patch("/work_pools/gpu", json={"is_paused": True}).raise_for_status()
    try:
        done = {row["name"]: row["done"] for row in deploy(environment) if row["done"] != "updated"}
        assert done == {
            "ingest/nightly": "updated, still paused",
            "evaluate/daily": "updated, its schedule still paused",
            automation["name"]: "updated, still paused",
            "gpu": "updated, still paused",
        }
        assert prefect.get("/deployments/name/ingest/nightly")["paused"]
        (kept,) = prefect.get("/deployments/name/evaluate/daily")["schedules"]
        assert not kept["active"] and kept["schedule"]["cron"] == "30 6 1 1 *"
        assert not prefect.get(f"/automations/{automation['id']}")["enabled"]
        assert prefect.get("/work_pools/gpu")["is_paused"]
        for settings, names in ((environment | {"ICU_SOURCES__WARD__ADAPTER": "clif"}, "-clif"), (environment, "")):
            renamed = {row["name"]: row["done"] for row in deploy(settings)}
            assert renamed[f"ingest/nightly{names}"] == "created, still paused"
            assert renamed[f"evaluate/daily{names}"] == "created, its schedule still paused"
            assert renamed[f"ingest/hourly{names}"] == "created"
    finally:
        prefect.client.patch("/work_pools/gpu", json={"is_paused": False}).raise_for_status()
        prefect.client.patch(f"/automations/{automation['id']}", json={"enabled": True}).raise_for_status()


def test_schedules_follow_the_sources_own_time_zone(prefect, environment):
    deployment = prefect.get("/deployments/name/evaluate/daily")
    (schedule,) = deployment["schedules"]
    assert schedule["schedule"]["cron"] == "30 6 1 1 *"
    assert schedule["schedule"]["timezone"] == "Europe/Berlin"
    assert prefect.get("/deployments/name/ingest/hourly")["schedules"] == []


def test_the_server_refuses_whoever_has_no_password(environment, prefect):
    without = {name: value for name, value in environment.items() if name != "PREFECT_API_AUTH_STRING"}
    done = subprocess.run(cli("deploy"), env=without, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "set PREFECT_API_AUTH_STRING as on the server" in done.stderr
