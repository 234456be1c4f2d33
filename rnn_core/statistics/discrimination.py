"""Discrimination: whether those with the event, or with the longer stay, were forecast higher than the others.

A statistic that is not defined on the data (no rows, one class only) is NaN, never an error.
"""

from functools import partial

import numpy as np

from rnn_core.statistics.bootstrap import Statistic, Weighted, of_events, ratio, undefined


@of_events
def auroc(y: np.ndarray, risk: np.ndarray) -> Weighted:
    """Area under the ROC curve: the probability that an event has the higher risk, ties counting half."""
    if len(y) == 0:
        return undefined
    order = np.argsort(risk)
    event, start = y[order], _is_first(risk[order])

    def at(weights: np.ndarray) -> float:
        w = weights[order]
        events, others = np.add.reduceat(w * event, start), np.add.reduceat(w * (1 - event), start)
        return ratio(events @ (np.cumsum(others) - others / 2), events.sum() * others.sum())

    return at


@of_events
def auprc(y: np.ndarray, risk: np.ndarray) -> Weighted:
    """Average precision: precision at each distinct risk, weighted by the recall gained there."""
    if len(y) == 0:
        return undefined
    order = np.argsort(-risk)
    event, start = y[order], _is_first(risk[order])

    def at(weights: np.ndarray) -> float:
        w = weights[order]
        events, flagged = np.add.reduceat(w * event, start), np.cumsum(np.add.reduceat(w, start))
        if events.sum() >= flagged[-1]:
            return float("nan")
        precision = np.divide(np.cumsum(events), flagged, out=np.zeros(len(start)), where=flagged > 0)
        return ratio(events @ precision, events.sum())

    return at


def _is_first(sorted_values: np.ndarray) -> np.ndarray:
    """Positions at which a run of equal values starts."""
    return np.flatnonzero(np.concatenate([[True], sorted_values[1:] != sorted_values[:-1]]))


@partial(Statistic, sides=lambda hours, ended, predicted_hours: (ended != 0,))
def concordance(hours: np.ndarray, ended: np.ndarray, predicted_hours: np.ndarray) -> Weighted:
    """Harrell's C: among comparable pairs, the share in which the stay predicted longer lasts longer, ties half.

    hours: to the end, or to the end of follow-up where `ended` is 0. A pair is comparable if the shorter one ended; of
    two equal times, if one ended and the other did not (Harrell et al. 1996).

    Two different times first differ in one bit of their rank: bit by bit, the discordant pairs are counted by a running
    sum over the later ones in order of prediction. O(n log² n) to prepare, O(n log n) for each set of weights.
    """
    if len(hours) == 0:
        return undefined
    # In order of prediction, reads at neighbouring rows stay close together in memory.
    by_prediction = np.argsort(predicted_hours)
    time = (2 * np.unique(hours, return_inverse=True)[1] + (ended == 0))[by_prediction]
    rank = np.unique(predicted_hours, return_inverse=True)[1][by_prediction]
    is_end = (ended != 0)[by_prediction]
    levels = [_pairs_by_bit(time, rank, is_end, bit) for bit in range(int(time.max()).bit_length())]
    by_time = np.argsort(time)
    ends = by_time[is_end[by_time]]
    after = np.searchsorted(time[by_time], time[ends], side="right")

    def at(weights: np.ndarray) -> float:
        w = weights[by_prediction]
        running = np.concatenate([[0.0], np.cumsum(w[by_time])])
        comparable = w[ends] @ (running[-1] - running[after])
        discordant = 0.0
        for earlier, later, begin, below, through in levels:
            running = np.concatenate([[0.0], np.cumsum(w[later])])
            discordant += w[earlier] @ ((running[below] + running[through]) / 2 - running[begin])
        return ratio(comparable - discordant, comparable)

    return at


def _pairs_by_bit(time: np.ndarray, rank: np.ndarray, is_end: np.ndarray, bit: int) -> tuple[np.ndarray, ...]:
    """Pairs of an end and a later time that first differ in this bit of the time; the rows come in order of rank.

    Returns the rows of the ends, the rows of the later ones by block and rank, and for each end where its block begins
    among these, where the predictions below its own stop, and where those equal to it stop.
    """
    block, is_later = time >> (bit + 1), (time >> bit) & 1 == 1
    later, earlier = np.flatnonzero(is_later), np.flatnonzero(~is_later & is_end)
    later = later[np.argsort(block[later], kind="stable")]
    earlier = earlier[np.argsort(block[earlier], kind="stable")]
    n_ranks = int(rank[-1]) + 1
    key = block * n_ranks + rank
    cuts = (block[earlier] * n_ranks, key[earlier], key[earlier] + 1)
    return earlier, later, *(np.searchsorted(key[later], cut) for cut in cuts)
