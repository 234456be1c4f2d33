"""The stay forecaster in use: forecasts of open stays, abstention with too little data, save and load."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rnn_core.contracts.config import ModelConfig, Sampling
from rnn_core.contracts.errors import ArtifactError, DataTooSmallError
from rnn_core.contracts.frames import Grid, Windows
from rnn_core.contracts.known import Known
from rnn_core.contracts.thresholds import RISK_THRESHOLDS
from rnn_core.forecasters.artifact import load_artifact, save_artifact
from rnn_core.forecasters.forecaster import Forecaster, kind_of
from rnn_core.series.material import make_served_grid
from rnn_core.series.scaling import Scaler
from rnn_core.series.serving_rule import abstention_reasons
from rnn_core.series.windows import last_predictions, make_windows
from rnn_core.statistics.calibration import Calibration
from rnn_core.statistics.distribution import FORECAST_COLUMNS, Distribution, risk_band
from rnn_core.statistics.scored_stays import ScoredStays

# Why a scored stay has no risk of death: the model never saw one of the two outcomes.
OUTCOME_NOT_LEARNED = "outcome_not_learned"


@dataclass(frozen=True)
class StayForecaster:
    """A fitted model with all that is needed to use it.

    ends_at: where the stays it learned from end. sampling: how they entered the sample; beyond its `data_hours` the
    model has seen nothing and abstains. risk_thresholds: where the risk bands begin. forecasts_death: False if it learned
    from stays that all ended alike; it then forecasts when a stay ends, and not how.
    """

    model: Forecaster
    scaler: Scaler
    config: ModelConfig
    calibration: Calibration
    ends_at: str
    sampling: Sampling = field(default_factory=Sampling)
    risk_thresholds: tuple[float, ...] = RISK_THRESHOLDS
    forecasts_death: bool = True

    def reads(self, known: Known) -> Known:
        """The same stays with the observations that the model reads."""
        return known.of_concepts(self.config.window.concepts)

    def forecast(self, windows: Windows, rows: np.ndarray) -> Distribution:
        """Calibrated forecasts at the ends of `rows` of windows, whether they are fit to be published or not, [n]."""
        forecast = self.calibration.apply(self.model.forecast(windows, rows), windows.prediction_hour[rows])
        return forecast if self.forecasts_death else forecast.of_any_end()


@dataclass(frozen=True)
class StayForecasts:
    """numbers: a row per open stay with the numbers of `forecast.stay_forecast`, or an abstention with its reason. scored: the
    distributions that the numbers of scored stays were read off."""

    numbers: pd.DataFrame
    scored: ScoredStays


def forecast_stays(forecaster: StayForecaster, known: Known) -> StayForecasts:
    """The forecasts of open stays, or abstentions.

    `known.as_of` is a whole hour. Raises ArtifactError if the stays have another `ends_at` than the model's.
    """
    if len(known.stays) and (found := one_end(known.stays)) != forecaster.ends_at:
        raise ArtifactError(
            f"The model learned stays that end at the {forecaster.ends_at}, these end at the {found}: its "
            "length-of-stay columns would mean something else. Train a model on this source."
        )
    known = forecaster.reads(known)
    frame = _abstentions(forecaster, known)
    stay, forecast = predict(forecaster, known)
    ready = frame["status_reason"].isna().to_numpy()[stay]
    scored = stay[ready]
    forecast = forecast.take(ready)
    numbers = forecast.numbers(known.elapsed_hours[scored])
    for column in FORECAST_COLUMNS:
        frame.loc[scored, column] = numbers[column].to_numpy()
    frame["status"] = np.where(frame["status_reason"].isna(), "scored", "abstained")
    if forecaster.forecasts_death:
        frame.loc[scored, "risk_band"] = risk_band(numbers["mortality_risk"].to_numpy(), forecaster.risk_thresholds)
    else:
        frame.loc[scored, "mortality_risk"] = np.nan
        frame.loc[scored, "status_reason"] = OUTCOME_NOT_LEARNED
    return StayForecasts(
        frame, ScoredStays(frame["stay_id"].iloc[scored].tolist(), forecast, forecaster.forecasts_death)
    )


def predict(forecaster: StayForecaster, known: Known, grid: Grid | None = None) -> tuple[np.ndarray, Distribution]:
    """Calibrated forecasts, publishable or not: stay int64 [n] and the forecast of each.

    Each is made at the last hour of the stay in `grid`, by default that of `make_served_grid`: `known.as_of`, or the hour
    at which the stay became stale. A stay without any hour to predict at has none.
    """
    rules = forecaster.config.window
    grid = make_served_grid(known, rules, Sampling()) if grid is None else grid
    windows = make_windows(grid, known.stays, forecaster.scaler, rules)
    window, row = last_predictions(windows)
    return windows.stay[window], forecaster.forecast(windows, row)


def _abstentions(forecaster: StayForecaster, known: Known) -> pd.DataFrame:
    """The frame to fill: data available per stay, and the reason of each abstention."""
    frame = pd.DataFrame({"stay_id": known.stays["stay_id"].to_numpy(), "status": "abstained"})
    frame["status_reason"] = abstention_reasons(known, forecaster.config.window, forecaster.sampling)
    for column in FORECAST_COLUMNS:
        frame[column] = np.nan
    frame["risk_band"] = pd.Series([None] * len(frame), dtype=object)
    silent = known.hours_since_last
    frame["n_observations"] = known.n_observations
    frame["hours_since_last_observation"] = np.where(np.isinf(silent), np.nan, silent)
    return frame


def save_stay_forecaster(root: Path, model_id: str, forecaster: StayForecaster, meta: dict[str, Any]) -> Path:
    """Write the artifact; its folder."""
    meta = {
        **meta,
        "ends_at": forecaster.ends_at,
        "calibration": forecaster.calibration.to_json(),
        "sampling": forecaster.sampling.to_json(),
        "risk_thresholds": list(forecaster.risk_thresholds),
        "forecasts_death": forecaster.forecasts_death,
    }
    return save_artifact(root, model_id, forecaster.model.save, forecaster.config, forecaster.scaler.to_json(), meta)


def load_stay_forecaster(path: Path) -> StayForecaster:
    """Read an artifact back. Raises ArtifactError if it is damaged or was made for other concepts."""
    artifact = load_artifact(path)
    if not isinstance(artifact.config, ModelConfig):
        raise ArtifactError(f"The artifact {path.name} is a unit forecaster; a stay forecaster was expected.")
    meta = artifact.meta
    return StayForecaster(
        kind_of(artifact.config).load(artifact.folder, artifact.config),
        Scaler.from_json(artifact.scaler),
        artifact.config,
        Calibration.from_json(meta["calibration"]),
        meta["ends_at"],
        Sampling.from_json(meta["sampling"]),
        tuple(meta.get("risk_thresholds", RISK_THRESHOLDS)),
        meta.get("forecasts_death", True),
    )


def one_end(stays: pd.DataFrame) -> str:
    """Where the stays end, `unit` or `hospital`. Raises DataTooSmallError without any, ArtifactError if they differ."""
    ends = sorted(stays["ends_at"].unique())
    if not ends:
        raise DataTooSmallError("There is no stay to learn from; ingest a source first.")
    if len(ends) > 1:
        raise ArtifactError(f"A model has one `ends_at`; these stays end at {ends}.")
    return str(ends[0])
