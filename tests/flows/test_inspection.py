"""Why a forecast saw what it saw: no row of the quarantine, however odd, keeps the others from being shown."""

import json
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from flows.inspection.explain import explain_rows
from flows.runtime.databases import open_store
from flows.runtime.settings import load_settings

AT = datetime(2026, 1, 12, tzinfo=UTC)
QUARANTINED = """
insert into quality.quarantine (source, relation, row_hash, check_name, batch_id, row, reason)
values ('clif', 'observation', md5(cast(:row as text)), 'unreadable_time', 1, cast(:row as jsonb), 'a time is far off')
"""


@pytest.fixture
def store(make_database, monkeypatch):
    monkeypatch.setenv("ICU_DATABASE_URL", make_database().render_as_string(hide_password=False))
    load_settings.cache_clear()
    engine = open_store()
    yield engine
    engine.dispose()
    load_settings.cache_clear()


@pytest.mark.parametrize(
    "odd", ["20260-01-12 10:00+00", "infinity", "-infinity", "0044-03-15 10:00+00 BC", "10000-01-01"]
)
def test_a_quarantined_time_that_no_reader_can_hold_is_shown_as_null(store, odd):
    times = [
        (odd, "2026-01-12 11:00+00"),
        ("2026-01-12 10:00+00", odd),
        ("9999-12-31 23:59:59+00", "0001-01-01 00:00+00"),
    ]
    with store.begin() as connection:
        for observed, available in times:
            row = {"stay_id": "s", "variable": "hr", "observed_at": observed, "available_at": available, "value": "80"}
            connection.execute(text(QUARANTINED), {"row": json.dumps(row)})
    found = explain_rows("s", AT, None)
    years = {
        (row["observed_at"] and row["observed_at"].year, row["available_at"] and row["available_at"].year)
        for row in found
    }
    assert years == {(None, 2026), (2026, None), (9999, 1)}
    assert {row["reason"] for row in found} == {"unreadable_time: a time is far off"}
