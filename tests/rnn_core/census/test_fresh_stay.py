"""How long a stay of a unit lasts: the product-limit curve, open and late-entered stays, shrinkage, long stays."""

import numpy as np
import pytest

from rnn_core.census.fresh_stay import NOT_ENDED, NOT_KNOWN, fit_fresh_stays
from rnn_core.contracts.frames import ALIVE, DIED
from rnn_core.statistics.population import fit_population_curve

HOURS = np.array([4.0, 24.0, 72.0, 168.0])


def drawn(n: int, mean: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).exponential(mean, n)


def test_it_is_the_product_limit_curve_of_open_and_ended_stays_by_cause():
    lasted, seen = drawn(20_000, 80.0), drawn(20_000, 150.0, 1)
    cause = np.where(lasted > seen, NOT_ENDED, np.where(drawn(20_000, 1.0, 2) < 0.1, DIED, ALIVE))
    fresh = fit_fresh_stays(np.zeros(20_000, int), np.minimum(lasted, seen), cause, 1)
    curve = fit_population_curve(np.minimum(lasted, seen), cause)
    for elapsed in (0.0, 10.5, 100.0):
        reference = curve.forecast_after(np.array([elapsed]))
        for h in HOURS:
            assert fresh.survival(0, h, elapsed) == pytest.approx(reference.survival(h)[0], abs=0.006)
            assert fresh.death(0, h, elapsed) == pytest.approx(reference.cumulative_incidence(h, DIED)[0], abs=0.01)


def test_stays_that_came_late_into_the_data_say_nothing_of_the_hours_before():
    lasted = drawn(20_000, 60.0)
    kept = lasted[lasted > 48]
    zeros, cause = np.zeros(len(kept), int), np.full(len(kept), ALIVE)
    late = fit_fresh_stays(zeros, kept, cause, 1, entry=np.full(len(kept), 48.0))
    assert late.survival(0, 24.0, 48.0) == pytest.approx(np.exp(-24 / 60), abs=0.01)
    naive = fit_fresh_stays(zeros, kept, cause, 1)
    assert naive.survival(0, 48.0) > 0.99, "as if nobody left in the first two days"


def test_a_unit_with_few_stays_is_like_all_and_one_with_many_like_itself():
    many, few = drawn(5000, 100.0), drawn(8, 20.0, 1)
    unit = np.repeat([0, 1, 2], [5000, 5000, 8])
    lasted = np.concatenate([many, many / 2, few])
    fresh = fit_fresh_stays(unit, lasted, np.full(len(unit), ALIVE), 3)
    day = fresh.survival(np.arange(3), 24.0)
    assert day[0] == pytest.approx(np.exp(-0.24), abs=0.02)
    assert day[1] == pytest.approx(np.exp(-0.48), abs=0.02)
    assert np.exp(-24 / 20) + 0.1 < day[2] < np.exp(-24 * 0.015), "its eight stays count beside the twenty of all"


def test_beyond_the_longest_stays_the_rate_stays_what_it_was_and_deaths_are_among_the_ends():
    cause = np.where(np.arange(4000) % 5 == 0, DIED, ALIVE)
    fresh = fit_fresh_stays(np.zeros(4000, int), drawn(4000, 30.0), cause, 1)
    late = fresh.survival(0, 24.0, np.array([800.0, 1440.0, 9000.0]))
    np.testing.assert_allclose(late, np.exp(-24 / 30), atol=0.1)
    np.testing.assert_allclose(late, late[0], rtol=1e-9)
    died = fresh.death(0, 24.0, np.array([0.0, 100.0, 800.0, 9000.0]))
    np.testing.assert_allclose(died, 0.2 * (1 - np.exp(-24 / 30)), atol=0.05)


def test_an_end_whose_outcome_is_not_known_counts_as_the_others_do():
    cause = np.tile([DIED, ALIVE, ALIVE, NOT_KNOWN], 1000)
    fresh = fit_fresh_stays(np.zeros(4000, int), drawn(4000, 50.0), cause, 1)
    assert fresh.death(0, 168.0) / (1 - fresh.survival(0, 168.0)) == pytest.approx(1 / 3, abs=0.02)


def test_one_who_comes_in_an_hour_comes_at_any_time_of_it():
    fresh = fit_fresh_stays(np.zeros(4000, int), drawn(4000, 10.0), np.full(4000, ALIVE), 1)
    ages = fresh.survival(0, np.linspace(2, 3, 101))
    assert fresh.hourly_survival(4)[0, 2] == pytest.approx(ages.mean(), abs=1e-3)
