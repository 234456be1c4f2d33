"""The train flow: fit a challenger, judge it, register it, and let it serve where it passed the gate."""

import shutil
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from prefect import flow
from sqlalchemy import Engine

from flows import clock
from flows.databases import open_source, open_store
from flows.log import import_tensorflow, log
from flows.reports import report_run
from flows.settings import load_settings
from flows.tasks import Recorded, recorded, step
from rnn_core.config import ClassicConfig, ModelConfig, Sampling
from rnn_core.errors import ArtifactError, ContractError, DataTooSmallError
from rnn_core.frames import Observations
from sql import canonical, registry, results

if TYPE_CHECKING:
    from rnn_core.forecaster import FitReport, StayForecaster
    from rnn_core.gate import Verdict

# The newest stays, by admission, judge a model and have no part in fitting it.
HOLD_OUT_SHARE = 0.15


@dataclass(frozen=True)
class TrainingSet:
    """What a training reads, as known at `as_of`; the model may only learn from what was known at `cutoff`."""

    stays: pd.DataFrame
    observations: Observations
    as_of: np.datetime64
    cutoff: np.datetime64
    sampling: Sampling


@flow(name="train", flow_run_name="train-{source}")
def train(
    source: str, as_of: datetime | None = None, warm: bool = True, seed: int = 0, epochs: int | None = None,
    cell: str = "lstm",
) -> dict:  # fmt: skip
    """Train the stay forecaster and the unit forecaster of `source` on what was known at `as_of`; returns counts.

    warm: start from the serving model where it has the same shape. An interrupted training goes on where it stopped.
    """
    store = open_store()
    as_of = clock.slot(as_of, clock.scheduled_time())
    config = _configure(seed, epochs, cell)
    with recorded(store, source, "train", as_of) as run:
        material = read_training_set(store, source, as_of)
        incumbent = registry.serving_model(store, source, "stay")
        forecaster, report = fit(source, material, config, load_warm(incumbent, config) if warm else None)
        verdict = give_verdict(incumbent, forecaster, report, material)
        model_id = _model_id(run, "stay")
        save(model_id, forecaster, report, material)
        register(store, run, model_id, forecaster, report, material, verdict, incumbent)
        run.counts |= _told(model_id, report, verdict)
        run.counts |= train_units(store, run, material.cutoff, seed)
        results.finish_run(store, run.run_id)
        report_run(run, "train")
    return run.counts


def _configure(seed: int, epochs: int | None, cell: str) -> ModelConfig:
    config = ModelConfig()
    training = replace(config.train, seed=seed, epochs=epochs or config.train.epochs)
    return replace(config, train=training, network=replace(config.network, cell=cell))


@step("read the training set", retries=2)
def read_training_set(store: Engine, source: str, as_of: datetime) -> TrainingSet:
    adapter, _, _ = open_source(source)
    stays = canonical.read_stays(store, source, as_of, only_sound=True)
    if len(stays) == 0:
        raise DataTooSmallError(
            f"There is no stay of {source} as of {as_of.isoformat()}; run `icu-forecast ingest {source}`."
        )
    observations = canonical.read_observations(store, source, stays, as_of)
    cutoff = stays["intime"].quantile(1 - HOLD_OUT_SHARE).floor("h")
    log.info(
        "%d stays, %s observations; learning from what was known at %s", len(stays), f"{len(observations):,}", cutoff
    )
    moment = np.datetime64(as_of.replace(tzinfo=None), "us")
    return TrainingSet(stays, observations, moment, np.datetime64(cutoff, "us"), adapter.sampling)


def load_warm(incumbent: dict | None, config: ModelConfig) -> "StayForecaster | None":
    """The serving model to start from; None where there is none or it has another shape."""
    if incumbent is None:
        return None
    import_tensorflow()
    from rnn_core.forecaster import load_stay_forecaster

    try:
        forecaster = load_stay_forecaster(load_settings().artifact_folder / incumbent["artifact"])
    except ArtifactError as error:
        log.warning("No warm start: %s", error)
        return None
    shape = (forecaster.config.network.cell, forecaster.config.network.units, forecaster.config.window)
    if shape != (config.network.cell, config.network.units, config.window):
        log.info("No warm start: the serving model has another shape.")
        return None
    return forecaster


@step("fit the stay forecaster")
def fit(
    source: str, material: TrainingSet, config: ModelConfig, warm: "StayForecaster | None"
) -> "tuple[StayForecaster, FitReport]":
    import_tensorflow()
    from rnn_core.forecaster import fit_stay_forecaster

    def start(warm: "StayForecaster | None", config: ModelConfig) -> "tuple[StayForecaster, FitReport]":
        return fit_stay_forecaster(
            material.stays, material.observations, material.cutoff, material.as_of, config, sampling=material.sampling,
            checkpoint_dir=_checkpoints(source), warm_from=warm, progress=_tell_epoch,
        )  # fmt: skip

    if warm is None:
        return start(None, config)
    try:
        # A refresh takes the fine steps only: large ones would forget what the serving model knew.
        return start(warm, replace(config, train=replace(config.train, learning_rate=config.train.learning_rate / 4)))
    except ContractError as error:
        log.warning("No warm start: %s", error)
        return start(None, config)


def _tell_epoch(record: dict[str, float]) -> None:
    log.info(
        "epoch %d of %d: loss %.4f, validation %.4f (%.1f s)", record["epoch"], record["epochs"], record["train_loss"],
        record["valid_loss"], record["seconds"],
    )  # fmt: skip


def _checkpoints(source: str) -> Path:
    return load_settings().artifact_folder / ".checkpoints" / source


@step("judge")
def give_verdict(
    incumbent: dict | None, forecaster: "StayForecaster", report: "FitReport", material: TrainingSet
) -> "Verdict":
    from rnn_core.forecaster import compare, load_stay_forecaster
    from rnn_core.gate import judge_challenger, judge_first

    if incumbent is None or incumbent["stage"] == "provisional":
        return judge_first(report.metrics, report.n_deaths["judged"])
    champion = load_stay_forecaster(load_settings().artifact_folder / incumbent["artifact"])
    cutoff = max(material.cutoff, np.datetime64(incumbent["data_cutoff"].replace(tzinfo=None), "us"))
    differences, n_deaths = compare(
        forecaster, champion, material.stays, material.observations, cutoff, material.as_of,
        sampling=material.sampling,
    )  # fmt: skip
    return judge_challenger(differences, n_deaths)


@step("save the artifact")
def save(model_id: str, forecaster: "StayForecaster", report: "FitReport", material: TrainingSet) -> None:
    from rnn_core.forecaster import save_stay_forecaster

    meta = {"data_cutoff": str(material.cutoff), "as_of": str(material.as_of), "metrics": report.to_json()}
    save_stay_forecaster(load_settings().artifact_folder, model_id, forecaster, meta)


@step("register")
def register(
    store: Engine, run: Recorded, model_id: str, forecaster: "StayForecaster", report: "FitReport",
    material: TrainingSet, verdict: "Verdict", incumbent: dict | None,
) -> None:  # fmt: skip
    row = {
        "name": "stay", "ends_at": forecaster.ends_at, "config": forecaster.config.to_json(),
        "metrics": report.to_json(), "warm_from": incumbent["model_id"] if incumbent else None,
    }  # fmt: skip
    _register(store, run, model_id, row, material.cutoff)
    registry.set_stage(store, model_id, verdict.stage, verdict.reason)
    shutil.rmtree(_checkpoints(run.source), ignore_errors=True)


def _register(store: Engine, run: Recorded, model_id: str, row: dict[str, Any], cutoff: np.datetime64) -> None:
    from rnn_core.artifact import read_meta

    meta = read_meta(load_settings().artifact_folder / model_id)
    row |= {
        "model_id": model_id, "source": run.source, "artifact": model_id, "concept_hash": meta["concept_hash"],
        "git_revision": meta["git_revision"], "data_cutoff": pd.Timestamp(cutoff, tz="UTC").to_pydatetime(),
    }  # fmt: skip
    with store.begin() as connection:
        registry.register(connection, row)


@step("fit the unit forecaster")
def train_units(store: Engine, run: Recorded, cutoff: np.datetime64, seed: int) -> dict[str, Any]:
    """The classic forecaster; a source with too few stays per unit goes without, and the run says so."""
    from rnn_core.classic import fit_classic, save_classic

    lengths = canonical.read_unit_lengths(store, run.source, run.as_of)
    try:
        fitted = fit_classic(lengths, ClassicConfig(seed=seed))
    except DataTooSmallError as error:
        log.warning("No unit forecaster: %s", error)
        return {"unit forecaster": "none, too few stays per unit"}
    log.info(fitted.report.sentence())
    model_id = _model_id(run, "unit")
    save_classic(load_settings().artifact_folder, model_id, fitted, {"as_of": run.as_of.isoformat()})
    row = {"name": "unit", "config": fitted.config.to_json(), "metrics": fitted.report.to_json()}
    _register(store, run, model_id, row, np.datetime64(run.as_of.replace(tzinfo=None), "us"))
    better = fitted.report.test_mse <= min(fitted.report.last_value_mse, fitted.report.median_mse)
    stage = "champion" if better else "provisional"
    before = registry.serving_model(store, run.source, "unit")
    if before and before["stage"] == "champion" and stage == "provisional":
        stage = "challenger"
    registry.set_stage(store, model_id, stage, fitted.report.sentence())
    return {"unit forecaster": model_id, "unit forecaster test MSE": round(fitted.report.test_mse, 2)}


def _model_id(run: Recorded, name: str) -> str:
    return f"{run.source}-{name}-{run.as_of:%Y%m%dT%H}-{run.run_id}"


# What the run's report shows; everything else is in forecast.model.metrics.
_SHOWN = (
    "mortality_auroc", "mortality_auprc", "mortality_brier", "mortality_calibration_slope",
    "los_mean_absolute_error_days", "los_concordance", "los_interval_coverage",
)  # fmt: skip


def _told(model_id: str, report: "FitReport", verdict: "Verdict") -> dict[str, Any]:
    told: dict[str, Any] = {"model": model_id, "stage": verdict.stage, "reason": verdict.reason}
    told |= {f"{part} stays": f"{n} ({report.n_deaths[part]} died)" for part, n in report.n_stays.items()}
    for name in _SHOWN:
        estimate, trivial = report.metrics[name], report.metrics[f"baseline_{name}"]
        told[name] = (
            f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f}), without a model {trivial.value:.3f}"
        )
    return told
