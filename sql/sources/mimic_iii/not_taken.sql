-- Items that observations.sql does not read, by their label, with their rows and patients; for `source check`.
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
