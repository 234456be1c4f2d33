-- Published forecasts of units with the census that came.
-- Grain: one row per (source, model_id, unit, prediction_time, horizon_hours) of a published run whose time `at` the source's
--   watermark has passed; before that, what came is not known yet.
-- Purpose: how good the forecasts of beds are. census counts the stays of icu.stay that are in the unit at `at`, as known now,
--   arrivals those that began after the prediction time until then; unit `*` counts all stays of the source. was_full: the
--   census reached the usable beds (staffed, where known), null without beds.
-- Units: times UTC, month YYYY-MM of prediction_time in UTC; counts of patients and beds; probabilities 0 to 1.
with knowledge as (
    select source, max(watermark) as known_until from icu.batch where ingested_at is not null group by source
),
forecast as (
    select
        f.*, r.role, r.kind, r.model_stage,
        f.prediction_time + make_interval(hours => f.horizon_hours) as at
    from forecast.unit_forecast f
    join forecast.run r on r.run_id = f.run_id and r.status = 'published'
),
paired as (
    select f.* from forecast f join knowledge k on k.source = f.source where f.at <= k.known_until
),
-- One pass in order of time instead of a count per forecast: who is in at a time has begun and not ended.
event as (
    select s.source, u.unit, e.at, e.begins, e.ends
    from icu.stay s
    cross join lateral (values (s.unit), ('*')) u (unit)
    cross join lateral (values (s.intime, 1, 0), (s.outtime, 0, 1)) e (at, begins, ends)
    where u.unit is not null and e.at is not null and (s.outtime is not null or s.outcome is null)
    union all
    select source, unit, at, 0, 0 from paired
    union all
    select source, unit, prediction_time, 0, 0 from paired
),
counted as (
    select distinct
        source, unit, at, sum(begins) over course as begun, sum(begins - ends) over course as census
    from event
    window course as (partition by source, unit order by at)
)
select
    f.source,
    f.model_id,
    f.role,
    f.kind,
    f.model_stage,
    coalesce(f.model_stage = 'provisional', false) as provisional,
    f.run_id,
    f.unit,
    to_char(f.prediction_time at time zone 'UTC', 'YYYY-MM') as month,
    f.prediction_time,
    f.horizon_hours,
    f.at,
    -- include parts/unit_numbers.sql
    came.census::integer as census,
    (came.begun - before.begun)::integer as arrivals,
    came.census >= coalesce(f.staffed_beds, f.beds) as was_full
from paired f
join counted came on came.source = f.source and came.unit = f.unit and came.at = f.at
join counted before on before.source = f.source and before.unit = f.unit and before.at = f.prediction_time
