"""Purging: ended stays go with all their rows, open ones stay, and no reconcile brings back what is gone."""

from datetime import UTC, datetime, timedelta

import builders_sql as b
import pytest
from builders_sql import tuples
from sqlalchemy import insert, text

from flows.jobs.forecast import forecast
from flows.jobs.ingest import ingest
from sql.intake import retention
from sql.store.schema import planned, quarantine

AT = datetime(2026, 1, 19, tzinfo=UTC)
CUTOFF = AT - timedelta(days=7)
LEFT = (
    "select (select count(*) from icu.stay where outtime < :cutoff and available_at < :cutoff),"
    " (select count(*) from icu.stay where outtime is null or outtime >= :cutoff or available_at >= :cutoff),"
    " (select count(*) from icu.observation o where not exists (select from icu.stay s where s.stay_id = o.stay_id)),"
    " (select count(*) from icu.observation)"
)


def stay_that_goes(engine):
    query = "select min(stay_id) from icu.stay where outtime < :cutoff and available_at < :cutoff"
    return tuples(engine, query, cutoff=CUTOFF)[0][0]


def test_ended_stays_go_with_all_their_rows_and_a_reconcile_does_not_bring_them_back(trained):
    forecast.fn("clif", CUTOFF - timedelta(days=1))
    forecast.fn("clif", AT)
    with trained.begin() as connection:
        connection.execute(
            text("update quality.quarantine set quarantined_at = :old"), {"old": CUTOFF - timedelta(days=1)}
        )
        plans = [
            ("old", CUTOFF - timedelta(days=1), None),
            ("moved", CUTOFF, None),
            ("his", AT, stay_that_goes(trained)),
        ]
        connection.execute(
            insert(planned),
            [
                {"planned_id": name, "expected_at": time, "available_at": CUTOFF - timedelta(days=2), "stay_id": stay}
                | {
                    "source": "clif",
                    "unit": "U",
                    "kind": "discharge",
                    "probability": 1,
                    "status": "planned",
                    "batch_id": 1,
                }
                for name, time, stay in plans
            ],
        )
    ((old, young, _, n_observations),) = tuples(trained, LEFT, cutoff=CUTOFF)
    assert old > 10 and young > 10
    counted = retention.purge(trained, "clif", CUTOFF, dry_run=True)
    assert tuples(trained, LEFT, cutoff=CUTOFF) == [(old, young, 0, n_observations)], "a dry run deletes nothing"
    assert retention.purge(trained, "clif", CUTOFF, dry_run=False) == counted
    assert min(counted.values()) > 0 and counted["icu.planned"] == 2, counted
    assert tuples(trained, "select planned_id from icu.planned") == [("moved",)]
    assert tuples(trained, LEFT, cutoff=CUTOFF) == [(0, young, 0, n_observations - counted["icu.observation"])]
    assert retention.purge(trained, "clif", CUTOFF, dry_run=False) == dict.fromkeys(counted, 0)
    ingest.fn("clif", AT, reconcile=True)
    assert tuples(trained, LEFT, cutoff=CUTOFF)[0][0] == 0
    orphans = (
        "select count(*) from icu.stay_version v where not exists (select from icu.stay s where s.stay_id = v.stay_id)"
    )
    assert tuples(trained, orphans) == [(0,)]
    assert forecast.fn("clif", AT)["stays_scored"] > 10


@pytest.mark.parametrize("source", ["nobody"])
def test_another_sources_rows_are_left_alone(trained, source):
    before = tuples(trained, LEFT, cutoff=CUTOFF)
    assert set(retention.purge(trained, source, CUTOFF, dry_run=False).values()) == {0}
    assert tuples(trained, LEFT, cutoff=CUTOFF) == before


def test_a_quarantined_end_goes_with_its_stay_and_not_before(engine):
    """Without it the stay would count as present again."""
    old, new = CUTOFF - timedelta(days=2), CUTOFF + timedelta(days=2)
    batch = b.add_batch(engine, as_of=new, ingested_at=new)
    for stay, known in (("gone", old), ("kept", new)):
        b.add_stay(engine, stay, batch_id=batch, intime=old - timedelta(days=1))
        row = {"stay_id": stay, "available_at": str(known), "outtime": str(old - timedelta(days=3))}
        with engine.begin() as connection:
            connection.execute(
                quarantine.insert().values(
                    source=b.SOURCE,
                    relation="stay",
                    row_hash=stay,
                    check_name="ends_before_it_begins",
                    batch_id=batch,
                    row=row,
                    reason="because",
                    quarantined_at=old,
                )
            )
    counts = retention.purge(engine, b.SOURCE, CUTOFF, dry_run=False)
    assert (counts["icu.stay_version"], counts["quality.quarantine"]) == (1, 1)
    assert tuples(engine, "select stay_id from icu.stay_version") == [("kept",)]
    assert tuples(engine, "select row ->> 'stay_id' from quality.quarantine") == [("kept",)]
    assert tuples(engine, "select * from icu.stay") == []
