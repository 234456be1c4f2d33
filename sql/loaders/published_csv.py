"""The CSV files of a public data set: found by table name, read with the types of their columns."""

import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from rnn_core.contracts.errors import ForecastError

_PARSE = csv.ParseOptions(newlines_in_values=True)


def find(folder: Path, table: str) -> Path | None:
    """The file of a table: its name in any case, `.csv.gz` before `.csv`; None if there is none."""
    files = {file.name.lower(): file for file in folder.iterdir()}
    return files.get(f"{table}.csv.gz") or files.get(f"{table}.csv")


def read(file: Path, type_of: Callable[[str], pa.DataType]) -> pa.Table:
    """The whole file, column names in lower case; empty fields are null.

    type_of: the type of a column by its lower-case name.
    Raises ForecastError, without the file's text, if it is not CSV or a value is not of its column's type.
    """
    try:
        with csv.open_csv(file, parse_options=_PARSE) as head:
            names = head.schema.names
        convert = csv.ConvertOptions(
            column_types={name: type_of(name.lower()) for name in names},
            strings_can_be_null=True,
            timestamp_parsers=["%Y-%m-%d %H:%M:%S"],
        )
        table = csv.read_csv(file, parse_options=_PARSE, convert_options=convert)
    except (ValueError, OSError) as error:
        # Arrow quotes the row or the value; only its column may be shown.
        column = re.search(r"CSV column #(\d+)", str(error))
        fault = f"a value of {names[int(column[1])]} has the wrong type" if column else "it is not a readable CSV file"
        raise ForecastError(f"{file} is not as published: {fault}.") from None
    return table.rename_columns([name.lower() for name in names])
