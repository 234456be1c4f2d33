"""What a forecast says: every published number is read off one discrete competing-risk distribution per row."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.frames import ALIVE, DIED
from rnn_core.contracts.thresholds import DISCHARGE_HOURS, PROLONGED_HOURS, RISK_BANDS, RISK_THRESHOLDS

# A forecast may sum to 1 in single precision only.
SUM_TOLERANCE = 1e-4


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


@dataclass(frozen=True, eq=False)
class Distribution:
    """When and how each of a set of stays ends; checked once, when it is made.

    masses: float64 [rows, bins, 2], the probability of leaving alive (cause 0) or dying (cause 1) in each horizon bin.
        A row sums to 1: what does so within `SUM_TOLERANCE` is divided by its sum.
    edges: float64 [bins], rising from 0. Bin k is [edges[k], edges[k + 1]) hours after the prediction, the last one is
        open-ended. Inside a bin the mass is uniform, so every distribution function is linear between edges.

    Raises ContractError for another shape, a value that is not finite or is below zero, another sum, or wrong edges.

    >>> forecast = Distribution([[[0.1, 0.1], [0.4, 0.1], [0.2, 0.1]]], (0, 10, 30))
    >>> forecast.mortality_risk().round(3), forecast.survival(20).round(3), forecast.quantile(0.45).round(3)
    (array([0.3]), array([0.55]), array([20.]))
    """

    masses: np.ndarray
    edges: np.ndarray

    def __post_init__(self) -> None:
        edges = _checked_edges(self.edges)
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "masses", _checked_masses(self.masses, len(edges)))

    @classmethod
    def _trusted(cls, masses: np.ndarray, edges: np.ndarray) -> Self:
        """Of masses that are valid because of how they were computed: nothing is checked, nothing divided."""
        made = object.__new__(cls)
        object.__setattr__(made, "masses", masses)
        object.__setattr__(made, "edges", edges)
        return made

    @classmethod
    def concatenate(cls, parts: "Sequence[Distribution]") -> Self:
        """The rows of several, one after another. Raises ContractError where their edges differ."""
        if any(not np.array_equal(part.edges, parts[0].edges) for part in parts):
            raise ContractError(
                "Forecasts over different horizon edges cannot be put together; use those of one model."
            )
        return cls._trusted(np.concatenate([part.masses for part in parts]), parts[0].edges)

    def __len__(self) -> int:
        return len(self.masses)

    def take(self, rows: np.ndarray) -> Self:
        """Only `rows`: bool [rows], or int [n] in any order and with repetitions."""
        return self._trusted(self.masses[rows], self.edges)

    def mortality_risk(self) -> np.ndarray:
        """Probability that the stay ends in death, at any time, [rows]."""
        return np.clip(self.masses[:, :, DIED].sum(axis=1), 0.0, 1.0)

    def cumulative_incidence(self, hours: ArrayLike, cause: int) -> np.ndarray:
        """Probability of having left by `cause` within `hours` (one number, or one per row), [rows].

        Hours are between 0 and the last edge; others raise ContractError, since nothing is known of times beyond it.
        """
        return self._read(_cdf_at_edges(self.masses[:, :, cause]), hours)

    def survival(self, hours: ArrayLike) -> np.ndarray:
        """Probability of still being there after `hours` (one number, or one per row, at most the last edge), [rows]."""
        return np.clip(1.0 - self._read(self.leaving_cdf, hours), 0.0, 1.0)

    def discharge_probability(self, hours: ArrayLike) -> np.ndarray:
        """Probability of having left alive within `hours`, [rows]."""
        return self.cumulative_incidence(hours, ALIVE)

    def prolonged_stay_risk(self, elapsed_hours: ArrayLike, limit_hours: float = PROLONGED_HOURS) -> np.ndarray:
        """Probability that the whole stay, elapsed hours included, exceeds the limit, however it ends, [rows].

        1 where the limit has already passed. The limit is at most the last edge.
        """
        left = limit_hours - np.asarray(elapsed_hours, dtype=np.float64)
        return np.where(left < 0, 1.0, self.survival(np.where(left < 0, 0.0, left)))

    def quantile(self, q: float) -> np.ndarray:
        """Hours after which the stay has ended, however, with probability q (0 < q < 1), [rows].

        Where the quantile is in the open-ended bin the answer is the last edge, to be read as "at least".
        """
        if not 0 < q < 1:
            raise ContractError(f"A quantile lies strictly between 0 and 1; found {q}.")
        cdf, edges = self.leaving_cdf, self.edges
        below = (cdf[:, 1:] < q).sum(axis=1)
        lower = np.minimum(below, len(edges) - 2)
        row = np.arange(len(cdf))
        start, stop = cdf[row, lower], cdf[row, lower + 1]
        inside = below < len(edges) - 1
        share = np.divide(q - start, stop - start, out=np.ones(len(cdf)), where=inside)
        return edges[lower] + share * (edges[lower + 1] - edges[lower])

    def expected_remaining_hours(self) -> np.ndarray:
        """Mean remaining stay, each stay counted up to the last edge at most (restricted mean), [rows].

        The area under the survival curve; exact, since the curve is linear between edges.
        """
        survival = 1.0 - self.leaving_cdf
        return ((survival[:, 1:] + survival[:, :-1]) / 2) @ np.diff(self.edges)

    def after(self, hours: float) -> Self:
        """The forecast given that the stay is still going on in `hours`, counted from then.

        Bins that have passed are dropped and the one that `hours` cuts keeps its later part, so the answer has fewer
        edges. For every x up to its last edge

            after(h).survival(x) = survival(h + x) / survival(h)
            after(h).cumulative_incidence(x, c) = (cumulative_incidence(h + x, c) - cumulative_incidence(h, c)) / survival(h)

        `hours` is at least 0 and less than the last edge. Raises ContractError for others, and where a stay has ended by
        then for certain, so that there is no remaining life.
        """
        edges = self.edges
        if not 0 <= hours < edges[-1]:
            raise ContractError(f"A remaining stay begins 0 to less than {edges[-1]:g} hours ahead; found {hours:g}.")
        cut = int(np.searchsorted(edges, hours, side="right")) - 1
        masses = self.masses[:, cut:].copy()
        if cut < len(edges) - 1:
            masses[:, 0] *= (edges[cut + 1] - hours) / (edges[cut + 1] - edges[cut])
        left = masses.sum(axis=(1, 2), keepdims=True)
        if ended := int((left <= 0).sum()):
            raise ContractError(
                f"{ended} of {len(self)} stays have ended {hours:g} hours ahead for certain; leave them out."
            )
        return self._trusted(masses / left, np.concatenate([[0.0], edges[cut + 1 :] - hours]))

    def numbers(self, elapsed_hours: ArrayLike) -> pd.DataFrame:
        """The numbers of `forecast.stay_forecast` (`FORECAST_COLUMNS`) of stays that have lasted so long, one row each."""
        columns = {
            "mortality_risk": self.mortality_risk(),
            "prolonged_stay_risk": self.prolonged_stay_risk(elapsed_hours),
            **{f"remaining_los_p{q}_hours": self.quantile(q / 100) for q in (10, 50, 90)},
            **{f"discharge_{hours}h_prob": self.discharge_probability(hours) for hours in DISCHARGE_HOURS},
        }
        return pd.DataFrame(columns, columns=list(FORECAST_COLUMNS))

    def with_mortality_risk(self, risk: ArrayLike) -> Self:
        """The same with another risk of death (one number, or one per row); each cause keeps its distribution over time.

        Where a cause had no mass at all, its distribution over time is taken from the other one. Raises ContractError for
        a risk outside 0 to 1.
        """
        risk = np.broadcast_to(np.asarray(risk, dtype=np.float64), len(self))
        if not ((risk >= 0) & (risk <= 1)).all():
            raise ContractError("A mortality risk lies between 0 and 1; leave out abstained rows before rescaling.")
        total = self.masses.sum(axis=1, keepdims=True)
        shape = np.where(total > 0, self.masses, self.masses[:, :, ::-1])
        shape /= shape.sum(axis=1, keepdims=True)
        return self._trusted(shape * np.stack([1 - risk, risk], axis=1)[:, None, :], self.edges)

    def of_any_end(self) -> Self:
        """The same times with every end counted as one alive: for a model that cannot tell the two apart."""
        masses = np.zeros_like(self.masses)
        masses[:, :, ALIVE] = self.masses.sum(axis=2)
        return self._trusted(masses, self.edges)

    def times_by_cause(self) -> np.ndarray:
        """Probability that a stay has ended by the end of each bin, given its cause, float64 [rows, bins, 2]; 0
        throughout where the cause has no mass."""
        total = self.masses.sum(axis=1, keepdims=True)
        return np.cumsum(self.masses, axis=1) / np.where(total > 0, total, 1.0)

    def with_times(self, times_by_cause: np.ndarray) -> Self:
        """The same with other `times_by_cause`; each row keeps its risk of death."""
        total = self.masses.sum(axis=1, keepdims=True)
        return self._trusted(np.diff(times_by_cause, axis=1, prepend=0.0) * total, self.edges)

    def with_rows(self, rows: np.ndarray, other: "Distribution") -> Self:
        """The same with `rows` (bool [rows] or int [n]) replaced by the rows of `other`, in order."""
        masses = self.masses.copy()
        masses[rows] = other.masses
        return self._trusted(masses, self.edges)

    @cached_property
    def leaving_cdf(self) -> np.ndarray:
        """Probability of having left for any reason by each edge, float64 [rows, bins]."""
        return _cdf_at_edges(self.masses.sum(axis=2))

    def _read(self, cdf: np.ndarray, hours: ArrayLike) -> np.ndarray:
        """Each row's distribution function at its hours, linear between edges, [rows]."""
        edges, hours = self.edges, np.broadcast_to(np.asarray(hours, dtype=np.float64), len(cdf))
        if not ((hours >= 0) & (hours <= edges[-1])).all():
            raise ContractError(f"A forecast reaches 0 to {edges[-1]:g} hours ahead; other hours were requested.")
        lower = np.clip(np.searchsorted(edges, hours, side="right") - 1, 0, len(edges) - 2)
        row = np.arange(len(cdf))
        share = (hours - edges[lower]) / (edges[lower + 1] - edges[lower])
        start, stop = cdf[row, lower], cdf[row, lower + 1]
        return np.clip(start + share * (stop - start), 0.0, 1.0)


def risk_band(risk: ArrayLike, thresholds: Sequence[float] = RISK_THRESHOLDS) -> np.ndarray:
    """The band of each mortality risk, an array of `RISK_BANDS`; a risk on a threshold belongs to the band above it."""
    risk, thresholds = np.asarray(risk, dtype=np.float64), np.asarray(thresholds, dtype=np.float64)
    if len(thresholds) != len(RISK_BANDS) - 1 or (np.diff(thresholds) <= 0).any():
        raise ContractError(f"Risk bands are cut by {len(RISK_BANDS) - 1} rising thresholds; found {len(thresholds)}.")
    if np.isnan(risk).any():
        raise ContractError("A risk band needs a risk; leave out abstained rows.")
    return np.array(RISK_BANDS)[np.searchsorted(thresholds, risk, side="right")]


def _checked_edges(edges: ArrayLike) -> np.ndarray:
    array = np.asarray(edges, dtype=np.float64)
    rises = array.ndim == 1 and len(array) > 1 and array[0] == 0 and bool((np.diff(array) > 0).all())
    if not rises or np.isinf(array[-1]):
        raise ContractError("Horizon edges are at least two finite hours that start at 0 and rise; correct the config.")
    return array


def _checked_masses(masses: ArrayLike, n_bins: int) -> np.ndarray:
    array = np.asarray(masses, dtype=np.float64)
    if array.ndim != 3 or array.shape[1:] != (n_bins, 2):
        raise ContractError(
            f"Forecast masses have the shape [rows, {n_bins}, 2]; found {list(array.shape)}. "
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


def _cdf_at_edges(bin_mass: np.ndarray) -> np.ndarray:
    """Mass before each edge, [rows, bins], from the mass in each bin; the mass of the last bin is before no edge."""
    return np.concatenate([np.zeros((len(bin_mass), 1)), np.cumsum(bin_mass[:, :-1], axis=1)], axis=1)
