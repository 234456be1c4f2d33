"""What one would say of a unit's census without a model: simple answers, each with a distribution from its own past errors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rnn_core.census.counts import CountDistribution
from rnn_core.contracts.census import CENSUS_HORIZONS
from rnn_core.contracts.errors import ContractError

# Hours of the day at which the census is forecast.
CLOCK_HOURS = (0, 8, 16)

# Errors of so many past days make the distribution of a simple answer.
_ERROR_DAYS = 90
_WEEK = 168


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
    """The share of each number among draws, int [..., draws], a row per place."""
    flat = draws.reshape(-1, draws.shape[-1]).astype(np.int64)
    most = int(flat.max()) + 1
    counts = np.bincount((np.arange(len(flat))[:, None] * most + flat).ravel(), minlength=len(flat) * most)
    return CountDistribution(counts.reshape(len(flat), most) / flat.shape[1])


def persistence(census: np.ndarray, slots: np.ndarray, horizon: int) -> np.ndarray:
    """As many as now."""
    return census[:, slots].astype(np.float64)


def moving_average(census: np.ndarray, slots: np.ndarray, horizon: int) -> np.ndarray:
    """The mean of the last seven days, every hour."""
    sums = np.concatenate([np.zeros((len(census), 1)), np.cumsum(census, axis=1)], axis=1)
    return (sums[:, slots + 1] - sums[:, slots + 1 - _WEEK]) / _WEEK


def last_week(census: np.ndarray, slots: np.ndarray, horizon: int) -> np.ndarray:
    """As many as at the same hour a week before, known for horizons up to a week."""
    return census[:, slots + horizon - _WEEK].astype(np.float64)


SIMPLE: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "persistence": persistence,
    "moving_average": moving_average,
    "last_week": last_week,
}


def answer_simply(
    name: str, census: np.ndarray, beds: np.ndarray, slots: np.ndarray, horizons: Sequence[int]
) -> Answer:
    """The simple answer `name` at each slot, from what had been seen by then.

    census: int64 [units, hours], the whole course. beds: int64 [units]. slots: int64 [slots], every eight hours.
    The distribution is the answer plus its own errors at the same hours of the last 90 days, as far as they had been seen
    at the slot, rounded, and between no patient and the beds.
    """
    say, per_day = SIMPLE[name], 24 // int(np.diff(slots).min())
    step, units = 24 // per_day, len(census)
    n_errors = _ERROR_DAYS * per_day
    point = np.empty((units, len(slots), len(horizons)))
    draws = np.empty((units, len(slots), len(horizons), n_errors), np.int64)
    for column, horizon in enumerate(horizons):
        point[:, :, column] = say(census, slots, horizon)
        # The newest slot whose outcome at this horizon had been seen.
        seen = slots - -(-horizon // step) * step
        past = seen[:, None] - np.arange(n_errors) * step
        at, back = np.unique(past, return_inverse=True)
        errors = (census[:, at + horizon] - say(census, at, horizon))[:, back.reshape(past.shape)]
        draws[:, :, column] = np.rint(point[:, :, column, None] + errors)
    draws = np.clip(draws, 0, beds[:, None, None, None])
    return Answer(from_draws(draws), point)


def judged_slots(days: int, judged_days: int) -> np.ndarray:
    """Full hours of a calendar of `days` at which the census is forecast in its last `judged_days`, int64 [slots]; all
    horizons end within it.

    Raises ContractError where the simple answers have too little history before, or no time is left to judge.
    """
    first, longest = days - judged_days, max(CENSUS_HORIZONS)
    needed = _ERROR_DAYS + -(-longest // 24) + _WEEK // 24 + 1
    hours = np.arange(max(first, 0) * 24, days * 24 - longest + 1)
    slots = hours[np.isin(hours % 24, CLOCK_HOURS)]
    if first < needed or len(slots) < 2:
        raise ContractError(
            f"Of {days} days the last {judged_days} cannot be judged: the simple answers read the {needed} days before, and "
            f"the longest horizon ends {longest} hours later. Take more days."
        )
    return slots
