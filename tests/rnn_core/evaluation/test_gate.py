"""The gate: a verdict only where there are outcomes enough, and never in favour of a model that is clearly worse."""

import numpy as np
import pytest

from rnn_core.contracts.thresholds import MIN_DEATHS
from rnn_core.evaluation.gate import judge_challenger, judge_first, judge_unit
from rnn_core.statistics.bootstrap import Estimate

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


def challenge(overall, n_deaths, serving, groups=None):
    return judge_challenger(overall, groups or {}, n_deaths, serving)


def test_a_first_model_that_beats_the_trivial_baseline_becomes_champion():
    assert judge_first(metrics(), ENOUGH).stage == "champion"


def test_with_too_few_deaths_a_first_model_is_provisional_and_says_so():
    verdict = judge_first(metrics(), ENOUGH - 1)
    assert verdict.stage == "provisional" and str(ENOUGH - 1) in verdict.reason


@pytest.mark.parametrize("bad", [{"auroc": (0.6, 0.49, 0.7)}, {"brier": 0.13}, {"auroc": (np.nan,) * 3}])
def test_a_first_model_no_better_than_trivial_does_not_serve(bad):
    assert judge_first(metrics(**bad), ENOUGH).stage == "candidate"


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
    assert challenge(differences(), 3, "champion").stage == "challenger"
    assert challenge(differences(), 3, "provisional").stage == "provisional"


def test_a_provisional_model_does_not_give_way_to_a_clearly_worse_one():
    assert challenge(differences(mae=(2.0, 1.0, 3.0)), 3, "provisional").stage == "challenger"


def unit(test=4.0, last=8.0, median=5.0) -> dict[str, float]:
    return {"test_mse": test, "linear_mse": 4.5, "last_value_mse": last, "median_mse": median}


def test_a_unit_forecaster_serves_where_it_beats_the_trivial_ones_and_the_serving_one():
    assert judge_unit(unit(), None).stage == "champion"
    assert judge_unit(unit(), 4.2).stage == "champion"
    assert judge_unit(unit(), 3.9).stage == "challenger"
    assert judge_unit(unit(test=5.1), None).stage == "candidate"
