"""A search for the settings of networks: what is varied, and how one choice is judged out of fold."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import numpy as np

from rnn_core.contracts.config import Cell, ModelConfig
from rnn_core.contracts.frames import EpochRecord
from rnn_core.forecasters.forecaster import OutOfFold
from rnn_core.forecasters.recurrent import RecurrentEnsemble
from rnn_core.series.material import Material

_TINY = 1e-12


@dataclass(frozen=True)
class Varied:
    """A setting that is searched: among `choices`, or between `low` and `high`, on a log scale or not, whole or not."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()


SPACE: tuple[Varied, ...] = (
    Varied("hidden-size", 8, 128, log=True, whole=True),
    Varied("recurrent-layers", 1, 2, whole=True),
    Varied("cell", choices=get_args(Cell)),
    Varied("learning-rate", 3e-4, 2e-2, log=True),
    Varied("batch-size", 16, 256, log=True, whole=True),
    Varied("clip-norm", 0.1, 10, log=True),
    Varied("dropout", 0.0, 0.6),
    Varied("l1", choices=(0.0, 1e-6, 1e-5, 1e-4, 1e-3)),
)


def values_of(config: ModelConfig) -> dict[str, Any]:
    """What `config` has of each of `SPACE`; raises KeyError for none of them."""
    network, train = config.network, config.train
    return {
        "hidden-size": network.units[0],
        "recurrent-layers": len(network.units),
        "cell": network.cell,
        "learning-rate": train.learning_rate,
        "batch-size": train.batch_size,
        "clip-norm": train.clip_norm,
        "dropout": network.dropout,
        "l1": network.l1,
    }


def options_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of `SPACE` as options of a training.

    >>> options_of({"hidden-size": 32, "recurrent-layers": 2, "cell": "gru"})
    {'layers': [32, 32], 'cell': 'gru'}
    """
    rest = {name: value for name, value in values.items() if name not in ("hidden-size", "recurrent-layers")}
    return {"layers": [values["hidden-size"]] * values["recurrent-layers"], **rest}


@dataclass(frozen=True)
class Judged:
    """losses: sum over the rows of each stay of the negative log likelihood, nats [stays]; rows: of each stay [stays], 0 where
    it is not judged. histories: epochs of each network."""

    losses: np.ndarray
    rows: np.ndarray
    histories: tuple[tuple[EpochRecord, ...], ...]

    @property
    def loss(self) -> float:
        """Mean over all rows."""
        return float(self.losses.sum() / self.rows.sum())


def judge_out_of_fold(
    material: Material,
    learned: np.ndarray,
    config: ModelConfig,
    after_epoch: Callable[[int, EpochRecord], None],
) -> Judged:
    """Fit one member per fold and judge each on the fold that it never saw, by the likelihood of when and how its stays ended.

    learned: bool [stays], all others have no part. after_epoch: called with the number of the fold and the epoch's record; it
    may raise to give the choice up.
    """
    n_stays = len(material.known.stays)
    losses, rows, histories = np.zeros(n_stays), np.zeros(n_stays), []
    for fold in range(config.train.folds):
        fitted = RecurrentEnsemble.fit(material, learned, config, folds=[fold], progress=partial(after_epoch, fold))
        stay = material.windows.stay_of(fitted.row)
        losses += np.bincount(stay, row_losses(material, fitted), n_stays)
        rows += np.bincount(stay, minlength=n_stays)
        histories += fitted.histories
    return Judged(losses, rows, tuple(histories))


def row_losses(material: Material, fitted: OutOfFold) -> np.ndarray:
    """Negative log likelihood of each of the rows that were left out, nats float64 [n]; see `Labels`."""
    labels, masses = material.labels.take(fitted.row), fitted.forecast.masses
    seen, entered = ((weights * masses).sum(axis=(1, 2)) for weights in (labels.weights, labels.entry))
    return np.log(np.maximum(entered, _TINY)) - np.log(np.maximum(seen, _TINY))
