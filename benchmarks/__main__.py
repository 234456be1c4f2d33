"""Runs benchmarks on throw-away installations and prints one table: `python -m benchmarks [NAME ...] [--rows N]`."""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

from benchmarks.stage import Row, open_stage
from flows.runtime.settings import own_home

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "physionet-2012"
STAGED = ("ingest", "windows", "training", "scoring", "flow", "scale", "units")
NAMES = (*STAGED, "networks", "stays", "census", "reading")
ROWS = 30_000_000
# At a tenth of fewer there is no history before the hour that is read.
FEWEST_ROWS = 1_000_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"charted values that are read; default: {ROWS:,}")
    parser.add_argument(
        "--stays", default="1000,4000", help="made-up stays that are learned from; default: %(default)s"
    )
    parser.add_argument("--members", type=int, default=15, help="networks that are fitted; default: %(default)s")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes that fit them; default: %(default)s, the CPUs"
    )
    given = parser.parse_args()
    names = given.names or list(NAMES)
    if unknown := sorted(set(names) - set(NAMES)):
        parser.error(f"there is no benchmark {', '.join(unknown)}")
    if given.rows < FEWEST_ROWS:
        parser.error(f"--rows is at least {FEWEST_ROWS:,}")
    rows = list(_run_staged([name for name in STAGED if name in names]))
    if "networks" in names:
        rows += _told("networks").run(DATA, given.members, given.workers)
    if "stays" in names:
        rows += _told("stays").run(DATA.parent / "eicu-demo", [int(size) for size in given.stays.split(",")])
    if "census" in names:
        rows += _told("census").run()
    if "reading" in names:
        rows += _told("reading").run(given.rows)
    if not rows:
        return 0
    print("\n| what | measured | named alternative | ratio | aim |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.what} | {row.measured} | {row.alternative} | {row.ratio} | {row.aim} |")
    return 0


def _run_staged(names: list[str]) -> Iterator[Row]:
    if names and not (DATA / "set-a.tar.gz").is_file():
        print(
            f"skipped {', '.join(names)}: the PhysioNet 2012 files are not at ../shared/data/{DATA.name}",
            file=sys.stderr,
        )
        return
    if not names:
        return
    with (
        tempfile.TemporaryDirectory(prefix="icu-bench-", ignore_cleanup_errors=True) as folder,
        own_home(Path(folder)),
        open_stage(Path(folder), DATA) as stage,
    ):
        for name in names:
            yield from _told(name).run(stage)


def _told(name: str) -> ModuleType:
    """The benchmark of that name; its first line says that it begins. TensorFlow is imported by those that need it."""
    module = import_module(f"benchmarks.{name}")
    print(f"... {module.__doc__.splitlines()[0]}", file=sys.stderr, flush=True)
    return module


if __name__ == "__main__":
    sys.exit(main())
