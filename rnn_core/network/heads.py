"""The output layers of a network: one number (`regression`), or a distribution over when and how a stay ends."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from rnn_core.network.encoding import hinges

N_CAUSES = 2  # alive, dies: the order of frames.ALIVE and frames.DIED


def build_regression_head(dtype: Any = None, name: str = "head") -> keras.layers.Layer:
    """[..., features] -> [..., 1], unbounded."""
    return keras.layers.Dense(1, dtype=dtype, name=name)


@keras.saving.register_keras_serializable(package="icu_forecast")
class CompetingRiskHead(keras.layers.Layer):
    """[..., features] -> logits [..., bins, 2] of the cause-specific hazards of every horizon bin (see `log_masses`).

    Linear in its features and in the `encoding.hinges` of the last `n_values` of them at `knots`. The kernel starts near
    zero, so the forecast of an untrained head is that of its bias, whatever the input.
    """

    def __init__(self, bins: int, n_values: int = 0, knots: Sequence[float] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bins, self.n_values, self.knots = bins, n_values, tuple(knots)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        near_zero = keras.initializers.VarianceScaling(0.01)
        features = input_shape[-1] + self.n_values * 2 * len(self.knots)
        self.kernel = self.add_weight(shape=(features, self.bins * N_CAUSES), initializer=near_zero, name="kernel")
        self.bias = self.add_weight(shape=(self.bins, N_CAUSES), initializer="zeros", name="bias")

    def call(self, inputs: Any) -> Any:
        return self._logits(ops.matmul(self._broken(inputs), self.kernel))

    def of_parts(self, learned: Any, fixed: Any) -> Any:
        """The same for features given in two parts; training computes no gradient for those that are `fixed`, most of them."""
        if not fixed.shape[-1]:
            return self(learned)
        n = learned.shape[-1]
        return self._logits(ops.matmul(learned, self.kernel[:n]) + ops.matmul(self._broken(fixed), self.kernel[n:]))

    def _broken(self, features: Any) -> Any:
        if not (self.n_values and self.knots):
            return features
        values = features[..., features.shape[-1] - self.n_values :]
        return ops.concatenate([features, hinges(values, self.knots)], axis=-1)

    def _logits(self, flat: Any) -> Any:
        return ops.reshape(flat, (*ops.shape(flat)[:-1], self.bins, N_CAUSES)) + self.bias

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.bins, N_CAUSES)

    def get_config(self) -> dict[str, Any]:
        own = {"bins": self.bins, "n_values": self.n_values, "knots": list(self.knots)}
        return {**super().get_config(), **own}


def log_masses(logits: Any) -> Any:
    """Logarithm of the forecast masses: logits [..., bins, 2] -> log p [..., bins, 2], p summing to 1 over both axes.

    In every bin but the last a softmax over {stays (logit 0), leaves alive, dies} gives the hazards, and
    p[k, c] = hazard[k, c] * prod_{j<k} stay[j]: the discrete-time hazard likelihood (Kvamme & Borgan, "Continuous and
    discrete-time survival prediction with neural networks", Lifetime Data Analysis 27, 2021, 710-736; arXiv 1910.06724)
    with the joint masses over time and competing causes of DeepHit (Lee, Zame, Yoon, van der Schaar, AAAI 2018). The
    last bin is open-ended, so a stay that reaches it ends in it: its softmax is over the two causes. Everything is
    computed in logarithms, so the result is finite for any finite logits.

    >>> np.exp(log_masses(np.zeros((2, 2), np.float32))).round(3)
    array([[0.333, 0.333],
           [0.167, 0.167]], dtype=float32)
    """
    hazards, survived = log_hazards(logits)
    return hazards + ops.expand_dims(survived, -1)


def log_hazards(logits: Any) -> tuple[Any, Any]:
    """Logarithms of the hazards of every bin and cause [..., bins, 2], and of still being there as each bin begins
    [..., bins]; logits [..., bins, 2]."""
    stays = ops.zeros_like(logits[..., :-1, :1])
    hazards = ops.log_softmax(ops.concatenate([stays, logits[..., :-1, :]], axis=-1), axis=-1)
    last = ops.log_softmax(logits[..., -1:, :], axis=-1)
    survived = ops.cumsum(hazards[..., 0], axis=-1)
    survived = ops.concatenate([ops.zeros_like(survived[..., :1]), survived], axis=-1)
    return ops.concatenate([hazards[..., 1:], last], axis=-2), survived


def masses(logits: Any) -> Any:
    """The forecast masses p [..., bins, 2] themselves; see `log_masses`."""
    return ops.exp(log_masses(logits))


def logits_of(p: np.ndarray) -> np.ndarray:
    """The inverse of `masses`: logits, float64 [bins, 2], whose masses are `p`, [bins, 2], all positive, summing to 1."""
    reached = p.sum(axis=1)[::-1].cumsum()[::-1]
    leaves_later = np.append(reached[1:], 1.0)
    logits = np.log(p) - np.log(leaves_later)[:, None]
    logits[-1] -= logits[-1].mean()
    return logits
