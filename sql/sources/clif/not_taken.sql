-- Rows of adt and of medications that the SELECTs do not read, with their hospitalizations; for `source check`. All other
-- rows of their tables are returned, and named where the map has no line.
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
