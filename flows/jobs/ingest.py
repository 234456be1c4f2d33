"""The ingest flow: from a source database to the canonical tables, checked."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import Engine

from flows.runtime import clock
from flows.runtime.databases import adapter_name, open_source, open_store
from flows.runtime.flow import flow
from flows.runtime.log import log
from flows.runtime.naming import run_name
from flows.runtime.run_report import report_run
from flows.runtime.settings import load_settings
from flows.runtime.steps import Recorded, alone, recorded_alone, safe_sentence, step, write_down
from sql.intake import landing
from sql.intake.adapter import Adapter
from sql.intake.catalogue import check_source
from sql.intake.landing import Batch, BatchCounts
from sql.published import runs


@flow(name="ingest", flow_run_name=run_name)
def ingest(source: str, as_of: datetime | None = None, reconcile: bool = False, dry_run: bool = False) -> dict:
    """Read and accept what became available in `source` since the last run, up to `as_of`; returns counts.

    reconcile: read again from the beginning, to find rows written late under an early time.
    dry_run: read and check, then drop the batch.
    """
    store = open_store()
    if dry_run:
        as_of = clock.slot(as_of, clock.scheduled_time())
        with alone(store, source, "ingest"), _landed(store, source, as_of, reconcile) as (batch, outcomes, _):
            landing.fail_batch(store, batch, "dry run")
            return _found(outcomes)
    with recorded_alone(store, source, "ingest", as_of) as run:
        with _landed(store, source, run.as_of, reconcile) as (batch, outcomes, adapter):
            counts = take_over_rows(store, run, batch, outcomes, adapter.units)
        run.counts |= _summary(counts)
        report_run(run, "ingest")
    return run.counts


@contextmanager
def _landed(store: Engine, source: str, as_of: datetime, reconcile: bool) -> Iterator[tuple[Batch, dict, Adapter]]:
    """A batch that was read, cast and checked, the findings of the checks, and the adapter; dropped if anything fails."""
    adapter, database = open_source(source)
    check_source(adapter, database)
    overlap = timedelta(hours=load_settings().overlap_hours)
    read_by = {"timezone": adapter.timezone, "adapter": adapter_name(source)}
    batch = landing.begin_batch(store, source, as_of, reconcile=reconcile, overlap=overlap, **read_by)
    try:
        read_rows(store, batch, adapter, database)
        cast_rows(store, batch, adapter)
        yield batch, check_rows(store, batch), adapter
    except Exception as error:
        write_down(partial(landing.fail_batch, store, batch), safe_sentence(error))
        raise


@step("read the source", retries=0)
def read_rows(store, batch: Batch, adapter, database) -> None:
    landing.land(store, batch, adapter, database, log.info)
    log.info("landed %s", ", ".join(f"{n:,} {relation} rows" for relation, n in batch.rows_landed.items()))


@step("cast and map")
def cast_rows(store, batch: Batch, adapter) -> None:
    landing.cast_and_map(store, batch, adapter)


@step("check with Great Expectations")
def check_rows(store, batch: Batch) -> dict:
    outcomes = landing.check(store, batch)
    for relation, found in outcomes.items():
        failed = {o.check.name: o.rows_failed for o in found if not o.passed}
        log.info("%s: %d checks, %s", relation, len(found), f"findings {failed}" if failed else "no findings")
    return outcomes


@step("take over")
def take_over_rows(store: Engine, run: Recorded, batch: Batch, outcomes: dict, beds: dict) -> BatchCounts:
    """All or nothing, and nothing if the run was taken for dead meanwhile."""
    with runs.finishing(store, run.run_id) as (connection, finished):
        counts = landing.take_over(connection, batch, outcomes, beds)
        finished["watermark"] = counts.watermark
    return counts


def _summary(counts: BatchCounts) -> dict:
    return {
        "batch": counts.batch_id,
        "stay versions added": counts.stays_added,
        "observations read": counts.observations_read,
        "observations added": counts.observations_added,
        **{name: n for name, n in (("beds added", counts.beds_added), ("plans added", counts.plans_added)) if n},
        "rows quarantined": counts.quarantined,
        "rows not mapped": sum(counts.unmapped.values()),
        "watermark": counts.watermark.isoformat() if counts.watermark else None,
    }


def _found(outcomes: dict) -> dict:
    """Findings per check, for a dry run."""
    return {
        f"{relation}: {outcome.check.name}": outcome.rows_failed
        for relation, found in outcomes.items()
        for outcome in found
        if not outcome.passed
    }
