"""The published benchmark as a command: load, ingest, learn, forecast, and only then load the outcomes."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sqlalchemy import Engine

from flows.public_data.benchmark_run import configure, temporary_installation
from flows.runtime import clock
from flows.runtime.databases import open_source
from flows.runtime.log import log
from flows.runtime.quiet_tensorflow import import_tensorflow
from rnn_core.benchmark.outcome import BASELINES, MODELS, Outcome
from rnn_core.contracts.config import ModelConfig
from rnn_core.contracts.errors import ForecastError
from rnn_core.contracts.groups import patient_groups
from rnn_core.contracts.known import Known
from rnn_core.series.splits import patient_folds
from sql.published import canonical

if TYPE_CHECKING:
    from rnn_core.benchmark.contenders import Arena, Entry
    from rnn_core.benchmark.contest import Contest, Truth

SOURCE = "physionet_2012"
# The files have no dates: all stays begin here, and every end is known long before the last read.
START = datetime(2020, 1, 1, tzinfo=UTC)
HOUR = 48
AT = START + timedelta(hours=HOUR)
LATE = START + timedelta(days=900)

# Metrics of a subgroup; the others would be noise.
_IN_SUBGROUPS = (
    "mortality_auroc",
    "mortality_auprc",
    "mortality_brier",
    "mortality_calibration_slope",
    "mortality_calibration_intercept",
    "los_mae_days",
)
_SUBGROUP_RESAMPLES = 200
# Fewer stays contain too few deaths.
_MIN_SUBGROUP = 100


# ------------------------------------------------------------------------------------------------ the sets


def find_sets(places: Sequence[Path]) -> dict[str, Path]:
    """Letter of each set in `places` → its folder. A place holds set-x.tar.gz or set-x, or is one of these itself.

    Raises ForecastError if a place holds none, a set is found twice, or its outcomes are not next to it.
    """
    found: dict[str, Path] = {}
    for place in places:
        inside = _sets_in(place)
        if not inside:
            raise ForecastError(
                f"{place} holds no set of the PhysioNet Challenge 2012; expected set-a.tar.gz with Outcomes-a.txt next to "
                "it as published at physionet.org/content/challenge-2012, or the same of set b or c."
            )
        if twice := sorted(set(inside) & set(found)):
            raise ForecastError(f"Set {', '.join(twice)} is named twice; name each set once.")
        for letter, folder in inside.items():
            outcomes = f"Outcomes-{letter}.txt"
            if not any((near / outcomes).is_file() for near in (folder, folder.parent)):
                raise ForecastError(f"{outcomes} is not next to set {letter} in {folder}; put it there as published.")
        found |= inside
    return found


def _sets_in(place: Path) -> dict[str, Path]:
    forms = {form: letter for letter in "abc" for form in (f"set-{letter}", f"set-{letter}.tar.gz")}
    if place.name in forms and place.exists():
        return {forms[place.name]: place if place.is_dir() else place.parent}
    return {letter: place for form, letter in forms.items() if (place / form).exists()}


# ------------------------------------------------------------------------------------------------ the run


def run_benchmark(
    train: dict[str, Path],
    test: dict[str, Path],
    *,
    models: Sequence[str] = MODELS,
    folds: int = 5,
    seed: int = 0,
    epochs: int | None = None,
    members: int | None = None,
) -> Outcome:
    """Learn from the sets `train` and evaluate on `test`; without any, on each fold of `train` by a fit on the others.

    Raises ForecastError for a set on both sides and for a model that does not exist.
    """
    check(train, test, models)
    config = configure(seed, epochs, members)
    began = perf_counter()
    with temporary_installation(SOURCE) as installed:
        source, schema, store = installed.source, installed.schema, installed.store
        load_sets(source, schema, train | test, withheld=test)
        learned = _of_sets(canonical.read_known(store, SOURCE, LATE), train)
        import_tensorflow()
        if test:
            judged = _of_sets(canonical.read_known(store, SOURCE, AT), test)
            arena = _arena(config, learned, judged, *(_scores(source, schema, part) for part in (learned, judged)))
            entries = _fit_all(arena, [name for name in models if name != "saps"])
            load_sets(source, schema, train | test, withheld={})
            truth = _truth(_of_sets(canonical.read_known(store, SOURCE, LATE), test), judged)
            if "saps" in models:
                # The score is in the file of the outcomes, which must not be read before this point.
                arena = replace(arena, judged_score=_scores(source, schema, judged))
                entries |= _fit_all(arena, ["saps"])
            contests, abstained = _enter(arena, entries)
        else:
            contests, truth, abstained = _across_folds(config, learned, _scores(source, schema, learned), models, folds)
    outcome = _judge({name: contests[name] for name in models}, truth)
    protocol = {
        "train": sorted(train),
        "test": sorted(test) or f"out of fold, {folds} folds of the patients",
        "hour": HOUR,
        "learned_stays": len(learned.stays),
        "learned_deaths": int(learned.stays["outcome"].eq("died").sum()),
        "judged_stays": len(truth.stays),
        "judged_deaths": int(np.nansum(truth.death)),
        "abstained": int(abstained.sum()),
        "seed": seed,
        "config": config.to_json(),
        "seconds": round(perf_counter() - began),
    }
    return replace(outcome, protocol=protocol)


def check(train: dict[str, Path], test: dict[str, Path], models: Sequence[str]) -> None:
    if both := sorted(set(train) & set(test)):
        raise ForecastError(
            f"Set {', '.join(both)} is given for both training and test; a model must not see its test set."
        )
    if unknown := sorted(set(models) - set(MODELS)):
        raise ForecastError(f"There is no model {', '.join(unknown)}; there are {', '.join(MODELS)}.")
    if "prevalence" not in models:
        raise ForecastError("Every run needs the model prevalence: the trivial answer stands beside all others.")


def load_sets(source: Engine, schema: str, sets: dict[str, Path], withheld: dict[str, Path]) -> None:
    """Load the sets as the hospital's database and ingest them; known rows have the same key and are not added again."""
    from flows.jobs.ingest import ingest
    from sql.loaders import physionet_2012

    physionet_2012.load(
        source,
        [folder for _, folder in sorted(sets.items())],
        sets=sorted(sets),
        schema=schema,
        layout="together",
        start=START,
        withhold_outcomes=sorted(withheld),
        progress=log.info,
    )
    ingest.fn(SOURCE, LATE, reconcile=True)


def _of_sets(known: Known, sets: dict[str, Path]) -> Known:
    return known.take(known.stays["stay_id"].str[0].isin(list(sets)).to_numpy())


def _scores(source: Engine, schema: str, known: Known) -> np.ndarray:
    """SAPS-I of each stay as published, NaN where it is missing or its set's outcomes are withheld."""
    from sql.loaders import physionet_2012

    return known.stays["stay_id"].map(physionet_2012.read_saps_i(source, schema)).to_numpy(np.float64)


def _arena(
    config: ModelConfig, learned: Known, judged: Known, learned_score: np.ndarray, judged_score: np.ndarray
) -> "Arena":
    from rnn_core.benchmark.contenders import Arena

    adapter, _ = open_source(SOURCE)
    return Arena(learned, judged, config, adapter.sampling, float(HOUR), learned_score, judged_score)


def _fit_all(arena: "Arena", models: Sequence[str]) -> "dict[str, tuple[Entry, float]]":
    """Entry and wall time of each model, in order."""
    from rnn_core.benchmark import contenders

    entries: dict[str, tuple[Entry, float]] = {}
    for name in sorted(models, key=MODELS.index):
        began = perf_counter()
        if name in ("elman", "jordan", "lstm", "gru"):
            entry = contenders.plain_cell(name, arena)
        else:
            entry = getattr(contenders, name)(arena)
        entries[name] = entry, perf_counter() - began
        log.info("%s fitted in %.0f s", name, entries[name][1])
    return entries


def _enter(arena: "Arena", entries: "dict[str, tuple[Entry, float]]") -> "tuple[dict[str, Contest], np.ndarray]":
    from rnn_core.benchmark.contest import enter
    from rnn_core.series.serving_rule import abstention_reasons

    abstained = pd.notna(abstention_reasons(arena.judged, arena.config.window, arena.sampling))
    trivial, _ = entries["prevalence"]
    return {
        name: enter(entry, arena.death, trivial, abstained, seconds) for name, (entry, seconds) in entries.items()
    }, abstained


def _across_folds(
    config: ModelConfig, known: Known, scores: np.ndarray, models: Sequence[str], folds: int
) -> "tuple[dict[str, Contest], Truth, np.ndarray]":
    """Every fold forecast by a complete fit, including inner folds, on the other folds."""
    from rnn_core.benchmark.contest import pool
    from rnn_core.benchmark.ends import as_open

    fold = patient_folds(known.stays["patient_id"], folds, salt="benchmark")
    then = as_open(known, clock.to_numpy(AT))
    parts, abstained = [], np.zeros(len(fold), bool)
    for k in range(folds):
        log.info("fold %d of %d", k + 1, folds)
        out = fold == k
        arena = _arena(config, known.take(~out), then.take(out), scores[~out], scores[out])
        contests, abstained[out] = _enter(arena, _fit_all(arena, models))
        parts.append((np.flatnonzero(out), contests))
    pooled = {name: pool([(position, contests[name]) for position, contests in parts]) for name in models}
    return pooled, _truth(known, then), abstained


def _truth(late: Known, judged: Known) -> "Truth":
    """Outcomes of the evaluated stays, in their order."""
    from rnn_core.benchmark.contest import Truth
    from rnn_core.benchmark.ends import read_ends

    ends = late.stays.set_index("stay_id").loc[judged.stays["stay_id"]]
    death, los_hours = read_ends(ends)
    return Truth(
        death=death,
        los_hours=los_hours,
        hour=float(HOUR),
        precision_hours=ends["end_precision_hours"].fillna(0).to_numpy(np.float64),
        stays=judged.stays,
    )


def _judge(contests: "dict[str, Contest]", truth: "Truth") -> Outcome:
    from rnn_core.benchmark import contest as benchmark

    scores = {}
    for name, contest in contests.items():
        scores[name] = benchmark.score_contest(contest, truth)
        auroc, auprc = (scores[name][metric].value for metric in ("mortality_auroc", "mortality_auprc"))
        log.info("%s: AUROC %.4f, AUPRC %.4f", name, auroc, auprc)
    strongest = benchmark.strongest(scores, BASELINES)
    differences = {
        name: benchmark.paired_differences(contest, contests[strongest], truth)
        for name, contest in contests.items()
        if name != strongest
    }
    groups = {
        kind: {group: _judge_group(contests, truth, chosen) for group, chosen in found.items()}
        for kind, found in patient_groups(truth.stays, _MIN_SUBGROUP).items()
    }
    return Outcome({}, contests, truth, scores, strongest, differences, groups)


def _judge_group(contests: "dict[str, Contest]", truth: "Truth", chosen: np.ndarray) -> dict[str, Any]:
    from rnn_core.benchmark import contest as benchmark

    part = truth.take(chosen)
    return {
        "n": int(chosen.sum()),
        "deaths": int(np.nansum(part.death)),
        "models": {
            name: benchmark.score_contest(contest.take(chosen), part, _SUBGROUP_RESAMPLES, _IN_SUBGROUPS)
            for name, contest in contests.items()
        },
    }
