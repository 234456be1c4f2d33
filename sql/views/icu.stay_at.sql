-- Stays as they were known at `as_of`, from batches ingested by `ingested_by`.
-- Grain: one row per (source, stay_id); stays that begin after `as_of` are left out.
-- Purpose: the only way to read stays for a forecast or a training set without look-ahead.
--   The row is the newest version with available_at <= as_of. Its descriptors (age_years, sex, height_cm, weight_kg,
--   admission_type, unit_type) are those of the first version known by then, so that a later correction cannot change
--   what a model saw earlier. An end after `as_of` is hidden with its outcome, as are later times of death and
--   of hospital discharge. An open stay whose end is quarantined is left out from when that end was known.
-- Units: times UTC, end_precision_hours in hours, age in years, height in cm, weight in kg.
create function icu.stay_at(as_of timestamptz, ingested_by timestamptz default 'infinity')
returns table (
    source text, stay_id text, available_at timestamptz, patient_id text, unit text, unit_type text,
    intime timestamptz, outtime timestamptz, outcome text, ends_at text, end_precision_hours double precision,
    hospital_intime timestamptz, hospital_outtime timestamptz, died_at timestamptz,
    age_years double precision, sex text, height_cm double precision, weight_kg double precision, admission_type text
)
language sql stable
begin atomic
    with newest as (
        select distinct on (v.source, v.stay_id)
            v.*,
            coalesce(v.outtime > stay_at.as_of, false) as ends_later,
            first_value(v.unit_type) over versions as first_unit_type,
            first_value(v.age_years) over versions as first_age_years,
            first_value(v.sex) over versions as first_sex,
            first_value(v.height_cm) over versions as first_height_cm,
            first_value(v.weight_kg) over versions as first_weight_kg,
            first_value(v.admission_type) over versions as first_admission_type
        from icu.stay_version v
        join icu.batch b on b.batch_id = v.batch_id
        where v.available_at <= stay_at.as_of and b.ingested_at <= stay_at.ingested_by
        window versions as (partition by v.source, v.stay_id order by v.available_at)
        order by v.source, v.stay_id, v.available_at desc
    )
    select
        k.source, k.stay_id, k.available_at, k.patient_id, k.unit, k.first_unit_type,
        k.intime,
        case when not k.ends_later then k.outtime end,
        case when not k.ends_later then k.outcome end,
        k.ends_at, k.end_precision_hours,
        k.hospital_intime,
        case when not k.ends_later and k.hospital_outtime <= stay_at.as_of then k.hospital_outtime end,
        case when not k.ends_later and k.died_at <= stay_at.as_of then k.died_at end,
        k.first_age_years, k.first_sex, k.first_height_cm, k.first_weight_kg, k.first_admission_type
    from newest k
    where k.intime <= stay_at.as_of and not exists (
        select from quality.rejected_version r
        where r.known_at <= stay_at.as_of and r.ingested_at <= stay_at.ingested_by
            -- include parts/open_until_rejected.sql
    );
end
