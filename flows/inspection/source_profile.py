"""What a source holds, in one pass and bounded memory: values, delays and coverage per concept, variable and unit."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from sqlalchemy import Engine

from rnn_core.contracts.concepts import BY_NAME, NAMES
from rnn_core.contracts.errors import SourceError
from sql.engines.cells import FIRST_TIME
from sql.intake.adapter import Adapter
from sql.intake.reading import BEGINNING, read_observations, read_stays

# Values kept per variable and unit for its quantiles; their error is below half a percentage point.
SAMPLE = 20_000
_SEED = 0
_MOST_UNITS = 2_000
OTHERS = ("(other variables)", "(other units)")


@dataclass
class Sample:
    """A uniform sample of a stream, float64, at most `SAMPLE` of it: those with the smallest of random priorities."""

    values: np.ndarray = field(default_factory=lambda: np.empty(0))
    priorities: np.ndarray = field(default_factory=lambda: np.empty(0))

    def add(self, values: np.ndarray, rng: np.random.Generator) -> None:
        values = np.concatenate([self.values, values])
        priorities = np.concatenate([self.priorities, rng.random(len(values) - len(self.values))])
        if len(values) > SAMPLE:
            kept = np.argpartition(priorities, SAMPLE)[:SAMPLE]
            values, priorities = values[kept], priorities[kept]
        self.values, self.priorities = values, priorities

    def quantiles(self, *shares: float) -> list[float | None]:
        return np.quantile(self.values, shares).tolist() if len(self.values) else [None] * len(shares)


@dataclass
class Seen:
    """Rows of one variable in one unit, or of one concept; values in the concept's unit, delays in hours.

    stays: bool [stays], those that have any.
    """

    rows: int = 0
    numbers: int = 0
    plausible: int = 0
    stays: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    values: Sample = field(default_factory=Sample)
    delays: Sample = field(default_factory=Sample)


@dataclass(frozen=True)
class Profile:
    """What one pass over a source found.

    stays: the stay versions. parts: by (variable, unit) of the rows that the map takes. concepts: the same by concept.
    unused: rows by variable that the map omits on purpose; unknown: rows by (variable, unit) without a line in the map.
    unused_units: by variable, those of `unused` in units that the map omits, and the concept that it takes in another unit.
    midnights: by variable, rows observed at 00:00:00 of the source's clock.
    untimed: by relation, rows without a usable time, which an ingest quarantines; these observations are in nothing else.
    """

    adapter: Adapter
    stays: pa.Table
    parts: dict[tuple[str, str], Seen] = field(default_factory=dict)
    concepts: dict[str, Seen] = field(default_factory=dict)
    unused: Counter = field(default_factory=Counter)
    unused_units: dict[str, tuple[str, Seen]] = field(default_factory=dict)
    unknown: Counter = field(default_factory=Counter)
    midnights: Counter = field(default_factory=Counter)
    untimed: Counter = field(default_factory=Counter)

    @cached_property
    def n_stays(self) -> int:
        return len(self.stays["stay_id"].unique())

    @cached_property
    def taken_as(self) -> dict[str, str]:
        """The concept of each variable that has one in some unit."""
        return {line.variable: line.concept for line in self.adapter.concept_map if line.concept}


def profile(adapter: Adapter, engine: Engine, as_of: datetime) -> Profile:
    """Read everything the source holds up to `as_of`; nothing is stored. Raises SourceError if it cannot be read, or has no
    stay by then.

    Memory holds the stays and a sample for each of at most `_MOST_UNITS` variables and units: it does not grow with the
    observations.
    """
    found = Profile(adapter, read_all_stays(adapter, engine, as_of))
    stays = found.stays
    found.untimed["stays"] = int((~timed(stays.select(["intime", "available_at"]).to_pandas())).sum())
    places = {stay_id: n for n, stay_id in enumerate(stays["stay_id"].unique().to_pylist())}
    rng = np.random.default_rng(_SEED)
    for frame in _frames(read_observations(adapter, engine, BEGINNING, as_of)):
        is_timed = timed(frame[["observed_at", "available_at"]])
        found.untimed["observations"] += int((~is_timed).sum())
        for (variable, unit), rows in frame[is_timed].groupby(["variable", "unit"], sort=False, dropna=False):
            _take(found, variable, unit, rows, places, rng)
    return found


def _frames(batches: Iterable[pa.RecordBatch]) -> Iterable[pd.DataFrame]:
    for batch in batches:
        frame = batch.select(["stay_id", "variable", "unit", "observed_at", "available_at"]).to_pandas()
        frame["unit"] = frame["unit"].fillna("")
        frame["value"] = pd.to_numeric(batch["value"].cast(pa.string()).to_pandas(), errors="coerce").to_numpy(float)
        yield frame


def timed(times: pd.DataFrame) -> pd.Series:
    """Which rows have a usable time in every column."""
    return times.apply(lambda column: utc(column) >= FIRST_TIME).all(axis=1)


def read_all_stays(adapter: Adapter, engine: Engine, as_of: datetime) -> pa.Table:
    """All stay versions up to `as_of`. Raises SourceError if there is none."""
    batches = [batch for batch in read_stays(adapter, engine, BEGINNING, as_of) if batch.num_rows]
    if not batches:
        raise SourceError(
            f"The source {adapter.name} has no stay up to {as_of:%Y-%m-%d %H:%M} UTC. Are its dates in the future, its "
            "stays left out by a condition of stays.sql, or its tables empty?"
        )
    return pa.Table.from_batches(batches)


def _take(
    found: Profile, variable: str, unit: str, rows: pd.DataFrame, places: dict[str, int], rng: np.random.Generator
) -> None:
    line = found.adapter.line_of(variable, unit)
    if line is None:
        found.unknown[_bounded(found.unknown, (variable, unit), OTHERS)] += len(rows)
        return
    if line.concept is None:
        found.unused[_bounded(found.unused, variable, OTHERS[0])] += len(rows)
        if concept := found.taken_as.get(variable):
            _, seen = found.unused_units.setdefault(variable, (concept, Seen(stays=np.zeros(len(places), bool))))
            seen.rows += len(rows)
            seen.stays[_places_of(rows, places)] = True
        return
    observed_at = utc(rows["observed_at"])
    local = observed_at.dt.tz_convert(found.adapter.timezone)
    found.midnights[line.variable] += int((local == local.dt.normalize()).sum())
    concept = BY_NAME[line.concept]
    values = rows["value"].dropna().to_numpy() * line.scale + line.offset
    plausible = int(((values >= concept.low) & (values <= concept.high)).sum())
    delays = (utc(rows["available_at"]) - observed_at).dropna().dt.total_seconds().to_numpy(np.float64) / 3600
    own = _places_of(rows, places)
    key = _bounded(found.parts, (variable, unit), (variable, OTHERS[1]))
    for seen in (
        found.parts.setdefault(key, Seen(stays=np.zeros(len(places), bool))),
        found.concepts.setdefault(line.concept, Seen(stays=np.zeros(len(places), bool))),
    ):
        seen.rows += len(rows)
        seen.numbers += len(values)
        seen.plausible += plausible
        seen.stays[own] = True
        seen.values.add(values, rng)
        seen.delays.add(delays, rng)


def _places_of(rows: pd.DataFrame, places: dict[str, int]) -> list[int]:
    return [places[stay] for stay in rows["stay_id"].dropna().unique() if stay in places]


def _bounded(known: Mapping, key: Any, others: Any) -> Any:
    """The key, or that of all others once there are too many: free text must not fill the memory."""
    return key if key in known or len(known) < _MOST_UNITS else others


def utc(column: pd.Series) -> pd.Series:
    """UTC times; unreadable ones are missing."""
    return pd.to_datetime(column, utc=True, errors="coerce")


def coverage(found: Profile) -> list[dict[str, Any]]:
    """A row per concept: those with rows, then those that the source does not have; both in feature order."""
    mapped = {line.concept for line in found.adapter.concept_map}
    rows = []
    for name in NAMES:
        row = {
            "concept": name,
            "unit": BY_NAME[name].unit,
            **_described(found.concepts.get(name, Seen()), found.n_stays),
        }
        row["lacks"] = "" if row["rows"] else "no row" if name in mapped else "not in the map"
        rows.append(row)
    return sorted(rows, key=lambda row: not row["rows"])


def by_unit(found: Profile) -> list[dict[str, Any]]:
    """A row per variable and unit that the map takes, by concept; values after mapping."""
    rows = []
    for (variable, unit), seen in found.parts.items():
        row = {
            "concept": found.adapter.line_of(variable, unit).concept,
            "variable": variable,
            "charted in": unit or "(none)",
        }
        rows.append(row | _described(seen, found.n_stays))
    return sorted(rows, key=lambda row: (NAMES.index(row["concept"]), -row["rows"]))


def _described(seen: Seen, n_stays: int) -> dict[str, Any]:
    row: dict[str, Any] = {"rows": seen.rows, "stays %": round(100 * float(seen.stays.sum()) / max(n_stays, 1), 1)}
    row |= dict(zip(("p1", "p50", "p99"), seen.values.quantiles(0.01, 0.5, 0.99), strict=True))
    row["numbers %"] = round(100 * seen.numbers / seen.rows, 1) if seen.rows else None
    row["plausible %"] = round(100 * seen.plausible / seen.numbers, 1) if seen.numbers else (0.0 if seen.rows else None)
    delays = [None if value is None else round(value, 2) for value in seen.delays.quantiles(0.5, 0.95)]
    return row | dict(zip(("delay h", "delay h p95"), delays, strict=True))
