"""The published CSV files of MIMIC-III, such as its open demo of 100 patients, loaded into any engine."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
from sqlalchemy import Engine

from rnn_core.contracts.errors import ForecastError
from sql.loaders import LoadReport, Progress, make_schema, published_csv, replace_table, silent

# Each table that the adapter reads, with the indices that let its SELECTs filter it by time.
TABLES: dict[str, tuple[str, ...]] = {
    "icustays": ("(icustay_id)", "(subject_id)", "(hadm_id)"),
    "admissions": ("(hadm_id)",),
    "patients": ("(subject_id)",),
    "transfers": ("(icustay_id)",),
    "chartevents": ("(storetime)", "(charttime)", "(subject_id)"),
    "labevents": ("(charttime)",),
    "outputevents": ("(storetime)", "(charttime)"),
    "inputevents_cv": ("(storetime)", "(charttime)"),
    "inputevents_mv": ("(storetime)", "(starttime)", "(endtime)", "(subject_id)"),
    "d_items": ("(itemid)",),
    "d_labitems": ("(itemid)",),
}
_TIMES = frozenset(
    (
        "intime",
        "outtime",
        "admittime",
        "dischtime",
        "deathtime",
        "edregtime",
        "edouttime",
        "dob",
        "dod",
        "dod_hosp",
        "dod_ssn",
        "charttime",
        "storetime",
        "starttime",
        "endtime",
        "comments_date",
    )
)
_NUMBERS = frozenset(
    ("valuenum", "rate", "amount", "originalrate", "originalamount", "totalamount", "patientweight", "los")
)

_INTEGERS = frozenset(
    (
        "row_id",
        "subject_id",
        "hadm_id",
        "icustay_id",
        "itemid",
        "cgid",
        "error",
        "warning",
        "expire_flag",
        "hospital_expire_flag",
        "has_chartevents_data",
    )
)


def load(engine: Engine, folder: Path, schema: str = "mimiciii", progress: Progress = silent) -> LoadReport:
    """Load the tables that the adapter reads into `schema`, all columns as published; those of an earlier load are replaced.

    folder: holds ICUSTAYS.csv.gz and so on, in upper or lower case. One table at a time is held in memory, so this is for the
    demo; the full database has its own build scripts. Raises ForecastError if a file is missing.
    """
    files = {table: find(folder, table) for table in TABLES}
    return fill(engine, ((table, read_table(file)) for table, file in files.items()), schema, progress)


def fill(
    engine: Engine, tables: Iterable[tuple[str, pa.Table]], schema: str, progress: Progress = silent
) -> LoadReport:
    """Load `tables`, with names of TABLES, into `schema` with their indices, one after another."""
    rows = {}
    with engine.begin() as connection:
        make_schema(connection, schema)
        for table, data in tables:
            rows[table] = replace_table(connection, schema, table, data, TABLES[table])
            progress(f"{table}: {rows[table]:,} rows")
    return LoadReport(rows)


def find(folder: Path, table: str) -> Path:
    """The published file of a table. Raises ForecastError if it does not exist."""
    if folder.is_dir() and (file := published_csv.find(folder, table)):
        return file
    raise ForecastError(
        f"mimic_iii needs {table.upper()}.csv.gz in {folder}, as published at physionet.org/content/mimiciii-demo/1.4; "
        "set its folder with --path."
    )


def read_table(file: Path) -> pa.Table:
    """One table as published, column names in lower case; a column's name decides its type."""
    return published_csv.read(file, _type)


def _type(name: str) -> pa.DataType:
    if name in _TIMES:
        return pa.timestamp("s")
    if name in _NUMBERS:
        return pa.float64()
    if name in _INTEGERS:
        return pa.int64()
    return pa.string()
