"""A training on more and more made-up stays, each in a process of its own: CPU time, memory, and files."""

import json
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import process_time, sleep

import numpy as np

from benchmarks.made_up import MadeUpStays
from benchmarks.stage import Row
from flows.runtime.settings import load_settings, own_home

# Networks, epochs and trees only multiply the time. Calibration and evaluation are those of any training.
MEMBERS, EPOCHS, TREES = 2, 1, 20
_AS_OF = datetime(2026, 1, 1, tzinfo=UTC)


def run(data: Path, sizes: Sequence[int]) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="icu-bench-", ignore_cleanup_errors=True) as folder:
        base = Path(folder) / "stays.pickle"
        _read_base(Path(folder), data, base)
        smallest = None
        for size in sizes:
            script = f"from benchmarks.stays import measure; measure({str(base)!r}, {size})"
            done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
            found = json.loads(done.stdout.splitlines()[-1])
            smallest = smallest or found
            yield Row(
                f"training on {found['learned']:,} of {size:,} stays, {found['hours']:,} hours, judged on {found['judged']:,}",
                f"{found['cpu']:.0f} s of CPU; peak memory {found['own']:.2f} GB, and of files {found['mapped']:.2f} GB; "
                f"files {found['files']:.2f} GB",
                f"the first size: {smallest['cpu']:.0f} s, {smallest['own']:.2f} GB",
                f"{found['cpu'] / smallest['cpu']:.2f}, {found['own'] / smallest['own']:.2f}",
                "memory 1.5 from 10,000 to 100,000",
            )


def _read_base(folder: Path, data: Path, path: Path) -> None:
    """The real stays of the eICU demo and what was charted of them."""
    from flows.jobs.ingest import ingest
    from flows.runtime.databases import open_source, open_store
    from sql.loaders import eicu
    from sql.published import canonical
    from sql.store import embedded

    with own_home(folder):
        adapter, source = open_source("eicu", writable=True)
        eicu.load(source, data)
        try:
            ingest.fn("eicu", _AS_OF)
            known = canonical.read_known(open_store(), "eicu", _AS_OF)
            path.write_bytes(pickle.dumps((known, adapter.sampling)))
        finally:
            embedded.stop(load_settings().cluster_folder)


def measure(base: str, size: int) -> None:
    """Fit and judge a blend; prints what it took beyond the interpreter, as JSON."""
    from rnn_core.contracts.config import ModelConfig
    from rnn_core.evaluation.judged_fit import fit_stay_forecaster

    known, sampling = pickle.loads(Path(base).read_bytes())
    now = MadeUpStays.of(known, size)
    config = ModelConfig(forecaster="blend")
    config = replace(
        config,
        train=replace(config.train, folds=MEMBERS, epochs=EPOCHS),
        trees=replace(config.trees, trees=TREES),
    )
    with tempfile.TemporaryDirectory() as folder:
        found = {"own": 0.0, "mapped": 0.0, "files": 0.0}
        threading.Thread(target=_watch, args=(found, Path(folder)), daemon=True).start()
        begun = process_time()
        _, report = fit_stay_forecaster(
            now.then(), now, config, sampling=sampling, checkpoint_dir=Path(folder), progress=lambda _: None
        )
        found |= {"cpu": process_time() - begun} | {name: report.n_stays[name] for name in ("learned", "judged")}
    print(json.dumps(found))


def _watch(found: dict[str, float], folder: Path) -> None:
    """Peaks of GB: of its own, which the system cannot take back; of pages of files; and on disk."""
    status = Path("/proc/self/status")
    while True:
        with suppress(OSError, ValueError):  # files come and go
            lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
            now = {
                name: int(lines[key].split()[0]) / 2**20 for name, key in (("own", "RssAnon"), ("mapped", "RssFile"))
            }
            now["files"] = sum(path.stat().st_blocks for path in folder.rglob("*") if path.is_file()) * 512 / 1e9
            for name, value in now.items():
                found[name] = max(found[name], value)
            for path in folder.rglob("channels.npy"):
                found["hours"] = len(np.load(path, mmap_mode="r"))
        sleep(0.05)
