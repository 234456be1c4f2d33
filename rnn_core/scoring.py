"""Runs a fitted network over windows: the last hour of open stays when serving, every scored hour when judging."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from rnn_core.errors import ContractError
from rnn_core.frames import Windows
from rnn_core.heads import masses
from rnn_core.windows import batch_rows, bucket_lengths, gather_batch

# Hours in one batch, padding included: large enough to keep two cores busy, small enough for 50 MB of input.
_BATCH_HOURS = 49_152


def score_rows(model: keras.Model, windows: Windows, window: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Forecast masses float32 [n, bins, 2] at the ends of `row` (absolute), each read in its `window`, int [n] both.

    A window is read up to the row alone: later hours could not change it. `windows.last_predictions` gives both arrays
    for serving. Raises ContractError where a row lies outside its window.
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
    return model.output_shape[-2:]


def _score_batches(compiled: "_Compiled", windows: Windows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers of windows and what `compiled` gives for them, batch by batch."""
    lengths = windows.stop - windows.start
    buckets = bucket_lengths(lengths)
    for bucket in np.unique(buckets).tolist():
        members = np.flatnonzero(buckets == bucket)
        size = 1 << (_BATCH_HOURS // bucket).bit_length() - 1
        many = len(members) > size // 2
        for i in range(0, len(members), size):
            batch = members[i : i + size]
            filled = np.resize(batch, size) if many else batch
            x, static, _ = gather_batch(windows, filled, bucket)
            last = (lengths[filled] - 1).astype(np.int32)
            yield batch, (compiled.fixed if many else compiled.flexible)(x, static, last).numpy()[: len(batch)]


@dataclass(frozen=True)
class _Compiled:
    """One computation as two graphs: `fixed` is compiled again for each shape, `flexible` once for all.

    XLA halves the time of a batch on a CPU, but takes a second for each shape: worth it for the thousands of windows of
    a large run, not for the few of a small one. On a GPU both are the plain graph: XLA cannot compile cuDNN's cells.
    """

    fixed: Callable[..., Any]
    flexible: Callable[..., Any]


def _compile(model: keras.Model, read: Callable[[Any, Any], Any]) -> _Compiled:
    def run(x: Any, static: Any, last: Any) -> Any:
        logits = model([x, static][: len(model.inputs)], training=False)
        return masses(read(logits, last))

    n_channels = model.inputs[0].shape[-1]
    signature = [
        tf.TensorSpec((None, None, n_channels), tf.float32),
        tf.TensorSpec((None, None), tf.float32),
        tf.TensorSpec((None,), tf.int32),
    ]
    flexible = tf.function(run, input_signature=signature)
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    return _Compiled(flexible if on_gpu else tf.function(run, jit_compile=True), flexible)


@lru_cache(maxsize=2)
def _compile_last(model: keras.Model) -> _Compiled:
    return _compile(model, lambda logits, last: tf.gather(logits, last, batch_dims=1))


@lru_cache(maxsize=2)
def _compile_every(model: keras.Model) -> _Compiled:
    return _compile(model, lambda logits, _: logits)
