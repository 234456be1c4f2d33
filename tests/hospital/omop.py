"""The hospital in the tables of the OMOP Common Data Model 5.4: units as concepts, births recorded in three ways."""

import pyarrow as pa
from sqlalchemy import Engine

from hospital import BY_NAME, CHARTED, IMPLAUSIBLE, NOT_A_NUMBER, SAID, STAYS, Charted, Stay, create

TEXT, WHOLE, NUMBER, TIME, DATE = pa.string(), pa.int64(), pa.float64(), pa.timestamp("s"), pa.date32()
TABLES = {
    "visit_detail": {
        "visit_detail_id": WHOLE,
        "person_id": WHOLE,
        "visit_detail_concept_id": WHOLE,
        "visit_detail_start_date": DATE,
        "visit_detail_start_datetime": TIME,
        "visit_detail_end_date": DATE,
        "visit_detail_end_datetime": TIME,
        "visit_detail_type_concept_id": WHOLE,
        "care_site_id": WHOLE,
        "parent_visit_detail_id": WHOLE,
        "visit_occurrence_id": WHOLE,
    },
    "visit_occurrence": {
        "visit_occurrence_id": WHOLE,
        "person_id": WHOLE,
        "visit_concept_id": WHOLE,
        "visit_start_date": DATE,
        "visit_start_datetime": TIME,
        "visit_end_date": DATE,
        "visit_end_datetime": TIME,
        "visit_type_concept_id": WHOLE,
    },
    "person": {
        "person_id": WHOLE,
        "gender_concept_id": WHOLE,
        "year_of_birth": WHOLE,
        "month_of_birth": WHOLE,
        "day_of_birth": WHOLE,
        "birth_datetime": TIME,
    },
    "death": {"person_id": WHOLE, "death_date": DATE, "death_datetime": TIME, "death_type_concept_id": WHOLE},
    "care_site": {"care_site_id": WHOLE, "care_site_name": TEXT, "place_of_service_concept_id": WHOLE},
    "measurement": {
        "measurement_id": WHOLE,
        "person_id": WHOLE,
        "measurement_concept_id": WHOLE,
        "measurement_date": DATE,
        "measurement_datetime": TIME,
        "measurement_type_concept_id": WHOLE,
        "operator_concept_id": WHOLE,
        "value_as_number": NUMBER,
        "value_as_concept_id": WHOLE,
        "unit_concept_id": WHOLE,
        "visit_occurrence_id": WHOLE,
        "visit_detail_id": WHOLE,
        "unit_source_value": TEXT,
        "value_source_value": TEXT,
        "measurement_source_value": TEXT,
    },
}
ICU, INPATIENT, EHR, LAB = 32037, 9201, 32817, 32856
UNITS = {
    "medical": "Medical Intensive Care Unit (MICU)",
    "surgical": "Surgical Intensive Care Unit (SICU)",
    "cardiac": "Coronary Care Unit (CCU)",
}
# Concept and unit of each variable; the hospital charts degrees Fahrenheit, per cent and pounds, and some SI units.
CONCEPTS = {
    "heart_rate": (3027018, 8541),
    "temperature": (3020891, 9289),
    "sbp_invasive": (21490853, 8876),
    "map_noninvasive": (21492241, 8876),
    "gcs_total": (3007194, None),
    "fio2": (3020716, 8554),
    "weight": (3025315, 8739),
    "creatinine": (3016723, 8840),
    "sodium": (3019550, 8753),
    "potassium": (3023103, 9557),
    "platelets": (3024929, 8647),
    "bun": (3013682, 8753),
}
CHARTED_AS = {
    "temperature": lambda c: c * 9 / 5 + 32,
    "fio2": lambda f: 100 * f,
    "weight": lambda kg: kg / 0.45359237,
    "platelets": lambda billion: 1000 * billion,
    "bun": lambda mg: mg / 2.8,
}


def build(engine: Engine) -> dict[str, str]:
    sites = {kind: number for number, kind in enumerate(UNITS, start=1)}
    said = _measurement(NOT_A_NUMBER) | {"value_as_number": None, "value_source_value": SAID}
    rows = {
        "visit_detail": [
            {
                "visit_detail_id": _detail(s),
                "person_id": int(s.name),
                "visit_detail_concept_id": ICU,
                "visit_detail_start_date": s.intime.date(),
                "visit_detail_start_datetime": _local(s.intime),
                "visit_detail_end_date": s.outtime.date(),
                "visit_detail_end_datetime": _local(s.outtime),
                "visit_detail_type_concept_id": EHR,
                "care_site_id": sites[s.unit_type],
                "visit_occurrence_id": _visit(s),
            }
            for s in STAYS
        ],
        "visit_occurrence": [
            {
                "visit_occurrence_id": _visit(s),
                "person_id": int(s.name),
                "visit_concept_id": INPATIENT,
                "visit_start_date": s.intime.date(),
                "visit_start_datetime": _local(s.intime),
                "visit_end_date": s.outtime.date(),
                "visit_end_datetime": _local(s.outtime),
                "visit_type_concept_id": EHR,
            }
            for s in STAYS
        ],
        "person": [
            {"person_id": int(s.name), "gender_concept_id": 8532 if s.sex == "female" else 8507, **_birth(s)}
            for s in STAYS
        ],
        "death": [
            {"person_id": int(s.name), "death_date": s.outtime.date(), "death_datetime": _local(s.outtime)}
            for s in STAYS
            if s.died
        ],
        "care_site": [{"care_site_id": sites[kind], "care_site_name": name} for kind, name in UNITS.items()],
        "measurement": [*(_measurement(c) for c in (*CHARTED, IMPLAUSIBLE)), said],
    }
    create(engine, "omop", TABLES, rows)
    return {s.name: str(_detail(s)) for s in STAYS}


def _local(time):
    return time.replace(tzinfo=None)


def _visit(stay: Stay) -> int:
    return 100 + int(stay.name)


def _detail(stay: Stay) -> int:
    return 200 + int(stay.name)


def _birth(stay: Stay) -> dict:
    """The birthday of the first is known, of the second the month, of the third the year."""
    year = stay.intime.year - stay.age
    if stay.name == "1":
        born = _local(stay.intime).replace(year=year, hour=0, day=1)
        return {"year_of_birth": year, "month_of_birth": born.month, "day_of_birth": 1, "birth_datetime": born}
    if stay.name == "2":
        return {"year_of_birth": year, "month_of_birth": stay.intime.month - 1}
    return {"year_of_birth": year - 1}


def _measurement(c: Charted) -> dict:
    concept, unit = CONCEPTS[c.concept]
    return {
        "person_id": int(c.stay),
        "measurement_concept_id": concept,
        "measurement_date": c.observed_at.date(),
        "measurement_datetime": _local(c.observed_at),
        "measurement_type_concept_id": LAB if c.is_lab else EHR,
        "value_as_number": CHARTED_AS.get(c.concept, float)(c.value),
        "unit_concept_id": unit,
        "visit_occurrence_id": _visit(BY_NAME[c.stay]),
        "visit_detail_id": _detail(BY_NAME[c.stay]),
    }
