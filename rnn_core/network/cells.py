"""The recurrent cells of a network: `elman` and `jordan` as one-step layers, `lstm` and `gru` of Keras."""

from typing import Any, get_args

import keras
from keras import ops

from rnn_core.contracts.config import Cell
from rnn_core.contracts.errors import ContractError

CELLS: tuple[str, ...] = get_args(Cell)


class _OneStepCell(keras.Layer):
    """Base of both simple cells: an input kernel, a feedback kernel, a bias, and one state of size `units`."""

    def __init__(self, units: int, kernel_regularizer: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.state_size = units
        self.output_size = units
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.kernel = self.add_weight(
            shape=(input_shape[-1], self.units),
            initializer="glorot_uniform",
            regularizer=self.kernel_regularizer,
            name="kernel",
        )
        self.recurrent_kernel = self.add_weight(
            shape=(self.units, self.units), initializer="orthogonal", name="recurrent_kernel"
        )
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")

    def _hidden(self, inputs: Any, fed_back: Any) -> Any:
        return ops.tanh(ops.matmul(inputs, self.kernel) + ops.matmul(fed_back, self.recurrent_kernel) + self.bias)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }


@keras.saving.register_keras_serializable(package="icu_forecast")
class ElmanCell(_OneStepCell):
    """One step of the simple recurrent network: h_t = tanh(W x_t + U h_{t-1} + b); emits and carries h_t.

    The hidden layer feeds back to itself (Elman, "Finding structure in time", Cognitive Science 14, 1990, 179-211).
    inputs [batch, features], state [batch, units] -> output [batch, units].
    """

    def call(self, inputs: Any, states: Any) -> tuple[Any, list[Any]]:
        hidden = self._hidden(inputs, states[0])
        return hidden, [hidden]


@keras.saving.register_keras_serializable(package="icu_forecast")
class JordanCell(_OneStepCell):
    """One step of a Jordan network: h_t = tanh(W x_t + U y_{t-1} + b), y_t = tanh(V h_t + c); emits and carries y_t.

    The output layer, not the hidden layer, feeds back (Jordan, "Attractor dynamics and parallelism in a connectionist
    sequential machine", CogSci 1986; "Serial order", Advances in Psychology 121, 1997, 471-495). Jordan's state units
    also decay by themselves; here they hold the last output alone, and what is emitted is exactly what is fed back.
    inputs [batch, features], state [batch, units] -> output [batch, units].
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.output_kernel = self.add_weight(
            shape=(self.units, self.units), initializer="glorot_uniform", name="output_kernel"
        )
        self.output_bias = self.add_weight(shape=(self.units,), initializer="zeros", name="output_bias")

    def call(self, inputs: Any, states: Any) -> tuple[Any, list[Any]]:
        hidden = self._hidden(inputs, states[0])
        output = ops.tanh(ops.matmul(hidden, self.output_kernel) + self.output_bias)
        return output, [output]


def build_recurrent(
    cell: Cell,
    units: int,
    *,
    return_sequences: bool = True,
    l1: float = 0.0,
    dtype: Any = None,
    name: str | None = None,
) -> keras.layers.RNN:
    """A recurrent layer: [batch, steps, features] -> [batch, steps, units] or, of the last step alone, [batch, units].

    `l1` is the penalty on the input kernel. `lstm` and `gru` keep the settings that cuDNN runs (tanh and sigmoid, bias,
    no recurrent dropout, not unrolled, GRU with `reset_after`). Raises ContractError for an unknown cell.
    """
    penalty = keras.regularizers.L1(l1) if l1 else None
    common = {"return_sequences": return_sequences, "dtype": dtype, "name": name}
    match cell:
        case "lstm":
            return keras.layers.LSTM(units, kernel_regularizer=penalty, **common)
        case "gru":
            return keras.layers.GRU(units, kernel_regularizer=penalty, reset_after=True, **common)
        case "elman":
            return keras.layers.RNN(ElmanCell(units, penalty, dtype=dtype), **common)
        case "jordan":
            return keras.layers.RNN(JordanCell(units, penalty, dtype=dtype), **common)
    raise ContractError(f"A network has one of the cells {list(CELLS)}, not {cell!r}; correct NetworkConfig.cell.")
