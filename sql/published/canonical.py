"""Reads as of a time: stays, observations, the lengths of stay of a unit, and forecasts with outcomes."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from psycopg.sql import Literal
from sqlalchemy import Connection, Engine, text

from rnn_core.contracts.census import CENSUS_HISTORY_DAYS, PLAN_COLUMNS, KnownUnits
from rnn_core.contracts.concepts import NAMES
from rnn_core.contracts.config import WindowConfig
from rnn_core.contracts.frames import STAY_COLUMNS, Observations, check_stays
from rnn_core.contracts.known import Known
from sql.store.refusals import connect_arrow_when_free
from sql.store.snapshot import one_snapshot, share_snapshot


class Shard(NamedTuple):
    """The patients whose hash leaves the remainder `number`, 0 to `of` - 1: a part of the stays that is read by itself.

    The hash is MD5, so that every database and every version of one agrees; all stays of a patient are in one shard.
    """

    number: int
    of: int


_SHARD = "('x' || left(md5(coalesce(s.patient_id, s.stay_id)), 8))::bit(32)::bigint % :of = :number"

_TIMES = ("intime", "outtime", "hospital_intime", "hospital_outtime", "died_at")


def read_known(
    engine: Engine,
    source: str,
    as_of: datetime,
    *,
    only_open: bool = False,
    since: datetime | None = None,
    ingested_by: datetime | None = None,
    part: Shard | Sequence[str] | None = None,
) -> Known:
    """Stays of `source` and their observations as they were known at `as_of`, of one state of the tables; see `read_stays`.

    since: without stays that had ended by then. Times carry their zone.
    """
    with one_snapshot(engine) as connection:
        stays = _read_stays(connection, source, as_of, only_open=only_open, ingested_by=ingested_by, part=part)
        if since is not None:
            gone = stays["outtime"] <= pd.Timestamp(since.astimezone(UTC)).tz_localize(None)
            stays = stays[~gone].reset_index(drop=True)
        observations = read_observations(engine, source, stays, as_of, ingested_by=ingested_by, seen_by=connection)
    return Known(stays, observations, np.datetime64(as_of.astimezone(UTC).replace(tzinfo=None), "us"))


def newest_batch(engine: Engine, source: str) -> datetime | None:
    """When the newest batch of `source` was ingested, None if there is none.

    Ingests of a source follow one another, so this is a cut between them.
    """
    with engine.connect() as connection:
        return connection.execute(text(_NEWEST_BATCH), {"source": source}).scalar_one()


def read_stays(engine: Engine, source: str, as_of: datetime, **chosen: Any) -> pd.DataFrame:
    """Stays as known at `as_of`, one row each, ordered by (intime, stay_id), with the columns of STAY_COLUMNS and `sound`.

    sound: False if the stay audit finds, by what was known at `as_of`, times of the stay that contradict each other.
    only_sound: without those. only_open: stays whose end was not known then; the audit concerns ends, so it is skipped and
    the frame has no column `sound`, unless only_sound is set.
    ingested_by: what the tables held then, to reproduce a past run. part: the stays of a shard or those with these ids.
    """
    with engine.connect() as connection:
        return _read_stays(connection, source, as_of, **chosen)


def _read_stays(
    connection: Connection,
    source: str,
    as_of: datetime,
    *,
    only_open: bool = False,
    only_sound: bool = False,
    ingested_by: datetime | None = None,
    part: Shard | Sequence[str] | None = None,
) -> pd.DataFrame:
    columns, conditions, audit = [f"s.{c}" for c in STAY_COLUMNS], ["s.source = :source"], ""
    if only_open:
        conditions.append(_OPEN)
    if only_sound or not only_open:
        columns.append("faulty.stay_id is null as sound")
        audit = (
            " left join (select distinct source, stay_id from quality.stay_audit_at(:as_of, :ingested_by)) faulty"
            " on faulty.source = s.source and faulty.stay_id = s.stay_id"
        )
    if only_sound:
        conditions.append("faulty.stay_id is null")
    bound = _as_known(source, as_of, ingested_by)
    if isinstance(part, Shard):
        conditions.append(_SHARD)
        bound |= part._asdict()
    elif part is not None:
        conditions.append("s.stay_id = any(:stay_ids)")
        bound["stay_ids"] = list(part)
    query = text(
        f"select {', '.join(columns)} from icu.stay_at(:as_of, :ingested_by) s{audit}"
        f" where {' and '.join(conditions)} order by s.intime, s.stay_id"
    )
    frame = pd.read_sql_query(query, connection, params=bound)
    for column in _TIMES:
        frame[column] = _utc(frame[column])
    for column in ("end_precision_hours", "age_years", "height_cm", "weight_kg"):
        frame[column] = frame[column].astype("float64")
    return check_stays(frame)


_OPEN = "s.outtime is null and s.outcome is null"
_NEWEST_BATCH = "select max(ingested_at) from icu.batch where source = :source"
_COUNT_OPEN = f"select count(*) from icu.stay_at(:as_of, :ingested_by) s where s.source = :source and {_OPEN}"


def count_open(engine: Engine, source: str, as_of: datetime, *, ingested_by: datetime | None = None) -> int:
    """How many stays `read_stays` returns with only_open."""
    with engine.connect() as connection:
        return connection.execute(text(_COUNT_OPEN), _as_known(source, as_of, ingested_by)).scalar_one()


def _as_known(source: str, as_of: datetime, ingested_by: datetime | None) -> dict[str, Any]:
    return {"source": source, "as_of": as_of, "ingested_by": ingested_by or datetime.max.replace(tzinfo=UTC)}


def _utc(times: pd.Series) -> pd.Series:
    """Times without a zone, as frames have them, datetime64[us]."""
    return pd.to_datetime(times, utc=True).dt.tz_localize(None).astype("datetime64[us]")


# The arguments are settings of the transaction: a statement without parameters can use COPY, which is faster.
_ASKED = "select set_config('icu.stays', $1, true), set_config('icu.concepts', $2, true)"
_OBSERVATIONS = """
with wanted as materialized (
    select id, (number - 1)::int as number
    from json_array_elements_text(current_setting('icu.stays')::json) with ordinality as w (id, number)
), feature as materialized (
    select name, (number - 1)::smallint as number
    from json_array_elements_text(current_setting('icu.concepts')::json) with ordinality as f (name, number)
)
select w.number, f.number, o.observed_at, o.available_at, o.value
from icu.observation o join wanted w on w.id = o.stay_id join feature f on f.name = o.concept
where o.source = {source} and o.available_at <= {as_of}
"""
_INGESTED = " and o.batch_id in (select batch_id from icu.batch where ingested_at <= {ingested_by})"


def read_observations(
    engine: Engine,
    source: str,
    stays: pd.DataFrame,
    as_of: datetime,
    *,
    ingested_by: datetime | None = None,
    seen_by: Connection | None = None,
) -> Observations:
    """All versions of all observations of `stays` known at `as_of`, sorted by (available_at, observed_at).

    seen_by: a transaction of `one_snapshot`, whose state of the tables is read.
    """
    query = _OBSERVATIONS if ingested_by is None else _OBSERVATIONS + _INGESTED
    literals = {"source": source, "as_of": as_of, "ingested_by": ingested_by}
    query = query.format(**{name: Literal(value).as_string() for name, value in literals.items()})
    # ADBC fills arrow columns in C; SQLAlchemy would build a tuple of Python objects per observation.
    with connect_arrow_when_free(engine) as connection, connection.cursor() as cursor:
        if seen_by is not None:
            share_snapshot(seen_by, cursor)
        cursor.execute(_ASKED, [json.dumps(stays["stay_id"].tolist()), json.dumps(list(NAMES))])
        cursor.execute(query)
        table = cursor.fetch_arrow_table().combine_chunks()
    stay, concept, observed, available, value = (c.to_numpy() for c in table.itercolumns())
    observed, available = observed.astype("datetime64[us]"), available.astype("datetime64[us]")
    order = np.lexsort((observed, available))
    return Observations(
        stay[order].astype(np.int32),
        concept[order].astype(np.int16),
        observed[order],
        available[order],
        value[order].astype(np.float64),
    )


_UNIT_STAYS = """
select s.stay_id, s.unit, s.intime, s.outtime, s.outcome, s.ends_at, s.available_at, faulty.stay_id is null as sound
from icu.stay_at(:as_of, :ingested_by) s
left join (select distinct source, stay_id from quality.stay_audit_at(:as_of, :ingested_by)) faulty
    on faulty.source = s.source and faulty.stay_id = s.stay_id
where s.source = :source and (s.intime > :since or s.outtime > :since or s.outtime is null and s.outcome is null)
order by s.intime, s.stay_id
"""
_BEDS = """
select u.unit, u.available_at, u.beds, u.staffed_beds
from icu.unit u left join icu.batch b on b.batch_id = u.batch_id
where u.source = :source and u.available_at <= :as_of and (u.batch_id is null or b.ingested_at <= :ingested_by)
order by u.unit, u.available_at
"""
_PLANS = f"""
select {", ".join(f"p.{column}" for column in PLAN_COLUMNS)}
from icu.planned p join icu.batch b on b.batch_id = p.batch_id
where p.source = :source and p.available_at <= :as_of and b.ingested_at <= :ingested_by
    and p.planned_id in (select planned_id from icu.planned where source = :source and expected_at > :since)
order by p.planned_id, p.available_at
"""


def read_units(
    engine: Engine,
    source: str,
    as_of: datetime,
    *,
    newest: datetime | None = None,
    ingested_by: datetime | None = None,
) -> KnownUnits:
    """Who came to which unit in the `CENSUS_HISTORY_DAYS` before `as_of`, who is in, the versions of its beds, and
    those of plans for that time and later.

    newest: when the newest observation became available; that of stays is read. ingested_by: as for `read_stays`.
    """
    since = as_of - timedelta(days=CENSUS_HISTORY_DAYS)
    bound = _as_known(source, as_of, ingested_by)
    with one_snapshot(engine) as connection:
        stays = pd.read_sql_query(text(_UNIT_STAYS), connection, params=bound | {"since": since})
        beds = pd.read_sql_query(text(_BEDS), connection, params=bound)
        plans = pd.read_sql_query(text(_PLANS), connection, params=bound | {"since": since})
    for frame in (stays, beds, plans):
        for column in frame.columns.intersection(["intime", "outtime", "expected_at", "available_at"]):
            frame[column] = _utc(frame[column])
    known_at = [time for time in (stays["available_at"].max(), _naive(newest)) if not pd.isna(time)]
    heard = np.datetime64(max(known_at), "us") if known_at else np.datetime64("NaT", "us")
    return KnownUnits(stays.drop(columns="available_at"), beds, np.datetime64(_naive(as_of), "us"), heard, plans)


def _naive(time: datetime | None) -> pd.Timestamp:
    return pd.NaT if time is None else pd.Timestamp(time.astimezone(UTC)).tz_localize(None)


# Microseconds, so that no length is rounded; gathered here, since a median over 100,000 stays needs no other column.
_UNIT_LENGTHS = """
select s.unit, array_agg(
    (extract(epoch from s.outtime - s.intime) * 1000000)::bigint order by s.outtime, s.stay_id collate "C"
) as lengths
from icu.stay_at(:as_of) s
where s.source = :source and s.outtime is not null and s.unit is not null and not exists (
    select from quality.stay_audit_at(:as_of) faulty where faulty.source = s.source and faulty.stay_id = s.stay_id
)
group by s.unit
order by s.unit collate "C"
"""
_MICROSECONDS_A_DAY = 86_400_000_000


def read_unit_lengths(engine: Engine, source: str, as_of: datetime) -> dict[str, np.ndarray]:
    """Per unit the lengths of stay in days, float64 [stays], of the sound stays that had ended by `as_of`, in the order of
    their ends."""
    with engine.connect() as connection:
        rows = connection.execute(text(_UNIT_LENGTHS), {"source": source, "as_of": as_of}).all()
    return {unit: np.array(lengths, np.int64) / _MICROSECONDS_A_DAY for unit, lengths in rows}


_FINISHED = """
select count(*) as stays, count(outcome) as outcomes, count(*) filter (where outcome = 'died') as died,
    count(distinct patient_id) as patients, count(distinct date_trunc('minute', intime)) as begins
from icu.stay
where source = :source and (outtime is not null or outcome is not null)
"""


def count_finished(engine: Engine, source: str) -> dict[str, int]:
    """Of the stays whose end or outcome is known now: `stays`, those with `outcomes`, those that `died`, distinct `patients`,
    distinct `begins` (to the minute)."""
    with engine.connect() as connection:
        return dict(connection.execute(text(_FINISHED), {"source": source}).mappings().one())


_TOLD_UNTIL = "select least(:as_of, max(as_of)) from icu.batch where source = :source and ingested_at is not null"
_SCORED = """
select f.*
from forecast.stay_forecast f
join forecast.run r on r.run_id = f.run_id and r.status = 'published'
join forecast.model m on m.model_id = f.model_id
where f.source = :source and f.status = 'scored' and f.prediction_time > m.data_cutoff and f.prediction_time <= :until
order by f.model_id, f.prediction_time, f.stay_id
"""
_LAST_HEARD = """
select stay_id, max(available_at) as heard_at from icu.observation
where source = :source and stay_id = any(:stay_ids) and available_at <= :until group by stay_id
"""
# A stay without new data for longer may have ended unnoticed; the forecaster abstains then, too.
_SILENCE = pd.Timedelta(hours=WindowConfig().stale_hours)


def read_outcome_pairs(engine: Engine, source: str, as_of: datetime) -> pd.DataFrame:
    """Scored forecasts with what was known at `as_of` about the rest of the stay, by model, prediction time and stay.

    Columns of forecast.stay_forecast, then patient_id, unit, age_years, sex, month (YYYY-MM of the prediction),
    hours_in_stay, died, remaining_hours, end_precision_hours, followed_hours and age_hours.

    If neither end nor outcome of a stay was known at `as_of`, died and remaining_hours are null, and followed_hours is how
    long after the prediction the stay is known to have continued: until `as_of` or the last ingest before it; if its last
    observation became available over 24 h earlier, until then. followed_hours is NaN for the others. Finished stays are
    biased short, so a score without the open ones flatters forecasts of a short stay. age_hours: from the prediction to
    `as_of` or the last ingest before it.

    Left out: stays flagged by the audit by what was known then, predictions not after their model's data cut-off, whose
    outcomes the model may have learned from, and predictions after which an open stay was not followed at all.
    """
    with one_snapshot(engine) as connection:
        until = connection.execute(text(_TOLD_UNTIL), {"source": source, "as_of": as_of}).scalar_one()
        bound = {"source": source, "until": until}
        scored = pd.read_sql_query(text(_SCORED), connection, params=bound)
        stays = _read_stays(connection, source, until, only_sound=True)
        stays = stays[stays["stay_id"].isin(scored["stay_id"])]
        is_open = stays["outtime"].isna() & stays["outcome"].isna()
        bound["stay_ids"] = stays.loc[is_open, "stay_id"].tolist()
        heard = pd.read_sql_query(text(_LAST_HEARD), connection, params=bound).set_index("stay_id")["heard_at"]
    heard_at, known_until = _utc(stays["stay_id"].map(heard)), _utc(pd.Series([until]))[0]
    # As for the labels of a fit: a stay without new data is followed up to its last observation.
    followed_until = heard_at.where(~(heard_at + _SILENCE >= known_until), known_until)
    stays = stays.assign(
        died=stays["outcome"].eq("died").astype("boolean").where(stays["outcome"].notna()),
        is_open=is_open,
        followed_until=followed_until,
    )
    columns = [
        "stay_id",
        "patient_id",
        "unit",
        "age_years",
        "sex",
        "intime",
        "outtime",
        "end_precision_hours",
        "died",
        "is_open",
        "followed_until",
    ]
    pairs = scored.merge(stays[columns], on="stay_id")
    at = _utc(pairs["prediction_time"])
    pairs["month"] = at.dt.strftime("%Y-%m")
    for column, span in {
        "hours_in_stay": at - pairs["intime"],
        "remaining_hours": pairs["outtime"] - at,
        "followed_hours": pairs["followed_until"] - at,
        "age_hours": known_until - at,
    }.items():
        pairs[column] = span / pd.Timedelta(hours=1)
    keep = ~pairs["is_open"] | (pairs["followed_hours"] > 0)
    return pairs[keep].drop(columns=["intime", "outtime", "is_open", "followed_until"]).reset_index(drop=True)
