-- Items that observations.sql does not read, by their label, and rows without a usable time, with their rows and
-- patients; for `source check`.
select
    'row' as kind, 'chartevents ' || cast(e.itemid as varchar(20)) || ' ' || max(d.label) as name,
    count(*) as n_rows, count(distinct e.subject_id) as n_stays
from {icu}.chartevents e
join {icu}.d_items d on d.itemid = e.itemid
where e.itemid not in ({items}) and e.itemid not in (223849, 226732, 229314) and e.itemid not between 224054 and 224059
group by e.itemid

union all
select
    'row' as kind, 'outputevents ' || cast(e.itemid as varchar(20)) || ' ' || max(d.label) as name,
    count(*) as n_rows, count(distinct e.subject_id) as n_stays
from {icu}.outputevents e
join {icu}.d_items d on d.itemid = e.itemid
where e.itemid not in ({items})
group by e.itemid

union all
select
    'row' as kind, 'inputevents ' || cast(e.itemid as varchar(20)) || ' ' || max(d.label) as name,
    count(*) as n_rows, count(distinct e.subject_id) as n_stays
from {icu}.inputevents e
join {icu}.d_items d on d.itemid = e.itemid
where e.itemid not in ({items})
group by e.itemid

union all
select
    'row', 'labevents ' || cast(e.itemid as varchar(20)) || ' ' || max(d.label) || ', ' || max(d.fluid), count(*),
    count(distinct e.subject_id)
from {hosp}.labevents e
join {hosp}.d_labitems d on d.itemid = e.itemid
where e.itemid not in ({items})
group by e.itemid

union all
select 'untimed', name, count(*), count(distinct subject_id)
from (
    select 'chartevents' as name, subject_id, itemid, charttime as observed_at, storetime from {icu}.chartevents
    union all
    select 'outputevents', subject_id, itemid, charttime, storetime from {icu}.outputevents
    union all
    select 'inputevents', subject_id, itemid, starttime, storetime from {icu}.inputevents
    union all
    select 'labevents', subject_id, itemid, charttime, storetime from {hosp}.labevents
) as held
where (itemid in ({items}) or itemid in (52033, 223849, 226732, 229314) or itemid between 224054 and 224059)
    and ((observed_at between '1000-01-01' and '2900-01-01') is not true or storetime > '2900-01-01')
group by name
