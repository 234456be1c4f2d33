"""What can be read from a source, as data: a SELECT, a landing table, how its columns are cast, and where its rows go."""

from dataclasses import dataclass

from sqlalchemy import Table

from sql.intake.adapter import Adapter
from sql.store.schema import (
    landing_beds,
    landing_observation,
    landing_planned,
    landing_stay,
    observation,
    planned,
    stay_version,
    unit,
)


@dataclass(frozen=True)
class Relation:
    """One SELECT of an adapter.

    name: of its landing tables, its suite of checks and its rows in quarantine. landing: the text columns that the SELECT
    returns. target: where accepted rows go, under the same names. watermark: its column of icu.batch.
    """

    name: str
    file: str
    landing: Table
    target: Table
    watermark: str
    times: tuple[str, ...]
    numbers: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.landing.columns)

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(name for name in self.columns if name not in self.times + self.numbers)


STAY = Relation(
    "stay",
    "stays.sql",
    landing_stay,
    stay_version,
    "stays_watermark",
    ("available_at", "intime", "outtime", "hospital_intime", "hospital_outtime", "died_at"),
    ("end_precision_hours", "age_years", "height_cm", "weight_kg"),
)
OBSERVATION = Relation(
    "observation",
    "observations.sql",
    landing_observation,
    observation,
    "observations_watermark",
    ("observed_at", "available_at"),
    ("value",),
)
# Optional: an adapter may have no such file.
BEDS = Relation("beds", "beds.sql", landing_beds, unit, "beds_watermark", ("available_at",), ("beds", "staffed_beds"))
PLANNED = Relation(
    "planned",
    "arrivals.sql",
    landing_planned,
    planned,
    "plans_watermark",
    ("available_at", "expected_at"),
    ("probability",),
)
# In the order in which they are read, cast and taken over.
RELATIONS: tuple[Relation, ...] = (STAY, OBSERVATION, BEDS, PLANNED)


def relations_of(adapter: Adapter) -> tuple[Relation, ...]:
    """Those for which the adapter has a SELECT."""
    return tuple(relation for relation in RELATIONS if relation.file in adapter.selects())
