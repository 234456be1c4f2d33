"""Units that fill up: how a census changes where patients are turned away while all beds are taken, hour by hour."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.special import gammaln, pdtrik, xlog1py, xlogy

# What is left out of the number of patients who leave, or come, in an hour.
_TAIL = 1e-10
# No more leave in an hour, on average: the powers of the others stay within what a float holds.
_LEAST_STAY = 0.5


@dataclass(frozen=True)
class Flow:
    """Who is in, leaves and asks for a bed in each of the hours ahead; a row per unit.

    n_present: patients who are in now, int64 [rows]. usable: beds that can be used, float64 [rows], NaN without a limit.
    stay: of those who are in at the beginning of an hour, the expected part that is in at its end; come: expected number of
    those who come in it and are in at its end; float64 [rows, hours].
    """

    n_present: np.ndarray
    usable: np.ndarray
    stay: np.ndarray
    come: np.ndarray

    @classmethod
    def of(cls, n_present: np.ndarray, usable: np.ndarray, expected: np.ndarray, come: np.ndarray) -> Self:
        """expected: census after each hour if everyone is taken, float64 [rows, hours]."""
        before = np.concatenate([n_present[:, None], expected[:, :-1]], axis=1)
        stay = (expected - come) / np.maximum(before, 1e-12)
        return cls(n_present, usable, np.clip(stay, _LEAST_STAY, 1.0), come)

    def take(self, rows: np.ndarray) -> Self:
        """Only these units, by their row numbers."""
        return type(self)(self.n_present[rows], self.usable[rows], self.stay[rows], self.come[rows])

    def limit(self, free: np.ndarray, size: np.ndarray, horizons: np.ndarray) -> np.ndarray:
        """The distribution of the census where a full unit turns patients away, given that where it takes everyone.

        free: probabilities of 0, 1, ... patients if everyone is taken, float64 [rows, horizons, counts]; so is the result.
        size: of the negative binomial number of those who come until each horizon, float64 [rows, horizons].

        A Markov chain of the number of patients has the same flow: in each hour, everyone leaves with the same probability;
        then others come, and those who find no bed are turned away. The chain with its beds, and the one without a limit, give

            P(n) proportional to free(n) * limited(n) / unlimited(n).

        So a unit that never fills keeps its exact distribution, and one whose patients are all alike gets that of the
        chain. In a steady state the result is `free` cut at the beds, as it has to be: in a loss system only the mean of
        the lengths of stay matters (Sevastyanov, Theory Probab. Appl. 2, 1957). What is approximate: while the unit is
        full, who of its patients leaves sooner and who later counts by the mean alone. All begins share one gamma factor, here
        one of three values with its mean and variance.
        """
        factors, weights = _three_factors(1 / size, horizons)
        counts = np.arange(max(self.n_present.max(), int(self.usable.max())) + 1)[:, None]
        limited = self._limited(factors, weights, counts, horizons)
        unlimited = self._unlimited(factors, weights, counts, horizons)
        width = min(len(counts), free.shape[2])
        ratio = np.where(unlimited > 1e-200, limited / np.maximum(unlimited, 1e-200), 1.0)
        total = free[..., :width] * ratio.transpose(2, 1, 0)[..., :width]
        return total / total.sum(axis=2, keepdims=True)

    def _limited(
        self, factors: np.ndarray, weights: np.ndarray, counts: np.ndarray, horizons: np.ndarray
    ) -> np.ndarray:
        """The chain where a full unit turns patients away, float64 [counts, horizons, rows]."""
        # Units in the last axis, so that an operation runs over as many numbers as there are units.
        rows, beds = np.arange(len(self.usable)), self.usable.astype(np.int64)
        p = np.zeros((len(factors), len(counts), len(rows)))
        p[:, self.n_present, rows] = 1.0
        has_bed = (counts <= beds).astype(np.float64)
        found = np.zeros((len(counts), len(horizons), len(rows)))
        for hour in range(int(horizons.max())):
            p = _leave(p, self.stay[:, hour], counts)
            above = p * (1 - has_bed)
            p = _come(p * has_bed, factors * self.come[:, hour]) * has_bed + above
            p[:, beds, rows] += np.maximum(1 - p.sum(axis=1), 0.0)
            for column in np.flatnonzero(horizons == hour + 1):
                found[:, column] = (weights[:, None, column] * p).sum(axis=0)
        return found

    def _unlimited(
        self, factors: np.ndarray, weights: np.ndarray, counts: np.ndarray, horizons: np.ndarray
    ) -> np.ndarray:
        """The chain where everyone is taken: a binomial number of those who are in now, and a mixed Poisson number of others."""
        n = self.n_present
        choose = gammaln(n + 1) - gammaln(counts + 1) - gammaln(np.maximum(n - counts, 0) + 1)
        found = np.zeros((len(counts), len(horizons), len(n)))
        for column, h in enumerate(horizons):
            until = np.cumprod(self.stay[:, :h][:, ::-1], axis=1)[:, ::-1].T
            stays = xlogy(counts, until[0]) + xlog1py(np.maximum(n - counts, 0), -until[0])
            stays = np.where(counts <= n, np.exp(choose + stays), 0.0)
            mean = factors * (self.come[:, h - 1] + (self.come[:, : h - 1].T * until[1:]).sum(axis=0))
            come = np.exp(xlogy(counts, mean[:, None]) - mean[:, None] - gammaln(counts + 1))
            come = (weights[:, None, column] * come).sum(axis=0)
            for k in range(len(counts)):
                found[k:, column] += stays[k] * come[: len(counts) - k]
        return found


def _three_factors(variance: np.ndarray, horizons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Three values of a factor of mean 1, float64 [3, rows], and their weights, float64 [3, horizons, rows], which give it the
    variance of each horizon [rows, horizons], as far as they can: the values fit that of a day.

    As in the Gauss-Hermite quadrature the outer two are sqrt(3) standard deviations away.
    """
    of_day = variance[:, np.argmin(np.abs(horizons - 24))]
    away = np.clip(np.sqrt(3 * of_day), 1e-3, 0.9)
    outer = np.minimum(variance.T / (2 * away**2), 0.5)
    return np.stack([1 - away, np.ones_like(away), 1 + away]), np.stack([outer, 1 - 2 * outer, outer])


def _leave(p: np.ndarray, stay: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """p [factors, counts, rows] after each of n patients has left with probability 1 - stay, [rows]."""
    # P(d of n leave), d by d.
    of_n = stay**counts
    odds, left = (1 - stay) / stay, p * of_n
    for d in range(1, min(_most(len(counts) * (1 - stay).max()), len(counts) - 1) + 1):
        of_n = of_n[1:] * (counts[1 : len(counts) - d + 1] / d * odds)
        left[:, :-d] += p[:, d:] * of_n
    return left


def _come(p: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """p [factors, counts, rows] after a Poisson number has come, mean [factors, rows]; what exceeds the counts is lost."""
    mean = mean[:, None]
    chance = np.exp(-mean)
    more = p * chance
    for k in range(1, min(_most(mean.max()), p.shape[1] - 1) + 1):
        chance = chance * (mean / k)
        more[:, k:] += p[:, :-k] * chance
    return more


def _most(mean: float) -> int:
    return int(np.ceil(pdtrik(1 - _TAIL, mean))) if mean > 0 else 0
