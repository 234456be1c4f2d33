"""Evaluates a silent trial: the risks as published, which are those that the end of the trial would show."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from rnn_core.contracts.thresholds import (
    CALIBRATION_SLOPE,
    LANDMARK_HOURS,
    MIN_AUROC,
    MIN_AUROC_LOW,
    MIN_DEATHS,
    MIN_PUBLISHED,
    OBSERVED_EXPECTED,
)
from rnn_core.evaluation.transfer import RiskOutcomes, cross_fitted
from rnn_core.statistics.bootstrap import Estimate
from rnn_core.statistics.metric import METRICS

# The advice if nothing but the level of the risks is wrong.
RECALIBRATE = "Only a recalibrated copy would pass: recalibrate, then run the trial again."
_RESAMPLES = 500
_ACCEPTABLE = {"mortality_observed_expected": OBSERVED_EXPECTED, "mortality_calibration_slope": CALIBRATION_SLOPE}
_CALIBRATION = (*_ACCEPTABLE, "mortality_brier")


@dataclass(frozen=True)
class Calibrations:
    """Discrimination of the risks, and their calibration as published and as a recalibrated copy would have it.

    Every forecast whose outcome is known is one row of the same weight. n_deaths: patients who died.
    died, published, recalibrated: float64 [rows], as `recalibrate` takes and gives them.
    """

    auroc: Estimate
    as_published: dict[str, Estimate]
    after: dict[str, Estimate]
    n_deaths: int
    died: np.ndarray
    published: np.ndarray
    recalibrated: np.ndarray


@dataclass(frozen=True)
class Decision:
    """`go`, `no-go` or `too early`; each criterion with its value and whether it was met; and what to do next."""

    verdict: str
    criteria: list[tuple[str, str, bool]]
    advice: str


def judge_risks(pairs: pd.DataFrame) -> Calibrations:
    """Of forecasts with a known outcome (columns mortality_risk, died, patient_id, hours_in_stay)."""
    known = pairs.dropna(subset=["died", "mortality_risk"])
    died, risk, hour = (known[name].to_numpy(float) for name in ("died", "mortality_risk", "hours_in_stay"))
    patients = known["patient_id"].to_numpy()
    recalibrated = recalibrate(died, risk, patients, hour)
    return Calibrations(
        _estimate("mortality_auroc", died, risk, patients),
        *({name: _estimate(name, died, risks, patients) for name in _CALIBRATION} for risks in (risk, recalibrated)),
        int(known.loc[died == 1, "patient_id"].nunique()),
        died,
        risk,
        recalibrated,
    )


def recalibrate(died: np.ndarray, risk: np.ndarray, patients: np.ndarray, hours_in_stay: np.ndarray) -> np.ndarray:
    """Risks as `transfer.recalibrated` would change them: by its fit to the same hours of other patients' stays, [rows];
    NaN with too few patients or only one outcome."""
    at = np.isin(np.floor(hours_in_stay), LANDMARK_HOURS)
    learned = RiskOutcomes(np.floor(hours_in_stay[at]), risk[at], died[at], patients[at])
    return cross_fitted(learned, risk, patients)


def _estimate(metric: str, died: np.ndarray, risk: np.ndarray, patients: np.ndarray) -> Estimate:
    return METRICS[metric].estimate({"death": died, "mortality_risk": risk}, patients, _RESAMPLES)


def decide(risks: Calibrations, published: float) -> Decision:
    """Whether the forecasts may be shown as they were published; published: share of the due hours with a run in time."""
    enough = (f"at least {MIN_DEATHS} deaths", str(risks.n_deaths), risks.n_deaths >= MIN_DEATHS)
    ranked = (
        f"AUROC at least {MIN_AUROC}, its interval above {MIN_AUROC_LOW}",
        risks.auroc.show(),
        bool(risks.auroc.value >= MIN_AUROC and risks.auroc.low >= MIN_AUROC_LOW),
    )
    on_time = (f"at least {MIN_PUBLISHED:.0%} of the hours published", f"{published:.1%}", published >= MIN_PUBLISHED)
    criteria = [enough, ranked, *_calibrated(risks.as_published), on_time]
    if not enough[2]:
        return Decision("too early", criteria, "Too few deaths for a verdict: continue the trial.")
    if all(met for _, _, met in criteria):
        return Decision("go", criteria, "Every criterion is met; the end of the trial shows these forecasts.")
    if all(met for _, _, met in (ranked, *_calibrated(risks.after), on_time)):
        return Decision("no-go", criteria, RECALIBRATE)
    return Decision("no-go", criteria, "Not every criterion is met: resolve those before any forecast is shown.")


def _calibrated(found: dict[str, Estimate]) -> list[tuple[str, str, bool]]:
    return [
        (
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
