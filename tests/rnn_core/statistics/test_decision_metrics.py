"""Benchmark metrics: against literal re-implementations, scikit-learn and cases worked out by hand."""

from itertools import product

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, precision_score, recall_score
from sklearn.metrics import mean_squared_log_error as sklearn_msle

from rnn_core.statistics.bootstrap import bootstrap_interval
from rnn_core.statistics.decision_metrics import event1, event2, fit_threshold, net_benefit, net_benefit_of_all
from rnn_core.statistics.length_of_stay import bucket_kappa, choose_buckets, los_bucket, mean_squared_log_error


@pytest.fixture
def forecasts():
    rng = np.random.default_rng(0)
    risk = rng.beta(1, 5, 500)
    return (rng.random(500) < risk).astype(float), risk


def test_event1_is_the_smaller_of_sensitivity_and_predictivity(forecasts):
    y, risk = forecasts
    for threshold in (0.05, 0.2, 0.5):
        flagged = risk >= threshold
        expected = min(recall_score(y, flagged), precision_score(y, flagged))
        assert event1(y, risk, np.full(500, threshold)) == pytest.approx(expected)


def test_the_threshold_is_the_best_of_all(forecasts):
    y, risk = forecasts
    risk = risk.round(2)  # with ties
    scores = {t: event1(y, risk, np.full(500, t)) for t in np.unique(risk)}
    assert event1(y, risk, np.full(500, fit_threshold(y, risk))) == max(scores.values())
    assert np.isnan(fit_threshold(np.zeros(3), np.ones(3)))


def hosmer_lemeshow_by_range(y, risk):
    """The definition written out: ten groups of equal size in order of risk."""
    order = np.argsort(risk, kind="stable")
    h, means = 0.0, []
    for group in np.array_split(order, 10):
        n, pi = len(group), risk[group].mean()
        h += (y[group].sum() - n * pi) ** 2 / (n * pi * (1 - pi) + 0.001)
        means.append(pi)
    return h / (means[-1] - means[0])


def test_event2_is_the_hosmer_lemeshow_statistic_over_its_range(forecasts):
    y, risk = forecasts
    assert event2(y, risk) == pytest.approx(hosmer_lemeshow_by_range(y, risk))
    assert event2(y, risk) < event2(y, risk**2)


def test_weights_count_rows_as_often_as_they_say(forecasts):
    y, risk = forecasts
    y, risk = y[:200], risk[:200]
    weights = np.random.default_rng(1).integers(0, 4, 200)
    rows = np.repeat(np.arange(200), weights)
    threshold = np.full(200, 0.2)
    assert event1(y, risk, threshold, weights=weights) == pytest.approx(event1(y[rows], risk[rows], threshold[rows]))
    days, reported = los_bucket(20 * risk), los_bucket(18 * risk[::-1] + 1)
    for metric in (bucket_kappa, mean_squared_log_error):
        assert metric(days, reported, weights=weights) == pytest.approx(metric(days[rows], reported[rows]))
    # A row that stands on the border of two deciles goes whole to one of them.
    assert event2(y, risk, weights=weights) == pytest.approx(event2(y[rows], risk[rows]), rel=0.1)


def test_kappa_and_log_error_are_those_of_scikit_learn():
    rng = np.random.default_rng(2)
    days = rng.exponential(6, 400)
    reported = days * rng.uniform(0.5, 1.6, 400)
    kappa = cohen_kappa_score(los_bucket(days), los_bucket(reported), weights="linear")
    assert bucket_kappa(los_bucket(days), los_bucket(reported)) == pytest.approx(kappa)
    assert mean_squared_log_error(days, reported) == pytest.approx(sklearn_msle(days, reported))


def test_buckets_are_days_up_to_a_week_and_a_second_week():
    days = [0, 0.99, 1, 6.5, 7.99, 8, 13.9, 14, 40]
    assert los_bucket(days).tolist() == [0, 0, 1, 6, 7, 8, 8, 9, 9]
    assert np.isnan(los_bucket([np.nan, 1.0])).tolist() == [True, False]


def test_the_named_buckets_have_the_greatest_expected_kappa():
    """Against every other naming of a few stays, and against the median on many."""
    rng = np.random.default_rng(5)

    def expected_kappa(probability, named):
        rows = np.arange(10)
        observed = (probability * np.abs(rows - named[:, None])).sum()
        chance = (probability.mean(axis=0)[:, None] * np.abs(rows[:, None] - named)).sum()
        return 1 - observed / chance

    few = rng.dirichlet(np.full(10, 0.3), 3)
    best = max(expected_kappa(few, np.array(named)) for named in product(range(10), repeat=3))
    assert expected_kappa(few, choose_buckets(few)) == pytest.approx(best)
    many = rng.dirichlet(np.linspace(0.2, 2, 10), 2000)
    actual = np.array([rng.choice(10, p=p) for p in many])
    median = (np.cumsum(many, axis=1) < 0.5).sum(axis=1)
    assert bucket_kappa(actual, choose_buckets(many)) > bucket_kappa(actual, median)


def test_net_benefit_weighs_false_alarms_by_the_odds_of_the_threshold():
    y, risk = np.array([1, 0, 0, 1]), np.array([0.9, 0.8, 0.1, 0.3])
    np.testing.assert_allclose(net_benefit(y, risk, [0.5]), [1 / 4 - 1 / 4])
    np.testing.assert_allclose(net_benefit(y, risk, [0.2]), [2 / 4 - 0.25 * 1 / 4])
    np.testing.assert_allclose(net_benefit_of_all(y, [0.2]), [2 / 4 - 0.25 * 2 / 4])


def test_what_is_not_defined_is_nan_and_never_an_error():
    none, zeros = np.empty(0), np.zeros(20)
    assert np.isnan(event2(none, none)) and np.isnan(bucket_kappa(none, none))
    assert np.isnan(event1(zeros, zeros + 0.1, zeros)) and np.isnan(event2(zeros, zeros + 0.1))
    assert np.isnan(bucket_kappa(zeros, zeros)) and np.isnan(mean_squared_log_error(none, none))


def test_intervals_come_from_the_same_definitions(forecasts):
    y, risk = forecasts
    estimate = bootstrap_interval(event1, [y, risk, np.full(500, 0.2)], n=100)
    assert estimate.low < estimate.value < estimate.high
    assert bootstrap_interval(event2, [y, risk], n=100).value == pytest.approx(hosmer_lemeshow_by_range(y, risk))
