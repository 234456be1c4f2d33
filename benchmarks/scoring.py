"""Scoring in NumPy, against model.predict at its default batch size; drivers, against making each variant anew."""

from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter

import numpy as np

from benchmarks.stage import AS_OF, SOURCE, Row, Stage
from rnn_core.contracts.concepts import NAMES
from rnn_core.contracts.config import ModelConfig, NetworkConfig
from rnn_core.contracts.known import Known
from rnn_core.forecasters.drivers import explain_stays
from rnn_core.forecasters.networks import Networks
from rnn_core.forecasters.recurrent import RecurrentEnsemble
from rnn_core.forecasters.stay import StayForecaster
from rnn_core.network.build import build_ensemble, build_network
from rnn_core.network.fitted import networks_of
from rnn_core.network.scoring import score_rows
from rnn_core.series.grid import make_grid
from rnn_core.series.scaling import fit_scaler, static_features
from rnn_core.series.windows import gather_batch, last_predictions, make_windows
from rnn_core.statistics.calibration import Calibration
from sql.published import canonical

EXPLAINED = 100


def run(stage: Stage) -> Iterator[Row]:
    known = canonical.read_known(stage.store, SOURCE, AS_OF, only_open=True)
    stays, grid = known.stays, make_grid(known.stays, known.observations, known.as_of)
    scaler = fit_scaler(grid, static_features(stays), np.arange(len(stays)))
    windows = make_windows(grid, stays, scaler, ModelConfig().window)
    sizes = {"n_channels": windows.channels.shape[1], "n_concepts": len(NAMES), "n_static": windows.static.shape[1]}
    model = build_ensemble([build_network(NetworkConfig(**sizes)) for _ in range(ModelConfig().train.folds)])
    window, row = last_predictions(windows)
    networks = networks_of(model)
    ours = min(_timed(lambda: score_rows(networks, windows, window, row)) for _ in range(3))
    length = int((windows.stop - windows.start).max())

    def predict() -> None:
        x, static, _ = gather_batch(windows, window, length)
        model.predict([x, static], verbose=0)

    predict()
    theirs = min(_timed(predict) for _ in range(3))
    yield Row(
        f"scoring {len(window):,} open stays",
        f"{ours:.2f} s ({len(window) / ours:,.0f} stays/s)",
        f"model.predict: {theirs:.2f} s",
        f"{theirs / ours:.2f}",
        "3",
    )

    ensemble = RecurrentEnsemble(Networks.of(model), ModelConfig().network.horizon_edges)
    forecaster = StayForecaster(ensemble, scaler, ModelConfig(), Calibration(), "hospital")
    some = known.take(np.arange(len(stays)) < EXPLAINED)
    some = replace(some, observations=some.observations.known_at(some.as_of))
    ours = min(_timed(lambda: explain_stays(forecaster, some, np.full(EXPLAINED, 0.5))) for _ in range(3))
    theirs = min(_timed(lambda: _forecast_without_each(forecaster, some)) for _ in range(3))
    yield Row(
        f"drivers of {EXPLAINED} stays",
        f"{ours:.2f} s",
        f"grid and windows of each variant from its observations: {theirs:.2f} s",
        f"{theirs / ours:.2f}",
        "2",
    )


def _forecast_without_each(forecaster: StayForecaster, known: Known) -> None:
    """Forecasts of all stays that have a concept, made again without its observations, one concept after another."""
    for concept in np.unique(known.observations.concept):
        without = known.observations.concept == concept
        part = known.take(np.isin(np.arange(len(known.stays)), known.observations.stay[without]))
        rest = part.observations.take(part.observations.concept != concept)
        grid = make_grid(part.stays, rest, known.as_of)
        windows = make_windows(grid, part.stays, forecaster.scaler, forecaster.config.window)
        forecaster.forecast(windows, last_predictions(windows)[1])


def _timed(function) -> float:
    begun = perf_counter()
    function()
    return perf_counter() - begun
