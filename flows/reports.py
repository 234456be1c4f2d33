"""The one table artifact each run leaves in Prefect: counts, metrics and ages, never a patient's row."""

from prefect.artifacts import create_table_artifact
from prefect.context import FlowRunContext

from flows.log import log
from flows.tasks import Recorded


def report_run(run: Recorded, kind: str) -> None:
    """Log the run's counts and, inside a flow run, keep them as its artifact."""
    log.info("%s of %s done: %s", kind, run.source, ", ".join(f"{k} {v}" for k, v in run.counts.items()))
    if FlowRunContext.get():
        rows = [{"what": name, "value": str(value)} for name, value in run.counts.items()]
        create_table_artifact(
            table=[{"what": "as of", "value": run.as_of.isoformat()}, {"what": "run", "value": str(run.run_id)}, *rows],
            key=f"{kind}-{run.source}".replace("_", "-"),
            description=f"{kind} of {run.source}",
        )
