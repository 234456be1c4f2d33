"""Boosted trees as a stay forecaster."""

from typing import ClassVar

import numpy as np

from rnn_core.contracts.config import ModelConfig
from rnn_core.forecasters.boosting import Boosting, fit_boosting
from rnn_core.forecasters.hazards import Examples, HazardForecaster, LogOdds


class BoostedTrees(HazardForecaster):
    """See `HazardForecaster`. 40,000 rows make 120,000 examples: of 480 features, 0.5 GB."""

    file: ClassVar[str] = "trees.npz"
    model: ClassVar[type[LogOdds]] = Boosting
    max_rows: ClassVar[int] = 40_000

    @staticmethod
    def fit_log_odds(train: Examples, valid: Examples, config: ModelConfig, seed: int) -> tuple[Boosting, np.ndarray]:
        """Cut to the number of trees that is best on `valid`."""
        settings = config.trees
        return fit_boosting(train, valid, trees=settings.trees, learning_rate=settings.learning_rate, seed=seed)
