-- Observations of ICU stays of the eICU Collaborative Research Database 2.0. Grain: one row per charted, measured or
-- infused value. A value belongs to the stay whose id its row carries, from 24 hours before the begin to the end.
-- eICU keeps minutes from the unit admission and no dates; README.md explains how stays are placed on a calendar.
-- Below, `observed` and `known` are such minutes. Tables are entered through the stays that lie around the slice.
-- The calendar is that of stays.sql.
with timed as (
    select
        patientunitstayid, patienthealthsystemstayid, uniquepid, hospitaladmitoffset,
        hospitaldischargeoffset, hospitaldischargestatus, unitdischargeoffset, unitdischargestatus,
        -- A year or a time of day that is none would stop the whole read.
        case when cast(unitadmittime24 as text) ~ '^([01]?\d|2[0-3])(:[0-5]\d){1,2}(\.\d+)?$' then cast(unitadmittime24 as time) end
            as begins,
        case when cast(hospitaldischargeyear as integer) between 1000 and 2900 then
            make_date(cast(hospitaldischargeyear as integer), 1, 1) + cast(patientunitstayid % 365 as integer)
        end as day
    from {schema}.patient
),
hospital_stay as (
    select distinct on (patienthealthsystemstayid)
        patienthealthsystemstayid, hospitaladmitoffset, begins,
        coalesce(uniquepid, cast(patienthealthsystemstayid as text)) as patient, day,
        extract(epoch from begins) / 60 + hospitaladmitoffset as admitted,
        greatest(max(greatest(hospitaldischargeoffset, unitdischargeoffset) - hospitaladmitoffset) over own, 0) as lasts,
        coalesce(bool_or(
            hospitaldischargeoffset is null or 'Expired' in (hospitaldischargestatus, unitdischargestatus)
        ) over own, false) as is_last
    from timed
    window own as (partition by patienthealthsystemstayid)
    order by patienthealthsystemstayid, hospitaladmitoffset desc nulls last, patientunitstayid
),
numbered as (
    select
        *, day + cast(floor(admitted / 1440) as integer) as first_day,
        cast(coalesce(sum(floor((admitted + lasts) / 1440) - floor(admitted / 1440) + 1) over earlier, 0) as integer)
            as days_before
    from hospital_stay
    window earlier as (
        partition by patient order by is_last, day, patienthealthsystemstayid
        rows between unbounded preceding and 1 preceding
    )
),
first_unit_stay as (
    select
        patienthealthsystemstayid, hospitaladmitoffset,
        day + begins + (max(first_day - days_before) over until_now + days_before - first_day) * interval '1 day'
            as intime
    from numbered
    window until_now as (partition by patient order by is_last, day, patienthealthsystemstayid)
),
laid_out as (
    select
        p.patientunitstayid, p.unitdischargeoffset, p.admissionweight,
        f.intime + (f.hospitaladmitoffset - p.hospitaladmitoffset) * interval '1 minute' as intime
    from {schema}.patient p
    join first_unit_stay f on f.patienthealthsystemstayid = p.patienthealthsystemstayid
    where p.unitstaytype is distinct from 'stepdown/other' and p.unittype is distinct from 'SDU/Step down'
),
stay as materialized (
    select * from laid_out
    where intime <= :until
        and (
            unitdischargeoffset is null
            or intime + (greatest(unitdischargeoffset, 0) + 1440) * interval '1 minute' > :since
        )
),
-- What people or interfaces entered, with the time of the entry.
nurse_charted as (
    select
        nursingchartid as id, patientunitstayid, nursingchartcelltypevalname as name,
        case nursingchartcelltypevalname
            when 'Value' then nursingchartcelltypevallabel else nursingchartcelltypevalname
        end as variable,
        nursingchartoffset as observed,
        greatest(nursingchartentryoffset, nursingchartoffset, 0) as known,
        nursingchartentryoffset as entered,
        nullif(rtrim(trim(nursingchartvalue), ' %'), '') as value
    from {schema}.nursecharting
    where patientunitstayid in (select patientunitstayid from stay)
        and (nursingchartcelltypevallabel, nursingchartcelltypevalname) in (
            ('Heart Rate', 'Heart Rate'),
            ('Respiratory Rate', 'Respiratory Rate'),
            ('O2 Saturation', 'O2 Saturation'),
            ('Temperature', 'Temperature (C)'),
            ('Temperature', 'Temperature (F)'),
            ('Invasive BP', 'Invasive BP Systolic'),
            ('Invasive BP', 'Invasive BP Diastolic'),
            ('Invasive BP', 'Invasive BP Mean'),
            ('Arterial Line MAP (mmHg)', 'Value'),
            ('Non-Invasive BP', 'Non-Invasive BP Systolic'),
            ('Non-Invasive BP', 'Non-Invasive BP Diastolic'),
            ('Non-Invasive BP', 'Non-Invasive BP Mean'),
            ('Glasgow coma score', 'GCS Total'),
            ('Glasgow coma score', 'Eyes'),
            ('Glasgow coma score', 'Motor'),
            ('Glasgow coma score', 'Verbal'),
            ('Score (Glasgow Coma Scale)', 'Value'),
            ('Admission Weight', 'Value'),
            ('Admit weight', 'Value'),
            ('WEIGHT in Kg', 'Value')
        )
        -- Says that no score was given.
        and nursingchartvalue <> 'Unable to score due to medication'
),
nurse_charted_once as (
    select
        *,
        count(*) filter (where name = 'Temperature (C)') over (
            partition by patientunitstayid, observed, known
        ) as in_celsius
    from nurse_charted
    where value is not null
),
infusion as (
    select
        i.infusiondrugid as id, i.patientunitstayid, i.infusionoffset, i.drugname, i.drugamount, i.volumeoffluid,
        nullif(trim(i.drugrate), '') as rate,
        case
            when i.drugname ~* 'norepinephrine|levophed' then 'norepinephrine'
            when i.drugname ~* '^(epineph|epi \()' then 'epinephrine'
            when i.drugname ~* 'phenylephrine|neo[ -]?synephrine' then 'phenylephrine'
            when i.drugname ~* '^vasopressin' then 'vasopressin'
            when i.drugname ~* '^dopamine' then 'dopamine'
            when i.drugname ~* 'dobutamine' then 'dobutamine'
            when i.drugname ~* '^milrinone' then 'milrinone'
        end as drug,
        nullif(lower(substring(i.drugname from '\(([^()]*)\)\s*$')), '') as unit,
        -- The weight that the pump was set to, else that of the admission.
        case
            when trim(i.patientweight) ~ '^[0-9]+\.?[0-9]*$' then cast(trim(i.patientweight) as numeric)
            else s.admissionweight
        end as weight,
        -- What the bag holds, in milligrams or units, and in how many millilitres, else as the name has it.
        case
            when i.drugamount ~ '^[0-9]+\.?[0-9]*$' and i.volumeoffluid ~ '^[0-9]+\.?[0-9]*$'
            then array[i.drugamount, i.volumeoffluid]
            else regexp_match(i.drugname, '([0-9]+\.?[0-9]*)\s*(?:mg|units)\M.*?([0-9]+\.?[0-9]*)\s*ml\M', 'i')
        end as bag
    from {schema}.infusiondrug i
    join stay s on s.patientunitstayid = i.patientunitstayid
),
infusion_rate as (
    select
        i.id, i.patientunitstayid, i.infusionoffset, i.rate, i.drug, i.unit, r.wanted, r.number,
        case
            when r.wanted = 'units/hr' then
                r.number * r.amount * case when i.unit ~ '/min$' then 60 else 1 end
                * case when i.unit like '%/kg/%' then r.weight else 1 end
            else
                r.number * r.amount / case when i.unit ~ '/hr$' then 60 else 1 end
                / case when i.unit like '%/kg/%' then 1 else r.weight end
        end as converted
    from infusion i
    cross join lateral (
        select
            case i.drug when 'vasopressin' then 'units/hr' else 'mcg/kg/min' end as wanted,
            case
                -- Also charted under a drug's name: the volume given.
                when i.drugname ~* '^volume' then null
                when i.rate ~* '^off' then 0
                when i.rate ~ '^([0-9]+\.?[0-9]*|\.[0-9]+)$' then cast(i.rate as numeric)
            end as number,
            case when i.weight between 15 and 400 then i.weight end as weight,
            -- How many micrograms, or units, one of what is charted is.
            case
                when i.unit = 'ml/hr' then
                    cast(i.bag[1] as numeric) / nullif(cast(i.bag[2] as numeric), 0)
                    * case i.drug when 'vasopressin' then 1 else 1000 end
                when i.drug = 'vasopressin' then case when i.unit ~ '^units(/kg)?/(min|hr)$' then 1 end
                when i.unit ~ '^(mcg|mg|ng|nanograms)(/kg)?/(min|hr)$' then
                    case split_part(i.unit, '/', 1) when 'mcg' then 1 when 'mg' then 1000 else 0.001 end
            end as amount
    ) as r
    where i.drug is not null
),
infusion_taken as (
    select
        *,
        cast(case
            when converted is not null then converted
            when number = 0 and max(converted) over (
                partition by patientunitstayid, drug order by infusionoffset, id
            ) > 0 then 0
        end as double precision) as value
    from infusion_rate
),
entered as (
    select
        id, patientunitstayid, 'nursecharting.' || variable as variable, null as unit, observed, known, entered, value
    from nurse_charted_once n
    -- One temperature is often charted in both units.
    where not (name = 'Temperature (F)' and in_celsius > 0)
        -- A vital sign that a monitor sent for the same minute, and that was known then, is already included.
        and not (known = greatest(observed, 0) and exists (
            select from {schema}.vitalperiodic v
            where v.patientunitstayid = n.patientunitstayid and v.observationoffset = n.observed
                and case n.name
                    when 'Heart Rate' then v.heartrate
                    when 'Respiratory Rate' then v.respiration
                    when 'O2 Saturation' then v.sao2
                    when 'Invasive BP Systolic' then v.systemicsystolic
                    when 'Invasive BP Diastolic' then v.systemicdiastolic
                    when 'Invasive BP Mean' then v.systemicmean
                    when 'Temperature (C)' then v.temperature
                    when 'Temperature (F)' then v.temperature
                end is not null
        ))
        and not (known = greatest(observed, 0) and exists (
            select from {schema}.vitalaperiodic v
            where v.patientunitstayid = n.patientunitstayid and v.observationoffset = n.observed
                and case n.name
                    when 'Non-Invasive BP Systolic' then v.noninvasivesystolic
                    when 'Non-Invasive BP Diastolic' then v.noninvasivediastolic
                    when 'Non-Invasive BP Mean' then v.noninvasivemean
                end is not null
        ))

    union all
    select
        respchartid, patientunitstayid, 'respiratorycharting.' || respchartvaluelabel, null, respchartoffset,
        greatest(respchartentryoffset, respchartoffset, 0), respchartentryoffset,
        nullif(rtrim(trim(respchartvalue), ' %'), '')
    from {schema}.respiratorycharting r
    where patientunitstayid in (select patientunitstayid from stay)
        -- Of a breath that patient and machine share, what the patient exhaled.
        and not (respchartvaluelabel = 'Exhaled TV (machine)' and exists (
            select from {schema}.respiratorycharting own
            where own.patientunitstayid = r.patientunitstayid and own.respchartoffset = r.respchartoffset
                and own.respchartvaluelabel = 'Exhaled TV (patient)' and own.respchartentryoffset <= r.respchartentryoffset
        ))
        and respchartvaluelabel in (
            'FiO2', 'FIO2 (%)', 'Set Fraction of Inspired Oxygen (FIO2)', 'LPM O2', 'Oxygen Flow Rate', 'PEEP',
            'PEEP/CPAP', 'Exhaled TV (patient)', 'Exhaled TV (machine)', 'Tidal Volume Observed (VT)', 'Exhaled Vt', 'Exhaled MV',
            'Peak Insp. Pressure', 'Plateau Pressure'
        )

    union all
    -- Each row keeps when its own result was entered, the first result as well as a revised one.
    select
        labid, patientunitstayid, 'lab.' || labname, labmeasurenamesystem, labresultoffset,
        greatest(coalesce(labresultrevisedoffset, labresultoffset + 180), labresultoffset, 0),
        coalesce(labresultrevisedoffset, labresultoffset + 180),
        -- A result beyond a limit of detection counts as the limit.
        coalesce(
            -- In some hospitals the number is 100 times the percentage that the text holds.
            case when labname = 'FiO2' and labresult > 100 then substring(labresulttext from '^\s*([0-9]+\.?[0-9]*)') end,
            cast(labresult as text), nullif(ltrim(trim(labresulttext), '<> '), '')
        )
    from {schema}.lab
    where patientunitstayid in (select patientunitstayid from stay)
        and labname in (
            'pH', 'paCO2', 'paO2', 'O2 Sat (%)', 'FiO2', 'PEEP', 'LPM O2', 'lactate', 'sodium', 'potassium', 'chloride',
            'bicarbonate', 'HCO3', 'BUN', 'creatinine', 'glucose', 'bedside glucose', 'calcium', 'magnesium',
            'phosphate', 'total cholesterol', 'Hct', 'Hgb', 'WBC x 1000', '-polys', '-lymphs',
            'platelets x 1000', 'PT - INR', 'PT', 'PTT', 'albumin', 'ALT (SGPT)', 'AST (SGOT)', 'alkaline phos.',
            'total bilirubin', 'direct bilirubin', 'LDH', 'troponin - I', 'troponin - T', 'CRP', 'Ferritin'
        )

    union all
    -- A rate in another unit is converted as far as the weight and, in millilitres, the drug's concentration are known. A
    -- stop needs neither, but counts only after a rate that could be read: it would hide the others.
    select
        id, patientunitstayid, 'infusiondrug.' || drug,
        case when value is null then unit else wanted end,
        infusionoffset, greatest(infusionoffset, 0), infusionoffset,
        coalesce(cast(value as text), rate)
    from infusion_taken

    union all
    select
        intakeoutputid, patientunitstayid, 'intakeoutput.Bodyweight (kg)', null, intakeoutputoffset,
        greatest(intakeoutputentryoffset, intakeoutputoffset, 0), intakeoutputentryoffset,
        cast(cellvaluenumeric as text)
    from {schema}.intakeoutput
    where patientunitstayid in (select patientunitstayid from stay)
        and cellpath = 'flowsheet|Flowsheet Cell Labels|I&O|Weight|Bodyweight (kg)'
),
-- Urine is charted per way out (voided, catheters): those of one time are added up. Each entry gives the sum as it was
-- known then, in which a later entry for the same way out replaces the earlier one.
urine_entry as (
    select
        patientunitstayid, intakeoutputoffset as observed, known,
        cellvaluenumeric - coalesce(lag(cellvaluenumeric) over (
            partition by patientunitstayid, intakeoutputoffset, cellpath
            order by intakeoutputentryoffset, intakeoutputid
        ), 0) as added
    from (
        select
            intakeoutputid, patientunitstayid, intakeoutputoffset, intakeoutputentryoffset, cellpath, cellvaluenumeric,
            greatest(intakeoutputentryoffset, intakeoutputoffset, 0) as known
        from {schema}.intakeoutput
        where patientunitstayid in (select patientunitstayid from stay)
            and cellpath like 'flowsheet|Flowsheet Cell Labels|I&O|Output (ml)|%'
            and celllabel ~* 'urin|foley|urethral|straight *cath|condom *cath'
            and celllabel !~* 'count|incont|irrigat|pacu'
    ) as output
),
-- What is noted of one time, the surest kind first: that the ventilator was switched on or off, the device that gives
-- oxygen, a setting that only a ventilator has, a flow of oxygen through a mask or cannula. '1' is a ventilator.
breathing as (
    select
        patientunitstayid, respchartoffset as observed, greatest(respchartentryoffset, respchartoffset, 0) as known,
        case
            when respchartvaluelabel = 'RT Vent On/Off' then
                case
                    when lower(respchartvalue) in ('start', 'continued') then '3 1'
                    when lower(respchartvalue) in ('off', 'suspended') then '3 0'
                end
            when respchartvaluelabel = 'O2 Device' then
                case
                    when lower(respchartvalue) = 'ventilator' then '2 1'
                    when lower(respchartvalue) in (
                        'none (room air)', 'room air', 'nasal cannula', 'high flow nasal cannula', 'simple mask', 'face mask',
                        'high flow mask', 'non-rebreather mask', 'venturi mask', 'aerosol mask', 'face tent', 'bi-pap', 'bipap',
                        'cpap'
                    ) then '2 0'
                end
            when respchartvaluelabel = 'Ventilator Support Mode' then '1 1'
            when respchartvalue ~ '^[0-9.]*[1-9]' then
                case when respchartvaluelabel in ('LPM O2', 'Oxygen Flow Rate') then '0 0' else '1 1' end
        end as sign
    from {schema}.respiratorycharting
    where patientunitstayid in (select patientunitstayid from stay)
        and respchartvaluelabel in (
            'RT Vent On/Off', 'O2 Device', 'Ventilator Support Mode', 'PEEP', 'Tidal Volume (set)', 'Vent Rate',
            'Adult Con Setting Set Vt', 'Adult Con Setting Set RR', 'Set Vt (Drager)', 'LPM O2', 'Oxygen Flow Rate'
        )
),
charted as (
    -- Of several entries that were known at once for one time, the last one made.
    select patientunitstayid, variable, unit, observed, known, value
    from (
        select distinct on (patientunitstayid, variable, unit, observed, known) *
        from entered
        where value is not null
        order by patientunitstayid, variable, unit, observed, known, entered desc, id desc
    ) as last_entered

    union all
    select distinct
        patientunitstayid, 'intakeoutput.urine', null, observed, known,
        cast(sum(added) over (partition by patientunitstayid, observed order by known) as text)
    from urine_entry

    union all
    select distinct
        patientunitstayid, 'respiratorycharting.ventilation', null, observed, known,
        right(max(sign) over (partition by patientunitstayid, observed order by known), 1)
    from breathing
    where sign is not null

    union all
    -- The worst state of the first 24 hours, known when they are over; for stays whose nurses charted none until then.
    select a.patientunitstayid, 'apacheapsvar.' || m.variable, null, 1440, 1440, cast(m.value as text)
    from {schema}.apacheapsvar a
    cross join lateral (values
        ('eyes', a.eyes), ('motor', a.motor), ('verbal', a.verbal),
        ('gcs', case when least(a.eyes, a.motor, a.verbal) > 0 then a.eyes + a.motor + a.verbal end)
    ) as m (variable, value)
    where a.patientunitstayid in (select patientunitstayid from stay) and m.value > 0
        and not exists (
            select from nurse_charted_once n
            where n.patientunitstayid = a.patientunitstayid and n.known <= 1440
                and n.variable in ('GCS Total', 'Score (Glasgow Coma Scale)', 'Eyes', 'Motor', 'Verbal')
        )

    union all
    select
        v.patientunitstayid, 'vitalperiodic.' || m.variable, null, v.observationoffset,
        greatest(v.observationoffset, 0), cast(m.value as text)
    from {schema}.vitalperiodic v
    cross join lateral (values
        ('temperature', v.temperature), ('sao2', v.sao2), ('heartrate', v.heartrate), ('respiration', v.respiration),
        ('systemicsystolic', v.systemicsystolic), ('systemicdiastolic', v.systemicdiastolic),
        ('systemicmean', v.systemicmean)
    ) as m (variable, value)
    where v.patientunitstayid in (select patientunitstayid from stay) and m.value is not null

    union all
    select
        v.patientunitstayid, 'vitalaperiodic.' || m.variable, null, v.observationoffset,
        greatest(v.observationoffset, 0), cast(m.value as text)
    from {schema}.vitalaperiodic v
    cross join lateral (values
        ('noninvasivesystolic', v.noninvasivesystolic), ('noninvasivediastolic', v.noninvasivediastolic),
        ('noninvasivemean', v.noninvasivemean)
    ) as m (variable, value)
    where v.patientunitstayid in (select patientunitstayid from stay) and m.value is not null
),
placed as (
    select
        cast(s.patientunitstayid as text) as stay_id, c.variable, c.unit,
        s.intime + c.observed * interval '1 minute' as observed_at,
        s.intime + c.known * interval '1 minute' as available_at,
        case
            -- The share of oxygen comes as a fraction and in percent, under one name.
            when c.variable ~* 'fio2' and c.value ~ '^([0-9]+\.?[0-9]*|\.[0-9]+)$'
                and cast(c.value as numeric) > 1
            then cast(cast(c.value as numeric) / 100 as text)
            -- Volumes of a breath come in millilitres and in litres.
            when c.variable in (
                'respiratorycharting.Exhaled TV (patient)', 'respiratorycharting.Exhaled TV (machine)',
                'respiratorycharting.Tidal Volume Observed (VT)', 'respiratorycharting.Exhaled Vt'
            ) and c.value ~ '^[0-3]?\.[0-9]+$'
            then cast(cast(c.value as numeric) * 1000 as text)
            else c.value
        end as value
    from charted c
    join stay s on s.patientunitstayid = c.patientunitstayid
    where c.observed >= -1440
        -- An end that is charted for before the begin is an error and cuts nothing off.
        and (s.unitdischargeoffset is null or s.unitdischargeoffset <= 0 or c.observed < s.unitdischargeoffset)
        and (s.unitdischargeoffset is null or c.known <= greatest(s.unitdischargeoffset, 0) + 1440)
)
select stay_id, variable, unit, observed_at, available_at, value from placed
where available_at > :since and available_at <= :until
