"""Runs a fitted network over windows: the last hour of open stays when serving, every scored hour when judging.

An ensemble forecasts the mean of its members' masses.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.frames import Windows
from rnn_core.network.build import members_of, split_at_head
from rnn_core.network.heads import masses
from rnn_core.series.windows import batch_rows, bucket_lengths, gather_batch

# Hours in one batch, padding included: 256 windows of two days, 6 MB of input.
_BATCH_HOURS = 12_288
# While one batch is in the many small steps of a recurrent layer, others are gathered or use the second core.
_THREADS = 3


def score_rows(model: keras.Model, windows: Windows, window: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Forecast masses float32 [n, bins, 2] at the ends of `row` (absolute), each read in its `window`, int [n] both.

    A window is read only up to the row: later hours could not change the forecast. For serving, `windows.last_predictions`
    returns both arrays. Raises ContractError where a row is outside its window.
    """
    outside = int(((row < windows.start[window]) | (row >= windows.stop[window])).sum())
    if outside:
        raise ContractError(f"A row is scored in a window that covers it; {outside} of {len(row)} are not covered.")
    cut = replace(windows, stay=windows.stay[window], start=windows.start[window], stop=row + 1, score_from=row)
    out = np.empty((len(row), *_mass_shape(model)), dtype=np.float32)
    for batch, p in _score_batches(_compile_last(model), cut):
        out[batch] = p
    return out


def score_windows(
    model: keras.Model, windows: Windows, window: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """All predictions of `window` (int [n], by default every window): rows int64 [m] and masses float32 [m, bins, 2].

    rows are absolute and sorted; `score_from` keeps two windows of one stay from predicting the same row.
    """
    window = np.arange(len(windows)) if window is None else window
    part = replace(
        windows,
        stay=windows.stay[window],
        start=windows.start[window],
        stop=windows.stop[window],
        score_from=windows.score_from[window],
    )
    rows, scores = [np.empty(0, np.int64)], [np.empty((0, *_mass_shape(model)), np.float32)]
    for batch, p in _score_batches(_compile_every(model), part):
        at, _, scored = batch_rows(part, batch, p.shape[1])
        rows.append(at[scored])
        scores.append(p[scored])
    found, p = np.concatenate(rows), np.concatenate(scores)
    order = np.argsort(found, kind="stable")
    return found[order], p[order]


def _mass_shape(model: keras.Model) -> tuple[int, int]:
    return members_of(model)[0].output_shape[-2:]


def _score_batches(compiled: Callable[..., Any], windows: Windows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers of windows and the result of `compiled` for them, batch by batch; windows of a batch have similar lengths."""
    lengths = windows.stop - windows.start
    buckets = bucket_lengths(lengths)
    batches = []
    for bucket in np.unique(buckets).tolist():
        members = np.flatnonzero(buckets == bucket)
        size = max(_BATCH_HOURS // bucket, 1)
        batches += [members[i : i + size] for i in range(0, len(members), size)]

    def run(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, static, _ = gather_batch(windows, batch, int(lengths[batch].max()))
        return batch, compiled(x, static, (lengths[batch] - 1).astype(np.int32)).numpy()

    with ThreadPoolExecutor(_THREADS) as threads:
        yield from threads.map(run, batches)


def _signature(model: keras.Model) -> list[tf.TensorSpec]:
    """One graph serves every number of windows and every length.

    XLA on a CPU takes a tenth to a third off a batch, but seconds to compile each shape: more than it saves before
    some ten thousand windows of one shape have been scored, and every hourly run is a new process.
    """
    return [
        tf.TensorSpec((None, None, model.inputs[0].shape[-1]), tf.float32),
        tf.TensorSpec((None, model.inputs[1].shape[-1] if len(model.inputs) > 1 else None), tf.float32),
        tf.TensorSpec((None,), tf.int32),
    ]


@lru_cache(maxsize=4)
def _compile_last(model: keras.Model) -> Callable[..., Any]:
    members = [split_at_head(member) for member in members_of(model)]
    # The same for all members: computed once.
    fixed = members[0].fixed

    @tf.function(input_signature=_signature(model), autograph=False)
    def last(x: Any, static: Any, row: Any) -> Any:
        inputs = [x, static][: len(model.inputs)]

        def at_last_hour(part: keras.Model | None) -> list[Any]:
            found = part(inputs, training=False) if part is not None else []
            # Keras gives a single output without its list.
            return [tf.gather(hours, row, batch_dims=1) for hours in tf.nest.flatten(found)]

        shared = at_last_hour(fixed)
        readings = [tf.concat([*at_last_hour(member.learned), *shared], axis=-1) for member in members]
        return _mean([masses(member.head(reading)) for member, reading in zip(members, readings, strict=True)])

    return last


@lru_cache(maxsize=4)
def _compile_every(model: keras.Model) -> Callable[..., Any]:
    @tf.function(input_signature=_signature(model), autograph=False)
    def every(x: Any, static: Any, row: Any) -> Any:
        inputs = [x, static][: len(model.inputs)]
        return _mean([masses(member(inputs, training=False)) for member in members_of(model)])

    return every


def _mean(forecasts: list[Any]) -> Any:
    return tf.add_n(forecasts) / len(forecasts)
