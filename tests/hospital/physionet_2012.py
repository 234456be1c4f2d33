"""The hospital in the tables of the PhysioNet Challenge 2012, which keep one time per value."""

import pyarrow as pa
from sqlalchemy import Engine

from hospital import CHARTED, IMPLAUSIBLE, NOT_A_NUMBER, SAID, STAYS, create

TEXT, WHOLE = pa.string(), pa.int64()
TABLES = {
    "record": {"record_id": WHOLE, "set_name": TEXT, "intime": pa.timestamp("us", "UTC")},
    "measurement": {"record_id": WHOLE, "set_name": TEXT, "time": TEXT, "parameter": TEXT, "value": TEXT},
    "outcome": {
        "record_id": WHOLE,
        "set_name": TEXT,
        "saps_i": WHOLE,
        "sofa": WHOLE,
        "length_of_stay": WHOLE,
        "survival": WHOLE,
        "in_hospital_death": WHOLE,
    },
}


def build(engine: Engine) -> dict[str, str]:
    names = {
        "heart_rate": "HR",
        "temperature": "Temp",
        "sbp_invasive": "SysABP",
        "map_noninvasive": "NIMAP",
        "creatinine": "Creatinine",
        "sodium": "Na",
        "gcs_total": "GCS",
        "fio2": "FiO2",
        "potassium": "K",
        "platelets": "Platelets",
        "bun": "BUN",
        "weight": "Weight",
    }
    kinds = {"cardiac": 1, "cardiac_surgery": 2, "medical": 3, "surgical": 4}

    def line(stay: str, hour: float, parameter: str, value: object) -> dict:
        minutes = round(hour * 60)
        time = f"{minutes // 60:02d}:{minutes % 60:02d}"
        return {"record_id": int(stay), "set_name": "a", "time": time, "parameter": parameter, "value": str(value)}

    measurement = [line(c.stay, c.hour, names[c.concept], c.value) for c in (*CHARTED, IMPLAUSIBLE)]
    measurement.append(line(NOT_A_NUMBER.stay, NOT_A_NUMBER.hour, "K", SAID))
    for s in STAYS:
        gender = {"female": 0, "male": 1}[s.sex]
        for parameter, value in {"Age": s.age, "Gender": gender, "Height": -1, "ICUType": kinds[s.unit_type]}.items():
            measurement.append(line(s.name, 0, parameter, value))
    # A death is charted as the number of the day it fell on, a discharge as days in hospital.
    outcome = [
        {
            "record_id": int(s.name),
            "set_name": "a",
            "saps_i": 1,
            "sofa": 1,
            "length_of_stay": s.days,
            "survival": s.days - 1 if s.died else -1,
            "in_hospital_death": int(s.died),
        }
        for s in STAYS
    ]
    record = [{"record_id": int(s.name), "set_name": "a", "intime": s.intime} for s in STAYS]
    create(engine, "physionet_2012", TABLES, {"record": record, "measurement": measurement, "outcome": outcome})
    return {s.name: f"a-{s.name}" for s in STAYS}
