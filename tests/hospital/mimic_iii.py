"""The hospital in the tables of MIMIC-III: two monitoring systems, times without a zone, temperatures in Fahrenheit."""

from datetime import datetime, timedelta

import pyarrow as pa
from sqlalchemy import Engine

from hospital import CHARTED, IMPLAUSIBLE, NOT_A_NUMBER, SAID, STAYS, Charted, create
from sql.intake.adapter import load_adapter

TEXT, WHOLE, NUMBER, TIME = pa.string(), pa.int64(), pa.float64(), pa.timestamp("s")
TABLES = {
    "icustays": {
        "row_id": WHOLE,
        "subject_id": WHOLE,
        "hadm_id": WHOLE,
        "icustay_id": WHOLE,
        "dbsource": TEXT,
        "first_careunit": TEXT,
        "last_careunit": TEXT,
        "intime": TIME,
        "outtime": TIME,
        "los": NUMBER,
    },
    "admissions": {
        "row_id": WHOLE,
        "subject_id": WHOLE,
        "hadm_id": WHOLE,
        "admittime": TIME,
        "dischtime": TIME,
        "deathtime": TIME,
        "admission_type": TEXT,
        "hospital_expire_flag": WHOLE,
    },
    "patients": {"row_id": WHOLE, "subject_id": WHOLE, "gender": TEXT, "dob": TIME, "dod": TIME},
    "transfers": {
        "row_id": WHOLE,
        "subject_id": WHOLE,
        "hadm_id": WHOLE,
        "icustay_id": WHOLE,
        "prev_careunit": TEXT,
        "curr_careunit": TEXT,
        "intime": TIME,
        "outtime": TIME,
    },
    "chartevents": {
        "row_id": WHOLE,
        "subject_id": WHOLE,
        "hadm_id": WHOLE,
        "icustay_id": WHOLE,
        "itemid": WHOLE,
        "charttime": TIME,
        "storetime": TIME,
        "value": TEXT,
        "valuenum": NUMBER,
        "valueuom": TEXT,
        "error": WHOLE,
    },
    "labevents": {
        "row_id": WHOLE,
        "subject_id": WHOLE,
        "hadm_id": WHOLE,
        "itemid": WHOLE,
        "charttime": TIME,
        "value": TEXT,
        "valuenum": NUMBER,
        "valueuom": TEXT,
        "flag": TEXT,
    },
    "outputevents": {
        "row_id": WHOLE,
        "subject_id": WHOLE,
        "hadm_id": WHOLE,
        "icustay_id": WHOLE,
        "charttime": TIME,
        "itemid": WHOLE,
        "value": NUMBER,
        "valueuom": TEXT,
        "storetime": TIME,
    },
    "inputevents_cv": {
        "row_id": WHOLE,
        "subject_id": WHOLE,
        "hadm_id": WHOLE,
        "icustay_id": WHOLE,
        "charttime": TIME,
        "itemid": WHOLE,
        "rate": NUMBER,
        "rateuom": TEXT,
        "storetime": TIME,
        "stopped": TEXT,
    },
    "inputevents_mv": {
        "row_id": WHOLE,
        "subject_id": WHOLE,
        "hadm_id": WHOLE,
        "icustay_id": WHOLE,
        "starttime": TIME,
        "endtime": TIME,
        "itemid": WHOLE,
        "rate": NUMBER,
        "rateuom": TEXT,
        "storetime": TIME,
        "statusdescription": TEXT,
    },
}
MOVED = timedelta(days=-load_adapter("mimic_iii").shift_days)
UNITS = {"medical": "MICU", "surgical": "SICU", "cardiac": "CCU"}
CHARTS = {
    "heart_rate": (220045, "bpm"),
    "temperature": (223761, "?F"),
    "sbp_invasive": (51, "mmHg"),
    "map_noninvasive": (456, "mmHg"),
    "gcs_total": (198, "points"),
    "fio2": (223835, None),
    "weight": (226531, None),
}
LABS = {
    "creatinine": (50912, "mg/dL"),
    "sodium": (50983, "mEq/L"),
    "potassium": (50971, "mEq/L"),
    "platelets": (51265, "K/uL"),
    "bun": (51006, "mg/dL"),
}
# As charted: Fahrenheit, per cent, pounds.
CHARTED_AS = {"temperature": lambda c: c * 9 / 5 + 32, "fio2": lambda f: 100 * f, "weight": lambda kg: kg / 0.45359237}


def build(engine: Engine) -> dict[str, str]:
    rows = {
        "icustays": [
            {
                "subject_id": int(s.name),
                "hadm_id": 100 + int(s.name),
                "icustay_id": 200 + int(s.name),
                "first_careunit": UNITS[s.unit_type],
                "last_careunit": UNITS[s.unit_type],
                "intime": _local(s.intime),
                "outtime": _local(s.outtime),
            }
            for s in STAYS
        ],
        "admissions": [
            {
                "subject_id": int(s.name),
                "hadm_id": 100 + int(s.name),
                "admittime": _local(s.intime),
                "dischtime": _local(s.outtime),
                "deathtime": _local(s.outtime) if s.died else None,
                "hospital_expire_flag": int(s.died),
            }
            for s in STAYS
        ],
        "patients": [
            {
                "subject_id": int(s.name),
                "gender": s.sex[0].upper(),
                "dob": _local(s.intime).replace(year=_local(s.intime).year - s.age, hour=0, day=1),
            }
            for s in STAYS
        ],
        "transfers": [
            {
                "subject_id": int(s.name),
                "icustay_id": 200 + int(s.name),
                "curr_careunit": UNITS[s.unit_type],
                "intime": _local(s.intime),
                "outtime": _local(s.outtime),
            }
            for s in STAYS
        ],
        "chartevents": [_chart(c) for c in (*CHARTED, IMPLAUSIBLE) if not c.is_lab],
        "labevents": [*(_lab(c) for c in CHARTED if c.is_lab), _lab(NOT_A_NUMBER) | {"value": SAID, "valuenum": None}],
    }
    create(engine, "mimic_iii", TABLES, rows)
    return {s.name: str(200 + int(s.name)) for s in STAYS}


def _local(time: datetime) -> datetime:
    """Without a zone, on a date moved into the future, as MIMIC has it."""
    return time.replace(tzinfo=None) + MOVED


def _chart(c: Charted) -> dict:
    item, unit = CHARTS[c.concept]
    value = CHARTED_AS.get(c.concept, float)(c.value)
    return {
        "subject_id": int(c.stay),
        "icustay_id": 200 + int(c.stay),
        "itemid": item,
        "charttime": _local(c.observed_at),
        "storetime": _local(c.known_at),
        "value": str(value),
        "valuenum": value,
        "valueuom": unit,
    }


def _lab(c: Charted) -> dict:
    item, unit = LABS[c.concept]
    return {
        "subject_id": int(c.stay),
        "itemid": item,
        "charttime": _local(c.observed_at),
        "value": str(c.value),
        "valuenum": c.value,
        "valueuom": unit,
    }
