"""Everything that shapes a model, as frozen dataclasses that are saved inside its artifact.

Every field is an option of `icu-forecast train` and a key of its files (`options.py`), unless it says otherwise.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from rnn_core.contracts.concepts import NAMES
from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.saved import Hours, Saved

Cell = Literal["elman", "jordan", "lstm", "gru"]
Head = Literal["regression", "competing_risk"]
Kind = Literal["recurrent", "trees", "logistic", "blend"]


@dataclass(frozen=True)
class Option:
    """How people set a field: its name where that of the field would be ambiguous, and a line of help."""

    help: str = ""
    name: str | None = None
    offered: bool = True


# Set by the data or by another field.
DERIVED = Option(offered=False)

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(ge=0)]

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

    concepts: Annotated[tuple[str, ...], Option("Clinical variables that the model reads; default: all.")] = NAMES
    chunk_hours: Annotated[
        Count, Option("Hours between the starts of two windows; each reaches over twice as many.")
    ] = 168
    first_hour: Annotated[Count, Option("Hour of a stay from which on it is forecast.")] = 4
    last_hour: Annotated[Count, Option("Hour of a stay up to which it is forecast.")] = 366 * 24
    stale_hours: Annotated[Positive, Option("Hours without an observation after which a stay is not forecast.")] = 24.0
    min_observations: Annotated[Count, Option("Observations below which a stay is not forecast.")] = 10


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

    cell: Annotated[Cell, DERIVED] = "lstm"
    units: Annotated[tuple[Count, ...], Field(min_length=1), Option("Units of each recurrent layer.", "layers")] = (64,)
    head: Annotated[Head, DERIVED] = "competing_risk"
    n_channels: Annotated[int, DERIVED] = 0
    n_concepts: Annotated[int, DERIVED] = 0
    n_static: Annotated[int, DERIVED] = 0
    longest_hours: Annotated[int, DERIVED] = 336
    wide: Annotated[bool, Option("The head also reads the values, summaries and static features.")] = True
    knots: Annotated[
        tuple[float, ...], Option("Deviations from the mean at which values of the wide head are broken.")
    ] = (0.0, 1.0, 2.0)
    dropout: Annotated[Share, Option("Dropout after each recurrent layer.")] = 0.3
    embed_dropout: Annotated[Share, Option("Dropout before the first recurrent layer.")] = 0.3
    input_dropout: Annotated[Share, Option("Dropout of the channels of an hour.")] = 0.0
    l1: Annotated[Rate, Option("L1 penalty on the weights of the recurrent layers.")] = 0.0
    horizon_edges: Annotated[
        tuple[float, ...], Option("Hours at which the forecast distribution is cut.", "horizon")
    ] = HORIZON_EDGES


@dataclass(frozen=True)
class TrainConfig(Saved):
    """How networks are fitted; the defaults are those of the stay forecaster.

    folds: members of the ensemble; each is stopped early, and the ensemble calibrated, on the fold it did not learn from.
    cells: of a member that is the mean of several networks, one of each; none: one of the cell of `NetworkConfig`.
    batch_size: windows in a step, fewer where an epoch would have less than 50 steps, but at least 16.
    loss_every: the loss of a step is taken at one in so many hours of each window, drawn anew in every epoch.
    teacher_share: so much of the loss compares with the forecast of a blend that never saw the stay, the rest with what
        happened.
    alert_budget: shares of the forecasts that may be in the band medium or above, high or above, very high.
    """

    seed: Annotated[int, Field(ge=0), Option("Random seed; the same data and seed give the same result.")] = 0
    folds: Annotated[int, Option("Members of the ensemble, at least 2.", "members")] = 5
    cells: Annotated[
        tuple[Cell, ...],
        Option("Recurrent cell; several, such as lstm,gru, for as many networks in each member.", "cell"),
    ] = ()
    epochs: Annotated[Count, Option("Maximum number of epochs, and of trees unless --trees is given.")] = 8
    patience: Annotated[Count, Option("Epochs without a better validation loss after which a training stops.")] = 3
    batch_size: Annotated[Count, Option("Windows in a step.")] = 64
    learning_rate: Annotated[Positive, Option("Highest learning rate; it warms up and then decays.")] = 2e-3
    weight_decay: Annotated[Rate, Option("Weight decay of AdamW.")] = 1e-3
    clip_norm: Annotated[Positive, Option("Global norm at which gradients are clipped.")] = 1.0
    warmup_share: Annotated[Share, Option("Share of the steps in which the learning rate rises.")] = 0.1
    death_weight: Annotated[Positive, Option("Weight of the cause of an end in the loss.")] = 2.0
    loss_every: Annotated[Count, Option("The loss is taken at one in so many hours.")] = 6
    teacher_share: Annotated[
        float,
        Field(ge=0, le=1),
        Option(
            "Share of the loss that compares with a blend that never saw the stay; fits take several times as long."
        ),
    ] = 0.0
    alert_budget: Annotated[
        tuple[Share, Share, Share],
        Option("Shares of the forecasts in the band medium or above, high or above, very high."),
    ] = (0.40, 0.15, 0.05)
    mixed_precision: Annotated[bool, Option("Compute in bfloat16, if all GPUs are fast at it.")] = False

    def __post_init__(self) -> None:
        """Raises ContractError for an ensemble of one, since nobody would be left out of its training, and for one of two
        with a teacher."""
        if self.folds < 2:
            raise ContractError(
                f"An ensemble has at least 2 members, not {self.folds}: each is stopped early and calibrated on patients "
                "that only the others learned from."
            )
        if self.teacher_share and self.folds < 3:
            raise ContractError(
                f"A teacher needs an ensemble of at least 3 members, not {self.folds}: it learns from neither the fold that "
                "it teaches nor the one that the member is judged on."
            )


@dataclass(frozen=True)
class TreesConfig(Saved):
    """How boosted trees are fitted; folds and seed are those of `TrainConfig`.

    trees: maximum per outcome; each member is cut where it forecasts its left-out fold best.
    learning_rate: of each tree.
    """

    trees: Annotated[Count, Option("Maximum number of trees per outcome.")] = 200
    learning_rate: Annotated[Positive, Option("Learning rate of each tree.")] = 0.08


@dataclass(frozen=True)
class UnitConfig(Saved):
    """The forecaster of the next lengths of stay of a unit, after a published tutorial."""

    window: Annotated[Count, Option("Lengths of stay that it reads.")] = 10
    horizon: Annotated[Count, Option("Lengths of stay that it forecasts.")] = 1
    units: Annotated[tuple[Count, ...], Field(min_length=1), Option("Units of each recurrent layer.", "layers")] = (
        64,
        32,
    )
    first_epochs: Count = 10
    second_epochs: Count = 50
    patience: Count = 8
    batch_size: Count = 32
    learning_rate: Positive = 1e-3
    clip_norm: Positive = 1.0
    dropout: Share = 0.0
    l1: Rate = 0.0
    seed: Annotated[int, DERIVED] = 0


@dataclass(frozen=True)
class ArrivalConfig(Saved):
    """The recurrent forecaster of arrivals: `units` of its LSTM and how it is trained."""

    units: Annotated[Count, Option("Units of its recurrent layer.")] = 8
    epochs: Count = 30
    patience: Count = 4
    batch_size: Count = 64
    learning_rate: Positive = 3e-3
    weight_decay: Rate = 0.1
    seed: Annotated[int, DERIVED] = 0


@dataclass(frozen=True)
class ModelConfig(Saved):
    """The complete configuration of a stay forecaster.

    forecaster: its kind, see `forecasters.forecaster.KINDS`. blend: the kinds that a blend pools.
    """

    forecaster: Annotated[Kind, Option("Recurrent networks, boosted trees, logistic regressions, or a blend.")] = (
        "recurrent"
    )
    window: WindowConfig = field(default_factory=WindowConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    trees: TreesConfig = field(default_factory=TreesConfig)
    blend: Annotated[tuple[Kind, ...], Option("Kinds that a blend pools.")] = ("recurrent", "trees")
