"""A rule that Python and SQL both have is named once: changing it changes both, and a database that has the old one is
not current."""

import json
import subprocess
import sys
from pathlib import Path

import builders_sql as b
import pytest

from sql.store import migrate, rebuild_views, statements

ROOT = Path(__file__).resolve().parents[2]
BOTH_SIDES = """
import json
from rnn_core.contracts import thresholds
thresholds.PROLONGED_HOURS, thresholds.CHARTING_DELAY_HOURS, thresholds.EARLY_ADMISSION_HOURS = {hours}
thresholds.RISK_BANDS = ("fine", "low", "high", "worst")
import numpy as np
from rnn_core.contracts import concepts
concepts.STATIC_RANGES = {{"age_years": (18.0, 99.0), "height_cm": (120.0, 220.0), "weight_kg": (30.0, 300.0)}}
from rnn_core.series import scaling
from rnn_core.statistics import distribution
from sql.intake import quality
from sql.store.rebuild_views import definition
ends_in_1_to_2_days = distribution.Distribution(np.array([[[0, 0], [1.0, 0], [0, 0]]]), np.array([0.0, 24, 48]))
found = {{
    "bands": distribution.risk_band(np.array([0.01, 0.99])).tolist(),
    "prolonged": ends_in_1_to_2_days.prolonged_stay_risk([90.0]).tolist(),
    "age": scaling.STATIC_RANGES["age_years"],
    "views": [definition(v) for v in (
        "forecast.forecast_outcome", "forecast.alert_burden", "forecast.unit_census", "quality.stay_audit"
    )],
    "checks": {{check.name: check.where for check in quality.load_suite("stay")}},
}}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def changed() -> dict:
    """What a process holds in which every shared rule is another."""
    code = BOTH_SIDES.format(hours="100.0, 30, 12")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout)


def test_a_changed_threshold_changes_the_views_and_the_computation(changed):
    outcome, burden, census, audit = changed["views"]
    # 90 hours in, 24 to 48 more: surely longer than 100 hours, surely not longer than 168.
    assert changed["prolonged"] == [1.0] and "interval '100 hours' as prolonged" in outcome
    assert changed["bands"] == ["fine", "worst"] and "('fine', 1), ('low', 2), ('high', 3), ('worst', 4)" in burden
    assert "in ('high', 'worst')" in census
    assert "interval '30 hours'" in audit and "interval '12 hours'" in audit and "'36 hours'" not in audit


def test_a_changed_threshold_changes_the_checks_too(changed):
    checks = changed["checks"]
    assert "interval '30 hours'" in checks["death_shortly_before_charted_end"]
    assert changed["age"] == [18.0, 99.0] and "between 18 and 99" in checks["implausible_age"]
    assert "between 120 and 220" in checks["implausible_height"]
    assert "between 30 and 300" in checks["implausible_weight"]


@pytest.mark.parametrize("relation", rebuild_views.RELATIONS)
def test_no_placeholder_of_a_view_is_left_open(relation):
    assert not statements._PLACEHOLDER.search(rebuild_views.definition(relation))


@pytest.mark.parametrize("name", ["stay", "observation", "forecast"])
def test_no_placeholder_of_a_suite_is_left_open_but_the_batch(name):
    text = statements.read_statement(f"expectations/{name}.yaml")
    assert {found[1] for found in statements._PLACEHOLDER.finditer(text)} <= {"batch"}


def test_views_that_hold_an_old_threshold_are_not_current_and_are_rebuilt(engine, monkeypatch):
    ended = {"outtime": b.NOW - b.hours(1), "outcome": "alive"}
    b.add_stay(engine, "s1", intime=b.NOW - b.hours(121), **ended)
    b.add_forecasts(engine, {"s1": 0.2}, model_id=b.add_model(engine, "m1"), as_of=b.NOW - b.hours(20))
    query = "select prolonged from forecast.forecast_outcome"
    assert b.one(engine, query) == {"prolonged": False}
    with monkeypatch.context() as changed, engine.connect() as connection:
        changed.setitem(statements.VALUES, "prolonged_hours", "100")
        assert not rebuild_views.are_current(connection)
        migrate.upgrade(engine)
        assert rebuild_views.are_current(connection)
        assert b.one(engine, query) == {"prolonged": True}
    migrate.upgrade(engine)
