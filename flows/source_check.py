"""Looks at a source before anyone relies on it: coverage, units that look wrong, labels that contradict themselves."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd
import pyarrow as pa

from flows.databases import open_source
from flows.terminal import print_rows
from rnn_core.concepts import BY_NAME, NAMES
from sql.adapter import Adapter, check_source, read_select
from sql.landing import BEGINNING

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


def check(source: str, as_of: datetime) -> SourceReport:
    """Read everything the source holds up to `as_of`; nothing is stored. Raises SourceError where it cannot be read."""
    adapter, engine, schema = open_source(source)
    check_source(adapter, engine, schema)
    stays = pa.Table.from_batches(read_select(adapter, adapter.stays_sql, engine, schema, BEGINNING, as_of))
    rows = pa.Table.from_batches(read_select(adapter, adapter.observations_sql, engine, schema, BEGINNING, as_of))
    frame = _map(adapter, rows)
    coverage = _coverage(frame, len(set(stays["stay_id"].to_pylist())))
    audit = _audit_stays(stays)
    faults = [f"{row['concept']}: {row['suspicion']}" for row in coverage if row["suspicion"]]
    faults += [f"{row['stays']} stays: {row['fault']}" for row in audit if row["stays"]]
    unknown = frame[frame["unknown"]].groupby(["variable", "unit"], dropna=False).size()
    faults += [
        f"{n} rows of {variable!r} in unit {unit!r} are not in concept_map.csv"
        for (variable, unit), n in unknown.items()
    ]
    unused = frame[frame["concept"].isna() & ~frame["unknown"]].groupby("variable").size()
    unmapped = [{"variable": v, "rows": int(n)} for v, n in unused.sort_values(ascending=False).items()]
    return SourceReport(adapter, coverage, unmapped, audit, faults)


def _map(adapter: Adapter, rows: pa.Table) -> pd.DataFrame:
    frame = rows.select(["stay_id", "variable", "unit", "observed_at", "available_at"]).to_pandas()
    frame["unit"] = frame["unit"].fillna("")
    frame["text"] = rows["value"].cast(pa.string()).to_pandas()
    exact = {(m.variable, m.unit): m for m in adapter.concept_map}
    pairs = frame[["variable", "unit"]].drop_duplicates()
    chosen = [
        exact.get((v, u)) or exact.get((v, "*")) or exact.get(("*", "*")) for v, u in pairs.itertuples(index=False)
    ]
    pairs = pairs.assign(
        concept=[m.concept if m else None for m in chosen], unknown=[m is None for m in chosen],
        scale=[m.scale if m else 1.0 for m in chosen], shift=[m.offset if m else 0.0 for m in chosen],
    )  # fmt: skip
    frame = frame.merge(pairs, on=["variable", "unit"], how="left")
    frame["value"] = pd.to_numeric(frame["text"], errors="coerce") * frame["scale"] + frame["shift"]
    return frame


def _coverage(frame: pd.DataFrame, n_stays: int) -> list[dict[str, Any]]:
    mapped = frame[frame["concept"].notna()]
    groups = dict(iter(mapped.groupby("concept")))
    rows = []
    for name in NAMES:
        concept, found = BY_NAME[name], groups.get(name)
        if found is None:
            rows.append({"concept": name, "unit": concept.unit, "rows": 0, "stays %": 0.0, "p1": None, "p50": None,
                         "p99": None, "plausible %": None, "delay h": None, "suspicion": ""})  # fmt: skip
            continue
        value = found["value"].dropna()
        inside = value.between(concept.low, concept.high)
        share = float(inside.mean()) if len(value) else 0.0
        delay = (found["available_at"] - found["observed_at"]).dt.total_seconds().median() / 3600
        suspicion = ""
        if len(found) >= FEW and share < PLAUSIBLE_SHARE:
            suspicion = f"only {share:.0%} within {concept.low:g} to {concept.high:g} {concept.unit}; another unit?"
        low, middle, high = (float(value.quantile(q)) if len(value) else None for q in (0.01, 0.5, 0.99))
        rows.append({
            "concept": name, "unit": concept.unit, "rows": len(found),
            "stays %": round(100 * found["stay_id"].nunique() / max(n_stays, 1), 1), "p1": low, "p50": middle, "p99": high,
            "plausible %": round(100 * share, 1), "delay h": round(float(delay), 2),
            "suspicion": suspicion,
        })  # fmt: skip
    return rows


def _audit_stays(stays: pa.Table) -> list[dict[str, Any]]:
    """Labels of the newest version of each stay that contradict themselves; the audit over accepted stays is
    quality.stay_audit."""
    newest = (
        stays.sort_by([("stay_id", "ascending"), ("available_at", "ascending")]).to_pandas().groupby("stay_id").last()
    )
    ended = newest[newest["outtime"].notna()]
    patients = ended.sort_values("intime").groupby("patient_id")
    faults = {
        "ends before it begins, or has no length": int((ended["outtime"] <= ended["intime"]).sum()),
        "death over 36 h before the charted end": int(
            ((ended["outtime"] - ended["died_at"]).dt.total_seconds() > 36 * 3600).sum()
        ),
        "overlaps the patient's stay before by over 1 h": int(
            ((patients["outtime"].shift() - ended.sort_values("intime")["intime"]).dt.total_seconds() > 3600).sum()
        ),
        "leaves the ICU over 36 h after the hospital": int(
            ((ended["outtime"] - ended["hospital_outtime"]).dt.total_seconds() > 36 * 3600).sum()
        ),
    }
    clipped = int((ended["died_at"] < ended["outtime"]).sum())
    n_died = int((newest["outcome"] == "died").sum())
    note = (
        f"{len(newest)} stays, {len(ended)} ended, {n_died} deaths, {clipped} charted as ending after death (clipped)"
    )
    told = [{"fault": fault, "stays": n, "note": ""} for fault, n in faults.items()]
    return [*told, {"fault": "(all stays)", "stays": 0, "note": note}]
