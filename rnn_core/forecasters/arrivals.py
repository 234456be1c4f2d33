"""The recurrent forecaster of arrivals: an LSTM that corrects the rates of the next week by what came in the last two."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np
from keras import ops
from scipy.special import expit

from rnn_core.contracts.census import ARRIVAL_PART_HOURS, PARTS_AHEAD, PARTS_BEFORE, ArrivalWindows
from rnn_core.contracts.config import ArrivalConfig
from rnn_core.contracts.errors import ArtifactError
from rnn_core.forecasters.artifact import load_artifact, save_artifact
from rnn_core.network.cells import build_recurrent
from rnn_core.statistics.bootstrap import Estimate, bootstrap_interval, mean

# A rate is at most multiplied or divided by this.
MOST = 3.0
# A smaller gain in log-likelihood changes no census.
LEAST_GAIN = 0.02
_WEIGHTS_FILE = "weights.npz"
_WEEK = 7 * 24
# Parts between a part and those whose begins are read for it: the last one, a day and a week before.
_LAGS_UNIT, _LAGS_ANYWHERE = (1, 3, 21), (1, 3)
_FIRST = max(_LAGS_UNIT)


@dataclass(frozen=True)
class ArrivalReport:
    """How much more likely the corrected rates made what came in the week after each judged time, as Poisson counts of
    8 hours, than the rates alone: log-likelihood per unit and time, with an interval over weeks. reach: parts ahead that are
    corrected."""

    gain: Estimate
    weeks: int
    epochs: int
    reach: int

    @property
    def is_better(self) -> bool:
        """Beyond chance: the lower end of the interval is above a gain too small to matter."""
        return bool(self.gain.low > LEAST_GAIN)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"gain": self.gain.to_json()}

    def sentence(self) -> str:
        return (
            f"Log-likelihood of a week's arrivals per unit, LSTM less rates: {self.gain.show()} over {self.weeks} later weeks; "
            f"it corrects {self.reach * ARRIVAL_PART_HOURS} h ahead."
        )


@dataclass(frozen=True)
class ArrivalForecaster:
    """Weights of a fitted network, one for all units of a source, in the order of Keras: kernel, recurrent kernel and bias of
    the LSTM, kernel and bias of the head. float32. From `report.reach` parts ahead on the factors are 1."""

    weights: tuple[np.ndarray, ...]
    config: ArrivalConfig
    report: ArrivalReport

    def factors(self, windows: ArrivalWindows) -> np.ndarray:
        """By what the rates of each part ahead are multiplied, float64 [rows, parts]; a `RateFactors`."""
        return forecast_factors(self.weights, windows, self.report.reach)

    def save(self, root: Path, model_id: str, meta: dict[str, Any]) -> Path:
        """Writes it as an artifact, its report under `metrics` in the meta data; see `save_artifact`."""
        meta = {**meta, "metrics": self.report.to_json()}
        return save_artifact(root, model_id, self._save_weights, self.config, {}, meta)

    def _save_weights(self, folder: Path) -> None:
        np.savez(folder / _WEIGHTS_FILE, *self.weights)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises ArtifactError if it is damaged or another forecaster."""
        artifact = load_artifact(path)
        if not isinstance(artifact.config, ArrivalConfig):
            raise ArtifactError(f"The artifact {Path(path).name} is no forecaster of arrivals.")
        with np.load(artifact.folder / _WEIGHTS_FILE) as saved:
            weights = tuple(saved[name] for name in saved.files)
        found = artifact.meta["metrics"]
        report = ArrivalReport(Estimate.from_json(found["gain"]), found["weeks"], found["epochs"], found["reach"])
        return cls(weights, artifact.config, report)


def fit_arrival_forecaster(
    learned: ArrivalWindows, choosing: ArrivalWindows, judged: ArrivalWindows, config: ArrivalConfig
) -> ArrivalForecaster:
    """An LSTM layer goes from part to part; for each it reads how far the begins of the part before, of a day and of a week
    before were from those expected, of the unit and of all units, and the clock, as DeepAR does (Salinas et al., Int. J.
    Forecasting 36, 2020). Its state gives the logarithm of a factor on the part's rate, 0 at first.

    The loss is the Poisson log-likelihood of the counts of the week ahead, given what the rates let expect (an offset), part
    after part, by AdamW; the epoch is the one with the least loss on `choosing`. `judged` are later weeks: nothing is fitted
    or chosen on them. Changes the global seeds of Python, numpy and TensorFlow.
    """
    keras.utils.set_random_seed(config.seed)
    network = _build(config)
    network.compile(
        keras.optimizers.AdamW(config.learning_rate, config.weight_decay, clipnorm=1.0), loss=_loss, jit_compile=False
    )
    stopping = keras.callbacks.EarlyStopping(patience=config.patience, restore_best_weights=True)
    done = network.fit(
        _channels(learned),
        _outcome(learned),
        validation_data=(_channels(choosing), _outcome(choosing)),
        epochs=config.epochs,
        batch_size=config.batch_size,
        callbacks=[stopping],
        verbose=0,
    )
    weights = tuple(network.get_weights())
    # A correction that is right for the next hours need not be for the next days.
    so_far = np.cumsum(_gains(choosing, forecast_factors(weights, choosing)).mean(axis=0))
    reach = int(np.argmax(np.append(0.0, so_far)))
    gain = bootstrap_interval(mean, [_gains(judged, forecast_factors(weights, judged, reach)).sum(axis=1)], judged.week)
    report = ArrivalReport(gain, len(np.unique(judged.week)), len(done.history["loss"]), reach)
    return ArrivalForecaster(weights, config, report)


def _gains(windows: ArrivalWindows, factors: np.ndarray) -> np.ndarray:
    """Poisson log-likelihood of the counts ahead with the factors, less that without, float64 [rows, parts ahead]."""
    came, expected = windows.came[:, PARTS_BEFORE:], windows.expected[:, PARTS_BEFORE:]
    return came * np.log(factors) - expected * (factors - 1)


def forecast_factors(weights: tuple[np.ndarray, ...], windows: ArrivalWindows, reach: int = PARTS_AHEAD) -> np.ndarray:
    """Step by step through the two weeks and on through the next, where as many come as are expected with the factors found:
    a unit's own of the unit, 1 of all. What came then is not read. float64 [rows, parts ahead]."""
    kernel, recurrent, bias, head, head_bias = (x.astype(np.float64) for x in weights)
    missing = np.arange(windows.came.shape[1]) >= PARTS_BEFORE
    came = np.where(missing, windows.expected, windows.came)
    anywhere = np.where(missing, windows.expected_anywhere, windows.came_anywhere)
    steps = _Steps(came, windows.expected, anywhere, windows.expected_anywhere, windows.hour_of_week)
    hidden, cell = np.zeros((2, len(windows), len(recurrent)))
    factors = np.ones((len(windows), PARTS_AHEAD))
    for part in range(_FIRST, PARTS_BEFORE + reach):
        gates = steps.read(part) @ kernel + hidden @ recurrent + bias
        enter, keep, new, leave = np.split(gates, 4, axis=1)
        cell = expit(keep) * cell + expit(enter) * np.tanh(new)
        hidden = expit(leave) * np.tanh(cell)
        if missing[part]:
            found = MOST ** np.tanh((hidden @ head + head_bias)[:, 0] / np.log(MOST))
            factors[:, part - PARTS_BEFORE] = found
            came[:, part] *= found
    return factors


@dataclass(frozen=True)
class _Steps:
    """What is read for each part, from the parts before it."""

    came: np.ndarray
    expected: np.ndarray
    came_anywhere: np.ndarray
    expected_anywhere: np.ndarray
    hour_of_week: np.ndarray

    def read(self, part: int) -> np.ndarray:
        """How far the begins of the parts before were from those expected, in standard deviations; how many are expected;
        the clock of the day and of the week; float64 [rows, channels]."""
        off, off_anywhere = (
            [_apart(came[:, part - lag], expected[:, part - lag]) for lag in lags]
            for came, expected, lags in (
                (self.came, self.expected, _LAGS_UNIT),
                (self.came_anywhere, self.expected_anywhere, _LAGS_ANYWHERE),
            )
        )
        return np.stack([*off, *off_anywhere, np.log1p(self.expected[:, part])], axis=1)


def _apart(came: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return (came - expected) / np.sqrt(expected + 1)


def _channels(windows: ArrivalWindows) -> np.ndarray:
    """Of all parts that have a week before them, what came in all of them known, float32 [rows, parts, channels]."""
    steps = _Steps(
        windows.came, windows.expected, windows.came_anywhere, windows.expected_anywhere, windows.hour_of_week
    )
    parts = range(_FIRST, windows.came.shape[1])
    return np.stack([steps.read(part) for part in parts], axis=1).astype(np.float32)


def _outcome(windows: ArrivalWindows) -> np.ndarray:
    """float32 [rows, parts ahead, 2]: begins, and those expected."""
    return np.stack([windows.came, windows.expected], axis=2)[:, PARTS_BEFORE:].astype(np.float32)


def _build(config: ArrivalConfig) -> keras.Model:
    n_channels = len(_LAGS_UNIT) + len(_LAGS_ANYWHERE) + 1
    x = keras.Input((PARTS_BEFORE - _FIRST + PARTS_AHEAD, n_channels), name="x")
    hidden = build_recurrent("lstm", config.units, name="recurrent")(x)
    log_factors = keras.layers.Dense(1, kernel_initializer="zeros", name="log_factors")(hidden)
    return keras.Model(x, log_factors, name="arrival_network")


def _loss(outcome: Any, log_factors: Any) -> Any:
    """Negative Poisson log-likelihood of the parts ahead, without what no factor changes, [rows, parts ahead]."""
    log_factors = log_factors[:, -PARTS_AHEAD:, 0]
    bounded = np.log(MOST) * ops.tanh(log_factors / np.log(MOST))
    return outcome[..., 1] * ops.exp(bounded) - outcome[..., 0] * bounded
