"""Open stays forecast and explained in shards: each reads its own rows, in whichever process it is computed."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sqlalchemy import Engine

from flows.runtime import clock
from flows.runtime.compute import map_shards, n_workers
from flows.runtime.log import log
from flows.runtime.settings import load_settings
from rnn_core.contracts.known import Known
from sql.published import canonical
from sql.published.canonical import Shard

if TYPE_CHECKING:
    from rnn_core.forecasters.stay import StayForecaster, StayForecasts

# More stays in one shard would need more memory, fewer would spend their time on opening it.
MOST_STAYS, FEWEST_STAYS = 1000, 200
FEWEST_EXPLAINED = 20
_FORECASTERS_KEPT = 2
_forecasters: dict[Path, "StayForecaster"] = {}


@dataclass(frozen=True)
class OpenStays:
    """The open stays of `source` as known at `as_of`, and the model that forecasts them.

    ingested_by: what the tables held then; a run uses its own start, so that it can be reproduced at any time. part: a
    shard of them or some by their ids, by default all.
    """

    source: str
    as_of: datetime
    artifact: str
    ingested_by: datetime | None = None
    # Workers may log what they compute.
    part: Shard | Sequence[str] | None = field(default=None, repr=False)

    def read(self, store: Engine) -> Known:
        return canonical.read_known(
            store, self.source, self.as_of, only_open=True, ingested_by=self.ingested_by, part=self.part
        )


@dataclass(frozen=True)
class OpenForecasts:
    """forecasts: of the stays, in the order of `intime`. newest: when the newest observation became available."""

    forecasts: "StayForecasts"
    intime: np.ndarray
    newest: datetime | None
    n_observations: int

    @property
    def numbers(self) -> pd.DataFrame:
        return self.forecasts.numbers


def load_forecaster(artifact: str) -> "StayForecaster":
    """Read a model, check its files, and keep it for the shards of this process."""
    from rnn_core.forecasters.stay import load_stay_forecaster

    folder = load_settings().artifact_folder / artifact
    forecaster = load_stay_forecaster(folder)
    _forecasters.pop(folder, None)
    while len(_forecasters) >= _FORECASTERS_KEPT:
        del _forecasters[next(iter(_forecasters))]
    _forecasters[folder] = forecaster
    return forecaster


def kept_forecaster(artifact: str) -> "StayForecaster":
    return _forecasters.get(load_settings().artifact_folder / artifact) or load_forecaster(artifact)


def score_open_stays(store: Engine, stays: OpenStays) -> OpenForecasts:
    """Forecasts of all open stays, whichever process makes them."""
    n_stays = canonical.count_open(store, stays.source, stays.as_of, ingested_by=stays.ingested_by)
    n_shards = how_many(n_stays, FEWEST_STAYS, MOST_STAYS)
    shards = [replace(stays, part=Shard(number, n_shards) if n_shards > 1 else None) for number in range(n_shards)]
    found = _join(map_shards(store, score_shard, shards, "scoring", rows=lambda done: done.n_observations))
    log.info("%d open stays, %s observations", len(found.numbers), f"{found.n_observations:,}")
    return found


def score_shard(store: Engine, stays: OpenStays) -> OpenForecasts:
    from rnn_core.forecasters.stay import forecast_stays

    known = stays.read(store)
    forecasts = forecast_stays(kept_forecaster(stays.artifact), known)
    return OpenForecasts(
        forecasts, known.intime, clock.newest(known.observations.available_at), len(known.observations)
    )


def _join(parts: Sequence[OpenForecasts]) -> OpenForecasts:
    from rnn_core.forecasters.stay import StayForecasts
    from rnn_core.statistics.distribution import Distribution
    from rnn_core.statistics.scored_stays import ScoredStays

    if len(parts) == 1:
        return parts[0]
    numbers = pd.concat([part.numbers for part in parts], ignore_index=True)
    intime = np.concatenate([part.intime for part in parts])
    order = np.lexsort((numbers["stay_id"].to_numpy(str), intime))
    scored = [part.forecasts.scored for part in parts]
    stay_ids = [stay_id for part in scored for stay_id in part.stay_ids]
    in_order = pd.Index(stay_ids).get_indexer(numbers["stay_id"].iloc[order])
    in_order = in_order[in_order >= 0]
    forecast = Distribution.concatenate([part.forecast for part in scored]).take(in_order)
    together = ScoredStays([stay_ids[k] for k in in_order], forecast, scored[0].forecasts_death)
    return OpenForecasts(
        StayForecasts(numbers.iloc[order].reset_index(drop=True), together),
        intime[order],
        max((part.newest for part in parts if part.newest is not None), default=None),
        sum(part.n_observations for part in parts),
    )


def explain_open_stays(store: Engine, stays: OpenStays, numbers: pd.DataFrame) -> pd.DataFrame:
    """Drivers of the highest risks of `numbers`."""
    from rnn_core.forecasters.drivers import highest

    chosen = numbers.iloc[highest(numbers["mortality_risk"].to_numpy(float))]
    n_shards = how_many(len(chosen), FEWEST_EXPLAINED, len(chosen))
    parts = np.array_split(np.arange(len(chosen)), n_shards)
    shards = [
        (replace(stays, part=chosen["stay_id"].iloc[part].tolist()), chosen["mortality_risk"].iloc[part].to_list())
        for part in parts
    ]
    return pd.concat(map_shards(store, explain_shard, shards, "explaining"), ignore_index=True)


def explain_shard(store: Engine, given: tuple[OpenStays, list[float]]) -> pd.DataFrame:
    """given: stays by their ids, and their published risks in that order."""
    from rnn_core.forecasters.drivers import explain_stays

    stays, risk = given
    known = stays.read(store)
    in_order = pd.Series(risk, index=list(stays.part or []), dtype=float).loc[known.stays["stay_id"]]
    return explain_stays(kept_forecaster(stays.artifact), known, in_order.to_numpy())


def how_many(n: int, fewest: int, most: int) -> int:
    """Shards of `n` stays: none has more than `most`, and up to two for each worker have no fewer than `fewest`."""
    needed = -(-n // max(most, 1))
    worth_it = n // fewest
    return max(needed, min(2 * n_workers(), worth_it) if worth_it > 1 else 1, 1)
