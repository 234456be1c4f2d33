-- Observations of ICU stays from CLIF 2.1 and 3.0, which spells its words in lower case. Grain: one row per charted value, as charted.
-- A row belongs to the ICU row of adt in which it was observed, or to the next one where that begins within 24 hours;
-- to that stay it is known from the time it was charted, but not before the ICU row began.
-- So every table is entered through its time column, at most 24 hours before the slice.
with charted as (
    select
        hospitalization_id,
        case
            when vital_category in ('sbp', 'dbp', 'map') and vital_name ~* '^\s*(art|abp)'
            then vital_category || ' invasive'
            else vital_category
        end as variable,
        cast(null as text) as unit,
        recorded_dttm as observed_at,
        recorded_dttm as known_at,
        cast(vital_value as text) as value
    from {schema}.vitals
    where recorded_dttm > cast(:since as timestamptz) - interval '24 hours' and recorded_dttm <= :until

    union all
    -- The number is present where the text is masked ('___') or censored ('<0.2'); text without one is quarantined.
    select
        hospitalization_id, lab_category, lower(nullif(btrim(reference_unit, E' \t'), '')),
        lab_collect_dttm, greatest(lab_result_dttm, lab_collect_dttm),
        coalesce(cast(lab_value_numeric as text), lab_value)
    from {schema}.labs
    where greatest(lab_result_dttm, lab_collect_dttm) > cast(:since as timestamptz) - interval '24 hours'
        and greatest(lab_result_dttm, lab_collect_dttm) <= :until

    union all
    select
        hospitalization_id, lower(assessment_category), null, recorded_dttm, recorded_dttm,
        coalesce(cast(numerical_value as text), categorical_value, text_value)
    from {schema}.patient_assessments
    where recorded_dttm > cast(:since as timestamptz) - interval '24 hours' and recorded_dttm <= :until

    union all
    select r.hospitalization_id, setting.variable, null, r.recorded_dttm, r.recorded_dttm, setting.value
    from {schema}.respiratory_support r
    cross join lateral (values
        ('mechanical_ventilation', case when lower(r.device_category) = 'imv' then '1' when r.device_category <> '' then '0' end),
        ('fio2_set', cast(r.fio2_set as text)),
        ('lpm_set', cast(r.lpm_set as text)),
        ('peep_set', cast(r.peep_set as text)),
        ('tidal_volume_obs', cast(r.tidal_volume_obs as text)),
        ('minute_vent_obs', cast(r.minute_vent_obs as text)),
        ('peak_inspiratory_pressure_obs', cast(r.peak_inspiratory_pressure_obs as text)),
        ('plateau_pressure_obs', cast(r.plateau_pressure_obs as text))
    ) as setting (variable, value)
    where setting.value is not null
        and r.recorded_dttm > cast(:since as timestamptz) - interval '24 hours' and r.recorded_dttm <= :until

    union all
    -- When a bag is changed the new order starts before or as the old one stops: that stop is not the end of the drug.
    select
        m.hospitalization_id, m.med_category,
        -- A stop without a unit is a rate of none in any.
        coalesce(
            nullif(lower(btrim(m.med_dose_unit)), ''),
            case when m.mar_action_category = 'stop' then
                case m.med_category when 'vasopressin' then 'units/hour' else 'mcg/kg/min' end
            end
        ),
        m.admin_dttm, m.admin_dttm,
        case when m.mar_action_category = 'stop' then '0' else cast(m.med_dose as text) end
    from {schema}.medication_admin_continuous m
    where m.med_group = 'vasoactives'
        and m.admin_dttm > cast(:since as timestamptz) - interval '24 hours' and m.admin_dttm <= :until
        and not (m.mar_action_category = 'stop' and exists (
            select from {schema}.medication_admin_continuous other
            where other.hospitalization_id = m.hospitalization_id
                and other.med_category = m.med_category
                and other.med_order_id <> m.med_order_id
                and other.mar_action_category <> 'stop'
                and other.admin_dttm <= m.admin_dttm
                and other.admin_dttm > (
                    select max(own.admin_dttm) from {schema}.medication_admin_continuous own
                    where own.hospitalization_id = m.hospitalization_id
                        and own.med_category = m.med_category
                        and own.med_order_id = m.med_order_id
                        and own.admin_dttm < m.admin_dttm
                )
        ))
),
-- Rows and their numbers as in stays.sql; where charted rows overlap, the later one takes over from its beginning.
icu_row as (
    select
        hospitalization_id, in_dttm, out_dttm, location_name,
        least(coalesce(out_dttm, 'infinity'), lead(in_dttm) over by_time) as ends_by,
        row_number() over by_time = 1
            or location_name is distinct from lag(location_name) over by_time
            or in_dttm > lag(coalesce(out_dttm, 'infinity')) over by_time + interval '1 hour' as opens_stay
    from {schema}.adt
    where location_category = 'icu' and in_dttm between '1000-01-01' and :until
        and hospitalization_id in (select hospitalization_id from charted)
    window by_time as (partition by hospitalization_id order by in_dttm, out_dttm, location_name)
),
stay_row as (
    select
        hospitalization_id, in_dttm, ends_by,
        greatest(in_dttm - interval '24 hours', lag(ends_by) over by_time) as takes_from,
        hospitalization_id || '-' || count(*) filter (where opens_stay) over by_time as stay_id
    from icu_row
    window by_time as (partition by hospitalization_id order by in_dttm, out_dttm, location_name)
)
select
    s.stay_id, c.variable, c.unit, c.observed_at, greatest(c.known_at, s.in_dttm) as available_at, c.value
from charted c
join stay_row s
    on s.hospitalization_id = c.hospitalization_id
    and coalesce(c.observed_at, c.known_at) >= s.takes_from
    and coalesce(c.observed_at, c.known_at) < s.ends_by
where greatest(c.known_at, s.in_dttm) > :since and greatest(c.known_at, s.in_dttm) <= :until
