"""Drift: nothing where the same people are looked at again, and each kind of change under its own name."""

import math
from dataclasses import replace

import numpy as np
import pytest

from rnn_core.contracts.concepts import NAMES
from rnn_core.contracts.frames import Observations
from rnn_core.contracts.known import Known
from rnn_core.evaluation import drift
from rnn_core.evaluation.holdout import describe

AS_OF = np.datetime64("2031-05-01T00:00", "us")
HEART_RATE = NAMES.index("heart_rate")


def known(values: np.ndarray, n_stays: int = 400, days_ago: float = 1.0) -> Known:
    """Heart rates spread over stays, of which only the number matters here."""
    import pandas as pd

    n = len(values)
    at = np.full(n, AS_OF - np.timedelta64(int(days_ago * 24), "h"))
    seen = Observations(np.arange(n, dtype=np.int32) % n_stays, np.full(n, HEART_RATE, np.int16), at, at, values)
    columns = ("age_years", "sex", "unit_type", "admission_type", "outcome")
    stays = pd.DataFrame({"patient_id": [f"p{i}" for i in range(n_stays)], "intime": at[0], **dict.fromkeys(columns)})
    return Known(stays, seen, AS_OF)


@pytest.fixture(scope="module")
def learned():
    return describe(known(np.random.default_rng(0).normal(85, 15, 4000)))


def measured(learned, recent: Known) -> dict:
    (row,) = drift.measure_drift(learned, recent)
    return row


def test_the_same_distribution_a_week_later_has_not_drifted(learned):
    row = measured(learned, known(np.random.default_rng(1).normal(85, 15, 2000)))
    assert row["concept"] == "heart_rate" and row["psi"] < 0.1
    assert (row["drifted"], row["wrong_unit"], row["missing"]) == (False, False, 0)


def test_a_shift_of_one_deviation_is_drift_and_no_other_unit(learned):
    row = measured(learned, known(np.random.default_rng(1).normal(100, 15, 2000)))
    assert row["psi"] > drift.MAX_PSI and row["drifted"] and not row["wrong_unit"]


def test_another_unit_is_named_as_such(learned):
    row = measured(learned, known(np.random.default_rng(1).normal(85, 15, 2000) / 60))
    assert row["wrong_unit"] and row["drifted"]


def test_a_concept_that_is_charted_no_more_is_drift_where_there_are_stays_enough(learned):
    recent = known(np.random.default_rng(1).normal(85, 15, 200), n_stays=50)
    few = replace(recent, observations=recent.observations.take(recent.observations.stay < 30))
    row = measured(learned, few)
    assert row["missing"] == pytest.approx(0.4) and row["drifted"]
    silent = replace(recent, observations=recent.observations.take(np.zeros(200, bool)))
    row = measured(learned, silent)
    assert (row["missing"], row["psi"], row["median"], row["drifted"]) == (1, None, None, True)


def test_a_few_patients_who_differ_are_chance_and_no_drift():
    """Each stay has its own level: thirty of them differ from the next thirty by much, and mean nothing."""
    random = np.random.default_rng(5)

    def stays(n: int) -> Known:
        level = random.normal(85, 15, n)
        return known(level[np.arange(n * 40) % n] + random.normal(0, 2, n * 40), n_stays=n)

    reference, rows = describe(stays(60)), []
    for _ in range(40):
        rows += drift.measure_drift(reference, stays(30))
    assert max(row["psi"] for row in rows) > drift.MAX_PSI, "by the usual reading some of them would be drift"
    assert sum(row["drifted"] for row in rows) <= 1


def test_too_few_observations_give_no_index_and_old_ones_do_not_count(learned):
    assert measured(learned, known(np.full(99, 20.0)))["psi"] is None
    assert measured(learned, known(np.full(500, 20.0), days_ago=8))["n_observations"] == 0


def test_the_index_is_that_of_its_definition():
    now, then = np.array([0.5, 0.3, 0.2]), np.array([0.25, 0.35, 0.4])
    by_hand = sum((p - q) * math.log(p / q) for p, q in zip(now, then, strict=True))
    assert drift._psi(now, then) == pytest.approx(by_hand)


def test_a_model_that_kept_no_reference_has_no_rows(learned):
    without = {name: value for name, value in learned.items() if name != "concepts"}
    assert drift.measure_drift(without, known(np.full(500, 85.0))) == []


def test_another_hospital_is_asked_for_concepts_it_lacks_and_units_that_differ(learned):
    values = np.random.default_rng(1).normal(85, 15, 1000)
    assert drift.concepts_elsewhere(learned, known(values)) == ([], [])
    assert drift.concepts_elsewhere(learned, known(values / 60)) == ([], ["heart_rate"])
    nothing = known(values).observations.take(np.zeros(1000, bool))
    assert drift.concepts_elsewhere(learned, replace(known(values), observations=nothing)) == (["heart_rate"], [])
