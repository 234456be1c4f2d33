-- observations.sql for mysql, written by `icu-forecast source translate`; the comments are in observations.sql. Run that command again when it
-- changes.
WITH value AS (
  SELECT
    v.stay_no,
    v.code AS variable,
    v.unit,
    v.observed_ts AS observed_at,
    CASE
      WHEN v.observed_ts > v.stored_ts
      THEN v.observed_ts
      ELSE COALESCE(v.stored_ts, v.observed_ts)
    END AS available_at,
    REPLACE(TRIM(LEADING '<' FROM v.value), ',', '.') AS value
  FROM {schema}.ward_value AS v
  WHERE
    v.stored_ts > :since
    AND v.stored_ts <= :until
    OR v.observed_ts > :since
    AND v.observed_ts <= :until
    OR :since < CAST('1800-01-01 00:00:00' AS DATETIME)
)
SELECT
  CAST(value.stay_no AS CHAR) AS stay_id,
  value.variable,
  value.unit,
  value.observed_at,
  value.available_at,
  value.value
FROM value
JOIN {schema}.ward_stay AS s
  ON s.stay_no = value.stay_no AND s.is_icu
WHERE
  value.available_at > :since
  AND value.available_at <= :until
  OR :since < CAST('1800-01-01 00:00:00' AS DATETIME)
  AND NOT (
    value.available_at BETWEEN CAST('1000-01-01 00:00:00' AS DATETIME) AND CAST('2900-01-01 00:00:00' AS DATETIME)
  ) IS TRUE
