"""What people see on the terminal: progress on standard error, tables or JSON on standard output."""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from rnn_core.contracts.errors import ForecastError

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


def print_done(sentence: str, facts: Mapping[str, Any], as_json: bool) -> None:
    """What was done: a sentence for people, or the same as one object."""
    print(json.dumps(dict(facts), default=_plain) if as_json else sentence)


class _OwnErrorsOnce(logging.Filter):
    """Keeps Prefect's console from telling an error of ours with traceback for each task and flow it passes through.

    The program ends with that error's one sentence. What Prefect keeps of the run is complete: its console comes last.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told_later = False

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], ForecastError):
            self._told_later = True
            return False
        words = record.getMessage()
        if self._told_later and words.startswith("Finished in state Failed("):
            record.msg, record.args = "Finished in state Failed", None
        return True


def tell_own_errors_once() -> None:
    """Let a run through Prefect show our errors once, at its end; call after Prefect was imported."""
    from prefect.logging.handlers import PrefectConsoleHandler

    for handler in logging.getLogger().handlers:
        if isinstance(handler, PrefectConsoleHandler):
            handler.addFilter(_OwnErrorsOnce())


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
