"""Which model serves next: the gate for a waiting model, called by hand and by every evaluation."""

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from flows.jobs.train import judge_beside
from flows.runtime import clock
from flows.runtime.log import log
from flows.runtime.settings import load_settings
from flows.shards.stored_stays import read_stored
from rnn_core.contracts.errors import ForecastError
from sql.published import registry

if TYPE_CHECKING:
    from rnn_core.evaluation.gate import Verdict


def judge_candidate(store: Engine, model_id: str, as_of: datetime) -> "Verdict":
    """The gate's verdict on a stay model that does not serve, on the newest stays that neither it nor the serving model
    has learned from, by what is known at `as_of`.

    Raises ForecastError if there is nothing to compare it with, ArtifactError if an artifact is damaged.
    """
    row = registry.read_model(store, model_id)
    serving = registry.serving_model(store, row["source"], row["name"])
    if serving is None and "recalibrated_from" in row["metrics"]:
        from rnn_core.evaluation.gate import Verdict

        return Verdict(
            "provisional", f"Recalibrated from {row['metrics']['recalibrated_from']}; nothing served before."
        )
    if row["name"] != "stay" or serving is None or serving["model_id"] == model_id:
        raise ForecastError(
            f"{model_id} cannot be evaluated: the gate compares a waiting stay model with the serving one. "
            "`--force` promotes without a verdict."
        )
    from rnn_core.forecasters.stay import load_stay_forecaster

    folder = load_settings().artifact_folder
    ours, theirs = (load_stay_forecaster(folder / each["artifact"]) for each in (row, serving))
    then, now = (read_stored(store, row["source"], time) for time in (row["data_cutoff"], as_of))
    return judge_beside(serving, theirs, ours, then, now)


def promote_challenger(store: Engine, source: str, as_of: datetime) -> dict[str, str]:
    """Submit the challenger of a source, if there is one, to the gate; it serves if it passes. Returns what to report."""
    challenger = registry.challenger(store, source)
    if challenger is None:
        return {}
    verdict = judge_candidate(store, challenger["model_id"], as_of)
    log.info("challenger %s: %s", challenger["model_id"], verdict.reason)
    if verdict.stage == "champion":
        registry.set_stage(store, challenger["model_id"], "champion", verdict.reason)
    return {"challenger": challenger["model_id"], "its stage": verdict.stage, "verdict": verdict.reason}


def promote(store: Engine, model_id: str, reason: str | None, force: bool) -> dict:
    """Let a model serve if it passes the gate, or with `force`; returns its stage and the model it retired.

    Raises ForecastError if it does not pass, or is forced without a reason.
    """
    if force:
        if not reason:
            raise ForecastError('A promotion past the gate needs a reason: add --reason "...".')
        stage, why = "champion", f"by hand, past the gate: {reason}"
    else:
        verdict = judge_candidate(store, model_id, clock.slot(None))
        if verdict.stage not in registry.SERVING:
            raise ForecastError(
                f'{model_id} does not pass the gate. {verdict.reason} `--force --reason "..."` promotes it anyway.'
            )
        stage, why = verdict.stage, f"{verdict.reason} {reason or ''}".strip()
    before = registry.set_stage(store, model_id, stage, why)
    return {"model_id": model_id, "stage": stage, "retired": before["model_id"] if before else None}
