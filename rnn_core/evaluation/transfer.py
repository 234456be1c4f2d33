"""A model used where it was not trained: its risk of death on the stays of another source, before and after recalibration."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.model_selection import GroupKFold

from rnn_core.contracts.errors import ArtifactError, DataTooSmallError
from rnn_core.contracts.known import Known
from rnn_core.forecasters.stay import StayForecaster, one_end
from rnn_core.network.scoring import score_rows
from rnn_core.series.grid import make_grid
from rnn_core.series.splits import split_stays
from rnn_core.series.windows import make_windows
from rnn_core.statistics.bootstrap import Estimate, bootstrap_interval
from rnn_core.statistics.calibration import PlattCalibration, fit_mortality_calibration
from rnn_core.statistics.metrics import auprc, auroc, brier, calibration_slope, observed_expected

METRICS = {
    "auroc": auroc,
    "auprc": auprc,
    "brier": brier,
    "observed_expected": observed_expected,
    "calibration_slope": calibration_slope,
}
_FOLDS, _RESAMPLES = 5, 500
# A death charted so long after the hospital stay still ended it: the one is often written down without the other.
_LATE = np.timedelta64(24, "h")


@dataclass(frozen=True)
class Transferred:
    """Metrics of one model on the stays of one source that were in the unit at `hour`.

    n_untold: stays that were forecast and whose outcome is not known, which take no part.
    as_trained, recalibrated: metric → estimate; the latter by the fit of `recalibrated`, on folds that never saw the
        patient.
    """

    hour: int
    n_stays: int
    n_deaths: int
    n_untold: int
    as_trained: dict[str, Estimate]
    recalibrated: dict[str, Estimate]


def deaths(known: Known, learned_end: str) -> np.ndarray:
    """1 for a death in what the model learned to end, 0 for an end alive, NaN where it is not known, float64 [stays].

    A model of hospital stays is asked for the death in hospital, also of stays that end with the unit; of these only ones
    whose hospital stay has ended are told, so that deaths are not known before survivals. Raises ArtifactError for a model
    of unit stays where stays end with the hospital, since who died in the unit is not told there, and where a hospital's
    ends are asked for and no stay tells them.
    """
    stays, found = known.stays, one_end(known.stays)
    if learned_end == "unit" and found == "hospital":
        raise ArtifactError(
            "The model learned deaths in the unit, and these stays tell deaths in hospital only: the two cannot be compared."
        )
    told, died = (stays["outcome"].notna() & known.sound).to_numpy(), (stays["outcome"] == "died").to_numpy()
    if learned_end == "hospital" and found == "unit":
        left, died_at = (stays[name].to_numpy("datetime64[us]") for name in ("hospital_outtime", "died_at"))
        if np.isnat(left).all():
            raise ArtifactError(
                "The model learned deaths in hospital, and no stay here tells when its hospital stay ended "
                "(hospital_outtime in stays.sql)."
            )
        told, died = told & ~np.isnat(left), died | (died_at <= left + _LATE)
    return np.where(told, died.astype(float), np.nan)


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
    enough = windows.n_observations[first] >= rules.min_observations
    rows = first[enough & (windows.hours_since_last[first] <= rules.stale_hours)]
    if len(rows) == 0:
        return np.empty(0, np.int64), np.empty(0)
    masses = score_rows(forecaster.model, windows, windows.window_of(rows), rows)
    return stay[rows], forecaster.calibrated(masses, windows.prediction_hour[rows]).mortality_risk()


@dataclass(frozen=True)
class _Told:
    """Risks at several hours beside what became of the stays, [n] each; died is NaN where that is not known."""

    hour: np.ndarray
    risk: np.ndarray
    died: np.ndarray
    patient: np.ndarray


def _risks_told(forecaster: StayForecaster, known: Known, hours: Sequence[int]) -> _Told:
    parts = [(hour, *risks_at(forecaster, known, hour)) for hour in hours]
    hour = np.concatenate([np.full(len(stay), hour) for hour, stay, _ in parts])
    stay, risk = (np.concatenate([part[n] for part in parts]) for n in (1, 2))
    patients = known.stays["patient_id"].to_numpy()[stay]
    return _Told(hour, risk, deaths(known, forecaster.ends_at)[stay], patients)


def judge_transfer(forecaster: StayForecaster, known: Known, hours: Sequence[int]) -> list[Transferred]:
    """Discrimination and calibration at each of `hours`, with intervals over patients."""
    told = _risks_told(forecaster, known, hours)
    refitted = _cross_fitted(told)
    return [_judged_at(hour, told, refitted) for hour in hours]


def _judged_at(hour: int, told: _Told, refitted: np.ndarray) -> Transferred:
    at, ended = told.hour == hour, ~np.isnan(told.died)
    rows = at & ended
    died, patients = told.died[rows], told.patient[rows]
    as_trained, again = (
        {
            name: bootstrap_interval(metric, [died, risk[rows]], patients, n=_RESAMPLES)
            for name, metric in METRICS.items()
        }
        for risk in (told.risk, refitted)
    )
    return Transferred(hour, len(died), int(died.sum()), int((at & ~ended).sum()), as_trained, again)


def _cross_fitted(told: _Told) -> np.ndarray:
    """Each risk by the fit of `recalibrated` to other patients; NaN where there are too few patients or deaths for one."""
    refitted, ended = np.full(len(told.risk), np.nan), np.flatnonzero(~np.isnan(told.died))
    if len(np.unique(told.patient[ended])) < _FOLDS:
        return refitted
    for fitted, held in GroupKFold(_FOLDS).split(ended, groups=told.patient[ended]):
        rows = ended[fitted]
        if len(np.unique(told.died[rows])) == 2:
            line = fit_mortality_calibration(told.risk[rows], told.died[rows], told.patient[rows])
            refitted[ended[held]] = line.calibrate(told.risk[ended[held]])
    return refitted


def drop(here: Estimate, at_home: Estimate) -> Estimate:
    """How much more there is at home than here. The two are of other patients, so their errors add (each taken as normal,
    from its interval)."""
    spread = np.hypot(here.high - here.low, at_home.high - at_home.low) / 2
    value = at_home.value - here.value
    return Estimate(value, value - spread, value + spread, min(here.n, at_home.n))


def recalibrated(forecaster: StayForecaster, known: Known, hours: Sequence[int]) -> tuple[StayForecaster, int]:
    """The forecaster with slope and intercept of its risk of death fitted to the stays of this source, and how many
    patients died among them.

    Only patients that `split_stays` lets a model learn from are fitted to, so that the others can judge the copy. The prior
    of `fit_mortality_calibration` holds a small sample near what the model says. Times are left as they are.
    Raises ArtifactError where stays end at something else, DataTooSmallError without a death or without a survivor.
    """
    if (found := one_end(known.stays)) != forecaster.ends_at:
        raise ArtifactError(
            f"The model learned stays that end at the {forecaster.ends_at}, these end at the {found}: its length-of-stay "
            "columns would mean something else, so it cannot serve here. `icu-forecast transfer` tells its risks of death."
        )
    told = _risks_told(forecaster, known.take(split_stays(known.stays, known.as_of).learned), hours)
    if len(np.unique(told.died[~np.isnan(told.died)])) < 2:
        raise DataTooSmallError("Recalibration needs stays that ended with a death and stays that ended alive.")
    line = fit_mortality_calibration(told.risk, told.died, told.patient)
    calibration = replace(forecaster.calibration, mortality=composed(forecaster.calibration.mortality, line))
    return replace(forecaster, calibration=calibration), len(np.unique(told.patient[told.died == 1]))


def composed(first: PlattCalibration, then: PlattCalibration) -> PlattCalibration:
    """One calibration after the other, where the second does not change with the hour."""
    return PlattCalibration(
        then.slope * first.slope,
        then.intercept + then.slope * first.intercept,
        then.slope * first.slope_per_doubling,
        then.slope * first.intercept_per_doubling,
    )
