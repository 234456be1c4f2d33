"""The forecaster and its competitors: all learn from the same stays and forecast at the same hour."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import keras
import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rnn_core.benchmark.ends import as_open, read_ends
from rnn_core.benchmark.fits import Fits
from rnn_core.contracts.config import ModelConfig, NetworkConfig, Sampling, UnitConfig
from rnn_core.contracts.frames import EpochRecord, Grid, Windows
from rnn_core.contracts.known import Known
from rnn_core.evaluation.baselines import fit_death_regression, fit_population, fit_remaining_regression
from rnn_core.forecasters.fit_stay import make_forecaster
from rnn_core.forecasters.forecaster import Forecaster, OutOfFold, kind_of
from rnn_core.forecasters.unit import fit_two_phases
from rnn_core.network.build import build_network
from rnn_core.series.material import Material, make_material, make_served_grid
from rnn_core.series.scaling import Scaler, fit_scaler, static_features
from rnn_core.series.splits import patient_folds
from rnn_core.series.summaries import summary_features
from rnn_core.series.windows import gather_batch, last_predictions, make_windows
from rnn_core.statistics.distribution import Distribution

# Quantiles of the remaining stay that every contender forecasts.
QUANTILES = (0.1, 0.5, 0.9)
# No model can claim a risk of exactly 0 or 1.
_RISK_BOUNDS = (0.001, 0.999)

Fit = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]


@dataclass(frozen=True)
class Snapshot:
    """Open stays as known at the hour of the forecast: the input of a contender.

    window, row: the newest prediction of each of `stay`; a stay without observations has none.
    """

    windows: Windows
    stay: np.ndarray
    window: np.ndarray
    row: np.ndarray

    @cached_property
    def features(self) -> np.ndarray:
        """`summaries.summary_features` at the newest prediction, float32 [stays, features]; 0 where there is none."""
        features = summary_features(self.windows, self.row)
        return spread(features, self.stay, len(self.windows.static), fill=0.0)


@dataclass(frozen=True)
class Forecast:
    """A contender's forecast of each stay; NaN where it abstains.

    risk: of death, float64 [stays]. remaining: hours to the end, its `QUANTILES`, float64 [stays, 3].
    whole: the distribution behind both, if there is one, [stays]; that of the population where it abstains.
    """

    risk: np.ndarray
    remaining: np.ndarray
    whole: Distribution | None = None


@dataclass(frozen=True)
class Entry:
    """A contender after its fit.

    forecast: of the evaluated stays. out_of_fold: risk of each training stay, by a fit without that stay's fold; NaN for
    folds that were never left out.
    """

    forecast: Forecast
    out_of_fold: np.ndarray
    histories: tuple[tuple[EpochRecord, ...], ...] = ()


@dataclass(frozen=True)
class Arena:
    """Training stays with their ends, and evaluation stays, still open, as known at the hour of the forecast.

    hour: elapsed hours of every stay at the forecast. learned_score, judged_score: a published score of each stay,
    float64 [stays], NaN where there is none.
    """

    learned: Known
    judged: Known
    config: ModelConfig
    sampling: Sampling
    hour: float
    learned_score: np.ndarray
    judged_score: np.ndarray

    @cached_property
    def death(self) -> np.ndarray:
        """Training stays: 1 died, 0 left alive, NaN not known."""
        return read_ends(self.learned.stays)[0]

    @cached_property
    def remaining_hours(self) -> np.ndarray:
        """Training stays: hours from the forecast to the end, NaN if not known."""
        return np.maximum(read_ends(self.learned.stays)[1] - self.hour, 0)

    @cached_property
    def fold(self) -> np.ndarray:
        return patient_folds(self.learned.stays["patient_id"], self.config.train.folds)

    @cached_property
    def learned_grid(self) -> Grid:
        return make_served_grid(self.learned, self.config.window, self.sampling)

    @cached_property
    def scaler(self) -> Scaler:
        return fit_scaler(self.learned_grid, static_features(self.learned.stays), np.arange(len(self.learned.stays)))

    @cached_property
    def material(self) -> Material:
        """The training data of all networks: they differ in shape, not in windows and labels."""
        return make_material(self.learned, self.learned_grid, self.scaler, self.config, self.sampling)

    @cached_property
    def fits(self) -> Fits:
        return Fits(self.material, self.learned.sound, self.config)

    @cached_property
    def population(self) -> Distribution:
        """The population's forecast for the evaluation stays, the same for each."""
        curve = fit_population(self.learned.stays, self.learned.as_of, self.sampling.delayed_entry_hours)
        at_hour = curve.forecast_after(np.full(1, self.hour), self.config.network.horizon_edges)
        return at_hour.take(np.zeros(len(self.judged.stays), dtype=np.int64))

    @cached_property
    def then(self) -> Known:
        """The training stays as known at the hour of the forecast."""
        return as_open(self.learned, self.judged.as_of)

    @cached_property
    def snapshots(self) -> tuple[Snapshot, Snapshot]:
        """Of training and evaluation stays, with one scaler."""
        return _snapshot(self, self.then), _snapshot(self, self.judged)


def _snapshot(arena: Arena, known: Known) -> Snapshot:
    grid = make_served_grid(known, arena.config.window, arena.sampling)
    windows = make_windows(grid, known.stays, arena.scaler, arena.config.window)
    window, row = last_predictions(windows)
    return Snapshot(windows, windows.stay[window], window, row)


def spread(values: np.ndarray, stay: np.ndarray, n: int, fill: float = np.nan) -> np.ndarray:
    """Values of some stays spread over all n, [n, ...]."""
    out = np.full((n, *values.shape[1:]), fill)
    out[stay] = values
    return out


# ------------------------------------------------------------------------------------------------ without a network


def prevalence(arena: Arena) -> Entry:
    """The share that died, and the population's remaining stay after the same hours."""
    whole, share = arena.population, float(np.nanmean(arena.death))
    forecast = Forecast(np.full(len(whole), share), _quantiles_of(whole), whole)
    return Entry(forecast, np.full(len(arena.death), share))


def saps(arena: Arena) -> Entry:
    """Regressions on the published score alone, its mean where it is missing."""
    mean = np.nanmean(arena.learned_score)
    learned, judged = (np.nan_to_num(s, nan=mean)[:, None] for s in (arena.learned_score, arena.judged_score))
    return _on_features(arena, learned, judged, _fit_logistic, _fit_line)


def linear(arena: Arena) -> Entry:
    """Linear regressions of death, 0 or 1, and of the logarithm of the remaining stay, on `summary_features`."""
    return _on_features(arena, *_features(arena), _fit_linear_risk, _fit_line)


def trees(arena: Arena) -> Entry:
    """Gradient-boosted trees on the same features: a classifier of death, quantile regressions of the remaining stay."""
    return _on_features(arena, *_features(arena), _fit_trees, _fit_tree_quantiles)


def _features(arena: Arena) -> tuple[np.ndarray, np.ndarray]:
    learned, judged = arena.snapshots
    return learned.features, judged.features


def _on_features(arena: Arena, learned: np.ndarray, judged: np.ndarray, fit_risk: Fit, fit_remaining: Fit) -> Entry:
    death, remaining = arena.death, arena.remaining_hours
    out_of_fold = np.full(len(death), np.nan)
    for k in range(arena.config.train.folds):
        others, held_out = (arena.fold != k) & ~np.isnan(death), arena.fold == k
        out_of_fold[held_out] = fit_risk(learned[others], death[others])(learned[held_out])
    known, ended = ~np.isnan(death), ~np.isnan(remaining)
    risk = fit_risk(learned[known], death[known])(judged)
    quantiles = fit_remaining(learned[ended], remaining[ended])(judged)
    return Entry(Forecast(risk, np.sort(quantiles, axis=1)), out_of_fold)


def _fit_logistic(x: np.ndarray, death: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    model = fit_death_regression(x, death)
    return lambda x: model.predict_proba(x)[:, 1]


def _fit_linear_risk(x: np.ndarray, death: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    model = make_pipeline(StandardScaler(), Ridge(alpha=1000.0)).fit(x, death)
    return lambda x: np.clip(model.predict(x), *_RISK_BOUNDS)


def _fit_line(x: np.ndarray, hours: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Quantiles of a regression of log hours, from its residuals."""
    model = fit_remaining_regression(x, hours)
    residual = np.quantile(np.log1p(hours) - np.log1p(model.predict(x)), QUANTILES)
    return lambda x: np.expm1(np.maximum(np.log1p(model.predict(x))[:, None] + residual, 0))


# Shallow trees, each over a random part of the features: they overfit least on a few thousand stays.
_TREES = {"max_leaf_nodes": 8, "l2_regularization": 5.0, "max_features": 0.2, "random_state": 0}


def _fit_trees(x: np.ndarray, death: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    model = HistGradientBoostingClassifier(learning_rate=0.03, max_iter=400, **_TREES).fit(x, death)
    return lambda x: model.predict_proba(x)[:, 1]


def _fit_tree_quantiles(x: np.ndarray, hours: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    models = [
        HistGradientBoostingRegressor(loss="quantile", quantile=q, learning_rate=0.05, max_iter=200, **_TREES).fit(
            x, np.log1p(hours)
        )
        for q in QUANTILES
    ]
    return lambda x: np.maximum(np.expm1(np.stack([model.predict(x) for model in models], axis=1)), 0)


# ------------------------------------------------------------------------------------------------ networks


def classic(arena: Arena) -> Entry:
    """The tutorial's LSTM(64) → LSTM(32) → Dense(1) with squared error, in two phases, on the same hours of a stay: once
    on death (0 or 1), once on the remaining days. It has no interval."""
    learned, judged = (_sequences(s) for s in arena.snapshots)
    config = UnitConfig(batch_size=64, seed=arena.config.train.seed)
    held_out = arena.fold == 0

    def fit(target: np.ndarray) -> tuple[keras.Model, tuple[EpochRecord, ...]]:
        keras.utils.set_random_seed(config.seed)
        network = NetworkConfig(
            units=config.units, head="regression", n_channels=learned.shape[-1], dropout=config.dropout, wide=False
        )
        model = build_network(network)
        train, valid = ((learned[part], target[part, None]) for part in _parts(held_out, target))
        return model, fit_two_phases(model, *train, valid, config)

    risk, history = fit(arena.death)
    days, _ = fit(arena.remaining_hours / 24)
    out_of_fold = np.where(held_out, _bounded(risk.predict(learned, verbose=0)[:, 0]), np.nan)
    middle = np.maximum(days.predict(judged, verbose=0)[:, 0], 0) * 24
    remaining = np.stack([np.full(len(middle), np.nan), middle, np.full(len(middle), np.nan)], axis=1)
    return Entry(Forecast(_bounded(risk.predict(judged, verbose=0)[:, 0]), remaining), out_of_fold, (history,))


def _parts(held_out: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = ~np.isnan(target)
    return known & ~held_out, known & held_out


def _bounded(risk: np.ndarray) -> np.ndarray:
    return np.clip(risk.astype(np.float64), *_RISK_BOUNDS)


def _sequences(snapshot: Snapshot) -> np.ndarray:
    """The hours of each stay up to the forecast, padded with zeros in front, float32 [stays, hours, channels]."""
    length = snapshot.row + 1 - snapshot.windows.start[snapshot.window]
    longest = int(length.max())
    x, _, _ = gather_batch(snapshot.windows, snapshot.window, longest)
    shifted = np.stack([np.roll(one, longest - n, axis=0) for one, n in zip(x, length, strict=True)])
    out = np.zeros((len(snapshot.windows.static), longest, x.shape[-1]), np.float32)
    out[snapshot.stay] = shifted
    return out


def plain_cell(cell: str, arena: Arena) -> Entry:
    """One recurrent network of the forecaster's size and training, whose head reads the state only."""
    network = replace(arena.config.network, cell=cell, wide=False)
    config = replace(arena.config, forecaster="recurrent", network=network)
    return _serve(arena, kind_of(config).fit(arena.material, arena.learned.sound, config, folds=(0,)))


def hazard_trees(arena: Arena) -> Entry:
    """Gradient-boosted trees as a stay forecaster (`forecasters.trees`), trained to serve: one member per fold."""
    return _serve(arena, arena.fits.of("trees"))


def logistic(arena: Arena) -> Entry:
    """Logistic regressions as a stay forecaster (`forecasters.logistic`), one member per fold."""
    return _serve(arena, arena.fits.of("logistic"))


def forecaster_single(arena: Arena) -> Entry:
    """The forecaster's first member alone, calibrated on its left-out fold."""
    fitted = arena.fits.of("recurrent")
    mine = arena.fold[arena.material.stay_of_row[fitted.row]] == 0
    single = replace(
        fitted,
        forecaster=fitted.forecaster.members()[0],
        row=fitted.row[mine],
        forecast=fitted.forecast.take(mine),
        histories=fitted.histories[:1],
        best_epochs=fitted.best_epochs[:1],
    )
    return _serve(arena, single)


def forecaster(arena: Arena) -> Entry:
    """The recurrent forecaster: one network per fold."""
    return _serve(arena, arena.fits.of("recurrent"))


def blend(arena: Arena) -> Entry:
    """Networks and trees pooled (`forecasters.blend`)."""
    return _serve(arena, arena.fits.of("blend"))


def _serve(arena: Arena, fitted: OutOfFold) -> Entry:
    ready = make_forecaster(arena.material, fitted, arena.scaler, arena.sampling)
    learned, judged = arena.snapshots

    def said(model: Forecaster, windows: Windows, row: np.ndarray) -> Distribution:
        return ready.calibration.apply(model.forecast(windows, row), arena.hour)

    out_of_fold = np.full(len(arena.death), np.nan)
    for k, member in enumerate(fitted.forecaster.members()):
        held_out = arena.fold[learned.stay] == k
        risk = said(member, learned.windows, learned.row[held_out]).mortality_risk()
        out_of_fold[learned.stay[held_out]] = risk
    newest, n = said(fitted.forecaster, judged.windows, judged.row), len(arena.judged.stays)
    forecast = Forecast(
        spread(newest.mortality_risk(), judged.stay, n),
        spread(_quantiles_of(newest), judged.stay, n),
        arena.population.with_rows(judged.stay, newest),
    )
    return Entry(forecast, out_of_fold, fitted.histories)


def _quantiles_of(forecast: Distribution) -> np.ndarray:
    return np.stack([forecast.quantile(q) for q in QUANTILES], axis=1)
