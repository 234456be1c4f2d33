-- Rows of adt and of medications that the SELECTs do not read, and values without a usable time, with their
-- hospitalizations; for `source check`. All other rows of their tables are returned, and named where the map has no line.
select
    'stay' as kind, coalesce(location_category, '(none)') || ' ' || coalesce(location_name, '') as name,
    count(*) as n_rows, count(distinct hospitalization_id) as n_stays
from {schema}.adt
where location_category is distinct from 'icu'
group by location_category, location_name

union all
select
    'row', 'medication_admin_continuous ' || coalesce(med_category, '(none)') || ' in ' || coalesce(med_group, '(none)'),
    count(*), count(distinct hospitalization_id)
from {schema}.medication_admin_continuous
where med_group is distinct from 'vasoactives'
group by med_category, med_group

union all
select 'untimed', name, count(*), count(distinct hospitalization_id)
from (
    select 'vitals' as name, hospitalization_id, recorded_dttm as known_at from {schema}.vitals
    union all
    select 'labs', hospitalization_id, greatest(lab_result_dttm, lab_collect_dttm) from {schema}.labs
    union all
    select 'patient_assessments', hospitalization_id, recorded_dttm from {schema}.patient_assessments
    union all
    select 'respiratory_support', hospitalization_id, recorded_dttm from {schema}.respiratory_support
    union all
    select 'medication_admin_continuous', hospitalization_id, admin_dttm
    from {schema}.medication_admin_continuous
    where med_group = 'vasoactives'
) as held
where (known_at between '1000-01-01' and '2900-01-01') is not true
group by name
