-- What acting on a risk band would mean: patients flagged per day, sensitivity, positive predictive value.
-- Grain: one row per (source, model_id, role, risk_band); a band includes those above it.
-- Purpose: to choose the band that triggers a call. flagged_per_day: mean number of different patients flagged per day (UTC)
--   with forecasts. sensitivity: share of the deaths that were ever flagged. ppv: share of the flagged stays that died. Only
--   stays with a known outcome that the audit does not exclude: open stays, and so the newest days, do not count.
-- Units: counts of days and stays; shares 0 to 1, null if the denominator is 0.
with band (risk_band, rank) as (
    values {ranked_risk_bands}
),
scored as (
    select o.source, o.model_id, o.role, o.stay_id, o.died, band.rank, date_trunc('day', o.prediction_time, 'UTC') as day
    from forecast.forecast_outcome o
    join band on band.risk_band = o.risk_band
    where o.died is not null and not o.excluded
),
stay as (
    select source, model_id, role, stay_id, bool_or(died) as died, max(rank) as highest
    from scored
    group by source, model_id, role, stay_id
),
flagged_on_a_day as (
    select s.source, s.model_id, s.role, s.day, band.rank, count(distinct s.stay_id) filter (where s.rank >= band.rank) as n
    from scored s
    cross join band
    group by s.source, s.model_id, s.role, s.day, band.rank
),
per_day as (
    select source, model_id, role, rank, count(*) as n_days, avg(n)::double precision as flagged_per_day
    from flagged_on_a_day
    group by source, model_id, role, rank
)
select
    p.source,
    p.model_id,
    p.role,
    band.risk_band,
    p.n_days,
    p.flagged_per_day,
    count(*) as n_stays,
    count(*) filter (where stay.died) as n_died,
    count(*) filter (where stay.highest >= band.rank) as n_flagged,
    (count(*) filter (where stay.died and stay.highest >= band.rank))::double precision
        / nullif(count(*) filter (where stay.died), 0) as sensitivity,
    (count(*) filter (where stay.died and stay.highest >= band.rank))::double precision
        / nullif(count(*) filter (where stay.highest >= band.rank), 0) as ppv
from per_day p
join band on band.rank = p.rank
join stay on stay.source = p.source and stay.model_id = p.model_id and stay.role = p.role
group by p.source, p.model_id, p.role, band.risk_band, band.rank, p.n_days, p.flagged_per_day
