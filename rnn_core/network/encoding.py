"""Inputs of the head besides the recurrent state: running summaries of the window, and values split at knots."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
from keras import ops

# Below any scaled value: where a running maximum starts.
_NOTHING = -1e3

_OverHours = Callable[[Any], Any]


@keras.saving.register_keras_serializable(package="icu_forecast")
class RunningSummaries(keras.layers.Layer):
    """Summaries of a window up to the end of each hour; causal: an hour depends on itself and on earlier hours.

    inputs [batch, hours, channels], channels in the order of `windows.make_windows` ->
    [batch, hours, channels + 7 * n_concepts]: all channels except the values; then per concept log1p of the hours with
    an observation / 4, standard deviation, change since the first observation, distance from the mean; and finally,
    `n_values` of them, the carried value and its mean, maximum and minimum since the first observation. Summaries of a
    concept are 0 until it is first observed.

    longest_hours: the longest window that is read; of a longer one the maxima and minima are wrong. The default is that
    of networks saved before it was part of their config.
    """

    def __init__(self, n_concepts: int, longest_hours: int = 512, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n_concepts, self.longest_hours = n_concepts, longest_hours

    @property
    def n_values(self) -> int:
        return 4 * self.n_concepts

    def call(self, inputs: Any) -> Any:
        total = partial(ops.cumsum, axis=1)
        greatest = partial(_running_maximum, longest=self.longest_hours)
        return self._summarise(inputs, lambda hours: hours, total, greatest)

    def at(self, inputs: Any, rows: Any) -> Any:
        """The same at the hours `rows` (int [batch, rows], rising) of each window alone, [batch, rows, features], for a
        fraction of the work."""
        hour = ops.arange(ops.shape(inputs)[1], dtype=rows.dtype)
        so_far = ops.cast(hour <= rows[..., None], inputs.dtype)
        return self._summarise(
            inputs,
            now=lambda hours: at_rows(hours, rows),
            total=lambda hours: ops.einsum("bhf,brh->brf", hours, so_far),
            greatest=lambda hours: _maximum_up_to(hours, rows, self.longest_hours),
        )

    def _summarise(self, inputs: Any, now: _OverHours, total: _OverHours, greatest: _OverHours) -> Any:
        """now, total, greatest: value, sum and maximum over the hours so far, at every hour or at one."""
        n = self.n_concepts
        value, observed = inputs[..., :n], inputs[..., n : 2 * n]
        times = ops.cumsum(observed, axis=1)
        seen = ops.cast(times > 0, value.dtype)
        first = total(value * observed * ops.cast(ops.equal(times, 1), value.dtype))
        hours = ops.maximum(total(seen), 1)
        mean = total(value * seen) / hours
        variance = total(ops.square(value) * seen) / hours - ops.square(mean)
        both_ways = ops.where(ops.tile(seen, (1, 1, 2)) > 0, ops.concatenate([value, -value], axis=-1), _NOTHING)
        extremes = greatest(both_ways)
        inputs, value, times, seen = (now(part) for part in (inputs, value, times, seen))
        # The root has no slope at 0, the variance of every concept with a single observation.
        deviation = (ops.sqrt(ops.relu(variance) + 1e-4) - 1e-2) * seen
        history = [ops.log1p(times) / 4, deviation, (value - first) * seen, (value - mean) * seen]
        extremes = [extremes[..., :n] * seen, -extremes[..., n:] * seen]
        return ops.concatenate([inputs[..., n:], *history, value, mean, *extremes], axis=-1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], input_shape[-1] + 7 * self.n_concepts)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "n_concepts": self.n_concepts, "longest_hours": self.longest_hours}


@keras.saving.register_keras_serializable(package="icu_forecast")
class EveryHour(keras.layers.Layer):
    """[static [batch, features], x [batch, hours, channels]] -> [batch, hours, features]: the same in every hour."""

    def call(self, inputs: Any) -> Any:
        static, x = inputs
        return ops.repeat(static[:, None], ops.shape(x)[1], axis=1)

    def at(self, inputs: Any, rows: Any) -> Any:
        """The same at the hours `rows` (int [batch, rows]) alone, [batch, rows, features]."""
        return self.call([inputs[0], rows])

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        static, x = input_shape
        return (static[0], x[1], static[1])


def at_rows(hours: Any, rows: Any) -> Any:
    """[batch, hours, ...] -> [batch, rows, ...] of the hours `rows` (int [batch, rows]) of each."""
    batch, length = ops.shape(hours)[0], ops.shape(hours)[1]
    flat = ops.reshape(hours, (-1, *hours.shape[2:]))
    return ops.take(flat, rows + length * ops.arange(batch, dtype=rows.dtype)[:, None], axis=0)


def hinges(values: Any, knots: Sequence[float]) -> Any:
    """[..., features] -> [..., features * 2 * knots]: how far each value is above each knot, and below its negative.

    A linear layer over the values and their hinges is a piecewise-linear function of every value, so both low and high
    values can raise a risk (Gorishniy, Rubachev, Babenko, "On embeddings for numerical features in tabular deep
    learning", NeurIPS 2022; here with unbounded pieces around the mean).

    >>> hinges(ops.array([[-1.5, 0.5]]), knots=(0.0, 1.0)).numpy()
    array([[0. , 0.5, 1.5, 0. , 0. , 0. , 0.5, 0. ]], dtype=float32)
    """
    pieces = [piece for knot in knots for piece in (ops.relu(values - knot), ops.relu(-values - knot))]
    return ops.concatenate(pieces, axis=-1)


def _maximum_up_to(values: Any, rows: Any, longest: int) -> Any:
    """Maximum over hours 0 to each of `rows` (int [batch, rows], rising), [batch, rows, features].

    First over the hours between one row and the next, which takes one pass, then over those maxima.
    """
    batch, length, n_rows = ops.shape(values)[0], ops.shape(values)[1], ops.shape(rows)[1]
    hour = ops.arange(length, dtype=rows.dtype)
    # Hours after the last row belong to a part of their own, which is left out.
    part = ops.sum(ops.cast(rows[..., None] < hour, rows.dtype), axis=1)
    part = part + (n_rows + 1) * ops.arange(batch, dtype=rows.dtype)[:, None]
    flat = ops.reshape(values, (-1, values.shape[-1]))
    greatest = ops.segment_max(flat, ops.reshape(part, (-1,)), batch * (n_rows + 1))
    return _running_maximum(ops.reshape(greatest, (batch, n_rows + 1, values.shape[-1]))[:, :n_rows], longest)


def _running_maximum(values: Any, longest: int) -> Any:
    """Maximum over hours 0 to t, [batch, hours, features]: the reach doubles with every step, until it is `longest`."""
    reach = 1
    while reach < longest:
        earlier = ops.concatenate([ops.full_like(values[:, :reach], _NOTHING), values], axis=1)
        values = ops.maximum(values, earlier[:, : ops.shape(values)[1]])
        reach *= 2
    return values
