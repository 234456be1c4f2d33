-- Observations of the PhysioNet/CinC Challenge 2012. Grain: one row per line of a stay's file, as published; lines
-- without a name or with a malformed time are passed on, so that they are quarantined and counted. The lines of urine of
-- one minute are its ways out, and are added up.
-- Every time that a file may hold is listed once, which is faster than to parse each line's.
-- A file ends at hour 48, so a slice only opens the files of stays that began up to 49 hours before it.
with minute as materialized (
    select to_char(n / 60, 'fm00') || ':' || to_char(n % 60, 'fm00') as time, n * interval '1 minute' as since_intime
    from generate_series(0, 48 * 60 + 59) as n
)
select
    r.set_name || '-' || r.record_id as stay_id,
    m.parameter as variable,
    cast(null as text) as unit,
    t.observed_at,
    coalesce(t.observed_at, r.intime + interval '48 hours') as available_at,
    m.value
from {schema}.record r
cross join lateral (
    select time, parameter, value from {schema}.measurement
    where set_name = r.set_name and record_id = r.record_id
        and not (parameter is not distinct from 'Urine' and value is not null and value ~ '^[0-9]+\.?[0-9]*$')
    union all
    select time, parameter, cast(sum(cast(value as numeric)) as text) from {schema}.measurement
    where set_name = r.set_name and record_id = r.record_id
        and parameter = 'Urine' and value ~ '^[0-9]+\.?[0-9]*$'
    group by time, parameter
) as m
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
