"""Calibration of risks: whether so many events happened as were forecast, overall and along the risk.

A statistic that is not defined on the data (no rows, one class only) is NaN, never an error.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from rnn_core.statistics.bootstrap import RatioOfSums, Statistic, Weighted, mean_of, of_events

# Risks of exactly 0 or 1 have no logit; nothing in the data could tell them from one in a million.
RISK_FLOOR = 1e-6


def log_odds(risk: ArrayLike) -> np.ndarray:
    """Logit of risks, cut at `RISK_FLOOR` from 0 and 1, of the same shape."""
    return logit(np.clip(risk, RISK_FLOOR, 1 - RISK_FLOOR))


@Statistic
def brier(y: np.ndarray, risk: np.ndarray) -> Weighted:
    """Mean squared distance of a risk from what happened, 0 or 1 (Brier 1950)."""
    return mean_of((risk - y) ** 2)


@of_events
def observed_expected(y: np.ndarray, risk: np.ndarray) -> Weighted:
    """Observed events over expected events: calibration in the large, 1 is perfect."""
    return RatioOfSums(y, risk)


@of_events
def calibration_slope(y: np.ndarray, risk: np.ndarray) -> Weighted:
    """Slope of the unpenalised logistic regression of y on logit(risk) (Cox 1958); below 1: risks too extreme.

    NaN where its estimate does not exist: one class only, one risk only, or classes that a threshold separates.
    """
    x = log_odds(risk)
    design = np.stack([x, np.ones(len(x))])

    def at(weights: np.ndarray, start: Sequence[float] = (0.0, 0.0)) -> np.ndarray:
        events, others = x[(weights > 0) & (y == 1)], x[(weights > 0) & (y == 0)]
        if len(events) == 0 or len(others) == 0 or events.min() >= others.max() or events.max() <= others.min():
            return np.full(2, np.nan)
        return _fit_logistic(design, y, weights, start)

    # A resample's estimate lies close to that of all rows.
    whole = np.nan_to_num(at(np.ones(len(y))))
    return lambda weights: float(at(weights, whole)[0])


@of_events
def calibration_intercept(y: np.ndarray, risk: np.ndarray) -> Weighted:
    """Intercept of the logistic regression of y with logit(risk) as offset, i.e. the slope held at 1 (Cox 1958).

    Above 0: risks too low on average. Calibration in the large on the scale of log-odds; NaN for one class only.
    """
    x = log_odds(risk)

    def at(weights: np.ndarray) -> float:
        events = weights @ y
        if not 0 < events < weights.sum():
            return float("nan")
        return float(_fit_logistic(np.ones((1, len(x))), y, weights, [0.0], offset=x)[0])

    return at


def _fit_logistic(
    design: np.ndarray, y: np.ndarray, weights: np.ndarray, start: Sequence[float], offset: np.ndarray | float = 0.0
) -> np.ndarray:
    """Maximum-likelihood coefficients [features] of a logistic regression on `design` [features, rows].

    Newton's method; steps that lower the likelihood are halved. The caller makes sure that the maximum exists.
    """
    beta = np.asarray(start, dtype=np.float64)
    eta = offset + beta @ design
    likelihood = _log_likelihood(y, eta, weights)
    for _ in range(50):
        p = expit(eta)
        gradient = design @ (weights * (y - p))
        hessian = (design * (weights * p * (1 - p))) @ design.T
        step = _solve(hessian, gradient)
        for _ in range(30):
            eta = offset + (beta + step) @ design
            reached = _log_likelihood(y, eta, weights)
            if reached >= likelihood - 1e-10 * abs(likelihood):
                break
            step /= 2
        beta, likelihood = beta + step, reached
        # The error left is of the order of the square of the last step.
        if np.abs(step).max() < 1e-4:
            break
    return beta


def _solve(hessian: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.solve(hessian, gradient)
    except np.linalg.LinAlgError:
        # All weight is on risks so extreme that their variance vanishes.
        return np.linalg.lstsq(hessian, gradient)[0]


def _log_likelihood(y: np.ndarray, eta: np.ndarray, weights: np.ndarray) -> float:
    return float(weights @ (y * eta - np.logaddexp(0, eta)))


@Statistic
def skill(reference: np.ndarray, forecast: np.ndarray) -> Weighted:
    """Share of a reference's losses [rows] that the losses of a forecast avoid: 1 for none at all, 0 for as many."""
    return RatioOfSums(reference - forecast, reference)
