-- Observations of ICU stays of your hospital: a template. Grain: one row per charted or released value.
-- Copy the folder and put your own tables in place of ward_value; further tables follow with `union all`.
with value as (
    select
        v.stay_no,
        -- Your own code; concept_map.csv says which concept it is. Never distinguish two units by the size of a value.
        v.code as variable,
        v.unit,
        -- When it was true: for a laboratory value, when the blood was drawn.
        v.observed_ts as observed_at,
        -- When it was known: stored, or released by the laboratory. If that is not recorded, observed_ts plus a delay
        -- that covers most of them, such as `v.observed_ts + interval '3 hours'`. Never before it was true.
        case when v.observed_ts > v.stored_ts then v.observed_ts else coalesce(v.stored_ts, v.observed_ts) end as available_at,
        -- Turn into a number what is one, pass on the rest: it is quarantined with its reason.
        replace(ltrim(v.value, '<'), ',', '.') as value
    from {schema}.ward_value v
    -- The plain, indexed column: an expression here would read the whole table every hour. Rows stored before the time
    -- they were charted for are found by that time.
    where v.stored_ts > :since and v.stored_ts <= :until
        or v.observed_ts > :since and v.observed_ts <= :until
        or :since < '1800-01-01'
)
select
    cast(value.stay_no as text) as stay_id,
    value.variable,
    value.unit,
    value.observed_at,
    value.available_at,
    value.value
from value
join {schema}.ward_stay s on s.stay_no = value.stay_no and s.is_icu
where value.available_at > :since and value.available_at <= :until
    -- A read from the beginning returns rows without a usable time too: they are quarantined, and counted.
    or :since < '1800-01-01' and (value.available_at between '1000-01-01' and '2900-01-01') is not true
