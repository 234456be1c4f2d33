-- Stays whose times contradict each other as they are known now: equal to `quality.stay_audit_at('infinity')`.
-- Grain: one row per (source, stay_id, fault); the faults are those of the function.
-- Purpose: questions for the owner of the source. Not a call of the function, for the reason given in icu.stay.
-- Units: explanations count hours and hold no other value of a patient.
with stay as (
    select source, stay_id, patient_id, intime, outtime, hospital_intime, hospital_outtime, died_at from icu.stay
),
version as (
    select source, stay_id, available_at, batch_id from icu.stay_version
),
rejected as (
    select * from quality.rejected_version
),
-- include parts/stay_faults.sql
