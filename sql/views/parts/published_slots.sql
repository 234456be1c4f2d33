-- slot: per source and prediction time the newest published run of role `champion`; what readers see.
slot as (
    select distinct on (r.source, r.as_of) r.source, r.as_of, r.run_id, r.kind, r.model_id, r.model_stage
    from forecast.run r
    join forecast.model m on m.model_id = r.model_id and m.name = 'stay'
    where r.kind in ('forecast', 'backfill') and r.role = 'champion' and r.status = 'published'
    order by r.source, r.as_of, r.run_id desc
)
