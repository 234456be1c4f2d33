"""Fits a stay forecaster on what was known at its cut-off: an ensemble over folds of patients, calibrated out of fold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import keras
import numpy as np

from rnn_core.contracts.config import ModelConfig, Sampling
from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.known import Known
from rnn_core.contracts.thresholds import RISK_THRESHOLDS
from rnn_core.forecasters.stay import StayForecaster, one_end
from rnn_core.network.build import build_ensemble, members_of
from rnn_core.network.scoring import score_rows, score_windows
from rnn_core.network.training import EpochRecord, fit_stay_model
from rnn_core.series.material import Material, make_material, make_served_grid
from rnn_core.series.scaling import Scaler, fit_scaler, static_features
from rnn_core.series.splits import patient_folds
from rnn_core.statistics.calibration import Calibration, fit_calibration
from rnn_core.statistics.distribution import Distribution
from rnn_core.statistics.metrics import log_odds

# With fewer stays the top 5 % are a handful, and their lowest risk is a matter of chance.
MIN_STAYS_FOR_BANDS = 200
# Enough forecasts to measure the spread between members of an ensemble.
_STRETCH_ROWS = 4000


@dataclass(frozen=True)
class Ensemble:
    """Networks that each learned from all folds but one, and the forecasts of each for the fold it never saw.

    model: all members as one (`network.build_ensemble`). config: with the sizes that the data gave.
    row, forecast: out of fold, absolute rows int64 [n], rising, and the forecasts at them.
    """

    model: keras.Model
    config: ModelConfig
    row: np.ndarray
    forecast: Distribution
    histories: tuple[tuple[EpochRecord, ...], ...]
    best_epochs: tuple[int, ...]


def fit_forecaster(
    known: Known,
    learned: np.ndarray,
    config: ModelConfig,
    *,
    sampling: Sampling = Sampling(),
    checkpoint_dir: Path | None = None,
    warm_from: StayForecaster | None = None,
    progress: Callable[[EpochRecord], None] | None = None,
) -> tuple[StayForecaster, Ensemble]:
    """A forecaster that learned from the stays `learned`, bool [stays of known], and was calibrated on nothing else.

    Calibration and risk bands come from the out-of-fold forecasts.
    """
    grid = make_served_grid(known, config.window, sampling)
    scaler = warm_from.scaler if warm_from else fit_scaler(grid, static_features(known.stays), np.flatnonzero(learned))
    material = make_material(known, grid, scaler, config, sampling)
    ensemble = fit_ensemble(
        material,
        learned,
        config,
        checkpoint_dir=checkpoint_dir,
        warm_from=warm_from.model if warm_from else None,
        progress=progress,
    )
    return make_forecaster(material, ensemble, scaler, sampling), ensemble


def make_forecaster(material: Material, ensemble: Ensemble, scaler: Scaler, sampling: Sampling) -> StayForecaster:
    """The ensemble ready to serve: calibrated, and with risk bands, from its out-of-fold forecasts."""
    judged = material.is_judged(ensemble.row)
    row, forecast = ensemble.row[judged], ensemble.forecast.take(judged)
    elapsed = material.windows.prediction_hour[row]
    calibration = _fit_calibration(material, row, forecast, elapsed)
    calibrated = calibration.apply(forecast, elapsed).mortality_risk()
    stretch = _ensemble_stretch(material, ensemble, row, calibrated)
    thresholds = _fit_thresholds(material, row, calibrated, ensemble.config.train.alert_budget)
    calibration = replace(calibration, mortality=calibration.mortality.stretched(*stretch))
    ends_at = one_end(material.known.stays)
    return StayForecaster(ensemble.model, scaler, ensemble.config, calibration, ends_at, sampling, thresholds)


def fit_ensemble(
    material: Material,
    learned: np.ndarray,
    config: ModelConfig,
    *,
    folds: Sequence[int] | None = None,
    checkpoint_dir: Path | None = None,
    warm_from: keras.Model | None = None,
    progress: Callable[[EpochRecord], None] | None = None,
) -> Ensemble:
    """One network per fold of the patients, each fitted without its fold and stopped early on it; `folds`: only these."""
    windows, n_folds = material.windows, config.train.folds
    fold = patient_folds(material.known.stays["patient_id"], n_folds)
    left_out = range(n_folds) if folds is None else folds
    starts = members_of(warm_from) if warm_from is not None else (None,) * len(left_out)
    if len(starts) != len(left_out):
        raise ContractError(
            f"A warm start needs {len(left_out)} members; the model has {len(starts)}. Train from scratch instead."
        )
    fitted, rows, forecasts = [], [], []
    for k, start in zip(left_out, starts, strict=True):
        member = replace(config, train=replace(config.train, seed=config.train.seed * n_folds + k))
        held_out = learned & (fold == k)
        fitted.append(
            fit_stay_model(
                windows,
                material.labels,
                learned & (fold != k),
                held_out,
                member,
                warm_from=start,
                checkpoint_dir=checkpoint_dir and checkpoint_dir / f"member_{k}",
                progress=progress and partial(_tell_member, progress, k + 1, n_folds),
            )
        )
        row, masses = score_windows(fitted[-1].model, windows, np.flatnonzero(held_out[windows.stay]))
        rows.append(row)
        forecasts.append(Distribution(masses, config.network.horizon_edges))
    order = np.argsort(np.concatenate(rows))
    return Ensemble(
        model=build_ensemble([one.model for one in fitted]),
        config=replace(fitted[0].config, train=config.train),
        row=np.concatenate(rows)[order],
        forecast=Distribution.concatenate(forecasts).take(order),
        histories=tuple(one.history for one in fitted),
        best_epochs=tuple(one.best_epoch for one in fitted),
    )


def _tell_member(progress: Callable[[EpochRecord], None], member: int, members: int, record: EpochRecord) -> None:
    progress(record | {"member": member, "members": members})


def _fit_calibration(material: Material, row: np.ndarray, forecast: Distribution, elapsed: np.ndarray) -> Calibration:
    patients = material.known.stays["patient_id"].to_numpy()[material.stay_of_row[row]]
    labels = material.labels
    return fit_calibration(
        forecast, labels.death[row], labels.weights[row], labels.entry[row], groups=patients, elapsed_hours=elapsed
    )


def _ensemble_stretch(material: Material, ensemble: Ensemble, row: np.ndarray, risk: np.ndarray) -> tuple[float, float]:
    """Factor and centre by which to stretch the log-odds of the ensemble, given calibrated single members.

    Calibration is fitted on out-of-fold forecasts of single members. The mean of K members varies less than one of them,
    by (1 - 1/K) of the variance between members, and would be underconfident by as much (the attenuation of a
    regression on a noisy predictor: Fuller, "Measurement error models", 1987, 1.1). That variance is taken from the
    members that learned from a stay; measured on unseen stays it is about the same (0.195 and 0.188).
    """
    members = members_of(ensemble.model)
    odds = log_odds(risk)
    total = float(odds.var())
    if len(members) < 3 or len(members) != ensemble.config.train.folds or total <= 0:
        return 1.0, 0.0
    chosen = row if len(row) <= _STRETCH_ROWS else row[:: -(-len(row) // _STRETCH_ROWS)]
    window = material.windows.window_of(chosen)
    edges = ensemble.config.network.horizon_edges
    member_risks = np.stack(
        [
            Distribution(score_rows(member, material.windows, window, chosen), edges).mortality_risk()
            for member in members
        ]
    )
    fold = patient_folds(material.known.stays["patient_id"], len(members))[material.stay_of_row[chosen]]
    member_odds = log_odds(member_risks)
    member_odds[fold, np.arange(len(chosen))] = np.nan
    between = float(np.nanvar(member_odds, axis=0, ddof=1).mean())
    return total / max(total - (1 - 1 / len(members)) * between, total / 2), float(odds.mean())


def _fit_thresholds(
    material: Material, row: np.ndarray, risk: np.ndarray, budget: tuple[float, ...]
) -> tuple[float, ...]:
    """Risks that the given shares of the forecasts reach, each stay counting once; fixed ones if stays are few."""
    stay = material.stay_of_row[row]
    if len(np.unique(stay)) < MIN_STAYS_FOR_BANDS:
        return RISK_THRESHOLDS
    weight = 1 / np.bincount(stay)[stay]
    thresholds = np.quantile(risk, 1 - np.array(budget), weights=weight, method="inverted_cdf")
    return tuple(float(t) for t in thresholds) if (np.diff(thresholds) > 0).all() else RISK_THRESHOLDS
