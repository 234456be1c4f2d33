-- Stays whose times, as they were known at `as_of`, contradict each other, from batches ingested by `ingested_by`.
-- Grain: one row per (source, stay_id, fault).
-- Purpose: what training and evaluation leave out, without look-ahead. Faults:
--   overlapping_stays: more than 1 h shared with a stay of the same patient that began earlier and has ended.
--   died_before_outtime: death more than {charting_delay_hours} h before the end of the stay (up to that it is charting delay).
--   stay_after_death: began more than 1 h after a death of the patient, recorded with any stay.
--   longer_than_hospital: ends more than {charting_delay_hours} h after hospital discharge or begins more than {early_admission_hours} h before admission.
--   negative_stay: a version that ends before it begins is quarantined, and no newer version replaced it.
--   impossible_begin: a version that begins before the source's first plausible day is quarantined, and none replaced it.
--   rejected_end: a version with the end of an open stay is quarantined for another reason, and no newer version replaced it.
-- Units: explanations count hours and hold no other value of a patient.
create function quality.stay_audit_at(as_of timestamptz, ingested_by timestamptz default 'infinity')
returns table (source text, stay_id text, fault text, explanation text)
language sql stable
begin atomic
    with stay as (
        -- Only what the rules ask for: the planner then leaves out the descriptors of the first version.
        select source, stay_id, patient_id, intime, outtime, hospital_intime, hospital_outtime, died_at
        from icu.stay_at(stay_audit_at.as_of, stay_audit_at.ingested_by)
    ),
    version as (
        select v.source, v.stay_id, v.available_at, v.batch_id
        from icu.stay_version v
        join icu.batch b on b.batch_id = v.batch_id
        where v.available_at <= stay_audit_at.as_of and b.ingested_at <= stay_audit_at.ingested_by
    ),
    rejected as (
        select * from quality.rejected_version r
        where r.known_at <= stay_audit_at.as_of and r.ingested_at <= stay_audit_at.ingested_by
    ),
    -- include parts/stay_faults.sql
    ;
end
