"""Copies what is known of a trained model to MLflow, where MLFLOW_TRACKING_URI is set; the registry stays what serves."""

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

from flows.runtime.log import log
from flows.runtime.settings import load_settings, mlflow_uri
from flows.runtime.steps import step
from rnn_core.contracts.config import ModelConfig
from rnn_core.contracts.options import TrainingConfig, chosen_in, settings
from sql.published import registry

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Longest value of a parameter that every store of MLflow takes.
_LONGEST = 500


@step("log to MLflow")
def track(store: Engine, model_id: str) -> str | None:
    """Log parameters, metrics with intervals, losses per epoch and the model card; no patient data. Returns MLflow's run.

    A training does not fail because of it: what goes wrong is a warning.
    """
    uri = mlflow_uri()
    if uri is None:
        return None
    try:
        from mlflow import MlflowClient
    except ImportError:
        log.warning("MLFLOW_TRACKING_URI is set, but MLflow is missing: pip install 'icu-forecast[track]'.")
        return None
    try:
        return _log(MlflowClient(tracking_uri=uri), registry.read_model(store, model_id))
    except Exception as error:
        log.warning(
            "%s was not logged to MLflow (%s); the model is registered all the same.", model_id, type(error).__name__
        )
        return None


def _log(client: "MlflowClient", row: Mapping[str, Any]) -> str:
    from mlflow.entities import Metric, Param, RunTag

    from rnn_core.forecasters.artifact import read_meta
    from rnn_core.reporting.model_card import write_card

    name = f"icu-forecast {row['source']}"
    experiment = client.get_experiment_by_name(name)
    run = client.create_run(
        experiment.experiment_id if experiment else client.create_experiment(name), run_name=row["model_id"]
    )
    run_id = run.info.run_id
    chosen = chosen_in(TrainingConfig(ModelConfig.from_json(row["config"])))
    parameters = {key: value for key, value in chosen.items() if settings()[key].path[0] == "model"}
    now = run.info.start_time
    client.log_batch(
        run_id,
        metrics=[Metric(key, value, now, at) for key, value, at in _metrics(row["metrics"])],
        params=[Param(key, _shown(value)) for key, value in parameters.items()],
        tags=[RunTag(key, str(row[key])) for key in ("model_id", "source", "stage", "data_cutoff", "git_revision")],
    )
    card = write_card(read_meta(load_settings().artifact_folder / row["artifact"]), row)
    client.log_text(run_id, card, "model_card.md")
    client.set_terminated(run_id)
    log.info("logged to MLflow as run %s of %s", run_id, name)
    return run_id


def _metrics(stored: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """Name, value and step."""
    for name, found in stored.get("metrics", {}).items():
        for key, value in (("", found["value"]), ("_low", found["low"]), ("_high", found["high"])):
            if value is not None and isfinite(value):
                yield f"{name}{key}", float(value), 0
    for number, history in enumerate(stored.get("histories", []), start=1):
        for record in history:
            for name in ("train_loss", "valid_loss"):
                yield f"network_{number}_{name}", float(record[name]), int(record["epoch"])


def _shown(value: Any) -> str:
    return (",".join(map(str, value)) if isinstance(value, tuple) else str(value))[:_LONGEST]
