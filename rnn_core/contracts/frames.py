"""The typed frames between databases and models: columns, arrays, shapes and units."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from rnn_core.contracts.errors import ContractError

HOUR = np.timedelta64(3600, "s")

# Columns of a stays frame, one row per stay, as known at one time; times are UTC datetime64, durations hours.
STAY_COLUMNS: tuple[str, ...] = (
    "source",
    "stay_id",
    "patient_id",
    "unit",
    "unit_type",
    "intime",
    "outtime",
    "outcome",
    "ends_at",
    "end_precision_hours",
    "hospital_intime",
    "hospital_outtime",
    "died_at",
    "age_years",
    "sex",
    "height_cm",
    "weight_kg",
    "admission_type",
)

UNIT_TYPES: tuple[str, ...] = ("medical", "surgical", "cardiac", "cardiac_surgery", "trauma", "neuro", "mixed")
SEXES: tuple[str, ...] = ("female", "male")
ADMISSION_TYPES: tuple[str, ...] = ("emergency", "urgent", "elective")
OUTCOMES: tuple[str, ...] = ("alive", "died")
ALIVE, DIED = 0, 1

# A finished epoch of a fit: epoch and epochs (from 1), train_loss, valid_loss, learning_rate, seconds, ...; of a fit that has no
# epochs, rounds; of a teacher, teacher_of: the member (from 1) that learns from it.
EpochRecord = dict[str, float]


def check_stays(stays: pd.DataFrame) -> pd.DataFrame:
    """The frame itself, if its columns are `STAY_COLUMNS` and each (source, stay_id) occurs once.

    Raises ContractError otherwise.
    """
    if missing := [c for c in STAY_COLUMNS if c not in stays.columns]:
        raise ContractError(f"A stays frame has the columns {list(STAY_COLUMNS)}; missing here: {missing}.")
    doubled = int(stays.duplicated(["source", "stay_id"]).sum())
    if doubled:
        raise ContractError(f"A stays frame has one row per stay; {doubled} rows repeat one.")
    return stays


@dataclass(frozen=True)
class Observations:
    """Observations in columns, already in concept units, sorted by (available_at, observed_at).

    stay: int32 [n], row number in the stays frame they belong to.
    concept: int16 [n], position in `concepts.NAMES`.
    observed_at, available_at: datetime64[us] [n], UTC.
    value: float64 [n].
    """

    stay: np.ndarray
    concept: np.ndarray
    observed_at: np.ndarray
    available_at: np.ndarray
    value: np.ndarray

    def __post_init__(self) -> None:
        lengths = {len(self.stay), len(self.concept), len(self.observed_at), len(self.available_at), len(self.value)}
        if len(lengths) != 1:
            raise ContractError(f"The columns of Observations have one length; found {sorted(lengths)}.")

    def __len__(self) -> int:
        return len(self.stay)

    def known_at(self, as_of: np.datetime64) -> "Observations":
        """Only what was available at `as_of` (inclusive)."""
        return self.take(self.available_at <= as_of)

    def take(self, keep: np.ndarray) -> "Observations":
        """Only those marked in `keep`, bool [n]."""
        return Observations(
            self.stay[keep], self.concept[keep], self.observed_at[keep], self.available_at[keep], self.value[keep]
        )


@dataclass(frozen=True)
class Grid:
    """Ragged hourly grid: all hours of all stays one after another.

    Hours follow the clock: cell h of a stay covers (base + h, base + h + 1] with base = intime floored to the hour, so a
    prediction made on the hour sees whole cells only. What was available before the first cell is in the first.

    offsets: int64 [stays + 1]; the hours of stay i are rows offsets[i] to offsets[i + 1].
    base: datetime64[h] [stays].
    last: float32 [hours, concepts], last value that became available in the hour, NaN where none did.
    observed_hours: float32 [hours, concepts], when it was observed, in hours after base; NaN where none.
    count: float32 [hours], number of observations that became available in the hour.
    last_available: float32 [hours], when the last of them became available, in hours after base; NaN where none did.
    """

    offsets: np.ndarray
    base: np.ndarray
    last: np.ndarray
    observed_hours: np.ndarray
    count: np.ndarray
    last_available: np.ndarray

    @property
    def n_stays(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Hours of each stay, int64 [stays]."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Windows:
    """What the network reads, ragged; a window is a run of rows of `channels`, gathered per batch, never copied whole.

    channels: float32 [hours, channels]: scaled values carried forward, observed masks, ages, then time channels.
    static: float32 [stays, static features].
    offsets: int64 [stays + 1], hours of each stay, as in `Grid`.
    stay, start, stop, score_from: int64 [windows]; window w covers rows start[w] to stop[w] (absolute, exclusive) of
        stay[w] and gives predictions at the ends of rows score_from[w] to stop[w].
    prediction_hour: float32 [hours], hours between `intime` and the end of the row: the elapsed stay at prediction.
    n_observations: float32 [hours], observations known by the end of the row.
    hours_since_last: float32 [hours], hours from the last moment anything became available to the end of the row; inf if never.
    """

    channels: np.ndarray
    static: np.ndarray
    offsets: np.ndarray
    stay: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    score_from: np.ndarray
    prediction_hour: np.ndarray
    n_observations: np.ndarray
    hours_since_last: np.ndarray

    def __len__(self) -> int:
        return len(self.stay)

    @property
    def scored(self) -> np.ndarray:
        """Whether a prediction is made at the end of a row, bool [hours]."""
        step = np.zeros(len(self.prediction_hour) + 1, dtype=np.int64)
        np.add.at(step, self.score_from, 1)
        np.add.at(step, self.stop, -1)
        return np.cumsum(step[:-1]) > 0

    def stay_of(self, rows: np.ndarray) -> np.ndarray:
        """Position of the stay of each of `rows` (absolute), int64 [n]."""
        return np.searchsorted(self.offsets, rows, side="right") - 1

    def hour_of(self, rows: np.ndarray) -> np.ndarray:
        """Prediction hours since the stay's first, from 1, of each of `rows` (absolute), int64 [n]."""
        return rows - self.offsets[self.stay_of(rows)] + 1

    def values_per_hour(self, rows: np.ndarray) -> np.ndarray:
        """Observations that became available in the last day, or since the stay's first hour, per hour, up to the ends of
        `rows` (absolute), float64 [n]."""
        before = np.maximum(rows - 24, self.offsets[self.stay_of(rows)] - 1)
        earlier = np.where(before < self.offsets[self.stay_of(rows)], 0, self.n_observations[before])
        return (self.n_observations[rows] - earlier) / (rows - before)

    def window_of(self, rows: np.ndarray) -> np.ndarray:
        """The window that makes the prediction at the end of each of `rows` (absolute, int64 [n]), int64 [n].

        Raises ContractError for a row at which no window predicts.
        """
        order = np.argsort(self.score_from)
        window = order[np.searchsorted(self.score_from[order], rows, side="right") - 1] if len(self) else order
        scored = len(self) and ((rows >= self.score_from[window]) & (rows < self.stop[window])).all()
        if len(rows) and not scored:
            raise ContractError("A prediction exists only at rows that a window scores; other rows were requested.")
        return window


@dataclass(frozen=True)
class Labels:
    """What is known of the remaining stay at the end of each row of `Windows`, as weights over the forecast cells.

    With p the forecast masses over cells (horizon bin, cause), the likelihood of a row is (weights . p) / (entry . p):
    an exact or interval-censored end, an open stay, and a cause without a time are all weights; `entry` is delayed entry.

    weights, entry: float32 [rows, bins, 2]; cause 0 leaves alive, cause 1 dies.
    death: float32 [rows], 1 died, 0 left alive, NaN not known.
    remaining_hours: float32 [rows], time to the end (centre of the interval), NaN while open or not known.
    usable: bool [rows], rows that enter the likelihood.
    taught: float16 [rows, bins, 2], masses that a teacher forecast at the row from what was known then, 0 throughout
        where it made none; None without a teacher.
    """

    weights: np.ndarray
    entry: np.ndarray
    death: np.ndarray
    remaining_hours: np.ndarray
    usable: np.ndarray
    taught: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> "Labels":
        """Only the rows marked, bool [rows], or numbered, int64 [n]."""
        return Labels(
            self.weights[rows],
            self.entry[rows],
            self.death[rows],
            self.remaining_hours[rows],
            self.usable[rows],
            None if self.taught is None else self.taught[rows],
        )
