"""What the head reads of a stay beside the recurrent state: running summaries, and values broken at knots."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

# Doublings that cover the longest window, two chunks of 168 hours: 2^9 hours.
_DOUBLINGS = 9
# Below any scaled value: what a running maximum starts from.
_NOTHING = -1e3


@keras.saving.register_keras_serializable(package="icu_forecast")
class RunningSummaries(keras.layers.Layer):
    """What a window has said by the end of each hour; causal: an hour reads itself and earlier ones.

    inputs [batch, hours, channels], channels as `windows.make_windows` lays them out ->
    [batch, hours, channels + 7 * n_concepts]: all channels but the values; then per concept log1p of the hours with an
    observation / 4, standard deviation, change since the first observation, distance from the mean; and last, `n_values`
    of them, the carried value and its mean, greatest and least since the first observation. Summaries of a concept are 0
    until it is first observed.
    """

    def __init__(self, n_concepts: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n_concepts = n_concepts

    @property
    def n_values(self) -> int:
        return 4 * self.n_concepts

    def call(self, inputs: Any) -> Any:
        n = self.n_concepts
        value, observed = inputs[..., :n], inputs[..., n : 2 * n]
        times = ops.cumsum(observed, axis=1)
        seen = ops.cast(times > 0, value.dtype)
        hours = ops.maximum(ops.cumsum(seen, axis=1), 1)
        mean = ops.cumsum(value * seen, axis=1) / hours
        variance = ops.cumsum(ops.square(value) * seen, axis=1) / hours - ops.square(mean)
        # The root has no slope at 0, where every concept with one observation stands.
        deviation = (ops.sqrt(ops.relu(variance) + 1e-4) - 1e-2) * seen
        first = ops.cumsum(value * observed * ops.cast(ops.equal(times, 1), value.dtype), axis=1)
        both_ways = ops.where(ops.tile(seen, (1, 1, 2)) > 0, ops.concatenate([value, -value], axis=-1), _NOTHING)
        extremes = _running_maximum(both_ways)
        greatest, least = extremes[..., :n] * seen, -extremes[..., n:] * seen
        history = [ops.log1p(times) / 4, deviation, (value - first) * seen, (value - mean) * seen]
        return ops.concatenate([inputs[..., n:], *history, value, mean, greatest, least], axis=-1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], input_shape[-1] + 7 * self.n_concepts)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "n_concepts": self.n_concepts}


@keras.saving.register_keras_serializable(package="icu_forecast")
class EveryHour(keras.layers.Layer):
    """[static [batch, features], x [batch, hours, channels]] -> [batch, hours, features]: the same in every hour."""

    def call(self, inputs: Any) -> Any:
        static, x = inputs
        return ops.repeat(static[:, None], ops.shape(x)[1], axis=1)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        static, x = input_shape
        return (static[0], x[1], static[1])


def hinges(values: Any, knots: Sequence[float]) -> Any:
    """[..., features] -> [..., features * 2 * knots]: how far each value lies above each knot, and below its negative.

    A linear layer over the values and these is a piecewise-linear function of every value, so that both too low and too
    high can be bad (Gorishniy, Rubachev, Babenko, "On embeddings for numerical features in tabular deep learning",
    NeurIPS 2022; here with unbounded pieces around the mean).
    """
    pieces = [piece for knot in knots for piece in (ops.relu(values - knot), ops.relu(-values - knot))]
    return ops.concatenate(pieces, axis=-1)


def _running_maximum(values: Any) -> Any:
    """Greatest of hours 0 to t, [batch, hours, features]: the reach doubles with every step."""
    for doubling in range(_DOUBLINGS):
        reach = 2**doubling
        earlier = ops.concatenate([ops.full_like(values[:, :reach], _NOTHING), values], axis=1)
        values = ops.maximum(values, earlier[:, : ops.shape(values)[1]])
    return values
