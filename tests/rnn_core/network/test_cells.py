import keras
import numpy as np
import pytest
import tensorflow as tf

from rnn_core.contracts.errors import ContractError
from rnn_core.network.cells import CELLS, build_recurrent

BATCH, STEPS, FEATURES, UNITS = 3, 7, 5, 4


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def elman_by_hand(x, kernel, recurrent, bias):
    h, outputs = np.zeros((len(x), UNITS)), []
    for t in range(x.shape[1]):
        h = np.tanh(x[:, t] @ kernel + h @ recurrent + bias)
        outputs.append(h)
    return np.stack(outputs, axis=1)


def jordan_by_hand(x, kernel, recurrent, bias, output_kernel, output_bias):
    y, outputs = np.zeros((len(x), UNITS)), []
    for t in range(x.shape[1]):
        h = np.tanh(x[:, t] @ kernel + y @ recurrent + bias)
        y = np.tanh(h @ output_kernel + output_bias)
        outputs.append(y)
    return np.stack(outputs, axis=1)


def lstm_by_hand(x, kernel, recurrent, bias):
    """Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000; gates in the order i, f, c, o."""
    h, c, outputs = np.zeros((len(x), UNITS)), np.zeros((len(x), UNITS)), []
    for t in range(x.shape[1]):
        i, f, g, o = np.split(x[:, t] @ kernel + h @ recurrent + bias, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, axis=1)


def gru_by_hand(x, kernel, recurrent, bias):
    """Cho et al. 2014, the reset gate applied after the recurrent product (v1 of the paper, cuDNN); gates z, r, h."""
    h, outputs = np.zeros((len(x), UNITS)), []
    for t in range(x.shape[1]):
        xz, xr, xh = np.split(x[:, t] @ kernel + bias[0], 3, axis=1)
        hz, hr, hh = np.split(h @ recurrent + bias[1], 3, axis=1)
        z, r = sigmoid(xz + hz), sigmoid(xr + hr)
        h = z * h + (1 - z) * np.tanh(xh + r * hh)
        outputs.append(h)
    return np.stack(outputs, axis=1)


BY_HAND = {"elman": elman_by_hand, "jordan": jordan_by_hand, "lstm": lstm_by_hand, "gru": gru_by_hand}


def sequences(seed=0):
    return np.random.default_rng(seed).standard_normal((BATCH, STEPS, FEATURES)).astype(np.float32)


def layer_with_random_weights(cell, **options):
    layer = build_recurrent(cell, UNITS, **options)
    layer.build((None, None, FEATURES))
    rng = np.random.default_rng(1)
    layer.set_weights([rng.standard_normal(w.shape) * 0.7 for w in layer.get_weights()])
    return layer


@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_computes_the_equations_of_its_cell(cell):
    layer = layer_with_random_weights(cell)
    expected = BY_HAND[cell](sequences().astype(np.float64), *[w.astype(np.float64) for w in layer.get_weights()])
    np.testing.assert_allclose(layer(sequences()), expected, atol=1e-5)


def test_the_fused_lstm_has_the_gradients_and_states_of_keras_own():
    fused, options = layer_with_random_weights("lstm"), {"return_sequences": True, "return_state": True}
    fused.return_state, plain = True, keras.layers.LSTM(UNITS, **options)
    plain.build((None, None, FEATURES))
    plain.set_weights(fused.get_weights())
    x, start = tf.constant(sequences()), [tf.constant(sequences(s)[:, 0, :UNITS]) for s in (2, 3)]
    found = []
    for layer in (fused, plain):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs, *states = layer(x, initial_state=start)
            loss = tf.reduce_sum(outputs * sequences(4)[:, :, :UNITS]) + tf.reduce_sum(states[1])
        found.append([outputs, *states, *tape.gradient(loss, [x, *layer.trainable_variables])])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_without_sequences_a_layer_gives_the_last_step(cell):
    every, last = layer_with_random_weights(cell), layer_with_random_weights(cell, return_sequences=False)
    np.testing.assert_allclose(last(sequences()), every(sequences())[:, -1], atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_a_saved_layer_comes_back_with_the_same_output(cell, tmp_path):
    x = keras.Input((None, FEATURES))
    model = keras.Model(x, layer_with_random_weights(cell, l1=0.01)(x))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(sequences()), model(sequences()))
    assert float(sum(loaded.losses)) == float(sum(model.losses)) > 0


@pytest.mark.parametrize("cell", ["elman", "jordan"])
def test_states_can_be_carried_over_a_cut(cell):
    x = sequences()
    layer = layer_with_random_weights(cell)
    layer.return_state = True
    whole, _ = layer(x)
    _, state = layer(x[:, :3])
    rest, _ = layer(x[:, 3:], initial_state=[state])
    np.testing.assert_allclose(rest, whole[:, 3:], atol=1e-6)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gated_cells_keep_the_settings_that_cudnn_runs(cell):
    layer = build_recurrent(cell, UNITS)
    assert layer.activation is keras.activations.tanh
    assert layer.recurrent_activation is keras.activations.sigmoid
    assert layer.use_bias and not layer.unroll and layer.recurrent_dropout == 0
    assert getattr(layer, "reset_after", True)


def test_an_unknown_cell_is_refused_with_the_known_ones():
    with pytest.raises(ContractError, match=r"elman.*jordan.*lstm.*gru"):
        build_recurrent("transformer", UNITS)
