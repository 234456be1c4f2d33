-- Observations of the PhysioNet/CinC Challenge 2012. Grain: one row per line of a stay's file, as published; lines
-- without a name or with a malformed time are passed on, so that they are quarantined and counted.
-- A file ends at hour 48, so a slice only opens the files of stays that began up to 49 hours before it.
select
    m.set_name || '-' || m.record_id as stay_id,
    m.parameter as variable,
    cast(null as text) as unit,
    t.observed_at,
    coalesce(t.observed_at, r.intime + interval '48 hours') as available_at,
    m.value
from {schema}.record r
join {schema}.measurement m on m.set_name = r.set_name and m.record_id = r.record_id
cross join lateral (
    select case when m.time ~ '^([0-3][0-9]|4[0-8]):[0-5][0-9]$' then r.intime + cast(m.time as interval) end as observed_at
) as t
where r.intime > cast(:since as timestamptz) - interval '49 hours' and r.intime <= :until
    and m.parameter is distinct from 'RecordID'
    and m.parameter is distinct from 'Age'
    and m.parameter is distinct from 'Gender'
    and m.parameter is distinct from 'Height'
    and m.parameter is distinct from 'ICUType'
    and coalesce(t.observed_at, r.intime + interval '48 hours') > :since
    and coalesce(t.observed_at, r.intime + interval '48 hours') <= :until
