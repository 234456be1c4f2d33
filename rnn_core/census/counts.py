"""Distributions of a number of patients: Poisson-binomial, negative binomial, and exact sums of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln, nbdtrik, pdtrik

from rnn_core.contracts.errors import ContractError

# What is cut off a tail. Sums of hundreds of parts still stay within 1e-9.
TAIL = 1e-13
SUM_TOLERANCE = 1e-6
# Sums of probabilities are equal within this: rounding must not move a quantile to the next patient.
_ROUNDING = 1e-10


@dataclass(frozen=True, eq=False)
class CountDistribution:
    """The number of something, a distribution per row; checked once, when it is made.

    probabilities: float64 [rows, counts], of 0, 1, 2, ...; a row sums to 1, and what does so within `SUM_TOLERANCE` is
        divided by its sum. Raises ContractError for another shape, a value that is not finite or below zero, another sum.

    >>> two_beds = poisson_binomial([[0.5, 0.5]])
    >>> two_beds.probabilities, two_beds.mean(), two_beds.quantile(0.8), two_beds.at_least(1)
    (array([[0.25, 0.5 , 0.25]]), array([1.]), array([2]), array([0.75]))
    """

    probabilities: np.ndarray

    def __post_init__(self) -> None:
        p = np.asarray(self.probabilities, dtype=np.float64)
        if p.ndim != 2 or p.shape[1] == 0:
            raise ContractError(f"Probabilities of counts have the shape [rows, counts]; found {list(p.shape)}.")
        total = p.sum(axis=1, keepdims=True)
        # NaN fails both comparisons.
        if not ((np.abs(total - 1) <= SUM_TOLERANCE).all() and (p >= 0).all()):
            raise ContractError("Probabilities of counts are finite, not negative and sum to 1 in each row.")
        object.__setattr__(self, "probabilities", p / total)

    @classmethod
    def _trusted(cls, probabilities: np.ndarray) -> Self:
        made = object.__new__(cls)
        object.__setattr__(made, "probabilities", probabilities)
        return made

    def __len__(self) -> int:
        return len(self.probabilities)

    def take(self, rows: np.ndarray) -> Self:
        """Only `rows`: bool [rows], or int [n] in any order and with repetitions."""
        return self._trusted(_cut(self.probabilities[rows]))

    @cached_property
    def _cdf(self) -> np.ndarray:
        """P(N <= 0), P(N <= 1), ..., with P(N <= -1) = 0 before them, float64 [rows, counts + 1]."""
        return np.concatenate([np.zeros((len(self), 1)), np.cumsum(self.probabilities, axis=1)], axis=1)

    def mean(self) -> np.ndarray:
        """Expected number, [rows]."""
        return self.probabilities @ np.arange(self.probabilities.shape[1], dtype=np.float64)

    def variance(self) -> np.ndarray:
        """[rows]."""
        return self.probabilities @ np.arange(self.probabilities.shape[1], dtype=np.float64) ** 2 - self.mean() ** 2

    def cdf(self, n: ArrayLike) -> np.ndarray:
        """P(N <= n) for one number, or one per row, [rows]."""
        n = np.broadcast_to(np.asarray(n, dtype=np.int64), len(self))
        return np.minimum(self._cdf[np.arange(len(self)), np.clip(n + 1, 0, self._cdf.shape[1] - 1)], 1.0)

    def at_least(self, n: ArrayLike) -> np.ndarray:
        """P(N >= n) for one number, or one per row, [rows]."""
        upper = np.concatenate(
            [np.cumsum(self.probabilities[:, ::-1], axis=1)[:, ::-1], np.zeros((len(self), 1))], axis=1
        )
        n = np.broadcast_to(np.asarray(n, dtype=np.int64), len(self))
        return np.where(n <= 0, 1.0, np.minimum(upper[np.arange(len(self)), np.clip(n, 0, upper.shape[1] - 1)], 1.0))

    def quantile(self, q: float) -> np.ndarray:
        """Smallest n with P(N <= n) >= q, int64 [rows]. Raises ContractError unless 0 < q < 1."""
        if not 0 < q < 1:
            raise ContractError(f"A quantile lies strictly between 0 and 1; found {q}.")
        return (self._cdf[:, 1:] < q - _ROUNDING).sum(axis=1)

    def crps(self, observed: ArrayLike) -> np.ndarray:
        """Ranked probability score, the sum over n of (P(N <= n) - 1[observed <= n])², in patients, [rows]."""
        observed = np.broadcast_to(np.asarray(observed, dtype=np.int64), len(self))
        counts = np.arange(self.probabilities.shape[1])
        inside = np.square(self._cdf[:, 1:] - (observed[:, None] <= counts)).sum(axis=1)
        return inside + np.maximum(observed - len(counts), 0)

    def pit(self, observed: ArrayLike, uniform: ArrayLike) -> np.ndarray:
        """Randomised probability integral transform, P(N < observed) + uniform * P(N = observed), [rows]: uniform on 0 to 1
        where the forecasts are right (Czado, Gneiting & Held, Biometrics 65, 2009)."""
        below, upto = self.cdf(np.asarray(observed) - 1), self.cdf(observed)
        return below + np.asarray(uniform) * (upto - below)

    def kept_counts(self, tail: float) -> np.ndarray:
        """How many of the counts from 0 on there are until less than `tail` is left, at least one, int64 [rows]."""
        return np.maximum((1 - self._cdf[:, :-1] > tail).sum(axis=1), 1)

    def convolve(self, other: "CountDistribution") -> Self:
        """The sum of two independent numbers, row by row; one row of either is used for all of the other."""
        first, second = _support(self.probabilities), _support(other.probabilities)
        rows = np.broadcast_shapes((len(self),), (len(other),))[0]
        long, short = (np.broadcast_to(p, (rows, p.shape[1])) for _, p in (first, second))
        if long.shape[1] < short.shape[1]:
            long, short = short, long
        lowest, width = first[0] + second[0], long.shape[1] + short.shape[1] - 1
        total = np.zeros((rows, lowest + width))
        if rows < short.shape[1]:
            for row in range(rows):
                total[row, lowest:] = np.convolve(long[row], short[row])
        else:
            for n in range(short.shape[1]):
                total[:, lowest + n : lowest + n + long.shape[1]] += short[:, n : n + 1] * long
        return self._trusted(_cut(total))


def from_arrays(arrays: Sequence[np.ndarray]) -> CountDistribution:
    """A row per array of probabilities; they may be of different lengths."""
    lengths = np.array([len(array) for array in arrays])
    probabilities = np.zeros((len(lengths), lengths.max()))
    probabilities[np.arange(lengths.max()) < lengths[:, None]] = np.concatenate(list(arrays))
    return CountDistribution(probabilities)


def nobody(rows: int) -> CountDistribution:
    """Zero for certain."""
    return CountDistribution._trusted(np.ones((rows, 1)))


def poisson_binomial(p: ArrayLike) -> CountDistribution:
    """How many of several independent events happen; p: the probability of each, [rows, events], 0 to fill a row up.

    Exact, one event after another (the direct convolution of Hong, Comput. Stat. Data Anal. 59, 2013). Raises ContractError
    for what is not between 0 and 1.
    """
    p = np.asarray(p, dtype=np.float64)
    if p.ndim != 2 or not ((p >= 0) & (p <= 1)).all():
        raise ContractError("Probabilities [rows, events] lie between 0 and 1.")
    total = np.zeros((len(p), p.shape[1] + 1))
    total[:, 0] = 1.0
    for n in range(p.shape[1]):
        happens = p[:, n : n + 1]
        total[:, 1 : n + 2] = total[:, 1 : n + 2] * (1 - happens) + total[:, : n + 1] * happens
        total[:, 0] *= 1 - p[:, n]
    return CountDistribution._trusted(_cut(total))


def negative_binomial(mean: ArrayLike, size: ArrayLike) -> CountDistribution:
    """Poisson whose mean is multiplied by a gamma factor of mean 1 and variance 1 / size: its variance is
    mean + mean² / size. mean [rows], size [rows] or one; infinite for Poisson.

    Raises ContractError for means below 0, sizes that are not above 0, or what is not a number.
    """
    mean = np.atleast_1d(np.asarray(mean, dtype=np.float64))
    size = np.broadcast_to(np.asarray(size, dtype=np.float64), mean.shape)
    if not ((mean >= 0) & (mean < np.inf) & (size > 0)).all():
        raise ContractError("A count has a finite mean of at least 0 and a size above 0.")
    # Beyond 1e9 the two differ by less than rounding does.
    scattered = (size < 1e9) & (mean > 0)
    r = np.where(scattered, size, 1.0)
    # As `scipy.stats.nbinom.isf` and `poisson.isf`, of a package that takes a second to import.
    last = np.ceil(np.where(scattered, nbdtrik(1 - TAIL, r, r / (r + mean)), pdtrik(1 - TAIL, mean)))
    counts = np.arange(int(last.max(initial=0)) + 1, dtype=np.float64)
    mean, r, factorial = mean[:, None], r[:, None], gammaln(counts + 1)
    log_mean = np.log(np.maximum(mean, 1e-300))
    log_p = np.where(
        scattered[:, None],
        gammaln(counts + r) - gammaln(r) + r * np.log(r / (r + mean)) + counts * (log_mean - np.log(r + mean)),
        counts * log_mean - mean,
    )
    p = np.exp(log_p - factorial)
    return CountDistribution._trusted(_cut(p / p.sum(axis=1, keepdims=True)))


def total_of(parts: list[CountDistribution]) -> CountDistribution:
    """The sum of independent numbers, row by row: pairs first, so that most sums are of short rows."""
    while len(parts) > 1:
        pairs = [parts[i].convolve(parts[i + 1]) for i in range(0, len(parts) - 1, 2)]
        parts = pairs + parts[len(parts) - len(parts) % 2 :]
    return parts[0]


def _support(probabilities: np.ndarray) -> tuple[int, np.ndarray]:
    """The first count that any row reaches, all below hold less than `TAIL`, and the probabilities from there on."""
    lowest = int((np.cumsum(probabilities, axis=1) <= TAIL).all(axis=0).sum())
    return lowest, probabilities[:, lowest:]


def _cut(probabilities: np.ndarray) -> np.ndarray:
    """Without the columns that hold less than `TAIL` in every row, summed from the end."""
    beyond = np.cumsum(probabilities[:, ::-1], axis=1)[:, ::-1]
    kept = max(int((beyond > TAIL).any(axis=0).sum()), 1)
    return probabilities[:, :kept]
