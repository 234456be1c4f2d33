"""A model used where it was not trained: its risk of death on the stays of another source, before and after recalibration."""

from dataclasses import dataclass, replace

import numpy as np

from rnn_core.bootstrap import Estimate, bootstrap_interval
from rnn_core.calibration import PlattCalibration, fit_mortality_calibration
from rnn_core.errors import ArtifactError, DataTooSmallError
from rnn_core.forecaster import StayForecaster, one_end
from rnn_core.frames import HOUR
from rnn_core.grid import make_grid
from rnn_core.material import Known
from rnn_core.metrics import auprc, auroc, brier, calibration_slope, observed_expected
from rnn_core.scoring import score_rows
from rnn_core.survival import mortality_risk
from rnn_core.trial import recalibrate
from rnn_core.windows import make_windows

METRICS = {
    "auroc": auroc, "auprc": auprc, "brier": brier, "observed_expected": observed_expected,
    "calibration_slope": calibration_slope,
}  # fmt: skip
_RESAMPLES = 500


@dataclass(frozen=True)
class Transferred:
    """Metrics of one model on the stays of one source that were in the unit at `hour`.

    as_trained, recalibrated: metric → estimate; the latter by fits that never saw the patient (`trial.recalibrate`).
    """

    hour: int
    n_stays: int
    n_deaths: int
    as_trained: dict[str, Estimate]
    recalibrated: dict[str, Estimate]


def deaths(known: Known, learned_end: str) -> np.ndarray:
    """1 for a death in what the model learned to end, 0 for an end alive, NaN where it is not known, float64 [stays].

    A model of hospital stays is asked for the death in hospital, also of stays that end with the unit. Raises
    ArtifactError for a model of unit stays where stays end with the hospital: who died in the unit is not told there.
    """
    stays, found = known.stays, one_end(known.stays)
    if learned_end == "unit" and found == "hospital":
        raise ArtifactError(
            "The model learned deaths in the unit, and these stays tell deaths in hospital only: the two cannot be compared."
        )
    ended = stays["outcome"].notna() & known.sound
    died = stays["outcome"] == "died"
    if learned_end == "hospital" and found == "unit":
        died = died | stays["died_at"].notna()
        # Until the hospital stay has ended nobody knows.
        ended = ended & (died | stays["hospital_outtime"].notna())
    return np.where(ended, died.astype(float), np.nan)


def risks_at(forecaster: StayForecaster, known: Known, hour: int) -> tuple[np.ndarray, np.ndarray]:
    """The risk of death as it was forecast when a stay had lasted `hour` hours: stay int64 [n] and risk float64 [n].

    Of stays that ended before, or had too little charted to be forecast, there is none.
    """
    grid = make_grid(known.stays, known.observations, known.as_of)
    rules = forecaster.config.window
    windows = make_windows(grid, known.stays, forecaster.scaler, rules)
    stay = np.repeat(np.arange(grid.n_stays), grid.lengths)
    due = windows.prediction_hour >= hour
    first = np.flatnonzero(due & ~np.concatenate([[False], due[:-1] & (stay[1:] == stay[:-1])]))
    still_in = (
        known.stays["outtime"].to_numpy("datetime64[us]") - known.stays["intime"].to_numpy("datetime64[us]")
    ) / HOUR
    fit = (
        (windows.n_observations[first] >= rules.min_observations)
        & (windows.hours_since_last[first] <= rules.stale_hours)
        & ~(still_in[stay[first]] < windows.prediction_hour[first])
    )
    rows = first[fit]
    if len(rows) == 0:
        return np.empty(0, np.int64), np.empty(0)
    masses = score_rows(forecaster.model, windows, windows.window_of(rows), rows)
    risk = mortality_risk(forecaster.calibration.apply(masses, windows.prediction_hour[rows]))
    return stay[rows], risk.astype(np.float64)


def judge_transfer(forecaster: StayForecaster, known: Known, hour: int) -> Transferred:
    """Discrimination and calibration at one hour of the stays, with intervals over patients."""
    stay, risk = risks_at(forecaster, known, hour)
    died = deaths(known, forecaster.ends_at)[stay]
    told = ~np.isnan(died)
    died, risk, patients = died[told], risk[told], known.stays["patient_id"].to_numpy()[stay[told]]
    return Transferred(
        hour, len(died), int(died.sum()), _judged(died, risk, patients),
        _judged(died, recalibrate(died, risk, patients), patients),
    )  # fmt: skip


def _judged(died: np.ndarray, risk: np.ndarray, patients: np.ndarray) -> dict[str, Estimate]:
    return {name: bootstrap_interval(metric, [died, risk], patients, n=_RESAMPLES) for name, metric in METRICS.items()}


def drop(here: Estimate, at_home: Estimate) -> Estimate:
    """How much more there is at home than here. The two are of other patients, so their errors add (each taken as normal,
    from its interval)."""
    spread = np.hypot(here.high - here.low, at_home.high - at_home.low) / 2
    value = at_home.value - here.value
    return Estimate(value, value - spread, value + spread, min(here.n, at_home.n))


def recalibrated(forecaster: StayForecaster, known: Known, hours: tuple[int, ...]) -> tuple[StayForecaster, int]:
    """The forecaster with slope and intercept of its risk of death fitted to the stays of this source, and how many deaths
    it was fitted to.

    The prior of `fit_mortality_calibration` holds a small sample near what the model says. Times are left as they are.
    Raises ArtifactError where stays end at something else, DataTooSmallError without a death or without a survivor.
    """
    if (found := one_end(known.stays)) != forecaster.ends_at:
        raise ArtifactError(
            f"The model learned stays that end at the {forecaster.ends_at}, these end at the {found}: its length-of-stay "
            "columns would mean something else, so it cannot serve here. `icu-forecast transfer` tells its risks of death."
        )
    parts = [(hour, *risks_at(forecaster, known, hour)) for hour in hours]
    stay, risk = (np.concatenate([part[n] for part in parts]) for n in (1, 2))
    died = deaths(known, forecaster.ends_at)[stay]
    patients = known.stays["patient_id"].to_numpy()[stay]
    if len(np.unique(died[~np.isnan(died)])) < 2:
        raise DataTooSmallError("Recalibration needs stays that ended with a death and stays that ended alive.")
    line = fit_mortality_calibration(risk, died, patients)
    n_deaths = len(np.unique(patients[died == 1]))
    calibration = replace(forecaster.calibration, mortality=composed(forecaster.calibration.mortality, line))
    return replace(forecaster, calibration=calibration), n_deaths


def composed(first: PlattCalibration, then: PlattCalibration) -> PlattCalibration:
    """One calibration after the other, where the second does not change with the hour."""
    return PlattCalibration(
        then.slope * first.slope, then.intercept + then.slope * first.intercept,
        then.slope * first.slope_per_doubling, then.slope * first.intercept_per_doubling,
    )  # fmt: skip
