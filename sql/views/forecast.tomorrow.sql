-- Tomorrow at 08:00: patients and free beds of each unit.
-- Grain: one row per (source, unit) of forecast.unit_outlook; unit `*` is the hospital.
-- Purpose: one look in the evening. wanted_at is 08:00 of the day after the prediction time on the hospital's clock, for which
--   each run has a forecast of its own; the numbers are those of `at`, the nearest time that is forecast (they differ if the
--   hospital's clock is off by half an hour). The ranges hold with probability 0.8.
-- Units: times UTC, local_time in the hospital's zone; counts of patients and beds; probabilities 0 to 1. usable_beds are the
--   staffed ones where they are known; everything about beds is null if none are known, below zero: more patients than beds.
with wanted as (
    select
        o.*,
        coalesce(o.staffed_beds, o.beds) as usable_beds,
        (date_trunc('day', o.prediction_time at time zone o.timezone) + interval '1 day {morning_hour} hours') at time zone o.timezone as wanted_at
    from forecast.unit_outlook o
)
select distinct on (source, unit)
    source,
    unit,
    prediction_time,
    wanted_at,
    at,
    local_time,
    status,
    status_reason,
    n_present as patients_now,
    expected_census as expected_patients,
    census_p10 as patients_low,
    census_p90 as patients_high,
    usable_beds,
    usable_beds - expected_census as expected_free_beds,
    usable_beds - census_p90 as free_beds_low,
    usable_beds - census_p10 as free_beds_high,
    prob_full,
    prob_free_1,
    expected_arrivals,
    expected_discharges,
    expected_deaths,
    forecast_age_hours,
    provisional,
    run_id
from wanted
order by source, unit, abs(extract(epoch from at - wanted_at)), at
