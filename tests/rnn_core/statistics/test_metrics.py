import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from rnn_core.contracts.config import HORIZON_EDGES
from rnn_core.contracts.errors import ContractError
from rnn_core.statistics.bootstrap import bootstrap_interval, mean
from rnn_core.statistics.calibration_metrics import brier, calibration_intercept, calibration_slope, observed_expected
from rnn_core.statistics.discrimination import auprc, auroc, concordance
from rnn_core.statistics.distribution import Distribution
from rnn_core.statistics.length_of_stay import (
    crps_hours,
    interval_coverage,
    mean_absolute_error_days,
    median_absolute_error_days,
    quantile_score_days,
    share_beyond,
)
from rnn_core.statistics.outcomes import Outcomes
from rnn_core.statistics.population import fit_population_curve
from rnn_core.statistics.scores import score_columns, score_forecasts

EDGES = np.array(HORIZON_EDGES, dtype=float)
RISK_METRICS = (auroc, auprc, brier, observed_expected, calibration_slope, calibration_intercept)


def risks(n: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated risks with ties, and what happened."""
    rng = np.random.default_rng(seed)
    risk = np.round(rng.beta(1, 4, n), 2)
    return (rng.random(n) < risk).astype(float), risk


def forecasts(n: int = 600, seed: int = 0) -> tuple[Distribution, Outcomes]:
    """Forecasts and outcomes drawn from them; six forecasts for each patient."""
    rng = np.random.default_rng(seed)
    masses = rng.dirichlet(np.full(2 * len(EDGES), 0.3), n).reshape(n, len(EDGES), 2)
    masses[:, -1] = 0
    masses /= masses.sum(axis=(1, 2), keepdims=True)
    cell = np.array([rng.choice(2 * len(EDGES), p=row.ravel()) for row in masses])
    width = np.append(np.diff(EDGES), 0)
    remaining = EDGES[cell // 2] + rng.random(n) * width[cell // 2]
    outcomes = Outcomes(rng.uniform(0, 160, n), (cell % 2).astype(float), remaining, groups=np.arange(n) // 6)
    return Distribution(masses, EDGES), outcomes


# ---- single metrics


@pytest.mark.parametrize(
    ("metric", "reference"),
    [(auroc, roc_auc_score), (auprc, average_precision_score), (brier, brier_score_loss)],
    ids=["auroc", "auprc", "brier"],
)
def test_the_metrics_of_a_risk_agree_with_scikit_learn(metric, reference):
    y, risk = risks()
    weights = np.random.default_rng(1).integers(0, 4, len(y))
    assert metric(y, risk) == pytest.approx(reference(y, risk))
    assert metric(y, risk, weights=weights) == pytest.approx(reference(y, risk, sample_weight=weights))


def test_weights_count_rows_that_many_times():
    rng = np.random.default_rng(2)
    y, risk = risks(80)
    hours, ended = rng.integers(0, 40, 80) * 6.0, rng.random(80) < 0.7
    low, high = hours * 0.7, hours * 1.1
    weights = rng.integers(0, 4, 80)
    cases = [(metric, (y, risk)) for metric in RISK_METRICS] + [
        (mean, (risk,)),
        (mean_absolute_error_days, (hours, risk * 100)),
        (median_absolute_error_days, (hours, risk * 100)),
        (interval_coverage, (hours, np.full(80, 24.0), low, high)),
        (concordance, (hours, ended, risk)),
    ]
    for metric, arrays in cases:
        repeated = metric(*(np.repeat(a, weights) for a in arrays))
        assert metric(*arrays, weights=weights) == pytest.approx(repeated), metric.__name__


def test_calibration_agrees_with_an_unpenalised_logistic_regression():
    y, risk = risks()
    risk = np.clip(risk, 0.01, 0.99)
    log_odds = np.log(risk / (1 - risk))[:, None]
    expected = LogisticRegression(C=np.inf, tol=1e-10).fit(log_odds, y).coef_[0, 0]
    assert calibration_slope(y, risk) == pytest.approx(expected, rel=1e-4)


def test_overconfident_risks_have_a_slope_below_one_and_low_risks_an_intercept_above_zero():
    rng = np.random.default_rng(3)
    log_odds = rng.normal(-1, 1, 40_000)
    y = (rng.random(40_000) < 1 / (1 + np.exp(-log_odds))).astype(float)
    assert calibration_slope(y, 1 / (1 + np.exp(-2 * log_odds))) == pytest.approx(0.5, abs=0.03)
    assert calibration_intercept(y, 1 / (1 + np.exp(-(log_odds - 0.7)))) == pytest.approx(0.7, abs=0.05)
    assert observed_expected(y, np.full(40_000, y.mean() / 2)) == pytest.approx(2.0)


def test_a_fitted_intercept_makes_expected_events_equal_observed_ones():
    y, risk = risks()
    risk = np.clip(risk * 0.6, 0.01, 0.99)
    shifted = 1 / (1 + np.exp(-(np.log(risk / (1 - risk)) + calibration_intercept(y, risk))))
    assert shifted.sum() == pytest.approx(y.sum())


@pytest.mark.parametrize(
    ("y", "risk"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4]),
        ([0, 0, 1, 1], [0.4, 0.3, 0.2, 0.1]),
        ([0, 0, 1, 1], [0.1, 0.2, 0.2, 0.4]),
        ([0, 0, 1, 1], [0.4, 0.2, 0.2, 0.1]),
        ([0, 1, 0, 1], [0.2, 0.2, 0.2, 0.2]),
    ],
    ids=["separated", "reversed", "touching", "touching_reversed", "constant"],
)
def test_the_slope_is_not_defined_where_a_threshold_separates_the_classes(y, risk):
    assert np.isnan(calibration_slope(y, risk))
    assert np.isfinite(calibration_intercept(y, risk))


def test_rows_of_weight_zero_do_not_hide_a_separation():
    y, risk, weights = [0, 0, 1, 1, 0, 1], [0.1, 0.2, 0.3, 0.4, 0.5, 0.05], [1, 2, 1, 1, 0, 0]
    assert np.isfinite(calibration_slope(y, risk))
    assert np.isnan(calibration_slope(y, risk, weights=weights))


def test_risks_of_zero_and_one_have_a_calibration():
    y, risk = risks()
    risk[:3], risk[3:6], y[:6] = 0.0, 1.0, [0, 0, 1, 1, 1, 0]
    assert 0 < calibration_slope(y, risk) < 1
    assert np.isfinite(calibration_intercept(y, risk))


def pairwise_concordance(hours, ended, predicted, weights):
    concordant = comparable = 0.0
    for i in np.flatnonzero(ended):
        later = (hours > hours[i]) | ((hours == hours[i]) & ~ended)
        right = (predicted > predicted[i]) + 0.5 * (predicted == predicted[i])
        comparable += weights[i] * weights[later].sum()
        concordant += weights[i] * (weights * right)[later].sum()
    return concordant / comparable


@pytest.mark.parametrize("seed", range(10))
def test_concordance_agrees_with_its_definition_pair_by_pair(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(5, 120))
    hours, predicted = rng.integers(0, 25, n).astype(float), rng.integers(0, 12, n).astype(float)
    ended, weights = rng.random(n) < 0.6, rng.integers(0, 4, n).astype(float)
    ended[0], hours[0], weights[0] = True, -1.0, 1.0
    assert concordance(hours, ended, predicted, weights=weights) == pytest.approx(
        pairwise_concordance(hours, ended, predicted, weights)
    )


def test_concordance_of_a_yes_or_no_outcome_is_the_area_under_the_curve():
    """Events end at 1 and the others are followed for longer."""
    y, risk = risks()
    assert concordance(2 - y, y, -risk) == pytest.approx(auroc(y, risk))


def test_the_order_of_lengths_is_perfect_reversed_or_unknown():
    hours, ended = np.arange(1.0, 50), np.ones(49)
    assert concordance(hours, ended, hours**2) == 1
    assert concordance(hours, ended, -hours) == 0
    assert concordance(hours, ended, np.zeros(49)) == 0.5
    assert np.isnan(concordance(hours, np.zeros(49), hours))


def test_errors_are_in_days():
    remaining, predicted = [24.0, 48.0, 240.0, 24.0], [48.0, 48.0, 0.0, 0.0]
    assert mean_absolute_error_days(remaining, predicted) == pytest.approx((1 + 0 + 10 + 1) / 4)
    assert median_absolute_error_days(remaining, predicted) == pytest.approx(1.0)


@pytest.mark.parametrize("n", [1, 2, 7, 10])
def test_the_median_error_is_the_median_for_odd_and_even_numbers(n):
    remaining = np.random.default_rng(n).exponential(100, n)
    assert median_absolute_error_days(remaining, np.zeros(n)) == pytest.approx(np.median(remaining) / 24)


def test_an_end_known_to_the_day_counts_by_the_share_of_the_day_that_is_covered():
    """Ends in [36, 60], [36, 60], exactly 48, and [0, 16] cut at 0."""
    remaining, precision = np.array([48.0, 48.0, 48.0, 4.0]), np.array([24.0, 24.0, 0.0, 24.0])
    low, high = np.array([0.0, 42.0, 48.0, 8.0]), np.array([100.0, 48.0, 50.0, 10.0])
    covered = [
        interval_coverage([r], [p], [a], [b]) for r, a, b, p in zip(remaining, low, high, precision, strict=True)
    ]
    assert covered == pytest.approx([1.0, 0.25, 1.0, 0.125])
    assert interval_coverage(remaining, precision, low, high) == pytest.approx(np.mean(covered))


def test_the_crps_agrees_with_numerical_integration():
    forecast, outcomes = forecasts(20)
    outcomes.remaining_hours[0] = 3000.0
    hours = (np.arange(400_000) + 0.5) * EDGES[-1] / 400_000
    for i in range(20):
        at_edges = np.concatenate([[0], forecast.masses[i].sum(axis=1).cumsum()[:-1]])
        cdf = np.interp(hours, EDGES, at_edges)
        expected = np.mean((cdf - (hours >= outcomes.remaining_hours[i])) ** 2) * EDGES[-1]
        got = crps_hours(forecast.take(np.array([i])), outcomes.remaining_hours[i : i + 1])
        assert got == pytest.approx([expected], rel=1e-3)


def test_the_crps_is_lowest_for_the_distribution_that_the_ends_come_from():
    rng = np.random.default_rng(4)
    ends, wider = rng.gamma(2, 40, 5000), rng.gamma(2, 40, 5000) * rng.choice([0.3, 2.0], 5000)
    alive = np.zeros(5000, dtype=int)
    score = [
        crps_hours(fit_population_curve(sample, alive).forecast_after(np.zeros(5000)), ends).mean()
        for sample in (ends, ends * 1.5, ends * 0.6, wider)
    ]
    assert np.argmin(score) == 0
    assert np.isnan(crps_hours(Distribution(np.full((1, len(EDGES), 2), 0.5 / len(EDGES)), EDGES), [np.nan])).all()


def test_up_to_where_stays_are_known_one_that_ends_later_scores_like_an_open_one():
    forecast, outcomes = forecasts(40)
    remaining, known = outcomes.remaining_hours, np.linspace(1, 200, 40)
    quantiles = [forecast.quantile(q) for q in (0.1, 0.5, 0.9)]
    cut = np.minimum(remaining, known)
    np.testing.assert_allclose(crps_hours(forecast, remaining, known), crps_hours(forecast, cut, known))
    assert quantile_score_days(remaining, known, *quantiles) == quantile_score_days(cut, known, *quantiles)
    for i in (3, 17, 39):
        hours = (np.arange(2000) + 0.5) * known[i] / 2000
        cdf = 1 - forecast.take(np.full(2000, i)).survival(hours)
        expected = np.mean((cdf - (hours >= remaining[i])) ** 2) * known[i]
        assert crps_hours(forecast, cut, known)[i] == pytest.approx(expected, rel=1e-2)


def test_the_share_beyond_a_quantile_is_right_while_long_stays_are_open_and_that_of_the_ended_is_not():
    rng = np.random.default_rng(5)
    stay, age = rng.exponential(100, 20_000), rng.uniform(0, 300, 20_000)
    ended = stay <= age
    exact = np.zeros(20_000)
    for share in (0.5, 0.1):
        quantile = np.full(20_000, -100 * np.log(share))
        assert share_beyond(np.minimum(stay, age), exact, age, quantile) == pytest.approx(share, abs=0.015)
        assert (stay > quantile)[ended].mean() < 0.75 * share


def test_whether_an_outcome_counts_depends_on_when_it_was_forecast_and_not_on_the_end():
    """Forecasts made 30 and 10 hours ago, of stays that ended within 5 hours and of open ones."""
    nan = np.nan
    outcomes = Outcomes(
        elapsed_hours=np.full(4, 150.0),
        death=np.array([1, 1, nan, nan]),
        remaining_hours=np.array([5, 5, nan, nan]),
        followed_hours=np.array([nan, nan, 30, 10]),
        age_hours=np.array([30.0, 10, 30, 10]),
    )
    columns = outcomes.columns()
    assert columns["discharged_24h"].tolist() == pytest.approx([0, nan, 0, nan], nan_ok=True)
    assert columns["prolonged"].tolist() == pytest.approx([0, nan, 1, nan], nan_ok=True)
    assert columns["death"].tolist() == pytest.approx([1, nan, nan, nan], nan_ok=True)
    assert columns["remaining_hours"].tolist() == pytest.approx([5, nan, nan, nan], nan_ok=True)
    assert columns["known_hours"].tolist() == [30, 10, 30, 10]


# ---- not defined


@pytest.mark.parametrize("metric", RISK_METRICS, ids=lambda metric: metric.__name__)
def test_no_rows_give_nan_with_n_zero(metric):
    assert np.isnan(metric([], []))
    estimate = bootstrap_interval(metric, [np.array([np.nan]), np.array([0.3])])
    assert estimate.n == 0
    assert np.isnan([estimate.value, estimate.low, estimate.high]).all()


@pytest.mark.parametrize(
    "metric", [auroc, auprc, calibration_slope, calibration_intercept], ids=lambda metric: metric.__name__
)
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_one_class_only_gives_nan_with_its_n(metric, y):
    estimate = bootstrap_interval(metric, [np.full(5, y), np.linspace(0.1, 0.5, 5)], n=20)
    assert estimate.n == 5
    assert np.isnan([estimate.value, estimate.low, estimate.high]).all()


def test_other_metrics_of_no_rows_are_nan():
    for metric, n_arrays in ((concordance, 3), (median_absolute_error_days, 2), (interval_coverage, 4), (mean, 1)):
        assert np.isnan(metric(*[[]] * n_arrays)), metric.__name__


# ---- whole sets of forecasts


def test_an_open_stay_is_prolonged_once_it_has_passed_the_limit_and_unknown_before():
    nan = np.nan
    outcomes = Outcomes(
        elapsed_hours=np.array([100.0, 100.0, 100.0, 100.0, 169.0, 100.0]),
        death=np.array([0, 0, nan, nan, 0, nan]),
        remaining_hours=np.array([68.0, 69.0, nan, nan, 10.0, nan]),
        followed_hours=np.array([nan, nan, 69.0, 20.0, nan, nan]),
    )
    assert outcomes.prolonged().tolist() == pytest.approx([0, 1, 1, nan, nan, nan], nan_ok=True)


def test_a_discharge_is_known_for_those_who_left_and_those_who_stayed_on():
    nan = np.nan
    outcomes = Outcomes(
        elapsed_hours=np.full(7, 5.0),
        death=np.array([0, 1, 0, nan, nan, nan, 0]),
        remaining_hours=np.array([24.0, 10.0, 30.0, 20.0, nan, nan, nan]),
        followed_hours=np.array([nan, nan, nan, nan, 25.0, 23.0, nan]),
    )
    assert outcomes.discharged_within(24).tolist() == pytest.approx([1, 0, 0, nan, 0, nan, nan], nan_ok=True)


def test_an_end_known_to_the_day_is_not_known_where_the_day_holds_the_limit():
    """Days of 24 hours around the end: [0, 24], [6, 30], [24, 48], [6, 30] of a dead, and 24 exactly."""
    outcomes = Outcomes(
        elapsed_hours=np.full(5, 144.0),
        death=np.array([0.0, 0, 0, 1, 0]),
        remaining_hours=np.array([12.0, 18.0, 36.0, 18.0, 24.0]),
        precision_hours=np.array([24.0, 24.0, 24.0, 24.0, 0.0]),
    )
    nan = np.nan
    assert outcomes.discharged_within(24).tolist() == pytest.approx([1, nan, 0, nan, 1], nan_ok=True)
    assert outcomes.prolonged().tolist() == pytest.approx([0, nan, 1, nan, 0], nan_ok=True)
    assert outcomes.discharged_within(48).tolist() == [1, 1, 1, 0, 1]


def test_a_coarse_end_lies_after_the_prediction_at_which_the_stay_was_open():
    """The end lies in [-6, 18] hours after the limit, but not before the prediction, made at the limit."""
    outcomes = Outcomes(np.array([168.0]), np.zeros(1), np.array([6.0]), precision_hours=np.array([24.0]))
    assert outcomes.prolonged().tolist() == [1]


def test_scores_of_true_forecasts_beat_the_baseline_and_are_calibrated():
    forecast, outcomes = forecasts(1800)
    scores = score_forecasts(forecast, outcomes, n=100)
    names = {name for name in scores if not name.startswith("baseline_")}
    assert {f"baseline_{name}" for name in names} == set(scores) - names
    assert scores["mortality_auroc"].low > 0.5
    assert scores["baseline_mortality_auroc"].value == 0.5
    for name in ("mortality_brier", "discharge_24h_brier", "los_mae_days", "los_crps_days"):
        assert scores[name].value < scores[f"baseline_{name}"].value, name
    for name, truth in (
        ("mortality_calibration_slope", 1),
        ("mortality_calibration_intercept", 0),
        ("mortality_observed_expected", 1),
        ("los_interval_coverage", 0.8),
    ):
        assert scores[name].low - 0.02 < truth < scores[name].high + 0.02, name
    json.dumps({name: estimate.to_json() for name, estimate in scores.items()}, allow_nan=False)


def test_scores_are_those_of_the_single_metrics():
    forecast, outcomes = forecasts(300)
    scores = score_forecasts(forecast, outcomes, n=0)
    median = forecast.quantile(0.5)
    late = forecast.survival(168 - outcomes.elapsed_hours)
    assert scores["mortality_auroc"].value == pytest.approx(auroc(outcomes.death, forecast.mortality_risk()))
    assert scores["prolonged_brier"].value == pytest.approx(brier(outcomes.prolonged(), late))
    assert scores["los_mae_days"].value == pytest.approx(np.abs(median - outcomes.remaining_hours).mean() / 24)
    assert scores["los_concordance"].value == pytest.approx(concordance(outcomes.remaining_hours, np.ones(300), median))
    assert scores["los_interval_coverage"].n == 300


def test_the_default_baseline_is_the_prevalence_of_the_same_rows():
    forecast, outcomes = forecasts(300)
    scores = score_forecasts(forecast, outcomes, n=0)
    prevalence = outcomes.death.mean()
    assert scores["baseline_mortality_brier"].value == pytest.approx(prevalence * (1 - prevalence))
    assert scores["baseline_mortality_auprc"].value == pytest.approx(prevalence)
    best = np.abs(np.median(outcomes.remaining_hours) - outcomes.remaining_hours).mean() / 24
    assert scores["baseline_los_mae_days"].value == pytest.approx(best, rel=0.05)


def test_a_given_baseline_is_scored_as_it_is():
    forecast, outcomes = forecasts(120)
    constant = forecast.masses.mean(axis=0)
    scores = score_forecasts(forecast, outcomes, Distribution(np.repeat(constant[None], 120, axis=0), EDGES), n=20)
    assert scores["baseline_mortality_brier"].value == pytest.approx(
        brier(outcomes.death, np.full(120, constant[:, 1].sum()))
    )
    assert scores["mortality_brier"].value == pytest.approx(brier(outcomes.death, forecast.mortality_risk()))


def test_stays_without_any_outcome_score_as_not_defined():
    forecast, outcomes = forecasts(30)
    unknown = Outcomes(outcomes.elapsed_hours, np.full(30, np.nan), np.full(30, np.nan))
    scores = score_forecasts(forecast, unknown, n=5)
    width = scores.pop("los_interval_width_days"), scores.pop("baseline_los_interval_width_days")
    assert all(estimate.n == 30 for estimate in width)
    assert all(estimate.n == 0 and np.isnan(estimate.value) for estimate in scores.values())
    none = score_forecasts(forecast.take(np.arange(0)), Outcomes(*[np.empty(0)] * 3), n=5)
    assert all(estimate.n == 0 for estimate in none.values())


def test_open_stays_count_in_the_concordance_only_up_to_where_they_were_followed():
    forecast, outcomes = forecasts(200)
    cut = np.minimum(outcomes.remaining_hours, 50.0)
    still_open = outcomes.remaining_hours > 50
    censored = Outcomes(
        outcomes.elapsed_hours,
        np.where(still_open, np.nan, outcomes.death),
        np.where(still_open, np.nan, outcomes.remaining_hours),
        followed_hours=np.where(still_open, 50.0, np.nan),
    )
    scores = score_forecasts(forecast, censored, n=0)
    expected = concordance(cut, ~still_open, forecast.quantile(0.5))
    assert scores["los_concordance"].value == pytest.approx(expected)
    assert scores["los_concordance"].n == 200
    assert scores["mortality_brier"].n == (~still_open).sum()


def test_abstained_forecasts_are_not_scored():
    forecast, outcomes = forecasts(100)
    columns = forecast.numbers(outcomes.elapsed_hours)
    columns.iloc[:40] = np.nan
    scores = score_columns(columns, outcomes, n=0)
    assert scores["mortality_brier"].n == 60
    assert scores["los_mae_days"].n == 60


def test_forecasts_without_their_outcomes_are_refused():
    forecast, outcomes = forecasts(20)
    with pytest.raises(ContractError, match="20"):
        score_columns(forecast.take(np.arange(10)).numbers(outcomes.elapsed_hours[:10]), outcomes)
