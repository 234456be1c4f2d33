-- Published forecasts with outcomes.
-- Grain: one row per (source, model_id, stay_id, prediction_time) of a published run, champion and shadow, whose stay's
--   end or outcome is known now.
-- Purpose: the rows behind the scorecard. The evaluation also uses open stays, because finished stays are biased short.
--   died is null if the outcome is not known, the times are null if only the outcome is. remaining_hours below zero: the
--   end was charted after the forecast. excluded: the stay's times contradict each other (quality.stay_audit), so it is not
--   scored. outcome_known_at: when the current end was first known.
-- Units: times UTC, durations in hours, risks and probabilities 0 to 1, month YYYY-MM of prediction_time in UTC;
--   prolonged means a total stay of more than {prolonged_hours} hours.
with knowledge as (
    select source, max(as_of) as as_of from icu.batch where ingested_at is not null group by source
),
ended as materialized (
    select s.*, first.known_at as outcome_known_at
    from icu.stay s
    join knowledge k on k.source = s.source
    cross join lateral (
        select min(v.available_at) as known_at
        from icu.stay_version v
        where v.source = s.source and v.stay_id = s.stay_id
            and v.outtime is not distinct from s.outtime and v.outcome is not distinct from s.outcome
    ) first
    -- An end after the source's watermark is a plan.
    where s.outtime <= k.as_of or (s.outtime is null and s.outcome is not null)
),
faulty as (
    select distinct source, stay_id from quality.stay_audit
)
select
    f.source,
    f.model_id,
    r.role,
    r.kind,
    r.model_stage,
    coalesce(r.model_stage = 'provisional', false) as provisional,
    f.run_id,
    f.stay_id,
    e.patient_id,
    e.unit,
    to_char(f.prediction_time at time zone 'UTC', 'YYYY-MM') as month,
    f.prediction_time,
    (extract(epoch from f.prediction_time - e.intime) / 3600)::double precision as hours_in_stay,
    f.status,
    f.status_reason,
    f.mortality_risk,
    f.risk_band,
    -- include parts/beside_the_risk.sql
    e.outcome = 'died' as died,
    e.ends_at,
    (extract(epoch from e.outtime - f.prediction_time) / 3600)::double precision as remaining_hours,
    e.end_precision_hours,
    (extract(epoch from e.outtime - e.intime) / 3600)::double precision as total_stay_hours,
    e.outtime - e.intime > interval '{prolonged_hours} hours' as prolonged,
    e.outcome_known_at,
    faulty.stay_id is not null as excluded
from forecast.stay_forecast f
join forecast.run r on r.run_id = f.run_id and r.status = 'published'
join ended e on e.source = f.source and e.stay_id = f.stay_id
left join faulty on faulty.source = f.source and faulty.stay_id = f.stay_id
