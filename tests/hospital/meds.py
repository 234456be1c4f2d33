"""The hospital as events in the form of MEDS, in Parquet files with the two columns that we export besides its own."""

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Engine

from hospital import CHARTED, IMPLAUSIBLE, NOT_A_NUMBER, SAID, STAYS, Charted, Stay
from sql.loaders import meds

SCHEMA = pa.schema(
    {
        "subject_id": pa.int64(),
        "time": pa.timestamp("us"),
        "code": pa.string(),
        "numeric_value": pa.float32(),
        "text_value": pa.large_string(),
        "available_at": pa.timestamp("us"),
        "stay_id": pa.string(),
    }
)
UNITS = {
    "medical": "Medical Intensive Care Unit (MICU)",
    "surgical": "Surgical Intensive Care Unit (SICU)",
    "cardiac": "Coronary Care Unit (CCU)",
}
# As in MIMIC-IV's MEDS: the item of the chart or of the laboratory, and the unit; else the concept, as we export it.
CODES = {
    "heart_rate": "LAB//220045//bpm",
    "temperature": "LAB//223761//°F",
    "fio2": "LAB//223835//UNK",
    "creatinine": "LAB//50912//mg/dL",
    "sodium": "LAB//50983//mEq/L",
    "potassium": "LAB//50971//mEq/L",
    "platelets": "LAB//51265//K/uL",
    "bun": "LAB//51006//mg/dL",
}
CHARTED_AS = {"temperature": lambda c: round(c * 9 / 5 + 32, 2), "fio2": lambda f: 100 * f}


def build(engine: Engine) -> dict[str, str]:
    rows = [event for stay in STAYS for event in _events(stay)]
    rows += [_value(c) for c in (*CHARTED, IMPLAUSIBLE)]
    rows.append(_value(NOT_A_NUMBER) | {"numeric_value": None, "text_value": SAID})
    rows.sort(key=lambda row: (row["subject_id"], row["time"] or datetime.min))
    folder = Path(engine.url.database).with_suffix(".meds") / "data"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "0.parquet")
    meds.load(engine, folder.parent, "main")
    return {s.name: f"s{s.name}" for s in STAYS}


def _events(stay: Stay) -> list[dict]:
    begin, end = (time.replace(tzinfo=None) for time in (stay.intime, stay.outtime))
    of = {"subject_id": int(stay.name)}
    at_begin = of | {"time": begin, "available_at": begin, "stay_id": f"s{stay.name}"}
    at_end = of | {"time": end, "available_at": end, "stay_id": f"s{stay.name}"}
    events = [
        of | {"time": None, "code": f"GENDER//{stay.sex[0].upper()}"},
        of | {"time": begin.replace(year=begin.year - stay.age, month=1, day=1), "code": "MEDS_BIRTH"},
        at_begin | {"code": f"ICU_ADMISSION//{UNITS[stay.unit_type]}"},
        at_end | {"code": f"ICU_DISCHARGE//{UNITS[stay.unit_type]}"},
    ]
    return [*events, of | {"time": end, "available_at": end, "code": "MEDS_DEATH"}] if stay.died else events


def _value(c: Charted) -> dict:
    return {
        "subject_id": int(c.stay),
        "time": c.observed_at.replace(tzinfo=None),
        "code": CODES.get(c.concept, c.concept),
        "numeric_value": CHARTED_AS.get(c.concept, float)(c.value),
        "available_at": c.known_at.replace(tzinfo=None),
        "stay_id": f"s{c.stay}",
    }
