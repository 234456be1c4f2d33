"""A large source, read and ingested, against pandas.read_sql of the same SELECT: rows per second and peak memory."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from time import perf_counter

from benchmarks.large_source import LAST, SOURCE, generate
from benchmarks.stage import Row
from flows.runtime.settings import load_settings, own_home

# Up to when the first ingest takes over, with patients in their beds; the hour after it is the increment.
AS_OF = LAST - timedelta(hours=12)
NEXT_HOUR = AS_OF + timedelta(hours=1)
# What a measurement by pandas must leave free: what the database and others need.
SPARE_KIB = 2 * 2**20


@dataclass(frozen=True)
class Measured:
    """One measurement, in a process of its own. Imports and the opening of databases come before the clock.

    start_kib: what the process held when the clock was started.
    """

    rows: int
    seconds: float
    start_kib: int
    peak_kib: int

    def __str__(self) -> str:
        speed = f"{self.rows:,} rows, {self.rows / self.seconds:,.0f} rows/s ({self.seconds:.1f} s)"
        return f"{speed}, peak {self.peak_kib / 2**10:,.0f} MiB ({self.start_kib / 2**10:,.0f} before)"


def run(rows: int) -> Iterator[Row]:
    small, large = rows // 10, rows
    first: dict[int, dict[str, Measured]] = {}
    # What pandas needs at a tenth says whether it can be measured at all of it.
    for size in (small, large):
        with _source(size) as begin:
            hour = {"since": AS_OF - timedelta(hours=48), "until": NEXT_HOUR}
            read = _measure("read", "begin", AS_OF)
            ingest = _measure("ingest", "", AS_OF)
            # Of what takes less than a second the best of three counts: others use the machine as well.
            read_hour = min((_measure("read", **hour) for _ in range(3)), key=lambda m: m.seconds)
            pandas_hour = min((_measure("pandas", **hour) for _ in range(3)), key=lambda m: m.seconds)
            ingest_hour = _measure("ingest", "", NEXT_HOUR)
            since, share = _what_fits(begin, size, first[small]["pandas"] if first else None, small)
            pandas = _measure("pandas", since, AS_OF)
        first[size] = {"reading": read, "ingest": ingest, "pandas": pandas}
        of = f" of {size:,} charted values"
        part = "" if share == 1 else f", of the last {share:.0%} only, all that fits in memory"
        yield _row(f"first read{of}", read, pandas, part)
        yield _row(f"first ingest{of}", ingest, pandas, part)
        yield _row(f"hourly read, 49 hours{of}", read_hour, pandas_hour)
        yield _row(f"hourly ingest, 49 hours{of}", ingest_hour, pandas_hour)
    peaks = {name: (first[small][name].peak_kib / 2**10, first[large][name].peak_kib / 2**10) for name in first[large]}
    ours = "; ".join(f"{name} {_grown(*peaks[name])}" for name in ("reading", "ingest"))
    yield Row(
        "peak memory, from a tenth of the rows to all", ours, f"read_sql {_grown(*peaks['pandas'])}{part}", "", "1"
    )


def _row(what: str, ours: Measured, theirs: Measured, part: str = "") -> Row:
    speed = (ours.rows / ours.seconds) / (theirs.rows / theirs.seconds)
    ratio = f"speed {speed:.2f}, memory {theirs.peak_kib / ours.peak_kib:.1f}"
    return Row(what, str(ours), f"read_sql, nothing done with it: {theirs}{part}", ratio, "")


def _grown(small: float, large: float) -> str:
    return f"{small:,.0f} to {large:,.0f} MiB ({large / small:.2f})"


@contextmanager
def _source(rows: int) -> Iterator[datetime]:
    """A home with a source of that size and an empty store, on a server of their own; yields when the source begins."""
    from flows.runtime.databases import open_source, open_store
    from sql.store import embedded

    with (
        tempfile.TemporaryDirectory(prefix="icu-bench-", ignore_cleanup_errors=True) as folder,
        own_home(Path(folder)),
    ):
        try:
            begun = perf_counter()
            begin = generate(open_source(SOURCE, writable=True)[1], rows)
            open_store()
            _tell(f"made {rows:,} charted values in {perf_counter() - begun:.0f} s")
            yield begin
        finally:
            embedded.stop(load_settings().cluster_folder)


def _what_fits(begin: datetime, rows: int, known: Measured | None, known_rows: int) -> tuple[str | datetime, float]:
    """From when on pandas is to read, and which share of the source that is: all of it where memory is enough."""
    if known is None:
        return "begin", 1
    needed = (known.peak_kib - known.start_kib) * rows / known_rows
    free = int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) - SPARE_KIB
    share = min(1.0, free / needed)
    return ("begin", 1) if share == 1 else (AS_OF - share * (AS_OF - begin), share)


def _measure(what: str, since: str | datetime, until: datetime) -> Measured:
    script = f"from benchmarks import reading; reading.measure({what!r}, {str(since)!r}, {str(until)!r})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env={**os.environ}
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:] or f"{what} ended with {done.returncode}")
    found = Measured(**json.loads(done.stdout.splitlines()[-1]))
    _tell(f"{what} up to {until:%H:%M}: {found}")
    return found


def measure(what: str, since: str, until: str) -> None:
    """What the process of a measurement runs; prints what it found as JSON."""
    from sql.intake.reading import BEGINNING

    bounds = (BEGINNING if since == "begin" else since and datetime.fromisoformat(since), datetime.fromisoformat(until))
    work = {"read": _prepare_read, "pandas": _prepare_pandas, "ingest": _prepare_ingest}[what](*bounds)
    start = _kib("VmRSS")
    begun = perf_counter()
    rows = work()
    seconds = perf_counter() - begun
    print(json.dumps({"rows": rows, "seconds": seconds, "start_kib": start, "peak_kib": _kib("VmHWM")}))


def _prepare_read(since: datetime, until: datetime):
    from flows.runtime.databases import open_source
    from sql.intake.reading import read_observations

    adapter, engine = open_source(SOURCE)
    return lambda: sum(rows.num_rows for rows in read_observations(adapter, engine, since, until))


def _prepare_pandas(since: datetime, until: datetime):
    import pandas as pd
    from sqlalchemy import text

    from flows.runtime.databases import open_source
    from sql.intake.reading import bounds, statement

    adapter, engine = open_source(SOURCE)
    select = text(statement(adapter, adapter.observations_sql, engine))

    def work() -> int:
        with engine.connect() as connection:
            return len(pd.read_sql(select, connection, params=bounds(adapter, since, until)))

    return work


def _prepare_ingest(_: str, until: datetime):
    import great_expectations  # noqa: F401 - costs seconds once per process

    from flows.jobs.ingest import ingest

    return lambda: ingest.fn(SOURCE, until)["observations read"]


def _kib(name: str) -> int:
    """Not getrusage: after an exec its peak still holds that of the parent."""
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def _tell(message: str) -> None:
    print(f"    {message}", file=sys.stderr, flush=True)
