"""What a fit or a judgement works on: stays as known at one time, their windows, and the labels of the hours that are served."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from rnn_core.config import ModelConfig, Sampling, WindowConfig
from rnn_core.frames import HOUR, Grid, Labels, Observations, Windows
from rnn_core.grid import make_grid
from rnn_core.labels import make_labels
from rnn_core.scaling import Scaler
from rnn_core.windows import make_windows


@dataclass(frozen=True)
class Known:
    """Stays and their observations as they were known at `as_of`; nothing later is in it.

    sound: bool [stays], False where the labels of a stay contradict themselves: it is neither learned from nor judged.
    """

    stays: pd.DataFrame
    observations: Observations
    as_of: np.datetime64

    @property
    def sound(self) -> np.ndarray:
        return self.stays["sound"].to_numpy(bool) if "sound" in self.stays else np.ones(len(self.stays), bool)

    @cached_property
    def last_heard(self) -> np.ndarray:
        """When the last observation of each stay became available, its intime where none did, datetime64[us] [stays]."""
        last = _intime(self).copy()
        seen = self.observations.known_at(self.as_of)
        np.maximum.at(last, seen.stay, seen.available_at.astype("datetime64[us]"))
        return last

    def take(self, chosen: np.ndarray) -> "Known":
        """Only the stays marked in `chosen`, bool [stays]."""
        number = np.cumsum(chosen) - 1
        part = self.observations.take(chosen[self.observations.stay])
        part = replace(part, stay=number[part.stay].astype(np.int32))
        return Known(self.stays[chosen].reset_index(drop=True), part, self.as_of)


def stack(parts: Sequence[Known]) -> Known:
    """Stays of several with one `as_of`, one after another."""
    n_stays = np.cumsum([0] + [len(part.stays) for part in parts[:-1]])
    seen = [part.observations for part in parts]
    columns = {
        name: np.concatenate([getattr(observations, name) for observations in seen])
        for name in ("concept", "observed_at", "available_at", "value")
    }
    stay = np.concatenate([o.stay + first for o, first in zip(seen, n_stays, strict=True)]).astype(np.int32)
    order = np.lexsort((columns["observed_at"], columns["available_at"]))
    observations = Observations(stay[order], **{name: values[order] for name, values in columns.items()})
    return Known(pd.concat([part.stays for part in parts], ignore_index=True), observations, parts[0].as_of)


@dataclass(frozen=True)
class Material:
    """Windows and labels of stays, made with one scaler; labels are usable where a forecast would have been served."""

    known: Known
    windows: Windows
    labels: Labels
    known_until: np.ndarray

    @property
    def stay_of_row(self) -> np.ndarray:
        """int64 [hours], the stay that a row belongs to."""
        return np.repeat(np.arange(len(self.known.stays)), np.diff(self.windows.offsets))

    def hour_of_row(self, row: np.ndarray) -> np.ndarray:
        """Prediction hours since the stay's first, from 1, of absolute rows."""
        return row - self.windows.offsets[self.stay_of_row[row]] + 1


def make_material(known: Known, grid: Grid, scaler: Scaler, config: ModelConfig, sampling: Sampling) -> Material:
    """Windows and labels of `known`, whose `grid` is that of `make_served_grid`."""
    until = known_until(known, config.window)
    windows = make_windows(grid, known.stays, scaler, config.window)
    labels = make_labels(
        windows, known.stays, config.network.horizon_edges, sampling.delayed_entry_hours, known.as_of,
        known_until=until,
    )  # fmt: skip
    return Material(known, windows, _where_served(labels, windows, config.window), until)


def make_served_grid(known: Known, window: WindowConfig, sampling: Sampling) -> Grid:
    """The grid up to the hour in which a forecast would be refused as stale, or in which the data end by design."""
    until = known.last_heard + _hours(window.stale_hours)
    if np.isfinite(sampling.data_hours):
        until = np.minimum(until, _intime(known) + _hours(sampling.data_hours))
    return make_grid(known.stays, known.observations, known.as_of, until=until)


def known_until(known: Known, window: WindowConfig) -> np.ndarray:
    """Until when an open stay is known to have gone on, datetime64[us] [stays]: its last observation, or `as_of` where
    that is fresh. Silence is no proof of presence: a feed that broke off would otherwise teach endless stays."""
    fresh = known.as_of - known.last_heard <= _hours(window.stale_hours)
    return np.where(fresh, np.datetime64(known.as_of, "us"), known.last_heard)


def _where_served(labels: Labels, windows: Windows, window: WindowConfig) -> Labels:
    """Hours in which a forecast is refused for want of data are neither learned from nor judged."""
    enough = windows.n_observations >= window.min_observations
    return replace(labels, usable=labels.usable & enough & (windows.hours_since_last <= window.stale_hours))


def _intime(known: Known) -> np.ndarray:
    return known.stays["intime"].to_numpy("datetime64[us]")


def _hours(hours: float) -> np.timedelta64:
    return np.timedelta64(round(hours * 3600), "s")


def elapsed_hours(known: Known) -> np.ndarray:
    """Hours from intime to `as_of`, float64 [stays]."""
    return (known.as_of - _intime(known)) / HOUR
