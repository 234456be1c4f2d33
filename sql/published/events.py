"""Stays and observations as events in the form of MEDS, the Medical Event Data Standard."""

import hashlib
from collections.abc import Iterator
from datetime import datetime

import pyarrow as pa
from psycopg.sql import Literal
from sqlalchemy import Engine, text

from rnn_core.contracts.errors import ForecastError
from sql.published.canonical import Shard, newest_batch
from sql.store.refusals import connect_arrow_when_free

# MEDS times have no zone; these are UTC.
_TIME = pa.timestamp("us")
SCHEMA = pa.schema(
    {
        "subject_id": pa.int64(),
        "time": _TIME,
        "code": pa.string(),
        "numeric_value": pa.float32(),
        "available_at": _TIME,
        "stay_id": pa.string(),
    }
)
# What a code that is no concept means; a part after `//` is the value.
CODES = {
    "ICU_ADMISSION": "begin of a stay, in this unit",
    "ICU_DISCHARGE": "end of a stay in a unit: alive, died or UNK",
    "HOSPITAL_DISCHARGE": "end of a stay that ends with the hospital stay: alive, died or UNK",
    "MEDS_DEATH": "death",
    "AGE": "age at admission, years",
    "HEIGHT": "height at admission, cm",
    "WEIGHT": "weight at admission, kg",
    "GENDER": "sex",
    "ADMISSION_TYPE": "type of admission",
    "UNIT_TYPE": "type of the unit of admission",
}

_COUNT = "select count(distinct patient_id) from icu.stay_at(:as_of, :ingested_by) s where s.source = :source"
# Ids that are numbers are kept; of others, and of numbers that are too long, the hash is one of 60 bits.
_SUBJECT = """case when s.patient_id ~ '^(0|[1-9][0-9]{{0,17}})$' then s.patient_id::bigint
    else ('x' || left(md5(s.patient_id), 15))::bit(60)::bigint end"""
_EVENTS = f"""
with s as materialized (
    select s.*, {_SUBJECT} as subject_id
    from icu.stay_at({{as_of}}, {{ingested_by}}) s
    where s.source = {{source}} and ('x' || left(md5(s.patient_id), 8))::bit(32)::bigint % {{of}} = {{number}}
), told as materialized (
    -- When the begin, this end and this death were first known; an end that was planned, from when it came.
    select
        s.stay_id,
        min(v.available_at) as begin_at,
        greatest(s.outtime, min(v.available_at) filter (
            where v.outtime is not distinct from s.outtime and v.outcome is not distinct from s.outcome
        )) as end_at,
        greatest(s.died_at, min(v.available_at) filter (where v.died_at = s.died_at)) as death_at
    from s
    join icu.stay_version v on v.source = s.source and v.stay_id = s.stay_id
    join icu.batch b on b.batch_id = v.batch_id
    where v.available_at <= {{as_of}} and b.ingested_at <= {{ingested_by}}
    group by s.stay_id, s.outtime, s.outcome, s.died_at
), event as (
    select s.subject_id, s.intime as time, e.code, e.value, told.begin_at as available_at, s.stay_id
    from s join told using (stay_id) cross join lateral (values
        ('ICU_ADMISSION//' || coalesce(s.unit, 'UNK'), null::double precision, true),
        ('UNIT_TYPE//' || s.unit_type, null, s.unit_type is not null),
        ('ADMISSION_TYPE//' || s.admission_type, null, s.admission_type is not null),
        ('GENDER//' || s.sex, null, s.sex is not null),
        ('AGE', s.age_years, s.age_years is not null),
        ('HEIGHT', s.height_cm, s.height_cm is not null),
        ('WEIGHT', s.weight_kg, s.weight_kg is not null)
    ) as e (code, value, is_known)
    where e.is_known
    union all
    select s.subject_id, s.outtime, case s.ends_at when 'unit' then 'ICU' else 'HOSPITAL' end || '_DISCHARGE//'
        || coalesce(s.outcome, 'UNK'), null, told.end_at, s.stay_id
    from s join told using (stay_id) where s.outtime is not null
    union all
    -- One per patient: several stays may know of it.
    (
        select distinct on (s.subject_id) s.subject_id, coalesce(s.died_at, s.outtime), 'MEDS_DEATH', null,
            case when s.died_at is null then told.end_at else told.death_at end, s.stay_id
        from s join told using (stay_id)
        where s.died_at is not null or s.outcome = 'died' and s.outtime is not null
        order by s.subject_id, s.intime desc, s.stay_id
    )
    union all
    select s.subject_id, o.observed_at, o.concept, o.value, o.available_at, s.stay_id
    from s join icu.observation o on o.source = s.source and o.stay_id = s.stay_id
    where o.available_at <= {{as_of}}
        and o.batch_id in (select batch_id from icu.batch where ingested_at <= {{ingested_by}})
)
select subject_id, time at time zone 'UTC' as time, code, value::real as numeric_value,
    available_at at time zone 'UTC' as available_at, stay_id
from event
order by subject_id, time, available_at, code collate "C", stay_id
"""


def count_patients(engine: Engine, source: str, as_of: datetime) -> tuple[int, datetime | None]:
    """How many patients are known at `as_of`, and when the newest batch of the source came, None if there is none."""
    ingested_by = newest_batch(engine, source)
    with engine.connect() as connection:
        bound = {"source": source, "as_of": as_of, "ingested_by": ingested_by}
        return connection.execute(text(_COUNT), bound).scalar_one(), ingested_by


def read_events(
    engine: Engine, source: str, as_of: datetime, ingested_by: datetime, shard: Shard
) -> Iterator[pa.RecordBatch]:
    """Events of the patients of a shard as known at `as_of`, with the columns of SCHEMA, by patient and time.

    ingested_by: what the tables held then, so that all shards are of one state. Raises ForecastError if the session is lost.
    """
    import adbc_driver_manager

    given = {"source": source, "as_of": as_of, "ingested_by": ingested_by, **shard._asdict()}
    query = _EVENTS.format(**{name: Literal(value).as_string() for name, value in given.items()})
    try:
        with connect_arrow_when_free(engine) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            for rows in cursor.fetch_record_batch():
                yield rows.cast(SCHEMA)
    except adbc_driver_manager.Error as error:
        # Its message may quote values.
        raise ForecastError(
            f"The database did not return the events of {source} ({error.sqlstate or type(error).__name__}); run it again."
        ) from None


def subject_id(patient_id: str) -> int:
    """The number that MEDS wants of a patient, as `read_events` gives it.

    >>> subject_id("10014729"), subject_id("p-1") == subject_id("p-1")
    (10014729, True)
    """
    is_number = patient_id.isascii() and patient_id.isdigit() and len(patient_id) <= 18
    if is_number and str(int(patient_id)) == patient_id:
        return int(patient_id)
    return int(hashlib.md5(patient_id.encode(), usedforsecurity=False).hexdigest()[:15], 16)
