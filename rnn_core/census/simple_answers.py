"""What one would say of a unit's census without a model: simple answers, each with a distribution from its own past errors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rnn_core.census.counts import CountDistribution

# Errors of so many past days make the distribution of a simple answer.
ERROR_DAYS = 90
WEEK = 168
# Among draws: none.
NO_DRAW = -1


@dataclass(frozen=True)
class Answer:
    """Forecasts of a census. census: a row per unit, slot and horizon, in this order; point: float64 [units, slots,
    horizons], the single number that is said, the median where the answer is a distribution."""

    census: CountDistribution
    point: np.ndarray

    @classmethod
    def of(cls, census: CountDistribution, shape: tuple[int, int, int]) -> "Answer":
        return cls(census, census.quantile(0.5).reshape(shape).astype(np.float64))


def from_draws(draws: np.ndarray) -> CountDistribution:
    """The share of each number among draws, int [..., draws], a row per place; `NO_DRAW` does not count."""
    flat = draws.reshape(-1, draws.shape[-1]).astype(np.int64)
    # One column more, before the others, takes what is none.
    width = int(flat.max()) + 1 - NO_DRAW
    place = np.arange(len(flat))[:, None] * width + flat - NO_DRAW
    counts = np.bincount(place.ravel(), minlength=len(flat) * width).reshape(len(flat), width)[:, -NO_DRAW:]
    return CountDistribution(counts / counts.sum(axis=1, keepdims=True))


def persistence(census: np.ndarray, slots: np.ndarray, horizon: int) -> np.ndarray:
    """As many as now."""
    return census[:, slots].astype(np.float64)


def moving_average(census: np.ndarray, slots: np.ndarray, horizon: int) -> np.ndarray:
    """The mean of the last seven days, every hour."""
    sums = np.concatenate([np.zeros((len(census), 1)), np.cumsum(census, axis=1)], axis=1)
    return (sums[:, slots + 1] - sums[:, slots + 1 - WEEK]) / WEEK


def last_week(census: np.ndarray, slots: np.ndarray, horizon: int) -> np.ndarray:
    """As many as at the same hour a week before, known for horizons up to a week."""
    return census[:, slots + horizon - WEEK].astype(np.float64)


SIMPLE: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "persistence": persistence,
    "moving_average": moving_average,
    "last_week": last_week,
}


def answer_simply(
    name: str,
    census: np.ndarray,
    beds: np.ndarray | None,
    slots: np.ndarray,
    horizons: Sequence[int],
    step: int = 8,
) -> Answer:
    """The simple answer `name` at each slot, from what had been seen by then.

    census: int64 [units, hours], the whole course. beds: int64 [units], None for no limit. slots: int64 [slots], hours of the
    course, at least `WEEK`. step: hours between the past times whose errors count.
    The distribution is the answer plus its own errors every `step` hours of the last 90 days, as far as they had been seen
    at the slot, rounded, and between no patient and the beds. It is the answer alone where no error is known (`n_errors`).
    """
    say, units = SIMPLE[name], len(census)
    back = np.arange(ERROR_DAYS * 24 // step) * step
    point = np.empty((units, len(slots), len(horizons)))
    draws = np.empty((units, len(slots), len(horizons), len(back)), np.int64)
    for column, horizon in enumerate(horizons):
        point[:, :, column] = say(census, slots, horizon)
        past = _newest_seen(slots, horizon, step)[:, None] - back
        known = past >= WEEK
        at, place = np.unique(np.where(known, past, WEEK), return_inverse=True)
        came = census[:, np.minimum(at + horizon, census.shape[1] - 1)]
        errors = (came - say(census, at, horizon))[:, place.reshape(past.shape)]
        said = np.maximum(np.rint(point[:, :, column, None] + errors), 0)
        draws[:, :, column] = np.where(known, said, NO_DRAW)
        unknown = ~known.any(axis=1)
        draws[:, unknown, column, 0] = np.rint(point[:, unknown, column])
    if beds is not None:
        draws = np.minimum(draws, beds[:, None, None, None])
    return Answer(from_draws(draws), point)


def n_errors(slots: np.ndarray, horizon: int, step: int = 8) -> np.ndarray:
    """How many of its own errors a simple answer knows at each slot, int64 [slots]."""
    return np.clip((_newest_seen(slots, horizon, step) - WEEK) // step + 1, 0, ERROR_DAYS * 24 // step)


def _newest_seen(slots: np.ndarray, horizon: int, step: int) -> np.ndarray:
    """The newest time, a number of steps before each slot, whose outcome at this horizon had been seen."""
    return slots - -(-horizon // step) * step
