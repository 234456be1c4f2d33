-- Observations of the PhysioNet/CinC Challenge 2012. Grain: one row per line of a stay's file, as published; lines
-- without a name or with a malformed time are passed on, so that they are quarantined and counted.
-- Every time that a file may hold is listed once, which is faster than to parse each line's.
-- A file ends at hour 48, so a slice only opens the files of stays that began up to 49 hours before it.
with minute as materialized (
    select to_char(n / 60, 'fm00') || ':' || to_char(n % 60, 'fm00') as time, n * interval '1 minute' as since_intime
    from generate_series(0, 48 * 60 + 59) as n
)
select
    m.set_name || '-' || m.record_id as stay_id,
    m.parameter as variable,
    cast(null as text) as unit,
    t.observed_at,
    coalesce(t.observed_at, r.intime + interval '48 hours') as available_at,
    m.value
from {schema}.record r
join {schema}.measurement m on m.set_name = r.set_name and m.record_id = r.record_id
left join minute on minute.time = m.time
cross join lateral (select r.intime + minute.since_intime as observed_at) as t
where r.intime > cast(:since as timestamptz) - interval '49 hours' and r.intime <= :until
    and m.parameter is distinct from 'RecordID'
    and m.parameter is distinct from 'Age'
    and m.parameter is distinct from 'Gender'
    and m.parameter is distinct from 'Height'
    and m.parameter is distinct from 'ICUType'
    and coalesce(t.observed_at, r.intime + interval '48 hours') > :since
    and coalesce(t.observed_at, r.intime + interval '48 hours') <= :until
