"""The template that hospitals copy: what is known when, and slices, on rows that were stored late, early and corrected."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pandas as pd
import pyarrow as pa
import pytest
from builders_source import END, adapter_at, check_named_columns, check_slices_are_one_pass, newest, read
from hospital import BEGIN
from hospital.site import TABLES, plan

from flows.inspection.source_check import _of_optional_selects
from sql.intake.reading import BEGINNING as FROM_THE_BEGINNING
from sql.loaders import replace_table
from sql.store.engine import open_engine

T0 = datetime(2026, 5, 4, 8)
LONG_AGO = datetime(1700, 1, 1)


def at(hours):
    return None if hours is None else T0 + timedelta(hours=hours)


@pytest.fixture(scope="module")
def ward(make_database):
    stays = [
        {"stay_no": "1", "begin_ts": at(0), "end_ts": at(50), "left_dead": False, "changed_ts": at(52), "is_icu": True},
        {"stay_no": "2", "begin_ts": at(5), "end_ts": at(30), "left_dead": True, "changed_ts": at(29), "is_icu": True},
        {"stay_no": "3", "begin_ts": at(9), "end_ts": None, "left_dead": None, "changed_ts": at(9), "is_icu": True},
        {"stay_no": "4", "begin_ts": at(1), "end_ts": at(3), "left_dead": False, "changed_ts": at(3), "is_icu": False},
        {"stay_no": "5", "begin_ts": None, "end_ts": None, "left_dead": None, "changed_ts": at(9), "is_icu": True},
        {"stay_no": "6", "begin_ts": LONG_AGO, "end_ts": None, "left_dead": None, "changed_ts": at(9), "is_icu": True},
    ]
    values = [
        ("1", "HR", 1, 1.2, "80"),
        ("1", "HR", 3, 2.5, "82"),
        ("1", "NA", 4, 9, "140"),
        ("1", "NA", 4, 11, "141"),
        ("2", "K", 6, 7, "<3,1"),
        ("2", "K", None, 8, "3"),
        ("2", "K", None, None, "4"),
        ("4", "HR", 2, 2, "70"),
    ]
    rows = {
        "ward_stay": stays,
        "ward_plan": [
            *(plan("1", hour - 10, state) for hour, state in ((1, "O"), (20, "X"))),
            plan("2", 3, "E", kind_code="T", stay_no="1"),
            plan("3", 4, is_icu=False),
            plan("4", 4, entered_ts=None),
        ],
        "ward_value": [
            {"stay_no": s, "code": c, "observed_ts": at(o), "stored_ts": at(k), "value": v} for s, c, o, k, v in values
        ],
    }
    engine = open_engine(make_database("site"))
    with engine.begin() as connection:
        for name, columns in TABLES.items():
            arrays = {c: pa.array([row.get(c) for row in rows[name]], kind) for c, kind in columns.items()}
            replace_table(connection, "public", name, pa.table(arrays))
    return engine


def hours(times: pd.Series) -> list[float | None]:
    return [None if pd.isna(t) else (t - pd.Timestamp(T0, tz="UTC")) / pd.Timedelta(hours=1) for t in times]


def test_an_end_is_known_when_its_row_was_changed_and_never_before_it_happened(ward):
    versions = read(ward, "site", "stays").sort_values(["stay_id", "available_at"])
    reported = list(zip(versions["stay_id"], hours(versions["available_at"]), hours(versions["outtime"]), strict=True))
    assert reported == [("1", 0, None), ("1", 52, 50), ("2", 5, None), ("2", 30, 30), ("3", 9, None)]
    assert newest(versions)["outcome"].dropna().to_dict() == {"1": "alive", "2": "died"}


def test_a_value_is_known_when_it_was_stored_and_never_before_it_was_true(ward):
    rows = read(ward, "site", "observations").sort_values(["stay_id", "available_at"])
    reported = list(
        zip(rows["variable"], hours(rows["observed_at"]), hours(rows["available_at"]), rows["value"], strict=True)
    )
    assert reported == [
        ("HR", 1, 1.2, "80"),
        ("HR", 3, 3, "82"),
        ("NA", 4, 9, "140"),
        ("NA", 4, 11, "141"),
        ("K", 6, 7, "3.1"),
        ("K", None, 8, "3"),
    ]


def test_a_read_from_the_beginning_returns_the_rows_without_a_time_too(ward):
    """They are quarantined there; in no other slice could they be found."""
    versions, values = (read(ward, "site", which, since=FROM_THE_BEGINNING) for which in ("stays", "observations"))
    without_begin = versions[versions["available_at"].isna()]
    assert without_begin["stay_id"].tolist() == ["5"] and without_begin["intime"].isna().all()
    assert versions[versions["intime"] == pd.Timestamp(LONG_AGO, tz="UTC")]["stay_id"].tolist() == ["6"]
    assert values[values["available_at"].isna()]["value"].tolist() == ["4"]
    assert len(versions) == 5 + 2 and len(values) == 6 + 1


def test_each_version_of_a_plan_is_known_when_it_was_entered(ward):
    plans = read(ward, "site", "arrivals").sort_values(["planned_id", "available_at"])
    columns = ["planned_id", "kind", "probability", "status", "stay_id"]
    assert plans[columns].astype(object).where(plans[columns].notna(), None).to_numpy().tolist() == [
        ["1", "admission", 0.8, "planned", None],
        ["1", "admission", 0.8, "cancelled", None],
        ["2", "transfer", 0.8, "done", "1"],
    ]
    assert (plans["expected_at"] == pd.Timestamp(BEGIN + timedelta(hours=48))).all()
    without_time = read(ward, "site", "arrivals", since=FROM_THE_BEGINNING)
    assert without_time[without_time["available_at"].isna()]["planned_id"].tolist() == ["4"]


@pytest.mark.parametrize("which", ["stays", "observations", "arrivals"])
def test_slices_together_are_one_pass(ward, which):
    edges = [(T0 + timedelta(hours=hour)).replace(tzinfo=UTC) for hour in range(-1, 54)]
    check_slices_are_one_pass(ward, adapter_at("site"), which, edges)


def test_a_check_of_the_source_counts_what_an_ingest_would_quarantine_of_its_plans(ward):
    def faults(**changes) -> list[str]:
        adapter = replace(adapter_at("site"), **changes)
        return list(_of_optional_selects(adapter, ward, {"ICU2"}, END))

    untimed = "1 rows of arrivals.sql have no usable time; an ingest quarantines them"
    assert faults() == [untimed]
    assert faults(units={}) == [untimed, "4 rows of arrivals.sql name a unit that no stay and no number of beds names"]
    narrow = {"beds.sql": "select ward as unit, entered_ts as available_at from {schema}.ward_plan"}
    assert faults(optional_sql=narrow) == ["beds.sql returns no column beds, staffed_beds"]
    none = {name: f"{sql} and false" for name, sql in adapter_at("site").optional_sql.items()}
    assert faults(optional_sql=none) == ["arrivals.sql returns no row"]


def test_the_selects_need_only_what_the_card_names(ward):
    check_named_columns(ward, adapter_at("site"))
