"""What people see on the terminal: progress on standard error, tables or JSON on standard output."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

# A pipe has no width of its own; folding columns to 80 characters there would make them unreadable.
_PIPE_WIDTH = 10_000


def print_rows(rows: Sequence[Mapping[str, Any]], as_json: bool = False, title: str | None = None) -> None:
    """A table for people, or an array of row objects."""
    if as_json:
        print(json.dumps([dict(row) for row in rows], default=_plain, indent=None))
        return
    if not rows:
        print("(no rows)")
        return
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in rows[0]:
        table.add_column(str(name), overflow="fold")
    for row in rows:
        table.add_row(*(_shown(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


def print_counts(counts: Mapping[str, Any], as_json: bool = False) -> None:
    """What a job did, one line each, or one object."""
    if as_json:
        print(json.dumps(dict(counts), default=_plain))
        return
    width = max((len(name) for name in counts), default=0)
    for name, value in counts.items():
        print(f"{name:<{width}}  {_shown(value)}")


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    if isinstance(value, dict | list):
        return json.dumps(value, default=_plain)
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "item"):
        return value.item()
    return str(value)
