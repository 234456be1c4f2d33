-- Models of stays as the CLIF 3.0 table `model_registry`.
-- Grain: one row per (model_id): per model of stays, of any stage, and per published number.
-- Purpose: what a score of clif.scores means, and which model gave it. is_live is 1 while the model serves its source and no
--   trial of the source is open; release_date is the day it began to serve, null if it never did.
-- Units: release_date in UTC; model_version counts the models of a source.
select
    m.model_id || '/' || score.number as model_id,
    'icu-forecast ' || m.source || ': ' || score.name as model_name,
    'icu_forecast_' || score.number as model_category,
    m.version::text as model_version,
    (m.served_at at time zone 'UTC')::date as release_date,
    (
        m.stage in ('champion', 'provisional')
        and not exists (select from forecast.trial t where t.source = m.source and t.ended_at is null)
    )::integer as is_live
from forecast.model m
cross join (values
    ('mortality_risk', 'risk of death in the stay'),
    ('prolonged_stay_risk', 'probability of a stay over {prolonged_hours} hours'),
    ('discharge_24h_prob', 'probability of leaving alive within 24 hours'),
    ('discharge_48h_prob', 'probability of leaving alive within 48 hours'),
    ('discharge_72h_prob', 'probability of leaving alive within 72 hours')
) as score (number, name)
where m.name = 'stay'
