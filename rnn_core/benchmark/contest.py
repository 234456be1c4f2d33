"""Measures forecasts of one hour of many stays against each other: every metric with its interval, paired differences."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from rnn_core.benchmark.contenders import Entry, Forecast
from rnn_core.statistics.bootstrap import Estimate
from rnn_core.statistics.decision_metrics import fit_threshold
from rnn_core.statistics.discrimination import concordance
from rnn_core.statistics.distribution import Distribution
from rnn_core.statistics.length_of_stay import interval_coverage, los_bucket, name_buckets
from rnn_core.statistics.metric import METRICS

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


def _happened(truth: Truth) -> dict[str, np.ndarray]:
    remaining = truth.los_hours - truth.hour
    return {
        "death": truth.death,
        "remaining_hours": remaining,
        "precision_hours": truth.precision_hours,
        "stayed_hours": remaining,
        "known_hours": np.full(len(remaining), np.inf),
        "ended": np.where(np.isnan(remaining), np.nan, 1.0),
        "los_days": truth.los_hours / 24,
        "los_bucket": los_bucket(truth.los_hours / 24),
    }


def _forecast(contest: Contest, hour: float) -> dict[str, np.ndarray]:
    low, middle, high = contest.forecast.remaining.T
    days, whole = (hour + middle) / 24, contest.forecast.whole
    return {
        "mortality_risk": contest.forecast.risk,
        "threshold": contest.threshold,
        "remaining_los_p10_hours": low,
        "remaining_los_p50_hours": middle,
        "remaining_los_p90_hours": high,
        "forecast_los_days": days,
        # The best for the whole distribution, or that of the median.
        "forecast_los_bucket": los_bucket(days) if whole is None else name_buckets(whole, hour),
    }


# Paired differences are taken of these; the first of each kind decides which baseline is the strongest.
COMPARED: tuple[str, ...] = ("mortality_auroc", "mortality_auprc", "mortality_brier", "los_mae_days", "los_kappa")


def score_contest(
    contest: Contest, truth: Truth, resamples: int = _RESAMPLES, metrics: Collection[str] | None = None
) -> dict[str, Estimate]:
    """Metrics of one contender, all by default, with their 95 % intervals over stays."""
    columns = _happened(truth) | _forecast(contest, truth.hour)
    chosen = [metric for name, metric in METRICS.items() if metrics is None or name in metrics]
    return {
        # A concordance takes as long as a dozen of the others.
        metric.name: metric.estimate(columns, None, resamples // 5 if metric.statistic is concordance else resamples)
        for metric in chosen
        if columns.keys() >= set(metric.needs)
    }


def paired_differences(
    contest: Contest, other: Contest, truth: Truth, resamples: int = _RESAMPLES
) -> dict[str, Estimate]:
    """Paired differences of `COMPARED`, contest less other, on the same resamples of stays."""
    happened, ours, theirs = _happened(truth), _forecast(contest, truth.hour), _forecast(other, truth.hour)
    return {name: METRICS[name].difference(happened, ours, theirs, None, resamples) for name in COMPARED}


def strongest(scores: Mapping[str, Mapping[str, Estimate]], baselines: tuple[str, ...]) -> str:
    """The baseline with the greatest AUROC."""
    return max((name for name in baselines if name in scores), key=lambda name: scores[name]["mortality_auroc"].value)


def coverage(contest: Contest, truth: Truth, levels: np.ndarray) -> np.ndarray:
    """Share of ends within the central interval of each level, [levels]; needs the whole distribution."""
    remaining = truth.los_hours - truth.hour
    known = ~np.isnan(remaining)
    whole, precision = contest.forecast.whole.take(known), truth.precision_hours[known]
    return np.array(
        [
            interval_coverage(
                remaining[known],
                precision,
                *(whole.quantile(q) for q in ((1 - x) / 2, (1 + x) / 2)),
            )
            for x in levels
        ]
    )
