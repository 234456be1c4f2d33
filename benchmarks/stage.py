"""The stage of a benchmark: an embedded PostgreSQL of its own with set a as a source, and what a row of the table holds."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine

from flows.runtime.settings import load_settings

SOURCE = "physionet_2012"
START = datetime(2026, 1, 1, tzinfo=UTC)
# All 4,000 stays begin at START and are open, with 48 hours of data.
AS_OF = START + timedelta(hours=48)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    measured: str
    alternative: str
    ratio: str
    aim: str


@dataclass(frozen=True)
class Stage:
    source: Engine
    store: Engine
    home: Path


@contextmanager
def open_stage(folder: Path, data: Path) -> Iterator[Stage]:
    """Load set a, all stays together with outcomes withheld, into a source database of the current home; the store is empty."""
    from flows.runtime.databases import open_source, open_store
    from sql.loaders import physionet_2012
    from sql.store import embedded

    adapter, source = open_source(SOURCE, writable=True)
    physionet_2012.load(
        source, data, sets=["a"], schema=adapter.schemas["schema"], layout="together", withhold_outcomes=True
    )
    # Tables at rest, as a hospital's are: otherwise whoever reads them first pays for the load.
    with source.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("vacuum analyze")
        connection.exec_driver_sql("checkpoint")
    try:
        yield Stage(source, open_store(), folder)
    finally:
        embedded.stop(load_settings().cluster_folder)
