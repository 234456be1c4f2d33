"""What a recurrent model of arrivals reads and is judged by: begins around past times, beside those that the rates known
then let expect."""

from dataclasses import dataclass, fields

import numpy as np

from rnn_core.census.arrivals import Arrivals, History, fit_arrivals, hours_of_week
from rnn_core.contracts.census import ARRIVAL_PART_HOURS, PARTS_AHEAD, PARTS_BEFORE, ArrivalWindows, Calendar
from rnn_core.contracts.errors import DataTooSmallError
from rnn_core.contracts.frames import HOUR

# A recurrent model needs so much to learn from and to be judged by.
MIN_DAYS, MIN_BEGINS = 180, 500
# The rates that it corrects were found so often, from what came before; the first after so many days.
_REFIT_DAYS = 28
# The newest quarter judges; of the time before, the newest part chooses the epoch.
_JUDGED_SHARE, _CHOOSING_SHARE = 0.25, 0.2
# A row holds 21 parts ahead: so many cover the time of a few units often enough.
_LEARNED_ROWS, _CHOOSING_ROWS = 1200, 800
_JUDGED_EVERY = 8
_BEFORE, _AHEAD = PARTS_BEFORE * ARRIVAL_PART_HOURS, PARTS_AHEAD * ARRIVAL_PART_HOURS


@dataclass(frozen=True)
class ArrivalLessons:
    """Windows to learn from, to choose the epoch by, and to judge by, in the order of time; no hour is in the weeks ahead of
    two of them."""

    learned: ArrivalWindows
    choosing: ArrivalWindows
    judged: ArrivalWindows


def split_arrivals(history: History, beds: np.ndarray, calendar: Calendar, seed: int = 0) -> ArrivalLessons:
    """Windows of a history at hours drawn at random, those to judge by at every eighth hour.

    beds: see `fit_arrivals`. Raises DataTooSmallError for less than `MIN_DAYS` or `MIN_BEGINS`.
    """
    hours, begins = history.counts.shape[1], int(history.counts.sum())
    if hours < MIN_DAYS * 24 or begins < MIN_BEGINS:
        raise DataTooSmallError(
            f"A recurrent model of arrivals needs {MIN_DAYS} days and {MIN_BEGINS} begins of stays; found {hours // 24} and "
            f"{begins}."
        )
    random = np.random.default_rng(seed)
    first = _REFIT_DAYS * 24
    judged = int(hours * (1 - _JUDGED_SHARE)) // 24 * 24
    choosing = int(first + (judged - first) * (1 - _CHOOSING_SHARE)) // 24 * 24

    def draw(start: int, stop: int, rows: int) -> np.ndarray:
        slots = np.arange(start, stop - _AHEAD + 1)
        return np.sort(random.permutation(slots)[: max(rows // len(history.counts), 50)])

    parts = (
        draw(first, choosing, _LEARNED_ROWS),
        draw(choosing, judged, _CHOOSING_ROWS),
        np.arange(judged, hours - _AHEAD + 1, _JUDGED_EVERY),
    )
    return ArrivalLessons(*(past_windows(history, beds, calendar, slots) for slots in parts))


def past_windows(history: History, beds: np.ndarray, calendar: Calendar, slots: np.ndarray) -> ArrivalWindows:
    """Windows at `slots`, rising hours of a history, a row per unit and slot; all were known a week before its end.

    What was expected at each follows from what came before it alone. Rhythm and half-life are found every 28 days, the level
    every day, counted back from the end of the history.
    """
    hours, week = history.counts.shape[1], history.hours_of_week(calendar)
    came, parts = _summed(history.counts), []
    block = slots // (_REFIT_DAYS * 24)
    for number in np.unique(block):
        chosen, start = slots[block == number], number * _REFIT_DAYS * 24
        then = fit_arrivals(history.until(start), beds, calendar)
        level = then.followed(history.until(min(start + _REFIT_DAYS * 24, hours) // 24 * 24), calendar)
        expected = _summed(history.open * then.rhythm[:, week])
        day = (history.start + chosen * HOUR).astype("datetime64[D]").astype(np.int64)
        parts.append(_windows(came, expected, level[:, chosen // 24], chosen, day))
    return _concatenate(parts)


def windows_now(history: History, arrivals: Arrivals, calendar: Calendar) -> ArrivalWindows:
    """Windows at the end of a history, a row per unit; what comes next is not known."""
    hours = history.counts.shape[1]
    week = hours_of_week(history.start, hours + _AHEAD, calendar)
    # Before a short history nobody was expected and nobody came; ahead everything is open.
    missing = max(_BEFORE - hours, 0)
    is_open = np.pad(history.open, ((0, 0), (0, _AHEAD)), constant_values=1.0)
    expected = np.pad(is_open * arrivals.rhythm[:, week], ((0, 0), (missing, 0)))
    counts = np.pad(history.counts, ((0, 0), (0, _AHEAD)), constant_values=np.nan)
    came = _summed(np.pad(counts, ((0, 0), (missing, 0))))
    at = np.array([missing + hours])
    return _windows(came, _summed(expected), arrivals.level[:, None], at, np.zeros(1, np.int64))


def hourly(factors: np.ndarray, hours: int) -> np.ndarray:
    """Factors of parts as those of the `hours` ahead, float64 [rows, hours]."""
    return np.repeat(factors, ARRIVAL_PART_HOURS, axis=1)[:, :hours]


def _windows(
    came: np.ndarray,
    expected: np.ndarray,
    level: np.ndarray,
    slots: np.ndarray,
    day: np.ndarray,
) -> ArrivalWindows:
    """came, expected: sums of the first hours of a history, [units, hours + 1], the latter at a level of 1. level: float64
    [units, slots]. day: of each slot."""
    edges = slots[:, None] + np.arange(-PARTS_BEFORE, PARTS_AHEAD + 1) * ARRIVAL_PART_HOURS
    counts = np.diff(came[:, edges], axis=2)
    means = np.diff(expected[:, edges], axis=2) * level[:, :, None]
    anywhere = (np.broadcast_to(values.sum(axis=0), values.shape) for values in (counts, means))
    parts = (values.reshape(-1, counts.shape[2]) for values in (counts, means, *anywhere))
    return ArrivalWindows(*parts, np.tile(day // 7, len(counts)))


def _summed(hourly_values: np.ndarray) -> np.ndarray:
    """Sums of the first hours, [units, hours + 1]."""
    return np.pad(np.cumsum(hourly_values, axis=1), ((0, 0), (1, 0)))


def _concatenate(parts: list[ArrivalWindows]) -> ArrivalWindows:
    return ArrivalWindows(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(ArrivalWindows)))
