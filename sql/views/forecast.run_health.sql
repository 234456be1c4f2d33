-- Health of the jobs: the last good run of each kind, its age, and failures since.
-- Grain: one row per (source, kind) that ever ran; left out are runs of role `shadow`, those of the unit forecaster, and
--   refused ones, which met another run of their kind.
-- Purpose: the first place to look if data seem old. stale: no good run within the kind's limit (forecast and
--   ingest 2 h, evaluate 25 h, train and refresh 8 days; a back-fill is never stale), by the as_of of the last good run.
--   consecutive_failures counts the failed runs since the last published one, last_failed_run_id is the newest of them;
--   a run that is still running changes neither.
-- Units: times UTC, age_hours in hours.
with run as (
    select r.*
    from forecast.run r
    left join forecast.model m on m.model_id = r.model_id
    where r.role <> 'shadow' and r.status <> 'refused' and m.name is distinct from 'unit'
),
good as (
    select distinct on (source, kind) source, kind, run_id, as_of, started_at
    from run
    where status = 'published'
    order by source, kind, as_of desc, run_id desc
),
last as (
    select distinct on (source, kind) source, kind, run_id, as_of, started_at, status, error
    from run
    order by source, kind, run_id desc
),
failures as (
    select source, kind, count(*) as n, max(run_id) as last_run_id
    from (
        select *, max(run_id) filter (where status = 'published') over (partition by source, kind) as last_published from run
    ) r
    where status = 'failed' and run_id > coalesce(last_published, 0)
    group by source, kind
),
stale_after (kind, age) as (
    values
        ('ingest', interval '2 hours'),
        ('forecast', interval '2 hours'),
        ('evaluate', interval '25 hours'),
        ('train', interval '8 days'),
        ('refresh', interval '8 days')
)
select
    last.source,
    last.kind,
    good.run_id as last_good_run_id,
    good.as_of as last_good_as_of,
    good.started_at as last_good_started_at,
    (extract(epoch from now() - good.as_of) / 3600)::double precision as age_hours,
    stale_after.kind is not null and coalesce(now() - good.as_of > stale_after.age, true) as stale,
    last.run_id as last_run_id,
    last.as_of as last_run_as_of,
    last.started_at as last_run_started_at,
    last.status as last_run_status,
    last.error as last_run_error,
    coalesce(failures.n, 0) as consecutive_failures,
    failures.last_run_id as last_failed_run_id
from last
left join failures on failures.source = last.source and failures.kind = last.kind
left join good on good.source = last.source and good.kind = last.kind
left join stale_after on stale_after.kind = last.kind
