"""The back-fill: scores past slots from what was known then, and resumes where it stopped."""

import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import copy_context
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from flows.jobs.forecast import load_model, publish_slot, require_serving, role_of
from flows.runtime import clock
from flows.runtime.compute import INLINE, map_shards
from flows.runtime.databases import open_store
from flows.runtime.flow import flow
from flows.runtime.log import log
from flows.runtime.naming import run_name
from flows.runtime.run_report import report
from flows.runtime.settings import load_settings
from flows.runtime.steps import alone, attempted
from flows.shards.open_stays import kept_forecaster
from sql.intake.landing import read_watermark
from sql.published import runs

if TYPE_CHECKING:
    from rnn_core.forecasters.stay import StayForecaster


@flow(name="backfill", flow_run_name=run_name)
def backfill(
    source: str,
    start: datetime,
    end: datetime,
    every_hours: int = 1,
    again: bool = False,
    jobs: int = 1,
    dry_run: bool = False,
) -> dict:
    """Publish every slot of `source` from `start` to `end` that the serving model has not published yet.

    again: score published slots too. jobs: slots scored in parallel. Slots before the model's data cut-off are scored too,
    but evaluate leaves them out: the model has learned from their outcomes. Slots after the watermark are skipped.
    """
    store = open_store()
    role = role_of(store, source)
    with attempted(store, source, "backfill", start, role=role, dry_run=dry_run):
        serving = require_serving(store, source)
        wanted = clock.slots(start, end, timedelta(hours=every_hours))
        done = set() if again else set(runs.published_slots(store, source, role=role, model_id=serving["model_id"]))
        todo, waiting = up_to_watermark(store, source, [slot for slot in wanted if slot not in done])
        counts = {"slots requested": len(wanted), "already published": len(wanted) - len(todo) - waiting}
        if waiting:
            counts |= {"waiting for ingest": waiting}
        warn_of_early_slots(todo, serving)
        if dry_run:
            return counts | {"to publish": len(todo)}
        if todo:
            forecaster = load_model(serving["artifact"])
            with alone(store, source, "backfill"):
                publish_slots(store, source, todo, forecaster, serving, kind="backfill", role=role, jobs=jobs)
    counts |= {"published now": len(todo)}
    report(store, "backfill", source, wanted[-1], counts)
    return counts


def up_to_watermark(store: Engine, source: str, slots: list[datetime]) -> tuple[list[datetime], int]:
    """Those of `slots` up to the watermark of ingest, and how many are after it."""
    with store.connect() as connection:
        watermark = read_watermark(connection, source)
    ready = [slot for slot in slots if watermark and slot <= watermark]
    return ready, len(slots) - len(ready)


def warn_of_early_slots(slots: list[datetime], serving: dict) -> None:
    """Warn of slots whose outcomes the model has learned from."""
    early = sum(slot <= serving["data_cutoff"] for slot in slots)
    if early:
        log.warning(
            "%d of %d slots are before the model's data cut-off; the scorecard leaves them out", early, len(slots)
        )


@dataclass(frozen=True)
class Slot:
    """A slot of a back-fill to publish with `model`, a row of the registry."""

    source: str
    as_of: datetime
    model: dict
    kind: str
    role: str


def publish_one(store: Engine, slot: Slot) -> None:
    """All steps of a slot, in a worker."""
    forecaster = kept_forecaster(slot.model["artifact"])
    publish_slot(store, slot.source, slot.as_of, forecaster, slot.model, kind=slot.kind, role=slot.role)


def publish_slots(
    store: Engine,
    source: str,
    slots: list[datetime],
    forecaster: "StayForecaster",
    serving: dict,
    *,
    kind: str,
    role: str,
    jobs: int = 1,
) -> None:
    """Publish each slot, `jobs` at a time, or where there are workers as many as these; the caller holds the lock of the
    source (`alone`).

    The first failure ends it: running slots are finished, those of workers only within seconds; the rest is left for the
    next time.
    """
    if load_settings().compute != INLINE:
        try:
            map_shards(store, publish_one, [Slot(source, at, serving, kind, role) for at in slots], "publishing slots")
        finally:
            # A worker that died left its run open.
            runs.close_dead_runs(store, source, kind)
        return
    began = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        pending = {
            pool.submit(
                copy_context().run, publish_slot, store, source, slot, forecaster, serving, kind=kind, role=role
            ): slot
            for slot in slots
        }
        try:
            for number, done in enumerate(as_completed(pending), start=1):
                done.result()
                left = (time.monotonic() - began) / number * (len(slots) - number)
                log.info(
                    "slot %d of %d published: %s, about %.0f s left",
                    number,
                    len(slots),
                    f"{pending[done]:%Y-%m-%dT%H:%MZ}",
                    left,
                )
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
