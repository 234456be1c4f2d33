"""Calibration of risks: whether so many events happened as were forecast, overall and along the risk.

A statistic that is not defined on the data (no rows, one class only) is NaN, never an error.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from rnn_core.statistics.bootstrap import RatioOfSums, Statistic, Weighted, mean_of, of_events, resample_weights

# Risks of exactly 0 or 1 have no logit; nothing in the data could tell them from one in a million.
RISK_FLOOR = 1e-6
# The error left after a step of Newton's method is of the order of its square.
_SMALL, _STEPS = 1e-4, 12


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

    def exists(weights: np.ndarray) -> bool:
        events, others = x[(weights > 0) & (y == 1)], x[(weights > 0) & (y == 0)]
        return len(events) > 0 < len(others) and events.min() < others.max() and events.max() > others.min()

    return _Coefficient(np.stack([x, np.ones(len(x))]), y, exists)


@of_events
def calibration_intercept(y: np.ndarray, risk: np.ndarray) -> Weighted:
    """Intercept of the logistic regression of y with logit(risk) as offset, i.e. the slope held at 1 (Cox 1958).

    Above 0: risks too low on average. Calibration in the large on the scale of log-odds; NaN for one class only.
    """
    return _Coefficient(np.ones((1, len(y))), y, lambda weights: 0 < weights @ y < weights.sum(), log_odds(risk))


@dataclass(frozen=True)
class _Coefficient:
    """The first maximum-likelihood coefficient of a logistic regression on `design` [features, rows], as a function of the
    weights [rows].

    exists: whether the likelihood of such weights has a maximum; where not, the coefficient is NaN.
    """

    design: np.ndarray
    y: np.ndarray
    exists: Callable[[np.ndarray], bool]
    offset: np.ndarray | float = 0.0

    def __call__(self, weights: np.ndarray) -> float:
        return float(self._fit(weights, np.zeros(len(self.design)))[0])

    def resampled(self, codes: np.ndarray, n: int, seed: int) -> np.ndarray:
        """In each of n resamples of the groups `codes` [rows], float64 [n]. A resample's estimate is close to that of all
        rows, so Newton's method goes from there, for many resamples at once; those that need care are fitted one by one."""
        start = np.nan_to_num(self._fit(np.ones(len(self.y)), np.zeros(len(self.design))))
        drawn = [np.empty(0)]
        for weights in resample_weights(codes, n, seed):
            found, done = self._newton(weights, start)
            for k in np.flatnonzero(~done | ~np.fromiter(map(self.exists, weights), bool, len(weights))):
                found[k] = self._fit(weights[k], start)
            drawn.append(found[:, 0])
        return np.concatenate(drawn)

    def _fit(self, weights: np.ndarray, start: np.ndarray) -> np.ndarray:
        if not self.exists(weights):
            return np.full(len(start), np.nan)
        return _fit_logistic(self.design, self.y, weights, start, self.offset)

    def _newton(self, weights: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients [resamples, features] for each of `weights` [resamples, rows], and where they have converged."""
        beta, size = np.tile(start, (len(weights), 1)), np.inf
        products = (self.design[:, None] * self.design).reshape(-1, self.design.shape[1])
        for _ in range(_STEPS):
            p = expit(self.offset + beta @ self.design)
            gradient = (weights * (self.y - p)) @ self.design.T
            hessian = ((weights * p * (1 - p)) @ products.T).reshape(*beta.shape, -1)
            try:
                step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
            except np.linalg.LinAlgError:
                return beta, np.zeros(len(beta), dtype=bool)
            beta, size = beta + step, np.abs(step).max(axis=1)
            if (size < _SMALL).all():
                break
        return beta, size < _SMALL


def _fit_logistic(
    design: np.ndarray, y: np.ndarray, weights: np.ndarray, start: np.ndarray, offset: np.ndarray | float
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
        if np.abs(step).max() < _SMALL:
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
