"""Casts a batch's landed text into the typed tables that the checks read: times, numbers, concepts, duplicates ranked."""

import json
from datetime import datetime

from sqlalchemy import Connection, text

from rnn_core.contracts.concepts import CONCEPTS
from rnn_core.contracts.thresholds import EARLY_VALUE_DAYS
from sql.engines.cells import FIRST_TIME, LAST_TIME, MARK
from sql.intake.adapter import MappedVariable
from sql.intake.relations import OBSERVATION, Relation

# A batch's table lives for seconds and is analysed when written; autovacuum would only delay dropping it.
OWN_CARE = "with (autovacuum_enabled = off)"


def cast_rows(
    connection: Connection,
    relation: Relation,
    *,
    landed: str,
    checked: str,
    more: tuple[str, ...] = (),
    **constants: str | datetime,
) -> None:
    """Create `checked` with a row per row of `landed`; what cannot be read is null and counted in the row.

    `row_id` is the place of the landed row (its ctid): a batch's landing tables are written once and never changed.
    more: expressions of further columns. constants: columns with one value, which those may name.
    """
    typed = _typed_columns(connection, landed)
    kinds = {name: "text" if isinstance(value, str) else "timestamptz" for name, value in constants.items()}
    columns = [
        "l.ctid as row_id",
        *(f"cast(:{name} as {kind}) as {name}" for name, kind in kinds.items()),
        *relation.texts,
        *_casts(typed, relation.times, "timestamptz"),
        *_casts(typed, relation.numbers, "float8"),
        _unreadable(typed, relation.times, "timestamptz") + " as unreadable_times",
        _unreadable(typed, relation.numbers, "float8") + " as unreadable_numbers",
        _marked(relation.texts) + " as unreadable_text",
        "md5(to_jsonb(l)::text) as content_hash",
        *more,
    ]
    statement = f"create unlogged table {checked} {OWN_CARE} as select {', '.join(columns)} from {landed} l"
    connection.execute(text(statement), constants)
    connection.exec_driver_sql(f"analyze {checked}")


def cast_observations(
    connection: Connection,
    *,
    source: str,
    as_of: datetime,
    landed: str,
    checked: str,
    stays: str,
    concept_map: tuple[MappedVariable, ...],
    suspect: str,
) -> None:
    """Create `checked` with a row per row of `landed`: the value in the concept's unit and the columns the checks need.

    stays: the checked stays of the same batch, which count as known like those accepted earlier.
    suspect: the SQL condition that a row fails some check of the suite. The column of that name is true for those rows
    and indexed, so that each check reads a few rows instead of the whole batch.
    """
    meanings = {
        "map": json.dumps(
            [
                {"variable": m.variable, "unit": m.unit, "concept": m.concept, "scale": m.scale, "shift": m.offset}
                for m in concept_map
            ]
        ),
        "concepts": json.dumps([{"concept": c.name, "low": c.low, "high": c.high} for c in CONCEPTS]),
    }
    times = ", ".join(_casts(_typed_columns(connection, landed), OBSERVATION.times, "timestamptz"))
    names = {"landed": landed, "checked": checked, "stays": stays, "times": times, "suspect": suspect, "care": OWN_CARE}
    names |= {"marked": _MARKED, "early_value_days": EARLY_VALUE_DAYS}
    connection.execute(text(_MEANINGS.format(**names)), meanings)
    connection.execute(text(_KNOWN_STAYS.format(**names)), {"source": source})
    connection.exec_driver_sql("analyze meaning, known_stay")
    connection.execute(text(_CAST_OBSERVATIONS.format(**names)), {"as_of": as_of})
    connection.exec_driver_sql(f"analyze {checked}")
    _rank_duplicates(connection, checked)
    connection.execute(text(_FIND_TAKEN.format(**names)), {"source": source})
    connection.exec_driver_sql(f"create index on {checked} (row_id) where suspect")


def _rank_duplicates(connection: Connection, checked: str) -> None:
    connection.exec_driver_sql("set local enable_hashagg = off")
    connection.exec_driver_sql(_REPEATED.format(checked=checked))
    connection.exec_driver_sql("set local enable_hashagg = on")
    connection.exec_driver_sql("analyze repeated")
    connection.exec_driver_sql(_PLACE_REPEATED.format(checked=checked))


def _typed_columns(connection: Connection, landed: str) -> set[str]:
    """Columns that landed as times, not as text."""
    query = text(
        "select attname from pg_attribute where attrelid = cast(:relation as regclass)"
        " and attnum > 0 and atttypid = 'timestamptz'::regtype"
    )
    return set(connection.execute(query, {"relation": landed}).scalars())


def _casts(typed: set[str], columns: tuple[str, ...], kind: str) -> list[str]:
    """Expressions that cast each landed column to the type `kind`; null if it cannot be read."""
    return [f"{_cast(typed, c, kind)} as {c}" for c in columns]


def _cast(typed: set[str], column: str, kind: str) -> str:
    if kind != "timestamptz":
        return f"case when pg_input_is_valid(l.{column}, '{kind}') then l.{column}::{kind} end"
    if column in typed:
        return f"case when l.{column} {_USABLE} then l.{column} end"
    # A time has a digit: PostgreSQL also reads `now`, `today` and `infinity`.
    time = f"case when pg_input_is_valid(l.{column}, '{kind}') and l.{column} ~ '[0-9]' then l.{column}::{kind} end"
    return f"case when ({time}) {_USABLE} then l.{column}::{kind} end"


_USABLE = f"between timestamptz '{FIRST_TIME:%Y-%m-%d} 00:00+00' and timestamptz '{LAST_TIME:%Y-%m-%d} 00:00+00'"


def _unreadable(typed: set[str], columns: tuple[str, ...], kind: str) -> str:
    """An expression that counts the non-null columns of a row that cannot be read."""
    return " + ".join(f"(l.{c} is not null and ({_cast(typed, c, kind)}) is null)::int" for c in columns)


_MARKED = f"like '%{MARK}%'"


def _marked(columns: tuple[str, ...]) -> str:
    """An expression that is true for a row with a text that could not be read as it is."""
    return " or ".join(f"coalesce(l.{c}, '') {_MARKED}" for c in columns)


# Looked up once per landed variable and unit; a line for the exact unit wins over one for any unit (*).
_MEANINGS = """
create temporary table meaning on commit drop as
with map as materialized (
    select * from jsonb_to_recordset(cast(:map as jsonb))
        as m (variable text, unit text, concept text, scale float8, shift float8)
), range as materialized (
    select * from jsonb_to_recordset(cast(:concepts as jsonb)) as c (concept text, low float8, high float8)
), rule as materialized (
    select map.*, range.low, range.high from map left join range using (concept)
)
select seen.variable, seen.unit, named.variable is not null as known_variable,
    case when this.variable is null then any_unit.concept else this.concept end as concept,
    coalesce(this.scale, any_unit.scale, 1) as scale, coalesce(this.shift, any_unit.shift, 0) as shift,
    coalesce(this.low, any_unit.low) as low, coalesce(this.high, any_unit.high) as high,
    coalesce(seen.variable, '') {marked} or coalesce(seen.unit, '') {marked} as unreadable_text
from (select distinct variable, unit from {landed}) seen
left join rule this on this.variable = seen.variable and this.unit = seen.unit
left join rule any_unit on any_unit.variable = seen.variable and any_unit.unit = '*'
left join (select distinct variable from map) named on named.variable = seen.variable
"""

# The stays that are accepted, and those of the batch that can be, with their earliest begin.
_KNOWN_STAYS = """
create temporary table known_stay on commit drop as
with landed as materialized (select distinct stay_id from {landed})
select stay_id, min(intime) as begins from (
    select stay_id, intime from icu.stay_version where source = :source and stay_id in (select stay_id from landed)
    union all
    select stay_id, intime from {stays}
    where intime is not null and available_at is not null and patient_id <> '' and not unreadable_text
) known group by stay_id
"""

# A number that would overflow in the conversion is treated as not a number: one such value must not stop the batch.
# The offsets keep the planner from casting a value at every use.
_CAST_OBSERVATIONS = """
create unlogged table {checked} {care} as
with cast_row as (
    select l.row_id, l.stay_id, l.variable is null or btrim(l.variable) = '' as variable_is_missing,
        coalesce(m.known_variable, false) as known_variable, m.concept, m.low, m.high, l.observed_at, l.available_at,
        case when l.number = 0 or abs(l.number) between 1e-100 and 1e100 or not abs(l.number) < 'Infinity'
            then l.number * m.scale + m.shift
        end as number,
        l.value_is_missing, k.stay_id is not null as known_stay,
        l.observed_at < k.begins - interval '{early_value_days} days' as long_before_stay,
        coalesce(m.unreadable_text, false) or k.stay_id is null and coalesce(l.stay_id, '') {marked} as unreadable_text,
        l.available_at > cast(:as_of as timestamptz) as after_slot, 1::smallint as place, null::float8 as taken_value
    from (
        select l.ctid as row_id, l.stay_id, l.variable, l.unit, {times},
            case when pg_input_is_valid(l.value, 'float8') then l.value::float8 end as number,
            l.value is null or btrim(l.value) = '' as value_is_missing
        from {landed} l offset 0
    ) l
    left join meaning m on m.variable = l.variable and m.unit is not distinct from l.unit
    left join known_stay k on k.stay_id = l.stay_id
    offset 0
)
select *, coalesce({suspect}, false) as suspect from cast_row
"""

# Rank the rows that share a key, smallest value first. Only otherwise valid rows compete, so that a wrong row never
# replaces a right one. Equal hashes identify the few rows to rank; a sort finds them faster than a hash table of all
# keys, and in parallel, which an update alone could not do.
_KEY_HASH = "hash_record_extended((stay_id, concept, observed_at, available_at), 0)"
_REPEATED = f"""
create temporary table repeated on commit drop as
select ctid as checked_row, row_number() over (
    partition by stay_id, concept, observed_at, available_at order by number, row_id
) as place
from {{checked}} where not suspect and {_KEY_HASH} in (
    select key_hash from (select {_KEY_HASH} as key_hash from {{checked}} where not suspect) keys
    group by key_hash having count(*) > 1
)
"""
_PLACE_REPEATED = """
update {checked} as c set place = repeated.place, suspect = true
from repeated where c.ctid = repeated.checked_row and repeated.place > 1
"""

# A separate statement over analysed tables, not a condition of the append: a statement that looks up each row in the table
# it fills takes hours when the planner believes that table is empty.
_FIND_TAKEN = """
update {checked} as c set taken_value = o.value, suspect = c.suspect or o.value is distinct from c.number
from icu.observation o
where o.source = :source and o.stay_id = c.stay_id and o.concept = c.concept
    and o.observed_at = c.observed_at and o.available_at = c.available_at
"""
