"""The verdict on a silent trial: of the risks as published, with what a recalibrated copy would give beside them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from rnn_core.evaluation.trial import RECALIBRATE, Calibrations, decide, judge_risks, recalibrate
from rnn_core.statistics.bootstrap import Estimate


def pairs(n: int = 1500, shift: float = 0.0, noise: float = 0.5, seed: int = 0) -> pd.DataFrame:
    """Forecasts of patients whose risk is known up to `noise`, published with log-odds that are off by `shift`."""
    random = np.random.default_rng(seed)
    truth = random.normal(-2, 1.5, n)
    risk = expit(truth + random.normal(0, noise, n) + shift)
    died = (random.random(n) < expit(truth)).astype(object)
    patients = [f"p{i}" for i in range(n)]
    return pd.DataFrame({"mortality_risk": risk, "died": died, "patient_id": patients, "hours_in_stay": 24.5})


def test_good_forecasts_published_every_hour_are_a_go():
    decision = decide(judge_risks(pairs()), 0.99)
    assert decision.verdict == "go" and all(met for _, _, met in decision.criteria)


def test_risks_that_are_too_high_are_no_go_though_a_recalibrated_copy_would_pass():
    risks = judge_risks(pairs(shift=1.9))
    assert risks.as_published["mortality_observed_expected"].value == pytest.approx(0.39, abs=0.03)
    assert risks.after["mortality_observed_expected"].value == pytest.approx(1, abs=0.1)
    assert risks.after["mortality_brier"].value < risks.as_published["mortality_brier"].value
    decision = decide(risks, 0.99)
    assert (decision.verdict, decision.advice) == ("no-go", RECALIBRATE)
    assert [what for what, _, met in decision.criteria if not met] == [
        "observed to expected deaths as published within 0.8 to 1.25"
    ]


@pytest.mark.parametrize(("worse", "published"), [({"noise": 6.0}, 0.99), ({}, 0.9)])
def test_what_recalibration_cannot_mend_is_not_said_to_be_mended_by_it(worse, published):
    decision = decide(judge_risks(pairs(shift=1.9, **worse)), published)
    assert decision.verdict == "no-go" and decision.advice != RECALIBRATE


def test_each_forecast_counts_the_same_however_long_its_stay_goes_on():
    made = pairs(n=300)
    later = made[made["patient_id"] < "p2"].assign(hours_in_stay=30.5, mortality_risk=0.9)
    rows = pd.concat([made, later])
    found = judge_risks(rows).as_published["mortality_observed_expected"].value
    assert found == pytest.approx(rows["died"].astype(float).sum() / rows["mortality_risk"].sum())


def test_forecasts_without_a_risk_of_death_leave_nothing_to_judge_and_it_is_too_early():
    assert decide(judge_risks(pairs().assign(mortality_risk=np.nan)), 1.0).verdict == "too early"


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
    found = {name: broken.get(name, estimate) for name, estimate in good.items()}
    none = np.empty(0)
    auroc = broken.get("auroc", Estimate(0.7, 0.6, 0.8, 900))
    risks = Calibrations(auroc, found, good, 30, none, none, none)
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
    patients, hours = np.arange(200) // 2, np.full(200, 24.0)
    turned = died.copy()
    turned[:2] = 1 - turned[:2]
    before, after = recalibrate(died, risk, patients, hours), recalibrate(turned, risk, patients, hours)
    np.testing.assert_array_equal(before[:2], after[:2])
    assert (before != after).any()


def test_one_kind_of_outcome_or_a_handful_of_patients_gives_no_recalibration():
    day = np.full(50, 24.0)
    assert np.isnan(recalibrate(np.zeros(50), np.full(50, 0.1), np.arange(50), day)).all()
    assert np.isnan(recalibrate(np.array([0.0, 1.0]), np.array([0.1, 0.2]), np.arange(2), day[:2])).all()


def test_recalibration_learns_at_the_hours_that_recalibrating_a_model_does_and_changes_all_hours():
    made = pairs(n=400, shift=1.5)
    died, risk = made["died"].to_numpy(float), made["mortality_risk"].to_numpy(float)
    hours = np.where(np.arange(400) % 2, 24.3, 30.0)
    recalibrated = recalibrate(died, risk, np.arange(400), hours)
    assert np.isfinite(recalibrated).all() and recalibrated.mean() < 0.6 * risk.mean()
    other = np.where(hours == 30.0, 1 - died, died)
    np.testing.assert_array_equal(recalibrate(other, risk, np.arange(400), hours), recalibrated)
    assert np.isnan(recalibrate(died, risk, np.arange(400), np.full(400, 30.0))).all()


def test_recalibration_finds_the_line_that_was_bent():
    random = np.random.default_rng(1)
    x = random.normal(-1, 1.5, 20_000)
    died = (random.random(20_000) < expit(x)).astype(float)
    mended = recalibrate(died, expit(0.5 * x + 1), np.arange(20_000), np.full(20_000, 48.0))
    slope = np.polyfit(x, logit(mended), 1)
    assert slope == pytest.approx([1, 0], abs=0.1)
