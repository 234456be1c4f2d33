"""Judges forecasts of whole stays at landmarks and over all patient-hours, every contender on the same moments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from rnn_core.benchmark.ends import read_ends
from rnn_core.benchmark.whole_stays import SHIPPED
from rnn_core.contracts.frames import HOUR
from rnn_core.contracts.thresholds import LANDMARK_HOURS
from rnn_core.statistics.bootstrap import Estimate, Statistic, Weighted, bootstrap_interval, estimates_to_json, ratio
from rnn_core.statistics.discrimination import concordance
from rnn_core.statistics.distribution import Distribution
from rnn_core.statistics.length_of_stay import los_bucket, name_buckets
from rnn_core.statistics.metric import METRICS
from rnn_core.statistics.outcomes import Outcomes
from rnn_core.statistics.scores import judged_numbers

ALL = "all"
GROUPS: tuple[str, ...] = (*(f"{hour}h" for hour in LANDMARK_HOURS), ALL)

# Name in the report → metric.
FIGURES: dict[str, str] = {
    "auroc": "mortality_auroc",
    "auprc": "mortality_auprc",
    "brier": "mortality_brier",
    "calibration_slope": "mortality_calibration_slope",
    "observed_expected": "mortality_observed_expected",
    "los_mae_days": "los_mae_days",
    "los_medae_days": "los_medae_days",
    "los_crps_days": "los_crps_days",
    "share_beyond_p10": "los_beyond_p10",
    "share_beyond_p50": "los_beyond_p50",
    "share_beyond_p90": "los_beyond_p90",
    "discharge24_brier": "discharge_24h_brier",
    "discharge48_brier": "discharge_48h_brier",
    "los_kappa": "los_kappa",
    "los_concordance": "los_concordance",
}
# Those of which paired differences are taken.
COMPARED: tuple[str, ...] = (
    "auroc",
    "auprc",
    "brier",
    "los_mae_days",
    "los_crps_days",
    "discharge24_brier",
    "discharge48_brier",
    "los_concordance",
)
# Against which they are taken: the trivial answer, the strongest plain one, and the one that intensivists know. A warm
# start is compared with the cold one too.
OTHERS: tuple[str, ...] = ("prevalence", "trees", "apache")
_RESAMPLES = 1000
# A concordance takes as long as a dozen of the others, and all patient-hours as long as the landmarks together.
_RESAMPLES_OF_CONCORDANCE, _RESAMPLES_OF_ALL = 100, 300


@dataclass(frozen=True)
class Moments:
    """When the judged forecasts were made, and what became of the stays; rows are (stay, hour), [n] each.

    stay_id: of each row. hour: hours since the first of the stay, from 1.
    """

    stay_id: np.ndarray
    hour: np.ndarray
    outcomes: Outcomes

    def take(self, rows: np.ndarray) -> "Moments":
        return Moments(self.stay_id[rows], self.hour[rows], self.outcomes.take(rows))

    def of(self, group: str) -> np.ndarray:
        """Rows that belong to a landmark or to `ALL`, bool [n]."""
        return np.ones(len(self.hour), bool) if group == ALL else self.hour == int(group.removesuffix("h"))

    @cached_property
    def happened(self) -> dict[str, np.ndarray]:
        return self.outcomes.columns()


def make_moments(
    stays: pd.DataFrame,
    stay: np.ndarray,
    hour: np.ndarray,
    elapsed_hours: np.ndarray,
    known_until: np.ndarray | None = None,
) -> Moments:
    """Moments [n] of `stays` (stay_id, patient_id, intime, outtime, outcome).

    known_until: until when an open stay is known to have gone on, datetime64 [stays].
    """
    death, los_hours = read_ends(stays)
    remaining = los_hours[stay] - elapsed_hours
    followed = None
    if known_until is not None:
        intime = stays["intime"].to_numpy("datetime64[us]")
        followed = ((known_until - intime) / HOUR)[stay] - elapsed_hours
        followed = np.where(np.isnan(remaining) & np.isnan(death[stay]), np.maximum(followed, 0), np.nan)
    precision = pd.to_numeric(stays["end_precision_hours"]).to_numpy(np.float64, na_value=0.0)
    outcomes = Outcomes(
        elapsed_hours=elapsed_hours,
        death=death[stay],
        remaining_hours=remaining,
        followed_hours=followed,
        precision_hours=np.nan_to_num(precision)[stay],
        groups=stays["patient_id"].to_numpy()[stay],
    )
    return Moments(stays["stay_id"].to_numpy()[stay], hour, outcomes)


@dataclass(frozen=True)
class Contest:
    """Forecasts of one contender at the judged moments, [n]: the whole distributions, or of a published score the
    columns that it has, NaN where it says nothing."""

    whole: Distribution | None = None
    columns: Mapping[str, np.ndarray] | None = None
    seconds: float = 0.0
    histories: tuple = ()

    def at(self, moments: Moments, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The columns that metrics ask for, of `rows` (bool [n])."""
        outcomes = moments.outcomes.take(rows)
        if self.whole is None:
            found = {name: values[rows] for name, values in self.columns.items()}
            found["forecast_los_bucket"] = los_bucket((outcomes.elapsed_hours + found["remaining_los_p50_hours"]) / 24)
            return found
        whole = self.whole.take(rows)
        found = {name: column.to_numpy() for name, column in judged_numbers(whole, outcomes).items()}
        return found | {"forecast_los_bucket": name_buckets(whole, outcomes.elapsed_hours)}


def pool(parts: Sequence[tuple[Moments, np.ndarray, Mapping[str, Contest]]]) -> tuple[Moments, dict[str, Contest]]:
    """One contest of several on disjoint stays: (moments, those that are judged, contests at all of them)."""
    kept = [moments.take(rows) for moments, rows, _ in parts]
    moments = Moments(
        np.concatenate([part.stay_id for part in kept]),
        np.concatenate([part.hour for part in kept]),
        Outcomes.concatenate([part.outcomes for part in kept]),
    )
    pooled = {
        name: Contest(
            Distribution.concatenate([contests[name].whole.take(rows) for _, rows, contests in parts]),
            seconds=sum(contests[name].seconds for _, _, contests in parts),
            histories=parts[0][2][name].histories,
        )
        for name in parts[0][2]
    }
    return moments, pooled


def _score(said: Mapping[str, np.ndarray], moments: Moments, group: str, resamples: int | None) -> dict[str, Estimate]:
    columns = moments.happened | said
    found = {}
    for name, metric in ((name, METRICS[of]) for name, of in FIGURES.items()):
        if columns.keys() >= set(metric.needs):
            n = _resamples(metric.statistic, group, resamples)
            found[name] = metric.estimate(columns, moments.outcomes.groups, n)
    return found


def _compare(
    ours: Mapping[str, np.ndarray],
    theirs: Mapping[str, np.ndarray],
    moments: Moments,
    group: str,
    resamples: int | None,
) -> dict[str, Estimate]:
    happened, groups = moments.happened, moments.outcomes.groups
    found = {}
    for name in COMPARED:
        metric = METRICS[FIGURES[name]]
        if all(columns.keys() >= set(metric.forecast) for columns in (ours, theirs)):
            n = _resamples(metric.statistic, group, resamples)
            found[name] = metric.difference(happened, ours, theirs, groups, n)
    for name, losses in _LOSSES.items():
        pair = [losses(happened, columns) for columns in (ours, theirs)]
        if all(loss is not None for loss in pair):
            n = _resamples(_skill, group, resamples)
            found[f"{name}_skill"] = bootstrap_interval(_skill, pair, groups, n)
    return found


@Statistic
def _skill(ours: np.ndarray, theirs: np.ndarray) -> Weighted:
    """1 less the ratio of two mean losses: 0.05 is 5 % better."""
    return lambda weights: 1 - ratio(weights @ ours, weights @ theirs)


def _discharge_loss(hours: int):
    def loss(happened: Mapping[str, np.ndarray], said: Mapping[str, np.ndarray]) -> np.ndarray | None:
        column = f"discharge_{hours}h_prob"
        return np.square(said[column] - happened[f"discharged_{hours}h"]) if column in said else None

    return loss


_LOSSES = {
    "los_crps_days": lambda _, said: said.get("crps_days"),
    "discharge24_brier": _discharge_loss(24),
    "discharge48_brier": _discharge_loss(48),
}


def _resamples(statistic: Statistic, group: str, wanted: int | None) -> int:
    if wanted is not None:
        return wanted
    if statistic is concordance:
        return _RESAMPLES_OF_CONCORDANCE
    return _RESAMPLES_OF_ALL if group == ALL else _RESAMPLES


def reached(contest: Contest, moments: Moments, group: str) -> np.ndarray:
    """Where each actual end lies in its forecast distribution, as a share from 0 to 1 (the probability integral
    transform: Dawid, J R Stat Soc A 147, 1984, 278-292), [rows of the group with a known end].

    Uniform where forecasts are calibrated. Ends in the open last bin are spread over it at random, with a fixed seed.
    """
    rows = moments.of(group) & ~np.isnan(moments.outcomes.remaining_hours)
    whole, remaining = contest.whole.take(rows), np.maximum(moments.outcomes.remaining_hours[rows], 0)
    last = whole.edges[-1]
    below = 1 - whole.survival(np.minimum(remaining, last))
    at_random = 1 - (1 - below) * np.random.default_rng(0).random(len(below))
    return np.where(remaining >= last, at_random, below)


@dataclass(frozen=True)
class Judgement:
    """The report of a run on whole stays.

    scores: model → landmark → figure. differences: other → model → landmark → figure, model less other.
    """

    protocol: dict[str, Any]
    contests: Mapping[str, Contest]
    moments: Moments
    scores: dict[str, dict[str, dict[str, Estimate]]]
    differences: dict[str, dict[str, dict[str, dict[str, Estimate]]]]

    def to_json(self) -> dict[str, Any]:
        models = to_json(self.scores)
        if SHIPPED in models:
            models["shipped"] = models[SHIPPED]
        seconds = {name: round(contest.seconds, 1) for name, contest in self.contests.items()}
        return {
            "protocol": self.protocol,
            "shipped": SHIPPED if SHIPPED in models else None,
            "seconds": seconds,
            "models": models,
            "differences": to_json(self.differences),
        }


def judge(
    contests: Mapping[str, Contest], moments: Moments, protocol: dict[str, Any], resamples: int | None = None
) -> Judgement:
    """All figures with intervals over patients, and paired differences against the `OTHERS` that took part, where both say
    something."""
    scores = {name: {} for name in contests}
    differences = {other: {name: {} for name in contests if name != other} for other in OTHERS if other in contests}
    if {"warm", "forecaster"} <= contests.keys():
        differences["forecaster"] = {"warm": {}}
    for group in GROUPS:
        rows = moments.of(group)
        part = moments.take(rows)
        said = {name: contest.at(moments, rows) for name, contest in contests.items()}
        for name, columns in said.items():
            scores[name][group] = _score(columns, part, group, resamples)
        for other, compared in differences.items():
            for name, found in compared.items():
                found[group] = _compare(said[name], said[other], part, group, resamples)
    return Judgement(protocol, contests, moments, scores, differences)


def to_json(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Nested names → estimates, as JSON objects."""
    first = next(iter(scores.values()), None)
    if first is None or isinstance(first, Estimate):
        return estimates_to_json(scores)
    return {name: to_json(part) for name, part in scores.items()}
