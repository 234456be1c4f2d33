"""The hospital in the tables that the replay is loaded into: versions of stays, and values in the concepts' units."""

import pyarrow as pa
from sqlalchemy import Engine

from hospital import BEGIN, CHARTED, IMPLAUSIBLE, NOT_A_NUMBER, SAID, STAYS, Charted, create
from rnn_core.contracts.concepts import BY_NAME as CONCEPTS
from sql.loaders.replay import STAY, UNIT, VALUE

TABLES = {
    name: dict(zip(columns.names, columns.types, strict=True))
    for name, columns in (("replay_stay", STAY), ("replay_value", VALUE), ("replay_unit", UNIT))
}
# Text, as a value that is none needs.
TABLES["replay_value"]["value"] = pa.string()


def build(engine: Engine) -> dict[str, str]:
    versions = []
    for s in STAYS:
        begun = {
            "stay_id": s.name,
            "available_at": s.intime,
            "patient_id": f"p{s.name}",
            "unit": "Unit 1",
            "unit_type": s.unit_type,
            "intime": s.intime,
            "end_precision_hours": 0.0,
            "age_years": float(s.age),
            "sex": s.sex,
        }
        ended = {
            "outtime": s.outtime,
            "outcome": "died" if s.died else "alive",
            "died_at": s.outtime if s.died else None,
        }
        versions += [begun, begun | ended | {"available_at": max(s.intime, s.outtime)}]
    values = [*(_value(c) for c in (*CHARTED, IMPLAUSIBLE)), _value(NOT_A_NUMBER) | {"value": SAID}]
    beds = [{"unit": "Unit 1", "beds": 3, "available_at": BEGIN}]
    create(engine, "replay", TABLES, {"replay_stay": versions, "replay_value": values, "replay_unit": beds})
    return {s.name: s.name for s in STAYS}


def _value(c: Charted) -> dict:
    return {
        "stay_id": c.stay,
        "concept": c.concept,
        "unit": CONCEPTS[c.concept].unit,
        "observed_at": c.observed_at,
        "available_at": c.known_at,
        "value": str(c.value),
    }
