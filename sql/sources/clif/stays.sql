-- ICU stays from CLIF 2.1 and 3.0, which spells its words in lower case. Grain: one row per version of a stay; a version holds what was charted by available_at.
-- A stay is a run of adt rows of category icu in one unit (location_name) of one hospitalization, where the next row
-- begins at most 1 hour after the last one ended. It gets a version when a row begins (unless it joins the last one
-- without a gap), when a row ends (unless the next one joins it), and when the hospitalization ends.
with touched as (
    select hospitalization_id from {schema}.adt
    where location_category = 'icu' and in_dttm > :since and in_dttm <= :until
    union
    select hospitalization_id from {schema}.adt
    where location_category = 'icu' and out_dttm > :since and out_dttm <= :until
    union
    select hospitalization_id from {schema}.hospitalization
    where discharge_dttm > :since and discharge_dttm <= :until
),
icu_row as (
    select
        hospitalization_id, location_name, location_type, in_dttm, out_dttm,
        row_number() over by_time = 1
            or location_name is distinct from lag(location_name) over by_time
            or in_dttm > lag(coalesce(out_dttm, 'infinity')) over by_time + interval '1 hour' as opens_stay,
        coalesce(in_dttm <= lag(coalesce(out_dttm, 'infinity')) over by_time, false) as joins_last
    from {schema}.adt
    where location_category = 'icu' and in_dttm > '1000-01-01'
        and hospitalization_id in (select hospitalization_id from touched)
    window by_time as (partition by hospitalization_id order by in_dttm, out_dttm, location_name)
),
numbered as (
    select *, count(*) filter (where opens_stay) over (
        partition by hospitalization_id order by in_dttm, out_dttm, location_name
    ) as stay_number
    from icu_row
),
stay_row as (
    select
        *,
        min(in_dttm) over (partition by hospitalization_id, stay_number) as intime,
        coalesce(lead(in_dttm) over (
            partition by hospitalization_id, stay_number order by in_dttm, out_dttm, location_name
        ) <= out_dttm, false) as next_joins
    from numbered
),
hospital as (
    select
        hospitalization_id, patient_id, admission_dttm, discharge_dttm, age_at_admission, admission_type_category,
        lower(discharge_category) = 'expired' as expired
    from {schema}.hospitalization
    where hospitalization_id in (select hospitalization_id from touched)
),
-- The stay that a death belongs to is the last one begun by then, unless it ended more than 1 hour before.
death as (
    select hospitalization_id, stay_number, discharge_dttm as died_at
    from (
        select distinct on (hospitalization_id) hospitalization_id, stay_number, out_dttm, discharge_dttm
        from stay_row join hospital using (hospitalization_id)
        where expired and in_dttm <= discharge_dttm
        order by hospitalization_id, in_dttm desc, out_dttm desc
    ) as last_row
    where out_dttm is null or out_dttm >= discharge_dttm - interval '1 hour'
),
version as (
    select distinct on (hospitalization_id, stay_number, available_at) * from (
        select *, in_dttm as available_at from stay_row where opens_stay or not joins_last
        union all
        select *, out_dttm from stay_row where out_dttm is not null and not next_joins
        union all
        select r.*, h.discharge_dttm from stay_row r join hospital h using (hospitalization_id)
        where r.in_dttm <= h.discharge_dttm
    ) as event
    where available_at > :since and available_at <= :until
    order by hospitalization_id, stay_number, available_at, in_dttm desc, out_dttm desc
)
select
    v.hospitalization_id || '-' || v.stay_number as stay_id,
    v.available_at,
    h.patient_id,
    v.location_name as unit,
    case
        when v.location_name ~* 'trauma' then 'trauma'
        when v.location_type = 'medical_icu' then 'medical'
        when v.location_type = 'surgical_icu' then 'surgical'
        when v.location_type = 'cardiac_icu' then 'cardiac'
        when v.location_type in ('cvicu_icu', 'cardiothoracic_surgical_icu', 'mixed_cardiothoracic_icu')
        then 'cardiac_surgery'
        when v.location_type in ('neuro_icu', 'neurosurgical_icu', 'mixed_neuro_icu') then 'neuro'
        when v.location_type = 'general_icu' then 'mixed'
    end as unit_type,
    v.intime,
    case
        when v.out_dttm <= v.available_at then v.out_dttm
        when d.died_at <= v.available_at then d.died_at
    end as outtime,
    case
        when d.died_at <= v.available_at then 'died'
        when v.out_dttm <= v.available_at then 'alive'
    end as outcome,
    'unit' as ends_at,
    cast(0 as double precision) as end_precision_hours,
    h.admission_dttm as hospital_intime,
    case when h.discharge_dttm <= v.available_at then h.discharge_dttm end as hospital_outtime,
    case when h.expired and h.discharge_dttm <= v.available_at then h.discharge_dttm end as died_at,
    cast(h.age_at_admission as double precision) as age_years,
    case lower(p.sex_category) when 'female' then 'female' when 'male' then 'male' end as sex,
    cast(null as double precision) as height_cm,
    cast(null as double precision) as weight_kg,
    case lower(h.admission_type_category)
        when 'ed' then 'emergency'
        when 'direct' then 'urgent'
        when 'facility' then 'urgent'
        when 'osh' then 'urgent'
        when 'elective' then 'elective'
    end as admission_type
from version v
-- Without a row of hospitalization there is no patient: returned to be quarantined.
left join hospital h using (hospitalization_id)
left join death d using (hospitalization_id, stay_number)
left join {schema}.patient p on p.patient_id = h.patient_id

union all
-- A row without a usable begin is in no stay: a read from the beginning returns it to be quarantined, and counted.
select
    a.hospitalization_id || '-without-begin', a.in_dttm, h.patient_id, a.location_name, null, a.in_dttm, a.out_dttm, null,
    'unit', 0, null, null, null, null, null, null, null, null
from {schema}.adt a
left join {schema}.hospitalization h using (hospitalization_id)
where :since < '1800-01-01' and a.location_category = 'icu'
    and (a.in_dttm between '1000-01-01' and '2900-01-01') is not true
