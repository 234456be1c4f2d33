-- ICU stays of the eICU Collaborative Research Database 2.0. Grain: one row per version of a stay (patientunitstayid);
-- a version holds what was known by its available_at: the admission, a death in the unit, the end, and the end of the
-- hospital stay.
-- eICU keeps minutes from the unit admission and no dates; README.md explains how stays are placed on a calendar.
with timed as (
    select
        patientunitstayid, patienthealthsystemstayid, uniquepid, hospitaladmitoffset,
        hospitaldischargeoffset, hospitaldischargestatus, unitdischargeoffset, unitdischargestatus,
        -- A year or a time of day that is none would stop the whole read.
        case when cast(unitadmittime24 as text) ~ '^([01]?\d|2[0-3])(:[0-5]\d){1,2}(\.\d+)?$' then cast(unitadmittime24 as time) end
            as begins,
        case when cast(hospitaldischargeyear as integer) between 1000 and 2900 then
            make_date(cast(hospitaldischargeyear as integer), 1, 1) + cast(patientunitstayid % 365 as integer)
        end as day
    from {schema}.patient
),
hospital_stay as (
    -- The first unit stay is the one closest to the hospital's admission.
    select distinct on (patienthealthsystemstayid)
        patienthealthsystemstayid, hospitaladmitoffset, begins,
        coalesce(uniquepid, cast(patienthealthsystemstayid as text)) as patient, day,
        -- Minutes of that day at which the patient comes to the hospital, and those until everything known has ended.
        extract(epoch from begins) / 60 + hospitaladmitoffset as admitted,
        greatest(max(greatest(hospitaldischargeoffset, unitdischargeoffset) - hospitaladmitoffset) over own, 0) as lasts,
        -- After a death there is no other hospital stay, and after one that still runs there is none yet.
        coalesce(bool_or(
            hospitaldischargeoffset is null or 'Expired' in (hospitaldischargestatus, unitdischargestatus)
        ) over own, false) as is_last
    from timed
    window own as (partition by patienthealthsystemstayid)
    order by patienthealthsystemstayid, hospitaladmitoffset desc nulls last, patientunitstayid
),
-- The hospital stays of a patient follow each other: one that would begin before the one before has ended is moved on by
-- whole days.
numbered as (
    select
        *, day + cast(floor(admitted / 1440) as integer) as first_day,
        cast(coalesce(sum(floor((admitted + lasts) / 1440) - floor(admitted / 1440) + 1) over earlier, 0) as integer)
            as days_before
    from hospital_stay
    window earlier as (
        partition by patient order by is_last, day, patienthealthsystemstayid
        rows between unbounded preceding and 1 preceding
    )
),
first_unit_stay as (
    select
        patienthealthsystemstayid, hospitaladmitoffset,
        day + begins + (max(first_day - days_before) over until_now + days_before - first_day) * interval '1 day'
            as intime
    from numbered
    window until_now as (partition by patient order by is_last, day, patienthealthsystemstayid)
),
laid_out as (
    select
        p.patientunitstayid, p.patienthealthsystemstayid, p.gender, p.age, p.hospitalid, p.wardid,
        p.admissionheight, p.hospitaladmitoffset, p.hospitaladmitsource, p.hospitaldischargeoffset,
        p.hospitaldischargestatus, p.unittype, p.unitadmitsource, p.unitstaytype,
        p.admissionweight, p.unitdischargeoffset, p.unitdischargestatus, p.uniquepid,
        f.intime + (f.hospitaladmitoffset - p.hospitaladmitoffset) * interval '1 minute' as intime,
        f.hospitaladmitoffset - p.hospitaladmitoffset as minutes_after_first
    from {schema}.patient p
    join first_unit_stay f on f.patienthealthsystemstayid = p.patienthealthsystemstayid
),
-- A stay in a step-down bed is no ICU stay, yet who moved to one has left the unit.
followed as (
    select
        *,
        lead(minutes_after_first) over (
            partition by patienthealthsystemstayid order by minutes_after_first, patientunitstayid
        ) - minutes_after_first as next_unit_stay_offset
    from laid_out
),
judged as (
    select
        *,
        case when hospitaldischargestatus = 'Expired' then hospitaldischargeoffset end as death_offset,
        -- No table holds the time of a death: it is taken from the discharge of the hospital or of the unit, whichever
        -- came first. A death up to an hour after the end of the stay is the unit's, unless another unit has begun.
        least(
            case
                when hospitaldischargestatus = 'Expired' and hospitaldischargeoffset > 0
                    and (unitdischargeoffset is null or hospitaldischargeoffset <= unitdischargeoffset + 60)
                    and (next_unit_stay_offset is null or hospitaldischargeoffset < next_unit_stay_offset)
                then hospitaldischargeoffset
            end,
            case when unitdischargestatus = 'Expired' then unitdischargeoffset end
        ) as death_in_unit_offset
    from followed
    where unitstaytype is distinct from 'stepdown/other' and unittype is distinct from 'SDU/Step down'
),
stay as (
    select
        *,
        intime + unitdischargeoffset * interval '1 minute' as outtime,
        intime + hospitaldischargeoffset * interval '1 minute' as hospital_outtime,
        intime + death_in_unit_offset * interval '1 minute' as died_in_unit,
        -- An end that is charted for before the begin is known after the admission too, or the stay would begin ended.
        intime + greatest(unitdischargeoffset, 1) * interval '1 minute' as end_known_at,
        intime + greatest(hospitaldischargeoffset, 1) * interval '1 minute' as hospital_end_known_at,
        intime + greatest(death_in_unit_offset, 1) * interval '1 minute' as death_known_at
    from judged
),
event as (
    select patientunitstayid, intime as available_at from stay
    union
    select patientunitstayid, death_known_at from stay where died_in_unit is not null
    union
    select patientunitstayid, end_known_at from stay where outtime is not null
    union
    select patientunitstayid, hospital_end_known_at from stay where hospital_outtime is not null
),
version as (
    select patientunitstayid, available_at from event
    where available_at > :since and available_at <= :until
        -- A stay without a begin is in no slice: a read from the beginning returns it to be quarantined, and counted.
        or :since < '1800-01-01' and available_at is null
)
select
    cast(s.patientunitstayid as text) as stay_id,
    v.available_at,
    s.uniquepid as patient_id,
    s.unittype || ' ward ' || s.wardid || ' of hospital ' || s.hospitalid as unit,
    case s.unittype
        when 'MICU' then 'medical'
        when 'SICU' then 'surgical'
        when 'Cardiac ICU' then 'cardiac'
        when 'CCU-CTICU' then 'cardiac'
        when 'CTICU' then 'cardiac_surgery'
        when 'CSICU' then 'cardiac_surgery'
        when 'Neuro ICU' then 'neuro'
        when 'Med-Surg ICU' then 'mixed'
        when 'Burn-Trauma ICU' then 'trauma'
    end as unit_type,
    s.intime,
    case
        when s.outtime is not null and s.end_known_at <= v.available_at then s.outtime
        when s.death_known_at <= v.available_at then s.died_in_unit
    end as outtime,
    case
        when s.died_in_unit is not null and s.death_known_at <= v.available_at then 'died'
        when s.outtime is not null and s.end_known_at <= v.available_at and s.unitdischargestatus = 'Alive' then 'alive'
    end as outcome,
    'unit' as ends_at,
    0 as end_precision_hours,
    s.intime + s.hospitaladmitoffset * interval '1 minute' as hospital_intime,
    case when s.hospital_end_known_at <= v.available_at then s.hospital_outtime end as hospital_outtime,
    case
        when s.died_in_unit is not null and s.death_known_at <= v.available_at then s.died_in_unit
        when s.death_offset is not null and s.hospital_end_known_at <= v.available_at then s.hospital_outtime
    end as died_at,
    -- Ages over 89 are withheld; 90 is the youngest that they can be.
    case when s.age = '> 89' then 90 when s.age ~ '^[0-9]+$' then cast(s.age as integer) end as age_years,
    case s.gender when 'Female' then 'female' when 'Male' then 'male' end as sex,
    s.admissionheight as height_cm,
    s.admissionweight as weight_kg,
    case
        when s.hospitaladmitsource in ('Emergency Department', 'Emergency Room')
            or s.unitadmitsource in ('Emergency Department', 'Emergency Room')
        then 'emergency'
    end as admission_type
from version v
join stay s on s.patientunitstayid = v.patientunitstayid
