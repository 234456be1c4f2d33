"""Scoring in NumPy, against PyTorch and model.predict; drivers, against making each variant anew."""

import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from benchmarks.stage import AS_OF, SOURCE, Row, Stage
from benchmarks.turns import has_torch, take_turns
from rnn_core.contracts.concepts import NAMES
from rnn_core.contracts.config import ModelConfig, NetworkConfig
from rnn_core.contracts.frames import Observations, Windows
from rnn_core.contracts.known import Known
from rnn_core.forecasters.drivers import explain_stays
from rnn_core.forecasters.networks import Networks
from rnn_core.forecasters.recurrent import RecurrentEnsemble
from rnn_core.forecasters.stay import StayForecaster
from rnn_core.network.scoring import score_rows
from rnn_core.series.grid import make_grid
from rnn_core.series.scaling import fit_scaler, static_features
from rnn_core.series.windows import gather_batch, last_predictions, make_windows
from rnn_core.statistics.calibration import Calibration
from sql.published import canonical

EXPLAINED = 100
_ROUNDS = 3
# Windows in a batch of PyTorch's: with more or fewer it is slower.
_TORCH_BATCH = 256


def run(stage: Stage) -> Iterator[Row]:
    # Not above: a contender in PyTorch imports this module and needs neither TensorFlow nor Great Expectations.
    from benchmarks.ingest import ensure_filled
    from rnn_core.network.build import build_ensemble, build_network

    ensure_filled(stage)
    known = canonical.read_known(stage.store, SOURCE, AS_OF, only_open=True)
    stays, grid = known.stays, make_grid(known.stays, known.observations, known.as_of)
    scaler = fit_scaler(grid, static_features(stays), np.arange(len(stays)))
    windows = make_windows(grid, stays, scaler, ModelConfig().window)
    sizes = {"n_channels": windows.channels.shape[1], "n_concepts": len(NAMES), "n_static": windows.static.shape[1]}
    members = [build_network(NetworkConfig(**sizes)) for _ in range(ModelConfig().train.folds)]
    rng = np.random.default_rng(0)
    for member in members:
        # An untrained head hardly reads anything: other networks would forecast the same.
        kernel = member.get_layer("head").kernel
        kernel.assign(rng.normal(0, 0.02, kernel.shape))
    networks = Networks.of(build_ensemble(members))
    yield from _against_others(stage, windows, networks)

    ensemble = RecurrentEnsemble(networks, ModelConfig().network.horizon_edges)
    forecaster = StayForecaster(ensemble, scaler, ModelConfig(), Calibration(), "hospital")
    some = known.take(np.arange(len(stays)) < EXPLAINED)
    some = replace(some, observations=some.observations.known_at(some.as_of))
    for days, aim, explained in ((2, "1 s", some), (10, "3 s", _lengthened(some, 5))):
        ours, cpu = min(_timed(explain_stays, forecaster, explained, np.full(EXPLAINED, 0.5)) for _ in range(3))
        theirs, _ = _timed(_forecast_without_each, forecaster, explained)
        yield Row(
            f"drivers of {EXPLAINED} stays of {days} days",
            f"{ours:.2f} s; CPU {cpu:.2f} s",
            f"grid and windows of each variant from its observations: {theirs:.2f} s",
            f"{theirs / ours:.2f}",
            aim,
        )


def _against_others(stage: Stage, windows: Windows, networks: Networks) -> Iterator[Row]:
    folder = stage.home / "scoring"
    folder.mkdir()
    (folder / "windows.pickle").write_bytes(pickle.dumps(windows))
    networks.save(folder)
    contenders: dict[str, Callable[[], Any]] = {
        "ours": partial(_prepare_ours, folder),
        "model.predict": partial(_prepare_keras, folder),
    }
    if has_torch():
        contenders |= {
            f"PyTorch {way}": partial(_prepare_torch, folder, way == "compiled") for way in ("eager", "compiled")
        }
    turns = take_turns(contenders, _ROUNDS)
    ours, n = turns.pop("ours"), len(last_predictions(windows)[0])
    for name, one in turns.items():
        error = np.abs(one.found - ours.found).max()
        if not error < 1e-5:
            raise RuntimeError(f"{name} forecasts masses that differ by {error:.1g}: these are not the same networks.")
        took = np.median(ours.seconds)
        yield Row(
            f"scoring {n:,} open stays, {len(networks.plain)} networks",
            f"{took:.2f} s ({n / took:,.0f} stays/s); peak {ours.peak_gb:.2f} GB",
            f"{name}: {np.median(one.seconds):.2f} s; peak {one.peak_gb:.2f} GB",
            ours.times_as_fast(one),
            "3" if name == "model.predict" else "1.2",
        )


def _read(folder: Path) -> tuple[Windows, np.ndarray, np.ndarray]:
    windows = pickle.loads((folder / "windows.pickle").read_bytes())
    return windows, *last_predictions(windows)


def _prepare_ours(folder: Path) -> tuple[np.ndarray, Callable[[], object]]:
    networks, (windows, window, row) = Networks.load(folder).plain, _read(folder)
    return score_rows(networks, windows, window, row), lambda: score_rows(networks, windows, window, row)


def _prepare_keras(folder: Path) -> tuple[np.ndarray, Callable[[], object]]:
    model, (windows, window, _) = Networks.load(folder).keras_model, _read(folder)
    length = int((windows.stop - windows.start).max())
    from rnn_core.network.heads import masses

    def predict() -> list[np.ndarray]:
        x, static, _ = gather_batch(windows, window, length)
        return model.predict([x, static], verbose=0)

    last = (windows.stop - windows.start)[window] - 1
    found = [np.asarray(masses(logits[np.arange(len(window)), last])) for logits in predict()]
    return np.mean(found, axis=0), predict


def _prepare_torch(folder: Path, compiled: bool) -> tuple[np.ndarray, Callable[[], object]]:
    """As good as it gets: batches of one length, summaries of the last hour alone, once for all networks."""
    import torch

    from benchmarks.torch_network import StayNetwork, last_features

    networks = [StayNetwork(network).eval() for network in Networks.load(folder).plain]
    windows, window, _ = _read(folder)
    lengths = (windows.stop - windows.start)[window]
    by_length = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]

    def forward(x, static):
        features = last_features(x, static, networks[0].n)
        last = torch.full((len(x), 1), x.shape[1] - 1)
        return sum(network(x, static, last, features)[:, 0].exp() for network in networks) / len(networks)

    forward = torch.compile(forward, dynamic=True) if compiled else forward

    @torch.inference_mode()
    def score() -> np.ndarray:
        out = np.empty((len(window), *networks[0].head_bias.shape), np.float32)
        for alike in by_length:
            for first in range(0, len(alike), _TORCH_BATCH):
                batch = alike[first : first + _TORCH_BATCH]
                x, static, _ = gather_batch(windows, window[batch], int(lengths[batch[0]]))
                out[batch] = forward(torch.from_numpy(x), torch.from_numpy(static)).numpy()
        return out

    return score(), score


def _lengthened(known: Known, times: int) -> Known:
    """The same stays, begun so many times as long ago, their observations repeated every two days."""
    seen, span = known.observations, np.timedelta64(48, "h")
    back = np.repeat(np.arange(times), len(seen)) * span
    every = Observations(
        *(np.tile(of, times) for of in (seen.stay, seen.concept)),
        *(np.tile(of, times) - back for of in (seen.observed_at, seen.available_at)),
        np.tile(seen.value, times),
    )
    every = every.take(np.lexsort((every.observed_at, every.available_at)))
    begun = known.intime - (times - 1) * span
    return replace(known, stays=known.stays.assign(intime=begun), observations=every)


def _forecast_without_each(forecaster: StayForecaster, known: Known) -> None:
    """Forecasts of all stays that have a concept, made again without its observations, one concept after another."""
    for concept in np.unique(known.observations.concept):
        without = known.observations.concept == concept
        part = known.take(np.isin(np.arange(len(known.stays)), known.observations.stay[without]))
        rest = part.observations.take(part.observations.concept != concept)
        grid = make_grid(part.stays, rest, known.as_of)
        windows = make_windows(grid, part.stays, forecaster.scaler, forecaster.config.window)
        forecaster.forecast(windows, last_predictions(windows)[1])


def _timed(function: Callable[..., object], *given: Any) -> tuple[float, float]:
    """Seconds of wall and of CPU time."""
    begun, cpu_begun = perf_counter(), process_time()
    function(*given)
    return perf_counter() - begun, process_time() - cpu_begun
