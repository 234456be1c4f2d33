-- Performance of the models: the newest published evaluation of each.
-- Grain: one row per (source, model_id, unit, month, age_group, sex, stay_hours, metric); grouped by one of these five at a
--   time; the others are `all`.
-- Purpose: discrimination, calibration and error, with the trivial baseline on the same rows.
-- Units: those of the metric; low and high bound the value's interval; n is the number of forecasts; evaluated_at is
--   the as_of of the evaluation, UTC.
with newest as (
    select distinct on (s.source, s.model_id) s.source, s.model_id, s.run_id, r.as_of
    from (select distinct source, model_id, run_id from forecast.score) s
    join forecast.run r on r.run_id = s.run_id
    where r.kind = 'evaluate' and r.status = 'published'
    order by s.source, s.model_id, r.as_of desc, s.run_id desc
)
select
    s.source, s.model_id, s.unit, s.month, s.age_group, s.sex, s.stay_hours, s.metric, s.value, s.low, s.high, s.baseline,
    s.n, newest.as_of as evaluated_at
from newest
join forecast.score s on s.run_id = newest.run_id and s.model_id = newest.model_id and s.source = newest.source
