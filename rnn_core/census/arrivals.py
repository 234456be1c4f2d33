"""How many come: begins of stays per unit and hour, by hour of day, weekday and a slow level, with their scatter."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import gammaln

from rnn_core.contracts.census import Calendar
from rnn_core.contracts.frames import HOUR

# Half-lives of the level, in days; the last is as good as none.
HALF_LIVES: tuple[float, ...] = (7.0, 14.0, 28.0, 56.0, 3650.0)
# How much more a day's count may vary than a Poisson count, as a share of its mean.
SCATTERS: tuple[float, ...] = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
# What one has to be more likely than Poisson (log-likelihood), so that chance alone rarely makes counts scatter.
_GAIN = 3.0
# Of a unit's own begins, those of its first days only teach the level.
_WARM_UP_DAYS = 7
# A day counts half in the choice of half-life and scatter for each so many days that it is ago.
_MEMORY_DAYS = 60.0
_WEEK = 7 * 24
# A gap is a time without a begin or end in any unit that chance would bring once in a million.
_GAP_EVENTS = np.log(1e6)
# A unit that takes patients at half its usual rate when its beds are full is not stopped by them.
_BLOCKED = 0.5


@dataclass(frozen=True)
class Prior:
    """A level as if `begins` were known of a unit, at the rate per bed of all units at the time; per_bed: that of all time,
    in begins per hour. beds: float64 [units]."""

    begins: float
    per_bed: float
    beds: np.ndarray


@dataclass(frozen=True)
class Arrivals:
    """What is expected to come to each unit, fitted.

    rhythm: float64 [units, 168], relative rate in each hour of the week from Monday 00:00 on, mean 1.
    level: float64 [units], begins per hour. certainty: float64 [units], the shape of the level's gamma distribution: so many
        begins are known of it. half_life_days, scatter: float64 [units], of `HALF_LIVES` and `SCATTERS`.
    blocked: bool [units], whether hardly anyone comes while all beds are taken.
    prior: what is expected of a unit before its first begin.
    """

    rhythm: np.ndarray
    level: np.ndarray
    certainty: np.ndarray
    half_life_days: np.ndarray
    scatter: np.ndarray
    blocked: np.ndarray
    prior: "Prior"

    def rates(self, as_of: np.datetime64, hours: int, calendar: Calendar) -> np.ndarray:
        """Expected begins in each of the `hours` after `as_of`, float64 [units, hours]."""
        return self.level[:, None] * self.rhythm[:, hours_of_week(as_of, hours, calendar)]

    def followed(self, history: "History", calendar: Calendar) -> np.ndarray:
        """The level known before each day of a history and after the last, float64 [units, days + 1], with this rhythm and
        half-life."""
        exposure = history.open * self.rhythm[:, history.hours_of_week(calendar)]
        shape, rate = _levels(_by_day(history.counts), _by_day(exposure), self.prior)
        unit = np.arange(len(self.level))
        chosen = np.searchsorted(HALF_LIVES, self.half_life_days)
        return shape[chosen, unit] / rate[chosen, unit]

    def size(self, rates: np.ndarray, stays: np.ndarray) -> np.ndarray:
        """Size of the negative binomial number of those who come and are in still, infinite for Poisson, [units].

        rates: expected begins of each hour ahead; stays: the probability that who comes in it is in still at the end; float64
        [units, hours] each. The variance of the count over its mean m, squared, less that of a Poisson count, has two parts:

        - bursts: hours scatter on their own, 1 + scatter times as much as Poisson counts, so scatter * sum(rate stays²) / m²;
        - the level, one factor on all hours: it is known as well as from so many begins, which count less where they come in
          bursts, (1 + scatter) / begins; and it goes on drifting, so that what is known fades as much as with the half-life.
        """
        mean = np.maximum((rates * stays).sum(axis=1), 1e-12)
        bursts = self.scatter * (rates * stays**2).sum(axis=1) / mean**2
        days = rates.shape[1] / 24
        begins = (self.certainty - self.prior.begins) * 0.5 ** (days / self.half_life_days) + self.prior.begins
        return 1 / np.maximum(bursts + (1 + self.scatter) / begins, 1e-12)


def hours_of_week(start: np.datetime64, hours: int, calendar: Calendar) -> np.ndarray:
    """Hour of the local week, 0 is Monday 00:00, of each of the `hours` from `start` on, int64 [hours]."""
    local = calendar.local(start + np.arange(hours) * HOUR)
    return calendar.weekday(local) * 24 + local.hour.to_numpy(np.int64)


def hour_of_day(times: np.ndarray, timezone: str) -> np.ndarray:
    """Hours since the local midnight by the clock, with their fraction, float64 [times]."""
    local = pd.DatetimeIndex(times.astype("datetime64[us]"), tz="UTC").tz_convert(timezone).tz_localize(None)
    clock = local.to_numpy("datetime64[us]").view(np.int64) % 86_400_000_000
    return clock / 3_600_000_000


def find_gaps(begins: np.ndarray, ends: np.ndarray, as_of: np.datetime64) -> np.ndarray:
    """Times without a begin or an end in any unit that are too long for chance: datetime64[us] [gaps, 2].

    A feed that breaks off looks like a hospital to which nobody comes. Chance is a Poisson process at the median of the
    waiting times.
    """
    times = np.concatenate([begins, ends[~np.isnat(ends)], [as_of]]).astype("datetime64[us]")
    # As numbers they are sorted four times as fast.
    times = np.sort(times.view(np.int64)).view("datetime64[us]")
    waits = np.diff(times) / HOUR
    if not len(waits):
        return np.empty((0, 2), "datetime64[us]")
    # Nights are quieter than the mean; half a day is never a gap.
    too_long = waits > max(_GAP_EVENTS * 2 * np.median(waits) / np.log(2), 12.0)
    return np.stack([times[:-1][too_long], times[1:][too_long]], axis=1)


@dataclass(frozen=True)
class History:
    """Begins of a time up to a slot, by unit and hour.

    counts: float64 [units, hours], begins while the unit could take them. open: float64 [units, hours], share of the hour in
    which it could. blocked: bool [units], see `Arrivals`. most: float64 [units], the greatest census. start: of the first hour.
    """

    counts: np.ndarray
    open: np.ndarray
    blocked: np.ndarray
    most: np.ndarray
    start: np.datetime64

    def until(self, hours: int) -> "History":
        """Its first hours."""
        return replace(self, counts=self.counts[:, :hours], open=self.open[:, :hours])

    def of(self, units: slice) -> "History":
        """Only these units."""
        return replace(
            self,
            counts=self.counts[units],
            open=self.open[units],
            blocked=self.blocked[units],
            most=self.most[units],
        )

    def hours_of_week(self, calendar: Calendar) -> np.ndarray:
        """Of each hour, see `hours_of_week`, [hours]."""
        return hours_of_week(self.start, self.counts.shape[1], calendar)


def make_history(
    unit: np.ndarray,
    begins: np.ndarray,
    ends: np.ndarray,
    usable: list[tuple[np.ndarray, np.ndarray]],
    gaps: np.ndarray,
    as_of: np.datetime64,
    days: int,
) -> History:
    """Begins per unit and hour in the `days` up to `as_of`, and the share of each hour in which there could be one.

    unit: row number of each stay's unit, [stays]. begins, ends: datetime64[us] [stays], ends NaT while open.
    usable: per unit the times from which a number of beds could be used, rising, and the numbers, NaN where not known; the
        first holds before its time, too. gaps: datetime64[us] [gaps, 2], times from which nothing is known of any unit.

    There can be no begin before a unit's first, in a gap, and while all beds are taken, if the unit's own past shows that
    hardly anyone comes then: what those times would have brought is not known, and they are no zeros.
    """
    hours = days * 24
    start = as_of - np.timedelta64(hours, "h")
    marks = start + np.arange(hours + 1) * HOUR
    no_gap = 1 - _share_within(marks, gaps[:, 0], gaps[:, 1])
    counts, is_open = np.zeros((len(usable), hours)), np.zeros((len(usable), hours))
    blocked, most = np.zeros(len(usable), bool), np.zeros(len(usable))
    order = np.argsort(unit, kind="stable")
    bounds = np.searchsorted(unit[order], np.arange(len(usable) + 1))
    for row, (times, beds) in enumerate(usable):
        mine = order[bounds[row] : bounds[row + 1]]
        if not len(mine):
            continue
        came, left = begins[mine], ends[mine]
        found, full_from, full_until, most[row] = _full_times(came, left, times, beds, as_of)
        counted, full = (came >= start) & (came < as_of), _share_within(marks, full_from, full_until)
        blocked[row] = _is_blocked(found[counted], full)
        if blocked[row]:
            counted &= found
        # The first begin is why the unit is known: what happened from then on is chance.
        first = came.min()
        at = (came[counted & (came > first)] - start) // HOUR
        counts[row] = np.bincount(at.astype(np.int64), minlength=hours)
        is_open[row] = no_gap * (1 - full) if blocked[row] else no_gap
        is_open[row, : max(int(np.ceil((first - start) / HOUR)), 0)] = 0.0
    return History(counts, is_open, blocked, most, start)


def _full_times(
    came: np.ndarray, left: np.ndarray, times: np.ndarray, beds: np.ndarray, as_of: np.datetime64
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Of one unit: whether each of `came` found a free bed, from when and until when all beds were taken, and the greatest
    census."""
    gone = left[~np.isnat(left)]
    moments = np.concatenate([gone, came, times[1:]])
    change = np.concatenate([np.full(len(gone), -1), np.ones(len(came), int), np.zeros(len(times[1:]), int)])
    # At one moment ends come first: the bed is taken by the next patient.
    order = np.argsort(moments.astype("datetime64[us]").view(np.int64), kind="stable")
    moments, census = moments[order], np.cumsum(change[order])
    version = np.clip(np.searchsorted(times, moments, side="right") - 1, 0, None)
    capacity = np.where(np.isnan(beds), np.inf, beds)[version] if len(beds) else np.full(len(moments), np.inf)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    after = place[len(gone) : len(gone) + len(came)]
    full = census >= capacity
    until = np.append(moments[1:], max(as_of, moments[-1]))
    return census[after] <= capacity[after], moments[full], until[full], float(census.max(initial=0))


def _share_within(marks: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Share of each interval between `marks` that is covered by disjoint intervals in their order, [marks - 1]."""
    if not len(starts):
        return np.zeros(len(marks) - 1)
    at = np.stack([starts, stops], axis=1).ravel()
    hours = (at - marks[0]) / HOUR
    covered = np.concatenate([[0.0], np.cumsum(np.diff(hours) * (np.arange(len(hours) - 1) % 2 == 0))])
    # Intervals that touch share a moment: np.interp takes either, for nothing is covered in between.
    return np.clip(np.diff(np.interp((marks - marks[0]) / HOUR, hours, covered)), 0.0, 1.0)


def _is_blocked(found: np.ndarray, full: np.ndarray) -> bool:
    """Whether fewer came while the unit was full than would at its usual rate, where enough would to see it."""
    taken, free = full.sum(), len(full) - full.sum()
    usual = found.sum() / max(free, 1.0) * taken
    return bool(usual >= 3 and (~found).sum() < _BLOCKED * usual)


def fit_arrivals(history: History, beds: np.ndarray, calendar: Calendar) -> Arrivals:
    """Rhythm, level and scatter of each unit; what one unit says too little about is taken from all.

    beds: float64 [units], NaN where not known: the greatest census stands for them. A unit of so many beds is expected to
    have so many times the begins per bed of all units, until its own begins say otherwise.

    Rhythm: factors per weekday, per clock hour, and per clock hour of working days and of weekends, each shrunk to that of
    all units, and that to 1 (gamma factors, their spread by moments). Level: a gamma distribution whose past fades (Smith
    1979, J. R. Stat. Soc. B 41): its half-life is the one under which the next day's count was most likely, day after day.
    Scatter: likewise, 0 (Poisson) unless another was clearly more likely.
    """
    n_units = len(history.counts)
    week = history.hours_of_week(calendar)
    rhythm = _fit_rhythm(_by_hour_of_week(history.counts, week), _by_hour_of_week(history.open, week))
    counts, exposure = _by_day(history.counts), _by_day(history.open * rhythm[:, week])
    days = counts.shape[1]

    size = np.where(np.isnan(beds), np.maximum(history.most, 1.0), np.maximum(beds, 1.0))
    begun, beds_open = counts.sum(axis=1), size[:, None] * exposure
    per_bed = max(begun.sum() / max(beds_open.sum(), 1e-9), 1e-9)
    known = float(np.clip(_concentration(begun, per_bed * beds_open.sum(axis=1)), 1.0, 50.0)) if n_units > 1 else 1.0
    prior = Prior(known, per_bed, size)
    shape, rate = _levels(counts, exposure, prior)
    predicted = shape[..., :-1] / rate[..., :-1] * exposure
    judged = (np.cumsum(exposure > 0, axis=1) > _WARM_UP_DAYS) & (exposure > 0)
    recent = 0.5 ** (np.arange(days)[::-1] / _MEMORY_DAYS)
    likely = (_log_likelihood(counts, predicted, shape[..., :-1], 0.0) * judged * recent).sum(axis=2)
    best = np.argmax(likely + likely.mean(axis=1, keepdims=True), axis=0)
    row = np.arange(n_units)

    given = counts, predicted[best, row], shape[best, row, :-1]
    likely = np.stack([(_log_likelihood(*given, scatter) * judged).sum(axis=1) for scatter in SCATTERS])
    likely += likely.mean(axis=1, keepdims=True)
    scattered = np.argmax(likely, axis=0)
    scattered[likely[scattered, row] - likely[0] < _GAIN] = 0
    return Arrivals(
        rhythm,
        shape[best, row, -1] / rate[best, row, -1],
        shape[best, row, -1],
        np.array(HALF_LIVES)[best],
        np.array(SCATTERS)[scattered],
        history.blocked,
        prior,
    )


def _levels(counts: np.ndarray, exposure: np.ndarray, prior: Prior) -> tuple[np.ndarray, np.ndarray]:
    """Shape and rate of the level's gamma distribution before each day and after the last, from begins and hours of each day
    [units, days], for each of `HALF_LIVES`: float64 [half-lives, units, days + 1] each."""
    beds_open = prior.beds[:, None] * exposure
    # The rate per bed of all units at the time, known as one begin at first.
    of_all = (_faded(counts.sum(axis=0)) + 1) / (_faded(beds_open.sum(axis=0)) + 1 / prior.per_bed)
    rate = _faded(exposure) + prior.begins / (prior.beds[:, None] * of_all[:, None, :])
    return _faded(counts) + prior.begins, rate


def _by_day(hourly: np.ndarray) -> np.ndarray:
    """Sums of the days of [units, hours], [units, days]."""
    return hourly.reshape(len(hourly), -1, 24).sum(axis=2)


def _by_hour_of_week(values: np.ndarray, week: np.ndarray) -> np.ndarray:
    """Sums over the hours of each hour of the week, [units, 168]."""
    order = np.argsort(week, kind="stable")
    present, first = np.unique(week[order], return_index=True)
    sums = np.zeros((len(values), _WEEK))
    sums[:, present] = np.add.reduceat(values[:, order], first, axis=1)
    return sums


def _fit_rhythm(counts: np.ndarray, exposure: np.ndarray) -> np.ndarray:
    """Relative rate per hour of the week, mean 1, [units, 168]: weekday times hour of day, and what working days and weekends
    differ in by hour, for planned patients come on working mornings."""
    n_units = len(counts)
    level = counts.sum(axis=1) / np.maximum(exposure.sum(axis=1), 1e-9)
    counts, expected = counts.reshape(n_units, 7, 24), (exposure * level[:, None]).reshape(n_units, 7, 24)
    weekday, hour = np.ones((n_units, 7, 1)), np.ones((n_units, 1, 24))
    for _ in range(3):
        hour = _shrunk(counts.sum(axis=1), (expected * weekday).sum(axis=1))[:, None, :]
        weekday = _shrunk(counts.sum(axis=2), (expected * hour).sum(axis=2))[:, :, None]
    rhythm = weekday * hour
    for days in (slice(0, 5), slice(5, 7)):
        given = (expected[:, days] * rhythm[:, days]).sum(axis=1)
        rhythm[:, days] *= _shrunk(counts[:, days].sum(axis=1), given)[:, None, :]
    rhythm = rhythm.reshape(n_units, _WEEK)
    return rhythm / rhythm.mean(axis=1, keepdims=True)


def _shrunk(counts: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Factors on `expected`, [units, cells]: those of all units shrunk to 1, those of a unit to them."""
    pooled = _posterior(counts.sum(axis=0), expected.sum(axis=0), np.ones(counts.shape[1]))
    return _posterior(counts, expected, pooled)


def _posterior(counts: np.ndarray, expected: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Mean of a gamma factor whose prior has the mean `prior` and a spread as the counts show it."""
    known = _concentration(counts, expected * prior)
    return (counts + known) / (expected + known / prior)


def _concentration(counts: np.ndarray, expected: np.ndarray) -> float:
    """Shape of the gamma distribution of the factors between counts and expected, by moments; large where chance alone
    explains the difference."""
    excess = (np.square(counts - expected) - expected).sum() / max(np.square(expected).sum(), 1e-9)
    return float(1 / np.clip(excess, 1e-5, 1e3))


def _faded(daily: np.ndarray) -> np.ndarray:
    """Sums of the days [..., days] before each and after the last, that fade: float64 [half-lives, ..., days + 1]."""
    keep = (0.5 ** (1 / np.array(HALF_LIVES))).reshape(-1, *[1] * (daily.ndim - 1))
    sums = np.zeros((len(HALF_LIVES), *daily.shape[:-1], daily.shape[-1] + 1))
    for day in range(daily.shape[-1]):
        sums[..., day + 1] = keep * (sums[..., day] + daily[..., day])
    return sums


def _log_likelihood(counts: np.ndarray, mean: np.ndarray, certainty: np.ndarray, scatter: float) -> np.ndarray:
    """Of daily counts, negative binomial as `Arrivals.size` says but for what is the same in all, in the shape of `mean`."""
    mean = np.maximum(mean, 1e-12)
    size = 1 / (scatter / mean + (1 + scatter) / certainty)
    return gammaln(counts + size) - gammaln(size) - size * np.log1p(mean / size) - counts * np.log1p(size / mean)
