"""The recurrent forecaster: an ensemble of networks, one per fold of the patients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from rnn_core.contracts.config import Cell, ModelConfig
from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.frames import EpochRecord, Windows
from rnn_core.forecasters.forecaster import Forecaster, OutOfFold, join_folds
from rnn_core.forecasters.networks import Networks
from rnn_core.forecasters.teacher import teach
from rnn_core.network.scoring import fixed_inputs, score_rows
from rnn_core.series.material import Material
from rnn_core.statistics.distribution import Distribution

if TYPE_CHECKING:
    import keras


# Between the seeds of two networks of one member.
_NEXT_SEED = 10_007


@dataclass(frozen=True)
class RecurrentEnsemble:
    """Networks whose mean is forecast; `per_member` of them are the mean that is a member."""

    networks: Networks
    edges: tuple[float, ...]
    per_member: int = 1

    @property
    def network(self) -> "keras.Model":
        """All networks as one Keras model, to start a training from."""
        return self.networks.keras_model

    def forecast(self, windows: Windows, rows: np.ndarray) -> Distribution:
        """See `Forecaster`. A window of which several rows are requested is read once for all of its hours."""
        return Distribution(score_rows(self.networks.plain, windows, windows.window_of(rows), rows), self.edges)

    def members(self) -> tuple["RecurrentEnsemble", ...]:
        n = self.per_member
        return tuple(RecurrentEnsemble(member, self.edges, n) for member in self.networks.members(n))

    def save(self, folder: Path) -> None:
        self.networks.save(folder)

    @classmethod
    def load(cls, folder: Path, config: ModelConfig) -> Self:
        return cls(Networks.load(folder), config.network.horizon_edges, len(member_cells(config)))

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
        """See `Forecaster`. The fold that a network did not learn from stops it. Each learns from borrowed stays too, with an
        intercept of their source."""
        from rnn_core.network.carry_over import without_static
        from rnn_core.network.training import fit_stay_model

        n_folds, edges, rows = config.train.folds, config.network.horizon_edges, material.calibration_rows
        stay, fold = material.stay_of_row[rows], material.folds(n_folds)
        left_out, cells = range(n_folds) if folds is None else folds, member_cells(config)
        windows = material.windows_with_origin
        fixed = fixed_inputs(windows, config) if material.fixed is None else material.fixed
        starts = iter(_starts(warm_from, len(left_out) * len(cells)))
        fitted, members, held_out_forecasts = [], [], []
        for k in left_out:
            held_out, networks = learned & (fold == k), []
            labels = replace(material.labels, death=material.settled_death)
            if config.train.teacher_share:
                folder = checkpoint_dir and checkpoint_dir / f"teacher_{k}"
                taught = teach(
                    material,
                    learned & (fold != k),
                    config,
                    folder,
                    progress and partial(_report_teacher, progress, k + 1),
                )
                labels = replace(labels, taught=taught)
            for number, cell in enumerate(cells):
                seed, name = network_seed(config, k, number), k * len(cells) + number
                one = fit_stay_model(
                    windows,
                    labels,
                    learned & (fold != k),
                    held_out,
                    replace(config, network=replace(config.network, cell=cell), train=replace(config.train, seed=seed)),
                    warm_from=next(starts),
                    checkpoint_dir=checkpoint_dir and checkpoint_dir / f"member_{name}",
                    progress=progress and partial(_report_member, progress, name + 1, n_folds * len(cells)),
                    fixed=fixed,
                )
                fitted.append(without_static(one, material.windows.static.shape[1]))
                networks.append(Networks.of(fitted[-1].model))
            members.append(Networks.join(networks))
            mine = rows[held_out[stay]]
            held_out_forecasts.append((mine, cls(members[-1], edges).forecast(material.windows, mine)))
        row, forecast = join_folds(held_out_forecasts)
        return OutOfFold(
            forecaster=cls(Networks.join([one for member in members for one in member.members()]), edges, len(cells)),
            config=replace(
                config, network=replace(fitted[0].config.network, cell=config.network.cell), train=config.train
            ),
            row=row,
            forecast=forecast,
            histories=tuple(one.history for one in fitted),
            best_epochs=tuple(one.best_epoch for one in fitted),
        )


def member_cells(config: ModelConfig) -> tuple[Cell, ...]:
    """Of the networks of a member."""
    return config.train.cells or (config.network.cell,)


def network_seed(config: ModelConfig, fold: int, number: int) -> int:
    """Of the network `number` of the member without `fold`; the first has the seed of an only one."""
    return config.train.seed * config.train.folds + fold + _NEXT_SEED * number


def _starts(warm_from: Forecaster | None, n: int) -> Sequence["keras.Model | None"]:
    """The network that each of `n` networks starts from."""
    from rnn_core.network.build import members_of

    if warm_from is None:
        return (None,) * n
    if not isinstance(warm_from, RecurrentEnsemble):
        raise ContractError("A recurrent forecaster cannot start from another kind. Train from scratch instead.")
    starts = members_of(warm_from.network)
    if len(starts) != n:
        raise ContractError(f"A warm start needs {n} members; the model has {len(starts)}. Train from scratch instead.")
    return starts


def _report_teacher(progress: Callable[[EpochRecord], None], of_member: int, record: EpochRecord) -> None:
    progress(record | {"teacher_of": of_member})


def _report_member(progress: Callable[[EpochRecord], None], member: int, members: int, record: EpochRecord) -> None:
    progress(record | {"member": member, "members": members})
