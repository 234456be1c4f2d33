"""Fits a stay forecaster on what was known at its cut-off: an ensemble over folds of patients, calibrated out of fold."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from rnn_core.contracts.config import ModelConfig, Sampling
from rnn_core.contracts.frames import EpochRecord
from rnn_core.contracts.known import Cohort
from rnn_core.contracts.thresholds import RISK_THRESHOLDS
from rnn_core.forecasters.forecaster import Forecaster, OutOfFold, Start, kind_of
from rnn_core.forecasters.stay import StayForecaster, one_end
from rnn_core.forecasters.training_material import build_material
from rnn_core.series.material import JUDGE_EVERY_HOURS, Material
from rnn_core.series.scaling import Scaler
from rnn_core.series.splits import patient_folds
from rnn_core.statistics.calibration import Calibration, PlattCalibration, fit_calibration
from rnn_core.statistics.calibration_metrics import log_odds
from rnn_core.statistics.distribution import Distribution

# With fewer stays the top 5 % are a handful, and their lowest risk is a matter of chance.
MIN_STAYS_FOR_BANDS = 200
# Enough forecasts to measure the spread between members of an ensemble.
_STRETCH_ROWS = 4000
# With so many patients who died, half of the stretch that theory gives is applied.
_STRETCH_DEATHS = 200

Beforehand = Callable[[Material, np.ndarray, ModelConfig, Forecaster | None], None]


def fit_forecaster(
    known: Cohort,
    learned: np.ndarray,
    config: ModelConfig,
    *,
    sampling: Sampling = Sampling(),
    checkpoint_dir: Path | None = None,
    warm_from: Start | None = None,
    progress: Callable[[EpochRecord], None] | None = None,
    beforehand: Beforehand | None = None,
) -> tuple[StayForecaster, OutOfFold]:
    """A forecaster that learned from the stays `learned`, bool [stays of known], and was calibrated on nothing else.

    Calibration and risk bands come from the out-of-fold forecasts. warm_from: what the networks start from. beforehand: gets
    what will be fitted; it may leave checkpoints of members in `checkpoint_dir`, from which the fit goes on. The material is
    in files of that folder, or in memory without one.
    """
    if warm_from is not None and warm_from.fine:
        config = replace(config, train=replace(config.train, learning_rate=config.train.learning_rate / 4))
    folder = checkpoint_dir and checkpoint_dir / "material"
    completed = {"completed": warm_from.scaler} if warm_from else {}
    try:
        material, scaler = build_material(known, learned, config, sampling, folder, **completed)
        start = warm_from.networks(material, learned, config) if warm_from else None
        if beforehand is not None:
            beforehand(material, learned, config, start)
        fitted = kind_of(config).fit(
            material,
            learned,
            config,
            checkpoint_dir=checkpoint_dir,
            warm_from=start,
            progress=progress,
        )
        return make_forecaster(material, fitted, scaler, sampling), fitted
    finally:
        if folder is not None:  # patients' data
            shutil.rmtree(folder, ignore_errors=True)


def make_forecaster(material: Material, fitted: OutOfFold, scaler: Scaler, sampling: Sampling) -> StayForecaster:
    """The fitted model ready to serve: calibrated, and with risk bands, from its out-of-fold forecasts.

    If these are all of stays that ended alike, it serves without a risk of death and without bands.
    """
    row, forecast = fitted.row, fitted.forecast
    died = material.labels.death[row]
    forecasts_death = bool((died == 0).any() and (died == 1).any())
    elapsed = material.windows.prediction_hour[row]
    calibration = _fit_calibration(material, row, forecast, elapsed)
    calibrated = calibration.apply(forecast, elapsed).mortality_risk()
    stretch = _ensemble_stretch(material, fitted, calibration.mortality, elapsed)
    thresholds = _fit_thresholds(material, row, calibrated, fitted.config.train.alert_budget)
    calibration = replace(calibration, mortality=calibration.mortality.stretched(*stretch))
    ends_at = one_end(material.known.stays)
    bands = thresholds if forecasts_death else ()
    return StayForecaster(
        fitted.forecaster, scaler, fitted.config, calibration, ends_at, sampling, bands, forecasts_death
    )


def _fit_calibration(material: Material, row: np.ndarray, forecast: Distribution, elapsed: np.ndarray) -> Calibration:
    """A day of a patient counts as one, however long the stay turns out to be."""
    labels = material.labels
    return fit_calibration(
        forecast, material.settled_death[row], labels.weights[row], labels.entry[row], elapsed, JUDGE_EVERY_HOURS / 24
    )


def _ensemble_stretch(
    material: Material, fitted: OutOfFold, calibration: PlattCalibration, elapsed: np.ndarray
) -> tuple[float, float]:
    """Factor and centre by which to stretch the log-odds of the ensemble, given the calibration of single members.

    Calibration is fitted on out-of-fold forecasts of single members. The mean of K members varies less than one of them,
    by (1 - 1/K) of the variance between members, and would be underconfident by as much (the attenuation of a
    regression on a noisy predictor: Fuller, "Measurement error models", 1987, 1.1). That variance is taken from the
    members that learned from a stay; measured on 4,000 unseen stays it is about the same (0.195 and 0.188). Members that
    learned from a few dozen deaths differ in how sure they are, too, and that is no noise around one truth: on 570 stays
    of the eICU demo the full factor left a calibration slope of 0.70, none 0.95. So it counts by the deaths behind it.
    """
    members, row = fitted.forecaster.members(), fitted.row
    odds = log_odds(calibration.calibrate(fitted.forecast.mortality_risk(), elapsed))
    total = float(odds.var())
    if len(members) < 3 or len(members) != fitted.config.train.folds or total <= 0:
        return 1.0, 0.0
    step = -(-len(row) // _STRETCH_ROWS)
    chosen, hours = row[::step], elapsed[::step]
    member_risks = np.stack(
        [calibration.calibrate(member.forecast(material.windows, chosen).mortality_risk(), hours) for member in members]
    )
    fold = patient_folds(material.known.stays["patient_id"], len(members))[material.stay_of_row[chosen]]
    member_odds = log_odds(member_risks)
    member_odds[fold, np.arange(len(chosen))] = np.nan
    between = float(np.nanvar(member_odds, axis=0, ddof=1).mean())
    factor = total / max(total - (1 - 1 / len(members)) * between, total / 2)
    deaths = len(np.unique(material.stay_of_row[row[material.labels.death[row] == 1]]))
    return 1 + (factor - 1) * deaths / (deaths + _STRETCH_DEATHS), float(odds.mean())


def _fit_thresholds(
    material: Material, row: np.ndarray, risk: np.ndarray, budget: tuple[float, ...]
) -> tuple[float, ...]:
    """Risks that the given shares of the forecasts reach, as a unit sees them; fixed ones if stays are few."""
    if len(np.unique(material.stay_of_row[row])) < MIN_STAYS_FOR_BANDS:
        return RISK_THRESHOLDS
    thresholds = np.quantile(risk, 1 - np.array(budget), method="inverted_cdf")
    return tuple(float(t) for t in thresholds) if (np.diff(thresholds) > 0).all() else RISK_THRESHOLDS
