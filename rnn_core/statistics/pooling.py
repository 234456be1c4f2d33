"""Pools the forecasts of several models into one distribution, by weights learned from what happened."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, log_softmax, logit, softmax

from rnn_core.contracts.frames import ALIVE, DIED
from rnn_core.contracts.saved import Saved
from rnn_core.statistics.calibration import REFERENCE_HOURS, hour_doublings, thinned
from rnn_core.statistics.distribution import Distribution

# Standard deviation of the normal priors around equal weights, on the scale of their logarithms, and that of their change
# with every doubling of the elapsed stay or of the density of observation. The weights of two models are hard to tell
# apart: some hundred deaths do it.
WEIGHT_SD, WEIGHT_CHANGE_SD = 0.5, 0.25
# Values per hour at which weights are what they say, and between which they change.
REFERENCE_DENSITY = 8.0
_DENSITY_BOUNDS = (1.0, 64.0)
# Hourly rows of one stay are near-copies; more rows than this only take time.
MAX_ROWS = 10_000
# Below any mass that a model means.
_LEAST = 1e-9


@dataclass(frozen=True)
class LogarithmicPool(Saved):
    """The geometric mean of the parts' distributions, weighted (logarithmic opinion pool: Genest & Zidek, Stat Sci 1,
    1986, 114-135): of the bins in which a stay ends, and in each bin of the odds that it ends in death.

    times, deaths: weight of each part for either, as logarithms up to a constant, after `REFERENCE_HOURS` in the unit at
        `REFERENCE_DENSITY`.
    times_per_doubling, deaths_per_doubling: added to them with every doubling of the elapsed hours.
    times_per_density, deaths_per_density: added with every doubling of the values per hour; none in pools of 0.2.
    """

    times: tuple[float, ...]
    deaths: tuple[float, ...]
    times_per_doubling: tuple[float, ...]
    deaths_per_doubling: tuple[float, ...]
    times_per_density: tuple[float, ...] = ()
    deaths_per_density: tuple[float, ...] = ()

    def pool(
        self,
        parts: Sequence[Distribution],
        elapsed_hours: ArrayLike = REFERENCE_HOURS,
        values_per_hour: ArrayLike = REFERENCE_DENSITY,
    ) -> Distribution:
        """One forecast of several of the same stays, which have lasted so many hours and of which so many values an hour
        became known lately (`Windows.values_per_hour`), [rows] or one number."""
        none = (0.0,) * len(parts)
        parameters = np.array(
            [
                [self.times, self.times_per_doubling, self.times_per_density or none],
                [self.deaths, self.deaths_per_doubling, self.deaths_per_density or none],
            ]
        )
        return Distribution(_Terms.of(parts, elapsed_hours, values_per_hour).pooled(parameters).masses, parts[0].edges)


@dataclass(frozen=True)
class _Pooled:
    """Weights of the parts, float64 [2 (times, deaths), parts, rows], summing to 1 over the parts; the probability of each
    bin and of death given an end in it, [rows, bins]."""

    weights: np.ndarray
    end: np.ndarray
    dies: np.ndarray

    @property
    def masses(self) -> np.ndarray:
        """float64 [rows, bins, 2]."""
        out = np.empty((*self.end.shape, 2))
        out[..., ALIVE], out[..., DIED] = self.end * (1 - self.dies), self.end * self.dies
        return out


@dataclass(frozen=True)
class _Terms:
    """log_end: logarithm of the mass of each bin, float64 [parts, rows, bins]. death_odds: log-odds of death given an end
    in it, the same. context: what weights are linear in, float64 [3, rows]: 1, doublings of hours and of density."""

    log_end: np.ndarray
    death_odds: np.ndarray
    context: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[Distribution], elapsed_hours: ArrayLike, values_per_hour: ArrayLike) -> "_Terms":
        masses = np.stack([part.masses for part in parts])
        end = np.maximum(masses.sum(axis=3), _LEAST)
        dies = np.clip(masses[..., DIED] / end, _LEAST, 1 - _LEAST)
        context = np.ones((3, masses.shape[1]))
        context[1], context[2] = hour_doublings(elapsed_hours), density_doublings(values_per_hour)
        return cls(np.log(end), logit(dies), context)

    def pooled(self, parameters: np.ndarray) -> _Pooled:
        """parameters: float64 [2 (times, deaths), 3 (context), parts]."""
        weights = softmax(np.einsum("ocp,cr->opr", parameters, self.context), axis=1)
        of_times, of_deaths = weights
        end = np.exp(log_softmax(np.einsum("pr,prb->rb", of_times, self.log_end), axis=1))
        return _Pooled(weights, end, expit(np.einsum("pr,prb->rb", of_deaths, self.death_odds)))

    def gradient(self, pooled: _Pooled, slope: np.ndarray) -> np.ndarray:
        """Of a loss by the parameters, of whose pooled masses it has the gradient `slope` [rows, bins, 2]."""
        end, dies = pooled.end, pooled.dies
        by_end = slope[..., ALIVE] * (1 - dies) + slope[..., DIED] * dies
        by_log_end = end * (by_end - (end * by_end).sum(axis=1, keepdims=True))
        by_odds = end * (slope[..., DIED] - slope[..., ALIVE]) * dies * (1 - dies)
        by_weight = np.stack(
            [
                np.einsum("rb,prb->pr", by_log_end, self.log_end),
                np.einsum("rb,prb->pr", by_odds, self.death_odds),
            ]
        )
        mean = (pooled.weights * by_weight).sum(axis=1, keepdims=True)
        return np.einsum("opr,cr->ocp", pooled.weights * (by_weight - mean), self.context)


def density_doublings(values_per_hour: ArrayLike) -> np.ndarray:
    """How often the density of observation doubles `REFERENCE_DENSITY`, between 1 and 64 values an hour."""
    return np.log2(np.clip(np.asarray(values_per_hour, dtype=np.float64), *_DENSITY_BOUNDS) / REFERENCE_DENSITY)


def fit_pool(
    parts: Sequence[Distribution],
    death: ArrayLike,
    weights: ArrayLike,
    entry: ArrayLike,
    elapsed_hours: ArrayLike,
    values_per_hour: ArrayLike = REFERENCE_DENSITY,
    row_weight: float = 1.0,
) -> LogarithmicPool:
    """The pool under which what happened is most likely, from forecasts that each model made of stays it had not seen.

    parts: the forecasts of each model, all of the same rows. death: 1, 0 or NaN, [rows]. weights, entry: `frames.Labels`
    of the same rows, float [rows, bins, 2]. elapsed_hours, values_per_hour: [rows] or one number. row_weight: how much
    evidence a row is; consecutive hours of a stay are near-copies.
    """
    n = len(parts)
    rows, row_weight = thinned(np.arange(len(parts[0])), MAX_ROWS, row_weight)
    elapsed, density = (np.broadcast_to(of, len(parts[0]))[rows] for of in (elapsed_hours, values_per_hour))
    terms = _Terms.of([part.take(rows) for part in parts], elapsed, density)
    death, weights, entry = (np.asarray(of)[rows] for of in (death, weights, entry))
    died, lived = death == 1, death == 0
    precision = np.array([WEIGHT_SD, WEIGHT_CHANGE_SD, WEIGHT_CHANGE_SD])[:, None] ** -2.0

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = flat.reshape(2, 3, n)
        pooled = terms.pooled(parameters)
        masses = pooled.masses
        likelihood, condition = (np.maximum(np.einsum("rbc,rbc->r", of, masses), 1e-12) for of in (weights, entry))
        risk = np.clip(masses[..., DIED].sum(axis=1), 1e-12, 1 - 1e-12)
        by_time = np.log(likelihood / condition).sum()
        by_death = np.log(risk[died]).sum() + np.log1p(-risk[lived]).sum()
        slope = entry / condition[:, None, None] - weights / likelihood[:, None, None]
        slope[..., DIED] += (lived / (1 - risk) - died / risk)[:, None]
        gradient = precision * parameters + row_weight * terms.gradient(pooled, slope)
        return (precision * parameters**2).sum() / 2 - row_weight * (by_time + by_death), gradient.ravel()

    from scipy.optimize import minimize  # half a second that forecasting does without

    found = minimize(loss, np.zeros(6 * n), jac=True, method="L-BFGS-B").x.reshape(2, 3, n)
    return LogarithmicPool(*(tuple(found[outcome, term].tolist()) for term in range(3) for outcome in range(2)))
