"""What is planned: patients who are expected to come, stays that are expected to end, and who of those who come was planned."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
import pandas as pd

from rnn_core.contracts.census import CENSUS_HISTORY_DAYS, CENSUS_HORIZONS, Calendar
from rnn_core.contracts.frames import HOUR

# So long after its time a plan counts as due now; then no more.
OVERDUE_HOURS = 6.0
# A begin so long before a plan's time, or later, is taken for that of the plan.
_EARLY_HOURS = 1.0
# How late plans are carried out is one of so many numbers of hours, equally likely; learned from so many that were.
_DELAYS, _LEAST_DELAYS = 8, 20
# Plans of admissions count once they have been known for so long: who of those who come is planned is learned.
MIN_PLAN_DAYS = 28
# Hours ahead within which the share of planned begins is one number.
_LEADS = np.array([0, 6, 12, 24, 48, 72, 120, max(CENSUS_HORIZONS)])
_OF_HOUR = np.repeat(np.arange(len(_LEADS) - 1), np.diff(_LEADS))
# Six parts of a working day, six of a day of the weekend.
_PARTS = 12
# A day counts half in the share for each so many days that it is ago.
_MEMORY_DAYS = 60.0


@dataclass(frozen=True)
class Plans:
    """Versions of plans with the status `planned`, and from when until when each held.

    unit: row number, int64. stay: row number of the stay that ends, -1 where not known. expected, since, until:
    datetime64[us]. probability: float64. comes: whether it brings a patient to `unit`. All [versions].
    late_begins, late_ends: hours by which patients come, and leave, later than planned; equally likely, float64 [delays].
    """

    unit: np.ndarray
    stay: np.ndarray
    expected: np.ndarray
    since: np.ndarray
    until: np.ndarray
    probability: np.ndarray
    comes: np.ndarray
    as_of: np.datetime64
    late_begins: np.ndarray
    late_ends: np.ndarray

    @classmethod
    def of(cls, versions: pd.DataFrame, names: pd.Index, stays: pd.DataFrame, as_of: np.datetime64) -> Self:
        """versions: see `KnownUnits.plans`. names: of units, by row number. stays: see `KnownUnits.stays`.

        A plan holds until its next version, until the stay that it ends has ended, and, if it brings a patient, until a
        patient came: each begin in its unit is taken for that of the earliest plan that holds, is not more than an hour
        ahead, and not more than `OVERDUE_HOURS` ago. How late these begins were is how late patients come; how late patients
        leave is learned from ends of stays within `OVERDUE_HOURS` of a plan that held. Without twenty of either, nobody is late.
        """
        # Most sources have no plans: theirs cost nothing.
        stays = stays if len(versions) else stays.iloc[:0]
        rows = versions.sort_values(["planned_id", "available_at"], kind="stable", ignore_index=True)
        plan = pd.factorize(rows["planned_id"])[0]
        since, expected = (rows[column].to_numpy("datetime64[us]") for column in ("available_at", "expected_at"))
        # At `as_of` the newest version still holds.
        newest = np.append(plan[1:] != plan[:-1], True)[: len(rows)]
        until = np.where(newest, as_of + HOUR, np.append(since[1:], as_of)[: len(rows)])
        is_admission, is_transfer = (rows["kind"].eq(kind).to_numpy(bool) for kind in ("admission", "transfer"))
        stay = pd.Index(stays["stay_id"]).get_indexer(rows["stay_id"])
        stay[is_admission | rows["stay_id"].isna().to_numpy()] = -1
        unit = names.get_indexer(rows["unit"])

        named = stay >= 0
        of_stay = stays.iloc[stay[named]]
        end = of_stay["outtime"].to_numpy("datetime64[us]")
        unknown_end = np.isnat(end) & of_stay["outcome"].notna().to_numpy(bool)
        end = np.where(unknown_end, since[named], np.where(np.isnat(end), until[named], end))
        held = (since[named] < end) & (end <= until[named])
        until[named] = np.minimum(until[named], end)
        elsewhere = np.ones(len(rows), bool)
        elsewhere[named] = names.get_indexer(of_stay["unit"]) != unit[named]
        comes = is_admission | is_transfer & elsewhere

        begins, of_begin = stays["intime"].to_numpy("datetime64[us]"), names.get_indexer(stays["unit"])
        kept = rows["status"].eq("planned").to_numpy(bool) & (unit >= 0)
        late = _end_with_begins(plan, unit, expected, since, until, np.flatnonzero(kept & comes), begins, of_begin)
        has_ended = of_stay["outtime"].notna().to_numpy(bool) & held & kept[named]
        late_ends = ((end - expected[named]) / HOUR)[has_ended]
        late_ends = late_ends[np.abs(late_ends) < OVERDUE_HOURS]
        kept &= since < until
        columns = unit, stay, expected, since, until, rows["probability"].to_numpy(np.float64), comes
        return cls(*(column[kept] for column in columns), as_of, _delays(late), _delays(late_ends))

    @property
    def due(self) -> np.ndarray:
        """Hours from `as_of` to the plan's time, 0 for one that is overdue, float64 [versions]; NaN if it does not hold now or
        is overdue for more than `OVERDUE_HOURS`."""
        hours = (self.expected - self.as_of) / HOUR
        holds = (self.until > self.as_of) & (hours > -OVERDUE_HOURS)
        return np.where(holds, np.maximum(hours, 0.0), np.nan)

    def times(self, rows: np.ndarray, late: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hours until these versions are carried out, one of several, and how likely each is: float64 [rows, delays] both.

        Delays after which it would have happened already are out of the question; if all are, it is due now.
        """
        hours = ((self.expected[rows] - self.as_of) / HOUR)[:, None] + late
        ahead = hours > 0
        ahead |= ~ahead.any(axis=1, keepdims=True)
        return np.maximum(hours, 0.0), ahead / ahead.sum(axis=1, keepdims=True)

    def coming(self) -> np.ndarray:
        """Which versions bring a patient within the longest horizon, row numbers."""
        brings = self.comes & (self.due < max(CENSUS_HORIZONS))
        return np.flatnonzero(brings if self._is_learned else np.zeros_like(brings))

    @property
    def _is_learned(self) -> bool:
        first = self.since[self.comes]
        return len(first) > 0 and self.as_of - first.min() >= np.timedelta64(MIN_PLAN_DAYS, "D")

    def leaving(
        self, stays: np.ndarray, dies: np.ndarray, rows: np.ndarray, horizons: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The probabilities of staying and of having died, [stays, horizons], of the stays `rows`, with their plans.

        With its probability a plan ends the stay at its time, as early or late as plans are, and not before; otherwise the
        stay goes on as without it. Of several plans of a stay the earlier comes first.
        """
        stays, dies = stays.copy(), dies.copy()
        due, place = self.due, pd.Index(rows).get_indexer(self.stay)
        ends = np.flatnonzero((self.stay >= 0) & (place >= 0) & ~np.isnan(due))
        for version in ends[np.argsort(-due[ends], kind="stable")]:
            at, p = place[version], self.probability[version]
            when, chance = (of_version[0] for of_version in self.times(np.array([version]), self.late_ends))
            stays[at] = p * ((horizons[:, None] < when) @ chance) + (1 - p) * stays[at]
            dies[at] *= 1 - p
        return stays, dies

    def share(self, unit: np.ndarray, begins: np.ndarray, n_units: int, calendar: Calendar) -> np.ndarray:
        """Of those who come in each of the hours ahead, the part that is planned by now, float64 [units, hours].

        For each lead, part of the day and unit: what the plans that held so long before let expect, over the begins that
        came, since plans are known. So begins that the rest of the rate and the plans let expect are on average those that
        came, whatever the plans' probabilities are worth. Parts of the day differ alike in all units.

        unit: row number of each stay's unit, begins: datetime64[us], [stays].
        """
        shares = np.zeros((n_units, len(_OF_HOUR)))
        if not self._is_learned:
            return shares
        first = self.since[self.comes].min() + np.timedelta64(int(_LEADS[-1]), "h")
        first = max(first, self.as_of - np.timedelta64(CENSUS_HISTORY_DAYS, "D"))
        came = (begins >= first) & (begins < self.as_of)
        past = self.comes & (self.expected >= first) & (self.expected < self.as_of)
        of_begins = unit[came] * _PARTS + _part_of_day(begins[came], calendar)
        n_came = np.bincount(of_begins, self._weight(begins[came]), n_units * _PARTS).reshape(n_units, _PARTS)

        expected, weight = self.expected[past], self.probability[past] * self._weight(self.expected[past])
        longest = (expected - self.since[past]) / HOUR
        shortest = np.maximum((expected - np.minimum(self.until[past], self.as_of)) / HOUR, -OVERDUE_HOURS)
        cell = self.unit[past] * _PARTS + _part_of_day(expected, calendar)
        planned = np.zeros((len(_LEADS) - 1, n_units, _PARTS))
        for lead, (lower, upper) in enumerate(pairwise(_LEADS)):
            # One that is overdue counts among the next few hours.
            held = np.minimum(longest, upper) - np.maximum(shortest, lower if lead else -OVERDUE_HOURS)
            held = np.maximum(held, 0.0) / (upper - lower)
            planned[lead] = np.bincount(cell, weight * held, n_units * _PARTS).reshape(n_units, _PARTS)

        by_part = np.clip(planned.sum(axis=1) / np.maximum(n_came.sum(axis=0), 1e-9), 0.0, 1.0)
        expected_planned = by_part @ n_came.T
        of_unit = planned.sum(axis=2) / np.where(expected_planned > 0, expected_planned, np.inf)
        ahead = self.as_of + np.arange(len(_OF_HOUR)) * HOUR
        shares = of_unit.T[:, _OF_HOUR] * by_part[_OF_HOUR, _part_of_day(ahead, calendar)]
        return np.clip(shares, 0.0, 1.0)

    def _weight(self, times: np.ndarray) -> np.ndarray:
        return 0.5 ** ((self.as_of - times) / HOUR / 24 / _MEMORY_DAYS)


def _end_with_begins(
    plan: np.ndarray,
    unit: np.ndarray,
    expected: np.ndarray,
    since: np.ndarray,
    until: np.ndarray,
    rows: np.ndarray,
    begins: np.ndarray,
    of_begin: np.ndarray,
) -> np.ndarray:
    """Let each plan end when its patient came, in `until`; by what was known at each begin, so that the past stays as it was.

    rows: the versions that bring a patient. Returns how many hours each of these begins was later than planned.
    """
    delays = []
    early, late = (np.timedelta64(round(hours * 60), "m") for hours in (_EARLY_HOURS, OVERDUE_HOURS))
    for number in np.unique(unit[rows]):
        mine = rows[unit[rows] == number]
        mine = mine[np.argsort(expected[mine], kind="stable")]
        times, came = expected[mine], np.sort(begins[of_begin == number])
        first = np.searchsorted(times, came - late, side="left")
        last = np.searchsorted(times, came + early, side="right")
        for begin, lower, upper in zip(came[last > first], first[last > first], last[last > first], strict=True):
            near = mine[lower:upper]
            holds = near[(since[near] <= begin) & (until[near] > begin)]
            if len(holds):
                same = plan == plan[holds[0]]
                until[same] = np.minimum(until[same], begin)
                delays.append((begin - expected[holds[0]]) / HOUR)
    return np.array(delays)


def _delays(hours: np.ndarray) -> np.ndarray:
    """A few equally likely hours in place of all that were seen; none late where there are too few to tell."""
    if len(hours) < _LEAST_DELAYS:
        return np.zeros(1)
    return np.quantile(hours, (np.arange(_DELAYS) + 0.5) / _DELAYS)


def _part_of_day(times: np.ndarray, calendar: Calendar) -> np.ndarray:
    """Number of the part of a working day or of a day of the weekend, 0 to 11, int64 [times]."""
    local = calendar.local(times)
    return (calendar.weekday(local) >= 5) * (_PARTS // 2) + local.hour.to_numpy(np.int64) // (48 // _PARTS)
