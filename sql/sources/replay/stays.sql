-- Stays of the made-up hospital. Grain: one row per version of a stay, as the loader wrote it.
select
    s.stay_id, s.available_at, s.patient_id, s.unit, s.unit_type, s.intime, s.outtime, s.outcome,
    'unit' as ends_at,
    s.end_precision_hours, s.hospital_intime, s.hospital_outtime, s.died_at,
    s.age_years, s.sex, s.height_cm, s.weight_kg, s.admission_type
from {schema}.replay_stay s
where s.available_at > :since and s.available_at <= :until
