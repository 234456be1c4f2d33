"""How long a stay of a unit lasts: the product-limit curve, open and late-entered stays, shrinkage, long stays."""

import numpy as np
import pytest

from rnn_core.census.fresh_stay import NOT_ENDED, NOT_KNOWN, FreshStays, fit_fresh_stays
from rnn_core.contracts.frames import ALIVE, DIED
from rnn_core.statistics.population import fit_population_curve

HOURS = np.array([4, 24, 72, 168])


def survival(fresh: FreshStays, hours: int, elapsed=0.0, unit=0) -> np.ndarray:
    """Of stays that have lasted so long, one number or several."""
    unit, elapsed = np.broadcast_arrays(unit, elapsed)
    return fresh.ahead(np.atleast_1d(unit), np.atleast_1d(elapsed))[0][:, hours]


def death(fresh: FreshStays, hours: int, elapsed=0.0) -> np.ndarray:
    elapsed = np.atleast_1d(elapsed)
    return fresh.ahead(np.zeros(len(elapsed), int), elapsed)[1][:, hours]


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
            assert survival(fresh, h, elapsed) == pytest.approx(reference.survival(h), abs=0.006)
            assert death(fresh, h, elapsed) == pytest.approx(reference.cumulative_incidence(h, DIED), abs=0.01)


def test_stays_that_came_late_into_the_data_say_nothing_of_the_hours_before():
    lasted = drawn(20_000, 60.0)
    kept = lasted[lasted > 48]
    zeros, cause = np.zeros(len(kept), int), np.full(len(kept), ALIVE)
    late = fit_fresh_stays(zeros, kept, cause, 1, entry=np.full(len(kept), 48.0))
    assert survival(late, 24, 48.0) == pytest.approx(np.exp(-24 / 60), abs=0.01)
    naive = fit_fresh_stays(zeros, kept, cause, 1)
    assert survival(naive, 48) > 0.99, "as if nobody left in the first two days"


def test_a_unit_with_few_stays_is_like_all_and_one_with_many_like_itself():
    many, few = drawn(5000, 100.0), drawn(8, 20.0, 1)
    unit = np.repeat([0, 1, 2], [5000, 5000, 8])
    lasted = np.concatenate([many, many / 2, few])
    fresh = fit_fresh_stays(unit, lasted, np.full(len(unit), ALIVE), 3)
    day = survival(fresh, 24, unit=np.arange(3))
    assert day[0] == pytest.approx(np.exp(-0.24), abs=0.02)
    assert day[1] == pytest.approx(np.exp(-0.48), abs=0.02)
    assert np.exp(-24 / 20) + 0.1 < day[2] < np.exp(-24 * 0.015), "its eight stays count beside the twenty of all"


def test_beyond_the_longest_stays_the_rate_stays_what_it_was_and_deaths_are_among_the_ends():
    cause = np.where(np.arange(4000) % 5 == 0, DIED, ALIVE)
    fresh = fit_fresh_stays(np.zeros(4000, int), drawn(4000, 30.0), cause, 1)
    late = survival(fresh, 24, np.array([800.0, 1440.0, 9000.0]))
    np.testing.assert_allclose(late, np.exp(-24 / 30), atol=0.1)
    np.testing.assert_allclose(late, late[0], rtol=1e-9)
    died = death(fresh, 24, np.array([0.0, 100.0, 800.0, 9000.0]))
    np.testing.assert_allclose(died, 0.2 * (1 - np.exp(-24 / 30)), atol=0.05)


def test_an_end_whose_outcome_is_not_known_counts_as_the_others_do():
    cause = np.tile([DIED, ALIVE, ALIVE, NOT_KNOWN], 1000)
    fresh = fit_fresh_stays(np.zeros(4000, int), drawn(4000, 50.0), cause, 1)
    assert death(fresh, 168) / (1 - survival(fresh, 168)) == pytest.approx(1 / 3, abs=0.02)


def test_one_who_comes_in_an_hour_comes_at_any_time_of_it():
    fresh = fit_fresh_stays(np.zeros(4000, int), drawn(4000, 10.0), np.full(4000, ALIVE), 1)
    share = fresh.newcomers(0, 4)[0]
    np.testing.assert_allclose(share, [survival(fresh, h)[0] / 2 + survival(fresh, h - 1)[0] / 2 for h in (4, 3, 2, 1)])


def test_patients_leave_by_day_whenever_they_came():
    """Those who came in the evening leave as those who came in the morning: at the hours of the day that are for it."""
    rng = np.random.default_rng(0)
    begin, days = rng.uniform(0, 24, 40_000), rng.geometric(0.3, 40_000)
    by_day = np.floor(begin / 24) * 24 + days * 24 + rng.uniform(10, 18, 40_000)
    zeros, alive = np.zeros(40_000, int), np.full(40_000, ALIVE)
    fresh = fit_fresh_stays(zeros, by_day - begin, alive, 1, begin_clock=begin)
    assert fresh.clock[11:17].min() > 1.5 > 0.3 > fresh.clock[[0, 1, 2, 3, 4, 20, 21, 22, 23]].max()
    stays, _ = fresh.ahead([0], [36.0], 20)
    assert stays[0, 12] > 0.9 > 0.8 > stays[0, 24], "from 20:00 hardly anyone leaves until 08:00"
    by_chance = fit_fresh_stays(zeros, rng.exponential(60, 40_000), alive, 1, begin_clock=begin)
    np.testing.assert_allclose(by_chance.clock, 1.0, atol=0.1)
