"""Restarts crashed runs with their own parameters, a bounded number of times."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from flows.runtime import clock
from flows.runtime.log import log
from flows.server.deploy import TAG, source_tag
from sql.published.incidents import BY_PREFECT, Incident

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

# After three crashes a person has to look.
ATTEMPTS = 3
# Older runs are not restarted: catch_up publishes the hours they missed.
_LOOK_BACK = timedelta(hours=12)
_AGAIN, _ATTEMPT, _SOURCE = "again:", "attempt:", source_tag("")


def run_again() -> tuple[list[str], list[Incident]]:
    """Restart each crashed run once; returns the names of the new runs, and an incident per run with no attempts left.

    A new run has the parameters of the crashed one, with its hour pinned. Calling this twice creates one run: Prefect
    checks the idempotency key.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        runs = _recent_runs(client)
        followed = {tag.removeprefix(_AGAIN) for run in runs for tag in run.tags if tag.startswith(_AGAIN)}
        # Only runs with a source tag. The watch has none, and runs every quarter of an hour anyway.
        crashed = [run for run in runs if run.state_name == "Crashed" and _source(run) and str(run.id) not in followed]
        started, given_up = [], []
        for run in crashed:
            if _attempt(run) < ATTEMPTS:
                started.append(_start_again(client, run))
            elif not _succeeded_since(runs, run):
                given_up.append(_gave_up(run))
    return started, given_up


def _recent_runs(client: "SyncPrefectClient") -> "list[FlowRun]":
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterExpectedStartTime, FlowRunFilterTags
    from prefect.client.schemas.sorting import FlowRunSort

    ours = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[TAG]),
        expected_start_time=FlowRunFilterExpectedStartTime(
            after_=datetime.now(UTC) - _LOOK_BACK, before_=datetime.now(UTC)
        ),
    )
    return client.read_flow_runs(flow_run_filter=ours, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=200)


def _start_again(client: "SyncPrefectClient", dead: "FlowRun") -> str:
    assert dead.deployment_id is not None, "runs with our tags come from a deployment"
    attempt = _attempt(dead) + 1
    kept = [tag for tag in dead.tags if not tag.startswith((_AGAIN, _ATTEMPT))]
    new = client.create_flow_run_from_deployment(
        dead.deployment_id,
        parameters=_pinned(dead),
        tags=[*kept, f"{_AGAIN}{dead.id}", f"{_ATTEMPT}{attempt}"],
        idempotency_key=f"again {dead.id}",
    )
    log.warning("%s crashed and is restarted as %s (attempt %d of %d)", dead.name, new.name, attempt, ATTEMPTS)
    return str(new.name)


def _pinned(dead: "FlowRun") -> dict[str, Any]:
    """The parameters, with the scheduled hour as `as_of` if they have none."""
    if dead.parameters.get("as_of") or dead.expected_start_time is None:
        return dead.parameters
    return {**dead.parameters, "as_of": clock.floor_hour(dead.expected_start_time).isoformat()}


def _attempt(run: "FlowRun") -> int:
    return max((int(tag.removeprefix(_ATTEMPT)) for tag in run.tags if tag.startswith(_ATTEMPT)), default=1)


def _succeeded_since(runs: "list[FlowRun]", dead: "FlowRun") -> bool:
    return any(
        run.deployment_id == dead.deployment_id
        and run.state_name == "Completed"
        and run.start_time
        and dead.start_time
        and run.start_time > dead.start_time
        for run in runs
    )


def _source(run: "FlowRun") -> str | None:
    return next((tag.removeprefix(_SOURCE) for tag in run.tags if tag.startswith(_SOURCE)), None)


def _gave_up(dead: "FlowRun") -> Incident:
    return Incident(
        _source(dead) or "all",
        BY_PREFECT,
        str(dead.name),
        f"The run {dead.name} crashed {ATTEMPTS} times and is not restarted; check its log in Prefect, memory and disk.",
    )
