"""What the tests of every source share: its SELECTs read as the ingest reads them, and what its card and map promise."""

import csv
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pyarrow as pa
from sqlalchemy import Engine

import sql.sources
from rnn_core.contracts.concepts import BY_NAME
from sql.intake import reading
from sql.intake.adapter import Adapter, load_adapter
from sql.intake.catalogue import check_source
from sql.intake.not_taken import read_not_taken
from sql.intake.reading import read_observations, read_stays
from sql.store.engine import open_engine

FOLDER = Path(sql.sources.__file__).parent
BEGINNING, END = datetime(1900, 1, 1, tzinfo=UTC), datetime(2300, 1, 1, tzinfo=UTC)
HOUR = pd.Timedelta(hours=1)
READ: dict[str, Callable] = {
    "stays": read_stays,
    "observations": read_observations,
    "arrivals": lambda adapter, *given: reading.read(adapter, "arrivals.sql", *given),
}


def adapter_at(source: str, *schema: str, **settings) -> Adapter:
    """The adapter with all its tables in one schema (as published where none is named), and other settings.

    Its times are the source's own, not moved.
    """
    adapter = load_adapter(source)
    schemas = dict.fromkeys(adapter.schemas, *schema) if schema else adapter.schemas
    return replace(adapter, **{"schemas": schemas, "shift_days": 0, **settings})


def read(engine: Engine, source: str | Adapter, which: str, *schema: str, since=BEGINNING, until=END) -> pd.DataFrame:
    """Rows of one SELECT of a source as the ingest reads them; empty without columns where there are none."""
    adapter = source if isinstance(source, Adapter) else adapter_at(source, *schema)
    batches = [rows for rows in READ[which](adapter, engine, since, until) if rows.num_rows]
    return pa.Table.from_batches(batches).to_pandas() if batches else pd.DataFrame()


def sorted_rows(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values(list(frame.columns), ignore_index=True)


def newest(versions: pd.DataFrame) -> pd.DataFrame:
    """The newest version of each stay, by stay_id."""
    return versions.sort_values("available_at").groupby("stay_id").tail(1).set_index("stay_id")


def check_slices_are_one_pass(engine: Engine, adapter: Adapter, which: str, edges: list[datetime]) -> None:
    """Slices at `edges`, with all before and after, hold their own rows and together what one pass gives."""
    edges = [BEGINNING, *edges, END]
    parts = [read(engine, adapter, which, since=since, until=until) for since, until in pairwise(edges)]
    for part, (since, until) in zip(parts, pairwise(edges), strict=True):
        assert part.empty or (part["available_at"].min() > since and part["available_at"].max() <= until)
    together = pd.concat([part for part in parts if len(part)])
    pd.testing.assert_frame_equal(sorted_rows(together), sorted_rows(read(engine, adapter, which)))


def untimed(engine: Engine, adapter: Adapter) -> dict[str, tuple[int, int]]:
    """By table, the rows without a usable time that `source check` counts, and their stays or patients."""
    held = read_not_taken(adapter, engine)
    return {row["name"]: (row["rows"], row["stays"]) for row in held if row["kind"] == "untimed"}


def concept_map(source: str) -> list[dict[str, str]]:
    with (FOLDER / source / "concept_map.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def judge_units(observations: pd.DataFrame, source: str) -> tuple[pd.Series, pd.Series]:
    """Per concept the share of its numbers inside the plausible range, and their median, after conversion."""
    lines = {(m.variable, m.unit): m for m in load_adapter(source).concept_map}
    keys = list(zip(observations["variable"], observations["unit"].fillna(""), strict=True))
    found = [lines.get(key) or lines.get((key[0], "*")) for key in keys]
    concept = pd.Series([m.concept if m else None for m in found], observations.index, dtype=object)
    scale = pd.Series([m.scale if m else 1.0 for m in found], observations.index)
    offset = pd.Series([m.offset if m else 0.0 for m in found], observations.index)
    value = (pd.to_numeric(observations["value"], errors="coerce") * scale + offset)[concept.notna()].dropna()
    concept = concept[value.index]
    plausible = value.between(concept.map(lambda n: BY_NAME[n].low), concept.map(lambda n: BY_NAME[n].high))
    return plausible.groupby(concept).mean(), value.groupby(concept).median()


def check_named_columns(engine: Engine, adapter: Adapter) -> None:
    """A role that may select what source.yaml names and nothing else can read; all that is named is selected.

    PostgreSQL only.
    """
    role = f"reader_{adapter.name}_{os.getpid()}"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"create user {role} password 'not-a-secret'")
        for statement in adapter.grants(role, engine.dialect):
            connection.exec_driver_sql(statement)
    reader = open_engine(engine.url.set(username=role, password="not-a-secret"))
    check_source(adapter, reader)
    for which in READ:
        if f"{which}.sql" in adapter.selects():
            read(reader, adapter, which, since=datetime(2299, 12, 31, tzinfo=UTC))
    assert (read_not_taken(adapter, reader) is None) == (adapter.not_taken_sql is None)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"drop owned by {role}; drop user {role}")
    selects = adapter.selects().values()
    for _, table, columns in adapter.relations():
        for column in columns:
            assert any(column in select for select in selects), f"{table}.{column} is named but not selected"
