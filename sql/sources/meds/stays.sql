-- ICU stays from events in the form of MEDS, in DuckDB. Grain: one row per version of a stay; a version holds what was known
-- by its available_at: the admission, a death, the end, and the end of the hospital stay.
-- An end belongs to the admission with its stay_id; where there is none, to the last admission before it.
with event as materialized (
    select
        subject_id, time, split_part(code, '//', 1) as what, split_part(code, '//', 2) as which, numeric_value, stay_id,
        greatest(time, coalesce(available_at, time)) as known_at
    from {schema}.meds_event
    where split_part(code, '//', 1) in (
        'ICU_ADMISSION', 'ICU_DISCHARGE', 'HOSPITAL_ADMISSION', 'HOSPITAL_DISCHARGE', 'MEDS_DEATH', 'MEDS_BIRTH', 'GENDER',
        'AGE', 'HEIGHT', 'WEIGHT', 'UNIT_TYPE', 'ADMISSION_TYPE'
    )
),
admission as (
    select
        subject_id, time as intime, known_at, which as unit, stay_id as given_id,
        coalesce(
            stay_id, subject_id || '-' || row_number() over (partition by subject_id order by time, which)
        ) as stay_id,
        lead(time) over (partition by subject_id order by time, which) as next_intime
    from event
    where what = 'ICU_ADMISSION' and time is not null
),
-- The first end after the begin; of a stay with an id the end with that id, even one before the begin, which the ingest quarantines.
ended as (
    select
        a.subject_id, a.stay_id, d.time as outtime, d.known_at as end_known_at, d.which = 'died' as says_died,
        row_number() over (partition by a.stay_id order by d.time) as place
    from admission a
    join event d on d.subject_id = a.subject_id and d.what = 'ICU_DISCHARGE' and d.time is not null
        and case
            when a.given_id is not null and d.stay_id is not null then d.stay_id = a.given_id
            else d.time > a.intime and (a.next_intime is null or d.time <= a.next_intime)
        end
),
of_patient as (
    select
        subject_id,
        min(time) filter (where what = 'MEDS_BIRTH') as born,
        min(time) filter (where what = 'MEDS_DEATH') as died_at,
        min(known_at) filter (where what = 'MEDS_DEATH') as death_known_at,
        min(lower(which)) filter (where what = 'GENDER') as sex
    from event
    group by subject_id
),
-- What came with the admission: at its time, and with its id where there is one.
told as (
    select
        a.stay_id,
        min(e.numeric_value) filter (where e.what = 'AGE') as age,
        min(e.numeric_value) filter (where e.what = 'HEIGHT') as height,
        min(e.numeric_value) filter (where e.what = 'WEIGHT') as weight,
        min(e.which) filter (where e.what = 'UNIT_TYPE') as unit_type,
        min(e.which) filter (where e.what = 'ADMISSION_TYPE') as admission_type
    from admission a
    join event e on e.subject_id = a.subject_id and e.time = a.intime and e.stay_id is not distinct from a.given_id
    group by a.stay_id
),
-- The hospital stay that had begun last, and its end.
in_hospital as (
    select
        a.stay_id, h.time as hospital_intime, h.which as admission_type, o.time as hospital_outtime,
        o.known_at as discharge_known_at,
        row_number() over (partition by a.stay_id order by h.time desc, o.time) as place
    from admission a
    join event h on h.subject_id = a.subject_id and h.what = 'HOSPITAL_ADMISSION' and h.time <= a.intime
    left join event o on o.subject_id = a.subject_id and o.what = 'HOSPITAL_DISCHARGE' and o.time > h.time
),
stay as (
    select
        a.*, p.born, p.sex, p.died_at, p.death_known_at, t.age, t.height, t.weight,
        e.outtime, e.end_known_at, e.says_died, t.unit_type, t.admission_type as type_of_admission,
        h.hospital_intime, h.admission_type, h.hospital_outtime, h.discharge_known_at,
        -- A death ends the last stay begun by then, unless that ended more than an hour before.
        case
            when p.died_at > a.intime
                and (e.outtime is null or p.died_at <= e.outtime + interval '1 hour')
                and (a.next_intime is null or p.died_at < a.next_intime)
            then p.died_at
        end as died_in_unit
    from admission a
    join of_patient p on p.subject_id = a.subject_id
    left join ended e on e.stay_id = a.stay_id and e.place = 1
    left join told t on t.stay_id = a.stay_id
    -- A hospital stay that ended before holds no stay that begins.
    left join in_hospital h on h.stay_id = a.stay_id and h.place = 1 and coalesce(h.hospital_outtime > a.intime, true)
),
version as (
    select stay_id, known_at as available_at from stay
    union
    select stay_id, greatest(known_at, death_known_at) from stay where died_in_unit is not null
    union
    -- An end that is not after the begin comes with the admission, and the ingest quarantines it.
    select stay_id, greatest(known_at, end_known_at) from stay where outtime is not null
    union
    select stay_id, greatest(known_at, discharge_known_at) from stay where hospital_outtime is not null
)
select
    s.stay_id,
    v.available_at,
    cast(s.subject_id as varchar) as patient_id,
    nullif(s.unit, 'UNK') as unit,
    coalesce(s.unit_type, case s.unit
        when 'Medical Intensive Care Unit (MICU)' then 'medical'
        when 'Surgical Intensive Care Unit (SICU)' then 'surgical'
        when 'Medical/Surgical Intensive Care Unit (MICU/SICU)' then 'mixed'
        when 'Trauma SICU (TSICU)' then 'trauma'
        when 'Coronary Care Unit (CCU)' then 'cardiac'
        when 'Cardiac Vascular Intensive Care Unit (CVICU)' then 'cardiac_surgery'
        when 'Neuro Surgical Intensive Care Unit (Neuro SICU)' then 'neuro'
        when 'Neuro Intermediate' then 'neuro'
        when 'Neuro Stepdown' then 'neuro'
    end) as unit_type,
    s.intime,
    case
        when s.end_known_at <= v.available_at then s.outtime
        when s.death_known_at <= v.available_at then s.died_in_unit
    end as outtime,
    case
        when s.death_known_at <= v.available_at and s.died_in_unit is not null then 'died'
        when s.end_known_at <= v.available_at then case when s.says_died then 'died' else 'alive' end
    end as outcome,
    'unit' as ends_at,
    0 as end_precision_hours,
    s.hospital_intime,
    case when s.discharge_known_at <= v.available_at then s.hospital_outtime end as hospital_outtime,
    -- A death after this hospital stay may be dated to a day only, and is not the stay's.
    case
        when s.death_known_at <= v.available_at
            and s.died_at <= coalesce(s.hospital_outtime + interval '1 day', s.died_in_unit)
        then s.died_at
    end as died_at,
    coalesce(s.age, date_sub('year', s.born, s.intime)) as age_years,
    case s.sex when 'f' then 'female' when 'm' then 'male' when 'female' then 'female' when 'male' then 'male' end as sex,
    s.height as height_cm,
    s.weight as weight_kg,
    coalesce(s.type_of_admission, case s.admission_type
        when 'EW EMER.' then 'emergency'
        when 'DIRECT EMER.' then 'emergency'
        when 'EU OBSERVATION' then 'emergency'
        when 'OBSERVATION ADMIT' then 'emergency'
        when 'URGENT' then 'urgent'
        when 'ELECTIVE' then 'elective'
        when 'SURGICAL SAME DAY ADMISSION' then 'elective'
    end) as admission_type
from version v
join stay s on s.stay_id = v.stay_id
where v.available_at > :since and v.available_at <= :until
