"""Fits the stay forecaster: batches of windows of similar length, early stopping, resumable after every epoch."""

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from threadpoolctl import threadpool_limits

from rnn_core.contracts.config import ModelConfig, NetworkConfig, TrainConfig
from rnn_core.contracts.errors import ContractError, DataTooSmallError
from rnn_core.contracts.frames import EpochRecord, Labels, Windows
from rnn_core.network.build import build_network, split_at_head
from rnn_core.network.devices import Devices, choose_devices, share_of_replica
from rnn_core.network.heads import logits_of
from rnn_core.network.losses import stay_loss
from rnn_core.network.scoring import fixed_inputs
from rnn_core.series.mapped import release, save_whole
from rnn_core.series.windows import batch_rows, bucket_lengths, gather_batch

MIN_WINDOWS = 10
# Small data need smaller batches: a network that takes a dozen steps in an epoch has hardly moved when it stops.
_STEPS_OF_EPOCH, _SMALLEST_BATCH = 50, 16

# What a checkpoint holds; one of another version is not resumed from.
_STATE = 3
# Trainers of this many architectures are kept between fits.
_TRAINERS_KEPT = 4

# Rows of the data that are looked at together, and batches after which mapped files are let go.
_BLOCK, _RELEASE = 65_536, 50

# Enough rows for the overall distribution of ends; more would only cost time.
_MARGINAL_ROWS = 20_000


@dataclass(frozen=True)
class FittedModel:
    """A fitted network (float32, weights of its best epoch), the config with its data's sizes, and its history."""

    model: keras.Model
    config: ModelConfig
    history: tuple[EpochRecord, ...]
    best_epoch: int


@dataclass(frozen=True)
class _Examples:
    """Windows to learn from, int [windows], and the number of rows in them that count."""

    window: np.ndarray
    n_rows: int


def fit_stay_model(
    windows: Windows,
    labels: Labels,
    train_stays: np.ndarray,
    valid_stays: np.ndarray,
    config: ModelConfig,
    *,
    checkpoint_dir: Path | None = None,
    warm_from: keras.Model | None = None,
    progress: Callable[[EpochRecord], None] | None = None,
    devices: Devices | None = None,
    fixed: np.ndarray | None = None,
) -> FittedModel:
    """Fits a competing-risk network on `train_stays`, bool [stays]; `valid_stays` choose its best epoch.

    The loss is the mean of `losses.stay_loss` over usable scored rows, one per patient-hour, estimated in every step from
    a sample of the hours of each window (`sample_hours`). A weight may use nothing
    that comes after the row: the number of rows of a stay is its length, and dividing by it would hush the long stays,
    so that every forecast comes out too short. AdamW with warm-up and cosine decay (Loshchilov & Hutter, ICLR 2017 and
    2019), gradients clipped by their global norm. Training stops after `patience` epochs without a better validation
    loss and returns the best weights.

    The same seed gives the same weights on the same kind of CPU. With `checkpoint_dir` the last finished epoch is kept
    in a file there; the same call on the same data resumes from it and ends with the same weights. A checkpoint of other
    data or another config is ignored. `warm_from`: start from the weights of this network of the same shape. `progress`
    is called after each epoch. `devices`: by default those of `devices.choose_devices`; several give the weights of one
    up to rounding, except for dropout, whose masks each device draws itself. `fixed`: the `fixed_inputs` of these windows,
    where several fits share them.

    Raises DataTooSmallError with fewer than `MIN_WINDOWS` windows to train on or none to validate, ContractError when
    labels, stays, `warm_from` or a teacher do not fit the windows or the config.
    """
    _check_rows(windows, labels, train_stays, valid_stays)
    if (labels.taught is None) != (config.train.teacher_share == 0):
        raise ContractError("Labels hold what a teacher forecast where, and only where, it has a share in the loss.")
    train, valid = _make_examples(windows, labels, train_stays), _make_examples(windows, labels, valid_stays)
    if len(train.window) < MIN_WINDOWS or not len(valid.window):
        raise DataTooSmallError(
            f"Training needs at least {MIN_WINDOWS} windows with a known end and validation at least 1; found "
            f"{len(train.window)} and {len(valid.window)}. Load more finished stays."
        )
    config = sized(config, windows)
    devices = devices or choose_devices()
    start = build_network(config.network, seed=config.train.seed)
    if warm_from is None:
        start.get_layer("head").bias.assign(logits_of(_marginal_masses(windows, labels, train, config.train.seed)))
    else:
        _take_weights(start, warm_from)
    fixed = fixed_inputs(windows, config) if fixed is None else fixed
    with _borrow_trainer(config, devices) as trainer:
        run = _Run(trainer, start, config, windows, labels, fixed, train, valid)
        checkpoint = None
        if checkpoint_dir is not None:
            checkpoint = Path(checkpoint_dir) / "last_epoch.npz"
            run.restore(checkpoint)
        while not run.finished:
            record = run.fit_epoch()
            if checkpoint is not None:
                run.save(checkpoint)
            if progress is not None:
                progress(record)
    start.set_weights(run.best_weights)
    return FittedModel(start, config, tuple(run.history), run.best_epoch)


def sized(config: ModelConfig, windows: Windows) -> ModelConfig:
    """The config with the sizes of the data."""
    sizes = {
        "n_channels": windows.channels.shape[1],
        "n_concepts": len(config.window.concepts),
        "n_static": windows.static.shape[1],
        "longest_hours": 2 * config.window.chunk_hours,
    }
    return replace(config, network=replace(config.network, head="competing_risk", **sizes))


def _check_rows(windows: Windows, labels: Labels, train_stays: np.ndarray, valid_stays: np.ndarray) -> None:
    n_rows, n_stays = len(windows.channels), len(windows.static)
    if len(labels.usable) != n_rows:
        raise ContractError(f"Labels have one row per hour of the windows, {n_rows}; found {len(labels.usable)}.")
    for stays in (train_stays, valid_stays):
        if stays.dtype != bool or len(stays) != n_stays:
            raise ContractError(f"Stays to fit on are marked by one bool each of {n_stays}; found {len(stays)} values.")
    if overlap := int((train_stays & valid_stays).sum()):
        raise ContractError(f"No stay may be both in training and in validation; {overlap} are. Split them anew.")


def _make_examples(windows: Windows, labels: Labels, stays: np.ndarray) -> _Examples:
    usable_before = np.concatenate([[0], np.cumsum(labels.usable)])
    n_rows = usable_before[windows.stop] - usable_before[windows.score_from]
    window = np.flatnonzero(stays[windows.stay] & (n_rows > 0))
    return _Examples(window, int(n_rows[window].sum()))


def _marginal_masses(windows: Windows, labels: Labels, train: _Examples, seed: int) -> np.ndarray:
    """The one forecast that fits all training rows best, float64 [bins, 2]: the forecast of the head before training.

    Expectation maximisation for censored and truncated data (Turnbull, J R Stat Soc B 38, 1976, 290-295): a row adds its
    share of the likelihood to each cell, and the ends that its delayed entry has hidden. Without this start, training on
    a hundred stays would spend its few hundred steps on moving the biases.
    """
    rows = _labelled_rows(windows, labels, train)
    if len(rows) > _MARGINAL_ROWS:
        rows = np.random.default_rng(seed).choice(rows, _MARGINAL_ROWS, replace=False)
    cells = labels.weights.shape[1] * labels.weights.shape[2]
    seen = labels.weights[rows].reshape(-1, cells).astype(np.float64)
    entry = labels.entry[rows].reshape(-1, cells).astype(np.float64)
    p = np.full(cells, 1 / cells)
    # On one thread: more add up in another order, and a job would not take up what a worker with fewer threads has fitted.
    with threadpool_limits(1, user_api="blas"):
        for _ in range(50):
            share = (1 / (seen @ p)) @ seen
            hidden = (1 / (entry @ p)) @ (1 - entry)
            expected = p * (share + hidden) + 0.1 / cells  # a tenth of a row, so that no cell is impossible
            p = expected / expected.sum()
    return p.reshape(labels.weights.shape[1:])


def _labelled_rows(windows: Windows, labels: Labels, examples: _Examples) -> np.ndarray:
    first, stop = windows.score_from[examples.window], windows.stop[examples.window]
    lengths = stop - first
    rows = np.arange(lengths.sum()) + np.repeat(first - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    return rows[labels.usable[rows]]


def _take_weights(model: keras.Model, warm_from: keras.Model) -> None:
    expected, found = [w.shape for w in model.weights], [w.shape for w in warm_from.weights]
    if expected != found:
        raise ContractError(
            "A warm start needs a model with the same cell, units, channels and horizon; "
            f"the shapes of {sum(a != b for a, b in zip(expected, found, strict=False))} weights differ "
            f"({len(expected)} weights expected, {len(found)} found). Train from scratch instead."
        )
    model.set_weights(warm_from.get_weights())


def _make_batches(lengths: np.ndarray, batch_size: int, rng: np.random.Generator | None) -> list[np.ndarray]:
    """Positions of windows batch by batch, each batch from one bucket of lengths; shuffled when an `rng` is given."""
    buckets = bucket_lengths(lengths)
    batches = []
    for bucket in np.unique(buckets):
        members = np.flatnonzero(buckets == bucket)
        if rng is not None:
            rng.shuffle(members)
        batches += [members[i : i + batch_size] for i in range(0, len(members), batch_size)]
    if rng is not None:
        rng.shuffle(batches)
    return batches


def _gather(
    windows: Windows, labels: Labels, fixed: np.ndarray, window: np.ndarray, every: int, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """x and static of a batch, padded to its longest window; and of one in `every` of its hours (int32 [batch, hours])
    fixed inputs, weights, entry, death, what a teacher forecast if there is one, row_weight."""
    length = int((windows.stop[window] - windows.start[window]).max())
    x, static, _ = gather_batch(windows, window, length)
    rows, _, scored = batch_rows(windows, window, length)
    hours, row_weight = sample_hours(scored & labels.usable[rows], -(-length // every), rng)
    rows = np.take_along_axis(rows, hours, axis=1)
    outcome = [labels.weights[rows], labels.entry[rows], labels.death[rows]]
    taught = [] if labels.taught is None else [labels.taught[rows]]
    return x, static, hours, fixed[rows], *outcome, *taught, row_weight


def sample_hours(counted: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Hours at which a loss is computed, int32 [windows, n], rising, drawn from those of each window that are `counted`,
    bool [windows, hours]; and the weight of each, float32 [windows, n].

    The drawn ones stand for all counted ones of their window, so every patient-hour counts the same on average, whatever
    comes after it. Consecutive hours are near-copies of each other, and the head is most of the work of a step.
    """
    order = rng.random(counted.shape, dtype=np.float32) + ~counted
    hours = np.sort(np.argpartition(order, n - 1, axis=1)[:, :n], axis=1).astype(np.int32)
    n_counted = counted.sum(axis=1, keepdims=True)
    stands_for = n_counted / np.clip(n_counted, 1, n)
    return hours, (np.take_along_axis(counted, hours, axis=1) * stands_for).astype(np.float32)


def _batch_size(config: TrainConfig, n_windows: int) -> int:
    return min(config.batch_size, max(-(-n_windows // _STEPS_OF_EPOCH), _SMALLEST_BATCH))


def learning_rates(config: TrainConfig, steps: int) -> np.ndarray:
    """The learning rate of each of `steps` steps, float32 [steps]: linear warm-up, then cosine decay to a hundredth
    (Loshchilov & Hutter, ICLR 2017)."""
    step, warmup = np.arange(steps), round(steps * config.warmup_share)
    rising = config.learning_rate * (0.01 + 0.99 * step / max(warmup, 1))
    done = np.minimum((step - warmup) / max(steps - warmup, 1), 1.0)
    falling = config.learning_rate * (0.01 + 0.99 * (1 + np.cos(np.pi * done)) / 2)
    return np.where(step < warmup, rising, falling).astype(np.float32)


def _build(config: ModelConfig, devices: Devices) -> keras.Model:
    return build_network(config.network, mixed_precision=config.train.mixed_precision and devices.bfloat16)


class _Trainer:
    """A network, its optimizer and their compiled steps. Tracing takes longer than a short fit, so fits share them: what
    differs from fit to fit is in variables."""

    def __init__(self, config: ModelConfig, devices: Devices) -> None:
        strategy = devices.strategy()
        with strategy.scope():
            self.model = _build(config, devices)
            self.optimizer = keras.optimizers.AdamW(0.0, weight_decay=config.train.weight_decay)
            self.optimizer.exclude_from_weight_decay(var_names=["bias"])
            self.optimizer.build(self.model.trainable_variables)
            self.normaliser = tf.Variable(1.0)
        self.learn, self.look = _compile_steps(self.model, self.optimizer, config, self.normaliser, strategy)

    @property
    def variables(self) -> list[Any]:
        # `variables` of a model also holds the states of its dropout seeds.
        return [*self.model.variables, *self.optimizer.variables]

    def reset(self, start: keras.Model, normaliser: float) -> None:
        """Begin anew from the weights and dropout seeds of `start`."""
        for variable, value in zip(self.model.variables, start.variables, strict=True):
            variable.assign(value)
        for variable in self.optimizer.variables:
            variable.assign(np.zeros(variable.shape))
        self.normaliser.assign(normaliser)


_trainers: dict[Any, _Trainer] = {}


@contextmanager
def _borrow_trainer(config: ModelConfig, devices: Devices) -> Iterator[_Trainer]:
    """A trainer of this architecture that nobody else uses meanwhile."""
    train = config.train
    loss = (train.death_weight, train.teacher_share)
    key = (config.network, devices, train.mixed_precision, train.weight_decay, train.clip_norm, loss)
    trainer = _trainers.pop(key, None) or _Trainer(config, devices)
    yield trainer
    while len(_trainers) >= _TRAINERS_KEPT:
        del _trainers[next(iter(_trainers))]
    _trainers[key] = trainer


class _Run:
    """One training from its first epoch to its last, with all the state that a resumed one needs."""

    def __init__(
        self,
        trainer: _Trainer,
        start: keras.Model,
        config: ModelConfig,
        windows: Windows,
        labels: Labels,
        fixed: np.ndarray,
        train: _Examples,
        valid: _Examples,
    ) -> None:
        self.trainer, self.config, self.windows, self.labels, self.fixed = trainer, config, windows, labels, fixed
        self.train, self.valid = train, valid
        self.history: list[EpochRecord] = []
        self.best_epoch = 0
        self.best_weights = start.get_weights()
        self.fingerprint = _fingerprint(config, windows, labels, train, valid, self.best_weights)
        self.batch_size = _batch_size(config.train, len(train.window))
        batches = _make_batches(self._lengths(train), self.batch_size, None)
        self.learning_rates = learning_rates(config.train, len(batches) * config.train.epochs)
        # A batch is a sample of the training rows: its sum estimates the whole sum, whatever its lengths.
        trainer.reset(start, train.n_rows / len(batches))

    @property
    def finished(self) -> bool:
        epoch = len(self.history)
        return epoch >= self.config.train.epochs or epoch - self.best_epoch >= self.config.train.patience

    def fit_epoch(self) -> EpochRecord:
        began = perf_counter()
        epoch = len(self.history)
        rng = np.random.default_rng((self.config.train.seed, epoch))
        batches = _make_batches(self._lengths(self.train), self.batch_size, rng)
        rates = self.learning_rates[epoch * len(batches) : (epoch + 1) * len(batches)]
        train_loss = self._total(self._learn(rates), self.train, batches, rng)
        batches = _make_batches(self._lengths(self.valid), self.config.train.batch_size, None)
        # The same hours in every epoch, so that epochs are compared on the same.
        valid_loss = self._total(self.trainer.look, self.valid, batches, np.random.default_rng(0))
        record = {
            "epoch": epoch + 1,
            "epochs": self.config.train.epochs,
            "learning_rate": float(rates[0]),
            "train_loss": train_loss / self.train.n_rows,
            "valid_loss": valid_loss / self.valid.n_rows,
            "seconds": perf_counter() - began,
        }
        if not self.best_epoch or record["valid_loss"] < self.history[self.best_epoch - 1]["valid_loss"]:
            self.best_epoch = epoch + 1
            self.best_weights = self.trainer.model.get_weights()
        self.history.append(record)
        return record

    def save(self, path: Path) -> None:
        state = {"fingerprint": self.fingerprint, "history": self.history, "best_epoch": self.best_epoch}
        arrays = {f"state_{i}": v.numpy() for i, v in enumerate(self.trainer.variables)}
        arrays |= {f"best_{i}": w for i, w in enumerate(self.best_weights)}
        save_whole(path, run=np.array(json.dumps(state)), **arrays)

    def restore(self, path: Path) -> None:
        if not path.exists():
            return
        with np.load(path) as saved:
            state = json.loads(str(saved["run"]))
            if state["fingerprint"] != self.fingerprint:
                return
            for i, variable in enumerate(self.trainer.variables):
                variable.assign(saved[f"state_{i}"])
            self.best_weights = [saved[f"best_{i}"] for i in range(len(self.best_weights))]
        self.history, self.best_epoch = state["history"], state["best_epoch"]

    def _learn(self, rates: np.ndarray) -> Callable[..., Any]:
        """The learning step, each call with the next of `rates`."""
        following = iter(rates)

        def step(*batch: tf.Tensor) -> Any:
            self.trainer.optimizer.learning_rate.assign(next(following))
            return self.trainer.learn(*batch)

        return step

    def _lengths(self, examples: _Examples) -> np.ndarray:
        return self.windows.stop[examples.window] - self.windows.start[examples.window]

    def _total(
        self, step: Callable[..., Any], examples: _Examples, batches: list[np.ndarray], rng: np.random.Generator
    ) -> float:
        every, gathered = self.config.train.loss_every, count(1)

        def gather(window: np.ndarray) -> list[tf.Tensor]:
            batch = _gather(self.windows, self.labels, self.fixed, window, every, rng)
            if next(gathered) % _RELEASE == 0:
                release(self.windows.channels, self.labels.weights, self.labels.entry, self.fixed)
            return [tf.convert_to_tensor(part) for part in batch]

        # Read only at the end, so that an accelerator need not wait for the next batch to be gathered.
        losses = [step(*batch) for batch in _ahead(gather, [examples.window[batch] for batch in batches])]
        return sum(float(loss) for loss in losses)


def _ahead(gather: Callable[[np.ndarray], list[tf.Tensor]], batches: list[np.ndarray]) -> Iterator[list[tf.Tensor]]:
    """The gathered batches in order, each gathered while the step before it runs."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(gather, batches[0])
        for batch in batches[1:]:
            gathered, following = following.result(), thread.submit(gather, batch)
            yield gathered
        yield following.result()


def _compile_steps(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    config: ModelConfig,
    normaliser: tf.Variable,
    strategy: tf.distribute.Strategy,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The compiled steps; both give the sum of row losses. One graph each serves all lengths.

    Gradients are clipped by their global norm after those of all devices were added. The optimizer adds once more what
    each of them holds, so each gives it an equal part of the clipped sum.
    """
    replicas = strategy.num_replicas_in_sync
    network: NetworkConfig = config.network
    cells = (None, None, len(network.horizon_edges), 2)
    float32, float16 = (partial(tf.TensorSpec, dtype=dtype) for dtype in (tf.float32, tf.float16))
    signature = [float32((None, None, network.n_channels)), float32((None, network.n_static))]
    parts = split_at_head(model)
    n_fixed = sum(output.shape[-1] for output in parts.fixed.outputs) if parts.fixed else 0
    signature += [tf.TensorSpec((None, None), tf.int32), float16((None, None, n_fixed))]
    signature += [float32(cells), float32(cells), float32((None, None))]
    signature += [float16(cells)] * bool(config.train.teacher_share) + [float32((None, None))]

    def row_losses(x: Any, static: Any, hours: Any, fixed: Any, *labels: Any, training: bool) -> Any:
        learned = parts.learned_at([x, static][: len(model.inputs)], hours, training=training)
        learned = tf.concat([tf.cast(part, tf.float32) for part in learned], axis=-1)
        logits = parts.head.of_parts(learned, tf.cast(fixed, tf.float32))
        weights, entry, death, *taught, row_weight = labels
        taught = [tf.cast(part, tf.float32) for part in taught] + [config.train.teacher_share] * len(taught)
        return stay_loss(logits, weights, entry, death, row_weight, config.train.death_weight, *taught)

    def learn(*share: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = row_losses(*share, training=True)
            objective = loss / normaliser + sum(model.losses) / replicas
        gradients = tape.gradient(objective, model.trainable_variables)
        if replicas > 1:
            gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        gradients, _ = tf.clip_by_global_norm(gradients, config.train.clip_norm)
        optimizer.apply([gradient / replicas for gradient in gradients], model.trainable_variables)
        return loss

    def look(*share: Any) -> Any:
        return row_losses(*share, training=False)

    def compiled(step: Callable[..., Any]) -> Callable[..., Any]:
        @tf.function(input_signature=signature, autograph=False)
        def on_all(*batch: Any) -> Any:
            def on_one() -> Any:
                number = tf.distribute.get_replica_context().replica_id_in_sync_group
                return step(*share_of_replica(batch, number, replicas))

            return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(on_one), axis=None)

        return on_all

    return compiled(learn), compiled(look)


def _fingerprint(
    config: ModelConfig,
    windows: Windows,
    labels: Labels,
    train: _Examples,
    valid: _Examples,
    first_weights: list[np.ndarray],
) -> str:
    """Identifies a training, so that only its own checkpoint is used: config, data, split and starting weights."""
    digest = hashlib.blake2b(json.dumps([_STATE, config.to_json()]).encode(), digest_size=16)
    arrays = [windows.channels, windows.static, windows.start, windows.stop, windows.score_from]
    arrays += [labels.weights, labels.entry, labels.death, labels.usable, train.window, valid.window, *first_weights]
    arrays += [] if labels.taught is None else [labels.taught]
    for array in arrays:
        for first in range(0, len(array), _BLOCK):
            digest.update(np.ascontiguousarray(array[first : first + _BLOCK]).reshape(-1).view(np.uint8))
        release(array)
    return digest.hexdigest()
