"""A made-up hospital in which real stays arrive by a stated random process: the process, and what happened in it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import pandas as pd

from rnn_core.contracts.errors import ContractError, DataTooSmallError

# A Monday, so that a day's number gives its weekday.
START = np.datetime64("2025-01-06T00", "h")
# Emergencies come most in the late afternoon and least at dawn; both patterns have the mean 1.
_BY_HOUR = tuple((1 + 0.45 * np.cos(2 * np.pi * (np.arange(24) - 17) / 24)).round(4).tolist())
_BY_WEEKDAY = (1.08, 1.04, 1.0, 1.0, 1.04, 0.92, 0.92)
_ELECTIVE_HOURS = (8, 9, 10, 11)
# Half as many stays would leave hours of the clock with a handful to draw from.
_MIN_STAYS = 50


@dataclass(frozen=True)
class Lengths:
    """How long real stays last, by the hour of the clock at which they began.

    hours: int64 [stays], full hours of the clock at which the stay is in, 0 if it ends in the hour in which it began.
    clock: int64 [stays], hour of the clock in which it began; hour h is (h, h + 1].
    tolerance: hours by which the clock of a drawn stay may differ.
    """

    hours: np.ndarray
    clock: np.ndarray
    tolerance: int = 2

    @classmethod
    def of(cls, intime: np.ndarray, outtime: np.ndarray, tolerance: int = 2) -> Self:
        """Of stays that have ended, datetime64[us] [stays] each."""
        begin, end = first_hour(intime), first_hour(outtime)
        return cls((end - begin).astype(np.int64), begin.astype("datetime64[h]").astype(np.int64) % 24, tolerance)

    @cached_property
    def near(self) -> tuple[np.ndarray, ...]:
        """Of each hour of the clock, the stays that may be drawn for it; all where fewer than ten began near it."""
        apart = np.abs(self.clock[None, :] - np.arange(24)[:, None])
        near = np.minimum(apart, 24 - apart) <= self.tolerance
        return tuple(np.flatnonzero(row) if row.sum() >= 10 else np.arange(len(self.hours)) for row in near)

    @cached_property
    def _drawn_from(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sizes = np.array([len(part) for part in self.near])
        return np.concatenate(self.near), np.cumsum(sizes) - sizes, sizes

    def draw(self, clock: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """A stay for each arrival in an hour of the clock, int64 [n]."""
        stays, first, sizes = self._drawn_from
        return stays[first[clock] + (random.random(len(clock)) * sizes[clock]).astype(np.int64)]

    def draw_remaining(self, clock: int, elapsed: int, n: int, random: np.random.Generator) -> np.ndarray:
        """Of a patient who came in that hour of the clock and was in at `elapsed` full hours since: at how many more,
        int64 [n]."""
        hours = self.hours[self.near[clock]]
        return random.choice(hours[hours > elapsed], n) - elapsed - 1


def first_hour(times: np.ndarray) -> np.ndarray:
    """The hour (h, h + 1] in which each time is, as its beginning, datetime64[h]."""
    return (times.astype("datetime64[us]") - np.timedelta64(1, "us")).astype("datetime64[h]")


@dataclass(frozen=True)
class Process:
    """How patients arrive; all that an omniscient forecaster may know.

    beds: of each unit. days: the length of the calendar.
    emergencies_per_day: of each unit in the first half, on average; they are Poisson by the hour, with a rate that is
        multiplied by `by_hour`, `by_weekday` (from Monday), from the middle on by `level_change`, and on each day and in
        each unit by a gamma factor of mean 1 and shape `burst_shape`.
    elective_slots, elective_share: in each of `elective_hours` of Monday to Friday a unit has so many slots, of which
        each is used with that probability.
    clock_tolerance: see `Lengths`.

    In each hour patients leave, then emergencies come, then elective patients. Who finds no bed is turned away.
    """

    beds: tuple[int, ...]
    days: int
    emergencies_per_day: tuple[float, ...]
    elective_slots: tuple[int, ...]
    elective_share: tuple[float, ...]
    level_change: float = 1.25
    burst_shape: float = 4.0
    by_hour: tuple[float, ...] = _BY_HOUR
    by_weekday: tuple[float, ...] = _BY_WEEKDAY
    elective_hours: tuple[int, ...] = _ELECTIVE_HOURS
    clock_tolerance: int = 2
    seed: int = 0

    @property
    def units(self) -> tuple[str, ...]:
        return tuple(f"Unit {number}" for number in range(1, len(self.beds) + 1))

    @property
    def change_hour(self) -> int:
        """The hour from which the level is the new one."""
        return self.days // 2 * 24

    @cached_property
    def _by_hour_of_week(self) -> tuple[np.ndarray, np.ndarray]:
        """Factor of the emergencies, and whether there are elective slots, [168] each."""
        factor = np.outer(self.by_weekday, self.by_hour)
        elective = np.isin(np.arange(24), self.elective_hours) & (np.arange(7)[:, None] < 5)
        return factor.ravel(), elective.ravel()

    def emergency_rate(self, unit: int, hour: np.ndarray) -> np.ndarray:
        """Expected emergencies of each hour, were the day's factor 1, float64, of the shape of `hour`."""
        level = np.where(hour >= self.change_hour, self.level_change, 1.0)
        return self.emergencies_per_day[unit] / 24 * self._by_hour_of_week[0][hour % 168] * level

    def elective_chance(self, unit: int, hour: np.ndarray) -> np.ndarray:
        """Probability that one of the unit's elective slots of each hour is used, float64, of the shape of `hour`."""
        return self.elective_share[unit] * self._by_hour_of_week[1][hour % 168]

    def draw_bursts(self, n: int, random: np.random.Generator) -> np.ndarray:
        return random.gamma(self.burst_shape, 1 / self.burst_shape, n)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(text).items()})


def make_process(
    beds: Sequence[int], days: int, lengths: Lengths, seed: int = 0, load: float = 0.75, elective: float = 0.3
) -> Process:
    """The process in which units with so many beds would have `load` patients per bed in the first half, if none were
    turned away, `elective` of them elective.

    Raises ContractError for beds or days that make no hospital, DataTooSmallError for too few stays.
    """
    if not beds or min(beds) < 1 or max(beds) > 1000 or days < 2:
        raise ContractError(
            "A made-up hospital has units of 1 to 1000 beds and at least 2 days; correct beds and days."
        )
    if len(lengths.hours) < _MIN_STAYS:
        raise DataTooSmallError(
            f"There are {len(lengths.hours)} whole stays to draw from; a made-up hospital needs {_MIN_STAYS}."
        )
    of_clock = np.array([lengths.hours[stays].mean() for stays in lengths.near])
    of_emergencies, of_electives = np.mean(of_clock * _BY_HOUR), of_clock[list(_ELECTIVE_HOURS)].mean()
    per_day = load * np.array(beds) * 24 / ((1 - elective) * of_emergencies + elective * of_electives)
    per_hour = elective * per_day * 7 / (5 * len(_ELECTIVE_HOURS))
    slots = np.ceil(per_hour / 0.8)
    return Process(
        beds=tuple(map(int, beds)),
        days=int(days),
        emergencies_per_day=tuple(((1 - elective) * per_day).tolist()),
        elective_slots=tuple(map(int, slots)),
        elective_share=tuple((per_hour / slots).tolist()),
        clock_tolerance=lengths.tolerance,
        seed=seed,
    )


class Step(NamedTuple):
    """An hour of many possible courses: who came in it, as path and stay, how many were turned away, who is in after it."""

    path: np.ndarray
    stay: np.ndarray
    is_elective: np.ndarray
    turned_away: np.ndarray
    present: np.ndarray


def run(
    process: Process,
    unit: int,
    lengths: Lengths,
    first: np.ndarray,
    leaving: np.ndarray,
    burst: np.ndarray,
    random: np.random.Generator,
) -> Iterator[Step]:
    """Let a unit go on, hour by hour, on many independent paths.

    first: int64 [paths], the first hour of each. leaving: int64 [paths, hours + 1], how many of those who are in leave in
    each hour, in the last column after it; it is written to. burst: float64 [paths], factor of the day that has begun.
    """
    present, hours = leaving.sum(axis=1), leaving.shape[1] - 1
    all_hours = first[:, None] + np.arange(hours)
    rate, chance = process.emergency_rate(unit, all_hours).T, process.elective_chance(unit, all_hours).T
    paths = np.arange(len(first))
    for k in range(hours):
        hour = all_hours[:, k]
        if (is_new_day := hour % 24 == 0).any():
            burst = np.where(is_new_day, process.draw_bursts(len(first), random), burst)
        present = present - leaving[:, k]
        free = process.beds[unit] - present
        emergencies = random.poisson(rate[k] * burst)
        electives = np.zeros(len(paths), np.int64)
        if (has_slots := chance[k] > 0).any():
            electives[has_slots] = random.binomial(process.elective_slots[unit], chance[k, has_slots])
        in_first = np.minimum(emergencies, free)
        in_last = np.minimum(electives, free - in_first)
        path = np.repeat(np.concatenate([paths, paths]), np.concatenate([in_first, in_last]))
        stay = lengths.draw(hour[path] % 24, random)
        last = np.minimum(k + lengths.hours[stay], hours)
        # A stay that ends in the hour in which it begins is never in at a full hour.
        stays_on = last > k
        np.add.at(leaving, (path[stays_on], last[stays_on]), 1)
        present = present + np.bincount(path[stays_on], minlength=len(paths))
        yield Step(
            path, stay, np.arange(len(path)) >= in_first.sum(), emergencies + electives - in_first - in_last, present
        )


@dataclass(frozen=True)
class World:
    """What happened in the made-up hospital.

    arrivals: one row per stay: unit (its number), hour in which it begins, stay (position among the real ones),
        is_elective; in the order of their hours.
    census: int64 [units, days * 24 + 1], patients who are in at each full hour.
    turned_away: int64 [units].
    """

    process: Process
    arrivals: pd.DataFrame
    census: np.ndarray
    turned_away: np.ndarray

    @property
    def calendar(self) -> tuple[pd.Timestamp, pd.Timestamp]:
        """First and last full hour."""
        return pd.Timestamp(START), pd.Timestamp(START) + pd.Timedelta(days=self.process.days)

    @cached_property
    def admitted(self) -> np.ndarray:
        """Emergencies and elective patients who were admitted in each hour, int64 [units, 2, hours]."""
        counts = np.zeros((len(self.process.beds), 2, self.process.days * 24), np.int64)
        rows = (self.arrivals[name].to_numpy(np.int64) for name in ("unit", "is_elective", "hour"))
        np.add.at(counts, tuple(rows), 1)
        return counts

    def shifts(self, begin: np.ndarray) -> np.ndarray:
        """By how much the times of the real stay of each arrival are moved, timedelta64[h]; begin: `first_hour` of each
        real stay."""
        hour = START + self.arrivals["hour"].to_numpy().astype("timedelta64[h]")
        return hour - begin[self.arrivals["stay"].to_numpy()]


def make_world(process: Process, lengths: Lengths) -> World:
    """The course of the hospital from its empty beginning, given by the seed of the process."""
    parts, census, turned_away = [], [], []
    for unit in range(len(process.beds)):
        random = np.random.default_rng([process.seed, unit])
        leaving = np.zeros((1, process.days * 24 + 1), np.int64)
        steps = run(process, unit, lengths, np.zeros(1, np.int64), leaving, np.ones(1), random)
        present, away = [0], 0
        for hour, step in enumerate(steps):
            parts.extend((unit, hour, *row) for row in zip(step.stay, step.is_elective, strict=True))
            present.append(int(step.present[0]))
            away += int(step.turned_away[0])
        census.append(present)
        turned_away.append(away)
    arrivals = pd.DataFrame(parts, columns=["unit", "hour", "stay", "is_elective"])
    arrivals = arrivals.sort_values(["hour", "unit"], kind="stable", ignore_index=True)
    return World(process, arrivals, np.array(census), np.array(turned_away))
