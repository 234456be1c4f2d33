"""The forward pass of fitted networks in NumPy, over windows: a job that only forecasts needs no TensorFlow.

An ensemble forecasts the mean of its members' masses. `fitted.networks_of` makes the networks and compares them with Keras.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from rnn_core.contracts.config import Cell, ModelConfig
from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.frames import Windows
from rnn_core.series.mapped import release
from rnn_core.series.omission import NO_CONCEPT, ChannelsWithout
from rnn_core.series.person_periods import masses_of_hazards

# Hours of windows in one batch: 140 windows of two weeks, 45 MB of input. A step of few windows is mostly overhead, and
# what a step of more than 256 computes does not stay in the processor's cache.
_BATCH_HOURS, _BATCH_WINDOWS = 49_152, 256

# One step: what a layer reads, its own last output, and 1, joined, [k, features + units + 1], and its memory [k, units] ->
# its output and its memory, [k, units] each.
_Step = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class FittedNetwork:
    """A network of `build.build_network` as plain arrays.

    cells: of its recurrent layers. n_concepts: whose running summaries its head reads; 0 if it reads none. knots: at which
    the head splits values. weights: float32, by layer and name of the weight, such as `recurrent_0/kernel`.
    """

    cells: tuple[Cell, ...]
    n_concepts: int
    knots: tuple[float, ...]
    weights: Mapping[str, np.ndarray]

    @property
    def mass_shape(self) -> tuple[int, ...]:
        """Bins and causes."""
        return self.weights["head/bias"].shape

    @property
    def is_embedded(self) -> bool:
        """Whether the recurrent layers and the head read an embedding of each hour, as all but the first networks do."""
        return "embed_hour/kernel" in self.weights

    def __getstate__(self) -> dict[str, Any]:
        """Without its steps, which no other process could read."""
        return {name: value for name, value in vars(self).items() if name != "steps"}

    @cached_property
    def steps(self) -> tuple[_Step, ...]:
        """The step of each recurrent layer."""
        return tuple(
            _STEPS[cell](_within(self.weights, f"recurrent_{number}")) for number, cell in enumerate(self.cells)
        )


def save_networks(networks: Sequence[FittedNetwork], path: Path) -> None:
    """Write numbers and names only, as `.npz`."""
    arrays = {f"{k}/{name}": weight for k, network in enumerate(networks) for name, weight in network.weights.items()}
    shapes = [{"cells": one.cells, "n_concepts": one.n_concepts, "knots": one.knots} for one in networks]
    np.savez(path, allow_pickle=False, shapes=np.array(json.dumps(shapes)), **arrays)


def load_networks(path: Path) -> tuple[FittedNetwork, ...]:
    """What `save_networks` wrote, to the bit. Runs nothing that the file holds.

    Raises OSError, KeyError, ValueError or BadZipFile for any other file.
    """
    with np.load(path, allow_pickle=False) as arrays:
        weights = dict(arrays)
    shapes = json.loads(str(weights.pop("shapes")))
    return tuple(
        FittedNetwork(tuple(shape["cells"]), shape["n_concepts"], tuple(shape["knots"]), _within(weights, str(k)))
        for k, shape in enumerate(shapes)
    )


def _within(weights: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Those whose names begin with `name/`, by what follows."""
    return {path.removeprefix(f"{name}/"): weight for path, weight in weights.items() if path.startswith(f"{name}/")}


def score_rows(networks: Sequence[FittedNetwork], windows: Windows, window: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Forecast masses float32 [n, bins, 2] at the ends of `row` (absolute), each read in its `window`, int [n] both.

    A window is read once for all of its rows, and only up to the last of them: later hours could not change a forecast.
    Raises ContractError where a row is outside its window.
    """
    outside = int(((row < windows.start[window]) | (row >= windows.stop[window])).sum())
    if outside:
        raise ContractError(f"A row is scored in a window that covers it; {outside} of {len(row)} are not covered.")
    out = np.empty((len(row), *networks[0].mass_shape), dtype=np.float32)
    if not len(row):
        return out
    read, of_row = np.unique(window, return_inverse=True)
    start, last = windows.start[read], np.zeros(len(read), dtype=np.int64)
    np.maximum.at(last, of_row, row)
    of_variants = isinstance(windows.channels, ChannelsWithout) and all(one.is_embedded for one in networks)
    reader = _read_variants if of_variants else _read_complete
    read_hours = reader(networks, windows, windows.start[window], row)

    parts = batches(last + 1 - start)
    order = np.concatenate(parts)
    number, place = np.empty((2, len(read)), dtype=np.int64)
    number[order] = np.repeat(np.arange(len(parts)), [len(batch) for batch in parts])
    place[order] = np.concatenate([np.arange(len(batch)) for batch in parts])
    by_batch = np.argsort(number[of_row], kind="stable")
    of_batch = np.split(by_batch, np.searchsorted(number[of_row][by_batch], np.arange(1, len(parts))))

    def score(k: int) -> None:
        batch, wanted = parts[k], of_batch[k]
        packed = Packed.of(last[batch] + 1 - start[batch])
        at = packed.position(place[of_row[wanted]], row[wanted] - windows.start[window[wanted]])
        hours, features = read_hours(packed.rows(start[batch]), windows.static[windows.stay[read[batch]]], packed, at)
        shared = _logits_of_features(networks, features, len(at))
        each = zip(networks, hours, shared, strict=True)
        out[wanted] = sum(_masses(network, hour, logits, packed, at) for network, hour, logits in each) / len(networks)
        release(windows.channels)

    in_parallel(score, range(len(parts)))
    return out


def score_windows(
    networks: Sequence[FittedNetwork], windows: Windows, window: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """All predictions of `window` (int [n], by default every window): rows int64 [m] and masses float32 [m, bins, 2].

    rows are absolute and sorted; `score_from` keeps two windows of one stay from predicting the same row.
    """
    window = np.arange(len(windows)) if window is None else window
    lengths = windows.stop[window] - windows.score_from[window]
    first = np.cumsum(lengths) - lengths
    row = np.arange(lengths.sum()) + np.repeat(windows.score_from[window] - first, lengths)
    order = np.argsort(row)
    return row[order], score_rows(networks, windows, np.repeat(window, lengths)[order], row[order])


@dataclass(frozen=True)
class Packed:
    """Sequences of falling lengths, hour by hour: first hour 0 of all, then hour 1 of those that have one, and so on.

    first: int64 [hours + 1], where each hour begins. sequence, hour: int64 [rows] of each row.
    """

    first: np.ndarray
    sequence: np.ndarray
    hour: np.ndarray

    @classmethod
    def of(cls, lengths: np.ndarray) -> "Packed":
        """lengths: int [sequences], falling.

        >>> Packed.of(np.array([3, 1])).sequence
        array([0, 1, 0, 0])
        """
        active = np.searchsorted(-lengths, -np.arange(lengths[0]))
        first = np.concatenate([[0], np.cumsum(active)])
        hour = np.repeat(np.arange(len(active)), active)
        return cls(first, np.arange(first[-1]) - first[hour], hour)

    def rows(self, start: np.ndarray) -> np.ndarray:
        """Absolute rows, if each sequence begins at `start`, int64 [sequences]."""
        return start[self.sequence] + self.hour

    def position(self, sequence: np.ndarray, hour: np.ndarray) -> np.ndarray:
        """Where these hours are."""
        return self.first[hour] + sequence


def batches(lengths: np.ndarray) -> list[np.ndarray]:
    """Numbers of sequences, longest first, in batches of about `_BATCH_HOURS`, and of `_BATCH_WINDOWS` at most; those of a
    batch have similar lengths."""
    order = np.argsort(-lengths, kind="stable")
    batch = np.cumsum(np.maximum(lengths[order], _BATCH_HOURS // _BATCH_WINDOWS)) // _BATCH_HOURS
    return np.split(order, np.flatnonzero(np.diff(batch)) + 1)


def in_parallel(work: Callable[[Any], None], parts: Sequence[Any]) -> None:
    """Call `work` for each part, on as many threads as there are CPUs; NumPy releases the interpreter's lock.

    The products of a step are small: threads of their own would wait for each other.
    """
    with _thread_pools().limit(limits=1, user_api="blas"), ThreadPoolExecutor(_cpus()) as threads:
        for _ in threads.map(work, parts):
            pass


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def _thread_pools() -> ThreadpoolController:
    return ThreadpoolController()


def _masses(network: FittedNetwork, hour: np.ndarray, logits: np.ndarray, packed: Packed, at: np.ndarray) -> np.ndarray:
    """Masses at the positions `at`, [n, bins, 2]; logits: the part of `_logits_of_features`."""
    parts = [recur(network, hour, packed.first)[at]] + [hour[at]] * network.is_embedded
    read = np.concatenate(parts, axis=1)
    logits = logits + read @ network.weights["head/kernel"][: read.shape[1]]
    return masses_of(logits.reshape(-1, *network.mass_shape) + network.weights["head/bias"])


# What one batch needs: given absolute rows of channels, static features per sequence, how these are packed, and positions,
# what the recurrent layers of each network read, [rows, units], and what their heads read besides at the positions.
_Read = Callable[[np.ndarray, np.ndarray, Packed, np.ndarray], tuple[Sequence[np.ndarray], np.ndarray | None]]


@dataclass(frozen=True)
class _Embedding:
    """Of the hours, by all networks in one product: kernel float32 [channels, units of all], bias [units of all], of_static
    [static features, units of all] if they read any, cuts: where the units of the next network begin."""

    kernel: np.ndarray
    bias: np.ndarray
    of_static: np.ndarray | None
    cuts: np.ndarray

    @classmethod
    def of(cls, networks: Sequence[FittedNetwork]) -> "_Embedding":
        def joined(name: str) -> np.ndarray:
            return np.concatenate([network.weights[name] for network in networks], axis=-1)

        of_static = joined("embed_static/kernel") if "embed_static/kernel" in networks[0].weights else None
        cuts = np.cumsum([len(network.weights["embed_hour/bias"]) for network in networks])[:-1]
        return cls(joined("embed_hour/kernel"), joined("embed_hour/bias"), of_static, cuts)

    def of_channels(self, x: np.ndarray) -> np.ndarray:
        """The part that channels contribute, [rows, units of all]."""
        hour = x @ self.kernel
        hour += self.bias
        return hour

    def activated(self, hour: np.ndarray, static: np.ndarray, packed: Packed) -> list[np.ndarray]:
        """What the recurrent layers of each network read, of the part of the channels, which is overwritten."""
        if self.of_static is not None:
            hour += (static @ self.of_static)[packed.sequence]
        return np.split(np.tanh(hour, out=hour), self.cuts, axis=1)


def _read_complete(networks: Sequence[FittedNetwork], windows: Windows, first: np.ndarray, last: np.ndarray) -> _Read:
    n = networks[0].n_concepts
    embedding = _Embedding.of(networks) if networks[0].is_embedded else None

    def read(
        rows: np.ndarray, static: np.ndarray, packed: Packed, at: np.ndarray
    ) -> tuple[Sequence[np.ndarray], np.ndarray | None]:
        x = windows.channels[rows]
        features = head_features(x, static[packed.sequence[at]], n, packed, at) if n else None
        if embedding is None:
            return [x] * len(networks), features
        return embedding.activated(embedding.of_channels(x), static, packed), features

    return read


def _read_variants(networks: Sequence[FittedNetwork], windows: Windows, first: np.ndarray, last: np.ndarray) -> _Read:
    """The same of `ChannelsWithout`. What the variants of an hour have in common is computed once.

    first, last: int64 [n], rows of each prediction: the start of its window, and where it is made.
    """
    channels, n = windows.channels, networks[0].n_concepts
    ends, which = np.unique(channels.row[last], return_index=True)
    begins = channels.row[first[which]]
    step = np.zeros(len(channels.complete) + 1, dtype=np.int64)
    np.add.at(step, begins, 1)
    np.add.at(step, ends + 1, -1)
    used = np.cumsum(step[:-1]) > 0
    place, x = np.cumsum(used) - 1, channels.complete[used]
    embedding = _Embedding.of(networks)
    complete_hours = embedding.of_channels(x)
    complete_summaries = np.empty((len(ends), x.shape[1] + 7 * n), dtype=np.float32)
    for batch in batches(ends + 1 - begins) if n else []:
        packed = Packed.of((ends + 1 - begins)[batch])
        at = packed.position(np.arange(len(batch)), (ends - begins)[batch])
        complete_summaries[batch] = summaries(channels.complete[packed.rows(begins[batch])], n, packed, at)

    def read(
        rows: np.ndarray, static: np.ndarray, packed: Packed, at: np.ndarray
    ) -> tuple[Sequence[np.ndarray], np.ndarray | None]:
        row, lacks = channels.row[rows], channels.concept[rows]
        hour, order = complete_hours[place[row]], np.argsort(lacks, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(lacks[order])) + 1):
            if lacks[group[0]] != NO_CONCEPT:
                columns = channels.columns(lacks[group[:1]])[0]
                change = channels.values(rows[group]) - channels.complete[row[group]][:, columns]
                hour[group] += change @ embedding.kernel[columns]
        hours = embedding.activated(hour, static, packed)
        if not n:
            return hours, None
        found, lacks = complete_summaries[np.searchsorted(ends, row[at])], lacks[at]
        found[:, x.shape[1] - n - 1] = channels.log_count[rows[at]]
        without = np.flatnonzero(lacks != NO_CONCEPT)
        # Observed now, age, and after the time channels what was summarised: a concept that was never observed has none.
        found[without, lacks[without]], found[without, n + lacks[without]] = 0, 1
        for block in range(8):
            found[without, x.shape[1] - n + block * n + lacks[without]] = 0
        return hours, np.concatenate([static[packed.sequence[at]], found], axis=1)

    return read


def recur(network: FittedNetwork, inputs: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Outputs of the last recurrent layer [rows, units], of packed inputs [rows, features] whose hours begin at `first`."""
    for number, step in enumerate(network.steps):
        units = network.weights[f"recurrent_{number}/recurrent_kernel"].shape[0]
        n = inputs.shape[1]
        read, memory = np.zeros((first[1], n + units + 1), np.float32), np.zeros((first[1], units), np.float32)
        read[:, -1] = 1
        outputs = np.empty((len(inputs), units), dtype=np.float32)
        for begin, end in pairwise(first.tolist()):
            read = read[: end - begin]
            read[:, :n] = inputs[begin:end]
            outputs[begin:end], memory = step(read, memory[: end - begin])
            read[:, n:-1] = outputs[begin:end]
        inputs = outputs
    return inputs


def regress(network: FittedNetwork, series: np.ndarray) -> np.ndarray:
    """What a regression network says follows each of `series`, float32 [n, steps] -> [n]."""
    n, steps = series.shape
    hidden = recur(network, series.T.reshape(-1, 1), n * np.arange(steps + 1))[-n:]
    return (hidden @ network.weights["head/kernel"] + network.weights["head/bias"])[:, 0]


def _logits_of_features(networks: Sequence[FittedNetwork], features: np.ndarray | None, n: int) -> list[np.ndarray]:
    """The part of each network's logits, [n, bins * 2], that `head_features` contribute: read once for all, since their
    heads have the same knots."""
    one, cells = networks[0], len(networks[0].weights["head/bias"]) * 2
    logits = np.zeros((n, cells * len(networks)), dtype=np.float32)
    if features is not None:
        values = features[:, -4 * one.n_concepts :]
        width = features.shape[1] + 2 * len(one.knots) * values.shape[1]
        kernel = np.concatenate([network.weights["head/kernel"][-width:] for network in networks], axis=1)
        logits += features @ kernel[: features.shape[1]]
        first = features.shape[1]
        for knot in one.knots:
            for way in (values, -values):
                logits += np.maximum(way - knot, 0) @ kernel[first : first + way.shape[1]]
                first += way.shape[1]
    return np.split(logits, len(networks), axis=1)


def head_features(x: np.ndarray, static: np.ndarray, n: int, packed: Packed, at: np.ndarray) -> np.ndarray:
    """What all heads read besides the network's own: static features of the positions `at`, and `summaries` there."""
    return np.concatenate([static, summaries(x, n, packed, at)], axis=1)


def fixed_inputs(windows: Windows, config: ModelConfig) -> np.ndarray:
    """What the head reads that no weight changes, of every scored hour, float16 [rows, features]; 0 in other hours.

    Computed once: in the steps of a fit it would be computed anew in every epoch and for every member of an ensemble.
    """
    n, width = len(config.window.concepts), fixed_width(windows.static.shape[1], windows.channels.shape[1], config)
    found = np.zeros((len(windows.channels), width), np.float16)

    def compute(batch: np.ndarray) -> None:
        packed = Packed.of((windows.stop - windows.start)[batch])
        row = packed.rows(windows.start[batch])
        scored = np.flatnonzero(row >= windows.score_from[batch][packed.sequence])
        static = windows.static[windows.stay[batch]][packed.sequence[scored]]
        found[row[scored]] = head_features(windows.channels[row], static, n, packed, scored)

    if len(windows) and width:
        in_parallel(compute, batches(windows.stop - windows.start))
    return found


def fixed_width(n_static: int, n_channels: int, config: ModelConfig) -> int:
    """Columns of `fixed_inputs`: static features, channels, and seven summaries of each concept; of a narrow head, none."""
    return n_static + n_channels + 7 * len(config.window.concepts) if config.network.wide else 0


def summaries(x: np.ndarray, n: int, packed: Packed, at: np.ndarray) -> np.ndarray:
    """`encoding.RunningSummaries` of `n` concepts of packed channels x, [rows, channels], at positions, [positions, features]."""
    order = np.argsort(at, kind="stable")
    at, k = at[order], packed.first[1]
    seen, counted = np.zeros((k, n), dtype=bool), np.zeros((2, k, n), dtype=np.float32)
    total = np.zeros((2, k, n))
    initial, most, least = np.zeros((3, k, n), dtype=np.float32)
    found, cuts = [], np.searchsorted(at, packed.first)
    for number, (begin, end) in enumerate(pairwise(packed.first.tolist())):
        k = end - begin
        value, observed = np.ascontiguousarray(x[begin:end, :n]), x[begin:end, n : 2 * n] > 0
        # A shorter view each hour: sequences that have ended take no part.
        seen, initial, most, least = seen[:k], initial[:k], most[:k], least[:k]
        counted, total = counted[:, :k], total[:, :k]
        # Few in most hours; what the extremes are before counts nowhere.
        new = np.flatnonzero(observed & ~seen)
        seen |= observed
        counted[0] += observed
        counted[1] += seen
        known = value * seen
        total[0] += known
        total[1] += known * known
        np.maximum(most, known, out=most)
        np.minimum(least, known, out=least)
        for of_first in (initial, most, least):
            of_first.reshape(-1)[new] = value.reshape(-1)[new]
        here = at[cuts[number] : cuts[number + 1]] - begin
        if len(here):
            mean, square = (total[:, here] / np.maximum(counted[1, here], 1)).astype(np.float64)
            deviation = np.sqrt(np.maximum(square - mean * mean, 0) + 1e-4) - 1e-2
            now, ever = value[here], seen[here]
            ends = [np.where(ever, extreme[here], 0) for extreme in (most, least)]
            history = [
                np.log1p(counted[0, here]) / 4,
                deviation * ever,
                (now - initial[here]) * ever,
                (now - mean) * ever,
            ]
            rest = x[begin:end, n:][here]
            found.append(np.concatenate([rest, *history, now, mean, *ends], axis=1, dtype=np.float32))
    out = np.concatenate(found)
    out[order] = out.copy()
    return out


def masses_of(logits: np.ndarray) -> np.ndarray:
    """As `heads.masses`, float64 [n, bins, 2]."""
    logits = logits.astype(np.float64)
    stays = np.zeros((len(logits), logits.shape[1], 1))
    stays[:, -1] = -np.inf
    logits = np.concatenate([stays, logits], axis=2)
    odds = np.exp(logits - logits.max(axis=2, keepdims=True))
    return masses_of_hazards((odds / odds.sum(axis=2, keepdims=True))[:, :, 1:])


def _with_bias(w: Mapping[str, np.ndarray]) -> np.ndarray:
    """The kernel of all that a step reads; the bias is that of the 1."""
    return np.concatenate([w["kernel"], w["recurrent_kernel"], w["bias"][None]])


def _lstm(w: Mapping[str, np.ndarray]) -> _Step:
    # sigmoid(z) = (1 + tanh(z / 2)) / 2: one tanh makes all gates. Gate by gate, so that each is contiguous.
    halved = np.array([0.5, 0.5, 1, 0.5], dtype=np.float32)[:, None, None]
    kernel = halved * np.stack(np.split(_with_bias(w), 4, axis=1))

    def step(read: np.ndarray, memory: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gates = np.matmul(read, kernel)
        enters, stays, new, leaves = np.tanh(gates, out=gates)
        stays += 1
        stays *= memory
        enters += 1
        enters *= new
        memory = (stays + enters) * np.float32(0.5)
        leaves += 1
        leaves *= 0.5
        leaves *= np.tanh(memory)
        return leaves, memory

    return step


def _gru(w: Mapping[str, np.ndarray]) -> _Step:
    units = len(w["recurrent_kernel"])
    gate_kernel = _with_bias({**w, "bias": w["bias"].sum(axis=0)})[:, : 2 * units] / 2
    kernel, recurrent = (np.ascontiguousarray(w[name][:, 2 * units :]) for name in ("kernel", "recurrent_kernel"))
    bias, recurrent_bias = w["bias"][:, 2 * units :]

    def step(read: np.ndarray, memory: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        before = read[:, -units - 1 : -1]
        keeps, resets = np.split((np.tanh(read @ gate_kernel) + 1) / 2, 2, axis=1)
        new = np.tanh(read[:, : -units - 1] @ kernel + bias + resets * (before @ recurrent + recurrent_bias))
        return new + keeps * (before - new), memory

    return step


def _elman(w: Mapping[str, np.ndarray]) -> _Step:
    kernel = _with_bias(w)
    return lambda read, memory: (np.tanh(read @ kernel), memory)


def _jordan(w: Mapping[str, np.ndarray]) -> _Step:
    hidden = _elman(w)

    def step(read: np.ndarray, memory: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.tanh(hidden(read, memory)[0] @ w["output_kernel"] + w["output_bias"]), memory

    return step


_STEPS: dict[Cell, Callable[[Mapping[str, np.ndarray]], _Step]] = {
    "elman": _elman,
    "jordan": _jordan,
    "lstm": _lstm,
    "gru": _gru,
}
