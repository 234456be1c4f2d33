-- Patients at risk now: the newest published forecasts of those still in the unit.
-- Grain: one row per (source, stay_id); per source the newest slot (greatest as_of, then greatest run_id) among the
--   published runs of kind `forecast` and role `champion` of a stay forecaster. A newer run that failed changes nothing.
-- Purpose: the list for bed managers and analysts: highest risk first, stays without a risk last.
--   A stay whose end became known after the run is left out; one re-opened by a correction is included again.
--   risk_change is the change since the previous run, null if the stay had no risk then; provisional: the model had too few
--   outcomes for a verdict when it published.
-- Units: prediction_time UTC, durations and ages in hours, risks and probabilities 0 to 1.
with
-- include parts/current_run.sql
previous_run as (
    select distinct on (p.source) p.*
    from published p
    join current_run c on c.source = p.source and p.as_of < c.as_of
    order by p.source, p.as_of desc, p.run_id desc
)
select
    f.source,
    s.unit,
    f.stay_id,
    s.patient_id,
    f.prediction_time,
    (extract(epoch from now() - f.prediction_time) / 3600)::double precision as forecast_age_hours,
    (extract(epoch from c.as_of - c.newest_observation_at) / 3600)::double precision as data_age_hours,
    (extract(epoch from f.prediction_time - s.intime) / 3600)::double precision as hours_in_stay,
    f.mortality_risk,
    f.risk_band,
    f.mortality_risk - before.mortality_risk as risk_change,
    -- include parts/beside_the_risk.sql
    f.status,
    f.status_reason,
    f.model_id,
    c.model_stage,
    c.provisional,
    c.run_id
from current_run c
-- By slot, not by run_id: a back-fill of the slot by the same model replaces its rows.
join forecast.stay_forecast f on f.model_id = c.model_id and f.source = c.source and f.prediction_time = c.as_of
-- One look-up per forecast (offset 0 enforces it): the planner underestimates the stays and would compare all with all.
cross join lateral (
    select s.unit, s.patient_id, s.intime, s.outtime, s.outcome
    from icu.stay s
    where s.source = f.source and s.stay_id = f.stay_id
    offset 0
) s
left join previous_run p on p.source = c.source
left join forecast.stay_forecast before
    on before.model_id = p.model_id and before.source = p.source
    and before.prediction_time = p.as_of and before.stay_id = f.stay_id
where s.intime <= c.known_until and ((s.outtime is null and s.outcome is null) or s.outtime > c.known_until)
order by f.mortality_risk desc nulls last, f.source, f.stay_id
