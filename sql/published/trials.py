"""Silent trials: while one is open for a source, its forecasts are scored and evaluated but shown in no view."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, func, insert, select, text, update

from rnn_core.contracts.concepts import NAMES
from rnn_core.contracts.errors import ForecastError
from sql.store.schema import trial


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


_RUNS = """
select count(distinct as_of) filter (where status = 'published') as published,
    count(*) filter (where status = 'failed') as failed,
    array_agg(run_id) filter (where status = 'published') as run_ids, min(as_of) as first, max(as_of) as last
from forecast.run
where source = :source and kind = 'forecast' and role = 'trial' and as_of between :began and :ended
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


def count_runs(engine: Engine, source: str, began: datetime, ended: datetime) -> dict[str, Any]:
    """The runs of a trial from `began` to `ended`: number of hours `published`, number of runs `failed`, the published
    `run_ids` (None without any), the `first` and the `last` hour (None without a run)."""
    return _rows(engine, _RUNS, source, began, ended)[0]


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
