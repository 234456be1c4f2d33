"""Contenders on whole stays: all learn from the same stays and forecast the same patient-hours of other stays."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from rnn_core.benchmark.fits import Fits
from rnn_core.contracts.config import ModelConfig, Sampling
from rnn_core.contracts.errors import DataTooSmallError
from rnn_core.contracts.frames import EpochRecord, Grid, Windows
from rnn_core.contracts.known import Known
from rnn_core.evaluation.holdout import population_forecast
from rnn_core.forecasters.boosting import Examples
from rnn_core.forecasters.fit_stay import make_forecaster
from rnn_core.forecasters.forecaster import OutOfFold, kind_of
from rnn_core.forecasters.trees import fit_hazards, sampled_rows
from rnn_core.series.material import Material, judged_hours, make_material, make_served_grid
from rnn_core.series.scaling import Scaler, fit_scaler, static_features
from rnn_core.series.splits import patient_folds
from rnn_core.series.summaries import summary_features
from rnn_core.series.windows import make_windows
from rnn_core.statistics.distribution import Distribution

# What the forecast flow serves by default.
SHIPPED = "blend"
# Inverse strengths of the ridge penalty among which the logistic regressions choose.
_PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2)


@dataclass(frozen=True)
class Fold:
    """Stays to learn from, and stays to forecast as if they were still open.

    Nothing of how the judged stays end is read, so they may be loaded without it.
    """

    learned: Known
    judged: Known
    config: ModelConfig
    sampling: Sampling

    @cached_property
    def learned_grid(self) -> Grid:
        return make_served_grid(self.learned, self.config.window, self.sampling)

    @cached_property
    def scaler(self) -> Scaler:
        return fit_scaler(self.learned_grid, static_features(self.learned.stays), np.flatnonzero(self.learned.sound))

    @cached_property
    def material(self) -> Material:
        """Of the stays to learn from."""
        return make_material(self.learned, self.learned_grid, self.scaler, self.config, self.sampling)

    @cached_property
    def windows(self) -> Windows:
        """Of the stays to forecast."""
        grid = make_served_grid(self.judged, self.config.window, self.sampling)
        return make_windows(grid, self.judged.stays, self.scaler, self.config.window)

    @cached_property
    def rows(self) -> np.ndarray:
        """Every sixth hour at which a forecast would be served, absolute rows of `windows`, int64 [n]."""
        return judged_hours(self.windows, self.config.window, self.sampling)

    @cached_property
    def fits(self) -> Fits:
        return Fits(self.material, self.learned.sound, self.config)

    @property
    def stay(self) -> np.ndarray:
        """Position of the stay of each of `rows`."""
        return self.windows.stay_of(self.rows)

    @property
    def hour(self) -> np.ndarray:
        """Hours since the first of the stay of each of `rows`, from 1."""
        return self.windows.hour_of(self.rows)

    @property
    def elapsed_hours(self) -> np.ndarray:
        return self.windows.prediction_hour[self.rows].astype(np.float64)


Histories = tuple[tuple[EpochRecord, ...], ...]
Contender = Callable[[Fold], tuple[Distribution, Histories]]


def prevalence(fold: Fold) -> tuple[Distribution, Histories]:
    """The curve of the population, given the hours that a stay has lasted: what one would say without a model."""
    learned = fold.learned.take(fold.learned.sound)
    return population_forecast(learned, fold.config, fold.sampling, fold.elapsed_hours), ()


def logistic(fold: Fold) -> tuple[Distribution, Histories]:
    """Logistic regressions on `summary_features`: of an end in each horizon bin once it is reached, and of death given
    an end (pooled logistic regression: D'Agostino et al., Stat Med 9, 1990, 1501-1515). A fold of the patients chooses
    the penalty."""
    material, edges = fold.material, fold.config.network.horizon_edges
    rows = sampled_rows(material, fold.learned.sound, fold.config)
    features, labels = summary_features(material.windows, rows), material.labels.take(rows)
    held_out = patient_folds(fold.learned.stays["patient_id"], fold.config.train.folds)[material.stay_of_row[rows]] == 0
    hazards, _ = fit_hazards(features, labels, held_out, fold.config, fold.config.train.seed, fit=_fit_log_odds)
    return Distribution(hazards.masses(summary_features(fold.windows, fold.rows), len(edges)), edges), ()


@dataclass(frozen=True)
class _LinearLogOdds:
    """Log-odds that are linear in the features, with an effect of each of the first horizon bins; later ones have that of
    the last in which an end was seen."""

    model: Pipeline
    bins: int
    baseline: float = 0.0

    def log_odds(self, features: np.ndarray, last: np.ndarray) -> np.ndarray:
        scale, line = self.model.steps[0][1], self.model.steps[1][1]
        weight = line.coef_[0] / scale.scale_
        own = (features - scale.mean_[: -self.bins]) @ weight[: -self.bins]
        of_bin = (np.eye(self.bins)[np.minimum(last, self.bins - 1)] - scale.mean_[-self.bins :]) @ weight[-self.bins :]
        return own[:, None] + of_bin + line.intercept_[0] + self.baseline


def _fit_log_odds(train: Examples, valid: Examples, **_: Any) -> tuple[_LinearLogOdds, np.ndarray]:
    if len(np.unique(train.y)) < 2 or not len(valid.y):
        raise DataTooSmallError(
            "A regression of hazards needs stays of both outcomes, and others to choose the penalty."
        )
    bins = int(train.x[:, -1].max()) + 1
    x, x_valid = (
        np.concatenate([part.x[:, :-1], np.eye(bins)[np.minimum(part.x[:, -1].astype(int), bins - 1)]], axis=1)
        for part in (train, valid)
    )
    fits = [
        make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=500)).fit(x, train.y)
        for penalty in _PENALTIES
    ]
    parts = (x, train.y), (x_valid, valid.y)
    losses = np.array(
        [[log_loss(y, fit.predict_proba(part), labels=[False, True]) for part, y in parts] for fit in fits]
    )
    best = int(losses[:, 1].argmin())
    return _LinearLogOdds(fits[best], bins), losses[best]


def lstm(fold: Fold) -> tuple[Distribution, Histories]:
    """One LSTM of the forecaster's size and training, whose head reads the state only."""
    plain = replace(fold.config.network, cell="lstm", wide=False)
    config = replace(fold.config, forecaster="recurrent", network=plain)
    return _served(fold, kind_of(config).fit(fold.material, fold.learned.sound, config, folds=(0,)))


def trees(fold: Fold) -> tuple[Distribution, Histories]:
    """Gradient-boosted trees as a stay forecaster, one member per fold."""
    return _served(fold, fold.fits.of("trees"))


def forecaster(fold: Fold) -> tuple[Distribution, Histories]:
    """The recurrent forecaster, one network per fold."""
    return _served(fold, fold.fits.of("recurrent"))


def blend(fold: Fold) -> tuple[Distribution, Histories]:
    """Networks and trees pooled, as `icu-forecast train` fits them to serve."""
    return _served(fold, fold.fits.of("blend"))


def _served(fold: Fold, fitted: OutOfFold) -> tuple[Distribution, Histories]:
    ready = make_forecaster(fold.material, fitted, fold.scaler, fold.sampling)
    return ready.forecast(fold.windows, fold.rows), fitted.histories


CONTENDERS: dict[str, Contender] = {
    "prevalence": prevalence,
    "logistic": logistic,
    "trees": trees,
    "lstm": lstm,
    "forecaster": forecaster,
    "blend": blend,
}
