"""Benchmarks on whole stays as commands, judged at landmarks: eICU as published, by hospital, and any ingested source."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import Engine

from flows.jobs.start import start_in_folder
from flows.public_data.benchmark_run import configure, temporary_installation
from flows.runtime.databases import open_source, open_store
from flows.runtime.log import log
from flows.runtime.quiet_tensorflow import import_tensorflow
from rnn_core.contracts.config import ModelConfig, Sampling
from rnn_core.contracts.errors import DataTooSmallError, ForecastError
from rnn_core.contracts.known import Known
from rnn_core.series.material import known_until
from rnn_core.series.splits import patient_folds
from sql.published import canonical

if TYPE_CHECKING:
    from rnn_core.benchmark.landmarks import Contest, Judgement, Moments
    from rnn_core.benchmark.whole_stays import Fold
    from rnn_core.forecasters.forecaster import Start

SOURCE = "eicu"
MODELS: tuple[str, ...] = ("prevalence", "logistic", "trees", "lstm", "forecaster", "blend", "apache")
# Takes part beside them if there is a model to start from.
WARM = "warm"
# All published stays ended years before.
AT = datetime(2026, 1, 1, tzinfo=UTC)
# APACHE IVa reads the worst values of the first day.
_APACHE_HOUR = 24
_HOSPITAL = r"of hospital (\d+)$"


def run_benchmark(
    train: Sequence[Path],
    test: Sequence[Path],
    *,
    models: Sequence[str] = MODELS,
    folds: int = 5,
    seed: int = 0,
    epochs: int | None = None,
    members: int | None = None,
    warm_from: Path | None = None,
    own_stays: int | None = None,
) -> "Judgement":
    """Learn from the folders `train` and judge on `test`; without any, on each fold of the hospitals of `train`.

    warm_from: artifact of a model of another source, from which the model `warm` starts. own_stays: learn from so many
    stays only, those of the patients with the lowest hash: a small hospital.

    Raises ForecastError for a folder on both sides and for a model that does not exist.
    """
    check(train, test, models)
    if WARM in models and warm_from is None:
        raise ForecastError("The model warm needs a model to start from; give --warm-from.")
    config = configure(seed, epochs, members)
    start = _start(warm_from, config) if warm_from else None
    began = perf_counter()
    with temporary_installation(SOURCE) as installed:
        source, schema, store = installed.source, installed.schema, installed.store
        sampling = installed.sampling
        from sql.loaders import eicu

        _fill(source, schema, [*train, *test], withheld=test)
        known = canonical.read_known(store, SOURCE, AT)
        import_tensorflow()
        if test:
            is_judged = known.stays["stay_id"].isin(eicu.read_stay_ids(test)).to_numpy()
            learned = known.take(~is_judged & ~_shared(known, is_judged) & known.sound)
            fold = _fold(_few(learned, own_stays), known.take(is_judged), config, sampling, start)
            contests = _forecast(fold, models)
            _fill(source, schema, [*train, *test], withheld=())
            late = canonical.read_known(store, SOURCE, AT).stays.set_index("stay_id")
            ends = late.loc[fold.judged.stays["stay_id"]].reset_index()
            parts = [(_moments(fold, ends), contests)]
            n_learned = len(learned.stays)
        else:
            parts = list(_across(known, _hospital_folds(known, folds), config, sampling, models, start, own_stays))
            n_learned = int(known.sound.sum())
        apache = eicu.read_apache(source, schema) if "apache" in models else None
    moments, contests = _pooled(parts)
    if apache is not None:
        contests["apache"] = _apache(apache, moments)
    protocol = _protocol(moments) | {
        "train": [place.name for place in train],
        "test": [place.name for place in test] or f"out of fold, {folds} folds of the hospitals",
        "learned_stays": min(n_learned, own_stays or n_learned),
        "seed": seed,
        "config": config.to_json(),
        "warm_from": warm_from and warm_from.name,
        "seconds": round(perf_counter() - began),
    }
    from rnn_core.benchmark.landmarks import judge

    return judge({name: contests[name] for name in models}, moments, protocol)


def check(train: Sequence[Path], test: Sequence[Path], models: Sequence[str]) -> None:
    if both := sorted({str(place) for place in train} & {str(place) for place in test}):
        raise ForecastError(
            f"{', '.join(both)} is given for both training and test; a model must not see its test set."
        )
    if unknown := sorted(set(models) - {*MODELS, WARM}):
        raise ForecastError(f"There is no model {', '.join(unknown)}; there are {', '.join(MODELS)}.")
    if "prevalence" not in models:
        raise ForecastError("Every run needs the model prevalence: the trivial answer stands beside all others.")


def _fill(source: Engine, schema: str, folders: Sequence[Path], withheld: Sequence[Path]) -> None:
    """Load the folders as the hospital's database and ingest them; known rows have the same key and are not added again."""
    from flows.jobs.ingest import ingest
    from sql.loaders import eicu

    report = eicu.load(source, folders, schema, log.info, withhold_outcomes=withheld)
    for note in report.notes:
        log.info(note)
    ingest.fn(SOURCE, AT, reconcile=True)


def _shared(known: Known, is_judged: np.ndarray) -> np.ndarray:
    """Stays of patients who have a judged stay, bool [stays]."""
    patients = known.stays["patient_id"]
    return patients.isin(patients[is_judged]).to_numpy()


def _fold(
    learned: Known, judged: Known, config: ModelConfig, sampling: Sampling, start: "Start | None" = None
) -> "Fold":
    from rnn_core.benchmark.whole_stays import Fold

    return Fold(learned, judged, config, sampling, start)


def _start(folder: Path, config: ModelConfig) -> "Start":
    """Raises ForecastError if nothing can start from the model, or if it has learned from the judged source."""
    from rnn_core.forecasters.start import WarmStart

    found = start_in_folder(folder)
    if any(one["source"] == SOURCE for one in found.learned_from):
        raise ForecastError(f"{found.model_id} has learned from {SOURCE}; a model must not see its test set.")
    start = WarmStart(found.forecaster)
    log.info("warm starts from %s; afresh: %s", found.model_id, "; ".join(start.afresh(config, "unit")))
    return start


def _few(learned: Known, n: int | None) -> Known:
    """At most `n` stays: those of the patients whose hash is lowest."""
    if n is None or n >= len(learned.stays):
        return learned
    order = np.argsort(patient_folds(learned.stays["patient_id"], 10**6, salt="own stays"), kind="stable")
    chosen = np.zeros(len(order), bool)
    chosen[order[:n]] = True
    return learned.take(chosen)


def judge_source(source: str, as_of: datetime, folds: int) -> "Judgement":
    """The forecaster on the whole stays of any ingested source, each patient judged by a fit on others, beside the curve.

    Raises DataTooSmallError without a stay.
    """
    adapter, _ = open_source(source)
    known = canonical.read_known(open_store(), source, as_of)
    if not len(known.stays):
        raise DataTooSmallError(f"There is no stay of {source} as of {as_of.isoformat()}; run `icu-forecast ingest`.")
    import_tensorflow()
    from rnn_core.benchmark.landmarks import judge

    fold_of = patient_folds(known.stays["patient_id"], folds, salt="whole stays")
    parts = _across(known, fold_of, ModelConfig(), adapter.sampling, ("prevalence", "forecaster"))
    moments, contests = _pooled(list(parts))
    return judge(contests, moments, _protocol(moments))


def _hospital_folds(known: Known, folds: int) -> np.ndarray:
    hospital = known.stays["unit"].str.extract(_HOSPITAL)[0].to_numpy()
    return patient_folds(hospital, folds, salt="hospital")


def _across(
    known: Known,
    fold_of: np.ndarray,
    config: ModelConfig,
    sampling: Sampling,
    models: Sequence[str],
    start: "Start | None" = None,
    own_stays: int | None = None,
) -> "Iterator[tuple[Moments, dict[str, Contest]]]":
    """Every stay is judged once, by a fit on the other folds and on other patients."""
    folds = int(fold_of.max()) + 1
    for k in range(folds):
        held_out = (fold_of == k) & known.sound
        learned = known.take((fold_of != k) & known.sound & ~_shared(known, held_out))
        fold = _fold(_few(learned, own_stays), known.take(held_out), config, sampling, start)
        log.info(
            "fold %d of %d: %d stays learned, %d judged", k + 1, folds, len(fold.learned.stays), int(held_out.sum())
        )
        yield _moments(fold, fold.judged.stays), _forecast(fold, models)


def _forecast(fold: "Fold", models: Sequence[str]) -> "dict[str, Contest]":
    from rnn_core.benchmark.landmarks import Contest
    from rnn_core.benchmark.whole_stays import CONTENDERS

    contests = {}
    for name in models:
        if name in CONTENDERS:
            began = perf_counter()
            whole, histories = CONTENDERS[name](fold)
            contests[name] = Contest(whole, seconds=perf_counter() - began, histories=histories)
            log.info("%s took %.0f s", name, contests[name].seconds)
    return contests


def _moments(fold: "Fold", ends: Any) -> "Moments":
    from rnn_core.benchmark.landmarks import make_moments

    return make_moments(ends, fold.stay, fold.hour, fold.elapsed_hours, known_until(fold.judged, fold.config.window))


def _pooled(parts: "Sequence[tuple[Moments, dict[str, Contest]]]") -> "tuple[Moments, dict[str, Contest]]":
    """All parts as one, without hours after the end of a stay, which only a judge knows of."""
    from rnn_core.benchmark.landmarks import pool

    return pool([(moments, ~(moments.outcomes.remaining_hours <= 0), contests) for moments, contests in parts])


def _apache(published: Any, moments: "Moments") -> "Contest":
    """Risk and length of stay of APACHE IVa at hour 24, NaN at other hours and where it has none."""
    from rnn_core.benchmark.landmarks import Contest

    rows = published.set_index("stay_id").reindex(moments.stay_id)
    at = moments.hour == _APACHE_HOUR
    risk, days = (np.where(at, rows[name].to_numpy(np.float64), np.nan) for name in ("mortality_risk", "los_days"))
    remaining = np.maximum(days * 24 - moments.outcomes.elapsed_hours, 0)
    return Contest(columns={"mortality_risk": risk, "remaining_los_p50_hours": remaining})


def _protocol(moments: "Moments") -> dict[str, Any]:
    outcomes = moments.outcomes
    died = outcomes.groups[outcomes.death == 1]
    return {
        "judged_stays": len(np.unique(moments.stay_id)),
        "judged_patients": len(np.unique(outcomes.groups.astype(str))),
        "judged_patients_who_died": len(np.unique(died.astype(str))),
        "judged_hours": len(moments.hour),
    }
