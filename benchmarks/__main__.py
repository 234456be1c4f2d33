"""Runs every benchmark on a throw-away installation and prints one table: `python -m benchmarks`."""

import sys
import tempfile
from pathlib import Path

from benchmarks import flow, ingest, scoring, windows
from benchmarks.stage import Stage, open_stage

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "physionet-2012"


def main() -> int:
    if not (DATA / "set-a.tar.gz").is_file():
        print(f"skipped: the PhysioNet 2012 files are not at ../shared/data/{DATA.name}", file=sys.stderr)
        return 0
    with (
        tempfile.TemporaryDirectory(prefix="icu-bench-", ignore_cleanup_errors=True) as folder,
        open_stage(Path(folder), DATA) as stage,
    ):
        rows = list(_run(stage))
    print("\n| what | measured | named alternative | ratio | aim |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.what} | {row.measured} | {row.alternative} | {row.ratio} | {row.aim} |")
    return 0


def _run(stage: Stage):
    for module in (ingest, windows, scoring, flow):
        print(f"... {module.__doc__.splitlines()[0]}", file=sys.stderr, flush=True)
        yield from module.run(stage)


if __name__ == "__main__":
    sys.exit(main())
