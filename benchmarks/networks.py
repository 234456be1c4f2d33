"""Many networks fitted side by side to whole public data: sets a and b of the Challenge 2012, one network per fold."""

import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter, process_time

import numpy as np

from benchmarks.stage import Row
from benchmarks.turns import with_threads
from rnn_core.contracts.config import ModelConfig
from rnn_core.forecasters.training_material import build_material
from rnn_core.series.material_files import read_material, write_material


def run(data: Path, members: int, workers: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="icu-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        config = replace(ModelConfig(), train=replace(ModelConfig().train, folds=members))
        n_stays = _write(folder, data, config)
        fit, cpu, lost = partial(fit_member, folder, config), 0.0, 0.0
        begun = perf_counter()
        # One thread each: networks of 64 units gain little from more.
        with with_threads(1), ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as processes:
            for done, one in enumerate(as_completed([processes.submit(fit, k) for k in range(members)]), start=1):
                seconds, loss, epochs = one.result()
                cpu, lost = cpu + seconds, lost + loss / members
                print(
                    f"... {done} of {members}: {seconds:.0f} s of CPU, {epochs} epochs, loss {loss:.4f}; "
                    f"{perf_counter() - begun:.0f} s so far",
                    file=sys.stderr,
                    flush=True,
                )
        took = perf_counter() - begun
        yield Row(
            f"{members} networks on {n_stays:,} stays of sets a and b, {workers} processes",
            f"{took:.0f} s ({cpu:.0f} s of CPU); mean loss on the fold left out {lost:.4f}",
            "none",
            "",
            "480 s",
        )


def _write(folder: Path, data: Path, config: ModelConfig) -> int:
    """Material of all stays, in files; their number."""
    from flows.public_data.benchmark import LATE, SOURCE, find_sets, load_sets
    from flows.public_data.benchmark_run import temporary_installation
    from sql.published import canonical

    with temporary_installation(SOURCE) as installed:
        load_sets(installed.source, installed.schema, find_sets([data]), withheld={})
        known = canonical.read_known(installed.store, SOURCE, LATE)
        sampling = installed.sampling
    known, made = known.take(known.sound), folder / "made"
    made.mkdir()
    learned = np.ones(len(known.stays), bool)
    material, _ = build_material(known, learned, replace(config, forecaster="recurrent"), sampling, made)
    write_material(folder, material)
    return len(known.stays)


def fit_member(folder: Path, config: ModelConfig, fold: int) -> tuple[float, float, int]:
    """Seconds of CPU, the best loss on the fold that is left out, and epochs."""
    from rnn_core.forecasters.recurrent import RecurrentEnsemble

    begun, material = process_time(), read_material(folder)
    fitted = RecurrentEnsemble.fit(material, np.ones(len(material.known.stays), bool), config, folds=[fold])
    (history,) = fitted.histories
    return process_time() - begun, min(record["valid_loss"] for record in history), len(history)
