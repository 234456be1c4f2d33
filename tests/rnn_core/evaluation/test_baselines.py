import numpy as np
import pytest
from builders import T0, at, random_stays, stays_frame

from rnn_core.contracts.concepts import NAMES
from rnn_core.contracts.config import HORIZON_EDGES
from rnn_core.contracts.errors import DataTooSmallError
from rnn_core.evaluation.baselines import (
    fit_death_regression,
    fit_population,
    fit_remaining_regression,
)
from rnn_core.statistics.population import fit_population_curve

N = len(NAMES)


def scored_rows(windows) -> np.ndarray:
    pairs = zip(windows.score_from, windows.stop, strict=True)
    return np.concatenate([np.arange(first, stop) for first, stop in pairs])


# ---- the population


def test_the_population_of_finished_stays_is_their_histogram():
    stays = random_stays(np.random.default_rng(0), 400, hours=200)
    hours = ((stays["outtime"] - stays["intime"]) / np.timedelta64(1, "h")).to_numpy()
    masses = fit_population(stays, at(1000)).forecast_after([0.0]).masses[0]
    for cause, outcome in enumerate(("alive", "died")):
        counts, _ = np.histogram(hours[stays["outcome"] == outcome], bins=[*HORIZON_EDGES, np.inf])
        assert masses[:, cause] == pytest.approx(counts / 400)


def test_an_end_after_the_time_of_knowledge_is_not_used():
    """As of hour 60 the second stay is open, whatever was written about it later."""
    known = fit_population(
        stays_frame(
            {"intime": 0, "outtime": 30, "outcome": "alive"},
            {"intime": 0, "outtime": 100, "outcome": "died"},
            {"intime": 70, "outtime": 90, "outcome": "died"},
        ),
        at(60),
    )
    then = fit_population(stays_frame({"intime": 0, "outtime": 30, "outcome": "alive"}, {"intime": 0}), at(60))
    assert known.incidence == pytest.approx(then.incidence)
    assert known.incidence[-1] == pytest.approx([0.5, 0])


def test_an_end_at_the_time_of_knowledge_is_used():
    stays = stays_frame({"intime": 0, "outtime": 60, "outcome": "died"})
    assert fit_population(stays, at(60)).incidence[-1] == pytest.approx([0, 1])


def test_an_open_stay_counts_up_to_where_it_is_known_to_have_gone_on():
    stays = stays_frame(
        {"intime": 0, "outtime": 10, "outcome": "alive"}, {"intime": 0, "outtime": 50, "outcome": "died"}, {"intime": 0}
    )
    through, until_20, until_later = (
        fit_population(stays, at(60), known_until=None if hours is None else at([np.nan, np.nan, hours]))
        for hours in (None, 20.0, 90.0)
    )
    assert through.incidence[-1] == pytest.approx([1 / 3, 1 / 3])
    assert until_20.incidence[-1] == pytest.approx([1 / 3, 2 / 3])
    assert until_later.incidence == pytest.approx(through.incidence)


def test_stays_with_half_an_end_or_none_at_all_are_left_out():
    good = [{"intime": 0, "outtime": 10, "outcome": "alive"}, {"intime": 0, "outtime": 20, "outcome": "died"}]
    bad = [
        {"intime": 0, "outtime": 15},
        {"intime": 0, "outcome": "died"},
        {"intime": 10, "outtime": 5, "outcome": "died"},
        {"intime": 99},
    ]
    clean, dirty = fit_population(stays_frame(*good), at(50)), fit_population(stays_frame(*good, *bad), at(50))
    assert dirty.incidence == pytest.approx(clean.incidence)


def test_delayed_entry_leaves_the_hours_before_it_without_an_end():
    stays = stays_frame(
        {"intime": 0, "outtime": 40, "outcome": "died"},
        {"intime": 0, "outtime": 60, "outcome": "alive"},
        {"intime": 0, "outtime": 70, "outcome": "died"},
    )
    curve = fit_population(stays, at(100), delayed_entry_hours=48)
    assert curve.times.tolist() == [60, 70]
    assert curve.incidence[-1] == pytest.approx([0.5, 0.5])


def test_the_forecast_is_conditional_on_the_stay_so_far():
    stays = random_stays(np.random.default_rng(1), 300, hours=150)
    hours = ((stays["outtime"] - stays["intime"]) / np.timedelta64(1, "h")).to_numpy()
    died = (stays["outcome"] == "died").to_numpy().astype(int)
    masses = fit_population(stays, at(1000)).forecast_after([0.0, 36.0, 400.0]).masses
    longer = hours >= 36
    again = fit_population_curve(hours[longer] - 36, died[longer]).forecast_after([0.0])
    assert masses[1] == pytest.approx(again.masses[0])


def test_no_usable_stay_is_too_small_a_population():
    with pytest.raises(DataTooSmallError):
        fit_population(stays_frame({"intime": 5}), at(2))


# ---- regressions


def test_the_regression_of_death_learns_a_signal_and_ignores_unknown_outcomes():
    rng = np.random.default_rng(4)
    features = rng.normal(size=(4000, 8)).astype(np.float32)
    features[:, 7] = 3.0
    death = (rng.random(4000) < 1 / (1 + np.exp(-(2 * features[:, 0] - 1)))).astype(float)
    gaps = death.copy()
    gaps[::3] = np.nan
    risk = fit_death_regression(features, gaps).predict_proba(features)[:, 1]
    same = fit_death_regression(features[~np.isnan(gaps)], gaps[~np.isnan(gaps)]).predict_proba(features)[:, 1]
    assert risk == pytest.approx(same)
    assert np.corrcoef(risk, features[:, 0])[0, 1] > 0.9
    assert risk.mean() == pytest.approx(death.mean(), abs=0.03)


def test_the_regression_of_the_remaining_stay_predicts_its_median_in_hours():
    rng = np.random.default_rng(5)
    features = rng.normal(size=(4000, 5)).astype(np.float32)
    remaining = np.expm1(np.maximum(4 + 0.5 * features[:, 1] + 0.3 * rng.normal(size=4000), 0))
    remaining[::4] = np.nan
    predicted = fit_remaining_regression(features, remaining).predict(features)
    known = ~np.isnan(remaining)
    assert np.median(remaining[known] / predicted[known]) == pytest.approx(1, abs=0.05)
    far = fit_remaining_regression(features, remaining).predict(np.array([[0, 1e4, 0, 0, 0], [0, -1e4, 0, 0, 0]]))
    assert far == pytest.approx([HORIZON_EDGES[-1], 0])


def test_too_few_outcomes_are_told():
    features = np.zeros((3, 2))
    with pytest.raises(DataTooSmallError, match="both outcomes"):
        fit_death_regression(features, np.array([0.0, 0.0, np.nan]))
    with pytest.raises(DataTooSmallError, match="finished"):
        fit_remaining_regression(features, np.full(3, np.nan))


def test_times_are_read_in_the_unit_they_are_stored_in():
    """pandas keeps microseconds or nanoseconds; both are the same stay."""
    stays = stays_frame({"intime": 0, "outtime": 30, "outcome": "alive"})
    fine = stays.assign(**{c: stays[c].astype("datetime64[ns]") for c in ("intime", "outtime")})
    for frame in (stays, fine):
        assert fit_population(frame, T0 + np.timedelta64(5, "D")).times.tolist() == [30]
