"""The recurrent forecaster: an ensemble of networks, one per fold of the patients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

import keras
import numpy as np

import rnn_core.network.cells
import rnn_core.network.heads  # noqa: F401 - both register the layers that a saved network may hold
from rnn_core.contracts.config import ModelConfig
from rnn_core.contracts.errors import ArtifactError, ContractError
from rnn_core.contracts.frames import EpochRecord, Windows
from rnn_core.forecasters.artifact import checksum_of, read_meta, versions_of
from rnn_core.forecasters.forecaster import Forecaster, OutOfFold, join_folds
from rnn_core.network.build import build_ensemble, members_of
from rnn_core.network.scoring import score_rows, score_windows
from rnn_core.network.training import fit_stay_model
from rnn_core.series.material import Material
from rnn_core.series.splits import patient_folds
from rnn_core.statistics.distribution import Distribution

NETWORK_FILE = "model.keras"

# Champion, challenger, unit model and one more of a process that serves them hour after hour, by checksum.
_NETWORKS_KEPT = 4
_networks: dict[str, keras.Model] = {}


@dataclass(frozen=True)
class RecurrentEnsemble:
    """Networks whose mean is forecast, as one Keras model (`network.build.build_ensemble`)."""

    network: keras.Model
    edges: tuple[float, ...]

    def forecast(self, windows: Windows, rows: np.ndarray) -> Distribution:
        """See `Forecaster`. A window of which several rows are requested is read once for all of its hours."""
        window = windows.window_of(rows)
        wanted = np.unique(window)
        if len(wanted) == len(rows):
            masses = score_rows(self.network, windows, window, rows)
        else:
            found, every = score_windows(self.network, windows, wanted)
            masses = every[np.searchsorted(found, rows)]
        return Distribution(masses, self.edges)

    def members(self) -> tuple["RecurrentEnsemble", ...]:
        return tuple(RecurrentEnsemble(member, self.edges) for member in members_of(self.network))

    def save(self, folder: Path) -> None:
        self.network.save(folder / NETWORK_FILE)

    @classmethod
    def load(cls, folder: Path, config: ModelConfig) -> Self:
        return cls(load_network(folder), config.network.horizon_edges)

    @classmethod
    def fit(
        cls,
        material: Material,
        learned: np.ndarray,
        config: ModelConfig,
        *,
        checkpoint_dir: Path | None = None,
        warm_from: Forecaster | None = None,
        progress: Callable[[EpochRecord], None] | None = None,
        folds: Sequence[int] | None = None,
    ) -> OutOfFold:
        """See `Forecaster`. The fold that a network did not learn from stops it."""
        n_folds, edges, rows = config.train.folds, config.network.horizon_edges, material.judged_rows
        stay, fold = material.stay_of_row[rows], patient_folds(material.known.stays["patient_id"], n_folds)
        left_out = range(n_folds) if folds is None else folds
        labels = replace(material.labels, death=material.settled_death)
        fitted, held_out_forecasts = [], []
        for k, start in zip(left_out, _starts(warm_from, len(left_out)), strict=True):
            held_out = learned & (fold == k)
            fitted.append(
                fit_stay_model(
                    material.windows,
                    labels,
                    learned & (fold != k),
                    held_out,
                    replace(config, train=replace(config.train, seed=config.train.seed * n_folds + k)),
                    warm_from=start,
                    checkpoint_dir=checkpoint_dir and checkpoint_dir / f"member_{k}",
                    progress=progress and partial(_report_member, progress, k + 1, n_folds),
                )
            )
            mine = rows[held_out[stay]]
            held_out_forecasts.append((mine, cls(fitted[-1].model, edges).forecast(material.windows, mine)))
        row, forecast = join_folds(held_out_forecasts)
        return OutOfFold(
            forecaster=cls(build_ensemble([one.model for one in fitted]), edges),
            config=replace(fitted[0].config, train=config.train),
            row=row,
            forecast=forecast,
            histories=tuple(one.history for one in fitted),
            best_epochs=tuple(one.best_epoch for one in fitted),
        )


def load_network(folder: Path) -> keras.Model:
    """The network of an artifact, ready to score, not compiled for training.

    A network is read once per process, since rebuilding and tracing it takes seconds; artifacts with the same network
    share it: copy it to change it. Raises ArtifactError if this version of Keras cannot read it.
    """
    checksum = checksum_of(folder / NETWORK_FILE)
    if checksum not in _networks:
        try:
            network = keras.saving.load_model(folder / NETWORK_FILE, compile=False)
        except (ValueError, TypeError, OSError) as error:
            raise ArtifactError(
                f"The network of the artifact {folder.name} cannot be read with keras {keras.__version__}; it was written "
                f"with {versions_of(read_meta(folder))}. Install those versions, or train again."
            ) from error
        while len(_networks) >= _NETWORKS_KEPT:
            del _networks[next(iter(_networks))]
        _networks[checksum] = network
    return _networks[checksum]


def _starts(warm_from: Forecaster | None, n: int) -> Sequence[keras.Model | None]:
    """The network that each of `n` members starts from."""
    if warm_from is None:
        return (None,) * n
    if not isinstance(warm_from, RecurrentEnsemble):
        raise ContractError("A recurrent forecaster cannot start from another kind. Train from scratch instead.")
    starts = members_of(warm_from.network)
    if len(starts) != n:
        raise ContractError(f"A warm start needs {n} members; the model has {len(starts)}. Train from scratch instead.")
    return starts


def _report_member(progress: Callable[[EpochRecord], None], member: int, members: int, record: EpochRecord) -> None:
    progress(record | {"member": member, "members": members})
