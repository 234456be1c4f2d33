"""What acting on a risk is worth: Events 1 and 2 of the PhysioNet Challenge 2012, its threshold, and decision curves."""

import numpy as np
from numpy.typing import ArrayLike

from rnn_core.statistics.bootstrap import Weighted, of_events, undefined

_DECILES = 10


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


@of_events
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


@of_events
def event2(y: np.ndarray, risk: np.ndarray) -> Weighted:
    """Event 2 of the Challenge 2012: Hosmer-Lemeshow H over deciles of risk by the range of their mean risks; 0 is best.

    H = Σ (O - E)² / (N π (1 - π) + 0.001) over ten groups of equal size in order of risk, π the mean risk of a group,
    divided by π of the last less π of the first group (Silva et al. 2012, as `event1`). Grows with the number of rows:
    the challenge's sets hold 4,000 stays. Rows of one risk keep their order; NaN where all groups have one mean.
    """
    if len(y) == 0:
        return undefined
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
