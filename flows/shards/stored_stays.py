"""Stays in our database whose observations are read in shards, by whoever computes something of them."""

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self

import numpy as np
import pandas as pd
from sqlalchemy import Engine

from flows.runtime import clock
from flows.runtime.compute import map_shards
from rnn_core.contracts.errors import DataTooSmallError
from rnn_core.contracts.known import Cohort, Known, R, stack
from rnn_core.series.material_files import nothing
from sql.published import canonical


@dataclass(frozen=True)
class StoredStays(Cohort):
    """See `Cohort`. Each part is read by the process that computes a function of it, and is not kept.

    ingested_by: by source, when the newest batch came that the stays were read from, None if there was none. Observations are
    read from no later one, so that all parts are of one state.
    """

    store: Engine
    stays: pd.DataFrame
    as_of: np.datetime64
    ingested_by: Mapping[str, datetime | None]

    def beside(self, others: Sequence[Self]) -> Self:
        ingested_by = ChainMap(*(dict(one.ingested_by) for one in (self, *others)))
        return replace(super().beside(others), ingested_by=dict(ingested_by))

    def map(
        self,
        function: Callable[..., R],
        parts: Sequence[slice],
        what: str,
        *given: Sequence[Any],
        observed: bool = True,
    ) -> list[R]:
        shards = [
            _Shard(
                function, self.stays[part].reset_index(drop=True), self.as_of, self.ingested_by, observed, tuple(each)
            )
            for part, *each in zip(parts, *given, strict=True)
        ]
        return map_shards(self.store, _compute, shards, what)


@dataclass(frozen=True)
class _Shard:
    """Workers may log what they compute: nothing of it is shown."""

    function: Callable[..., Any] = field(repr=False)
    stays: pd.DataFrame = field(repr=False)
    as_of: np.datetime64 = field(repr=False)
    ingested_by: Mapping[str, datetime | None] = field(repr=False)
    observed: bool
    given: tuple[Any, ...] = field(repr=False)


def read_stored(store: Engine, source: str, as_of: datetime) -> StoredStays:
    """All stays of `source` as known at `as_of`, of what is ingested now."""
    ingested_by = canonical.newest_batch(store, source)
    stays = canonical.read_stays(store, source, as_of, ingested_by=ingested_by)
    return StoredStays(store, stays, clock.to_numpy(as_of.astimezone(UTC)), {source: ingested_by})


def read_some(store: Engine, source: str, as_of: datetime) -> StoredStays:
    """The same; raises DataTooSmallError without any."""
    stored = read_stored(store, source, as_of)
    if len(stored.stays) == 0:
        raise DataTooSmallError(
            f"There is no stay of {source} as of {as_of.isoformat()}; run `icu-forecast ingest {source}`."
        )
    return stored


def _compute(store: Engine, shard: _Shard) -> Any:
    is_read = shard.observed and len(shard.stays)
    known = _read(store, shard) if is_read else Known(shard.stays, nothing(), shard.as_of)
    return shard.function(known, *shard.given)


def _read(store: Engine, shard: _Shard) -> Known:
    as_of = pd.Timestamp(shard.as_of, tz="UTC").to_pydatetime()
    read = []
    for source, stays in shard.stays.groupby("source", sort=False):
        stays, ingested_by = stays.reset_index(drop=True), shard.ingested_by[source]
        observations = canonical.read_observations(store, source, stays, as_of, ingested_by=ingested_by)
        read.append(Known(stays, observations, shard.as_of))
    return stack(read) if len(read) > 1 else read[0]
