"""One small hospital, described once; a module per source builds the tables in which that source would hold it.

A module `hospital.<source>` has `build(engine)`, which makes the tables as published (their names, columns and types) in
the schemas that the adapter expects, fills them, and returns the stay_id of each stay by its name here.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
from builders import stays_frame
from sqlalchemy import Engine

from rnn_core.contracts.concepts import INDEX
from rnn_core.contracts.frames import Observations
from sql.intake.adapter import load_adapter
from sql.loaders import make_schema, replace_table

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


# A laboratory of this hospital needs three hours, which is what sources without a time of the result assume.
LAB_HOURS = 3.0
LABS = frozenset(("creatinine", "sodium", "potassium", "platelets", "bun"))


@dataclass(frozen=True)
class Charted:
    stay: str
    concept: str
    hour: float  # after the stay's begin
    value: float

    @property
    def is_lab(self) -> bool:
        return self.concept in LABS

    @property
    def observed_at(self) -> datetime:
        return BY_NAME[self.stay].intime + timedelta(hours=self.hour)

    @property
    def known_at(self) -> datetime:
        return self.observed_at + timedelta(hours=LAB_HOURS if self.is_lab else 0)


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
    1 | sodium          | 20.5  | 141
    1 | gcs_total       | 21    | 14
    2 | heart_rate      |  1    | 104
    2 | fio2            |  1    | 0.5
    2 | potassium       |  2    | 4.4
    2 | platelets       |  2    | 180
    2 | heart_rate      | 10    | 130
    2 | heart_rate      | 10.75 | 131
    3 | temperature     |  0.25 | 36.1
    3 | bun             |  7    | 22
    3 | weight          |  7    | 80.5
"""
# Enough to be forecast on: a pulse every two hours.
_PULSE = [Charted(stay, "heart_rate", hour, 80.0 + hour) for stay in "12" for hour in range(12, 40, 2)]
CHARTED = (
    *(
        Charted(stay.strip(), concept.strip(), float(hour), float(value))
        for stay, concept, hour, value in (line.split("|") for line in _TABLE.strip().splitlines())
    ),
    *_PULSE,
)
BY_NAME = {stay.name: stay for stay in STAYS}
IMPLAUSIBLE = Charted("1", "heart_rate", 4, 999)
NOT_A_NUMBER = Charted("1", "potassium", 5, float("nan"))
SAID = "haemolysed"


def expected(as_of: datetime, delays: bool) -> tuple[pd.DataFrame, Observations]:
    """The stays begun and the observations known by `as_of` as the canonical tables give them, named as here.

    delays: False for a source that keeps one time per value and takes that for both.
    """
    stays = [s for s in STAYS if s.intime <= as_of]
    known = [(c, c.known_at if delays else c.observed_at) for c in CHARTED if BY_NAME[c.stay] in stays]
    known = sorted(((c, at) for c, at in known if at <= as_of), key=lambda pair: (pair[1], pair[0].observed_at))
    frame = stays_frame(
        *(
            {"stay_id": s.name, "unit_type": s.unit_type, "intime": _naive(s.intime), "age_years": s.age, "sex": s.sex}
            for s in stays
        )
    )
    return frame, Observations(
        np.array([stays.index(BY_NAME[c.stay]) for c, _ in known], np.int32),
        np.array([INDEX[c.concept] for c, _ in known], np.int16),
        np.array([_naive(c.observed_at) for c, _ in known], "datetime64[us]"),
        np.array([_naive(at) for _, at in known], "datetime64[us]"),
        np.array([c.value for c, _ in known]),
    )


def _naive(time: datetime) -> np.datetime64:
    return np.datetime64(time.replace(tzinfo=None), "us")


def create(engine: Engine, source: str, tables: dict[str, dict[str, pa.DataType]], rows: dict[str, list[dict]]) -> None:
    """Make and fill tables in the schemas of the adapter; a name may have the schema's placeholder before a dot.

    tables: the published columns that matter, with their types; rows give some of them, the others are null.
    """
    schemas = load_adapter(source).on(engine).schemas
    with engine.begin() as connection:
        for name, columns in tables.items():
            *placeholder, table = name.split(".")
            schema = schemas[placeholder[0] if placeholder else "schema"]
            make_schema(connection, schema)
            given = rows.get(name, [])
            assert not {key for row in given for key in row} - set(columns), name
            data = pa.table({c: pa.array([row.get(c) for row in given], kind) for c, kind in columns.items()})
            replace_table(connection, schema, table, data)
