"""Stays and observations as known at one time: what reads return and computations take."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import pandas as pd

from rnn_core.contracts.concepts import NAMES
from rnn_core.contracts.frames import HOUR, Observations

# More stays are not looked at together: what is made of them lies in memory.
PART_STAYS = 1000

R = TypeVar("R")


def parts_of(n_stays: int) -> list[slice]:
    """Runs of stays that are worked on one after another, or side by side; one that is empty if there are none.

    >>> parts_of(2500)[-1]
    slice(2000, 2500, None)
    """
    return [slice(first, min(first + PART_STAYS, n_stays)) for first in range(0, max(n_stays, 1), PART_STAYS)]


class Cohort(Protocol):
    """Stays as they were known at `as_of`, and how their observations are read: part by part.

    stays: all of them, one row each, with the columns of STAY_COLUMNS. sound: bool [stays], False where a stay's times
    contradict each other: it is used neither for training nor evaluation.
    """

    stays: pd.DataFrame
    as_of: np.datetime64

    @property
    def sound(self) -> np.ndarray:
        return self.stays["sound"].to_numpy(bool) if "sound" in self.stays else np.ones(len(self.stays), bool)

    @property
    def borrowed(self) -> np.ndarray:
        """bool [stays], True for stays of other sources (`borrow`): learned from, never calibrated or judged on."""
        return self.stays["borrowed"].to_numpy(bool) if "borrowed" in self.stays else np.zeros(len(self.stays), bool)

    @property
    def intime(self) -> np.ndarray:
        """datetime64[us] [stays]."""
        return self.stays["intime"].to_numpy("datetime64[us]")

    def take(self, chosen: np.ndarray) -> Self:
        """Only the stays marked in `chosen`, bool [stays]."""
        return replace(self, stays=self.stays[chosen].reset_index(drop=True))

    def beside(self, others: Sequence[Self]) -> Self:
        """These stays and, behind them, those of others with the same `as_of`."""
        return replace(self, stays=pd.concat([one.stays for one in (self, *others)], ignore_index=True))

    def map(
        self,
        function: Callable[..., R],
        parts: Sequence[slice],
        what: str,
        *given: Sequence[Any],
        observed: bool = True,
    ) -> list[R]:
        """`function(known, ...)` of what is known of the stays of each of `parts`, in their order, with the next of each of
        `given` as in Python's `map`. It may run in another process. what: it does, for people. observed: False where it
        reads no observations."""


@dataclass(frozen=True)
class Known(Cohort):
    """Stays and their observations, in memory, as they were known at `as_of`; nothing later is in it."""

    stays: pd.DataFrame
    observations: Observations
    as_of: np.datetime64

    @property
    def elapsed_hours(self) -> np.ndarray:
        """Hours from intime to `as_of`, float64 [stays]."""
        return (self.as_of - self.intime) / HOUR

    @cached_property
    def last_heard(self) -> np.ndarray:
        """When the last observation of each stay became available, its intime where none did, datetime64[us] [stays]."""
        last = self.intime.copy()
        seen = self.observations.known_at(self.as_of)
        np.maximum.at(last, seen.stay, seen.available_at.astype("datetime64[us]"))
        return last

    @cached_property
    def n_observations(self) -> np.ndarray:
        """Observations of each stay available at `as_of`, int64 [stays]."""
        return np.bincount(self.observations.known_at(self.as_of).stay, minlength=len(self.stays))

    @property
    def hours_since_last(self) -> np.ndarray:
        """Hours from `last_heard` to `as_of`, inf where no observation was available, float64 [stays]."""
        return np.where(self.n_observations > 0, (self.as_of - self.last_heard) / HOUR, np.inf)

    def of_concepts(self, names: Sequence[str]) -> "Known":
        """The same stays with the observations of these concepts alone; a model knows nothing of others."""
        read = np.isin(NAMES, names)
        return (
            self if read.all() else replace(self, observations=self.observations.take(read[self.observations.concept]))
        )

    def take(self, chosen: np.ndarray) -> "Known":
        """Only the stays marked in `chosen`, bool [stays]."""
        number = np.cumsum(chosen) - 1
        part = self.observations.take(chosen[self.observations.stay])
        part = replace(part, stay=number[part.stay].astype(np.int32))
        return Known(self.stays[chosen].reset_index(drop=True), part, self.as_of)

    def beside(self, others: "Sequence[Known]") -> "Known":
        return stack([self, *others])

    def map(
        self,
        function: Callable[..., R],
        parts: Sequence[slice],
        what: str,
        *given: Sequence[Any],
        observed: bool = True,
    ) -> list[R]:
        return [function(self._part(part), *each) for part, *each in zip(parts, *given, strict=True)]

    def _part(self, part: slice) -> "Known":
        chosen = np.zeros(len(self.stays), bool)
        chosen[part] = True
        return self if chosen.all() else self.take(chosen)


C = TypeVar("C", bound=Cohort)


def borrow(own: C, others: Sequence[C], apart_from: pd.Series) -> C:
    """`own` with the sound stays of other sources behind its own, marked as `borrowed`.

    Patients with an id that is in `apart_from` are left out of the others: they may be the same, and have their own folds.
    """
    borrowed = []
    for other in others:
        part = other.take(other.sound & ~other.stays["patient_id"].isin(apart_from).to_numpy())
        borrowed.append(replace(part, stays=part.stays.assign(borrowed=True)))
    return replace(own, stays=own.stays.assign(borrowed=False)).beside(borrowed)


def stack(parts: Sequence[Known]) -> Known:
    """Stays of several with one `as_of`, one after another."""
    n_stays = np.cumsum([0] + [len(part.stays) for part in parts[:-1]])
    seen = [part.observations for part in parts]
    columns = {
        name: np.concatenate([getattr(observations, name) for observations in seen])
        for name in ("concept", "observed_at", "available_at", "value")
    }
    stay = np.concatenate([o.stay + first for o, first in zip(seen, n_stays, strict=True)]).astype(np.int32)
    order = np.lexsort((columns["observed_at"], columns["available_at"]))
    observations = Observations(stay[order], **{name: values[order] for name, values in columns.items()})
    return Known(pd.concat([part.stays for part in parts], ignore_index=True), observations, parts[0].as_of)
