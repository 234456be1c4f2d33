"""Intervals by the bootstrap over patients: how far a statistic would move had other patients of the same kind come.

A statistic is computed from arrays [rows] and a weight per row; a resample is nothing but other weights, so what does
not depend on them (sorting, ranking) is done once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial, update_wrapper
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

# Two-sided level of all intervals.
LEVEL = 0.95
# Resamples of fewer patients can hardly differ: one death gives an AUROC of 1.000 (1.000 to 1.000), whatever the model.
MIN_GROUPS = 5
# Cells of resamples that are drawn at once, and kept for the next statistic if there are no more: 40 MB.
_KEPT_COUNTS = 5_000_000
# Rows of resamples that are laid out at once: what is computed of them fits into the cache of a core.
_ROWS_AT_ONCE = 200_000

Weighted = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95 % interval and the number of rows it rests on; NaN where it is not defined."""

    value: float
    low: float
    high: float
    n: int

    def show(self, digits: int = 3, undefined: str = "-") -> str:
        """The estimate for people; the value alone where it has no interval, `undefined` where it has no value.

        >>> Estimate(0.83, 0.796, 0.862, 400).show()
        '0.830 (0.796 to 0.862)'
        """
        if not np.isfinite(self.value):
            return undefined
        value, low, high = (f"{x:.{digits}f}" for x in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})" if np.isfinite(self.low) else value

    def to_json(self) -> dict[str, float | int | None]:
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {name: None if np.isnan(x) else float(x) for name, x in numbers.items()} | {"n": self.n}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None) -> Self:
        """An estimate from what `to_json` made of it; one that is not defined from nothing."""
        stored = {} if stored is None else stored
        value, low, high = (np.nan if stored.get(x) is None else float(stored[x]) for x in ("value", "low", "high"))
        return cls(value, low, high, int(stored.get("n", 0)))


def estimates_to_json(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, float | int | None]]:
    return {name: estimate.to_json() for name, estimate in estimates.items()}


def _every_row(*columns: np.ndarray) -> tuple[np.ndarray, ...]:
    return (np.ones(len(columns[0]), dtype=bool),)


class Statistic:
    """A statistic of arrays [rows]; called with `weights` [rows] it counts each row that many times.

    prepare: from the arrays, the statistic as a function of the weights.
    sides: from the arrays, the rows that the statistic sets against each other, one bool [rows] for each side, e.g.
        events and non-events; by default all rows are one side.
    """

    def __init__(
        self, prepare: Callable[..., Weighted], sides: Callable[..., tuple[np.ndarray, ...]] = _every_row
    ) -> None:
        self.prepare, self.sides = prepare, sides
        update_wrapper(self, prepare)

    def __call__(self, *arrays: ArrayLike, weights: ArrayLike | None = None) -> float:
        columns = [np.asarray(a, dtype=np.float64) for a in arrays]
        weights = np.ones(len(columns[0])) if weights is None else np.asarray(weights, dtype=np.float64)
        return self.prepare(*columns)(weights)

    def distance_from(self, target: float) -> "Statistic":
        """How far the statistic is from `target`, the smaller the better."""

        def prepare(*columns: np.ndarray) -> Weighted:
            return _Distance(self.prepare(*columns), target)

        return Statistic(prepare, self.sides)


# Decorator of statistics whose interval needs enough patients on both sides, events and non-events.
of_events = partial(Statistic, sides=lambda y, risk, *_: (y == 1, y == 0))


def ratio(numerator: float, denominator: float) -> float:
    """The ratio, NaN where there is nothing to divide by."""
    return float(numerator / denominator) if denominator > 0 else float("nan")


class RatioOfSums:
    """Weighted sum of `above` [rows] over that of `below` [rows]; all resamples at once from the sums of their groups."""

    def __init__(self, above: np.ndarray, below: np.ndarray) -> None:
        self.above, self.below = above, below

    def __call__(self, weights: np.ndarray) -> float:
        return ratio(weights @ self.above, weights @ self.below)

    def resampled(self, codes: np.ndarray, n: int, seed: int) -> np.ndarray:
        """The ratio in each of n resamples of the groups `codes` [rows], float64 [n]."""
        above, below = (np.bincount(codes, weights=part) for part in (self.above, self.below))
        drawn = [np.empty(0)]
        for counts in _counts(len(above), n, seed):
            bottom = counts @ below
            drawn.append(np.divide(counts @ above, bottom, out=np.full(len(counts), np.nan), where=bottom > 0))
        return np.concatenate(drawn)


@dataclass(frozen=True)
class _Distance:
    """How far a statistic `of` weights is from `target`."""

    of: Weighted
    target: float

    def __call__(self, weights: np.ndarray) -> float:
        return abs(self.of(weights) - self.target)

    def resampled(self, codes: np.ndarray, n: int, seed: int) -> np.ndarray:
        return np.abs(_resampled(self.of, codes, n, seed) - self.target)


def mean_of(values: np.ndarray) -> Weighted:
    """The weighted mean of `values` [rows]."""
    return RatioOfSums(values, np.ones(len(values)))


def undefined(_: np.ndarray) -> float:
    """The statistic of no rows."""
    return float("nan")


@Statistic
def mean(values: np.ndarray) -> Weighted:
    """Mean of a column."""
    return mean_of(values)


def bootstrap_interval(
    statistic: Statistic | Callable[..., float],
    arrays: Sequence[ArrayLike],
    groups: ArrayLike | None = None,
    n: int = 1000,
    seed: int = 0,
) -> Estimate:
    """`statistic(*arrays)` with a percentile bootstrap interval.

    arrays: columns [rows]; rows with a NaN in any of them are left out.
    groups: what is drawn, with all its rows, e.g. patient ids [rows]; single rows by default.
    statistic: a `Statistic`, or any function of the arrays (slower: each resample is then laid out).
    Resamples in which the statistic is not defined are skipped.

    An interval needs rows of at least `MIN_GROUPS` groups on every side of the statistic: a measure of discrimination or
    calibration needs 5 patients with an event and 5 without one, a concordance 5 with an end, a mean or a plain
    function just 5. With fewer, low and high are NaN and the value stays.
    """
    columns, codes = _complete(arrays, groups)
    if len(codes) == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    n = n if _may_vary(statistic, columns, codes) else 0
    return _estimate(lambda at: at(_prepared(statistic, columns)), codes, n, seed)


def paired_difference(
    statistic: Statistic | Callable[..., float],
    y: ArrayLike | tuple[ArrayLike, ...],
    a: ArrayLike | tuple[ArrayLike, ...],
    b: ArrayLike | tuple[ArrayLike, ...],
    groups: ArrayLike | None = None,
    n: int = 1000,
    seed: int = 0,
) -> Estimate:
    """`statistic(*y, *a) - statistic(*y, *b)` with a percentile bootstrap interval, both taken on the same resamples.

    y, a, b: what happened and two forecasts of it, each one array [rows] or a tuple of those that the statistic takes.
    The interval is NaN for too few groups, as in `bootstrap_interval`.
    """
    y, a, b = (part if isinstance(part, tuple) else (part,) for part in (y, a, b))
    columns, codes = _complete([*y, *a, *b], groups)
    if len(codes) == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    of_a, of_b = columns[: len(y) + len(a)], columns[: len(y)] + columns[len(y) + len(a) :]
    prepared_a, prepared_b = _prepared(statistic, of_a), _prepared(statistic, of_b)
    n = n if _may_vary(statistic, of_a, codes) else 0
    return _estimate(lambda at: at(prepared_a) - at(prepared_b), codes, n, seed)


def group_codes(groups: ArrayLike | None, keep: np.ndarray) -> np.ndarray:
    """Number of the group of each row in `keep` (bool [rows]), from 0 on; a row without a group is one of its own."""
    if groups is None:
        return np.arange(int(keep.sum()))
    codes, names = pd.factorize(np.asarray(groups)[keep])
    codes[codes < 0] = len(names) + np.arange(int((codes < 0).sum()))
    return codes


def _complete(arrays: Sequence[ArrayLike], groups: ArrayLike | None) -> tuple[list[np.ndarray], np.ndarray]:
    """The rows known in all arrays, as float64 columns, and the number of each one's group."""
    columns = [np.asarray(a, dtype=np.float64) for a in arrays]
    keep = ~np.any([np.isnan(c) for c in columns], axis=0)
    columns = [c[keep] for c in columns]
    return columns, group_codes(groups, keep)


def _may_vary(statistic: Statistic | Callable[..., float], columns: Sequence[np.ndarray], codes: np.ndarray) -> bool:
    sides = statistic.sides if isinstance(statistic, Statistic) else _every_row
    return all(len(np.unique(codes[side])) >= MIN_GROUPS for side in sides(*columns))


def _prepared(statistic: Statistic | Callable[..., float], columns: Sequence[np.ndarray]) -> Weighted:
    if isinstance(statistic, Statistic):
        return statistic.prepare(*columns)
    rows = np.arange(len(columns[0]))

    def at(weights: np.ndarray) -> float:
        drawn = np.repeat(rows, weights.astype(int))
        return statistic(*(column[drawn] for column in columns))

    return at


def _counts(n_groups: int, n: int, seed: int) -> Iterable[np.ndarray]:
    """How often each group is in each of n resamples of as many groups, drawn with replacement: float64 [resamples, groups],
    in as many parts as fit into memory."""
    return _kept_counts(n_groups, n, seed) if n * n_groups <= _KEPT_COUNTS else _draw_counts(n_groups, n, seed)


# Many statistics are taken of the same groups, one after the other.
@lru_cache(maxsize=4)
def _kept_counts(n_groups: int, n: int, seed: int) -> tuple[np.ndarray, ...]:
    return tuple(_draw_counts(n_groups, n, seed))


def _draw_counts(n_groups: int, n: int, seed: int) -> Iterator[np.ndarray]:
    random, most = np.random.default_rng(seed), max(_KEPT_COUNTS // n_groups, 1)
    for first in range(0, n, most):
        counts = np.empty((min(most, n - first), n_groups))
        for row in counts:
            row[:] = np.bincount(random.integers(0, n_groups, n_groups), minlength=n_groups)
        yield counts


def resample_weights(codes: np.ndarray, n: int, seed: int) -> Iterator[np.ndarray]:
    """The weights of all rows in each of n resamples of the groups `codes` [rows]: float64 [resamples, rows], part by part."""
    at_once = max(_ROWS_AT_ONCE // len(codes), 1)
    for counts in _counts(int(codes.max()) + 1, n, seed):
        for first in range(0, len(counts), at_once):
            yield counts[first : first + at_once, codes]


def _resampled(prepared: Weighted, codes: np.ndarray, n: int, seed: int) -> np.ndarray:
    """A statistic in each of n resamples, float64 [n]."""
    if hasattr(prepared, "resampled"):
        return prepared.resampled(codes, n, seed)
    return np.array([prepared(weights) for part in resample_weights(codes, n, seed) for weights in part])


def _estimate(of: Callable[[Callable[[Weighted], Any]], Any], codes: np.ndarray, n: int, seed: int) -> Estimate:
    """of: from the way to take a prepared statistic (of all rows, or in each resample), the estimated number or numbers."""
    value = of(lambda prepared: prepared(np.ones(len(codes))))
    if np.isnan(value):
        return Estimate(np.nan, np.nan, np.nan, len(codes))
    draws = of(lambda prepared: _resampled(prepared, codes, n, seed))
    low, high = np.nanquantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if np.isfinite(draws).any() else (np.nan,) * 2
    return Estimate(float(value), float(low), float(high), len(codes))
