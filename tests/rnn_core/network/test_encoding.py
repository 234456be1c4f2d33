import keras
import numpy as np
import pytest

from rnn_core.network.encoding import EveryHour, RunningSummaries, hinges

N = 3


def channels(hours=400, batch=2, seed=0):
    """Carried values, observed masks, ages and two time channels, as windows lay them out; concept 2 is never seen."""
    rng = np.random.default_rng(seed)
    observed = rng.random((batch, hours, N)) < 0.1
    observed[..., 2] = False
    value = np.zeros((batch, hours, N))
    for b in range(batch):
        for c in range(N):
            last = 0.0
            for t in range(hours):
                last = rng.standard_normal() if observed[b, t, c] else last
                value[b, t, c] = last
    rest = rng.random((batch, hours, N + 2))
    return np.concatenate([value, observed, rest], axis=-1).astype(np.float32)


def summarised(x):
    """The same numbers, hour by hour from the definitions."""
    out = np.zeros((*x.shape[:2], x.shape[2] + 7 * N))
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            value, observed = x[b, : t + 1, :N].astype(float), x[b, : t + 1, N : 2 * N]
            columns = np.zeros((8, N))
            columns[4] = value[t]
            for c in range(N):
                if not observed[:, c].any():
                    continue
                known = value[np.argmax(observed[:, c]) :, c]
                columns[:4, c] = [
                    np.log1p(observed[:, c].sum()) / 4,
                    np.sqrt(known.var() + 1e-4) - 1e-2,
                    known[-1] - known[0],
                    known[-1] - known.mean(),
                ]
                columns[5:, c] = [known.mean(), known.max(), known.min()]
            out[b, t] = np.concatenate([x[b, t, N:], columns.ravel()])
    return out


def test_running_summaries_are_those_of_the_hours_so_far():
    x = channels()
    np.testing.assert_allclose(RunningSummaries(N)(x), summarised(x), atol=2e-4)


@pytest.mark.parametrize("hours", [1, 2, 333, 600])
def test_extremes_reach_back_to_the_first_hour_of_the_longest_window(hours):
    layer = RunningSummaries(N, longest_hours=hours)
    x = channels(hours=hours)
    x[:, 0, :2] = [50, -50]
    x[:, 0, N : N + 2] = 1
    greatest, least = np.split(layer(x).numpy()[..., -2 * N :], 2, axis=-1)
    for t in range(hours):
        np.testing.assert_array_equal(greatest[:, t, :2], x[:, : t + 1, :2].max(axis=1))
        np.testing.assert_array_equal(least[:, t, :2], x[:, : t + 1, :2].min(axis=1))


def test_a_layer_saved_without_its_longest_window_reaches_as_far_as_it_did():
    saved = RunningSummaries(N).get_config()
    del saved["longest_hours"]
    x = channels(hours=512, batch=1)
    x[:, 0, 0], x[:, 0, N] = 50, 1
    assert RunningSummaries.from_config(saved)(x).numpy()[0, -1, -2 * N] == 50


def test_running_summaries_do_not_look_ahead():
    x = channels(hours=20)
    changed = x.copy()
    changed[:, 12:] += 1
    before, after = RunningSummaries(N)(x).numpy(), RunningSummaries(N)(changed).numpy()
    np.testing.assert_array_equal(before[:, :12], after[:, :12])
    assert not np.array_equal(before[:, 12], after[:, 12])


def test_the_values_stand_last_in_the_summaries():
    layer = RunningSummaries(N)
    x = channels(hours=5)
    values = layer(x).numpy()[..., -layer.n_values :]
    np.testing.assert_array_equal(values[..., :N], x[..., :N])
    assert layer.compute_output_shape(x.shape) == layer(x).shape


def test_hinges_measure_the_way_beyond_each_knot_on_both_sides():
    pieces = hinges(np.array([[-1.5, 0.5]], dtype=np.float32), (0.0, 1.0)).numpy()
    np.testing.assert_allclose(pieces, [[0, 0.5, 1.5, 0, 0, 0, 0.5, 0]])


def test_static_features_are_the_same_in_every_hour():
    static, x = np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((2, 4, 5), np.float32)
    repeated = EveryHour()([static, x]).numpy()
    np.testing.assert_array_equal(repeated, np.broadcast_to(static[:, None], (2, 4, 3)))


def test_the_layers_come_back_from_a_file(tmp_path):
    x, static = keras.Input((None, 11)), keras.Input((2,))
    model = keras.Model([x, static], [RunningSummaries(N, longest_hours=6)(x), EveryHour()([static, x])])
    model.save(tmp_path / "model.keras")
    inputs = [channels(hours=6), np.ones((2, 2), np.float32)]
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(model(inputs), loaded(inputs), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [layer.longest_hours for layer in loaded.layers if isinstance(layer, RunningSummaries)] == [6]
