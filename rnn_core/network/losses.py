"""The loss of a forecast: the likelihood of what is known of a stay's end, and a term for the risk of death."""

from typing import Any

from keras import ops

from rnn_core.contracts.frames import ALIVE, DIED
from rnn_core.network.heads import log_masses

# Stands for log 0: far below any log mass, yet finite, so that no gradient turns into NaN.
_LOG_ZERO = -1e30


def negative_log_likelihood(log_p: Any, weights: Any, entry: Any) -> Any:
    """-log((weights . p) / (entry . p)) per row, in nats: log_p, weights, entry [..., bins, 2] -> [...].

    weights and entry are those of `frames.Labels`: an exact end, an interval-censored one, an open stay and a cause
    without a time are all weights over the cells (likelihoods of censored and truncated data as in Turnbull, J R Stat
    Soc B 38, 1976, 290-295). A row without any weight has the loss 1e30; give it the row weight 0.
    """
    return _log_dot(entry, log_p) - _log_dot(weights, log_p)


def death_cross_entropy(log_p: Any, death: Any) -> Any:
    """Binary cross-entropy of the cumulative incidence of death, sum_k p[k, dies], per row, in nats -> [...].

    log_p [..., bins, 2]; death [...] is 1, 0 or NaN; where it is NaN the term is 0.
    """
    known = ops.logical_not(ops.isnan(death))
    died = ops.where(known, death, 0.0)
    entropy = -died * ops.logsumexp(log_p[..., DIED], axis=-1) - (1 - died) * ops.logsumexp(log_p[..., ALIVE], axis=-1)
    return ops.where(known, entropy, 0.0)


def stay_loss(logits: Any, weights: Any, entry: Any, death: Any, row_weight: Any, death_weight: float) -> Any:
    """Sum over rows of row_weight * (negative log likelihood + death_weight * cross-entropy of death): a scalar.

    logits, weights, entry [..., bins, 2]; death, row_weight [...]. A row of weight 0 adds nothing, whatever its labels.
    """
    counted = ops.expand_dims(row_weight > 0, (-1, -2))
    weights, entry = ops.where(counted, weights, 1.0), ops.where(counted, entry, 1.0)
    log_p = log_masses(logits)
    rows = negative_log_likelihood(log_p, weights, entry) + death_weight * death_cross_entropy(log_p, death)
    return ops.sum(row_weight * rows)


def _log_dot(weights: Any, log_p: Any) -> Any:
    positive = weights > 0
    log_weights = ops.where(positive, ops.log(ops.where(positive, weights, 1.0)), _LOG_ZERO)
    return ops.logsumexp(log_weights + log_p, axis=(-2, -1))
