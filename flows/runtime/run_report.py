"""Reports a run: its counts go to the log and, under Prefect, into one table artifact; never a patient's row."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Engine

from flows.runtime.flow import flow_run_context
from flows.runtime.log import log
from flows.runtime.steps import Recorded
from sql.intake.landing import read_watermark

AGE = "age of the data in hours"


def report_run(run: Recorded, kind: str) -> None:
    """Report a run that is recorded in forecast.run."""
    report(run.engine, kind, run.source, run.as_of, {"run": run.run_id, **run.counts})


def report(engine: Engine, kind: str, source: str, as_of: datetime, counts: Mapping[str, Any]) -> None:
    """Log the counts of a run and, in a flow run, store them as its table artifact.

    The age of the newest data of `source` is added unless `counts` has it.
    """
    counts = {"as of": as_of.isoformat(), **counts}
    if AGE not in counts:
        with engine.connect() as connection:
            watermark = read_watermark(connection, source)
        counts[AGE] = hours_old(as_of, watermark)
    log.info("%s of %s done: %s", kind, source, ", ".join(f"{name} {value}" for name, value in counts.items()))
    if flow_run_context():
        from prefect.artifacts import create_table_artifact

        create_table_artifact(
            table=[{"what": name, "value": "" if value is None else str(value)} for name, value in counts.items()],
            key=f"{kind}-{source}".replace("_", "-"),
            description=f"{kind} of {source}",
        )


def hours_old(as_of: datetime, newest: datetime | None) -> float | None:
    """Age in hours of the newest data at `as_of`: 0 if they are later, None if there are none."""
    return None if newest is None else round(max((as_of - newest).total_seconds() / 3600, 0.0), 1)
