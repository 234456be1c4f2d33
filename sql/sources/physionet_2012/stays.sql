-- Stays of the PhysioNet/CinC Challenge 2012. Grain: one row per version of a stay: its begin, and its end once known.
-- README.md explains the whole days of the outcomes and the handling of missing ones.
with outcome as (
    select
        record_id, set_name,
        case in_hospital_death when 1 then 'died' when 0 then 'alive' end as outcome,
        case in_hospital_death
            when 1 then case when survival >= 0 then survival + 1 end
            when 0 then case when length_of_stay >= 0 then length_of_stay end
        end as days
    from {schema}.outcome
),
ending as (
    select
        r.record_id, r.set_name, r.intime, o.outcome,
        case when o.days is not null then r.intime + greatest(o.days, 2) * interval '1 day' end as outtime,
        r.intime + case when o.days is null then 30 else greatest(o.days, 2) end * interval '1 day' as available_at
    from {schema}.record r join outcome o using (set_name, record_id)
    where o.outcome is not null
),
version as (
    select record_id, set_name, intime, intime as available_at,
        cast(null as timestamptz) as outtime, cast(null as text) as outcome
    from {schema}.record
    where intime > :since and intime <= :until
    union all
    select record_id, set_name, intime, available_at, outtime, outcome from ending
    where available_at > :since and available_at <= :until
)
select
    v.set_name || '-' || v.record_id as stay_id,
    v.available_at,
    v.set_name || '-' || v.record_id as patient_id,
    case d.icu_type
        when 1 then 'Coronary Care Unit'
        when 2 then 'Cardiac Surgery Recovery Unit'
        when 3 then 'Medical ICU'
        when 4 then 'Surgical ICU'
    end as unit,
    case d.icu_type when 1 then 'cardiac' when 2 then 'cardiac_surgery' when 3 then 'medical' when 4 then 'surgical' end
        as unit_type,
    v.intime,
    v.outtime,
    v.outcome,
    'hospital' as ends_at,
    cast(48 as double precision) as end_precision_hours,
    cast(null as timestamptz) as hospital_intime,
    v.outtime as hospital_outtime,
    case when v.outcome = 'died' then v.outtime end as died_at,
    d.age as age_years,
    case d.gender when 0 then 'female' when 1 then 'male' end as sex,
    d.height as height_cm,
    d.weight as weight_kg,
    cast(null as text) as admission_type
from version v
cross join lateral (
    select
        max(m.number) filter (where m.parameter = 'Age') as age,
        max(m.number) filter (where m.parameter = 'Gender') as gender,
        max(m.number) filter (where m.parameter = 'Height') as height,
        max(m.number) filter (where m.parameter = 'ICUType') as icu_type,
        max(m.number) filter (where m.parameter = 'Weight') as weight
    from (
        select parameter,
            nullif(case when value ~ '^-?[0-9]+([.][0-9]+)?$' then cast(value as double precision) end, -1) as number
        from {schema}.measurement
        where set_name = v.set_name and record_id = v.record_id
            and time = '00:00' and parameter in ('Age', 'Gender', 'Height', 'ICUType', 'Weight')
    ) as m
) as d
