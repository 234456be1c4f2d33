"""Names of flow and task runs: flow or step, source, slot."""

from datetime import datetime
from typing import Any

from flows.runtime import clock


def run_name() -> str:
    """Name of the current flow run, e.g. `forecast clif 2026-01-20T14Z`."""
    from prefect.runtime import flow_run

    return _joined(flow_run.flow_name, flow_run.parameters)


def step_name(step: str, parameters: dict[str, Any]) -> str:
    """Name of a task run, e.g. `score clif 2026-01-20T14Z`; its own arguments take precedence over those of its flow."""
    from prefect.runtime import flow_run

    run = parameters.get("run") or parameters.get("batch")
    own = {name: getattr(run, name) for name in ("source", "as_of") if run is not None} | {
        name: parameters[name] for name in ("source", "as_of") if parameters.get(name) is not None
    }
    return _joined(step, {**flow_run.parameters, **own})


def _joined(what: str, parameters: dict[str, Any]) -> str:
    """The hour is `as_of`, else the `start` of a back-fill, else when the run was scheduled."""
    hour = parameters.get("as_of") or parameters.get("start") or clock.scheduled_time()
    hour = clock.parse_time(hour) if isinstance(hour, str) else hour
    slot = f"{clock.floor_hour(hour):%Y-%m-%dT%HZ}" if isinstance(hour, datetime) else None
    return " ".join(part for part in (what, parameters.get("source"), slot) if part)
