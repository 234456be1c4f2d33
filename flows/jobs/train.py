"""The train flow: fit a model, evaluate it, register it, and let it serve if it passes the gate."""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
from sqlalchemy import Engine

from flows.jobs.start import Start, ancestor, find_start, learned_from
from flows.jobs.tracking import track
from flows.runtime import clock
from flows.runtime.databases import adapter_name, open_source, open_store
from flows.runtime.flow import flow
from flows.runtime.log import log
from flows.runtime.naming import run_name
from flows.runtime.quiet_tensorflow import import_tensorflow
from flows.runtime.run_report import report_run
from flows.runtime.settings import load_settings
from flows.runtime.steps import Recorded, recorded_alone, step
from flows.shards.members import after_epoch, checkpoints, fit_side_by_side
from flows.shards.stored_stays import read_some, read_stored
from rnn_core.contracts.config import ArrivalConfig, Kind, ModelConfig, Sampling, UnitConfig
from rnn_core.contracts.errors import ArtifactError, ContractError, DataTooSmallError, ForecastError
from rnn_core.contracts.known import Cohort
from rnn_core.contracts.options import configure
from rnn_core.series.finished_stays import FinishedStays
from rnn_core.series.splits import split_stays
from sql.intake.adapter import load_adapter
from sql.published import canonical, registry, runs

if TYPE_CHECKING:
    from rnn_core.evaluation.gate import Verdict
    from rnn_core.evaluation.judged_fit import FitReport
    from rnn_core.forecasters.arrivals import ArrivalForecaster
    from rnn_core.forecasters.stay import StayForecaster
    from rnn_core.forecasters.unit import UnitForecaster

# The newest stays, by admission, evaluate a model and have no part in fitting it.
HOLD_OUT_SHARE = 0.15


# What people read about a model without a risk of death.
NO_RISK = "not forecast: the stays learned from all ended alike. Is `outcome` in stays.sql mapped?"


@dataclass(frozen=True)
class Candidate:
    """A fitted stay model on its way to the registry, the model that it started from, and the other sources it learned from."""

    model_id: str
    forecaster: "StayForecaster"
    report: "FitReport"
    verdict: "Verdict"
    start: Start | None
    learn_with: tuple[str, ...] = ()


@dataclass(frozen=True)
class UnitCandidate:
    """A fitted unit model on its way to the registry."""

    model_id: str
    fitted: "UnitForecaster"
    verdict: "Verdict"


@dataclass(frozen=True)
class ArrivalCandidate:
    """A fitted recurrent model of arrivals on its way to the registry."""

    model_id: str
    fitted: "ArrivalForecaster"
    verdict: "Verdict"


C = TypeVar("C", Candidate, UnitCandidate, ArrivalCandidate)


@flow(name="train", flow_run_name=run_name)
def train(
    source: str,
    as_of: datetime | None = None,
    warm: bool = True,
    warm_from: str | None = None,
    learn_with: Sequence[str] | None = None,
    seed: int = 0,
    epochs: int | None = None,
    members: int | None = None,
    cell: str = "lstm",
    mixed_precision: bool = False,
    forecaster: Kind = "blend",
    options: dict[str, Any] | None = None,
    name: str | None = None,
    serve: bool = True,
) -> dict:
    """Train the forecasters of stays, units and arrivals of `source` on what was known at `as_of`; returns counts.

    forecaster: the kind of stay forecaster, see `forecasters.forecaster.KINDS`.
    cell: of the networks; several, separated by commas: each member is the mean of as many networks.
    epochs: at most so many; for trees, at most so many trees per outcome.
    warm: start the networks from those of the serving model if it has the same shape. Trees always start from scratch. An
        interrupted training of networks resumes.
    warm_from: start them from this model instead, by its id or the folder of its artifact. It may be of another source or
        another shape: what does not fit starts afresh.
    learn_with: other sources whose stays the networks learn from too, with an intercept of each; None: those of the serving
        model, so that a scheduled training goes on as it was begun. Trees, calibration and gate use `source` alone.
    mixed_precision: compute in bfloat16 if all GPUs are fast in it; else in float32.
    options: any option of a training by its name (`contracts.options.settings`), e.g. {"layers": [64, 32]}; they win over the
        parameters above.
    name: becomes a part of the id of the stay model.
    serve: let the models serve, or score in the shadow, if their verdict says so; else they stay candidates.
    """
    parameters = {"seed": seed, "epochs": epochs, "members": members, "cell": cell, "forecaster": forecaster}
    configs = configure(parameters | {"mixed-precision": mixed_precision} | (options or {}))
    config, label = configs.model, _checked_label(name)
    store = open_store()
    with recorded_alone(store, source, "train", as_of) as run:
        then, now, sampling = read_training_set(store, source, run.as_of)
        incumbent = registry.serving_model(store, source, "stay")
        serving = load_serving(incumbent)
        if warm_from is not None:
            start = named_start(store, warm_from, source, then, config)
        else:
            start = own_start(store, incumbent, serving, then, config) if warm else None
        others = read_others(store, source, learn_with, incumbent, then, sampling) if _has_networks(config) else {}
        if learn_with and not others:
            raise ForecastError(
                "Only recurrent networks learn from other sources; use --forecaster blend or recurrent."
            )
        fitted, report = fit(source, then, now, config, sampling, start, others)
        verdict = give_verdict(incumbent, serving, fitted, report, then, now)
        stay = Candidate(_model_id(run, f"stay{label}"), fitted, report, verdict, start, tuple(others))
        unit = fit_units(store, run, configs.unit)
        arrivals = fit_arrivals(store, run, configs.arrivals)
        if not serve:
            stay, unit, arrivals = _kept_back(stay), unit and _kept_back(unit), arrivals and _kept_back(arrivals)
        save(run, stay, unit, arrivals, then, now)
        register(store, run, stay, unit, arrivals, then, serve)
        track(store, stay.model_id)
        run.counts |= _summary(stay, unit, arrivals)
        report_run(run, "train")
    return run.counts


def _kept_back(candidate: C) -> C:
    """The same with its verdict in words, as a candidate: not even in the shadow, from where it could be promoted."""
    verdict = candidate.verdict
    reason = f"{registry.KEPT_BACK}; the verdict was {verdict.stage}: {verdict.reason}"
    return replace(candidate, verdict=replace(verdict, stage="candidate", reason=reason))


def _checked_label(name: str | None) -> str:
    """What a name adds to the id of a model. Raises ForecastError for one that is not fit for the name of a folder."""
    if name is None:
        return ""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", name):
        raise ForecastError(f"A name has at most 40 small letters, digits, - or _, such as wide-2; found {name!r}.")
    return f"-{name}"


@step("read the training set", retries=2)
def read_training_set(store: Engine, source: str, as_of: datetime) -> tuple[Cohort, Cohort, Sampling]:
    """What was known at the cut-off, for fitting, and at `as_of`, for evaluation; and how the source samples stays."""
    adapter, _ = open_source(source)
    now = read_some(store, source, as_of)
    cutoff = cutoff_of(now.stays)
    then = read_stored(store, source, cutoff.tz_localize("UTC").to_pydatetime())
    log.info("%d stays; learning from the %d stays known at %s", len(now.stays), len(then.stays), cutoff)
    for doubt in FinishedStays.of(now.stays).doubts().values():
        log.warning("%s", doubt)
    return then, now, adapter.sampling


def cutoff_of(stays: pd.DataFrame) -> pd.Timestamp:
    """Until when a training on these stays learns: the newest `HOLD_OUT_SHARE` of them began later."""
    return stays["intime"].quantile(1 - HOLD_OUT_SHARE).floor("h")


@step("load the serving model")
def load_serving(incumbent: dict | None) -> "StayForecaster | None":
    """The model to start from and to compare with; None if there is none or it was made for other concepts."""
    import_tensorflow()
    from rnn_core.forecasters.stay import load_stay_forecaster

    if incumbent is None:
        return None
    try:
        return load_stay_forecaster(load_settings().artifact_folder / incumbent["artifact"])
    except ArtifactError as error:
        log.warning("The serving model is not used: %s", error)
        return None


def _same_shape(serving: "StayForecaster", config: ModelConfig) -> bool:
    theirs, ours = serving.config, config
    sizes = {name: getattr(theirs.network, name) for name in ("n_channels", "n_concepts", "n_static")}
    same_network = theirs.network == replace(ours.network, **sizes)
    same_kind = theirs.forecaster == ours.forecaster
    same_members = (theirs.train.folds, theirs.train.cells) == (ours.train.folds, ours.train.cells)
    return same_kind and same_network and same_members and theirs.window == ours.window


@step("find the model to start from")
def named_start(store: Engine, model: str, source: str, then: Cohort, config: ModelConfig) -> Start:
    """The model that was requested. Raises ForecastError if nothing can start from it."""
    import_tensorflow()
    from rnn_core.forecasters.start import WarmStart
    from rnn_core.forecasters.stay import one_end

    start = find_start(store, model)
    if leak := start.leak(source, then.as_of, config.train.folds):
        raise ForecastError(leak)
    start = replace(start, afresh=WarmStart(start.forecaster).afresh(config, one_end(then.stays)))
    log.info("the networks start from those of %s; afresh: %s", start.model_id, "; ".join(start.afresh) or "nothing")
    return start


def own_start(
    store: Engine, incumbent: dict | None, serving: "StayForecaster | None", then: Cohort, config: ModelConfig
) -> Start | None:
    """The serving model, if it has the same shape and learned from nothing that this training is judged on."""
    from rnn_core.forecasters.start import WarmStart

    if incumbent is None or serving is None or not serving.forecasts_death or not _same_shape(serving, config):
        return None
    start = Start(incumbent["model_id"], serving, learned_from(store, incumbent))
    try:
        start = replace(start, afresh=WarmStart(serving).afresh(config, serving.ends_at))
    except ContractError as error:
        log.warning("No warm start: %s", error)
        return None
    if leak := start.leak(incumbent["source"], then.as_of, config.train.folds):
        log.warning("No warm start: %s", leak)
        return None
    return start


@step("read the other sources", retries=2)
def read_others(
    store: Engine,
    source: str,
    requested: Sequence[str] | None,
    incumbent: dict | None,
    then: Cohort,
    sampling: Sampling,
) -> dict[str, Cohort]:
    """Stays of other sources, as known at the cut-off.

    requested: raises ForecastError if one cannot be learned from. None: those that the serving model learned from; one that
    cannot be learned from any more is left out with a warning.
    """
    inherited = incumbent["metrics"].get("learn_with", []) if incumbent else []
    found = {}
    for name in inherited if requested is None else dict.fromkeys(requested):
        try:
            found[name] = _read_other(store, source, name, then, sampling)
        except ForecastError as error:
            if requested is not None:
                raise
            log.warning("%s is left out: %s", name, error)
    for name, known in found.items():
        log.info("learns from %d stays of %s too", len(known.stays), name)
    return found


def _read_other(store: Engine, source: str, name: str, then: Cohort, sampling: Sampling) -> Cohort:
    """Raises ForecastError if its stays are none, or mean something else."""
    from rnn_core.forecasters.stay import one_end

    if name == source:
        raise ForecastError(f"{source} is learned from anyway; --with names other sources.")
    adapter = load_adapter(adapter_name(name))
    known = read_stored(store, name, pd.Timestamp(then.as_of, tz="UTC").to_pydatetime())
    if not len(known.stays):
        raise ForecastError(
            f"No stay of {name} is known at the cut-off {then.as_of}; run `icu-forecast ingest {name}`."
        )
    ends, own = one_end(known.stays), one_end(then.stays)
    if (ends, adapter.sampling) != (own, sampling):
        raise ForecastError(
            f"The stays of {name} end at the {ends} and those of {source} at the {own}, or they entered the sample in another "
            f"way: their lengths mean something else. --warm-from can start from a model of {name}."
        )
    return known


def _has_networks(config: ModelConfig) -> bool:
    return "recurrent" in (config.forecaster, *(config.blend if config.forecaster == "blend" else ()))


@step("fit the stay forecaster")
def fit(
    source: str,
    then: Cohort,
    now: Cohort,
    config: ModelConfig,
    sampling: Sampling,
    warm: Start | None,
    others: Mapping[str, Cohort],
) -> "tuple[StayForecaster, FitReport]":
    from rnn_core.evaluation.judged_fit import fit_stay_forecaster
    from rnn_core.forecasters.start import WarmStart
    from rnn_core.network.devices import choose_devices

    log.info("training uses %s", choose_devices().reason)
    return fit_stay_forecaster(
        then,
        now,
        config,
        sampling=sampling,
        borrowed=list(others.values()),
        checkpoint_dir=checkpoints(source),
        warm_from=warm and WarmStart(warm.forecaster, fine=warm.learned_from[0]["source"] == source),
        progress=after_epoch,
        beforehand=partial(fit_side_by_side, source),
    )


@step("judge")
def give_verdict(
    incumbent: dict | None,
    serving: "StayForecaster | None",
    forecaster: "StayForecaster",
    report: "FitReport",
    then: Cohort,
    now: Cohort,
) -> "Verdict":
    """Against the serving model on stays that began after both cut-offs; against the trivial baseline without one, or if
    that forecasts no death and the new one does."""
    from rnn_core.evaluation.gate import Verdict, judge_first

    first = judge_first(report.metrics, report.from_curve, report.n_deaths["judged"], report.n_ends)
    if not forecaster.forecasts_death and first.stage == "provisional":
        first = Verdict("provisional", "It forecasts the length of stay alone: no deaths to judge by.")
    if incumbent is None or serving is None or (forecaster.forecasts_death and not serving.forecasts_death):
        return first
    verdict = judge_beside(incumbent, serving, forecaster, then, now)
    return first if verdict.stage == "champion" and incumbent["stage"] == "provisional" else verdict


def judge_beside(
    incumbent: dict, serving: "StayForecaster", forecaster: "StayForecaster", then: Cohort, now: Cohort
) -> "Verdict":
    """The gate on the newest stays that neither model has learned from; `then` is what the new one learned from."""
    from rnn_core.evaluation.gate import Verdict, judge_challenger
    from rnn_core.evaluation.holdout import compare_forecasters, count_deaths, count_ends, unseen

    if serving.forecasts_death and not forecaster.forecasts_death:
        return Verdict("candidate", "It learned from stays that all ended alike, and the serving model did not.")
    if forecaster.forecasts_death and not serving.forecasts_death:
        return Verdict("provisional", "It forecasts a risk of death, and the serving model does not.")
    _, newer = unseen(now, then)
    newer &= now.stays["intime"].to_numpy("datetime64[us]") >= clock.to_numpy(incumbent["data_cutoff"])
    hold_out = now.take(newer)
    found = compare_forecasters(forecaster, serving, hold_out, then.take(split_stays(then.stays, then.as_of).learned))
    n_deaths, n_ends = count_deaths(hold_out), count_ends(hold_out)
    return judge_challenger(found.overall, found.groups, found.from_curve, n_deaths, n_ends, incumbent["stage"])


@step("fit the unit forecaster")
def fit_units(store: Engine, run: Recorded, config: UnitConfig) -> "UnitCandidate | None":
    """The unit forecaster; a source with too few stays per unit goes without, and the run reports it."""
    from rnn_core.evaluation.gate import judge_unit
    from rnn_core.forecasters.unit import fit_unit_forecaster, load_unit_forecaster, newest_mse

    lengths = canonical.read_unit_lengths(store, run.source, run.as_of)
    try:
        fitted = fit_unit_forecaster(lengths, config)
    except DataTooSmallError as error:
        log.warning("No unit forecaster: %s", error)
        return None
    serving_mse = None
    if serving := registry.serving_model(store, run.source, "unit"):
        try:
            serving_mse = newest_mse(
                load_unit_forecaster(load_settings().artifact_folder / serving["artifact"]), lengths
            )
        except ArtifactError as error:
            log.warning("The serving unit model is not compared: %s", error)
    return UnitCandidate(_model_id(run, "unit"), fitted, judge_unit(fitted.report.to_json(), serving_mse))


@step("fit the forecaster of arrivals")
def fit_arrivals(store: Engine, run: Recorded, config: ArrivalConfig) -> "ArrivalCandidate | None":
    """The recurrent model of arrivals; a source with too few of them goes without."""
    from rnn_core.census.census import learn_from_arrivals
    from rnn_core.evaluation.gate import Verdict
    from rnn_core.forecasters.arrivals import fit_arrival_forecaster

    units = canonical.read_units(store, run.source, run.as_of)
    try:
        lessons = learn_from_arrivals(units, calendar=clock.calendar(run.source), seed=config.seed)
    except DataTooSmallError as error:
        log.info("no recurrent model of arrivals: %s", error)
        return None
    fitted = fit_arrival_forecaster(lessons.learned, lessons.choosing, lessons.judged, config)
    stage = "champion" if fitted.report.is_better else "candidate"
    return ArrivalCandidate(_model_id(run, "arrivals"), fitted, Verdict(stage, fitted.report.sentence()))


@step("save the artifacts")
def save(
    run: Recorded,
    stay: Candidate,
    unit: UnitCandidate | None,
    arrivals: ArrivalCandidate | None,
    then: Cohort,
    now: Cohort,
) -> None:
    from rnn_core.forecasters.stay import save_stay_forecaster
    from rnn_core.forecasters.unit import save_unit_forecaster

    folder, times = load_settings().artifact_folder, {"data_cutoff": str(then.as_of), "as_of": str(now.as_of)}
    meta = {**times, "metrics": stay.report.to_json(), **_origin(run.source, stay, then)}
    save_stay_forecaster(folder, stay.model_id, stay.forecaster, meta)
    later = times | {"data_cutoff": times["as_of"]}
    if unit is not None:
        save_unit_forecaster(folder, unit.model_id, unit.fitted, later)
    if arrivals is not None:
        arrivals.fitted.save(folder, arrivals.model_id, later)


@step("register")
def register(
    store: Engine,
    run: Recorded,
    stay: Candidate,
    unit: UnitCandidate | None,
    arrivals: ArrivalCandidate | None,
    then: Cohort,
    serve: bool,
) -> None:
    """The last step, in one transaction with the end of the run: a failed training leaves the models unchanged.

    A recurrent model of arrivals serves only as long as the newest one, on the newest weeks, is better than the rates.
    """
    rows = {
        stay.model_id: {
            "name": "stay",
            "ends_at": stay.forecaster.ends_at,
            "config": stay.forecaster.config.to_json(),
            "metrics": stay.report.to_json()
            | {"risk_thresholds": list(stay.forecaster.risk_thresholds)}
            | _origin(run.source, stay, then),
            "warm_from": stay.start and stay.start.model_id,
            "data_cutoff": _utc(then.as_of),
        }
    }
    verdicts = {stay.model_id: stay.verdict}
    others = {name: found for name, found in (("unit", unit), ("arrivals", arrivals)) if found is not None}
    for name, found in others.items():
        rows[found.model_id] = {
            "name": name,
            "config": found.fitted.config.to_json(),
            "metrics": found.fitted.report.to_json(),
            "data_cutoff": run.as_of,
        }
        verdicts[found.model_id] = found.verdict
    with runs.finishing(store, run.run_id) as (connection, finished):
        for model_id, row in rows.items():
            registry.register(connection, row | _described(model_id) | {"model_id": model_id, "source": run.source})
            registry.assign_stage(connection, model_id, verdicts[model_id].stage, verdicts[model_id].reason)
        if serve and not (arrivals and arrivals.verdict.stage == "champion"):
            registry.retire_serving(connection, run.source, "arrivals", f"run {run.run_id} found nothing to correct")
        finished["model_id"] = stay.model_id
    shutil.rmtree(checkpoints(run.source), ignore_errors=True)


def _origin(source: str, stay: Candidate, then: Cohort) -> dict[str, Any]:
    """All that the model has learned from, and what it did not take over from its start."""
    learned = [ancestor(stay.model_id, source, then.as_of, stay.forecaster.config.train.folds)]
    # Every member has learned from all of the others' stays: no fold of these is left out.
    learned += [ancestor(stay.model_id, name, then.as_of, members=0) for name in stay.learn_with]
    earlier, afresh = (stay.start.learned_from, list(stay.start.afresh)) if stay.start else ([], [])
    # Of trainings week after week the newest says all that matters.
    seen = {(one["source"], one["members"]): one for one in reversed([*learned, *earlier])}
    newest = sorted(seen.values(), key=[*learned, *earlier].index)
    return {"learned_from": newest, "learn_with": list(stay.learn_with), "afresh": afresh}


def _described(model_id: str) -> dict[str, Any]:
    from rnn_core.forecasters.artifact import read_meta

    meta = read_meta(load_settings().artifact_folder / model_id)
    return {"artifact": model_id, "concept_hash": meta["concept_hash"], "git_revision": meta["git_revision"]}


def _utc(time: np.datetime64) -> datetime:
    return pd.Timestamp(time, tz="UTC").to_pydatetime()


def _model_id(run: Recorded, name: str) -> str:
    return f"{run.source}-{name}-{run.as_of:%Y%m%dT%H}-{run.run_id}"


def _summary(stay: Candidate, unit: UnitCandidate | None, arrivals: ArrivalCandidate | None) -> dict[str, Any]:
    from rnn_core.statistics.metric import main_metrics

    report = stay.report
    shown: dict[str, Any] = {"model": stay.model_id, "stage": stay.verdict.stage, "reason": stay.verdict.reason}
    if not stay.forecaster.forecasts_death:
        shown["risk of death"] = NO_RISK
    if stay.learn_with:
        shown["learned with"] = ", ".join(stay.learn_with)
    shown |= {f"{part} stays": f"{n} ({report.n_deaths[part]} died)" for part, n in report.n_stays.items()}
    for metric in main_metrics():
        estimate, trivial = report.metrics[metric.name], report.metrics[f"baseline_{metric.name}"]
        shown[metric.name] = (
            f"{metric.show(estimate)}, without a model {metric.show(trivial.value)}"
            if isfinite(estimate.value)
            else "not measurable on these stays"
        )
    if arrivals is not None:
        shown |= {"arrival model": arrivals.model_id, "arrival stage": arrivals.verdict.stage}
        shown["arrivals"] = arrivals.fitted.report.sentence()
    if unit is None:
        return shown | {"unit model": "none, too few stays per unit"}
    return shown | {
        "unit model": unit.model_id,
        "unit stage": unit.verdict.stage,
        "unit": unit.fitted.report.sentence(),
    }
