"""The verdict on a silent trial: go only where every criterion is met, and recalibration mends what it can mend."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from rnn_core.evaluation.trial import Calibrations, decide, judge_risks, recalibrate
from rnn_core.statistics.bootstrap import Estimate


def pairs(n: int = 1500, shift: float = 0.0, noise: float = 0.5, seed: int = 0) -> pd.DataFrame:
    """Forecasts of patients whose risk is known up to `noise`, published with log-odds that are off by `shift`."""
    random = np.random.default_rng(seed)
    truth = random.normal(-2, 1.5, n)
    risk = expit(truth + random.normal(0, noise, n) + shift)
    died = (random.random(n) < expit(truth)).astype(object)
    return pd.DataFrame({"mortality_risk": risk, "died": died, "patient_id": [f"p{i}" for i in range(n)]})


def test_good_forecasts_published_every_hour_are_a_go():
    decision = decide(judge_risks(pairs()), 0.99)
    assert decision.verdict == "go" and all(met for _, _, met in decision.criteria)


def test_risks_that_are_too_high_are_found_and_corrected_by_recalibration():
    risks = judge_risks(pairs(shift=1.0))
    assert risks.before["mortality_observed_expected"].value < 0.7
    assert risks.after["mortality_observed_expected"].value == pytest.approx(1, abs=0.05)
    assert risks.after["mortality_brier"].value < risks.before["mortality_brier"].value
    assert decide(risks, 0.99).verdict == "go"


@pytest.mark.parametrize(("worse", "published"), [({"noise": 6.0}, 0.99), ({}, 0.9)])
def test_forecasts_that_discriminate_poorly_or_come_too_seldom_are_no_go(worse, published):
    decision = decide(judge_risks(pairs(**worse)), published)
    assert decision.verdict == "no-go"
    assert sum(not met for _, _, met in decision.criteria) >= 1


@pytest.mark.parametrize(
    ("broken", "not_met"),
    [
        ({"auroc": Estimate(0.69, 0.65, 0.75, 900)}, "AUROC"),
        ({"auroc": Estimate(0.8, 0.59, 0.9, 900)}, "AUROC"),
        ({"mortality_observed_expected": Estimate(0.79, 0.7, 0.9, 900)}, "observed to expected deaths"),
        ({"mortality_observed_expected": Estimate(1.26, 1.2, 1.3, 900)}, "observed to expected deaths"),
        ({"mortality_observed_expected": Estimate(np.nan, np.nan, np.nan, 0)}, "observed to expected deaths"),
        ({"mortality_calibration_slope": Estimate(0.74, 0.7, 0.9, 900)}, "calibration slope"),
        ({"mortality_calibration_slope": Estimate(1.36, 1.2, 1.5, 900)}, "calibration slope"),
        ({"published": 0.949}, "at least 95% of the hours published"),
    ],
)
def test_each_criterion_alone_makes_a_no_go(broken, not_met):
    good = {
        "mortality_observed_expected": Estimate(1, 0.9, 1.1, 900),
        "mortality_calibration_slope": Estimate(1, 0.9, 1.1, 900),
    }
    after = {name: broken.get(name, estimate) for name, estimate in good.items()}
    none = np.empty(0)
    auroc = broken.get("auroc", Estimate(0.7, 0.6, 0.8, 900))
    risks = Calibrations(auroc, {}, after, 30, none, none, none)
    decision = decide(risks, broken.get("published", 0.95))
    assert decision.verdict == "no-go"
    (failed,) = [what for what, _, met in decision.criteria if not met]
    assert failed.startswith(not_met)
    assert decide(replace(risks, n_deaths=29), 1.0).verdict == "too early"


def test_with_too_few_deaths_it_is_too_early_whatever_else_was_found():
    assert decide(judge_risks(pairs(n=60)), 1.0).verdict == "too early"


def test_a_patients_own_outcome_never_recalibrates_its_risk():
    made = pairs(n=200)
    died, risk = made["died"].to_numpy(float), made["mortality_risk"].to_numpy(float)
    patients = np.arange(200) // 2
    turned = died.copy()
    turned[:2] = 1 - turned[:2]
    before, after = recalibrate(died, risk, patients), recalibrate(turned, risk, patients)
    np.testing.assert_array_equal(before[:2], after[:2])
    assert (before != after).any()


def test_one_kind_of_outcome_or_a_handful_of_patients_gives_no_recalibration():
    assert np.isnan(recalibrate(np.zeros(50), np.full(50, 0.1), np.arange(50))).all()
    assert np.isnan(recalibrate(np.array([0.0, 1.0]), np.array([0.1, 0.2]), np.arange(2))).all()


def test_recalibration_finds_the_line_that_was_bent():
    random = np.random.default_rng(1)
    x = random.normal(-1, 1.5, 20_000)
    died = (random.random(20_000) < expit(x)).astype(float)
    mended = recalibrate(died, expit(0.5 * x + 1), np.arange(20_000))
    slope = np.polyfit(x, logit(mended), 1)
    assert slope == pytest.approx([1, 0], abs=0.1)
