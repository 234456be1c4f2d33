-- Forecasts of each stay over time.
-- Grain: one row per (source, stay_id, prediction_time): per slot the newest published run of role `champion` and
--   kind `forecast` or `backfill`; rows of an older champion for the same slot stay in `forecast.stay_forecast`.
-- Purpose: the course of one patient, and what readers saw at a given time.
--   risk_change is the change since the stay's previous row, null in the first row and next to an abstention.
-- Units: prediction_time UTC, durations in hours, risks and probabilities 0 to 1.
with
-- include parts/published_slots.sql
select
    f.source,
    s.unit,
    f.stay_id,
    s.patient_id,
    f.prediction_time,
    (extract(epoch from f.prediction_time - s.intime) / 3600)::double precision as hours_in_stay,
    f.mortality_risk,
    f.risk_band,
    f.mortality_risk - lag(f.mortality_risk) over course as risk_change,
    -- include parts/beside_the_risk.sql
    f.status,
    f.status_reason,
    slot.kind,
    f.model_id,
    slot.model_stage,
    coalesce(slot.model_stage = 'provisional', false) as provisional,
    slot.run_id
from slot
join forecast.stay_forecast f
    on f.model_id = slot.model_id and f.source = slot.source and f.prediction_time = slot.as_of
left join icu.stay s on s.source = f.source and s.stay_id = f.stay_id
window course as (partition by f.source, f.stay_id order by f.prediction_time)
