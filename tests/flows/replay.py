"""Replays slots in order, each with its ingest and its forecast, and goes on at the first that is not published yet."""

import sys
from datetime import datetime, timedelta

from flows.jobs.forecast import forecast
from flows.jobs.ingest import ingest
from flows.runtime.databases import open_store
from flows.runtime.log import log
from rnn_core.contracts.errors import ForecastError
from sql.published import runs

# A fault ends a slot or two; what fails so often without a slot in between is no fault of the weather.
PATIENCE = 20


def main(start: str, every_hours: str, count: str) -> None:
    slots = [datetime.fromisoformat(start) + timedelta(hours=int(every_hours)) * n for n in range(int(count))]
    failures = 0
    while todo := sorted(set(slots) - set(runs.published_slots(open_store(), "clif", "forecast"))):
        try:
            for slot in todo:
                ingest.fn("clif", slot)
                forecast.fn("clif", slot)
                failures = 0
        except ForecastError as error:
            failures += 1
            log.error("goes on after: %s", error)
            if failures == PATIENCE:
                raise


main(*sys.argv[1:])
