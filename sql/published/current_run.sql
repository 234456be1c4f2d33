with
-- include parts/current_run.sql
recorded as (select run_id, started_at from forecast.run)
select
    c.source, c.run_id, c.as_of, c.model_id, c.provisional, c.timezone, c.newest_observation_at, r.started_at,
    extract(epoch from now() - c.as_of)::double precision / 3600 as forecast_age_hours,
    extract(epoch from c.as_of - c.newest_observation_at)::double precision / 3600 as data_age_hours,
    now() as read_at
from current_run c
join recorded r on r.run_id = c.run_id
where c.source = :source
