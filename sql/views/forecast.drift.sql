-- Do current observations still look like the training data? The newest evaluation of each model.
-- Grain: one row per (source, model_id, concept) of a concept with at least 100 observations in training.
-- Purpose: a variable that was renamed, changed its unit or is no longer charted shows here before it affects the scorecard.
--   psi: above 0.1 look closer, above 0.25 the distribution has changed; null below 100 observations or 20 stays in the
--   last seven days.
--   missing: share of stays without the concept in these days. wrong_unit: the median is outside the reference's 10th to 90th
--   percentile and off by a factor above 1.5. drifted: one of these, beyond chance for that many stays; watch sends an alert.
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
