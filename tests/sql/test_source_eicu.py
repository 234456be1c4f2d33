"""Hand-made tables in the published form of eICU; offsets and what is compared are minutes from the first admission."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from builders_source import (
    FOLDER,
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
from hospital.eicu import WEIGHT

from rnn_core.contracts.frames import OUTCOMES, STAY_COLUMNS, UNIT_TYPES
from sql.intake.adapter import load_adapter
from sql.intake.reading import BEGINNING as FROM_THE_BEGINNING
from sql.loaders.eicu import TABLES
from sql.store.engine import open_engine

# The first of January, when the stay 365 of the year 2015 begins.
START = pd.Timestamp("2015-01-01 08:00", tz="UTC")
MINUTE = pd.Timedelta(minutes=1)
DAY = 1440
URINE = "flowsheet|Flowsheet Cell Labels|I&O|Output (ml)|"


@pytest.fixture(scope="module")
def eicu(make_database):
    """A database whose tables each test makes anew."""
    engine = open_engine(make_database("eicu_source"))
    yield engine
    engine.dispose()


def patient(stay=365, hospital_stay=None, **columns):
    """A row of `patient`: an open stay of a woman of 60 years, unless said otherwise."""
    return {
        "patientunitstayid": stay,
        "patienthealthsystemstayid": hospital_stay or stay,
        "uniquepid": "002-1",
        "gender": "Female",
        "age": "60",
        "hospitalid": 73,
        "wardid": 83,
        "unittype": "MICU",
        "unitstaytype": "admit",
        "unitvisitnumber": 1,
        "hospitaladmitoffset": -60,
        "hospitaldischargeyear": 2015,
        "unitadmittime24": "08:00:00",
    } | columns


def versions_of(eicu, *patients):
    create(eicu, "eicu", TABLES, {"patient": list(patients)})
    return read(eicu, "eicu", "stays").sort_values(["intime", "stay_id", "available_at"], ignore_index=True)


def minutes(times):
    return [None if pd.isna(time) else (time - START) / MINUTE for time in times]


ENDS = ("unitdischargeoffset", "unitdischargestatus", "hospitaldischargeoffset", "hospitaldischargestatus")


def ending(*values, stay=365, **columns):
    """A stay whose unit and hospital end as `values` say (offset, status, offset, status)."""
    return patient(stay, **dict(zip(ENDS, values, strict=False)), **columns)


# Rows of patient; then (stay, known at, intime, outtime, outcome, died_at) of each version.
CASES = {
    "an open stay has one open version": ([patient()], [("365", 0, 0, None, None, None)]),
    "an end is known when it comes, the hospital's likewise": (
        [ending(600, "Alive", 1200, "Alive")],
        [("365", 0, 0, None, None, None), ("365", 600, 0, 600, "alive", None), ("365", 1200, 0, 600, "alive", None)],
    ),
    "a death in the unit ends the stay": (
        [ending(600, "Expired", 600, "Expired")],
        [("365", 0, 0, None, None, None), ("365", 600, 0, 600, "died", 600)],
    ),
    "a death before the charted end is known when it happened": (
        [ending(600, "Expired", 500, "Expired")],
        [("365", 0, 0, None, None, None), ("365", 500, 0, 500, "died", 500), ("365", 600, 0, 600, "died", 500)],
    ),
    "a death before the charted end counts although the unit says alive": (
        [ending(600, "Alive", 500, "Expired")],
        [("365", 0, 0, None, None, None), ("365", 500, 0, 500, "died", 500), ("365", 600, 0, 600, "died", 500)],
    ),
    "a death in an open stay ends it": (
        [ending(None, None, 500, "Expired")],
        [("365", 0, 0, None, None, None), ("365", 500, 0, 500, "died", 500)],
    ),
    "a hospital that notes the end later than the unit does not move the death": (
        [ending(600, "Expired", 900, "Expired")],
        [("365", 0, 0, None, None, None), ("365", 600, 0, 600, "died", 600), ("365", 900, 0, 600, "died", 600)],
    ),
    "a death within an hour after the end corrects the outcome": (
        [ending(600, "Alive", 660, "Expired")],
        [("365", 0, 0, None, None, None), ("365", 600, 0, 600, "alive", None), ("365", 660, 0, 600, "died", 660)],
    ),
    "a death long after the unit leaves its outcome": (
        [ending(600, "Alive", 661, "Expired")],
        [("365", 0, 0, None, None, None), ("365", 600, 0, 600, "alive", None), ("365", 661, 0, 600, "alive", 661)],
    ),
    "the unit's word stands where the hospital says alive": (
        [ending(600, "Expired", 605, "Alive")],
        [("365", 0, 0, None, None, None), ("365", 600, 0, 600, "died", 600), ("365", 605, 0, 600, "died", 600)],
    ),
    "an end without a status has no outcome": (
        [ending(600, "", 1200, "")],
        [("365", 0, 0, None, None, None), ("365", 600, 0, 600, None, None), ("365", 1200, 0, 600, None, None)],
    ),
    "an end at the begin is returned after the admission": (
        [ending(0, "Alive", 1200, "Alive")],
        [("365", 0, 0, None, None, None), ("365", 1, 0, 0, "alive", None), ("365", 1200, 0, 0, "alive", None)],
    ),
    "an end before the begin is returned after the admission": (
        [ending(-30, "Alive", -10, "Alive")],
        [("365", 0, 0, None, None, None), ("365", 1, 0, -30, "alive", None)],
    ),
    "a return to the unit in the same hospital stay is another stay": (
        [
            ending(600, "Alive", 3000, "Alive", hospital_stay=9),
            ending(200, "Alive", 2000, "Alive", stay=4, hospital_stay=9, hospitaladmitoffset=-1060, unitvisitnumber=2),
        ],
        [
            ("365", 0, 0, None, None, None),
            ("365", 600, 0, 600, "alive", None),
            ("365", 3000, 0, 600, "alive", None),
            ("4", 1000, 1000, None, None, None),
            ("4", 1200, 1000, 1200, "alive", None),
            ("4", 3000, 1000, 1200, "alive", None),
        ],
    ),
    "a death ends the last stay only": (
        [
            ending(600, "Alive", 650, "Expired", hospital_stay=9),
            ending(100, "Expired", 50, "Expired", stay=4, hospital_stay=9, hospitaladmitoffset=-660),
        ],
        [
            ("365", 0, 0, None, None, None),
            ("365", 600, 0, 600, "alive", None),
            ("365", 650, 0, 600, "alive", 650),
            ("4", 600, 600, None, None, None),
            ("4", 650, 600, 650, "died", 650),
            ("4", 700, 600, 700, "died", 650),
        ],
    ),
    "a step-down bed is no stay, and who died there had left the unit": (
        [
            ending(600, "Alive", 650, "Expired", hospital_stay=9),
            ending(
                50,
                "Expired",
                50,
                "Expired",
                stay=4,
                hospital_stay=9,
                hospitaladmitoffset=-660,
                unitstaytype="stepdown/other",
            ),
        ],
        [("365", 0, 0, None, None, None), ("365", 600, 0, 600, "alive", None), ("365", 650, 0, 600, "alive", 650)],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_versions_of_a_stay(eicu, case):
    patients, expected = CASES[case]
    versions = versions_of(eicu, *patients)
    times = [minutes(versions[column]) for column in ("available_at", "intime", "outtime")]
    outcomes = [None if pd.isna(outcome) else outcome for outcome in versions["outcome"]]
    found = list(zip(versions["stay_id"], *times, outcomes, minutes(versions["died_at"]), strict=True))
    assert found == expected


def test_a_stay_begins_in_its_year_on_the_day_of_its_id_at_its_time_of_day(eicu):
    versions = versions_of(
        eicu,
        patient(242_040),
        patient(365 * 7 + 364, hospitaldischargeyear=2014, unitadmittime24="23:59:30"),
        patient(365 * 8 + 1, unitadmittime24="3:45"),
    )
    begins = dict(zip(versions["stay_id"], versions["intime"], strict=True))
    assert begins["242040"] == pd.Timestamp("2015-01-01 08:00", tz="UTC") + timedelta(days=242_040 % 365)
    assert begins["2919"] == pd.Timestamp("2014-12-31 23:59:30", tz="UTC")
    assert begins["2921"] == pd.Timestamp("2015-01-02 03:45", tz="UTC")


def test_a_stay_whose_begin_cannot_be_computed_costs_no_other_and_is_returned_to_be_quarantined(eicu):
    lost = [
        patient(1, hospitaldischargeyear=None),
        patient(2, hospitaldischargeyear=0),
        patient(3, unitadmittime24="24:61"),
        patient(4, 365, hospitaladmitoffset=None, unitdischargeoffset=5),
    ]
    assert set(versions_of(eicu, patient(), *lost)["stay_id"]) == {"365"}
    found = read(eicu, "eicu", "stays", since=FROM_THE_BEGINNING)
    assert found.loc[found["intime"].isna(), "stay_id"].tolist() == ["1", "2", "3", "4"]
    assert found["stay_id"].value_counts()["365"] == 1
    assert read(eicu, "eicu", "observations").empty


def test_the_stays_of_one_hospital_stay_follow_each_other_as_the_documentation_tells(eicu):
    """The documentation's example: the lower id is the second stay; the hospital lets go after 16000 minutes."""
    versions = versions_of(
        eicu,
        ending(4320, "Alive", 10960, "Alive", stay=2, hospital_stay=800, hospitaladmitoffset=-5040),
        ending(2160, "Alive", 15280, "Alive", stay=10, hospital_stay=800, hospitaladmitoffset=-720),
    )
    stays = newest(versions)
    assert stays.loc["10", "intime"] == START + timedelta(days=10)
    assert (stays.loc["2", "intime"] - stays.loc["10", "intime"]) / MINUTE == 4320
    assert stays.loc["10", "outtime"] < stays.loc["2", "intime"]
    for column in ("hospital_intime", "hospital_outtime", "patient_id"):
        assert stays[column].nunique() == 1
    assert ((stays["hospital_outtime"] - stays["hospital_intime"]) / MINUTE == 16_000).all()


def test_a_stay_lies_where_it_lay_before_the_next_one_was_known(eicu):
    first, second = patient(10, 800), patient(2, 800, hospitaladmitoffset=-5040)
    alone, both = versions_of(eicu, first), versions_of(eicu, first, second)
    pd.testing.assert_frame_equal(alone, both[both["stay_id"] == "10"].reset_index(drop=True))


def test_the_hospital_stays_of_a_patient_follow_each_other_and_a_death_is_in_the_last(eicu):
    """All would begin on January 1; the fatal one has the lowest id, another patient's stay is left where it is."""
    week = 7 * DAY
    stays = [
        ending(600, "Expired", 600, "Expired", stay=365),
        ending(week, "Alive", week, "Alive", stay=365 * 2, unitadmittime24="23:00:00"),
        ending(600, "Alive", 2 * DAY, "Alive", stay=365 * 3),
        ending(600, "Alive", 600, "Alive", stay=365 * 4, uniquepid="002-2"),
    ]
    begins = versions_of(eicu, *stays).drop_duplicates("stay_id").set_index("stay_id")["intime"]
    assert minutes(begins[["730", "1095", "365", "1460"]]) == [15 * 60, 8 * DAY, 11 * DAY, 0]
    # While the fatal stay goes on nothing else is known, and it is in the same place.
    versions = versions_of(eicu, patient(stay=365), *stays[1:])
    pd.testing.assert_series_equal(versions.drop_duplicates("stay_id").set_index("stay_id")["intime"], begins)


def test_what_is_returned_of_patient_and_unit(eicu):
    versions = versions_of(
        eicu,
        patient(365 * 1, age="> 89", gender="Male", admissionheight=170.0, admissionweight=80.5),
        patient(365 * 2, age="", gender="Unknown", unittype="Med-Surg ICU"),
        patient(365 * 3, age="0", gender=None, unittype="Cardiac ICU", hospitaladmitsource="Emergency Department"),
        patient(365 * 4, unittype="CSICU", hospitaladmitsource="", unitadmitsource="Emergency Department"),
        patient(365 * 5, unittype="Virtual ICU"),
    ).set_index("stay_id")
    assert set(versions.columns) | {"stay_id"} == {*STAY_COLUMNS, "available_at"} - {"source"}

    def reported(column):
        return [
            None if pd.isna(value) else value for value in versions[column].loc[[str(365 * n) for n in range(1, 6)]]
        ]

    assert reported("age_years") == [90, None, 0, 60, 60]
    assert reported("sex") == ["male", None, None, "female", "female"]
    assert reported("unit_type") == ["medical", "mixed", "cardiac", "cardiac_surgery", None]
    assert reported("unit")[1] == "Med-Surg ICU ward 83 of hospital 73"
    assert reported("admission_type") == [None, None, "emergency", "emergency", None]
    assert (reported("height_cm")[0], reported("weight_kg")[0]) == (170, 80.5)
    assert set(reported("patient_id")) == {"002-1"} and set(reported("ends_at")) == {"unit"}


def test_every_unit_type_of_the_release_has_a_word_of_the_contract(eicu):
    names = ["MICU", "SICU", "CCU-CTICU", "CTICU", "CSICU", "Cardiac ICU", "Neuro ICU", "Med-Surg ICU"]
    versions = versions_of(eicu, *(patient(365 * n, unittype=name) for n, name in enumerate(names, start=1)))
    assert versions["unit_type"].notna().all() and set(versions["unit_type"]) <= set(UNIT_TYPES)


@pytest.mark.parametrize("column", ["unitstaytype", "unittype"])
def test_step_down_stays_are_no_stays_and_have_no_observations(eicu, column):
    kind = {"unitstaytype": "stepdown/other", "unittype": "SDU/Step down"}[column]
    rows = {
        "patient": [patient(365), patient(365 * 2, **{column: kind}), patient(365 * 3, **{column: None})],
        "vitalperiodic": [{"patientunitstayid": 365 * n, "observationoffset": 5, "heartrate": 80} for n in range(1, 4)],
    }
    create(eicu, "eicu", TABLES, rows)
    for which in ("stays", "observations"):
        assert set(read(eicu, "eicu", which)["stay_id"]) == {"365", "1095"}


def observed(eicu, stay=None, **tables):
    """What the SELECT gives of the rows of one stay: (variable, observed at, known at, value), in order."""
    for rows in tables.values():
        for row in rows:
            row.setdefault("patientunitstayid", 365)
    create(eicu, "eicu", TABLES, {"patient": [stay or patient()], **tables})
    found = read(eicu, "eicu", "observations")
    if found.empty:
        return []
    times = minutes(found["observed_at"]), minutes(found["available_at"])
    return sorted(zip(found["variable"], *times, found["value"], strict=True))


def nurse(name, offset, value, entered=None, label=None, **columns):
    return {
        "nursingchartoffset": offset,
        "nursingchartentryoffset": offset if entered is None else entered,
        "nursingchartcelltypevallabel": label or name,
        "nursingchartcelltypevalname": name,
        "nursingchartvalue": value,
    } | columns


def respiratory(label, offset, value, entered=None):
    return {
        "respchartoffset": offset,
        "respchartentryoffset": offset if entered is None else entered,
        "respchartvaluelabel": label,
        "respchartvalue": value,
    }


def lab(name, drawn, result, entered=None, **columns):
    return {
        "labname": name,
        "labresultoffset": drawn,
        "labresult": result,
        "labresultrevisedoffset": entered,
        "labmeasurenamesystem": "mmol/L",
    } | columns


def infusion(drug, offset, rate, weight="", bag=(None, None)):
    row = {"drugname": drug, "infusionoffset": offset, "drugrate": rate, "patientweight": weight}
    return row | dict(zip(("drugamount", "volumeoffluid"), bag, strict=True))


def output(label, offset, value, entered=None, number=1):
    return {
        "intakeoutputid": number,
        "intakeoutputoffset": offset,
        "celllabel": label,
        "cellpath": URINE + label,
        "intakeoutputentryoffset": offset if entered is None else entered,
        "cellvaluenumeric": value,
    }


def test_offsets_are_minutes_from_the_unit_admission_and_monitors_are_known_at_once(eicu):
    found = observed(
        eicu,
        vitalperiodic=[{"observationoffset": 90, "heartrate": 88, "sao2": 97, "temperature": 37.5}],
        vitalaperiodic=[{"observationoffset": 61, "noninvasivemean": 70.5}],
    )
    assert found == [
        ("vitalaperiodic.noninvasivemean", 61, 61, "70.5"),
        ("vitalperiodic.heartrate", 90, 90, "88"),
        ("vitalperiodic.sao2", 90, 90, "97"),
        ("vitalperiodic.temperature", 90, 90, "37.5"),
    ]


def test_values_from_before_the_unit_are_known_from_its_begin_on_and_up_to_24_hours_old(eicu):
    found = observed(
        eicu,
        nursecharting=[nurse("Heart Rate", -5, "81", entered=20), nurse("Heart Rate", -DAY - 1, "82", entered=30)],
        lab=[lab("sodium", -DAY, 140.0, -1400), lab("sodium", -DAY - 1, 141.0, 5), lab("sodium", -300, 142.0, -200)],
        vitalperiodic=[{"observationoffset": -1, "heartrate": 80}],
    )
    assert found == [
        ("lab.sodium", -DAY, 0, "140"),
        ("lab.sodium", -300, 0, "142"),
        ("nursecharting.Heart Rate", -5, 20, "81"),
        ("vitalperiodic.heartrate", -1, 0, "80"),
    ]


def test_a_value_corrected_before_the_begin_is_known_as_corrected(eicu):
    found = observed(eicu, lab=[lab("sodium", -300, 150.0, -200), lab("sodium", -300, 130.0, -250)])
    assert found == [("lab.sodium", -300, 0, "150")]


def test_values_belong_to_the_stay_until_its_end_and_are_read_if_known_within_a_day_of_it(eicu):
    found = observed(
        eicu,
        ending(600, "Alive", 900, "Alive"),
        vitalperiodic=[{"observationoffset": at, "heartrate": 80} for at in (599, 600, 601)],
        lab=[lab("sodium", 590, 140.0, 600 + DAY), lab("sodium", 595, 141.0, 601 + DAY)],
    )
    assert found == [("lab.sodium", 590, 600 + DAY, "140"), ("vitalperiodic.heartrate", 599, 599, "80")]


def test_an_end_before_the_begin_cuts_no_values_off(eicu):
    rows = [{"observationoffset": at, "heartrate": 80} for at in (-20, 30)]
    found = observed(eicu, ending(-30, "Alive", 900, "Alive"), vitalperiodic=rows)
    assert [row[1:3] for row in found] == [(-20, 0), (30, 30)]


def test_a_laboratory_value_is_known_when_it_was_entered_else_three_hours_after_drawing(eicu):
    found = observed(eicu, lab=[lab("sodium", 10, 140.0, 45), lab("potassium", 10, 4.0), lab("chloride", 10, 100.0, 5)])
    assert found == [("lab.chloride", 10, 10, "100"), ("lab.potassium", 10, 190, "4"), ("lab.sodium", 10, 45, "140")]


def test_a_corrected_value_is_a_later_version_and_changes_nothing_before(eicu):
    first, second = lab("potassium", 6197, 4.5, 6217), lab("potassium", 6197, 4.6, 6321)
    before = observed(eicu, lab=[dict(first)])
    assert before == [("lab.potassium", 6197, 6217, "4.5")]
    assert observed(eicu, lab=[second, first]) == [*before, ("lab.potassium", 6197, 6321, "4.6")]


def test_charted_values_are_known_when_they_were_entered_and_never_before_they_were_true(eicu):
    found = observed(
        eicu,
        nursecharting=[nurse("GCS Total", 60, "14", 95, "Glasgow coma score"), nurse("Respiratory Rate", 60, "18", 30)],
        respiratorycharting=[respiratory("PEEP", 60, "5", 100)],
        infusiondrug=[infusion("Dopamine (mcg/kg/min)", 60, "5")],
        intakeoutput=[output("Urine", 60, 200.0, 240)],
    )
    assert found == [
        ("infusiondrug.dopamine", 60, 60, "5"),
        ("intakeoutput.urine", 60, 240, "200"),
        ("nursecharting.GCS Total", 60, 95, "14"),
        ("nursecharting.Respiratory Rate", 60, 60, "18"),
        ("respiratorycharting.PEEP", 60, 100, "5"),
        ("respiratorycharting.ventilation", 60, 100, "1"),
    ]


def converted(eicu, **tables):
    """Value of each observation in the concept's unit, by variable and observed at; none where no concept takes it."""
    found, lines = observed(eicu, **tables), {}
    for line in load_adapter("eicu").concept_map:
        lines[line.variable, line.unit] = line
    units = read(eicu, "eicu", "observations").sort_values(["variable", "observed_at"])["unit"]
    taken = {}
    for (variable, at, _, value), unit in zip(found, units, strict=True):
        line = lines.get((variable, unit)) or lines[variable, "*"]
        taken[variable, at] = float(value) * line.scale + line.offset if line.concept else None
    return taken


def test_a_temperature_charted_in_both_units_counts_once_and_fahrenheit_becomes_celsius(eicu):
    def temperature(unit, offset, value, entered=None):
        return nurse(f"Temperature ({unit})", offset, value, entered, "Temperature")

    taken = converted(
        eicu,
        nursecharting=[
            temperature("C", 10, "36.8"),
            temperature("F", 10, "98.2"),
            temperature("F", 20, "100.4"),
            temperature("F", 30, "98.6"),
            temperature("C", 30, "37.1", entered=40),
        ],
        vitalperiodic=[{"observationoffset": 50, "temperature": 38.0}],
    )
    assert taken == {
        ("nursecharting.Temperature (C)", 10): 36.8,
        ("nursecharting.Temperature (F)", 20): pytest.approx(38, abs=1e-6),
        ("nursecharting.Temperature (F)", 30): pytest.approx(37, abs=1e-6),
        ("nursecharting.Temperature (C)", 30): 37.1,
        ("vitalperiodic.temperature", 50): 38,
    }


def test_the_share_of_oxygen_comes_in_percent_and_as_a_fraction(eicu):
    taken = converted(
        eicu,
        respiratorycharting=[
            respiratory("FiO2", 1, "50"),
            respiratory("FiO2", 2, "0.4"),
            respiratory("FiO2", 3, "35%"),
            respiratory("FiO2", 4, "1"),
            respiratory("FIO2 (%)", 5, "100 %"),
        ],
        lab=[
            lab("FiO2", 6, 60.0, 10),
            lab("FiO2", 7, 0.21, 10),
            lab("FiO2", 8, 10000.0, 10, labresulttext="100.0"),
            lab("FiO2", 9, 10000.0, 10, labresulttext="see note"),
        ],
    )
    assert sorted((at, value) for (_, at), value in taken.items()) == [
        (1, 0.5),
        (2, 0.4),
        (3, 0.35),
        (4, 1),
        (5, 1),
        (6, 0.6),
        (7, 0.21),
        (8, 1),
        (9, 100),
    ]


def test_text_that_holds_a_number_becomes_one_and_other_text_is_passed_on(eicu):
    found = observed(
        eicu,
        lab=[
            lab("troponin - I", 1, None, 9, labresulttext="<0.02"),
            lab("sodium", 2, None, 9, labresulttext="> 180 "),
            lab("potassium", 3, None, 9, labresulttext="haemolysed"),
            lab("BUN", 4, None, 9, labresulttext=""),
        ],
        nursecharting=[
            nurse("O2 Saturation", 5, " 98% "),
            nurse("O2 Saturation", 6, ""),
            nurse("O2 Saturation", 7, "see note"),
            nurse("GCS Total", 8, "Unable to score due to medication", None, "Glasgow coma score"),
        ],
    )
    assert [row[3] for row in sorted(found, key=lambda row: row[1])] == ["0.02", "180", "haemolysed", "98", "see note"]


def test_rates_of_vasoactive_drugs_are_text_with_the_unit_in_the_drugs_name(eicu):
    taken = converted(
        eicu,
        stay=patient(admissionweight=50.0),
        infusiondrug=[
            infusion("Norepinephrine (mcg/kg/min)", 1, ".05"),
            infusion("Norepinephrine (mcg/min)", 2, "8", "80"),
            infusion("Levophed (mcg/min)", 3, "8"),
            infusion("Norepinephrine (ml/hr)", 4, "8"),
            infusion("Norepinephrine ()", 5, "8"),
            infusion("Norepinephrine", 6, "8"),
            infusion("EPINEPHrine(Adrenalin)STD 4 mg Sodium Chloride 0.9% 250 ml (mcg/min)", 7, "5"),
            infusion("Phenylephrine (mcg/kg/min) (mcg/kg/min)", 8, "0.5"),
            infusion("NEO-SYNEPHRINE (mcg/min)", 9, "100"),
            infusion("vasopressin (units/min)", 10, "0.04"),
            infusion("Vasopressin 40 Units Sodium Chloride 0.9% 100 ml (units/hr)", 11, "2.4"),
            infusion("Vasopressin (mg/hr)", 12, "2"),
            infusion("Dobutamine (mcg/kg/min)", 13, "OFF"),
            infusion("Milrinone (mcg/kg/min)", 14, "0"),
            infusion("Heparin (units/hr)", 15, "1000"),
            infusion("Epidural (ml/hr)", 16, "4"),
            infusion("Dopamine (mcg/kg/min)", 17, ""),
            infusion("Norepinephrine (ml/hr)", 18, "15", bag=("4.0", "250.0")),
            infusion("Norepinephrine STD 8 mg Dextrose 5% 250 ml (ml/hr)", 19, "7.5", "100"),
            infusion("Vasopressin (ml/hr)", 20, "3", bag=("200", "250")),
            infusion("Norepinephrine (ml/hr)", 21, "0"),
            infusion("Epinephrine ()", 22, "0.0"),
            infusion("Dopamine (mg/hr)", 23, "15"),
            infusion("Milrinone (mcg/kg/hr)", 24, "30"),
            infusion("Norepinephrine (ng/kg/min)", 25, "50"),
            infusion("Vasopressin (units/kg/hr)", 26, "0.04"),
            infusion("Dopamine (mcg/kg)", 27, "5"),
            infusion("Volume (ml) Dobutamine (ml)", 28, "0"),
            infusion("Norepinephrine (ml/hr)", 29, "15", bag=("4.0", "0")),
            infusion("Dobutamine (ml/hr)", 30, "0"),
        ],
    )
    assert {at: None if value is None else round(value, 9) for (_, at), value in taken.items()} == {
        1: 0.05,
        2: 0.1,
        3: 0.16,
        4: None,
        5: None,
        6: None,
        7: 0.1,
        8: 0.5,
        9: 2,
        10: 2.4,
        11: 2.4,
        12: None,
        13: 0,
        14: 0,
        18: 0.08,
        19: 0.04,
        20: 2.4,
        21: 0,
        22: 0,
        23: 5,
        24: 0.5,
        25: 0.05,
        26: 2,
        27: None,
        28: None,
        29: None,
        30: None,
    }


def test_a_rate_per_minute_without_a_weight_is_set_aside_and_no_number_is_passed_on(eicu):
    rows = [infusion("Norepinephrine (mcg/min)", 1, "8"), infusion("Dopamine (mcg/kg/min)", 2, "30\\.br\\")]
    observed(eicu, infusiondrug=rows)
    found = read(eicu, "eicu", "observations").sort_values("observed_at")
    assert found[["unit", "value"]].to_numpy().tolist() == [["mcg/min", "8"], ["mcg/kg/min", "30\\.br\\"]]


def test_what_is_charted_twice_counts_once_the_last_entry_of_one_time_counts(eicu):
    found = observed(
        eicu,
        nursecharting=[
            nurse("Heart Rate", 5, "80", nursingchartid=1),
            nurse("Heart Rate", 5, "80", nursingchartid=2),
            nurse("Heart Rate", 6, "90", nursingchartid=4),
            nurse("Heart Rate", 6, "70", nursingchartid=3),
        ],
        lab=[lab("sodium", 5, 140.0, 20, labid=1), lab("sodium", 5, 140.0, 20, labid=2)],
    )
    assert found == [
        ("lab.sodium", 5, 20, "140"),
        ("nursecharting.Heart Rate", 5, 5, "80"),
        ("nursecharting.Heart Rate", 6, 6, "90"),
    ]


def test_the_monitors_value_of_the_same_minute_goes_before_the_nurses(eicu):
    found = observed(
        eicu,
        nursecharting=[
            nurse("Heart Rate", 5, "80"),
            nurse("Heart Rate", 10, "81"),
            nurse("Heart Rate", 15, "82", entered=40),
            nurse("Respiratory Rate", 5, "18"),
            nurse("Heart Rate", -5, "83", entered=-2),
            nurse("Non-Invasive BP Mean", 5, "70", None, "Non-Invasive BP"),
        ],
        vitalperiodic=[{"observationoffset": at, "heartrate": 60} for at in (-5, 5, 15)],
        vitalaperiodic=[{"observationoffset": 5, "noninvasivemean": 71.0}],
    )
    assert found == [
        ("nursecharting.Heart Rate", 10, 10, "81"),
        ("nursecharting.Heart Rate", 15, 40, "82"),
        ("nursecharting.Respiratory Rate", 5, 5, "18"),
        ("vitalaperiodic.noninvasivemean", 5, 5, "71"),
        ("vitalperiodic.heartrate", -5, 0, "60"),
        ("vitalperiodic.heartrate", 5, 5, "60"),
        ("vitalperiodic.heartrate", 15, 15, "60"),
    ]


def test_urine_of_one_time_is_added_up_as_far_as_it_was_entered(eicu):
    found = observed(
        eicu,
        intakeoutput=[
            output("Urine", 60, 100.0, 70, 1),
            output("Foley", 60, 50.0, 70, 2),
            output("Straight Cath", 60, 30.0, 90, 3),
            output("Urine", 60, 120.0, 95, 4),
            output("Incontinent urine counts", 60, 1.0, 70, 5),
            output("Chest tube", 60, 400.0, 70, 6),
            output("Urine", 120, 80.0, 130, 7),
        ],
    )
    assert found == [
        ("intakeoutput.urine", 60, 70, "150"),
        ("intakeoutput.urine", 60, 90, "180"),
        ("intakeoutput.urine", 60, 95, "200"),
        ("intakeoutput.urine", 120, 130, "80"),
    ]


def test_the_weight_in_pounds_beside_the_one_in_kilograms_is_not_read(eicu):
    rows = [
        output("Bodyweight (kg)", 5, 122.0) | {"cellpath": WEIGHT},
        output("Bodyweight (lb)", 5, 269.0) | {"cellpath": WEIGHT.replace("kg", "lb")},
    ]
    assert observed(eicu, intakeoutput=rows) == [("intakeoutput.Bodyweight (kg)", 5, 5, "122")]


def test_ventilation_is_what_switch_device_and_settings_say_the_surest_first_as_far_as_entered(eicu):
    found = observed(
        eicu,
        respiratorycharting=[
            *(
                respiratory("RT Vent On/Off", n, note)
                for n, note in enumerate(["Start", "Continued", "Suspended", "Off", "unknown"])
            ),
            respiratory("PEEP", 10, "5"),
            respiratory("Tidal Volume (set)", 11, "450"),
            respiratory("Vent Rate", 12, "0"),
            respiratory("Tidal Volume (set)", 13, "0.0"),
            respiratory("LPM O2", 14, "2"),
            respiratory("LPM O2", 15, "2"),
            respiratory("Vent Rate", 15, "14", 40),
            respiratory("O2 Device", 16, "Bi-PAP"),
            respiratory("PEEP", 16, "5"),
            respiratory("O2 Device", 17, "Ventilator"),
            respiratory("O2 Device", 18, "Other (Comment)"),
            respiratory("Ventilator Support Mode", 19, "CMV"),
        ],
    )
    ventilated = [row[1:] for row in found if row[0] == "respiratorycharting.ventilation"]
    assert ventilated == [
        (0, 0, "1"),
        (1, 1, "1"),
        (2, 2, "0"),
        (3, 3, "0"),
        (10, 10, "1"),
        (11, 11, "1"),
        (14, 14, "0"),
        (15, 15, "0"),
        (15, 40, "1"),
        (16, 16, "0"),
        (17, 17, "1"),
        (19, 19, "1"),
    ]


def test_the_volume_of_a_breath_comes_in_millilitres_and_in_litres(eicu):
    rows = [respiratory("Exhaled TV (patient)", n, value) for n, value in enumerate(["520", "0.52", "0", "1.1", "7"])]
    rows += [respiratory("Exhaled TV (machine)", n, "0.61") for n in (0, 9)]
    found = [(row[0].partition("TV ")[2], row[1], float(row[3])) for row in observed(eicu, respiratorycharting=rows)]
    assert found == [("(machine)", 9, 610), *zip(["(patient)"] * 5, range(5), [520, 520, 0, 1100, 7], strict=True)]


def test_the_worst_coma_scale_of_the_first_day_is_known_when_that_day_is_over(eicu):
    apache = {"eyes": 3, "motor": 6, "verbal": 4, "vent": 1, "intubated": 1, "heartrate": 140.0}
    found = observed(eicu, apacheapsvar=[apache])
    worst = {"eyes": "3", "gcs": "13", "motor": "6", "verbal": "4"}
    assert found == [(f"apacheapsvar.{name}", DAY, DAY, value) for name, value in worst.items()]
    assert observed(eicu, ending(DAY, "Alive", DAY, "Alive"), apacheapsvar=[apache]) == []
    assert [row[0] for row in observed(eicu, apacheapsvar=[apache | {"verbal": -1}])] == [
        "apacheapsvar.eyes",
        "apacheapsvar.motor",
    ]
    charted = nurse("GCS Total", 60, "15", 60, "Glasgow coma score")
    assert [row[0] for row in observed(eicu, apacheapsvar=[apache], nursecharting=[charted])] == [
        "nursecharting.GCS Total"
    ]


def test_every_variable_of_the_map_is_read_and_no_other(eicu):
    rows = {table: [] for table in TABLES if table != "patient"}
    for number, line in enumerate(concept_map("eicu"), start=10):
        table, _, name = line["variable"].partition(".")
        if table == "nursecharting":
            label, _, name = line["label"].removesuffix(" (kg)").partition(" / ")
            rows[table].append(nurse(name, number, "1", None, label))
        elif table == "respiratorycharting":
            name, value = ("RT Vent On/Off", "start") if name == "ventilation" else (name, "1")
            rows[table].append(respiratory(name, number, value))
        elif table == "lab":
            rows[table].append(lab(name, number, 1.0))
        elif table == "infusiondrug":
            rows[table].append(infusion(f"{name} ({line['unit']})", number, "1"))
        elif table == "apacheapsvar":
            rows[table] = [{"eyes": 4, "motor": 6, "verbal": 5}]
        elif name == "Bodyweight (kg)":
            rows[table].append(output(name, number, 1.0) | {"cellpath": WEIGHT})
        elif table == "intakeoutput":
            rows[table].append(output(name, number, 1.0))
        else:
            rows[table].append({"observationoffset": number, name: 1})
    rows["lab"].append(lab("urinary sodium", 5, 1.0))
    rows["nursecharting"] += [nurse("Pain Score", 5, "1"), nurse("Heart Rate", None, "1")]
    rows["respiratorycharting"].append(respiratory("TV/kg IBW", 5, "1"))
    found = {row[0] for row in observed(eicu, **rows)}
    assert untimed(eicu, adapter_at("eicu")) == {"nursecharting": (1, 1)}
    # Nurses' coma scales leave none of APACHE's.
    rows["nursecharting"] = []
    found |= {row[0] for row in observed(eicu, **rows)}
    assert found == {line["variable"] for line in concept_map("eicu")}


# A small world with all kinds of rows at chance times, for what holds of all of them.
CHANCE_STAYS, CHANCE_ROWS = 30, 60


def chance_world():
    chance = np.random.default_rng(20)
    rows = {table: [] for table in TABLES}
    statuses = ["Alive", "Alive", "Expired", ""]
    for number in range(1, CHANCE_STAYS + 1):
        hospital_stay, visit = divmod(number, 3)
        # Each third of the hospital stays has its unit stays one after the other, the ids not in their order.
        begins = [0, 900, 1800][visit] + int(chance.integers(0, 200))
        stay = 365 * (CHANCE_STAYS - number + 1) + int(chance.integers(0, 3))
        end = [None, 0, -20, *chance.integers(1, 900, size=9).tolist()][int(chance.integers(12))]
        hospital_end = [None, -5, *chance.integers(1, 1500, size=8).tolist()][int(chance.integers(10))]
        rows["patient"].append(
            patient(
                stay,
                1 + hospital_stay,
                uniquepid=f"002-{hospital_stay // 2}",
                hospitaladmitoffset=-begins,
                unitdischargeoffset=end,
                unitdischargestatus=None if end is None else str(chance.choice(statuses)),
                hospitaldischargeoffset=hospital_end,
                admissionweight=[None, 70.0][int(chance.integers(2))],
                hospitaldischargestatus=None if hospital_end is None else str(chance.choice(statuses)),
                unitstaytype=str(chance.choice(["admit", "admit", "readmit", "stepdown/other"])),
            )
        )
        for row in range(CHANCE_ROWS):
            at, late = int(chance.integers(-30, 200)) * 5, int(chance.integers(-10, 40)) * 5
            value, own = float(chance.integers(1, 100)), {"patientunitstayid": stay}
            rows["vitalperiodic"].append({"observationoffset": at, "heartrate": int(value), "temperature": 37.0} | own)
            rows["vitalaperiodic"].append({"observationoffset": at + 5, "noninvasivemean": value} | own)
            entered = [None, at + late][row % 2]
            rows["lab"].append(lab("sodium", at // 60 * 60, value, entered, labid=len(rows["lab"])) | own)
            nurses = [("Heart Rate", None), ("Temperature (C)", "Temperature"), ("Temperature (F)", "Temperature")]
            name, label = nurses[row % 3]
            entry = nurse(
                name, at // 15 * 15, f"{value:g}", at + late, label, nursingchartid=len(rows["nursecharting"])
            )
            rows["nursecharting"].append(entry | own)
            entry = respiratory("FiO2", at, f"{value:g}", at + late) | {"respchartid": len(rows["respiratorycharting"])}
            rows["respiratorycharting"].append(entry | own)
            entry = infusion("Levophed (mcg/min)", at, f"{value:g}") | {"infusiondrugid": len(rows["infusiondrug"])}
            rows["infusiondrug"].append(entry | own)
            label = ["Urine", "Foley"][row % 2]
            entry = output(label, at // 60 * 60, value, at + late, len(rows["intakeoutput"]))
            rows["intakeoutput"].append(entry | own)
    return rows


def begins_of(patients):
    """When each stay begins, laid out a second time, in Python: the hospital stays of a patient one after the other."""
    begins, free_from = {}, {}
    frame = pd.DataFrame(patients).sort_values(["hospitaladmitoffset", "patientunitstayid"], ascending=[False, True])

    def place(hospital_stay):
        dead = "Expired" in [*hospital_stay["hospitaldischargestatus"], *hospital_stay["unitdischargestatus"]]
        default = START + pd.Timedelta(days=hospital_stay["patientunitstayid"].iloc[0] % 365)
        return dead or bool(hospital_stay["hospitaldischargeoffset"].isna().any()), default.normalize()

    hospital_stays = [(place(rows), number, rows) for number, rows in frame.groupby("patienthealthsystemstayid")]
    for (_, day), _, rows in sorted(hospital_stays, key=lambda stay: stay[:2]):
        patient_id, first = rows["uniquepid"].iloc[0], rows["hospitaladmitoffset"].iloc[0] * MINUTE
        intime = day + (START - START.normalize())
        while (intime + first).normalize() < free_from.get(patient_id, intime - timedelta(days=999)):
            intime += timedelta(days=1)
        for _, row in rows.iterrows():
            begins[row["patientunitstayid"]] = begin = intime + first - row["hospitaladmitoffset"] * MINUTE
            for end in (0, row["unitdischargeoffset"], row["hospitaldischargeoffset"]):
                if not pd.isna(end):
                    following = (begin + end * MINUTE).normalize() + timedelta(days=1)
                    free_from[patient_id] = max(following, free_from.get(patient_id, following))
    return begins


@pytest.fixture(scope="module")
def world(make_database):
    """The world's rows, its engine, and what is read of it."""
    rows, engine = chance_world(), open_engine(make_database("eicu_world"))
    create(engine, "eicu", TABLES, rows)
    yield rows, engine, read(engine, "eicu", "stays"), read(engine, "eicu", "observations")
    engine.dispose()


def test_no_version_tells_a_time_that_had_not_come(world):
    rows, _, versions, _ = world
    begins = begins_of(rows["patient"])
    assert {int(stay): intime for stay, intime in zip(versions["stay_id"], versions["intime"], strict=True)} == {
        row["patientunitstayid"]: begins[row["patientunitstayid"]]
        for row in rows["patient"]
        if row["unitstaytype"] != "stepdown/other"
    }
    for column in ("intime", "outtime", "hospital_outtime", "died_at"):
        reported = versions[column].notna()
        assert (versions.loc[reported, column] <= versions.loc[reported, "available_at"]).all(), column
    admission = versions["available_at"] == versions["intime"]
    assert admission.sum() == versions["stay_id"].nunique() > 15
    of_the_end = ["outtime", "outcome", "died_at", "hospital_outtime"]
    assert versions.loc[admission, of_the_end].isna().all(axis=None)
    assert set(versions["outcome"].dropna()) == set(OUTCOMES)
    assert not versions.duplicated(["stay_id", "available_at"]).any()


def test_an_observation_is_known_after_it_was_true_and_after_its_stay_began(world):
    _, _, versions, observations = world
    intime = observations["stay_id"].map(newest(versions)["intime"])
    assert (observations["available_at"] >= intime).all()
    assert (observations["available_at"] >= observations["observed_at"]).all()
    assert (intime - observations["observed_at"]).max() <= pd.Timedelta(hours=24)
    assert not observations.duplicated(["stay_id", "variable", "observed_at", "available_at"])[
        ~observations["variable"].str.startswith("vital")
    ].any()


KNOWN_AT = {
    "nursecharting": lambda row: max(row["nursingchartoffset"], row["nursingchartentryoffset"]),
    "respiratorycharting": lambda row: max(row["respchartoffset"], row["respchartentryoffset"]),
    "lab": lambda row: max(
        row["labresultoffset"],
        row["labresultoffset"] + 180 if row["labresultrevisedoffset"] is None else row["labresultrevisedoffset"],
    ),
    "infusiondrug": lambda row: row["infusionoffset"],
    "intakeoutput": lambda row: max(row["intakeoutputoffset"], row["intakeoutputentryoffset"]),
    "vitalperiodic": lambda row: row["observationoffset"],
    "vitalaperiodic": lambda row: row["observationoffset"],
}


def cut_off(rows, moment):
    """The rows that were there at `moment`; ends that had not come are blank."""
    begins = begins_of(rows["patient"])

    def known(row, offset):
        return begins[row["patientunitstayid"]] + offset * MINUTE <= moment

    patients = []
    for row in rows["patient"]:
        for end in ("unitdischarge", "hospitaldischarge"):
            # An end that is charted for before the begin is known a minute after it.
            if row[f"{end}offset"] is not None and not known(row, max(row[f"{end}offset"], 1)):
                row = row | {f"{end}offset": None, f"{end}status": None}
        if known(row, 0):
            patients.append(row)
    kept = {table: [row for row in rows[table] if known(row, at(row))] for table, at in KNOWN_AT.items()}
    return {"patient": patients, **kept}


@pytest.mark.parametrize("hour", [0, 3, 10.7, 25, 31, 50])
def test_a_slice_depends_only_on_rows_known_by_its_end(world, eicu, hour):
    """The tables cut off at a moment, later ends blanked, give the rows that the whole tables give up to it."""
    rows, engine, _, _ = world
    moment = START + pd.Timedelta(hours=hour)
    create(eicu, "eicu", TABLES, cut_off(rows, moment))
    for which in ("stays", "observations"):
        whole = read(engine, "eicu", which, until=moment.to_pydatetime())
        assert len(whole) > 0
        pd.testing.assert_frame_equal(sorted_rows(read(eicu, "eicu", which)), sorted_rows(whole))


@pytest.mark.soak
@pytest.mark.parametrize("which", ["stays", "observations"])
def test_slices_together_are_one_pass(world, which):
    """Hours through a day, then odd parts of days, then the rest."""
    _, engine, _, _ = world
    edges = [datetime(2015, 1, 1, 5, tzinfo=UTC) + timedelta(hours=hour) for hour in range(24)]
    edges += [edges[-1] + timedelta(hours=7.3 * step) for step in range(1, 15)]
    check_slices_are_one_pass(engine, adapter_at("eicu"), which, edges)


def test_the_selects_need_only_what_the_card_names(world):
    check_named_columns(world[1], adapter_at("eicu"))


def test_the_card_names_the_schema_of_the_official_build_and_stays_end_with_the_unit():
    adapter = load_adapter("eicu")
    assert (dict(adapter.schemas), adapter.local_times, adapter.ends_at) == ({"schema": "eicu_crd"}, True, "unit")
    assert "research extract" in (FOLDER / "eicu" / "README.md").read_text()
