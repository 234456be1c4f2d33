-- Concepts of visit_detail and measurement that the SELECTs do not read, and measurements without a usable time, with
-- their rows and persons; for `source check`.
select
    'stay' as kind, v.visit_detail_concept_id || coalesce(' ' || c.care_site_name, '') as name,
    count(*) as n_rows, count(distinct v.person_id) as n_stays
from {schema}.visit_detail v
left join {schema}.care_site c on c.care_site_id = v.care_site_id
where v.visit_detail_concept_id not in ({icu_concepts})
group by v.visit_detail_concept_id, c.care_site_name

union all
-- A concept is shown with one of the names that its rows have in the source of the OMOP tables.
select
    'row', 'measurement ' || measurement_concept_id || coalesce(' ' || min(measurement_source_value), ''),
    count(*), count(distinct person_id)
from {schema}.measurement
where measurement_concept_id not in ({items})
group by measurement_concept_id

union all
select 'untimed', 'measurement', count(*), count(distinct person_id)
from {schema}.measurement
where measurement_concept_id in ({items})
    and (coalesce(measurement_datetime, measurement_date) between '1000-01-01' and '2900-01-01') is not true
having count(*) > 0
