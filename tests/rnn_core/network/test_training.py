import random
import shutil
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from threadpoolctl import threadpool_limits

from rnn_core.contracts.config import ModelConfig, NetworkConfig, TrainConfig
from rnn_core.contracts.errors import ContractError, DataTooSmallError
from rnn_core.contracts.frames import DIED, Labels, Windows
from rnn_core.network import training
from rnn_core.network.build import build_network, split_at_head
from rnn_core.network.devices import Devices
from rnn_core.network.fitted import networks_of
from rnn_core.network.heads import masses
from rnn_core.network.scoring import fixed_inputs, score_windows
from rnn_core.network.training import MIN_WINDOWS, _marginal_masses, fit_stay_model, sized

EDGES = (0.0, 6.0, 12.0, 24.0)
TINY = ModelConfig(
    network=NetworkConfig(cell="elman", units=(4,), wide=False, dropout=0.2, embed_dropout=0.0, horizon_edges=EDGES),
    train=TrainConfig(epochs=3, patience=3, batch_size=16, learning_rate=0.01),
)


def make_data(n=60, seed=0, longest=30):
    """Stays of 6 to `longest` hours whose first channel tells who dies; each is one window, scored from hour 4 on."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(6, longest + 1, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    died = rng.random(n) < 0.4
    hour = np.concatenate([np.arange(1, length + 1) for length in lengths]).astype(np.float32)
    channels = rng.standard_normal((offsets[-1], 3)).astype(np.float32)
    channels[:, 0] = np.repeat(died * 2.0 - 1, lengths)
    windows = Windows(
        channels=channels,
        static=rng.standard_normal((n, 2)).astype(np.float32),
        offsets=offsets,
        stay=np.arange(n),
        start=offsets[:-1],
        stop=offsets[1:],
        score_from=offsets[:-1] + 4,
        prediction_hour=hour,
        n_observations=hour,
        hours_since_last=hour * 0,
    )
    remaining = (np.repeat(lengths, lengths) - hour + 1).astype(np.float32)
    weights = np.zeros((len(hour), len(EDGES), 2), np.float32)
    cell = np.searchsorted(EDGES, remaining, side="right") - 1
    weights[np.arange(len(hour)), cell, np.repeat(died, lengths).astype(int)] = 1
    death = np.repeat(died, lengths).astype(np.float32)
    return windows, Labels(weights, np.ones_like(weights), death, remaining, np.ones(len(hour), bool))


def split(windows):
    valid = np.arange(len(windows.static)) % 4 == 0
    return ~valid, valid


def fit(windows, labels, config=TINY, **options):
    return fit_stay_model(windows, labels, *split(windows), config, **options)


def with_train(**changes):
    return replace(TINY, train=replace(TINY.train, **changes))


def assert_equal_weights(a, b):
    for one, other in zip(a.model.get_weights(), b.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """One plain training, and the checkpoints that it left."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return fit(*make_data(), checkpoint_dir=folder), folder


def loss_by_hand(fitted, windows, labels, stays, death_weight):
    """The documented loss from scored masses, in double precision: likelihood and death, all rows with one weight."""
    rows, p = score_windows(networks_of(fitted.model), windows, np.flatnonzero(stays[windows.stay]))
    rows, p = rows[labels.usable[rows]], p[labels.usable[rows]].astype(np.float64)
    likelihood = (labels.weights[rows] * p).sum((1, 2)) / (labels.entry[rows] * p).sum((1, 2))
    died, risk = labels.death[rows], p[:, :, DIED].sum(1)
    entropy = np.where(np.isnan(died), 0, -np.log(np.where(died == 1, risk, 1 - risk)))
    return np.mean(-np.log(likelihood) + death_weight * entropy)


def test_training_learns_what_the_overall_distribution_does_not_know():
    windows, labels = make_data(n=120)
    fitted = fit(windows, labels, with_train(epochs=12, patience=12))
    first, last = fitted.history[0]["valid_loss"], fitted.history[-1]["valid_loss"]
    assert last < first - 0.3
    rows, p = score_windows(networks_of(fitted.model), windows)
    risk = p[:, :, DIED].sum(1)
    assert risk[labels.death[rows] == 1].min() > risk[labels.death[rows] == 0].max()


def test_the_reported_validation_loss_is_that_of_the_model_given_back():
    windows, labels = make_data()
    unknown = np.random.default_rng(1).random(len(labels.death)) < 0.2
    labels = replace(labels, usable=~unknown, death=np.where(np.arange(len(unknown)) % 5 == 0, np.nan, labels.death))
    fitted = fit(windows, labels, with_train(loss_every=1))
    best = min(record["valid_loss"] for record in fitted.history)
    assert fitted.history[fitted.best_epoch - 1]["valid_loss"] == best
    by_hand = loss_by_hand(fitted, windows, labels, split(windows)[1], TINY.train.death_weight)
    assert by_hand == pytest.approx(best, rel=1e-4)
    sampled = fit(windows, labels, with_train(loss_every=3))
    by_hand = loss_by_hand(sampled, windows, labels, split(windows)[1], TINY.train.death_weight)
    assert by_hand == pytest.approx(min(record["valid_loss"] for record in sampled.history), rel=0.05)


def test_the_config_given_back_holds_the_sizes_of_the_data(base):
    fitted, _ = base
    assert (fitted.config.network.n_channels, fitted.config.network.n_static) == (3, 2)
    assert fitted.config.network.longest_hours == 2 * fitted.config.window.chunk_hours


def test_training_stops_when_validation_no_longer_improves():
    windows, labels = make_data(n=24)
    windows = replace(windows, channels=np.random.default_rng(5).standard_normal(windows.channels.shape).astype("f"))
    fitted = fit(windows, labels, with_train(epochs=40, patience=2, learning_rate=0.05))
    assert len(fitted.history) == fitted.best_epoch + 2 < 40


def test_the_same_seed_gives_the_same_weights_and_another_does_not(base):
    first, _ = base
    assert_equal_weights(first, fit(*make_data()))
    other = fit(*make_data(), with_train(seed=1))
    assert not np.array_equal(first.model.get_weights()[0], other.model.get_weights()[0])


def test_others_who_draw_from_the_generator_of_python_change_no_weight(monkeypatch):
    """As the threads of a worker do: before each layer is built, a number is drawn."""
    expected = fit(*make_data(n=24), with_train(epochs=1))
    make_layer = keras.layers.Layer.__init__

    def draw_then_make(layer, **named):
        random.random()
        make_layer(layer, **named)

    monkeypatch.setattr(keras.layers.Layer, "__init__", draw_then_make)
    random.seed(7)
    state = random.getstate()
    assert_equal_weights(expected, fit(*make_data(n=24), with_train(epochs=1)))
    assert random.getstate() != state


def test_a_fit_leaves_the_seed_of_tensorflow_alone_since_setting_it_drops_every_optimised_graph():
    tf.random.set_seed(5)
    expected = tf.random.uniform((3,)).numpy()
    tf.random.set_seed(5)
    fit(*make_data(n=24), with_train(epochs=1))
    np.testing.assert_array_equal(tf.random.uniform((3,)).numpy(), expected)


def test_an_interrupted_training_ends_with_the_weights_of_an_uninterrupted_one(base, tmp_path):
    whole, _ = base
    data = make_data()
    seen = []

    def interrupt(record):
        seen.append(record["epoch"])
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(*data, checkpoint_dir=tmp_path, progress=interrupt)
    resumed = fit(*data, checkpoint_dir=tmp_path, progress=interrupt)
    assert seen == [1, 2, 3]
    assert_equal_weights(resumed, whole)
    assert [r["valid_loss"] for r in resumed.history] == [r["valid_loss"] for r in whole.history]


def test_a_finished_training_is_read_back_from_its_checkpoint_without_another_epoch(base):
    whole, folder = base
    epochs = []
    again = fit(*make_data(), checkpoint_dir=folder, progress=epochs.append)
    assert epochs == []
    assert_equal_weights(again, whole)


def test_a_checkpoint_of_other_data_is_not_used(base, tmp_path):
    _, folder = base
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    windows, labels = make_data()
    changed = replace(windows, static=windows.static + 1)
    epochs = []
    fit(changed, labels, checkpoint_dir=tmp_path, progress=lambda record: epochs.append(record["epoch"]))
    assert epochs == [1, 2, 3]


def test_fixed_inputs_are_those_that_the_network_computes_itself():
    windows, _ = make_data(n=70)
    windows.channels[:, 1] = windows.channels[:, 1] > 0  # observed or not
    config = replace(
        TINY, network=replace(TINY.network, wide=True), window=replace(TINY.window, concepts=("heart_rate",))
    )
    found = fixed_inputs(windows, config)
    part = split_at_head(build_network(sized(config, windows).network)).fixed
    for window in (0, 69):
        rows = np.arange(windows.start[window], windows.stop[window])
        expected = np.concatenate(part([windows.channels[None, rows], windows.static[None, window]]), axis=-1)[0]
        np.testing.assert_allclose(found[rows[4:]], expected[4:], atol=2e-3)
        assert not found[rows[:4]].any()  # no forecast is made there


def test_a_warm_start_begins_with_the_weights_it_is_given(base):
    champion, _ = base
    standing_still = with_train(learning_rate=0.0, epochs=1)
    assert_equal_weights(fit(*make_data(), standing_still, warm_from=champion.model), champion)


def test_a_warm_start_from_another_shape_is_refused(base):
    champion, _ = base
    wider = replace(TINY, network=replace(TINY.network, units=(5,)))
    with pytest.raises(ContractError, match="warm start"):
        fit(*make_data(), wider, warm_from=champion.model)


def test_an_hour_counts_the_same_however_long_its_stay_goes_on():
    """Two worlds that are equal up to hour 10: in one of them every stay goes on, up to hour 30."""
    longer, labels = make_data(longest=30)
    stop = np.minimum(longer.stop, longer.start + 10)
    shorter = replace(longer, stop=stop)
    every = np.ones(len(longer.static), bool)
    for world in (longer, shorter):
        examples = training._make_examples(world, labels, every)
        fixed = np.empty((len(world.channels), 0), np.float16)
        *_, row_weight = training._gather(world, labels, fixed, examples.window, 1, np.random.default_rng(0))
        assert (row_weight[:, 4:6] == 1).all() and (row_weight[:, :4] == 0).all()
        assert set(np.unique(row_weight)) == {0, 1}
        assert examples.n_rows == row_weight.sum()


@pytest.mark.parametrize("length", [3, 7, 30])
def test_an_hour_of_a_sampled_loss_counts_as_one_on_average_however_long_its_stay_goes_on(length):
    """Of 40 hours the first `length` are counted; every one is drawn as often as it then weighs less."""
    counted = np.tile(np.arange(40) < length, (6000, 1))
    hours, weight = training.sample_hours(counted, 5, np.random.default_rng(0))
    assert hours.shape == weight.shape == (6000, 5) and (np.diff(hours, axis=1) > 0).all()
    mean = np.bincount(hours.ravel(), weight.ravel(), 40) / 6000
    assert mean[:length] == pytest.approx(1, abs=0.15) and (mean[length:] == 0).all()
    assert weight.sum(axis=1) == pytest.approx(length)


def test_a_window_without_a_counted_hour_adds_nothing_to_a_sampled_loss():
    _, weight = training.sample_hours(np.zeros((3, 12), bool), 2, np.random.default_rng(0))
    assert (weight == 0).all()


def test_an_untrained_network_starts_from_the_shares_of_all_ends():
    windows, labels = make_data(n=200)
    fitted = fit(windows, labels, with_train(learning_rate=0.0, epochs=1))
    train, _ = split(windows)
    stay = np.repeat(windows.stay, windows.stop - windows.start)
    counted = train[stay] & (windows.prediction_hour > 4)
    shares = labels.weights[counted].mean(axis=0)
    np.testing.assert_allclose(masses(fitted.model.get_layer("head").bias), shares, atol=1e-3)


def test_the_starting_distribution_fills_in_ends_that_delayed_entry_has_hidden():
    """Half of the rows were sampled without those that end in the first two bins: the shares alone would miss them."""
    rng = np.random.default_rng(3)
    windows, labels = make_data(n=300)
    truth = np.array([[0.3, 0.05], [0.2, 0.05], [0.15, 0.05], [0.15, 0.05]])
    n = len(labels.usable)
    entered = np.ones((n, 4, 2), np.float32)
    entered[::2, :2] = 0
    chance = entered.reshape(n, 8) * truth.ravel()
    chance /= chance.sum(1, keepdims=True)
    cell = (chance.cumsum(1) < rng.random((n, 1))).sum(1)
    weights = np.eye(8, dtype=np.float32)[np.minimum(cell, 7)].reshape(n, 4, 2)
    fitted = fit(windows, replace(labels, weights=weights, entry=entered), with_train(learning_rate=0.0, epochs=1))
    np.testing.assert_allclose(masses(fitted.model.get_layer("head").bias), truth, atol=0.03)


def test_rows_that_are_not_usable_have_no_influence():
    windows, labels = make_data()
    hidden = np.random.default_rng(2).random(len(labels.usable)) < 0.3
    clean = replace(labels, usable=~hidden)
    dirty = replace(
        clean,
        weights=np.where(hidden[:, None, None], 0, labels.weights),
        entry=np.where(hidden[:, None, None], np.nan, labels.entry),
        death=np.where(hidden, np.nan, labels.death),
    )
    assert_equal_weights(fit(windows, clean), fit(windows, dirty))


# A CPU computes in bfloat16 as well, only slower.
IN_BFLOAT16 = Devices("cpu", ("CPU:0",), True, "")


@pytest.mark.soak
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_mixed_precision_gives_a_network_in_single_precision_that_is_about_as_good(cell):
    windows, labels = make_data()
    config = replace(with_train(mixed_precision=True), network=replace(TINY.network, cell=cell))
    fitted = fit(windows, labels, config, devices=IN_BFLOAT16)
    exact = fit(windows, labels, config, devices=replace(IN_BFLOAT16, bfloat16=False))
    assert fitted.model.get_layer("recurrent_0").compute_dtype == "float32"
    assert {w.dtype for w in fitted.model.get_weights()} == {np.dtype("float32")}
    ours, theirs = (training.history[-1]["valid_loss"] for training in (fitted, exact))
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=0.02)


def test_a_device_without_fast_bfloat16_computes_in_single_precision_even_where_mixed_is_asked_for():
    mixed = with_train(mixed_precision=True)
    mixed = replace(mixed, network=replace(mixed.network, n_channels=3))
    for device, expected in ((IN_BFLOAT16, "bfloat16"), (replace(IN_BFLOAT16, bfloat16=False), "float32")):
        assert training._build(mixed, device).get_layer("recurrent_0").compute_dtype == expected


def test_too_few_windows_are_refused_with_both_numbers():
    windows, labels = make_data(n=MIN_WINDOWS)
    with pytest.raises(DataTooSmallError, match=r"at least 10 windows.*found 7 and 3"):
        fit(windows, labels)
    with pytest.raises(DataTooSmallError, match="found 10 and 0"):
        fit_stay_model(windows, labels, np.ones(MIN_WINDOWS, bool), np.zeros(MIN_WINDOWS, bool), TINY)


def test_a_stay_in_both_parts_is_refused():
    windows, labels = make_data()
    everyone = np.ones(len(windows.static), bool)
    with pytest.raises(ContractError, match="both in training and in validation"):
        fit_stay_model(windows, labels, everyone, everyone, TINY)


def test_labels_of_other_windows_are_refused():
    windows, _ = make_data()
    _, labels = make_data(n=61)
    with pytest.raises(ContractError, match="one row per hour"):
        fit(windows, labels)


def test_the_start_of_a_fit_does_not_depend_on_the_threads_of_the_process():
    """Else a job takes up nothing of what workers with other threads have fitted."""
    n = 20_000
    cells = np.random.default_rng(0).random((n, 19, 2), dtype=np.float32)
    windows = SimpleNamespace(score_from=np.array([0]), stop=np.array([n]))
    labels = SimpleNamespace(weights=cells, entry=np.ones_like(cells), usable=np.ones(n, bool))
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            found.append(_marginal_masses(windows, labels, SimpleNamespace(window=np.array([0])), 0).tobytes())
    assert found[0] == found[1]


def stays_of_a_known_truth(n, seed):
    """Windows of 6 hours scored at the last; the masses under which each ends are those of hazards that two channels of
    its last hour shift."""
    rng = np.random.default_rng(seed)
    windows = one_length(n, 6, rng)
    shift = windows.channels[windows.stop - 1, :2]
    logits = np.tile(np.float32([-1.0, -1.5]), (n, len(EDGES), 1)) + shift[:, None, :]
    true = np.zeros((6 * n, len(EDGES), 2), np.float32)
    true[windows.stop - 1] = masses(logits).numpy()
    cell = [rng.choice(2 * len(EDGES), p=p.ravel() / p.sum()) for p in true[windows.stop - 1].astype(np.float64)]
    weights = np.zeros_like(true)
    weights[windows.stop - 1] = np.eye(2 * len(EDGES), dtype=np.float32)[cell].reshape(n, -1, 2)
    death = np.repeat(np.float32(np.array(cell) % 2), 6)
    return windows, Labels(weights, np.ones_like(true), death, death * 0, np.ones(6 * n, bool)), true


def one_length(n, hours, rng):
    offsets, hour = hours * np.arange(n + 1), np.tile(np.arange(1.0, hours + 1, dtype=np.float32), n)
    channels, static = rng.standard_normal((hours * n, 3)).astype("f"), rng.standard_normal((n, 2)).astype("f")
    ends = offsets[1:]
    return Windows(channels, static, offsets, np.arange(n), offsets[:-1], ends, ends - 1, hour, hour, hour * 0)


@pytest.mark.soak
def test_taught_by_the_true_distributions_a_network_needs_fewer_stays_than_by_outcomes():
    """The teacher forecasts no stay that validates, as in a fit: these choose the epoch by outcomes alone."""
    fresh, _, true = stays_of_a_known_truth(400, seed=1)
    row = fresh.stop - 1

    def divergence(n, share):
        windows, labels, taught = stays_of_a_known_truth(n, seed=0)
        taught = np.where(np.repeat(split(windows)[0], 6)[:, None, None], taught, 0).astype(np.float16)
        config = with_train(teacher_share=share, epochs=16, patience=16, learning_rate=0.05)
        fitted = fit(windows, replace(labels, taught=taught) if share else labels, config)
        p = score_windows(networks_of(fitted.model), fresh)[1]
        return float((true[row] * np.log(true[row] / p)).sum((1, 2)).mean())

    assert divergence(80, 1.0) < divergence(160, 0.0) / 2
    windows, labels, _ = stays_of_a_known_truth(40, seed=0)
    with pytest.raises(ContractError, match="a teacher forecast where, and only where"):
        fit(windows, labels, with_train(teacher_share=0.5))
