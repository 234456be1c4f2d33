"""Checks a source before anyone relies on it: missing concepts, suspicious units, contradicting labels."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from sqlalchemy import Engine

from flows.inspection.lookalikes import LOOKS_LIKE, missed
from flows.inspection.source_profile import Profile, by_unit, coverage, profile, read_all_stays, timed
from flows.pages.page import Plot, Section, Table, render_page, write_text
from flows.runtime.databases import open_source, store_url
from flows.runtime.settings import load_settings
from flows.runtime.terminal import print_json, print_rows
from rnn_core.series.finished_stays import FinishedStays
from sql.intake.adapter import Adapter
from sql.intake.catalogue import check_source, sequential_scans, times_with_a_zone
from sql.intake.label_audit import audit_stays, newest_stays
from sql.intake.not_taken import read_not_taken
from sql.intake.reading import BEGINNING, read
from sql.intake.relations import BEDS, relations_of
from sql.store.engine import open_engine

# Less than this share of readable values inside the plausible range suggests another unit.
PLAUSIBLE_SHARE = 90.0
FEW = 20
NOT_IN_MAP = "are not in concept_map.csv"
# One hour in 24 begins at midnight.
MIDNIGHT_SHARE = 0.5
# A table of this size must not be scanned every hour.
LARGE_TABLE = 100_000
NAMES_SHOWN = 25


@dataclass(frozen=True)
class SourceReport:
    """The findings, as rows to print; `faults` are the sentences that need a decision."""

    adapter: Adapter
    coverage: list[dict[str, Any]]
    by_unit: list[dict[str, Any]]
    unmapped: list[dict[str, Any]]
    not_read: list[dict[str, Any]]
    audit: list[dict[str, Any]]
    faults: list[str]

    def print(self, as_json: bool, whole: bool) -> None:
        """whole: with a row per variable and unit."""
        if as_json:
            print_json(
                {
                    "source": self.adapter.name,
                    "coverage": self.coverage,
                    "by unit": self.by_unit,
                    "unmapped": self.unmapped,
                    "not read": self.not_read,
                    "audit": self.audit,
                    "faults": self.faults,
                }
            )
            return
        print(f"{self.adapter.title}\nAvailability: {self.adapter.availability}\n")
        print_rows(self.coverage, title="Concepts")
        if whole:
            print_rows(self.by_unit, title="\nVariables by unit, values after mapping")
        print_rows(self.unmapped, title="\nVariables that no concept takes (counted, not copied)")
        named = [row for row in self.not_read if row["kind"] == "row"]
        others = [row for row in self.not_read if row["kind"] != "row"]
        print_rows([*others, *(named if whole else named[:NAMES_SHOWN])], title="\nNot read, the most frequent names")
        print_rows(self.audit, title="\nLabel audit")
        print("\n" + ("\n".join(f"LOOK: {fault}" for fault in self.faults) or "Nothing looks wrong."))

    def write_page(self, as_of: datetime, path: Path | None) -> Path:
        """The same for people, as one self-contained file; returns its path."""
        path = path or load_settings().home / "reports" / f"source-{self.adapter.name}.html"
        lead = f"Everything known at {as_of:%Y-%m-%d %H:%M} UTC. Availability: {self.adapter.availability}"
        write_text(path, render_page(f"Source {self.adapter.name}: {self.adapter.title}", lead, list(self._sections())))
        return path

    def _sections(self) -> Iterator[Section]:
        from rnn_core.reporting.plots import bar_plot

        yield Section("Look at", [*self._faults_of_the_page()] or ["Nothing looks wrong."])
        present = [row for row in self.coverage if row["rows"]]
        lacking = [f"{row['concept']} ({row['lacks']})" for row in self.coverage if row["lacks"]]
        yield Section(
            "Coverage",
            [f"Missing: {', '.join(lacking) or 'nothing'}. A missing concept is read as missing, never as normal."],
            [_table("Concepts", [_without_rare_values(row) for row in self.coverage])],
            [Plot("Stays with any value", bar_plot({row["concept"]: row["stays %"] for row in present}, "% of stays"))],
        )
        yield Section(
            "Units",
            ["Values after mapping, by the unit that was charted."],
            [_table("Variables", [_without_rare_values(row) for row in self.by_unit])],
        )
        late = {row["concept"]: row["delay h p95"] for row in present if row["delay h p95"]}
        yield Section(
            "Delays",
            ["Hours from when a value was true to when it was known, 95th percentile."],
            [],
            [Plot("Delay, 95th percentile", bar_plot(late, "hours"))],
        )
        yield Section("Label audit", [], [_table("Stays whose times contradict each other", self.audit)])
        if self.unmapped:
            yield Section("Not used", [], [_table("Variables that no concept takes", self.unmapped)])

    def _faults_of_the_page(self) -> Iterator[str]:
        """Without the texts of rows that are not taken: a unit or a name may contain free text."""
        unknown = [fault for fault in self.faults if fault.endswith(NOT_IN_MAP)]
        for fault in self.faults:
            if fault not in unknown:
                sentence, looks_like, _ = fault.partition(LOOKS_LIKE)
                yield sentence + looks_like
        if unknown:
            yield f"{len(unknown)} variables and units are not in concept_map.csv; `icu-forecast source check` names them."


def _without_rare_values(row: dict[str, Any]) -> dict[str, Any]:
    """Quantiles of a few rows would be values of a few patients."""
    rare = row["rows"] < FEW
    return {name: None if rare and name in ("p1", "p50", "p99") else row[name] for name in row if name != "lacks"}


def _table(caption: str, rows: list[dict[str, Any]]) -> Table:
    columns = list(rows[0]) if rows else []
    return Table(caption, columns, [[_cell(row[name]) for name in columns] for row in rows])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


def check(source: str, as_of: datetime) -> SourceReport:
    """Read everything the source holds up to `as_of`; nothing is stored. Raises SourceError if it cannot be read."""
    adapter, engine = open_source(source)
    check_source(adapter, engine)
    found = profile(adapter, engine, as_of)
    concepts, units, audit = coverage(found), by_unit(found), _audit(adapter, found.stays)
    not_read = read_not_taken(adapter, engine)
    faults = [
        *_zones(adapter, engine),
        *_untimed(found, not_read or []),
        *_unit_faults(units),
        *_midnight_faults(found),
        *_unknown(found),
        *missed(found, not_read or []),
    ]
    if not_read is None and adapter.not_taken_sql:
        needs = f" on {', '.join(adapter.look_tables)}" if adapter.look_tables else ""
        faults.append(
            f"what is not taken was not looked at: not_taken.sql does not run there; see `source grants`{needs}"
        )
    newest = newest_stays(found.stays)
    faults += FinishedStays.of(newest).doubts().values()
    faults += _full_units(adapter, newest.assign(unit=found.stays["unit"].to_pandas()), as_of)
    faults += _of_optional_selects(adapter, engine, set(found.stays["unit"].to_pylist()), as_of)
    faults += [f"{row['stays']} stays: {row['fault']}" for row in audit if row["stays"]]
    faults += _whole_reads(adapter, engine, as_of)
    unmapped = [{"variable": name, "rows": n} for name, n in sorted(found.unused.items(), key=lambda item: -item[1])]
    not_read = sorted(not_read or [], key=lambda row: (row["kind"], -row["rows"]))
    return SourceReport(adapter, concepts, units, unmapped, not_read, audit, faults)


def _zones(adapter: Adapter, engine: Engine) -> Iterator[str]:
    if adapter.local_times and (zoned := times_with_a_zone(adapter, engine)):
        yield (
            f"source.yaml says that times have no zone (local_times), but {', '.join(zoned)} have one: an hourly run would lose "
            "rows. Convert them to the local clock in the SELECTs, or leave local_times out"
        )


def _untimed(found: Profile, not_read: list[dict[str, Any]]) -> Iterator[str]:
    for relation, n in found.untimed.items():
        if n:
            yield f"{n:,} rows of {relation} have no usable time; an ingest quarantines them as unreadable_time"
    for row in not_read:
        if row["kind"] == "untimed":
            yield f"{row['rows']:,} rows of {row['name']} have no usable time: they belong to no stay and are not read"


def _unit_faults(units: list[dict[str, Any]]) -> Iterator[str]:
    for row in units:
        if row["rows"] >= FEW and (row["plausible %"] or 0) < PLAUSIBLE_SHARE:
            yield (
                f"{row['concept']}: of {row['rows']:,} rows of {row['variable']!r} in {row['charted in']} only"
                f" {row['plausible %'] or 0:g} % are within its range; another unit?"
            )


def _midnight_faults(found: Profile) -> Iterator[str]:
    """A time of 00:00:00 is often a date: such a value would count as known before it was true."""
    rows = Counter()
    for (variable, _), seen in found.parts.items():
        rows[variable] += seen.rows
    for variable, n in sorted(rows.items()):
        if n >= FEW and (share := found.midnights[variable] / n) > MIDNIGHT_SHARE:
            yield f"{share:.0%} of the {n:,} rows of {variable!r} are observed at midnight: dates without a time?"


def _unknown(found: Profile) -> Iterator[str]:
    for (variable, unit), n in sorted(found.unknown.items(), key=str):
        yield f"{n:,} rows of {variable!r} in unit {unit!r} {NOT_IN_MAP}"


def _full_units(adapter: Adapter, stays: pd.DataFrame, as_of: datetime) -> Iterator[str]:
    """Units with more patients at `as_of` than `source.yaml` gives them beds; stays as `newest_stays`, with their unit."""
    is_open = (stays["intime"] <= as_of) & ~(stays["outtime"] <= as_of) & stays["outcome"].isna()
    for unit, n in stays[is_open].groupby("unit").size().items():
        if unit in adapter.units and (beds := adapter.units[unit].beds) is not None and n > beds:
            yield (
                f"{n} patients are in {unit}, which has {beds} beds: does stays.sql return the ends, and is the number in "
                "source.yaml right?"
            )


def _of_optional_selects(adapter: Adapter, engine: Engine, units: set[str], as_of: datetime) -> Iterator[str]:
    """What an ingest would quarantine of beds.sql and arrivals.sql; units: those that stays name."""
    known = units | set(adapter.units)
    for relation in relations_of(adapter):
        if relation.file not in adapter.optional_sql:
            continue
        n_rows, untimed, named = 0, 0, Counter()
        for batch in read(adapter, relation.file, engine, BEGINNING, as_of):
            if missing := [name for name in relation.columns if name not in batch.schema.names]:
                yield f"{relation.file} returns no column {', '.join(missing)}"
                break
            n_rows += batch.num_rows
            untimed += int((~timed(batch.select(list(relation.times)).to_pandas())).sum())
            named.update(batch["unit"].cast(pa.string()).to_pylist())
        else:
            if not n_rows:
                yield f"{relation.file} returns no row"
            if untimed:
                yield f"{untimed:,} rows of {relation.file} have no usable time; an ingest quarantines them"
            if relation is BEDS:
                known |= named.keys()
            elif n := sum(rows for unit, rows in named.items() if unit not in known):
                yield f"{n:,} rows of {relation.file} name a unit that no stay and no number of beds names"


def _whole_reads(adapter: Adapter, engine: Engine, as_of: datetime) -> Iterator[str]:
    """Tables that an hourly run would scan: each run reads the last 48 hours again."""
    hours = load_settings().overlap_hours + 1
    for table, n in sorted(sequential_scans(adapter, engine, as_of - timedelta(hours=hours), as_of).items()):
        if n >= LARGE_TABLE:
            yield f"an hourly run would scan all {n:,} rows of {table}: no index serves it, see the source's README"


def audit_source(source: str, as_of: datetime) -> list[dict[str, Any]]:
    """The label audit of a source alone, without reading its observations; rows as `label_audit.audit_stays` returns them."""
    adapter, engine = open_source(source)
    check_source(adapter, engine)
    return _audit(adapter, read_all_stays(adapter, engine, as_of))


def _audit(adapter: Adapter, stays: pa.Table) -> list[dict[str, Any]]:
    # Used only to compute: it need not be migrated.
    store = open_engine(store_url(load_settings()))
    return audit_stays(store, stays, adapter.earliest_begin)
