"""A step of training: the loss at a sample of the hours of each window, against the loss at every hour."""

from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter

import numpy as np

from benchmarks.stage import AS_OF, SOURCE, Row, Stage
from rnn_core.contracts.config import ModelConfig, Sampling
from rnn_core.network.training import fit_stay_model
from rnn_core.series.material import make_material, make_served_grid
from rnn_core.series.scaling import fit_scaler, static_features
from sql.published import canonical

_STAYS, _EPOCHS = 1_000, 3


def run(stage: Stage) -> Iterator[Row]:
    known = canonical.read_known(stage.store, SOURCE, AS_OF, only_open=True)
    known = known.take(np.arange(len(known.stays)) < _STAYS)
    # The ends are withheld. Any others take as long.
    rng = np.random.default_rng(0)
    left = known.stays["intime"] + (rng.exponential(72, _STAYS) + 12).astype("timedelta64[h]")
    known = replace(
        known,
        stays=known.stays.assign(outtime=left, outcome=np.where(rng.random(_STAYS) < 0.14, "died", "alive")),
        as_of=np.datetime64(left.max()),
    )
    sampled = ModelConfig()
    every_hour = replace(sampled, train=replace(sampled.train, loss_every=1))
    grid = make_served_grid(known, sampled.window, Sampling())
    scaler = fit_scaler(grid, static_features(known.stays), np.arange(_STAYS))
    material = make_material(known, grid, scaler, sampled, Sampling())
    ours, theirs = (_windows_per_second(material, config) for config in (sampled, every_hour))
    yield Row(
        f"training on {_STAYS:,} stays, a network",
        f"{ours:,.0f} windows/s (loss at one in {sampled.train.loss_every} hours)",
        f"loss at every hour: {theirs:,.0f} windows/s",
        f"{ours / theirs:.2f}",
        "2",
    )


def _windows_per_second(material, config: ModelConfig) -> float:
    """Of the epochs after the first, which also traces the step."""
    config = replace(config, train=replace(config.train, epochs=_EPOCHS, patience=_EPOCHS))
    held_out = np.arange(len(material.known.stays)) % 5 == 0
    ended: list[float] = []
    fit_stay_model(
        material.windows,
        material.labels,
        ~held_out,
        held_out,
        config,
        progress=lambda _: ended.append(perf_counter()),
    )
    seen = len(material.windows) * (_EPOCHS - 1)
    return seen / (ended[-1] - ended[0])
