"""Two models beside each other on stays that neither has learned from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

from flows.jobs.hold_out import unseen_by
from flows.runtime.settings import load_settings
from flows.shards.stored_stays import read_stored
from rnn_core.contracts.errors import ForecastError
from sql.published import registry

if TYPE_CHECKING:
    from rnn_core.evaluation.holdout import Paired


@dataclass(frozen=True)
class Compared:
    """Ids of the models, which rows they were compared on, in words, and a row per metric (`compare_on_all`)."""

    models: tuple[str, str]
    basis: str
    rows: Sequence[Mapping[str, Any]]

    def table(self) -> list[dict[str, str]]:
        """For people, at most 100 columns wide; A and B are the models."""
        names = {"first": "A", "second": "B", None: "neither"}
        return [
            {
                "metric": row["metric"].label,
                **dict(zip("AB", map(row["metric"].show, row["values"]), strict=True)),
                "A less B": _signed(row),
                "better": names[row["better"]],
            }
            for row in self.rows
        ]

    def sentences(self) -> list[str]:
        return [
            *(f"{letter}: {model}" for letter, model in zip("AB", self.models, strict=True)),
            self.basis,
            "A less B with its 95 % interval over patients; of a metric with a best value, how much farther from it A is.",
        ]

    def to_json(self) -> dict[str, Any]:
        named = dict(zip(("first", "second"), self.models, strict=True))
        rows = [
            {
                "metric": row["metric"].name,
                **dict(zip(("first", "second"), row["values"], strict=True)),
                "difference": row["difference"].to_json(),
                "better": named.get(row["better"]),
            }
            for row in self.rows
        ]
        return {**named, "basis": self.basis, "metrics": rows}


def _signed(row: Mapping[str, Any]) -> str:
    digits, found = row["metric"].digits, row["difference"]
    value, low, high = (f"{x:+.{digits}f}" for x in (found.value, found.low, found.high))
    return f"{value} ({low} to {high})" if found.low == found.low else value


def compare_models(store: Engine, first: str, second: str, as_of: datetime) -> Compared:
    """Compare two stay models of one source by what is known at `as_of`.

    Raises ForecastError if a model is none of stays or they are of different sources, DataTooSmallError without a stay that
    neither has learned from.
    """
    models = [registry.read_model(store, model_id) for model_id in (first, second)]
    if first == second:
        raise ForecastError(f"{first} is compared with another model; give two ids (`icu-forecast models list`).")
    if other := [row["model_id"] for row in models if row["name"] != "stay"]:
        raise ForecastError(
            f"Stay models are compared; {', '.join(other)} forecasts no stays (`icu-forecast models list`)."
        )
    if len({row["source"] for row in models}) > 1:
        raise ForecastError(
            f"{first} is of {models[0]['source']}, {second} of {models[1]['source']}: `icu-forecast transfer` judges a model "
            "on other sources."
        )
    from rnn_core.evaluation.holdout import compare_on_all, count_deaths

    judged = unseen_by(store, models, read_stored(store, models[0]["source"], as_of))
    pair = pair_on(judged, *models)
    n_stays = len(set(pair.stay.tolist()))
    basis = (
        f"{len(pair.stay):,} forecasts of {n_stays:,} stays ({count_deaths(judged)} died) that neither has learned from, every "
        f"6 hours of each stay, as known at {as_of:%Y-%m-%d %H:%M} UTC."
    )
    return Compared((first, second), basis, compare_on_all(pair))


def pair_on(judged: Any, *models: Mapping[str, Any]) -> "Paired":
    """What two registered models say of the same stays."""
    from rnn_core.evaluation.holdout import Paired, score_stays
    from rnn_core.forecasters.stay import load_stay_forecaster

    folder = load_settings().artifact_folder
    return Paired.of(*(score_stays(load_stay_forecaster(folder / row["artifact"]), judged) for row in models))
