"""The PhysioNet/CinC Challenge 2012 files, loaded as published; the stays are laid out on a calendar they do not have."""

import io
import re
import tarfile
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pyarrow import csv
from sqlalchemy import Engine

from rnn_core.errors import ContractError, ForecastError
from sql.loaders import LoadReport, Progress, make_schema, replace_table, silent

START = datetime(2026, 1, 1, tzinfo=UTC)
_HOURS_OF_A_YEAR = 365 * 24

_MEASUREMENT_INDICES = (
    "(set_name, record_id)",
    "(set_name, record_id) where time = '00:00' and parameter in ('Age', 'Gender', 'Height', 'ICUType', 'Weight')",
)
_OUTCOME_COLUMNS = ("record_id", "saps_i", "sofa", "length_of_stay", "survival", "in_hospital_death")


def load(
    engine: Engine,
    paths: Path | str | Collection[Path | str],
    sets: Collection[str] | None = None,
    schema: str = "public",
    layout: Literal["calendar", "together"] = "calendar",
    seed: int = 0,
    start: datetime = START,
    withhold_outcomes: bool | Collection[str] = False,
    progress: Progress = silent,
) -> LoadReport:
    """Put the sets found under `paths` into the tables `record`, `measurement` and `outcome`, replacing an earlier load.

    paths: folders with set-a.tar.gz (or the unpacked set-a/) and Outcomes-a.txt, and the like for b and c.
    sets: which of a, b, c; all that are found where None.
    layout: "calendar" begins each stay at a whole hour drawn uniformly from the 365 days after `start`; a set's hours
        depend on `seed` and its name only. "together" begins all stays at `start`.
    withhold_outcomes: sets whose outcomes stay out (True: all), so that their stays never end.
    Raises ForecastError where a set or its outcomes are missing, ContractError for an unknown layout.
    """
    if layout not in ("calendar", "together"):
        raise ContractError(f"The layout is 'calendar' or 'together', not {layout!r}.")
    folders = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    found = _find_sets(folders)
    names = sorted(found if sets is None else sets)
    if missing := [name for name in names if name not in found] or not names:
        raise ForecastError(
            f"No files of the sets {missing if names else 'a, b or c'} in {', '.join(map(str, folders))}; "
            "expected set-a.tar.gz or a folder set-a with one text file per stay, as published."
        )
    withheld = {name for name in names if withhold_outcomes is True or (withhold_outcomes and name in withhold_outcomes)}

    records, measurements, outcomes, malformed = [], [], [], 0
    for name in names:
        data, bad_lines = _read_set(found[name], name)
        ids = data["record_id"].unique().sort()
        malformed += bad_lines
        measurements.append(data)
        records.append(_make_records(ids, name, layout, seed, start))
        if name not in withheld:
            outcomes.append(_read_outcomes(found[name].parent / f"Outcomes-{name}.txt", name))
        progress(f"set {name}: {len(ids):,} stays, {len(data):,} measurements read")

    rows = {}
    with engine.begin() as connection:
        make_schema(connection, schema)
        for table, parts, indices in (
            ("record", records, ("(set_name, record_id)", "(intime)")),
            ("measurement", measurements, _MEASUREMENT_INDICES),
            ("outcome", outcomes or [_no_outcomes()], ("(set_name, record_id)",)),
        ):
            rows[table] = replace_table(connection, schema, table, pa.concat_tables(parts), indices)
            progress(f"{table}: {rows[table]:,} rows")
    return LoadReport(rows, _notes(layout, seed, start, withheld, malformed))
