"""What a network is taught besides outcomes: the forecasts of a blend that saw neither the stay nor the fold left out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from rnn_core.contracts.config import ModelConfig
from rnn_core.contracts.frames import EpochRecord
from rnn_core.forecasters.forecaster import kind_of
from rnn_core.series.material import Material

# Rows forecast together.
_BLOCK = 65_536


def teach(
    material: Material,
    learned: np.ndarray,
    config: ModelConfig,
    checkpoint_dir: Path | None = None,
    progress: Callable[[EpochRecord], None] | None = None,
) -> np.ndarray:
    """Masses of `Labels.taught`, of the rows of `learned`, bool [stays], that teach a likelihood.

    The teacher is the blend of `config` fitted to the stays `learned` by their folds; each stay is forecast by the
    member that left its fold out, so that what is taught is no memory of how the stay ended. Where `learned` leaves a fold
    out, so do all members and the weights of the pool: what learns from them may be judged on it. A forecast is made of
    what was known then, whatever became of the stay. Borrowed stays, from which all members learn, are taught nothing.
    """
    windows, n = material.windows, config.train.folds
    fold = material.folds(n)
    folds = [k for k in range(n) if (learned & (fold == k)).any()]
    config = replace(config, forecaster="blend", train=replace(config.train, teacher_share=0.0))
    fitted = kind_of(config).fit(
        material, learned, config, checkpoint_dir=checkpoint_dir, progress=progress, folds=folds
    )
    taught = np.zeros(material.labels.weights.shape, np.float16)
    row = np.flatnonzero(windows.scored & material.labels.usable)
    for k, member in zip(folds, fitted.forecaster.members(), strict=True):
        mine = row[(learned & (fold == k))[windows.stay_of(row)]]
        for first in range(0, len(mine), _BLOCK):
            some = mine[first : first + _BLOCK]
            taught[some] = member.forecast(windows, some).masses
    return taught
