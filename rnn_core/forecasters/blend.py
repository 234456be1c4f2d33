"""A blend of forecasters of several kinds, fitted on the same folds and pooled with weights learned out of fold."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from rnn_core.contracts.config import ModelConfig
from rnn_core.contracts.errors import ArtifactError, ContractError
from rnn_core.contracts.frames import EpochRecord, Windows
from rnn_core.forecasters.forecaster import Forecaster, OutOfFold, kind_of
from rnn_core.series.material import JUDGE_EVERY_HOURS, Material
from rnn_core.statistics.distribution import Distribution
from rnn_core.statistics.pooling import LogarithmicPool, fit_pool

POOL_FILE = "pool.json"


@dataclass(frozen=True)
class Blend:
    """Forecasters of the kinds of `ModelConfig.blend`, in that order, and how their distributions are pooled."""

    parts: tuple[Forecaster, ...]
    pool: LogarithmicPool

    def forecast(self, windows: Windows, rows: np.ndarray) -> Distribution:
        """See `Forecaster`."""
        forecasts = [part.forecast(windows, rows) for part in self.parts]
        return self.pool.pool(forecasts, windows.prediction_hour[rows], windows.values_per_hour(rows))

    def members(self) -> tuple["Blend", ...]:
        """Of each fold, the blend of the parts' members that left it out."""
        return tuple(
            Blend(of_fold, self.pool) for of_fold in zip(*(part.members() for part in self.parts), strict=True)
        )

    def save(self, folder: Path) -> None:
        for part in self.parts:
            part.save(folder)
        (folder / POOL_FILE).write_text(json.dumps(self.pool.to_json(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, config: ModelConfig) -> Self:
        """See `Forecaster`."""
        try:
            pool = LogarithmicPool.from_json(json.loads((folder / POOL_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{POOL_FILE} of the artifact {folder.name} cannot be read; restore the folder from its backup, or train "
                "again."
            ) from error
        return cls(tuple(kind_of(part).load(folder, part) for part in part_configs(config)), pool)

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
        """See `Forecaster`. The network of a blend, or a network alone, gives the network a warm start; trees always
        start from scratch."""
        fitted = [
            kind_of(part).fit(
                material,
                learned,
                part,
                checkpoint_dir=checkpoint_dir,
                warm_from=start_of(part, warm_from),
                progress=progress,
                folds=folds,
            )
            for part in part_configs(config)
        ]
        return join(material, fitted, config)


def start_of(part: ModelConfig, warm_from: Forecaster | None) -> Forecaster | None:
    """What a part starts from: networks from those of `warm_from`, all others from nothing."""
    if warm_from is None or part.forecaster != "recurrent":
        return None
    for one in warm_from.parts if isinstance(warm_from, Blend) else (warm_from,):
        if isinstance(one, kind_of(part)):
            return one
    raise ContractError("A blend starts from a blend or from a recurrent forecaster. Train from scratch.")


def part_configs(config: ModelConfig) -> list[ModelConfig]:
    """The config of each part of a blend."""
    return [replace(config, forecaster=kind) for kind in config.blend]


def join(material: Material, fitted: Sequence[OutOfFold], config: ModelConfig) -> OutOfFold:
    """The blend of fits on the same folds, in the order of `config.blend`. Raises ContractError for other folds."""
    row = fitted[0].row
    if any(not np.array_equal(one.row, row) for one in fitted):
        raise ContractError("Only fits on the same stays and folds can be blended.")
    forecasts, labels = [one.forecast for one in fitted], material.labels.take(row)
    seen = material.windows.prediction_hour[row], material.windows.values_per_hour(row)
    death, weight = material.settled_death[row], JUDGE_EVERY_HOURS / 24
    pool = fit_pool(forecasts, death, labels.weights, labels.entry, *seen, row_weight=weight)
    # Networks know the sizes of the data, and how their training went.
    leading = next((one for one in fitted if one.histories), fitted[0])
    return OutOfFold(
        forecaster=Blend(tuple(one.forecaster for one in fitted), pool),
        config=replace(leading.config, forecaster="blend"),
        row=row,
        forecast=pool.pool(forecasts, *seen),
        histories=leading.histories,
        best_epochs=leading.best_epochs,
    )
