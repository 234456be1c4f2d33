"""Variants of windows without a concept are those that would be made without its observations, however they are read."""

from dataclasses import replace

import numpy as np
import pytest
from builders import at, random_observations, random_stays

from rnn_core.contracts.concepts import NAMES
from rnn_core.contracts.config import WindowConfig
from rnn_core.network.scoring import FittedNetwork, score_rows
from rnn_core.series.grid import make_grid
from rnn_core.series.omission import NO_CONCEPT, ChannelsWithout, windows_without
from rnn_core.series.scaling import fit_scaler, static_features
from rnn_core.series.summaries import summary_features
from rnn_core.series.windows import last_predictions, make_windows

# Windows of more than one chunk, and concepts that were carried into them.
CONFIG, AS_OF, N = WindowConfig(chunk_hours=12), at(31), len(NAMES)


@pytest.fixture(scope="module")
def stays():
    ended = random_stays(np.random.default_rng(7), 12).assign(intime=at(0.0))
    return ended.assign(outtime=np.datetime64("NaT", "us"), outcome=None), ended


@pytest.fixture(scope="module")
def seen(stays):
    return random_observations(np.random.default_rng(8), stays[1], 3000, NAMES[:9]).known_at(AS_OF)


@pytest.fixture(scope="module")
def make(stays, seen):
    """A function that makes the windows of the stays from observations."""
    scaler = fit_scaler(make_grid(stays[0], seen, AS_OF), static_features(stays[0]), np.arange(12))
    return lambda seen: make_windows(make_grid(stays[0], seen, AS_OF), stays[0], scaler, CONFIG)


@pytest.fixture(scope="module")
def variants(stays, seen, make):
    """Each stay without each concept that it has; and once more as it is, with other static features."""
    windows = make(seen)
    window, _ = last_predictions(windows)
    concept, stay = np.unique(np.column_stack([seen.concept, seen.stay]), axis=0).T.astype(int)
    concept, stay = np.append(concept, np.full(12, NO_CONCEPT)), np.append(stay, np.arange(12))
    static = windows.static[stay] + (concept == NO_CONCEPT)[:, None]
    grid = make_grid(stays[0], seen, AS_OF)
    return windows_without(windows, grid, seen, np.arange(N), window[stay], concept, static), concept, stay


def test_the_hours_of_a_variant_are_those_made_without_the_observations(seen, make, variants):
    found, concept, stay = variants
    assert isinstance(found.channels, ChannelsWithout) and len(concept) > 80
    channels = np.asarray(found.channels)
    for omitted in np.unique(concept):
        made = make(seen.take(seen.concept != omitted))
        for variant in np.flatnonzero(concept == omitted):
            ours = slice(*found.offsets[variant : variant + 2])
            theirs = slice(*made.offsets[stay[variant] : stay[variant] + 2])
            np.testing.assert_array_equal(channels[ours], made.channels[theirs])
            for name in ("prediction_hour", "n_observations"):
                np.testing.assert_array_equal(getattr(found, name)[ours], getattr(made, name)[theirs])
            last = np.flatnonzero(made.stay == stay[variant])[-1]
            for name in ("start", "stop", "score_from"):
                assert getattr(found, name)[variant] - ours.start == getattr(made, name)[last] - theirs.start


def test_what_is_computed_from_the_complete_hours_is_that_of_the_variants_own(variants):
    found, concept, stay = variants
    own, row = replace(found, channels=np.asarray(found.channels)), found.stop - 1
    np.testing.assert_array_equal(summary_features(found, row), summary_features(own, row))
    networks = [network_of(found, seed) for seed in range(2)]
    p, expected = (score_rows(networks, windows, np.arange(len(row)), row) for windows in (found, own))
    np.testing.assert_allclose(p, expected, atol=1e-6)
    assert np.abs(p - p[stay + len(stay) - 12]).max(axis=(1, 2))[concept != NO_CONCEPT].min() > 1e-4


def network_of(windows, seed: int) -> FittedNetwork:
    random = np.random.default_rng(seed)
    n_channels, n_static = windows.channels.shape[1], windows.static.shape[1]
    head = 2 * 5 + n_static + n_channels + 7 * N + 4 * N * 2
    shapes = {
        "embed_hour/kernel": (n_channels, 5),
        "embed_hour/bias": (5,),
        "embed_static/kernel": (n_static, 5),
        "recurrent_0/kernel": (5, 20),
        "recurrent_0/recurrent_kernel": (5, 20),
        "recurrent_0/bias": (20,),
        "head/kernel": (head, 6),
        "head/bias": (3, 2),
    }
    weights = {name: random.standard_normal(shape, np.float32) / shape[0] ** 0.5 for name, shape in shapes.items()}
    return FittedNetwork(("lstm",), N, (0.5,), weights)
