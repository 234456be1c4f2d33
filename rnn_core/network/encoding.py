"""Inputs of the head besides the recurrent state: running summaries of the window, and values split at knots."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
from keras import ops

# Below any scaled value: where a running maximum starts.
_NOTHING = -1e3


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
        n = self.n_concepts
        value, observed = inputs[..., :n], inputs[..., n : 2 * n]
        times = total(observed)
        seen = ops.cast(times > 0, value.dtype)
        first = total(value * observed * ops.cast(ops.equal(times, 1), value.dtype))
        hours = ops.maximum(total(seen), 1)
        mean = total(value * seen) / hours
        variance = total(ops.square(value) * seen) / hours - ops.square(mean)
        both_ways = ops.where(ops.tile(seen, (1, 1, 2)) > 0, ops.concatenate([value, -value], axis=-1), _NOTHING)
        extremes = _running_maximum(both_ways, self.longest_hours)
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


def _running_maximum(values: Any, longest: int) -> Any:
    """Maximum over hours 0 to t, [batch, hours, features]: the reach doubles with every step, until it is `longest`."""
    reach = 1
    while reach < longest:
        earlier = ops.concatenate([ops.full_like(values[:, :reach], _NOTHING), values], axis=1)
        values = ops.maximum(values, earlier[:, : ops.shape(values)[1]])
        reach *= 2
    return values
