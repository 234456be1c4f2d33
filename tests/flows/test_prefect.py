"""The flows as Prefect runs them, on its real ephemeral server; and no patient's data leave the database on the way:
marks planted in the source are found in no log, artifact, page or message."""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from builders_sql import tuples
from sqlalchemy import text

from sql.store.engine import open_engine

pytestmark = pytest.mark.slow

AT = datetime(2026, 1, 19, tzinfo=UTC)
MARK = "XQZPHI"
VALUE = 77.12345678


@pytest.fixture(scope="module")
def marked_source(make_database, clif_template):
    """The CLIF demo with a mark in every id, in texts of the laboratory, and one value that nobody else has."""
    url = make_database("marked", clif_template)
    source = open_engine(url)
    with source.begin() as connection:
        columns = tuples(
            source,
            "select table_name, column_name from information_schema.columns where table_schema = 'public'"
            " and column_name in ('patient_id', 'hospitalization_id')",
        )
        assert len(columns) > 8
        for table, column in columns:
            connection.execute(text(f"update {table} set {column} = '{MARK}' || {column}"))
        marked = connection.execute(
            text(f"update labs set lab_value = '{MARK} see note', lab_value_numeric = null where lab_value = '___'")
        ).rowcount
        heart = "vital_category = 'heart_rate' and extract(minute from recorded_dttm) = 0"
        exact = connection.execute(text(f"update vitals set vital_value = {VALUE} where {heart}")).rowcount
    assert marked > 10 and exact > 100
    source.dispose()
    return url


@pytest.fixture(scope="module")
def run(make_database, marked_source, tmp_path_factory):
    """The ended process, the folder of its installation and its database."""
    home, store = tmp_path_factory.mktemp("prefect-run"), make_database("prefect")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ICU_", "PREFECT_"))}
    environment = clean | {
        "ICU_HOME": str(home),
        "ICU_DATABASE_URL": store.render_as_string(hide_password=False),
        "ICU_SOURCES__CLIF__URL": marked_source.render_as_string(hide_password=False),
        "ICU_SOURCES__PHYSIONET_2012__URL": marked_source.render_as_string(hide_password=False),
    }
    script = Path(__file__).parent / "prefect_run.py"
    done = subprocess.run(
        [sys.executable, str(script), AT.isoformat()], env=environment, capture_output=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return done, home, store


@pytest.fixture(scope="module")
def result(run):
    """What the flows returned, and what the server recorded of them."""
    (line,) = [line for line in run[0].stdout.decode().splitlines() if line.startswith("RESULT")]
    return json.loads(line.removeprefix("RESULT")) | {"log": (run[0].stdout + run[0].stderr).decode()}


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
    assert len(result["tasks"]) < 30


def test_each_run_leaves_one_table_of_counts(result):
    assert set(result["artifacts"]) == {"ingest-clif", "train-clif", "forecast-clif", "evaluate-clif", "catch-up-clif"}
    told = {row["what"] for row in json.loads(result["artifacts"]["forecast-clif"])}
    assert {"as of", "stays_scored", "age of the data in hours", "model"} <= told


def test_neither_logs_nor_parameters_nor_artifacts_name_a_stay(result, clif_source):
    with open_engine(clif_source).connect() as connection:
        query = text("select hospitalization_id from hospitalization union select patient_id from patient")
        names = list(connection.execute(query).scalars())
    written = json.dumps([result["parameters"], result["artifacts"], result["other artifacts"]]) + result["log"]
    assert len(names) > 300 and not [name for name in names if name in written]


def test_a_failed_run_says_in_one_sentence_what_to_do(result):
    assert "icu-forecast train physionet_2012" in result["refused"]


def test_an_alert_to_a_block_that_the_server_does_not_have_is_refused(result):
    assert "notification block 'slack-webhook/none'" in result["unknown block"]


def test_marks_in_the_source_are_found_in_nothing_that_is_written(run):
    done, home, store = run
    assert done.stdout.count(b"failed as it should") == 2
    engine = open_engine(store)
    assert tuples(engine, f"select count(*) > 10 from forecast.current_risk where stay_id like '%{MARK}%'") == [(True,)]
    assert tuples(engine, f"select count(*) > 0 from quality.quarantine where row::text like '%{MARK} see note%'") == [
        (True,)
    ]
    told = {"output": done.stdout + done.stderr}
    told |= {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}
    without_patients = ("run", "model", "score", "concept_drift", "incident")
    for table in (*(f"forecast.{name}" for name in without_patients), "quality.check_result", "icu.batch"):
        told[table] = str(tuples(engine, f"select t::text from {table} t")).encode()
    engine.dispose()
    for kind in ("prefect.db", "meta.json", "evaluate-clif.html", "checks-clif.html", "forecast.run"):
        assert [name for name in told if name.endswith(kind)], f"nothing was looked at that is called {kind}"
    pattern = re.compile(f"{MARK}|{VALUE}".encode())
    assert [name for name, content in told.items() if pattern.search(content)] == []
