-- Drivers of the current risks, per patient.
-- Grain: one row per (source, stay_id, rank), up to five per explained stay of forecast.current_risk: all scored stays, or, if
--   there are many, those with the highest risk.
-- Purpose: what to look at first in the list. rank 1 is the strongest.
--   contribution: the log-odds of the risk less what they would be had the driver never been charted; above 0 it raises the
--   risk. Contributions do not add up, and none of them is a cause.
-- Units: last_value in value_unit, null for descriptors that are not numeric; times UTC.
select
    r.source,
    r.unit,
    r.stay_id,
    r.patient_id,
    r.prediction_time,
    r.mortality_risk,
    r.risk_band,
    d.rank,
    d.driver,
    d.direction,
    d.contribution,
    d.last_value,
    d.value_unit,
    d.last_observed_at,
    r.provisional,
    r.model_id
from forecast.current_risk r
join forecast.stay_forecast_driver d
    on d.model_id = r.model_id and d.source = r.source
    and d.prediction_time = r.prediction_time and d.stay_id = r.stay_id
order by r.mortality_risk desc nulls last, r.source, r.stay_id, d.rank
