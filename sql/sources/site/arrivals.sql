-- Planned admissions, transfers and discharges of your hospital: a template, optional. Grain: one row per version of a plan,
-- that is, all that was known of it at available_at. Without such plans remove this file, and ward_plan from source.yaml.
select
    -- Unique in the source, the same in all versions of a plan.
    cast(p.plan_no as text) as planned_id,
    -- Where the patient comes to; of a discharge, the unit that the patient leaves. The names of stays.sql.
    p.ward as unit,
    case p.kind_code when 'A' then 'admission' when 'T' then 'transfer' when 'D' then 'discharge' end as kind,
    -- When it is to happen.
    p.planned_ts as expected_at,
    -- When this version was entered. A plan that is moved, cancelled or done gives another row with a later available_at.
    p.entered_ts as available_at,
    -- That it happens at all, 0 to 1. If nobody states it, the share of such plans that came true.
    p.likelihood_percent / 100 as probability,
    case p.state_code when 'O' then 'planned' when 'X' then 'cancelled' when 'E' then 'done' end as status,
    -- Of a transfer or discharge, the stay that ends; null for a patient who is not in an ICU yet.
    cast(p.stay_no as text) as stay_id
from {schema}.ward_plan p
-- ICUs only: a plan for any other ward is quarantined.
where p.is_icu
    and (
        p.entered_ts > :since and p.entered_ts <= :until
        -- A read from the beginning returns rows without a usable time too: they are quarantined, and counted.
        or :since < '1800-01-01' and (p.entered_ts between '1000-01-01' and '2900-01-01') is not true
    )
