"""What a stay's forecast was made from: every row of the stay with its fate, and the published drivers."""

from datetime import datetime
from typing import Any

from sqlalchemy import Engine, text

_ROWS = """
with kept_out as (
    select
        coalesce(row ->> 'variable', relation) as variable, coalesce(row ->> 'observed_at', row ->> 'intime') as observed,
        row ->> 'available_at' as available, row ->> 'value' as value,
        case disposition when 'rejected' then 'quarantined' else disposition end as fate, check_name || ': ' || reason as reason
    from quality.quarantine where source = :source and row ->> 'stay_id' = :stay
), readable as (
    select variable, value, fate, reason,
        case when pg_input_is_valid(observed, 'timestamptz') then observed::timestamptz end as observed_at,
        case when pg_input_is_valid(available, 'timestamptz') then available::timestamptz end as available_at
    from kept_out
)
select concept as variable, observed_at, available_at, value::text as value,
    case when available_at <= :as_of then 'used' else 'not yet known' end as fate, null as reason
from icu.observation where source = :source and stay_id = :stay
union all
select variable, case when observed_at >= '0001-01-01' and observed_at < '10000-01-01' then observed_at end,
    case when available_at >= '0001-01-01' and available_at < '10000-01-01' then available_at end, value, fate, reason
from readable
union all
select 'stay version', intime, available_at, concat_ws(', ', unit, outcome, outtime::text),
    case when available_at <= :as_of then 'used' else 'not yet known' end, null
from icu.stay_version where source = :source and stay_id = :stay
order by available_at, observed_at, variable
"""
_SOURCES_OF_STAY = """
select source from icu.stay_version where stay_id = :stay
union select source from quality.quarantine where row ->> 'stay_id' = :stay
order by source
"""
_DRIVERS = """
select f.prediction_time, f.mortality_risk, f.risk_band, d.rank, d.driver, d.direction, d.contribution, d.last_value,
    d.value_unit, d.last_observed_at, f.model_id
from forecast.stay_forecast f
join forecast.run r on r.run_id = f.run_id and r.status = 'published' and r.role = 'champion'
join forecast.stay_forecast_driver d
    on d.model_id = f.model_id and d.source = f.source
    and d.prediction_time = f.prediction_time and d.stay_id = f.stay_id
where f.source = :source and f.stay_id = :stay
    and f.prediction_time = coalesce(
        :as_of,
        (select max(e.prediction_time) from forecast.stay_forecast_driver e where e.source = :source and e.stay_id = :stay)
    )
order by r.run_id desc, d.rank
"""
_LAST_FORECAST = """
select f.prediction_time, f.status_reason, r.kind
from forecast.stay_forecast f
join forecast.run r on r.run_id = f.run_id and r.status = 'published' and r.role = 'champion'
where f.source = :source and f.stay_id = :stay
    and (cast(:as_of as timestamptz) is null or f.prediction_time = :as_of)
order by f.prediction_time desc, r.run_id desc
limit 1
"""


def sources_of(engine: Engine, stay: str) -> list[str]:
    """Sources whose tables or quarantine hold the stay, sorted."""
    with engine.connect() as connection:
        return list(connection.execute(text(_SOURCES_OF_STAY), {"stay": stay}).scalars())


def read_rows(engine: Engine, source: str, stay: str, as_of: datetime) -> list[dict[str, Any]]:
    """Each row of a stay by (available_at, observed_at, variable), with its fate at the hour `as_of`.

    fate: used, not yet known, quarantined, corrected. Times are UTC; null if unreadable or outside the years
    1 to 9999, which Python cannot represent.
    """
    return _rows(engine, _ROWS, {"source": source, "stay": stay, "as_of": as_of})


def read_drivers(engine: Engine, source: str, stay: str, as_of: datetime | None) -> list[dict[str, Any]]:
    """The published drivers of a stay at `as_of` (its newest explained hour by default), strongest first.

    Those of the newest run if several models published the hour; none if nothing was published.
    """
    rows = _rows(engine, _DRIVERS, {"source": source, "stay": stay, "as_of": as_of})
    return [row for row in rows if row["model_id"] == rows[0]["model_id"]]


def last_forecast(engine: Engine, source: str, stay: str, as_of: datetime | None) -> dict[str, Any] | None:
    """Hour, status reason and kind of run of the stay's published forecast at `as_of`, its newest by default."""
    return next(iter(_rows(engine, _LAST_FORECAST, {"source": source, "stay": stay, "as_of": as_of})), None)


def _rows(engine: Engine, query: str, bound: dict[str, Any]) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(text(query), bound).mappings()]
