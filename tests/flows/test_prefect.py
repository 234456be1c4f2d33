"""The flows as Prefect runs them, on its real ephemeral server."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

# One process, since a temporary server takes a quarter of a minute to start.
SCRIPT = """
import json
from datetime import UTC, datetime
from flows.runtime.settings import load_settings, quiet_environment
quiet_environment(load_settings())
from prefect.client.orchestration import get_client
from flows.jobs.catch_up import catch_up
from flows.jobs.evaluate import evaluate
from flows.jobs.forecast import forecast
from flows.jobs.ingest import ingest
from flows.jobs.train import train
from rnn_core.contracts.errors import ForecastError

at = datetime(2026, 1, 19, tzinfo=UTC)
counts = {"ingest": ingest("clif", at), "train": train("clif", at, epochs=2, members=2), "forecast": forecast("clif", at)}
evaluate("clif", at)
# As the schedule starts it: the hour it speaks for is when the run was due.
counts["catch_up"] = catch_up("clif")
try:
    forecast("physionet_2012", at)
except ForecastError as error:
    counts["refused"] = str(error)
with get_client(sync_client=True) as client:
    runs = client.read_flow_runs()
    tasks = client.read_task_runs()
    artifacts = client.read_artifacts()
counts["runs"] = {run.name: run.state_name for run in runs}
counts["parameters"] = [run.parameters for run in runs]
counts["tasks"] = {task.name.split(" clif ")[0]: task.state_name for task in tasks}
counts["artifacts"] = {artifact.key: artifact.data for artifact in artifacts if artifact.type == "table"}
counts["other artifacts"] = [str(artifact.data) for artifact in artifacts if artifact.type != "table"]
print("RESULT" + json.dumps(counts, default=str))
"""


@pytest.fixture(scope="module")
def result(request, make_database, clif_source, tmp_path_factory):
    home = tmp_path_factory.mktemp("prefect-run")
    environment = {
        **os.environ,
        "ICU_HOME": str(home),
        "ICU_DATABASE_URL": make_database("prefect").render_as_string(hide_password=False),
        "ICU_SOURCES__CLIF__URL": clif_source.render_as_string(hide_password=False),
        "ICU_SOURCES__PHYSIONET_2012__URL": clif_source.render_as_string(hide_password=False),
    }
    for name in ("PREFECT_HOME", "PREFECT_API_URL"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert lines, done.stderr[-4000:]
    return json.loads(lines[0].removeprefix("RESULT")) | {"log": done.stdout + done.stderr}


def test_each_flow_completes_as_a_flow_run(result):
    runs = {name: state for name, state in result["runs"].items() if not name.startswith("catch_up")}
    assert runs == {
        "ingest clif 2026-01-19T00Z": "Completed",
        "train clif 2026-01-19T00Z": "Completed",
        "forecast clif 2026-01-19T00Z": "Completed",
        "evaluate clif 2026-01-19T00Z": "Completed",
        "forecast physionet_2012 2026-01-19T00Z": "Failed",
    }
    assert result["forecast"]["stays_scored"] > 10


def test_a_flow_without_an_hour_speaks_for_the_hour_it_was_due(result):
    (state,) = [state for name, state in result["runs"].items() if name.startswith("catch_up")]
    assert state == "Completed" and result["catch_up"]["hours missed"] == 0


def test_each_step_is_a_task_run_and_none_is_per_stay(result):
    assert {"read the source", "take over", "fit the stay forecaster", "score", "publish"} <= set(result["tasks"])
    assert set(result["tasks"].values()) == {"Completed"}
    assert len(result["tasks"]) < 25


def test_each_run_leaves_one_table_of_counts(result):
    assert set(result["artifacts"]) == {"ingest-clif", "train-clif", "forecast-clif", "evaluate-clif", "catch-up-clif"}
    told = {row["what"] for row in json.loads(result["artifacts"]["forecast-clif"])}
    assert {"as of", "stays_scored", "age of the data in hours", "model"} <= told


def test_neither_logs_nor_parameters_nor_artifacts_name_a_stay(result, clif_source):
    from sqlalchemy import text

    from sql.store.engine import open_engine

    with open_engine(clif_source).connect() as connection:
        query = text("select hospitalization_id from hospitalization union select patient_id from patient")
        names = list(connection.execute(query).scalars())
    written = json.dumps([result["parameters"], result["artifacts"], result["other artifacts"]]) + result["log"]
    assert len(names) > 300 and not [name for name in names if name in written]


def test_a_failed_run_says_in_one_sentence_what_to_do(result):
    assert "icu-forecast train physionet_2012" in result["refused"]
