from dataclasses import replace

import keras
import numpy as np
import pytest

from rnn_core.contracts.config import HORIZON_EDGES, NetworkConfig
from rnn_core.contracts.errors import ContractError
from rnn_core.network.build import build_network, split_at_head
from rnn_core.network.cells import CELLS

STAY = NetworkConfig(units=(8, 6), n_channels=5, n_concepts=1, n_static=3)
SERIES = NetworkConfig(units=(8, 4), head="regression", n_channels=1)


def inputs(hours=9, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal((batch, hours, STAY.n_channels)).astype(np.float32),
        rng.standard_normal((batch, STAY.n_static)).astype(np.float32),
    ]


def network_with_loud_head(config=STAY):
    """The head of a new network is near silent; make what it reads visible in what it says."""
    keras.utils.set_random_seed(0)
    model = build_network(config)
    kernel = model.get_layer("head").kernel
    kernel.assign(np.random.default_rng(1).standard_normal(kernel.shape))
    return model


@pytest.mark.parametrize("cell", CELLS)
def test_every_hour_gets_logits_for_all_bins_and_both_causes(cell):
    assert network_with_loud_head(replace(STAY, cell=cell))(inputs()).shape == (2, 9, len(HORIZON_EDGES), 2)


@pytest.mark.parametrize("cell", CELLS)
def test_an_hour_depends_on_itself_and_on_earlier_hours_only(cell):
    model = network_with_loud_head(replace(STAY, cell=cell))
    x, static = inputs()
    changed = x.copy()
    changed[:, 4] += 1
    before, after = model([x, static]).numpy(), model([changed, static]).numpy()
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (np.abs(before[:, 4:] - after[:, 4:]).max(axis=(0, 2, 3)) > 1e-4).all()


def test_padding_at_the_end_changes_no_earlier_hour():
    model = network_with_loud_head()
    x, static = inputs()
    padded = np.pad(x, ((0, 0), (0, 15), (0, 0)))
    np.testing.assert_allclose(model([padded, static])[:, :9], model([x, static]), atol=1e-6)


def test_static_features_change_every_hour():
    model = network_with_loud_head()
    x, static = inputs()
    difference = np.abs(model([x, static + 1]).numpy() - model([x, static]).numpy())
    assert (difference.max(axis=(0, 2, 3)) > 1e-4).all()


def test_without_static_features_the_hours_alone_are_read(tmp_path):
    model = network_with_loud_head(replace(STAY, n_static=0))
    x, _ = inputs()
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")([x]), model([x]))


def test_a_saved_network_comes_back_with_the_same_output(tmp_path):
    model = network_with_loud_head()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(inputs()), model(inputs()))
    assert not any(layer.unroll for layer in loaded.layers if isinstance(layer, keras.layers.RNN))


def test_dropout_acts_in_training_only():
    model = network_with_loud_head(replace(STAY, input_dropout=0.2))
    np.testing.assert_array_equal(model(inputs(), training=False), model(inputs(), training=False))
    assert np.abs(model(inputs(), training=True) - model(inputs(), training=True)).max() > 1e-3


def test_the_l1_penalty_is_on_the_recurrent_input_kernels():
    model = build_network(replace(STAY, l1=0.01))
    kernels = [model.get_layer(f"recurrent_{i}").cell.kernel.numpy() for i in range(2)]
    assert float(sum(model.losses)) == pytest.approx(0.01 * sum(np.abs(k).sum() for k in kernels), rel=1e-5)


def test_mixed_precision_keeps_weights_and_logits_in_single_precision():
    model = build_network(STAY, mixed_precision=True)
    assert model.get_layer("recurrent_0").compute_dtype == "bfloat16"
    assert {w.dtype for w in model.weights} == {"float32"}
    assert model(inputs()).dtype == "float32"
    model.set_weights(network_with_loud_head().get_weights())
    np.testing.assert_allclose(model(inputs()), network_with_loud_head()(inputs()), atol=0.2)


def test_the_regression_network_gives_one_number_after_the_last_step():
    model = build_network(SERIES)
    assert [type(layer).__name__ for layer in model.layers if "dropout" not in layer.name] == [
        "InputLayer",
        "FusedLSTM",
        "FusedLSTM",
        "Dense",
    ]
    assert model(np.zeros((3, 10, 1), np.float32)).shape == (3, 1)


@pytest.mark.parametrize(
    "broken",
    [
        replace(STAY, n_channels=0),
        replace(STAY, units=()),
        replace(STAY, head="hazard"),
        replace(STAY, cell="transformer"),
        replace(SERIES, n_static=2),
    ],
)
def test_a_config_that_describes_no_network_is_refused(broken):
    with pytest.raises(ContractError):
        build_network(broken)


def test_a_network_reads_the_extremes_of_the_longest_window_of_its_config():
    summaries = build_network(replace(STAY, longest_hours=600)).get_layer("summaries")
    x = np.zeros((1, 600, STAY.n_channels), np.float32)
    x[0, 0, :2] = [3, 1]
    assert summaries(x).numpy()[0, -1, -2] == 3


@pytest.mark.parametrize("config", [STAY, replace(STAY, wide=False), replace(STAY, n_static=0)])
def test_a_network_split_at_its_head_says_what_the_whole_says(config):
    model = network_with_loud_head(config)
    split, seen = split_at_head(model), inputs()[: len(model.inputs)]
    parts = [
        part for half in (split.learned, split.fixed) if half is not None for part in keras.tree.flatten(half(seen))
    ]
    np.testing.assert_array_equal(split.head(np.concatenate(parts, axis=-1)), model(seen))
    assert len(split.learned.weights) + len(split.head.weights) == len(model.weights)
    fixed = keras.tree.flatten(split.fixed(seen)) if split.fixed is not None else []
    learned = np.concatenate(keras.tree.flatten(split.learned(seen)), axis=-1)
    apart = split.head.of_parts(learned, np.concatenate([learned[..., :0], *fixed], axis=-1))
    np.testing.assert_allclose(apart, model(seen), atol=1e-4)


def network_with(between=None, part=None):
    """A stay network by hand: `between` changes what the head reads, `part` stands for the summaries."""
    x = keras.Input((None, 4), name="x")
    hour = keras.layers.Dense(4, name="hour")(x)
    summaries = part(x) if part else keras.layers.Activation("tanh", name="summaries")(x)
    read = keras.layers.Concatenate(name="read")([hour, summaries])
    return keras.Model(x, keras.layers.Dense(3, name="head")(between(read) if between else read))


def test_a_network_whose_head_reads_something_else_is_refused_before_it_is_scored():
    assert split_at_head(network_with()).fixed is not None
    with pytest.raises(ContractError, match="together"):
        split_at_head(network_with(between=keras.layers.Activation("tanh")))
    with pytest.raises(ContractError, match="which have no weights"):
        split_at_head(network_with(part=keras.layers.Dense(4, name="summaries")))
