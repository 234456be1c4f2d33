"""How long a stay of a unit lasts, by the hour: for those who have yet to come, and for those without a forecast of their own."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from rnn_core.contracts.census import CENSUS_HORIZONS
from rnn_core.contracts.frames import ALIVE, DIED

# Hours of a stay that are told apart; later ones are like the last.
_LAST = 60 * 24
_AHEAD = max(CENSUS_HORIZONS)
_HOURS = _LAST + _AHEAD
# What all units say counts like so many stays at risk in each hour of the unit's own.
PRIOR_STAYS = 20.0
# Over how many hours the rate is taken that holds where hardly any stay was seen.
_TAIL_HOURS = 168
# Hour of the day of each hour of a stay, by the hour of the day at which it began.
_HOUR_OF_DAY = (np.arange(24)[:, None] + np.arange(_HOURS)) % 24
# Causes beside ALIVE and DIED: an open stay, and one whose outcome is not known.
NOT_ENDED, NOT_KNOWN = -1, 2


@dataclass(frozen=True)
class FreshStays:
    """Rates of leaving per unit and hour of the stay, float64 [units, hours]; `death_share` of those who leave die.

    clock: float64 [24], by what the rate is multiplied in each hour of the local day: patients leave by day. Within an hour the
    rate is constant, so the survival curve is exp(-cumulative rate): Kaplan & Meier's, where stays are many.
    """

    rate: np.ndarray
    death_share: np.ndarray
    clock: np.ndarray

    @cached_property
    def _cumulative(self) -> np.ndarray:
        return np.concatenate([np.zeros((len(self.rate), 1)), np.cumsum(self.rate, axis=1)], axis=1)

    def ahead(self, unit: ArrayLike, elapsed: ArrayLike, clock: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Of stays of `unit` (row numbers, [stays]) that have lasted `elapsed` hours [stays] at a full hour of the local day:
        the probability of being in still, and of having died, 0, 1, ..., 168 hours later, float64 [stays, 169] each."""
        unit, hours = np.asarray(unit)[:, None], np.arange(_AHEAD + 1)
        # Beyond the last hour that is told apart the rate is constant: a stay is like one of that hour.
        age = np.clip(np.asarray(elapsed, dtype=np.float64), 0.0, float(_LAST))[:, None] + hours
        lower = age.astype(np.int64)
        upper = np.minimum(lower + 1, _HOURS)
        start = self._cumulative[unit, lower]
        cumulative = start + (age - lower) * (self._cumulative[unit, upper] - start)
        leave = np.diff(cumulative, axis=1) * self.clock[(clock + hours[:-1]) % 24]
        stays = np.exp(-_summed(leave))
        return stays, _summed(-np.diff(stays, axis=1) * self.death_share[unit, lower[:, :-1]])

    def newcomers(self, clock: int, hours: int) -> np.ndarray:
        """Of those who come in each of the `hours` after a full hour of the local day, the probability of being in still at
        the end of the last, float64 [units, hours]; they come at any time of their hour."""
        came = np.arange(hours)
        early, late = (self._from_clock[:, (clock + came + later) % 24, hours - came - later] for later in (0, 1))
        return (early + late) / 2

    def planned(self, unit: np.ndarray, due: np.ndarray, clock: int, hours: int) -> np.ndarray:
        """Of those who come to `unit` `due` hours [patients] after a full hour of the local day, the probability of having come
        and being in still after `hours`, float64 [patients]."""
        came = np.minimum(due.astype(np.int64), hours)
        early, late = (
            self._from_clock[unit, (clock + came + later) % 24, np.maximum(hours - came - later, 0)] for later in (0, 1)
        )
        return np.where(due <= hours, early + (due - came) * (late - early), 0.0)

    @cached_property
    def _from_clock(self) -> np.ndarray:
        """Survival of who comes at each full hour of the day, float64 [units, 24, hours + 1]."""
        ages = np.arange(_AHEAD)
        clock = self.clock[(np.arange(24)[:, None] + ages) % 24]
        return np.exp(-_summed(self.rate[:, None, :_AHEAD] * clock))


def _summed(values: np.ndarray) -> np.ndarray:
    """Sums of the first 0, 1, 2, ... values of the last axis."""
    sums = np.zeros((*values.shape[:-1], values.shape[-1] + 1))
    np.cumsum(values, axis=-1, out=sums[..., 1:])
    return sums


def fit_fresh_stays(
    unit: ArrayLike,
    lasted: ArrayLike,
    cause: ArrayLike,
    n_units: int,
    entry: ArrayLike | None = None,
    begin_clock: ArrayLike | None = None,
    prior_stays: float = PRIOR_STAYS,
) -> FreshStays:
    """Rates of stays that ended or are open, shrunk to those of all units together.

    unit: row number of each stay's unit, [stays]. lasted: hours to its end, or until now if it is open, [stays].
    cause: ALIVE, DIED, NOT_ENDED, or NOT_KNOWN (it counts as the others do), [stays].
    entry: hours from which a stay was under observation, [stays], 0 by default: delayed entry.
    begin_clock: hour of the local day at which a stay began, 0 to 24, [stays]; without it, leaving has no clock.
    prior_stays: see `PRIOR_STAYS`. Where all units together have fewer at risk, the rate is that of the last hours before.
    """
    unit, lasted, cause = np.asarray(unit, np.int64), np.asarray(lasted, np.float64), np.asarray(cause)
    entry = np.zeros(len(lasted)) if entry is None else np.asarray(entry, np.float64)
    begun = np.zeros(len(lasted)) if begin_clock is None else np.asarray(begin_clock, np.float64)
    seen = lasted > entry
    unit, lasted, cause, entry, begun = unit[seen], lasted[seen], cause[seen], entry[seen], begun[seen]
    # The nearest full hour: then hour h of the stay is hour begun + h of the day, on average.
    hour = np.floor(begun + 0.5).astype(np.int64) % 24
    row = unit * 24 + hour
    by_begin = _hours_in(row, lasted, n_units * 24)
    if entry.any():
        by_begin -= _hours_in(row, entry, n_units * 24)
    by_begin = by_begin.reshape(n_units, 24, _HOURS)
    clock = np.ones(24)
    if begin_clock is not None:
        clock = _fit_clock(by_begin.sum(axis=0), begun, lasted, cause != NOT_ENDED)
    at_risk = np.einsum("uba,ba->ua", by_begin, clock[_HOUR_OF_DAY])
    ends = _ends(unit, lasted, cause != NOT_ENDED, n_units)
    deaths, known = (_ends(unit, lasted, np.isin(cause, which), n_units) for which in ((DIED,), (ALIVE, DIED)))

    all_risk, all_ends = at_risk.sum(axis=0), ends.sum(axis=0)
    rare = np.flatnonzero(all_risk < prior_stays)
    last = min(int(rare[0]) if len(rare) else _LAST, _LAST)
    pooled = all_ends / np.maximum(all_risk, 1.0)
    recent = slice(max(last - _TAIL_HOURS, 0), None)
    pooled[last:] = all_ends[recent].sum() / max(all_risk[recent].sum(), 1.0)
    rate = (ends + prior_stays * pooled) / (at_risk + prior_stays)
    # Of stays beyond the last hour the unit has no rate of its own.
    rate[:, last:] = pooled[last:]

    total = known.sum()
    share = deaths.sum() / total if total else 0.0
    return FreshStays(rate, (deaths + prior_stays * share) / (known + prior_stays), clock)


def _fit_clock(at_risk: np.ndarray, begun: np.ndarray, lasted: np.ndarray, ended: np.ndarray) -> np.ndarray:
    """Relative rate of leaving in each hour of the day, in all units together, float64 [24].

    at_risk: hours that stays which began at each hour of the day spent in each of their hours, [24, hours].

    Ends of each hour of the day over those expected from the hours of the stays that it falls into, in turn with the rates
    per hour of the stay, until neither changes (iterative proportional fitting).
    """
    by_age = _ends(np.zeros(len(lasted), np.int64), lasted, ended, 1)[0]
    by_clock = np.bincount(((begun + lasted)[ended] % 24).astype(np.int64), minlength=24)
    clock = np.ones(24)
    for _ in range(5):
        rate = by_age / np.maximum((at_risk * clock[_HOUR_OF_DAY]).sum(axis=0), 1.0)
        expected = np.bincount(_HOUR_OF_DAY.ravel(), (at_risk * rate).ravel(), 24)
        clock = (by_clock + PRIOR_STAYS) / (expected + PRIOR_STAYS)
    return clock


def _hours_in(row: np.ndarray, lasted: np.ndarray, n_rows: int) -> np.ndarray:
    """Hours that the stays of each row spent in each hour of a stay, [rows, hours]."""
    whole = np.minimum(lasted.astype(np.int64), _HOURS)
    left = _sums(row, whole, np.ones(len(row)), n_rows)
    hours = left.sum(axis=1, keepdims=True) - np.cumsum(left, axis=1) + _sums(row, whole, lasted - whole, n_rows)
    return hours[:, :_HOURS]


def _ends(row: np.ndarray, lasted: np.ndarray, which: np.ndarray, n_rows: int) -> np.ndarray:
    whole = np.minimum(lasted[which].astype(np.int64), _HOURS)
    return _sums(row[which], whole, np.ones(len(whole)), n_rows)[:, :_HOURS]


def _sums(row: np.ndarray, hour: np.ndarray, values: np.ndarray, n_rows: int) -> np.ndarray:
    """Of each row and hour from 0 to `_HOURS`, float64 [rows, hours + 1]."""
    cell = row * (_HOURS + 1) + hour
    return np.bincount(cell, values, n_rows * (_HOURS + 1)).reshape(n_rows, _HOURS + 1)
