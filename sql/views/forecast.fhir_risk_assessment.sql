-- The current forecasts as FHIR resources of type RiskAssessment; the elements are those of R4, R4B and R5 alike.
-- Grain: one row per (source, stay_id) of forecast.current_risk.
-- Purpose: to send to systems that speak FHIR; an id is that of the model, stay and prediction time, so sending twice changes
--   nothing. Patient and encounter are named by the source's ids. status: `final`, `preliminary` for a provisional model,
--   `cancelled` for an abstention, whose reason is in the note and which holds no prediction.
-- Units: probabilityDecimal in percent, as FHIR has it; times in UTC.
with resource as (
    select
        r.*,
        r.model_id || '/' || r.stay_id || '/' || moment.at as name,
        moment.*,
        case
            when r.mortality_risk is null then 'Leaves within %s hours, alive or not'
            else 'Leaves alive within %s hours'
        end as leaves,
        (
            select 'What the risk depends on, not its causes: ' || string_agg(
                concat_ws(' ', d.driver, round(d.last_value::numeric, 2), d.value_unit, d.direction || ' it'), '; '
                order by d.rank
            )
            from forecast.stay_forecast_driver d
            where d.model_id = r.model_id and d.source = r.source
                and d.prediction_time = r.prediction_time and d.stay_id = r.stay_id
        ) as drivers
    from forecast.current_risk r
    cross join lateral (
        select
            to_char(r.prediction_time at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as at,
            r.prediction_time - r.hours_in_stay * interval '1 hour' as intime
    ) moment
)
select
    r.source,
    r.unit,
    r.stay_id,
    r.patient_id,
    r.prediction_time,
    r.run_id,
    jsonb_strip_nulls(jsonb_build_object(
        'resourceType', 'RiskAssessment',
        'id', md5(r.source || '/' || r.name),
        'identifier', jsonb_build_array(jsonb_build_object('value', r.name, 'assigner', said.by)),
        'status', case when r.status = 'abstained' then 'cancelled' when r.provisional then 'preliminary' else 'final' end,
        'method', jsonb_build_object('coding', jsonb_build_array(jsonb_build_object('code', r.model_id)), 'text', 'icu-forecast'),
        'subject', jsonb_build_object(
            'type', 'Patient', 'identifier', jsonb_build_object('value', r.patient_id, 'assigner', said.by)
        ),
        'encounter', jsonb_build_object(
            'type', 'Encounter', 'identifier', jsonb_build_object('value', r.stay_id, 'assigner', said.by)
        ),
        'occurrenceDateTime', r.at,
        'prediction', said.predictions,
        'note', said.notes
    )) as resource
from resource r
cross join lateral (
    select
        jsonb_build_object('display', r.source) as by,
        (
            select jsonb_agg(
                jsonb_build_object(
                    'outcome', jsonb_build_object(
                        'coding', jsonb_build_array(jsonb_build_object('code', p.code)), 'text', p.outcome
                    ),
                    'probabilityDecimal', round((100 * p.probability)::numeric, 2),
                    'qualitativeRisk', case when p.code = 'mortality_risk' then jsonb_build_object('text', r.risk_band) end,
                    'whenPeriod', jsonb_build_object(
                        'start', to_char(p.begins at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
                        'end', to_char(p.ends at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
                    ),
                    'rationale', case when p.code = 'mortality_risk' then r.drivers end
                )
                order by p.number
            )
            from (values
                (1, 'mortality_risk', 'Dies in this stay', r.mortality_risk, r.prediction_time, null::timestamptz),
                (
                    2, 'prolonged_stay_risk', 'Stays over {prolonged_hours} hours in all', r.prolonged_stay_risk,
                    r.intime + interval '{prolonged_hours} hours', null
                ),
                (
                    3, 'discharge_24h_prob', format(r.leaves, 24), r.discharge_24h_prob,
                    r.prediction_time, r.prediction_time + interval '24 hours'
                ),
                (
                    4, 'discharge_48h_prob', format(r.leaves, 48), r.discharge_48h_prob,
                    r.prediction_time, r.prediction_time + interval '48 hours'
                ),
                (
                    5, 'discharge_72h_prob', format(r.leaves, 72), r.discharge_72h_prob,
                    r.prediction_time, r.prediction_time + interval '72 hours'
                )
            ) as p (number, code, outcome, probability, begins, ends)
            where p.probability is not null
        ) as predictions,
        (
            select jsonb_agg(jsonb_build_object('text', n.sentence) order by n.number)
            from (values
                (1, r.status = 'abstained', 'No forecast: ' || r.status_reason || '.'),
                (2, r.status = 'scored' and r.mortality_risk is null, 'No risk of death: ' || r.status_reason || '.'),
                (3, r.provisional, 'Provisional: there were too few outcomes to judge the model when it published.')
            ) as n (number, applies, sentence)
            where n.applies
        ) as notes
) said
