"""One small hospital, described once, and how each source's own schema would hold it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa
from sqlalchemy import Engine, text

from sql.copy import copy_arrow

BEGIN = datetime(2026, 3, 2, 8, tzinfo=UTC)


@dataclass(frozen=True)
class Stay:
    name: str
    unit_type: str
    begins: float  # hours after BEGIN
    days: int
    died: bool
    age: int
    sex: str

    @property
    def intime(self) -> datetime:
        return BEGIN + timedelta(hours=self.begins)

    @property
    def outtime(self) -> datetime:
        return self.intime + timedelta(days=self.days)


@dataclass(frozen=True)
class Charted:
    stay: str
    concept: str
    hour: float  # after the stay's begin
    value: float


STAYS = (
    Stay("1", "medical", 0, 3, False, 71, "female"),
    Stay("2", "surgical", 5, 4, True, 58, "male"),
    Stay("3", "cardiac", 30, 2, False, 44, "female"),
)

# What a table in the issue of a hospital would say: stay | concept | hour | value
_TABLE = """
    1 | heart_rate      |  0.5  | 88
    1 | heart_rate      |  1.5  | 92
    1 | temperature     |  1.5  | 37.4
    1 | sbp_invasive    |  2    | 121
    1 | map_noninvasive |  2.25 | 81
    1 | creatinine      |  3    | 1.2
    1 | lactate         | 20.5  | 2.1
    1 | gcs_total       | 21    | 14
    2 | heart_rate      |  1    | 104
    2 | spo2_absent     |  1    | 0
    2 | fio2            |  1    | 0.5
    2 | potassium       |  2    | 4.4
    2 | platelets       |  2    | 180
    2 | heart_rate      | 10    | 130
    2 | heart_rate      | 10.75 | 131
    3 | temperature     |  0.25 | 36.1
    3 | bun             |  7    | 22
    3 | weight          |  7    | 80.5
"""
CHARTED = tuple(
    Charted(stay.strip(), concept.strip(), float(hour), float(value))
    for stay, concept, hour, value in (line.split("|") for line in _TABLE.strip().splitlines())
    if not concept.strip().endswith("_absent")
)
IMPLAUSIBLE = Charted("1", "heart_rate", 4, 999)
NOT_A_NUMBER = ("1", "potassium", 5, "haemolysed")


def physionet_2012(engine: Engine) -> dict[str, str]:
    """The tables of the Challenge; returns stay_id by name."""
    names = {
        "heart_rate": "HR", "temperature": "Temp", "sbp_invasive": "SysABP", "map_noninvasive": "NIMAP",
        "creatinine": "Creatinine", "lactate": "Lactate", "gcs_total": "GCS", "fio2": "FiO2", "potassium": "K",
        "platelets": "Platelets", "bun": "BUN", "weight": "Weight",
    }  # fmt: skip
    kinds = {"cardiac": 1, "cardiac_surgery": 2, "medical": 3, "surgical": 4}

    def line(stay: str, hour: float, parameter: str, value: object) -> dict:
        minutes = round(hour * 60)
        time = f"{minutes // 60:02d}:{minutes % 60:02d}"
        return {"record_id": int(stay), "set_name": "a", "time": time, "parameter": parameter, "value": str(value)}

    measurement = [line(c.stay, c.hour, names[c.concept], c.value) for c in (*CHARTED, IMPLAUSIBLE)]
    measurement.append(line(NOT_A_NUMBER[0], NOT_A_NUMBER[2], "K", NOT_A_NUMBER[3]))
    for s in STAYS:
        gender = {"female": 0, "male": 1}[s.sex]
        for parameter, value in {"Age": s.age, "Gender": gender, "Height": -1, "ICUType": kinds[s.unit_type]}.items():
            measurement.append(line(s.name, 0, parameter, value))
    # A death is charted as the number of the day it fell on, a discharge as days in hospital.
    outcome = [
        {
            "record_id": int(s.name), "set_name": "a", "saps_i": 1, "sofa": 1, "length_of_stay": s.days,
            "survival": s.days - 1 if s.died else -1, "in_hospital_death": int(s.died),
        }
        for s in STAYS
    ]  # fmt: skip
    record = [{"record_id": int(s.name), "set_name": "a", "intime": s.intime} for s in STAYS]
    _create(engine, {"record": record, "measurement": measurement, "outcome": outcome})
    return {s.name: f"a-{s.name}" for s in STAYS}


def clif(engine: Engine) -> dict[str, str]:
    """The tables of CLIF 2.1; returns stay_id by name."""
    vitals = {
        "heart_rate": ("heart_rate", "Heart Rate"), "temperature": ("temp_c", "Temperature Celsius"),
        "sbp_invasive": ("sbp", "Arterial Blood Pressure systolic"),
        "map_noninvasive": ("map", "Non Invasive Blood Pressure mean"), "weight": ("weight_kg", "Daily Weight"),
    }  # fmt: skip
    labs = {
        "creatinine": ("creatinine", "mg/dL"), "lactate": ("lactate", "mmol/L"), "potassium": ("potassium", "mmol/L"),
        "platelets": ("platelet_count", "10*3/uL"), "bun": ("bun", "mg/dL"),
    }  # fmt: skip
    kinds = {"medical": "medical_icu", "surgical": "surgical_icu", "cardiac": "cardiac_icu"}
    by_name = {s.name: s for s in STAYS}
    rows: dict[str, list[dict]] = {
        name: [] for name in ("vitals", "labs", "patient_assessments", "respiratory_support")
    }
    for c in (*CHARTED, IMPLAUSIBLE):
        when = by_name[c.stay].intime + timedelta(hours=c.hour)
        if c.concept in vitals:
            category, name = vitals[c.concept]
            rows["vitals"].append(
                {"hospitalization_id": c.stay, "recorded_dttm": when, "vital_name": name, "vital_category": category,
                 "vital_value": c.value}
            )  # fmt: skip
        elif c.concept in labs:
            rows["labs"].append(_lab(c.stay, when, *labs[c.concept], str(c.value), c.value))
        elif c.concept == "gcs_total":
            rows["patient_assessments"].append(
                {"hospitalization_id": c.stay, "recorded_dttm": when, "assessment_category": "gcs_total",
                 "numerical_value": c.value, "categorical_value": None, "text_value": None}
            )  # fmt: skip
        else:
            settings = dict.fromkeys(
                ("lpm_set", "peep_set", "tidal_volume_obs", "minute_vent_obs", "peak_inspiratory_pressure_obs",
                 "plateau_pressure_obs")
            )  # fmt: skip
            rows["respiratory_support"].append(
                {"hospitalization_id": c.stay, "recorded_dttm": when, "device_category": None, "fio2_set": c.value}
                | settings
            )
    stay, _, hour, said = NOT_A_NUMBER
    rows["labs"].append(_lab(stay, by_name[stay].intime + timedelta(hours=hour), *labs["potassium"], said, None))
    rows["adt"] = [
        {"hospitalization_id": s.name, "in_dttm": s.intime, "out_dttm": s.outtime, "location_name": s.unit_type,
         "location_category": "icu", "location_type": kinds[s.unit_type]}
        for s in STAYS
    ]  # fmt: skip
    rows["hospitalization"] = [
        {"hospitalization_id": s.name, "patient_id": s.name, "admission_dttm": s.intime, "discharge_dttm": s.outtime,
         "discharge_category": "Expired" if s.died else "Home", "age_at_admission": s.age,
         "admission_type_category": None}
        for s in STAYS
    ]  # fmt: skip
    rows["patient"] = [{"patient_id": s.name, "sex_category": s.sex.title()} for s in STAYS]
    rows["medication_admin_continuous"] = [
        {"hospitalization_id": "0", "med_order_id": "0", "med_category": "none", "med_group": "none",
         "admin_dttm": BEGIN, "mar_action_category": "start", "med_dose": 0.0, "med_dose_unit": "none"}
    ]  # fmt: skip
    _create(engine, rows)
    return {s.name: f"{s.name}-1" for s in STAYS}


def _lab(stay: str, when: datetime, category: str, unit: str, said: str, number: float | None) -> dict:
    return {
        "hospitalization_id": stay, "lab_collect_dttm": when, "lab_result_dttm": when, "lab_category": category,
        "lab_value": said, "lab_value_numeric": number, "reference_unit": unit,
    }  # fmt: skip


_TYPES = {str: "text", int: "bigint", float: "double precision", datetime: "timestamptz"}


def _create(engine: Engine, tables: dict[str, list[dict]]) -> None:
    with engine.begin() as connection:
        for name, rows in tables.items():
            columns = []
            for column in rows[0]:
                kinds = {type(row[column]) for row in rows} - {type(None)}
                columns.append(f"{column} {_TYPES[kinds.pop()] if kinds else 'text'}")
            connection.execute(text(f"create table {name} ({', '.join(columns)})"))
            copy_arrow(connection, name, pa.Table.from_pylist(rows))


SOURCES = {"clif": clif, "physionet_2012": physionet_2012}
