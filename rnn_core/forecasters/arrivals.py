"""The recurrent forecaster of arrivals: an LSTM that corrects the rates of the next week by what came in the last two."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rnn_core.contracts.census import ARRIVAL_PART_HOURS, PARTS_AHEAD, PARTS_BEFORE, ArrivalWindows
from rnn_core.contracts.config import ArrivalConfig
from rnn_core.contracts.errors import ArtifactError
from rnn_core.forecasters.artifact import load_artifact, save_artifact
from rnn_core.forecasters.networks import WEIGHTS_FILE
from rnn_core.network.scoring import FittedNetwork, load_networks, save_networks
from rnn_core.statistics.bootstrap import Estimate, bootstrap_interval, mean

if TYPE_CHECKING:
    import keras

# A rate is at most multiplied or divided by this.
MOST = 3.0
# A smaller gain in log-likelihood changes no census.
LEAST_GAIN = 0.02
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
    """A fitted network, one for all units of a source; from `report.reach` parts ahead on its factors are 1."""

    network: FittedNetwork
    config: ArrivalConfig
    report: ArrivalReport

    def factors(self, windows: ArrivalWindows) -> np.ndarray:
        """By what the rates of each part ahead are multiplied, float64 [rows, parts]; a `RateFactors`."""
        return forecast_factors(self.network, windows, self.report.reach)

    def save(self, root: Path, model_id: str, meta: dict[str, Any]) -> Path:
        """Writes it as an artifact, its report under `metrics` in the meta data; see `save_artifact`."""
        meta = {**meta, "metrics": self.report.to_json()}

        def save(folder: Path) -> None:
            save_networks([self.network], folder / WEIGHTS_FILE)

        return save_artifact(root, model_id, save, self.config, {}, meta)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises ArtifactError if it is damaged or another forecaster."""
        artifact = load_artifact(path)
        if not isinstance(artifact.config, ArrivalConfig):
            raise ArtifactError(f"The artifact {Path(path).name} is no forecaster of arrivals.")
        (network,) = load_networks(artifact.folder / WEIGHTS_FILE)
        found = artifact.meta["metrics"]
        report = ArrivalReport(Estimate.from_json(found["gain"]), found["weeks"], found["epochs"], found["reach"])
        return cls(network, artifact.config, report)


def fit_arrival_forecaster(
    learned: ArrivalWindows, choosing: ArrivalWindows, judged: ArrivalWindows, config: ArrivalConfig
) -> ArrivalForecaster:
    """An LSTM layer goes from part to part; for each it reads how far the begins of the part before, of a day and of a week
    before were from those expected, of the unit and of all units, and how many are expected in it, as DeepAR does (Salinas et
    al., Int. J. Forecasting 36, 2020). Its state gives the logarithm of a factor on the part's rate, 0 at first. Hour of the
    day and weekday are in the rate; a network that read them again learned noise.

    The loss is the Poisson log-likelihood of the counts of the week ahead, given what the rates let expect (an offset), part
    after part, by AdamW; the epoch is the one with the least loss on `choosing`. `judged` are later weeks: nothing is fitted
    or chosen on them. Changes the global seeds of Python, numpy and TensorFlow.
    """
    import keras

    keras.utils.set_random_seed(config.seed)
    model = build_arrival_network(config)
    model.compile(
        keras.optimizers.AdamW(config.learning_rate, config.weight_decay, clipnorm=1.0), loss=_loss, jit_compile=False
    )
    stopping = keras.callbacks.EarlyStopping(patience=config.patience, restore_best_weights=True)
    done = model.fit(
        _channels(learned),
        _outcome(learned),
        validation_data=(_channels(choosing), _outcome(choosing)),
        epochs=config.epochs,
        batch_size=config.batch_size,
        callbacks=[stopping],
        verbose=0,
    )
    network = plain_network(model)
    # A correction that is right for the next hours need not be for the next days.
    so_far = np.cumsum(_gains(choosing, forecast_factors(network, choosing)).mean(axis=0))
    reach = int(np.argmax(np.append(0.0, so_far)))
    gain = bootstrap_interval(mean, [_gains(judged, forecast_factors(network, judged, reach)).sum(axis=1)], judged.week)
    report = ArrivalReport(gain, len(np.unique(judged.week)), len(done.history["loss"]), reach)
    return ArrivalForecaster(network, config, report)


def _gains(windows: ArrivalWindows, factors: np.ndarray) -> np.ndarray:
    """Poisson log-likelihood of the counts ahead with the factors, less that without, float64 [rows, parts ahead]."""
    came, expected = windows.came[:, PARTS_BEFORE:], windows.expected[:, PARTS_BEFORE:]
    return came * np.log(factors) - expected * (factors - 1)


def forecast_factors(network: FittedNetwork, windows: ArrivalWindows, reach: int = PARTS_AHEAD) -> np.ndarray:
    """Step by step through the two weeks and on through the next, where as many come as are expected with the factors found:
    a unit's own of the unit, 1 of all. What came then is not read. float64 [rows, parts ahead]."""
    (step,), weights = network.steps, network.weights
    missing = np.arange(windows.came.shape[1]) >= PARTS_BEFORE
    came = np.where(missing, windows.expected, windows.came)
    anywhere = np.where(missing, windows.expected_anywhere, windows.came_anywhere)
    steps = _Steps(came, windows.expected, anywhere, windows.expected_anywhere)
    hidden, memory = np.zeros((2, len(windows), len(weights["recurrent_0/recurrent_kernel"])), np.float32)
    factors, one = np.ones((len(windows), PARTS_AHEAD)), np.ones((len(windows), 1), np.float32)
    for part in range(_FIRST, PARTS_BEFORE + reach):
        hidden, memory = step(np.concatenate([steps.read(part), hidden, one], axis=1), memory)
        if missing[part]:
            log_factors = (hidden @ weights["head/kernel"] + weights["head/bias"])[:, 0].astype(np.float64)
            found = MOST ** np.tanh(log_factors / np.log(MOST))
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

    def read(self, part: int) -> np.ndarray:
        """How far the begins of the parts before were from those expected, in standard deviations; how many are expected:
        float32 [rows, channels]."""
        off, off_anywhere = (
            [_apart(came[:, part - lag], expected[:, part - lag]) for lag in lags]
            for came, expected, lags in (
                (self.came, self.expected, _LAGS_UNIT),
                (self.came_anywhere, self.expected_anywhere, _LAGS_ANYWHERE),
            )
        )
        return np.stack([*off, *off_anywhere, np.log1p(self.expected[:, part])], axis=1).astype(np.float32)


def _apart(came: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return (came - expected) / np.sqrt(expected + 1)


def _channels(windows: ArrivalWindows) -> np.ndarray:
    """Of all parts that have a week before them, what came in all of them known, float32 [rows, parts, channels]."""
    steps = _Steps(windows.came, windows.expected, windows.came_anywhere, windows.expected_anywhere)
    parts = range(_FIRST, windows.came.shape[1])
    return np.stack([steps.read(part) for part in parts], axis=1)


def _outcome(windows: ArrivalWindows) -> np.ndarray:
    """float32 [rows, parts ahead, 2]: begins, and those expected."""
    return np.stack([windows.came, windows.expected], axis=2)[:, PARTS_BEFORE:].astype(np.float32)


def build_arrival_network(config: ArrivalConfig) -> "keras.Model":
    import keras

    from rnn_core.network.cells import build_recurrent

    n_channels = len(_LAGS_UNIT) + len(_LAGS_ANYWHERE) + 1
    x = keras.Input((PARTS_BEFORE - _FIRST + PARTS_AHEAD, n_channels), name="x")
    hidden = build_recurrent("lstm", config.units, name="recurrent_0")(x)
    log_factors = keras.layers.Dense(1, kernel_initializer="zeros", name="head")(hidden)
    return keras.Model(x, log_factors, name="arrival_network")


def plain_network(model: "keras.Model") -> FittedNetwork:
    """With the weights that `model` has now."""
    weights = {f"{layer.name}/{weight.name}": np.array(weight) for layer in model.layers for weight in layer.weights}
    return FittedNetwork(("lstm",), 0, (), weights)


def _loss(outcome: Any, log_factors: Any) -> Any:
    """Negative Poisson log-likelihood of the parts ahead, without what no factor changes, [rows, parts ahead]."""
    from keras import ops

    log_factors = log_factors[:, -PARTS_AHEAD:, 0]
    bounded = np.log(MOST) * ops.tanh(log_factors / np.log(MOST))
    return outcome[..., 1] * ops.exp(bounded) - outcome[..., 0] * bounded
