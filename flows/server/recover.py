"""Runs that died on the way: each is started again with what it was asked for, a bounded number of times."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from flows.runtime import clock
from flows.runtime.log import log
from flows.server.deploy import TAG, source_tag
from sql.published.incidents import Incident

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

# A run that died three times will die a fourth time; a person has to look.
ATTEMPTS = 3
# Older ones are history: the hours they missed are caught up by catch_up.
_LOOK_BACK = timedelta(hours=12)
_AGAIN, _ATTEMPT, _SOURCE = "again:", "attempt:", source_tag("")


def run_again() -> tuple[list[str], list[Incident]]:
    """Start each crashed run of ours again that was not yet; returns the names of the new runs, and whom it gave up.

    A new run has the parameters of the one that died, with its hour pinned. Asked twice, Prefect makes one run.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        runs = _recent_runs(client)
        followed = {tag.removeprefix(_AGAIN) for run in runs for tag in run.tags if tag.startswith(_AGAIN)}
        # The watch itself bears no source: the next one is due in a quarter of an hour anyway.
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
    assert dead.deployment_id is not None, "what bears our tags was started from a deployment"
    attempt = _attempt(dead) + 1
    kept = [tag for tag in dead.tags if not tag.startswith((_AGAIN, _ATTEMPT))]
    new = client.create_flow_run_from_deployment(
        dead.deployment_id,
        parameters=_pinned(dead),
        tags=[*kept, f"{_AGAIN}{dead.id}", f"{_ATTEMPT}{attempt}"],
        idempotency_key=f"again {dead.id}",
    )
    log.warning("%s died and is started again as %s (attempt %d of %d)", dead.name, new.name, attempt, ATTEMPTS)
    return str(new.name)


def _pinned(dead: "FlowRun") -> dict[str, Any]:
    """The parameters, with the hour the run was scheduled for where none was named."""
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
        "gave_up",
        str(dead.name),
        f"The run {dead.name} died {ATTEMPTS} times and is not started again; see its log in Prefect, memory and disk.",
    )
