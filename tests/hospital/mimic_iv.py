"""The hospital in the tables of MIMIC-IV: two schemas, a time of storing for every value, ages by an anchor year."""

from datetime import datetime, timedelta

import pyarrow as pa
from sqlalchemy import Engine

from hospital import CHARTED, IMPLAUSIBLE, NOT_A_NUMBER, SAID, STAYS, Charted, create
from sql.intake.adapter import load_adapter

TEXT, WHOLE, NUMBER, TIME = pa.string(), pa.int64(), pa.float64(), pa.timestamp("s")
TABLES = {
    "icu.icustays": {
        "subject_id": WHOLE,
        "hadm_id": WHOLE,
        "stay_id": WHOLE,
        "first_careunit": TEXT,
        "last_careunit": TEXT,
        "intime": TIME,
        "outtime": TIME,
        "los": NUMBER,
    },
    "icu.chartevents": {
        "subject_id": WHOLE,
        "hadm_id": WHOLE,
        "stay_id": WHOLE,
        "charttime": TIME,
        "storetime": TIME,
        "itemid": WHOLE,
        "value": TEXT,
        "valuenum": NUMBER,
        "valueuom": TEXT,
        "warning": WHOLE,
    },
    "icu.inputevents": {
        "subject_id": WHOLE,
        "hadm_id": WHOLE,
        "stay_id": WHOLE,
        "starttime": TIME,
        "endtime": TIME,
        "storetime": TIME,
        "itemid": WHOLE,
        "amount": NUMBER,
        "amountuom": TEXT,
        "rate": NUMBER,
        "rateuom": TEXT,
        "orderid": WHOLE,
        "linkorderid": WHOLE,
        "patientweight": NUMBER,
        "statusdescription": TEXT,
    },
    "icu.outputevents": {
        "subject_id": WHOLE,
        "hadm_id": WHOLE,
        "stay_id": WHOLE,
        "charttime": TIME,
        "storetime": TIME,
        "itemid": WHOLE,
        "value": NUMBER,
        "valueuom": TEXT,
    },
    "icu.d_items": {"itemid": WHOLE, "label": TEXT},
    "hosp.d_labitems": {"itemid": WHOLE, "label": TEXT, "fluid": TEXT},
    "hosp.admissions": {
        "subject_id": WHOLE,
        "hadm_id": WHOLE,
        "admittime": TIME,
        "dischtime": TIME,
        "deathtime": TIME,
        "admission_type": TEXT,
        "hospital_expire_flag": WHOLE,
    },
    "hosp.patients": {
        "subject_id": WHOLE,
        "gender": TEXT,
        "anchor_age": WHOLE,
        "anchor_year": WHOLE,
        "anchor_year_group": TEXT,
        "dod": pa.date32(),
    },
    "hosp.transfers": {
        "subject_id": WHOLE,
        "hadm_id": WHOLE,
        "transfer_id": WHOLE,
        "eventtype": TEXT,
        "careunit": TEXT,
        "intime": TIME,
        "outtime": TIME,
    },
    "hosp.labevents": {
        "labevent_id": WHOLE,
        "subject_id": WHOLE,
        "hadm_id": WHOLE,
        "specimen_id": WHOLE,
        "itemid": WHOLE,
        "charttime": TIME,
        "storetime": TIME,
        "value": TEXT,
        "valuenum": NUMBER,
        "valueuom": TEXT,
        "flag": TEXT,
        "comments": TEXT,
    },
}
MOVED = timedelta(days=-load_adapter("mimic_iv").shift_days)
UNITS = {
    "medical": "Medical Intensive Care Unit (MICU)",
    "surgical": "Surgical Intensive Care Unit (SICU)",
    "cardiac": "Coronary Care Unit (CCU)",
}
CHARTS = {
    "heart_rate": (220045, "bpm"),
    "temperature": (223761, "°F"),
    "sbp_invasive": (220050, "mmHg"),
    "map_noninvasive": (220181, "mmHg"),
    "fio2": (223835, None),
    "weight": (226531, None),
    # No total is charted but with an APACHE score; the bedside charts three parts.
    "gcs_total": (227013, None),
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
# Whoever is 18 more years old than at the anchor was anchored 18 years ago.
ANCHORED_BEFORE = 18


def build(engine: Engine) -> dict[str, str]:
    rows = {
        "icu.icustays": [
            {
                "subject_id": int(s.name),
                "hadm_id": 100 + int(s.name),
                "stay_id": 200 + int(s.name),
                "first_careunit": UNITS[s.unit_type],
                "last_careunit": UNITS[s.unit_type],
                "intime": _local(s.intime),
                "outtime": _local(s.outtime),
                "los": float(s.days),
            }
            for s in STAYS
        ],
        "hosp.admissions": [
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
        "hosp.patients": [
            {
                "subject_id": int(s.name),
                "gender": s.sex[0].upper(),
                "anchor_age": s.age - ANCHORED_BEFORE,
                "anchor_year": _local(s.intime).year - ANCHORED_BEFORE,
            }
            for s in STAYS
        ],
        "hosp.transfers": [
            {
                "subject_id": int(s.name),
                "hadm_id": 100 + int(s.name),
                "transfer_id": 300 + int(s.name),
                "eventtype": "admit",
                "careunit": UNITS[s.unit_type],
                "intime": _local(s.intime),
                "outtime": _local(s.outtime),
            }
            for s in STAYS
        ],
        "icu.chartevents": [_chart(c) for c in (*CHARTED, IMPLAUSIBLE) if not c.is_lab],
        "hosp.labevents": [
            *(_lab(c, number) for number, c in enumerate(CHARTED) if c.is_lab),
            _lab(NOT_A_NUMBER, len(CHARTED)) | {"value": SAID, "valuenum": None},
        ],
    }
    create(engine, "mimic_iv", TABLES, rows)
    return {s.name: str(200 + int(s.name)) for s in STAYS}


def _local(time: datetime) -> datetime:
    """Without a zone, on a date moved into the future, as MIMIC has it."""
    return time.replace(tzinfo=None) + MOVED


def _chart(c: Charted) -> dict:
    item, unit = CHARTS[c.concept]
    value = CHARTED_AS.get(c.concept, float)(c.value)
    return {
        "subject_id": int(c.stay),
        "hadm_id": 100 + int(c.stay),
        "stay_id": 200 + int(c.stay),
        "itemid": item,
        "charttime": _local(c.observed_at),
        "storetime": _local(c.known_at),
        "value": str(value),
        "valuenum": value,
        "valueuom": unit,
    }


def _lab(c: Charted, number: int) -> dict:
    item, unit = LABS[c.concept]
    return {
        "labevent_id": 400 + number,
        "subject_id": int(c.stay),
        "specimen_id": 500 + number,
        "itemid": item,
        "charttime": _local(c.observed_at),
        "storetime": _local(c.known_at),
        "value": str(c.value),
        "valuenum": c.value,
        "valueuom": unit,
    }
