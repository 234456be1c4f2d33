-- Items that observations.sql does not read, by their label, and rows without a usable time, with their rows and
-- patients; for `source check`.
select
    'row' as kind, 'chartevents ' || cast(e.itemid as varchar(20)) || ' ' || max(d.label) as name,
    count(*) as n_rows, count(distinct e.subject_id) as n_stays
from {schema}.chartevents e
join {schema}.d_items d on d.itemid = e.itemid
where e.itemid not in ({items}) and e.itemid not in (467, 720, 223849, 226732)
group by e.itemid

union all
select
    'row' as kind, 'outputevents ' || cast(e.itemid as varchar(20)) || ' ' || max(d.label) as name,
    count(*) as n_rows, count(distinct e.subject_id) as n_stays
from {schema}.outputevents e
join {schema}.d_items d on d.itemid = e.itemid
where e.itemid not in ({items})
group by e.itemid

union all
select
    'row' as kind, 'inputevents_cv ' || cast(e.itemid as varchar(20)) || ' ' || max(d.label) as name,
    count(*) as n_rows, count(distinct e.subject_id) as n_stays
from {schema}.inputevents_cv e
join {schema}.d_items d on d.itemid = e.itemid
where e.itemid not in ({items})
group by e.itemid

union all
select
    'row' as kind, 'inputevents_mv ' || cast(e.itemid as varchar(20)) || ' ' || max(d.label) as name,
    count(*) as n_rows, count(distinct e.subject_id) as n_stays
from {schema}.inputevents_mv e
join {schema}.d_items d on d.itemid = e.itemid
where e.itemid not in ({items})
group by e.itemid

union all
select
    'row', 'labevents ' || cast(e.itemid as varchar(20)) || ' ' || max(d.label) || ', ' || max(d.fluid), count(*),
    count(distinct e.subject_id)
from {schema}.labevents e
join {schema}.d_labitems d on d.itemid = e.itemid
where e.itemid not in ({items})
group by e.itemid

union all
select 'untimed', name, count(*), count(distinct subject_id)
from (
    select 'chartevents' as name, subject_id, itemid, charttime as observed_at, storetime from {schema}.chartevents
    union all
    select 'outputevents', subject_id, itemid, charttime, storetime from {schema}.outputevents
    union all
    select 'inputevents_cv', subject_id, itemid, charttime, storetime from {schema}.inputevents_cv
    union all
    select 'inputevents_mv', subject_id, itemid, starttime, storetime from {schema}.inputevents_mv
    union all
    select 'labevents', subject_id, itemid, charttime, charttime from {schema}.labevents
) as held
where (itemid in ({items}) or itemid in (467, 720, 50800, 223849, 226732))
    and ((observed_at between '1000-01-01' and '2900-01-01') is not true or storetime > '2900-01-01')
group by name
