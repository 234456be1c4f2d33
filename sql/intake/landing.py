"""One batch from a source into the canonical tables: land as text, cast and map, check, then accept in one transaction."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Connection, Engine, text
from sqlalchemy.schema import AddConstraint, DropConstraint

from rnn_core.contracts.errors import SourceError
from sql.intake import casting, quality
from sql.intake.adapter import Adapter, Beds
from sql.intake.reading import BEGINNING, read
from sql.intake.relations import BEDS, OBSERVATION, PLANNED, RELATIONS, STAY, Relation, relations_of
from sql.intake.retention import purged_until
from sql.store.copy import copy_arrow
from sql.store.schema import observation
from sql.store.snapshot import begin_commit_of_ingest

OVERLAP = timedelta(hours=48)
_BETWEEN = "\x1f"

# A first load hashes millions of rows; with the default of 4 MB it would spill to disk.
# For a batch's own tables the planner only needs their size and rare values.
_ROOM_TO_SORT = (
    "set local work_mem = '256MB'; set local maintenance_work_mem = '256MB'; set local default_statistics_target = 20"
)

Progress = Callable[[str], None]


@dataclass
class Batch:
    """A batch in progress; its tables in `landing` are dropped at its end."""

    batch_id: int
    source: str
    as_of: datetime
    since: dict[str, datetime]
    rows_landed: dict[str, int] = field(default_factory=dict)
    unmapped: Counter = field(default_factory=Counter)

    @property
    def relations(self) -> tuple[Relation, ...]:
        """Those that have landed."""
        return tuple(relation for relation in RELATIONS if relation.name in self.rows_landed)

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
    beds_added: int = 0
    plans_added: int = 0


def begin_batch(
    engine: Engine,
    source: str,
    as_of: datetime,
    *,
    reconcile: bool = False,
    overlap: timedelta = OVERLAP,
    timezone: str = "UTC",
    adapter: str | None = None,
) -> Batch:
    """Open a batch; one that died before is marked abandoned and its tables are dropped.

    Each relation is read from its own watermark less `overlap`, so one that pauses while the other continues is read from
    where it stopped. To reconcile, and until something was accepted from it, from the beginning or from the last purge.
    timezone: the clock of the hospital, by which views know its day. adapter: the folder of sql/sources that reads it.
    """
    with engine.begin() as connection:
        dead = connection.execute(
            text(
                "update icu.batch set status = 'abandoned' where source = :source and status = 'running' returning batch_id"
            ),
            {"source": source},
        ).scalars()
        for batch_id in dead:
            _drop_tables(connection, batch_id)
        watermarks = connection.execute(text(_WATERMARKS), {"source": source}).one()
        beginning = purged_until(connection, source) or BEGINNING
        since = {
            relation: beginning if reconcile or watermark is None else watermark - overlap
            for relation, watermark in watermarks._mapping.items()
        }
        batch_id = connection.execute(
            text(
                "insert into icu.batch (source, as_of, read_since, timezone, adapter)"
                " values (:source, :as_of, :since, :timezone, :adapter) returning batch_id"
            ),
            {
                "source": source,
                "as_of": as_of,
                "since": min(since[STAY.name], since[OBSERVATION.name]),
                "timezone": timezone,
                "adapter": adapter,
            },
        ).scalar_one()
    return Batch(batch_id, source, as_of, since)


def read_watermark(connection: Connection, source: str) -> datetime | None:
    """Greatest available_at ever accepted from `source`: the data are known up to then."""
    return connection.execute(
        text(f"select greatest(stay, observation) from ({_WATERMARKS}) w"), {"source": source}
    ).scalar()


def fail_batch(engine: Engine, batch: Batch, error: str) -> None:
    """Mark the batch as failed with its sentence and drop its landing tables."""
    with engine.begin() as connection:
        _drop_tables(connection, batch.batch_id)
        connection.execute(
            text("update icu.batch set status = 'failed', error = :error where batch_id = :id"),
            {"error": error, "id": batch.batch_id},
        )


def land(engine: Engine, batch: Batch, adapter: Adapter, source_engine: Engine, progress: Progress) -> None:
    """Copy what became available into this batch's landing tables and commit: Great Expectations reads committed rows."""
    for relation in relations_of(adapter):
        rows = read(adapter, relation.file, source_engine, batch.since[relation.name], batch.as_of)
        if relation is OBSERVATION:
            rows = _without_unmapped(rows, adapter, batch.unmapped)
        with engine.begin() as connection:
            target = batch.landed(relation.name)
            connection.exec_driver_sql(
                f"create unlogged table {target} (like {relation.landing.fullname}) {casting.OWN_CARE}"
            )
            rows = _with_typed_times(connection, target, _as_text(rows, relation))
            n = copy_arrow(connection, target, _reporting(rows, relation.name, progress))
            if relation is OBSERVATION:
                n += _land_again(connection, batch)
        batch.rows_landed[relation.name] = n


def _land_again(connection: Connection, batch: Batch) -> int:
    """Land quarantined rows that wait for a stay of this batch; the source has just returned later ones again."""
    target, columns = batch.landed("observation"), OBSERVATION.columns
    waiting = _WAITING.format(stays=batch.landed("stay"))
    statement = text(
        f"insert into {target} ({', '.join(columns)}) select {', '.join(f'r.{c}' for c in columns)}"
        f" from quality.quarantine q, jsonb_populate_record(null::{target}, q.row) r where {waiting}"
    )
    until = min(batch.since["observation"], batch.as_of)
    return connection.execute(statement, {"source": batch.source, "until": until}).rowcount


def _as_text(batches: Iterator[pa.RecordBatch], relation: Relation) -> Iterator[pa.RecordBatch]:
    """Every column except times as text, so that a bad value lands instead of breaking the COPY."""
    columns = relation.columns
    for rows in batches:
        if missing := [name for name in columns if name not in rows.schema.names]:
            raise SourceError(
                f"{relation.file} of the adapter returns no column {', '.join(missing)}; see docs/your-own-database.md."
            )
        arrays = [rows.column(name) for name in columns]
        texts = [a if pa.types.is_timestamp(a.type) else a.cast(pa.string()) for a in arrays]
        yield pa.RecordBatch.from_arrays(texts, list(columns))


def _with_typed_times(
    connection: Connection, target: str, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Times that the source types land typed: they cannot be malformed, and text would be parsed twice more."""
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
    """Count and drop the rows whose line of the map has no concept; `*` without a concept drops all others."""
    concepts: dict[str, set[str | None]] = {}
    for line in adapter.concept_map:
        concepts.setdefault(line.variable, set()).add(line.concept)
    everything_else = concepts.pop("*", None) == {None}
    unused = pa.array([v for v, found in concepts.items() if found == {None}], pa.string())
    by_unit = pa.array([v for v, found in concepts.items() if None in found and len(found) > 1], pa.string())
    known = pa.array(list(concepts), pa.string())
    for rows in batches:
        variable = rows.column("variable").cast(pa.string())
        drop = pc.is_in(variable, value_set=unused)
        if everything_else:
            drop = pc.or_(drop, pc.invert(pc.is_in(variable, value_set=known)))
        depends = pc.is_in(variable, value_set=by_unit)
        if depends.true_count:
            unit = rows.column("unit").cast(pa.string()).filter(depends)
            drop = pc.replace_with_mask(drop, depends, _has_no_concept(adapter, variable.filter(depends), unit))
        for entry in pc.value_counts(variable.filter(drop)).to_pylist():
            unmapped[entry["values"] or ""] += entry["counts"]
        yield rows.filter(pc.invert(drop))


def _has_no_concept(adapter: Adapter, variable: pa.Array, unit: pa.Array) -> pa.Array:
    """Bool of each row: the line of its variable and unit has no concept."""
    pairs = pc.binary_join_element_wise(variable, pc.fill_null(unit, ""), _BETWEEN)
    lines = {pair: adapter.line_of(*pair.split(_BETWEEN, 1)) for pair in pairs.unique().to_pylist()}
    unused = [pair for pair, line in lines.items() if line is not None and line.concept is None]
    return pc.is_in(pairs, value_set=pa.array(unused, pa.string()))


def _reporting(batches: Iterator[pa.RecordBatch], relation: str, progress: Progress) -> Iterator[pa.RecordBatch]:
    done, reported = 0, 0
    for rows in batches:
        yield rows
        done += rows.num_rows
        if done - reported >= 500_000:
            reported = done
            progress(f"{done:,} {relation} rows landed")


def cast_and_map(engine: Engine, batch: Batch, adapter: Adapter) -> None:
    """Build the typed tables that the checks read, one row per landed row, and commit."""
    with engine.begin() as connection:
        connection.exec_driver_sql(_ROOM_TO_SORT)
        _cast(connection, batch, STAY, earliest_begin=adapter.earliest_begin)
        casting.cast_observations(
            connection,
            landed=batch.landed("observation"),
            checked=batch.checked("observation"),
            stays=batch.checked("stay"),
            concept_map=adapter.concept_map,
            suspect=quality.any_fault("observation"),
            source=batch.source,
            as_of=batch.as_of,
        )
        if BEDS in batch.relations:
            _cast(connection, batch, BEDS)
        if PLANNED in batch.relations:
            _name_units(connection, batch, adapter)
            _cast(connection, batch, PLANNED, more=(_KNOWN_UNIT,))


def _cast(
    connection: Connection, batch: Batch, relation: Relation, more: tuple[str, ...] = (), **constants: datetime
) -> None:
    tables = {"landed": batch.landed(relation.name), "checked": batch.checked(relation.name)}
    constants |= {"source": batch.source, "as_of": batch.as_of}
    casting.cast_rows(connection, relation, **tables, more=more, **constants)


def _name_units(connection: Connection, batch: Batch, adapter: Adapter) -> None:
    """Make the temporary table of the units that a plan may name: those of the source so far, and of this batch."""
    connection.execute(text(_KNOWN_UNITS), {"source": batch.source, "units": list(adapter.units)})
    for relation in {STAY, BEDS} & set(batch.relations):
        connection.exec_driver_sql(f"insert into known_unit select unit from {batch.checked(relation.name)}")


def check(engine: Engine, batch: Batch) -> dict[str, list[quality.CheckOutcome]]:
    """Validate each relation; the counts are kept even if a critical check then stops the batch (QualityError)."""
    outcomes = {r.name: quality.validate(engine, r.name, batch.checked(r.name)) for r in batch.relations}
    with engine.begin() as connection:
        for relation, found in outcomes.items():
            quality.record(
                connection,
                found,
                suite=relation,
                source=batch.source,
                batch_id=batch.batch_id,
                rows_checked=batch.rows_landed[relation],
            )
    for found in outcomes.values():
        quality.require_no_critical(found)
    return outcomes


def take_over(
    connection: Connection, batch: Batch, outcomes: dict[str, list[quality.CheckOutcome]], beds: Mapping[str, Beds]
) -> BatchCounts:
    """Quarantine, append, move the watermark and drop the landing tables, within the connection's transaction."""
    connection.exec_driver_sql(_ROOM_TO_SORT)
    rejected_stays = _quarantine(connection, batch, "stay", outcomes["stay"])
    added = {"stay": _append(connection, batch, STAY)}
    if rejected_stays:
        outcomes["observation"] = _without_rejected_stays(connection, batch, outcomes["observation"])
    _release(connection, batch)
    _quarantine(connection, batch, "observation", outcomes["observation"])
    with _key_built_at_once(connection):
        added["observation"] = _append(connection, batch, OBSERVATION)
    for relation in (r for r in batch.relations if r not in (STAY, OBSERVATION)):
        _quarantine(connection, batch, relation.name, outcomes[relation.name])
        added[relation.name] = _append(connection, batch, relation)
    _add_beds(connection, batch, beds)
    return _finish(connection, batch, added)


def _add_beds(connection: Connection, batch: Batch, beds: Mapping[str, Beds]) -> None:
    """What source.yaml says now is known since the batch's slot, where it says something else than before."""
    bound = {"source": batch.source, "as_of": batch.as_of, "batch_id": batch.batch_id, "since_ever": BEGINNING}
    given = [{"unit": unit, **found._asdict()} for unit, found in beds.items()]
    connection.execute(text(_ADD_BEDS), bound | {"beds": json.dumps(given)})


@contextmanager
def _key_built_at_once(connection: Connection) -> Iterator[None]:
    """Build the key of icu.observation after a first load, in half the time; nobody waits for an empty table.

    The empty table is truncated first, so that a server without replicas (wal_level minimal) need not log the rows.
    """
    is_first = _is_owner(connection) and _claim_empty_table(connection)
    if is_first:
        connection.exec_driver_sql("truncate icu.observation")
        connection.execute(DropConstraint(observation.primary_key, isolate_from_table=False))
    yield
    if is_first:
        connection.execute(AddConstraint(observation.primary_key, isolate_from_table=False))


def _is_owner(connection: Connection) -> bool:
    """Whether this user owns the table; a user with rights on rows only (sql/roles.sql) loads with the key in place."""
    query = "select pg_has_role(relowner, 'usage') from pg_class where oid = 'icu.observation'::regclass"
    return connection.execute(text(query)).scalar_one()


def _claim_empty_table(connection: Connection) -> bool:
    """Whether icu.observation is empty; if so, nobody else reads or writes it until this transaction ends.

    The lock of the first look is released before the exclusive one is requested: two first loads that both kept it would
    deadlock. The one that waited looks again, since the other has filled the table meanwhile.
    """
    return _looks_empty(connection, "access share", keep=False) and _looks_empty(
        connection, "access exclusive", keep=True
    )


def _looks_empty(connection: Connection, lock: str, *, keep: bool) -> bool:
    """Whether icu.observation is empty, under a lock that is kept only if it is and `keep` is set."""
    look = connection.begin_nested()
    connection.exec_driver_sql(f"lock table icu.observation in {lock} mode")
    empty = connection.execute(text("select not exists (select from icu.observation)")).scalar_one()
    if empty and keep:
        look.commit()
    else:
        look.rollback()
    return empty


def _append(connection: Connection, batch: Batch, relation: Relation) -> int:
    checked, columns = batch.checked(relation.name), ", ".join(relation.columns)
    statement = (
        _APPEND_OBSERVATIONS.format(checked=checked)
        if relation is OBSERVATION
        else f"insert into {relation.target.fullname} (source, batch_id, {columns})"
        f" select :source, :batch_id, {columns} from {checked} on conflict do nothing"
    )
    return connection.execute(text(statement), {"batch_id": batch.batch_id, "source": batch.source}).rowcount


def _release(connection: Connection, batch: Batch) -> None:
    """Delete quarantined rows that waited for a stay that is now accepted: the batch holds them, landed again."""
    waiting = _WAITING.format(stays=batch.checked("stay"))
    connection.execute(
        text(f"delete from quality.quarantine q where {waiting}"), {"source": batch.source, "until": batch.as_of}
    )


def _finish(connection: Connection, batch: Batch, added: dict[str, int]) -> BatchCounts:
    """Move the watermarks, write the counts and drop the landing tables."""
    quarantined = connection.execute(
        text("select count(*) from quality.quarantine where batch_id = :batch_id and disposition = 'rejected'"),
        {"batch_id": batch.batch_id},
    ).scalar_one()
    newest = dict.fromkeys(f"newest_{relation.name}" for relation in RELATIONS) | {
        f"newest_{relation.name}": connection.execute(
            text(f"select max(available_at) from {batch.checked(relation.name)}")
        ).scalar()
        for relation in batch.relations
    }
    begin_commit_of_ingest(connection, batch.source)
    watermark = connection.execute(
        text(_MOVE_WATERMARKS),
        newest
        | {
            "source": batch.source,
            "batch_id": batch.batch_id,
            "as_of": batch.as_of,
            "stays_read": batch.rows_landed["stay"],
            "stays_added": added["stay"],
            "observations_read": batch.rows_landed["observation"],
            "observations_added": added["observation"],
            "quarantined": quarantined,
            "unmapped": json.dumps(dict(batch.unmapped)),
        },
    ).scalar()
    _drop_tables(connection, batch.batch_id)
    return BatchCounts(
        batch.batch_id,
        batch.rows_landed["stay"],
        added["stay"],
        batch.rows_landed["observation"],
        added["observation"],
        quarantined,
        dict(batch.unmapped),
        watermark,
        added.get("beds", 0),
        added.get("planned", 0),
    )


def _quarantine(connection: Connection, batch: Batch, relation: str, outcomes: list[quality.CheckOutcome]) -> int:
    return quality.quarantine(
        connection,
        outcomes,
        relation=relation,
        checked=batch.checked(relation),
        landed=batch.landed(relation),
        source=batch.source,
        batch_id=batch.batch_id,
    )


def _without_rejected_stays(
    connection: Connection, batch: Batch, outcomes: list[quality.CheckOutcome]
) -> list[quality.CheckOutcome]:
    """Observations of a stay rejected in this batch have no known stay; their check ran before the rejection."""
    orphans = connection.execute(
        text(
            f"update {batch.checked('observation')} as o set known_stay = false, suspect = true where known_stay and not exists ("
            " select 1 from icu.stay_version v where v.source = :source and v.stay_id = o.stay_id)"
        ),
        {"source": batch.source},
    ).rowcount
    return [replace(o, passed=o.passed and not (orphans and o.check.name == "unknown_stay")) for o in outcomes]


def _drop_tables(connection: Connection, batch_id: int) -> None:
    names = [f"landing.{relation.name}_{batch_id}" for relation in RELATIONS]
    connection.exec_driver_sql(f"drop table if exists {', '.join(f'{name}_checked, {name}' for name in names)}")


_WATERMARKS = f"""
select {", ".join(f"max({r.watermark}) as {r.name}" for r in RELATIONS)}
from icu.batch where source = :source and status = 'done'
"""

_KNOWN_UNITS = """
create temporary table known_unit on commit drop as
select unit from icu.stay_version where source = :source
union select unit from icu.unit where source = :source
union select unnest(cast(:units as text[]))
"""
_KNOWN_UNIT = "coalesce(l.unit in (select unit from known_unit), false) as known_unit"

# Observations quarantined because there was no stay, which {stays} now holds. The condition on the time is in a case,
# since rows quarantined for other reasons may have no time.
_WAITING = """
q.source = :source and q.relation = 'observation' and q.check_name = 'unknown_stay'
and q.row ->> 'stay_id' in (select stay_id from {stays})
and case when pg_input_is_valid(q.row ->> 'available_at', 'timestamptz')
    then (q.row ->> 'available_at')::timestamptz <= :until end
"""

# The rest of the batch has distinct keys, and no other ingest of the source is running, so observations cannot conflict;
# "on conflict" would take twice as long, since it writes each row in two steps.
_APPEND_OBSERVATIONS = (
    "insert into icu.observation (source, stay_id, concept, observed_at, available_at, value, batch_id)"
    " select :source, stay_id, concept, observed_at, available_at, number, :batch_id from {checked}"
    " where taken_value is null"
)

# A version more where the newest one differs; what was never given before holds since ever.
_ADD_BEDS = """
insert into icu.unit (source, unit, beds, staffed_beds, available_at, batch_id)
select :source, given.unit, given.beds, given.staffed,
    case when newest.known_at is null then :since_ever else greatest(:as_of, newest.known_at) end, :batch_id
from jsonb_to_recordset(cast(:beds as jsonb)) as given (unit text, beds int, staffed int)
left join lateral (
    select u.available_at as known_at, u.beds, u.staffed_beds
    from icu.unit u where u.source = :source and u.unit = given.unit
    order by u.available_at desc limit 1
) newest on true
where newest.known_at is null or (newest.beds, newest.staffed_beds) is distinct from (given.beds, given.staffed)
on conflict (source, unit, available_at) do update
set beds = excluded.beds, staffed_beds = excluded.staffed_beds, batch_id = excluded.batch_id
"""

# greatest() and least() ignore nulls: a relation without rows keeps the watermark it has.
_MOVE_WATERMARKS = f"""
with before as ({_WATERMARKS}), moved as (
    select {
    ", ".join(
        f"greatest(before.{r.name}, case when cast(:newest_{r.name} as timestamptz) is not null"
        f" then least(cast(:newest_{r.name} as timestamptz), :as_of) end) as {r.name}"
        for r in RELATIONS
    )
}
    from before
)
update icu.batch set
    status = 'done', ingested_at = clock_timestamp(), stays_read = :stays_read, stays_added = :stays_added,
    observations_read = :observations_read, observations_added = :observations_added, quarantined = :quarantined,
    unmapped = cast(:unmapped as jsonb), {", ".join(f"{r.watermark} = moved.{r.name}" for r in RELATIONS)},
    watermark = greatest(moved.stay, moved.observation)
from moved where batch_id = :batch_id returning watermark
"""
