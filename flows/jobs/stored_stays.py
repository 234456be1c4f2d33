"""Stays in our database whose observations are read in shards, by whoever computes something of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import Engine

from flows.runtime import clock
from flows.runtime.compute import map_shards
from rnn_core.contracts.known import Cohort, Known, R, stack
from rnn_core.series.material_files import nothing
from sql.published import canonical


@dataclass(frozen=True)
class StoredStays(Cohort):
    """See `Cohort`. Each part is read by the process that computes a function of it, and is not kept."""

    store: Engine
    stays: pd.DataFrame
    as_of: np.datetime64

    def map(
        self,
        function: Callable[..., R],
        parts: Sequence[slice],
        what: str,
        *given: Sequence[Any],
        observed: bool = True,
    ) -> list[R]:
        shards = [
            _Shard(function, self.stays[part].reset_index(drop=True), self.as_of, observed, tuple(each))
            for part, *each in zip(parts, *given, strict=True)
        ]
        return map_shards(self.store, _compute, shards, what)


@dataclass(frozen=True)
class _Shard:
    """Workers may log what they compute: nothing of it is shown."""

    function: Callable[..., Any] = field(repr=False)
    stays: pd.DataFrame = field(repr=False)
    as_of: np.datetime64 = field(repr=False)
    observed: bool
    given: tuple[Any, ...] = field(repr=False)


def read_stored(store: Engine, source: str, as_of: datetime) -> StoredStays:
    """All stays of `source` as known at `as_of`."""
    return StoredStays(store, canonical.read_stays(store, source, as_of), clock.to_numpy(as_of.astimezone(UTC)))


def _compute(store: Engine, shard: _Shard) -> Any:
    is_read = shard.observed and len(shard.stays)
    known = _read(store, shard) if is_read else Known(shard.stays, nothing(), shard.as_of)
    return shard.function(known, *shard.given)


def _read(store: Engine, shard: _Shard) -> Known:
    as_of = pd.Timestamp(shard.as_of, tz="UTC").to_pydatetime()
    of_sources = [stays.reset_index(drop=True) for _, stays in shard.stays.groupby("source", sort=False)]
    read = [
        Known(stays, canonical.read_observations(store, stays["source"][0], stays, as_of), shard.as_of)
        for stays in of_sources
    ]
    return stack(read) if len(read) > 1 else read[0]
