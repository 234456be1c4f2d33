"""What a stay forecaster can do, whatever it is made of, and the kinds there are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from rnn_core.contracts.config import ModelConfig
from rnn_core.contracts.frames import EpochRecord, Windows
from rnn_core.series.material import Material
from rnn_core.series.scaling import Scaler
from rnn_core.statistics.distribution import Distribution


class Forecaster(Protocol):
    """A fitted model that says of windows when and how their stays end, before any calibration.

    To add a kind, write a class with these methods, name it in `KINDS`, and add the kind to `ModelConfig.forecaster`.
    Everything else (calibration, risk bands, gate, drivers, artifacts, serving) works through this protocol.
    """

    def forecast(self, windows: Windows, rows: np.ndarray) -> Distribution:
        """Forecasts at the ends of `rows` (absolute rows of `windows`, int64 [n], in any order), [n].

        What is said at a row depends on that row and earlier rows of its window only. Raises ContractError for a row at
        which no window predicts.
        """

    def members(self) -> "Sequence[Forecaster]":
        """Its parts in the order of the folds, each of which learned without its own fold and whose mean it forecasts;
        itself alone where it has none."""

    def save(self, folder: Path) -> None:
        """Write its files, under names of its own, into `folder`, which exists."""

    @classmethod
    def load(cls, folder: Path, config: ModelConfig) -> Self:
        """What `save` wrote, with the config it was saved with; forecasts the same to the bit. Raises ArtifactError where
        the files cannot be read."""

    @classmethod
    def fit(
        cls,
        material: Material,
        learned: np.ndarray,
        config: ModelConfig,
        *,
        checkpoint_dir: Path | None = None,
        warm_from: "Forecaster | None" = None,
        progress: Callable[[EpochRecord], None] | None = None,
        folds: Sequence[int] | None = None,
    ) -> "OutOfFold":
        """One member per fold of the patients (`splits.patient_folds`, `config.train.folds`), each fitted without its fold.

        learned: bool [stays of material], the stays to learn from and to be judged on out of fold; the others have no
            part. folds: only the members of these, all by default.
        checkpoint_dir: where an interrupted fit is kept and resumed from. progress: called after each epoch or round with
            its record, `member` and `members` included. A kind may ignore both.
        warm_from: start from this one. Raises ContractError where it is of another kind or shape.

        Raises DataTooSmallError where too little has ended to learn from.
        """


class Start(Protocol):
    """What a fit starts from, and whether it learns in fine steps; see `start.WarmStart`."""

    fine: bool

    def scaler(self, fitted: Scaler) -> Scaler:
        """The scaler to fit with, given the one `fitted` to the stays to learn from."""

    def networks(self, material: Material, learned: np.ndarray, config: ModelConfig) -> Forecaster:
        """The forecaster to start from, of the shape of `config`. Raises ContractError where nothing can start."""


@dataclass(frozen=True)
class OutOfFold:
    """A fit, with what each member says of the fold that it never saw.

    config: with the sizes that the data gave. histories, best_epochs: of each member, where it has epochs.
    row: absolute rows, rising, of `Material.calibration_rows` of the folds that were left out, int64 [n]. forecast: uncalibrated,
        at these rows, by the member that left the stay's fold out, [n].
    """

    forecaster: Forecaster
    config: ModelConfig
    row: np.ndarray
    forecast: Distribution
    histories: tuple[tuple[EpochRecord, ...], ...] = ()
    best_epochs: tuple[int, ...] = ()


def join_folds(parts: Sequence[tuple[np.ndarray, Distribution]]) -> tuple[np.ndarray, Distribution]:
    """Rows, rising, and their forecasts, of folds with disjoint rows: (rows int64 [n], forecast [n]) of each fold."""
    row = np.concatenate([rows for rows, _ in parts])
    order = np.argsort(row)
    return row[order], Distribution.concatenate([forecast for _, forecast in parts]).take(order)


# Kind (`ModelConfig.forecaster`) → module and class. Imported when needed: one kind does without the libraries of another.
KINDS: dict[str, str] = {
    "recurrent": "rnn_core.forecasters.recurrent:RecurrentEnsemble",
    "trees": "rnn_core.forecasters.trees:BoostedTrees",
    "logistic": "rnn_core.forecasters.logistic:LogisticRegressions",
    "blend": "rnn_core.forecasters.blend:Blend",
}


def kind_of(config: ModelConfig) -> type[Forecaster]:
    """The class that fits and loads the forecasters of a config."""
    module, name = KINDS[config.forecaster].split(":")
    return getattr(import_module(module), name)
