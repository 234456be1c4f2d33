"""Builds the network that a NetworkConfig describes: causal, for any sequence length, to train and to serve."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
from keras.src.random import seed_generator

from rnn_core.contracts.config import NetworkConfig
from rnn_core.contracts.errors import ContractError
from rnn_core.network.cells import build_recurrent
from rnn_core.network.encoding import EveryHour, RunningSummaries, at_rows
from rnn_core.network.heads import CompetingRiskHead, build_regression_head

# Layers of a stay network that `split_at_head` finds by name.
_READ, _HEAD = "read", "head"
_STATIC_HOURS, _SUMMARIES = "static_hours", "summaries"


@dataclass(frozen=True)
class SplitNetwork:
    """A stay network cut before its head, so that the head need not read every hour.

    learned, fixed: models of the network's inputs, with one or several outputs [batch, hours, features]; `fixed` has no
    weights, so it is the same for all members of an ensemble (None where the head reads nothing of this kind).
    dropouts: of each output of `learned`, the dropout between it and the head, or None.
    head: reads the outputs of `learned`, then those of `fixed`, joined along the last axis.
    """

    learned: keras.Model
    dropouts: tuple[keras.layers.Dropout | None, ...]
    fixed: keras.Model | None
    head: keras.layers.Layer

    def learned_at(self, inputs: Sequence[Any], rows: Any, *, training: bool = False) -> list[Any]:
        """The outputs of `learned` at the hours `rows` (int [batch, rows]) of each window, [batch, rows, features]."""
        # Dropout last: drawing its masks takes as long as a layer, so it is done at these hours alone.
        found = [at_rows(hours, rows) for hours in keras.tree.flatten(self.learned(inputs, training=training))]
        return [
            dropout(part, training=training) if dropout else part
            for part, dropout in zip(found, self.dropouts, strict=True)
        ]


def build_network(config: NetworkConfig, *, mixed_precision: bool = False, seed: int | None = None) -> keras.Model:
    """The untrained network of a config; its output depends on the head.

    `competing_risk`: inputs [x, static] or [x] without static features, x [batch, hours, n_channels], static
    [batch, n_static] -> logits [batch, hours, bins, 2] for `heads.masses`. The logits of an hour depend on that hour
    and earlier ones only, so padding belongs at the end and needs no mask (none is used: cuDNN then runs the cell).
    `regression`: inputs x -> [batch, 1], the value that follows the last step.

    `mixed_precision` computes in bfloat16 and keeps weights and the head in float32. `seed` gives the same weights and
    dropout seeds in every process, whatever its threads draw. Raises ContractError when the config describes no network.
    """
    _check_network_config(config)
    dtype = keras.DTypePolicy("mixed_bfloat16" if mixed_precision else "float32")
    with _seeds_drawn_from(random if seed is None else random.Random(seed)):
        if config.head == "regression":
            return _build_series_network(config, dtype)
        return _build_stay_network(config, dtype)


@contextmanager
def _seeds_drawn_from(generator: Any) -> Iterator[None]:
    """Keras draws every seed of a network from the generator of Python, from which threads of Dask draw too.
    `keras.utils.set_random_seed` would also seed TensorFlow, which then optimises each traced function anew: seconds per fit.
    """
    before, seed_generator.python_random = seed_generator.python_random, generator
    try:
        yield
    finally:
        seed_generator.python_random = before


def build_ensemble(members: Sequence[keras.Model]) -> keras.Model:
    """One model of several networks of the same inputs, which owns them; a single network is returned as it is.

    Its outputs are those of the members, in order; `members_of` returns the networks, also of a loaded model.
    """
    if len(members) == 1:
        return members[0]
    # Those of a larger ensemble keep the names that it knows them by.
    if len({member.name for member in members}) < len(members):
        for number, member in enumerate(members):
            member.name = f"member_{number}"
    inputs = [keras.Input(tensor.shape[1:], name=tensor.name) for tensor in members[0].inputs]
    return keras.Model(inputs, [member(inputs) for member in members], name="ensemble")


def members_of(model: keras.Model) -> tuple[keras.Model, ...]:
    """The networks of an ensemble, in order; of any other network, itself alone."""
    return tuple(layer for layer in model.layers if isinstance(layer, keras.Model)) or (model,)


def split_at_head(network: keras.Model) -> SplitNetwork:
    """A stay network in its parts. Raises ContractError where its layers are not those that `build_network` names."""
    names = {layer.name for layer in network.layers}
    head = network.get_layer(_HEAD)
    # Networks of version 0.1.0 have no layer that joins what the head reads.
    read = network.get_layer(_READ).input if _READ in names else [head.input]
    fixed = [layer.output for layer in _fixed_layers(network)]
    learned = [part for part in read if not any(part is other for other in fixed)]
    in_order = len(read) == len(learned) + len(fixed) and all(
        a is b for a, b in zip(read, learned + fixed, strict=True)
    )
    joined = network.get_layer(_READ).output if _READ in names else head.input
    fixed_model = keras.Model(network.inputs, fixed) if fixed else None
    if not in_order or head.input is not joined or (fixed_model is not None and fixed_model.weights):
        raise ContractError(
            f"The head of a stay network reads the layer {_READ!r} alone, which joins first what is learned, then the "
            f"layers {_STATIC_HOURS!r} and {_SUMMARIES!r}, which have no weights. Change `build_network` and "
            "`split_at_head` together."
        )
    by_output = {id(layer.output): layer for layer in network.layers if isinstance(layer, keras.layers.Dropout)}
    dropouts = tuple(by_output.get(id(part)) for part in learned)
    learned = [dropout.input if dropout else part for part, dropout in zip(learned, dropouts, strict=True)]
    return SplitNetwork(keras.Model(network.inputs, learned), dropouts, fixed_model, head)


def _fixed_layers(network: keras.Model) -> list[keras.layers.Layer]:
    names = {layer.name for layer in network.layers}
    return [network.get_layer(name) for name in (_STATIC_HOURS, _SUMMARIES) if name in names]


def _check_network_config(config: NetworkConfig) -> None:
    if config.head not in ("regression", "competing_risk"):
        raise ContractError(f"A network has the head 'regression' or 'competing_risk', not {config.head!r}.")
    if config.n_channels < 1 or not config.units or min(config.units) < 1:
        raise ContractError(
            "A network needs at least one channel and one recurrent layer of at least one unit; found "
            f"n_channels={config.n_channels}, units={config.units}. Take n_channels from the windows."
        )
    if config.head == "competing_risk" and config.wide and not 0 < 3 * config.n_concepts <= config.n_channels:
        raise ContractError(
            f"A wide head reads three channels of each concept; found n_concepts={config.n_concepts} and "
            f"n_channels={config.n_channels}. Take both from the windows, or set wide to False."
        )
    if config.head == "regression" and config.n_static:
        raise ContractError(f"A regression network reads a series alone; set n_static to 0, not {config.n_static}.")


def _build_series_network(config: NetworkConfig, dtype: Any) -> keras.Model:
    x = keras.Input((None, config.n_channels), name="x")
    hidden = _recurrent_layers(x, config, dtype, every_step=False)
    return keras.Model(x, build_regression_head(dtype="float32")(hidden), name="series_network")


def _build_stay_network(config: NetworkConfig, dtype: Any) -> keras.Model:
    x = keras.Input((None, config.n_channels), name="x")
    inputs = [x]
    seen = _dropout(config.input_dropout, dtype, "input_dropout")(x)
    hour = keras.layers.Dense(config.units[0], dtype=dtype, name="embed_hour")(seen)
    if config.n_static:
        static = keras.Input((config.n_static,), name="static")
        inputs.append(static)
        # The same as appending the features to the channels of every hour, without the copies.
        projected = keras.layers.Dense(config.units[0], use_bias=False, dtype=dtype, name="embed_static")(static)
        projected = keras.layers.Reshape((1, config.units[0]), dtype=dtype, name="static_hour")(projected)
        hour = keras.layers.Add(dtype=dtype, name="hour_and_static")([hour, projected])
    hour = keras.layers.Activation("tanh", dtype=dtype, name="hour")(hour)
    passed = _dropout(config.embed_dropout, dtype, "hour_dropout")(hour)
    hidden = _recurrent_layers(passed, config, dtype, every_step=True)
    # The head also sees the hour itself: a new measurement need not pass through the state.
    parts = [hidden, hour]
    broken: dict[str, Any] = {}
    if config.wide:
        summaries = RunningSummaries(config.n_concepts, config.longest_hours, dtype="float32", name=_SUMMARIES)
        broken = {"n_values": summaries.n_values, "knots": config.knots}
        parts += [EveryHour(dtype="float32", name=_STATIC_HOURS)([static, x])] if config.n_static else []
        parts.append(summaries(x))
    read = keras.layers.Concatenate(dtype="float32" if config.wide else dtype, name=_READ)(parts)
    head = CompetingRiskHead(len(config.horizon_edges), **broken, dtype="float32", name=_HEAD)
    network = keras.Model(inputs, head(read), name="stay_network")
    split_at_head(network)  # refuses now what scoring could not use after the training
    return network


def _recurrent_layers(sequence: Any, config: NetworkConfig, dtype: Any, *, every_step: bool) -> Any:
    for i, units in enumerate(config.units):
        last = i == len(config.units) - 1
        options = {"return_sequences": every_step or not last, "l1": config.l1, "dtype": dtype}
        sequence = build_recurrent(config.cell, units, name=f"recurrent_{i}", **options)(sequence)
        sequence = _dropout(config.dropout, dtype, f"recurrent_dropout_{i}")(sequence)
    return sequence


def _dropout(rate: float, dtype: Any, name: str) -> Callable[[Any], Any]:
    return keras.layers.Dropout(rate, dtype=dtype, name=name) if rate else lambda passed: passed
