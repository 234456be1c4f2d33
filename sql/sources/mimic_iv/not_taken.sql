-- Items that observations.sql does not read, by their label, with their rows and patients; for `source check`.
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
