"""The label audit of a source: the same rules as those of the view, on stays that nothing has taken over."""

from datetime import UTC, datetime, time, timedelta

import pyarrow as pa

from sql.intake.adapter import FIRST_DAY
from sql.intake.label_audit import audit_stays

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def test_it_counts_by_the_rules_of_ingest_and_of_the_view(engine):
    def stay(stay_id, patient, begin, end, died=None, known=0):
        day = {
            name: None if hours is None else T0 + timedelta(hours=hours)
            for name, hours in {"available_at": known, "intime": begin, "outtime": end, "died_at": died}.items()
        }
        return {
            "stay_id": stay_id,
            "patient_id": patient,
            "outcome": "died" if died else "alive",
            "hospital_intime": None,
            "hospital_outtime": None,
            **day,
        }

    stays = pa.Table.from_pylist(
        [
            stay("1", "a", 0, 100),
            stay("2", "a", 90, 200),
            stay("3", "b", 0, 100, died=63),
            stay("4", "c", 0, 100, died=65),
            stay("5", "d", 10, 10),
            stay("6", "e", 10, 5, known=0),
            stay("6", "e", 10, 50, known=1),
            stay("7", "f", -50 * 8766, None),
        ]
    )
    *faults, everything = audit_stays(engine, stays, datetime.combine(FIRST_DAY, time(), UTC))
    assert {row["fault"]: row["stays"] for row in faults} == {
        "overlapping_stays": 1,
        "died_before_outtime": 1,
        "negative_stay": 1,
        "impossible_begin": 1,
    }
    assert everything["note"].startswith("7 stays, 6 ended, 2 deaths, 1 charted")
