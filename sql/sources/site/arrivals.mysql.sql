-- arrivals.sql for mysql, written by `icu-forecast source translate`; the comments are in arrivals.sql. Run that command again when it
-- changes.
SELECT
  CAST(p.plan_no AS CHAR) AS planned_id,
  p.ward AS unit,
  CASE p.kind_code
    WHEN 'A'
    THEN 'admission'
    WHEN 'T'
    THEN 'transfer'
    WHEN 'D'
    THEN 'discharge'
  END AS kind,
  p.planned_ts AS expected_at,
  p.entered_ts AS available_at,
  p.likelihood_percent / 100 AS probability,
  CASE p.state_code
    WHEN 'O'
    THEN 'planned'
    WHEN 'X'
    THEN 'cancelled'
    WHEN 'E'
    THEN 'done'
  END AS status,
  CAST(p.stay_no AS CHAR) AS stay_id
FROM {schema}.ward_plan AS p
WHERE
  p.is_icu
  AND (
    p.entered_ts > :since
    AND p.entered_ts <= :until
    OR :since < CAST('1800-01-01 00:00:00' AS DATETIME)
    AND NOT (
      p.entered_ts BETWEEN CAST('1000-01-01 00:00:00' AS DATETIME) AND CAST('2900-01-01 00:00:00' AS DATETIME)
    ) IS TRUE
  )
