from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rnn_core.contracts.config import HORIZON_EDGES
from rnn_core.contracts.errors import ContractError, DataTooSmallError
from rnn_core.contracts.frames import ALIVE, DIED
from rnn_core.statistics.distribution import Distribution
from rnn_core.statistics.population import fit_population_curve

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
EDGES = np.array(HORIZON_EDGES, dtype=float)
SHORT = (0.0, 10.0, 30.0)


def aalen_johansen(durations, causes, entry=None, edges=HORIZON_EDGES) -> np.ndarray:
    """The forecast of a whole population from the start of its stays, [bins, 2]."""
    return fit_population_curve(durations, causes, entry).forecast_after(np.zeros(1), edges).masses[0]


def test_without_censoring_the_population_is_the_histogram():
    rng = np.random.default_rng(4)
    durations, causes = rng.exponential(100, 3000), rng.integers(0, 2, 3000)
    masses = aalen_johansen(durations, causes)
    for cause in (ALIVE, DIED):
        counts, _ = np.histogram(durations[causes == cause], bins=[*EDGES, np.inf])
        assert masses[:, cause] == pytest.approx(counts / 3000)


def test_an_end_on_an_edge_lies_in_the_bin_that_the_edge_begins():
    assert aalen_johansen([0.0, 10.0, 30.0], [0, 1, 0], edges=SHORT) == pytest.approx(
        np.array([[1, 0], [0, 1], [1, 0]]) / 3
    )


def test_the_population_agrees_with_a_hand_computed_example():
    """At risk 4, 3, 2 (one censored at 8), 1: the last two ends weigh 3/4 * 1/2 and the rest."""
    masses = aalen_johansen([5.0, 8.0, 12.0, 35.0], [0, -1, 1, 0], edges=SHORT)
    assert masses == pytest.approx(np.array([[0.25, 0], [0, 0.375], [0.375, 0]]))


def test_delayed_entry_agrees_with_a_hand_computed_example():
    """Two are at risk at 5 (one enters at 6), two at 12, one at 20: 1/2, then 1/2 * 1/2, then the rest."""
    masses = aalen_johansen([5.0, 12.0, 20.0], [0, 1, 0], entry=[0.0, 0.0, 6.0], edges=(0.0, 10.0, 15.0))
    assert masses == pytest.approx(np.array([[0.5, 0], [0, 0.25], [0.25, 0]]))


def test_survival_agrees_with_the_kaplan_meier_estimator_of_scipy():
    rng = np.random.default_rng(5)
    durations = rng.integers(1, 300, 500).astype(float)
    causes = rng.choice([-1, 0, 1], 500)
    sample = stats.CensoredData(uncensored=durations[causes >= 0], right=durations[causes < 0])
    expected = stats.ecdf(sample).sf
    curve = fit_population_curve(durations, causes)
    assert curve.times == pytest.approx(expected.quantiles[np.isin(expected.quantiles, curve.times)])
    assert 1 - curve.incidence[1:].sum(axis=1) == pytest.approx(expected.evaluate(curve.times))


def test_the_estimator_agrees_with_its_definition_step_by_step():
    rng = np.random.default_rng(6)
    entry = rng.integers(0, 30, 200).astype(float)
    durations = entry + rng.integers(1, 90, 200)
    causes = rng.choice([-1, 0, 1], 200)
    curve = fit_population_curve(durations, causes, entry)
    survival, incidence = 1.0, np.zeros(2)
    for k, t in enumerate(curve.times):
        at_risk = (((entry < t) | (entry == 0)) & (durations >= t)).sum()
        ends = np.array([((durations == t) & (causes == cause)).sum() for cause in (ALIVE, DIED)])
        incidence = incidence + survival * ends / at_risk
        survival *= 1 - ends.sum() / at_risk
        assert curve.incidence[k + 1] == pytest.approx(incidence)


def test_delayed_entry_recovers_the_population_that_it_was_sampled_from():
    rng = np.random.default_rng(7)
    durations, entry = rng.exponential(100, 40_000), rng.uniform(0, 100, 40_000)
    seen = durations > entry
    causes = np.zeros(40_000, dtype=int)
    whole, truncated, naive = (
        1 - aalen_johansen(*sample)[:8].sum()
        for sample in (
            (durations, causes),
            (durations[seen], causes[seen], entry[seen]),
            (durations[seen], causes[seen]),
        )
    )
    assert truncated == pytest.approx(whole, abs=0.02)
    assert naive > whole + 0.1


def test_an_early_risk_set_that_empties_does_not_end_the_curve():
    masses = aalen_johansen([5.0, 15.0, 40.0], [0, 0, 1], entry=[0.0, 8.0, 8.0], edges=SHORT)
    assert masses == pytest.approx(np.array([[0, 0], [0.5, 0], [0, 0.5]]))


def test_what_is_still_there_at_the_end_of_follow_up_lies_in_the_open_bin_split_like_the_ends_seen():
    masses = aalen_johansen([5.0, 6.0, 7.0, 8.0], [0, 0, 1, -1], edges=SHORT)
    assert masses == pytest.approx(np.array([[0.5, 0.25], [0, 0], [0.25 * 2 / 3, 0.25 / 3]]))
    only_open = aalen_johansen([5.0, 6.0], [-1, -1], edges=SHORT)
    assert only_open == pytest.approx(np.array([[0, 0], [0, 0], [1, 0]]))


def test_conditioning_on_the_stay_so_far_is_estimating_from_those_who_stayed():
    rng = np.random.default_rng(8)
    durations, causes = rng.gamma(2, 60, 2000), rng.choice([-1, 0, 1], 2000)
    curve = fit_population_curve(durations, causes)
    for elapsed, forecast in zip((0.0, 24.5, 100.0), curve.forecast_after([0.0, 24.5, 100.0]).masses, strict=True):
        stayed = durations >= elapsed
        again = aalen_johansen(durations[stayed] - elapsed, causes[stayed])
        assert forecast == pytest.approx(again)


def test_beyond_the_longest_stays_the_population_says_what_it_last_knew():
    rng = np.random.default_rng(9)
    curve = fit_population_curve(rng.exponential(50, 500), rng.integers(0, 2, 500))
    far = curve.forecast_after([curve.last_elapsed, 5000.0]).masses
    assert far.sum(axis=(1, 2)) == pytest.approx(1.0)
    assert far[1] == pytest.approx(far[0])


def test_a_population_without_any_time_under_observation_is_too_small():
    with pytest.raises(DataTooSmallError):
        aalen_johansen([], [])
    with pytest.raises(DataTooSmallError):
        aalen_johansen([5.0], [0], entry=[5.0])


def test_times_and_causes_that_mean_nothing_are_refused():
    for hours in (np.nan, np.inf, -1.0):
        with pytest.raises(ContractError, match="finite"):
            aalen_johansen([5.0, hours], [0, 0])
        with pytest.raises(ContractError, match="finite"):
            aalen_johansen([5.0, 6.0], [0, 0], entry=[0.0, hours])
    with pytest.raises(ContractError, match="cause"):
        aalen_johansen([5.0, 6.0], [0, 2])


def test_the_population_of_the_challenge_2012_dies_as_often_as_published():
    if not SHARED.exists():
        pytest.skip("the shared data folder is not part of a plain checkout")
    outcomes = pd.read_csv(SHARED / "data" / "physionet-2012" / "Outcomes-a.txt")
    timed = outcomes[outcomes["Length_of_stay"] >= 0]
    died = timed["In-hospital_death"].to_numpy()
    forecast = Distribution(aalen_johansen(timed["Length_of_stay"] * 24.0, died)[None], EDGES)
    assert len(timed) > 3900
    assert forecast.mortality_risk() == pytest.approx([died.mean()])
    median = forecast.quantile(0.5)[0]
    assert median == pytest.approx(timed["Length_of_stay"].median() * 24, abs=24)
