"""The unit forecaster: from a unit's last lengths of stay to its next ones, an LSTM and simpler forecasts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rnn_core.contracts.config import NetworkConfig, UnitConfig
from rnn_core.contracts.errors import ArtifactError, ContractError, DataTooSmallError
from rnn_core.contracts.frames import EpochRecord
from rnn_core.forecasters.artifact import load_artifact, save_artifact
from rnn_core.forecasters.networks import Networks
from rnn_core.network.scoring import regress

if TYPE_CHECKING:
    import keras

# Share of a unit's windows, oldest first, for training, and up to which the next ones choose the epoch.
_TRAIN_SHARE, _VALID_SHARE = 0.70, 0.85
MIN_TRAIN, MIN_JUDGE = 20, 3


@dataclass(frozen=True)
class UnitReport:
    """How good the next length of stay was forecast on the newest windows of each unit; errors in days squared.

    test_mse: the network. linear_mse: a linear regression on the same windows. last_value_mse: the last length of stay.
    median_mse: the median of the training lengths. units: number with windows. epochs: of both phases together.
    """

    units: int
    n_train: int
    n_valid: int
    n_test: int
    epochs: int
    test_mse: float
    linear_mse: float
    last_value_mse: float
    median_mse: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)

    def sentence(self) -> str:
        return (
            f"Next length of stay, test MSE in days² over {self.n_test} windows of {self.units} units: "
            f"LSTM {self.test_mse:.2f}, linear regression {self.linear_mse:.2f}, "
            f"last value {self.last_value_mse:.2f}, median {self.median_mse:.2f}."
        )


@dataclass(frozen=True)
class UnitForecaster:
    """A fitted unit forecaster; `mean_days` and `std_days` standardise lengths of stay."""

    networks: Networks
    config: UnitConfig
    mean_days: float
    std_days: float
    report: UnitReport

    @property
    def model(self) -> "keras.Model":
        return self.networks.keras_model

    def predict_next(self, series: Mapping[str, np.ndarray], steps: int | None = None) -> dict[str, np.ndarray]:
        """The next `steps` (by default `config.horizon`) lengths of stay of each unit in days, float64 [steps].

        `series` holds each unit's lengths of stay in days, oldest first. Each forecast becomes the last value of the
        next window. Units with fewer lengths than a window are left out. Never below 0.
        """
        steps = self.config.horizon if steps is None else steps
        known = {unit: lengths for unit, lengths in _checked(series).items() if len(lengths) >= self.config.window}
        if not known:
            return {}
        recent = np.stack([lengths[-self.config.window :] for lengths in known.values()])
        for _ in range(steps):
            window = (recent[:, -self.config.window :] - self.mean_days) / self.std_days
            following = np.maximum(_predict(self.networks, window) * self.std_days + self.mean_days, 0.0)
            recent = np.concatenate([recent, following[:, None]], axis=1)
        return dict(zip(known, recent[:, self.config.window :], strict=True))


@dataclass(frozen=True)
class _Pairs:
    """Windows of lengths of stay x [n, window] and the length that follows each, y [n]."""

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.y)

    def scaled(self, mean: float, std: float) -> "_Pairs":
        return _Pairs(((self.x - mean) / std).astype(np.float32), ((self.y - mean) / std).astype(np.float32))


def fit_unit_forecaster(series: Mapping[str, np.ndarray], config: UnitConfig) -> UnitForecaster:
    """Fits one network for all units on `series`: lengths of stay in days per unit, oldest first by `outtime`.

    No window spans two units. Per unit the oldest 70 % of its windows train, the next 15 % choose the epoch, the newest
    15 % test. LSTM layers, then one number, mean squared error, Adam with clipped
    gradients. The first phase takes `first_epochs` epochs at learning rates lr * 10^(-epoch/20); the second continues
    at the last of them, up to `second_epochs` more, until `patience` epochs bring no better validation error, and keeps
    the best epoch's weights.

    Changes the global seeds of Python, numpy and TensorFlow. Raises DataTooSmallError with fewer than `MIN_TRAIN`
    windows to train on or `MIN_JUDGE` to validate or to test, ContractError for lengths that are not finite days.
    """
    known = {unit: lengths for unit, lengths in _checked(series).items() if len(lengths) > config.window}
    in_days = _split(known, config.window)
    _check_counts(in_days, config.window)
    mean, std = float(in_days[0].y.mean()), float(in_days[0].y.std()) or 1.0
    train, valid, test = (pairs.scaled(mean, std) for pairs in in_days)

    import keras
    from sklearn.linear_model import LinearRegression

    from rnn_core.network.build import build_network

    keras.utils.set_random_seed(config.seed)
    network = NetworkConfig(
        cell="lstm", units=config.units, head="regression", n_channels=1, dropout=config.dropout, l1=config.l1
    )
    model = build_network(network)
    epochs = fit_two_phases(model, train.x[..., None], train.y[:, None], (valid.x[..., None], valid.y[:, None]), config)
    networks = Networks.of(model)

    def error(forecast: np.ndarray | float) -> float:
        return float(np.mean(np.square(forecast - test.y)) * std**2)

    report = UnitReport(
        units=len(known),
        n_train=len(train),
        n_valid=len(valid),
        n_test=len(test),
        epochs=len(epochs),
        test_mse=error(_predict(networks, test.x)),
        linear_mse=error(LinearRegression().fit(train.x, train.y).predict(test.x)),
        last_value_mse=error(test.x[:, -1]),
        median_mse=error(float(np.median(train.y))),
    )
    return UnitForecaster(networks, config, mean, std, report)


def newest_mse(fitted: UnitForecaster, series: Mapping[str, np.ndarray]) -> float:
    """Mean squared error in days² on the newest 15 % of the windows of `series`, those that test a new fit on it."""
    known = {unit: lengths for unit, lengths in _checked(series).items() if len(lengths) > fitted.config.window}
    test = _split(known, fitted.config.window)[2].scaled(fitted.mean_days, fitted.std_days)
    return float(np.mean(np.square(_predict(fitted.networks, test.x) - test.y)) * fitted.std_days**2)


def forecast_units(fitted: UnitForecaster, series: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The next `config.horizon` lengths of stay per unit as rows of `forecast.unit_los_forecast`, one per step.

    Columns: unit, step (1 is the next stay to end), los_days, last_los_days and median_los_days of the unit's own
    series, n_stays that the series holds. A unit with fewer lengths than a window has no rows.
    """
    rows = [
        {
            "unit": unit,
            "step": step,
            "los_days": float(days),
            "last_los_days": float(series[unit][-1]),
            "median_los_days": float(np.median(series[unit])),
            "n_stays": len(series[unit]),
        }
        for unit, forecast in fitted.predict_next(series).items()
        for step, days in enumerate(forecast, start=1)
    ]
    columns = ["unit", "step", "los_days", "last_los_days", "median_los_days", "n_stays"]
    return pd.DataFrame(rows, columns=columns)


def save_unit_forecaster(root: Path, model_id: str, fitted: UnitForecaster, meta: dict[str, Any]) -> Path:
    """Writes a unit forecaster as an artifact, its report under `metrics` in the meta data; see `save_artifact`."""
    scaler = {"mean_days": fitted.mean_days, "std_days": fitted.std_days}
    meta = {**meta, "metrics": fitted.report.to_json()}
    return save_artifact(root, model_id, fitted.networks.save, fitted.config, scaler, meta)


def load_unit_forecaster(path: Path) -> UnitForecaster:
    """Reads a unit forecaster back. Raises ArtifactError if it is damaged or another forecaster."""
    artifact = load_artifact(path)
    if not isinstance(artifact.config, UnitConfig):
        raise ArtifactError(f"The artifact {Path(path).name} is a stay forecaster, not a unit forecaster.")
    report = UnitReport(**artifact.meta["metrics"])
    return UnitForecaster(Networks.load(artifact.folder), artifact.config, report=report, **artifact.scaler)


def _checked(series: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    days = {unit: np.asarray(lengths, dtype=np.float64) for unit, lengths in series.items()}
    if wrong := sum(lengths.ndim != 1 or not np.isfinite(lengths).all() for lengths in days.values()):
        raise ContractError(f"Lengths of stay are one row of finite days per unit; {wrong} units have something else.")
    return days


def _split(known: Mapping[str, np.ndarray], window: int) -> tuple[_Pairs, _Pairs, _Pairs]:
    """Windows to train on, to validate and to test, in days; those of each unit are split in the order of time."""
    parts: tuple[list[_Pairs], ...] = ([], [], [])
    for lengths in known.values():
        n = len(lengths) - window
        x, y = np.lib.stride_tricks.sliding_window_view(lengths, window)[:n], lengths[window:]
        cuts = [int(n * _TRAIN_SHARE), int(n * _VALID_SHARE)]
        for part, xs, ys in zip(parts, np.split(x, cuts), np.split(y, cuts), strict=True):
            part.append(_Pairs(xs, ys))
    none = _Pairs(np.empty((0, window)), np.empty(0))
    train, valid, test = (
        _Pairs(np.concatenate([p.x for p in (none, *part)]), np.concatenate([p.y for p in (none, *part)]))
        for part in parts
    )
    return train, valid, test


def _check_counts(pairs: tuple[_Pairs, _Pairs, _Pairs], window: int) -> None:
    n_train, n_valid, n_test = (len(part) for part in pairs)
    if n_train < MIN_TRAIN or min(n_valid, n_test) < MIN_JUDGE:
        raise DataTooSmallError(
            f"The unit forecaster needs {MIN_TRAIN} windows of {window} lengths of stay to train on and {MIN_JUDGE} "
            f"each to validate and to test; found {n_train}, {n_valid} and {n_test}. Load more finished stays."
        )


def fit_two_phases(
    model: "keras.Model", x: np.ndarray, y: np.ndarray, valid: tuple[np.ndarray, np.ndarray], config: UnitConfig
) -> tuple[EpochRecord, ...]:
    """Adam on squared error: a few epochs under a falling rate, then until `valid` (x, y) no longer improves.

    Keeps the weights of the best epoch of the second phase. Returns every epoch's `train_loss` and, of the second
    phase, `valid_loss`.
    """
    import keras

    def falling(epoch: int, _: float) -> float:
        return config.learning_rate * 10 ** (-epoch / 20)

    optimizer = keras.optimizers.Adam(config.learning_rate, clipnorm=config.clip_norm)
    # Otherwise Keras traces the step twice, once to make these variables.
    optimizer.build(model.trainable_variables)
    model.compile(optimizer=optimizer, loss="mse", jit_compile=False)
    common: dict[str, Any] = {"batch_size": config.batch_size, "verbose": 0}
    schedule = keras.callbacks.LearningRateScheduler(falling)
    first = model.fit(x, y, epochs=config.first_epochs, callbacks=[schedule], **common)
    stopping = keras.callbacks.EarlyStopping(patience=config.patience, restore_best_weights=True)
    second = model.fit(x, y, validation_data=valid, epochs=config.second_epochs, callbacks=[stopping], **common)
    losses = [(loss, np.nan) for loss in first.history["loss"]]
    losses += zip(second.history["loss"], second.history["val_loss"], strict=True)
    return tuple(
        {"epoch": epoch, "train_loss": train, "valid_loss": valid}
        for epoch, (train, valid) in enumerate(losses, start=1)
    )


def _predict(networks: Networks, x: np.ndarray) -> np.ndarray:
    (network,) = networks.plain
    return regress(network, x.astype(np.float32))
