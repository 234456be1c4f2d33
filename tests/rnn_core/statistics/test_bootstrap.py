import json

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from rnn_core.statistics.bootstrap import Estimate, bootstrap_interval, mean, paired_difference
from rnn_core.statistics.calibration_metrics import brier, calibration_intercept, calibration_slope, observed_expected
from rnn_core.statistics.discrimination import auprc, auroc, concordance


def risks(n: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated risks with ties, and what happened."""
    rng = np.random.default_rng(seed)
    risk = np.round(rng.beta(1, 4, n), 2)
    return (rng.random(n) < risk).astype(float), risk


def test_an_estimate_is_written_with_null_where_it_is_not_defined():
    assert json.loads(json.dumps(Estimate(0.5, np.nan, np.nan, 3).to_json())) == {
        "value": 0.5,
        "low": None,
        "high": None,
        "n": 3,
    }


def test_the_interval_of_a_mean_is_the_one_of_its_standard_error():
    values = np.random.default_rng(5).normal(10, 2, 1000)
    estimate = bootstrap_interval(mean, [values], n=4000)
    half = 1.96 * values.std() / np.sqrt(1000)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_rows_of_one_patient_are_drawn_together():
    """Forty copies of each patient say no more than one: the interval is as wide as without the copies."""
    y, risk = risks(200)
    once = bootstrap_interval(auroc, [y, risk], np.arange(200))
    copies = [np.repeat(a, 40) for a in (y, risk, np.arange(200))]
    together = bootstrap_interval(auroc, copies[:2], groups=copies[2])
    apart = bootstrap_interval(auroc, copies[:2])
    assert (together.low, together.high) == pytest.approx((once.low, once.high))
    assert apart.high - apart.low < 0.3 * (once.high - once.low)


def test_a_patient_without_an_id_is_one_of_its_own():
    y, risk = risks(60)
    ids = np.array([f"p{i}" for i in range(60)], dtype=object)
    ids[:20] = None
    known = bootstrap_interval(brier, [y, risk], groups=np.array([f"p{i}" for i in range(60)]), n=300)
    partly = bootstrap_interval(brier, [y, risk], groups=ids, n=300)
    assert partly.high - partly.low == pytest.approx(known.high - known.low, rel=0.3)


def test_the_same_seed_gives_the_same_interval_and_another_one_does_not():
    y, risk = risks(100)
    assert bootstrap_interval(auroc, [y, risk], seed=1) == bootstrap_interval(auroc, [y, risk], seed=1)
    assert bootstrap_interval(auroc, [y, risk], seed=1) != bootstrap_interval(auroc, [y, risk], seed=2)


def test_resamples_without_any_event_are_skipped():
    y = np.array([1.0, *np.zeros(9)])
    estimate = bootstrap_interval(lambda *arrays: auroc(*arrays), [y, np.linspace(0.9, 0.1, 10)], n=200)
    assert (estimate.low, estimate.high) == (1, 1)


def few_events(n_events: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(8)
    return (np.arange(100) < n_events).astype(float), rng.uniform(0.1, 0.9, 100)


@pytest.mark.parametrize(
    "metric",
    [auroc, auprc, observed_expected, calibration_slope, calibration_intercept],
    ids=lambda metric: metric.__name__,
)
def test_an_interval_of_a_risk_needs_five_patients_with_the_event_and_five_without(metric):
    for n_events, has_interval in ((4, False), (5, True), (95, True), (96, False)):
        estimate = bootstrap_interval(metric, few_events(n_events), n=50)
        assert np.isfinite(estimate.value) and estimate.n == 100
        assert np.isfinite([estimate.low, estimate.high]).tolist() == [has_interval] * 2, n_events


def test_many_rows_of_few_patients_give_no_interval():
    y, risk = few_events(50)
    four = np.where(y == 1, np.arange(100) % 4, 10 + np.arange(100))
    five = np.where(y == 1, np.arange(100) % 5, 10 + np.arange(100))
    assert np.isnan(bootstrap_interval(auroc, [y, risk], four, n=50).low)
    assert np.isfinite(bootstrap_interval(auroc, [y, risk], five, n=50).low)
    for metric, arrays in ((mean, [risk]), (brier, [y, risk]), (roc_auc_score, [y, risk])):
        assert np.isnan(bootstrap_interval(metric, arrays, np.arange(100) % 4, n=50).low)
        assert np.isfinite(bootstrap_interval(metric, arrays, np.arange(100) % 5, n=50).low)


def test_an_interval_of_a_concordance_needs_five_patients_with_an_end():
    hours, predicted = np.arange(1.0, 41), np.random.default_rng(9).random(40)
    for n_ended, has_interval in ((4, False), (5, True), (40, True)):
        estimate = bootstrap_interval(concordance, [hours, np.arange(40) < n_ended, predicted], n=50)
        assert np.isfinite(estimate.value)
        assert np.isfinite(estimate.low) == has_interval, n_ended


def test_a_difference_on_too_few_events_has_no_interval():
    y, risk = few_events(4)
    difference = paired_difference(auroc, y, risk, 1 - risk, n=50)
    assert difference.value == pytest.approx(2 * auroc(y, risk) - 1)
    assert np.isnan([difference.low, difference.high]).all()


@pytest.mark.parametrize(
    ("statistic", "plain"),
    [
        (auroc, roc_auc_score),
        (brier, brier_score_loss),
        (observed_expected, lambda y, risk: y.sum() / risk.sum()),
    ],
)
def test_any_function_of_the_arrays_can_be_bootstrapped(statistic, plain):
    (y, risk), patients = risks(150), np.arange(150) // 3
    fast = bootstrap_interval(statistic, [y, risk], patients, n=100)
    slow = bootstrap_interval(plain, [y, risk], patients, n=100)
    assert (slow.value, slow.low, slow.high) == pytest.approx((fast.value, fast.low, fast.high))
    fast, slow = (paired_difference(of, y, risk, risk**2, patients, n=100) for of in (statistic, plain))
    assert (slow.value, slow.low, slow.high) == pytest.approx((fast.value, fast.low, fast.high))


def test_rows_that_are_not_known_are_left_out():
    y, risk = risks(100)
    with_gaps = [np.append(y, [np.nan, 1]), np.append(risk, [0.5, np.nan])]
    assert bootstrap_interval(auroc, with_gaps, n=50) == bootstrap_interval(auroc, [y, risk], n=50)


def test_a_difference_of_equal_forecasts_is_zero_and_that_of_a_better_one_excludes_it():
    y, risk = risks(3000)
    noisy = np.clip(risk + np.random.default_rng(6).normal(0, 0.3, 3000), 0.01, 0.99)
    same = paired_difference(auroc, y, risk, risk, n=100)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    better = paired_difference(auroc, y, risk, noisy, n=300)
    assert better.low > 0
    assert better.value == pytest.approx(auroc(y, risk) - auroc(y, noisy))


def test_a_paired_difference_is_narrower_than_the_intervals_of_its_sides():
    y, risk = risks(1000)
    shifted = np.clip(risk + np.random.default_rng(7).normal(0, 0.02, 1000), 0, 1)
    single = bootstrap_interval(auroc, [y, risk], n=300)
    paired = paired_difference(auroc, y, risk, shifted, n=300)
    assert paired.high - paired.low < 0.5 * (single.high - single.low)


def test_a_difference_is_taken_for_metrics_of_several_outcome_arrays():
    hours, ended = np.arange(1.0, 40), np.ones(39)
    difference = paired_difference(concordance, (hours, ended), hours, -hours, n=50)
    assert (difference.value, difference.low, difference.high, difference.n) == (1, 1, 1, 39)


def test_an_estimate_is_shown_with_its_interval_where_it_has_one():
    assert Estimate(0.83, 0.796, 0.8616, 400).show() == "0.830 (0.796 to 0.862)"
    assert Estimate(-1.26, -2.0, 0.5, 400).show(digits=1) == "-1.3 (-2.0 to 0.5)"
    assert Estimate(1.0, np.nan, np.nan, 4).show(2) == "1.00"
    assert Estimate(np.nan, np.nan, np.nan, 0).show() == "-"
    assert Estimate(np.nan, np.nan, np.nan, 0).show(undefined="not measurable") == "not measurable"


@pytest.mark.parametrize("estimate", [Estimate(0.8, 0.7, 0.9, 50), Estimate(0.8, np.nan, np.nan, 3)])
def test_a_stored_estimate_is_read_back_as_it_was(estimate):
    assert repr(Estimate.from_json(estimate.to_json())) == repr(estimate)


def test_what_was_not_stored_is_read_as_not_defined():
    assert Estimate.from_json(None).show() == "-" and Estimate.from_json(None).n == 0
