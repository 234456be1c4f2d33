"""A network that starts from another one: weights that mean the same in both are taken over, the others start afresh."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import keras
import numpy as np

from rnn_core.contracts.config import NetworkConfig
from rnn_core.contracts.errors import ContractError
from rnn_core.network.build import build_network
from rnn_core.network.heads import N_CAUSES
from rnn_core.network.training import FittedModel

_Names = tuple[str, ...]
# A channel that is 1, not 0, as long as a concept was never measured.
_AGE = "age"


def carry_over(
    network: keras.Model,
    config: NetworkConfig,
    concepts: Sequence[str],
    start: keras.Model,
    start_config: NetworkConfig,
    start_concepts: Sequence[str],
    unseen: Collection[str] = (),
) -> None:
    """Give `network`, fresh from `build_network(config)`, the weights of `start` for every feature, unit and horizon bin
    that both have.

    concepts, start_concepts: what each reads, in the order of its channels. unseen: concepts that `start` reads but was
    never shown: its weights of these have learned nothing, so they start afresh too.

    With the same cell, units and horizon, windows in which `start` knows all that is measured are forecast as by `start`:
    a concept that is never measured adds the same in every hour, through its age, and the biases make up for it. Raises
    ContractError where `start` does not have the weights that its config describes.
    """
    ours = _layers(config, concepts)
    theirs = _layers(start_config, [f"{name}, never seen" if name in unseen else name for name in start_concepts])
    for name in ours.keys() & theirs.keys():
        layer, fresh, old = network.get_layer(name), network.get_layer(name).get_weights(), _read(start, name)
        if isinstance(ours[name], str):
            merged = old if ours[name] == theirs[name] else fresh
        else:
            if old[0].shape != tuple(map(len, theirs[name])):
                raise ContractError(
                    f"The layer {name!r} to start from does not have the weights that its config describes."
                )
            merged = _merged(fresh, ours[name], old, theirs[name])
        layer.set_weights(merged)


def without_static(fitted: FittedModel, n: int) -> FittedModel:
    """The same for stays in which all static features but the first `n` are 0."""
    config, concepts = fitted.config, fitted.config.window.concepts
    if config.network.n_static == n:
        return fitted
    network = replace(config.network, n_static=n)
    model = build_network(network)
    carry_over(model, network, concepts, fitted.model, config.network, concepts)
    return replace(fitted, model=model, config=replace(config, network=network))


def _read(start: keras.Model, name: str) -> list[np.ndarray]:
    try:
        return start.get_layer(name).get_weights()
    except ValueError:
        raise ContractError(f"The network to start from has no layer {name!r}, which its config describes.") from None


def _layers(config: NetworkConfig, concepts: Sequence[str]) -> dict[str, str | tuple[_Names, _Names]]:
    """Of each layer with weights, the names of what it reads and of what it gives; of a recurrent one, in which the meaning
    of a unit rests on all others, a name of the whole."""
    units, n = config.units, len(concepts)
    hour = tuple(f"hour {unit} of {units[0]}" for unit in range(units[0]))
    state = tuple(f"{config.cell} {units}: {unit}" for unit in range(units[-1]))
    static = tuple(f"static {number}" for number in range(config.n_static))
    times = tuple(f"time {number}" for number in range(config.n_channels - 3 * n))
    value, observed, age = (_each(kind, concepts) for kind in ("value", "observed", _AGE))
    edges = [float(edge) for edge in config.horizon_edges]
    bins = zip(edges, (*edges[1:], "any"), strict=True)
    cells = tuple(f"{low} to {high}: {cause}" for low, high in bins for cause in range(N_CAUSES))
    read = state + hour
    if config.wide:
        # In the order of `encoding.RunningSummaries` and `encoding.hinges`.
        history = [_each(kind, concepts) for kind in ("times", "deviation", "change", "distance")]
        values = sum((_each(kind, concepts) for kind in ("value", "mean", "maximum", "minimum")), ())
        pieces = [
            tuple(f"{name} beyond {sign}{float(knot)}" for name in values) for knot in config.knots for sign in "+-"
        ]
        read += static + observed + age + times + sum([*history, values, *pieces], ())
    found: dict[str, str | tuple[_Names, _Names]] = {
        f"recurrent_{number}": f"{config.cell} {units[: number + 1]}" for number in range(len(units))
    }
    if config.n_static:
        found["embed_static"] = static, hour
    return found | {"embed_hour": (value + observed + age + times, hour), "head": (read, cells)}


def _each(kind: str, concepts: Sequence[str]) -> _Names:
    return tuple(f"{kind} {name}" for name in concepts)


def _merged(
    fresh: list[np.ndarray], ours: tuple[_Names, _Names], old: list[np.ndarray], theirs: tuple[_Names, _Names]
) -> list[np.ndarray]:
    """Kernel, and bias where there is one, of a layer that is linear."""
    (row, old_row), (column, old_column) = (_same(*names) for names in zip(ours, theirs, strict=True))
    kernel = fresh[0].copy()
    kernel[np.ix_(row, column)] = old[0][np.ix_(old_row, old_column)]
    if len(fresh) == 1:
        return [kernel]
    bias = fresh[1].flatten()
    new, gone = _ages(ours[0], row), _ages(theirs[0], old_row)
    bias[column] = old[1].flatten()[old_column] + (old[0][gone].sum(0)[old_column] - fresh[0][new].sum(0)[column])
    return [kernel, bias.reshape(fresh[1].shape)]


def _same(ours: _Names, theirs: _Names) -> tuple[np.ndarray, np.ndarray]:
    """Positions of what both name, in ours and in theirs."""
    position = {name: number for number, name in enumerate(theirs)}
    pairs = [(number, position[name]) for number, name in enumerate(ours) if name in position]
    return tuple(np.array(pairs, dtype=np.int64).reshape(-1, 2).T)


def _ages(names: _Names, taken: np.ndarray) -> np.ndarray:
    """Positions of the ages that are not among `taken`."""
    return np.setdiff1d([number for number, name in enumerate(names) if name.startswith(f"{_AGE} ")], taken).astype(int)
