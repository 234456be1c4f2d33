-- Beds of the units as they were known at `as_of`, from batches ingested by `ingested_by`.
-- Grain: one row per (source, unit) whose beds a source ever gave; a unit without a row has no known beds.
-- Purpose: the only way to read beds for a forecast without look-ahead. Usable beds are staffed_beds, or beds where they are null.
-- Units: counts of beds, null if not known; available_at UTC, since when the numbers hold; the year 1000: since ever.
create function icu.unit_at(as_of timestamptz, ingested_by timestamptz default 'infinity')
returns table (source text, unit text, available_at timestamptz, beds integer, staffed_beds integer)
language sql stable
begin atomic
    select distinct on (u.source, u.unit) u.source, u.unit, u.available_at, u.beds, u.staffed_beds
    from icu.unit u
    left join icu.batch b on b.batch_id = u.batch_id
    where u.available_at <= unit_at.as_of and (u.batch_id is null or b.ingested_at <= unit_at.ingested_by)
    order by u.source, u.unit, u.available_at desc;
end
