"""Pools the forecasts of several models into one distribution, by weights learned from what happened."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit, softmax

from rnn_core.contracts.frames import ALIVE, DIED
from rnn_core.contracts.saved import Saved
from rnn_core.statistics.calibration import REFERENCE_HOURS, hour_doublings, thinned
from rnn_core.statistics.distribution import Distribution

# Standard deviation of the normal priors around equal weights, on the scale of their logarithms, and that of their change
# with every doubling of the elapsed stay. The weights of two models are hard to tell apart: some hundred deaths do it.
WEIGHT_SD, WEIGHT_CHANGE_SD = 0.5, 0.25
# Hourly rows of one stay are near-copies; more rows than this only take time.
MAX_ROWS = 10_000
# Below any mass that a model means.
_LEAST = 1e-9


@dataclass(frozen=True)
class LogarithmicPool(Saved):
    """The geometric mean of the parts' distributions, weighted (logarithmic opinion pool: Genest & Zidek, Stat Sci 1,
    1986, 114-135): of the bins in which a stay ends, and in each bin of the odds that it ends in death.

    times, deaths: weight of each part for either, as logarithms up to a constant, after `REFERENCE_HOURS` in the unit.
    times_per_doubling, deaths_per_doubling: added to them with every doubling of the elapsed hours.
    """

    times: tuple[float, ...]
    deaths: tuple[float, ...]
    times_per_doubling: tuple[float, ...]
    deaths_per_doubling: tuple[float, ...]

    def pool(self, parts: Sequence[Distribution], elapsed_hours: ArrayLike = REFERENCE_HOURS) -> Distribution:
        """One forecast of several of the same stays, which have lasted so many hours, [rows] or one number."""
        terms = _Terms.of(parts, elapsed_hours)
        return Distribution(terms.masses(self), parts[0].edges)


@dataclass(frozen=True)
class _Terms:
    """log_end: logarithm of the mass of each bin, float64 [parts, rows, bins]. death_odds: log-odds of death given an end
    in it, the same. doublings: of the elapsed hours, [rows]."""

    log_end: np.ndarray
    death_odds: np.ndarray
    doublings: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[Distribution], elapsed_hours: ArrayLike) -> "_Terms":
        masses = np.stack([part.masses for part in parts])
        end = np.maximum(masses.sum(axis=3), _LEAST)
        dies = np.clip(masses[..., DIED] / end, _LEAST, 1 - _LEAST)
        return cls(np.log(end), logit(dies), np.broadcast_to(hour_doublings(elapsed_hours), masses.shape[1]))

    def masses(self, pool: LogarithmicPool) -> np.ndarray:
        """Pooled masses float64 [rows, bins, 2]."""
        of_times = self._weights(pool.times, pool.times_per_doubling)
        of_deaths = self._weights(pool.deaths, pool.deaths_per_doubling)
        end = np.exp(log_softmax(np.einsum("pr,prb->rb", of_times, self.log_end), axis=1))
        dies = expit(np.einsum("pr,prb->rb", of_deaths, self.death_odds))
        out = np.empty((*end.shape, 2))
        out[..., DIED], out[..., ALIVE] = end * dies, end * (1 - dies)
        return out

    def _weights(self, base: Sequence[float], per_doubling: Sequence[float]) -> np.ndarray:
        """[parts, rows], summing to 1 over the parts."""
        return softmax(np.asarray(base)[:, None] + np.asarray(per_doubling)[:, None] * self.doublings, axis=0)


def fit_pool(
    parts: Sequence[Distribution],
    death: ArrayLike,
    weights: ArrayLike,
    entry: ArrayLike,
    elapsed_hours: ArrayLike,
    row_weight: float = 1.0,
) -> LogarithmicPool:
    """The pool under which what happened is most likely, from forecasts that each model made of stays it had not seen.

    parts: the forecasts of each model, all of the same rows. death: 1, 0 or NaN, [rows]. weights, entry: `frames.Labels`
    of the same rows, float [rows, bins, 2]. elapsed_hours: [rows] or one number. row_weight: how much evidence a row is;
    consecutive hours of a stay are near-copies.
    """
    n = len(parts)
    rows, row_weight = thinned(np.arange(len(parts[0])), MAX_ROWS, row_weight)
    elapsed = np.broadcast_to(np.asarray(elapsed_hours, dtype=np.float64), len(parts[0]))[rows]
    terms = _Terms.of([part.take(rows) for part in parts], elapsed)
    death, weights, entry = (np.asarray(of)[rows] for of in (death, weights, entry))
    died, lived = death == 1, death == 0
    precision = np.repeat([WEIGHT_SD, WEIGHT_CHANGE_SD], 2 * n) ** -2.0

    def loss(parameters: np.ndarray) -> float:
        masses = terms.masses(_pool(parameters, n))
        likelihood, condition = (np.einsum("rbc,rbc->r", of, masses) for of in (weights, entry))
        by_time = np.log(np.maximum(likelihood, 1e-12) / np.maximum(condition, 1e-12)).sum()
        risk = np.clip(masses[..., DIED].sum(axis=1), 1e-12, 1 - 1e-12)
        by_death = np.log(risk[died]).sum() + np.log1p(-risk[lived]).sum()
        return precision @ parameters**2 / 2 - row_weight * (by_time + by_death)

    return _pool(minimize(loss, np.zeros(4 * n), method="L-BFGS-B").x, n)


def _pool(parameters: np.ndarray, n: int) -> LogarithmicPool:
    return LogarithmicPool(*(tuple(part.tolist()) for part in parameters.reshape(4, n)))
