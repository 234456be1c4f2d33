-- Concepts of visit_detail and measurement that the SELECTs do not read, with their rows and persons; for `source check`.
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
