-- stays.sql for mysql, written by `icu-forecast source translate`; the comments are in stays.sql. Run that command again when it
-- changes.
WITH own AS (
  SELECT
    s.stay_no,
    s.patient_no,
    s.ward,
    s.begin_ts,
    s.end_ts,
    s.left_dead,
    s.changed_ts,
    s.age_years,
    s.sex_code,
    s.height_cm,
    s.weight_kg,
    s.admission_code
  FROM {schema}.ward_stay AS s
  WHERE
    s.is_icu
), version AS (
  SELECT
    stay_no,
    begin_ts AS available_at,
    CAST(NULL AS DATETIME) AS end_ts,
    CAST(NULL AS SIGNED) AS left_dead
  FROM own
  UNION ALL
  SELECT
    stay_no,
    CASE WHEN changed_ts > end_ts THEN changed_ts ELSE end_ts END,
    end_ts,
    left_dead
  FROM own
  WHERE
    end_ts IS NOT NULL
)
SELECT
  CAST(own.stay_no AS CHAR) AS stay_id,
  version.available_at,
  CAST(own.patient_no AS CHAR) AS patient_id,
  own.ward AS unit,
  CASE own.ward
    WHEN 'ICU1'
    THEN 'medical'
    WHEN 'ICU2'
    THEN 'surgical'
    WHEN 'ICU3'
    THEN 'cardiac'
  END AS unit_type,
  own.begin_ts AS intime,
  version.end_ts AS outtime,
  CASE
    WHEN version.left_dead
    THEN 'died'
    WHEN version.end_ts IS NOT NULL
    THEN 'alive'
  END AS outcome,
  'unit' AS ends_at,
  0 AS end_precision_hours,
  CAST(NULL AS DATETIME) AS hospital_intime,
  CAST(NULL AS DATETIME) AS hospital_outtime,
  CASE WHEN version.left_dead THEN version.end_ts END AS died_at,
  own.age_years,
  CASE own.sex_code WHEN 'F' THEN 'female' WHEN 'M' THEN 'male' END AS sex,
  own.height_cm,
  own.weight_kg,
  CASE own.admission_code
    WHEN 'E'
    THEN 'emergency'
    WHEN 'U'
    THEN 'urgent'
    WHEN 'P'
    THEN 'elective'
  END AS admission_type
FROM version
JOIN own
  ON own.stay_no = version.stay_no
WHERE
  version.available_at > :since
  AND version.available_at <= :until
  OR :since < CAST('1800-01-01 00:00:00' AS DATETIME)
  AND NOT (
    version.available_at BETWEEN CAST('1000-01-01 00:00:00' AS DATETIME) AND CAST('2900-01-01 00:00:00' AS DATETIME)
  ) IS TRUE
