"""The verdict on a silent trial: of the risks as published, with what a recalibrated copy would give beside them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from scipy.stats import gamma

from rnn_core.evaluation import trial
from rnn_core.evaluation.trial import (
    RECALIBRATE,
    Calibrations,
    Decision,
    Lengths,
    decide,
    judge_lengths,
    judge_risks,
    recalibrate,
)
from rnn_core.statistics.bootstrap import Estimate


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Intervals are a little rougher with fewer of them."""
    monkeypatch.setattr(trial, "_RESAMPLES", 100)


def pairs(
    n: int = 1500,
    shift: float = 0.0,
    noise: float = 0.5,
    seed: int = 0,
    hurried: float = 0.0,
    known_after: float = np.inf,
    dying: float = 1.0,
) -> pd.DataFrame:
    """Forecasts of patients whose risk is known up to `noise`, published with log-odds that are off by `shift`.

    Half of the patients stay for about half a day more, half for about three; the forecasts know who, and those of the dying
    take `dying` times as long. hurried: by what part the forecast stays are too short. known_after: hours over which the
    forecasts were made until outcomes were read; by default all ends are known.
    """
    random = np.random.default_rng(seed)
    truth = random.normal(-2, 1.5, n)
    risk = expit(truth + random.normal(0, noise, n) + shift)
    died = random.random(n) < expit(truth)
    patients = [f"p{i}" for i in range(n)]
    length = gamma(4, scale=np.where(np.arange(n) % 2, 3, 18))
    even = (random.permutation(n) + 0.5) / n
    remaining = length.ppf(even) * np.where(died, dying, 1)
    age = random.uniform(0, known_after, n) if np.isfinite(known_after) else np.full(n, 1e6)
    is_open = remaining > age
    published = {f"remaining_los_p{q}_hours": (1 - hurried) * length.ppf(q / 100) for q in (10, 50, 90)}
    published |= {f"discharge_{h}h_prob": (1 - risk) * length.cdf(h / (1 - hurried)) for h in (24, 48, 72)}
    known = {
        "died": pd.Series(died.astype(object)).where(~is_open, None),
        "remaining_hours": np.where(is_open, np.nan, remaining),
        "followed_hours": np.where(is_open, age, np.nan),
        "age_hours": age,
        "end_precision_hours": 0.0,
    }
    named = {"mortality_risk": risk, "patient_id": patients, "stay_id": patients, "hours_in_stay": 24.5}
    return pd.DataFrame(named | published | known)


def decided(made: pd.DataFrame, published: float = 0.99) -> Decision:
    return decide(judge_risks(made), judge_lengths(made), published)


def not_met(decision: Decision) -> list[str]:
    return [what for what, _, met in decision.criteria if not met]


def test_good_forecasts_published_every_hour_are_a_go():
    decision = decided(pairs())
    assert decision.verdict == "go" and all(met for _, _, met in decision.criteria)


def test_risks_that_are_too_high_are_no_go_though_a_recalibrated_copy_would_pass():
    made = pairs(shift=1.9)
    made["discharge_24h_prob"], made["discharge_48h_prob"] = (
        pairs()[["discharge_24h_prob", "discharge_48h_prob"]].to_numpy().T
    )
    risks = judge_risks(made)
    assert risks.as_published["mortality_observed_expected"].value == pytest.approx(0.39, abs=0.03)
    assert risks.after["mortality_observed_expected"].value == pytest.approx(1, abs=0.1)
    assert risks.after["mortality_brier"].value < risks.as_published["mortality_brier"].value
    decision = decided(made)
    assert (decision.verdict, decision.advice) == ("no-go", RECALIBRATE)
    assert not_met(decision) == ["observed to expected deaths as published within 0.8 to 1.25"]


@pytest.mark.parametrize(("worse", "published"), [({"noise": 6.0}, 0.99), ({}, 0.9), ({"hurried": 0.4}, 0.99)])
def test_what_recalibration_cannot_mend_is_not_said_to_be_mended_by_it(worse, published):
    decision = decided(pairs(shift=1.9, **worse), published)
    assert decision.verdict == "no-go" and decision.advice != RECALIBRATE


def test_each_forecast_counts_the_same_however_long_its_stay_goes_on():
    made = pairs(n=300)
    later = made[made["patient_id"] < "p2"].assign(hours_in_stay=30.5, mortality_risk=0.9)
    rows = pd.concat([made, later])
    found = judge_risks(rows).as_published["mortality_observed_expected"].value
    assert found == pytest.approx(rows["died"].astype(float).sum() / rows["mortality_risk"].sum())


def test_forecasts_without_a_risk_of_death_leave_nothing_to_judge_and_it_is_too_early():
    assert decided(pairs().assign(mortality_risk=np.nan), 1.0).verdict == "too early"


@pytest.mark.parametrize(("worse", "published"), [({"noise": 6.0}, 0.99), ({}, 0.9)])
def test_forecasts_that_discriminate_poorly_or_come_too_seldom_are_no_go(worse, published):
    decision = decided(pairs(**worse), published)
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
        ({"los_quantile_score_days": Estimate(0.05, 0.01, 0.09, 900)}, "quantile score of the remaining stay"),
        ({"discharge_24h_brier": Estimate(0.01, 0.001, 0.02, 900)}, "Brier score of a discharge within 24 h"),
        ({"discharge_48h_brier": Estimate(0.01, 0.001, 0.02, 900)}, "Brier score of a discharge within 48 h"),
        ({"los_beyond_p50": Estimate(0.6, 0.55, 0.65, 900)}, "stays beyond the 50th percentile"),
        ({"los_beyond_p50": Estimate(0.4, 0.35, 0.45, 900)}, "stays beyond the 50th percentile"),
        ({"los_beyond_p90": Estimate(0.2, 0.14, 0.26, 900)}, "stays beyond the 90th percentile"),
        ({"published": 0.949}, "at least 95% of the hours published"),
    ],
)
def test_each_criterion_alone_makes_a_no_go(broken, not_met):
    risks, lengths = good(broken)
    decision = decide(risks, lengths, broken.get("published", 0.95))
    assert decision.verdict == "no-go"
    (failed,) = [what for what, _, met in decision.criteria if not met]
    assert failed.startswith(not_met)
    assert decide(replace(risks, n_deaths=29), lengths, 1.0).verdict == "too early"
    assert decide(risks, replace(lengths, n_ends=99), 1.0).verdict == "too early"


def good(broken: dict[str, Estimate]) -> tuple[Calibrations, Lengths]:
    """What just meets every criterion, with the estimates of `broken` in place of its own."""
    fine = {
        "mortality_observed_expected": Estimate(1, 0.9, 1.1, 900),
        "mortality_calibration_slope": Estimate(1, 0.9, 1.1, 900),
    }
    curve = dict.fromkeys(
        ("los_quantile_score_days", "discharge_24h_brier", "discharge_48h_brier"), Estimate(0, -0.1, 0.1, 900)
    )
    shares = {"los_beyond_p50": Estimate(0.54, 0.5, 0.58, 900), "los_beyond_p90": Estimate(0.071, 0.05, 0.1, 900)}
    found, curve, shares = ({name: broken.get(name, e) for name, e in part.items()} for part in (fine, curve, shares))
    none = np.empty(0)
    auroc = broken.get("auroc", Estimate(0.7, 0.6, 0.8, 900))
    return Calibrations(auroc, found, fine, 30, none, none, none), Lengths(curve, shares, 100)


@pytest.mark.parametrize(
    "unclear",
    [
        {"los_quantile_score_days": Estimate(0.05, -0.01, 0.09, 900)},
        {"discharge_24h_brier": Estimate(0.01, -0.001, 0.02, 900)},
        {"los_beyond_p50": Estimate(0.6, 0.53, 0.67, 900)},
        {"los_beyond_p90": Estimate(0.05, 0.02, 0.08, 900)},
        {"los_beyond_p90": Estimate(np.nan, np.nan, np.nan, 0)},
    ],
)
def test_a_length_of_stay_that_chance_may_still_decide_is_too_early_unless_something_else_is_clear(unclear):
    decision = decide(*good(unclear), 0.95)
    assert (decision.verdict, [met for *_, met in decision.criteria if met is not True]) == ("too early", [None])
    assert decide(*good(unclear), 0.94).verdict == "no-go"
    assert decide(*good({}), 0.95).verdict == "go"


@pytest.mark.parametrize(("hurried", "verdict"), [(0.0, "go"), (0.4, "no-go")])
def test_the_verdict_is_the_same_while_long_stays_are_open(hurried, verdict):
    """At the end of six days of forecasts, or long after it: at the end, those that have ended are the short ones."""
    world = {"hurried": hurried}
    then, later = pairs(known_after=150, **world), pairs(**world)
    assert then["died"].isna().mean() > 0.2
    ended = then[then["died"].notna()]
    shares = [(part["remaining_hours"] > part["remaining_los_p90_hours"]).mean() for part in (ended, later)]
    assert shares[0] < 0.8 * shares[1], "without the open ones stays look shorter than they are"
    assert decided(then).verdict == decided(later).verdict == verdict


@pytest.mark.parametrize(("dying", "known_after", "biased"), [(4.0, 1000, 0.93), (0.2, 200, 1.08)])
def test_the_risk_is_judged_where_deaths_had_as_much_time_as_survivals(dying, known_after, biased):
    """Deaths that come late, or early: among all that has ended they are too few, or too many."""
    made = pairs(n=6000, dying=dying, known_after=known_after)
    truth = pairs(n=6000)["died"].sum() / made["mortality_risk"].sum()
    ended = made[made["died"].notna()]
    naive = ended["died"].sum() / ended["mortality_risk"].sum() / truth
    assert naive < biased if dying > 1 else naive > biased
    found = judge_risks(made).as_published["mortality_observed_expected"]
    assert found.value / truth == pytest.approx(1, abs=0.05)


def test_with_too_few_deaths_it_is_too_early_whatever_else_was_found():
    assert decided(pairs(n=60), 1.0).verdict == "too early"


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
