"""The result of a benchmark run: contenders, scores, paired differences and subgroups, with a JSON form."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rnn_core.statistics.bootstrap import Estimate, estimates_to_json

if TYPE_CHECKING:
    from rnn_core.benchmark.contest import Contest, Truth

# What the forecast flow would use.
SHIPPED = "blend"
BASELINES = ("prevalence", "saps", "linear", "logistic", "trees", "classic")
MODELS = (*BASELINES, "elman", "jordan", "lstm", "gru", "hazard_trees", "forecaster", "forecaster_single", "blend")


@dataclass(frozen=True)
class Outcome:
    """The report of a run: forecasts of the evaluated stays and scores, per contender."""

    protocol: dict[str, Any]
    contests: "dict[str, Contest]"
    truth: "Truth"
    scores: "dict[str, dict[str, Estimate]]"
    strongest: str
    differences: "dict[str, dict[str, Estimate]]"
    subgroups: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "protocol": self.protocol,
            "shipped": SHIPPED if SHIPPED in self.scores else None,
            "strongest_baseline": self.strongest,
            "models": {
                name: estimates_to_json(scores) | {"seconds": round(self.contests[name].seconds, 1)}
                for name, scores in self.scores.items()
            },
            "differences": {name: estimates_to_json(found) for name, found in self.differences.items()},
            "subgroups": {
                kind: {
                    group: {
                        **found,
                        "models": {name: estimates_to_json(scores) for name, scores in found["models"].items()},
                    }
                    for group, found in groups.items()
                }
                for kind, groups in self.subgroups.items()
            },
        }
