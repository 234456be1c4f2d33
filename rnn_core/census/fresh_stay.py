"""How long a stay of a unit lasts, by the hour: for those who have yet to come, and for those without a forecast of their own."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rnn_core.contracts.census import CENSUS_HORIZONS
from rnn_core.contracts.frames import ALIVE, DIED

# Hours of a stay that are told apart; later ones are like the last.
_LAST = 60 * 24
_HOURS = _LAST + max(CENSUS_HORIZONS)
# What all units say counts like so many stays at risk in each hour of the unit's own.
PRIOR_STAYS = 20.0
# Over how many hours the rate is taken that holds where hardly any stay was seen.
_TAIL_HOURS = 168
# Causes beside ALIVE and DIED: an open stay, and one whose outcome is not known.
NOT_ENDED, NOT_KNOWN = -1, 2


@dataclass(frozen=True)
class FreshStays:
    """Rates of leaving per unit and hour of the stay, float64 [units, hours]; `death_share` of those who leave die.

    Within an hour the rate is constant, so the survival curve is exp(-cumulative rate): Kaplan & Meier's, where stays are
    many.
    """

    rate: np.ndarray
    death_share: np.ndarray

    def __post_init__(self) -> None:
        zero = np.zeros((len(self.rate), 1))
        cumulative = np.concatenate([zero, np.cumsum(self.rate, axis=1)], axis=1)
        object.__setattr__(self, "_cumulative", cumulative)
        # Deaths still to come, summed from the end: late in a stay they are far too few to be differences of sums from 0.
        dies = -np.diff(np.exp(-cumulative), axis=1) * self.death_share
        to_come = np.cumsum(dies[:, ::-1], axis=1)[:, ::-1]
        object.__setattr__(self, "_deaths", np.concatenate([to_come, zero], axis=1))

    def survival(self, unit: ArrayLike, hours: ArrayLike, elapsed: ArrayLike = 0.0) -> np.ndarray:
        """Probability that stays of `unit` (row number) which have lasted `elapsed` hours last `hours` more; the three are
        broadcast against each other."""
        unit, elapsed = np.asarray(unit), _within(elapsed)
        return np.exp(self._read("_cumulative", unit, elapsed) - self._read("_cumulative", unit, elapsed + hours))

    def death(self, unit: ArrayLike, hours: ArrayLike, elapsed: ArrayLike = 0.0) -> np.ndarray:
        """Probability that they have died within `hours`, likewise."""
        unit, elapsed = np.asarray(unit), _within(elapsed)
        died = self._read("_deaths", unit, elapsed) - self._read("_deaths", unit, elapsed + hours)
        died = died * np.exp(self._read("_cumulative", unit, elapsed))
        return np.minimum(died, 1 - self.survival(unit, hours, elapsed))

    def hourly_survival(self, hours: int) -> np.ndarray:
        """Probability of being in still at the end of the hour in which one came, of the next hour, and so on; one came at
        any time of the first. float64 [units, hours]."""
        at_hours = np.exp(-self._cumulative[:, : hours + 1])
        return (at_hours[:, :-1] + at_hours[:, 1:]) / 2

    def _read(self, name: str, unit: np.ndarray, hours: np.ndarray) -> np.ndarray:
        values = getattr(self, name)
        lower = np.clip(hours.astype(np.int64), 0, values.shape[1] - 2)
        start = values[unit, lower]
        return start + (hours - lower) * (values[unit, lower + 1] - start)


def _within(elapsed: ArrayLike) -> np.ndarray:
    """Beyond the last hour that is told apart the rate is constant: a stay is like one of that hour."""
    return np.clip(np.asarray(elapsed, dtype=np.float64), 0.0, float(_LAST))


def fit_fresh_stays(
    unit: ArrayLike,
    lasted: ArrayLike,
    cause: ArrayLike,
    n_units: int,
    entry: ArrayLike | None = None,
    prior_stays: float = PRIOR_STAYS,
) -> FreshStays:
    """Rates of stays that ended or are open, shrunk to those of all units together.

    unit: row number of each stay's unit, [stays]. lasted: hours to its end, or until now if it is open, [stays].
    cause: ALIVE, DIED, NOT_ENDED, or NOT_KNOWN (it counts as the others do), [stays].
    entry: hours from which a stay was under observation, [stays], 0 by default: delayed entry.
    prior_stays: see `PRIOR_STAYS`. Where all units together have fewer at risk, the rate is that of the last hours before.
    """
    unit, lasted, cause = np.asarray(unit, np.int64), np.asarray(lasted, np.float64), np.asarray(cause)
    entry = np.zeros(len(lasted)) if entry is None else np.asarray(entry, np.float64)
    seen = lasted > entry
    unit, lasted, cause, entry = unit[seen], lasted[seen], cause[seen], entry[seen]
    at_risk = _hours_in(unit, lasted, n_units) - _hours_in(unit, entry, n_units)
    ends = _ends(unit, lasted, cause != NOT_ENDED, n_units)
    deaths, known = (
        _ends(unit, lasted, cause == DIED, n_units),
        _ends(unit, lasted, np.isin(cause, (ALIVE, DIED)), n_units),
    )

    all_risk, all_ends = at_risk.sum(axis=0), ends.sum(axis=0)
    rare = np.nonzero(all_risk < prior_stays)[0]
    last = int(rare[0]) if len(rare) and rare[0] > 0 else (_LAST if not len(rare) else 0)
    last = min(last, _LAST)
    pooled = all_ends / np.maximum(all_risk, 1.0)
    recent = slice(max(last - _TAIL_HOURS, 0), None)
    pooled[last:] = all_ends[recent].sum() / max(all_risk[recent].sum(), 1.0)
    rate = (ends + prior_stays * pooled) / (at_risk + prior_stays)
    # Of stays beyond the last hour the unit has no rate of its own.
    rate[:, last:] = pooled[last:]

    total = known.sum()
    share = deaths.sum() / total if total else 0.0
    return FreshStays(rate, (deaths + prior_stays * share) / (known + prior_stays))


def _hours_in(unit: np.ndarray, lasted: np.ndarray, n_units: int) -> np.ndarray:
    """Hours that stays of each unit spent in each hour of a stay, [units, hours]."""
    whole = np.minimum(lasted.astype(np.int64), _HOURS)
    left = _sums(unit, whole, np.ones(len(unit)), n_units)
    hours = left.sum(axis=1, keepdims=True) - np.cumsum(left, axis=1) + _sums(unit, whole, lasted - whole, n_units)
    return hours[:, :_HOURS]


def _ends(unit: np.ndarray, lasted: np.ndarray, which: np.ndarray, n_units: int) -> np.ndarray:
    whole = np.minimum(lasted[which].astype(np.int64), _HOURS)
    return _sums(unit[which], whole, np.ones(len(whole)), n_units)[:, :_HOURS]


def _sums(unit: np.ndarray, hour: np.ndarray, values: np.ndarray, n_units: int) -> np.ndarray:
    """Of each unit and hour from 0 to `_HOURS`, float64 [units, hours + 1]."""
    cell = unit * (_HOURS + 1) + hour
    return np.bincount(cell, values, n_units * (_HOURS + 1)).reshape(n_units, _HOURS + 1)
