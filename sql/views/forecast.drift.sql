-- Does what arrives now still look like what the model learned from: the newest evaluation of each model.
-- Grain: one row per (source, model_id, concept) of a concept with at least 100 observations in training.
-- Purpose: a variable that was renamed, changed its unit or is charted no more shows here before it shows in the scorecard.
--   psi: above 0.1 look, above 0.25 it is another distribution; null below 100 observations or 20 stays in the
--   last seven days.
--   missing: share of the stays of these days without the concept. wrong_unit: the median left the outer tenths of the
--   reference and is more than 1.5 times off. drifted: one of these, beyond what chance gives among
--   so few stays; watch tells of it.
-- Units: medians in the concept's unit, shares 0 to 1; evaluated_at is the as_of of the evaluation, UTC.
with newest as (
    select distinct on (d.source, d.model_id) d.source, d.model_id, d.run_id, r.as_of
    from (select distinct source, model_id, run_id from forecast.concept_drift) d
    join forecast.run r on r.run_id = d.run_id
    where r.kind = 'evaluate' and r.status = 'published'
    order by d.source, d.model_id, r.as_of desc, d.run_id desc
)
select
    d.source, d.model_id, d.concept, d.n_observations, d.median, d.reference_median, d.psi, d.missing,
    d.reference_missing, d.wrong_unit, d.drifted, newest.as_of as evaluated_at
from newest
join forecast.concept_drift d on d.run_id = newest.run_id and d.model_id = newest.model_id
