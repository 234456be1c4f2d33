"""The model that a training starts from, of its own source or of another one, and all that this model has learned from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import Engine

from flows.runtime import clock
from flows.runtime.settings import load_settings
from rnn_core.contracts.errors import ArtifactError, ForecastError
from sql.published import registry

if TYPE_CHECKING:
    from rnn_core.forecasters.stay import StayForecaster

# A model that somebody's networks learned from, as JSON: `model_id`, `source`, `data_cutoff` (UTC), `members`.
Ancestor = dict[str, Any]


@dataclass(frozen=True)
class Start:
    """learned_from: of each source and number of members, the newest model among this one and those that it started from, in
    turn; 0 members where each learned from all stays. afresh: what is not taken over from it, in words."""

    model_id: str
    forecaster: "StayForecaster"
    learned_from: list[Ancestor]
    afresh: Sequence[str] = ()

    def leak(self, source: str, cutoff: np.datetime64, members: int) -> str | None:
        """Why a model of `source` that starts here would be judged, or calibrated, on patients it has learned from; None if
        it would not.

        Hold-out and folds are fixed by the patient, so a start from the same source leaks nothing, provided that it learned
        from no later stays and that each member follows the one that left out the same fold.
        """
        own = [one for one in self.learned_from if one["source"] == source]
        if later := [one for one in own if np.datetime64(one["data_cutoff"]) > cutoff]:
            return (
                f"{self.model_id} has learned from stays of {source} until {later[0]['data_cutoff']}, on which this training, "
                f"with the cut-off {cutoff}, would be judged. Train as of a later time, or start from another model."
            )
        counts = {one["members"] for one in self.learned_from if one["source"] == source or one["members"]}
        if own and counts != {members}:
            return (
                f"{self.model_id} has learned from {source} with other folds ({_listed(counts)} members, not {members}), so "
                "that out-of-fold forecasts would be of patients it knows. Use --members, or start from another model."
            )
        return None


def _listed(counts: set[int]) -> str:
    return " and ".join(str(count) if count else "in all" for count in sorted(counts))


def find_start(store: Engine, model: str) -> Start:
    """The model with this id, of any source, or in this artifact folder.

    Raises ForecastError if there is none, if it is no stay model with a risk of death, or if a folder does not say what the
    model has learned from; ArtifactError if it cannot be read.
    """
    from rnn_core.forecasters.artifact import META_FILE

    if (Path(model) / META_FILE).is_file():
        return start_in_folder(Path(model))
    row, forecaster = load_stay_model(store, model)
    return Start(model, forecaster, learned_from(store, row))


def start_in_folder(folder: Path) -> Start:
    """The model whose artifact this is; raises as `find_start` does."""
    from rnn_core.forecasters.artifact import read_meta

    meta = read_meta(folder)
    if "learned_from" not in meta:
        raise ArtifactError(
            f"The artifact {folder.name} does not say what it has learned from: an earlier version wrote it. Start from a "
            "model that is registered here, or train it again."
        )
    return Start(meta["model_id"], _load(folder, meta["model_id"]), meta["learned_from"])


def load_stay_model(store: Engine, model_id: str) -> "tuple[dict[str, Any], StayForecaster]":
    """Row and forecaster of a registered stay model. Raises ForecastError if it is none or has no risk of death."""
    row = registry.read_model(store, model_id)
    if row["name"] != "stay":
        raise ForecastError(f"{model_id} forecasts units; a stay model was expected (`icu-forecast models list`).")
    return row, _load(load_settings().artifact_folder / row["artifact"], model_id)


def _load(folder: Path, model_id: str) -> "StayForecaster":
    from rnn_core.forecasters.stay import load_stay_forecaster

    forecaster = load_stay_forecaster(folder)
    if not forecaster.forecasts_death:
        raise ForecastError(f"{model_id} forecasts no risk of death: the stays it learned from all ended alike.")
    return forecaster


def learned_from(store: Engine, row: Mapping[str, Any]) -> list[Ancestor]:
    """All that the networks of a registered model have learned from, itself first; a recalibrated copy learned nothing."""
    if (stored := row["metrics"].get("learned_from")) is not None:
        return stored
    # A model of an earlier version started from one of its own source or none, or was recalibrated from another.
    own = [
        ancestor(row["model_id"], row["source"], clock.to_numpy(row["data_cutoff"]), row["config"]["train"]["folds"])
    ]
    earlier = learned_from(store, registry.read_model(store, row["warm_from"])) if row["warm_from"] else []
    return (own if "recalibrated_from" not in row["metrics"] else []) + earlier


def ancestor(model_id: str, source: str, cutoff: np.datetime64, members: int) -> Ancestor:
    return {"model_id": model_id, "source": source, "data_cutoff": str(cutoff), "members": members}
