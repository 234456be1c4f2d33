"""What a forecast says: every published number is read off one discrete competing-risk distribution per row.

A forecast is `masses` [rows, bins, 2]: the probability of leaving alive (cause 0) or dying (cause 1) in each horizon
bin, bin k being [edges[k], edges[k + 1]) hours after the prediction and the last one open-ended. A row sums to 1.
Inside a bin the mass is uniform, so every distribution function here is linear between edges.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from rnn_core.contracts.config import HORIZON_EDGES
from rnn_core.contracts.errors import ContractError, DataTooSmallError
from rnn_core.contracts.frames import ALIVE, DIED
from rnn_core.contracts.thresholds import PROLONGED_HOURS, RISK_BANDS, RISK_THRESHOLDS

CENSORED = -1

# A forecast may sum to 1 in single precision only.
SUM_TOLERANCE = 1e-4

# Conditional on a longer stay than all but this many stays had, a population says nothing any more.
MIN_AT_RISK = 20

FORECAST_COLUMNS: tuple[str, ...] = (
    "mortality_risk",
    "prolonged_stay_risk",
    "remaining_los_p10_hours",
    "remaining_los_p50_hours",
    "remaining_los_p90_hours",
    "discharge_24h_prob",
    "discharge_48h_prob",
    "discharge_72h_prob",
)


def check_edges(edges: Sequence[float]) -> np.ndarray:
    """The edges as float64 [bins], once they start at 0 and rise; ContractError otherwise."""
    array = np.asarray(edges, dtype=np.float64)
    rises = array.ndim == 1 and len(array) > 1 and array[0] == 0 and bool((np.diff(array) > 0).all())
    if not rises or np.isinf(array[-1]):
        raise ContractError("Horizon edges are at least two finite hours that start at 0 and rise; correct the config.")
    return array


def check_masses(masses: ArrayLike, n_bins: int | None = None) -> np.ndarray:
    """The masses as float64 [rows, bins, 2] with rows that sum to 1, once they do so within `SUM_TOLERANCE`.

    Raises ContractError for another shape, a value that is not finite or below zero, or another sum.
    """
    array = np.asarray(masses, dtype=np.float64)
    if array.ndim != 3 or array.shape[2] != 2 or (n_bins is not None and array.shape[1] != n_bins):
        raise ContractError(
            f"Forecast masses have the shape [rows, {n_bins or 'bins'}, 2]; found {list(array.shape)}. "
            "Score with the horizon edges that the model was trained with."
        )
    total = array.sum(axis=(1, 2))
    # NaN fails both comparisons, so `not (...)` catches it together with negative cells and wrong sums.
    wrong = ~((np.abs(total - 1) <= SUM_TOLERANCE) & (array.min(axis=(1, 2), initial=0.0) >= 0))
    if wrong.any():
        raise ContractError(
            f"Forecast masses are finite, not negative and sum to 1; {int(wrong.sum())} of {len(array)} rows do not. "
            "The model diverged or its output was cut; do not publish it."
        )
    return array / total[:, None, None]


def mortality_risk(masses: ArrayLike) -> np.ndarray:
    """Probability that the stay ends in death, at any time, [rows]."""
    return np.clip(check_masses(masses)[:, :, DIED].sum(axis=1), 0.0, 1.0)


def cumulative_incidence(masses: ArrayLike, edges: Sequence[float], hours: ArrayLike, cause: int) -> np.ndarray:
    """Probability of having left by `cause` within `hours` (one number, or one per row), [rows].

    Hours lie between 0 and the last edge; others raise ContractError, since nothing is known of times beyond it.
    """
    edges = check_edges(edges)
    return _read_cdf(_cdf_at_edges(check_masses(masses, len(edges))[:, :, cause]), edges, hours)


def survival_at(masses: ArrayLike, edges: Sequence[float], hours: ArrayLike) -> np.ndarray:
    """Probability of still being there after `hours` (one number, or one per row, at most the last edge), [rows]."""
    edges = check_edges(edges)
    return np.clip(1.0 - _read_cdf(_leaving_cdf(masses, edges), edges, hours), 0.0, 1.0)


def discharge_probability(masses: ArrayLike, edges: Sequence[float], hours: ArrayLike) -> np.ndarray:
    """Probability of having left alive within `hours`, [rows]."""
    return cumulative_incidence(masses, edges, hours, ALIVE)


def prolonged_stay_risk(
    masses: ArrayLike, edges: Sequence[float], elapsed_hours: ArrayLike, limit_hours: float = PROLONGED_HOURS
) -> np.ndarray:
    """Probability that the whole stay, elapsed hours included, exceeds the limit, however it ends, [rows].

    1 where the limit has already passed. The limit is at most the last edge.
    """
    left = limit_hours - np.asarray(elapsed_hours, dtype=np.float64)
    return np.where(left < 0, 1.0, survival_at(masses, edges, np.where(left < 0, 0.0, left)))


def remaining_quantile(masses: ArrayLike, edges: Sequence[float], q: float) -> np.ndarray:
    """Hours after which the stay has ended, however, with probability q (0 < q < 1), [rows].

    Where the quantile lies in the open-ended bin the answer is the last edge, to be read as "at least".
    """
    if not 0 < q < 1:
        raise ContractError(f"A quantile lies strictly between 0 and 1; found {q}.")
    edges = check_edges(edges)
    cdf = _leaving_cdf(masses, edges)
    below = (cdf[:, 1:] < q).sum(axis=1)
    lower = np.minimum(below, len(edges) - 2)
    row = np.arange(len(cdf))
    start, stop = cdf[row, lower], cdf[row, lower + 1]
    inside = below < len(edges) - 1
    share = np.divide(q - start, stop - start, out=np.ones(len(cdf)), where=inside)
    return edges[lower] + share * (edges[lower + 1] - edges[lower])


def expected_remaining_hours(masses: ArrayLike, edges: Sequence[float]) -> np.ndarray:
    """Mean remaining stay, each stay counted up to the last edge at most (restricted mean), [rows].

    The area under the survival curve; exact, since the curve is linear between edges.
    """
    edges = check_edges(edges)
    survival = 1.0 - _leaving_cdf(masses, edges)
    return ((survival[:, 1:] + survival[:, :-1]) / 2) @ np.diff(edges)


def read_forecast(masses: ArrayLike, edges: Sequence[float], elapsed_hours: ArrayLike) -> pd.DataFrame:
    """The numbers of `forecast.stay_forecast` (`FORECAST_COLUMNS`), one row per row of masses."""
    masses = check_masses(masses, len(edges))
    columns = {
        "mortality_risk": mortality_risk(masses),
        "prolonged_stay_risk": prolonged_stay_risk(masses, edges, elapsed_hours),
        **{f"remaining_los_p{q}_hours": remaining_quantile(masses, edges, q / 100) for q in (10, 50, 90)},
        **{f"discharge_{hours}h_prob": discharge_probability(masses, edges, hours) for hours in (24, 48, 72)},
    }
    return pd.DataFrame(columns, columns=list(FORECAST_COLUMNS))


def rescale_deaths(masses: ArrayLike, new_mortality_risk: ArrayLike) -> np.ndarray:
    """The same forecasts with another risk of death: each cause keeps its distribution over time, [rows, bins, 2].

    Where a cause had no mass at all, its distribution over time is taken from the other one.
    """
    masses = check_masses(masses)
    risk = np.broadcast_to(np.asarray(new_mortality_risk, dtype=np.float64), len(masses))
    if not ((risk >= 0) & (risk <= 1)).all():
        raise ContractError("A mortality risk lies between 0 and 1; leave out abstained rows before rescaling.")
    total = masses.sum(axis=1, keepdims=True)
    shape = np.where(total > 0, masses, masses[:, :, ::-1])
    shape /= shape.sum(axis=1, keepdims=True)
    return shape * np.stack([1 - risk, risk], axis=1)[:, None, :]


def risk_band(risk: ArrayLike, thresholds: Sequence[float] = RISK_THRESHOLDS) -> np.ndarray:
    """The band of each mortality risk, an array of `RISK_BANDS`; a risk on a threshold belongs to the band above it."""
    risk, thresholds = np.asarray(risk, dtype=np.float64), np.asarray(thresholds, dtype=np.float64)
    if len(thresholds) != len(RISK_BANDS) - 1 or (np.diff(thresholds) <= 0).any():
        raise ContractError(f"Risk bands are cut by {len(RISK_BANDS) - 1} rising thresholds; found {len(thresholds)}.")
    if np.isnan(risk).any():
        raise ContractError("A risk band needs a risk; leave out abstained rows.")
    return np.array(RISK_BANDS)[np.searchsorted(thresholds, risk, side="right")]


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

    def masses_after(self, elapsed_hours: ArrayLike, edges: Sequence[float] = HORIZON_EDGES) -> np.ndarray:
        """Forecast masses of stays that have lasted `elapsed_hours` [rows] and not ended, [rows, bins, 2].

        What the follow-up does not see end lies in the open-ended bin, split by cause like the ends that it does see.
        Beyond `last_elapsed` the forecast stays what it was there.
        """
        edges = check_edges(edges)
        elapsed = np.minimum(np.asarray(elapsed_hours, dtype=np.float64), self.last_elapsed)
        # Ends strictly before each edge: a bin holds its left edge, and so does the remaining stay.
        incidence = self.incidence[np.searchsorted(self.times, elapsed[:, None] + edges, side="left")]
        seen = self.incidence[-1] - incidence[:, 0]
        unseen = np.maximum(1.0 - self.incidence[-1].sum(), 0.0)
        last = self.incidence[-1] - incidence[:, -1] + unseen * self._split(seen)
        masses = np.concatenate([np.diff(incidence, axis=1), last[:, None]], axis=1)
        return masses / masses.sum(axis=(1, 2), keepdims=True)

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


def aalen_johansen(
    durations: ArrayLike, causes: ArrayLike, entry: ArrayLike | None = None, edges: Sequence[float] = HORIZON_EDGES
) -> np.ndarray:
    """The forecast of a whole population from the start of its stays, [bins, 2]; see `fit_population_curve`."""
    return fit_population_curve(durations, causes, entry).masses_after(np.zeros(1), edges)[0]


def _leaving_cdf(masses: ArrayLike, edges: np.ndarray) -> np.ndarray:
    """Probability of having left for any reason by each edge, [rows, bins]."""
    return _cdf_at_edges(check_masses(masses, len(edges)).sum(axis=2))


def _cdf_at_edges(bin_mass: np.ndarray) -> np.ndarray:
    """Mass before each edge, [rows, bins], from the mass in each bin; what lies in the last bin is before no edge."""
    return np.concatenate([np.zeros((len(bin_mass), 1)), np.cumsum(bin_mass[:, :-1], axis=1)], axis=1)


def _read_cdf(cdf: np.ndarray, edges: np.ndarray, hours: ArrayLike) -> np.ndarray:
    """Each row's distribution function at its hours, linear between edges, [rows]."""
    hours = np.broadcast_to(np.asarray(hours, dtype=np.float64), len(cdf))
    if not ((hours >= 0) & (hours <= edges[-1])).all():
        raise ContractError(f"A forecast can be asked for 0 to {edges[-1]:g} hours ahead; other hours were asked for.")
    lower = np.clip(np.searchsorted(edges, hours, side="right") - 1, 0, len(edges) - 2)
    row = np.arange(len(cdf))
    share = (hours - edges[lower]) / (edges[lower + 1] - edges[lower])
    start, stop = cdf[row, lower], cdf[row, lower + 1]
    return np.clip(start + share * (stop - start), 0.0, 1.0)
