"""The forecasts of stays by their ids: what is published of a stay and counted for its unit."""

from collections.abc import Sequence
from dataclasses import dataclass

from rnn_core.statistics.distribution import Distribution


@dataclass(frozen=True)
class ScoredStays:
    """`stay_ids` and, in their order, when and how each ends.

    forecasts_death: False if the model does not say how a stay ends.
    """

    stay_ids: Sequence[str]
    forecast: Distribution
    forecasts_death: bool = True
