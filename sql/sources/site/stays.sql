-- ICU stays of your hospital: a template. Grain: one row per version of a stay, that is, all that was known of it at
-- available_at. Copy the folder, put your own tables in place of ward_stay, and keep the last SELECT's columns.
with own as (
    select
        -- Unique in the source, never used again.
        s.stay_no,
        -- Keeps all stays of a patient on one side when a model is trained and judged.
        s.patient_no,
        s.ward,
        s.begin_ts,
        s.end_ts,
        s.left_dead,
        -- When the row last changed. If that is not recorded, use end_ts plus the usual charting delay.
        s.changed_ts,
        s.age_years, s.sex_code, s.height_cm, s.weight_kg, s.admission_code
    from {schema}.ward_stay s
    -- ICUs only, no patients that were made up for tests.
    where s.is_icu
),
version as (
    -- The begin is known at once.
    select stay_no, begin_ts as available_at, cast(null as timestamp) as end_ts, cast(null as boolean) as left_dead
    from own
    union all
    -- The end is known once its row was changed, never before it happened. An end that is later corrected gives another
    -- row here with a later available_at, if your table keeps the former one.
    select stay_no, case when changed_ts > end_ts then changed_ts else end_ts end, end_ts, left_dead
    from own
    where end_ts is not null
)
select
    cast(own.stay_no as text) as stay_id,
    version.available_at,
    cast(own.patient_no as text) as patient_id,
    own.ward as unit,
    -- medical, surgical, cardiac, cardiac_surgery, trauma, neuro or mixed; null where none fits.
    case own.ward when 'ICU1' then 'medical' when 'ICU2' then 'surgical' when 'ICU3' then 'cardiac' end as unit_type,
    own.begin_ts as intime,
    version.end_ts as outtime,
    case when version.left_dead then 'died' when version.end_ts is not null then 'alive' end as outcome,
    -- What outtime and outcome refer to: unit, or hospital.
    'unit' as ends_at,
    -- Width in hours of the interval around the end: 0 for a time, 24 for a date.
    0 as end_precision_hours,
    cast(null as timestamp) as hospital_intime,
    cast(null as timestamp) as hospital_outtime,
    case when version.left_dead then version.end_ts end as died_at,
    own.age_years,
    case own.sex_code when 'F' then 'female' when 'M' then 'male' end as sex,
    own.height_cm,
    own.weight_kg,
    case own.admission_code when 'E' then 'emergency' when 'U' then 'urgent' when 'P' then 'elective' end as admission_type
from version
join own on own.stay_no = version.stay_no
where version.available_at > :since and version.available_at <= :until
    -- A read from the beginning returns rows without a usable begin too: they are quarantined, and counted.
    or :since < '1800-01-01' and (version.available_at between '1000-01-01' and '2900-01-01') is not true
