-- How full each unit will be: the newest published forecast of its patients.
-- Grain: one row per (source, unit, horizon_hours) of the current run; unit `*` is the hospital.
-- Purpose: bed planning over the next seven days. `at` is the time a row stands for, local_time the same on the hospital's clock.
--   The census counts patients of now who stay, and new patients who come and stay. beds are those known at the prediction time;
--   the chances of a full unit and of free beds are for the staffed ones where they are known.
-- Units: times UTC, local_time in `timezone`; counts of patients and beds; probabilities 0 to 1; census_probabilities holds those
--   of 0, 1, 2, ... patients.
with
-- include parts/current_run.sql
forecast as (
    select f.*, f.prediction_time + make_interval(hours => f.horizon_hours) as at from forecast.unit_forecast f
)
select
    f.source,
    f.unit,
    f.prediction_time,
    f.horizon_hours,
    f.at,
    f.at at time zone c.timezone as local_time,
    c.timezone,
    (extract(epoch from now() - f.prediction_time) / 3600)::double precision as forecast_age_hours,
    (extract(epoch from c.as_of - c.newest_observation_at) / 3600)::double precision as data_age_hours,
    -- include parts/unit_numbers.sql
    f.model_id,
    c.provisional,
    c.run_id
from current_run c
-- By slot, as in forecast.current_risk.
join forecast f on f.model_id = c.model_id and f.source = c.source and f.prediction_time = c.as_of
order by f.source, f.unit, f.horizon_hours
