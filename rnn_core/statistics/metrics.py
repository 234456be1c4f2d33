"""How good forecasts are: discrimination, calibration and error, each with a bootstrap interval over patients.

A metric that is not defined on the data (no rows, one class only) is NaN with its n, never an error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.thresholds import PROLONGED_HOURS
from rnn_core.statistics.bootstrap import Estimate, Metric, Weighted, bootstrap_interval
from rnn_core.statistics.distribution import Distribution
from rnn_core.statistics.population import CENSORED, fit_population_curve

# Risks of exactly 0 or 1 have no logit; nothing in the data could tell them from one in a million.
RISK_FLOOR = 1e-6


def log_odds(risk: ArrayLike) -> np.ndarray:
    """Logit of risks, cut at `RISK_FLOOR` from 0 and 1, of the same shape."""
    return logit(np.clip(risk, RISK_FLOOR, 1 - RISK_FLOOR))


# Decorators of metrics whose interval needs enough patients on both sides, events and non-events, or enough ends.
_of_events = partial(Metric, sides=lambda y, risk: (y == 1, y == 0))
_of_ends = partial(Metric, sides=lambda hours, ended, predicted_hours: (ended != 0,))


# ---- means


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator > 0 else float("nan")


def _mean_of(values: np.ndarray) -> Weighted:
    return lambda weights: _ratio(weights @ values, weights.sum())


@Metric
def mean(values: np.ndarray) -> Weighted:
    """Mean of a column, e.g. of the width of an interval."""
    return _mean_of(values)


@Metric
def brier(y: np.ndarray, risk: np.ndarray) -> Weighted:
    """Mean squared distance of a risk from what happened, 0 or 1 (Brier 1950)."""
    return _mean_of((risk - y) ** 2)


@_of_events
def observed_expected(y: np.ndarray, risk: np.ndarray) -> Weighted:
    """Observed events over expected events: calibration in the large, 1 is perfect."""
    return lambda weights: _ratio(weights @ y, weights @ risk)


@Metric
def mean_absolute_error_days(remaining_hours: np.ndarray, predicted_hours: np.ndarray) -> Weighted:
    """Mean absolute error of the predicted remaining stay, in days."""
    return _mean_of(np.abs(predicted_hours - remaining_hours) / 24)


@Metric
def median_absolute_error_days(remaining_hours: np.ndarray, predicted_hours: np.ndarray) -> Weighted:
    """Median absolute error of the predicted remaining stay, in days."""
    error = np.abs(predicted_hours - remaining_hours) / 24
    order = np.argsort(error)
    error = error[order]

    def at(weights: np.ndarray) -> float:
        reached = np.cumsum(weights[order])
        if len(reached) == 0 or reached[-1] <= 0:
            return float("nan")
        half = reached[-1] / 2
        lower, upper = np.searchsorted(reached, half, side="left"), np.searchsorted(reached, half, side="right")
        return float((error[lower] + error[upper]) / 2)

    return at


@Metric
def interval_coverage(
    remaining_hours: np.ndarray, low: np.ndarray, high: np.ndarray, precision_hours: np.ndarray
) -> Weighted:
    """Share of ends inside [low, high] hours.

    An end known to `precision_hours` only lies anywhere in an interval of that width centred at `remaining_hours` (cut
    at 0); it counts by the share of that interval which [low, high] covers.
    """
    start, stop = np.maximum(remaining_hours - precision_hours / 2, 0), remaining_hours + precision_hours / 2
    overlap = np.clip(np.minimum(stop, high) - np.maximum(start, low), 0, None)
    inside = ((remaining_hours >= low) & (remaining_hours <= high)).astype(np.float64)
    return _mean_of(np.divide(overlap, stop - start, out=inside, where=stop > start))


# ---- discrimination


def _is_first(sorted_values: np.ndarray) -> np.ndarray:
    """Positions at which a run of equal values starts."""
    return np.flatnonzero(np.concatenate([[True], sorted_values[1:] != sorted_values[:-1]]))


def _undefined(_: np.ndarray) -> float:
    return float("nan")


@_of_events
def auroc(y: np.ndarray, risk: np.ndarray) -> Weighted:
    """Area under the ROC curve: the probability that an event has the higher risk, ties counting half."""
    if len(y) == 0:
        return _undefined
    order = np.argsort(risk)
    event, start = y[order], _is_first(risk[order])

    def at(weights: np.ndarray) -> float:
        w = weights[order]
        events, others = np.add.reduceat(w * event, start), np.add.reduceat(w * (1 - event), start)
        return _ratio(events @ (np.cumsum(others) - others / 2), events.sum() * others.sum())

    return at


@_of_events
def auprc(y: np.ndarray, risk: np.ndarray) -> Weighted:
    """Average precision: precision at each distinct risk, weighted by the recall gained there."""
    if len(y) == 0:
        return _undefined
    order = np.argsort(-risk)
    event, start = y[order], _is_first(risk[order])

    def at(weights: np.ndarray) -> float:
        w = weights[order]
        events, flagged = np.add.reduceat(w * event, start), np.cumsum(np.add.reduceat(w, start))
        if events.sum() >= flagged[-1]:
            return float("nan")
        precision = np.divide(np.cumsum(events), flagged, out=np.zeros(len(start)), where=flagged > 0)
        return _ratio(events @ precision, events.sum())

    return at


@_of_ends
def concordance(hours: np.ndarray, ended: np.ndarray, predicted_hours: np.ndarray) -> Weighted:
    """Harrell's C: among comparable pairs, the share in which the stay predicted longer lasts longer, ties half.

    hours: to the end, or to the end of follow-up where `ended` is 0. A pair is comparable if the shorter one ended; of
    two equal times, if one ended and the other did not (Harrell et al. 1996).

    Two different times first differ in one bit of their rank: bit by bit, the discordant pairs are counted by a running
    sum over the later ones in order of prediction. O(n log² n) to prepare, O(n log n) for each set of weights.
    """
    if len(hours) == 0:
        return _undefined
    # In order of prediction, reads at neighbouring rows stay close together in memory.
    by_prediction = np.argsort(predicted_hours)
    time = (2 * np.unique(hours, return_inverse=True)[1] + (ended == 0))[by_prediction]
    rank = np.unique(predicted_hours, return_inverse=True)[1][by_prediction]
    is_end = (ended != 0)[by_prediction]
    levels = [_pairs_by_bit(time, rank, is_end, bit) for bit in range(int(time.max()).bit_length())]
    by_time = np.argsort(time)
    ends = by_time[is_end[by_time]]
    after = np.searchsorted(time[by_time], time[ends], side="right")

    def at(weights: np.ndarray) -> float:
        w = weights[by_prediction]
        running = np.concatenate([[0.0], np.cumsum(w[by_time])])
        comparable = w[ends] @ (running[-1] - running[after])
        discordant = 0.0
        for earlier, later, begin, below, through in levels:
            running = np.concatenate([[0.0], np.cumsum(w[later])])
            discordant += w[earlier] @ ((running[below] + running[through]) / 2 - running[begin])
        return _ratio(comparable - discordant, comparable)

    return at


def _pairs_by_bit(time: np.ndarray, rank: np.ndarray, is_end: np.ndarray, bit: int) -> tuple[np.ndarray, ...]:
    """Pairs of an end and a later time that first differ in this bit of the time; the rows come in order of rank.

    Returns the rows of the ends, the rows of the later ones by block and rank, and for each end where its block begins
    among these, where the predictions below its own stop, and where those equal to it stop.
    """
    block, is_later = time >> (bit + 1), (time >> bit) & 1 == 1
    later, earlier = np.flatnonzero(is_later), np.flatnonzero(~is_later & is_end)
    later = later[np.argsort(block[later], kind="stable")]
    earlier = earlier[np.argsort(block[earlier], kind="stable")]
    n_ranks = int(rank[-1]) + 1
    key = block * n_ranks + rank
    cuts = (block[earlier] * n_ranks, key[earlier], key[earlier] + 1)
    return earlier, later, *(np.searchsorted(key[later], cut) for cut in cuts)


# ---- calibration


@_of_events
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


@_of_events
def calibration_error(y: np.ndarray, risk: np.ndarray) -> Weighted:
    """Distance of the calibration slope from 1, the smaller the better."""
    slope = calibration_slope.prepare(y, risk)
    return lambda weights: abs(slope(weights) - 1)


@_of_events
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
        step = np.linalg.lstsq(hessian, gradient)[0]
        if np.abs(step).max() < 1e-7:
            break
        for _ in range(30):
            eta = offset + (beta + step) @ design
            reached = _log_likelihood(y, eta, weights)
            if reached >= likelihood - 1e-10 * abs(likelihood):
                break
            step /= 2
        beta, likelihood = beta + step, reached
    return beta


def _log_likelihood(y: np.ndarray, eta: np.ndarray, weights: np.ndarray) -> float:
    return float(weights @ (y * eta - np.logaddexp(0, eta)))


# ---- the whole distribution


def crps_hours(forecast: Distribution, remaining_hours: ArrayLike) -> np.ndarray:
    """Continuous ranked probability score of the remaining stay, in hours, [rows]; NaN where the end is not known.

    The integral from 0 to the last edge of (F(t) - 1[end <= t])² (Matheson & Winkler 1976), exact for a distribution
    function F of leaving that is linear between edges. For a forecast without spread it is the absolute error.
    """
    edges, cdf = forecast.edges, np.minimum(forecast.leaving_cdf, 1.0)
    start, stop = cdf[:, :-1], cdf[:, 1:]
    end = np.clip(np.asarray(remaining_hours, dtype=np.float64)[:, None], edges[:-1], edges[1:])
    at_end = start + (stop - start) * (end - edges[:-1]) / np.diff(edges)
    before = (end - edges[:-1]) * _mean_square(start, at_end)
    after = (edges[1:] - end) * _mean_square(1 - at_end, 1 - stop)
    return (before + after).sum(axis=1)


def _mean_square(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean of the square of a line that runs from a to b."""
    return (a * a + a * b + b * b) / 3


# ---- a set of forecasts


@dataclass(frozen=True)
class Outcomes:
    """What became of the stays behind a set of forecasts, one row per forecast.

    elapsed_hours: length of the stay at the prediction, [rows].
    death: 1 died, 0 left alive, NaN not known, [rows].
    remaining_hours: from the prediction to the end (the centre, where the end is known to an interval), NaN while open
        or not known, [rows].
    followed_hours: hours after the prediction for which an open stay is known to have gone on, NaN elsewhere, [rows].
    precision_hours: width of the interval in which an end lies, 0 where the time is exact, [rows].
    groups: patient ids, [rows]; a forecast is its own patient where they are not given.
    """

    elapsed_hours: np.ndarray
    death: np.ndarray
    remaining_hours: np.ndarray
    followed_hours: np.ndarray | None = None
    precision_hours: np.ndarray | None = None
    groups: np.ndarray | None = None

    @property
    def stayed_hours(self) -> np.ndarray:
        """Hours the stay is known to have gone on after the prediction, ended or not."""
        if self.followed_hours is None:
            return self.remaining_hours
        return np.where(np.isnan(self.remaining_hours), self.followed_hours, self.remaining_hours)

    @property
    def ended(self) -> np.ndarray:
        return ~np.isnan(self.remaining_hours)

    def prolonged(self) -> np.ndarray:
        """1 if the stay exceeds the limit, NaN if not known or if it had done so before the prediction, [rows]."""
        left = PROLONGED_HOURS - self.elapsed_hours
        return np.where(left >= 0, 1 - self._ended_within(left), np.nan)

    def discharged_within(self, hours: float) -> np.ndarray:
        """1 if the stay ended alive within these hours, NaN if not known, [rows].

        Where a coarse end may lie on either side of the limit that is NaN for the dead too, of whom the answer is
        known: if only the living were left out, the rest would hold too few discharges.
        """
        within = self._ended_within(hours)
        return np.where(within == 1, 1 - self.death, within)

    def _ended_within(self, hours: ArrayLike) -> np.ndarray:
        """1 if the end came within these hours (one number, or one per row), 0 if later, NaN if not known, [rows]."""
        half = 0.0 if self.precision_hours is None else self.precision_hours / 2
        # The stay was open at the prediction, so the interval of a coarse end is cut there.
        earliest, latest = np.maximum(self.remaining_hours - half, 0), self.remaining_hours + half
        later = np.where(self.ended, (earliest >= hours) & (latest > hours), self.stayed_hours > hours)
        return np.select([latest <= hours, later], [1.0, 0.0], np.nan)


def score_columns(columns: pd.DataFrame, outcomes: Outcomes, n: int = 1000, seed: int = 0) -> dict[str, Estimate]:
    """Every metric of published forecasts (`survival.FORECAST_COLUMNS`, NaN where abstained) by name, with intervals.

    mortality_*: of `mortality_risk` against death. prolonged_stay_*, discharge_*: of those risks. los_*: of the median
    remaining stay and the interval from its 10th to its 90th percentile.

    low and high are NaN where too few patients had the event, or were spared it (`bootstrap_interval`).
    """
    if len(columns) != len(outcomes.death):
        raise ContractError(
            f"Forecasts and outcomes are paired row by row; found {len(columns)} and {len(outcomes.death)} rows."
        )

    def interval(metric: Metric, *arrays: ArrayLike) -> Estimate:
        return bootstrap_interval(metric, arrays, outcomes.groups, n, seed)

    low, median, high = (columns[f"remaining_los_p{q}_hours"].to_numpy() for q in (10, 50, 90))
    remaining, prolonged = outcomes.remaining_hours, outcomes.prolonged()
    precision = np.zeros(len(columns)) if outcomes.precision_hours is None else outcomes.precision_hours
    scores = {
        f"mortality_{metric.__name__}": interval(metric, outcomes.death, columns["mortality_risk"])
        for metric in (auroc, auprc, brier, calibration_slope, calibration_intercept, observed_expected)
    }
    for metric in (auroc, brier):
        name = metric.__name__
        scores[f"prolonged_stay_{name}"] = interval(metric, prolonged, columns["prolonged_stay_risk"])
        for hours in (24, 48, 72):
            risk = columns[f"discharge_{hours}h_prob"]
            scores[f"discharge_{hours}h_{name}"] = interval(metric, outcomes.discharged_within(hours), risk)
    return scores | {
        "los_mean_absolute_error_days": interval(mean_absolute_error_days, remaining, median),
        "los_median_absolute_error_days": interval(median_absolute_error_days, remaining, median),
        "los_concordance": interval(concordance, outcomes.stayed_hours, outcomes.ended, median),
        "los_interval_coverage": interval(interval_coverage, remaining, low, high, precision),
        "los_interval_width_days": interval(mean, (high - low) / 24),
    }


def score_forecasts(
    forecast: Distribution,
    outcomes: Outcomes,
    baseline: Distribution | None = None,
    n: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Every metric of a set of forecasts by name, and of the trivial baseline beside it as `baseline_<name>`.

    baseline: what one would forecast without a model, fitted on training stays (`population.PopulationCurve`), row by
        row. By default the best constant there is: prevalence and distribution over time of these very rows, which no
        honest constant can beat.
    """
    baseline = _constant(forecast, outcomes) if baseline is None else baseline
    scores = {}
    for prefix, said in (("", forecast), ("baseline_", baseline)):
        named = score_columns(said.numbers(outcomes.elapsed_hours), outcomes, n, seed)
        crps = crps_hours(said, outcomes.remaining_hours) / 24
        named["los_crps_days"] = bootstrap_interval(mean, [crps], outcomes.groups, n, seed)
        scores |= {prefix + name: estimate for name, estimate in named.items()}
    return scores


def _constant(forecast: Distribution, outcomes: Outcomes) -> Distribution:
    """The population's forecast of these rows, the same in each; without any outcome nothing is scored, so any will do."""
    stayed, death = outcomes.stayed_hours, outcomes.death
    followed = ~np.isnan(stayed) & ~(outcomes.ended & np.isnan(death))
    if not followed.any():
        return forecast
    causes = np.where(outcomes.ended, death, CENSORED)
    population = fit_population_curve(stayed[followed], causes[followed]).forecast_after(np.zeros(1), forecast.edges)
    if np.isfinite(death).any():
        population = population.with_mortality_risk(np.nanmean(death))
    return population.take(np.zeros(len(forecast), dtype=np.int64))
