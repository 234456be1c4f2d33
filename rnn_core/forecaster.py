"""The stay forecaster as a whole: from stays and observations to a judged model, and from a model to forecasts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from rnn_core.artifact import Artifact, load_artifact, save_artifact
from rnn_core.baselines import conditional_masses, fit_population
from rnn_core.calibration import Calibration, fit_calibration
from rnn_core.config import ModelConfig, Sampling, WindowConfig
from rnn_core.errors import ArtifactError, DataTooSmallError
from rnn_core.frames import HOUR, Grid, Labels, Observations, Windows
from rnn_core.grid import make_grid
from rnn_core.labels import make_labels
from rnn_core.metrics import Estimate, Outcomes, auroc, mean_absolute_error_days, paired_difference, score_forecasts
from rnn_core.scaling import Scaler, fit_scaler, static_features
from rnn_core.scoring import score_rows, score_windows
from rnn_core.splits import split_stays
from rnn_core.survival import FORECAST_COLUMNS, read_forecast, risk_band
from rnn_core.training import EpochRecord, fit_stay_model
from rnn_core.windows import last_predictions, make_windows

# Enough for the second digit of an interval; the concordance of ten thousand rows takes long per resample.
_RESAMPLES = 200
# Metrics are taken every so many hours of a stay: neighbouring hours say nearly the same.
JUDGE_EVERY_HOURS = 6


@dataclass(frozen=True)
class StayForecaster:
    """A fitted network with all that is needed to use it."""

    model: keras.Model
    scaler: Scaler
    config: ModelConfig
    calibration: Calibration
    ends_at: str


@dataclass(frozen=True)
class FitReport:
    """What is kept of a training: sizes, the loss per epoch, and metrics on stays that had no part in it."""

    n_stays: dict[str, int]
    n_deaths: dict[str, int]
    history: tuple[EpochRecord, ...]
    best_epoch: int
    metrics: dict[str, Estimate]

    def to_json(self) -> dict[str, Any]:
        return {
            "n_stays": self.n_stays,
            "n_deaths": self.n_deaths,
            "history": list(self.history),
            "best_epoch": self.best_epoch,
            "metrics": {name: estimate.to_json() for name, estimate in self.metrics.items()},
        }


@dataclass(frozen=True)
class _Material:
    """Windows and labels of a set of stays, made with one scaler."""

    stays: pd.DataFrame
    windows: Windows
    labels: Labels


def fit_stay_forecaster(
    stays: pd.DataFrame,
    observations: Observations,
    cutoff: np.datetime64,
    as_of: np.datetime64,
    config: ModelConfig,
    *,
    sampling: Sampling = Sampling(),
    checkpoint_dir: Path | None = None,
    warm_from: StayForecaster | None = None,
    progress: Callable[[EpochRecord], None] | None = None,
) -> tuple[StayForecaster, FitReport]:
    """Fit on what was known at `cutoff`, judge on what is known at `as_of` of stays that had no part in the fit.

    stays, observations: as known at `as_of`. A warm start takes over the scaler with the weights, since they belong
    together. Raises DataTooSmallError where too few stays have finished.
    """
    ends_at = _one_end(stays)
    split = split_stays(stays, cutoff)
    grid = _make_grid(stays, observations, cutoff, config, sampling)
    scaler = warm_from.scaler if warm_from else fit_scaler(grid, static_features(stays), np.flatnonzero(split.train))
    learned = _make_material(stays, grid, scaler, config, sampling, observations, cutoff)
    fitted = fit_stay_model(
        learned.windows, learned.labels, split.train, split.valid, config, checkpoint_dir=checkpoint_dir,
        warm_from=warm_from.model if warm_from else None, progress=progress,
    )  # fmt: skip
    calibration = _fit_calibration(fitted.model, learned, split.valid)
    forecaster = StayForecaster(fitted.model, scaler, fitted.config, calibration, ends_at)
    metrics = judge(
        forecaster, stays, observations, as_of, split.judged, sampling=sampling,
        population=split.train | split.valid,
    )  # fmt: skip
    parts = {"train": split.train, "valid": split.valid, "judged": split.judged, "newer": split.newer}
    died = stays["outcome"].eq("died").to_numpy(bool)
    report = FitReport(
        {name: int(part.sum()) for name, part in parts.items()},
        {name: int((part & died).sum()) for name, part in parts.items()},
        fitted.history, fitted.best_epoch, metrics,
    )  # fmt: skip
    return forecaster, report


def judge(
    forecaster: StayForecaster,
    stays: pd.DataFrame,
    observations: Observations,
    as_of: np.datetime64,
    judged: np.ndarray,
    *,
    population: np.ndarray,
    sampling: Sampling = Sampling(),
) -> dict[str, Estimate]:
    """Metrics of a forecaster on the stays marked in `judged` (bool [stays]), every `JUDGE_EVERY_HOURS` hours of them.

    population: bool [stays], those that the trivial baseline is fitted on.
    """
    scored = _score_judged(forecaster, stays, observations, as_of, judged, sampling)
    edges = forecaster.config.network.horizon_edges
    known_until = _known_until(stays, observations, as_of, forecaster.config.window.stale_hours)
    curve = fit_population(stays[population], as_of, sampling.delayed_entry_hours, known_until[population])
    baseline = conditional_masses(curve, scored.outcomes.elapsed_hours, edges)
    return score_forecasts(scored.masses, scored.outcomes, edges, baseline_masses=baseline, n=_RESAMPLES)


def compare(
    challenger: StayForecaster,
    champion: StayForecaster,
    stays: pd.DataFrame,
    observations: Observations,
    cutoff: np.datetime64,
    as_of: np.datetime64,
    *,
    sampling: Sampling = Sampling(),
) -> tuple[dict[str, Estimate], int]:
    """Paired differences, challenger less champion, on the stays that began after `cutoff` of patients whom neither has
    learned from; and the number of deaths among them."""
    newer = split_stays(stays, cutoff).newer
    ours, theirs = (_score_judged(one, stays, observations, as_of, newer, sampling) for one in (challenger, champion))
    a, b = (
        read_forecast(s.masses, f.config.network.horizon_edges, s.outcomes.elapsed_hours)
        for s, f in ((ours, challenger), (theirs, champion))
    )
    known = ours.outcomes
    differences = {
        "auroc": paired_difference(auroc, known.death, a["mortality_risk"], b["mortality_risk"], known.groups, n=_RESAMPLES),
        "los_mae_days": paired_difference(
            mean_absolute_error_days, known.remaining_hours, a["remaining_los_p50_hours"], b["remaining_los_p50_hours"],
            known.groups, n=_RESAMPLES,
        ),
    }  # fmt: skip
    return differences, int((newer & stays["outcome"].eq("died").to_numpy(bool)).sum())


@dataclass(frozen=True)
class _Scored:
    masses: np.ndarray
    outcomes: Outcomes


def _score_judged(
    forecaster: StayForecaster, stays: pd.DataFrame, observations: Observations, as_of: np.datetime64,
    judged: np.ndarray, sampling: Sampling,
) -> _Scored:  # fmt: skip
    chosen, seen = _take(stays, observations, judged)
    config = forecaster.config
    grid = _make_grid(chosen, seen, as_of, config, sampling)
    material = _make_material(chosen, grid, forecaster.scaler, config, sampling, seen, as_of)
    row, masses = score_windows(forecaster.model, material.windows)
    keep = _judged_rows(material, row)
    row = row[keep]
    calibrated = forecaster.calibration.apply(masses[keep])
    return _Scored(calibrated, _outcomes(material, row, _known_until(chosen, seen, as_of, config.window.stale_hours)))


def _outcomes(material: _Material, row: np.ndarray, known_until: np.ndarray) -> Outcomes:
    stay = _stay_of_row(material)[row]
    intime = material.stays["intime"].to_numpy("datetime64[us]")[stay]
    elapsed = material.windows.prediction_hour[row].astype(np.float64)
    followed = (known_until[stay] - intime) / HOUR - elapsed
    return Outcomes(
        elapsed_hours=elapsed,
        death=material.labels.death[row].astype(np.float64),
        remaining_hours=material.labels.remaining_hours[row].astype(np.float64),
        followed_hours=np.where(material.stays["outcome"].isna().to_numpy()[stay], np.maximum(followed, 0), np.nan),
        precision_hours=material.stays["end_precision_hours"].fillna(0).to_numpy(np.float64)[stay],
        groups=material.stays["patient_id"].to_numpy()[stay],
    )


def forecast_stays(
    forecaster: StayForecaster, stays: pd.DataFrame, observations: Observations, as_of: np.datetime64
) -> pd.DataFrame:
    """One row per open stay with the numbers of `forecast.stay_forecast`, or an abstention with its reason.

    `as_of` is a whole hour. Raises ArtifactError where the stays end elsewhere than those the model learned from.
    """
    if len(stays) and (found := _one_end(stays)) != forecaster.ends_at:
        raise ArtifactError(
            f"The model learned stays that end at the {forecaster.ends_at}, these end at the {found}: its length-of-stay "
            "columns would mean something else. Train a model on this source."
        )
    grid = _make_grid(stays, observations, as_of, forecaster.config, Sampling())
    windows = make_windows(grid, stays, forecaster.scaler, forecaster.config.window)
    frame = _abstentions(stays, observations, as_of, forecaster.config.window)
    window, row = last_predictions(windows)
    ready = frame["status_reason"].isna().to_numpy()[windows.stay[window]]
    window, row = window[ready], row[ready]
    edges = forecaster.config.network.horizon_edges
    masses = forecaster.calibration.apply(score_rows(forecaster.model, windows, window, row))
    numbers = read_forecast(masses, edges, windows.prediction_hour[row])
    scored = windows.stay[window]
    for column in FORECAST_COLUMNS:
        frame.loc[scored, column] = numbers[column].to_numpy()
    frame.loc[scored, "risk_band"] = risk_band(numbers["mortality_risk"].to_numpy())
    frame["status"] = np.where(frame["status_reason"].isna(), "scored", "abstained")
    return frame


def save_stay_forecaster(root: Path, model_id: str, forecaster: StayForecaster, meta: dict[str, Any]) -> Path:
    """Write the artifact; its folder."""
    meta = {**meta, "ends_at": forecaster.ends_at, "calibration": forecaster.calibration.to_json()}
    return save_artifact(root, model_id, forecaster.model, forecaster.config, forecaster.scaler.to_json(), meta)


def load_stay_forecaster(path: Path) -> StayForecaster:
    """Read an artifact back. Raises ArtifactError where it is damaged or was made for other concepts."""
    artifact: Artifact = load_artifact(path)
    if not isinstance(artifact.config, ModelConfig):
        raise ArtifactError(f"The artifact {path.name} is a unit forecaster; a stay forecaster was expected.")
    return StayForecaster(
        artifact.model, Scaler.from_json(artifact.scaler), artifact.config,
        Calibration.from_json(artifact.meta["calibration"]), artifact.meta["ends_at"],
    )  # fmt: skip


def _make_material(
    stays: pd.DataFrame, grid: Grid, scaler: Scaler, config: ModelConfig, sampling: Sampling, observations: Observations,
    as_of: np.datetime64,
) -> _Material:  # fmt: skip
    windows = make_windows(grid, stays, scaler, config.window)
    labels = make_labels(
        windows, stays, config.network.horizon_edges, sampling.delayed_entry_hours, as_of,
        known_until=_known_until(stays, observations, as_of, config.window.stale_hours),
    )  # fmt: skip
    return _Material(stays, windows, labels)


def _make_grid(
    stays: pd.DataFrame, observations: Observations, as_of: np.datetime64, config: ModelConfig, sampling: Sampling
) -> Grid:
    """The grid up to the hour in which a forecast would be refused as stale, or the data end by design."""
    until = _last_heard(stays, observations, as_of) + _hours(config.window.stale_hours)
    if np.isfinite(sampling.data_hours):
        until = np.minimum(until, stays["intime"].to_numpy("datetime64[us]") + _hours(sampling.data_hours))
    return make_grid(stays, observations, as_of, until=until)


def _last_heard(stays: pd.DataFrame, observations: Observations, as_of: np.datetime64) -> np.ndarray:
    """When the last observation of each stay became available by `as_of`, its intime where none did."""
    last = stays["intime"].to_numpy("datetime64[us]").copy()
    known = observations.known_at(as_of)
    np.maximum.at(last, known.stay, known.available_at.astype("datetime64[us]"))
    return last


def _hours(hours: float) -> np.timedelta64:
    return np.timedelta64(round(hours * 3600), "s")


def _known_until(
    stays: pd.DataFrame, observations: Observations, as_of: np.datetime64, stale_hours: float
) -> np.ndarray:
    """Until when an open stay is known to have gone on, datetime64[us] [stays]: its last observation, or `as_of` where
    that is fresh. Silence is no proof of presence: a feed that broke off would otherwise teach endless stays."""
    last = _last_heard(stays, observations, as_of)
    fresh = as_of - last <= _hours(stale_hours)
    return np.where(fresh, np.datetime64(as_of, "us"), last)


def _fit_calibration(model: keras.Model, material: _Material, valid: np.ndarray) -> Calibration:
    row, masses = score_windows(model, material.windows, np.flatnonzero(valid[material.windows.stay]))
    keep = _judged_rows(material, row)
    row = row[keep]
    return fit_calibration(
        masses[keep], material.labels.death[row], material.labels.weights[row], material.labels.entry[row],
        groups=material.stays["patient_id"].to_numpy()[_stay_of_row(material)[row]],
    )  # fmt: skip


def _judged_rows(material: _Material, row: np.ndarray) -> np.ndarray:
    hour = row - material.windows.offsets[_stay_of_row(material)[row]] + 1
    return material.labels.usable[row] & (hour % JUDGE_EVERY_HOURS == 0)


def _stay_of_row(material: _Material) -> np.ndarray:
    return np.repeat(np.arange(len(material.stays)), np.diff(material.windows.offsets))


def _take(stays: pd.DataFrame, observations: Observations, chosen: np.ndarray) -> tuple[pd.DataFrame, Observations]:
    number = np.cumsum(chosen) - 1
    keep = chosen[observations.stay]
    part = Observations(
        number[observations.stay[keep]].astype(np.int32), observations.concept[keep], observations.observed_at[keep],
        observations.available_at[keep], observations.value[keep],
    )  # fmt: skip
    return stays[chosen].reset_index(drop=True), part


def _abstentions(
    stays: pd.DataFrame, observations: Observations, as_of: np.datetime64, rules: WindowConfig
) -> pd.DataFrame:
    """The frame to fill: data available per stay, and why no forecast is made where there is too little."""
    known = observations.known_at(as_of)
    count = np.bincount(known.stay, minlength=len(stays))
    hours = (as_of - stays["intime"].to_numpy("datetime64[us]")) / HOUR
    silent = np.where(count > 0, (as_of - _last_heard(stays, observations, as_of)) / HOUR, np.inf)
    frame = pd.DataFrame({"stay_id": stays["stay_id"].to_numpy(), "status": "abstained"})
    frame["status_reason"] = np.select(
        [hours < rules.first_hour, count == 0, silent > rules.stale_hours, count < rules.min_observations],
        ["too_early", "no_observations", "stale", "too_few_observations"], None,
    )  # fmt: skip
    for column in FORECAST_COLUMNS:
        frame[column] = np.nan
    frame["risk_band"] = pd.Series([None] * len(frame), dtype=object)
    frame["n_observations"] = count
    frame["hours_since_last_observation"] = np.where(count > 0, silent, np.nan)
    return frame


def _one_end(stays: pd.DataFrame) -> str:
    ends = sorted(stays["ends_at"].unique())
    if not ends:
        raise DataTooSmallError("There is no stay to learn from; ingest a source first.")
    if len(ends) > 1:
        raise ArtifactError(f"A model has one end of stay; these stays end at {ends}.")
    return str(ends[0])
