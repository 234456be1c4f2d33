-- ICU stays of MIMIC-III 1.4. Grain: one row per version of a stay (icustay_id); a version holds what was known by its
-- available_at: the admission, each move to another care unit, a death, the end, and the end of the hospital stay.
-- Written in the part of SQL that PostgreSQL, DuckDB and SQLite share.
with stay as (
    select
        i.icustay_id, i.subject_id, i.hadm_id, i.first_careunit, i.intime, i.outtime,
        a.admittime, a.dischtime, a.deathtime, a.admission_type, p.dob, p.gender,
        -- A death ends the last stay begun by then, unless that ended more than an hour before.
        case
            when a.deathtime >= i.intime
                and (i.outtime is null or a.deathtime <= i.outtime + interval '1 hour')
                and (i.next_intime is null or a.deathtime < i.next_intime)
            then a.deathtime
        end as died_in_unit
    from (
        select
            icustay_id, subject_id, hadm_id, first_careunit, intime, outtime,
            lead(intime) over (partition by hadm_id order by intime, icustay_id) as next_intime
        from {schema}.icustays
    ) as i
    -- Without their rows a stay has no age, say, and is one all the same.
    left join {schema}.admissions a on a.hadm_id = i.hadm_id
    left join {schema}.patients p on p.subject_id = i.subject_id
    where i.first_careunit <> 'NICU' and i.intime between '1000-01-01' and '2900-01-01'
),
event as (
    select icustay_id, intime as available_at from stay
    union
    select s.icustay_id, t.intime
    from stay s join {schema}.transfers t on t.icustay_id = s.icustay_id and t.intime > s.intime
    union
    select icustay_id, deathtime from stay where deathtime >= intime
    union
    -- An end before the begin is passed on all the same, so that it is quarantined and counted.
    select icustay_id, case when outtime <= intime then intime + interval '1 minute' else outtime end from stay
    union
    select icustay_id, dischtime from stay where dischtime >= intime
),
version as (
    select icustay_id, available_at from event where available_at > :since and available_at <= :until
)
select
    cast(s.icustay_id as text) as stay_id,
    v.available_at,
    cast(s.subject_id as text) as patient_id,
    u.unit,
    case s.first_careunit
        when 'MICU' then 'medical'
        when 'SICU' then 'surgical'
        when 'CCU' then 'cardiac'
        when 'CSRU' then 'cardiac_surgery'
        when 'TSICU' then 'trauma'
    end as unit_type,
    s.intime,
    case
        when s.outtime <= v.available_at then s.outtime
        when s.died_in_unit <= v.available_at then s.died_in_unit
    end as outtime,
    case
        when s.died_in_unit <= v.available_at then 'died'
        when s.outtime <= v.available_at then 'alive'
    end as outcome,
    'unit' as ends_at,
    0 as end_precision_hours,
    case when s.admittime <= v.available_at then s.admittime end as hospital_intime,
    case when s.dischtime <= v.available_at then s.dischtime end as hospital_outtime,
    case when s.deathtime <= v.available_at then s.deathtime end as died_at,
    -- Those over 89 were given a birth 300 years before; their median age is published.
    case when age.years > 120 then 91.4 else age.years end as age_years,
    case s.gender when 'F' then 'female' when 'M' then 'male' end as sex,
    null as height_cm,
    null as weight_kg,
    case s.admission_type
        when 'EMERGENCY' then 'emergency'
        when 'URGENT' then 'urgent'
        when 'ELECTIVE' then 'elective'
    end as admission_type
from version v
join stay s on s.icustay_id = v.icustay_id
join (
    select
        icustay_id,
        cast(substr(cast(intime as text), 1, 4) as integer) - cast(substr(cast(dob as text), 1, 4) as integer)
            - case when substr(cast(intime as text), 6, 5) < substr(cast(dob as text), 6, 5) then 1 else 0 end as years
    from stay
) as age on age.icustay_id = s.icustay_id
join (
    select v.icustay_id, v.available_at, coalesce(t.curr_careunit, s.first_careunit) as unit,
        row_number() over (partition by v.icustay_id, v.available_at order by t.intime desc) as place
    from version v
    join stay s on s.icustay_id = v.icustay_id
    left join {schema}.transfers t
        on t.icustay_id = v.icustay_id and t.intime <= v.available_at and t.curr_careunit <> ''
) as u on u.icustay_id = v.icustay_id and u.available_at = v.available_at and u.place = 1

union all
-- A row without a usable begin has no version: a read from the beginning returns it to be quarantined, and counted.
select
    cast(icustay_id as text), intime, cast(subject_id as text), first_careunit, null, intime, outtime, null, 'unit', 0, null, null,
    null, null, null, null, null, null
from {schema}.icustays
where :since < '1800-01-01' and first_careunit <> 'NICU' and (intime between '1000-01-01' and '2900-01-01') is not true
