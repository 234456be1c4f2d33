"""Evaluates a silent trial: the forecasts as published, which are those that the end of the trial would show."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from rnn_core.contracts.frames import ALIVE
from rnn_core.contracts.thresholds import (
    CALIBRATION_SLOPE,
    LANDMARK_HOURS,
    MIN_AUROC,
    MIN_AUROC_LOW,
    MIN_DEATHS,
    MIN_ENDS,
    MIN_PUBLISHED,
    OBSERVED_EXPECTED,
    Range,
)
from rnn_core.evaluation.scorecard import published_outcomes
from rnn_core.evaluation.transfer import RiskOutcomes, cross_fitted
from rnn_core.statistics.bootstrap import Estimate
from rnn_core.statistics.metric import METRICS
from rnn_core.statistics.outcomes import Outcomes
from rnn_core.statistics.population import CENSORED, fit_population_curve

# The advice if nothing but the level of the risks is wrong.
RECALIBRATE = "Only a recalibrated copy would pass: recalibrate, then run the trial again."
_RESAMPLES = 500
_ACCEPTABLE = {"mortality_observed_expected": OBSERVED_EXPECTED, "mortality_calibration_slope": CALIBRATION_SLOPE}
_CALIBRATION = (*_ACCEPTABLE, "mortality_brier")
# Published are three quantiles of the remaining stay, not its distribution: their score replaces its CRPS.
_NOT_WORSE = ("los_quantile_score_days", "discharge_24h_brier", "discharge_48h_brier")
_IN_BAND = ("los_beyond_p50", "los_beyond_p90")


@dataclass(frozen=True)
class Calibrations:
    """Discrimination of the risks, and their calibration as published and as a recalibrated copy would have it.

    Every settled forecast (`outcomes.settled_age`) whose outcome is known is one row of the same weight. n_deaths: patients
    who died. died, published, recalibrated: float64 [rows], as `recalibrate` takes and gives them.
    """

    auroc: Estimate
    as_published: dict[str, Estimate]
    after: dict[str, Estimate]
    n_deaths: int
    died: np.ndarray
    published: np.ndarray
    recalibrated: np.ndarray


@dataclass(frozen=True)
class Lengths:
    """Lengths of stay as published; open stays take part for as long as they were followed.

    from_curve: metric → paired difference from the population's curve given the elapsed hours. shares: metric → share of
    stays beyond a quantile. n_ends: stays whose end is known.
    """

    from_curve: dict[str, Estimate]
    shares: dict[str, Estimate]
    n_ends: int


class Criterion(NamedTuple):
    """met: whether it was met, None where chance may still decide."""

    what: str
    found: str
    met: bool | None


@dataclass(frozen=True)
class Decision:
    """`go`, `no-go` or `too early`; each criterion with its value and whether it was met; and what to do next."""

    verdict: str
    criteria: list[Criterion]
    advice: str


def judge_risks(pairs: pd.DataFrame) -> Calibrations:
    """Of the settled forecasts with a known outcome among rows of `read_outcome_pairs`."""
    death = published_outcomes(pairs).columns()["death"]
    known = ~np.isnan(death)
    died, (risk, hour) = (
        death[known],
        (pairs.loc[known, n].to_numpy(float) for n in ("mortality_risk", "hours_in_stay")),
    )
    patients = pairs.loc[known, "patient_id"].to_numpy()
    recalibrated = recalibrate(died, risk, patients, hour)
    return Calibrations(
        _estimate("mortality_auroc", died, risk, patients),
        *({name: _estimate(name, died, risks, patients) for name in _CALIBRATION} for risks in (risk, recalibrated)),
        len(np.unique(patients[died == 1].astype(str))),
        died,
        risk,
        recalibrated,
    )


def judge_lengths(pairs: pd.DataFrame) -> Lengths:
    """Of all forecasts among rows of `read_outcome_pairs`, compared with the curve of these very stays: no forecast that
    knows the elapsed hours alone could do better."""
    outcomes = published_outcomes(pairs)
    happened, groups = outcomes.columns(), outcomes.groups
    curve = _curve(pairs["stay_id"].to_numpy(), outcomes)
    differences = {}
    if curve is not None:
        differences = {
            name: METRICS[name].difference(happened, dict(pairs), dict(curve), groups, _RESAMPLES)
            for name in _NOT_WORSE
        }
    undefined = Estimate(np.nan, np.nan, np.nan, 0)
    return Lengths(
        {name: differences.get(name, undefined) for name in _NOT_WORSE},
        {name: METRICS[name].estimate(happened | dict(pairs), groups, _RESAMPLES) for name in _IN_BAND},
        pairs.loc[outcomes.ended, "stay_id"].nunique(),
    )


def _curve(stays: np.ndarray, outcomes: Outcomes) -> pd.DataFrame | None:
    """The numbers of each forecast as the curve of its population would give them, None if no stay was followed.

    A stay is observed from its first forecast on.
    """
    causes = np.where(np.asarray(outcomes.ends_alike), ALIVE, outcomes.death)
    causes = np.where(outcomes.ended, causes, CENSORED)
    followed = ~np.isnan(causes) & (outcomes.stayed_hours > 0)
    if not followed.any():
        return None
    frame = pd.DataFrame({"stay": stays, "entry": outcomes.elapsed_hours, "cause": causes})
    frame["left"] = outcomes.elapsed_hours + outcomes.stayed_hours
    first = frame[followed].sort_values("entry").drop_duplicates("stay")
    curve = fit_population_curve(first["left"], first["cause"].astype(int), first["entry"])
    return curve.forecast_after(outcomes.elapsed_hours).numbers(outcomes.elapsed_hours)


def recalibrate(died: np.ndarray, risk: np.ndarray, patients: np.ndarray, hours_in_stay: np.ndarray) -> np.ndarray:
    """Risks as `transfer.recalibrated` would change them: by its fit to the same hours of other patients' stays, [rows];
    NaN with too few patients or only one outcome."""
    at = np.isin(np.floor(hours_in_stay), LANDMARK_HOURS)
    learned = RiskOutcomes(np.floor(hours_in_stay[at]), risk[at], died[at], patients[at])
    return cross_fitted(learned, risk, patients)


def _estimate(metric: str, died: np.ndarray, risk: np.ndarray, patients: np.ndarray) -> Estimate:
    return METRICS[metric].estimate({"death": died, "mortality_risk": risk}, patients, _RESAMPLES)


def decide(risks: Calibrations, lengths: Lengths, published: float) -> Decision:
    """Whether the forecasts may be shown as they were published; published: share of the due hours with a run in time."""
    enough = [
        _at_least(MIN_DEATHS, "deaths", risks.n_deaths),
        _at_least(MIN_ENDS, "stays with a known end", lengths.n_ends),
    ]
    others = [
        Criterion(
            f"AUROC at least {MIN_AUROC}, its interval above {MIN_AUROC_LOW}",
            risks.auroc.show(),
            bool(risks.auroc.value >= MIN_AUROC and risks.auroc.low >= MIN_AUROC_LOW),
        ),
        *(_not_worse(name, difference) for name, difference in lengths.from_curve.items()),
        *(_in_band(name, share) for name, share in lengths.shares.items()),
        Criterion(
            f"at least {MIN_PUBLISHED:.0%} of the hours published", f"{published:.1%}", published >= MIN_PUBLISHED
        ),
    ]
    criteria = [*enough, others[0], *_calibrated(risks.as_published), *others[1:]]
    if not all(criterion.met for criterion in enough):
        return Decision("too early", criteria, "Too few deaths or ends for a verdict: continue the trial.")
    met = {criterion.met for criterion in criteria}
    if met == {True}:
        return Decision("go", criteria, "Every criterion is met; the end of the trial shows these forecasts.")
    if False not in met:
        return Decision("too early", criteria, "Chance may still decide a criterion: continue the trial.")
    if all(criterion.met for criterion in [*others, *_calibrated(risks.after)]):
        return Decision("no-go", criteria, RECALIBRATE)
    return Decision("no-go", criteria, "Not every criterion is met: resolve those before any forecast is shown.")


def _at_least(least: int, what: str, found: int) -> Criterion:
    return Criterion(f"at least {least} {what}", str(found), found >= least)


def _not_worse(name: str, difference: Estimate) -> Criterion:
    """Worse is what is so with its whole interval; with a part of it chance may decide."""
    metric = METRICS[name]
    harm = metric.harm(difference)
    met = True if harm.value <= 0 else False if harm.low > 0 else None
    return Criterion(
        f"{metric.label} not worse than that of the population's curve", difference.show(metric.digits), met
    )


def _in_band(name: str, share: Estimate) -> Criterion:
    """Outside is a share whose whole interval is; if a part of it is inside, chance may decide."""
    metric = METRICS[name]
    band = Range(metric.target - metric.curve_margin, metric.target + metric.curve_margin)
    outside = share.high < band.low or share.low > band.high
    met = True if band.holds(share.value) else False if outside else None
    return Criterion(f"{metric.label} within {band.low:.0%} to {band.high:.0%}", metric.show(share), met)


def _calibrated(found: dict[str, Estimate]) -> list[Criterion]:
    return [
        Criterion(
            f"{METRICS[name].label} as published within {fine.low} to {fine.high}",
            METRICS[name].show(found[name]),
            fine.holds(found[name].value),
        )
        for name, fine in _ACCEPTABLE.items()
    ]


def calibration_rows(risks: Calibrations) -> list[tuple[str, str, str]]:
    """What is measured, as published, after recalibration; for people."""
    return [
        (METRICS[name].label, METRICS[name].show(found), METRICS[name].show(risks.after[name]))
        for name, found in risks.as_published.items()
    ]
