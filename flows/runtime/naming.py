"""Names of flow and task runs: what, of which source, for which slot."""

from datetime import datetime
from typing import Any

from flows.runtime import clock


def run_name() -> str:
    """Name of the current flow run, e.g. `forecast clif 2026-01-20T14Z`."""
    from prefect.runtime import flow_run

    return _joined(flow_run.flow_name, flow_run.parameters)


def step_name(step: str, parameters: dict[str, Any]) -> str:
    """Name of a task run, e.g. `score clif 2026-01-20T14Z`; its own arguments go before those of its flow."""
    from prefect.runtime import flow_run

    run = parameters.get("run") or parameters.get("batch")
    own = {name: getattr(run, name) for name in ("source", "as_of") if run is not None} | {
        name: parameters[name] for name in ("source", "as_of") if parameters.get(name) is not None
    }
    return _joined(step, {**flow_run.parameters, **own})


def _joined(what: str, parameters: dict[str, Any]) -> str:
    """`start` of a back-fill stands for its slots; a run that names no hour speaks for the one it was scheduled for."""
    asked = parameters.get("as_of") or parameters.get("start") or clock.scheduled_time()
    asked = clock.parse_time(asked) if isinstance(asked, str) else asked
    hour = f"{clock.floor_hour(asked):%Y-%m-%dT%HZ}" if isinstance(asked, datetime) else None
    return " ".join(part for part in (what, parameters.get("source"), hour) if part)
