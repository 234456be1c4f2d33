"""The hospital in the tables of CLIF 2.1."""

import pyarrow as pa
from sqlalchemy import Engine

from hospital import CHARTED, IMPLAUSIBLE, NOT_A_NUMBER, SAID, STAYS, Charted, create
from sql.intake.adapter import load_adapter

_TIME, _NUMBER = pa.timestamp("us", "UTC"), pa.float64()
_NUMBERS = frozenset(
    (
        "vital_value",
        "lab_value_numeric",
        "numerical_value",
        "fio2_set",
        "lpm_set",
        "peep_set",
        "tidal_volume_obs",
        "minute_vent_obs",
        "peak_inspiratory_pressure_obs",
        "plateau_pressure_obs",
        "med_dose",
        "age_at_admission",
    )
)
TABLES = {
    table: {c: _TIME if c.endswith("_dttm") else _NUMBER if c in _NUMBERS else pa.string() for c in columns}
    for table, columns in load_adapter("clif").tables.items()
}


def build(engine: Engine) -> dict[str, str]:
    vitals = {
        "heart_rate": ("heart_rate", "Heart Rate"),
        "temperature": ("temp_c", "Temperature Celsius"),
        "sbp_invasive": ("sbp", "Arterial Blood Pressure systolic"),
        "map_noninvasive": ("map", "Non Invasive Blood Pressure mean"),
        "weight": ("weight_kg", "Daily Weight"),
    }
    labs = {
        "creatinine": ("creatinine", "mg/dL"),
        "sodium": ("sodium", "mmol/L"),
        "potassium": ("potassium", "mmol/L"),
        "platelets": ("platelet_count", "10*3/uL"),
        "bun": ("bun", "mg/dL"),
    }
    kinds = {"medical": "medical_icu", "surgical": "surgical_icu", "cardiac": "cardiac_icu"}
    rows: dict[str, list[dict]] = {
        name: [] for name in ("vitals", "labs", "patient_assessments", "respiratory_support")
    }
    for c in (*CHARTED, IMPLAUSIBLE):
        when = c.observed_at
        if c.concept in vitals:
            category, name = vitals[c.concept]
            rows["vitals"].append(
                {
                    "hospitalization_id": c.stay,
                    "recorded_dttm": when,
                    "vital_name": name,
                    "vital_category": category,
                    "vital_value": c.value,
                }
            )
        elif c.concept in labs:
            rows["labs"].append(_lab(c, *labs[c.concept], str(c.value), c.value))
        elif c.concept == "gcs_total":
            rows["patient_assessments"].append(
                {
                    "hospitalization_id": c.stay,
                    "recorded_dttm": when,
                    "assessment_category": "gcs_total",
                    "numerical_value": c.value,
                }
            )
        else:
            rows["respiratory_support"].append(
                {"hospitalization_id": c.stay, "recorded_dttm": when, "fio2_set": c.value}
            )
    rows["labs"].append(_lab(NOT_A_NUMBER, *labs["potassium"], SAID, None))
    rows["adt"] = [
        {
            "hospitalization_id": s.name,
            "in_dttm": s.intime,
            "out_dttm": s.outtime,
            "location_name": s.unit_type,
            "location_category": "icu",
            "location_type": kinds[s.unit_type],
        }
        for s in STAYS
    ]
    rows["hospitalization"] = [
        {
            "hospitalization_id": s.name,
            "patient_id": s.name,
            "admission_dttm": s.intime,
            "discharge_dttm": s.outtime,
            "discharge_category": "Expired" if s.died else "Home",
            "age_at_admission": s.age,
            "admission_type_category": None,
        }
        for s in STAYS
    ]
    rows["patient"] = [{"patient_id": s.name, "sex_category": s.sex.title()} for s in STAYS]
    create(engine, "clif", TABLES, rows)
    return {s.name: f"{s.name}-1" for s in STAYS}


def _lab(c: Charted, category: str, unit: str, said: str, number: float | None) -> dict:
    return {
        "hospitalization_id": c.stay,
        "lab_collect_dttm": c.observed_at,
        "lab_result_dttm": c.known_at,
        "lab_category": category,
        "lab_value": said,
        "lab_value_numeric": number,
        "reference_unit": unit,
    }
