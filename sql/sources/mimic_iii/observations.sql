-- Observations of ICU stays from MIMIC-III 1.4. Grain: one row per charted, measured or infused value, as charted.
-- {items} is replaced by the item numbers of concept_map.csv: other items are not read.
-- A value belongs to the stay in which it was observed, or to the next one where that begins within 24 hours, and is
-- known to that stay from its beginning at the earliest.
-- Written in the part of SQL that PostgreSQL, DuckDB and SQLite share.
with chart as (
    select
        row_id, subject_id, itemid, charttime, value, valuenum, valueuom,
        case when storetime > charttime then storetime else charttime end as known_at
    from {schema}.chartevents
    where (itemid in ({items}) or itemid in (467, 720, 223849, 226732))
        and (
            storetime > :since - interval '24 hours' and storetime <= :until
            or charttime > :since - interval '24 hours' and charttime <= :until
        )
),
-- MetaVision charts the three parts of the Glasgow Coma Scale and no total. Of each part the one stored first counts,
-- so that a later correction does not change what was known before.
gcs_part as (
    select
        subject_id, charttime, valuenum,
        case when storetime > charttime then storetime else charttime end as known_at,
        row_number() over (
            partition by subject_id, charttime, itemid
            order by case when storetime > charttime then storetime else charttime end, row_id
        ) as place
    from {schema}.chartevents
    where itemid in (220739, 223900, 223901) and valuenum is not null
        and (subject_id, charttime) in (
            select subject_id, charttime from chart where itemid in (220739, 223900, 223901)
        )
),
lab as (
    select subject_id, itemid, charttime, value, valuenum, valueuom from {schema}.labevents
    where (itemid in ({items}) or itemid = 50800)
        and charttime > :since - interval '27 hours' and charttime <= :until
),
specimen as (
    select subject_id, charttime, max(value) as value from lab where itemid = 50800 group by subject_id, charttime
),
-- Urine leaves by several ways, each with an item of its own. Those of one time are added up as far as they were known;
-- of one way a later entry replaces the earlier one.
output as (
    select
        subject_id, charttime, known_at,
        value - coalesce(lag(value) over (
            partition by subject_id, charttime, itemid order by known_at, value
        ), 0) as added
    from (
        select
            subject_id, itemid, charttime, cast(value as double precision) as value,
            case when storetime > charttime then storetime else charttime end as known_at
        from {schema}.outputevents
        where itemid in ({items}) and value is not null
            and (subject_id, charttime) in (
                select subject_id, charttime from {schema}.outputevents
                where itemid in ({items})
                    and (
                        storetime > :since - interval '24 hours' and storetime <= :until
                        or charttime > :since - interval '24 hours' and charttime <= :until
                    )
            )
    ) as o
),
charted as (
    select
        subject_id, cast(itemid as text) as variable, valueuom as unit, charttime as observed_at, known_at,
        case
            -- The share of oxygen comes as a fraction and in percent, also within one item.
            when itemid in (189, 190, 191, 727, 2981, 3420, 3422, 223835) and valuenum > 1
            then cast(valuenum / 100 as text)
            else coalesce(cast(valuenum as text), value)
        end as value
    from chart
    where itemid not in (467, 720, 223849, 226732)

    union all
    select subject_id, 'gcs total of parts', null, charttime, max(known_at), cast(sum(valuenum) as text)
    from gcs_part where place = 1
    group by subject_id, charttime
    having count(*) = 3

    union all
    -- A mode of the ventilator is charted while it breathes for the patient; a mask or a cannula alone ends that.
    select
        subject_id, 'ventilation', null, charttime, known_at,
        max(case when itemid in (720, 223849) and value <> 'Standby' then '1' else '0' end)
    from chart
    where itemid in (720, 223849) and value <> 'Other/Remarks'
        or itemid in (467, 226732) and lower(value) in (
            'none', 'nasal cannula', 'face tent', 'aerosol-cool', 'hi flow neb', 'high flow neb', 'non-rebreather',
            'medium conc mask', 'venti mask', 'trach mask', 't-piece', 'bipap mask', 'cpap mask'
        )
    group by subject_id, charttime, known_at

    union all
    -- The table has no result time. Later records of the same laboratory took up to 3 hours in 95 of 100
    -- cases, and minutes for blood gases, which are taken to need an hour.
    select
        l.subject_id,
        case
            when l.itemid not in (50817, 50818, 50820, 50821) then cast(l.itemid as text)
            when s.value = 'ART' then cast(l.itemid as text) || ' arterial'
            when s.value in ('VEN', 'CENTRAL VENOUS') then cast(l.itemid as text) || ' venous'
            when s.value = 'MIX' then cast(l.itemid as text) || ' mixed venous'
            else cast(l.itemid as text) || ' of unknown specimen'
        end,
        l.valueuom, l.charttime,
        case
            when l.itemid between 50800 and 50828 then l.charttime + interval '1 hour'
            else l.charttime + interval '3 hours'
        end,
        -- A result beyond a limit of detection counts as the limit.
        case
            when l.valuenum is not null then cast(l.valuenum as text)
            when l.value like '<%' or l.value like '>%' then trim(substr(l.value, 2))
            else l.value
        end
    from lab l
    left join specimen s on s.subject_id = l.subject_id and s.charttime = l.charttime
    where l.itemid <> 50800

    union all
    select distinct
        subject_id, 'urine of all ways out', null, charttime, known_at,
        cast(sum(added) over (partition by subject_id, charttime order by known_at) as text)
    from output

    union all
    -- CareVue charts a rate at a time, and a stop, often without a unit: then that of the drug's rates, since none is none.
    select
        subject_id, cast(itemid as text),
        coalesce(rateuom, case itemid when 30051 then 'Umin' else 'mcgkgmin' end), charttime,
        case when storetime > charttime then storetime else charttime end,
        case when stopped in ('Stopped', 'D/C''d') then '0' else cast(rate as text) end
    from {schema}.inputevents_cv
    where itemid in ({items}) and (rateuom is not null or stopped in ('Stopped', 'D/C''d'))
        and (
            storetime > :since - interval '24 hours' and storetime <= :until
            or charttime > :since - interval '24 hours' and charttime <= :until
        )

    union all
    -- MetaVision stores an interval; a row that was rewritten is replaced by another.
    select
        subject_id, cast(itemid as text), rateuom, starttime,
        case when storetime > starttime then storetime else starttime end, cast(rate as text)
    from {schema}.inputevents_mv
    where itemid in ({items}) and coalesce(statusdescription, '') <> 'Rewritten'
        and (
            storetime > :since - interval '24 hours' and storetime <= :until
            or starttime > :since - interval '24 hours' and starttime <= :until
        )

    union all
    -- An interval ends with a stop, unless its rate was changed there, or by then another one of the drug was known that
    -- goes on, as when a bag is changed.
    select
        i.subject_id, cast(i.itemid as text), i.rateuom, i.endtime,
        case when i.storetime > i.endtime then i.storetime else i.endtime end, '0'
    from {schema}.inputevents_mv i
    where i.itemid in ({items}) and i.rateuom is not null
        and coalesce(i.statusdescription, '') not in ('Rewritten', 'Changed')
        and (
            i.storetime > :since - interval '24 hours' and i.storetime <= :until
            or i.endtime > :since - interval '24 hours' and i.endtime <= :until
        )
        and not exists (
            select 1 from {schema}.inputevents_mv other
            where other.subject_id = i.subject_id and other.itemid = i.itemid
                and coalesce(other.statusdescription, '') <> 'Rewritten'
                and other.starttime > i.starttime and other.starttime <= i.endtime
                and (other.endtime is null or other.endtime > i.endtime)
                and (other.storetime is null or other.storetime <= i.storetime or other.storetime <= i.endtime)
        )
),
-- Two stays of one patient may overlap: what is observed belongs to the one begun last.
stay as (
    select
        icustay_id, subject_id, intime, outtime,
        lead(intime) over (partition by subject_id order by intime, icustay_id) as next_intime,
        lag(outtime) over (partition by subject_id order by intime, icustay_id) as last_outtime,
        lag(icustay_id) over (partition by subject_id order by intime, icustay_id) as last_icustay_id
    from {schema}.icustays
    where first_careunit <> 'NICU' and intime <= :until and (outtime is null or outtime > intime)
        and subject_id in (select subject_id from charted)
),
placed as (
    select
        cast(s.icustay_id as text) as stay_id, c.variable, c.unit, c.observed_at,
        case when s.intime > c.known_at then s.intime else c.known_at end as available_at,
        c.value
    from charted c
    join stay s
        on s.subject_id = c.subject_id
        and c.observed_at >= s.intime - interval '24 hours'
        and (c.observed_at >= s.intime or s.last_icustay_id is null or c.observed_at >= s.last_outtime)
        and (s.next_intime is null or c.observed_at < s.next_intime)
        and (s.outtime is null or c.observed_at < s.outtime)
    where c.value is not null
)
select stay_id, variable, unit, observed_at, available_at, value from placed
where available_at > :since and available_at <= :until
