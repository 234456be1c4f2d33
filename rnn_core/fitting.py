"""Fits a stay forecaster on what was known at its cut-off, judges it on stays it never saw, and compares two of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from scipy.special import logit

from rnn_core.baselines import conditional_masses, fit_population
from rnn_core.bootstrap import Estimate, paired_difference
from rnn_core.calibration import Calibration, fit_calibration
from rnn_core.config import ModelConfig, Sampling
from rnn_core.errors import ContractError
from rnn_core.forecaster import StayForecaster, one_end
from rnn_core.frames import HOUR
from rnn_core.material import Known, Material, known_until, make_material, make_served_grid
from rnn_core.metrics import RISK_FLOOR, Outcomes, auroc, mean_absolute_error_days, score_forecasts
from rnn_core.network import build_ensemble, members_of
from rnn_core.scaling import Scaler, fit_scaler, static_features
from rnn_core.scoring import score_rows, score_windows
from rnn_core.splits import patient_folds, split_stays
from rnn_core.survival import RISK_THRESHOLDS, mortality_risk, read_forecast
from rnn_core.training import EpochRecord, fit_stay_model

# Enough for the second digit of an interval; the concordance of ten thousand rows takes long per resample.
_RESAMPLES = 200
# Metrics are taken every so many hours of a stay: neighbouring hours say nearly the same.
JUDGE_EVERY_HOURS = 6
# The share of 5 % of fewer stays is a handful, and their least risk a matter of chance.
MIN_STAYS_FOR_BANDS = 200
# Forecasts enough to see how far the members of an ensemble lie apart.
_STRETCH_ROWS = 4000


@dataclass(frozen=True)
class Ensemble:
    """Networks that each learned from all folds but one, and what each of them says of the fold that it never saw.

    model: all members as one (`network.build_ensemble`). config: with the sizes that the data gave.
    row, masses: out-of-fold forecasts, absolute rows int64 [n], rising, and float32 [n, bins, 2].
    """

    model: keras.Model
    config: ModelConfig
    row: np.ndarray
    masses: np.ndarray
    histories: tuple[tuple[EpochRecord, ...], ...]
    best_epochs: tuple[int, ...]


@dataclass(frozen=True)
class FitReport:
    """What is kept of a training: sizes, the loss per member and epoch, and metrics on stays that had no part in it."""

    n_stays: dict[str, int]
    n_deaths: dict[str, int]
    histories: tuple[tuple[EpochRecord, ...], ...]
    best_epochs: tuple[int, ...]
    metrics: dict[str, Estimate]

    def to_json(self) -> dict[str, Any]:
        return {
            "n_stays": self.n_stays,
            "n_deaths": self.n_deaths,
            "histories": [list(history) for history in self.histories],
            "best_epochs": list(self.best_epochs),
            "metrics": {name: estimate.to_json() for name, estimate in self.metrics.items()},
        }


def fit_stay_forecaster(
    then: Known,
    now: Known,
    config: ModelConfig,
    *,
    sampling: Sampling = Sampling(),
    checkpoint_dir: Path | None = None,
    warm_from: StayForecaster | None = None,
    progress: Callable[[EpochRecord], None] | None = None,
) -> tuple[StayForecaster, FitReport]:
    """Fit on `then`, what was known at the cut-off, and judge on `now`, of stays that had no part in the fit.

    A warm start takes over the scaler with the weights, since they belong together. Raises DataTooSmallError where too
    few stays have finished, ContractError where `warm_from` has another shape.
    """
    learned = split_stays(then.stays, then.as_of).learned & then.sound
    forecaster, ensemble = fit_forecaster(
        then, learned, config, sampling=sampling, checkpoint_dir=checkpoint_dir, warm_from=warm_from, progress=progress
    )
    judged, newer = unseen(now, then)
    report = FitReport(
        *_sizes(then, now, {"learned": learned}, {"judged": judged, "newer": newer}),
        ensemble.histories,
        ensemble.best_epochs,
        judge(forecaster, now.take(judged), then.take(learned)),
    )
    return forecaster, report


def fit_forecaster(
    known: Known,
    learned: np.ndarray,
    config: ModelConfig,
    *,
    sampling: Sampling = Sampling(),
    folds: Sequence[int] | None = None,
    checkpoint_dir: Path | None = None,
    warm_from: StayForecaster | None = None,
    progress: Callable[[EpochRecord], None] | None = None,
) -> tuple[StayForecaster, Ensemble]:
    """A forecaster that learned from the stays `learned`, bool [stays of known], and judged itself on nothing else.

    Calibration and risk bands come from the out-of-fold forecasts. folds: the members to fit, by the fold that each
    leaves out; all by default.
    """
    grid = make_served_grid(known, config.window, sampling)
    scaler = warm_from.scaler if warm_from else fit_scaler(grid, static_features(known.stays), np.flatnonzero(learned))
    material = make_material(known, grid, scaler, config, sampling)
    ensemble = fit_ensemble(
        material, learned, config, folds=folds, checkpoint_dir=checkpoint_dir,
        warm_from=warm_from.model if warm_from else None, progress=progress,
    )  # fmt: skip
    return make_forecaster(material, ensemble, scaler, sampling), ensemble


def make_forecaster(material: Material, ensemble: Ensemble, scaler: Scaler, sampling: Sampling) -> StayForecaster:
    """The ensemble made ready to serve: calibrated, and with risk bands, by what it said out of fold."""
    row, masses = _judged_rows(material, ensemble.row, ensemble.masses)
    elapsed = material.windows.prediction_hour[row]
    calibration = _fit_calibration(material, row, masses, elapsed)
    stretch = _ensemble_stretch(
        material, ensemble, row, calibration.mortality.calibrate(mortality_risk(masses), elapsed)
    )
    thresholds = _fit_thresholds(material, row, calibration.apply(masses, elapsed), ensemble.config.train.alert_budget)
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
    """One network per fold of the patients, each fitted without its fold and stopped by it; `folds`: only of these."""
    windows, n_folds = material.windows, config.train.folds
    fold = patient_folds(material.known.stays["patient_id"], n_folds)
    left_out = range(n_folds) if folds is None else folds
    starts = members_of(warm_from) if warm_from is not None else (None,) * len(left_out)
    if len(starts) != len(left_out):
        raise ContractError(
            f"A warm start needs {len(left_out)} members; the model has {len(starts)}. Train from scratch instead."
        )
    fitted, rows, masses = [], [], []
    for k, start in zip(left_out, starts, strict=True):
        member = replace(config, train=replace(config.train, seed=config.train.seed * n_folds + k))
        held_out = learned & (fold == k)
        fitted.append(
            fit_stay_model(
                windows, material.labels, learned & (fold != k), held_out, member, warm_from=start,
                checkpoint_dir=checkpoint_dir and checkpoint_dir / f"member_{k}",
                progress=progress and partial(_tell_member, progress, k + 1, n_folds),
            )
        )  # fmt: skip
        row, p = score_windows(fitted[-1].model, windows, np.flatnonzero(held_out[windows.stay]))
        rows.append(row)
        masses.append(p)
    order = np.argsort(np.concatenate(rows))
    return Ensemble(
        model=build_ensemble([one.model for one in fitted]),
        config=replace(fitted[0].config, train=config.train),
        row=np.concatenate(rows)[order],
        masses=np.concatenate(masses)[order],
        histories=tuple(one.history for one in fitted),
        best_epochs=tuple(one.best_epoch for one in fitted),
    )


def _tell_member(progress: Callable[[EpochRecord], None], member: int, members: int, record: EpochRecord) -> None:
    progress(record | {"member": member, "members": members})


def unseen(now: Known, then: Known) -> tuple[np.ndarray, np.ndarray]:
    """Sound stays of `now` of patients whom a fit on `then` never saw, and those of them that began after the cut-off;
    two bool [stays of now].

    A patient counts as seen by any stay in learned, sound or not: the audit may change its mind, the split not.
    """
    fitted = split_stays(then.stays, then.as_of)
    seen = then.stays["patient_id"][fitted.learned]
    later = split_stays(now.stays, then.as_of)
    judged = later.judged & now.sound & ~now.stays["patient_id"].isin(seen).to_numpy()
    return judged, judged & later.newer


def judge(forecaster: StayForecaster, judged: Known, population: Known) -> dict[str, Estimate]:
    """Metrics on the stays of `judged`, every `JUDGE_EVERY_HOURS` hours of them, beside the trivial baseline that is
    fitted on `population`."""
    scored = _score(forecaster, judged)
    edges = forecaster.config.network.horizon_edges
    until = known_until(population, forecaster.config.window)
    curve = fit_population(population.stays, population.as_of, forecaster.sampling.delayed_entry_hours, until)
    baseline = conditional_masses(curve, scored.outcomes.elapsed_hours, edges)
    return score_forecasts(scored.masses, scored.outcomes, edges, baseline_masses=baseline, n=_RESAMPLES)


def compare(challenger: StayForecaster, champion: StayForecaster, judged: Known) -> dict[str, Estimate]:
    """Paired differences, challenger less champion, over the hours of `judged` that both of them forecast."""
    ours, theirs = _score(challenger, judged), _score(champion, judged)
    _, a, b = np.intersect1d(ours.hour, theirs.hour, assume_unique=True, return_indices=True)
    known = ours.outcomes
    first, second = (
        read_forecast(s.masses[rows], f.config.network.horizon_edges, s.outcomes.elapsed_hours[rows])
        for s, f, rows in ((ours, challenger, a), (theirs, champion, b))
    )
    p50 = "remaining_los_p50_hours"

    def difference(metric: Any, happened: np.ndarray, column: str) -> Estimate:
        return paired_difference(metric, happened[a], first[column], second[column], known.groups[a], n=_RESAMPLES)

    return {
        "auroc": difference(auroc, known.death, "mortality_risk"),
        "los_mae_days": difference(mean_absolute_error_days, known.remaining_hours, p50),
    }


def count_deaths(known: Known) -> int:
    return int(known.stays["outcome"].eq("died").sum())


@dataclass(frozen=True)
class _Scored:
    """Calibrated masses, what became of them, and a number per (stay, hour) that is the same for every forecaster."""

    masses: np.ndarray
    outcomes: Outcomes
    hour: np.ndarray


def _score(forecaster: StayForecaster, judged: Known) -> _Scored:
    grid = make_served_grid(judged, forecaster.config.window, forecaster.sampling)
    material = make_material(judged, grid, forecaster.scaler, forecaster.config, forecaster.sampling)
    row, masses = _judged_rows(material, *score_windows(forecaster.model, material.windows))
    stay = material.stay_of_row[row]
    hour = stay.astype(np.int64) * 1_000_000 + material.hour_of_row(row)
    calibrated = forecaster.calibration.apply(masses, material.windows.prediction_hour[row])
    return _Scored(calibrated, _outcomes(material, row), hour)


def _outcomes(material: Material, row: np.ndarray) -> Outcomes:
    stays, stay = material.known.stays, material.stay_of_row[row]
    elapsed = material.windows.prediction_hour[row].astype(np.float64)
    intime = stays["intime"].to_numpy("datetime64[us]")[stay]
    followed = (material.known_until[stay] - intime) / HOUR - elapsed
    return Outcomes(
        elapsed_hours=elapsed,
        death=material.labels.death[row].astype(np.float64),
        remaining_hours=material.labels.remaining_hours[row].astype(np.float64),
        followed_hours=np.where(stays["outcome"].isna().to_numpy()[stay], np.maximum(followed, 0), np.nan),
        precision_hours=stays["end_precision_hours"].fillna(0).to_numpy(np.float64)[stay],
        groups=stays["patient_id"].to_numpy()[stay],
    )


def _fit_calibration(material: Material, row: np.ndarray, masses: np.ndarray, elapsed: np.ndarray) -> Calibration:
    patients = material.known.stays["patient_id"].to_numpy()[material.stay_of_row[row]]
    labels = material.labels
    return fit_calibration(
        masses, labels.death[row], labels.weights[row], labels.entry[row], groups=patients, elapsed_hours=elapsed
    )


def _ensemble_stretch(material: Material, ensemble: Ensemble, row: np.ndarray, risk: np.ndarray) -> tuple[float, float]:
    """Factor and centre by which the log-odds of the whole ensemble are to be stretched, where one member's are right.

    Calibration is fitted on what single members say out of fold. The mean of K members scatters less than one of them
    does, by (1 - 1/K) of the variance between members, and would be underconfident by as much (the attenuation of a
    regression on a noisy predictor: Fuller, "Measurement error models", 1987, 1.1). That variance is taken from the
    members that learned from a stay; measured on unseen stays it is about the same (0.195 and 0.188).
    """
    members = members_of(ensemble.model)
    odds = logit(np.clip(risk, RISK_FLOOR, 1 - RISK_FLOOR))
    total = float(odds.var())
    if len(members) < 3 or len(members) != ensemble.config.train.folds or total <= 0:
        return 1.0, 0.0
    chosen = row if len(row) <= _STRETCH_ROWS else row[:: -(-len(row) // _STRETCH_ROWS)]
    window = material.windows.window_of(chosen)
    told = np.stack([mortality_risk(score_rows(member, material.windows, window, chosen)) for member in members])
    fold = patient_folds(material.known.stays["patient_id"], len(members))[material.stay_of_row[chosen]]
    told_odds = logit(np.clip(told, RISK_FLOOR, 1 - RISK_FLOOR))
    told_odds[fold, np.arange(len(chosen))] = np.nan
    between = float(np.nanvar(told_odds, axis=0, ddof=1).mean())
    return total / max(total - (1 - 1 / len(members)) * between, total / 2), float(odds.mean())


def _fit_thresholds(
    material: Material, row: np.ndarray, masses: np.ndarray, budget: tuple[float, ...]
) -> tuple[float, ...]:
    """Risks that the given shares of the forecasts reach, each stay counting once; the fixed ones where stays are few."""
    risk, stay = mortality_risk(masses), material.stay_of_row[row]
    if len(np.unique(stay)) < MIN_STAYS_FOR_BANDS:
        return RISK_THRESHOLDS
    weight = 1 / np.bincount(stay)[stay]
    thresholds = np.quantile(risk, 1 - np.array(budget), weights=weight, method="inverted_cdf")
    return tuple(float(t) for t in thresholds) if (np.diff(thresholds) > 0).all() else RISK_THRESHOLDS


def _judged_rows(material: Material, row: np.ndarray, masses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    keep = material.labels.usable[row] & (material.hour_of_row(row) % JUDGE_EVERY_HOURS == 0)
    return row[keep], masses[keep]


def _sizes(
    then: Known, now: Known, fitted: dict[str, np.ndarray], judged: dict[str, np.ndarray]
) -> tuple[dict[str, int], dict[str, int]]:
    parts = {name: then.take(part) for name, part in fitted.items()}
    parts |= {name: now.take(part) for name, part in judged.items()}
    return {name: len(part.stays) for name, part in parts.items()}, {n: count_deaths(p) for n, p in parts.items()}
