-- Observations of ICU stays from the OMOP Common Data Model 5.4. Grain: one row per measured value, as measured; a
-- value stored twice is returned once. {items} is replaced by the concepts of concept_map.csv: others are not read.
-- Likewise {icu_concepts} by the list of source.yaml and {delays} by the column delay_hours of the map.
-- A value belongs to the ICU row of visit_detail in which it was observed, or to the patient's next one where that
-- begins within 24 hours, and is known to that stay from its row's begin at the earliest.
with measured as (
    select
        person_id,
        cast(measurement_concept_id as text) as variable,
        -- Zero means a unit that was given but not mapped; the text names it.
        coalesce(cast(nullif(unit_concept_id, 0) as text), nullif(btrim(unit_source_value), '')) as unit,
        -- A date alone: the value was taken about noon, and before the day was over.
        coalesce(measurement_datetime, measurement_date + interval '12 hours') as observed_at,
        coalesce(measurement_datetime, measurement_date + interval '1 day') as taken_by,
        measurement_source_value as source_value, value_as_number,
        -- OMOP keeps one time. The map says how many hours later a concept is known, the laboratory's 3 where it does not.
        case
            when measurement_type_concept_id = 32856 then greatest(coalesce(delay.hours, 3), 3)
            else coalesce(delay.hours, 3)
        end as delay_hours,
        case
            -- The share of oxygen comes as a fraction and in per cent, also under the unit of the other.
            when measurement_concept_id in (3020716, 3024882, 3026238, 42869590) and value_as_number > 1
            then cast(value_as_number / 100 as text)
            -- A result beyond a limit of detection counts as the limit, whether a concept or the text says so.
            else coalesce(
                cast(value_as_number as text),
                nullif(btrim(value_source_value, '<>= '), ''),
                'concept ' || cast(nullif(value_as_concept_id, 0) as text)
            )
        end as value
    from {schema}.measurement
    left join (values {delays}) as delay (concept_id, hours) on delay.concept_id = measurement_concept_id
    where measurement_concept_id in ({items})
        and (
            measurement_datetime > :since - interval '24 hours' and measurement_datetime <= :until
            or measurement_datetime is null
                and measurement_date > :since - interval '36 hours' and measurement_date <= :until
        )
),
dated as (
    select *, taken_by + delay_hours * interval '1 hour' as known_at from measured where value is not null
),
known as (
    select person_id, variable, unit, observed_at, known_at, value from dated
    where not (variable = '3014315' and value_as_number is not null)

    union all
    -- Urine leaves by several ways, each with a row of its own: those of one time are added up.
    select person_id, variable, unit, observed_at, known_at, cast(sum(value_as_number) as text)
    from (
        select distinct person_id, variable, unit, observed_at, known_at, source_value, value_as_number from dated
        where variable = '3014315' and value_as_number is not null
    ) as way_out
    group by person_id, variable, unit, observed_at, known_at
),
-- Rows and the names of their stays as in stays.sql; where ICU rows overlap, the later one takes over from its begin.
icu_row as (
    select
        visit_detail_id, person_id, visit_occurrence_id,
        visit_detail_start_datetime as begins, coalesce(visit_detail_end_datetime, 'infinity') as ends,
        row_number() over by_time = 1
            or care_site_id is distinct from lag(care_site_id) over by_time
            or visit_detail_start_datetime
                > max(coalesce(visit_detail_end_datetime, 'infinity')) over earlier_in_unit + interval '1 hour'
            as opens_stay
    from {schema}.visit_detail
    where visit_detail_concept_id in ({icu_concepts}) and visit_detail_start_datetime between '1000-01-01' and :until
        and person_id in (select person_id from known)
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
        visit_detail_id, person_id, begins,
        first_value(visit_detail_id) over stay as stay_id,
        max(ends) over stay as reaches
    from numbered
    window stay as (partition by visit_occurrence_id, stay_number order by begins, visit_detail_id)
),
bounded as (
    select *, least(reaches, lead(begins) over by_time) as ends_by
    from joined
    window by_time as (partition by person_id order by begins, visit_detail_id)
),
stay_row as (
    select
        person_id, stay_id, begins, ends_by,
        greatest(begins - interval '24 hours', lag(ends_by) over by_time) as takes_from
    from bounded
    window by_time as (partition by person_id order by begins, visit_detail_id)
)
select distinct
    cast(s.stay_id as text) as stay_id, k.variable, k.unit, k.observed_at,
    greatest(k.known_at, s.begins) as available_at, k.value
from known k
join stay_row s on s.person_id = k.person_id and k.observed_at >= s.takes_from and k.observed_at < s.ends_by
where greatest(k.known_at, s.begins) > :since and greatest(k.known_at, s.begins) <= :until
