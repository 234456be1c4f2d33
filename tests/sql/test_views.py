"""Every view on hand-made examples: given these rows, a reader sees those."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import builders_sql as b
import numpy as np
import pandas as pd
import pytest
from builders_sql import NOW, hours
from sqlalchemy import insert, text, update

from sql.intake.quality import load_suite
from sql.published import canonical, results, runs
from sql.published.census_outcomes import read_published_census
from sql.store.schema import batch, observation, planned, quarantine, retention, stay_version, trial
from sql.store.schema import unit as unit_table


@pytest.fixture
def champion(engine):
    return b.add_model(engine, "m1")


def stay_at(engine, as_of, ingested_by="infinity"):
    query = "select * from icu.stay_at(:as_of, cast(:ingested_by as timestamptz)) order by source, stay_id"
    return b.rows(engine, query, as_of=as_of, ingested_by=ingested_by)


def risks(engine):
    return {r["stay_id"]: r["mortality_risk"] for r in b.rows(engine, "select * from forecast.current_risk")}


def faults(engine):
    return {(r["stay_id"], r["fault"]): r["explanation"] for r in b.rows(engine, "select * from quality.stay_audit")}


def faults_at(engine, as_of, ingested_by="infinity"):
    query = "select * from quality.stay_audit_at(:as_of, cast(:ingested_by as timestamptz))"
    found = b.rows(engine, query, as_of=as_of, ingested_by=ingested_by)
    return {(r["stay_id"], r["fault"]): r["explanation"] for r in found}


def census(engine, source=b.SOURCE):
    found = b.rows(engine, "select * from forecast.unit_census where source = :source", source=source)
    return {r["unit"]: r for r in found}


# -------------------------------------------------------------------------------- icu.stay_at


def test_stay_at_has_the_columns_of_a_version_but_the_batch(engine):
    b.add_stay(engine, "s1")
    expected = {c.name for c in stay_version.c} - {"batch_id"}
    assert set(stay_at(engine, NOW)[0]) == expected
    assert set(b.one(engine, "select * from icu.stay")) == expected


def test_a_stay_is_there_from_the_moment_it_was_known_and_had_begun(engine):
    b.add_stay(engine, "known_late", intime=NOW - hours(5), available_at=NOW - hours(2))
    b.add_stay(engine, "planned", intime=NOW + hours(5), available_at=NOW - hours(10))
    assert stay_at(engine, NOW - hours(3)) == []
    assert [s["stay_id"] for s in stay_at(engine, NOW - hours(2))] == ["known_late"]
    assert [s["stay_id"] for s in stay_at(engine, NOW + hours(5))] == ["known_late", "planned"]


def test_the_newest_version_known_by_then_is_taken(engine):
    b.add_stay(engine, "s1", unit="MICU")
    b.add_stay(engine, "s1", unit="SICU", available_at=NOW - hours(4))
    assert [stay_at(engine, NOW - hours(h))[0]["unit"] for h in (5, 4, 0)] == ["MICU", "SICU", "SICU"]
    assert stay_at(engine, NOW)[0]["available_at"] == NOW - hours(4)


def test_descriptors_stay_those_of_the_first_version(engine):
    first = {
        "age_years": 60.0,
        "sex": "female",
        "height_cm": 170.0,
        "weight_kg": None,
        "admission_type": "urgent",
        "unit_type": "medical",
    }
    later = {
        "age_years": 61.0,
        "sex": "male",
        "height_cm": 171.0,
        "weight_kg": 80.0,
        "admission_type": "elective",
        "unit_type": "surgical",
    }
    b.add_stay(engine, "s1", **first)
    b.end_stay(engine, "s1", outtime=NOW - hours(2), **later)
    for row in (*stay_at(engine, NOW), b.one(engine, "select * from icu.stay")):
        assert {name: row[name] for name in first} == first
        assert row["outcome"] == "alive"


def test_an_end_not_yet_reached_is_hidden_with_its_outcome(engine):
    end = NOW - hours(2)
    b.add_stay(
        engine, "s1", outtime=end, outcome="died", died_at=end, hospital_intime=NOW - hours(40), hospital_outtime=end
    )
    hidden = ("outtime", "outcome", "died_at", "hospital_outtime")
    (before,), (after,) = stay_at(engine, end - hours(1)), stay_at(engine, end)
    assert [before[name] for name in hidden] == [None] * 4
    assert [after[name] for name in hidden] == [end, "died", end, end]
    assert before["hospital_intime"] == NOW - hours(40)


def test_a_later_death_and_hospital_discharge_are_hidden_until_they_happen(engine):
    """The patient leaves the unit alive; what the same version says of the days after is not known yet."""
    b.add_stay(
        engine, "s1", outtime=NOW - hours(5), outcome="alive", died_at=NOW + hours(3), hospital_outtime=NOW + hours(3)
    )
    (row,) = stay_at(engine, NOW)
    assert (row["outtime"], row["outcome"]) == (NOW - hours(5), "alive")
    assert (row["died_at"], row["hospital_outtime"]) == (None, None)
    assert stay_at(engine, NOW + hours(3))[0]["died_at"] == NOW + hours(3)


def test_an_outcome_known_without_a_time_is_shown(engine):
    b.add_stay(engine, "s1", outcome="died", ends_at="hospital")
    assert (stay_at(engine, NOW)[0]["outcome"], stay_at(engine, NOW)[0]["outtime"]) == ("died", None)


def test_a_stay_reopened_by_a_late_correction_is_open_again(engine):
    b.add_stay(engine, "s1")
    b.end_stay(engine, "s1", outtime=NOW - hours(6))
    b.add_stay(engine, "s1", available_at=NOW - hours(1))
    assert [stay_at(engine, NOW - hours(h))[0]["outtime"] for h in (7, 6, 1)] == [None, NOW - hours(6), None]
    assert b.one(engine, "select outtime from icu.stay")["outtime"] is None


def test_a_past_run_is_reproduced_from_what_was_ingested_by_then(engine):
    first, second = (b.add_batch(engine, ingested_at=NOW - hours(h)) for h in (3, 1))
    b.add_stay(engine, "s1", batch_id=first)
    b.end_stay(engine, "s1", outtime=NOW - hours(6), batch_id=second)
    assert [stay_at(engine, NOW, NOW - hours(h))[0]["outcome"] for h in (3, 1)] == [None, "alive"]
    assert stay_at(engine, NOW, NOW - hours(4)) == []


def test_rows_of_a_batch_that_never_committed_are_not_read(engine):
    b.add_stay(engine, "s1", batch_id=b.add_batch(engine, ingested_at=None))
    assert stay_at(engine, NOW) == []
    assert b.rows(engine, "select * from icu.stay") == []


def test_icu_stay_equals_stay_at_the_end_of_time(engine):
    b.add_stay(engine, "s1", weight_kg=70.0, hospital_intime=NOW - hours(50))
    b.end_stay(engine, "s1", outtime=NOW - hours(6), outcome="died", died_at=NOW - hours(6), weight_kg=80.0)
    b.add_stay(engine, "s2", outtime=NOW + hours(100), hospital_outtime=NOW + hours(200), end_precision_hours=24.0)
    b.add_stay(engine, "s3", intime=NOW + hours(10), outcome="alive", source="other", admission_type="elective")
    ours = b.rows(engine, "select * from icu.stay order by source, stay_id")
    assert len(ours) == 3 and ours == stay_at(engine, "infinity")


def test_a_condition_on_one_stay_goes_through_stay_at_to_the_key_of_the_table(engine):
    batch_id = b.add_batch(engine)
    with engine.begin() as connection:
        connection.execute(
            text(
                "insert into icu.stay_version (source, stay_id, available_at, patient_id, intime, ends_at, batch_id)"
                " select 'hospital', 's' || n, :time, 'p', :time, 'unit', :batch_id from generate_series(1, 2000) n"
            ),
            {"time": NOW, "batch_id": batch_id},
        )
        connection.execute(text("analyze icu.stay_version"))
        query = "explain select * from icu.stay_at(:as_of) where source = 'hospital' and stay_id = 's1'"
        plan = "\n".join(connection.execute(text(query), {"as_of": NOW}).scalars())
    assert "Function Scan" not in plan
    assert "Index Scan using pk_stay_version" in plan and "stay_id = 's1'" in plan


# -------------------------------------------------------------------------------- quality.stay_audit


def test_clean_stays_have_no_fault(engine):
    """An ordinary course: two stays in a row, then a death charted a little before the end."""
    b.add_stay(
        engine,
        "s1",
        patient_id="p",
        intime=NOW - hours(100),
        outtime=NOW - hours(60),
        outcome="alive",
        hospital_intime=NOW - hours(110),
        hospital_outtime=NOW - hours(10),
    )
    b.add_stay(
        engine,
        "s2",
        patient_id="p",
        intime=NOW - hours(60.5),
        outtime=NOW - hours(8),
        outcome="died",
        died_at=NOW - hours(20),
        hospital_intime=NOW - hours(110),
        hospital_outtime=NOW - hours(10),
    )
    b.add_stay(engine, "s3")
    assert faults(engine) == {}


def test_the_later_of_two_overlapping_stays_is_named(engine):
    b.add_stay(engine, "first", patient_id="p", intime=NOW - hours(50), outtime=NOW - hours(20))
    b.add_stay(engine, "second", patient_id="p", intime=NOW - hours(25), outtime=NOW - hours(5))
    assert faults(engine) == {("second", "overlapping_stays"): "5 h shared with an earlier stay of the same patient"}


def test_a_stay_within_another_is_named_even_while_open(engine):
    b.add_stay(engine, "outer", patient_id="p", intime=NOW - hours(50), outtime=NOW - hours(20))
    b.add_stay(engine, "inner", patient_id="p", intime=NOW - hours(40), outtime=NOW - hours(37.5))
    b.add_stay(engine, "open", patient_id="p", intime=NOW - hours(26))
    assert faults(engine) == {
        ("inner", "overlapping_stays"): "2.5 h shared with an earlier stay of the same patient",
        ("open", "overlapping_stays"): "6 h shared with an earlier stay of the same patient",
    }


@pytest.mark.parametrize(
    "other", [{"patient_id": "q"}, {"source": "other"}, {"intime": NOW - hours(20.9)}, {"outtime": NOW - hours(24.5)}]
)
def test_stays_of_others_or_up_to_an_hour_do_not_overlap(engine, other):
    b.add_stay(engine, "first", patient_id="p", intime=NOW - hours(50), outtime=NOW - hours(20))
    b.add_stay(engine, "second", **{"patient_id": "p", "intime": NOW - hours(25)} | other)
    assert faults(engine) == {}


def test_an_earlier_stay_without_an_end_yet_overlaps_nothing(engine):
    """The end of the first may only be charted late."""
    b.add_stay(engine, "first", patient_id="p", intime=NOW - hours(50))
    b.add_stay(engine, "second", patient_id="p", intime=NOW - hours(25))
    assert faults(engine) == {}


def test_a_death_long_before_the_end_is_named(engine):
    for stay_id, lag in (("late", 37), ("charting", 36)):
        b.add_stay(engine, stay_id, outtime=NOW + hours(10), outcome="died", died_at=NOW + hours(10 - lag))
    assert faults(engine) == {("late", "died_before_outtime"): "37 h between the death and the end of the stay"}


def test_a_stay_after_the_death_of_its_patient_is_named(engine):
    """The death is recorded with another stay of the patient."""
    b.add_stay(engine, "s1", patient_id="p", intime=NOW - hours(60), outtime=NOW - hours(50), died_at=NOW - hours(50))
    b.add_stay(engine, "s2", patient_id="p", intime=NOW - hours(48), outtime=NOW - hours(40))
    b.add_stay(engine, "s3", patient_id="q", intime=NOW - hours(48), outtime=NOW - hours(40))
    assert faults(engine) == {
        ("s2", "stay_after_death"): "2 h between a death of the patient and the begin of the stay"
    }


def test_a_stay_longer_than_the_hospital_stay_is_named(engine):
    b.add_stay(engine, "after", outtime=NOW, hospital_outtime=NOW - hours(37))
    b.add_stay(engine, "before", outtime=NOW, hospital_intime=NOW - hours(5))
    b.add_stay(engine, "slightly", outtime=NOW, hospital_outtime=NOW - hours(36), hospital_intime=NOW - hours(6))
    assert faults(engine) == {
        ("after", "longer_than_hospital"): "37 h of the stay outside the hospital stay",
        ("before", "longer_than_hospital"): "25 h of the stay outside the hospital stay",
    }


def quarantined(
    engine,
    batch_id,
    stay_id,
    check="ends_before_it_begins",
    relation="stay",
    row_hash=None,
    available_at=NOW,
    row=None,
    **values,
):
    row = {"stay_id": stay_id, "available_at": str(available_at), "outtime": str(NOW - hours(40))} | (row or {})
    with engine.begin() as connection:
        connection.execute(
            quarantine.insert().values(
                source=b.SOURCE,
                relation=relation,
                row_hash=row_hash or f"{stay_id}-{batch_id}",
                check_name=check,
                batch_id=batch_id,
                row=row,
                **{"reason": "because"} | values,
            )
        )


def test_a_stay_quarantined_for_a_negative_length_is_named_until_a_newer_version_comes(engine):
    batches = [b.add_batch(engine) for _ in range(3)]
    b.add_stay(engine, "s1", batch_id=batches[0])
    quarantined(engine, batches[1], "s1")
    quarantined(engine, batches[1], "s1", row_hash="another")
    quarantined(engine, batches[1], "never_came")
    quarantined(engine, batches[1], "s2", check="unreadable_time")
    quarantined(engine, batches[1], "s3", relation="observation")
    assert faults(engine) == {
        ("s1", "negative_stay"): "2 quarantined version(s) end before they begin",
        ("never_came", "negative_stay"): "1 quarantined version(s) end before they begin",
        ("s2", "rejected_end"): "1 quarantined version(s) report the end of an open stay",
    }
    b.end_stay(engine, "s1", outtime=NOW, batch_id=batches[2])
    assert ("s1", "negative_stay") not in faults(engine)


def test_one_stay_may_have_several_faults(engine):
    b.add_stay(engine, "s1", outtime=NOW + hours(50), died_at=NOW, hospital_outtime=NOW)
    assert set(faults(engine)) == {("s1", "died_before_outtime"), ("s1", "longer_than_hospital")}


# -------------------------------------------------------------------------------- quality.rejected_version

REJECTING = [check.name for check in load_suite("stay") if check.where and not check.correct]


def present(engine, as_of=None, ingested_by="infinity"):
    """Ids of the stays that are there: as known at a time, or now."""
    found = b.rows(engine, "select stay_id from icu.stay") if as_of is None else stay_at(engine, as_of, ingested_by)
    return {row["stay_id"] for row in found}


@pytest.mark.parametrize("check", REJECTING)
def test_an_open_stay_is_present_until_its_quarantined_end_is_known_whatever_it_is_quarantined_for(engine, check):
    old, new = (b.add_batch(engine, as_of=NOW - hours(h), ingested_at=NOW - hours(h)) for h in (29, 4))
    b.add_stay(engine, "s1", batch_id=old)
    b.add_stay(engine, "s2", batch_id=old)
    quarantined(engine, new, "s1", check=check, available_at=NOW - hours(6))
    # What changed an accepted version in place has its time, yet nobody knew it before the batch.
    since = 4 if check == "changed_without_new_available_at" else 6
    assert present(engine, NOW - hours(since + 1)) == {"s1", "s2"}
    assert present(engine, NOW - hours(since)) == present(engine, NOW) == present(engine) == {"s2"}
    assert present(engine, NOW, ingested_by=NOW - hours(5)) == {"s1", "s2"}
    assert {stay for stay, _ in faults(engine)} == {"s1"}


@pytest.mark.parametrize(
    ("row", "is_end"),
    [
        ({"outtime": "no time"}, True),
        ({"outtime": None, "outcome": "transferred"}, True),
        ({"outtime": None, "died_at": str(NOW - hours(50))}, True),
        ({"outtime": None}, False),
        ({"outtime": " "}, False),
        ({"outtime": str(NOW + hours(9))}, False),
    ],
    ids=["unreadable", "outcome only", "death only", "open", "blank", "planned"],
)
def test_only_a_quarantined_version_that_reports_an_end_ends_the_stay(engine, row, is_end):
    b.add_stay(engine, "s1")
    quarantined(engine, b.add_batch(engine), "s1", check="unreadable_number", row=row)
    assert present(engine) == present(engine, NOW) == (set() if is_end else {"s1"})


def test_an_end_that_the_source_dates_before_the_begin_counts_from_the_begin(engine):
    """A source whose row of the end is known at that end: it is older than the row of the begin."""
    batch, begin, end = b.add_batch(engine), NOW - hours(30), NOW - hours(40)
    b.add_stay(engine, "s1", batch_id=batch, intime=begin)
    quarantined(engine, batch, "s1", available_at=end, row={"intime": str(begin), "outtime": str(end)})
    assert present(engine) == present(engine, NOW) == present(engine, begin) == set()


def test_a_stay_that_was_never_accepted_for_its_begin_is_named(engine):
    quarantined(engine, b.add_batch(engine), "s1", check="begins_before_first_day", row={"outtime": None})
    assert faults(engine) == {
        ("s1", "impossible_begin"): "1 quarantined version(s) begin before the first plausible day"
    }
    assert present(engine) == set()


def test_a_corrected_version_and_a_quarantined_observation_end_no_stay(engine):
    b.add_stay(engine, "s1")
    quarantined(engine, b.add_batch(engine), "s1", disposition="corrected")
    quarantined(engine, b.add_batch(engine), "s1", relation="observation")
    assert present(engine) == {"s1"}


def test_a_newer_version_brings_the_stay_back(engine):
    batches = [b.add_batch(engine) for _ in range(3)]
    for stay, known in (("later", NOW - hours(1)), ("corrected in place", NOW - hours(2))):
        b.add_stay(engine, stay, batch_id=batches[0])
        quarantined(engine, batches[1], stay, available_at=NOW - hours(2))
        b.add_stay(engine, stay, batch_id=batches[2], available_at=known)
    assert present(engine, NOW - hours(3)) == present(engine, NOW) == {"later", "corrected in place"}
    assert faults(engine) == {}


def test_a_stay_that_had_ended_keeps_its_end_and_a_planned_end_is_none(engine):
    for stay, outtime in (("ended", NOW - hours(8)), ("planned", NOW + hours(8))):
        b.add_stay(engine, stay)
        b.end_stay(engine, stay, outtime=outtime, available_at=NOW - hours(8))
        quarantined(engine, b.add_batch(engine), stay, check="unreadable_number")
    assert present(engine, NOW - hours(1)) == {"ended", "planned"}
    assert present(engine, NOW) == present(engine, NOW + hours(9)) == present(engine) == {"ended"}


def test_census_current_risk_forecast_and_audit_agree_that_a_quarantined_end_is_an_end(engine, champion):
    b.add_stay(engine, "here")
    b.add_stay(engine, "ghost")
    quarantined(engine, b.add_batch(engine), "ghost", available_at=NOW - hours(2))
    b.add_forecasts(engine, {"here": 0.1, "ghost": 0.4}, model_id="m1", as_of=NOW - hours(3))
    assert set(canonical.read_stays(engine, b.SOURCE, NOW - hours(3), only_open=True)["stay_id"]) == {"here", "ghost"}
    assert set(canonical.read_stays(engine, b.SOURCE, NOW, only_open=True)["stay_id"]) == {"here"}
    assert risks(engine) == {"here": 0.1}
    assert census(engine)["MICU"]["n_patients"] == 1
    assert list(faults(engine)) == [("ghost", "negative_stay")]


# -------------------------------------------------------------------------------- quality.stay_audit_at


def test_a_fault_is_there_from_when_it_was_known(engine):
    """The death becomes known two days after the stay ended, the overlap once the first stay has ended."""
    b.add_stay(engine, "dead", intime=NOW - hours(90), outtime=NOW - hours(50), available_at=NOW - hours(50))
    b.add_stay(
        engine,
        "dead",
        intime=NOW - hours(90),
        outtime=NOW - hours(50),
        died_at=NOW - hours(87),
        available_at=NOW - hours(2),
    )
    b.add_stay(engine, "first", patient_id="p", intime=NOW - hours(40))
    b.add_stay(engine, "second", patient_id="p", intime=NOW - hours(20))
    b.end_stay(engine, "first", patient_id="p", intime=NOW - hours(40), outtime=NOW - hours(10))
    died = ("dead", "died_before_outtime"), "37 h between the death and the end of the stay"
    overlap = ("second", "overlapping_stays"), "10 h shared with an earlier stay of the same patient"
    assert [faults_at(engine, NOW - hours(h)) for h in (11, 10, 2)] == [{}, dict([overlap]), dict([overlap, died])]


def test_a_quarantined_version_is_a_fault_from_when_it_was_told_until_one_replaced_it(engine):
    batches = [b.add_batch(engine, ingested_at=NOW - hours(h)) for h in (9, 6, 3)]
    b.add_stay(engine, "s1", batch_id=batches[0])
    quarantined(engine, batches[1], "s1", available_at=NOW - hours(7))
    quarantined(engine, batches[1], "s2", check="unreadable_time", available_at="no time")
    b.end_stay(engine, "s1", outtime=NOW - hours(4), batch_id=batches[2])
    named = {("s1", "negative_stay"): "1 quarantined version(s) end before they begin"}
    assert [faults_at(engine, NOW - hours(h)) for h in (8, 7, 5, 4)] == [{}, named, named, {}]
    # Nobody can read when the version of s2 became available: it is known from the slot of its batch.
    unread = {("s2", "rejected_end"): "1 quarantined version(s) report the end of an open stay"}
    assert [faults_at(engine, NOW, NOW - hours(h)) for h in (7, 6, 3)] == [{}, named | unread, unread]


def test_the_audit_equals_that_at_the_end_of_time(engine):
    b.add_stay(engine, "s1", patient_id="p", outtime=NOW + hours(50), died_at=NOW, hospital_outtime=NOW)
    b.add_stay(engine, "s2", patient_id="p", intime=NOW + hours(5), outtime=NOW + hours(9))
    quarantined(engine, b.add_batch(engine), "s3")
    found = faults(engine)
    assert len(found) == 5 and found == faults_at(engine, "infinity")


def test_sound_says_of_each_stay_what_the_audit_knew_then(engine):
    b.add_stay(engine, "s1")
    b.end_stay(engine, "s1", outtime=NOW - hours(5), available_at=NOW - hours(5))
    b.end_stay(engine, "s1", outtime=NOW - hours(5), hospital_outtime=NOW - hours(42), available_at=NOW - hours(2))
    b.add_stay(engine, "s2", intime=NOW - hours(29))

    def sound(hours_ago, **only):
        frame = canonical.read_stays(engine, b.SOURCE, NOW - hours(hours_ago), **only)
        return dict(zip(frame["stay_id"], frame["sound"], strict=True))

    assert [sound(3), sound(2)] == [{"s1": True, "s2": True}, {"s1": False, "s2": True}]
    assert [sound(3, only_sound=True), sound(2, only_sound=True)] == [{"s1": True, "s2": True}, {"s2": True}]
    assert sound(2, only_open=True, only_sound=True) == {"s2": True}
    assert "sound" not in canonical.read_stays(engine, b.SOURCE, NOW, only_open=True)


def test_lengths_of_stay_do_not_know_a_fault_that_was_told_later(engine):
    b.add_stay(engine, "s1", outtime=NOW - hours(6), available_at=NOW - hours(6))
    b.add_stay(engine, "s1", outtime=NOW - hours(6), died_at=NOW - hours(50), available_at=NOW - hours(2))
    lengths = [canonical.read_unit_lengths(engine, b.SOURCE, NOW - hours(h)) for h in (3, 2)]
    assert [{unit: days.tolist() for unit, days in found.items()} for found in lengths] == [{"MICU": [1.0]}, {}]


def test_lengths_of_stay_are_those_of_the_sound_ended_stays_of_a_unit_in_the_order_of_their_ends(engine):
    """Ends at one time go by stay_id; open stays, unknown units, other sources and planned ends are left out."""
    for stay_id, unit, days in (("b", "SICU", 2.0), ("B", "SICU", 3.0), ("a", "SICU", 1 / 3), ("c", "MICU", 4.5)):
        b.add_stay(engine, stay_id, unit=unit, intime=NOW - hours(24 * days + 1), outtime=NOW - hours(1))
    b.add_stay(engine, "earlier", unit="SICU", intime=NOW - hours(100), outtime=NOW - hours(50))
    b.add_stay(engine, "open", unit="SICU")
    b.add_stay(engine, "nowhere", unit=None, outtime=NOW - hours(1))
    b.add_stay(engine, "planned", unit="MICU", outtime=NOW + hours(1))
    b.add_stay(engine, "elsewhere", unit="MICU", outtime=NOW - hours(1), source="other")
    found = canonical.read_unit_lengths(engine, b.SOURCE, NOW)
    assert list(found) == ["MICU", "SICU"]
    assert found["MICU"].tolist() == [4.5]
    assert found["SICU"].tolist() == [50 / 24, 3.0, 1 / 3, 2.0]


# -------------------------------------------------------------------------------- forecast.current_risk


def test_current_risk_shows_the_highest_risk_first_and_abstentions_last(engine, champion):
    for stay_id in ("s1", "s2", "s3", "s4"):
        b.add_stay(engine, stay_id)
    b.add_forecasts(engine, {"s1": 0.1, "s2": None, "s3": 0.7, "s4": 0.2}, model_id=champion)
    assert list(risks(engine)) == ["s3", "s4", "s1", "s2"]


def test_current_risk_tells_all_about_a_forecast(engine, champion):
    b.add_stay(engine, "s1", intime=NOW - hours(30))
    b.add_forecasts(engine, {"s1": 0.5}, model_id=champion, as_of=NOW - hours(1))
    run_id = b.add_forecasts(engine, {"s1": 0.75}, model_id=champion)
    row = b.one(engine, "select *, extract(epoch from now()) as now from forecast.current_risk")
    assert row.pop("forecast_age_hours") == pytest.approx((float(row.pop("now")) - NOW.timestamp()) / 3600)
    assert row == {
        "source": b.SOURCE,
        "unit": "MICU",
        "stay_id": "s1",
        "patient_id": "p-s1",
        "prediction_time": NOW,
        "data_age_hours": 2.0,
        "hours_in_stay": 30.0,
        "mortality_risk": 0.75,
        "risk_band": "high",
        "risk_change": 0.25,
        "prolonged_stay_risk": 0.2,
        "remaining_los_p10_hours": 5.0,
        "remaining_los_p50_hours": 20.0,
        "remaining_los_p90_hours": 90.0,
        "discharge_24h_prob": 0.25,
        "discharge_48h_prob": 0.5,
        "discharge_72h_prob": 0.625,
        "n_observations": 40,
        "hours_since_last_observation": 1.0,
        "status": "scored",
        "status_reason": None,
        "model_id": "m1",
        "model_stage": "champion",
        "provisional": False,
        "run_id": run_id,
    }


def test_risk_change_is_null_where_the_run_before_has_no_risk(engine, champion):
    for stay_id in ("s1", "s2"):
        b.add_stay(engine, stay_id)
    b.add_forecasts(engine, {"s1": 0.5, "s2": 0.5}, model_id=champion, as_of=NOW - hours(2))
    b.add_forecasts(engine, {"s1": None}, model_id=champion, as_of=NOW - hours(1))
    b.add_forecasts(engine, {"s1": 0.75, "s2": 0.75}, model_id=champion)
    assert {r["risk_change"] for r in b.rows(engine, "select risk_change from forecast.current_risk")} == {None}


def test_a_patient_discharged_between_two_runs_disappears_before_the_next(engine, champion):
    for stay_id in ("s1", "s2"):
        b.add_stay(engine, stay_id)
    b.add_forecasts(engine, {"s1": 0.1, "s2": 0.2}, model_id=champion, as_of=NOW - hours(1))
    assert set(risks(engine)) == {"s1", "s2"}
    b.end_stay(engine, "s2", outtime=NOW - hours(0.5))
    assert set(risks(engine)) == {"s1"}
    b.add_forecasts(engine, {"s1": 0.3}, model_id=champion)
    assert risks(engine) == {"s1": 0.3}


def test_a_stay_reopened_by_a_late_correction_is_shown_again(engine, champion):
    b.add_stay(engine, "s1")
    b.add_forecasts(engine, {"s1": 0.1}, model_id=champion)
    b.end_stay(engine, "s1", outtime=NOW - hours(3))
    assert risks(engine) == {}
    b.add_stay(engine, "s1", available_at=NOW - hours(1))
    assert risks(engine) == {"s1": 0.1}


def test_an_end_that_is_only_planned_keeps_the_patient_in_the_list(engine, champion):
    """After the watermark: until a batch from after it arrives."""
    b.add_stay(engine, "s1", outtime=NOW + hours(6))
    b.add_forecasts(engine, {"s1": 0.1}, model_id=champion)
    assert (risks(engine), census(engine)["MICU"]["n_patients"]) == ({"s1": 0.1}, 1)
    b.add_batch(engine, as_of=NOW + hours(6))
    assert (risks(engine), census(engine)["MICU"]["n_patients"]) == ({}, 0)


def test_a_stay_whose_outcome_is_known_without_a_time_is_not_in_the_unit(engine, champion):
    b.add_stay(engine, "s1")
    b.add_forecasts(engine, {"s1": 0.1}, model_id=champion)
    b.add_stay(engine, "s1", outcome="alive", available_at=NOW)
    assert risks(engine) == {}


def test_a_newer_run_that_failed_leaves_readers_on_the_last_good_one(engine, champion):
    b.add_stay(engine, "s1")
    b.add_forecasts(engine, {"s1": 0.1}, model_id=champion)
    failed = runs.start_run(engine, b.SOURCE, "forecast", NOW + hours(1), model_id=champion)
    runs.fail_run(engine, failed, "It broke.")
    runs.start_run(engine, b.SOURCE, "forecast", NOW + hours(2), model_id=champion)
    assert risks(engine) == {"s1": 0.1}


def test_shadow_runs_back_fills_and_other_sources_do_not_replace_the_current_run(engine, champion):
    b.add_stay(engine, "s1")
    b.add_stay(engine, "s1", source="other")
    b.add_forecasts(engine, {"s1": 0.1}, model_id=champion)
    b.add_model(engine, "challenger", stage="challenger")
    b.add_forecasts(engine, {"s1": 0.9}, model_id="challenger", role="shadow", as_of=NOW + hours(1))
    b.add_forecasts(engine, {"s1": 0.8}, model_id=champion, kind="backfill", as_of=NOW + hours(1))
    b.add_model(engine, "o1", source="other")
    b.add_forecasts(engine, {"s1": 0.7}, model_id="o1", source="other", as_of=NOW + hours(5))
    found = b.rows(engine, "select source, mortality_risk from forecast.current_risk order by source")
    assert [(r["source"], r["mortality_risk"]) for r in found] == [(b.SOURCE, 0.1), ("other", 0.7)]


def test_a_newer_champion_for_the_same_slot_is_read_and_the_older_one_kept(engine, champion):
    b.add_stay(engine, "s1")
    b.add_forecasts(engine, {"s1": 0.1}, model_id=champion)
    b.add_model(engine, "m2")
    b.add_forecasts(engine, {"s1": 0.4}, model_id="m2")
    assert risks(engine) == {"s1": 0.4}
    assert b.one(engine, "select mortality_risk from forecast.risk_history")["mortality_risk"] == 0.4
    assert b.one(engine, "select count(*) as n from forecast.stay_forecast")["n"] == 2


def test_a_back_fill_of_the_current_slot_by_its_model_does_not_empty_the_list(engine, champion):
    b.add_stay(engine, "s1")
    b.add_forecasts(engine, {"s1": 0.1}, model_id=champion)
    b.add_forecasts(engine, {"s1": 0.2}, model_id=champion, kind="backfill")
    assert risks(engine) == {"s1": 0.2}


def test_what_a_provisional_model_published_stays_marked_after_a_champion_took_over(engine):
    b.add_stay(engine, "s1")
    b.add_model(engine, "m1", stage="provisional")
    b.add_forecasts(engine, {"s1": 0.1}, model_id="m1")
    b.add_model(engine, "m2")
    for view in ("current_risk", "risk_history"):
        row = b.one(engine, f"select model_stage, provisional from forecast.{view}")
        assert row == {"model_stage": "provisional", "provisional": True}
    assert census(engine)["MICU"]["provisional"]
    b.add_forecasts(engine, {"s1": 0.2}, model_id="m2", as_of=NOW + hours(1))
    assert not b.one(engine, "select provisional from forecast.current_risk")["provisional"]
    assert not census(engine)["MICU"]["provisional"]


# -------------------------------------------------------------------------------- forecast.risk_history


def test_risk_history_follows_a_stay_through_runs_and_back_fills(engine, champion):
    b.add_stay(engine, "s1", intime=NOW - hours(30))
    b.add_stay(engine, "s2")
    b.add_forecasts(engine, {"s1": 0.5, "s2": 0.9}, model_id=champion)
    b.add_forecasts(engine, {"s1": 0.25}, model_id=champion, as_of=NOW - hours(2), kind="backfill")
    b.add_forecasts(engine, {"s1": None}, model_id=champion, as_of=NOW + hours(1))
    b.add_model(engine, "m2", stage="challenger")
    b.add_forecasts(engine, {"s1": 0.8}, model_id="m2", role="shadow")
    runs.start_run(engine, b.SOURCE, "forecast", NOW + hours(2), model_id=champion)
    found = b.rows(engine, "select * from forecast.risk_history where stay_id = 's1' order by prediction_time")
    course = ("kind", "hours_in_stay", "mortality_risk", "risk_change", "status")
    assert [tuple(row[c] for c in course) for row in found] == [
        ("backfill", 28.0, 0.25, None, "scored"),
        ("forecast", 30.0, 0.5, 0.25, "scored"),
        ("forecast", 31.0, None, None, "abstained"),
    ]
    same = {"model_id": "m1", "model_stage": "champion", "unit": "MICU", "patient_id": "p-s1"}
    assert all(row | same == row for row in found)


# -------------------------------------------------------------------------------- forecast.unit_census


def test_unit_census_sums_the_current_forecasts(engine, champion):
    b.add_unit(engine, "MICU", beds=4)
    for stay_id in ("s1", "s2", "s3"):
        b.add_stay(engine, stay_id)
    b.add_stay(engine, "s4", unit="SICU")
    run_id = b.add_forecasts(engine, {"s1": 0.75, "s2": 0.25, "s3": None, "s4": 0.5}, model_id=champion)
    assert census(engine) == {
        "MICU": {
            "source": b.SOURCE,
            "unit": "MICU",
            "prediction_time": NOW,
            "n_patients": 3,
            "beds": 4,
            "free_beds": 1,
            "n_high_risk": 1,
            "expected_discharges_24h": 0.5,
            "expected_discharges_48h": 1.0,
            "expected_discharges_72h": 1.25,
            "expected_deaths": 1.0,
            "n_abstained": 1,
            "n_not_forecast": 0,
            "provisional": False,
            "run_id": run_id,
        },
        "SICU": {
            "source": b.SOURCE,
            "unit": "SICU",
            "prediction_time": NOW,
            "n_patients": 1,
            "beds": None,
            "free_beds": None,
            "n_high_risk": 1,
            "expected_discharges_24h": 0.25,
            "expected_discharges_48h": 0.5,
            "expected_discharges_72h": 0.625,
            "expected_deaths": 0.5,
            "n_abstained": 0,
            "n_not_forecast": 0,
            "provisional": False,
            "run_id": run_id,
        },
    }


def test_an_empty_unit_shows_zero(engine, champion):
    b.add_unit(engine, "CVICU", beds=8)
    b.add_stay(engine, "s1", unit="NICU", outtime=NOW - hours(1), outcome="alive")
    b.add_forecasts(engine, {}, model_id=champion)
    zero = {
        "n_patients": 0,
        "n_high_risk": 0,
        "expected_discharges_24h": 0.0,
        "expected_discharges_48h": 0.0,
        "expected_discharges_72h": 0.0,
        "expected_deaths": 0.0,
        "n_abstained": 0,
        "n_not_forecast": 0,
    }
    found = census(engine)
    assert {u: {k: r[k] for k in zero} for u, r in found.items()} == {"CVICU": zero, "NICU": zero}
    assert (found["CVICU"]["free_beds"], found["NICU"]["free_beds"]) == (8, None)
    assert found["CVICU"]["prediction_time"] == NOW


def test_beds_are_those_known_then_and_a_later_version_is_not_used(engine, champion):
    b.add_unit(engine, "MICU", 12)
    b.add_unit(engine, "MICU", 10, 8, available_at=NOW - hours(3))
    b.add_unit(engine, "MICU", 6, available_at=NOW + hours(1))
    b.add_unit(engine, "NEW", 5, available_at=NOW + hours(1))
    query = "select unit, beds, staffed_beds from icu.unit_at(:as_of)"
    at = {h: b.tuples(engine, query, as_of=NOW + hours(h)) for h in (-4, 0, 1)}
    assert at == {-4: [("MICU", 12, None)], 0: [("MICU", 10, 8)], 1: [("MICU", 6, None), ("NEW", 5, None)]}
    b.add_forecasts(engine, {}, model_id=champion)
    assert {u: r["beds"] for u, r in census(engine).items()} == {"MICU": 10}


def test_plans_and_beds_are_known_when_their_batch_was_ingested(engine):
    batch = b.add_batch(engine, ingested_at=NOW - hours(1))
    version = {"planned_id": "p1", "unit": "MICU", "kind": "admission", "probability": 0.8, "batch_id": batch}
    version |= {"source": b.SOURCE, "expected_at": NOW + hours(5)}
    with engine.begin() as connection:
        for time, status in ((NOW - hours(9), "planned"), (NOW - hours(2), "cancelled")):
            connection.execute(insert(planned).values(version | {"available_at": time, "status": status}))
        connection.execute(
            insert(unit_table).values(source=b.SOURCE, unit="U", beds=3, available_at=NOW - hours(9), batch_id=batch)
        )
    query = "select status from icu.planned_at(:as_of, cast(:by as timestamptz))"
    at = {(h, by): b.tuples(engine, query, as_of=NOW - hours(h), by=NOW - hours(by)) for h in (3, 2) for by in (2, 1)}
    assert at == {(3, 2): [], (3, 1): [("planned",)], (2, 2): [], (2, 1): [("cancelled",)]}
    query = "select beds from icu.unit_at(:as_of, cast(:by as timestamptz))"
    assert [b.tuples(engine, query, as_of=NOW, by=NOW - hours(by)) for by in (2, 1)] == [[], [(3,)]]


def test_the_census_follows_admissions_and_discharges_since_the_run(engine, champion):
    b.add_unit(engine, "MICU", beds=1)
    for stay_id in ("s1", "s2"):
        b.add_stay(engine, stay_id)
    b.add_forecasts(engine, {"s1": 0.75, "s2": 0.25}, model_id=champion)
    b.end_stay(engine, "s1", outtime=NOW, outcome="died")
    b.add_stay(engine, "new", intime=NOW)
    row = census(engine)["MICU"]
    assert (row["n_patients"], row["n_not_forecast"], row["free_beds"]) == (2, 1, -1)
    assert (row["expected_deaths"], row["n_high_risk"]) == (0.25, 0)


def test_a_planned_admission_is_no_patient_until_its_time_has_come(engine, champion):
    b.add_stay(engine, "s1")
    b.add_stay(engine, "planned", intime=NOW + hours(5), available_at=NOW - hours(10))
    b.add_forecasts(engine, {"s1": 0.5}, model_id=champion)
    row = census(engine)["MICU"]
    assert (row["n_patients"], row["n_not_forecast"]) == (1, 0)
    b.add_batch(engine, as_of=NOW + hours(5))
    row = census(engine)["MICU"]
    assert (row["n_patients"], row["n_not_forecast"]) == (2, 1)


def test_patients_without_a_unit_are_counted_under_null(engine, champion):
    b.add_stay(engine, "s1", unit=None)
    b.add_stay(engine, "s2", unit=None)
    b.add_forecasts(engine, {"s1": 0.75, "s2": 0.25}, model_id=champion)
    assert {u: r["n_patients"] for u, r in census(engine).items()} == {None: 2}


def test_bands_above_high_count_as_high(engine, champion):
    b.add_stay(engine, "s1")
    run_id = runs.start_run(engine, b.SOURCE, "forecast", NOW)
    frame = b.forecasts({"s1": 0.9}).assign(risk_band="very high")
    slot = {"model_id": champion, "source": b.SOURCE, "prediction_time": NOW}
    results.publish(engine, results.Publication(run_id=run_id, stays=frame, **slot))
    assert census(engine)["MICU"]["n_high_risk"] == 1


def test_a_census_by_a_model_without_a_risk_of_death_expects_discharges_and_no_number_of_deaths(engine, champion):
    b.add_unit(engine, "CVICU", beds=1)
    b.add_stay(engine, "s1")
    run_id = runs.start_run(engine, b.SOURCE, "forecast", NOW)
    nothing = {"mortality_risk": None, "risk_band": None, "status_reason": "outcome_not_learned"}
    slot = {"model_id": champion, "source": b.SOURCE, "prediction_time": NOW}
    results.publish(
        engine, results.Publication(run_id=run_id, stays=b.forecasts({"s1": 0.9}).assign(**nothing), **slot)
    )
    row = census(engine)["MICU"]
    assert (row["expected_deaths"], row["n_high_risk"], row["n_abstained"]) == (None, None, 0)
    assert row["expected_discharges_24h"] == 0.25
    assert census(engine)["CVICU"]["expected_deaths"] == 0


# -------------------------------------------------------------------------------- forecast.unit_outlook and tomorrow


def in_zone(engine, zone):
    with engine.begin() as connection:
        connection.execute(update(batch).values(timezone=zone))


def test_the_outlook_is_the_census_of_the_newest_published_run_with_the_time_each_row_stands_for(engine, champion):
    b.add_batch(engine)
    old = b.census({"MICU": 4, "GONE": 1}, horizons=(24, 48))
    b.add_forecasts(engine, {"s1": 0.5}, model_id=champion, as_of=NOW - hours(1), census=old)
    beds = {"beds": 4, "staffed_beds": 3, "prob_full": 0.75, "prob_free_1": 0.25, "prob_free_2": 0.0}
    for count in (2, 3):
        new = b.census({"MICU": count, "*": count}, horizons=(4, 24), **beds)
        run_id = b.add_forecasts(engine, {"s1": 0.5}, model_id=champion, census=new)
    runs.start_run(engine, b.SOURCE, "forecast", NOW + hours(1), model_id=champion)
    found = b.rows(engine, "select * from forecast.unit_outlook")
    assert [(r["unit"], r["horizon_hours"], r["at"]) for r in found] == [
        (unit, h, NOW + hours(h)) for unit in ("*", "MICU") for h in (4, 24)
    ]
    expected = {"prediction_time": NOW, "timezone": "UTC", "run_id": run_id, "provisional": False, "model_id": "m1"}
    expected |= {"status": "scored", "n_present": 1, "expected_census": 3.0, "census_p05": 3, "census_p95": 3, **beds}
    expected |= {"data_age_hours": 2.0, "census_probabilities": [0.0, 0.0, 0.0, 1.0]}
    assert all({name: row[name] for name in expected} == expected for row in found)


def test_nothing_of_units_is_shown_during_a_trial_or_by_a_run_without_a_census(engine, champion):
    b.add_forecasts(engine, {"s1": 0.5}, model_id=champion, census=b.census({"MICU": 4}))
    with engine.begin() as connection:
        connection.execute(insert(trial).values(source=b.SOURCE, started_at=NOW - hours(1), ends_at=NOW + hours(99)))
    for view in ("unit_outlook", "tomorrow", "changes"):
        assert b.rows(engine, f"select * from forecast.{view}") == []
    with engine.begin() as connection:
        connection.execute(update(trial).values(ended_at=NOW))
    assert len(b.rows(engine, "select * from forecast.tomorrow")) == 1
    b.add_forecasts(engine, {"s1": 0.5}, model_id=champion)
    assert b.rows(engine, "select * from forecast.tomorrow") == []


@pytest.mark.parametrize(
    ("zone", "at", "wanted", "horizon"),
    [
        ("UTC", 12, 32, 24),
        ("UTC", 20, 32, 12),
        ("Europe/Berlin", 21, 30, 8),
        ("Europe/Berlin", 22, 54, 36),
        ("America/New_York", 3, 12, 8),
        ("America/New_York", 4, 36, 36),
    ],
)
def test_tomorrow_is_the_next_day_of_the_hospital_at_the_horizon_nearest_to_8(
    engine, champion, zone, at, wanted, horizon
):
    """Hours since midnight UTC of 10 May; Berlin is two hours ahead then, New York four behind."""
    b.add_batch(engine)
    in_zone(engine, zone)
    day = NOW.replace(hour=0)
    frame = b.census({"MICU": 4}, horizons=(4, 8, 12, 24, 36, 48))
    b.add_forecasts(engine, {}, model_id=champion, as_of=day + hours(at), census=frame)
    row = b.one(engine, "select * from forecast.tomorrow")
    assert (row["wanted_at"], row["at"]) == (day + hours(wanted), day + hours(at + horizon))
    assert row["local_time"] == row["at"].astimezone(ZoneInfo(zone)).replace(tzinfo=None)


def test_tomorrow_counts_the_beds_that_have_staff_and_is_null_without_beds_and_where_it_abstains(engine, champion):
    ranges = {"census_p05": 2, "census_p10": 2, "census_p90": 5, "census_p95": 5}
    frame = pd.concat(
        [
            b.census({"A": 3}, **ranges, beds=6, staffed_beds=4, prob_full=0.5),
            b.census({"B": 3}, beds=6),
            b.census({"C": 3}),
            b.census({"D": None}, beds=2),
        ]
    )
    b.add_forecasts(engine, {}, model_id=champion, census=frame)
    names = "usable_beds, expected_free_beds, free_beds_low, free_beds_high, prob_full, status_reason, patients_now"
    assert b.tuples(engine, f"select unit, {names} from forecast.tomorrow") == [
        ("A", 4, 1.0, -1, 2, 0.5, None, 1),
        ("B", 6, 3.0, 3, 3, None, None, 1),
        ("C", None, None, None, None, None, None, 1),
        ("D", 2, None, None, None, None, "stale", 1),
    ]


# -------------------------------------------------------------------------------- forecast.unit_forecast_outcome


def known_until(engine, time):
    b.add_batch(engine, as_of=time + hours(5))
    with engine.begin() as connection:
        connection.execute(update(batch).values(watermark=time))


def test_a_forecast_of_a_unit_is_paired_with_the_census_that_came_once_the_watermark_has_passed(engine, champion):
    b.add_stay(engine, "stays", unit="MICU")
    b.end_stay(engine, "leaves", unit="MICU", intime=NOW - hours(9), outtime=NOW + hours(10))
    b.end_stay(engine, "passes", unit="MICU", intime=NOW + hours(1), outtime=NOW + hours(2))
    b.add_stay(engine, "comes", unit="MICU", intime=NOW + hours(12))
    b.add_stay(engine, "at_once", unit="MICU", intime=NOW)
    b.add_stay(engine, "elsewhere", unit=None)
    b.add_stay(engine, "gone", unit="MICU", outcome="alive")
    b.add_stay(engine, "of another", unit="MICU", source="other")
    horizons = (4, 12, 24)
    beds = [b.census({"MICU": 3}, horizons, beds=9, staffed_beds=3), b.census({"EMPTY": 0}, horizons, beds=2)]
    run_id = b.add_forecasts(engine, {}, model_id=champion, census=pd.concat([*beds, b.census({"*": 4}, horizons)]))
    query = "select unit, horizon_hours, census, arrivals, was_full from forecast.unit_forecast_outcome order by 1, 2"
    assert b.tuples(engine, query) == []
    known_until(engine, NOW + hours(12))
    assert b.tuples(engine, query) == [
        ("*", 4, 4, 1, None),
        ("*", 12, 4, 2, None),
        ("EMPTY", 4, 0, 0, False),
        ("EMPTY", 12, 0, 0, False),
        ("MICU", 4, 3, 1, True),
        ("MICU", 12, 3, 2, True),
    ]
    row = b.rows(engine, "select * from forecast.unit_forecast_outcome where unit = 'MICU' order by horizon_hours")[0]
    wanted = {"role": "champion", "kind": "forecast", "run_id": run_id, "month": "2031-05", "at": NOW + hours(4)}
    assert {name: row[name] for name in wanted} == wanted
    seen = read_published_census(engine, b.SOURCE, NOW + hours(17)).forecasts
    assert sorted(zip(seen["unit"], seen["horizon_hours"], strict=True)) == [row[:2] for row in b.tuples(engine, query)]
    assert read_published_census(engine, b.SOURCE, NOW + hours(3)).forecasts.empty, "nothing had come by then"
    again = b.add_forecasts(engine, {}, model_id=champion, census=b.census({"MICU": None}, (4,)))
    (row,) = b.rows(engine, "select * from forecast.unit_forecast_outcome")
    assert (row["run_id"], row["status"], row["census"], row["was_full"]) == (again, "abstained", 3, None)
    # Those who had ended before a purge are gone.
    with engine.begin() as connection:
        connection.execute(insert(retention).values(source=b.SOURCE, purged_until=NOW + hours(1)))
    assert b.tuples(engine, query) == []
    later = {"as_of": NOW + hours(2), "role": "trial", "model_id": champion}
    b.add_forecasts(engine, {}, census=b.census({"MICU": 3}, (4, 24), staffed_beds=3), **later)
    seen = read_published_census(engine, b.SOURCE, NOW + hours(17))
    assert seen.since == np.datetime64((NOW + hours(1)).replace(tzinfo=None))
    (row,) = seen.forecasts.to_dict("records")
    assert (row["horizon_hours"], row["usable_beds"], list(row["census_probabilities"])) == (4, 3, [0, 0, 0, 1])


# -------------------------------------------------------------------------------- forecast.changes


def test_changes_are_who_came_left_and_died_and_whose_risk_moved_since_yesterday(engine, champion):
    b.add_stay(engine, "same")
    b.add_stay(engine, "up", unit=None)
    b.add_stay(engine, "down")
    b.add_stay(engine, "not scored then")
    b.add_stay(engine, "new", intime=NOW - hours(3))
    b.add_stay(engine, "since the run", intime=NOW + hours(1))
    b.add_stay(engine, "planned", intime=NOW + hours(9))
    b.end_stay(engine, "left", outtime=NOW - hours(2))
    b.end_stay(engine, "dead", outtime=NOW + hours(1), outcome="died")
    b.end_stay(engine, "old", outtime=NOW - hours(24))
    b.end_stay(engine, "both", intime=NOW - hours(20), outtime=NOW - hours(2), outcome=None)
    b.add_batch(engine, as_of=NOW + hours(2))
    before = {"same": 0.125, "up": 0.25, "down": 0.5, "not scored then": None, "left": 0.5, "dead": 0.75}
    b.add_forecasts(engine, before | {"up": 0.99}, model_id=champion, as_of=NOW - hours(25))
    b.add_forecasts(engine, before, model_id=champion, as_of=NOW - hours(23))
    b.add_forecasts(engine, {"same": 0.99}, model_id=champion, as_of=NOW - hours(22))
    now = {"same": 0.1875, "up": 0.375, "down": 0.25, "not scored then": 0.9, "new": 0.5, "dead": 0.75}
    run_id = b.add_forecasts(engine, now, model_id=champion)
    query = "select stay_id, change, at, risk_before, risk_now from forecast.changes order by 1, 2"
    assert b.tuples(engine, query) == [
        ("both", "admitted", NOW - hours(20), None, None),
        ("both", "left", NOW - hours(2), None, None),
        ("dead", "died", NOW + hours(1), 0.75, 0.75),
        ("down", "risk_down", NOW, 0.5, 0.25),
        ("left", "left", NOW - hours(2), 0.5, None),
        ("new", "admitted", NOW - hours(3), None, 0.5),
        ("since the run", "admitted", NOW + hours(1), None, None),
        ("up", "risk_up", NOW, 0.25, 0.375),
    ]
    row = b.one(engine, "select * from forecast.changes where stay_id = 'up'")
    expected = {"unit": None, "patient_id": "p-up", "risk_before_at": NOW - hours(23), "prediction_time": NOW}
    assert {name: row[name] for name in expected} == expected and row["run_id"] == run_id


def test_the_first_run_has_no_risk_to_compare_with(engine, champion):
    b.add_stay(engine, "s1")
    b.add_forecasts(engine, {"s1": 0.1}, model_id=champion, as_of=NOW - hours(25))
    b.add_forecasts(engine, {"s1": 0.9}, model_id=champion)
    assert b.rows(engine, "select * from forecast.changes") == []


# -------------------------------------------------------------------------------- forecast.forecast_outcome


def outcomes(engine):
    found = b.rows(engine, "select * from forecast.forecast_outcome order by model_id, stay_id, prediction_time")
    return {(r["model_id"], r["stay_id"]): r for r in found}


def test_a_forecast_is_paired_with_what_happened(engine, champion):
    b.add_stay(engine, "s1", intime=NOW - hours(30))
    b.add_stay(engine, "open")
    run_id = b.add_forecasts(engine, {"s1": 0.5, "open": 0.5}, model_id=champion)
    assert outcomes(engine) == {}
    b.end_stay(
        engine,
        "s1",
        outtime=NOW + hours(140),
        outcome="died",
        end_precision_hours=24.0,
        batch_id=b.add_batch(engine, as_of=NOW + hours(200)),
    )
    assert outcomes(engine) == {
        ("m1", "s1"): {
            "source": b.SOURCE,
            "model_id": "m1",
            "role": "champion",
            "kind": "forecast",
            "model_stage": "champion",
            "provisional": False,
            "run_id": run_id,
            "stay_id": "s1",
            "patient_id": "p-s1",
            "unit": "MICU",
            "month": "2031-05",
            "prediction_time": NOW,
            "hours_in_stay": 30.0,
            "status": "scored",
            "status_reason": None,
            "mortality_risk": 0.5,
            "risk_band": "high",
            "prolonged_stay_risk": 0.2,
            "remaining_los_p10_hours": 5.0,
            "remaining_los_p50_hours": 20.0,
            "remaining_los_p90_hours": 90.0,
            "discharge_24h_prob": 0.25,
            "discharge_48h_prob": 0.5,
            "discharge_72h_prob": 0.625,
            "n_observations": 40,
            "hours_since_last_observation": 1.0,
            "died": True,
            "ends_at": "unit",
            "remaining_hours": 140.0,
            "end_precision_hours": 24.0,
            "total_stay_hours": 170.0,
            "prolonged": True,
            "outcome_known_at": NOW + hours(140),
            "excluded": False,
        }
    }


def test_what_is_not_known_of_an_outcome_is_null(engine, champion):
    for stay_id in ("no_outcome", "no_time", "planned"):
        b.add_stay(engine, stay_id)
    b.add_forecasts(engine, dict.fromkeys(("no_outcome", "no_time", "planned"), 0.5), model_id=champion)
    b.add_stay(engine, "no_outcome", outtime=NOW - hours(1), available_at=NOW)
    b.add_stay(engine, "no_time", outcome="alive", available_at=NOW)
    b.add_stay(engine, "planned", outtime=NOW + hours(5), available_at=NOW)
    columns = ("died", "remaining_hours", "total_stay_hours", "prolonged")
    assert {stay: tuple(row[c] for c in columns) for (_, stay), row in outcomes(engine).items()} == {
        "no_outcome": (None, -1.0, 29.0, False),
        "no_time": (False, None, None, None),
    }


def test_an_outcome_counts_as_known_from_when_it_was_first_told(engine, champion):
    b.add_stay(engine, "s1")
    b.add_forecasts(engine, {"s1": 0.5}, model_id=champion, as_of=NOW - hours(10))
    b.end_stay(engine, "s1", outtime=NOW - hours(5), available_at=NOW - hours(5), outcome=None)
    b.end_stay(engine, "s1", outtime=NOW - hours(5), available_at=NOW - hours(4))
    b.end_stay(engine, "s1", outtime=NOW - hours(5), available_at=NOW - hours(1), hospital_outtime=NOW - hours(2))
    assert outcomes(engine)["m1", "s1"]["outcome_known_at"] == NOW - hours(4)


def test_stays_that_the_audit_names_are_marked_as_excluded(engine, champion):
    for stay_id, lag in (("s1", 40), ("s2", 0)):
        b.add_stay(engine, stay_id)
        b.end_stay(engine, stay_id, outtime=NOW, outcome="died", died_at=NOW - hours(lag))
    b.add_forecasts(engine, {"s1": 0.5, "s2": 0.5}, model_id=champion, as_of=NOW - hours(20))
    assert {stay: row["excluded"] for (_, stay), row in outcomes(engine).items()} == {"s1": True, "s2": False}


def test_shadow_forecasts_are_paired_too_and_say_so(engine, champion):
    b.add_stay(engine, "s1", outtime=NOW, outcome="alive")
    b.add_model(engine, "m2", stage="challenger")
    b.add_forecasts(engine, {"s1": 0.5}, model_id=champion, as_of=NOW - hours(5), kind="backfill")
    b.add_forecasts(engine, {"s1": None}, model_id="m2", as_of=NOW - hours(5), role="shadow")
    found = {key: (row["role"], row["kind"], row["status"]) for key, row in outcomes(engine).items()}
    assert found == {
        ("m1", "s1"): ("champion", "backfill", "scored"),
        ("m2", "s1"): ("shadow", "forecast", "abstained"),
    }


def test_the_month_is_that_of_the_prediction_in_utc_whatever_the_session(engine, champion):
    as_of = datetime(2031, 5, 31, 23, tzinfo=UTC)
    b.add_stay(engine, "s1", outcome="alive")
    b.add_forecasts(engine, {"s1": 0.5}, model_id=champion, as_of=as_of)
    with engine.begin() as connection:
        connection.execute(text("set local time zone 'Asia/Tokyo'"))
        assert connection.execute(text("select month from forecast.forecast_outcome")).scalar_one() == "2031-05"


# -------------------------------------------------------------------------------- pairs for the scorecard


def add_observation(engine, stay_id, available_at):
    with engine.begin() as connection:
        connection.execute(
            insert(observation).values(
                source=b.SOURCE,
                stay_id=stay_id,
                concept="heart_rate",
                observed_at=available_at,
                available_at=available_at,
                value=80.0,
                batch_id=1,
            )
        )


def pairs(engine, as_of):
    """What was known at `as_of` of each forecast: died, remaining_hours, followed_hours, null as None."""
    found = canonical.read_outcome_pairs(engine, b.SOURCE, as_of)
    reported = found[["died", "remaining_hours", "followed_hours"]].astype(object)
    values = reported.where(reported.notna(), None).itertuples(index=False, name=None)
    return dict(zip(found["stay_id"], values, strict=True))


def test_an_outcome_known_later_counts_as_an_open_stay_followed_until_then(engine, champion):
    b.add_stay(engine, "s1")
    b.add_forecasts(engine, {"s1": 0.5}, model_id=champion, as_of=NOW - hours(10))
    b.end_stay(engine, "s1", outtime=NOW - hours(5), outcome="died", available_at=NOW - hours(4))
    add_observation(engine, "s1", NOW - hours(11))
    add_observation(engine, "s1", NOW - hours(1))
    assert pairs(engine, NOW - hours(10)) == {}
    assert pairs(engine, NOW - hours(4.5)) == {"s1": (None, None, 5.5)}
    assert pairs(engine, NOW - hours(4)) == {"s1": (True, 5.0, None)}


def test_an_open_stay_that_fell_silent_is_followed_up_to_its_last_observation(engine, champion):
    """`silent` was last heard of before the prediction, `unheard` never, `ended` needs no observation."""
    late = NOW + hours(50)
    b.add_batch(engine, as_of=late)
    for stay_id in ("heard", "fresh", "silent", "unheard", "ended"):
        b.add_stay(engine, stay_id)
    for stay_id, hours_ago in (("heard", -10), ("heard", 20), ("fresh", -49), ("fresh", -60), ("silent", 25)):
        add_observation(engine, stay_id, NOW - hours(hours_ago))
    b.end_stay(engine, "ended", outtime=NOW + hours(3))
    risks_of_all = dict.fromkeys(("heard", "fresh", "silent", "unheard", "ended"), 0.5)
    b.add_forecasts(engine, risks_of_all, model_id=champion)
    assert pairs(engine, late) == {
        "heard": (None, None, 10.0),
        "fresh": (None, None, 50.0),
        "ended": (False, 3.0, None),
    }


def test_a_stay_is_followed_no_longer_than_the_source_has_told(engine, champion):
    """The last batch is of `NOW`; an end planned for after it is not known, however late it is asked."""
    b.add_stay(engine, "s1")
    b.add_stay(engine, "s2", outtime=NOW + hours(2), available_at=NOW - hours(20))
    for stay_id in ("s1", "s2"):
        add_observation(engine, stay_id, NOW)
    b.add_forecasts(engine, {"s1": 0.5, "s2": 0.5}, model_id=champion, as_of=NOW - hours(3))
    assert pairs(engine, NOW + hours(9)) == {"s1": (None, None, 3.0), "s2": (None, None, 3.0)}


def test_pairs_leave_out_faulty_stays_abstentions_and_what_the_model_learned_from(engine, champion):
    """The model's data end 24 h before `NOW`."""
    for stay_id in ("s1", "faulty", "abstained"):
        b.add_stay(engine, stay_id)
        for hours_ago in (13, 1):
            add_observation(engine, stay_id, NOW - hours(hours_ago))
    b.end_stay(engine, "faulty", outtime=NOW - hours(8), died_at=NOW - hours(50), available_at=NOW - hours(4))
    for hours_ago in (24, 12):
        risks_of_all = {"s1": 0.5, "faulty": 0.5, "abstained": None}
        b.add_forecasts(engine, risks_of_all, model_id=champion, as_of=NOW - hours(hours_ago))
    assert pairs(engine, NOW) == {"s1": (None, None, 12.0)}
    assert pairs(engine, NOW - hours(5)) == {"s1": (None, None, 7.0), "faulty": (None, None, 7.0)}


def test_pairs_carry_what_the_scorecard_groups_by(engine, champion):
    b.add_stay(engine, "s1", unit="SICU")
    b.end_stay(engine, "s1", outtime=NOW, end_precision_hours=24.0, unit="SICU")
    b.add_forecasts(engine, {"s1": 0.5}, model_id=champion, as_of=NOW - hours(6))
    row = canonical.read_outcome_pairs(engine, b.SOURCE, NOW).iloc[0]
    wanted = {
        "model_id": "m1",
        "stay_id": "s1",
        "patient_id": "p-s1",
        "unit": "SICU",
        "month": "2031-05",
        "prediction_time": NOW - hours(6),
        "mortality_risk": 0.5,
        "hours_in_stay": 24.0,
        "end_precision_hours": 24.0,
    }
    assert {name: row[name] for name in wanted} == wanted


def test_a_source_without_a_batch_has_no_pairs(engine):
    assert len(canonical.read_outcome_pairs(engine, "never", NOW)) == 0


# -------------------------------------------------------------------------------- forecast.scorecard


def evaluate(engine, values, *, as_of, finish=True):
    run_id = runs.start_run(engine, b.SOURCE, "evaluate", as_of)
    scores = [
        {
            "model_id": model_id,
            "source": b.SOURCE,
            "unit": "all",
            "month": "2031-05",
            "metric": "auroc",
            "value": value,
            "low": value - 0.25,
            "high": value + 0.25,
            "baseline": 0.5,
            "n": 90,
        }
        for model_id, value in values.items()
    ]
    with engine.begin() as connection:
        results.write_scores(connection, run_id, scores)
    if finish:
        runs.finish_run(engine, run_id)


def test_the_scorecard_shows_the_newest_published_evaluation_of_each_model(engine, champion):
    b.add_model(engine, "m2", stage="challenger")
    evaluate(engine, {"m1": 0.5, "m2": 0.5}, as_of=NOW - hours(48))
    evaluate(engine, {"m1": 0.75}, as_of=NOW - hours(24))
    evaluate(engine, {"m1": 0.25, "m2": 0.25}, as_of=NOW, finish=False)
    found = b.rows(engine, "select * from forecast.scorecard order by model_id")
    assert [(r["model_id"], r["value"], r["evaluated_at"]) for r in found] == [
        ("m1", 0.75, NOW - hours(24)),
        ("m2", 0.5, NOW - hours(48)),
    ]
    assert found[0] == {
        "source": b.SOURCE,
        "model_id": "m1",
        "unit": "all",
        "month": "2031-05",
        "age_group": "all",
        "sex": "all",
        "stay_hours": "all",
        "metric": "auroc",
        "value": 0.75,
        "low": 0.5,
        "high": 1.0,
        "baseline": 0.5,
        "n": 90,
        "evaluated_at": NOW - hours(24),
    }


# -------------------------------------------------------------------------------- forecast.alert_burden


def test_the_alert_burden_counts_a_band_with_those_above_it(engine, champion):
    """Two days of forecasts: `ill` dies and was flagged very high once, `well` was high once, `fine` never above low."""
    for name, outcome in (("ill", "died"), ("well", "alive"), ("fine", "alive")):
        b.add_stay(engine, name, intime=NOW - hours(60), outtime=NOW - hours(1), outcome=outcome)
    bands = {NOW - hours(40): ("very high", "high", "low"), NOW - hours(12): ("medium", "low", "low")}
    for at, reported in bands.items():
        frame = b.forecasts({"ill": 0.5, "well": 0.2, "fine": 0.01}).assign(risk_band=list(reported))
        run_id = runs.start_run(engine, b.SOURCE, "forecast", at, model_id=champion)
        slot = {"model_id": champion, "source": b.SOURCE, "prediction_time": at}
        results.publish(engine, results.Publication(run_id=run_id, stays=frame, **slot))
    found = {
        r["risk_band"]: (r["n_days"], r["flagged_per_day"], r["n_flagged"], r["sensitivity"], r["ppv"])
        for r in b.rows(engine, "select * from forecast.alert_burden")
    }
    assert found == {
        "very high": (2, 0.5, 1, 1.0, 1.0),
        "high": (2, 1.0, 2, 1.0, 0.5),
        "medium": (2, 1.5, 2, 1.0, 0.5),
        "low": (2, 3.0, 3, 1.0, 1 / 3),
    }


# -------------------------------------------------------------------------------- forecast.run_health


def health(engine):
    return {r["kind"]: r for r in b.rows(engine, "select * from forecast.run_health where source = :s", s=b.SOURCE)}


def ran(engine, kind, *, hours_ago, failed=False, role="champion", model_id=None):
    """A run whose slot lay `hours_ago` before the real now, since staleness is against the clock."""
    as_of = datetime.now(UTC) - hours(hours_ago)
    run_id = runs.start_run(engine, b.SOURCE, kind, as_of, role=role, model_id=model_id)
    if failed:
        runs.fail_run(engine, run_id, "The source does not answer.")
    else:
        runs.finish_run(engine, run_id)
    return run_id


def test_run_health_shows_the_last_good_run_and_what_failed_since(engine):
    ran(engine, "forecast", hours_ago=6, failed=True)
    good = ran(engine, "forecast", hours_ago=5)
    ran(engine, "forecast", hours_ago=4, failed=True)
    last = ran(engine, "forecast", hours_ago=3, failed=True)
    row = health(engine)["forecast"]
    assert (row["last_good_run_id"], row["last_run_id"], row["consecutive_failures"]) == (good, last, 2)
    assert (row["last_run_status"], row["last_run_error"]) == ("failed", "The source does not answer.")
    assert row["age_hours"] == pytest.approx(5, abs=0.05) and row["stale"]
    ran(engine, "forecast", hours_ago=1)
    row = health(engine)["forecast"]
    assert (row["last_run_status"], row["last_run_error"], row["consecutive_failures"], row["stale"]) == (
        "published",
        None,
        0,
        False,
    )


@pytest.mark.parametrize(
    ("kind", "limit"),
    [("ingest", 2), ("forecast", 2), ("evaluate", 25), ("train", 8 * 24), ("refresh", 8 * 24), ("backfill", None)],
)
def test_each_kind_goes_stale_after_its_own_time(engine, kind, limit):
    ran(engine, kind, hours_ago=(limit or 1e4) + 0.1)
    assert health(engine)[kind]["stale"] is (limit is not None)
    if limit:
        ran(engine, kind, hours_ago=limit - 0.1)
        assert not health(engine)[kind]["stale"]


def test_a_kind_that_never_succeeded_is_stale(engine):
    ran(engine, "train", hours_ago=0, failed=True)
    row = health(engine)["train"]
    assert (row["last_good_as_of"], row["age_hours"]) == (None, None)
    assert (row["stale"], row["consecutive_failures"]) == (True, 1)


def test_runs_of_a_shadow_or_of_the_unit_forecaster_do_not_hide_a_failing_champion(engine):
    b.add_model(engine, "u1", name="unit")
    failed = ran(engine, "forecast", hours_ago=0, failed=True)
    ran(engine, "forecast", hours_ago=0, role="shadow")
    ran(engine, "forecast", hours_ago=0, model_id="u1")
    assert (health(engine)["forecast"]["last_run_id"], health(engine)["forecast"]["stale"]) == (failed, True)


def test_a_rerun_of_an_old_slot_does_not_make_the_newest_look_older(engine):
    newest = ran(engine, "forecast", hours_ago=1)
    old = ran(engine, "forecast", hours_ago=50)
    row = health(engine)["forecast"]
    assert (row["last_good_run_id"], row["last_run_id"], row["stale"]) == (newest, old, False)


# -------------------------------------------------------------------------------- forecast.quarantine_summary


def test_quarantine_is_counted_by_reason(engine):
    batch_id = b.add_batch(engine)
    first, last = NOW - hours(5), NOW
    for n, time in enumerate((last, first)):
        quarantined(engine, batch_id, f"s{n}", check="implausible", relation="observation", quarantined_at=time)
    quarantined(
        engine,
        batch_id,
        "s9",
        check="implausible",
        relation="observation",
        disposition="corrected",
        quarantined_at=last,
    )
    found = b.rows(engine, "select * from forecast.quarantine_summary order by disposition desc")
    same = {"source": b.SOURCE, "relation": "observation", "check_name": "implausible", "reason": "because"}
    assert found == [
        same | {"disposition": "rejected", "rows": 2, "first_quarantined_at": first, "last_quarantined_at": last},
        same | {"disposition": "corrected", "rows": 1, "first_quarantined_at": last, "last_quarantined_at": last},
    ]
