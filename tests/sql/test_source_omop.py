import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pandas as pd
import pytest
from builders_source import (
    FOLDER,
    HOUR,
    adapter_at,
    check_named_columns,
    check_slices_are_one_pass,
    concept_map,
    newest,
    read,
    sorted_rows,
    untimed,
)
from hospital import create
from hospital.omop import EHR, ICU, INPATIENT, LAB, TABLES
from sqlalchemy import text

from rnn_core.contracts.concepts import BY_NAME, Category
from rnn_core.contracts.frames import STAY_COLUMNS
from sql.engines.cells import NO_TIME
from sql.intake.adapter import load_adapter
from sql.intake.catalogue import sequential_scans
from sql.intake.not_taken import read_not_taken
from sql.intake.reading import BEGINNING as FROM_THE_BEGINNING
from sql.store.engine import open_engine

START = datetime(2021, 1, 1)
A, B, WARD = 1, 2, 9
SITES = {A: "Medical ICU", B: "Surgical ICU", WARD: "Ward 4"}
HEART_RATE, TEMPERATURE, FIO2, CREATININE, SODIUM = 3027018, 3020891, 3020716, 3016723, 3019550
URINE = 3014315
A_SECOND = 1 / 3600


def at(hour: float | None) -> datetime | None:
    return None if hour is None else START + timedelta(seconds=round(hour * 3600))


def day_of(hour: float) -> date:
    return at(hour).date()


def detail(number, person, site, begin, end, visit=None):
    return {
        "visit_detail_id": number,
        "person_id": person,
        "visit_occurrence_id": visit or person,
        "care_site_id": site,
        "visit_detail_concept_id": INPATIENT if site == WARD else ICU,
        "visit_detail_start_datetime": at(begin),
        "visit_detail_start_date": day_of(begin),
        "visit_detail_end_datetime": at(end),
        # Never null by the DDL, so it tells nothing of an open stay.
        "visit_detail_end_date": day_of(begin if end is None else end),
        "visit_detail_type_concept_id": EHR,
    }


def visit(number, person, end=None, concept=INPATIENT):
    return {
        "visit_occurrence_id": number,
        "person_id": person,
        "visit_concept_id": concept,
        "visit_start_date": day_of(0),
        "visit_start_datetime": at(0),
        "visit_end_date": day_of(0 if end is None else end),
        "visit_end_datetime": at(end),
        "visit_type_concept_id": EHR,
    }


def person(number, **values):
    return {"person_id": number, "gender_concept_id": 8532, "year_of_birth": 1961} | values


def death(number, died):
    """died: the hour, or a date if nothing more is recorded."""
    if isinstance(died, date):
        return {"person_id": number, "death_date": died}
    return {"person_id": number, "death_date": day_of(died), "death_datetime": at(died)}


def measured(number, concept, hour, value=None, unit=None, kind=EHR, **values):
    return {
        "person_id": number,
        "measurement_concept_id": concept,
        "measurement_date": day_of(hour),
        "measurement_datetime": at(hour),
        "measurement_type_concept_id": kind,
        "value_as_number": value,
        "unit_concept_id": unit,
    } | values


def fill(engine, **rows):
    sites = [{"care_site_id": number, "care_site_name": name} for number, name in SITES.items()]
    create(engine, "omop", TABLES, {"care_site": sites} | rows)


# Rows of visit_detail (unit, begin, end), hour or date of the death, end of the visit; then what each version tells:
# (stay, known at hour, intime, outtime, outcome, died at), the stay by the number of its first row.
HAND_MADE = {
    "an open stay has one open version": ([(A, 1, None)], None, None, [(1, 1, 1, None, None, None)]),
    "a stay that ends has two": ([(A, 1, 5)], None, None, [(1, 1, 1, None, None, None), (1, 5, 1, 5, "alive", None)]),
    "the end of the visit is another": (
        [(A, 1, 5)],
        None,
        20,
        [(1, 1, 1, None, None, None), (1, 5, 1, 5, "alive", None), (1, 20, 1, 5, "alive", None)],
    ),
    "a row that joins the last one goes on with its stay": (
        [(A, 1, 5), (A, 5, 9)],
        None,
        None,
        [(1, 1, 1, None, None, None), (1, 9, 1, 9, "alive", None)],
    ),
    "a return within an hour opens the stay again": (
        [(A, 1, 5), (A, 6, 9)],
        None,
        None,
        [
            (1, 1, 1, None, None, None),
            (1, 5, 1, 5, "alive", None),
            (1, 6, 1, None, None, None),
            (1, 9, 1, 9, "alive", None),
        ],
    ),
    "a return after more than an hour is another stay": (
        [(A, 1, 5), (A, 6.1, None)],
        None,
        None,
        [(1, 1, 1, None, None, None), (1, 5, 1, 5, "alive", None), (2, 6.1, 6.1, None, None, None)],
    ),
    "another unit is another stay": (
        [(A, 1, 5), (B, 5, 9)],
        None,
        None,
        [
            (1, 1, 1, None, None, None),
            (1, 5, 1, 5, "alive", None),
            (2, 5, 5, None, None, None),
            (2, 9, 5, 9, "alive", None),
        ],
    ),
    "a ward between two rows of one unit parts them": (
        [(A, 1, 5), (WARD, 5, 9), (A, 9, None)],
        None,
        None,
        [(1, 1, 1, None, None, None), (1, 5, 1, 5, "alive", None), (3, 9, 9, None, None, None)],
    ),
    "another unit between two rows of one unit parts them": (
        [(A, 1, 5), (B, 5, 5.5), (A, 5.5, None)],
        None,
        None,
        [
            (1, 1, 1, None, None, None),
            (1, 5, 1, 5, "alive", None),
            (2, 5, 5, None, None, None),
            (2, 5.5, 5, 5.5, "alive", None),
            (3, 5.5, 5.5, None, None, None),
        ],
    ),
    "beds within a unit belong to its stay": (
        [(A, 1, 50), (A, 1, 10), (A, 20, 30)],
        None,
        None,
        [(1, 1, 1, None, None, None), (1, 50, 1, 50, "alive", None)],
    ),
    "a death at the charted end is one version": (
        [(A, 1, 5)],
        5,
        None,
        [(1, 1, 1, None, None, None), (1, 5, 1, 5, "died", 5)],
    ),
    "a death in an open row ends the stay": (
        [(A, 1, None)],
        5,
        None,
        [(1, 1, 1, None, None, None), (1, 5, 1, 5, "died", 5)],
    ),
    "a death before the charted end ends the stay twice": (
        [(A, 1, 9)],
        5,
        9,
        [(1, 1, 1, None, None, None), (1, 5, 1, 5, "died", 5), (1, 9, 1, 9, "died", 5)],
    ),
    "a death within an hour after the end corrects the outcome": (
        [(A, 1, 5)],
        5.9,
        None,
        [(1, 1, 1, None, None, None), (1, 5, 1, 5, "alive", None), (1, 5.9, 1, 5, "died", 5.9)],
    ),
    "a death later than an hour after the end leaves the unit's outcome": (
        [(A, 1, 5)],
        6.1,
        None,
        [(1, 1, 1, None, None, None), (1, 5, 1, 5, "alive", None), (1, 6.1, 1, 5, "alive", 6.1)],
    ),
    "a death long after the unit is recorded and changes no outcome": (
        [(A, 1, 5)],
        2000.5,
        100,
        [
            (1, 1, 1, None, None, None),
            (1, 5, 1, 5, "alive", None),
            (1, 100, 1, 5, "alive", None),
            (1, 2000.5, 1, 5, "alive", 2000.5),
        ],
    ),
    "a death ends the last stay only": (
        [(A, 1, 5), (B, 5, 9)],
        5.5,
        None,
        [
            (1, 1, 1, None, None, None),
            (1, 5, 1, 5, "alive", None),
            (1, 5.5, 1, 5, "alive", 5.5),
            (2, 5, 5, None, None, None),
            (2, 5.5, 5, 5.5, "died", 5.5),
            (2, 9, 5, 9, "died", 5.5),
        ],
    ),
    "a date of death is known when the day is over, and is of the unit that was left on it": (
        [(A, 1, 14)],
        date(2021, 1, 1),
        None,
        [(1, 1, 1, None, None, None), (1, 14, 1, 14, "alive", None), (1, 24, 1, 14, "died", 24)],
    ),
    "a date of death ends an open stay at midnight": (
        [(A, 1, None)],
        date(2021, 1, 1),
        None,
        [(1, 1, 1, None, None, None), (1, 24, 1, 24, "died", 24)],
    ),
    "a date of death before the charted end ends the stay twice": (
        [(A, 1, 33)],
        date(2021, 1, 1),
        None,
        [(1, 1, 1, None, None, None), (1, 24, 1, 24, "died", 24), (1, 33, 1, 33, "died", 24)],
    ),
    "a date of death after a visit that went on is of the ward": (
        [(A, 1, 10)],
        date(2021, 1, 1),
        20,
        [
            (1, 1, 1, None, None, None),
            (1, 10, 1, 10, "alive", None),
            (1, 20, 1, 10, "alive", None),
            (1, 24, 1, 10, "alive", 24),
        ],
    ),
    "a visit that is closed after the day of death says nothing of it": (
        [(A, 1, 14)],
        date(2021, 1, 1),
        33,
        [
            (1, 1, 1, None, None, None),
            (1, 14, 1, 14, "alive", None),
            (1, 24, 1, 14, "died", 24),
            (1, 33, 1, 14, "died", 24),
        ],
    ),
    "a date of death on a later day is not of the unit": (
        [(A, 1, 14)],
        date(2021, 1, 2),
        None,
        [(1, 1, 1, None, None, None), (1, 14, 1, 14, "alive", None), (1, 48, 1, 14, "alive", 48)],
    ),
    "a time of death at midnight is a date without a time": (
        [(A, 1, 38)],
        24.0,
        None,
        [(1, 1, 1, None, None, None), (1, 38, 1, 38, "alive", None), (1, 48, 1, 38, "died", 48)],
    ),
    "an end before the begin comes right after the begin, for the audit to name": (
        [(A, 5, 3)],
        None,
        None,
        [(1, 5, 5, None, None, None), (1, 5 + A_SECOND, 5, 3, "alive", None)],
    ),
}
PERSONS = {case: number for number, case in enumerate(HAND_MADE, start=1)}


def hand_made_rows() -> dict[str, list[dict]]:
    """All cases side by side, each with a patient and a visit of its own, and values through three days for each."""
    rows = {table: [] for table in ("visit_detail", "visit_occurrence", "person", "death", "measurement")}
    for case, (details, died, left, _) in HAND_MADE.items():
        number = PERSONS[case]
        rows["person"].append(person(number))
        rows["visit_occurrence"].append(visit(number, number, left))
        rows["visit_detail"] += [
            detail(100 * number + place, number, *row) for place, row in enumerate(details, start=1)
        ]
        rows["death"] += [] if died is None else [death(number, died)]
        for hour in range(-30, 60, 6):
            rows["measurement"] += [
                measured(number, HEART_RATE, hour + 0.25, 80 + hour / 10),
                measured(number, CREATININE, hour + 0.75, 1.5, 8840, LAB),
            ]
        rows["measurement"] += [
            measured(number, concept, hour, value, 8753) | {"measurement_datetime": None}
            for hour in (-12, 12, 36)
            for concept, value in ((SODIUM, 140), (HEART_RATE, 99))
        ]
    return rows


@pytest.fixture(scope="module")
def hand_made(make_database):
    engine = open_engine(make_database("omop_stays"))
    fill(engine, **hand_made_rows())
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def versions(hand_made):
    return read(hand_made, "omop", "stays")


@pytest.fixture(scope="module")
def engine(make_database):
    """A database for tables that a test makes itself."""
    engine = open_engine(make_database("omop"))
    yield engine
    engine.dispose()


def hours_of(times: pd.Series) -> list[float | None]:
    since = (times - pd.Timestamp(START, tz="UTC")) / HOUR
    return [None if pd.isna(hour) else round(hour, 6) for hour in since]


@pytest.mark.parametrize("case", HAND_MADE)
def test_versions_of_a_stay(versions, case):
    own = versions[versions["patient_id"] == str(PERSONS[case])].sort_values(["stay_id", "available_at"])
    places = [int(stay_id) - 100 * PERSONS[case] for stay_id in own["stay_id"]]
    columns = [hours_of(own[column]) for column in ("available_at", "intime", "outtime")]
    outcomes = [None if pd.isna(outcome) else outcome for outcome in own["outcome"]]
    found = list(zip(places, *columns, outcomes, hours_of(own["died_at"]), strict=True))
    assert found == [
        (stay, round(known, 6), *times, outcome, died) for stay, known, *times, outcome, died in HAND_MADE[case][3]
    ]


def test_selects_the_columns_of_a_stay_version(versions):
    assert set(versions.columns) == {*STAY_COLUMNS, "available_at"} - {"source"}
    assert not versions.duplicated(["stay_id", "available_at"]).any()


def test_no_version_tells_a_time_that_had_not_come(versions):
    for column in ("intime", "outtime", "hospital_outtime", "died_at"):
        reported = versions[column].notna()
        assert reported.any() and (versions.loc[reported, column] <= versions.loc[reported, "available_at"]).all(), (
            column
        )
    admission = versions["available_at"] == versions["intime"]
    assert admission.sum() == versions["stay_id"].nunique()
    assert versions.loc[admission, ["outtime", "outcome", "died_at"]].isna().all(axis=None)


def test_the_end_of_the_visit_is_told_when_it_comes(versions):
    own = versions[versions["patient_id"] == str(PERSONS["the end of the visit is another"])]
    reported = own.sort_values("available_at")
    assert hours_of(reported["hospital_outtime"]) == [None, None, 20]
    assert hours_of(reported["hospital_intime"]) == [0, 0, 0]


def cut_off(rows, moment):
    """The rows that the tables held at a moment: those known by then, with later ends still open."""

    def blanked(row, end, begin=None):
        # An end before the begin is known a second after the begin.
        known = row[end] and max(row[end], row[begin] + timedelta(seconds=1) if begin else row[end])
        return row | {end: None} if known and known > moment else row

    def died_at(row):
        reported = row.get("death_datetime")
        midnight = datetime.combine(row["death_date"], datetime.min.time())
        return reported if reported and reported != midnight else midnight + timedelta(days=1)

    def known_at(row):
        taken = row["measurement_datetime"]
        if taken is None:
            taken = datetime.combine(row["measurement_date"], datetime.min.time()) + timedelta(days=1)
        return taken + timedelta(hours=0 if row["measurement_concept_id"] == HEART_RATE else 3)

    details = (row for row in rows["visit_detail"] if row["visit_detail_start_datetime"] <= moment)
    return {
        "visit_detail": [blanked(row, "visit_detail_end_datetime", "visit_detail_start_datetime") for row in details],
        "visit_occurrence": [blanked(row, "visit_end_datetime") for row in rows["visit_occurrence"]],
        "person": rows["person"],
        "death": [row for row in rows["death"] if died_at(row) <= moment],
        "measurement": [row for row in rows["measurement"] if known_at(row) <= moment],
    }


@pytest.mark.soak
def test_a_slice_depends_only_on_rows_known_by_its_end(hand_made, engine):
    """The tables cut off at a moment, later ends blanked, give the rows that the whole tables give up to it."""
    for hour in (1, 5, 5.25, 5 + A_SECOND, 5.95, 6.05, 9, 14, 20.5, 23.9, 24, 25, 37, 50):
        fill(engine, **cut_off(hand_made_rows(), at(hour)))
        for which in ("stays", "observations"):
            whole = sorted_rows(read(hand_made, "omop", which, until=at(hour).replace(tzinfo=UTC)))
            pd.testing.assert_frame_equal(sorted_rows(read(engine, "omop", which)), whole)
            assert len(whole) > 20


@pytest.mark.parametrize("which", ["stays", "observations"])
@pytest.mark.parametrize("timezone", ["UTC", "America/New_York"])
def test_slices_together_are_one_pass(hand_made, which, timezone):
    edges = [at(hour).replace(tzinfo=UTC) for hour in (-3, 0, 1, 2, 4.99, 5, 5 + A_SECOND, 5.5, 6, 9, 14, 19, 24, 29.3)]
    check_slices_are_one_pass(hand_made, adapter_at("omop", timezone=timezone), which, edges)


def test_times_are_those_of_the_hospitals_clock(hand_made, versions):
    there = read(hand_made, adapter_at("omop", timezone="America/New_York"), "stays")
    later = newest(there)["intime"] - newest(versions)["intime"]
    assert (later == pd.Timedelta(hours=5)).all()


def test_a_death_in_a_later_visit_is_of_that_visits_stay(engine):
    fill(
        engine,
        visit_detail=[detail(1, 1, A, 1, 5, visit=1), detail(2, 1, A, 200, None, visit=2)],
        visit_occurrence=[visit(1, 1, 20), visit(2, 1)],
        person=[person(1)],
        death=[death(1, 230)],
    )
    stays = newest(read(engine, "omop", "stays"))
    assert stays["outcome"].to_dict() == {"1": "alive", "2": "died"}
    assert hours_of(stays.loc[["1", "2"], "died_at"]) == [230, 230]


def test_a_visit_without_a_detail_in_intensive_care_is_no_stay(engine):
    fill(
        engine,
        visit_detail=[detail(1, 1, WARD, 1, 5), detail(2, 2, A, 1, None) | {"visit_detail_start_datetime": None}],
        visit_occurrence=[visit(1, 1), visit(2, 2), visit(3, 3, concept=ICU)],
        person=[person(1), person(2), person(3)],
        measurement=[measured(number, HEART_RATE, 2, 80) for number in (1, 2, 3)],
    )
    assert read(engine, "omop", "stays").empty
    assert read(engine, "omop", "observations").empty


UNIT_NAMES = {
    "Medical Intensive Care Unit (MICU)": "medical",
    "MICU 7 West": "medical",
    "Surgical Intensive Care Unit (SICU)": "surgical",
    "Medical/Surgical Intensive Care Unit (MICU/SICU)": "mixed",
    "Med-Surg ICU": "mixed",
    "General ICU": "mixed",
    "Coronary Care Unit (CCU)": "cardiac",
    "Cardiac ICU": "cardiac",
    "Cardiac Vascular Intensive Care Unit (CVICU)": "cardiac_surgery",
    "Cardiac Surgery ICU": "cardiac_surgery",
    "Cardiothoracic Surgical Unit": "cardiac_surgery",
    "CSRU": "cardiac_surgery",
    "Trauma SICU (TSICU)": "trauma",
    "Neuro Surgical Intensive Care Unit (Neuro SICU)": "neuro",
    "Neurology ICU": "neuro",
    "Neonatal ICU (NICU)": None,
    "Intensive Care 3": None,
    None: None,
}


def test_the_kind_of_a_unit_is_read_from_the_words_of_its_name(engine):
    numbered = dict(enumerate(UNIT_NAMES, start=1))
    fill(
        engine,
        care_site=[{"care_site_id": number, "care_site_name": name} for number, name in numbered.items()],
        visit_detail=[
            *(detail(number, number, number, 1, None) | {"visit_detail_concept_id": ICU} for number in numbered),
            detail(99, 99, None, 1, None),
        ],
        person=[person(number) for number in (*numbered, 99)],
    )
    stays = newest(read(engine, "omop", "stays"))
    kinds = {numbered.get(int(s)): None if pd.isna(kind) else kind for s, kind in stays["unit_type"].items()}
    assert kinds == UNIT_NAMES
    assert stays.loc["1", "unit"] == "Medical Intensive Care Unit (MICU)" and pd.isna(stays.loc["99", "unit"])


# Births recorded in several ways, and the age on 1 January 2021.
BIRTHS = [
    ({"year_of_birth": 1961, "month_of_birth": 1, "day_of_birth": 1}, 60),
    ({"year_of_birth": 1961, "month_of_birth": 1, "day_of_birth": 2}, 59),
    ({"year_of_birth": 1961, "month_of_birth": 1}, 59),
    ({"year_of_birth": 1960, "month_of_birth": 12}, 60),
    ({"year_of_birth": 1960}, 60),
    ({"year_of_birth": 1960, "birth_datetime": datetime(1961, 1, 1, 6)}, 60),
    ({"year_of_birth": 1961, "month_of_birth": 2, "day_of_birth": 30}, 59),
]


def test_age_sex_and_admission_are_those_of_person_and_visit(engine):
    births = dict(enumerate((birth for birth, _ in BIRTHS), start=1))
    concepts = {1: 9201, 2: 9203, 3: 262}
    fill(
        engine,
        visit_detail=[detail(number, number, A, 1, None) for number in births],
        visit_occurrence=[visit(number, number, concept=concept) for number, concept in concepts.items()],
        person=[
            person(number, **birth) | {"gender_concept_id": {1: 8532, 2: 8507}.get(number, 0)}
            for number, birth in births.items()
        ],
    )
    stays = newest(read(engine, "omop", "stays"))
    stays = stays.loc[[str(number) for number in births]]
    assert stays["age_years"].tolist() == [age for _, age in BIRTHS]
    assert stays["sex"].fillna("").tolist() == ["female", "male", "", "", "", "", ""]
    assert stays["admission_type"].fillna("").tolist() == ["", "emergency", "emergency", "", "", "", ""]


def observed(engine, *measurements, details=((A, 0, None),)):
    """The observations of one patient, ordered by time, with hours since START instead of times."""
    fill(
        engine,
        visit_detail=[detail(number, 1, *row) for number, row in enumerate(details, start=1)],
        visit_occurrence=[visit(1, 1)],
        person=[person(1)],
        measurement=[measured(1, *row) if isinstance(row, tuple) else row for row in measurements],
    )
    rows = read(engine, "omop", "observations")
    if rows.empty:
        return rows
    rows = rows.sort_values(["observed_at", "variable", "value"], ignore_index=True)
    return rows.assign(observed_at=hours_of(rows["observed_at"]), available_at=hours_of(rows["available_at"]))


def in_concepts_unit(rows) -> list[float | None]:
    """Values as the map converts them; none where it has no line for the unit."""
    lines = {(m.variable, m.unit): m for m in load_adapter("omop").concept_map}
    keys = zip(rows["variable"], rows["unit"].fillna(""), strict=True)
    found = [lines.get((variable, unit)) or lines.get((variable, "*")) for variable, unit in keys]
    return [
        None if m is None else round(float(value) * m.scale + m.offset, 3)
        for m, value in zip(found, rows["value"], strict=True)
    ]


@pytest.mark.parametrize(
    ("concept", "values", "expected"),
    [
        (CREATININE, {8840: 1.2, 8749: 106.08}, 1.2),
        (TEMPERATURE, {586323: 38, 9289: 100.4}, 38),
        (3004501, {8840: 90.08, 8753: 5}, 90.08),
        (3013682, {8840: 28, 8753: 10}, 28),
        (3000963, {8713: 12, 8636: 120}, 12),
        (3024929, {8848: 180, 8961: 180, 9444: 180, 8647: 180_000}, 180),
        (3025315, {9529: 80, 8739: 176.3698}, 80),
        (3036277, {8582: 180.34, 9330: 71, 9327: 71}, 180.34),
        (3019800, {8842: 0.014, 8725: 14}, 0.014),
        (3020460, {8751: 30, 8840: 3}, 30),
        (3023103, {8753: 4.1, 9557: 4.1}, 4.1),
    ],
)
def test_one_variable_in_several_units_comes_out_in_the_concepts_unit(engine, concept, values, expected):
    rows = observed(engine, *((concept, hour, value, unit) for hour, (unit, value) in enumerate(values.items(), 1)))
    assert in_concepts_unit(rows) == pytest.approx([expected] * len(values), abs=0.002)


def test_a_share_of_oxygen_is_a_fraction_whatever_its_unit_says(engine):
    units = (8554, 8554, None, None, 0, 0)
    rows = observed(engine, *((FIO2, hour, (40, 0.4)[hour % 2], unit) for hour, unit in enumerate(units, 1)))
    assert in_concepts_unit(rows) == [0.4] * 6
    assert in_concepts_unit(observed(engine, (FIO2, 1, 1, None), (FIO2, 2, 100, 8554))) == [1, 1]


def test_without_a_unit_only_a_variable_with_one_scale_is_taken(engine):
    rows = observed(engine, (HEART_RATE, 1, 80, None), (HEART_RATE, 2, 81, 0), (CREATININE, 3, 1.2, None))
    assert rows["unit"].isna().all()
    assert in_concepts_unit(rows) == [80, 81, None]


def test_a_unit_that_was_not_mapped_is_named_by_its_text(engine):
    given = {"unit_source_value": " mg/dl "}
    rows = observed(
        engine,
        measured(1, CREATININE, 1, 1.2, 0, **given),
        measured(1, CREATININE, 2, 1.2, 8840, **given),
        measured(1, CREATININE, 3, 1.2, None, **given),
    )
    assert rows["unit"].tolist() == ["mg/dl", "8840", "mg/dl"]
    assert in_concepts_unit(rows) == [None, 1.2, None]


def test_a_laboratory_value_is_known_after_3_hours_and_a_bedside_value_at_once(engine):
    rows = observed(engine, (HEART_RATE, 1, 80), (CREATININE, 2, 1.2, 8840), (HEART_RATE, 4, 80, None, LAB))
    assert list(zip(rows["observed_at"], rows["available_at"], strict=True)) == [(1, 1), (2, 5), (4, 7)]


def test_the_map_says_how_late_a_value_is_known(engine):
    """What the map says nothing of is taken for a laboratory's; so is what is marked as one."""
    bedside = {Category.VITAL, Category.NEURO, Category.RESPIRATORY, Category.OUTPUT}
    for line in concept_map("omop"):
        assert line["delay_hours"] == ("0" if BY_NAME[line["concept"]].category in bedside else ""), line
    rows = [measured(1, HEART_RATE, 1, 80), measured(1, CREATININE, 1, 1.2, 8840)]
    rows += [measured(1, HEART_RATE, 10, 81, None, LAB), measured(1, CREATININE, 10, 1.3, 8840, LAB)]
    observed(engine, *rows)
    adapter = adapter_at("omop")
    late = {"3027018": 0.5, str(CREATININE): 4.0}
    lines = tuple(replace(line, delay_hours=late.get(line.variable)) for line in adapter.concept_map)
    found = read(engine, replace(adapter, concept_map=lines), "observations")
    delays = (found["available_at"] - found["observed_at"]) / HOUR
    assert sorted(zip(found["variable"], delays, strict=True)) == sorted(
        [("3027018", 0.5), ("3027018", 3), (str(CREATININE), 4), (str(CREATININE), 4)]
    )
    none = replace(adapter, concept_map=tuple(replace(line, delay_hours=None) for line in lines))
    found = read(engine, none, "observations")
    assert set((found["available_at"] - found["observed_at"]) / HOUR) == {3}


def test_urine_of_several_ways_out_is_added_up(engine):
    def output(hour, value, way, **columns):
        return measured(1, URINE, hour, value, 8587) | {"measurement_source_value": way} | columns

    rows = observed(
        engine,
        output(1, 0, "Foley"),
        output(1, 350, "Void"),
        output(1, 350, "Void"),
        output(2, 80, "Foley"),
        output(3, None, "Foley", value_source_value="see note"),
    )
    assert list(zip(rows["observed_at"], rows["value"], strict=True)) == [(1, "350"), (2, "80"), (3, "see note")]


def test_the_concepts_of_the_card_are_intensive_care(engine):
    concepts = load_adapter("omop").icu_concepts
    assert {32037, 40481392, 4305366, 763903, 4149943} <= set(concepts)
    numbers = range(1, len(concepts) + 2)
    fill(
        engine,
        visit_detail=[
            detail(number, number, A, 1, None) | {"visit_detail_concept_id": concept}
            for number, concept in zip(numbers, (*concepts, 4160140), strict=True)
        ],
        person=[person(number) for number in numbers],
        measurement=[measured(number, HEART_RATE, 2, 80) for number in numbers],
    )
    stays = {str(number) for number in numbers[:-1]}
    assert set(read(engine, "omop", "stays")["stay_id"]) == stays
    assert set(read(engine, "omop", "observations")["stay_id"]) == stays
    not_taken = [{"kind": "stay", "name": "4160140 Medical ICU", "rows": 1, "stays": 1}]
    assert read_not_taken(adapter_at("omop"), engine) == not_taken
    here = replace(adapter_at("omop"), icu_concepts=(4160140,))
    assert set(read(engine, here, "stays")["stay_id"]) == {str(numbers[-1])}


def test_a_row_without_a_begin_is_in_no_stay_and_a_read_from_the_beginning_returns_it(engine):
    fill(
        engine,
        visit_detail=[detail(1, 1, A, 1, 5), detail(2, 1, A, 5, 9) | {"visit_detail_start_datetime": None}],
        person=[],
        measurement=[
            *(measured(1, HEART_RATE, hour, 80) for hour in (2, 7)),
            measured(1, HEART_RATE, 2, 80, measurement_datetime=None, measurement_date=None),
        ],
    )
    assert untimed(engine, adapter_at("omop")) == {"measurement": (1, 1)}
    schema = load_adapter("omop").schemas["schema"]
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"insert into {schema}.visit_detail (visit_detail_id, person_id, care_site_id, visit_detail_concept_id,"
            f" visit_detail_start_datetime) values (3, 2, {A}, {ICU}, '-infinity')"
        )
    stays = read(engine, "omop", "stays")
    assert stays["stay_id"].tolist() == ["1", "1"] and stays["age_years"].isna().all(), "also without a row of person"
    assert read(engine, "omop", "observations")["stay_id"].tolist() == ["1"]
    found = read(engine, "omop", "stays", since=FROM_THE_BEGINNING)
    assert sorted(found["stay_id"]) == ["1", "1", "2", "3"]
    assert sorted(found["intime"].fillna(NO_TIME).unique())[:1] == [NO_TIME]


def test_the_fractions_of_oxygen_of_the_select_are_those_of_the_map():
    (listed,) = re.findall(r"measurement_concept_id in \(([\d, ]+)\) and value", load_adapter("omop").observations_sql)
    assert set(listed.split(", ")) == {line["variable"] for line in concept_map("omop") if line["concept"] == "fio2"}


def test_a_value_with_a_date_alone_is_known_when_the_day_is_over(engine):
    undated = {"measurement_datetime": None}
    rows = observed(
        engine, measured(1, HEART_RATE, 30, 80, **undated), measured(1, CREATININE, 55, 1.2, 8840, **undated)
    )
    assert list(zip(rows["observed_at"], rows["available_at"], strict=True)) == [(36, 48), (60, 75)]


def test_a_result_beyond_a_limit_counts_as_the_limit(engine):
    rows = observed(
        engine,
        measured(1, CREATININE, 1, 0.2, 8840, operator_concept_id=4171756),
        measured(1, CREATININE, 2, 20, 8840, operator_concept_id=4172704),
        measured(1, CREATININE, 3, None, 8840, value_source_value="<0.1"),
        measured(1, CREATININE, 4, None, 8840, value_source_value=">= 25 "),
    )
    assert rows["value"].astype(float).tolist() == [0.2, 20, 0.1, 25]


def test_text_is_passed_on_and_a_row_without_a_result_is_no_observation(engine):
    rows = observed(
        engine,
        measured(1, CREATININE, 1, None, 8840, value_source_value="ERROR"),
        measured(1, CREATININE, 2, None, 8840, value_source_value="  "),
        measured(1, CREATININE, 3, None, 8840, value_as_concept_id=0),
        measured(1, CREATININE, 4, None, 8840, value_as_concept_id=45884084),
        measured(1, CREATININE, 5, 1.2, 8840, value_source_value="1.2 mg/dL", value_as_concept_id=45884084),
    )
    assert list(zip(rows["observed_at"], rows["value"], strict=True)) == [
        (1, "ERROR"),
        (4, "concept 45884084"),
        (5, "1.2"),
    ]


def test_a_measurement_stored_twice_comes_once(engine):
    twice = (
        measured(1, CREATININE, 1, 1.2, 8840, LAB, measurement_id=1, visit_detail_id=1),
        measured(1, CREATININE, 1, 1.2, 8840, EHR, measurement_id=2),
    )
    assert observed(engine, *twice)["value"].tolist() == ["1.2"]
    other = measured(1, CREATININE, 1, 1.3, 8840, measurement_id=3)
    assert observed(engine, *twice, other)["value"].tolist() == ["1.2", "1.3"]


def test_concepts_that_the_map_does_not_name_are_not_read(engine):
    assert observed(engine, (0, 1, 80), (3004410, 1, 6.1, 8554)).empty


def test_a_value_belongs_to_the_stay_it_lies_in_or_to_the_next_within_24_hours(engine):
    rows = observed(
        engine,
        *((HEART_RATE, hour, 80) for hour in (-25, -23, 1, 5.2, 5.7, 9, 20, 39, 41)),
        details=[(A, 0, 5), (A, 5.5, 8), (WARD, 8, 40), (B, 40, None)],
    )
    assert rows[["stay_id", "observed_at", "available_at"]].values.tolist() == [
        ["1", -23, 0],
        ["1", 1, 1],
        ["1", 5.2, 5.5],
        ["1", 5.7, 5.7],
        ["4", 20, 40],
        ["4", 39, 40],
        ["4", 41, 41],
    ]


def test_values_from_beds_within_a_unit_belong_to_its_stay(engine):
    rows = observed(
        engine, *((HEART_RATE, hour, 80) for hour in (5, 15, 25, 49)), details=[(A, 1, 50), (A, 1, 10), (A, 20, 30)]
    )
    assert rows[["stay_id", "observed_at"]].values.tolist() == [["1", 5], ["1", 15], ["1", 25], ["1", 49]]


@pytest.mark.soak
def test_a_correction_in_place_does_not_change_what_was_known(make_database, tmp_path, monkeypatch):
    """OMOP has no time of storing: only a row of a later time is a later value; the ingest keeps what it took over."""
    from flows.jobs.ingest import ingest
    from flows.runtime.databases import open_store
    from flows.runtime.settings import load_settings

    url = make_database("omop_corrected").render_as_string(hide_password=False)
    store = make_database("omop_store").render_as_string(hide_password=False)
    for name, value in {"HOME": tmp_path, "DATABASE_URL": store, "SOURCES__OMOP__URL": url}.items():
        monkeypatch.setenv(f"ICU_{name}", str(value))
    load_settings.cache_clear()
    engine = open_engine(url)
    try:
        for hour, values in ((8, {1: 1.2}), (9, {1: 2.1}), (12, {1: 2.1, 6: 1.9})):
            observed(engine, *((CREATININE, drawn, value, 8840) for drawn, value in values.items()))
            ingest.fn("omop", at(hour).replace(tzinfo=UTC))
        with open_store().connect() as connection:
            query = "select value from icu.observation order by available_at"
            assert list(connection.execute(text(query)).scalars()) == [1.2, 1.9]
            query = "select distinct check_name from quality.quarantine"
            assert list(connection.execute(text(query)).scalars()) == ["changed_without_new_available_at"]
    finally:
        load_settings.cache_clear()
        engine.dispose()


# Grams of what is counted per mole: mg/dL = mmol/L x grams / 10.
GRAMS = {
    "creatinine": 113.12,
    "glucose": 180.16,
    "bun": 28.01,
    "bilirubin_total": 584.7,
    "bilirubin_conjugated": 584.7,
    "calcium_total": 40.08,
    "calcium_ionized": 40.08,
    "magnesium": 24.305,
    "phosphate": 30.974,
    "lactate": 90.08,
    "cholesterol": 386.65,
    "hemoglobin": 16114,
}
IN_CONCEPT = {"mg/dL": 1, "g/dL": 1000, "mmol/L": None}
IN_UNIT = {"8840": 1, "8713": 1000, "8636": 100, "8753": None, "8749": 0.001}


def test_masses_and_amounts_of_substance_are_converted_by_the_molar_mass():
    """Milligrams per decilitre of one unit over those of the other; equivalents are tested by their ratio to mmol/L."""
    checked = set()
    for line in concept_map("omop"):
        if line["concept"] not in GRAMS or line["unit"] not in IN_UNIT:
            continue
        per_mmol = GRAMS[line["concept"]] / 10
        given = IN_UNIT[line["unit"]] or per_mmol
        given = given * per_mmol if line["unit"] == "8749" else given
        wanted = IN_CONCEPT[BY_NAME[line["concept"]].unit] or per_mmol
        assert float(line["scale"]) == pytest.approx(given / wanted, rel=3e-3), line
        checked.add(line["concept"])
    assert checked == set(GRAMS)


def test_every_line_of_the_map_names_its_concept_and_a_unit_by_its_id_or_any():
    for line in concept_map("omop"):
        assert line["label"] and line["variable"].isdigit()
        assert line["unit"] == "*" or line["unit"].isdigit(), line


def test_the_selects_need_only_what_the_card_names(hand_made):
    check_named_columns(hand_made, adapter_at("omop"))


def test_with_the_indices_of_the_readme_an_hourly_read_enters_large_tables_by_time(engine):
    fill(engine, visit_detail=[detail(1, 1, A, 0, None)], visit_occurrence=[visit(1, 1)], person=[person(1)])
    (indices,) = re.findall(r"```sql\n(.+?)```", (FOLDER / "omop" / "README.md").read_text(), re.DOTALL)
    statements = [
        "insert into cdm.measurement (person_id, measurement_concept_id, measurement_date, measurement_datetime)"
        " select n % 1000, 3027018, date '2020-01-01' + n / 100, timestamp '2020-01-01' + n * interval '14 minutes'"
        " from generate_series(1, 200000) n",
        "insert into cdm.visit_detail (visit_detail_id, person_id, visit_occurrence_id, visit_detail_concept_id,"
        " visit_detail_start_datetime, visit_detail_end_datetime) select n, n % 1000, n, 9201,"
        " timestamp '2020-01-01' + n * interval '1 hour', timestamp '2020-01-02' + n * interval '1 hour'"
        " from generate_series(1, 40000) n",
        "insert into cdm.visit_occurrence (visit_occurrence_id, person_id, visit_end_datetime)"
        " select n, n % 1000, timestamp '2020-01-02' + n * interval '1 hour' from generate_series(1, 40000) n",
        # From the published DDL.
        "create index on cdm.visit_detail (person_id)",
        "create index on cdm.visit_occurrence (visit_occurrence_id)",
        *indices.strip().split(";\n"),
        "analyze",
    ]
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement.rstrip(";")))
    hour = datetime(2022, 1, 1, tzinfo=UTC)
    whole = sequential_scans(adapter_at("omop"), engine, hour, hour + timedelta(hours=1))
    assert whole.keys() <= {"person", "death", "care_site"}
