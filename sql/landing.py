"""One batch from a source into the canonical tables: land as text, cast and map, check, then take over in one transaction."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Connection, Engine, text

from rnn_core.concepts import CONCEPTS
from rnn_core.errors import SourceError
from sql import quality
from sql.adapter import Adapter, read_select
from sql.copy import copy_arrow
from sql.schema import landing_observation, landing_stay

# Earlier than any record, later than PostgreSQL's and Python's own limits.
BEGINNING = datetime.fromisoformat("1800-01-01T00:00:00+00:00")
OVERLAP = timedelta(hours=48)

# A first load hashes millions of rows; with the default of 4 MB that goes through the disk.
_ROOM_TO_SORT = "set local work_mem = '256MB'"

Progress = Callable[[str], None]


@dataclass
class Batch:
    """A batch on its way; the tables it owns in `landing` are dropped with it."""

    batch_id: int
    source: str
    as_of: datetime
    since: datetime
    rows_landed: dict[str, int] = field(default_factory=dict)
    unmapped: Counter = field(default_factory=Counter)

    def landed(self, relation: str) -> str:
        return f"landing.{relation}_{self.batch_id}"

    def checked(self, relation: str) -> str:
        return f"landing.{relation}_{self.batch_id}_checked"


@dataclass(frozen=True)
class BatchCounts:
    batch_id: int
    stays_read: int
    stays_added: int
    observations_read: int
    observations_added: int
    quarantined: int
    unmapped: dict[str, int]
    watermark: datetime | None


def begin_batch(
    engine: Engine, source: str, as_of: datetime, *, reconcile: bool = False, overlap: timedelta = OVERLAP
) -> Batch:
    """Open a batch; what a dead one left behind is marked abandoned and cleared. Rows are read from the watermark less
    `overlap` on, or, to reconcile, from the beginning."""
    with engine.begin() as connection:
        dead = connection.execute(
            text(
                "update icu.batch set status = 'abandoned' where source = :source and status = 'running' returning batch_id"
            ),
            {"source": source},
        ).scalars()
        for batch_id in dead:
            _drop_tables(connection, batch_id)
        watermark = read_watermark(connection, source)
        since = BEGINNING if reconcile or watermark is None else watermark - overlap
        batch_id = connection.execute(
            text(
                "insert into icu.batch (source, as_of, read_since) values (:source, :as_of, :since) returning batch_id"
            ),
            {"source": source, "as_of": as_of, "since": since},
        ).scalar_one()
    return Batch(batch_id, source, as_of, since)


def read_watermark(connection: Connection, source: str) -> datetime | None:
    """Greatest available_at that was ever taken over from `source`."""
    query = text("select max(watermark) from icu.batch where source = :source and status = 'done'")
    return connection.execute(query, {"source": source}).scalar()


def fail_batch(engine: Engine, batch: Batch, error: str) -> None:
    """Mark the batch failed with its sentence and clear its landing tables."""
    with engine.begin() as connection:
        _drop_tables(connection, batch.batch_id)
        connection.execute(
            text("update icu.batch set status = 'failed', error = :error where batch_id = :id"),
            {"error": error, "id": batch.batch_id},
        )


def land(
    engine: Engine, batch: Batch, adapter: Adapter, source_engine: Engine, schema: str, progress: Progress
) -> None:
    """Copy what became available into this batch's landing tables and commit: Great Expectations reads committed rows."""
    for relation, select, template in (
        ("stay", adapter.stays_sql, landing_stay),
        ("observation", adapter.observations_sql, landing_observation),
    ):
        columns = [c.name for c in template.columns if c.name not in ("batch_id", "row_id")]
        batches = read_select(adapter, select, source_engine, schema, batch.since, batch.as_of)
        if relation == "observation":
            batches = _without_unmapped(batches, adapter, batch.unmapped)
        with engine.begin() as connection:
            target = batch.landed(relation)
            connection.exec_driver_sql(f"create unlogged table {target} (like {template.fullname} including identity)")
            connection.exec_driver_sql(f"alter table {target} alter batch_id set default {batch.batch_id}")
            rows = _with_typed_times(connection, target, _as_text(batches, columns))
            batch.rows_landed[relation] = copy_arrow(connection, target, _reporting(rows, relation, progress))


def _as_text(batches: Iterator[pa.RecordBatch], columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Every column but times as text, so that a bad value lands instead of breaking the copy; the copy writes times."""
    for rows in batches:
        if missing := [name for name in columns if name not in rows.schema.names]:
            raise SourceError(
                f"The adapter's SELECT gives no column {', '.join(missing)}; see docs/your-own-database.md."
            )
        arrays = [rows.column(name) for name in columns]
        texts = [a if pa.types.is_timestamp(a.type) else a.cast(pa.string()) for a in arrays]
        yield pa.RecordBatch.from_arrays(texts, columns)


def _with_typed_times(
    connection: Connection, target: str, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Times that the source itself types land typed: they cannot be malformed, and text would be parsed twice more."""
    first = next(batches, None)
    if first is None:
        return
    for column in first.schema:
        if pa.types.is_timestamp(column.type):
            connection.exec_driver_sql(
                f"alter table {target} alter {column.name} type timestamptz using {column.name}::timestamptz"
            )
    yield first
    yield from batches


def _without_unmapped(
    batches: Iterator[pa.RecordBatch], adapter: Adapter, unmapped: Counter
) -> Iterator[pa.RecordBatch]:
    """Count, and leave out, variables that the map knows and does not use; `*` without a concept leaves out all others."""
    concepts: dict[str, set[str | None]] = {}
    for line in adapter.concept_map:
        concepts.setdefault(line.variable, set()).add(line.concept)
    unused = pa.array([v for v, found in concepts.items() if found == {None} and v != "*"], pa.string())
    everything_else = concepts.pop("*", None) == {None}
    known = pa.array(list(concepts), pa.string())
    for rows in batches:
        variable = rows.column("variable").cast(pa.string())
        drop = pc.is_in(variable, value_set=unused)
        if everything_else:
            drop = pc.or_(drop, pc.invert(pc.is_in(variable, value_set=known)))
        for entry in pc.value_counts(variable.filter(drop)).to_pylist():
            unmapped[entry["values"] or ""] += entry["counts"]
        yield rows.filter(pc.invert(drop))


def _reporting(batches: Iterator[pa.RecordBatch], relation: str, progress: Progress) -> Iterator[pa.RecordBatch]:
    done, told = 0, 0
    for rows in batches:
        yield rows
        done += rows.num_rows
        if done - told >= 500_000:
            told = done
            progress(f"{done:,} {relation} rows landed")


def cast_and_map(engine: Engine, batch: Batch, adapter: Adapter) -> None:
    """Build the typed tables that the checks read, one row per landed row, and commit."""
    with engine.begin() as connection:
        connection.exec_driver_sql(_ROOM_TO_SORT)
        connection.execute(text(_cast_stays(connection, batch)), {"source": batch.source})
        connection.execute(
            text(
                _CAST_OBSERVATIONS.format(
                    landed=batch.landed("observation"),
                    checked=batch.checked("observation"),
                    stays=batch.checked("stay"),
                    times=", ".join(_casts(connection, batch, "observation", ("observed_at", "available_at"), "timestamptz")),
                )
            ),
            {
                "source": batch.source,
                "map": json.dumps([
                    {"variable": m.variable, "unit": m.unit, "concept": m.concept, "scale": m.scale, "shift": m.offset}
                    for m in adapter.concept_map
                ]),
                "concepts": json.dumps([{"concept": c.name, "low": c.low, "high": c.high} for c in CONCEPTS]),
            },
        )  # fmt: skip
        connection.exec_driver_sql(_RANK_DUPLICATES.format(checked=batch.checked("observation")))
        for relation in ("stay", "observation"):
            connection.exec_driver_sql(f"analyze {batch.checked(relation)}")


def check(engine: Engine, batch: Batch) -> dict[str, list[quality.CheckOutcome]]:
    """Validate both relations; the counts are kept even where a critical check then stops the batch (QualityError)."""
    outcomes = {r: quality.validate(engine, r, batch.checked(r)) for r in ("stay", "observation")}
    with engine.begin() as connection:
        for relation, found in outcomes.items():
            quality.record(
                connection, found, suite=relation, source=batch.source, batch_id=batch.batch_id,
                rows_checked=batch.rows_landed[relation],
            )  # fmt: skip
    for found in outcomes.values():
        quality.require_no_critical(found)
    return outcomes


def take_over(
    engine: Engine, batch: Batch, outcomes: dict[str, list[quality.CheckOutcome]], beds: dict[str, int | None]
) -> BatchCounts:
    """The one transaction: quarantine, append, move the watermark, clear the landing. All of it or nothing."""
    with engine.begin() as connection:
        connection.exec_driver_sql(_ROOM_TO_SORT)
        values = {"source": batch.source, "batch_id": batch.batch_id}
        rejected = _quarantine(connection, batch, "stay", outcomes["stay"])
        stays = connection.execute(text(_APPEND_STAYS.format(checked=batch.checked("stay"))), values).rowcount
        if rejected:
            outcomes["observation"] = _without_rejected_stays(connection, batch, outcomes["observation"])
        rejected += _quarantine(connection, batch, "observation", outcomes["observation"])
        observations = connection.execute(
            text(_APPEND_OBSERVATIONS.format(checked=batch.checked("observation"))), values
        ).rowcount
        connection.execute(
            text(
                "insert into icu.unit (source, unit, beds) select distinct source, unit, (cast(:beds as jsonb) ->> unit)::int"
                " from icu.stay_version where source = :source and unit is not null"
                " union select :source, name, beds::int from jsonb_each_text(cast(:beds as jsonb)) b (name, beds)"
                " on conflict (source, unit) do update set beds = coalesce(excluded.beds, icu.unit.beds)"
            ),
            {"source": batch.source, "beds": json.dumps(beds)},
        )
        counts = {
            "stays_read": batch.rows_landed["stay"], "stays_added": stays,
            "observations_read": batch.rows_landed["observation"], "observations_added": observations,
            "quarantined": rejected, "unmapped": json.dumps(dict(batch.unmapped)),
        }  # fmt: skip
        watermark = connection.execute(
            text(
                "update icu.batch set status = 'done', ingested_at = clock_timestamp(), stays_read = :stays_read,"
                " stays_added = :stays_added, observations_read = :observations_read,"
                " observations_added = :observations_added, quarantined = :quarantined,"
                " unmapped = cast(:unmapped as jsonb), watermark = ("
                "   select max(known) from (select max(available_at) from " + batch.checked("stay") +
                "   union all select max(available_at) from " + batch.checked("observation") +
                "   union all select max(watermark) from icu.batch where source = :source and status = 'done') k (known))"
                " where batch_id = :batch_id returning watermark"
            ),
            {**values, **counts},
        ).scalar()  # fmt: skip
        _drop_tables(connection, batch.batch_id)
    return BatchCounts(
        batch.batch_id, batch.rows_landed["stay"], stays, batch.rows_landed["observation"], observations, rejected,
        dict(batch.unmapped), watermark,
    )  # fmt: skip


def _quarantine(connection: Connection, batch: Batch, relation: str, outcomes: list[quality.CheckOutcome]) -> int:
    return quality.quarantine(
        connection, outcomes, relation=relation, checked=batch.checked(relation), landed=batch.landed(relation),
        source=batch.source, batch_id=batch.batch_id,
    )  # fmt: skip


def _without_rejected_stays(
    connection: Connection, batch: Batch, outcomes: list[quality.CheckOutcome]
) -> list[quality.CheckOutcome]:
    """A stay rejected in this very batch is known to no observation; the check that says so ran before it was."""
    orphans = connection.execute(
        text(
            f"update {batch.checked('observation')} as o set known_stay = false where known_stay and not exists ("
            " select 1 from icu.stay_version v where v.source = o.source and v.stay_id = o.stay_id)"
        )
    ).rowcount
    return [replace(o, passed=o.passed and not (orphans and o.check.name == "unknown_stay")) for o in outcomes]


def _drop_tables(connection: Connection, batch_id: int) -> None:
    for relation in ("stay", "observation"):
        connection.exec_driver_sql(
            f"drop table if exists landing.{relation}_{batch_id}_checked, landing.{relation}_{batch_id}"
        )


def _casts(connection: Connection, batch: Batch, relation: str, columns: tuple[str, ...], kind: str) -> list[str]:
    """Expressions that give each landed column in the type `kind`, null where it cannot be read."""
    typed = _typed_columns(connection, batch, relation)
    return [
        f"l.{c}" if c in typed else f"case when pg_input_is_valid(l.{c}, '{kind}') then l.{c}::{kind} end as {c}"
        for c in columns
    ]


def _unreadable(connection: Connection, batch: Batch, relation: str, columns: tuple[str, ...], kind: str) -> str:
    """An expression that counts the columns of a row that hold something, but nothing readable."""
    typed = _typed_columns(connection, batch, relation)
    untyped = [c for c in columns if c not in typed]
    return " + ".join(f"(l.{c} is not null and not pg_input_is_valid(l.{c}, '{kind}'))::int" for c in untyped) or "0"


def _typed_columns(connection: Connection, batch: Batch, relation: str) -> set[str]:
    query = text(
        "select attname from pg_attribute where attrelid = cast(:relation as regclass)"
        " and attnum > 0 and atttypid = 'timestamptz'::regtype"
    )
    return set(connection.execute(query, {"relation": batch.landed(relation)}).scalars())


def _cast_stays(connection: Connection, batch: Batch) -> str:
    columns = [
        *_STAY_TEXTS,
        *_casts(connection, batch, "stay", _STAY_TIMES, "timestamptz"),
        *_casts(connection, batch, "stay", _STAY_NUMBERS, "float8"),
        _unreadable(connection, batch, "stay", _STAY_TIMES, "timestamptz") + " as unreadable_times",
        _unreadable(connection, batch, "stay", _STAY_NUMBERS, "float8") + " as unreadable_numbers",
        "md5((to_jsonb(l) - 'row_id' - 'batch_id')::text) as content_hash",
    ]
    return (
        f"create unlogged table {batch.checked('stay')} as select row_id, cast(:source as text) as source,"
        f" {', '.join(columns)} from {batch.landed('stay')} l"
    )


_STAY_TIMES = ("available_at", "intime", "outtime", "hospital_intime", "hospital_outtime", "died_at")
_STAY_NUMBERS = ("end_precision_hours", "age_years", "height_cm", "weight_kg")
_STAY_TEXTS = ("stay_id", "patient_id", "unit", "unit_type", "outcome", "ends_at", "sex", "admission_type")
_STAY_COLUMNS = _STAY_TEXTS + _STAY_TIMES + _STAY_NUMBERS

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
            l.value::float8 * coalesce(this.scale, any_unit.scale, 1) + coalesce(this.shift, any_unit.shift, 0)
        end as number,
        l.value is null or btrim(l.value) = '' as value_is_missing,
        known.stay_id is not null as known_stay
    from {landed} l
    left join rule this on this.variable = l.variable and this.unit = l.unit
    left join rule any_unit on any_unit.variable = l.variable and any_unit.unit = '*'
    left join (select distinct variable from map) named on named.variable = l.variable
    left join known on known.stay_id = l.stay_id
)
select *, cast(:source as text) as source, 1 as place,
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

_APPEND_STAYS = (
    f"insert into icu.stay_version (source, batch_id, {', '.join(_STAY_COLUMNS)})"
    f" select source, :batch_id, {', '.join(_STAY_COLUMNS)}"
    " from {checked} on conflict do nothing"
)

# What is left of the batch has distinct keys, and no other ingest of the source is at work, so no conflict is possible;
# "on conflict" would take twice as long, since it writes each row in two steps.
_APPEND_OBSERVATIONS = """
insert into icu.observation (source, stay_id, concept, observed_at, available_at, value, batch_id)
select c.source, c.stay_id, c.concept, c.observed_at, c.available_at, c.number, :batch_id
from {checked} c
where not exists (
    select 1 from icu.observation o
    where o.source = c.source and o.stay_id = c.stay_id and o.concept = c.concept
        and o.observed_at = c.observed_at and o.available_at = c.available_at
)
"""
