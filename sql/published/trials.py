"""Silent trials: while one is open for a source, its forecasts are scored and evaluated but shown in no view."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, func, insert, select, text, update

from rnn_core.contracts.concepts import NAMES
from rnn_core.contracts.errors import ForecastError
from rnn_core.contracts.thresholds import RISK_BANDS
from sql.store.schema import trial

# A forecast that is published this long after its hour is missed: `forecast.run_health` calls it stale.
LATE_HOURS = 2


def start_trial(engine: Engine, source: str, days: int, started_at: datetime) -> dict[str, Any]:
    """Put a source on trial and return the trial's row. Raises ForecastError if one is open.

    started_at: forecasts for this hour and later ones are evaluated.
    """
    if there := open_trial(engine, source):
        raise ForecastError(
            f"{source} is on trial since {there['started_at']:%Y-%m-%d}; end that trial first "
            f"(`icu-forecast trial end {source}`)."
        )
    values = {"source": source, "started_at": started_at, "ends_at": started_at + timedelta(days=days)}
    with engine.begin() as connection:
        return dict(connection.execute(insert(trial).values(**values).returning(trial)).mappings().one())


def open_trial(engine: Engine, source: str) -> dict[str, Any] | None:
    """The trial that the source is on, None if it is on none; an overdue trial stays open until it is ended."""
    query = select(trial).where(trial.c.source == source, trial.c.ended_at.is_(None))
    with engine.connect() as connection:
        row = connection.execute(query).mappings().one_or_none()
    return dict(row) if row else None


def last_trial(engine: Engine, source: str) -> dict[str, Any]:
    """The newest trial of the source, open or ended. Raises ForecastError if there was none."""
    query = select(trial).where(trial.c.source == source).order_by(trial.c.trial_id.desc()).limit(1)
    with engine.connect() as connection:
        row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise ForecastError(f"{source} was never on trial; start one with `icu-forecast trial start {source}`.")
    return dict(row)


def end_trial(engine: Engine, source: str) -> dict[str, Any]:
    """End the open trial: from the next run on readers see the source's forecasts. Raises ForecastError without one."""
    ended = (
        update(trial)
        .where(trial.c.source == source, trial.c.ended_at.is_(None))
        .values(ended_at=func.clock_timestamp())
        .returning(trial)
    )
    with engine.begin() as connection:
        row = connection.execute(ended).mappings().one_or_none()
    if row is None:
        raise ForecastError(f"{source} is not on trial, so there is none to end.")
    return dict(row)


_PUBLISHED = """
select r.run_id, r.as_of, r.model_id, r.status = 'failed' as failed
from forecast.run r
where r.source = :source and r.kind in ('forecast', 'backfill') and r.role = 'trial' and r.as_of >= :began and r.as_of < :ended
    and (r.status = 'failed' or (r.status = 'published'
        and (r.as_of < :made_at or r.finished_at < r.as_of + make_interval(hours => :late_hours))))
order by r.as_of, r.run_id
"""
# Every stay of the trial counts, forecast or not: an hour without a run raised no alert.
_ALERTS = """
with band (risk_band, rank) as (
    select * from unnest(cast(:bands as text[])) with ordinality
),
stay as (
    select s.stay_id, s.outcome = 'died' as died
    from icu.stay s
    where s.source = :source and s.intime < :ended and (s.outtime is null or s.outtime > :began)
        and not exists (select from quality.stay_audit a where a.source = s.source and a.stay_id = s.stay_id)
),
flagged as (
    select f.stay_id, date_trunc('day', f.prediction_time, 'UTC') as day, max(band.rank) as rank
    from forecast.stay_forecast f
    join band on band.risk_band = f.risk_band
    where f.run_id = any(:run_ids)
    group by f.stay_id, date_trunc('day', f.prediction_time, 'UTC')
),
highest as (
    select stay.stay_id, stay.died, coalesce(max(flagged.rank), 0) as rank
    from stay left join flagged on flagged.stay_id = stay.stay_id
    group by stay.stay_id, stay.died
)
select band.risk_band,
    (select count(*) from flagged where flagged.rank >= band.rank)::double precision / :n_days as flagged_per_day,
    count(highest.died) as n_stays,
    count(highest.died) filter (where highest.rank >= band.rank) as n_flagged,
    (count(*) filter (where highest.died and highest.rank >= band.rank))::double precision
        / nullif(count(*) filter (where highest.died), 0) as sensitivity,
    (count(*) filter (where highest.died and highest.rank >= band.rank))::double precision
        / nullif(count(highest.died) filter (where highest.rank >= band.rank), 0) as ppv
from band cross join highest
group by band.risk_band, band.rank
order by band.rank
"""
_DELAYS = """
select concept, count(*) as n,
    percentile_cont(array[0.5, 0.9]) within group (order by extract(epoch from available_at - observed_at) / 3600) as hours
from icu.observation
where source = :source and available_at between :began and :ended
group by concept
order by concept
"""
_MISSING = """
with stays as (
    select stay_id from icu.stay where source = :source and intime < :ended and (outtime is null or outtime > :began)
)
select c.concept, 1 - count(distinct o.stay_id)::double precision / nullif((select count(*) from stays), 0) as missing
from unnest(cast(:concepts as text[])) c (concept)
left join icu.observation o on o.source = :source and o.concept = c.concept and o.stay_id in (select stay_id from stays)
group by c.concept
order by 2 desc, 1
"""


def read_runs(engine: Engine, there: Mapping[str, Any], ended: datetime) -> list[dict[str, Any]]:
    """The runs of a trial (its row) for hours before `ended`, by hour: `run_id`, `as_of`, `model_id`, `failed`.

    Without those that were published `LATE_HOURS` or more after their hour: nobody could have read them in time. Hours
    before the trial was made are a rehearsal, and their runs are never late.
    """
    bound = {"made_at": there["made_at"], "late_hours": LATE_HOURS}
    return _rows(engine, _PUBLISHED, there["source"], there["started_at"], ended, **bound)


def read_alerts(
    engine: Engine, source: str, began: datetime, ended: datetime, run_ids: Sequence[int], n_days: int
) -> list[dict[str, Any]]:
    """What acting on the alerts of these runs would have meant, a row per risk band (and those above it), low first.

    flagged_per_day: stays flagged, over `n_days`. n_stays: with a known outcome, in the unit at some time from `began` to
    `ended`, forecast or not; n_flagged: of these. sensitivity: share of the deaths that were flagged; ppv: share of the
    flagged stays that died; None without any.
    """
    bound = {"bands": list(RISK_BANDS), "run_ids": list(run_ids), "n_days": n_days}
    return _rows(engine, _ALERTS, source, began, ended, **bound)


def read_delays(engine: Engine, source: str, began: datetime, ended: datetime) -> list[dict[str, Any]]:
    """Per concept the number `n` of values that became known from `began` to `ended`, and median and 90th
    percentile of the hours from when a value was true to when it was known, as `hours`."""
    return _rows(engine, _DELAYS, source, began, ended)


def read_missing(engine: Engine, source: str, began: datetime, ended: datetime) -> list[dict[str, Any]]:
    """Per concept the share (0 to 1) of the stays between `began` and `ended` without it as `missing`, largest first;
    None if there were no stays."""
    return _rows(engine, _MISSING, source, began, ended, concepts=list(NAMES))


def _rows(
    engine: Engine, query: str, source: str, began: datetime, ended: datetime, **bound: Any
) -> list[dict[str, Any]]:
    bound |= {"source": source, "began": began, "ended": ended}
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(text(query), bound).mappings()]
