from dataclasses import replace

import builders
import keras
import numpy as np
import pytest

from rnn_core.contracts.concepts import NAMES
from rnn_core.contracts.config import NetworkConfig, WindowConfig
from rnn_core.contracts.errors import ContractError
from rnn_core.network import scoring
from rnn_core.network.build import build_ensemble, build_network, members_of
from rnn_core.network.cells import CELLS
from rnn_core.network.fitted import networks_of
from rnn_core.network.heads import CompetingRiskHead, masses
from rnn_core.network.scoring import load_networks, save_networks, score_rows, score_windows
from rnn_core.series.windows import gather_batch, last_predictions


@pytest.fixture(scope="module")
def windows():
    """Forty stays of up to 60 hours in chunks of 12, so that most stays have several windows."""
    rng = np.random.default_rng(0)
    stays = builders.random_stays(rng, 40)
    observations = builders.random_observations(rng, stays, 4000)
    return builders.windows_of(stays, observations, config=WindowConfig(chunk_hours=12))


def sizes_of(windows):
    return {"n_channels": windows.channels.shape[1], "n_concepts": len(NAMES), "n_static": windows.static.shape[1]}


@pytest.fixture(scope="module")
def model(windows):
    """An untrained network whose head is loud enough for every hour to show in its masses."""
    keras.utils.set_random_seed(0)
    network = build_network(NetworkConfig(units=(6,), horizon_edges=(0, 6, 12, 24), **sizes_of(windows)))
    kernel = network.get_layer("head").kernel
    kernel.assign(np.random.default_rng(1).standard_normal(kernel.shape) * 0.03 / kernel.shape[0] ** 0.5)
    return network


def predicted_one_by_one(model, windows, window, row):
    """The plain way: each window alone, unpadded, through `predict`."""
    results = []
    for w, r in zip(window, row, strict=True):
        x, static, _ = gather_batch(windows, np.array([w]), int(windows.stop[w] - windows.start[w]))
        logits = model.predict([x, static], verbose=0)
        results.append(masses(logits[0, r - windows.start[w]]).numpy())
    return np.stack(results)


def test_scores_of_the_last_hours_are_those_of_predict(model, windows):
    window, row = last_predictions(windows)
    p = score_rows(networks_of(model), windows, window, row)
    assert p.shape == (len(row), 4, 2) and p.dtype == np.float32
    np.testing.assert_allclose(p.sum(axis=(1, 2)), 1, atol=1e-5)
    assert p.std(axis=0).min() > 1e-3
    # Keras takes variances in float32; values here are in their units, up to hundreds.
    np.testing.assert_allclose(p[::8], predicted_one_by_one(model, windows, window[::8], row[::8]), atol=3e-5)


def test_scoring_in_bulk_equals_scoring_each_prediction_from_its_prefix(model, windows):
    rows, in_bulk = score_windows(networks_of(model), windows)
    window_of_row = {r: w for w in range(len(windows)) for r in range(windows.score_from[w], windows.stop[w])}
    window = np.array([window_of_row[r] for r in rows])
    np.testing.assert_allclose(score_rows(networks_of(model), windows, window, rows), in_bulk, atol=1e-5)


def test_each_scored_hour_is_predicted_once_in_order(model, windows):
    rows, _ = score_windows(networks_of(model), windows)
    expected = [np.arange(a, b) for a, b in zip(windows.score_from, windows.stop, strict=True)]
    np.testing.assert_array_equal(rows, np.sort(np.concatenate(expected)))
    assert len(windows) > windows.stay[-1] + 1, "stays with several windows are part of the test"


def test_only_the_windows_asked_for_are_scored(model, windows):
    every, p = score_windows(networks_of(model), windows)
    some = np.array([7, 2, 11])
    rows, part = score_windows(networks_of(model), windows, some)
    assert len(rows) == (windows.stop - windows.score_from)[some].sum()
    np.testing.assert_allclose(part, p[np.searchsorted(every, rows)], atol=1e-6)


def test_a_score_does_not_change_with_what_comes_after_it(model, windows):
    window = np.array([5])
    row = windows.score_from[window] + 1
    changed = windows.channels.copy()
    changed[row[0] + 1 :] += 9
    later = replace(windows, channels=changed)
    np.testing.assert_array_equal(
        score_rows(networks_of(model), windows, window, row), score_rows(networks_of(model), later, window, row)
    )
    assert (
        np.abs(
            score_rows(networks_of(model), windows, window, row + 1)
            - score_rows(networks_of(model), later, window, row + 1)
        ).max()
        > 1e-4
    )


def test_the_size_of_batches_changes_no_score(model, windows, monkeypatch):
    window, row = last_predictions(windows)
    whole = score_rows(networks_of(model), windows, window, row)
    monkeypatch.setattr(scoring, "_BATCH_HOURS", 50)
    np.testing.assert_allclose(score_rows(networks_of(model), windows, window, row), whole, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_forecasts_in_numpy_what_keras_does_also_from_its_file(windows, cell, tmp_path):
    network = build_network(NetworkConfig(cell=cell, units=(6, 5), horizon_edges=(0, 6, 12), **sizes_of(windows)))
    random = np.random.default_rng(3)
    network.set_weights([random.standard_normal(w.shape) / 3 for w in network.get_weights()])
    window, row = (part[::8] for part in last_predictions(windows))
    p = score_rows(networks_of(network), windows, window, row)
    x, static, _ = gather_batch(windows, window, 60)
    every = np.asarray(masses(network([x, static], training=False)))
    np.testing.assert_allclose(p, every[np.arange(len(row)), row - windows.start[window]], atol=3e-5)
    save_networks(networks_of(network), tmp_path / "weights.npz")
    np.testing.assert_array_equal(score_rows(load_networks(tmp_path / "weights.npz"), windows, window, row), p)


def test_a_network_of_which_numpy_would_forecast_something_else_is_refused(windows):
    network = build_network(NetworkConfig(units=(4,), horizon_edges=(0, 6), **sizes_of(windows)))
    network.get_layer("hour").activation = keras.activations.gelu
    with pytest.raises(ContractError, match="differs from Keras"):
        networks_of(network)


def test_nothing_to_score_gives_nothing(model, windows):
    none = np.empty(0, np.int64)
    assert score_rows(networks_of(model), windows, none, none).shape == (0, 4, 2)
    rows, p = score_windows(networks_of(model), windows, none)
    assert rows.shape == (0,) and p.shape == (0, 4, 2)


@pytest.mark.parametrize("wide", [False, True])
def test_a_network_without_static_features_scores_too(windows, wide):
    bare = replace(windows, static=windows.static[:, :0])
    sizes = {"n_channels": windows.channels.shape[1], "n_concepts": len(NAMES)}
    network = build_network(NetworkConfig(units=(4,), horizon_edges=(0, 6), wide=wide, **sizes))
    window, row = last_predictions(bare)
    rows, p = score_windows(networks_of(network), bare)
    np.testing.assert_allclose(
        score_rows(networks_of(network), bare, window, row), p[np.searchsorted(rows, row)], atol=1e-5
    )


def test_a_network_of_version_0_1_0_whose_head_reads_one_layer_scores_too(windows):
    x = keras.Input((None, windows.channels.shape[1]), name="x")
    hidden = keras.layers.LSTM(4, return_sequences=True)(x)
    network = keras.Model([x], CompetingRiskHead(2, name="head")(hidden))
    bare = replace(windows, static=windows.static[:, :0])
    window, row = last_predictions(bare)
    rows, p = score_windows(networks_of(network), bare)
    np.testing.assert_allclose(
        score_rows(networks_of(network), bare, window, row), p[np.searchsorted(rows, row)], atol=1e-5
    )


def test_a_row_outside_its_window_is_refused(model, windows):
    window = np.array([0, 1])
    with pytest.raises(ContractError, match="1 of 2"):
        score_rows(networks_of(model), windows, window, np.array([windows.stop[0] - 1, windows.stop[1]]))


def test_an_ensemble_forecasts_the_mean_of_its_members_also_when_loaded_again(model, windows, tmp_path):
    others = [keras.models.clone_model(model) for _ in range(2)]
    for seed, other in enumerate(others):
        random = np.random.default_rng(seed)
        other.set_weights([random.standard_normal(w.shape) / 3 for w in model.get_weights()])
    rows, alone = zip(*(score_windows(networks_of(m), windows) for m in others), strict=True)
    ensemble = build_ensemble(others)
    found, together = score_windows(networks_of(ensemble), windows)
    np.testing.assert_array_equal(found, rows[0])
    np.testing.assert_allclose(together, (alone[0] + alone[1]) / 2, atol=1e-6)
    window, row = last_predictions(windows)
    np.testing.assert_allclose(
        score_rows(networks_of(ensemble), windows, window, row), together[np.searchsorted(found, row)], atol=1e-5
    )
    ensemble.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert [member.name for member in members_of(loaded)] == ["member_0", "member_1"]
    np.testing.assert_array_equal(score_windows(networks_of(loaded), windows)[1], together)
    assert members_of(build_ensemble([model])) == (model,)
