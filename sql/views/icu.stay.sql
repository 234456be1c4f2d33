-- Stays as they are known now: equal to `icu.stay_at('infinity')`.
-- Grain: one row per (source, stay_id).
-- Purpose: outcomes; never for a forecast, which reads `icu.stay_at`. Not a call of that function, because a function reads the
--   tables with the caller's rights: select on a view would not be enough.
-- Units: times UTC, end_precision_hours in hours, age in years, height in cm, weight in kg.
with newest as (
    select distinct on (v.source, v.stay_id)
        v.source, v.stay_id, v.available_at, v.patient_id, v.unit,
        first_value(v.unit_type) over versions as unit_type,
        v.intime, v.outtime, v.outcome, v.ends_at, v.end_precision_hours,
        v.hospital_intime, v.hospital_outtime, v.died_at,
        first_value(v.age_years) over versions as age_years,
        first_value(v.sex) over versions as sex,
        first_value(v.height_cm) over versions as height_cm,
        first_value(v.weight_kg) over versions as weight_kg,
        first_value(v.admission_type) over versions as admission_type,
        v.batch_id
    from icu.stay_version v
    join icu.batch b on b.batch_id = v.batch_id
    where b.ingested_at is not null
    window versions as (partition by v.source, v.stay_id order by v.available_at)
    order by v.source, v.stay_id, v.available_at desc
)
select
    k.source, k.stay_id, k.available_at, k.patient_id, k.unit, k.unit_type, k.intime, k.outtime, k.outcome, k.ends_at,
    k.end_precision_hours, k.hospital_intime, k.hospital_outtime, k.died_at, k.age_years, k.sex, k.height_cm,
    k.weight_kg, k.admission_type
from newest k
where not exists (
        select from quality.rejected_version r
        where true
            -- include parts/open_until_rejected.sql
    )
