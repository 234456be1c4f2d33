"""The population by length of stay: cumulative incidence of both ways to leave, under censoring and delayed entry."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rnn_core.contracts.config import HORIZON_EDGES
from rnn_core.contracts.errors import ContractError, DataTooSmallError
from rnn_core.contracts.frames import ALIVE, DIED
from rnn_core.statistics.distribution import Distribution

CENSORED = -1

# Conditional on a longer stay than all but this many stays had, a population says nothing any more.
MIN_AT_RISK = 20


@dataclass(frozen=True)
class PopulationCurve:
    """Cumulative incidence of both causes in a population, as step functions of the length of stay.

    times: float64 [events], distinct times of an end, rising.
    incidence: float64 [events + 1, 2], probability of having left by each cause after that many of the times.
    last_elapsed: float, the longest stay that at least `MIN_AT_RISK` stays reached.
    """

    times: np.ndarray
    incidence: np.ndarray
    last_elapsed: float

    def forecast_after(self, elapsed_hours: ArrayLike, edges: Sequence[float] = HORIZON_EDGES) -> Distribution:
        """The forecast of stays that have lasted `elapsed_hours` [rows] and not ended; 0 is that of a whole population.

        What the follow-up does not see end is in the open-ended bin, split by cause like the ends that it does see.
        Beyond `last_elapsed` the forecast stays what it was there.
        """
        edges = np.asarray(edges, dtype=np.float64)
        elapsed = np.minimum(np.asarray(elapsed_hours, dtype=np.float64), self.last_elapsed)
        # Ends strictly before each edge: a bin holds its left edge, and so does the remaining stay.
        incidence = self.incidence[np.searchsorted(self.times, elapsed[:, None] + edges, side="left")]
        seen = self.incidence[-1] - incidence[:, 0]
        unseen = np.maximum(1.0 - self.incidence[-1].sum(), 0.0)
        last = self.incidence[-1] - incidence[:, -1] + unseen * self._split(seen)
        masses = np.concatenate([np.diff(incidence, axis=1), last[:, None]], axis=1)
        return Distribution(masses / masses.sum(axis=(1, 2), keepdims=True), edges)

    def _split(self, seen: np.ndarray) -> np.ndarray:
        """Shares of the causes [rows, 2] among ends still to come, else among all, else alive."""
        overall = self.incidence[-1] if self.incidence[-1].sum() > 0 else np.array([1.0, 0.0])
        seen = np.where(seen.sum(axis=1, keepdims=True) > 0, seen, overall)
        return seen / seen.sum(axis=1, keepdims=True)


def fit_population_curve(durations: ArrayLike, causes: ArrayLike, entry: ArrayLike | None = None) -> PopulationCurve:
    """Aalen-Johansen estimator under right censoring and delayed entry (Andersen et al. 1993, section IV.4).

    durations: hours to the end or to the end of follow-up, [stays].
    causes: 0 left alive, 1 died, -1 still there at the end of follow-up, [stays].
    entry: hours from which the stay is under observation (entry < time of an end it can contribute to), 0 by default.

    Few early entrants could all leave before the others come in, which would set the survival to zero for good; such an
    end is passed over (Lai & Ying 1991 trim small early risk sets for the same reason). Raises DataTooSmallError where
    no stay is ever under observation, ContractError for times that are not finite or negative, or unknown causes.
    """
    durations, causes = np.asarray(durations, dtype=np.float64), np.asarray(causes)
    entry = np.zeros(len(durations)) if entry is None else np.asarray(entry, dtype=np.float64)
    times = np.concatenate([durations, entry])
    if not ((times >= 0) & (times < np.inf)).all():
        raise ContractError("Durations and entries are finite hours from 0 on; leave out stays without a known time.")
    if not np.isin(causes, (CENSORED, ALIVE, DIED)).all():
        raise ContractError(f"A cause is {ALIVE} (alive), {DIED} (died) or {CENSORED} (censored); found others.")
    # Without delay a stay is at risk at time 0 already, so that an end at 0 counts.
    entry = np.where(entry > 0, entry, -1.0)
    ever_at_risk = entry < durations
    if not ever_at_risk.any():
        raise DataTooSmallError(
            f"A population curve needs stays under observation; none of {len(durations)} is. Load more stays."
        )
    durations, causes, entry = durations[ever_at_risk], causes[ever_at_risk], entry[ever_at_risk]

    ended = causes != CENSORED
    times, position = np.unique(durations[ended], return_inverse=True)
    ends = np.zeros((len(times), 2))
    np.add.at(ends, (position, causes[ended].astype(int)), 1.0)
    at_risk = np.searchsorted(np.sort(entry), times) - np.searchsorted(np.sort(durations), times)
    hazard = ends / at_risk[:, None]
    hazard[(ends.sum(axis=1) == at_risk) & (times < durations.max())] = 0.0
    survival = np.concatenate([[1.0], np.cumprod(1.0 - hazard.sum(axis=1))])
    incidence = np.concatenate([np.zeros((1, 2)), np.cumsum(survival[:-1, None] * hazard, axis=0)])
    longest = np.sort(durations)[-min(MIN_AT_RISK, len(durations))]
    return PopulationCurve(times, incidence, float(longest))
