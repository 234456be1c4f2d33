-- Rows rejected or corrected by the ingest, and why.
-- Grain: one row per (source, relation, check_name, disposition, reason).
-- Purpose: data quality at a glance; the rows themselves are in quality.quarantine.
-- Units: rows is a count; times UTC.
select
    source,
    relation,
    check_name,
    disposition,
    reason,
    count(*) as rows,
    min(quarantined_at) as first_quarantined_at,
    max(quarantined_at) as last_quarantined_at
from quality.quarantine
group by source, relation, check_name, disposition, reason
