"""How published benchmarks score a forecast: the PhysioNet Challenge 2012, length-of-stay buckets, decision curves."""

from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from rnn_core.statistics.bootstrap import Metric, Weighted

# Upper ends of all buckets but the last, in days: under 1 day, a bucket for each of days 1 to 7, 8 to under 14, longer
# (Harutyunyan et al., "Multitask learning and benchmarking with clinical time series data", Sci Data 6:96, 2019).
LOS_BUCKET_EDGES_DAYS: tuple[float, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 14)

_BUCKETS = len(LOS_BUCKET_EDGES_DAYS) + 1
_DISTANCE = np.abs(np.subtract.outer(np.arange(_BUCKETS), np.arange(_BUCKETS)))
_DECILES = 10
_of_events = partial(Metric, sides=lambda y, risk, *_: (y == 1, y == 0))


def _undefined(_: np.ndarray) -> float:
    return float("nan")


def fit_threshold(y: ArrayLike, risk: ArrayLike) -> float:
    """The risk at and above which flagging makes min(sensitivity, positive predictivity) greatest.

    y: 0 or 1, [rows]. risk: out-of-fold on training data, [rows]. NaN without an event.
    """
    y, risk = np.asarray(y, dtype=np.float64), np.asarray(risk, dtype=np.float64)
    if not (y == 1).any():
        return float("nan")
    order = np.argsort(-risk)
    caught = np.cumsum(y[order])
    score = caught / np.maximum(np.arange(1, len(y) + 1), caught[-1])
    # Rows of one risk are flagged together.
    last = np.append(risk[order][1:] != risk[order][:-1], True)
    return float(risk[order][last][np.argmax(score[last])])


@_of_events
def event1(y: np.ndarray, risk: np.ndarray, threshold: np.ndarray) -> Weighted:
    """Event 1 of the Challenge 2012: min(sensitivity, positive predictivity) of flagging `risk >= threshold`.

    threshold: [rows], fixed on other data (`fit_threshold`). Silva et al., "Predicting in-hospital mortality of ICU
    patients: the PhysioNet/Computing in Cardiology Challenge 2012", Comput Cardiol 39, 2012, 245-248.
    """
    flagged = (risk >= threshold).astype(np.float64)

    def at(weights: np.ndarray) -> float:
        events = weights @ y
        # The smaller of two shares with one numerator has the larger denominator.
        return float(weights @ (y * flagged) / max(events, weights @ flagged)) if events > 0 else float("nan")

    return at


@_of_events
def event2(y: np.ndarray, risk: np.ndarray) -> Weighted:
    """Event 2 of the Challenge 2012: Hosmer-Lemeshow H over deciles of risk by the range of their mean risks; 0 is best.

    H = Σ (O - E)² / (N π (1 - π) + 0.001) over ten groups of equal size in order of risk, π the mean risk of a group,
    divided by π of the last less π of the first group (Silva et al. 2012, as `event1`). Grows with the number of rows:
    the challenge's sets hold 4,000 stays. Rows of one risk keep their order; NaN where all groups have one mean.
    """
    if len(y) == 0:
        return _undefined
    order = np.argsort(risk, kind="stable")
    y, risk = y[order], risk[order]

    def at(weights: np.ndarray) -> float:
        w = weights[order]
        before = np.cumsum(w) - w
        group = np.minimum((before * _DECILES / w.sum()).astype(np.int64), _DECILES - 1)
        n, observed, expected = (
            np.bincount(group, weights=values, minlength=_DECILES) for values in (w, w * y, w * risk)
        )
        if (n <= 0).any():
            return float("nan")
        mean = expected / n
        h = ((observed - expected) ** 2 / (n * mean * (1 - mean) + 0.001)).sum()
        spread = mean[-1] - mean[0]
        return float(h / spread) if spread > 0 else float("nan")

    return at


# ------------------------------------------------------------------------------------------------ length of stay


@Metric
def mean_squared_log_error(actual_days: np.ndarray, predicted_days: np.ndarray) -> Weighted:
    """Mean squared difference of log(1 + days)."""
    error = np.square(np.log1p(predicted_days) - np.log1p(actual_days))
    return lambda weights: float(weights @ error / weights.sum()) if weights.sum() > 0 else float("nan")


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


@Metric
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


# ------------------------------------------------------------------------------------------------ decision curves


def net_benefit(y: ArrayLike, risk: ArrayLike, thresholds: ArrayLike) -> np.ndarray:
    """Net benefit per patient of acting on `risk >= threshold`, [thresholds].

    True positives less false positives at the odds of the threshold, over all rows (Vickers & Elkin, Med Decis Making
    26, 2006, 565-574).
    """
    y, risk, thresholds = (np.asarray(a, dtype=np.float64) for a in (y, risk, thresholds))
    flagged = risk[None, :] >= thresholds[:, None]
    odds = thresholds / (1 - thresholds)
    return (flagged & (y == 1)).mean(axis=1) - odds * (flagged & (y == 0)).mean(axis=1)


def net_benefit_of_all(y: ArrayLike, thresholds: ArrayLike) -> np.ndarray:
    """Net benefit per patient of acting on everybody, [thresholds]."""
    return net_benefit(y, np.ones(len(np.asarray(y))), thresholds)
