-- ICU stays of MIMIC-IV 2.2 and 3.1. Grain: one row per version of a stay (stay_id); a version holds what was known by
-- its available_at: the admission, each move to another care unit, a death, the end, and the end of the hospital stay.
-- Written in the part of SQL that PostgreSQL, DuckDB and SQLite share. Adding nothing to a time brings the texts that
-- SQLite keeps, with or without fractions of a second, to one form, so that they compare.
with charted as (
    select
        i.stay_id, i.subject_id, i.hadm_id, i.first_careunit, a.admission_type, p.gender,
        p.anchor_age + cast(substr(cast(a.admittime as text), 1, 4) as integer) - p.anchor_year as age,
        i.intime + interval '0 hours' as intime,
        i.outtime + interval '0 hours' as outtime,
        a.admittime + interval '0 hours' as admittime,
        a.dischtime + interval '0 hours' as dischtime,
        a.deathtime + interval '0 hours' as deathtime
    from {icu}.icustays i
    -- Without their rows a stay has no age, say, and is one all the same.
    left join {hosp}.admissions a on a.hadm_id = i.hadm_id
    left join {hosp}.patients p on p.subject_id = i.subject_id
    where i.intime between '1000-01-01' and '2900-01-01'
),
stay as (
    select
        c.*,
        -- A death ends the last stay begun by then, unless that ended more than an hour before.
        case
            when c.deathtime > c.intime
                and (c.outtime is null or c.deathtime <= c.outtime + interval '1 hour')
                and (c.next_intime is null or c.deathtime < c.next_intime)
            then c.deathtime
        end as died_in_unit
    from (
        select *, lead(intime) over (partition by hadm_id order by intime, stay_id) as next_intime
        from charted
    ) as c
),
-- An end that is not after the start contradicts it: it has no version of its own, the admission carries it, and the checks of
-- the ingest quarantine that.
event as (
    select stay_id, intime as available_at from stay
    union
    select s.stay_id, t.intime + interval '0 hours'
    from {hosp}.transfers t
    join stay s on s.hadm_id = t.hadm_id and t.intime > s.intime and (s.outtime is null or t.intime < s.outtime)
    where t.careunit <> '' and t.intime > :since and t.intime <= :until
    union
    select stay_id, deathtime from stay where deathtime > intime
    union
    select stay_id, outtime from stay where outtime > intime
    union
    select stay_id, dischtime from stay where dischtime > intime
),
version as (
    select stay_id, available_at from event where available_at > :since and available_at <= :until
),
placed as (
    select
        v.stay_id, v.available_at, coalesce(t.careunit, s.first_careunit) as unit,
        row_number() over (
            partition by v.stay_id, v.available_at order by t.intime desc, t.transfer_id desc
        ) as place
    from version v
    join stay s on s.stay_id = v.stay_id
    left join {hosp}.transfers t
        on t.hadm_id = s.hadm_id and t.careunit <> ''
        and t.intime + interval '0 hours' >= s.intime and t.intime + interval '0 hours' <= v.available_at
        and (s.outtime is null or t.intime + interval '0 hours' < s.outtime)
)
select
    cast(s.stay_id as text) as stay_id,
    v.available_at,
    cast(s.subject_id as text) as patient_id,
    v.unit,
    case v.unit
        when 'Medical Intensive Care Unit (MICU)' then 'medical'
        when 'Surgical Intensive Care Unit (SICU)' then 'surgical'
        when 'Medical/Surgical Intensive Care Unit (MICU/SICU)' then 'mixed'
        when 'Trauma SICU (TSICU)' then 'trauma'
        when 'Coronary Care Unit (CCU)' then 'cardiac'
        when 'Cardiac Vascular Intensive Care Unit (CVICU)' then 'cardiac_surgery'
        when 'Neuro Surgical Intensive Care Unit (Neuro SICU)' then 'neuro'
        when 'Neuro Intermediate' then 'neuro'
        when 'Neuro Stepdown' then 'neuro'
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
    -- Ages above 89 are given as 91.
    case when s.age > 89 then 91 else s.age end as age_years,
    case s.gender when 'F' then 'female' when 'M' then 'male' end as sex,
    null as height_cm,
    null as weight_kg,
    case s.admission_type
        when 'EW EMER.' then 'emergency'
        when 'DIRECT EMER.' then 'emergency'
        when 'EU OBSERVATION' then 'emergency'
        when 'OBSERVATION ADMIT' then 'emergency'
        when 'URGENT' then 'urgent'
        when 'ELECTIVE' then 'elective'
        when 'SURGICAL SAME DAY ADMISSION' then 'elective'
    end as admission_type
from placed v
join stay s on s.stay_id = v.stay_id
where v.place = 1

union all
-- A row without a usable begin has no version: a read from the beginning returns it to be quarantined, and counted.
select
    cast(stay_id as text), intime, cast(subject_id as text), first_careunit, null, intime, outtime, null, 'unit', 0, null, null,
    null, null, null, null, null, null
from {icu}.icustays
where :since < '1800-01-01' and (intime between '1000-01-01' and '2900-01-01') is not true
