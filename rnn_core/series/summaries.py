"""Summaries of a window up to an hour as one row of numbers: the input of models without a memory, such as trees."""

from collections.abc import Callable

import numpy as np

from rnn_core.contracts.frames import Windows
from rnn_core.series.mapped import release
from rnn_core.series.omission import NO_CONCEPT, ChannelsWithout
from rnn_core.series.windows import TIME_CHANNELS

# Hours that are summarised at a time: sums and extremes of all of them lie in memory.
_SPAN = 65_536


def summary_features(windows: Windows, rows: np.ndarray) -> np.ndarray:
    """Summaries of a window up to the end of each of its scored rows, float32 [rows, features].

    rows: int64 [rows], absolute rows at which a window makes a prediction; the summary covers the hours from the start
        of that window to the row, as the network reads them. Raises ContractError for other rows.

    Features: the last, mean, minimum and maximum carried value, the share of hours without an observation and the age of
    the last one, each per concept; the time channels of the row; the static features of the stay.
    """
    window = windows.window_of(rows)
    channels, start = windows.channels, windows.start[window]
    static = windows.static[windows.stay[window]]
    if isinstance(channels, ChannelsWithout):
        return np.concatenate([_without(channels, start, rows), static], axis=1)
    return np.concatenate([_in_spans(channels, start, rows), static], axis=1)


def _in_spans(channels: np.ndarray, start: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """All but the static features, of the hours from the rows `start` to `rows`, which may be anywhere in `channels`."""
    n = (channels.shape[1] - len(TIME_CHANNELS)) // 3
    out = np.empty((len(rows), 6 * n + len(TIME_CHANNELS)), dtype=np.float32)
    span = start // _SPAN
    for number in np.unique(span):
        part = np.flatnonzero(span == number)
        # From the same row on for whatever rows are requested, so that sums are equal to the bit.
        first = int(number) * _SPAN
        near = channels[first : int(rows[part].max()) + 1]
        out[part] = _of_channels(near, start[part] - first, rows[part] - first)
        release(channels)
    return out


def _of_channels(channels: np.ndarray, start: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The same, of rows that lie close together."""
    n = (channels.shape[1] - len(TIME_CHANNELS)) // 3
    value, observed = channels[:, :n], channels[:, n : 2 * n]
    return np.concatenate(
        [
            value[rows],
            _range_mean(value, start, rows),
            _range_extreme(np.minimum, value, start, rows),
            _range_extreme(np.maximum, value, start, rows),
            1 - _range_mean(observed, start, rows),
            channels[rows, 2 * n :],
        ],
        axis=1,
    )


def clock_columns(n_concepts: int) -> list[int]:
    """The features of `summary_features` that say the hour of the day, as sine and cosine, with so many concepts.

    >>> clock_columns(2)
    [14, 15]
    """
    return [6 * n_concepts + TIME_CHANNELS.index(f"hour_of_day_{part}") for part in ("sin", "cos")]


def _without(channels: ChannelsWithout, start: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The same of variants: summaries of the complete hours, of which those of one concept are as if it was never charted."""
    hours = np.column_stack([channels.row[start], channels.row[rows]])
    complete, which = np.unique(hours, axis=0, return_inverse=True)
    features, n = _of_channels(channels.complete, *complete.T)[which], channels.n_concepts
    lacks = np.flatnonzero(channels.concept[rows] != NO_CONCEPT)
    concept = channels.concept[rows[lacks]]
    for block, never in enumerate((0, 0, 0, 0, 1, 1)):
        features[lacks, block * n + concept] = never
    features[:, -1] = channels.log_count[rows]
    return features


def _range_mean(values: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Mean of rows first to last (inclusive), [ranges, columns]."""
    total = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0, dtype=np.float64)])
    return ((total[last + 1] - total[first]) / (last + 1 - first)[:, None]).astype(np.float32)


def _range_extreme(
    extreme: Callable[..., np.ndarray], values: np.ndarray, first: np.ndarray, last: np.ndarray
) -> np.ndarray:
    """Minimum or maximum of rows first to last (inclusive), [ranges, columns].

    Any range is covered by two overlapping runs of the largest power of two that fits, and the extremes of all runs of
    one length come from those of half the length.
    """
    out = np.empty((len(first), values.shape[1]), dtype=values.dtype)
    level = np.frexp(last + 1 - first)[1] - 1
    runs = values
    for k in range(int(level.max(initial=-1)) + 1):
        here = np.flatnonzero(level == k)
        out[here] = extreme(runs[first[here]], runs[last[here] + 1 - 2**k])
        runs = extreme(runs[: -(2**k)], runs[2**k :])
    return out
