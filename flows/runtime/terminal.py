"""Output of the command line: tables, counts and sentences for people, or JSON, on standard output."""

import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rnn_core.contracts.errors import ForecastError

# A pipe has no width, and columns folded to 80 characters would be unreadable.
_PIPE_WIDTH = 10_000


def print_rows(
    rows: Sequence[Mapping[str, Any]], as_json: bool = False, title: str | None = None, width: int | None = None
) -> None:
    """Print a table, or a JSON array with an object per row. width: of the table in characters, at most; by default that of
    the terminal."""
    if as_json:
        print_json([dict(row) for row in rows])
        return
    if not rows:
        print("(no rows)")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Cells are data: `[degF]` is no markup and `:100:` no emoji.
    table = Table(title=title and Text(title), title_justify="left", header_style="bold")
    for name in rows[0]:
        table.add_column(Text(str(name)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_shown(value)) for value in row.values()))
    Console(width=width or (None if sys.stdout.isatty() else _PIPE_WIDTH)).print(table)


def print_counts(counts: Mapping[str, Any], as_json: bool = False) -> None:
    """Print a line per count, or one JSON object."""
    if as_json:
        print_json(dict(counts))
        return
    width = max((len(name) for name in counts), default=0)
    for name, value in counts.items():
        print(f"{name:<{width}}  {_shown(value)}")


def print_line(values: Sequence[Any], widths: Sequence[int]) -> None:
    """Print a row of a table that takes its time, at once; `widths` of its columns in characters."""
    print("  ".join(f"{_shown(v):<{width}}" for v, width in zip(values, widths, strict=True)).rstrip(), flush=True)


def print_done(sentence: str, facts: Mapping[str, Any], as_json: bool) -> None:
    """Print a sentence, or the facts in it as one JSON object."""
    if as_json:
        print_json(dict(facts))
    else:
        print(sentence)


def print_json(value: Any) -> None:
    """Print one value as JSON, which has no NaN and no infinity: they are null."""
    print(_json(value))


class _OwnErrorsOnce(logging.Filter):
    """Drops our errors, with their tracebacks, from Prefect's console, which prints them for every task and flow.

    The program prints the error's sentence when it ends. Prefect's record of the run stays complete, since its other
    handlers come before the console.
    """

    def __init__(self) -> None:
        super().__init__()
        self._dropped = False

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], ForecastError):
            self._dropped = True
            return False
        if self._dropped and record.getMessage().startswith("Finished in state Failed("):
            record.msg, record.args = "Finished in state Failed", None
        return True


def show_own_errors_once() -> None:
    """Print an error of ours once, at the end, for runs through Prefect; call it after Prefect was imported."""
    from prefect.logging.handlers import PrefectConsoleHandler

    for handler in logging.getLogger().handlers:
        if isinstance(handler, PrefectConsoleHandler):
            handler.addFilter(_OwnErrorsOnce())


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return _json(value)
    value = _plain(value, keep_times=True)
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    # A control character in a patient's data must not reach the terminal.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def _json(value: Any) -> str:
    return json.dumps(_plain(value), allow_nan=False)


def _plain(value: Any, keep_times: bool = False) -> Any:
    """The value in the types of JSON; what is not a number or not a time is null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(part) for part in value]
    if hasattr(value, "item"):
        value = value.item()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if type(value).__name__ in ("NaTType", "NAType"):
        return None
    if isinstance(value, datetime):
        return value if keep_times else value.isoformat()
    return str(value)
