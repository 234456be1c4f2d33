import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rnn_core.network.heads import CompetingRiskHead, log_masses, logits_of, masses

BINS = 6


def masses_by_hand(logits):
    """The definition, bin by bin in double precision: hazards of both causes times the chance of having stayed."""
    p, stayed = np.zeros(logits.shape), 1.0
    for k, (alive, dies) in enumerate(logits.astype(np.float64)):
        stays = 1.0 if k < len(logits) - 1 else 0.0
        total = stays + np.exp(alive) + np.exp(dies)
        p[k] = stayed * np.exp([alive, dies]) / total
        stayed *= stays / total
    return p


def some_logits(seed=0, shape=(BINS, 2)):
    return np.random.default_rng(seed).normal(-1, 2, shape).astype(np.float32)


def test_masses_follow_from_the_hazards_bin_by_bin():
    np.testing.assert_allclose(masses(some_logits()), masses_by_hand(some_logits()), rtol=1e-5)


def test_masses_keep_all_leading_axes():
    logits = some_logits(shape=(2, 3, BINS, 2))
    p = masses(logits)
    assert p.shape == (2, 3, BINS, 2)
    np.testing.assert_allclose(p[1, 2], masses_by_hand(logits[1, 2]), rtol=1e-5)


@settings(deadline=None, max_examples=50)
@given(arrays(np.float32, (BINS, 2), elements=st.floats(-1e4, 1e4, width=32)))
def test_masses_of_any_logits_sum_to_one_and_log_masses_stay_finite(logits):
    log_p = log_masses(logits).numpy()
    assert np.isfinite(log_p).all()
    np.testing.assert_allclose(np.exp(log_p.astype(np.float64)).sum(), 1, atol=1e-4)


@pytest.mark.parametrize("value", [-1e4, 0.0, 1e4])
def test_gradients_stay_finite_at_extreme_logits(value):
    logits = tf.Variable(np.full((BINS, 2), value, np.float32))
    with tf.GradientTape() as tape:
        log_p = tf.reduce_sum(log_masses(logits))
    assert np.isfinite(tape.gradient(log_p, logits).numpy()).all()


def test_who_stays_through_every_bin_ends_in_the_last():
    p = masses(np.full((BINS, 2), -1e4, np.float32)).numpy()
    np.testing.assert_allclose(p[-1], [0.5, 0.5], atol=1e-6)
    assert p[:-1].sum() == 0


def test_logits_of_inverts_masses():
    p = np.random.default_rng(2).dirichlet(np.ones(BINS * 2)).reshape(BINS, 2)
    np.testing.assert_allclose(masses(logits_of(p)), p, rtol=1e-5)


def test_an_untrained_head_says_what_its_bias_says():
    p = np.random.default_rng(3).dirichlet(np.ones(BINS * 2)).reshape(BINS, 2)
    keras.utils.set_random_seed(0)
    head = CompetingRiskHead(BINS)
    head.build((None, None, 32))
    head.bias.assign(logits_of(p))
    x = np.random.default_rng(4).standard_normal((5, 3, 32)).astype(np.float32)
    np.testing.assert_allclose(masses(head(x)), np.broadcast_to(p, (5, 3, BINS, 2)), rtol=0.5)


def test_a_saved_head_comes_back_with_the_same_output(tmp_path):
    x = keras.Input((None, 8))
    model = keras.Model(x, CompetingRiskHead(BINS)(x))
    assert model.output_shape == (None, None, BINS, 2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    hours = np.random.default_rng(5).standard_normal((2, 4, 8)).astype(np.float32)
    np.testing.assert_array_equal(loaded(hours), model(hours))
