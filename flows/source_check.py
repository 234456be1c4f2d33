"""Looks at a source before anyone relies on it: coverage, units that look wrong, labels that contradict themselves."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from sqlalchemy import text

from flows.databases import open_source, store_url
from flows.settings import load_settings
from flows.terminal import print_rows
from rnn_core.concepts import BY_NAME, NAMES, Concept
from sql.adapter import Adapter, MappedVariable
from sql.copy import copy_arrow
from sql.engine import open_engine
from sql.landing import BEGINNING
from sql.quality import load_suite
from sql.reading import check_source, read_observations, read_stays

# Less than this share of readable values inside the plausible range looks like another unit.
PLAUSIBLE_SHARE = 0.9
FEW = 20


@dataclass(frozen=True)
class SourceReport:
    """What was found, as rows to print; `faults` are the sentences that need someone to act."""

    adapter: Adapter
    coverage: list[dict[str, Any]]
    unmapped: list[dict[str, Any]]
    audit: list[dict[str, Any]]
    faults: list[str]

    def print(self, as_json: bool) -> None:
        if as_json:
            print(json.dumps({"source": self.adapter.name, "coverage": self.coverage, "unmapped": self.unmapped,
                              "audit": self.audit, "faults": self.faults}))  # fmt: skip
            return
        print(f"{self.adapter.title}\nKnown when: {self.adapter.availability}\n")
        print_rows(self.coverage, title="Concepts")
        print_rows(self.unmapped, title="\nVariables that no concept takes (counted, not copied)")
        print_rows(self.audit, title="\nLabel audit")
        print("\n" + ("\n".join(f"LOOK: {fault}" for fault in self.faults) or "Nothing looks wrong."))


@dataclass
class _Seen:
    """What is kept of a concept's rows: stays, float64 values in its unit, float32 hours until they became available."""

    rows: int = 0
    stays: set[str] = field(default_factory=set)
    values: list[np.ndarray] = field(default_factory=list)
    delays: list[np.ndarray] = field(default_factory=list)


@dataclass
class _Observations:
    concepts: dict[str, _Seen] = field(default_factory=dict)
    unused: Counter = field(default_factory=Counter)
    unknown: Counter = field(default_factory=Counter)


def check(source: str, as_of: datetime) -> SourceReport:
    """Read everything the source holds up to `as_of`; nothing is stored. Raises SourceError where it cannot be read."""
    adapter, engine = open_source(source)
    check_source(adapter, engine)
    stays = pa.Table.from_batches(read_stays(adapter, engine, BEGINNING, as_of))
    seen = _count_observations(adapter, read_observations(adapter, engine, BEGINNING, as_of))
    coverage = [_coverage(BY_NAME[name], seen.concepts.get(name), stays["stay_id"]) for name in NAMES]
    audit = audit_stays(stays)
    faults = [f"{row['concept']}: {row['suspicion']}" for row in coverage if row["suspicion"]]
    faults += [f"{row['stays']} stays: {row['fault']}" for row in audit if row["stays"]]
    faults += [
        f"{n} rows of {variable!r} in unit {unit!r} are not in concept_map.csv"
        for (variable, unit), n in sorted(seen.unknown.items(), key=str)
    ]
    unmapped = [{"variable": variable, "rows": n} for variable, n in seen.unused.most_common()]
    return SourceReport(adapter, coverage, unmapped, audit, faults)


def _count_observations(adapter: Adapter, batches: Iterable[pa.RecordBatch]) -> _Observations:
    """One pass over the stream; of a mapped row its value and delay are kept, of any other the count."""
    lines = {(m.variable, m.unit): m for m in adapter.concept_map}
    found = _Observations()
    for batch in batches:
        frame = batch.select(["stay_id", "variable", "unit", "observed_at", "available_at"]).to_pandas()
        frame["unit"] = frame["unit"].fillna("")
        frame["value"] = pd.to_numeric(batch["value"].cast(pa.string()).to_pandas(), errors="coerce").to_numpy(float)
        for (variable, unit), rows in frame.groupby(["variable", "unit"], sort=False, dropna=False):
            line = lines.get((variable, unit)) or lines.get((variable, "*")) or lines.get(("*", "*"))
            if line is None:
                found.unknown[variable, unit] += len(rows)
            elif line.concept is None:
                found.unused[variable] += len(rows)
            else:
                _keep(found.concepts.setdefault(line.concept, _Seen()), rows, line)
    return found


def _keep(seen: _Seen, rows: pd.DataFrame, line: MappedVariable) -> None:
    delay = _time(rows["available_at"]) - _time(rows["observed_at"])
    seen.rows += len(rows)
    seen.stays.update(rows["stay_id"].dropna().unique())
    seen.values.append(rows["value"].dropna().to_numpy() * line.scale + line.offset)
    seen.delays.append((delay.dropna().dt.total_seconds() / 3600).to_numpy(np.float32))


def _time(column: pd.Series) -> pd.Series:
    """UTC times; what cannot be read is missing."""
    return pd.to_datetime(column, utc=True, errors="coerce")


def _coverage(concept: Concept, seen: _Seen | None, stay_ids: pa.ChunkedArray) -> dict[str, Any]:
    row = {"concept": concept.name, "unit": concept.unit, "rows": 0, "stays %": 0.0, "p1": None, "p50": None, "p99": None,
           "plausible %": None, "delay h": None, "suspicion": ""}  # fmt: skip
    if seen is None:
        return row
    values, delays = np.concatenate(seen.values), np.concatenate(seen.delays)
    share = float(((values >= concept.low) & (values <= concept.high)).mean()) if len(values) else 0.0
    row |= {"rows": seen.rows, "stays %": round(100 * len(seen.stays) / max(len(stay_ids.unique()), 1), 1)}
    row |= {"plausible %": round(100 * share, 1)}
    if len(values):
        row |= dict(zip(("p1", "p50", "p99"), np.quantile(values, (0.01, 0.5, 0.99)).tolist(), strict=True))
    if len(delays):
        row["delay h"] = round(float(np.median(delays)), 2)
    if seen.rows >= FEW and share < PLAUSIBLE_SHARE:
        row["suspicion"] = f"only {share:.0%} within {concept.low:g} to {concept.high:g} {concept.unit}; another unit?"
    return row


_TIMES = ("intime", "outtime", "hospital_intime", "hospital_outtime", "died_at")
_TEXTS = ("stay_id", "patient_id", "outcome")
_AUDITED = (
    "create temporary table audited (source text default '', "
    + ", ".join([*(f"{name} text" for name in _TEXTS), *(f"{name} timestamptz" for name in _TIMES)])
    + ") on commit drop"
)
_CLIP = "update pg_temp.audited as rows set {correct} where {where}"
_FAULTS = """
with stay as (
    select * from pg_temp.audited where ({negative}) is not true
), version as (
    select source, stay_id, 0 as batch_id from pg_temp.audited
), rejected as (
    select source, 'stay' as relation, 'ends_before_it_begins' as check_name, 0 as batch_id, to_jsonb(rows) as row
    from pg_temp.audited as rows where {negative}
), audit as (
    with
    {rules}
)
select fault, count(distinct stay_id) as stays from audit group by fault order by fault
"""


def audit_stays(stays: pa.Table) -> list[dict[str, Any]]:
    """Counts per fault of the newest version of each stay, by the rules that ingest and quality.stay_audit have.

    stays: what an adapter's stays.sql gives. The last row tells of all stays.
    """
    newest = stays.select(["available_at", *_TEXTS, *_TIMES]).to_pandas()
    newest = newest.sort_values("available_at", kind="stable").drop_duplicates("stay_id", keep="last")
    newest = newest[[*_TEXTS, *_TIMES]].assign(**{name: _time(newest[name]) for name in _TIMES})
    rules = {check.name: check for check in load_suite("stay")}
    clip, negative = rules["death_shortly_before_charted_end"], rules["ends_before_it_begins"]
    audit = (files("sql") / "views" / "parts" / "stay_faults.sql").read_text()
    columns = pa.Table.from_pandas(newest, preserve_index=False)
    columns = columns.cast(
        pa.schema([(c, pa.string() if c in _TEXTS else columns.schema.field(c).type) for c in columns.column_names])
    )
    # Only as a place to compute in: the table is the transaction's own, and gone with it.
    store = open_engine(store_url(load_settings()))
    with store.begin() as connection:
        connection.exec_driver_sql(_AUDITED)
        copy_arrow(connection, "pg_temp.audited", columns)
        clipped = connection.execute(text(_CLIP.format(correct=clip.correct, where=clip.where))).rowcount
        query = _FAULTS.format(negative=negative.where, rules=audit)
        found = [dict(row) for row in connection.execute(text(query)).mappings()]
    store.dispose()
    ended, died = int(newest["outtime"].notna().sum()), int((newest["outcome"] == "died").sum())
    note = f"{len(newest)} stays, {ended} ended, {died} deaths, {clipped} charted as ending after death (clipped)"
    return [*({**row, "note": ""} for row in found), {"fault": "(all stays)", "stays": 0, "note": note}]
