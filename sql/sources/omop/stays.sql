-- ICU stays from the OMOP Common Data Model 5.4. Grain: one row per version of a stay; a version holds what was known
-- by its available_at. A stay is a run of visit_detail rows of intensive care in one unit (care_site) of one visit,
-- where the next row begins at most 1 hour after the earlier ones ended; it is named after its first row. It gets a
-- version when a row begins (unless an earlier one still runs), when the last one that runs ends, at a death and at the
-- visit's end. Rows may lie within one another (beds within a unit), so what counts is how far those begun reach.
with touched as (
    select person_id from {schema}.visit_detail
    where visit_detail_start_datetime > :since - interval '1 second' and visit_detail_start_datetime <= :until
    union
    select person_id from {schema}.visit_detail
    where visit_detail_end_datetime > :since and visit_detail_end_datetime <= :until
    union
    select person_id from {schema}.visit_occurrence
    where visit_end_datetime > :since and visit_end_datetime <= :until
    union
    select person_id from {schema}.death
    where death_datetime > :since and death_datetime <= :until
        or death_date > :since - interval '1 day' and death_date <= :until
),
-- All ICU rows of these patients, since a death belongs to the last of them, also of another visit.
icu_row as (
    select
        visit_detail_id, person_id, visit_occurrence_id, care_site_id,
        visit_detail_start_datetime as begins, coalesce(visit_detail_end_datetime, 'infinity') as ends,
        row_number() over by_time = 1
            or care_site_id is distinct from lag(care_site_id) over by_time
            or visit_detail_start_datetime
                > max(coalesce(visit_detail_end_datetime, 'infinity')) over earlier_in_unit + interval '1 hour'
            as opens_stay
    from {schema}.visit_detail
    where visit_detail_concept_id in ({icu_concepts}) and visit_detail_start_datetime between '1000-01-01' and :until
        and person_id in (select person_id from touched)
    window
        by_time as (partition by visit_occurrence_id order by visit_detail_start_datetime, visit_detail_id),
        earlier_in_unit as (
            partition by visit_occurrence_id, care_site_id order by visit_detail_start_datetime, visit_detail_id
            rows between unbounded preceding and 1 preceding
        )
),
numbered as (
    select *, count(*) filter (where opens_stay) over (
        partition by visit_occurrence_id order by begins, visit_detail_id
    ) as stay_number
    from icu_row
),
joined as (
    select
        *,
        first_value(visit_detail_id) over stay as stay_id,
        first_value(begins) over stay as intime,
        max(ends) over stay as reaches,
        max(ends) over (stay rows between unbounded preceding and 1 preceding) as reached_before,
        lead(begins) over stay as next_begins
    from numbered
    window stay as (partition by visit_occurrence_id, stay_number order by begins, visit_detail_id)
),
-- An end charted before its begin cannot have been known before it: it comes right after, for the label audit to name.
stay_row as (
    select *, greatest(reaches, begins + interval '1 second') as end_known_at from joined
),
hospital as (
    select visit_occurrence_id, visit_concept_id, visit_start_datetime, visit_end_datetime
    from {schema}.visit_occurrence
    where visit_occurrence_id in (select visit_occurrence_id from icu_row)
),
-- A date alone, which is also what a death_datetime at midnight is taken for, is known when that day is over.
death as (
    select distinct on (person_id) person_id, death_date, died_at, is_a_date from (
        select
            person_id, death_date, coalesce(death_datetime = death_date, true) as is_a_date,
            case when death_datetime <> death_date then death_datetime else death_date + interval '1 day' end as died_at
        from {schema}.death
        where person_id in (select person_id from icu_row)
    ) as recorded
    order by person_id, died_at
),
-- The stay that a death belongs to is the last one begun by then, unless it ended more than 1 hour before. Where only
-- the day is recorded, it must have ended on that day, and the hospital visit must not have continued after it.
death_in_unit as (
    select stay_id, died_at
    from (
        select distinct on (r.person_id)
            r.stay_id, r.reaches, d.death_date, d.died_at, d.is_a_date,
            case when h.visit_end_datetime <= d.died_at then h.visit_end_datetime end as left_hospital
        from stay_row r
        join death d on d.person_id = r.person_id and r.begins <= d.died_at
        left join hospital h on h.visit_occurrence_id = r.visit_occurrence_id
        order by r.person_id, r.begins desc, r.visit_detail_id desc
    ) as last_row
    where reaches >= died_at - interval '1 hour'
        or is_a_date and reaches >= death_date
            and (left_hospital is null or left_hospital <= reaches + interval '1 hour')
),
version as (
    select distinct on (stay_id, available_at) * from (
        select *, begins as available_at from stay_row where reached_before is null or begins > reached_before
        union all
        select *, end_known_at from stay_row where next_begins is null or next_begins > end_known_at
        union all
        select r.*, h.visit_end_datetime
        from stay_row r join hospital h on h.visit_occurrence_id = r.visit_occurrence_id
        where r.begins <= h.visit_end_datetime
        union all
        select r.*, d.died_at from stay_row r join death d on d.person_id = r.person_id and r.begins <= d.died_at
    ) as event
    where available_at > :since and available_at <= :until
    order by stay_id, available_at, begins desc, visit_detail_id desc
)
select
    cast(v.stay_id as text) as stay_id,
    v.available_at,
    cast(v.person_id as text) as patient_id,
    c.care_site_name as unit,
    case
        when c.care_site_name ~* 'trauma|\mtsicu\M' then 'trauma'
        when c.care_site_name ~* '\mneuro|\m(nsicu|nccu|neuroicu)\M' then 'neuro'
        when c.care_site_name ~* 'cardi\w*[- ]*(vascular|thoracic|surg)|\m(cvicu|cvsicu|csicu|csru|ctsicu|cticu)\M'
            then 'cardiac_surgery'
        when c.care_site_name ~* 'cardiac|cardiology|coronary|\m(ccu|cicu)\M' then 'cardiac'
        when c.care_site_name ~* 'mixed|general|\mmed\w*\W+surg|\m(micu\W+sicu|msicu)\M' then 'mixed'
        when c.care_site_name ~* 'medical|\mmicu\M' then 'medical'
        when c.care_site_name ~* 'surgical|\msicu\M' then 'surgical'
    end as unit_type,
    v.intime,
    case
        when v.end_known_at <= v.available_at then v.reaches
        when d.died_at <= v.available_at then d.died_at
    end as outtime,
    case
        when d.died_at <= v.available_at then 'died'
        when v.end_known_at <= v.available_at then 'alive'
    end as outcome,
    'unit' as ends_at,
    cast(0 as double precision) as end_precision_hours,
    h.visit_start_datetime as hospital_intime,
    case when h.visit_end_datetime <= v.available_at then h.visit_end_datetime end as hospital_outtime,
    case when recorded.died_at <= v.available_at then recorded.died_at end as died_at,
    -- For a birth without month or day the middle of the recorded period counts.
    cast(
        extract(year from v.intime) - b.year
        - case when (extract(month from v.intime), extract(day from v.intime)) < (b.month, b.day) then 1 else 0 end
        as double precision
    ) as age_years,
    case p.gender_concept_id when 8532 then 'female' when 8507 then 'male' end as sex,
    cast(null as double precision) as height_cm,
    cast(null as double precision) as weight_kg,
    case when h.visit_concept_id in (262, 9203) then 'emergency' end as admission_type
from version v
left join {schema}.person p on p.person_id = v.person_id
cross join lateral (
    select
        coalesce(extract(year from p.birth_datetime), p.year_of_birth) as year,
        coalesce(extract(month from p.birth_datetime), p.month_of_birth, 7) as month,
        coalesce(
            extract(day from p.birth_datetime), p.day_of_birth, case when p.month_of_birth is null then 1 else 15 end
        ) as day
) as b
left join hospital h on h.visit_occurrence_id = v.visit_occurrence_id
left join death_in_unit d on d.stay_id = v.stay_id
left join death recorded on recorded.person_id = v.person_id
left join {schema}.care_site c on c.care_site_id = v.care_site_id

union all
-- A row without a usable begin is in no stay: a read from the beginning returns it to be quarantined, and counted.
select
    cast(d.visit_detail_id as text), d.visit_detail_start_datetime, cast(d.person_id as text), c.care_site_name, null,
    d.visit_detail_start_datetime, d.visit_detail_end_datetime, null, 'unit', 0, null, null, null, null, null, null, null, null
from {schema}.visit_detail d
left join {schema}.care_site c on c.care_site_id = d.care_site_id
where :since < '1800-01-01' and d.visit_detail_concept_id in ({icu_concepts})
    and (d.visit_detail_start_datetime between '1000-01-01' and '2900-01-01') is not true
