"""The page of the data checks of a source: what each check looks for, and what it found. Counts only, no patient is in it."""

from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from flows.pages.page import Section, Table, render_page, write_text
from flows.runtime.settings import load_settings
from rnn_core.contracts.errors import DataTooSmallError
from sql.intake.quality import Check, read_results

DAYS = 30
_TITLES = {
    "stay": "Stays",
    "observation": "Observations",
    "beds": "Beds",
    "planned": "Plans",
    "forecast": "Forecasts before publication",
}
_COLUMNS = ["check", "found last time", f"failed in {DAYS} days", "severity", "looks for"]


def write_page(store: Engine, source: str, path: Path | None) -> Path:
    """Write the page of the newest checks of `source` and return its path.

    Raises DataTooSmallError where nothing of it was checked in the last DAYS days.
    """
    results = read_results(store, source, DAYS)
    if not results:
        raise DataTooSmallError(
            f"No check of {source} ran in the last {DAYS} days; run `icu-forecast ingest {source}` first."
        )
    lead = (
        "What the checks of ingest and of publication found. A critical check that fails stops the run; a row that fails "
        "another check is quarantined or corrected, and counted here."
    )
    sections = [_section(_TITLES[suite], checks) for suite, checks in results.items()]
    path = path or load_settings().home / "reports" / f"checks-{source}.html"
    write_text(path, render_page(f"Data checks of {source}", lead, sections))
    return path


def _section(title: str, checks: list[tuple[Check, dict[str, Any]]]) -> Section:
    newest = max(result["checked_at"] for _, result in checks)
    rows = checks[0][1]["rows_checked"]
    table = Table(
        f"{newest:%Y-%m-%d %H:%M} UTC, {rows:,} rows", _COLUMNS, [_row(*each) for each in checks], ["looks for"]
    )
    return Section(title, [], [table])


def _row(check: Check, result: dict[str, Any]) -> list[str]:
    return [
        check.name.replace("_", " "),
        f"{result['rows_failed']:,}",
        f"{result['times_failed']:,} of {result['times']:,} times",
        result["severity"],
        " ".join((check.reason or check.advice).split()),
    ]
