"""Casts a batch's landed text into the typed tables that the checks read: times, numbers, concepts, duplicates ranked."""

import json
from datetime import datetime

from sqlalchemy import Connection, text

from rnn_core.concepts import CONCEPTS
from sql.adapter import MappedVariable

_STAY_TIMES = ("available_at", "intime", "outtime", "hospital_intime", "hospital_outtime", "died_at")
_STAY_NUMBERS = ("end_precision_hours", "age_years", "height_cm", "weight_kg")
_STAY_TEXTS = ("stay_id", "patient_id", "unit", "unit_type", "outcome", "ends_at", "sex", "admission_type")
STAY_COLUMNS = _STAY_TEXTS + _STAY_TIMES + _STAY_NUMBERS


def cast_stays(connection: Connection, *, source: str, as_of: datetime, landed: str, checked: str) -> None:
    """Create `checked` with a row per row of `landed`; what cannot be read is null and counted in the row."""
    typed = _typed_columns(connection, landed)
    columns = [
        *_STAY_TEXTS,
        *_casts(typed, _STAY_TIMES, "timestamptz"),
        *_casts(typed, _STAY_NUMBERS, "float8"),
        _unreadable(typed, _STAY_TIMES, "timestamptz") + " as unreadable_times",
        _unreadable(typed, _STAY_NUMBERS, "float8") + " as unreadable_numbers",
        "md5((to_jsonb(l) - 'row_id' - 'batch_id')::text) as content_hash",
    ]
    statement = (
        f"create unlogged table {checked} as select row_id, cast(:source as text) as source,"
        f" cast(:as_of as timestamptz) as as_of, {', '.join(columns)} from {landed} l"
    )
    connection.execute(text(statement), {"source": source, "as_of": as_of})
    connection.exec_driver_sql(f"analyze {checked}")


def cast_observations(
    connection: Connection, *, source: str, as_of: datetime, landed: str, checked: str, stays: str,
    concept_map: tuple[MappedVariable, ...],
) -> None:  # fmt: skip
    """Create `checked` with a row per row of `landed`: the value in the concept's unit, and what the checks ask about it.

    stays: the checked stays of the same batch, which count as known beside those taken over before.
    """
    times = _casts(_typed_columns(connection, landed), ("observed_at", "available_at"), "timestamptz")
    values = {
        "source": source,
        "as_of": as_of,
        "map": json.dumps([
            {"variable": m.variable, "unit": m.unit, "concept": m.concept, "scale": m.scale, "shift": m.offset}
            for m in concept_map
        ]),
        "concepts": json.dumps([{"concept": c.name, "low": c.low, "high": c.high} for c in CONCEPTS]),
    }  # fmt: skip
    connection.execute(
        text(_CAST_OBSERVATIONS.format(landed=landed, checked=checked, stays=stays, times=", ".join(times))), values
    )
    connection.exec_driver_sql(f"analyze {checked}")
    connection.exec_driver_sql(_RANK_DUPLICATES.format(checked=checked))


def _typed_columns(connection: Connection, landed: str) -> set[str]:
    """Columns that landed as times, not as text."""
    query = text(
        "select attname from pg_attribute where attrelid = cast(:relation as regclass)"
        " and attnum > 0 and atttypid = 'timestamptz'::regtype"
    )
    return set(connection.execute(query, {"relation": landed}).scalars())


def _casts(typed: set[str], columns: tuple[str, ...], kind: str) -> list[str]:
    """Expressions that give each landed column in the type `kind`, null where it cannot be read."""
    return [
        f"l.{c}" if c in typed else f"case when pg_input_is_valid(l.{c}, '{kind}') then l.{c}::{kind} end as {c}"
        for c in columns
    ]


def _unreadable(typed: set[str], columns: tuple[str, ...], kind: str) -> str:
    """An expression that counts the columns of a row that hold something, but nothing readable."""
    untyped = [c for c in columns if c not in typed]
    return " + ".join(f"(l.{c} is not null and not pg_input_is_valid(l.{c}, '{kind}'))::int" for c in untyped) or "0"


# A number so large or small that the conversion would overflow is no number: one such value must not stop the batch.
# A line for the very unit is preferred over one for any unit (*).
_CAST_OBSERVATIONS = """
create unlogged table {checked} as
with map as materialized (
    select * from jsonb_to_recordset(cast(:map as jsonb))
        as m (variable text, unit text, concept text, scale float8, shift float8)
), range as materialized (
    select * from jsonb_to_recordset(cast(:concepts as jsonb)) as c (concept text, low float8, high float8)
), rule as materialized (
    select map.*, range.low, range.high from map left join range using (concept)
), known as materialized (
    select stay_id from icu.stay_version where source = :source
    union select stay_id from {stays} where intime is not null and available_at is not null and patient_id <> ''
), cast_row as (
    select l.row_id, l.stay_id, l.variable, l.unit,
        coalesce(this.concept, any_unit.concept) as concept,
        named.variable is not null as known_variable,
        coalesce(this.low, any_unit.low) as low, coalesce(this.high, any_unit.high) as high,
        {times},
        case when pg_input_is_valid(l.value, 'float8') then
            case when l.value::float8 = 0 or abs(l.value::float8) between 1e-100 and 1e100
                or not abs(l.value::float8) < 'Infinity' then
                l.value::float8 * coalesce(this.scale, any_unit.scale, 1) + coalesce(this.shift, any_unit.shift, 0)
            end
        end as number,
        l.value is null or btrim(l.value) = '' as value_is_missing,
        known.stay_id is not null as known_stay
    from {landed} l
    left join rule this on this.variable = l.variable and this.unit = l.unit
    left join rule any_unit on any_unit.variable = l.variable and any_unit.unit = '*'
    left join (select distinct variable from map) named on named.variable = l.variable
    left join known on known.stay_id = l.stay_id
)
select *, cast(:source as text) as source, cast(:as_of as timestamptz) as as_of, 1 as place,
    hash_record_extended((stay_id, concept, observed_at, available_at), 0) as key_hash
from cast_row
"""

# Rank the rows that share a key, smallest value first. Only rows that are sound otherwise take part, so that a wrong
# row never pushes out a right one. The aggregate over hashes finds the few keys that need a sort.
_RANK_DUPLICATES = """
with sound as (
    select row_id, key_hash, stay_id, concept, observed_at, available_at, number from {checked}
    where concept is not null and number between low and high and observed_at <= available_at and known_stay
), shared as (
    select key_hash from sound group by key_hash having count(*) > 1
), ranked as (
    select row_id, row_number() over (
        partition by stay_id, concept, observed_at, available_at order by number, row_id
    ) as place
    from sound where key_hash in (select key_hash from shared)
)
update {checked} as c set place = ranked.place from ranked where ranked.row_id = c.row_id and ranked.place > 1
"""
