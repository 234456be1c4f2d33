"""Training: the loss at a sample of the hours of each window, against every hour; the step, against PyTorch's."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.stage import AS_OF, SOURCE, Row, Stage
from benchmarks.turns import has_torch, take_turns
from rnn_core.contracts.config import ModelConfig, Sampling
from rnn_core.network.scoring import load_networks, save_networks
from rnn_core.series.material import Material, make_material, make_served_grid
from rnn_core.series.scaling import fit_scaler, static_features
from sql.published import canonical

_STAYS, _EPOCHS = 1_000, 3
_BATCHES, _ROUNDS = 8, 7
# Rows and columns of the matrices whose product shows what the machine can do.
_SQUARE = 2_048


def run(stage: Stage) -> Iterator[Row]:
    # Not above: contenders import this module and need no Great Expectations.
    from benchmarks.ingest import ensure_filled

    ensure_filled(stage)
    material = _material(stage)
    sampled = ModelConfig()
    every_hour = replace(sampled, train=replace(sampled.train, loss_every=1))
    ours, theirs = (_windows_per_second(material, config) for config in (sampled, every_hour))
    yield Row(
        f"training on {_STAYS:,} stays, a network",
        f"{ours:,.0f} windows/s (loss at one in {sampled.train.loss_every} hours)",
        f"loss at every hour: {theirs:,.0f} windows/s",
        f"{ours / theirs:.2f}",
        "2",
    )
    yield from _against_torch(stage, material, sampled)


def _material(stage: Stage) -> Material:
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
    config = ModelConfig()
    grid = make_served_grid(known, config.window, Sampling())
    scaler = fit_scaler(grid, static_features(known.stays), np.arange(_STAYS))
    return make_material(known, grid, scaler, config, Sampling())


def _windows_per_second(material: Material, config: ModelConfig) -> float:
    """Of the epochs after the first, which also traces the step."""
    from rnn_core.network import training

    config = replace(config, train=replace(config.train, epochs=_EPOCHS, patience=_EPOCHS))
    held_out = np.arange(len(material.known.stays)) % 5 == 0
    ended: list[float] = []
    training.fit_stay_model(
        material.windows,
        material.labels,
        ~held_out,
        held_out,
        config,
        progress=lambda _: ended.append(perf_counter()),
    )
    seen = len(material.windows) * (_EPOCHS - 1)
    return seen / (ended[-1] - ended[0])


def _against_torch(stage: Stage, material: Material, config: ModelConfig) -> Iterator[Row]:
    """The same batches, gathered beforehand, in the same network: our step, the same step in PyTorch, and PyTorch's step as
    one writes it first, with summaries and loss of every hour."""
    # Not above: a contender in PyTorch imports this module and needs no TensorFlow.
    from rnn_core.network import training
    from rnn_core.network.build import build_network
    from rnn_core.network.fitted import networks_of

    folder = stage.home / "training"
    folder.mkdir()
    windows, config = material.windows, training.sized(config, material.windows)
    # The longest, which have one length.
    chosen = np.argsort(windows.start - windows.stop, kind="stable")[: _BATCHES * config.train.batch_size]
    fixed = training.fixed_inputs(windows, config)
    for every in (config.train.loss_every, 1):
        rng = np.random.default_rng(0)
        for number, window in enumerate(np.split(chosen, _BATCHES)):
            batch = training._gather(windows, material.labels, fixed, window, every, rng)
            np.savez(folder / f"{every}_{number}.npz", *batch)
    network = build_network(config.network)
    kernel = network.get_layer("head").kernel
    # An untrained head hardly reads anything: other networks would have the same loss.
    kernel.assign(np.random.default_rng(0).normal(0, 0.02, kernel.shape))
    save_networks(networks_of(network), folder / "weights.npz")
    network.save(folder / "network.keras")

    contenders: dict[str, Callable[[], Any]] = {
        "product": _prepare_product,
        "ours": partial(_prepare_ours, folder, config),
    }
    if has_torch():
        for name, every in (("same step", config.train.loss_every), ("every hour", 1)):
            for way in ("eager", "compiled"):
                contenders[f"PyTorch {way}, {name}"] = partial(_prepare_torch, folder, config, every, way == "compiled")
    turns = take_turns(contenders, _ROUNDS)
    product, ours = turns.pop("product"), turns.pop("ours")
    for name, one in turns.items():
        if "same step" in name and not np.isclose(one.found, ours.found, rtol=1e-4):
            raise RuntimeError(f"{name} has the loss {one.found}, ours {ours.found}: these are not the same networks.")
    # By CPU time of one thread: as fast as on a quiet core, whatever else the machine does.
    hours = int((windows.stop - windows.start)[chosen[0]])
    flop, most = _flop(config, hours), 2 * _SQUARE**3 / np.median(product.cpu_seconds)
    speed = {name: len(chosen) / np.median(one.cpu_seconds) for name, one in {"": ours, **turns}.items()}
    yield Row(
        f"a step of training, {len(chosen)} windows of {hours} hours in batches of {config.train.batch_size}, one thread",
        f"{speed['']:,.0f} windows/s; {flop * speed[''] / 1e9:.1f} GFLOP/s; peak {ours.peak_gb:.2f} GB",
        f"product of two matrices: {most / 1e9:.1f} GFLOP/s",
        f"{flop * speed[''] / most:.2f}",
        "",
    )
    for name, one in turns.items():
        yield Row(
            "the same",
            f"{speed['']:,.0f} windows/s",
            f"{name}: {speed[name]:,.0f} windows/s; peak {one.peak_gb:.2f} GB",
            ours.times_as_fast(one),
            "2" if "same step" in name else "5",
        )


def _flop(config: ModelConfig, hours: int) -> float:
    """Of the products of matrices in our step, per window: forward, and backward for weights and for what is learned."""
    network, sampled = config.network, -(-hours // config.train.loss_every)
    units, cells = network.units[0], 2 * len(network.horizon_edges)
    fixed = network.n_static + network.n_channels + (7 + 4 * 2 * len(network.knots)) * network.n_concepts
    # Inputs need no gradient, so these products are made twice, the others three times.
    embedding, recurrence = 2 * network.n_channels * units, 3 * 2 * units * 4 * units
    return 2 * (hours * (embedding + recurrence) + sampled * cells * (2 * fixed + 3 * 2 * units))


def _prepare_product() -> tuple[None, Callable[[], object]]:
    a, b = np.random.default_rng(0).random((2, _SQUARE, _SQUARE), dtype=np.float32)
    return None, lambda: a @ b


def _read_batches(folder: Path, every: int) -> list[list[np.ndarray]]:
    batches = []
    for number in range(_BATCHES):
        with np.load(folder / f"{every}_{number}.npz") as arrays:
            batches.append([arrays[name] for name in arrays.files])
    return batches


def _prepare_ours(folder: Path, config: ModelConfig) -> tuple[float, Callable[[], object]]:
    import keras
    import tensorflow as tf

    import rnn_core.network.heads  # noqa: F401
    from rnn_core.network import training
    from rnn_core.network.devices import choose_devices

    trainer = training._Trainer(config, choose_devices())
    trainer.reset(keras.saving.load_model(folder / "network.keras", compile=False), _normaliser(config))
    trainer.optimizer.learning_rate.assign(config.train.learning_rate)
    batches = [
        [tf.convert_to_tensor(part) for part in batch] for batch in _read_batches(folder, config.train.loss_every)
    ]
    return float(trainer.look(*batches[0])), lambda: [float(trainer.learn(*batch)) for batch in batches]


def _prepare_torch(folder: Path, config: ModelConfig, every: int, compiled: bool) -> tuple[float, Callable[[], object]]:
    import torch

    from benchmarks.torch_network import StayNetwork, head_features, stay_loss, tensors

    network = StayNetwork(load_networks(folder / "weights.npz")[0], config.network.dropout)
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, lr=config.train.learning_rate, weight_decay=config.train.weight_decay, fused=True
    )
    batches = [tensors(batch) for batch in _read_batches(folder, every)]

    def forward(x, static, hours, fixed, *labels):
        if every == 1:
            return stay_loss(
                network(x, static, None, head_features(x, static, network.n)), *labels, config.train.death_weight
            )
        return stay_loss(network(x, static, hours, fixed), *labels, config.train.death_weight)

    forward = torch.compile(forward) if compiled else forward

    def learn(batch) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = forward(*batch)
        (loss / _normaliser(config)).backward()
        torch.nn.utils.clip_grad_norm_(weights, config.train.clip_norm)
        optimizer.step()
        return loss.item()

    network.eval()
    with torch.no_grad():
        found = float(forward(*batches[0]))
    network.train()
    return found, lambda: [learn(batch) for batch in batches]


def _normaliser(config: ModelConfig) -> float:
    """About the number of hours of a batch, as in a fit."""
    return 48.0 * config.train.batch_size
