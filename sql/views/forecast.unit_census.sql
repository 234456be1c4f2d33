-- Units now: patients, free beds, and the sums of the current forecasts.
-- Grain: one row per (source, unit) of a source that has a published forecast; the units of icu.unit and of all stays,
--   so that an empty unit shows zero. A null unit holds the patients whose unit is not known.
-- Purpose: bed planning. n_patients are in the unit as known now, without planned admissions; n_not_forecast of them have no
--   row in the current run (admitted since, for example). Neither they nor abstentions add to the expected numbers.
--   n_high_risk and expected_deaths are null if the model forecasts no risk of death.
-- Units: prediction_time UTC; counts of patients and beds; free_beds below zero means more patients than beds, null
--   if the number of beds is not known; expected numbers are sums of probabilities, in patients.
with
-- include parts/current_run.sql
known_unit as (
    select distinct on (v.source, v.unit) v.source, v.unit, v.beds
    from icu.unit v
    join current_run c on c.source = v.source
    where v.available_at <= c.known_until
    order by v.source, v.unit, v.available_at desc
),
-- Summed separately, not joined stay by stay: every row of current_risk is one of the patients.
member as (
    select
        s.source, s.unit, 1 as patient, 0 as forecast, null as status, null as risk_band, null::float8 as mortality_risk,
        false as lacks_risk, null::float8 as discharge_24h_prob, null::float8 as discharge_48h_prob, null::float8 as discharge_72h_prob
    from icu.stay s
    join current_run c on c.source = s.source
    where s.intime <= c.known_until and ((s.outtime is null and s.outcome is null) or s.outtime > c.known_until)
    union all
    select
        source, unit, 0, 1, status, risk_band, mortality_risk, status = 'scored' and mortality_risk is null,
        discharge_24h_prob, discharge_48h_prob, discharge_72h_prob
    from forecast.current_risk
    union all
    select source, unit, 0, 0, null, null, null, false, null, null, null from known_unit
    union all
    select distinct source, unit, 0, 0, null, null, null::float8, false, null::float8, null::float8, null::float8
    from icu.stay
    where unit is not null
)
select
    m.source,
    m.unit,
    c.as_of as prediction_time,
    sum(m.patient) as n_patients,
    max(u.beds) as beds,
    max(u.beds) - sum(m.patient) as free_beds,
    case when not bool_or(m.lacks_risk) then count(*) filter (where m.risk_band in ({high_risk_bands})) end as n_high_risk,
    coalesce(sum(m.discharge_24h_prob), 0) as expected_discharges_24h,
    coalesce(sum(m.discharge_48h_prob), 0) as expected_discharges_48h,
    coalesce(sum(m.discharge_72h_prob), 0) as expected_discharges_72h,
    case when not bool_or(m.lacks_risk) then coalesce(sum(m.mortality_risk), 0) end as expected_deaths,
    count(*) filter (where m.status = 'abstained') as n_abstained,
    sum(m.patient) - sum(m.forecast) as n_not_forecast,
    c.provisional,
    c.run_id
from member m
join current_run c on c.source = m.source
left join known_unit u on u.source = m.source and u.unit = m.unit
group by m.source, m.unit, c.as_of, c.provisional, c.run_id
