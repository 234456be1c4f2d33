"""The label audit of stays as a source returns them, before any ingest: the rules of `quality.stay_audit`, counts only."""

from datetime import datetime

import pandas as pd
import pyarrow as pa
from sqlalchemy import Connection, Engine, text

from sql.intake.quality import load_suite
from sql.store.copy import copy_arrow
from sql.store.statements import read_statement

_TIMES = ("intime", "outtime", "hospital_intime", "hospital_outtime", "died_at")
_TEXTS = ("stay_id", "patient_id", "outcome")
_AUDITED = f"""
create temporary table audited (
    source text default '', rejected_for text, earliest_begin timestamptz,
    {", ".join([*(f"{name} text" for name in _TEXTS), *(f"{name} timestamptz" for name in _TIMES)])}
) on commit drop
"""


def audit_stays(engine: Engine, stays: pa.Table, earliest_begin: datetime) -> list[dict[str, str | int]]:
    """A row per fault (`fault`, `stays`, `note`) of the newest version of each stay, then one of all stays.

    stays: what an adapter's stays.sql returns. earliest_begin: that of the adapter. engine: our database, used only to
    compute; the table is temporary and dropped with the transaction.
    """
    newest = newest_stays(stays)
    with engine.begin() as connection:
        connection.exec_driver_sql(_AUDITED)
        copy_arrow(connection, "pg_temp.audited", _typed(newest))
        clipped = _mark_as_ingest_does(connection, earliest_begin)
        found = connection.execute(text(read_statement("intake/label_audit.sql"))).mappings().all()
    ended, died = int(newest["outtime"].notna().sum()), int((newest["outcome"] == "died").sum())
    note = f"{len(newest)} stays, {ended} ended, {died} deaths, {clipped} charted as ending after death (clipped)"
    return [*({**row, "note": ""} for row in found), {"fault": "(all stays)", "stays": 0, "note": note}]


def newest_stays(stays: pa.Table) -> pd.DataFrame:
    """The newest version of each stay; a time that cannot be read is missing."""
    frame = stays.select(["available_at", *_TEXTS, *_TIMES]).to_pandas()
    frame = frame.sort_values("available_at", kind="stable").drop_duplicates("stay_id", keep="last")
    times = {name: pd.to_datetime(frame[name], utc=True, errors="coerce") for name in _TIMES}
    return frame[[*_TEXTS, *_TIMES]].assign(**times)


def _typed(frame: pd.DataFrame) -> pa.Table:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    return table.cast(pa.schema([(f.name, pa.string() if f.name in _TEXTS else f.type) for f in table.schema]))


def _mark_as_ingest_does(connection: Connection, earliest_begin: datetime) -> int:
    """Correct and reject rows of `audited` by the suite `stay`; how many were corrected."""
    checks = {check.name: check for check in load_suite("stay")}
    clip = checks["death_shortly_before_charted_end"]
    change = "update pg_temp.audited as rows set"
    clipped = connection.exec_driver_sql(f"{change} {clip.correct} where {clip.where}").rowcount
    connection.execute(text(f"{change} earliest_begin = :earliest"), {"earliest": earliest_begin})
    for name in ("begins_before_first_day", "ends_before_it_begins"):
        where = f"rejected_for is null and ({checks[name].where})"
        connection.execute(text(f"{change} rejected_for = :name where {where}"), {"name": name})
    return clipped
