-- Quarantined versions of stays, with the time since when each is known.
-- Grain: one row per rejected version and check.
-- Purpose: an open stay is not present from `known_at` of a newer version that reports an end, see icu.stay_at: either it
--   has ended, or nobody knows whether it has. known_at is the version's available_at, and not before the stay begins. For a
--   version that changed an accepted one in place, or without a readable available_at, it is the slot of its batch: nobody
--   knew it earlier. reports_end: it has an outtime, an outcome or a death; an outtime after known_at is only a plan.
-- Units: times UTC.
with reported as (
    select
        q.source, q."row" ->> 'stay_id' as stay_id, q.check_name, q.batch_id, b.ingested_at, b.as_of,
        btrim(concat(q."row" ->> 'outtime', q."row" ->> 'outcome', q."row" ->> 'died_at')) <> '' as has_end,
        case
            when pg_input_is_valid(q."row" ->> 'available_at', 'timestamptz')
            then (q."row" ->> 'available_at')::timestamptz
        end as available_at,
        case
            when pg_input_is_valid(q."row" ->> 'intime', 'timestamptz')
            then (q."row" ->> 'intime')::timestamptz
        end as intime,
        case
            when pg_input_is_valid(q."row" ->> 'outtime', 'timestamptz')
            then (q."row" ->> 'outtime')::timestamptz
        end as outtime
    from quality.quarantine q
    join icu.batch b on b.batch_id = q.batch_id
    where q.relation = 'stay' and q.disposition = 'rejected' and b.ingested_at is not null
),
placed as (
    select
        *,
        case
            when check_name = 'changed_without_new_available_at' or available_at is null then as_of
            else greatest(available_at, intime)
        end as known_at
    from reported
)
select
    source, stay_id, check_name, known_at, batch_id, ingested_at,
    has_end and (outtime is null or outtime <= known_at) as reports_end
from placed
