"""The loss of a forecast: the likelihood of what is known of a stay's end, and a term for the risk of death."""

from typing import Any

from keras import ops

from rnn_core.network.heads import log_hazards

# Stands for log 0: far below any log mass, yet finite, so that nothing turns into NaN.
_LOG_ZERO = -1e30


def negative_log_likelihood(log_p: Any, weights: Any, entry: Any) -> Any:
    """-log((weights . p) / (entry . p)) per row, in nats: log_p, weights, entry [..., bins, 2] -> [...].

    weights and entry are those of `frames.Labels`: an exact end, an interval-censored one, an open stay and a cause
    without a time are all weights over the cells (likelihoods of censored and truncated data as in Turnbull, J R Stat
    Soc B 38, 1976, 290-295). A row without any weight has the loss 1e30; give it the row weight 0.
    """
    return _likelihood(log_p, weights, entry)[0]


def death_cross_entropy(log_p: Any, death: Any) -> Any:
    """Binary cross-entropy of the cumulative incidence of death, sum_k p[k, dies], per row, in nats -> [...].

    log_p [..., bins, 2]; death [...] is 1, 0 or NaN; where it is NaN the term is 0.
    """
    return _cross_entropy(log_p, death)[0]


def stay_loss(
    logits: Any,
    weights: Any,
    entry: Any,
    death: Any,
    row_weight: Any,
    death_weight: float,
    taught: Any = None,
    teacher_share: float = 0.0,
) -> Any:
    """Sum over rows of row_weight * (negative log likelihood + death_weight * cross-entropy of death): a scalar.

    logits, weights, entry [..., bins, 2]; death, row_weight [...]. A row of weight 0 adds nothing, whatever its labels.
    The gradient is written out: differentiated operation by operation, the loss took a fifth of a training step.

    taught: masses of a teacher [..., bins, 2], 0 throughout in rows without one. In rows with one, `teacher_share` of both
    terms is the cross-entropy with the teacher's distribution (Hinton, Vinyals & Dean, "Distilling the knowledge in a
    neural network", 2015, arXiv 1503.02531), in the first term given the entry. Censoring takes nothing away from it: an
    open stay is taught the same distribution as one that has ended, and its likelihood is the rest.
    """
    counted = ops.expand_dims(row_weight > 0, (-1, -2))
    weights, entry = ops.where(counted, weights, 1.0), ops.where(counted, entry, 1.0)
    if teacher_share:
        share = teacher_share * ops.cast(ops.any(taught > 0, axis=(-2, -1), keepdims=True), taught.dtype)

    @ops.custom_gradient
    def total(logits: Any) -> tuple[Any, Any]:
        hazards, survived = log_hazards(logits)
        log_p = hazards + ops.expand_dims(survived, -1)
        likelihood, likelihood_slope = _likelihood(log_p, weights, entry)
        entropy, entropy_slope = _cross_entropy(log_p, death)
        if teacher_share:
            soft, soft_slope = _soft_likelihood(log_p, taught, entry)
            likelihood = likelihood + share[..., 0, 0] * (soft - likelihood)
            likelihood_slope = likelihood_slope + share * (soft_slope - likelihood_slope)
            soft, soft_slope = _expected_entropy(log_p, ops.sum(taught, axis=-2, keepdims=True))
            entropy = entropy + share[..., 0, 0] * (soft - entropy)
            entropy_slope = entropy_slope + share * (soft_slope - entropy_slope)

        def slope(*args: Any, upstream: Any = None) -> Any:
            scale = ops.expand_dims(row_weight, (-1, -2)) * (args[0] if upstream is None else upstream)
            of_log_p = scale * (likelihood_slope + death_weight * entropy_slope)
            # A logit raises its own mass and, through its hazard, lowers all masses of its bin and of later ones.
            later = ops.flip(ops.cumsum(ops.flip(ops.sum(of_log_p, axis=-1), axis=-1), axis=-1), axis=-1)
            return of_log_p - ops.exp(hazards) * ops.expand_dims(later, -1)

        return ops.sum(row_weight * (likelihood + death_weight * entropy)), slope

    return total(ops.convert_to_tensor(logits))


def _likelihood(log_p: Any, weights: Any, entry: Any) -> tuple[Any, Any]:
    """Negative log likelihood per row [...] and its slope along log_p [..., bins, 2]."""
    known, share = _log_sum(log_p, weights, axis=(-2, -1))
    entered, share_entered = _log_sum(log_p, entry, axis=(-2, -1))
    return (entered - known)[..., 0, 0], share_entered - share


def _soft_likelihood(log_p: Any, taught: Any, entry: Any) -> tuple[Any, Any]:
    """Cross-entropy with the taught masses, both given the entry, per row [...], and its slope along log_p."""
    entered, share_entered = _log_sum(log_p, entry, axis=(-2, -1))
    target = taught * entry
    target = target / ops.maximum(ops.sum(target, axis=(-2, -1), keepdims=True), 1e-30)
    return entered[..., 0, 0] - ops.sum(target * log_p, axis=(-2, -1)), share_entered - target


def _cross_entropy(log_p: Any, death: Any) -> tuple[Any, Any]:
    """Cross-entropy of death per row [...] and its slope along log_p [..., bins, 2]."""
    known = ops.logical_not(ops.isnan(death))
    died = ops.where(known, death, 0.0)
    # In the order of frames.ALIVE and frames.DIED.
    return _expected_entropy(log_p, ops.expand_dims(ops.stack([ops.where(known, 1 - died, 0.0), died], axis=-1), -2))


def _expected_entropy(log_p: Any, happened: Any) -> tuple[Any, Any]:
    """Of the cause of the end, which is each with the probabilities `happened` [..., 1, 2]."""
    causes, share = _log_sum(log_p, ops.ones_like(log_p), axis=-2)
    return -ops.sum(happened * causes, axis=(-2, -1)), -happened * share


def _log_sum(log_p: Any, weights: Any, axis: Any) -> tuple[Any, Any]:
    """log(weights . p) over `axis`, which is kept, and the share of each cell in the sum."""
    of_weight = ops.where(weights > 0, log_p, _LOG_ZERO)
    greatest = ops.max(of_weight, axis=axis, keepdims=True)
    part = weights * ops.exp(of_weight - greatest)
    whole = ops.sum(part, axis=axis, keepdims=True)
    whole = ops.where(whole > 0, whole, 1.0)
    return ops.log(whole) + greatest, part / whole
