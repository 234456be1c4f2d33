"""The back-fill: scores past slots from what was known then, in order, and resumes where it stopped."""

from datetime import datetime, timedelta

from prefect import flow

from flows import clock
from flows.databases import open_store
from flows.forecast import load_model, publish_slot, require_serving
from flows.log import log
from flows.naming import run_name
from sql import results


@flow(name="backfill", flow_run_name=run_name)
def backfill(
    source: str, start: datetime, end: datetime, every_hours: int = 1, again: bool = False, dry_run: bool = False
) -> dict:
    """Publish every slot of `source` from `start` to `end` that the serving model has not published yet.

    again: score published slots too. Slots before the model's data cut-off are scored all the same, but evaluate leaves
    them out: the model has learned from their outcomes.
    """
    store = open_store()
    serving = require_serving(store, source)
    wanted = clock.slots(start, end, timedelta(hours=every_hours))
    done = set() if again else set(results.published_slots(store, source, model_id=serving["model_id"]))
    todo = [slot for slot in wanted if slot not in done]
    early = sum(slot <= serving["data_cutoff"] for slot in todo)
    if early:
        log.warning(
            "%d of %d slots lie before the model's data cut-off; the scorecard leaves them out", early, len(todo)
        )
    if dry_run:
        return {"slots asked for": len(wanted), "to publish": len(todo), "published before": len(wanted) - len(todo)}
    forecaster = load_model(serving["artifact"]) if todo else None
    for number, as_of in enumerate(todo, start=1):
        publish_slot(store, source, as_of, forecaster, serving, kind="backfill")
        log.info("slot %d of %d published: %s", number, len(todo), f"{as_of:%Y-%m-%dT%H:%MZ}")
    return {"slots asked for": len(wanted), "published now": len(todo), "published before": len(wanted) - len(todo)}
