"""The data of a fit or an evaluation: stays as known at one time, their windows, and labels of the hours that are served."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from rnn_core.contracts.config import ModelConfig, Sampling, WindowConfig
from rnn_core.contracts.frames import HOUR, Grid, Labels, Windows
from rnn_core.contracts.known import Cohort, Known
from rnn_core.series.grid import make_grid
from rnn_core.series.labels import make_labels
from rnn_core.series.scaling import Scaler
from rnn_core.series.serving_rule import is_fresh, is_served, served_until
from rnn_core.series.splits import is_in_sample, patient_folds
from rnn_core.series.windows import make_windows
from rnn_core.statistics.outcomes import settled_age

# Metrics are taken every so many hours of a stay: neighbouring hours are nearly the same.
JUDGE_EVERY_HOURS = 6
# Forecasts of so many stays calibrate and pool; those of more would only take memory.
MOST_CALIBRATED_STAYS = 10_000
# Hours that are looked at together.
_BLOCK = 65_536


@dataclass(frozen=True)
class Material:
    """Windows and labels of stays, made with one scaler; labels are usable where a forecast would have been served.

    Of `known`, whoever has the material reads the stays alone. fixed: `network.scoring.fixed_inputs` of
    `windows_with_origin`, where they were computed beforehand.
    """

    known: Cohort
    windows: Windows
    labels: Labels
    known_until: np.ndarray
    fixed: np.ndarray | None = None

    @property
    def stay_of_row(self) -> np.ndarray:
        """int64 [hours], the stay that a row belongs to."""
        return np.repeat(np.arange(len(self.known.stays)), np.diff(self.windows.offsets))

    def folds(self, n: int) -> np.ndarray:
        """Fold of each stay (`splits.patient_folds`), int64 [stays]; -1 of borrowed ones, from which each member learns."""
        return np.where(self.known.borrowed, -1, patient_folds(self.known.stays["patient_id"], n))

    @cached_property
    def origin(self) -> np.ndarray:
        """1 in the column of the other source that a borrowed stay is from, else 0; float32 [stays, other sources].

        With these as static features, a network learns an intercept of each source. They are 0 in all of one's own stays,
        so what is served does without them.
        """
        return origin_of(self.known.stays, self.known.borrowed, other_sources(self.known))

    @property
    def windows_with_origin(self) -> Windows:
        """The windows that networks learn from: with `origin` behind the static features."""
        return replace(self.windows, static=np.concatenate([self.windows.static, self.origin], axis=1))

    @cached_property
    def settled_death(self) -> np.ndarray:
        """`labels.death` where nearly all stays forecast so long ago have ended, else NaN, float32 [hours].

        A risk of death that is learned or calibrated from whatever has ended would, near the cut-off, be that of short
        stays. The likelihood of `labels` has no such bias: it counts an open stay as open. An outcome without a time is kept.
        """
        rows, death = self.judged_rows, np.empty_like(self.labels.death)
        age, stayed, ended = self._followed(rows)
        settled = settled_age(age, stayed, ended)
        for first in range(0, len(death), _BLOCK):
            block = np.arange(first, min(first + _BLOCK, len(death)))
            age, stayed, _ = self._followed(block)
            death[block] = np.where((age >= settled) | np.isnan(stayed), self.labels.death[block], np.nan)
        return death

    def _followed(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of absolute rows: hours from the prediction to `as_of`; to the end or, until it is known, to `known_until`, NaN
        if an outcome has no time; and whether the end is known; [n] each."""
        stay, hour = self.windows.stay_of(row), self.windows.prediction_hour[row].astype(np.float64)
        age, followed = (((at - self.known.intime) / HOUR)[stay] - hour for at in (self.known.as_of, self.known_until))
        remaining = self.labels.remaining_hours[row]
        ended = ~np.isnan(remaining)
        return age, np.where(ended, remaining, np.where(np.isnan(self.labels.death[row]), followed, np.nan)), ended

    def hour_of_row(self, row: np.ndarray) -> np.ndarray:
        """Prediction hours since the stay's first, from 1, of absolute rows."""
        return self.windows.hour_of(row)

    @property
    def judged_rows(self) -> np.ndarray:
        """All rows at which a prediction is made that is judged, rising, int64 [n]; none of borrowed stays."""
        rows = np.flatnonzero(self.windows.scored & ~self.known.borrowed[self.stay_of_row])
        return rows[self.is_judged(rows)]

    @property
    def calibration_rows(self) -> np.ndarray:
        """The `judged_rows` that calibrate and pool, int64 [n]: of `MOST_CALIBRATED_STAYS` stays, if there are more, which a
        hash of the patients chooses."""
        rows, own = self.judged_rows, int((~self.known.borrowed).sum())
        share = MOST_CALIBRATED_STAYS / max(own, 1)
        if share >= 1:
            return rows
        chosen = is_in_sample(self.known.stays["patient_id"], share, "calibration")
        return rows[chosen[self.windows.stay_of(rows)]]

    def is_judged(self, row: np.ndarray) -> np.ndarray:
        """Of absolute rows, those every `JUDGE_EVERY_HOURS` hours of which an outcome can be known, bool [n]."""
        return self.labels.usable[row] & _is_judged_hour(self.windows, row)


def _is_judged_hour(windows: Windows, rows: np.ndarray) -> np.ndarray:
    return windows.hour_of(rows) % JUDGE_EVERY_HOURS == 0


def judged_hours(windows: Windows, rules: WindowConfig, sampling: Sampling) -> np.ndarray:
    """Rows at which a forecast is served, every `JUDGE_EVERY_HOURS` hours, whatever becomes of the stay; int64 [n]."""
    rows = np.flatnonzero(windows.scored)
    rows = rows[_is_judged_hour(windows, rows)]
    return rows[is_served(windows, rows, rules, sampling)]


def other_sources(known: Cohort) -> list[str]:
    """Those that stays are borrowed from."""
    return sorted(set(known.stays["source"][known.borrowed])) if known.borrowed.any() else []


def origin_of(stays: pd.DataFrame, borrowed: np.ndarray, others: Sequence[str]) -> np.ndarray:
    """See `Material.origin`; others: `other_sources` of all of the material."""
    source = np.where(borrowed, stays["source"], None)
    return (source[:, None] == np.array(others, dtype=object)).astype(np.float32)


def make_material(
    known: Known,
    grid: Grid,
    scaler: Scaler,
    config: ModelConfig,
    sampling: Sampling,
    until: np.ndarray | None = None,
) -> Material:
    """Windows and labels of `known`, whose `grid` is that of `make_served_grid`. until: its `known_until`, where that is
    known already; then no observations are read."""
    until = known_until(known, config.window) if until is None else until
    windows = make_windows(grid, known.stays, scaler, config.window)
    labels = make_labels(
        windows, known.stays, config.network.horizon_edges, sampling.delayed_entry_hours, known.as_of, known_until=until
    )
    # Hours in which a forecast is refused because there is too little data are neither learned from nor judged.
    served = is_served(windows, slice(None), config.window, sampling)
    return Material(known, windows, replace(labels, usable=labels.usable & served), until)


def make_served_grid(known: Known, window: WindowConfig, sampling: Sampling) -> Grid:
    """The grid up to the hour at which the model abstains because the data are stale, or at which they end by design."""
    return make_grid(known.stays, known.observations, known.as_of, until=served_until(known, window, sampling))


def known_until(known: Known, window: WindowConfig) -> np.ndarray:
    """Until when an open stay is known to have gone on, datetime64[us] [stays]: its last observation, or `as_of` where
    that is fresh. Silence is no proof of presence: otherwise a feed that broke off would look like endless stays."""
    return np.where(is_fresh(known, window), np.datetime64(known.as_of, "us"), known.last_heard)
