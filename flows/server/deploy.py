"""Applies prefect.yaml to a Prefect server: pools, limits, deployments per source, automations; safe to repeat. What somebody
paused stays paused."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from flows.runtime.databases import adapter_name
from flows.runtime.settings import Settings, load_settings
from rnn_core.contracts.errors import ForecastError

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import DeploymentSchedule
    from prefect.client.schemas.responses import DeploymentResponse

PLAN = Path(__file__).resolve().parents[2] / "prefect.yaml"
# Marks what we put on a server, so that everything else there is left alone.
TAG = "icu-forecast"


@dataclass(frozen=True)
class Deployment:
    """One deployment of a source, or of the installation if `source` is None.

    schedule: cron line in `timezone`; None for runs by hand.
    """

    flow: str
    name: str
    source: str | None
    entrypoint: str
    pool: str
    schedule: str | None
    timezone: str
    limit: dict[str, Any]
    parameters: dict[str, Any]

    @property
    def full_name(self) -> str:
        return f"{self.flow}/{self.name}"

    @property
    def tags(self) -> list[str]:
        return [TAG, source_tag(self.source)] if self.source else [TAG]


def source_tag(source: str) -> str:
    """The tag of everything that belongs to a source."""
    return f"source:{source}"


def plan_deployments(sources: Iterable[str], settings: Settings | None = None) -> list[Deployment]:
    """The deployments of prefect.yaml for `sources`.

    With one source, deployments are named as in the file (`forecast/hourly`); with several, the name of the source is
    appended (`forecast/hourly-ward`). Raises ForecastError for a schedule of a deployment that does not exist.
    """
    settings = settings or load_settings()
    sources = list(sources)
    several = len({*settings.sources, *sources}) > 1
    of_sources = [deployment for source in sources for deployment in _of_source(source, settings, several)]
    return [*of_sources, *_of_installation()]


def _of_installation() -> Iterator[Deployment]:
    for entry in _entries("installation"):
        yield Deployment(
            flow=_flow_name(entry),
            name=entry["name"],
            source=None,
            entrypoint=entry["entrypoint"],
            pool=entry["work_pool"]["name"],
            schedule=_default_schedule(entry),
            timezone="UTC",
            limit=entry["concurrency_limit"],
            parameters=entry.get("parameters", {}),
        )


def _entries(scope: str) -> list[dict[str, Any]]:
    return [entry for entry in _read_plan()["deployments"] if entry.get("scope", "source") == scope]


def _flow_name(entry: dict[str, Any]) -> str:
    return entry["entrypoint"].rsplit(".", 1)[1]


def _zone_of(line: str | None, timezone: str, deployment: str) -> str:
    """UTC for hourly schedules: in a zone with daylight saving time, Prefect skips the repeated hour in autumn.

    Raises ForecastError for a line that is no schedule.
    """
    try:
        return "UTC" if line and _is_hourly(line) else timezone
    except ValueError as error:
        raise ForecastError(
            f"The schedule of {deployment} is invalid: {line!r} ({type(error).__name__}). A cron line has five fields, or is a "
            "word such as @daily."
        ) from None


@cache
def _is_hourly(line: str) -> bool:
    """Whether a cron line runs in every hour of a day, however it is spelt, as Prefect's own scheduler reads it."""
    return asyncio.run(_runs_every_hour(line))


async def _runs_every_hour(line: str) -> bool:
    from prefect.server.schemas.schedules import CronSchedule

    schedule = CronSchedule(cron=line, timezone="UTC")
    (first,) = await schedule.get_dates(1, datetime(2026, 1, 1, tzinfo=UTC))
    hours = (first.replace(hour=hour, minute=0, second=0, microsecond=0) for hour in range(24))
    return all([await schedule.get_dates(1, hour, hour + timedelta(minutes=59, seconds=59)) for hour in hours])


def _default_schedule(entry: dict[str, Any]) -> str | None:
    return next((schedule["cron"] for schedule in entry.get("schedules", [])), None)


def _of_source(source: str, settings: Settings, several: bool) -> Iterator[Deployment]:
    adapter_name(source, settings)
    own = settings.source(source)
    unused = dict(own.schedules)
    known = []
    for entry in _entries("source"):
        flow = _flow_name(entry)
        known.append(f"{flow}_{entry['name']}")
        schedule = unused.pop(known[-1], _default_schedule(entry)) or None
        yield Deployment(
            flow=flow,
            name=f"{entry['name']}-{source}" if several else entry["name"],
            source=source,
            entrypoint=entry["entrypoint"],
            pool=entry["work_pool"]["name"],
            schedule=schedule,
            timezone=_zone_of(schedule, own.timezone, f"{flow}/{entry['name']} of {source}"),
            limit=entry["concurrency_limit"],
            parameters={**entry.get("parameters", {}), "source": source},
        )
    if unused:
        raise ForecastError(
            f"ICU_SOURCES__{source.upper()}__SCHEDULES names {', '.join(sorted(unused))}; known are {', '.join(known)}."
        )


@cache
def _read_plan() -> dict[str, Any]:
    return yaml.safe_load(PLAN.read_text())


def known_pools() -> list[str]:
    """Names of the work pools in prefect.yaml."""
    return [pool["name"] for pool in _read_plan()["work_pools"]]


def configured_sources(named: list[str] | None) -> list[str]:
    """The sources named, else all that have settings. Raises ForecastError if there are none."""
    sources = named or sorted(load_settings().sources)
    if not sources:
        raise ForecastError(
            "No source to deploy: name one (icu-forecast deploy clif), or configure one with ICU_SOURCES__<NAME>__URL "
            "(.env.example)."
        )
    return sources


def require_server() -> str:
    """URL of the Prefect server. Raises ForecastError if none is configured: a temporary one schedules nothing."""
    from prefect.settings import PREFECT_API_URL

    if url := PREFECT_API_URL.value():
        return url
    raise ForecastError(
        "No Prefect server is configured. Start one (`prefect server start`, docs/operations.md) and set "
        "PREFECT_API_URL, e.g. http://127.0.0.1:4200/api, and PREFECT_API_AUTH_STRING if it needs a password."
    )


def deploy(sources: list[str], *, only_these: bool) -> list[dict[str, str]]:
    """Apply the plan for `sources`; returns a row per object on the server, with what was done.

    only_these: keep the deployments of other sources; otherwise those of sources without settings are removed.
    Raises ForecastError if the server does not answer or refuses.
    """
    from prefect.exceptions import PrefectHTTPStatusError

    url, wanted = require_server(), plan_deployments(sources)
    try:
        return asyncio.run(_apply(wanted, only_these))
    except PrefectHTTPStatusError as error:
        code = error.response.status_code
        hint = "; set PREFECT_API_AUTH_STRING as on the server" if code in (401, 403) else ""
        raise ForecastError(f"The Prefect server at {url} refused ({code}){hint}.") from None
    except (OSError, RuntimeError) as error:
        raise ForecastError(
            f"The Prefect server at {url} does not answer ({type(error).__name__}); check that it runs, and its URL."
        ) from None


async def _apply(wanted: list[Deployment], only_these: bool) -> list[dict[str, str]]:
    from prefect.client.orchestration import get_client

    plan = _read_plan()
    async with get_client() as client:
        await client.hello()
        done = [await _apply_pool(client, pool) for pool in plan["work_pools"]]
        done += [await _apply_deployment(client, deployment) for deployment in wanted]
        done += await _remove_stale(client, wanted, only_these)
        done += [await _apply_automation(client, automation) for automation in plan["automations"]]
    return done


def _row(kind: str, name: str, done: str, **details: Any) -> dict[str, str]:
    return {"kind": kind, "name": name, "done": done, "details": ", ".join(f"{k} {v}" for k, v in details.items())}


async def _apply_pool(client: "PrefectClient", pool: dict[str, Any]) -> dict[str, str]:
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    limits = {"concurrency_limit": pool["concurrency_limit"], "description": pool["description"]}
    try:
        there = await client.read_work_pool(pool["name"])
        await client.update_work_pool(pool["name"], WorkPoolUpdate(**limits))
        done = "updated, still paused" if there.is_paused else "updated"
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        await client.create_work_pool(
            WorkPoolCreate(name=pool["name"], type="process", base_job_template=template, **limits)
        )
        done = "created"
    return _row("work pool", pool["name"], done, limit=pool["concurrency_limit"])


async def _apply_deployment(client: "PrefectClient", wanted: Deployment) -> dict[str, str]:
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.deployments.runner import RunnerDeployment
    from prefect.schedules import Cron
    from prefect.types.entrypoint import EntrypointType
    from prefect.utilities.importtools import import_object

    there = await _read_deployment(client, wanted.full_name)
    before = there or await _renamed(client, wanted)
    is_active = before is None or _is_active(before.schedules, wanted)
    schedules = [Cron(wanted.schedule, timezone=wanted.timezone, active=is_active)] if wanted.schedule else []
    deployment = RunnerDeployment.from_flow(
        import_object(wanted.entrypoint),
        name=wanted.name,
        schedules=schedules,
        # Both would be reset otherwise: whoever paused them had a reason.
        paused=before is not None and before.paused,
        parameters=wanted.parameters,
        tags=wanted.tags,
        work_pool_name=wanted.pool,
        concurrency_limit=ConcurrencyLimitConfig(**wanted.limit),
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    if there and there.schedules and not schedules:
        # An update without schedules keeps the existing ones.
        for schedule in there.schedules:
            await client.delete_deployment_schedule(there.id, schedule.id)
    await deployment.aapply()
    when = f"{wanted.schedule} {wanted.timezone}" if wanted.schedule else "by hand"
    done = "updated" if there else "created"
    if before and before.paused:
        done += ", still paused"
    elif schedules and not is_active:
        done += ", its schedule still paused"
    return _row("deployment", wanted.full_name, done, pool=wanted.pool, runs=when)


async def _read_deployment(client: "PrefectClient", name: str) -> "DeploymentResponse | None":
    from prefect.exceptions import ObjectNotFound

    try:
        return await client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


async def _renamed(client: "PrefectClient", wanted: Deployment) -> "DeploymentResponse | None":
    """The deployment under the name that it had while the number of sources was another; `_remove_stale` removes it."""
    if wanted.source is None:
        return None
    suffix = f"-{wanted.source}"
    name = wanted.full_name.removesuffix(suffix) if wanted.name.endswith(suffix) else wanted.full_name + suffix
    found = await _read_deployment(client, name)
    return found if found and set(wanted.tags) <= set(found.tags) else None


def _is_active(schedules: "list[DeploymentSchedule]", wanted: Deployment) -> bool:
    """Whether the schedule of a deployment on the server runs: that of the same line, else any of them."""
    line = (wanted.schedule, wanted.timezone)
    same = [one for one in schedules if (getattr(one.schedule, "cron", None), one.schedule.timezone) == line]
    return not schedules or any(one.active for one in same or schedules)


async def _remove_stale(client: "PrefectClient", wanted: list[Deployment], only_these: bool) -> list[dict[str, str]]:
    """Remove our deployments that are no longer in the plan; their runs stay in Prefect's history."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    ours = await client.read_deployments(
        deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG])), limit=200
    )
    keep = {deployment.full_name for deployment in wanted}
    touched = {tag for deployment in wanted for tag in deployment.tags} - {TAG}
    rows = []
    for deployment in ours:
        name = f"{(await client.read_flow(deployment.flow_id)).name}/{deployment.name}"
        if name not in keep and not (only_these and touched.isdisjoint(deployment.tags)):
            await client.delete_deployment(deployment.id)
            rows.append(_row("deployment", name, "removed"))
    return rows


async def _apply_automation(client: "PrefectClient", entry: dict[str, Any]) -> dict[str, str]:
    from prefect.events.schemas.automations import AutomationCore

    actions = [await _resolved(client, action) for action in entry["actions"]]
    automation = AutomationCore.model_validate({**entry, "actions": actions})
    there = await client.read_automations_by_name(automation.name)
    if not there:
        await client.create_automation(automation)
        return _row("automation", automation.name, "created")
    automation.enabled = there[0].enabled
    await client.update_automation(there[0].id, automation)
    return _row("automation", automation.name, "updated" if automation.enabled else "updated, still paused")


async def _resolved(client: "PrefectClient", action: dict[str, Any]) -> dict[str, Any]:
    """The action with the id of its deployment on the server instead of the name."""
    if "deployment" not in action:
        return action
    there = await client.read_deployment_by_name(action["deployment"])
    return {name: value for name, value in action.items() if name != "deployment"} | {"deployment_id": there.id}
