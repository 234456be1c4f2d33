"""MIMIC-IV on small tables made by hand as its builds make them: the traps of its stays and of its values."""

from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import pandas as pd
import pytest
from builders_source import (
    FOLDER,
    HOUR,
    adapter_at,
    check_named_columns,
    check_slices_are_one_pass,
    concept_map,
    judge_units,
    read,
    untimed,
)
from hospital import create
from hospital.mimic_iv import TABLES
from sqlalchemy import text

from rnn_core.contracts.frames import STAY_COLUMNS
from sql.intake.catalogue import sequential_scans
from sql.intake.not_taken import read_not_taken
from sql.intake.reading import BEGINNING as FROM_THE_BEGINNING
from sql.store.engine import open_engine

BEGIN = datetime(2150, 3, 1)
MICU, SICU = "Medical Intensive Care Unit (MICU)", "Surgical Intensive Care Unit (SICU)"
CVICU = "Cardiac Vascular Intensive Care Unit (CVICU)"


def at(hour):
    return None if hour is None else BEGIN + timedelta(hours=hour)


# ------------------------------------------------------------------------------------------- rows, in hours after BEGIN


def stay(begin=0, end=48, number=1, patient=1, unit=MICU, **more):
    row = {"stay_id": number, "subject_id": patient, "hadm_id": 10 + patient, "first_careunit": unit}
    return row | {"last_careunit": unit, "intime": at(begin), "outtime": at(end)} | more


def admission(patient=1, discharge=None, death=None, kind="EW EMER."):
    row = {"subject_id": patient, "hadm_id": 10 + patient, "admittime": at(-5), "admission_type": kind}
    return row | {"dischtime": at(discharge), "deathtime": at(death)}


def person(patient=1, **more):
    return {"subject_id": patient, "gender": "F", "anchor_age": 60, "anchor_year": 2150} | more


def transfer(number, hour, unit, patient=1):
    return {"hadm_id": 10 + patient, "transfer_id": number, "careunit": unit, "intime": at(hour)}


def chart(item, hour, value, stored=None, patient=1, **more):
    """A number, or a text that stands for none; stored when charted unless said otherwise."""
    number = None if value is None or isinstance(value, str) else float(value)
    row = {"subject_id": patient, "stay_id": patient, "itemid": item, "charttime": at(hour)}
    row |= {"storetime": at(hour if stored is None else stored), "value": None if value is None else str(value)}
    return row | {"valuenum": number} | more


def lab(item, hour, value, stored, number=1, specimen=1, patient=1, **more):
    row = chart(item, hour, value, patient=patient) | {"labevent_id": number, "specimen_id": specimen}
    del row["stay_id"]
    return row | {"storetime": at(stored)} | more


def infusion(begin, end, rate, stored=None, order=1, item=221906, unit="mcg/kg/min", patient=1, **more):
    row = {"subject_id": patient, "stay_id": patient, "orderid": order, "itemid": item, "rate": rate, "rateuom": unit}
    row |= {"starttime": at(begin), "endtime": at(end), "storetime": at(begin if stored is None else stored)}
    return row | {"statusdescription": "FinishedRunning"} | more


# -------------------------------------------------------------------------------------------------------------- reading


# `tests/spec` reads a whole hospital of this schema on each of them in every run.
OTHER_ENGINES = [pytest.param(name, marks=pytest.mark.soak) for name in ("duckdb", "sqlite")]


@pytest.fixture(scope="module", params=["postgresql", *OTHER_ENGINES])
def engine(request, make_database, tmp_path_factory):
    if request.param == "postgresql":
        engine = open_engine(make_database("mimic_iv"))
    else:
        engine = open_engine(f"{request.param}:///{tmp_path_factory.mktemp('mimic_iv') / 'mimic4.db'}")
    yield engine
    engine.dispose()


def adapter_of(engine):
    return adapter_at("mimic_iv", *(["main"] if engine.dialect.name == "sqlite" else []))


def fill(
    engine, stays=(), admissions=(), patients=(), transfers=(), charts=(), labs=(), infusions=(), outputs=(), **more
):
    """Build all tables; each patient of the stays has a row and an admission, if none is given."""
    known = {s["subject_id"] for s in stays}
    rows = {
        "icu.icustays": list(stays),
        "hosp.admissions": list(admissions) or [admission(p) for p in known],
        "hosp.patients": list(patients) or [person(p) for p in known],
        "hosp.transfers": list(transfers),
        "icu.chartevents": list(charts),
        "hosp.labevents": list(labs),
        "icu.inputevents": list(infusions),
        "icu.outputevents": list(outputs),
        **{name.replace("__", "."): given for name, given in more.items()},
    }
    create(engine, "mimic_iv", TABLES, rows)


def hours(times):
    since = times.dt.tz_localize(None) - pd.Timestamp(BEGIN)
    return [None if pd.isna(t) else float(t / HOUR) for t in since]


def versions(engine, *columns, **bounds):
    """Tuples of these columns, by stay and time; times in hours."""
    frame = read(engine, adapter_of(engine), "stays", **bounds)
    frame = frame.assign(stay_id=frame["stay_id"].astype(int)).sort_values(["stay_id", "available_at"])
    return list(zip(*(_plain(frame[column]) for column in columns), strict=True))


def values(engine, *variables, **bounds):
    """(stay, variable, observed at hour, known at hour, value) of these variables, or of all; numbers as numbers."""
    frame = read(engine, adapter_of(engine), "observations", **bounds)
    if frame.empty:
        return []
    columns = (
        frame["stay_id"].astype(int),
        frame["variable"],
        hours(frame["observed_at"]),
        hours(frame["available_at"]),
    )
    found = sorted(zip(*columns, map(_number, frame["value"]), strict=True), key=str)
    return [row for row in found if not variables or row[1] in variables]


def _plain(column):
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        return hours(column)
    return [None if pd.isna(value) else value for value in column]


def _number(value):
    try:
        return round(float(value), 9)
    except ValueError:
        return value


# ---------------------------------------------------------------------------------------------------------------- stays


def test_a_version_has_the_columns_of_the_contract(engine):
    fill(engine, [stay()], [admission(discharge=60)], transfers=[transfer(1, 0, MICU), transfer(2, 20, CVICU)])
    frame = read(engine, adapter_of(engine), "stays")
    assert set(frame.columns) == {*STAY_COLUMNS, "available_at"} - {"source"}
    assert len(frame) == 4 and not frame.duplicated(["stay_id", "available_at"]).any()
    assert set(frame["ends_at"]) == {"unit"} and set(frame["sex"]) == {"female"}


# Begins and ends of the stays of one admission, hours of discharge and death;
# then (stay, known at, outtime, outcome, died_at, hospital_outtime) of each version.
VERSIONS = {
    "an open stay has one open version": ([(0, None)], None, None, [(1, 0, None, None, None, None)]),
    "a stay ends when it ends and the hospital stay later": (
        [(0, 48)],
        100,
        None,
        [(1, 0, None, None, None, None), (1, 48, 48, "alive", None, None), (1, 100, 48, "alive", None, 100)],
    ),
    "a discharge before the charted end does not end the stay": (
        [(0, 48)],
        47,
        None,
        [(1, 0, None, None, None, None), (1, 47, None, None, None, 47), (1, 48, 48, "alive", None, 47)],
    ),
    "a death at the charted end is one version": (
        [(0, 48)],
        48,
        48,
        [(1, 0, None, None, None, None), (1, 48, 48, "died", 48, 48)],
    ),
    "a death in an open stay ends it": (
        [(0, None)],
        30,
        30,
        [(1, 0, None, None, None, None), (1, 30, 30, "died", 30, 30)],
    ),
    "a death before the charted end is known when it happened": (
        [(0, 48)],
        30,
        30,
        [(1, 0, None, None, None, None), (1, 30, 30, "died", 30, 30), (1, 48, 48, "died", 30, 30)],
    ),
    "a death within an hour after the end corrects the outcome": (
        [(0, 48)],
        48.5,
        48.5,
        [(1, 0, None, None, None, None), (1, 48, 48, "alive", None, None), (1, 48.5, 48, "died", 48.5, 48.5)],
    ),
    "a death exactly an hour after the end still belongs to the stay": (
        [(0, 48)],
        49,
        49,
        [(1, 0, None, None, None, None), (1, 48, 48, "alive", None, None), (1, 49, 48, "died", 49, 49)],
    ),
    "a death long after the unit leaves the unit's outcome": (
        [(0, 48)],
        200,
        200,
        [(1, 0, None, None, None, None), (1, 48, 48, "alive", None, None), (1, 200, 48, "alive", 200, 200)],
    ),
    "a death ends the last stay only": (
        [(0, 48), (48, 90)],
        80,
        80,
        [
            (1, 0, None, None, None, None),
            (1, 48, 48, "alive", None, None),
            (1, 80, 48, "alive", 80, 80),
            (2, 48, None, None, None, None),
            (2, 80, 80, "died", 80, 80),
            (2, 90, 90, "died", 80, 80),
        ],
    ),
    "an end before the begin is passed on for the ingest to quarantine": (
        [(0, -2)],
        60,
        None,
        [(1, 0, -2, "alive", None, None), (1, 60, -2, "alive", None, 60)],
    ),
}


@pytest.mark.parametrize("case", VERSIONS)
def test_versions_of_a_stay(engine, case):
    times, discharge, death, expected = VERSIONS[case]
    stays = [stay(begin, end, number) for number, (begin, end) in enumerate(times, start=1)]
    fill(engine, stays, [admission(discharge=discharge, death=death)])
    columns = ("stay_id", "available_at", "outtime", "outcome", "died_at", "hospital_outtime")
    assert versions(engine, *columns) == expected


def test_the_length_of_stay_is_not_read_even_where_it_contradicts_the_end(engine):
    fill(engine, [stay(end=48, los=9.5)])
    assert versions(engine, "available_at", "outtime") == [(0, None), (48, 48)]


def test_the_unit_of_a_stay_merged_over_a_move_changes_as_of_the_move(engine):
    moves = [
        transfer(1, -3, "Emergency Department"),
        transfer(2, 0, MICU),
        transfer(3, 20, CVICU),
        transfer(4, 48, "Medicine"),
        transfer(5, 90, None),
    ]
    fill(engine, [stay(end=48, last_careunit=CVICU)], [admission(discharge=90)], transfers=moves)
    assert versions(engine, "available_at", "unit", "unit_type") == [
        (0, MICU, "medical"),
        (20, CVICU, "cardiac_surgery"),
        (48, CVICU, "cardiac_surgery"),
        (90, CVICU, "cardiac_surgery"),
    ]


def test_a_stay_without_transfers_has_its_first_care_unit(engine):
    fill(engine, [stay(unit=SICU)])
    assert set(versions(engine, "unit", "unit_type")) == {(SICU, "surgical")}


def test_care_units_are_told_by_type(engine):
    types = {
        MICU: "medical",
        SICU: "surgical",
        "Trauma SICU (TSICU)": "trauma",
        "Coronary Care Unit (CCU)": "cardiac",
        CVICU: "cardiac_surgery",
        "Neuro Intermediate": "neuro",
        "Neuro Stepdown": "neuro",
        "Neuro Surgical Intensive Care Unit (Neuro SICU)": "neuro",
        "Medical/Surgical Intensive Care Unit (MICU/SICU)": "mixed",
        "PACU": None,
    }
    fill(engine, [stay(end=None, number=n, patient=n, unit=unit) for n, unit in enumerate(types)])
    assert dict(versions(engine, "unit", "unit_type")) == types


def test_admission_types_are_told_by_urgency(engine):
    kinds = {
        "EW EMER.": "emergency",
        "DIRECT EMER.": "emergency",
        "EU OBSERVATION": "emergency",
        "OBSERVATION ADMIT": "emergency",
        "URGENT": "urgent",
        "ELECTIVE": "elective",
        "SURGICAL SAME DAY ADMISSION": "elective",
        "DIRECT OBSERVATION": None,
        "AMBULATORY OBSERVATION": None,
    }
    stays = [stay(end=None, number=n, patient=n) for n in range(len(kinds))]
    fill(engine, stays, [admission(n, kind=kind) for n, kind in enumerate(kinds)])
    assert [row[0] for row in versions(engine, "admission_type")] == list(kinds.values())


def test_an_age_counts_from_the_anchor_year_and_over_89_is_91(engine):
    ages = [
        (60, 2150, 60),
        (60, 2145, 65),
        (60, 2152, 58),
        (89, 2150, 89),
        (91, 2150, 91),
        (91, 2147, 91),
        (88, 2146, 91),
    ]
    stays = [stay(end=None, number=n, patient=n) for n in range(len(ages))]
    fill(engine, stays, patients=[person(n, anchor_age=a, anchor_year=y) for n, (a, y, _) in enumerate(ages)])
    assert [int(row[0]) for row in versions(engine, "age_years")] == [age for _, _, age in ages]


def test_the_ingest_quarantines_a_stay_that_ends_before_it_begins(make_database, tmp_path):
    from flows.jobs.ingest import ingest
    from flows.runtime.databases import open_store
    from flows.runtime.settings import load_settings

    hospital = make_database("mimic_iv_negative")
    fill(open_engine(hospital), [stay(0, 48), stay(0, -2, number=2, patient=2)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICU_HOME", str(tmp_path))
        patch.setenv("ICU_DATABASE_URL", make_database("mimic_iv_store").render_as_string(hide_password=False))
        patch.setenv("ICU_SOURCES__MIMIC_IV__URL", hospital.render_as_string(hide_password=False))
        load_settings.cache_clear()
        store = open_store()
        ingest.fn("mimic_iv", datetime(2000, 1, 1, tzinfo=UTC))
        with store.connect() as connection:
            taken = connection.execute(text("select distinct stay_id from icu.stay_version")).scalars().all()
            named = connection.execute(text("select distinct check_name from quality.quarantine")).scalars().all()
        store.dispose()
    load_settings.cache_clear()
    assert (taken, named) == (["1"], ["ends_before_it_begins"])


# --------------------------------------------------------------------------------------------------- known at what time


def test_a_charted_value_is_known_when_stored_and_never_before_it_was_charted(engine):
    charts = [chart(220045, 1, 81, stored=1.5), chart(220045, 2, 82, stored=1.75), chart(220045, 3, 83)]
    fill(engine, [stay()], charts=[*charts, chart(220045, 4, 84) | {"storetime": None}])
    assert [row[2:] for row in values(engine)] == [(1, 1.5, 81), (2, 2, 82), (3, 3, 83), (4, 4, 84)]


def test_a_laboratory_value_is_known_with_its_result_or_three_hours_after_it_was_drawn(engine):
    labs = [
        lab(50912, 1, 1.1, stored=2.5, number=1, valueuom="mg/dL"),
        lab(50912, 4, 1.2, stored=3, number=2, specimen=2),
        lab(50912, 6, 1.3, stored=None, number=3, specimen=3),
    ]
    fill(engine, [stay()], labs=labs)
    assert [row[2:] for row in values(engine, "50912")] == [(1, 2.5, 1.1), (4, 4, 1.2), (6, 9, 1.3)]


def test_a_blood_gas_without_a_time_of_the_result_is_known_after_an_hour(engine):
    labs = [lab(52033, 6, "ART.", None, 1), lab(50820, 6, 7.3, None, 2), lab(50813, 6, 2.1, None, 3)]
    fill(engine, [stay()], labs=labs)
    assert values(engine) == [(1, "50813", 6, 7, 2.1), (1, "50820 arterial", 6, 7, 7.3)]


def test_a_corrected_value_comes_as_a_later_version_and_does_not_change_what_was_known_before(engine):
    first, corrected = chart(220045, 1, 180, stored=1.5), chart(220045, 1, 80, stored=5)
    fill(engine, [stay()], charts=[first])
    before = values(engine)
    fill(engine, [stay()], charts=[corrected, first])
    assert values(engine, until=at(2).replace(tzinfo=UTC)) == before == [(1, "220045", 1, 1.5, 180)]
    assert values(engine) == [*before, (1, "220045", 1, 5, 80)]


def test_a_value_from_before_the_stay_is_known_to_it_from_its_begin_on(engine):
    charts = [chart(220045, hour, 80) for hour in (-25, -24, -1, 0, 47.5, 48, 49)]
    fill(engine, [stay()], charts=charts)
    assert [row[2:4] for row in values(engine)] == [(-1, 0), (-24, 0), (0, 0), (47.5, 47.5)]


def test_a_value_between_two_stays_belongs_to_the_next_and_one_from_an_overlap_to_the_last_begun(engine):
    stays = [stay(0, 10, 1), stay(20, 50, 2), stay(40, 60, 3)]
    fill(engine, stays, charts=[chart(220045, hour, 80) for hour in (9, 15, 39, 45, 55)])
    assert [(row[0], *row[2:4]) for row in values(engine)] == [
        (1, 9, 9),
        (2, 15, 20),
        (2, 39, 39),
        (3, 45, 45),
        (3, 55, 55),
    ]


def test_a_stay_that_ends_before_it_begins_takes_no_value_from_another(engine):
    fill(engine, [stay(0, 48, 1), stay(20, 18, 2)], charts=[chart(220045, 17, 80), chart(220045, 30, 81)])
    assert [(row[0], row[2]) for row in values(engine)] == [(1, 17), (1, 30)]


# --------------------------------------------------------------------------------------------------------------- values


def test_fahrenheit_pounds_and_milligrams_per_decilitre_become_the_units_of_the_concepts(engine):
    charts = [chart(223761, 1, 98.6, valueuom="°F"), chart(226531, 1, 176.37, valueuom=None)]
    fill(engine, [stay()], charts=charts, labs=[lab(50889, 1, 1.5, 2, valueuom="mg/dL")])
    _, median = judge_units(read(engine, adapter_of(engine), "observations"), "mimic_iv")
    assert median["temperature"] == pytest.approx(37) and median["weight"] == pytest.approx(80, abs=0.01)
    assert median["crp"] == pytest.approx(15)


def test_celsius_and_fahrenheit_are_two_items_and_one_temperature(engine):
    fill(engine, [stay()], charts=[chart(223761, 1, 100.4), chart(223762, 2, 38)])
    plausible, median = judge_units(read(engine, adapter_of(engine), "observations"), "mimic_iv")
    assert plausible["temperature"] == 1 and median["temperature"] == pytest.approx(38)


def test_the_share_of_oxygen_is_a_fraction_whether_charted_as_one_or_in_percent(engine):
    fill(engine, [stay()], charts=[chart(223835, hour, v) for hour, v in enumerate((0.21, 0.5, 1, 21, 40, 100))])
    assert [row[4] for row in values(engine)] == [0.21, 0.5, 1, 0.21, 0.4, 1]


def test_a_result_beyond_its_limit_counts_as_the_limit_and_other_text_is_passed_on(engine):
    texts = ("<0.1", "> 60.", "<=5", "ERROR", "___", "0.3")
    labs = [lab(51003, hour, value, hour + 1, number=hour, specimen=hour) for hour, value in enumerate(texts)]
    fill(engine, [stay()], labs=labs)
    assert [row[4] for row in values(engine)] == [0.1, 60, 5, "ERROR", "___", 0.3]


def test_a_number_is_taken_before_its_text(engine):
    fill(
        engine, [stay()], labs=[lab(51003, 1, "___", 2, valuenum=0.05), lab(51003, 2, "<0.01", 3, 2, 2, valuenum=0.01)]
    )
    assert [row[4] for row in values(engine)] == [0.05, 0.01]


def test_a_result_that_stands_in_a_comment_only_is_no_observation(engine):
    labs = [lab(50912, 1, None, 2, comments="1.2, hemolyzed"), lab(50912, 3, 1.4, 4, 2, 2, comments="hemolyzed")]
    fill(engine, [stay()], labs=labs, charts=[chart(220045, 1, None)])
    assert values(engine) == [(1, "50912", 3, 4, 1.4)]


def test_a_value_charted_twice_is_passed_on_twice_for_the_ingest_to_keep_one(engine):
    fill(engine, [stay()], charts=[chart(220045, 1, 80), chart(220045, 1, 80)])
    assert values(engine) == [(1, "220045", 1, 1, 80)] * 2


def test_a_value_with_a_warning_stays_since_it_stood_in_the_chart(engine):
    fill(engine, [stay()], charts=[chart(220045, 1, 190, warning=1)])
    assert values(engine) == [(1, "220045", 1, 1, 190)]


def test_items_that_the_map_does_not_name_are_not_read(engine):
    fill(engine, [stay()], charts=[chart(220046, 1, 120)], labs=[lab(51000, 1, 5, 2)])
    assert values(engine) == []


def test_urine_of_several_ways_out_is_added_up_as_far_as_it_was_stored(engine):
    foley = {"subject_id": 1, "stay_id": 1, "itemid": 226559, "charttime": at(2), "storetime": at(2.5), "value": 0.0}
    void, stoma = {"itemid": 226560, "value": 350.0}, {"itemid": 226584, "value": 20.0, "storetime": at(30)}
    corrected = {"value": 50.0, "storetime": at(31)}
    alone = {"charttime": at(3), "storetime": at(3), "value": 150.0}
    drain = {"itemid": 226588, "value": 900.0}
    fill(engine, [stay()], outputs=[foley, *(foley | row for row in (void, stoma, corrected, alone, drain))])
    urine = "urine of all ways out"
    expected = [(1, urine, 2, 2.5, 350), (1, urine, 2, 30, 370), (1, urine, 2, 31, 420), (1, urine, 3, 3, 150)]
    assert values(engine) == expected


def test_blood_gases_are_told_apart_by_their_specimen(engine):
    words = {
        "ART.": "arterial",
        "VEN.": "venous",
        "CENTRAL VENOUS": "venous",
        "MIX.": "mixed venous",
        "FLUID": "of another specimen",
    }
    labs = []
    for n, word in enumerate(words):
        labs += [lab(52033, n, word, n + 0.1, 2 * n, n), lab(50817, n, 90, n + 0.1, 2 * n + 1, n)]
    fill(engine, [stay()], labs=labs)
    assert [row[1] for row in sorted(values(engine), key=lambda r: r[2])] == [f"50817 {w}" for w in words.values()]


def test_a_blood_gas_is_known_with_its_specimen_and_one_without_is_left_out(engine):
    labs = [
        lab(50820, 1, 7.2, 1.25, 1, 1),
        lab(52033, 1, "ART.", 40, 2, 1),
        lab(50820, 2, 7.3, 2.25, 3, 2),
        lab(52033, 3, "ART.", 3.25, 4, 3),
        lab(52033, 3, "VEN.", 9, 5, 3),
        lab(50820, 3, 7.4, 3.5, 6, 3),
    ]
    fill(engine, [stay()], labs=labs)
    assert values(engine) == [(1, "50820 arterial", 1, 40, 7.2), (1, "50820 arterial", 3, 3.5, 7.4)]
    assert values(engine, since=at(39).replace(tzinfo=UTC)) == [(1, "50820 arterial", 1, 40, 7.2)]


def test_the_coma_scale_is_the_sum_of_three_parts_charted_for_one_time(engine):
    charts = [
        chart(220739, 1, 3),
        chart(223900, 1, 4, stored=1.5),
        chart(223901, 1, 6),
        chart(220739, 2, 4),
        chart(223901, 2, 6),
    ]
    fill(engine, [stay()], charts=charts)
    assert values(engine, "gcs total of parts") == [(1, "gcs total of parts", 1, 1.5, 13)]
    fill(engine, [stay()], charts=[*charts, chart(220739, 1, 1, stored=8)])
    assert values(engine, "gcs total of parts") == [(1, "gcs total of parts", 1, 1.5, 13)]
    assert (1, "220739", 1, 8, 1) in values(engine)


def test_the_braden_score_is_the_sum_of_six_parts(engine):
    parts = [chart(item, 1, 3) for item in range(224054, 224060)]
    fill(engine, [stay()], charts=[*parts, *(p | {"charttime": at(5)} for p in parts[:5])])
    assert values(engine) == [(1, "braden total of parts", 1, 1, 18)]


def test_ventilation_begins_with_a_mode_and_ends_with_a_mask_or_a_standby(engine):
    charted = [
        (223849, "CMV/ASSIST", 1),
        (229314, "APV (cmv)", 1),
        (229314, "NIV", 0),
        (223849, "Standby", 0),
        (226732, "Trach mask ", 0),
        (226732, "High flow nasal cannula", 0),
        (226732, "None", 0),
    ]
    silent = [(226732, "Endotracheal tube", 30), (226732, "Other", 31), (223849, "Other/Remarks", 32)]
    charts = [chart(item, hour, word) for hour, (item, word, _) in enumerate(charted)]
    both = [chart(223849, 20, "PSV/SBT"), chart(226732, 20, "Nasal cannula")]
    fill(engine, [stay()], charts=[*charts, *both, *(chart(item, hour, word) for item, word, hour in silent)])
    found = sorted(row[2:] for row in values(engine, "ventilation"))
    assert found == [*((hour, hour, on) for hour, (_, _, on) in enumerate(charted)), (20, 20, 1)]


# ------------------------------------------------------------------------------------------------------------ infusions


def test_an_infusion_has_its_rate_from_the_begin_and_stops_at_the_end(engine):
    fill(engine, [stay()], infusions=[infusion(1, 5, 0.2, stored=1.5)])
    assert [row[2:] for row in values(engine)] == [(1, 1.5, 0.2), (5, 5, 0)]


def test_a_changed_rate_is_no_stop(engine):
    rows = [
        infusion(1, 5, 0.2, statusdescription="ChangeDose/Rate"),
        infusion(5, 9, 0.3, order=2, statusdescription="Stopped"),
    ]
    fill(engine, [stay()], infusions=rows)
    assert [row[2:] for row in values(engine)] == [(1, 1, 0.2), (5, 5, 0.3), (9, 9, 0)]


def test_a_change_of_bags_is_no_stop_when_the_next_one_is_known_by_then(engine):
    rows = [infusion(1, 5, 0.2), infusion(4.75, 9, 0.25, order=2)]
    fill(engine, [stay()], infusions=rows)
    assert [row[2:] for row in values(engine)] == [(1, 1, 0.2), (4.75, 4.75, 0.25), (9, 9, 0)]
    late = [infusion(1, 5, 0.2), infusion(5, 9, 0.25, stored=6, order=2)]
    fill(engine, [stay()], infusions=late)
    assert sorted(row[2:] for row in values(engine)) == [(1, 1, 0.2), (5, 5, 0), (5, 6, 0.25), (9, 9, 0)]


def test_phenylephrine_of_another_strength_goes_on_with_the_drug(engine):
    rows = [infusion(1, 5, 0.2, item=221749), infusion(5, 9, 0.3, order=2, item=229630)]
    fill(engine, [stay()], infusions=rows)
    assert [row[1:] for row in values(engine)] == [("221749", 1, 1, 0.2), ("229630", 5, 5, 0.3), ("229630", 9, 9, 0)]


def test_a_rewritten_row_is_left_out_and_the_row_in_its_place_is_read(engine):
    rows = [infusion(1, 5, 2.0, statusdescription="Rewritten"), infusion(1, 6, 0.2, order=2)]
    fill(engine, [stay()], infusions=rows)
    assert [row[2:] for row in values(engine)] == [(1, 1, 0.2), (6, 6, 0)]


def test_what_is_given_at_once_has_no_rate_and_stops_nothing(engine):
    rows = [infusion(1, 9, 0.2), infusion(3, 3.1, None, order=2, unit=None)]
    fill(engine, [stay()], infusions=rows)
    assert [row[2:] for row in values(engine)] == [(1, 1, 0.2), (9, 9, 0)]


def test_a_rate_per_minute_instead_of_per_kilogram_is_known_and_not_used(engine):
    rows = [infusion(1, 5, 12.0, unit="mcg/min"), infusion(1, 5, 0.04, item=222315, unit="units/min", order=2)]
    fill(engine, [stay()], infusions=rows)
    frame = read(engine, adapter_of(engine), "observations")
    lines = {(line["variable"], line["unit"]): line["concept"] for line in concept_map("mimic_iv")}
    assert ("221906", "mcg/min") not in lines and lines["221906", "*"] == ""
    assert set(frame["unit"]) == {"mcg/min", "units/min"}
    _, median = judge_units(frame[frame["value"].astype(float) > 0], "mimic_iv")
    assert median.to_dict() == pytest.approx({"vasopressin": 2.4})


# ---------------------------------------------------------------------------------- a hospital of many patients, by lot


@cache
def many():
    """Stays that overlap, are merged, end early, or have no end; values stored late, early, twice or without a time."""
    lot = np.random.default_rng(4)
    rows = {
        name: [] for name in ("stays", "admissions", "patients", "transfers", "charts", "labs", "infusions", "outputs")
    }
    for patient in range(1, 13):
        begins = np.sort(lot.integers(0, 150, 2))
        ends = begins + lot.integers(-3, 90, 2)
        death = float(ends[1] + lot.integers(-20, 3)) if patient % 3 == 0 else None
        rows["admissions"].append(admission(patient, discharge=float(max(ends) + lot.integers(0, 40)), death=death))
        rows["patients"].append(person(patient))
        for n in (0, 1):
            end = None if patient == 7 and n else float(ends[n])
            rows["stays"].append(stay(float(begins[n]), end, 2 * patient + n, patient))
            rows["transfers"].append(transfer(10 * patient + 2 * n, float(begins[n]), MICU, patient))
            rows["transfers"].append(transfer(10 * patient + 2 * n + 1, float(begins[n] + 9), SICU, patient))
        for n, hour in enumerate(lot.uniform(begins[0] - 30, ends[1] + 5, 60).round(2)):
            stored = float(hour + lot.choice([-0.5, 0, 0.4, 6, 30]))
            for item in (220045, 223835, 223849) if n % 2 else (220739, 223900, 223901):
                value = "CMV" if item == 223849 else float(lot.integers(1, 5))
                stored_part = stored + float(lot.choice([0, 2])) if item == 223900 else stored
                row = chart(item, float(hour), value, stored_part, patient)
                rows["charts"].append(row | ({"storetime": None} if n % 11 == 0 else {}))
                if n % 7 == 0:
                    rows["charts"].append(chart(item, float(hour), value, stored_part + 4, patient))
            number, result = 1000 * patient + 10 * n, None if n % 5 == 0 else stored
            gas = lot.choice(["ART.", "VEN."])
            rows["labs"] += [
                lab(50912, float(hour), 1.1, result, number, number, patient),
                lab(50820, float(hour), 7.3, result, number + 1, number + 1, patient),
                lab(52033, float(hour), gas, stored + float(lot.choice([0, 1, 35])), number + 2, number + 1, patient),
            ]
            output = {"subject_id": patient, "itemid": 226559, "charttime": at(float(hour)), "value": 50.0 + n}
            rows["outputs"].append(output | {"storetime": at(stored)})
            how = ["FinishedRunning", "ChangeDose/Rate", "Rewritten", "Stopped"][n % 4]
            end = float(hour + lot.choice([0.5, 3, 12]))
            late = float(hour) + float(lot.choice([0, 1, 20]))
            rows["infusions"].append(
                infusion(float(hour), end, 0.1 + n / 100, late, number, patient=patient, statusdescription=how)
            )
    return rows


def known_then(rows, moment):
    """The rows that the hospital had at `moment`, without what was written into them later."""

    def until(time):
        return time is not None and time <= moment

    def stored(row, time):
        return until(max(row[time], row["storetime"] or row[time]))

    def blank(row, *columns):
        return row | {column: None for column in columns if not until(row[column])}

    infusions = [row for row in rows["infusions"] if stored(row, "starttime")]
    return rows | {
        "stays": [blank(row, "outtime") for row in rows["stays"] if until(row["intime"])],
        "transfers": [row for row in rows["transfers"] if until(row["intime"])],
        "admissions": [blank(row, "dischtime", "deathtime") for row in rows["admissions"]],
        "charts": [row for row in rows["charts"] if stored(row, "charttime")],
        "labs": [row for row in rows["labs"] if stored(row, "charttime")],
        "outputs": [row for row in rows["outputs"] if stored(row, "charttime")],
        "infusions": [
            row if until(row["endtime"]) else row | {"endtime": None, "statusdescription": _how(row)}
            for row in infusions
        ],
    }


def _how(row):
    """How an infusion ends is not known before; that a row was rewritten is the one mark with a say at all times."""
    return "Rewritten" if row["statusdescription"] == "Rewritten" else None


STAY_FACTS = ("stay_id", "available_at", "unit", "outtime", "outcome", "died_at", "hospital_outtime", "age_years")


@pytest.mark.parametrize("hour", [35, 71.4, 120, 166.25])
def test_a_slice_depends_only_on_rows_known_by_its_end(engine, hour):
    """The tables cut off at a moment, later ends blanked, give the rows that the whole tables give up to it."""
    rows, until = many(), {"until": at(hour).replace(tzinfo=UTC)}
    fill(engine, **rows)
    whole = versions(engine, *STAY_FACTS, **until), values(engine, **until)
    fill(engine, **known_then(rows, at(hour)))
    assert (versions(engine, *STAY_FACTS, **until), values(engine, **until)) == whole
    assert len(whole[0]) > 10 and len(whole[1]) > 100


def test_no_version_tells_a_time_that_had_not_come(engine):
    rows = many()
    fill(engine, **rows)
    found = read(engine, adapter_of(engine), "stays")
    for column in ("intime", "outtime", "hospital_outtime", "died_at"):
        reported = found[column].notna()
        assert reported.sum() > 5 and (found.loc[reported, column] <= found.loc[reported, "available_at"]).all(), column
    negative = {row["stay_id"] for row in rows["stays"] if row["outtime"] and row["outtime"] <= row["intime"]}
    sound = found[~found["stay_id"].astype(int).isin(negative)]
    admissions = sound[sound["available_at"] == sound["intime"]]
    assert len(admissions) == 24 - len(negative) and admissions[["outtime", "outcome"]].isna().all(axis=None)
    assert not found.duplicated(["stay_id", "available_at"]).any()


@pytest.mark.parametrize("which", ["stays", "observations"])
def test_slices_together_are_one_pass(engine, which):
    """Hours, then odd parts of days, then the rest."""
    fill(engine, **many())
    edges = [at(60 + hour) for hour in range(8)] + [at(84 + 7.3 * n) for n in range(1, 12, 2)]
    check_slices_are_one_pass(engine, adapter_of(engine), which, [edge.replace(tzinfo=UTC) for edge in edges])


# --------------------------------------------------------------------------------------------------------- other builds


@pytest.fixture(scope="module")
def whole(make_database):
    """What PostgreSQL gives for the hospital of many patients."""
    engine = open_engine(make_database("mimic_iv_many"))
    fill(engine, **many())
    yield versions(engine, *STAY_FACTS[:-1]), values(engine)
    engine.dispose()


TIME_COLUMNS = (
    "intime",
    "outtime",
    "admittime",
    "dischtime",
    "deathtime",
    "charttime",
    "storetime",
    "starttime",
    "endtime",
)


def make_microseconds(connection, table, columns):
    """As some drivers write times; only every other row, the worst case."""
    for column in set(columns) & set(TIME_COLUMNS):
        connection.exec_driver_sql(f"update {table} set {column} = {column} || '.000000' where rowid % 2 = 0")


def make_all_text(connection, table, columns):
    """As the command-line shell imports a CSV file: every column a text, an empty one where there is nothing."""
    connection.exec_driver_sql(f"alter table {table} rename to numbers")
    connection.exec_driver_sql(f"create table {table} ({', '.join(f'{column} text' for column in columns)})")
    texts = ", ".join(f"coalesce({column}, '')" for column in columns)
    connection.exec_driver_sql(f"insert into {table} select {texts} from numbers")
    connection.exec_driver_sql("drop table numbers")


@pytest.mark.parametrize("change", [None, make_microseconds, make_all_text], ids=["plain", "microseconds", "all text"])
def test_sqlite_gives_the_rows_that_postgresql_gives(whole, tmp_path, change):
    engine = open_engine(f"sqlite:///{tmp_path / 'mimic4.db'}")
    fill(engine, **many())
    if change:
        with engine.begin() as connection:
            for name, columns in TABLES.items():
                change(connection, name.split(".")[1], list(columns))
    assert (versions(engine, *STAY_FACTS[:-1]), values(engine)) == whole


def test_duckdb_gives_the_rows_that_postgresql_gives(whole, tmp_path):
    engine = open_engine(f"duckdb:///{tmp_path / 'mimic4.db'}")
    fill(engine, **many())
    assert (versions(engine, *STAY_FACTS[:-1]), values(engine)) == whole


# --------------------------------------------------------------------------------------------------- what the card says


@pytest.fixture(scope="module")
def indexed(make_database):
    """The hospital of many patients in PostgreSQL, many times over, with the indices of the README and of the build."""
    engine = open_engine(make_database("mimic_iv_indexed"))
    fill(engine, **many())
    readme = (FOLDER / "mimic_iv" / "README.md").read_text()
    with engine.begin() as connection:
        for name in ("icu.chartevents", "icu.inputevents", "icu.outputevents", "hosp.labevents"):
            connection.execute(text(_more_rows(name)))
        connection.execute(text(readme.split("```sql")[1].split("```")[0]))
        connection.execute(text("create index on mimiciv_hosp.labevents (specimen_id)"))
        connection.execute(text("create index on mimiciv_hosp.transfers (hadm_id)"))
    with engine.begin() as connection:
        connection.execute(text("analyze"))
    yield engine
    engine.dispose()


def _more_rows(name):
    """The rows of a table many times again: of other patients, ten days later each time, and mostly of other items."""
    later = {"subject_id": "subject_id + 100 * n", "specimen_id": "specimen_id + 1000000 * n"}
    later["itemid"] = "case when n % 10 = 0 then itemid else itemid + 1000000 end"
    later |= {column: f"{column} + n * interval '10 days'" for column in TIME_COLUMNS}
    columns = ", ".join(later.get(column, column) for column in TABLES[name])
    return f"insert into mimiciv_{name} select {columns} from mimiciv_{name}, generate_series(1, 150) as n"


def test_items_that_are_not_read_are_named_with_their_rows_and_patients(engine):
    labels = {220045: "Heart Rate", 220046: "Heart rate Alarm - High", 225664: "Glucose finger stick"}
    fill(
        engine,
        [stay()],
        charts=[chart(item, hour, 80) for item in (220045, 220046, 223849) for hour in (1, 2)],
        labs=[lab(51006, 1, 20, 2), lab(50889, 1, 3, 2), lab(50999, 1, 3, 2)],
        icu__d_items=[{"itemid": item, "label": label} for item, label in labels.items()],
        hosp__d_labitems=[
            {"itemid": 51006, "label": "Urea Nitrogen", "fluid": "Blood"},
            {"itemid": 50999, "label": "CRP: high", "fluid": "Blood"},
        ],
    )
    found = sorted((row["name"], row["rows"], row["stays"]) for row in read_not_taken(adapter_of(engine), engine))
    assert found == [("chartevents 220046 Heart rate Alarm - High", 2, 1), ("labevents 50999 CRP: high, Blood", 1, 1)]


def test_what_has_no_time_is_returned_to_be_quarantined_or_counted_and_no_admission_costs_no_stay(engine):
    fill(
        engine,
        [stay(), stay(None, 20, 2, 2), stay(None, None, 3, 2)],
        [admission(2)],
        [person(2)],
        charts=[chart(220045, None, 80, 3), chart(220045, 2, 80), chart(220046, None, 80, 3)],
        labs=[lab(51006, None, 20, None), lab(51006, 2, 20, None)],
        infusions=[infusion(None, 3, 0.1, 2)],
    )
    without_admission = (1, "1", None, None)
    assert set(versions(engine, "stay_id", "patient_id", "age_years", "sex")) == {without_admission}
    lost = versions(engine, "stay_id", "patient_id", "intime", "outtime", since=FROM_THE_BEGINNING)[-2:]
    assert lost == [(2, "2", None, 20), (3, "2", None, None)]
    assert [row[1] for row in values(engine)] == ["220045", "221906", "51006"]
    found = untimed(engine, adapter_of(engine))
    assert found == {"chartevents": (1, 1), "labevents": (1, 1), "inputevents": (1, 1)}


@pytest.mark.soak
def test_the_selects_need_only_what_the_card_names(indexed):
    check_named_columns(indexed, adapter_at("mimic_iv"))


def test_a_slice_reads_no_large_table_whole(indexed):
    hour = at(80).replace(tzinfo=UTC)
    found = sequential_scans(adapter_at("mimic_iv"), indexed, hour, hour + timedelta(hours=1))
    assert found.keys() <= {"icustays", "admissions", "patients", "transfers"}
