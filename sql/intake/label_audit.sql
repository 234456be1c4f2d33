-- Stays per fault of the label audit, among those of the temporary table `audited`, which nothing has taken over.
with stay as (
    select * from pg_temp.audited where rejected_for is null
),
version as (
    select source, stay_id, now() as available_at, 0 as batch_id from pg_temp.audited where rejected_for is null
),
rejected as (
    select source, stay_id, rejected_for as check_name, now() as known_at, 0 as batch_id, true as reports_end
    from pg_temp.audited
    where rejected_for is not null
),
audit as (
    with
    -- include parts/stay_faults.sql
)
select fault, count(distinct stay_id) as stays from audit group by fault order by fault
