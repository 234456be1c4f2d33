"""No patient's data leave the database: marks planted in the source are found in no log, artifact, page or message."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from builders_sql import tuples
from sqlalchemy import text

from sql.loaders import clif
from sql.store.engine import open_engine

pytestmark = pytest.mark.slow

AT = datetime(2026, 1, 19, tzinfo=UTC)
MARK = "XQZPHI"
VALUE = 77.12345678


@pytest.fixture
def marked_source(make_database):
    """The CLIF demo with a mark in every id, in texts of the laboratory, and one value that nobody else has."""
    url = make_database("marked")
    source = open_engine(url)
    clif.load(source, reanchor=True)
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


def test_marks_in_the_source_are_found_in_nothing_that_is_written(marked_source, make_database, tmp_path):
    store = make_database("store")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ICU_", "PREFECT_"))}
    environment = clean | {
        "ICU_HOME": str(tmp_path),
        "ICU_DATABASE_URL": store.render_as_string(hide_password=False),
        "ICU_SOURCES__CLIF__URL": marked_source.render_as_string(hide_password=False),
    }
    script = Path(__file__).parent / "marked.py"
    done = subprocess.run(
        [sys.executable, str(script), AT.isoformat()], env=environment, capture_output=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert done.stdout.count(b"failed as it should") == 2
    engine = open_engine(store)
    assert tuples(engine, f"select count(*) > 10 from forecast.current_risk where stay_id like '%{MARK}%'") == [(True,)]
    assert tuples(engine, f"select count(*) > 0 from quality.quarantine where row::text like '%{MARK} see note%'") == [
        (True,)
    ]
    told = {"output": done.stdout + done.stderr}
    told |= {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    without_patients = ("run", "model", "score", "concept_drift", "incident")
    for table in (*(f"forecast.{name}" for name in without_patients), "quality.check_result", "icu.batch"):
        told[table] = str(tuples(engine, f"select t::text from {table} t")).encode()
    engine.dispose()
    for kind in ("prefect.db", "meta.json", "evaluate-clif.html", "checks-clif.html", "forecast.run"):
        assert [name for name in told if name.endswith(kind)], f"nothing was looked at that is called {kind}"
    pattern = re.compile(f"{MARK}|{VALUE}".encode())
    assert [name for name, content in told.items() if pattern.search(content)] == []
