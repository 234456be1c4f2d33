"""Shards of 4,000 open stays in two local processes, against the process of the job; and what the engine itself costs."""

import os
from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter

import numpy as np

from benchmarks import ingest
from benchmarks.flow import register_untrained
from benchmarks.stage import AS_OF, SOURCE, Row, Stage
from flows.runtime import compute
from flows.runtime.settings import load_settings
from flows.shards.open_stays import OpenStays, explain_open_stays, load_forecaster, score_open_stays, score_shard
from sql.published import canonical, registry

PAIRS, FEW, EMPTY_SHARDS = 5, 22, 100


def run(stage: Stage) -> Iterator[Row]:
    ingest.ensure_filled(stage)
    if registry.serving_model(stage.store, SOURCE, "stay") is None:
        register_untrained(stage)
    store, stays = stage.store, OpenStays(SOURCE, AS_OF, "untrained")
    load_forecaster(stays.artifact)
    _use("processes:2")
    first = _timed(lambda: score_open_stays(store, stays))
    numbers = score_open_stays(store, stays).numbers
    # Nobody died among the stays that an untrained network saw: any risks will do to choose whom to explain.
    numbers["mortality_risk"] = np.random.default_rng(0).random(len(numbers))
    yield _compared(f"scoring {len(numbers):,} open stays", lambda: score_open_stays(store, stays), first)
    yield _compared("explaining the 1,000 highest risks", lambda: explain_open_stays(store, stays, numbers), None)

    _use("processes:2")
    empty = _timed(lambda: compute.map_shards(store, _nothing, range(EMPTY_SHARDS), "nothing"))
    few = OpenStays(SOURCE, AS_OF, "untrained", part=numbers["stay_id"].head(FEW).tolist())

    def mapped() -> None:
        canonical.count_open(store, SOURCE, AS_OF)
        compute.map_shards(store, score_shard, [few], "scoring")

    ours, theirs = _in_turn(mapped, lambda: score_shard(store, few))
    compute.close()
    _use("inline")
    yield Row(
        f"scoring {FEW} open stays with processes:2 set",
        f"{ours:.3f} s; a shard that does nothing takes {empty / EMPTY_SHARDS * 1000:.0f} ms",
        f"the function alone: {theirs:.3f} s",
        f"{ours / theirs:.2f}",
        "1.10",
    )


def _nothing(_store: object, _shard: int) -> None:
    pass


def _compared(what: str, work: Callable[[], object], first: float | None) -> Row:
    def by(engine: str) -> Callable[[], object]:
        def run() -> object:
            _use(engine)
            return work()

        return run

    for engine in ("processes:2", "inline"):
        by(engine)()
    ours, theirs = _in_turn(by("processes:2"), by("inline"))
    start = "" if first is None else f" (first time, with their start: {first:.1f} s)"
    return Row(
        f"{what}, two processes on {os.cpu_count()} cores",
        f"{ours:.2f} s{start}",
        f"inline: {theirs:.2f} s",
        f"{theirs / ours:.2f}",
        "1.6",
    )


def _in_turn(one: Callable[[], object], other: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of both, each run next to one of the other: what else the machine does meets both."""
    pairs = [(_timed(one), _timed(other)) for _ in range(PAIRS)]
    return median(a for a, _ in pairs), median(b for _, b in pairs)


def _use(engine: str) -> None:
    os.environ["ICU_COMPUTE"] = engine
    load_settings.cache_clear()


def _timed(function: Callable[[], object]) -> float:
    begun = perf_counter()
    function()
    return perf_counter() - begun
