-- Observations of ICU stays from MIMIC-IV 2.2 and 3.1. Grain: one row per charted, measured or infused value.
-- {items} is replaced by the item numbers of concept_map.csv: other items are not read.
-- A value belongs to the stay in which it was observed, or to the next one where that begins within 24 hours, and is
-- known to that stay from its beginning at the earliest.
-- Written in the part of SQL that PostgreSQL, DuckDB and SQLite share. Adding nothing to a time brings the texts that
-- SQLite keeps, with or without fractions of a second, to one form; an empty text is null in some of its files.
with chart as (
    select
        c.subject_id, c.itemid, c.charttime, c.value, nullif(cast(c.valuenum as text), '') as number, c.valueuom,
        c.valuenum + 0 as valuenum,
        c.charttime + interval '0 hours' as observed_at,
        case
            when c.storetime > c.charttime then c.storetime + interval '0 hours'
            else c.charttime + interval '0 hours'
        end as known_at
    from {icu}.chartevents c
    where (c.itemid in ({items}) or c.itemid in (223849, 226732, 229314) or c.itemid between 224054 and 224059)
        and (
            c.storetime > :since - interval '24 hours' and c.storetime <= :until
            or c.charttime > :since - interval '24 hours' and c.charttime <= :until
        )
),
-- The parts of the Glasgow Coma Scale and of the Braden score are charted and no total. Of each part the one stored
-- first counts, so that a later correction does not change what was known before.
part as (
    select
        p.*,
        row_number() over (partition by subject_id, observed_at, itemid order by known_at, valuenum) as place
    from (
        select
            c.subject_id, c.itemid, c.valuenum + 0 as valuenum,
            case
                when c.itemid between 224054 and 224059 then 'braden total of parts'
                else 'gcs total of parts'
            end as total,
            c.charttime + interval '0 hours' as observed_at,
            case
                when c.storetime > c.charttime then c.storetime + interval '0 hours'
                else c.charttime + interval '0 hours'
            end as known_at
        from {icu}.chartevents c
        where (c.itemid in (220739, 223900, 223901) or c.itemid between 224054 and 224059)
            and c.valuenum + 0 > 0
            and (c.subject_id, c.charttime) in (
                select subject_id, charttime from chart
                where itemid in (220739, 223900, 223901) or itemid between 224054 and 224059
            )
    ) as p
),
breathing as (
    select
        subject_id, observed_at, known_at,
        -- A mode of the ventilator is charted while it breathes for the patient; the last three are for masks.
        case
            when itemid in (223849, 229314) and value not in ('Standby', 'DuoPaP', 'NIV', 'NIV-ST') then 1
            else 0
        end as ventilated
    from chart
    where itemid in (223849, 229314) and value not in ('Other/Remarks', '')
        or itemid = 226732 and trim(lower(value)) in (
            'none', 'nasal cannula', 'high flow nasal cannula', 'face tent', 'aerosol-cool', 'high flow neb',
            'ultrasonic neb', 'vapomist', 'oxymizer', 'non-rebreather', 'medium conc mask', 'venti mask', 'trach mask',
            't-piece', 'bipap mask', 'cpap mask'
        )
),
lab as (
    select
        r.*,
        case
            when r.storetime > r.charttime then r.storetime
            when r.storetime is not null then r.charttime
            -- Where the time of the result is missing it is taken to have needed what nearly all others did.
            when r.itemid between 50800 and 50828 then r.charttime + interval '1 hour'
            else r.charttime + interval '3 hours'
        end as known_at,
        -- A result beyond a limit of detection counts as the limit.
        coalesce(r.number, rtrim(ltrim(r.value, '<>= '), '. ')) as result
    from (
        select
            l.labevent_id, l.subject_id, l.specimen_id, l.itemid, l.value, l.valueuom,
            nullif(cast(l.valuenum as text), '') as number,
            l.charttime + interval '0 hours' as charttime, l.storetime + interval '0 hours' as storetime
        from {hosp}.labevents l
        where (l.itemid in ({items}) or l.itemid = 52033)
            and (
                l.storetime > :since - interval '24 hours' and l.storetime <= :until
                or l.charttime > :since - interval '27 hours' and l.charttime <= :until
            )
    ) as r
),
-- What a blood gas was drawn from is a result of its own, which may come later than the others or before the slice.
gas as (
    select
        r.*,
        case
            when r.storetime > r.charttime then r.storetime
            when r.storetime is not null then r.charttime
            else r.charttime + interval '1 hour'
        end as known_at
    from (
        select
            l.labevent_id, l.subject_id, l.specimen_id, l.itemid, l.value, l.valueuom,
            nullif(cast(l.valuenum as text), '') as number,
            l.charttime + interval '0 hours' as charttime, l.storetime + interval '0 hours' as storetime
        from {hosp}.labevents l
        where l.itemid in (50817, 50818, 50820, 50821, 52033)
            and l.specimen_id in (
                select specimen_id from lab where itemid in (50817, 50818, 50820, 50821, 52033)
            )
    ) as r
),
drawn_from as (
    select
        specimen_id, known_at,
        case rtrim(upper(value), '. ')
            when 'ART' then ' arterial'
            when 'VEN' then ' venous'
            when 'CENTRAL VENOUS' then ' venous'
            when 'MIX' then ' mixed venous'
            else ' of another specimen'
        end as specimen,
        row_number() over (partition by specimen_id order by known_at, labevent_id) as place
    from gas
    where itemid = 52033
),
-- Urine leaves by several ways, each with an item of its own. Those of one time are added up as far as they were known;
-- of one way a later entry replaces the earlier one.
output as (
    select
        subject_id, observed_at, known_at,
        value - coalesce(lag(value) over (
            partition by subject_id, observed_at, itemid order by known_at, value
        ), 0) as added
    from (
        select
            o.subject_id, o.itemid, o.value + 0 as value, o.charttime + interval '0 hours' as observed_at,
            case
                when o.storetime > o.charttime then o.storetime + interval '0 hours'
                else o.charttime + interval '0 hours'
            end as known_at
        from {icu}.outputevents o
        where o.itemid in ({items}) and cast(o.value as text) <> ''
            and (o.subject_id, o.charttime) in (
                select n.subject_id, n.charttime from {icu}.outputevents n
                where n.itemid in ({items})
                    and (
                        n.storetime > :since - interval '24 hours' and n.storetime <= :until
                        or n.charttime > :since - interval '24 hours' and n.charttime <= :until
                    )
            )
    ) as o
),
infusion as (
    select
        i.subject_id, i.itemid, i.orderid, i.rate, i.rateuom, i.statusdescription,
        i.starttime + interval '0 hours' as starttime, i.endtime + interval '0 hours' as endtime,
        i.storetime + interval '0 hours' as storetime
    from {icu}.inputevents i
    -- A row that was rewritten is replaced by another; one without a rate was given at once.
    where i.itemid in ({items}) and i.rateuom <> '' and coalesce(i.statusdescription, '') <> 'Rewritten'
        and (
            i.storetime > :since - interval '24 hours' and i.storetime <= :until
            or i.starttime > :since - interval '24 hours' and i.starttime <= :until
            or i.endtime > :since - interval '24 hours' and i.endtime <= :until
        )
),
stop as (
    select
        subject_id, itemid, orderid, rateuom, endtime,
        case when storetime > endtime then storetime else endtime end as known_at
    from infusion
    where endtime is not null and coalesce(statusdescription, '') not in ('ChangeDose/Rate', 'Changed')
),
charted as (
    select
        subject_id, cast(itemid as text) as variable, valueuom as unit, observed_at, known_at,
        -- The share of oxygen comes as a fraction and in percent.
        case
            when itemid = 223835 and valuenum > 1 then cast(valuenum / 100 as text)
            else coalesce(number, value)
        end as value
    from chart
    where itemid not in (223849, 226732, 229314) and itemid not between 224054 and 224059

    union all
    select subject_id, total, null, observed_at, max(known_at), cast(sum(valuenum) as text)
    from part
    where place = 1
    group by subject_id, total, observed_at
    having count(*) = case total when 'gcs total of parts' then 3 else 6 end

    union all
    select subject_id, 'ventilation', null, observed_at, known_at, cast(max(ventilated) as text)
    from breathing
    group by subject_id, observed_at, known_at

    union all
    select subject_id, cast(itemid as text), valueuom, charttime, known_at, result from lab
    where itemid not in (50817, 50818, 50820, 50821, 52033)

    union all
    select
        g.subject_id, cast(g.itemid as text) || d.specimen, g.valueuom, g.charttime,
        case when d.known_at > g.known_at then d.known_at else g.known_at end,
        coalesce(g.number, rtrim(ltrim(g.value, '<>= '), '. '))
    from gas g
    join drawn_from d on d.specimen_id = g.specimen_id and d.place = 1
    where g.itemid <> 52033

    union all
    select distinct
        subject_id, 'urine of all ways out', null, observed_at, known_at,
        cast(sum(added) over (partition by subject_id, observed_at order by known_at) as text)
    from output

    union all
    select
        subject_id, cast(itemid as text), rateuom, starttime,
        case when storetime > starttime then storetime else starttime end, cast(rate as text)
    from infusion

    union all
    -- A bag that ends while another one of the same drug runs, or as it begins, is no stop.
    select s.subject_id, cast(s.itemid as text), s.rateuom, s.endtime, s.known_at, '0'
    from stop s
    where not exists (
        select 1
        from {icu}.inputevents n
        where n.subject_id = s.subject_id and n.orderid <> s.orderid and n.rateuom <> ''
            and (
                n.itemid = s.itemid
                or n.itemid in (221749, 229630, 229632) and s.itemid in (221749, 229630, 229632)
            )
            and coalesce(n.statusdescription, '') <> 'Rewritten'
            and n.starttime + interval '0 hours' <= s.endtime
            and (n.endtime is null or n.endtime + interval '0 hours' > s.endtime)
            and (n.storetime is null or n.storetime + interval '0 hours' <= s.known_at)
    )
),
-- Two stays of one patient may overlap: what is observed belongs to the one begun last.
stay as (
    select
        s.*,
        lead(intime) over (partition by subject_id order by intime, stay_id) as next_intime,
        lag(outtime) over (partition by subject_id order by intime, stay_id) as last_outtime,
        lag(stay_id) over (partition by subject_id order by intime, stay_id) as last_stay_id
    from (
        select
            i.stay_id, i.subject_id, i.intime + interval '0 hours' as intime, i.outtime + interval '0 hours' as outtime
        from {icu}.icustays i
        where i.intime <= :until and i.subject_id in (select subject_id from charted)
    ) as s
    where s.outtime is null or s.outtime > s.intime
),
placed as (
    select
        cast(s.stay_id as text) as stay_id, c.variable, c.unit, c.observed_at,
        case when s.intime > c.known_at then s.intime else c.known_at end as available_at,
        c.value
    from charted c
    join stay s
        on s.subject_id = c.subject_id
        and c.observed_at >= s.intime - interval '24 hours'
        and (c.observed_at >= s.intime or s.last_stay_id is null or c.observed_at >= s.last_outtime)
        and (s.next_intime is null or c.observed_at < s.next_intime)
        and (s.outtime is null or c.observed_at < s.outtime)
    where c.value <> ''
)
select stay_id, variable, unit, observed_at, available_at, value from placed
where available_at > :since and available_at <= :until
