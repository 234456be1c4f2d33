"""The stay forecaster in use: forecasts of open stays, abstention with too little data, save and load."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from rnn_core.contracts.config import ModelConfig, Sampling, WindowConfig
from rnn_core.contracts.errors import ArtifactError, DataTooSmallError
from rnn_core.contracts.frames import HOUR, Grid
from rnn_core.contracts.known import Known
from rnn_core.contracts.thresholds import RISK_THRESHOLDS
from rnn_core.forecasters.artifact import load_artifact, save_artifact
from rnn_core.network.scoring import score_rows
from rnn_core.series.material import make_served_grid
from rnn_core.series.scaling import Scaler
from rnn_core.series.windows import last_predictions, make_windows
from rnn_core.statistics.calibration import Calibration
from rnn_core.statistics.distribution import FORECAST_COLUMNS, Distribution, risk_band


@dataclass(frozen=True)
class StayForecaster:
    """A fitted network with all that is needed to use it.

    ends_at: where the stays it learned from end. sampling: how they entered the sample; beyond its `data_hours` the
    network has seen nothing and abstains. risk_thresholds: where the risk bands begin.
    """

    model: keras.Model
    scaler: Scaler
    config: ModelConfig
    calibration: Calibration
    ends_at: str
    sampling: Sampling = field(default_factory=Sampling)
    risk_thresholds: tuple[float, ...] = RISK_THRESHOLDS

    def calibrated(self, masses: np.ndarray, elapsed_hours: ArrayLike) -> Distribution:
        """The calibrated forecast from the network's masses [rows, bins, 2] and the elapsed hours."""
        return self.calibration.apply(Distribution(masses, self.config.network.horizon_edges), elapsed_hours)


def forecast_stays(forecaster: StayForecaster, known: Known) -> pd.DataFrame:
    """One row per open stay with the numbers of `forecast.stay_forecast`, or an abstention with its reason.

    `known.as_of` is a whole hour. Raises ArtifactError if the stays have another `ends_at` than the model's.
    """
    if len(known.stays) and (found := one_end(known.stays)) != forecaster.ends_at:
        raise ArtifactError(
            f"The model learned stays that end at the {forecaster.ends_at}, these end at the {found}: its "
            "length-of-stay columns would mean something else. Train a model on this source."
        )
    frame = _abstentions(forecaster, known)
    stay, forecast = predict(forecaster, known)
    ready = frame["status_reason"].isna().to_numpy()[stay]
    scored = stay[ready]
    numbers = forecast.take(ready).numbers(known.elapsed_hours[scored])
    for column in FORECAST_COLUMNS:
        frame.loc[scored, column] = numbers[column].to_numpy()
    frame.loc[scored, "risk_band"] = risk_band(numbers["mortality_risk"].to_numpy(), forecaster.risk_thresholds)
    frame["status"] = np.where(frame["status_reason"].isna(), "scored", "abstained")
    return frame


def predict(forecaster: StayForecaster, known: Known, grid: Grid | None = None) -> tuple[np.ndarray, Distribution]:
    """Calibrated forecasts, publishable or not: stay int64 [n] and the forecast of each.

    Each is made at the last hour of the stay in `grid`, by default that of `make_served_grid`: `known.as_of`, or the hour
    at which the stay became stale. A stay without any hour to predict at has none.
    """
    rules = forecaster.config.window
    grid = make_served_grid(known, rules, Sampling()) if grid is None else grid
    windows = make_windows(grid, known.stays, forecaster.scaler, rules)
    window, row = last_predictions(windows)
    return windows.stay[window], forecaster.calibrated(
        score_rows(forecaster.model, windows, window, row), windows.prediction_hour[row]
    )


def abstention_reasons(known: Known, rules: WindowConfig, sampling: Sampling) -> np.ndarray:
    """Why an open stay gets no forecast, None if it gets one, object [stays]."""
    count, hours, silent = _data_of(known)
    reasons = {
        "too_early": hours < rules.first_hour,
        "no_observations": count == 0,
        "stale": silent > rules.stale_hours,
        "too_few_observations": count < rules.min_observations,
        "later_than_learned": hours > sampling.data_hours,
    }
    return np.select(list(reasons.values()), list(reasons), None)


def _data_of(known: Known) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations known, elapsed hours and hours since the last observation (inf if never), each [stays]."""
    seen = known.observations.known_at(known.as_of)
    count = np.bincount(seen.stay, minlength=len(known.stays))
    return count, known.elapsed_hours, np.where(count > 0, (known.as_of - known.last_heard) / HOUR, np.inf)


def _abstentions(forecaster: StayForecaster, known: Known) -> pd.DataFrame:
    """The frame to fill: data available per stay, and the reason of each abstention."""
    count, _, silent = _data_of(known)
    frame = pd.DataFrame({"stay_id": known.stays["stay_id"].to_numpy(), "status": "abstained"})
    frame["status_reason"] = abstention_reasons(known, forecaster.config.window, forecaster.sampling)
    for column in FORECAST_COLUMNS:
        frame[column] = np.nan
    frame["risk_band"] = pd.Series([None] * len(frame), dtype=object)
    frame["n_observations"] = count
    frame["hours_since_last_observation"] = np.where(count > 0, silent, np.nan)
    return frame


def save_stay_forecaster(root: Path, model_id: str, forecaster: StayForecaster, meta: dict[str, Any]) -> Path:
    """Write the artifact; its folder."""
    meta = {
        **meta,
        "ends_at": forecaster.ends_at,
        "calibration": forecaster.calibration.to_json(),
        "sampling": forecaster.sampling.to_json(),
        "risk_thresholds": list(forecaster.risk_thresholds),
    }
    return save_artifact(root, model_id, forecaster.model, forecaster.config, forecaster.scaler.to_json(), meta)


def load_stay_forecaster(path: Path) -> StayForecaster:
    """Read an artifact back. Raises ArtifactError if it is damaged or was made for other concepts."""
    artifact = load_artifact(path)
    if not isinstance(artifact.config, ModelConfig):
        raise ArtifactError(f"The artifact {path.name} is a unit forecaster; a stay forecaster was expected.")
    meta = artifact.meta
    return StayForecaster(
        artifact.model,
        Scaler.from_json(artifact.scaler),
        artifact.config,
        Calibration.from_json(meta["calibration"]),
        meta["ends_at"],
        Sampling.from_json(meta["sampling"]),
        tuple(meta.get("risk_thresholds", RISK_THRESHOLDS)),
    )


def one_end(stays: pd.DataFrame) -> str:
    """Where the stays end, `unit` or `hospital`. Raises DataTooSmallError without any, ArtifactError if they differ."""
    ends = sorted(stays["ends_at"].unique())
    if not ends:
        raise DataTooSmallError("There is no stay to learn from; ingest a source first.")
    if len(ends) > 1:
        raise ArtifactError(f"A model has one `ends_at`; these stays end at {ends}.")
    return str(ends[0])
