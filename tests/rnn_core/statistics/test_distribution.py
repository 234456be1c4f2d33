from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rnn_core.contracts.config import HORIZON_EDGES
from rnn_core.contracts.errors import ContractError, DataTooSmallError
from rnn_core.contracts.frames import ALIVE, DIED
from rnn_core.contracts.thresholds import RISK_BANDS
from rnn_core.statistics.distribution import (
    FORECAST_COLUMNS,
    aalen_johansen,
    check_masses,
    cumulative_incidence,
    discharge_probability,
    expected_remaining_hours,
    fit_population_curve,
    mortality_risk,
    prolonged_stay_risk,
    read_forecast,
    remaining_quantile,
    rescale_deaths,
    risk_band,
    survival_at,
)

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
EDGES = np.array(HORIZON_EDGES, dtype=float)
SHORT = (0.0, 10.0, 30.0)

# Over SHORT: 0.2 leave in [0, 10), 0.5 in [10, 30), 0.3 later; 0.3 die in all.
HAND = np.array([[[0.1, 0.1], [0.4, 0.1], [0.2, 0.1]]])


def random_masses(n: int, seed: int = 0, bins: int = len(EDGES)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    masses = rng.dirichlet(np.full(2 * bins, 0.3), n).reshape(n, bins, 2)
    masses[: n // 4, rng.integers(0, bins, 5)] = 0
    return masses / masses.sum(axis=(1, 2), keepdims=True)


def test_every_number_of_a_hand_made_forecast_is_right():
    assert mortality_risk(HAND) == pytest.approx([0.3])
    assert survival_at(HAND, SHORT, 5.0) == pytest.approx([0.9])
    assert survival_at(HAND, SHORT, 20.0) == pytest.approx([0.55])
    assert cumulative_incidence(HAND, SHORT, 20.0, DIED) == pytest.approx([0.15])
    assert discharge_probability(HAND, SHORT, 30.0) == pytest.approx([0.5])
    assert remaining_quantile(HAND, SHORT, 0.1) == pytest.approx([5.0])
    assert remaining_quantile(HAND, SHORT, 0.45) == pytest.approx([20.0])
    assert expected_remaining_hours(HAND, SHORT) == pytest.approx([10 * 0.9 + 20 * 0.55])
    assert prolonged_stay_risk(HAND, SHORT, [2.0], limit_hours=22.0) == pytest.approx([0.55])


def test_a_quantile_in_the_open_bin_is_the_last_edge():
    assert remaining_quantile(HAND, SHORT, 0.71) == pytest.approx([30.0])
    assert remaining_quantile(HAND, SHORT, 0.69) < 30.0


@pytest.mark.parametrize("q", [0.0, 1.0, 1.5, np.nan])
def test_a_quantile_that_is_none_is_refused(q):
    with pytest.raises(ContractError, match="between 0 and 1"):
        remaining_quantile(HAND, SHORT, q)


def test_the_quantile_inverts_the_survival_curve():
    masses = random_masses(500)
    for q in (0.05, 0.1, 0.5, 0.9):
        hours = remaining_quantile(masses, EDGES, q)
        inside = hours < EDGES[-1]
        assert inside.sum() > 100
        assert survival_at(masses, EDGES, hours)[inside] == pytest.approx(1 - q)
        assert (survival_at(masses, EDGES, hours)[~inside] >= 1 - q - 1e-12).all()


def test_survival_never_rises_and_all_that_left_has_a_cause():
    masses = random_masses(200)
    previous = np.ones(200)
    for hours in np.linspace(0, EDGES[-1], 97):
        survival = survival_at(masses, EDGES, hours)
        assert (survival <= previous + 1e-12).all()
        left = sum(cumulative_incidence(masses, EDGES, hours, cause) for cause in (ALIVE, DIED))
        assert survival + left == pytest.approx(1.0)
        previous = survival


def test_hours_may_differ_by_row():
    masses = random_masses(50)
    hours = np.linspace(0, EDGES[-1], 50)
    one_by_one = [survival_at(masses[i : i + 1], EDGES, hours[i])[0] for i in range(50)]
    assert survival_at(masses, EDGES, hours) == pytest.approx(one_by_one)


def test_linear_interpolation_agrees_with_numpy():
    masses = random_masses(40)
    at_edges = np.concatenate([np.zeros((40, 1)), masses.sum(axis=2).cumsum(axis=1)[:, :-1]], axis=1)
    hours = np.random.default_rng(1).uniform(0, EDGES[-1], 40)
    expected = [1 - np.interp(h, EDGES, cdf) for h, cdf in zip(hours, at_edges, strict=True)]
    assert survival_at(masses, EDGES, hours) == pytest.approx(expected)


def test_the_restricted_mean_is_the_area_under_the_survival_curve():
    masses = random_masses(10)
    hours = np.linspace(0, EDGES[-1], 20_001)
    curve = np.array([survival_at(masses, EDGES, h) for h in hours])
    assert expected_remaining_hours(masses, EDGES) == pytest.approx(np.trapezoid(curve, hours, axis=0), rel=1e-4)


@pytest.mark.parametrize("hours", [-1.0, EDGES[-1] + 1, np.nan])
def test_hours_outside_the_edges_are_refused(hours):
    with pytest.raises(ContractError, match="0 to 1440 hours"):
        survival_at(random_masses(3), EDGES, hours)


def test_a_stay_over_the_limit_is_prolonged_for_certain_and_one_on_it_nearly_so():
    risk = prolonged_stay_risk(np.repeat(HAND, 3, axis=0), SHORT, [22.1, 22.0, 12.0], limit_hours=22.0)
    assert risk == pytest.approx([1.0, 1.0, 0.8])


def test_the_read_columns_are_those_of_the_table_and_never_contradict_each_other():
    elapsed = np.random.default_rng(2).uniform(0, 400, 2000)
    columns = read_forecast(random_masses(2000).astype(np.float32), EDGES, elapsed)
    assert tuple(columns.columns) == FORECAST_COLUMNS
    probabilities = columns.filter(regex="risk|prob").to_numpy()
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert (columns["discharge_24h_prob"] <= columns["discharge_48h_prob"]).all()
    assert (columns["discharge_48h_prob"] <= columns["discharge_72h_prob"]).all()
    assert (columns["discharge_72h_prob"] + columns["mortality_risk"] <= 1 + 1e-12).all()
    assert (columns["remaining_los_p10_hours"] <= columns["remaining_los_p50_hours"]).all()
    assert (columns["remaining_los_p50_hours"] <= columns["remaining_los_p90_hours"]).all()
    assert (columns["prolonged_stay_risk"][elapsed > 168] == 1).all()


def test_no_forecast_reads_as_no_row():
    assert read_forecast(np.empty((0, len(EDGES), 2)), EDGES, np.empty(0)).shape == (0, len(FORECAST_COLUMNS))


@pytest.mark.parametrize(
    "break_it",
    [
        lambda m: m * 1.01,
        lambda m: np.where(np.arange(3)[:, None] == 0, np.nan, m),
        lambda m: m + np.array([[0.3, -0.3], [0, 0], [0, 0]]),
        lambda m: m[:, :2],
        lambda m: m[0],
    ],
    ids=["sum", "nan", "negative", "bins", "dimensions"],
)
def test_broken_masses_are_refused(break_it):
    check_masses(HAND, 3)
    with pytest.raises(ContractError):
        check_masses(break_it(HAND), 3)


def test_single_precision_is_accepted_and_brought_to_sum_one():
    masses = random_masses(1000).astype(np.float32)
    assert np.abs(check_masses(masses).sum(axis=(1, 2)) - 1).max() < 1e-14


@pytest.mark.parametrize("edges", [(1.0, 2.0, 3.0), (0.0, 2.0, 2.0), (0.0, 2.0, np.inf), (0.0, np.nan, 3.0)])
def test_edges_that_do_not_rise_from_zero_are_refused(edges):
    with pytest.raises(ContractError, match="edges"):
        survival_at(HAND, edges, 1.0)


def test_rescaled_deaths_have_the_new_risk_and_the_old_times():
    masses = random_masses(300)
    new = np.random.default_rng(3).uniform(0, 1, 300)
    rescaled = rescale_deaths(masses, new)
    assert rescaled.sum(axis=(1, 2)) == pytest.approx(1.0)
    assert mortality_risk(rescaled) == pytest.approx(new)
    for cause in (ALIVE, DIED):
        before, after = masses[:, :, cause], rescaled[:, :, cause]
        assert after / after.sum(axis=1, keepdims=True) == pytest.approx(before / before.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("old", [0.0, 1.0])
@pytest.mark.parametrize("new", [0.0, 0.3, 1.0])
def test_certain_death_and_certain_survival_can_be_rescaled(old, new):
    """A cause without any mass takes its times from the other."""
    times = np.array([0.2, 0.5, 0.3])
    masses = np.stack([times * (1 - old), times * old], axis=1)[None]
    rescaled = rescale_deaths(masses, new)
    assert rescaled == pytest.approx(np.stack([times * (1 - new), times * new], axis=1)[None])


@pytest.mark.parametrize("risk", [-0.1, 1.1, np.nan])
def test_a_risk_that_is_no_probability_is_refused_for_rescaling(risk):
    with pytest.raises(ContractError, match="between 0 and 1"):
        rescale_deaths(HAND, risk)


def test_a_risk_on_a_threshold_belongs_to_the_band_above():
    assert risk_band([0.0, 0.0499, 0.05, 0.15, 0.3999, 0.40, 1.0]).tolist() == [
        "low",
        "low",
        "medium",
        "high",
        "high",
        "very high",
        "very high",
    ]
    assert set(risk_band(np.linspace(0, 1, 101))) == set(RISK_BANDS)


def test_an_abstained_row_gets_no_band():
    """Without this NaN would be sorted behind all thresholds, as "very high"."""
    with pytest.raises(ContractError, match="abstained"):
        risk_band([0.1, np.nan])
    with pytest.raises(ContractError, match="thresholds"):
        risk_band([0.1], thresholds=(0.3, 0.2, 0.1))


# ---- the population


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
    for elapsed, forecast in zip((0.0, 24.5, 100.0), curve.masses_after([0.0, 24.5, 100.0]), strict=True):
        stayed = durations >= elapsed
        again = aalen_johansen(durations[stayed] - elapsed, causes[stayed])
        assert forecast == pytest.approx(again)


def test_beyond_the_longest_stays_the_population_says_what_it_last_knew():
    rng = np.random.default_rng(9)
    curve = fit_population_curve(rng.exponential(50, 500), rng.integers(0, 2, 500))
    far = curve.masses_after([curve.last_elapsed, 5000.0])
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
    masses = aalen_johansen(timed["Length_of_stay"] * 24.0, died)
    assert len(timed) > 3900
    assert mortality_risk(masses[None]) == pytest.approx([died.mean()])
    median = remaining_quantile(masses[None], EDGES, 0.5)[0]
    assert median == pytest.approx(timed["Length_of_stay"].median() * 24, abs=24)
