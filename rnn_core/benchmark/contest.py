"""Measures forecasts of one hour of many stays against each other: every metric with its interval, paired differences."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from rnn_core.benchmark.contenders import Entry, Forecast
from rnn_core.statistics.bootstrap import Estimate, Metric, bootstrap_interval, paired_difference
from rnn_core.statistics.decision_metrics import (
    LOS_BUCKET_EDGES_DAYS,
    bucket_kappa,
    choose_buckets,
    event1,
    event2,
    fit_threshold,
    los_bucket,
    mean_squared_log_error,
)
from rnn_core.statistics.distribution import Distribution
from rnn_core.statistics.metrics import (
    auprc,
    auroc,
    brier,
    calibration_intercept,
    calibration_slope,
    concordance,
    interval_coverage,
    mean,
    mean_absolute_error_days,
    median_absolute_error_days,
)

_RESAMPLES = 1000


@dataclass(frozen=True)
class Truth:
    """What became of the judged stays; read only once all forecasts are made.

    death: 1 died, 0 left alive, NaN not known, [stays]. los_hours: whole length of stay, NaN not known, [stays].
    hour: elapsed hours at the forecast. precision_hours: width of the interval around an end, [stays].
    stays: descriptors by which subgroups are formed, one row per stay.
    """

    death: np.ndarray
    los_hours: np.ndarray
    hour: float
    precision_hours: np.ndarray
    stays: pd.DataFrame

    def take(self, chosen: np.ndarray) -> "Truth":
        return replace(
            self,
            death=self.death[chosen],
            los_hours=self.los_hours[chosen],
            precision_hours=self.precision_hours[chosen],
            stays=self.stays[chosen],
        )


@dataclass(frozen=True)
class Contest:
    """Forecasts of the judged stays by one contender.

    threshold: for flagging, fixed on the learned stays, [stays].
    """

    forecast: Forecast
    threshold: np.ndarray
    seconds: float
    histories: tuple = ()

    def take(self, chosen: np.ndarray) -> "Contest":
        f = self.forecast
        whole = None if f.whole is None else f.whole.take(chosen)
        return replace(
            self, forecast=Forecast(f.risk[chosen], f.remaining[chosen], whole), threshold=self.threshold[chosen]
        )


def enter(entry: Entry, learned_death: np.ndarray, trivial: Entry, abstained: np.ndarray, seconds: float) -> Contest:
    """An entry ready to be judged: the threshold from its out-of-fold risks; where the forecaster would say nothing,
    every contender says what the trivial one says."""
    known = ~np.isnan(entry.out_of_fold) & ~np.isnan(learned_death)
    threshold = fit_threshold(learned_death[known], entry.out_of_fold[known])
    own, fallback = entry.forecast, trivial.forecast
    whole = own.whole
    if whole is not None and fallback.whole is not None:
        whole = whole.with_rows(abstained, fallback.whole.take(abstained))
    forecast = Forecast(
        np.where(abstained, fallback.risk, own.risk),
        # A contender without intervals gets none here either.
        np.where(abstained[:, None] & ~np.isnan(own.remaining).all(axis=0), fallback.remaining, own.remaining),
        whole,
    )
    return Contest(forecast, np.full(len(abstained), threshold), seconds, histories=entry.histories)


def pool(parts: list[tuple[np.ndarray, Contest]]) -> Contest:
    """One contest of several with disjoint stays: (positions in the whole, contest of these)."""
    order = np.argsort(np.concatenate([position for position, _ in parts]))

    def joined(values: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(values)[order]

    contests = [contest for _, contest in parts]
    wholes = [c.forecast.whole for c in contests]
    forecast = Forecast(
        joined([c.forecast.risk for c in contests]),
        joined([c.forecast.remaining for c in contests]),
        None if any(whole is None for whole in wholes) else Distribution.concatenate(wholes).take(order),
    )
    threshold = joined([c.threshold for c in contests])
    seconds = sum(c.seconds for c in contests)
    return Contest(forecast, threshold, seconds, histories=contests[0].histories)


def _columns(
    contest: Contest, truth: Truth
) -> dict[str, tuple[Metric, tuple[np.ndarray, ...], tuple[np.ndarray, ...]]]:
    """Name → metric, what happened, what was forecast."""
    risk, death = contest.forecast.risk, truth.death
    low, middle, high = contest.forecast.remaining.T
    remaining = truth.los_hours - truth.hour
    ended = np.where(np.isnan(remaining), np.nan, 1.0)
    days, forecast_days = truth.los_hours / 24, (truth.hour + middle) / 24
    bucket, forecast_bucket = los_bucket(days), _named_buckets(contest, truth.hour, los_bucket(forecast_days))
    return {
        "auroc": (auroc, (death,), (risk,)),
        "auprc": (auprc, (death,), (risk,)),
        "event1": (event1, (death,), (risk, contest.threshold)),
        "event2": (event2, (death,), (risk,)),
        "brier": (brier, (death,), (risk,)),
        "calibration_slope": (calibration_slope, (death,), (risk,)),
        "calibration_intercept": (calibration_intercept, (death,), (risk,)),
        "los_mae_days": (mean_absolute_error_days, (remaining,), (middle,)),
        "los_medae_days": (median_absolute_error_days, (remaining,), (middle,)),
        "los_msle": (mean_squared_log_error, (days,), (forecast_days,)),
        "los_kappa": (bucket_kappa, (bucket,), (forecast_bucket,)),
        "los_concordance": (concordance, (remaining, ended), (middle,)),
        "interval80_coverage": (interval_coverage, (remaining,), (low, high, truth.precision_hours)),
        "interval80_width_days": (mean, (), ((high - low) / 24,)),
    }


def _named_buckets(contest: Contest, hour: float, of_median: np.ndarray) -> np.ndarray:
    """Bucket of the length of stay that each forecast names: the best for the whole distribution, or its median's."""
    whole = contest.forecast.whole
    if whole is None:
        return of_median
    bounds = np.clip(np.array(LOS_BUCKET_EDGES_DAYS) * 24 - hour, 0, whole.edges[-1])
    left = np.stack([1 - whole.survival(bound) for bound in bounds], axis=1)
    return choose_buckets(np.diff(left, axis=1, prepend=0, append=1)).astype(np.float64)


# Paired differences are taken of these; the first of each kind decides which baseline is the strongest.
COMPARED: tuple[str, ...] = ("auroc", "auprc", "brier", "los_mae_days", "los_kappa")


def score_contest(
    contest: Contest, truth: Truth, resamples: int = _RESAMPLES, metrics: Collection[str] | None = None
) -> dict[str, Estimate]:
    """Metrics of one contender, all by default, with their 95 % intervals over stays."""
    return {
        # A concordance takes as long as a dozen of the others.
        name: bootstrap_interval(
            metric, [*happened, *forecast], n=resamples // 5 if metric is concordance else resamples
        )
        for name, (metric, happened, forecast) in _columns(contest, truth).items()
        if metrics is None or name in metrics
    }


def paired_differences(
    contest: Contest, other: Contest, truth: Truth, resamples: int = _RESAMPLES
) -> dict[str, Estimate]:
    """Paired differences of `COMPARED`, contest less other, on the same resamples of stays."""
    ours, theirs = _columns(contest, truth), _columns(other, truth)
    return {
        name: paired_difference(ours[name][0], ours[name][1], ours[name][2][0], theirs[name][2][0], n=resamples)
        for name in COMPARED
    }


def strongest(scores: Mapping[str, Mapping[str, Estimate]], baselines: tuple[str, ...]) -> str:
    """The baseline with the greatest AUROC."""
    return max((name for name in baselines if name in scores), key=lambda name: scores[name]["auroc"].value)


def coverage(contest: Contest, truth: Truth, levels: np.ndarray) -> np.ndarray:
    """Share of ends within the central interval of each level, [levels]; needs the whole distribution."""
    remaining = truth.los_hours - truth.hour
    known = ~np.isnan(remaining)
    whole, precision = contest.forecast.whole.take(known), truth.precision_hours[known]
    return np.array(
        [
            interval_coverage(
                remaining[known],
                *(whole.quantile(q) for q in ((1 - x) / 2, (1 + x) / 2)),
                precision,
            )
            for x in levels
        ]
    )
