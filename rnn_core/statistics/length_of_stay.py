"""Errors of a forecast length of stay: of its median, its interval, its bucket and its whole distribution.

A statistic that is not defined on the data is NaN, never an error.
"""

import numpy as np
from numpy.typing import ArrayLike

from rnn_core.statistics.bootstrap import RatioOfSums, Statistic, Weighted, mean_of
from rnn_core.statistics.distribution import Distribution

# Upper ends of all buckets but the last, in days: under 1 day, a bucket for each of days 1 to 7, 8 to under 14, longer
# (Harutyunyan et al., "Multitask learning and benchmarking with clinical time series data", Sci Data 6:96, 2019).
LOS_BUCKET_EDGES_DAYS: tuple[float, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 14)

_BUCKETS = len(LOS_BUCKET_EDGES_DAYS) + 1
_DISTANCE = np.abs(np.subtract.outer(np.arange(_BUCKETS), np.arange(_BUCKETS)))


@Statistic
def mean_absolute_error_days(remaining_hours: np.ndarray, predicted_hours: np.ndarray) -> Weighted:
    """Mean absolute error of the predicted remaining stay, in days."""
    return mean_of(np.abs(predicted_hours - remaining_hours) / 24)


@Statistic
def median_absolute_error_days(remaining_hours: np.ndarray, predicted_hours: np.ndarray) -> Weighted:
    """Median absolute error of the predicted remaining stay, in days."""
    error = np.abs(predicted_hours - remaining_hours) / 24
    order = np.argsort(error)
    error = error[order]

    def at(weights: np.ndarray) -> float:
        reached = np.cumsum(weights[order])
        if len(reached) == 0 or reached[-1] <= 0:
            return float("nan")
        half = reached[-1] / 2
        lower, upper = np.searchsorted(reached, half, side="left"), np.searchsorted(reached, half, side="right")
        return float((error[lower] + error[upper]) / 2)

    return at


@Statistic
def mean_squared_log_error(actual_days: np.ndarray, predicted_days: np.ndarray) -> Weighted:
    """Mean squared difference of log(1 + days)."""
    return mean_of(np.square(np.log1p(predicted_days) - np.log1p(actual_days)))


@Statistic
def interval_coverage(
    remaining_hours: np.ndarray, precision_hours: np.ndarray, low: np.ndarray, high: np.ndarray
) -> Weighted:
    """Share of ends inside [low, high] hours.

    An end known to `precision_hours` only lies anywhere in an interval of that width centred at `remaining_hours` (cut
    at 0); it counts by the share of that interval which [low, high] covers.
    """
    start, stop = np.maximum(remaining_hours - precision_hours / 2, 0), remaining_hours + precision_hours / 2
    overlap = np.clip(np.minimum(stop, high) - np.maximum(start, low), 0, None)
    inside = ((remaining_hours >= low) & (remaining_hours <= high)).astype(np.float64)
    return mean_of(np.divide(overlap, stop - start, out=inside, where=stop > start))


def _known_to(stayed: np.ndarray, precision: np.ndarray, known: np.ndarray, quantile: np.ndarray) -> tuple[np.ndarray]:
    return (known >= quantile,)


def _share_beyond(
    stayed_hours: np.ndarray, precision_hours: np.ndarray, known_hours: np.ndarray, quantile_hours: np.ndarray
) -> Weighted:
    """Share of stays that last longer than their forecast quantile of the remaining stay; 1 - q where the q-quantile is
    right.

    A forecast counts once its quantile has passed (`known_hours`), whether the stay has ended or not: by the time of the
    prediction and the forecast alone. A coarse end counts by the share of its interval that lies beyond, as in
    `interval_coverage`.
    """
    start, stop = np.maximum(stayed_hours - precision_hours / 2, 0), stayed_hours + precision_hours / 2
    beyond = (stayed_hours > quantile_hours).astype(np.float64)
    overlap = np.clip(stop - np.maximum(start, quantile_hours), 0, None)
    (counted,) = _known_to(stayed_hours, precision_hours, known_hours, quantile_hours)
    return RatioOfSums(
        np.divide(overlap, stop - start, out=beyond, where=stop > start) * counted, counted.astype(np.float64)
    )


share_beyond = Statistic(_share_beyond, sides=_known_to)


@Statistic
def quantile_score_days(
    stayed_hours: np.ndarray, known_hours: np.ndarray, p10: np.ndarray, p50: np.ndarray, p90: np.ndarray
) -> Weighted:
    """What three quantiles of the remaining stay tell of its CRPS, in days: twice the mean of their quantile losses (the
    weighted interval score: Bracher et al., PLoS Comput Biol 17, 2021, e1008618).

    Judged is the stay up to `known_hours`, of which the quantiles are those of the whole stay, cut there: so open stays
    count for as long as they were followed, and the best forecast is still the true one.
    """
    loss = np.zeros(len(stayed_hours))
    for share, hours in ((0.1, p10), (0.5, p50), (0.9, p90)):
        beyond = np.minimum(stayed_hours, known_hours) - np.minimum(hours, known_hours)
        loss += np.maximum(share * beyond, (share - 1) * beyond)
    return mean_of(loss * 2 / 3 / 24)


@Statistic
def interval_width_days(low: np.ndarray, high: np.ndarray) -> Weighted:
    """Mean width of the interval from `low` to `high` hours, in days."""
    return mean_of((high - low) / 24)


def los_bucket(days: ArrayLike) -> np.ndarray:
    """Number of the bucket of `LOS_BUCKET_EDGES_DAYS` that holds each length of stay, float64, 0 to 9; NaN of NaN."""
    days = np.asarray(days, dtype=np.float64)
    return np.where(np.isnan(days), np.nan, np.searchsorted(LOS_BUCKET_EDGES_DAYS, days, side="right"))


def choose_buckets(probability: np.ndarray) -> np.ndarray:
    """The bucket to name for each stay so that `bucket_kappa` is greatest as the forecasts themselves expect it.

    probability: of each bucket, [stays, 10]. Kappa is 1 - O/E, the expected distance of the named bucket over that of
    one named by chance. Its best decision names, stay by stay, the bucket of least O - (O/E) E, with O/E as these
    decisions make it (Dinkelbach, Management Science 13, 1967, 492-498: a ratio of sums by a sequence of differences).
    No outcome is needed. The median of a stay's distribution makes O alone least, and names the middle too often.
    """
    cost, by_chance = probability @ _DISTANCE, probability.mean(axis=0) @ _DISTANCE
    ratio = 0.0
    for _ in range(50):
        named = np.argmin(cost - ratio * by_chance, axis=1)
        expected = by_chance[named].mean()
        reached = float(cost[np.arange(len(named)), named].mean() / expected) if expected > 0 else 0.0
        if abs(reached - ratio) < 1e-9:
            break
        ratio = reached
    return named


def name_buckets(forecast: Distribution, elapsed_hours: ArrayLike) -> np.ndarray:
    """Bucket of the whole length of stay to name for each forecast of stays that have lasted so long, [rows] or one number:
    that of `choose_buckets`, float64 [rows]."""
    elapsed_hours = np.broadcast_to(np.asarray(elapsed_hours, dtype=np.float64), len(forecast))
    bounds = np.clip(np.array(LOS_BUCKET_EDGES_DAYS)[:, None] * 24 - elapsed_hours, 0, forecast.edges[-1])
    left = np.stack([1 - forecast.survival(bound) for bound in bounds], axis=1)
    return choose_buckets(np.diff(left, axis=1, prepend=0, append=1)).astype(np.float64)


@Statistic
def bucket_kappa(actual: np.ndarray, predicted: np.ndarray) -> Weighted:
    """Cohen's kappa with linear weights between actual and predicted `los_bucket`."""
    actual, predicted = actual.astype(np.int64), predicted.astype(np.int64)

    def at(weights: np.ndarray) -> float:
        rows, columns = (np.bincount(part, weights=weights, minlength=_BUCKETS) for part in (actual, predicted))
        by_chance = rows @ _DISTANCE @ columns
        if by_chance <= 0:
            return float("nan")
        return float(1 - (weights @ np.abs(actual - predicted)) * weights.sum() / by_chance)

    return at


def crps_hours(forecast: Distribution, stayed_hours: ArrayLike, known_hours: ArrayLike = np.inf) -> np.ndarray:
    """Continuous ranked probability score of the remaining stay, in hours, [rows]; NaN where nothing is known of the end.

    The integral from 0 to the last edge of (F(t) - 1[end <= t])² (Matheson & Winkler 1976), exact for a distribution
    function F of leaving that is linear between edges. For a forecast without spread it is the absolute error.

    stayed_hours: to the end, of an open stay as far as it was followed. known_hours: until when it is known whether the stay
    went on, [rows] or one number; the integral ends there. A limit that the end does not choose leaves the score proper
    (Gneiting & Ranjan, J Bus Econ Stat 29, 2011, 411-422).
    """
    edges, cdf = forecast.edges, np.minimum(forecast.leaving_cdf, 1.0)
    known = np.broadcast_to(np.asarray(known_hours, dtype=np.float64), len(forecast))[:, None]
    slope = np.diff(cdf, axis=1) / np.diff(edges)

    def at(hours: np.ndarray) -> np.ndarray:
        return cdf[:, :-1] + slope * (hours - edges[:-1])

    # A bin beyond the limit has no width.
    left = edges[:-1]
    right = np.clip(known, left, edges[1:])
    end = np.clip(np.asarray(stayed_hours, dtype=np.float64)[:, None], left, right)
    before = (end - left) * _mean_square(at(left), at(end))
    after = (right - end) * _mean_square(1 - at(end), 1 - at(right))
    return (before + after).sum(axis=1)


def _mean_square(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean of the square of a line that runs from a to b."""
    return (a * a + a * b + b * b) / 3
