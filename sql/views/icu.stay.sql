-- Stays as they are known now: equal to `icu.stay_at('infinity')`.
-- Grain: one row per (source, stay_id).
-- Purpose: outcomes; never for a forecast, which reads `icu.stay_at`. Not a call of that function, because a function reads the
--   tables with the caller's rights: select on a view would not be enough.
-- Units: times UTC, end_precision_hours in hours, age in years, height in cm, weight in kg.
select distinct on (v.source, v.stay_id)
    v.source, v.stay_id, v.available_at, v.patient_id, v.unit,
    first_value(v.unit_type) over versions as unit_type,
    v.intime, v.outtime, v.outcome, v.ends_at, v.end_precision_hours,
    v.hospital_intime, v.hospital_outtime, v.died_at,
    first_value(v.age_years) over versions as age_years,
    first_value(v.sex) over versions as sex,
    first_value(v.height_cm) over versions as height_cm,
    first_value(v.weight_kg) over versions as weight_kg,
    first_value(v.admission_type) over versions as admission_type
from icu.stay_version v
join icu.batch b on b.batch_id = v.batch_id
where b.ingested_at is not null
window versions as (partition by v.source, v.stay_id order by v.available_at)
order by v.source, v.stay_id, v.available_at desc
