-- published: the runs that readers may see. current_run: the newest of them per source, with the source's watermark
-- `known_until` (anything after it is a plan) and its hospital's `timezone`.
published as (
    select r.source, r.run_id, r.as_of, r.model_id, r.model_stage, r.newest_observation_at
    from forecast.run r
    join forecast.model m on m.model_id = r.model_id and m.name = 'stay'
    where r.kind = 'forecast' and r.role = 'champion' and r.status = 'published'
        -- During a trial nothing is shown, including earlier runs.
        and not exists (select from forecast.trial t where t.source = r.source and t.ended_at is null)
),
current_run as (
    select distinct on (p.source)
        p.*, greatest(p.as_of, b.as_of) as known_until, coalesce(p.model_stage = 'provisional', false) as provisional,
        coalesce(b.timezone, 'UTC') as timezone
    from published p
    left join (
        select source, max(as_of) as as_of, (array_agg(timezone order by batch_id desc))[1] as timezone
        from icu.batch where ingested_at is not null group by source
    ) b on b.source = p.source
    order by p.source, p.as_of desc, p.run_id desc
),
