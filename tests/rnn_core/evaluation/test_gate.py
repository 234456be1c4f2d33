"""The gate: a verdict only where there are outcomes enough, and never in favour of a model that is clearly worse."""

import math

import numpy as np
import pytest

from rnn_core.contracts.thresholds import MIN_DEATHS, MIN_ENDS
from rnn_core.evaluation.gate import judge_challenger, judge_first, judge_unit
from rnn_core.statistics.bootstrap import Estimate
from rnn_core.statistics.metric import METRICS, curve_metrics

ENOUGH = MIN_DEATHS


def metrics(auroc=(0.8, 0.7, 0.9), brier=0.1, trivial=0.12) -> dict[str, Estimate]:
    return {
        "mortality_auroc": Estimate(*auroc, 100),
        "mortality_brier": Estimate(brier, brier, brier, 100),
        "baseline_mortality_brier": Estimate(trivial, trivial, trivial, 100),
    }


def differences(
    auroc=(0.0, -0.02, 0.02), auprc=(0.0, -0.03, 0.03), calibration=(0.0, -0.1, 0.1), mae=(0.0, -0.1, 0.1)
) -> dict[str, Estimate]:
    found = {
        "mortality_auroc": auroc,
        "mortality_auprc": auprc,
        "mortality_calibration_slope": calibration,
        "los_mae_days": mae,
    }
    return {name: Estimate(*values, 100) for name, values in found.items()}


def from_curve(**changed) -> dict[str, Estimate]:
    """A model a little better than the population's curve in all that the gate looks at, but for what is `changed`."""
    return {metric.name: Estimate(-0.01, -0.03, 0.01, 100) for metric in curve_metrics()} | {
        name: Estimate(*values, 100) for name, values in changed.items()
    }


def first(found=None, n_deaths=ENOUGH, n_ends=MIN_ENDS, **changed):
    return judge_first(found or metrics(), from_curve(**changed), n_deaths, n_ends)


def challenge(overall, n_deaths, serving, groups=None, **changed):
    return judge_challenger(overall, groups or {}, from_curve(**changed), n_deaths, MIN_ENDS, serving)


def test_a_first_model_that_beats_the_trivial_baseline_becomes_champion():
    assert first().stage == "champion"


def test_with_too_few_deaths_a_first_model_is_provisional_and_says_so():
    verdict = first(n_deaths=ENOUGH - 1)
    assert verdict.stage == "provisional" and str(ENOUGH - 1) in verdict.reason


@pytest.mark.parametrize("bad", [{"auroc": (0.6, 0.49, 0.7)}, {"brier": 0.13}, {"auroc": (np.nan,) * 3}])
def test_a_first_model_no_better_than_trivial_does_not_serve(bad):
    assert first(metrics(**bad)).stage == "candidate"


@pytest.mark.parametrize(
    "name", ["los_crps_days", "discharge_24h_brier", "discharge_48h_brier", "los_beyond_p50", "los_beyond_p90"]
)
def test_a_model_worse_than_the_curve_of_the_population_does_not_serve_and_the_reason_names_where(name):
    worse = {name: (0.05, -0.01, 0.11)}
    verdict = first(**worse)
    assert verdict.stage == "candidate" and METRICS[name].label in verdict.reason and "curve" in verdict.reason
    without_interval = first(**{name: (0.05, math.nan, math.nan)})
    assert without_interval.stage == "candidate" and "nan" not in without_interval.reason
    assert challenge(differences(), ENOUGH, "champion", **worse).stage == "challenger"
    assert challenge(differences(), 3, "provisional", **worse).stage == "challenger"


def test_with_few_ends_only_a_difference_beyond_chance_keeps_a_model_from_serving():
    few = {"n_deaths": 2, "n_ends": MIN_ENDS - 1}
    assert first(**few, los_crps_days=(0.05, -0.01, 0.11)).stage == "provisional"
    assert first(**few, los_crps_days=(0.05, 0.01, 0.11)).stage == "candidate"
    assert first(**few, los_beyond_p50=(0.12, 0.07, 0.16)).stage == "provisional", "a distance is positive by chance"


def test_with_few_deaths_a_risk_worse_than_the_curve_is_left_to_later():
    assert first(n_deaths=ENOUGH - 1, mortality_brier=(0.05, -0.01, 0.11)).stage == "provisional"
    assert first(mortality_brier=(0.05, -0.01, 0.11)).stage == "candidate"


def test_of_survivors_alone_no_risk_is_called_worse_than_the_curve():
    """All resamples of stays without a death prefer the lower risk."""
    worse = {"mortality_brier": (0.02, 0.01, 0.03)}
    assert [first(n_deaths=n, **worse).stage for n in (0, 4, 5)] == ["provisional", "provisional", "candidate"]


def test_quantile_shares_a_little_farther_from_nominal_than_those_of_the_curve_are_accepted():
    assert first(los_beyond_p50=(0.03, 0.01, 0.05)).stage == "champion"


def test_a_challenger_within_the_margins_becomes_champion():
    assert challenge(differences((-0.005, -0.02, 0.01)), ENOUGH, "champion").stage == "champion"


@pytest.mark.parametrize(
    "worse",
    [
        {"auroc": (-0.02, -0.05, 0.01)},
        {"auroc": (-0.005, -0.009, -0.001)},
        {"mae": (0.2, -0.1, 0.5)},
        {"mae": (0.05, 0.01, 0.09)},
        {"auroc": (np.nan,) * 3},
        {"auprc": (-0.03, -0.08, 0.02)},
        {"auprc": (-0.01, -0.02, -0.001)},
        {"calibration": (0.15, -0.05, 0.3)},
        {"calibration": (np.nan,) * 3},
    ],
)
def test_a_challenger_that_is_worse_stays_challenger(worse):
    assert challenge(differences(**worse), ENOUGH, "champion").stage == "challenger"


def test_a_challenger_that_harms_one_group_of_patients_stays_challenger_and_the_reason_names_it():
    harmed = {"age: 80 and over": differences(auroc=(-0.06, -0.1, -0.02)), "sex: f": differences()}
    verdict = challenge(differences(), ENOUGH, "champion", harmed)
    assert (
        verdict.stage == "challenger"
        and "age: 80 and over (AUROC of death)" in verdict.reason
        and "sex" not in verdict.reason
    )


def test_what_may_be_chance_in_a_small_group_harms_nobody():
    noisy = {"age: 80 and over": differences(auroc=(-0.06, -0.2, 0.1)), "sex: f": differences(mae=(0.2, 0.1, 0.3))}
    assert challenge(differences(), ENOUGH, "champion", noisy).stage == "champion"


def test_without_outcomes_enough_a_champion_stays_and_a_provisional_model_gives_way():
    better = differences(mae=(-0.05, -0.2, 0.1))
    assert challenge(better, 3, "champion").stage == "challenger"
    verdict = challenge(better, 3, "provisional")
    assert verdict.stage == "provisional" and METRICS["los_mae_days"].label in verdict.reason


@pytest.mark.parametrize(
    "found",
    [
        {"mae": (2.0, 1.0, 3.0)},
        {"mae": (2.0, 1.0, 3.0), "auroc": (0.1, -0.1, 0.2)},
        {},
        {"mae": (0.05, -0.1, 0.2)},
        dict.fromkeys(("auroc", "auprc", "calibration", "mae"), (np.nan,) * 3),
    ],
)
def test_a_provisional_model_stays_unless_the_newer_one_is_better_in_something_and_clearly_worse_in_nothing(found):
    for n_deaths in (0, 3):
        assert challenge(differences(**found), n_deaths, "provisional").stage == "challenger"


def unit(test=4.0, last=8.0, median=5.0) -> dict[str, float]:
    return {"test_mse": test, "linear_mse": 4.5, "last_value_mse": last, "median_mse": median}


def test_a_unit_forecaster_serves_where_it_beats_the_trivial_ones_and_the_serving_one():
    assert judge_unit(unit(), None).stage == "champion"
    assert judge_unit(unit(), 4.2).stage == "champion"
    assert judge_unit(unit(), 3.9).stage == "challenger"
    assert judge_unit(unit(test=5.1), None).stage == "candidate"
