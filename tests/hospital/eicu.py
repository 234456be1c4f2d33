"""The hospital in the tables of eICU: minutes from the unit admission, texts for numbers, Fahrenheit and per cent."""

from sqlalchemy import Engine

from hospital import BY_NAME, CHARTED, IMPLAUSIBLE, NOT_A_NUMBER, SAID, STAYS, Charted, Stay, create
from sql.loaders.eicu import TABLES

UNITS = {"medical": "MICU", "surgical": "SICU", "cardiac": "Cardiac ICU"}
NURSE = {
    "heart_rate": ("Heart Rate", "Heart Rate"),
    "temperature": ("Temperature", "Temperature (F)"),
    "gcs_total": ("Glasgow coma score", "GCS Total"),
}
LABS = {
    "creatinine": ("creatinine", "mg/dL"),
    "sodium": ("sodium", "mmol/L"),
    "potassium": ("potassium", "mmol/L"),
    "platelets": ("platelets x 1000", "K/mcL"),
    "bun": ("BUN", "mg/dL"),
}
WEIGHT = "flowsheet|Flowsheet Cell Labels|I&O|Weight|Bodyweight (kg)"


def build(engine: Engine) -> dict[str, str]:
    rows: dict[str, list[dict]] = {"patient": [_patient(s) for s in STAYS]}
    for charted in (*CHARTED, IMPLAUSIBLE):
        table, row = _row(charted)
        rows.setdefault(table, []).append(row)
    rows["lab"].append(_row(NOT_A_NUMBER)[1] | {"labresult": None, "labresulttext": SAID})
    create(engine, "eicu", TABLES, rows)
    return {s.name: str(_id(s)) for s in STAYS}


def _id(stay: Stay) -> int:
    """Unlike for each stay, and by its remainder to 365 on the day of the year on which the stay began."""
    return 365 * int(stay.name) + stay.intime.timetuple().tm_yday - 1


def _minutes(hours: float) -> int:
    return round(60 * hours)


def _patient(s: Stay) -> dict:
    status = "Expired" if s.died else "Alive"
    return {
        "patientunitstayid": _id(s),
        "patienthealthsystemstayid": 100 + int(s.name),
        "uniquepid": f"002-{s.name}",
        "gender": s.sex.capitalize(),
        "age": str(s.age),
        "hospitalid": 73,
        "wardid": 90 + int(s.name),
        "unittype": UNITS[s.unit_type],
        "unitstaytype": "admit",
        "unitvisitnumber": 1,
        "hospitaladmitoffset": 0,
        "unitadmittime24": s.intime.strftime("%H:%M:%S"),
        "hospitaldischargeyear": s.intime.year,
        "unitdischargeoffset": _minutes(24 * s.days),
        "unitdischargestatus": status,
        "hospitaldischargeoffset": _minutes(24 * s.days),
        "hospitaldischargestatus": status,
    }


def _row(c: Charted) -> tuple[str, dict]:
    """The table that this value stands in, and its row."""
    stay, at = _id(BY_NAME[c.stay]), _minutes(c.hour)
    if c.is_lab:
        name, unit = LABS[c.concept]
        return "lab", {
            "patientunitstayid": stay,
            "labname": name,
            "labresultoffset": at,
            "labresult": c.value,
            "labresulttext": str(c.value),
            "labmeasurenamesystem": unit,
            "labresultrevisedoffset": _minutes((c.known_at - BY_NAME[c.stay].intime).total_seconds() / 3600),
        }
    if c.concept == "sbp_invasive":
        return "vitalperiodic", {"patientunitstayid": stay, "observationoffset": at, "systemicsystolic": int(c.value)}
    if c.concept == "map_noninvasive":
        return "vitalaperiodic", {"patientunitstayid": stay, "observationoffset": at, "noninvasivemean": c.value}
    if c.concept == "fio2":
        return "respiratorycharting", {
            "patientunitstayid": stay,
            "respchartoffset": at,
            "respchartentryoffset": at,
            "respchartvaluelabel": "FiO2",
            "respchartvalue": f"{100 * c.value:g}",
        }
    if c.concept == "weight":
        return "intakeoutput", {
            "patientunitstayid": stay,
            "intakeoutputoffset": at,
            "intakeoutputentryoffset": at,
            "cellpath": WEIGHT,
            "celllabel": "Bodyweight (kg)",
            "cellvaluenumeric": c.value,
        }
    label, name = NURSE[c.concept]
    value = c.value * 9 / 5 + 32 if c.concept == "temperature" else c.value
    return "nursecharting", {
        "patientunitstayid": stay,
        "nursingchartoffset": at,
        "nursingchartentryoffset": at,
        "nursingchartcelltypevallabel": label,
        "nursingchartcelltypevalname": name,
        "nursingchartvalue": str(value),
    }
