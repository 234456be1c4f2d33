"""What became of the stays behind a set of forecasts, and what is known of it where they are still open.

Whether a stay has ended by the time outcomes are read depends on its length: of the newest forecasts only those of short
stays have one. So what needs the end of a stay rests on forecasts that were made long enough before (`settled_age`), and what
needs a limit, such as an end within 24 hours, on those made as long before: rules of the time of the prediction alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from rnn_core.contracts.frames import ALIVE
from rnn_core.contracts.thresholds import DISCHARGE_HOURS, PROLONGED_HOURS
from rnn_core.statistics.length_of_stay import los_bucket
from rnn_core.statistics.population import CENSORED, fit_population_curve

# A forecast is settled when all but so many of the stays have ended.
_STILL_OPEN = 0.02


def settled_age(age_hours: np.ndarray, stayed_hours: np.ndarray, ended: np.ndarray) -> float:
    """Hours before the outcomes were read from which on forecasts are settled: nearly all stays have ended, long or short.

    These are the hours after which all but 2 % of the stays have ended (Kaplan-Meier, open stays censored), but at most half
    the age of the oldest forecast; 0 if no stay is open.

    age_hours: from the prediction to the time at which outcomes were read, [rows]. stayed_hours, ended: as in `Outcomes`,
    [rows]; a row with NaN takes no part.

    >>> settled_age(np.array([90.0, 50, 20, 10]), np.array([30.0, 8, 9, 10]), np.array([True, True, True, False]))
    30.0
    """
    known = ~np.isnan(stayed_hours)
    ended, stayed = ended[known], np.maximum(stayed_hours[known], 0)
    if ended.all():
        return 0.0
    curve = fit_population_curve(stayed, np.where(ended, ALIVE, CENSORED))
    left = curve.incidence.sum(axis=1)[1:]
    after = np.append(curve.times, np.inf)[np.searchsorted(left, 1 - _STILL_OPEN - 1e-9)]
    return float(min(after, age_hours.max() / 2))


@dataclass(frozen=True)
class Outcomes:
    """What became of the stays behind a set of forecasts, one row per forecast.

    elapsed_hours: length of the stay at the prediction, [rows].
    death: 1 died, 0 left alive, NaN not known, [rows].
    remaining_hours: from the prediction to the end (the centre, where the end is known to an interval), NaN while open
        or not known, [rows].
    followed_hours: hours after the prediction for which an open stay is known to have gone on, NaN elsewhere, [rows].
    age_hours: from the prediction to the time at which outcomes were read, [rows]; by default long enough for any.
    precision_hours: width of the interval in which an end lies, 0 where the time is exact, [rows].
    groups: patient ids, [rows]; a forecast is its own patient where they are not given.
    ends_alike: forecasts without a risk of death, bool [rows] or one: they are not scored by deaths, and each end counts as
        a discharge.
    """

    elapsed_hours: np.ndarray
    death: np.ndarray
    remaining_hours: np.ndarray
    followed_hours: np.ndarray | None = None
    age_hours: np.ndarray | None = None
    precision_hours: np.ndarray | None = None
    groups: np.ndarray | None = None
    ends_alike: np.ndarray | bool = False

    @property
    def stayed_hours(self) -> np.ndarray:
        """Hours the stay is known to have gone on after the prediction, ended or not."""
        if self.followed_hours is None:
            return self.remaining_hours
        return np.where(np.isnan(self.remaining_hours), self.followed_hours, self.remaining_hours)

    @property
    def ended(self) -> np.ndarray:
        return ~np.isnan(self.remaining_hours)

    @property
    def known_hours(self) -> np.ndarray:
        """Hours after the prediction for which it is known whether the stay went on; inf unless `age_hours` limits them."""
        age = np.full(len(self.death), np.inf) if self.age_hours is None else self.age_hours
        return np.where(self.ended, age, self.stayed_hours)

    @property
    def settled(self) -> np.ndarray:
        """Whether nearly all stays forecast so long ago have ended, bool [rows]; see `settled_age`."""
        if self.age_hours is None:
            return np.ones(len(self.death), bool)
        return self.age_hours >= settled_age(self.age_hours, self.stayed_hours, self.ended)

    def prolonged(self) -> np.ndarray:
        """1 if the stay exceeds the limit, NaN if not known or if it had done so before the prediction, [rows]."""
        left = PROLONGED_HOURS - self.elapsed_hours
        return np.where(left >= 0, 1 - self._ended_within(left), np.nan)

    def discharged_within(self, hours: float) -> np.ndarray:
        """1 if the stay ended alive within these hours, NaN if not known, [rows].

        Where a coarse end may lie on either side of the limit that is NaN for the dead too, of whom the answer is
        known: if only the living were left out, the rest would hold too few discharges.
        """
        within = self._ended_within(hours)
        return np.where((within == 1) & ~np.asarray(self.ends_alike), 1 - self.death, within)

    def _ended_within(self, hours: ArrayLike) -> np.ndarray:
        """1 if the end came within these hours (one number, or one per row), 0 if later, NaN if not known, [rows]."""
        half = 0.0 if self.precision_hours is None else self.precision_hours / 2
        # The stay was open at the prediction, so the interval of a coarse end is cut there.
        earliest, latest = np.maximum(self.remaining_hours - half, 0), self.remaining_hours + half
        later = np.where(self.ended, (earliest >= hours) & (latest > hours), self.stayed_hours > hours)
        within = np.select([latest <= hours, later], [1.0, 0.0], np.nan)
        return within if self.age_hours is None else np.where(self.age_hours >= hours, within, np.nan)

    def take(self, rows: np.ndarray) -> "Outcomes":
        """Of some rows, bool [rows] or int [n]."""
        per_row = {name: values[rows] for name, values in vars(self).items() if isinstance(values, np.ndarray)}
        return replace(self, **per_row)

    @staticmethod
    def concatenate(parts: "Sequence[Outcomes]") -> "Outcomes":
        """The rows of several, all with the same columns, one after another."""
        per_row = [name for name, values in vars(parts[0]).items() if isinstance(values, np.ndarray)]
        return replace(parts[0], **{name: np.concatenate([getattr(part, name) for part in parts]) for name in per_row})

    def columns(self) -> dict[str, np.ndarray]:
        """What became of each stay under the names by which metrics ask for it, [rows] each."""
        exact, settled = np.zeros(len(self.death)), self.settled
        remaining = np.where(settled, self.remaining_hours, np.nan)
        return {
            "death": np.where(settled & ~np.asarray(self.ends_alike), self.death, np.nan),
            "remaining_hours": remaining,
            "precision_hours": exact if self.precision_hours is None else np.where(self.ended, self.precision_hours, 0),
            "stayed_hours": self.stayed_hours,
            "known_hours": self.known_hours,
            "ended": self.ended,
            "los_days": (self.elapsed_hours + remaining) / 24,
            "los_bucket": los_bucket((self.elapsed_hours + remaining) / 24),
            "prolonged": self.prolonged(),
            **{f"discharged_{hours}h": self.discharged_within(hours) for hours in DISCHARGE_HOURS},
        }
