"""Searches for better settings of the networks of a source, judged out of fold on the stays that training learns from."""

import json
import re
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sqlalchemy import Engine

from flows.jobs.train import cutoff_of
from flows.runtime.compute import map_shards, n_workers
from flows.runtime.databases import adapter_name, open_store
from flows.runtime.log import log
from flows.runtime.quiet_tensorflow import import_tensorflow
from flows.runtime.settings import load_settings
from flows.shards.members import handed_over
from flows.shards.stored_stays import read_some, read_stored
from rnn_core.contracts.config import ModelConfig
from rnn_core.contracts.errors import DataTooSmallError, ForecastError
from rnn_core.contracts.frames import EpochRecord
from rnn_core.contracts.options import configure, write_options
from rnn_core.series.mapped import save_whole
from rnn_core.series.splits import split_stays
from rnn_core.statistics.bootstrap import Estimate
from rnn_core.statistics.selection import chosen_less_default
from sql.intake.adapter import load_adapter
from sql.store.studies import has_studies, study_storage

if TYPE_CHECKING:
    import optuna

    from rnn_core.series.material import Material

# Seconds: a worker that has been silent for so long is taken for dead, and its trial is repeated by another.
_HEARTBEAT, _GRACE = 30, 180
# Trials before any is pruned.
_STARTUP = 5
# What the sampler knows as the settings of the base: the first trial.
_DEFAULT = 0


@dataclass(frozen=True)
class Tuned:
    """A search that has ended: its study, losses of its finished trials, and what the best of them is worth.

    trials: numbers, the default's first. losses: [trials, patients], rows [patients], see `chosen_less_default`. gain: loss of
    the chosen less that of the default, corrected for having been chosen.
    """

    study: "optuna.Study"
    trials: list[int]
    losses: np.ndarray
    rows: np.ndarray
    gain: Estimate
    options: dict[str, Any]

    @property
    def best(self) -> int:
        return self.trials[int(np.argmin(self.losses.sum(axis=1)))]

    def loss(self, trial: int) -> float:
        return float(self.losses[self.trials.index(trial)].sum() / self.rows.sum())

    def verdict(self) -> str:
        if self.best == self.trials[_DEFAULT]:
            return "No setting was better than the default."
        shown = f"{self.gain.value:+.3f} nats per forecast ({self.gain.low:+.3f} to {self.gain.high:+.3f})"
        if not np.isfinite(self.gain.low):
            return "There are too few patients to say whether the best setting is better than the default."
        if self.gain.high < 0:
            return f"The best setting is better than the default: {shown}, corrected for having been chosen."
        return f"Chance may decide between the best setting and the default: {shown}, corrected for having been chosen."


@dataclass(frozen=True)
class Search:
    """What a worker is told: where the material is, and when to end. base: options that all trials share."""

    folder: Path
    study: str
    seed: int
    until: float
    trials: int


def tune(
    source: str,
    as_of: datetime,
    trials: int = 40,
    hours: float = 2.0,
    base: Mapping[str, Any] | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Search until so many trials of the study have ended, or so many hours have passed; write a page and a file of options.

    base: options of a training that all trials share; those that are searched are the first trial's, the default. The study
    is that of the source, the time and the base: the same call resumes it, and several may work on it. Networks learn from
    stays that a training as of `as_of` learns from; no stay that judges one has a part.

    Raises ForecastError without the extra `tune`, DataTooSmallError without stays.
    """
    _import_optuna()
    until, store = time.time() + 3600 * hours, open_store()
    config = configure({**(base or {}), "forecaster": "recurrent"}).model
    if config.train.cells:
        raise ForecastError("A search varies the cell of one network per member; give one cell, or none.")
    import_tensorflow()
    from rnn_core.forecasters.training_material import build_material

    now = read_some(store, source, as_of)
    then = read_stored(store, source, cutoff_of(now.stays).tz_localize("UTC").to_pydatetime())
    learned = split_stays(then.stays, then.as_of).learned & then.sound
    if not learned.any():
        raise DataTooSmallError(f"No stay known at {then.as_of} can be learned from. Load more finished stays.")
    name = _study_name(source, then.stays, then.as_of, config)
    folder = load_settings().artifact_folder / ".tuning" / name
    study = _open_study(store, name, config)
    log.info("study %s: %d trials so far, %d stays to learn from", name, len(_counted(study)), int(learned.sum()))
    material, _ = build_material(then, learned, config, load_adapter(adapter_name(source)).sampling, folder / "read")
    try:
        if len(_counted(study)) < trials:
            _search(store, Search(folder, name, config.train.seed, until, trials), material, learned, config)
    finally:
        shutil.rmtree(folder / "read", ignore_errors=True)
    tuned = _judge(study, folder, material, learned, base or {})
    return _report(source, tuned, out)


def _import_optuna() -> None:
    try:
        import optuna
    except ImportError:
        raise ForecastError("A search needs the package `optuna`: pip install 'icu-forecast[tune]'.") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _study_name(source: str, stays: pd.DataFrame, as_of: np.datetime64, config: ModelConfig) -> str:
    digest = blake2b(json.dumps(config.to_json()).encode(), digest_size=4)
    digest.update(pd.util.hash_pandas_object(stays.astype(str)).to_numpy().tobytes())
    return f"{source}-{str(as_of)[:13]}-{digest.hexdigest()}"


def _open_study(store: Engine, name: str, config: ModelConfig | None = None, seed: int = 0) -> "optuna.Study":
    """The study of this name; with `config` it is made, and its first trial is what the config has."""
    import optuna

    from rnn_core.forecasters.search import values_of

    # The heartbeat is an experimental part of Optuna.
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    url, arguments = study_storage(store)
    storage = optuna.storages.RDBStorage(
        url,
        engine_kwargs=arguments,
        heartbeat_interval=_HEARTBEAT,
        grace_period=_GRACE,
        heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
    )
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        load_if_exists=True,
        direction="minimize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP),
    )
    if config is not None and not study.get_trials(deepcopy=False):
        study.enqueue_trial(values_of(config), user_attrs={"default": True}, skip_if_exists=True)
    return study


def newest_study(store: Engine, source: str) -> "optuna.Study | None":
    """The study of `source` whose cut-off is the latest; None without one, or without the extra `tune`."""
    try:
        _import_optuna()
    except ForecastError:
        return None
    if not has_studies(store):
        return None
    import optuna

    url, arguments = study_storage(store)
    storage = optuna.storages.RDBStorage(url, engine_kwargs=arguments)
    own = re.compile(rf"{re.escape(source)}-\d{{4}}-\d\d-\d\dT\d\d-[0-9a-f]{{8}}")
    names = [name for name in optuna.get_all_study_names(storage) if own.fullmatch(name)]
    return optuna.load_study(study_name=max(names), storage=storage) if names else None


def _counted(study: "optuna.Study") -> list["optuna.trial.FrozenTrial"]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _search(store: Engine, search: Search, material: "Material", learned: np.ndarray, config: ModelConfig) -> None:
    workers = n_workers()
    if workers == 1:
        _optimize(store, search, material, learned, config)
        return
    seeds = [search.seed + number for number in range(workers)]
    with handed_over(search.folder / "members", material, learned, config):
        map_shards(store, search_in_worker, [Search(**{**vars(search), "seed": seed}) for seed in seeds], "searching")


def search_in_worker(store: Engine, search: Search) -> int:
    """Trials of a study until it has enough, or the time is over; how many it has then."""
    _import_optuna()
    import_tensorflow()
    from rnn_core.series.material_files import read_material

    folder = search.folder / "members"
    config = ModelConfig.from_json(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    return _optimize(store, search, read_material(folder), np.load(folder / "learned.npy"), config)


def _optimize(store: Engine, search: Search, material: "Material", learned: np.ndarray, config: ModelConfig) -> int:
    import optuna

    study = _open_study(store, search.study, seed=search.seed + len(_counted(_open_study(store, search.study))))
    objective = partial(_objective, search.folder, material, learned, config)
    if len(_counted(study)) >= search.trials or time.time() >= search.until:
        return len(_counted(study))
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    enough = optuna.study.MaxTrialsCallback(search.trials, states=states)
    study.optimize(objective, timeout=search.until - time.time(), callbacks=[enough, _log_trial])
    return len(_counted(study))


def _objective(
    folder: Path, material: "Material", learned: np.ndarray, config: ModelConfig, trial: "optuna.Trial"
) -> float:
    from rnn_core.forecasters.search import SPACE, judge_out_of_fold, options_of

    chosen = with_options(config, options_of({one.name: _suggest(trial, one) for one in SPACE}))
    judged = judge_out_of_fold(material, learned, chosen, partial(_after_epoch, trial))
    trial.set_user_attr("histories", [[_short(record) for record in history] for history in judged.histories])
    save_whole(folder / f"trial-{trial.number}.npz", losses=judged.losses, rows=judged.rows)
    return judged.loss


def with_options(config: ModelConfig, options: Mapping[str, Any]) -> ModelConfig:
    """`config` with some of the options of a training."""
    from rnn_core.contracts.options import TrainingConfig, settings

    found = TrainingConfig(config)
    for name, value in options.items():
        path = ("model", "network", "cell") if name == "cell" else settings()[name].path
        found = found.changed(path, value if name == "cell" else settings()[name].parsed(value))
    return found.model


def _suggest(trial: "optuna.Trial", varied: Any) -> Any:
    if varied.choices:
        return trial.suggest_categorical(varied.name, varied.choices)
    suggest: Callable[..., Any] = trial.suggest_int if varied.whole else trial.suggest_float
    return suggest(varied.name, varied.low, varied.high, log=varied.log)


def _after_epoch(trial: "optuna.Trial", fold: int, record: EpochRecord) -> None:
    """The first fold decides whether a trial goes on: its epochs are the same in all trials."""
    import optuna

    if fold == 0:
        trial.report(record["valid_loss"], int(record["epoch"]))
        if trial.should_prune():
            raise optuna.TrialPruned()


def _short(record: EpochRecord) -> dict[str, float]:
    return {name: round(float(record[name]), 5) for name in ("epoch", "train_loss", "valid_loss")}


def _log_trial(study: "optuna.Study", trial: "optuna.trial.FrozenTrial") -> None:
    loss = f"{trial.value:.4f}" if trial.value is not None and trial.state.name == "COMPLETE" else "-"
    found = (
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in trial.params.items()
    )
    log.info("trial %d %s: loss %s (%s)", trial.number, trial.state.name.lower(), loss, ", ".join(found))


def _judge(
    study: "optuna.Study", folder: Path, material: "Material", learned: np.ndarray, base: Mapping[str, Any]
) -> Tuned:
    from optuna.trial import TrialState

    from rnn_core.forecasters.search import options_of

    finished = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if (folder / f"trial-{trial.number}.npz").exists()
    ]
    finished.sort(key=lambda trial: not trial.user_attrs.get("default", False))
    if not finished or not finished[0].user_attrs.get("default"):
        raise ForecastError(
            "The default was not judged in the time given; give more --hours, the search goes on from here."
        )
    patient, _ = pd.factorize(material.known.stays["patient_id"])
    losses, rows = [], np.zeros(0)
    for trial in finished:
        with np.load(folder / f"trial-{trial.number}.npz") as found:
            losses.append(np.bincount(patient, found["losses"]))
            rows = np.bincount(patient, found["rows"])
    judged = rows > 0
    by_patient = np.stack(losses)[:, judged]
    numbers = [trial.number for trial in finished]
    gain = chosen_less_default(by_patient, rows[judged])
    best = finished[int(np.argmin(by_patient.sum(axis=1)))]
    return Tuned(study, numbers, by_patient, rows[judged], gain, {**base, **options_of(best.params)})


def _report(source: str, tuned: Tuned, out: Path | None) -> dict[str, Any]:
    from flows.pages.page import write_text
    from flows.pages.tuning import write_page

    page = out or load_settings().home / "reports" / f"tune-{source}.html"
    write_page(page, source, tuned.study, tuned.trials[_DEFAULT], tuned.best, tuned.verdict())
    head = f"# {tuned.study.study_name}, trial {tuned.best}. {tuned.verdict()}\n"
    file = page.with_suffix(".yaml")
    write_text(file, head + write_options(tuned.options))
    states = [trial.state.name for trial in tuned.study.get_trials(deepcopy=False)]
    return {
        "study": tuned.study.study_name,
        "trials": len(states),
        "pruned": states.count("PRUNED"),
        "best trial": tuned.best,
        "loss of the best": round(tuned.loss(tuned.best), 4),
        "loss of the default": round(tuned.loss(tuned.trials[_DEFAULT]), 4),
        "verdict": tuned.verdict(),
        "page": str(page),
        "options": str(file),
    }
