"""Windows: the grid as the network reads it, cut into chunks, and the batches gathered from them."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pandas as pd

from rnn_core.contracts.concepts import CONCEPTS, INDEX
from rnn_core.contracts.config import WindowConfig
from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.frames import Grid, Windows
from rnn_core.series.grid import HOUR_US, stay_base, stay_times
from rnn_core.series.scaling import Scaler, static_features

TIME_CHANNELS: tuple[str, ...] = (
    "log_hours_in_stay",
    "hours_in_stay",
    "hour_of_day_sin",
    "hour_of_day_cos",
    "log_count",
)

# Ages and elapsed stays are distinguished up to a week, whatever the length of a chunk; beyond, they are all "long".
LONG_HOURS = 168.0
_LOG_LONG = np.log1p(np.float32(LONG_HOURS))

# Lengths to which batches are padded, so that a compiled network meets few shapes.
BUCKETS: tuple[int, ...] = (24, 48, 96, 168, 336)

# Rows worked on at a time, so that the intermediate arrays stay in the processor's cache.
_BLOCK_ROWS = 1024

_CARRY_HOURS = np.array([np.inf if c.carry_hours is None else c.carry_hours for c in CONCEPTS], dtype=np.float32)


def make_windows(grid: Grid, stays: pd.DataFrame, scaler: Scaler, config: WindowConfig) -> Windows:
    """The windows of all stays of a grid; every channel of a row depends on that row and earlier rows of its stay only.

    Channels, each block in the order of `config.concepts`:
    value: last value that became available, scaled and clipped, carried forward over at most `Concept.carry_hours`
        rows; 0 (the mean) where there is none.
    observed: 1 where a value became available in this very hour.
    age: hours from when that last value was observed to the end of the row, as log1p(age) / log1p(168), at most 1;
        1 where there never was one. It goes on growing when the value is no longer carried.
    Then `TIME_CHANNELS`: log1p of the elapsed stay / log1p(168); elapsed stay / 168, at most 1; the UTC hour of day as
    sine and cosine; log1p of the number of observations in the hour.

    Windows are cut as `WindowConfig` says. A stay without a row at or after `first_hour` has none.
    Raises ContractError where stays and grid differ in length or a concept is unknown.
    """
    if len(stays) != grid.n_stays:
        raise ContractError(
            f"Grid and stays belong together; the grid has {grid.n_stays} stays, the frame {len(stays)}."
        )
    if unknown := sorted(set(config.concepts) - set(INDEX)):
        raise ContractError(f"The window config names concepts that this version does not know: {unknown}.")
    row_start = np.repeat(grid.offsets[:-1], grid.lengths)
    row_end_hour = np.arange(1, len(row_start) + 1) - row_start
    late_us = (stay_times(stays, "intime") - stay_base(stays).astype("datetime64[us]")).astype(np.int64)
    prediction_hour = (row_end_hour - np.repeat(late_us / HOUR_US, grid.lengths)).astype(np.float32)

    n = len(config.concepts)
    channels = np.empty((len(row_start), 3 * n + len(TIME_CHANNELS)), dtype=np.float32)
    columns = np.array([INDEX[name] for name in config.concepts], dtype=np.int64)
    for first, stop in _row_blocks(grid.offsets):
        rows = slice(first, stop)
        _fill_concepts(channels[rows], grid, scaler, columns, rows, row_start[rows], row_end_hour[rows])
    clock_hour = (np.repeat(grid.base.astype(np.int64), grid.lengths) + row_end_hour) % 24
    _fill_time(channels[:, 3 * n :], prediction_hour, clock_hour, grid.count)

    # The first row whose end is at least first_hour after intime, in whole microseconds.
    first_row = (round(config.first_hour * HOUR_US) + late_us - 1) // HOUR_US
    stay, start, stop, score_from = _cut(grid.lengths, np.maximum(first_row, 0), config.chunk_hours)
    return Windows(
        channels=channels,
        static=scaler.scale_static(static_features(stays)),
        offsets=grid.offsets,
        stay=stay,
        start=grid.offsets[stay] + start,
        stop=grid.offsets[stay] + stop,
        score_from=grid.offsets[stay] + score_from,
        prediction_hour=prediction_hour,
        n_observations=_running_count(grid.count, row_start),
        hours_since_last=_hours_since_last(grid, row_start, row_end_hour),
    )


def channel_names(config: WindowConfig) -> list[str]:
    """Names of the channels of `make_windows`, in their order: of each concept its value under its own name, then `_observed`
    and `_age`."""
    concepts = [f"{name}{kind}" for kind in ("", "_observed", "_age") for name in config.concepts]
    return [*concepts, *TIME_CHANNELS]


def _row_blocks(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Runs of whole stays of about `_BLOCK_ROWS` rows."""
    cuts = offsets[np.searchsorted(offsets, np.arange(0, offsets[-1], _BLOCK_ROWS))]
    edges = np.unique(np.append(cuts, offsets[-1])).tolist()
    return pairwise(edges)


def _fill_concepts(
    out: np.ndarray,
    grid: Grid,
    scaler: Scaler,
    columns: np.ndarray,
    rows: slice,
    row_start: np.ndarray,
    row_end_hour: np.ndarray,
) -> None:
    """Value, observed and age channels of one block of whole stays.

    The observed cells are numbered 1, 2, ... row by row; a running maximum down each column then gives the cell that is the
    newest so far, and every channel is looked up in a short table by that number. 0 means none.
    """
    n = len(columns)
    last = _columns(grid.last[rows], columns)
    observed = ~np.isnan(last)
    cell = np.flatnonzero(observed)
    cell_row, cell_column = np.divmod(cell, n)
    newest = np.zeros(last.shape, dtype=np.int64)
    newest.ravel()[cell] = np.arange(1, len(cell) + 1)
    np.maximum.accumulate(newest, axis=0, out=newest)
    # Numbers up to those given before the stay's first row belong to earlier stays.
    before = np.concatenate([[0], np.cumsum(np.count_nonzero(observed, axis=1))])[row_start - rows.start]
    newest *= newest > before[:, None]

    values = scaler.scale_values(last.ravel()[cell], columns[cell_column])
    carried = _look_up(values, newest, none=0.0)
    limited = np.flatnonzero(np.isfinite(_CARRY_HOURS[columns]))
    rows_since = np.arange(len(last))[:, None] - _look_up(cell_row, newest[:, limited], none=0)
    carried[:, limited] *= rows_since <= _CARRY_HOURS[columns[limited]]

    observed_hours = _columns(grid.observed_hours[rows], columns).ravel()[cell]
    age = _look_up(observed_hours, newest, none=-np.inf)
    np.subtract(row_end_hour.astype(np.float32)[:, None], age, out=age)

    out[:, :n] = carried
    out[:, n : 2 * n] = observed
    out[:, 2 * n : 3 * n] = _squashed(age)


def _columns(values: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return values if np.array_equal(columns, np.arange(values.shape[1])) else values[:, columns]


def _look_up(table: np.ndarray, number: np.ndarray, none: float) -> np.ndarray:
    """table[number - 1], and `none` where the number is 0."""
    return np.take(np.concatenate([np.array([none], dtype=table.dtype), table]), number, mode="clip")


def _squashed(hours: np.ndarray) -> np.ndarray:
    """Hours to [0, 1] on a log scale; 168 and more are 1, a value dated after the end of the row has age 0."""
    return np.log1p(np.clip(hours, 0, np.float32(LONG_HOURS))) / _LOG_LONG


def _fill_time(out: np.ndarray, prediction_hour: np.ndarray, clock_hour: np.ndarray, count: np.ndarray) -> None:
    angle = 2 * np.pi * np.arange(24) / 24
    out[:, 0] = np.log1p(prediction_hour) / _LOG_LONG
    out[:, 1] = np.minimum(prediction_hour / np.float32(LONG_HOURS), 1)
    out[:, 2] = np.sin(angle)[clock_hour]
    out[:, 3] = np.cos(angle)[clock_hour]
    out[:, 4] = np.log1p(count)


def _running_count(count: np.ndarray, row_start: np.ndarray) -> np.ndarray:
    total = np.concatenate([[0.0], np.cumsum(count, dtype=np.float64)])
    return (total[1:] - total[row_start]).astype(np.float32)


def _hours_since_last(grid: Grid, row_start: np.ndarray, row_end_hour: np.ndarray) -> np.ndarray:
    newest = np.where(grid.count > 0, np.arange(len(row_start)), -1)
    newest = np.maximum.accumulate(newest)
    hours = row_end_hour - grid.last_available[newest] if len(newest) else np.empty(0)
    return np.where(newest >= row_start, hours, np.inf).astype(np.float32)


def _cut(lengths: np.ndarray, first_row: np.ndarray, chunk: int) -> tuple[np.ndarray, ...]:
    """Stay, start, stop and score_from of every window, rows counted from the start of their stay, int64 [windows].

    Window 0 covers and scores two chunks; window j > 0 starts at chunk j, covers two, and scores the second.
    """
    chunks = -(-lengths // chunk)
    n_windows = np.where(lengths > 0, np.maximum(chunks - 1, 1), 0)
    stay = np.repeat(np.arange(len(lengths)), n_windows)
    number = np.arange(len(stay)) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)
    start = number * chunk
    stop = np.minimum(start + 2 * chunk, lengths[stay])
    score_from = np.maximum(np.where(number == 0, 0, start + chunk), first_row[stay])
    scores = score_from < stop
    return stay[scores], start[scores], stop[scores], score_from[scores]


def last_predictions(windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """Per stay that has a prediction, its newest: number of the window and absolute row, two int64 [stays with one].

    The stays are `windows.stay[window]`; the prediction is made at the end of `row`.
    """
    is_last = np.append(windows.stay[1:] != windows.stay[:-1], True)[: len(windows)]
    window = np.flatnonzero(is_last)
    return window, windows.stop[window] - 1


def bucket_lengths(lengths: np.ndarray, buckets: tuple[int, ...] = BUCKETS) -> np.ndarray:
    """The smallest bucket that holds each length (hours), int64 [n]; beyond the largest, whole multiples of it.

    >>> bucket_lengths([5, 48, 400])
    array([ 24,  48, 672])
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    steps = np.array(buckets, dtype=np.int64)
    held = np.minimum(np.searchsorted(steps, lengths), len(steps) - 1)
    return np.where(lengths <= steps[-1], steps[held], -(-lengths // steps[-1]) * steps[-1])


def batch_rows(windows: Windows, window: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows of a padded batch of windows: rows int64, valid bool, scored bool, all [b, length].

    rows: absolute rows of `channels`, and of `Labels`; padding repeats the last row of its window.
    valid: not padding. scored: valid, and a prediction is made there.
    Raises ContractError where a window is longer than `length`.
    """
    start, stop = windows.start[window], windows.stop[window]
    longest = int((stop - start).max(initial=0))
    if longest > length:
        raise ContractError(
            f"A batch of length {length} cannot hold windows of up to {longest} hours; take the length from bucket_lengths."
        )
    rows = start[:, None] + np.arange(length)
    valid = rows < stop[:, None]
    scored = valid & (rows >= windows.score_from[window][:, None])
    return np.minimum(rows, stop[:, None] - 1), valid, scored


def gather_batch(windows: Windows, window: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows `window` (int [b]) padded at the end with zeros to `length` hours, for the network.

    Returns x float32 [b, length, channels], static float32 [b, static features], valid bool [b, length]. Raises
    ContractError where a window is longer than `length`.
    """
    rows, valid, _ = batch_rows(windows, window, length)
    x = windows.channels[rows]
    x[~valid] = 0
    return x, windows.static[windows.stay[window]], valid
