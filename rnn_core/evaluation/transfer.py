"""A model used where it was not trained: its risk of death on the stays of another source, before and after recalibration."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rnn_core.contracts.config import Sampling
from rnn_core.contracts.errors import ArtifactError, DataTooSmallError
from rnn_core.contracts.frames import HOUR
from rnn_core.contracts.known import Known
from rnn_core.forecasters.stay import StayForecaster, one_end
from rnn_core.series.material import known_until, make_served_grid
from rnn_core.series.serving_rule import is_served
from rnn_core.series.splits import patient_folds, split_stays
from rnn_core.series.windows import make_windows
from rnn_core.statistics.bootstrap import Estimate
from rnn_core.statistics.calibration import PlattCalibration, fit_mortality_calibration
from rnn_core.statistics.metric import main_metrics, score
from rnn_core.statistics.outcomes import settled_age

_FOLDS, _RESAMPLES = 5, 500
# A death charted this long after the hospital stay still ended it: the two are often charted separately.
_LATE = np.timedelta64(24, "h")


@dataclass(frozen=True)
class Transferred:
    """Metrics of one model on the stays of one source that were in the unit at `hour`.

    n_open: stays that were forecast but whose outcome is not known, or cannot yet be known of a long stay (`settled_age`);
        they are left out.
    as_trained, recalibrated: metric → estimate; the latter by the fit of `recalibrated`, on folds that never saw the
        patient.
    """

    hour: int
    n_stays: int
    n_deaths: int
    n_open: int
    as_trained: dict[str, Estimate]
    recalibrated: dict[str, Estimate]


def deaths(known: Known, learned_end: str) -> np.ndarray:
    """1 for a death as the model defines it (its `ends_at`), 0 for an end alive, NaN if not known, float64 [stays].

    A model of hospital stays forecasts death in hospital, also for stays that end with the unit; of these only ones whose
    hospital stay has ended count, so that deaths are not known before survivals. Raises ArtifactError for a model of unit
    stays if stays end with the hospital, since deaths in the unit are not recorded there, and for a model of hospital
    stays if no stay has a hospital end.
    """
    stays, found = known.stays, one_end(known.stays)
    if learned_end == "unit" and found == "hospital":
        raise ArtifactError(
            "The model learned deaths in the unit, but these stays have deaths in hospital only: the two cannot be compared."
        )
    ended, died = (stays["outcome"].notna() & known.sound).to_numpy(), (stays["outcome"] == "died").to_numpy()
    if learned_end == "hospital" and found == "unit":
        left, died_at = (stays[name].to_numpy("datetime64[us]") for name in ("hospital_outtime", "died_at"))
        if np.isnat(left).all():
            raise ArtifactError(
                "The model learned deaths in hospital, but no stay here has the end of its hospital stay "
                "(hospital_outtime in stays.sql)."
            )
        ended, died = ended & ~np.isnat(left), died | (died_at <= left + _LATE)
    return np.where(ended, died.astype(float), np.nan)


def risks_at(forecaster: StayForecaster, known: Known, hour: int) -> tuple[np.ndarray, np.ndarray]:
    """The risk of death as it was forecast when a stay had lasted `hour` hours: stay int64 [n] and risk float64 [n].

    Stays that ended earlier, or with too little charted for a forecast, have none.
    """
    known, rules = forecaster.reads(known), forecaster.config.window
    grid = make_served_grid(known, rules, Sampling())
    windows = make_windows(grid, known.stays, forecaster.scaler, rules)
    stay = np.repeat(np.arange(grid.n_stays), grid.lengths)
    due = windows.prediction_hour >= hour
    first = np.flatnonzero(due & ~np.concatenate([[False], due[:-1] & (stay[1:] == stay[:-1])]))
    # The limit of the hours learned from is left out: how far a model carries is what a transfer shows.
    rows = first[is_served(windows, first, rules, Sampling())]
    return stay[rows], forecaster.forecast(windows, rows).mortality_risk()


@dataclass(frozen=True)
class RiskOutcomes:
    """Risks at some hours of stays with outcomes, [n] each; died is NaN if not known, or not settled (`settled_age`)."""

    hour: np.ndarray
    risk: np.ndarray
    died: np.ndarray
    patient: np.ndarray

    def take(self, rows: np.ndarray) -> "RiskOutcomes":
        return RiskOutcomes(self.hour[rows], self.risk[rows], self.died[rows], self.patient[rows])

    def fit_line(self) -> PlattCalibration:
        """All rows have one weight, however long their stays went on; together they count as many as the patients."""
        weight = len(np.unique(self.patient)) / max(len(self.risk), 1)
        return fit_mortality_calibration(self.risk, self.died, row_weight=weight)


def _risks_with_outcomes(forecaster: StayForecaster, known: Known, hours: Sequence[int]) -> RiskOutcomes:
    parts = [(hour, *risks_at(forecaster, known, hour)) for hour in hours]
    hour = np.concatenate([np.full(len(stay), hour) for hour, stay, _ in parts])
    stay, risk = (np.concatenate([part[n] for part in parts]) for n in (1, 2))
    patients = known.stays["patient_id"].to_numpy()[stay]
    died = deaths(known, forecaster.ends_at)
    ends_later = forecaster.ends_at == "hospital" and one_end(known.stays) == "unit"
    end = known.stays["hospital_outtime" if ends_later else "outtime"].to_numpy("datetime64[us]")
    ended = ~np.isnat(end)
    last = np.where(~ended & np.isnan(died), known_until(known, forecaster.config.window), end)
    age, stayed = (((until - known.intime) / HOUR)[stay] - hour for until in (known.as_of, last))
    settled = age >= settled_age(age, stayed, ended[stay])
    return RiskOutcomes(hour, risk, np.where(settled, died[stay], np.nan), patients)


def judge_transfer(forecaster: StayForecaster, known: Known, hours: Sequence[int]) -> list[Transferred]:
    """Discrimination and calibration at each of `hours`, with intervals over patients."""
    risks = _risks_with_outcomes(forecaster, known, hours)
    refitted = cross_fitted(risks, risks.risk, risks.patient)
    return [_judged_at(hour, risks, refitted) for hour in hours]


def _judged_at(hour: int, risks: RiskOutcomes, refitted: np.ndarray) -> Transferred:
    at, ended = risks.hour == hour, ~np.isnan(risks.died)
    rows = at & ended
    died, patients = risks.died[rows], risks.patient[rows]
    as_trained, again = (
        score({"death": died, "mortality_risk": risk[rows]}, main_metrics(), patients, n=_RESAMPLES)
        for risk in (risks.risk, refitted)
    )
    return Transferred(hour, len(died), int(died.sum()), int((at & ~ended).sum()), as_trained, again)


def cross_fitted(learned: RiskOutcomes, risk: np.ndarray, patient: np.ndarray) -> np.ndarray:
    """Each of `risk` by the fit of `recalibrated` to what was `learned` from other patients than its own (`patient`), [n];
    NaN if these are too few or all ended alike."""
    refitted = np.full(len(risk), np.nan)
    learned = learned.take(~np.isnan(learned.died))
    if len(np.unique(learned.patient)) < _FOLDS:
        return refitted
    fold, held = (patient_folds(patients, _FOLDS) for patients in (learned.patient, patient))
    for k in range(_FOLDS):
        others = learned.take(fold != k)
        if len(np.unique(others.died)) == 2:
            refitted[held == k] = others.fit_line().calibrate(risk[held == k])
    return refitted


def drop(here: Estimate, at_home: Estimate) -> Estimate:
    """Value at home less value here. The patients differ, so the errors add (each assumed normal, from its interval)."""
    spread = np.hypot(here.high - here.low, at_home.high - at_home.low) / 2
    value = at_home.value - here.value
    return Estimate(value, value - spread, value + spread, min(here.n, at_home.n))


def recalibrated(forecaster: StayForecaster, known: Known, hours: Sequence[int]) -> tuple[StayForecaster, int]:
    """The forecaster with slope and intercept of its risk of death fitted to the stays of this source, and how many
    patients died among them.

    Only patients that `split_stays` assigns to training are used, so that the others can evaluate the copy. The prior of
    `fit_mortality_calibration` keeps a small sample near the model. Times are unchanged. Raises ArtifactError if stays have
    another `ends_at`, DataTooSmallError without a death or without a survivor.
    """
    if (found := one_end(known.stays)) != forecaster.ends_at:
        raise ArtifactError(
            f"The model learned stays that end at the {forecaster.ends_at}, these end at the {found}: its length-of-stay "
            "columns would mean something else, so it cannot serve here. `icu-forecast transfer` evaluates its risks of death."
        )
    risks = _risks_with_outcomes(forecaster, known.take(split_stays(known.stays, known.as_of).learned), hours)
    if len(np.unique(risks.died[~np.isnan(risks.died)])) < 2:
        raise DataTooSmallError("Recalibration needs stays that ended with a death and stays that ended alive.")
    line = risks.fit_line()
    calibration = replace(forecaster.calibration, mortality=composed(forecaster.calibration.mortality, line))
    return replace(forecaster, calibration=calibration), len(np.unique(risks.patient[risks.died == 1]))


def composed(first: PlattCalibration, then: PlattCalibration) -> PlattCalibration:
    """Two calibrations in sequence; the second does not depend on the hour."""
    return PlattCalibration(
        then.slope * first.slope,
        then.intercept + then.slope * first.intercept,
        then.slope * first.slope_per_doubling,
        then.slope * first.intercept_per_doubling,
    )
