import numpy as np
import pytest
import tensorflow as tf

from rnn_core.contracts.frames import ALIVE, DIED
from rnn_core.network.heads import log_masses, masses
from rnn_core.network.losses import death_cross_entropy, negative_log_likelihood, stay_loss

BINS = 5
ONES = np.ones((BINS, 2), np.float32)


def some_logits(seed=0, shape=(BINS, 2)):
    return np.random.default_rng(seed).normal(-1, 1.5, shape).astype(np.float32)


def cell(k, cause):
    weights = np.zeros((BINS, 2), np.float32)
    weights[k, cause] = 1
    return weights


def nll(weights, entry=ONES, logits=None):
    logits = some_logits() if logits is None else logits
    return float(negative_log_likelihood(log_masses(logits), weights, entry))


def some_rows(n=6):
    rng = np.random.default_rng(3)
    weights = rng.random((n, BINS, 2), np.float32) * (rng.random((n, BINS, 2)) < 0.5)
    entry = np.where(np.arange(BINS)[:, None] < 2, np.float32(0.5), ONES) * np.ones((n, 1, 1), np.float32)
    death, row_weight = np.array([1, 0, np.nan, 1, 0, 1], np.float32), rng.random(n, np.float32)
    taught = masses(some_logits(seed=9, shape=(n, BINS, 2))).numpy()
    taught[1] = 0
    return weights, entry, death, row_weight, taught


def gradient_of(loss, logits):
    with tf.GradientTape() as tape:
        value = loss()
    return float(value), tape.gradient(value, logits).numpy()


def test_an_exact_end_costs_minus_the_log_of_its_cell():
    p = masses(some_logits()).numpy()
    assert nll(cell(2, DIED)) == pytest.approx(-np.log(p[2, DIED]), rel=1e-5)


def test_an_open_stay_costs_minus_the_log_of_still_being_there():
    p = masses(some_logits()).numpy()
    still_there = np.zeros((BINS, 2), np.float32)
    still_there[3:] = 1
    assert nll(still_there) == pytest.approx(-np.log(p[3:].sum()), rel=1e-5)


def test_an_end_somewhere_in_two_bins_costs_minus_the_log_of_their_shares():
    p = masses(some_logits()).numpy()
    interval = cell(1, ALIVE) * 0.25 + cell(2, ALIVE)
    assert nll(interval) == pytest.approx(-np.log(0.25 * p[1, ALIVE] + p[2, ALIVE]), rel=1e-5)


def test_a_cause_without_a_time_costs_minus_the_log_of_its_whole_incidence():
    p = masses(some_logits()).numpy()
    assert nll(sum(cell(k, DIED) for k in range(BINS))) == pytest.approx(-np.log(p[:, DIED].sum()), rel=1e-5)


def test_knowing_nothing_costs_nothing():
    assert nll(ONES) == pytest.approx(0, abs=1e-6)


def test_delayed_entry_makes_the_likelihood_conditional():
    p = masses(some_logits()).numpy()
    entered = ONES.copy()
    entered[:2] = 0
    assert nll(cell(3, ALIVE), entered) == pytest.approx(-np.log(p[3, ALIVE] / p[2:].sum()), rel=1e-5)
    assert nll(entered, entered) == pytest.approx(0, abs=1e-6)


def test_the_death_term_is_the_cross_entropy_of_the_cumulative_incidence():
    log_p, risk = log_masses(some_logits()), masses(some_logits()).numpy()[:, DIED].sum()
    assert float(death_cross_entropy(log_p, np.float32(1))) == pytest.approx(-np.log(risk), rel=1e-5)
    assert float(death_cross_entropy(log_p, np.float32(0))) == pytest.approx(-np.log(1 - risk), rel=1e-5)
    assert float(death_cross_entropy(log_p, np.float32(np.nan))) == 0


def test_a_row_of_weight_zero_adds_nothing_whatever_it_holds():
    logits = some_logits(shape=(2, BINS, 2))
    weights, entry = np.stack([cell(1, DIED), np.zeros((BINS, 2), np.float32)]), np.stack([ONES, ONES * 0])
    death, row_weight = np.array([1, np.nan], np.float32), np.array([0.5, 0], np.float32)
    alone = stay_loss(logits[:1], weights[:1], entry[:1], death[:1], row_weight[:1], 0.3)
    assert float(stay_loss(logits, weights, entry, death, row_weight, 0.3)) == pytest.approx(float(alone), rel=1e-6)
    assert float(alone) > 0


def test_the_parts_of_the_loss_are_weighted_and_summed():
    logits, weights, death = some_logits(shape=(2, BINS, 2)), np.stack([cell(1, DIED), cell(4, ALIVE)]), np.eye(2)[0]
    entry, row_weight = np.stack([ONES, ONES]), np.array([1, 0.25], np.float32)
    log_p = log_masses(logits)
    rows = negative_log_likelihood(log_p, weights, entry) + 0.5 * death_cross_entropy(log_p, death.astype(np.float32))
    loss = stay_loss(logits, weights, entry, death.astype(np.float32), row_weight, 0.5)
    assert float(loss) == pytest.approx(float(rows[0]) + 0.25 * float(rows[1]), rel=1e-6)


def test_the_gradient_of_the_loss_is_that_of_its_parts():
    logits = tf.Variable(some_logits(shape=(6, BINS, 2)))
    weights, entry, death, row_weight, _ = some_rows()

    def by_parts():
        log_p = log_masses(logits)
        rows = negative_log_likelihood(log_p, weights, entry) + 0.7 * death_cross_entropy(log_p, death)
        return tf.reduce_sum(row_weight * rows)

    _, slope = gradient_of(lambda: stay_loss(logits, weights, entry, death, row_weight, 0.7), logits)
    np.testing.assert_allclose(slope, gradient_of(by_parts, logits)[1], atol=1e-5)


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_loss_and_gradient_stay_finite_in_single_precision_at_extreme_logits(scale):
    signs = np.random.default_rng(1).choice([-1, 1], (64, BINS, 2)).astype(np.float32)
    logits = tf.Variable(signs * scale)
    weights = np.stack([cell(k % BINS, k % 2) for k in range(64)])
    entry, ones = np.broadcast_to(ONES, weights.shape), np.ones(64, np.float32)
    death = np.array([k % 2 for k in range(64)], np.float32)
    row_weight = np.where(np.arange(64) < 60, ones, 0)
    with tf.GradientTape() as tape:
        loss = stay_loss(logits, weights, entry, death, row_weight, 0.5)
    gradient = tape.gradient(loss, logits).numpy()
    assert loss.dtype == tf.float32 and np.isfinite(float(loss))
    assert np.isfinite(gradient).all() and np.abs(gradient[:60]).sum() > 0 and not gradient[60:].any()


def test_a_teacher_without_a_share_changes_neither_loss_nor_gradient_by_a_bit():
    *labels, taught = some_rows()
    logits = tf.Variable(some_logits(shape=(6, BINS, 2)))
    alone, slope = gradient_of(lambda: stay_loss(logits, *labels, 0.7), logits)
    beside, same_slope = gradient_of(lambda: stay_loss(logits, *labels, 0.7, taught, 0.0), logits)
    assert alone == beside
    np.testing.assert_array_equal(slope, same_slope)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_what_is_taught_has_its_share_of_loss_and_gradient_where_a_teacher_forecast(share):
    *labels, taught = some_rows()
    weights, entry, death, row_weight = labels
    logits = tf.Variable(some_logits(shape=(6, BINS, 2)))
    loss, slope = gradient_of(lambda: stay_loss(logits, *labels, 0.7, taught, share), logits)

    def by_parts():
        p = masses(logits)
        entered = taught * entry / np.where(taught.any((1, 2)), (taught * entry).sum((1, 2)), 1)[:, None, None]
        soft = -tf.reduce_sum(entered * tf.math.log(p / tf.reduce_sum(entry * p, (1, 2), keepdims=True)), (1, 2))
        soft -= 0.7 * tf.reduce_sum(taught.sum(1) * tf.math.log(tf.reduce_sum(p, 1)), 1)
        log_p = log_masses(logits)
        hard = negative_log_likelihood(log_p, weights, entry) + 0.7 * death_cross_entropy(log_p, death)
        of_row = share * taught.any((1, 2))
        return tf.reduce_sum(row_weight * (of_row * soft + (1 - of_row) * hard))

    expected, expected_slope = gradient_of(by_parts, logits)
    assert loss == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(slope, expected_slope, atol=1e-5)


def test_a_network_that_forecasts_what_it_is_taught_has_nothing_to_learn():
    logits = tf.Variable(some_logits(shape=(6, BINS, 2)))
    *labels, _ = some_rows()
    _, slope = gradient_of(lambda: stay_loss(logits, *labels, 0.7, masses(logits), 1.0), logits)
    np.testing.assert_allclose(slope, 0, atol=1e-6)
