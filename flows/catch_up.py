"""Catching up: publishes the hours that were missed while something was down, each from what was known then."""

from datetime import datetime, timedelta

from prefect import flow
from sqlalchemy import Engine

from flows import clock
from flows.backfill import publish_slots, tell_early
from flows.databases import open_store
from flows.forecast import PATIENCE, load_model, require_serving, role_of
from flows.log import log
from flows.naming import run_name
from flows.reports import report
from flows.tasks import alone, step
from sql import results
from sql.landing import read_watermark

HOURS = 72
LIMIT = 24


@flow(name="catch_up", flow_run_name=run_name)
def catch_up(
    source: str, as_of: datetime | None = None, hours: int = HOURS, limit: int = LIMIT, newest_first: bool = False,
    dry_run: bool = False,
) -> dict:  # fmt: skip
    """Publish the hours up to `as_of` that have no published forecast of `source`; returns counts.

    hours: how far back to look, never before the source's first forecast. limit: at most so many in one run; the next
    run goes on. newest_first: begin with the latest hour instead of the earliest. Hours of which the source has not
    told yet (after the watermark of ingest) wait.
    """
    store = open_store()
    as_of = clock.slot(as_of, clock.scheduled_time())
    serving, role = require_serving(store, source), role_of(store, source)
    with alone(store, source, "forecast", PATIENCE):
        missed, waiting = find_missed(store, source, as_of, hours, role)
        todo = (missed[::-1] if newest_first else missed)[:limit]
        counts = {"hours missed": len(missed), "waiting for ingest": waiting, "left for later": len(missed) - len(todo)}
        if dry_run:
            return counts | {"to publish": len(todo), "hours": ", ".join(f"{slot:%Y-%m-%dT%HZ}" for slot in todo)}
        if todo:
            tell_early(todo, serving)
            forecaster = load_model(serving["artifact"])
            publish_slots(store, source, todo, forecaster, serving, kind="forecast", role=role)
    counts |= {"published now": len(todo)}
    report(store, "catch_up", source, as_of, counts)
    return counts


@step("find missed hours", retries=2)
def find_missed(store: Engine, source: str, as_of: datetime, hours: int, role: str) -> tuple[list[datetime], int]:
    """Hours without a published forecast, earliest first, and how many more wait for the source to tell of them."""
    published = results.published_slots(store, source, "forecast", role=role)
    if not published:
        log.info("no forecast of %s was ever published, so none was missed", source)
        return [], 0
    with store.connect() as connection:
        told_until = clock.floor_hour(read_watermark(connection, source) or published[0])
    first = max(published[0], as_of - timedelta(hours=hours))
    due = clock.slots(first, as_of, timedelta(hours=1)) if first <= as_of else []
    missed = sorted(set(due) - set(published))
    return [slot for slot in missed if slot <= told_until], sum(slot > told_until for slot in missed)
