"""The refresh flow: decides whether a source has enough new data, and starts a training in the GPU pool."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Engine

from flows.runtime.databases import open_store
from flows.runtime.flow import flow
from flows.runtime.log import log
from flows.runtime.naming import run_name
from flows.runtime.run_report import report_run
from flows.runtime.settings import load_settings
from flows.runtime.steps import recorded_alone, step
from flows.server.deploy import TAG, source_tag
from rnn_core.contracts.errors import ArtifactError, ForecastError
from sql.published import canonical, registry, results, runs

# With fewer newly finished stays a training can wait for the next refresh.
MIN_NEW_STAYS = 20


@flow(name="refresh", flow_run_name=run_name)
def refresh(source: str, as_of: datetime | None = None, min_new_stays: int = MIN_NEW_STAYS) -> dict:
    """Start the training of `source` in its own pool, without waiting for it; returns counts.

    min_new_stays: with fewer stays ended since the last training, none is started unless an evaluation since then found
    drift, or a serving model cannot be loaded. A source without any training always starts one.
    """
    store = open_store()
    with recorded_alone(store, source, "refresh", as_of) as run:
        new = count_new_stays(store, source, run.as_of)
        drifted = count_drifted(store, source)
        fault = find_fault(store, source)
        run.counts |= {
            "finished stays since the last training": new,
            "drifted concepts since": "not evaluated" if drifted is None else drifted,
            "serving models": fault or "intact",
            "training run": None,
        }
        if new is None or new >= min_new_stays or drifted or fault:
            run.counts["training run"] = start_training(source, run.as_of)
        else:
            log.info(
                "%s: %d stays ended since the last training, %d are needed, and %s; no training",
                source,
                new,
                min_new_stays,
                "no evaluation looked for drift since" if drifted is None else "nothing drifted",
            )
        runs.finish_run(store, run.run_id)
        report_run(run, "refresh")
    return run.counts


@step("count newly finished stays", retries=2)
def count_new_stays(store: Engine, source: str, as_of: datetime) -> int | None:
    """Stays that ended since the last training, None if there was none."""
    last = runs.last_slot(store, source, "train")
    if last is None:
        return None
    stays = canonical.read_stays(store, source, as_of, only_sound=True)
    return int((stays["outtime"] > last.replace(tzinfo=None)).sum())


@step("count drifted concepts", retries=2)
def count_drifted(store: Engine, source: str) -> int | None:
    """Concepts that an evaluation after the last training found drifted; None if there was no such evaluation."""
    last, evaluated = runs.last_slot(store, source, "train"), runs.last_slot(store, source, "evaluate")
    if last is None or evaluated is None or evaluated <= last:
        return None
    return results.count_drifted(store, source)


@step("check the serving models")
def find_fault(store: Engine, source: str) -> str | None:
    """Why an artifact that serves, of a forecaster of stays, units or arrivals, cannot be loaded; None if each can."""
    from rnn_core.forecasters.artifact import check_artifact

    serving = [found for name in registry.NAMES if (found := registry.serving_model(store, source, name))]
    try:
        for model in serving:
            check_artifact(load_settings().artifact_folder / model["artifact"])
    except ArtifactError as error:
        log.warning("a serving model cannot be loaded: %s", error)
        return str(error)
    return None


@step("start the training")
def start_training(source: str, as_of: datetime) -> str:
    """Name of the flow run that trains; the same run for the same slot."""
    from prefect.deployments import run_deployment

    run = run_deployment(
        _training_deployment(source),
        parameters={"source": source, "as_of": as_of},
        timeout=0,
        as_subflow=False,
        idempotency_key=f"train {source} {as_of.isoformat()}",
    )
    log.info("training of %s started as %s in its own pool", source, run.name)
    return str(run.name)


def _training_deployment(source: str) -> UUID:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags, FlowFilter, FlowFilterName

    with get_client(sync_client=True) as client:
        found = client.read_deployments(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["train"])),
            deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG, source_tag(source)])),
        )
    if not found:
        raise ForecastError(f"No training of {source} is deployed; run `icu-forecast deploy`.")
    return found[0].id
