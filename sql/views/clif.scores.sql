-- Published numbers of each stay as the CLIF 3.0 table `scores`.
-- Grain: one row per (model_id, hospitalization_id, recorded_dttm): per slot the newest published run of role `champion` and
--   kind `forecast`. Numbers that were back-filled were not there at the time, and an abstention has no score.
-- Purpose: forecasts where a CLIF consortium looks for scores. model_id is `<model>/<number>` (clif.model_registry).
--   hospitalization_id is the id of the stay; of a source read by the adapter `clif`, without the number of its ICU stay.
-- Units: recorded_dttm is the prediction time in UTC; score_value is a probability, 0 to 1.
with
-- include parts/published_slots.sql
, reader as (
    select source, (array_agg(adapter order by batch_id desc))[1] as adapter
    from icu.batch where ingested_at is not null group by source
)
select
    f.model_id || '/' || score.number as model_id,
    case reader.adapter when 'clif' then regexp_replace(f.stay_id, '-[0-9]+$', '') else f.stay_id end as hospitalization_id,
    f.prediction_time as recorded_dttm,
    score.value as score_value
from slot
join forecast.stay_forecast f
    on f.model_id = slot.model_id and f.source = slot.source and f.prediction_time = slot.as_of
left join reader on reader.source = f.source
cross join lateral (values
    ('mortality_risk', f.mortality_risk),
    ('prolonged_stay_risk', f.prolonged_stay_risk),
    ('discharge_24h_prob', f.discharge_24h_prob),
    ('discharge_48h_prob', f.discharge_48h_prob),
    ('discharge_72h_prob', f.discharge_72h_prob)
) as score (number, value)
where slot.kind = 'forecast' and score.value is not null
