-- What changed since yesterday: patients who came, left or died, and risks that moved.
-- Grain: one row per (source, stay_id, change) in the 24 hours before the current run and since; a stay may have several.
-- Purpose: the hand-over. change: `admitted`, `left` (alive, or with an unknown outcome), `died`, `risk_up` or `risk_down` (by
--   more than {risk_change}). risk_before is that of the first run of these 24 hours, risk_now that of the current one; each is
--   null if the stay had none then. An end without a time is left out.
-- Units: times UTC; `at` is the time of the change, for a risk that of the current run; risks 0 to 1.
with
-- include parts/current_run.sql
since as (
    select distinct on (p.source) p.source, p.model_id, p.as_of
    from published p
    join current_run c on c.source = p.source and p.as_of < c.as_of and p.as_of >= c.as_of - interval '24 hours'
    order by p.source, p.as_of, p.run_id desc
),
stay as (
    select
        s.*, before.mortality_risk as risk_before, since.as_of as risk_before_at, f.mortality_risk as risk_now,
        c.as_of, c.known_until, c.provisional, c.run_id
    from current_run c
    join icu.stay s
        on s.source = c.source and s.intime <= c.known_until
        and (s.outtime > c.as_of - interval '24 hours' or (s.outtime is null and s.outcome is null))
    left join since on since.source = c.source
    left join forecast.stay_forecast before
        on before.model_id = since.model_id and before.source = since.source
        and before.prediction_time = since.as_of and before.stay_id = s.stay_id
    left join forecast.stay_forecast f
        on f.model_id = c.model_id and f.source = c.source and f.prediction_time = c.as_of and f.stay_id = s.stay_id
)
select
    s.source,
    s.unit,
    s.stay_id,
    s.patient_id,
    change.change,
    change.at,
    s.risk_before,
    s.risk_before_at,
    s.risk_now,
    s.as_of as prediction_time,
    s.provisional,
    s.run_id
from stay s
cross join lateral (
    values
        ('admitted', s.intime, s.intime > s.as_of - interval '24 hours'),
        (case when s.outcome = 'died' then 'died' else 'left' end, s.outtime, s.outtime <= s.known_until),
        ('risk_up', s.as_of, s.risk_now - s.risk_before > {risk_change}),
        ('risk_down', s.as_of, s.risk_before - s.risk_now > {risk_change})
) change (change, at, happened)
where change.happened
order by s.source, change.at desc, s.stay_id
