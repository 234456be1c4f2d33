"""Everything that shapes a model, as frozen dataclasses that are saved inside its artifact."""

from dataclasses import dataclass, field
from typing import Literal

from rnn_core.contracts.concepts import NAMES
from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.saved import Hours, Saved

Cell = Literal["elman", "jordan", "lstm", "gru"]
Head = Literal["regression", "competing_risk"]
Kind = Literal["recurrent", "trees", "logistic", "blend"]

# Hours after the prediction time at which the forecast distribution is cut; the last cell is open-ended.
HORIZON_EDGES = (0, 6, 12, 24, 36, 48, 72, 96, 120, 144, 168, 216, 264, 336, 432, 576, 720, 1080, 1440)


@dataclass(frozen=True)
class WindowConfig(Saved):
    """How observations become sequences.

    A stay is cut into chunks that start every `chunk_hours` and reach back over at most two of them: the prediction at
    hour t sees the hours from max(0, (t // chunk_hours - 1) * chunk_hours) on, so at least the last `chunk_hours`.

    No forecast is made before `first_hour` of a stay nor after `last_hour`, a year: hardly a stay teaches anything about
    those, and the rows of a stay stay few however long it is open.
    """

    concepts: tuple[str, ...] = NAMES
    chunk_hours: int = 168
    first_hour: int = 4
    last_hour: int = 366 * 24
    stale_hours: float = 24.0
    min_observations: int = 10


@dataclass(frozen=True)
class Sampling(Saved):
    """How the stays of a source came into the sample, which a fit must respect and a forecast need not.

    delayed_entry_hours: only stays that lasted this long are in the sample; no likelihood is taken from earlier hours.
    data_hours: observations stop this many hours after intime by design; nothing later is learned from.
    """

    delayed_entry_hours: float = 0.0
    data_hours: Hours = float("inf")


@dataclass(frozen=True)
class NetworkConfig(Saved):
    """Shape of a network: cell, layer sizes, head.

    n_channels per hour, n_concepts among them and n_static per stay are set by the data, longest_hours (of a window)
        by the chunks.
    wide: the head also reads the hour's channels, summaries of the stay so far and the static features themselves, all
        values broken at `knots` (in deviations from the mean); False: the recurrent state only.
    dropout: after each recurrent layer. embed_dropout: before the first.
    """

    cell: Cell = "lstm"
    units: tuple[int, ...] = (64,)
    head: Head = "competing_risk"
    n_channels: int = 0
    n_concepts: int = 0
    n_static: int = 0
    longest_hours: int = 336
    wide: bool = True
    knots: tuple[float, ...] = (0.0, 1.0, 2.0)
    dropout: float = 0.3
    embed_dropout: float = 0.3
    input_dropout: float = 0.0
    l1: float = 0.0
    horizon_edges: tuple[float, ...] = HORIZON_EDGES


@dataclass(frozen=True)
class TrainConfig(Saved):
    """How networks are fitted; the defaults are those of the stay forecaster.

    folds: members of the ensemble; each is stopped early, and the ensemble calibrated, on the fold it did not learn from.
    cells: of a member that is the mean of several networks, one of each; none: one of the cell of `NetworkConfig`.
    batch_size: windows in a step, fewer where an epoch would have less than 50 steps, but at least 16.
    loss_every: the loss of a step is taken at one in so many hours of each window, drawn anew in every epoch.
    alert_budget: shares of the forecasts that may be in the band medium or above, high or above, very high.
    """

    seed: int = 0
    folds: int = 5
    cells: tuple[Cell, ...] = ()
    epochs: int = 8
    patience: int = 3
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    clip_norm: float = 1.0
    warmup_share: float = 0.1
    death_weight: float = 2.0
    loss_every: int = 6
    alert_budget: tuple[float, float, float] = (0.40, 0.15, 0.05)
    mixed_precision: bool = False

    def __post_init__(self) -> None:
        """Raises ContractError for an ensemble of one: nobody would be left out of its training."""
        if self.folds < 2:
            raise ContractError(
                f"An ensemble has at least 2 members, not {self.folds}: each is stopped early and calibrated on patients "
                "that only the others learned from."
            )


@dataclass(frozen=True)
class TreesConfig(Saved):
    """How boosted trees are fitted; folds and seed are those of `TrainConfig`.

    trees: maximum per outcome; each member is cut where it forecasts its left-out fold best.
    learning_rate: of each tree.
    """

    trees: int = 200
    learning_rate: float = 0.08


@dataclass(frozen=True)
class UnitConfig(Saved):
    """The forecaster of the next lengths of stay of a unit, after a published tutorial."""

    window: int = 10
    horizon: int = 1
    units: tuple[int, ...] = (64, 32)
    first_epochs: int = 10
    second_epochs: int = 50
    patience: int = 8
    batch_size: int = 32
    learning_rate: float = 1e-3
    clip_norm: float = 1.0
    dropout: float = 0.0
    l1: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class ArrivalConfig(Saved):
    """The recurrent forecaster of arrivals: `units` of its LSTM and how it is trained."""

    units: int = 8
    epochs: int = 30
    patience: int = 4
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class ModelConfig(Saved):
    """The complete configuration of a stay forecaster.

    forecaster: its kind, see `forecasters.forecaster.KINDS`. blend: the kinds that a blend pools.
    """

    forecaster: Kind = "recurrent"
    window: WindowConfig = field(default_factory=WindowConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    trees: TreesConfig = field(default_factory=TreesConfig)
    blend: tuple[Kind, ...] = ("recurrent", "trees")
