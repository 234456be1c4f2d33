-- Observations of ICU stays from events in the form of MEDS, in DuckDB. Grain: one row per event with a value.
-- The variable is the code; of codes like LAB//50912//mg/dL the unit is the last part.
-- A value belongs to the stay with its stay_id, else to the one in which it was observed, or to the next one where that
-- begins within 24 hours, and is known to that stay from its beginning at the earliest.
with charted as (
    select
        subject_id, stay_id, time as observed_at,
        case when kind in ('LAB', 'SUBJECT_FLUID_OUTPUT') then kind || '//' || item else code end as variable,
        case when kind in ('LAB', 'SUBJECT_FLUID_OUTPUT') then nullif(split_part(code, '//', 3), 'UNK') end as unit,
        -- MIMIC's laboratory has the items from 50,800 on, its blood gases the first of them.
        greatest(time, coalesce(available_at, time + interval '1 hour' * case
            when kind = 'LAB' and try_cast(item as integer) between 50800 and 50825 then 1
            when kind = 'LAB' and try_cast(item as integer) between 50826 and 59999 then 3
            else 0
        end)) as known_at,
        case
            -- The share of oxygen comes as a fraction and in percent.
            when kind = 'LAB' and item = '223835' and numeric_value > 1 then cast(numeric_value / 100 as varchar)
            else coalesce(cast(numeric_value as varchar), text_value)
        end as value
    from (
        select *, split_part(code, '//', 1) as kind, split_part(code, '//', 2) as item
        from {schema}.meds_event
        where time is not null and (numeric_value is not null or text_value <> '')
            and split_part(code, '//', 1) not in ('AGE', 'HEIGHT', 'WEIGHT')
    ) as e
),
-- Urine leaves by several ways, each with an item of its own: those of one time are added up.
measured as (
    select subject_id, stay_id, observed_at, variable, unit, known_at, value from charted
    where variable not like 'SUBJECT_FLUID_OUTPUT//%'
    union all
    select
        subject_id, stay_id, observed_at, 'urine of all ways out', null, max(known_at),
        cast(sum(try_cast(value as double)) as varchar)
    from charted
    where variable in (
        'SUBJECT_FLUID_OUTPUT//226559', 'SUBJECT_FLUID_OUTPUT//226560', 'SUBJECT_FLUID_OUTPUT//226561',
        'SUBJECT_FLUID_OUTPUT//226563', 'SUBJECT_FLUID_OUTPUT//226564', 'SUBJECT_FLUID_OUTPUT//226565',
        'SUBJECT_FLUID_OUTPUT//226567', 'SUBJECT_FLUID_OUTPUT//226584', 'SUBJECT_FLUID_OUTPUT//226557',
        'SUBJECT_FLUID_OUTPUT//226558'
    )
    group by subject_id, stay_id, observed_at
),
admission as (
    select
        subject_id, time as intime, greatest(time, coalesce(available_at, time)) as begin_known_at, stay_id as given_id,
        coalesce(
            stay_id, subject_id || '-' || row_number() over (partition by subject_id order by time, code)
        ) as stay_id,
        lead(time) over (partition by subject_id order by time, code) as next_intime
    from {schema}.meds_event
    where code like 'ICU_ADMISSION%' and time is not null
),
stay as (
    select *, lag(outtime) over (partition by subject_id order by intime, stay_id) as last_outtime,
        lag(stay_id) over (partition by subject_id order by intime, stay_id) as last_stay_id
    from (
        select a.*, (
            select min(d.time) from {schema}.meds_event d
            where d.subject_id = a.subject_id and d.code like 'ICU_DISCHARGE%'
                and case
                    when a.given_id is not null and d.stay_id is not null then d.stay_id = a.given_id
                    else d.time > a.intime and (a.next_intime is null or d.time <= a.next_intime)
                end
        ) as outtime
        from admission a
    ) as s
    where s.outtime is null or s.outtime > s.intime
),
placed as (
    select s.stay_id, m.variable, m.unit, m.observed_at, greatest(m.known_at, s.begin_known_at) as available_at, m.value
    from measured m
    join stay s
        on s.subject_id = m.subject_id
        and case
            when m.stay_id is not null and s.given_id is not null then m.stay_id = s.given_id
            else m.observed_at >= s.intime - interval '24 hours'
                and (m.observed_at >= s.intime or s.last_stay_id is null or m.observed_at >= s.last_outtime)
                and (s.next_intime is null or m.observed_at < s.next_intime)
                and (s.outtime is null or m.observed_at < s.outtime)
        end
)
select stay_id, variable, unit, observed_at, available_at, value from placed
where available_at > :since and available_at <= :until
