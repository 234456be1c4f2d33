"""A source's adapter: a folder with SELECTs in that database's dialect, a concept map and a card."""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from sqlalchemy import Engine
from sqlalchemy.engine.interfaces import Dialect

from rnn_core.contracts.concepts import BY_NAME
from rnn_core.contracts.config import Sampling
from rnn_core.contracts.errors import ContractError
from sql import engines

_FOLDER = Path(__file__).resolve().parents[1] / "sources"
_ONE_SCHEMA = {"schema": "public"}
# No charting system has older stays. A missing begin is often written as 1900-01-01, 1970-01-01 or 1980-01-01.
FIRST_DAY = date(1990, 1, 1)
OPTIONAL_SELECTS = ("beds.sql", "arrivals.sql")


class Beds(NamedTuple):
    """Beds of a unit, and those with staff; None where it is not known."""

    beds: int | None
    staffed: int | None = None


@dataclass(frozen=True)
class MappedVariable:
    """One line of concept_map.csv: value in the concept's unit = value * scale + offset; no concept: deliberately unused.

    delay_hours: from when the value was true until it was known, for a source that keeps one time; None as in its SELECT.
    """

    variable: str
    unit: str
    concept: str | None
    scale: float
    offset: float
    delay_hours: float | None = None


@dataclass(frozen=True)
class Adapter:
    """A source as its folder describes it, with this installation's settings.

    schemas: the schema of each placeholder in the SELECTs.
    local_times: times carry no zone; they and the bounds of a read are in `timezone`.
    shift_days: added to every time that is read, for dates that de-identification moved into the future.
    first_day: the first day, in the source's own dates, on which a stay can have begun.
    icu_concepts: the numbers that mark intensive care in a source that has such.
    optional_sql: those of OPTIONAL_SELECTS that the folder has, by file.
    written_for: SELECTs for one engine alone (`stays.mysql.sql`), by its dialect and by the file that each takes the place of.
    not_taken_sql: names and counts of what the other SELECTs do not return; it may read `look_tables` too.
    """

    name: str
    title: str
    licence: str
    ends_at: str
    sampling: Sampling
    availability: str
    dialects: tuple[str, ...]
    tables: dict[str, list[str]]
    units: dict[str, Beds]
    stays_sql: str
    observations_sql: str
    concept_map: tuple[MappedVariable, ...]
    schemas: Mapping[str, str] = field(default_factory=lambda: dict(_ONE_SCHEMA))
    local_times: bool = False
    timezone: str = "UTC"
    shift_days: int = 0
    first_day: date = FIRST_DAY
    icu_concepts: tuple[int, ...] = ()
    optional_sql: Mapping[str, str] = field(default_factory=dict)
    not_taken_sql: str | None = None
    written_for: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    look_tables: dict[str, list[str]] = field(default_factory=dict)
    read_timeout_minutes: float = 60.0

    def selects(self) -> dict[str, str]:
        """The SELECTs that an ingest reads, by file."""
        return {"stays.sql": self.stays_sql, "observations.sql": self.observations_sql, **self.optional_sql}

    def relations(self) -> Iterator[tuple[str, str, list[str]]]:
        """Schema, table and columns of everything the SELECTs read; source.yaml may qualify a table with its schema."""
        yield from self._placed(self.tables)

    def _placed(self, tables: dict[str, list[str]]) -> Iterator[tuple[str, str, list[str]]]:
        for name, columns in tables.items():
            *schema, table = name.split(".")
            yield self.schemas[schema[0] if schema else "schema"], table, columns

    @property
    def earliest_begin(self) -> datetime:
        """A stay that begins earlier, in the times as they are read, cannot be."""
        return datetime.combine(self.first_day, time(), UTC) + timedelta(days=self.shift_days)

    def on(self, engine: Engine) -> "Adapter":
        """The adapter in the database of `engine`: its schemas as published there, and the SELECTs that are written for it
        where the folder has such."""
        kind = engines.of(engine)
        written = next((self.written_for[name] for name in kind.names if name in self.written_for), {})
        return replace(
            self,
            schemas={name: kind.published_schema(schema, engine.url) for name, schema in self.schemas.items()},
            stays_sql=written.get("stays.sql", self.stays_sql),
            observations_sql=written.get("observations.sql", self.observations_sql),
            not_taken_sql=written.get("not_taken.sql", self.not_taken_sql),
            optional_sql={file: written.get(file, select) for file, select in self.optional_sql.items()},
        )

    def grants(self, role: str, dialect: Dialect) -> list[str]:
        """Statements that let `role` select what the SELECTs and `source check` read, and nothing else, as that database
        spells them.

        Raises ForecastError for a database without users, and for one whose grants are not known here.
        """
        relations = [*self.relations(), *self._placed(self.look_tables)]
        return engines.named(dialect.name).grants(role, relations, dialect)

    def line_of(self, variable: str, unit: str) -> MappedVariable | None:
        """The line of the map for a variable in a unit: the exact unit before any unit, and the line for all variables only
        for a variable without a line."""
        lines = self._lines
        if (line := lines.get((variable, unit)) or lines.get((variable, "*"))) is None and variable not in self._named:
            line = lines.get(("*", "*"))
        return line

    @cached_property
    def _lines(self) -> dict[tuple[str, str], MappedVariable]:
        return {(line.variable, line.unit): line for line in self.concept_map}

    @cached_property
    def _named(self) -> set[str]:
        return {line.variable for line in self.concept_map}

    def items(self) -> list[int]:
        """The numbers that variables of the map begin with, for SELECTs that filter a large table by item."""
        numbers = (re.match(r"\d+", line.variable) for line in self.concept_map)
        return sorted({int(number[0]) for number in numbers if number})

    def delays(self) -> dict[int, float]:
        """Hours until a value is known, by the number of its variable, where the map says so."""
        return {int(line.variable): line.delay_hours for line in self.concept_map if line.delay_hours is not None}


def adapter_names() -> list[str]:
    """All sources of this installation, by the name of their folder."""
    return sorted(path.parent.name for path in _FOLDER.glob("*/source.yaml"))


def folder_of(name: str) -> Path:
    """Where the files of an adapter are, if there is one of that name."""
    return _FOLDER / name


def load_adapter(name: str) -> Adapter:
    """Read and check the folder of a source; raises ContractError with the line to correct."""
    folder = folder_of(name)
    if not (folder / "source.yaml").is_file():
        raise ContractError(f"There is no source called {name!r}; known are {', '.join(adapter_names())}.")
    return _read_folder(folder)


@cache
def _read_folder(folder: Path) -> Adapter:
    promises = yaml.safe_load((folder / "source.yaml").read_text())
    schemas, dialects = promises.get("schemas") or dict(_ONE_SCHEMA), promises.get("dialects", ["postgresql"])
    optional = {file: _read_select(folder / file, schemas) for file in OPTIONAL_SELECTS if (folder / file).is_file()}
    if promises.get("units") and "beds.sql" in optional:
        raise ContractError(f"{folder.name} gives beds twice: in source.yaml under `units`, and in beds.sql. Keep one.")
    written_for = _read_written_for(folder, schemas, dialects)
    return Adapter(
        name=folder.name,
        title=promises["title"],
        licence=promises["licence"],
        ends_at=promises["ends_at"],
        sampling=Sampling(
            float(promises.get("delayed_entry_hours", 0)), float(promises.get("data_hours", float("inf")))
        ),
        availability=promises["availability"],
        dialects=tuple(dict.fromkeys([*dialects, *written_for])),
        tables=promises["tables"],
        units=_read_beds(folder.name, promises.get("units") or {}),
        stays_sql=_read_select(folder / "stays.sql", schemas),
        observations_sql=_read_select(folder / "observations.sql", schemas),
        concept_map=_read_concept_map(folder / "concept_map.csv"),
        schemas=schemas,
        local_times=bool(promises.get("local_times", False)),
        shift_days=int(promises.get("shift_days", 0)),
        first_day=promises.get("first_day", FIRST_DAY),
        icu_concepts=tuple(map(int, promises.get("icu_concepts", ()))),
        optional_sql=optional,
        not_taken_sql=looks.read_text() if (looks := folder / "not_taken.sql").is_file() else None,
        written_for=written_for,
        look_tables=promises.get("look_tables") or {},
    )


def _read_beds(source: str, units: Mapping[str, Any]) -> dict[str, Beds]:
    """Of each unit in source.yaml: a number of beds, null, or `{beds, staffed}`."""
    read = {}
    for unit, given in units.items():
        try:
            found = read[str(unit)] = Beds(**given) if isinstance(given, dict) else Beds(given)
        except TypeError:
            found = Beds(-1)
        numbers = [n for n in found if n is not None]
        if not all(type(n) is int and n >= 0 for n in numbers) or numbers != sorted(numbers, reverse=True):
            raise ContractError(
                f"{source}/source.yaml: the beds of {unit} must be a whole number, null, or {{beds, staffed}} with no more "
                "staffed than beds, and none below 0."
            )
    return read


def _read_written_for(folder: Path, schemas: Mapping[str, str], dialects: list[str]) -> dict[str, dict[str, str]]:
    """Files such as stays.mysql.sql; a dialect that source.yaml does not name needs one for each SELECT of the folder."""
    plain = {path.name for path in folder.glob("*.sql") if path.name.count(".") == 1}
    found: dict[str, dict[str, str]] = {}
    for path in sorted(folder.glob("*.*.sql")):
        name, dialect, _ = path.name.split(".")
        if f"{name}.sql" not in plain:
            raise ContractError(f"{folder.name} has {path.name} and no {name}.sql, whose place it would take.")
        read = Path.read_text if name == "not_taken" else lambda file: _read_select(file, schemas)
        found.setdefault(dialect, {})[f"{name}.sql"] = read(path)
    for dialect, selects in found.items():
        if dialect not in dialects and (missing := sorted(plain - {"not_taken.sql"} - set(selects))):
            lacking = ", ".join(file.replace(".sql", f".{dialect}.sql") for file in missing)
            raise ContractError(
                f"{folder.name} has SELECTs for {dialect}, but no {lacking}; `icu-forecast source translate` writes them."
            )
    return found


def _read_select(path: Path, schemas: Mapping[str, str]) -> str:
    sql = path.read_text()
    for needed in (":since", ":until"):
        if needed not in sql:
            raise ContractError(
                f"{path.parent.name}/{path.name} needs {needed}; a read is bounded by what was known when."
            )
    if not any(f"{{{name}}}." in sql for name in schemas):
        raise ContractError(
            f"{path.parent.name}/{path.name} needs a schema before its tables: {{{'}, {'.join(schemas)}}}."
        )
    return sql


def _read_concept_map(path: Path) -> tuple[MappedVariable, ...]:
    rows, seen = [], set()
    with path.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            place = f"{path.parent.name}/concept_map.csv, line {number}"
            concept = row["concept"] or None
            if concept and concept not in BY_NAME:
                raise ContractError(f"{place}: {concept!r} is not a concept of rnn_core/contracts/concepts.py.")
            if (key := (row["variable"], row["unit"])) in seen:
                raise ContractError(f"{place}: variable and unit occur twice.")
            seen.add(key)
            try:
                scale, offset = float(row["scale"] or 1), float(row["offset"] or 0)
                delay = float(row["delay_hours"]) if row.get("delay_hours") else None
            except ValueError:
                raise ContractError(f"{place}: scale, offset and delay_hours must be numbers.") from None
            rows.append(MappedVariable(row["variable"], row["unit"], concept, scale, offset, delay))
    return tuple(rows)
