"""SQL to canonical tables with validation, against pandas.read_sql and to_sql without any."""

from collections.abc import Iterator
from time import perf_counter

import great_expectations  # noqa: F401 - imported before the clock starts: it costs seconds once per process
import pandas as pd
from sqlalchemy import text

from benchmarks.stage import AS_OF, SOURCE, Row, Stage
from flows.runtime.databases import open_source
from sql.intake import landing
from sql.intake.reading import BEGINNING, statement
from sql.published import canonical


def fill(stage: Stage) -> tuple[int, dict[str, float]]:
    """Ingest set a: observations read, and seconds of each step."""
    adapter, source = open_source(SOURCE)
    clock = {}
    last = perf_counter()
    batch = landing.begin_batch(stage.store, SOURCE, AS_OF)
    for name, step in {
        "land": lambda: landing.land(stage.store, batch, adapter, source, lambda _: None),
        "cast and map": lambda: landing.cast_and_map(stage.store, batch, adapter),
        "check": lambda: clock.__setitem__("outcomes", landing.check(stage.store, batch)),
        "take over": lambda: _take_over(stage, batch, clock.pop("outcomes")),
    }.items():
        step()
        clock[name], last = perf_counter() - last, perf_counter()
    return batch.rows_landed["observation"], clock


def ensure_filled(stage: Stage) -> None:
    """For benchmarks that run without this one."""
    if not canonical.count_open(stage.store, SOURCE, AS_OF):
        fill(stage)


def run(stage: Stage) -> Iterator[Row]:
    rows, clock = fill(stage)
    ours = sum(clock.values())
    adapter, source = open_source(SOURCE)
    begun = perf_counter()
    select = text(statement(adapter, adapter.observations_sql, source))
    with source.connect() as connection:
        frame = pd.read_sql(select, connection, params={"since": BEGINNING, "until": AS_OF})
    with stage.store.begin() as connection:
        frame.to_sql("pandas_copy", connection, schema="public", index=False)
        connection.exec_driver_sql("drop table public.pandas_copy")
    theirs = perf_counter() - begun
    parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in clock.items())
    yield Row(
        f"ingest of {rows:,} rows with validation",
        f"{rows / ours:,.0f} rows/s ({ours:.1f} s: {parts})",
        f"read_sql + to_sql without validation: {len(frame) / theirs:,.0f} rows/s ({theirs:.1f} s)",
        f"{theirs / ours:.2f}",
        "3",
    )


def _take_over(stage: Stage, batch: landing.Batch, outcomes: dict) -> None:
    with stage.store.begin() as connection:
        landing.take_over(connection, batch, outcomes, {})
