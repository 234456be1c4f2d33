"""Evaluates a silent trial: the forecasts before and after recalibration on the site's own outcomes."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from rnn_core.contracts.thresholds import (
    CALIBRATION_SLOPE,
    MIN_AUROC,
    MIN_AUROC_LOW,
    MIN_DEATHS,
    MIN_PUBLISHED,
    OBSERVED_EXPECTED,
)
from rnn_core.statistics.bootstrap import Estimate
from rnn_core.statistics.calibration_metrics import log_odds
from rnn_core.statistics.metric import METRICS

_FOLDS, _RESAMPLES = 5, 500
_CALIBRATION = ("mortality_observed_expected", "mortality_calibration_slope", "mortality_brier")


@dataclass(frozen=True)
class Calibrations:
    """Discrimination of the risks, and calibration as published and after recalibration (out of fold).

    died, published, recalibrated: float64 [forecasts whose outcome is known], as `recalibrate` takes and gives them.
    """

    auroc: Estimate
    before: dict[str, Estimate]
    after: dict[str, Estimate]
    n_deaths: int
    died: np.ndarray
    published: np.ndarray
    recalibrated: np.ndarray


@dataclass(frozen=True)
class Decision:
    """`go`, `no-go` or `too early`, and each criterion with its value and whether it was met."""

    verdict: str
    criteria: list[tuple[str, str, bool]]


def judge_risks(pairs: pd.DataFrame) -> Calibrations:
    """Of forecasts whose outcome is known (columns mortality_risk, died, patient_id); n_deaths counts patients."""
    known = pairs.dropna(subset=["died"])
    died, risk = known["died"].to_numpy(float), known["mortality_risk"].to_numpy(float)
    patients = known["patient_id"].to_numpy()
    recalibrated = recalibrate(died, risk, patients)
    return Calibrations(
        _estimate("mortality_auroc", died, risk, patients),
        *({name: _estimate(name, died, risks, patients) for name in _CALIBRATION} for risks in (risk, recalibrated)),
        int(known.loc[died == 1, "patient_id"].nunique()),
        died,
        risk,
        recalibrated,
    )


def recalibrate(died: np.ndarray, risk: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Risks after logistic recalibration (slope and intercept; Cox 1958), each by a fit without that patient,
    [rows]; NaN with too few patients or only one outcome."""
    recalibrated, x = np.full(len(risk), np.nan), log_odds(risk)[:, None]
    if len(np.unique(patients)) < _FOLDS:
        return recalibrated
    for fitted, held in GroupKFold(_FOLDS).split(x, died, patients):
        if len(np.unique(died[fitted])) == 2:
            line = LogisticRegression(C=np.inf).fit(x[fitted], died[fitted])
            recalibrated[held] = expit(x[held, 0] * line.coef_[0, 0] + line.intercept_[0])
    return recalibrated


def _estimate(metric: str, died: np.ndarray, risk: np.ndarray, patients: np.ndarray) -> Estimate:
    return METRICS[metric].estimate({"death": died, "mortality_risk": risk}, patients, _RESAMPLES)


def decide(risks: Calibrations, published: float) -> Decision:
    """Whether the forecasts may be shown, by the results of the trial; published: share of hours with a run."""
    acceptable = {
        "mortality_observed_expected": OBSERVED_EXPECTED,
        "mortality_calibration_slope": CALIBRATION_SLOPE,
    }
    criteria = [
        (f"at least {MIN_DEATHS} deaths", str(risks.n_deaths), risks.n_deaths >= MIN_DEATHS),
        (
            f"AUROC at least {MIN_AUROC}, its interval above {MIN_AUROC_LOW}",
            risks.auroc.show(),
            bool(risks.auroc.value >= MIN_AUROC and risks.auroc.low >= MIN_AUROC_LOW),
        ),
        *(
            (
                f"{METRICS[name].label} after recalibration within {fine.low} to {fine.high}",
                METRICS[name].show(risks.after[name]),
                fine.holds(risks.after[name].value),
            )
            for name, fine in acceptable.items()
        ),
        (f"at least {MIN_PUBLISHED:.0%} of the hours published", f"{published:.1%}", published >= MIN_PUBLISHED),
    ]
    if not criteria[0][2]:
        return Decision("too early", criteria)
    return Decision("go" if all(met for _, _, met in criteria) else "no-go", criteria)


def calibration_rows(risks: Calibrations) -> list[tuple[str, str, str]]:
    """What is measured, as published, after recalibration; for people."""
    return [
        (METRICS[name].label, METRICS[name].show(found), METRICS[name].show(risks.after[name]))
        for name, found in risks.before.items()
    ]
