-- What was planned as it was known at `as_of`, from batches ingested by `ingested_by`.
-- Grain: one row per (source, planned_id), its newest version known by then, whatever its status.
-- Purpose: the only way to read plans for a forecast without look-ahead. A plan may still happen while its status is `planned`.
-- Units: times UTC; probability 0 to 1.
create function icu.planned_at(as_of timestamptz, ingested_by timestamptz default 'infinity')
returns table (
    source text, planned_id text, available_at timestamptz, unit text, kind text, expected_at timestamptz,
    probability double precision, status text, stay_id text
)
language sql stable
begin atomic
    select distinct on (p.source, p.planned_id)
        p.source, p.planned_id, p.available_at, p.unit, p.kind, p.expected_at, p.probability, p.status, p.stay_id
    from icu.planned p
    join icu.batch b on b.batch_id = p.batch_id
    where p.available_at <= planned_at.as_of and b.ingested_at <= planned_at.ingested_by
    order by p.source, p.planned_id, p.available_at desc;
end
