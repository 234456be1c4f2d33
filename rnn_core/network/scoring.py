"""Runs a fitted network over windows: the last hour of open stays when serving, every scored hour when judging.

An ensemble forecasts the mean of its members' masses.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
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
    for batch, p in _score_batches(_bind(model, last=True), cut):
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
    for batch, p in _score_batches(_bind(model, last=False), part):
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


@dataclass(frozen=True)
class _Architecture:
    """A network whose weights are arguments; equal to every other one that differs in its weights alone."""

    config: str
    network: keras.Model = field(compare=False)

    @property
    def signature(self) -> list[tf.TensorSpec]:
        return [tf.TensorSpec(weight.shape, weight.dtype) for weight in self.network.weights]


@lru_cache(maxsize=32)
def _architecture(network: keras.Model) -> _Architecture:
    # An ensemble numbers its members in their names.
    return _Architecture(json.dumps(network.get_config() | {"name": ""}, default=str), network)


def _bind(model: keras.Model, *, last: bool) -> Callable[..., Any]:
    """The graph of the model's architecture with the weights that the model has now."""
    members = members_of(model)
    graph = _compile(tuple(_architecture(member) for member in members), last)
    return partial(graph, [[tf.convert_to_tensor(weight) for weight in member.weights] for member in members])


@lru_cache(maxsize=8)
def _compile(members: tuple[_Architecture, ...], last: bool) -> Callable[..., Any]:
    """Mean masses of the members, given their weights: at the hour `row` of each window, or at every hour.

    Making the graph takes about a second, so models of one architecture share it, and so do the members within it. One
    graph serves every number of windows and every length. XLA on a CPU takes a tenth to a third off a batch, but seconds
    to compile each shape: more than it saves before some ten thousand windows of one shape have been scored, and every
    hourly run is a new process.
    """
    inputs = members[0].network.inputs
    # The same for all members: computed once.
    parts = split_at_head(members[0].network)
    forecasts = {member: _compile_member(member, last) for member in members}
    signature = [
        [member.signature for member in members],
        tf.TensorSpec((None, None, inputs[0].shape[-1]), tf.float32),
        tf.TensorSpec((None, inputs[1].shape[-1] if len(inputs) > 1 else None), tf.float32),
        tf.TensorSpec((None,), tf.int32),
    ]

    @tf.function(input_signature=signature, autograph=False)
    def mean(weights: Any, x: Any, static: Any, row: Any) -> Any:
        read = [x, static][: len(inputs)]
        shared = parts.fixed_at(read, row[:, None]) if last else _outputs(parts.fixed, read)
        each = [forecasts[m](w, read, row, shared) for m, w in zip(members, weights, strict=True)]
        return tf.add_n(each) / len(each)

    # TensorFlow optimises a graph when it first runs: here, and not in each of the threads that score batches.
    mean(*tf.nest.map_structure(lambda spec: tf.zeros([size or 1 for size in spec.shape], spec.dtype), signature))
    return mean


def _compile_member(member: _Architecture, last: bool) -> Callable[..., Any]:
    parts = split_at_head(member.network)

    @tf.function(autograph=False)
    def forecast(weights: Any, read: Any, row: Any, shared: Any) -> Any:
        with keras.StatelessScope(list(zip(member.network.weights, weights, strict=True))):
            learned = parts.learned_at(read, row[:, None]) if last else _outputs(parts.learned, read)
            found = masses(parts.head(tf.concat([*learned, *shared], axis=-1)))
            return found[:, 0] if last else found

    return forecast


def _outputs(part: keras.Model | None, read: list[Any]) -> list[Any]:
    """What a part of a network gives, [batch, hours, features] each."""
    # Keras gives a single output without its list.
    return tf.nest.flatten(part(read, training=False)) if part is not None else []
