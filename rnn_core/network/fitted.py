"""Takes the weights out of fitted Keras networks, and makes sure that NumPy forecasts what Keras does."""

import keras
import numpy as np

from rnn_core.contracts.config import Cell
from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.frames import Windows
from rnn_core.network.build import members_of
from rnn_core.network.cells import ElmanCell, JordanCell
from rnn_core.network.encoding import RunningSummaries
from rnn_core.network.heads import CompetingRiskHead, masses
from rnn_core.network.scoring import FittedNetwork, regress, score_rows

_CELLS: dict[type, Cell] = {
    ElmanCell: "elman",
    JordanCell: "jordan",
    keras.layers.LSTMCell: "lstm",
    keras.layers.GRUCell: "gru",
}
# Rounding of a few hundred hours stays far below it.
_TOLERANCE = 1e-5


def networks_of(model: keras.Model) -> tuple[FittedNetwork, ...]:
    """The networks of a model or of an ensemble, with the weights that they have now.

    Raises ContractError where the forward pass of `scoring` gives anything else than Keras on made-up input.
    """
    return tuple(_network_of(member) for member in members_of(model))


def _network_of(model: keras.Model) -> FittedNetwork:
    recurrent = [layer for layer in model.layers if isinstance(layer, keras.layers.RNN)]
    names = {layer.name: f"recurrent_{number}" for number, layer in enumerate(recurrent)}
    summaries = [layer.n_concepts for layer in model.layers if isinstance(layer, RunningSummaries)]
    network = FittedNetwork(
        cells=tuple(_CELLS[type(layer.cell)] for layer in recurrent),
        n_concepts=sum(summaries),
        knots=getattr(model.get_layer("head"), "knots", ()),
        weights={
            f"{names.get(layer.name, layer.name)}/{weight.name}": np.array(weight)
            for layer in model.layers
            for weight in layer.weights
        },
    )
    error = _greatest_error(model, network)
    if not error <= _TOLERANCE:
        raise ContractError(
            f"What NumPy forecasts with this network differs from Keras by up to {error:.1g}. Change `build_network` and "
            "`rnn_core.network.scoring` together."
        )
    return network


def _greatest_error(model: keras.Model, network: FittedNetwork, n: int = 2, hours: int = 6) -> float:
    """On made-up windows: values, observations and ages that come and go."""
    rng = np.random.default_rng(0)
    sizes = [tensor.shape[-1] for tensor in model.inputs]
    x = rng.standard_normal((n, hours, sizes[0]), dtype=np.float32)
    if not isinstance(model.get_layer("head"), CompetingRiskHead):
        return float(np.abs(regress(network, x[:, :, 0]) - np.asarray(model(x))[:, 0]).max())
    x[:, :, network.n_concepts : 2 * network.n_concepts] = rng.random((n, hours, network.n_concepts)) < 0.2
    static = rng.standard_normal((n, sizes[1] if len(sizes) > 1 else 0), dtype=np.float32)
    expected = np.asarray(masses(model([x, static][: len(sizes)], training=False))).reshape(
        n * hours, *network.mass_shape
    )
    start, none = hours * np.arange(n), np.zeros(n * hours, np.float32)
    edges = {"offsets": hours * np.arange(n + 1), "stay": np.arange(n), "start": start, "stop": start + hours}
    of_rows = dict.fromkeys(("prediction_hour", "n_observations", "hours_since_last"), none)
    windows = Windows(x.reshape(-1, sizes[0]), static, score_from=start, **edges, **of_rows)
    rows = np.arange(n * hours)
    return float(np.abs(score_rows((network,), windows, rows // hours, rows) - expected).max())
