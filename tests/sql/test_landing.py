"""Batches of a small hand-made source: what late stays, absent feeds and a second reading do to the tables."""

import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import builders_sql as b
import pyarrow as pa
import pytest
from sqlalchemy import Engine, event, text

from rnn_core.contracts.config import Sampling
from sql.intake import landing
from sql.intake.adapter import Adapter, Beds, MappedVariable
from sql.intake.reading import BEGINNING
from sql.published import canonical, runs
from sql.store.engine import open_engine

ADAPTER = Adapter(
    name=b.SOURCE,
    title="",
    licence="",
    ends_at="unit",
    sampling=Sampling(0.0, math.inf),
    availability="",
    dialects=("postgresql",),
    tables={},
    units={},
    stays_sql="select * from {schema}.stay where available_at > :since and available_at <= :until",
    observations_sql="select * from {schema}.observation where available_at > :since and available_at <= :until",
    concept_map=(MappedVariable("HR", "*", "heart_rate", 1.0, 0.0),),
)
BEGIN = datetime.fromisoformat("2026-03-02T08:00:00+00:00")
_STAY = "stay_id, available_at, patient_id, unit, unit_type, intime, ends_at"


def at(hours: float) -> datetime:
    return BEGIN + timedelta(hours=hours)


@dataclass
class Hospital:
    """A source database that is written to between the batches of a store."""

    source: Engine
    store: Engine

    def add_stay(self, stay_id: str, hours: float, *, patient_id: str | None = "p") -> None:
        with self.source.begin() as connection:
            connection.execute(
                text(f"insert into stay ({_STAY}) values (:id, :at, :patient, 'MICU', 'medical', :begin, 'unit')"),
                {"id": stay_id, "at": at(hours), "patient": patient_id, "begin": BEGIN},
            )

    def add_values(self, stay_id: str, *hours: float, value: str = "80") -> None:
        with self.source.begin() as connection:
            connection.execute(
                text("insert into observation values (:id, 'HR', null, :at, :at, :value)"),
                [{"id": stay_id, "at": at(h), "value": value} for h in hours],
            )

    def ingest(self, hours: float) -> landing.BatchCounts:
        batch = landing.begin_batch(self.store, b.SOURCE, at(hours))
        landing.land(self.store, batch, ADAPTER, self.source, lambda _: None)
        landing.cast_and_map(self.store, batch, ADAPTER)
        return self.take_over(batch, landing.check(self.store, batch))

    def take_over(self, batch: landing.Batch, outcomes: dict) -> landing.BatchCounts:
        with self.store.begin() as connection:
            return landing.take_over(connection, batch, outcomes, {})

    def reads_beds(self, hours: float, **beds: Beds) -> None:
        batch = landing.begin_batch(self.store, b.SOURCE, at(hours), timezone="Europe/Berlin")
        with self.store.begin() as connection:
            landing._add_beds(connection, batch, beds)

    def tables(self) -> dict[str, list[dict]]:
        return {
            "stays": b.rows(self.store, "select stay_id, available_at from icu.stay_version order by 1, 2"),
            "observations": b.rows(
                self.store, "select stay_id, available_at, value from icu.observation order by 1, 2, 3"
            ),
            "quarantine": b.rows(
                self.store, "select check_name, row_hash, row::text from quality.quarantine order by 1, 2"
            ),
        }


@pytest.fixture
def hospital(make_database, migrated_template):
    source = open_engine(make_database("hospital"))
    with source.begin() as connection:
        connection.exec_driver_sql(
            "create table stay (stay_id text, available_at timestamptz, patient_id text, unit text, unit_type text,"
            " intime timestamptz, outtime timestamptz, outcome text, ends_at text, end_precision_hours float8,"
            " hospital_intime timestamptz, hospital_outtime timestamptz, died_at timestamptz, age_years float8,"
            " sex text, height_cm float8, weight_kg float8, admission_type text);"
            "create table observation (stay_id text, variable text, unit text, observed_at timestamptz,"
            " available_at timestamptz, value text)"
        )
    with b.migrated(make_database("store", migrated_template)) as store:
        yield Hospital(source, store)
    source.dispose()


def test_a_feed_that_was_away_longer_than_the_overlap_loses_no_row(hospital):
    hospital.add_stay("a", 0)
    hospital.add_values("a", 1)
    hospital.ingest(2)
    hospital.add_stay("b", 99)
    hospital.ingest(100)
    hospital.add_values("a", 3, 20, 101)
    assert hospital.ingest(102).observations_added == 3


def test_a_feed_that_never_gave_a_row_is_read_from_the_beginning(hospital):
    hospital.add_stay("a", 0)
    hospital.add_stay("b", 99)
    hospital.ingest(100)
    hospital.add_values("a", 1)
    assert hospital.ingest(101).observations_added == 1


def test_beds_hold_since_ever_and_changed_ones_since_the_slot_that_found_them_changed(hospital):
    hospital.reads_beds(2, ICU1=Beds(12), ICU2=Beds(None))
    hospital.reads_beds(3, ICU1=Beds(12), ICU2=Beds(8, 6))
    hospital.reads_beds(4, ICU1=Beds(None), ICU2=Beds(8, 6))
    # An old slot again: what it finds is no news, or holds since what is known already.
    hospital.reads_beds(1, ICU1=Beds(None), ICU2=Beds(8, 5))
    query = "select unit, available_at, beds, staffed_beds from icu.unit order by 1, 2"
    assert b.tuples(hospital.store, query) == [
        ("ICU1", BEGINNING, 12, None),
        ("ICU1", at(4), None, None),
        ("ICU2", BEGINNING, None, None),
        ("ICU2", at(3), 8, 5),
    ]
    assert b.tuples(hospital.store, "select distinct timezone from icu.batch") == [("Europe/Berlin",)]


def test_a_quiet_feed_reads_its_last_rows_again_and_no_more(hospital):
    hospital.add_stay("a", 0)
    hospital.add_values("a", 1, 100)
    hospital.ingest(101)
    counts = hospital.ingest(1000)
    assert (counts.observations_read, counts.observations_added) == (1, 0)
    assert counts.watermark == at(100)


def test_the_watermark_is_what_the_data_are_known_up_to_and_each_relation_keeps_its_own(hospital):
    hospital.add_stay("a", 5)
    hospital.add_values("a", 1)
    assert hospital.ingest(10).watermark == at(5)
    with hospital.store.connect() as connection:
        assert landing.read_watermark(connection, b.SOURCE) == at(5)
        assert landing.read_watermark(connection, "another") is None
    kept = b.one(hospital.store, "select stays_watermark, observations_watermark, read_since from icu.batch")
    assert (kept["stays_watermark"], kept["observations_watermark"]) == (at(5), at(1))


def test_the_watermark_never_passes_the_slot(hospital):
    """Even where the adapter does not bound its rows and no check were to stop them."""
    hospital.add_stay("a", 0)
    hospital.add_values("a", 7)
    batch = landing.begin_batch(hospital.store, b.SOURCE, at(7))
    landing.land(hospital.store, batch, ADAPTER, hospital.source, lambda _: None)
    batch.as_of = at(4)
    landing.cast_and_map(hospital.store, batch, ADAPTER)
    assert hospital.take_over(batch, {"stay": [], "observation": []}).watermark == at(4)


def test_slices_equal_one_pass_where_a_stay_is_accepted_long_after_its_observations(
    hospital, make_database, migrated_template
):
    """Its first version names no patient; the next comes when the overlap has passed over the early rows."""
    hospital.add_stay("known", 0)
    hospital.add_values("known", 1, 58)
    hospital.add_stay("late", 0, patient_id=None)
    hospital.add_stay("late", 60)
    hospital.add_values("late", 1, 2, 59)
    hospital.add_values("late", 2, value="90")
    hospital.add_values("late", 3, value="haemolysed")
    hospital.add_values("nobody", 1)
    assert hospital.ingest(10).quarantined == 6
    hospital.ingest(59)
    hospital.ingest(61)
    with b.migrated(make_database("one_pass", migrated_template)) as store:
        one_pass = Hospital(hospital.source, store)
        one_pass.ingest(61)
        assert hospital.tables() == one_pass.tables()
    assert len(hospital.tables()["observations"]) == 2 + 3


def test_rows_wait_in_quarantine_while_their_stay_is_still_rejected(hospital):
    hospital.add_stay("known", 0)
    hospital.add_values("known", 1, 58)
    hospital.add_stay("late", 0, patient_id=None)
    hospital.add_stay("late", 60, patient_id="")
    hospital.add_values("late", 1)
    hospital.ingest(10)
    hospital.ingest(59)
    before = hospital.tables()
    counts = hospital.ingest(61)
    after = hospital.tables()
    assert counts.quarantined == 1, "the stay's new version; the row that waits was counted before"
    assert after["observations"] == before["observations"]
    assert [row for row in before["quarantine"] if row not in after["quarantine"]] == []


def test_rows_that_are_read_again_are_counted_as_quarantined_once(hospital):
    hospital.add_stay("a", 0)
    hospital.add_values("a", 1)
    hospital.add_values("a", 2, value="haemolysed")
    assert hospital.ingest(10).quarantined == 1
    hospital.add_values("a", 11, value="lost")
    again = hospital.ingest(12)
    assert (again.observations_read, again.quarantined) == (3, 1)


def test_an_ingest_that_commits_during_a_read_is_seen_by_no_statement_of_it(hospital):
    hospital.add_stay("a", 0)
    hospital.add_values("a", 1)
    hospital.ingest(2)

    def read():
        known = canonical.read_known(hospital.store, b.SOURCE, at(5))
        return len(known.stays), len(known.observations)

    late: list[int] = []

    def ingest_between(_connection, _cursor, statement, *_):
        if "icu.stay_at" in statement and late:
            hospital.ingest(late.pop())

    event.listen(hospital.store, "after_cursor_execute", ingest_between)
    assert read() == (1, 1)
    hospital.add_stay("b", 0)
    hospital.add_values("a", 1.5)
    late.append(3)
    assert read() == (1, 1) and not late
    assert read() == (2, 2)


def test_a_run_that_starts_while_an_ingest_commits_waits_so_that_its_start_divides_ingests(hospital):
    hospital.add_stay("a", 0)
    batch = landing.begin_batch(hospital.store, b.SOURCE, at(2))
    landing.land(hospital.store, batch, ADAPTER, hospital.source, lambda _: None)
    landing.cast_and_map(hospital.store, batch, ADAPTER)
    outcomes = landing.check(hospital.store, batch)
    with ThreadPoolExecutor(1) as pool:
        with hospital.store.begin() as connection:
            landing.take_over(connection, batch, outcomes, {})
            other = runs.start_run(hospital.store, "another source", "forecast", at(2))
            starting = pool.submit(runs.start_run, hospital.store, b.SOURCE, "forecast", at(2))
            with pytest.raises(TimeoutError):
                starting.result(timeout=0.3)
        started_at = runs.read_run(hospital.store, starting.result(timeout=30))["started_at"]
    ingested_at = b.one(hospital.store, "select ingested_at from icu.batch")["ingested_at"]
    assert runs.read_run(hospital.store, other)["started_at"] < started_at and ingested_at < started_at


def test_known_and_not_used_holds_for_each_unit_of_a_variable():
    concept_map = (
        MappedVariable("norepinephrine", "mcg/kg/min", "norepinephrine", 1.0, 0.0),
        MappedVariable("norepinephrine", "*", None, 1.0, 0.0),
        MappedVariable("lactate", "mmol/L", "lactate", 1.0, 0.0),
        MappedVariable("lactate", "mg/dL", None, 1.0, 0.0),
        MappedVariable("lactate", "*", "lactate", 1.0, 0.0),
        MappedVariable("bed", "*", None, 1.0, 0.0),
    )
    rows = [
        ("norepinephrine", "mcg/kg/min", True),
        ("norepinephrine", "ml/hr", False),
        ("norepinephrine", None, False),
        ("lactate", "mmol/L", True),
        ("lactate", "mg/dL", False),
        ("lactate", None, True),
        ("bed", None, False),
        ("unheard of", "ml/hr", True),
        (None, None, True),
    ]
    variables, units, kept = map(list, zip(*rows, strict=True))
    batch = pa.record_batch({"variable": pa.array(variables), "unit": pa.array(units), "kept": pa.array(kept)})
    unmapped = Counter()
    (left,) = landing._without_unmapped(iter([batch]), replace(ADAPTER, concept_map=concept_map), unmapped)
    assert left["kept"].to_pylist() == [True] * sum(kept)
    assert unmapped == {"norepinephrine": 2, "lactate": 1, "bed": 1}


def test_an_odd_cell_costs_its_row_and_no_batch(hospital):
    hospital.add_stay("a", 0)
    hospital.add_values("a", 1)
    long, late, early = "x" * 5000, "'infinity'", "'-infinity'"
    stay = "insert into stay (stay_id, available_at, patient_id, unit, intime, outtime, ends_at) values"
    value = "insert into observation values"
    with hospital.source.begin() as connection:
        for statement in (
            f"{stay} ('endless', '{at(1)}', 'p', 'MICU', '{BEGIN}', {late}, 'unit')",
            f"{stay} ('begins never', '{at(1)}', 'p', 'MICU', {early}, null, 'unit')",
            f"{stay} ('of Rome', '{at(1)}', 'p', 'MICU', '0044-03-15 BC', null, 'unit')",
            f"{stay} ('{long}', '{at(1)}', 'p', 'MICU', '{BEGIN}', null, 'unit')",
            f"{stay} ('long unit', '{at(1)}', 'p', '{long}', '{BEGIN}', null, 'unit')",
            f"{value} ('{long}', 'HR', null, '{at(1)}', '{at(1)}', '80')",
            f"{value} ('a', 'HR', '{long}', '{at(1)}', '{at(1)}', '80')",
            f"{value} ('a', 'HR', null, {early}, '{at(1)}', '80')",
            f"{value} ('a', 'HR', null, '1900-01-01', '{at(1)}', '80')",
        ):
            connection.exec_driver_sql(statement)
    counts = hospital.ingest(2)
    assert (counts.stays_added, counts.observations_added, counts.quarantined) == (1, 1, 9)
    found = "select relation, check_name, count(*) as n from quality.quarantine group by 1, 2 order by 1, 2"
    assert [tuple(row.values()) for row in b.rows(hospital.store, found)] == [
        ("observation", "observed_long_before_stay", 1),
        ("observation", "unreadable_text", 2),
        ("observation", "unreadable_time", 1),
        ("stay", "unreadable_text", 2),
        ("stay", "unreadable_time", 3),
    ]
    assert hospital.ingest(3).quarantined == 0, "the same rows, read again"
