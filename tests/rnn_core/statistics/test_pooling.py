"""Pools of forecasts, in worlds whose true distribution is a known pool of the parts."""

import numpy as np
import pytest

from rnn_core.contracts.config import HORIZON_EDGES
from rnn_core.contracts.frames import ALIVE, DIED
from rnn_core.statistics.distribution import Distribution
from rnn_core.statistics.pooling import LogarithmicPool, fit_pool

BINS = len(HORIZON_EDGES)
EQUAL = LogarithmicPool(*((0.0, 0.0),) * 4)


def parts(n: int, seed: int = 0) -> list[Distribution]:
    """Two models, each of which knows something of a stay that the other does not."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(2):
        middle, risk = rng.uniform(2, BINS - 3, (n, 1)), rng.beta(1, 3, n)[:, None]
        end = np.exp(-((np.arange(BINS) - middle) ** 2) / 12)
        end /= end.sum(axis=1, keepdims=True)
        found.append(Distribution(np.stack([end * (1 - risk), end * risk], axis=2), HORIZON_EDGES))
    return found


def drawn(forecast: Distribution, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """One end of each stay, drawn from its forecast: death [rows] and weights [rows, bins, 2] with the cell alone."""
    rng, n = np.random.default_rng(seed), len(forecast)
    cell = (forecast.masses.reshape(n, -1).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=2 * BINS - 1)
    weights = np.zeros((n, 2 * BINS))
    weights[np.arange(n), cell] = 1
    return (cell % 2 == DIED).astype(float), weights.reshape(n, BINS, 2)


def test_equal_forecasts_stay_what_they_are_whatever_their_weights():
    (one, _) = parts(50)
    pool = LogarithmicPool((1.0, -1.0), (0.0, 2.0), (0.3, 0.0), (0.0, 0.4))
    np.testing.assert_allclose(pool.pool([one, one], np.linspace(4, 200, 50)).masses, one.masses, atol=1e-6)


def test_equal_weights_give_the_geometric_mean_of_the_bins_and_the_mean_of_the_log_odds():
    a, b = parts(50)
    pooled = EQUAL.pool([a, b])
    end = np.sqrt(a.masses.sum(axis=2) * b.masses.sum(axis=2))
    np.testing.assert_allclose(pooled.masses.sum(axis=2), end / end.sum(axis=1, keepdims=True), atol=1e-3)
    odds = [np.log(of.masses[:, 3, DIED] / of.masses[:, 3, ALIVE]) for of in (a, b, pooled)]
    np.testing.assert_allclose(odds[2], (odds[0] + odds[1]) / 2, atol=1e-4)


@pytest.mark.parametrize(("times", "deaths"), [((1.0, -1.0), (-1.0, 1.0)), ((0.0, 0.0), (1.5, -1.5))])
def test_the_weights_under_which_a_world_was_made_are_found(times, deaths):
    truth = LogarithmicPool(times, deaths, (0.0, 0.0), (0.0, 0.0))
    both = parts(6000)
    death, weights = drawn(truth.pool(both))
    found = fit_pool(both, death, weights, np.ones_like(weights), 24.0)
    for name in ("times", "deaths"):
        ours, theirs = (np.subtract(*getattr(pool, name)) for pool in (found, truth))
        assert ours == pytest.approx(theirs, abs=0.35), name


@pytest.mark.parametrize("changing", ["doubling", "density"])
def test_weights_may_change_with_the_elapsed_hours_and_with_the_density_of_observation(changing):
    """Where both vary and one of them changes the weights, the change is found in that one."""
    slopes = {f"{of}_per_{by}": (0.0, 0.0) for of in ("times", "deaths") for by in ("doubling", "density")}
    truth = LogarithmicPool((0.0, 0.0), (0.0, 0.0), **slopes | {f"times_per_{changing}": (1.0, -1.0)})
    both, elapsed, density = parts(6000), np.tile([6.0, 24.0, 96.0], 2000), np.repeat([2.0, 8.0, 32.0], 2000)
    death, weights = drawn(truth.pool(both, elapsed, density))
    found = fit_pool(both, death, weights, np.ones_like(weights), elapsed, density)
    for name in slopes:
        slope = np.subtract(*getattr(found, name))
        assert slope > 1 if name == f"times_per_{changing}" else abs(slope) < 0.5, name


def test_a_pool_saved_without_a_density_does_not_look_at_it():
    both = parts(50)
    saved = LogarithmicPool((1.0, -1.0), (0.0, 2.0), (0.3, 0.0), (0.0, 0.4)).to_json()
    old = LogarithmicPool.from_json({name: value for name, value in saved.items() if "density" not in name})
    sparse, dense = (old.pool(both, 24.0, density).masses for density in (1.0, 50.0))
    np.testing.assert_array_equal(sparse, dense)


def test_few_stays_leave_the_weights_about_equal():
    both = parts(12)
    death, weights = drawn(both[0])
    found = fit_pool(both, death, weights, np.ones_like(weights), 24.0, row_weight=0.25)
    assert max(np.abs([*found.times, *found.deaths])) < 0.4


def test_an_open_stay_and_an_unknown_outcome_teach_nothing_of_what_is_not_known():
    """Stays of which nothing is known leave the weights equal; a censored one counts all cells that are still possible."""
    both = parts(500)
    nothing = np.ones((500, BINS, 2))
    found = fit_pool(both, np.full(500, np.nan), nothing, nothing, 24.0)
    assert np.abs([found.times, found.deaths]).max() < 1e-4


def test_twice_the_same_rows_at_half_the_weight_are_the_same_evidence():
    both = parts(300)
    death, weights = drawn(both[1])
    once = fit_pool(both, death, weights, np.ones_like(weights), 24.0)
    doubled = [Distribution.concatenate([of, of]) for of in both]
    twice = fit_pool(
        doubled, *(np.concatenate([x, x]) for x in (death, weights, np.ones_like(weights))), 24.0, row_weight=0.5
    )
    np.testing.assert_allclose(twice.times, once.times, atol=2e-3)
    np.testing.assert_allclose(twice.deaths, once.deaths, atol=2e-3)


def test_a_pool_comes_back_from_json():
    pool = LogarithmicPool((0.1, -0.1), (0.2, -0.2), (0.0, 0.01), (0.3, 0.0), (0.1, 0.0), (0.0, -0.1))
    assert LogarithmicPool.from_json(pool.to_json()) == pool
