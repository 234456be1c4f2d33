"""The hospital in the tables of the template: two of its own, local times, a comma for a decimal point."""

from datetime import timedelta

import pyarrow as pa
from sqlalchemy import Engine

from hospital import BEGIN, CHARTED, IMPLAUSIBLE, NOT_A_NUMBER, SAID, STAYS, Charted, create

TEXT, NUMBER, TIME, FLAG = pa.string(), pa.float64(), pa.timestamp("s"), pa.bool_()
TABLES = {
    "ward_stay": {
        "stay_no": TEXT,
        "patient_no": TEXT,
        "ward": TEXT,
        "is_icu": FLAG,
        "begin_ts": TIME,
        "end_ts": TIME,
        "left_dead": FLAG,
        "changed_ts": TIME,
        "age_years": NUMBER,
        "sex_code": TEXT,
        "height_cm": NUMBER,
        "weight_kg": NUMBER,
        "admission_code": TEXT,
    },
    "ward_plan": {
        "plan_no": TEXT,
        "ward": TEXT,
        "is_icu": FLAG,
        "kind_code": TEXT,
        "planned_ts": TIME,
        "entered_ts": TIME,
        "likelihood_percent": NUMBER,
        "state_code": TEXT,
        "stay_no": TEXT,
    },
    "ward_value": {"stay_no": TEXT, "code": TEXT, "unit": TEXT, "observed_ts": TIME, "stored_ts": TIME, "value": TEXT},
}
WARDS = {"medical": "ICU1", "surgical": "ICU2", "cardiac": "ICU3"}
CODES = {
    "heart_rate": ("HR", None),
    "temperature": ("TEMP", "degC"),
    "sbp_invasive": ("ABPS", "mmHg"),
    "map_noninvasive": ("NIBPM", "mmHg"),
    "gcs_total": ("GCS", None),
    "fio2": ("FIO2", "%"),
    "weight": ("WEIGHT", "kg"),
    "creatinine": ("CREA", "mg/dL"),
    "sodium": ("NA", "mmol/L"),
    "potassium": ("K", "mmol/L"),
    "platelets": ("PLT", "10^9/L"),
    "bun": ("BUN", "mg/dL"),
}


def plan(number: str, hour: float, state: str = "O", **values) -> dict:
    """A version of a plan, entered that many hours after the begin."""
    row = {"plan_no": number, "ward": "ICU1", "is_icu": True, "kind_code": "A", "likelihood_percent": 80.0}
    times = {"planned_ts": _local(BEGIN + timedelta(hours=48)), "entered_ts": _local(BEGIN + timedelta(hours=hour))}
    return row | times | {"state_code": state} | values


def _local(time):
    return time.replace(tzinfo=None)


PLANS = [
    plan("1", 2),
    plan("1", 40, "X"),
    plan("2", 5, kind_code="D", stay_no="1", likelihood_percent=100.0),
    plan("3", 6, ward="GEN4", is_icu=False),
]


def build(engine: Engine) -> dict[str, str]:
    stays = [
        {
            "stay_no": s.name,
            "patient_no": f"p{s.name}",
            "ward": WARDS[s.unit_type],
            "is_icu": True,
            "begin_ts": _local(s.intime),
            "end_ts": _local(s.outtime),
            "left_dead": s.died,
            "changed_ts": _local(s.outtime),
            "age_years": float(s.age),
            "sex_code": s.sex[0].upper(),
        }
        for s in STAYS
    ]
    values = [*(_value(c) for c in (*CHARTED, IMPLAUSIBLE)), _value(NOT_A_NUMBER) | {"value": SAID}]
    create(engine, "site", TABLES, {"ward_stay": stays, "ward_value": values, "ward_plan": PLANS})
    return {s.name: s.name for s in STAYS}


def _value(c: Charted) -> dict:
    code, unit = CODES[c.concept]
    value = 100 * c.value if c.concept == "fio2" else c.value
    return {
        "stay_no": c.stay,
        "code": code,
        "unit": unit,
        "observed_ts": _local(c.observed_at),
        "stored_ts": _local(c.known_at),
        "value": str(value).replace(".", ","),
    }
