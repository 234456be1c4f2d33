"""Catching up: publishes the hours that were missed while something was down, each from what was known then."""

from datetime import datetime, timedelta

from sqlalchemy import Engine

from flows.jobs.backfill import publish_slots, up_to_watermark, warn_of_early_slots
from flows.jobs.forecast import PATIENCE, load_model, require_serving, role_of
from flows.runtime import clock
from flows.runtime.databases import open_store
from flows.runtime.flow import flow
from flows.runtime.log import log
from flows.runtime.naming import run_name
from flows.runtime.run_report import report_run
from flows.runtime.steps import alone, recorded_alone, step
from sql.published import runs

HOURS = 72
LIMIT = 24


@flow(name="catch_up", flow_run_name=run_name)
def catch_up(
    source: str,
    as_of: datetime | None = None,
    hours: int = HOURS,
    limit: int = LIMIT,
    newest_first: bool = False,
    dry_run: bool = False,
) -> dict:
    """Publish the hours up to `as_of` that have no published forecast of `source`; returns counts.

    hours: how far back to look, never before the source's first forecast. limit: maximum per run; the next
    run continues. newest_first: start with the latest hour instead of the earliest. Hours after the watermark are skipped.
    """
    store = open_store()
    if dry_run:
        as_of = clock.slot(as_of, clock.scheduled_time())
        missed, waiting = find_missed(store, source, as_of, hours, role_of(store, source))
        todo = missed[::-1] if newest_first else missed
        named = {"hours": ", ".join(f"{slot:%Y-%m-%dT%HZ}" for slot in todo)} if todo else {}
        return {"hours missed": len(missed), "waiting for ingest": waiting, "to publish": len(todo[:limit])} | named
    with recorded_alone(store, source, "catch_up", as_of) as run:
        run.counts |= _publish_missed(store, source, run.as_of, hours, limit, newest_first)
        runs.finish_run(store, run.run_id)
        report_run(run, "catch_up")
    return run.counts


def _publish_missed(
    store: Engine, source: str, as_of: datetime, hours: int, limit: int, newest_first: bool
) -> dict[str, int]:
    serving, role = require_serving(store, source), role_of(store, source)
    with alone(store, source, "forecast", PATIENCE):
        missed, waiting = find_missed(store, source, as_of, hours, role)
        todo = (missed[::-1] if newest_first else missed)[:limit]
        if todo:
            warn_of_early_slots(todo, serving)
            forecaster = load_model(serving["artifact"])
            publish_slots(store, source, todo, forecaster, serving, kind="forecast", role=role)
    left = len(missed) - len(todo)
    return {
        "hours missed": len(missed),
        "waiting for ingest": waiting,
        "left for later": left,
        "published now": len(todo),
    }


@step("find missed hours", retries=2)
def find_missed(store: Engine, source: str, as_of: datetime, hours: int, role: str) -> tuple[list[datetime], int]:
    """Hours without a published forecast, earliest first, and how many more are after the watermark."""
    forecasts = runs.published_slots(store, source, "forecast", role=role)
    if not forecasts:
        log.info("no forecast of %s was ever published, so none was missed", source)
        return [], 0
    first = max(forecasts[0], as_of - timedelta(hours=hours - 1))
    due = clock.slots(first, as_of, timedelta(hours=1)) if first <= as_of else []
    # What a back-fill has published is not missed.
    missed = sorted(set(due) - set(runs.published_slots(store, source, role=role)))
    return up_to_watermark(store, source, missed)
