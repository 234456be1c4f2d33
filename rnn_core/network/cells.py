"""The recurrent cells of a network: `elman` and `jordan` as one-step layers, `gru` of Keras, `lstm` fused on a CPU."""

from functools import cache
from typing import Any, get_args

import keras
import tensorflow as tf
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


@keras.saving.register_keras_serializable(package="icu_forecast")
class FusedLSTM(keras.layers.LSTM):
    """Keras's LSTM with the same weights and, on a CPU, all steps in one operation of TensorFlow: a third of the time.

    Keras loops over the steps, a dozen operations in each. On a GPU it runs cuDNN; that is kept, as is Keras's loop where
    the operation does not do what is needed (masks, other activations, other precision than float32).
    """

    def inner_loop(self, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
        tanh, sigmoid = keras.activations.tanh, keras.activations.sigmoid
        plain = (self.activation, self.recurrent_activation, self.use_bias) == (tanh, sigmoid, True)
        plain = plain and not (self.dropout or self.recurrent_dropout or self.go_backwards)
        if _has_gpu() or not plain or mask is not None or self.compute_dtype != "float32":
            return super().inner_loop(sequences, initial_state, mask, training)
        steps = tf.transpose(sequences, (1, 0, 2))
        no_peephole = tf.zeros(self.units)
        run = tf.raw_ops.BlockLSTM(
            seq_len_max=tf.shape(steps, tf.int64)[0],
            x=steps,
            cs_prev=initial_state[1],
            h_prev=initial_state[0],
            w=_in_order_of_op(tf.concat([self.cell.kernel, self.cell.recurrent_kernel], axis=0)),
            wci=no_peephole,
            wcf=no_peephole,
            wco=no_peephole,
            b=_in_order_of_op(self.cell.bias),
            forget_bias=0.0,
            cell_clip=-1.0,
        )
        outputs = tf.transpose(run.h, (1, 0, 2))
        return run.h[-1], outputs, [run.h[-1], run.cs[-1]]


def _in_order_of_op(gates: Any) -> Any:
    """Weights of the gates [..., 4 * units]: those of Keras are in the order i, f, c, o, those of BlockLSTM i, c, f, o."""
    i, f, c, o = tf.split(gates, 4, axis=-1)
    return tf.concat([i, c, f, o], axis=-1)


@cache
def _has_gpu() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))


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
            return FusedLSTM(units, kernel_regularizer=penalty, **common)
        case "gru":
            return keras.layers.GRU(units, kernel_regularizer=penalty, reset_after=True, **common)
        case "elman":
            return keras.layers.RNN(ElmanCell(units, penalty, dtype=dtype), **common)
        case "jordan":
            return keras.layers.RNN(JordanCell(units, penalty, dtype=dtype), **common)
    raise ContractError(f"A network has one of the cells {list(CELLS)}, not {cell!r}; correct NetworkConfig.cell.")
