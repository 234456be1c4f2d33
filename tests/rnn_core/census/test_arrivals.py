"""Arrivals in worlds whose rate is known: rhythm, level and its changes, scatter, full units, gaps, small units."""

from datetime import timedelta

import numpy as np
import pytest
from builders_census import HOUR_OF_DAY, START, WEEKDAY, World, at

from rnn_core.census.arrivals import Arrivals, Prior, find_gaps, fit_arrivals, hours_of_week, make_history
from rnn_core.contracts.census import Calendar

ANY_DAY = Calendar()
NO_BEDS = np.empty(0, "datetime64[us]"), np.empty(0)
SINCE = np.array(["1000-01-01"], "datetime64[us]")


def fitted(world: World, days: int, *, usable=None, gaps=None, keep=None, calendar=ANY_DAY):
    """What is learned from the first days of a world."""
    chosen = (world.begin < days * 24) & (True if keep is None else keep)
    begin, end = (START + (x[chosen] * 3.6e9).astype("timedelta64[us]") for x in (world.begin, world.end))
    end[world.end[chosen] > days * 24] = np.datetime64("NaT")
    beds = [NO_BEDS] * world.n_units if usable is None else [(SINCE, np.array([n], float)) for n in usable]
    gaps = np.empty((0, 2), "datetime64[us]") if gaps is None else gaps
    history = make_history(world.unit[chosen], begin, end, beds, gaps, at(days * 24), days)
    return fit_arrivals(history, np.array([np.nan] * world.n_units if usable is None else usable, float), calendar)


def test_hour_of_day_weekday_and_level_are_found():
    found = fitted(World(np.random.default_rng(0), [0.3, 0.5], 300), 300)
    rhythm = found.rhythm.reshape(2, 7, 24)
    for unit in range(2):
        np.testing.assert_allclose(rhythm[unit].mean(axis=0), HOUR_OF_DAY, atol=0.25)
        np.testing.assert_allclose(rhythm[unit].mean(axis=1), WEEKDAY, atol=0.15)
    np.testing.assert_allclose(found.level, [0.3, 0.5], rtol=0.1)
    day = found.rates(at(300 * 24), 24, ANY_DAY)
    np.testing.assert_allclose(day.sum(axis=1), found.level * rhythm[:, 300 % 7].sum(axis=1))


def test_the_clock_is_the_hospitals_through_summer_time_and_winter_time():
    monday = np.datetime64("2026-03-23T00:00", "us")
    assert hours_of_week(monday, 2, Calendar("Europe/Zurich")).tolist() == [1, 2]
    assert hours_of_week(monday + np.timedelta64(7, "D"), 2, Calendar("Europe/Zurich")).tolist() == [2, 3]
    world = World(np.random.default_rng(0), [1.0], 60)
    peak = [
        np.argmax(fitted(world, 60, calendar=Calendar(zone)).rhythm.reshape(7, 24).sum(axis=0))
        for zone in ("UTC", "Etc/GMT-6")
    ]
    assert (peak[1] - peak[0]) % 24 == 6


def test_as_many_come_on_a_holiday_as_on_a_sunday_and_past_holidays_make_no_weekday_quiet():
    """Every fourth Wednesday is a holiday, on which a tenth of the usual patients come, as on Sundays."""
    days = np.arange(301)
    first = START.astype("datetime64[D]").item()
    weekday = (first.weekday() + days) % 7
    holiday = (weekday == 2) & (days // 7 % 4 == 0)
    rate = np.repeat(np.where(holiday | (weekday == 6), 0.05, 0.5) / WEEKDAY[weekday], 24)
    world = World(np.random.default_rng(6), [rate], 301)
    known = Calendar(holidays=frozenset(first + timedelta(days=int(day)) for day in days[holiday]))
    ahead = np.flatnonzero(holiday[:294])[-1]  # the last one: forecast from the midnight before
    with_dates, without = (
        fitted(world, int(ahead), calendar=calendar)
        .rates(at(ahead * 24), 8 * 24, calendar)[0]
        .reshape(8, 24)
        .sum(axis=1)
        for calendar in (known, ANY_DAY)
    )
    assert with_dates[0] == pytest.approx(1.2, abs=0.6) and without[0] > 6
    assert with_dates[7] == pytest.approx(12, rel=0.15) and without[7] < with_dates[7]


def test_a_month_after_a_change_of_level_the_new_one_is_forecast():
    rate = np.where(np.arange(200 * 24) < 100 * 24, 0.2, 0.35)
    world = World(np.random.default_rng(1), [rate, rate], 200)
    before, after = fitted(world, 100), fitted(world, 130)
    np.testing.assert_allclose(before.level, 0.2, rtol=0.15)
    np.testing.assert_allclose(after.level, 0.35, rtol=0.15)
    assert (before.half_life_days > 28).any() and (after.half_life_days <= 28).all()


def test_bursts_are_negative_binomial_and_smooth_arrivals_poisson():
    smooth = fitted(World(np.random.default_rng(2), [0.15, 0.3], 250), 250)
    assert smooth.scatter.tolist() == [0, 0]
    bursts = fitted(World(np.random.default_rng(2), [0.15, 0.3], 250, burst=1.0), 250)
    # E[g²] / E[g] - 1 of groups of 1 + Poisson(1).
    np.testing.assert_allclose(bursts.scatter, 1.5, atol=0.5)
    rates = np.full((2, 24), 10 / 24)
    assert (bursts.size(rates, np.ones((2, 24))) < 10).all() and (smooth.size(rates, np.ones((2, 24))) > 100).all()


def arrivals_of_one_unit(scatter: float, certainty: float, half_life_days: float) -> Arrivals:
    one = np.ones(1)
    prior = Prior(0.0, 1.0, one)
    return Arrivals(np.ones((1, 168)), one, certainty * one, half_life_days * one, scatter * one, one > 2, prior)


def test_those_who_come_in_bursts_and_are_in_still_scatter_as_much_as_is_said_of_them():
    """Groups come in each hour; the level is taken from those who came before, the number of later ones is known in law."""
    rng, reps, before, more = np.random.default_rng(3), 20_000, 60.0, 1.0
    rates, stays = np.full((1, 72), 0.25), np.exp(-np.arange(72)[::-1] / 20)[None]

    def grouped(mean) -> np.ndarray:
        heads = rng.poisson(np.broadcast_to(mean / (1 + more), (reps, np.size(mean))))
        return heads + rng.poisson(more * heads)

    still_in = rng.binomial(grouped(rates[0]), stays).sum(axis=1)
    mean = (rates * stays).sum()
    missed = still_in - mean * grouped(before)[:, 0] / before
    # Of groups of 1 + Poisson(1), see above; the level does not drift.
    said = arrivals_of_one_unit(1.5, before, 1e9).size(rates, stays)[0]
    assert np.var(missed) == pytest.approx(mean + mean**2 / said, rel=0.05)
    assert arrivals_of_one_unit(0.0, 1e9, 1e9).size(rates, stays)[0] > 1e8


def test_a_level_that_drifts_is_known_half_as_well_after_its_half_life():
    week = np.full((1, 168), 0.1), np.ones((1, 168))
    drifts, rests = (arrivals_of_one_unit(0.5, begins, days).size(*week) for begins, days in ((80, 7), (40, 1e9)))
    np.testing.assert_allclose(drifts, rests, rtol=1e-6)


def test_the_rate_of_a_unit_that_is_often_full_is_of_those_who_would_come():
    world = World(np.random.default_rng(3), [0.15, 0.3], 250, beds=[13, 22])
    accepted = np.bincount(world.unit) / (250 * 24)
    assert (accepted < [0.13, 0.26]).all()
    found = fitted(world, 250, usable=[13, 22])
    assert found.blocked.all()
    np.testing.assert_allclose(found.level, [0.15, 0.3], rtol=0.1)


def test_beds_that_do_not_stop_anyone_are_no_limit():
    found = fitted(World(np.random.default_rng(3), [0.15, 0.3], 250), 250, usable=[10, 20])
    assert not found.blocked.any()
    np.testing.assert_allclose(found.level, [0.15, 0.3], rtol=0.12)


def test_a_feed_that_breaks_off_is_no_time_without_patients():
    world = World(np.random.default_rng(4), [0.2, 0.2], 60)
    broken = (world.begin > 40 * 24) & (world.begin < 50 * 24)
    ended = (world.end < 40 * 24) | (world.end > 50 * 24)
    begin, end = (START + (x * 3.6e9).astype("timedelta64[us]") for x in (world.begin, world.end))
    end[world.end > 60 * 24] = np.datetime64("NaT")
    gaps = find_gaps(begin[~broken & ended], end[~broken & ended], at(60 * 24))
    (gap,) = (gaps - START) / np.timedelta64(1, "D")
    np.testing.assert_allclose(gap, [40, 50], atol=0.7)
    found, naive = (fitted(world, 60, keep=~broken, gaps=known) for known in (gaps, None))
    np.testing.assert_allclose(found.level, 0.2, rtol=0.2)
    assert (naive.level < found.level).all()
    assert len(find_gaps(begin, end, at(60 * 24))) == 0, "nights and weekends are none"


def test_a_unit_with_few_begins_is_like_the_others_for_its_beds():
    world = World(np.random.default_rng(5), [0.4, 0.4, 0.2], 120)
    few = (world.unit < 2) | ((world.begin > 118 * 24) & (world.begin < 119.5 * 24))
    found = fitted(world, 120, keep=few, usable=[40, 40, 20])
    np.testing.assert_allclose(found.level, [0.4, 0.4, 0.2], rtol=0.25)
    assert found.certainty[2] < found.certainty[0]
    np.testing.assert_allclose(found.rhythm[2], found.rhythm[0], atol=0.35)


def test_a_unit_that_opened_late_is_not_judged_by_the_time_before():
    world = World(np.random.default_rng(6), [0.3, 0.3], 150)
    found = fitted(world, 150, keep=(world.unit == 0) | (world.begin > 110 * 24))
    np.testing.assert_allclose(found.level, 0.3, rtol=0.2)


def test_without_a_begin_nobody_is_expected():
    none = np.empty(0, "datetime64[us]")
    history = make_history(np.empty(0, int), none, none, [NO_BEDS], np.empty((0, 2), "datetime64[us]"), at(240), 10)
    assert fit_arrivals(history, np.array([np.nan]), ANY_DAY).level[0] == pytest.approx(0, abs=1e-6)
    assert len(find_gaps(none, none, at(240))) == 0
