"""The page of the data checks: every check of a suite with what it found, newest last, and nothing of a row."""

import re

import builders_sql as b
import pytest

from flows.pages.checks import write_page
from rnn_core.contracts.errors import DataTooSmallError
from sql.intake import quality


@pytest.fixture
def store(make_database):
    with b.migrated(make_database()) as engine:
        yield engine


def record(store, failed: dict[str, int], rows: int) -> None:
    """The outcome of one batch: so many rows fail the named checks of the suite `stay`, and none the others."""
    outcomes = [
        quality.CheckOutcome(check, not failed.get(check.name), failed.get(check.name, 0))
        for check in quality.load_suite("stay")
    ]
    with store.begin() as connection:
        quality.record(connection, outcomes, suite="stay", source=b.SOURCE, rows_checked=rows, batch_id=1)


def cells(page: str) -> dict[str, list[str]]:
    rows = [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in re.findall(r"<tr>.*?</tr>", page, re.DOTALL)
    ]
    return {row[0]: row[1:] for row in rows if row}


def test_the_page_shows_the_newest_finding_of_each_check_and_how_often_it_failed(store, tmp_path):
    record(store, {"implausible_age": 7, "missing_stay_id": 1}, rows=100)
    record(store, {"implausible_age": 1_234}, rows=2_000)
    page = write_page(store, b.SOURCE, tmp_path / "checks.html").read_text()
    found = cells(page)
    assert {name.replace(" ", "_") for name in found} >= {check.name for check in quality.load_suite("stay")}
    reason = "age outside 0 to 120 years; treated as not known"
    assert found["implausible age"] == ["1,234", "2 of 2 times", "warning", reason]
    assert found["missing stay id"][:2] == ["0", "1 of 2 times"]
    assert "2,000 rows" in page and "Observations" not in page
    assert not re.findall(r"https?://|src=|@import|<link", page)


def test_a_source_that_nothing_was_checked_of_has_no_page(store, tmp_path):
    record(store, {}, rows=100)
    with pytest.raises(DataTooSmallError, match="ingest other"):
        write_page(store, "other", tmp_path / "checks.html")
    assert not (tmp_path / "checks.html").exists()
