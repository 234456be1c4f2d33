import json

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import norm

from rnn_core.contracts.config import HORIZON_EDGES
from rnn_core.contracts.errors import ContractError
from rnn_core.statistics.calibration import (
    Calibration,
    PlattCalibration,
    TimeCalibration,
    fit_calibration,
    fit_mortality_calibration,
    fit_time_calibration,
)
from rnn_core.statistics.calibration_metrics import calibration_intercept, calibration_slope
from rnn_core.statistics.distribution import Distribution
from rnn_core.statistics.length_of_stay import crps_hours

EDGES = np.array(HORIZON_EDGES, dtype=float)


def forecasts(n, seed=0, spread=1.0, shift=0.0, slope=1.0, intercept=0.0):
    """Forecasts, labels' weights, remaining hours and deaths of stays that are forecast with a distorted truth.

    Lengths are log-normal with a spread of 0.8, which the forecast takes for `spread` times that, and for exp(shift)
    times as long; the forecast's log-odds of death are intercept + slope times the true ones.
    """
    rng = np.random.default_rng(seed)
    log_odds, center = rng.normal(-1.5, 1.2, n), rng.normal(4, 0.6, n)
    death = (rng.random(n) < expit(log_odds)).astype(float)
    remaining = np.exp(center + 0.3 * death + 0.8 * rng.normal(size=n))
    said = expit(intercept + slope * log_odds)
    with np.errstate(divide="ignore"):
        log_edges = np.log(EDGES)
    by_cause = [
        np.diff(norm.cdf((log_edges - center[:, None] - later - shift) / (0.8 * spread)), axis=1, append=1)
        * share[:, None]
        for later, share in ((0.0, 1 - said), (0.3, said))
    ]
    masses = np.stack(by_cause, axis=2)
    weights = np.zeros(masses.shape, np.float32)
    weights[np.arange(n), np.searchsorted(EDGES, remaining, side="right") - 1, death.astype(int)] = 1
    return Distribution(masses, EDGES), weights, remaining, death


def tails(forecast, remaining):
    """Shares of ends below the 10th and above the 90th percentile."""
    low, high = forecast.quantile(0.1), forecast.quantile(0.9)
    return (remaining < low).mean(), (remaining > high).mean()


def test_the_identity_changes_nothing():
    forecast = forecasts(200)[0]
    assert Calibration().apply(forecast).masses == pytest.approx(forecast.masses, abs=1e-11)


def test_fitting_no_rows_gives_the_identity():
    forecast, weights, _, death = forecasts(10)
    assert fit_calibration(forecast.take(np.arange(0)), death[:0], weights[:0]) == Calibration()
    unknown = fit_calibration(forecast, np.full(10, np.nan), np.zeros_like(weights))
    assert unknown == Calibration()


def test_calibrating_calibrated_forecasts_changes_little():
    forecast, weights, remaining, death = forecasts(4000)
    calibration = fit_calibration(forecast, death, weights)
    assert calibration.mortality.slope == pytest.approx(1, abs=0.1)
    assert calibration.mortality.intercept == pytest.approx(0, abs=0.1)
    assert calibration.time.early == pytest.approx(1, abs=0.05)
    assert calibration.time.late == pytest.approx(1, abs=0.05)
    assert tails(calibration.apply(forecast), remaining) == pytest.approx((0.1, 0.1), abs=0.015)


@pytest.mark.parametrize(("slope", "intercept"), [(2.0, 1.0), (0.6, -0.5), (1.0, 1.0)])
def test_distorted_log_odds_are_recovered(slope, intercept):
    forecast, _, _, death = forecasts(20_000, slope=slope, intercept=intercept)
    fitted = fit_mortality_calibration(forecast.mortality_risk(), death)
    assert fitted.slope == pytest.approx(1 / slope, rel=0.06)
    assert fitted.intercept == pytest.approx(-intercept / slope, abs=0.1)


@pytest.mark.parametrize(
    ("spread", "shift"),
    [
        (0.5, 0.0),
        (1.0, 0.5),
        *(pytest.param(*pair, marks=pytest.mark.soak) for pair in ((1.7, 0.0), (1.0, -0.5), (0.6, 0.5))),
    ],
)
def test_a_miscalibrated_interval_comes_to_hold_eight_of_ten_ends_of_new_stays(spread, shift):
    forecast, weights, _, _ = forecasts(3000, seed=0, spread=spread, shift=shift)
    calibration = fit_time_calibration(forecast, weights)
    new, _, ends, _ = forecasts(6000, seed=1, spread=spread, shift=shift)
    before, after = tails(new, ends), tails(calibration.apply(new), ends)
    assert max(abs(share - 0.1) for share in before) > 0.06
    assert after == pytest.approx((0.1, 0.1), abs=0.03)
    assert crps_hours(calibration.apply(new), ends).mean() < crps_hours(new, ends).mean()


def test_forecasts_too_long_on_the_first_day_and_too_short_on_the_tenth_are_both_mended():
    """One pair of powers for all hours could only mend the mean of the two."""

    def both(seed):
        parts = [forecasts(3000, seed=seed + k, shift=shift) for k, shift in enumerate((0.4, -0.4))]
        forecast = Distribution.concatenate([part[0] for part in parts])
        weights, ends = (np.concatenate([part[n] for part in parts]) for n in (1, 2))
        return forecast, weights, ends, np.repeat([6.0, 240.0], 3000)

    forecast, weights, _, elapsed = both(0)
    fitted = Calibration(time=fit_time_calibration(forecast, weights, elapsed_hours=elapsed))
    new, _, ends, elapsed = both(10)
    beyond = ends > fitted.apply(new, elapsed).quantile(0.5)
    assert beyond[:3000].mean() == pytest.approx(0.5, abs=0.04)
    assert beyond[3000:].mean() == pytest.approx(0.5, abs=0.04)


def test_masses_stay_consistent_under_any_calibration():
    rng = np.random.default_rng(2)
    masses = rng.dirichlet(np.full(2 * len(EDGES), 0.05), 500).reshape(500, len(EDGES), 2)
    masses[:100, :, 1], masses[100:200, :, 0], masses[200:300, 5:] = 0, 0, 0
    masses /= masses.sum(axis=(1, 2), keepdims=True)
    for slope, intercept, early, late in [(0.3, -2, 0.1, 10), (5, 3, 10, 0.1), (1, 0, 0.1, 0.1), (0.05, 0, 10, 10)]:
        calibration = Calibration(PlattCalibration(slope, intercept), TimeCalibration(early, late))
        calibrated = calibration.apply(Distribution(masses, EDGES)).masses
        assert (calibrated >= 0).all()
        assert calibrated.sum(axis=(1, 2)) == pytest.approx(1)
        assert (calibrated[200:300, 5:] == 0).all()


def test_the_order_of_the_patients_is_kept_even_by_forecasts_that_point_the_wrong_way():
    forecast, _, _, death = forecasts(2000)
    risk = forecast.mortality_risk()
    for outcome in (death, 1 - death):
        fitted = fit_mortality_calibration(risk, outcome)
        assert (np.diff(fitted.calibrate(np.sort(risk))) > 0).all()
        assert fitted.slope > 0


def test_certain_risks_stay_certain_and_can_be_fitted():
    calibration = PlattCalibration(0.7, -0.4)
    assert calibration.calibrate([0.0, 0.5, 1.0]) == pytest.approx([0.0, expit(-0.4), 1.0])
    fitted = fit_mortality_calibration(np.array([0.0, 0.0, 1.0, 1.0] * 20), np.array([0, 1, 1, 1.0] * 20))
    assert np.isfinite([fitted.slope, fitted.intercept]).all()


def test_the_time_step_keeps_the_risk_and_the_risk_step_keeps_the_times():
    forecast = forecasts(300)[0]
    mortality, time = PlattCalibration(0.6, -0.3), TimeCalibration(0.5, 1.4)
    assert time.apply(forecast).mortality_risk() == pytest.approx(forecast.mortality_risk())
    both_ways = time.apply(mortality.apply(forecast)), mortality.apply(time.apply(forecast))
    assert both_ways[0].masses == pytest.approx(both_ways[1].masses)
    assert both_ways[0].mortality_risk() == pytest.approx(mortality.calibrate(forecast.mortality_risk()))


def test_powers_below_one_widen_and_early_below_late_brings_ends_nearer():
    forecast = forecasts(300)[0]

    def quantile(calibration, q):
        return calibration.apply(forecast).quantile(q).mean()

    same, wide, near = TimeCalibration(), TimeCalibration(0.6, 0.6), TimeCalibration(0.7, 1.4)
    assert quantile(wide, 0.1) < quantile(same, 0.1)
    assert quantile(wide, 0.9) > quantile(same, 0.9)
    assert quantile(near, 0.5) < quantile(same, 0.5)


def test_few_patients_move_a_forecast_little():
    forecast, weights, _, death = forecasts(6, slope=2.0, intercept=1.5, spread=0.5)
    few = fit_calibration(forecast, death, weights)
    assert few.mortality.slope == pytest.approx(1, abs=0.25)
    assert few.time.early == pytest.approx(1, abs=0.4)
    assert few.time.late == pytest.approx(1, abs=0.4)
    forecast, weights, _, death = forecasts(6000, slope=2.0, intercept=1.5, spread=0.5)
    many = fit_calibration(forecast, death, weights)
    assert many.mortality.slope < 0.6
    assert max(many.time.early, many.time.late) < 0.6


def test_copies_of_rows_that_share_one_weight_are_no_more_evidence():
    forecast, weights, _, death = forecasts(60, slope=2.0, spread=0.5)
    rows = np.repeat(np.arange(60), 30)
    copies = forecast.take(rows), death[rows], weights[rows]
    grouped = fit_calibration(*copies, row_weight=1 / 30)
    once = fit_calibration(forecast, death, weights)
    assert grouped.mortality.slope == pytest.approx(once.mortality.slope, abs=1e-3)
    assert grouped.time.early == pytest.approx(once.time.early, abs=2e-3)
    assert grouped.time.late == pytest.approx(once.time.late, abs=2e-3)
    assert fit_calibration(*copies).mortality.slope < once.mortality.slope - 0.05


def test_open_stays_are_not_taken_for_short_ones():
    """Cut at 96 hours, the longer half of the stays tells only that it is longer."""
    forecast, weights, remaining, _ = forecasts(4000)
    is_open = remaining > 96
    weights[is_open] = np.where(np.arange(len(EDGES)) >= np.searchsorted(EDGES, 96), 1, 0)[:, None]
    with_open = fit_time_calibration(forecast, weights)
    without = fit_time_calibration(forecast.take(~is_open), weights[~is_open])
    assert (with_open.early, with_open.late) == pytest.approx((1, 1), abs=0.08)
    assert without.late > 1.5


def test_delayed_entry_is_respected():
    """Of stays that are only seen if they last 24 hours more, the forecast is not faulted for the shorter ones."""
    forecast, weights, remaining, _ = forecasts(4000)
    seen = remaining >= 24
    entry = np.where(EDGES >= 24, 1, 0)[None, :, None] * np.ones_like(weights)
    respected = fit_time_calibration(forecast.take(seen), weights[seen], entry[seen])
    ignored = fit_time_calibration(forecast.take(seen), weights[seen])
    assert (respected.early, respected.late) == pytest.approx((1, 1), abs=0.12)
    assert ignored.early > 1.15


def test_a_cause_without_a_time_does_not_move_the_times():
    forecast, weights, _, death = forecasts(500, spread=0.5)
    timeless = np.zeros_like(weights)
    timeless[np.arange(500), :, death.astype(int)] = 1
    fitted = fit_time_calibration(forecast, timeless)
    assert (fitted.early, fitted.late) == pytest.approx((1, 1), abs=1e-4)


def test_a_row_of_which_nothing_is_known_does_not_move_the_times():
    forecast, weights, _, _ = forecasts(300)
    entry = np.ones_like(weights)
    entry[100:, :4] = 0
    weights[100:] = 0
    fitted, alone = (
        fit_time_calibration(forecast, weights, entry),
        fit_time_calibration(forecast.take(np.arange(100)), weights[:100]),
    )
    assert (fitted.early, fitted.late) == pytest.approx((alone.early, alone.late), abs=1e-4)


def test_a_row_held_impossible_does_not_break_the_fit():
    forecast, weights, _, death = forecasts(500)
    certain = np.zeros((1, len(EDGES), 2))
    certain[0, 3, 0] = 1
    forecast = forecast.with_rows(np.array([0]), Distribution(certain, EDGES))
    weights[0] = 0
    weights[0, 7, 1] = 1
    fitted = fit_calibration(forecast, death, weights)
    assert (fitted.time.early, fitted.time.late) == pytest.approx((1, 1), abs=0.25)


def test_many_rows_are_thinned_without_losing_the_answer():
    forecast, weights, _, _ = forecasts(24_000, spread=0.6)
    many, some = (
        fit_time_calibration(forecast, weights),
        fit_time_calibration(forecast.take(np.arange(12_000)), weights[:12_000]),
    )
    assert (many.early, many.late) == pytest.approx((some.early, some.late), rel=0.05)


def test_labels_of_another_shape_are_refused():
    forecast, weights, _, _ = forecasts(10)
    with pytest.raises(ContractError, match="one shape"):
        fit_time_calibration(forecast, weights[:, :5])


def test_a_calibration_survives_the_artifact():
    calibration = Calibration(PlattCalibration(0.8, -0.2), TimeCalibration(0.9, 1.1))
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json()))) == calibration
    forecast, weights, _, death = forecasts(50)
    fitted = fit_calibration(forecast, death, weights)
    assert Calibration.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted


def test_the_fitted_risk_is_the_penalised_optimum():
    """Checked on a grid: no neighbouring slope and intercept has a higher penalised likelihood."""
    forecast, _, _, death = forecasts(150, slope=1.7)
    risk = forecast.mortality_risk()
    fitted = fit_mortality_calibration(risk, death)

    def loss(slope, intercept):
        p = expit(intercept + slope * logit(risk))
        penalty = ((slope - 1) / 0.25) ** 2 / 2 + (intercept / 0.5) ** 2 / 2
        return penalty - np.log(np.where(death == 1, p, 1 - p)).sum()

    best = loss(fitted.slope, fitted.intercept)
    for step in (-0.02, 0.02):
        assert loss(fitted.slope + step, fitted.intercept) > best
        assert loss(fitted.slope, fitted.intercept + step) > best


def test_calibration_follows_the_hour_of_the_stay():
    """Early forecasts are made twice too extreme and late ones right: both come right, and the order of an hour stays."""
    rng = np.random.default_rng(4)
    odds = rng.normal(-1.5, 1.2, 20_000)
    death = (rng.random(20_000) < expit(odds)).astype(float)
    hours = np.where(np.arange(20_000) % 2, 6.0, 96.0)
    said = expit(np.where(hours == 6, 2 * odds, odds))
    fitted = fit_mortality_calibration(said, death, elapsed_hours=hours)
    calibrated = fitted.calibrate(said, hours)
    for hour in (6, 96):
        of_hour = hours == hour
        assert calibration_slope(death[of_hour], calibrated[of_hour]) == pytest.approx(1, abs=0.06)
        assert calibration_intercept(death[of_hour], calibrated[of_hour]) == pytest.approx(0, abs=0.06)
        assert np.array_equal(np.argsort(calibrated[of_hour]), np.argsort(said[of_hour]))
    assert fit_mortality_calibration(said, death).slope_per_doubling == 0
    # Far beyond what was seen the order still holds.
    assert (np.diff(PlattCalibration(0.5, 0, 0.5).calibrate([0.1, 0.2, 0.9], 1.0)) > 0).all()


def test_stretching_moves_log_odds_away_from_the_centre_at_every_hour():
    calibration, hours = PlattCalibration(0.9, -0.1, 0.05, 0.02), np.array([6.0, 24.0, 96.0])
    before, after = (logit(c.calibrate(0.3, hours)) for c in (calibration, calibration.stretched(1.2, -2.0)))
    np.testing.assert_allclose(after + 2, 1.2 * (before + 2))
