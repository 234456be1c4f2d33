"""A network of hospitals of any size: real stays again and again, under new ids and at other times."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from rnn_core.contracts.frames import HOUR
from rnn_core.contracts.known import Cohort, Known, R
from rnn_core.series.material_files import nothing


@dataclass(frozen=True)
class MadeUpStays(Cohort):
    """Stays whose observations are those of a stay of `base`, moved: `origin` and `moved` of a stay say which, by how much."""

    base: Known
    stays: pd.DataFrame
    as_of: np.datetime64

    @classmethod
    def of(cls, base: Known, n: int) -> "MadeUpStays":
        """n stays known at `base.as_of`, a day's worth of which begins every hour: a copy of `base` per week before."""
        copies = [
            _copy(base.stays.iloc[: n - first], number) for number, first in enumerate(range(0, n, len(base.stays)))
        ]
        stays = pd.concat(copies, ignore_index=True).sort_values(["intime", "stay_id"], ignore_index=True)
        return cls(base, stays, base.as_of)

    def then(self, share: float = 0.85) -> "MadeUpStays":
        """As known when this share of the stays had begun."""
        cutoff = np.datetime64(self.stays["intime"].quantile(share).floor("h"), "us")
        stays = self.stays[self.stays["intime"] < cutoff].reset_index(drop=True)
        is_open = stays["outtime"] > cutoff
        hidden = {"outtime": stays["outtime"].mask(is_open), "outcome": stays["outcome"].mask(is_open, None)}
        return replace(self, stays=stays.assign(**hidden), as_of=cutoff)

    def map(
        self,
        function: Callable[..., R],
        parts: Sequence[slice],
        what: str,
        *given: Sequence[Any],
        observed: bool = True,
    ) -> list[R]:
        return [
            function(self._read(self.stays[part], observed), *each) for part, *each in zip(parts, *given, strict=True)
        ]

    def _read(self, stays: pd.DataFrame, observed: bool) -> Known:
        stays, (order, first) = stays.reset_index(drop=True), self._of_stay
        if not observed or not len(stays):
            return Known(stays, nothing(), self.as_of)
        origin, seen = stays["origin"].to_numpy(), self.base.observations
        n = first[origin + 1] - first[origin]
        row = order[np.arange(n.sum()) + np.repeat(first[origin] - np.cumsum(n) + n, n)]
        part = seen.take(row)
        moved = np.repeat(stays["moved"].to_numpy(np.int64), n) * HOUR
        part = replace(
            part,
            stay=np.repeat(np.arange(len(stays), dtype=np.int32), n),
            observed_at=part.observed_at - moved,
            available_at=part.available_at - moved,
        )
        return Known(
            stays, part.take(np.lexsort((part.observed_at, part.available_at))).known_at(self.as_of), self.as_of
        )

    @cached_property
    def _of_stay(self) -> tuple[np.ndarray, np.ndarray]:
        """Observations of `base` by stay, and where each stay's begin."""
        stay = self.base.observations.stay
        n = np.bincount(stay, minlength=len(self.base.stays))
        return np.argsort(stay, kind="stable"), np.concatenate([[0], np.cumsum(n)])


def _copy(stays: pd.DataFrame, number: int) -> pd.DataFrame:
    """The copy of a week that lies `number` weeks back."""
    moved = {name: stays[name] - pd.Timedelta(weeks=number) for name in stays if stays[name].dtype.kind == "M"}
    ids = {name: stays[name].astype(str) + f"-{number}" for name in ("stay_id", "patient_id")}
    return stays.assign(**moved, **ids, origin=np.arange(len(stays)), moved=7 * 24 * number)
