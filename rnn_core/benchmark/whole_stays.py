"""Contenders on whole stays: all learn from the same stays and forecast the same patient-hours of other stays."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from rnn_core.benchmark.fits import Fits
from rnn_core.contracts.config import ModelConfig, Sampling
from rnn_core.contracts.frames import EpochRecord, Grid, Windows
from rnn_core.contracts.known import Known
from rnn_core.evaluation.holdout import population_forecast
from rnn_core.forecasters.fit_stay import fit_forecaster, make_forecaster
from rnn_core.forecasters.forecaster import OutOfFold, Start, kind_of
from rnn_core.forecasters.stay import StayForecaster
from rnn_core.series.material import Material, judged_hours, make_material, make_served_grid
from rnn_core.series.scaling import Scaler, fit_scaler, static_features
from rnn_core.series.windows import make_windows
from rnn_core.statistics.distribution import Distribution

# What the forecast flow serves by default.
SHIPPED = "blend"


@dataclass(frozen=True)
class Fold:
    """Stays to learn from, and stays to forecast as if they were still open.

    Nothing of how the judged stays end is read, so they may be loaded without it. start: what the contender `warm` starts
    from.
    """

    learned: Known
    judged: Known
    config: ModelConfig
    sampling: Sampling
    start: Start | None = None

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
        return self.windows_with(self.scaler)

    def windows_with(self, scaler: Scaler) -> Windows:
        grid = make_served_grid(self.judged, self.config.window, self.sampling)
        return make_windows(grid, self.judged.stays, scaler, self.config.window)

    @cached_property
    def rows(self) -> np.ndarray:
        """Every sixth hour at which a forecast would be served, absolute rows of `windows`, int64 [n]."""
        return judged_hours(self.windows, self.config.window, self.sampling)

    @cached_property
    def fits(self) -> Fits:
        return Fits(self.material, self.learned.sound, self.config)

    @cached_property
    def warm(self) -> tuple[StayForecaster, OutOfFold]:
        """A fit of the recurrent forecaster that begins at `start`."""
        config = replace(self.config, forecaster="recurrent")
        return fit_forecaster(self.learned, self.learned.sound, config, sampling=self.sampling, warm_from=self.start)

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
    """Logistic regressions on hinged summaries as a stay forecaster, one member per fold."""
    return _served(fold, fold.fits.of("logistic"))


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


def warm(fold: Fold) -> tuple[Distribution, Histories]:
    """The recurrent forecaster again, its networks started from those of another model."""
    ready, fitted = fold.warm
    return ready.forecast(fold.windows_with(ready.scaler), fold.rows), fitted.histories


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
    "warm": warm,
    "blend": blend,
}
