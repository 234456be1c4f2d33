-- Published forecasts of units with the census that came.
-- Grain: one row per (source, model_id, unit, prediction_time, horizon_hours) of a published run whose time `at` the source's
--   watermark has passed; before that, what came is not known yet. Not from before a purge: who was in is not known any more.
-- Purpose: how good the forecasts of beds are. census counts the stays of icu.stay that are in the unit at `at`, as known now,
--   arrivals those that began after the prediction time until then; unit `*` counts all stays of the source. was_full: the
--   census reached the usable beds (staffed, where known), null without beds.
-- Units: times UTC, month YYYY-MM of prediction_time in UTC; counts of patients and beds; probabilities 0 to 1.
with knowledge as (
    select source, max(watermark) as known_until from icu.batch where ingested_at is not null group by source
),
-- One pass in order of time instead of a count per forecast: who is in at a time has begun and not ended.
event as (
    select
        s.source, u.unit, e.at, e.begins, e.ends,
        null as model_id, null::timestamptz as prediction_time, null::integer as horizon_hours
    from icu.stay s
    cross join lateral (values (s.unit), ('*')) u (unit)
    cross join lateral (values (s.intime, 1, 0), (s.outtime, 0, 1)) e (at, begins, ends)
    where u.unit is not null and e.at is not null and (s.outtime is not null or s.outcome is null)
    union all
    select f.source, f.unit, t.at, 0, 0, f.model_id, f.prediction_time, f.horizon_hours
    from forecast.unit_forecast f
    cross join lateral (
        values (f.prediction_time), (f.prediction_time + make_interval(hours => f.horizon_hours))
    ) t (at)
),
counted as (
    select e.*, sum(begins) over course as begun, sum(begins - ends) over course as census
    from event e
    window course as (partition by source, unit order by at)
),
came as (
    select
        model_id, source, unit, prediction_time, horizon_hours, max(at) as at,
        max(begun) - min(begun) as arrivals, max(census) filter (where at > prediction_time) as census
    from counted
    where model_id is not null
    group by model_id, source, unit, prediction_time, horizon_hours
)
select
    f.source,
    f.model_id,
    r.role,
    r.kind,
    r.model_stage,
    coalesce(r.model_stage = 'provisional', false) as provisional,
    f.run_id,
    f.unit,
    to_char(f.prediction_time at time zone 'UTC', 'YYYY-MM') as month,
    f.prediction_time,
    f.horizon_hours,
    came.at,
    -- include parts/unit_numbers.sql
    came.census::integer as census,
    came.arrivals::integer as arrivals,
    came.census >= coalesce(f.staffed_beds, f.beds) as was_full
from forecast.unit_forecast f
join forecast.run r on r.run_id = f.run_id and r.status = 'published'
join came
    on came.model_id = f.model_id and came.source = f.source and came.prediction_time = f.prediction_time
    and came.unit = f.unit and came.horizon_hours = f.horizon_hours
join knowledge k on k.source = f.source and came.at <= k.known_until
left join icu.retention p on p.source = f.source
where f.prediction_time >= coalesce(p.purged_until, '-infinity')
