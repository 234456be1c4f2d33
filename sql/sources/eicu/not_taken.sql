-- Labels and names that observations.sql does not read, and rows without an offset, with their rows and unit stays; for
-- `source check`.
select 'stay' as kind, coalesce(unitstaytype, '(none)') as name, count(*) as n_rows, count(*) as n_stays
from {schema}.patient
where not (unitstaytype is distinct from 'stepdown/other' and unittype is distinct from 'SDU/Step down')
group by unitstaytype

union all
select 'row', name, count(*), count(distinct patientunitstayid)
from (
    select
        patientunitstayid,
        'nursecharting.' || case nursingchartcelltypevalname
            when 'Value' then nursingchartcelltypevallabel else nursingchartcelltypevalname
        end as name
    from {schema}.nursecharting

    union all
    select patientunitstayid, 'respiratorycharting.' || respchartvaluelabel from {schema}.respiratorycharting
    -- Read for the ventilation.
    where respchartvaluelabel not in (
        'RT Vent On/Off', 'O2 Device', 'Ventilator Support Mode', 'Tidal Volume (set)', 'Vent Rate',
        'Adult Con Setting Set Vt', 'Adult Con Setting Set RR', 'Set Vt (Drager)'
    )

    union all
    select patientunitstayid, 'lab.' || labname from {schema}.lab

    union all
    select patientunitstayid, 'intakeoutput.' || celllabel from {schema}.intakeoutput
    where celllabel !~* 'urin|foley|urethral|straight *cath|condom *cath' or celllabel ~* 'count|incont|irrigat|pacu'

    union all
    select patientunitstayid, 'infusiondrug.' || drugname from {schema}.infusiondrug
    where drugname !~* 'norepinephrine|levophed|phenylephrine|neo[ -]?synephrine|dobutamine'
        and drugname !~* '^(epineph|epi \(|vasopressin|dopamine|milrinone)'
) as held
where name not in ({variables})
group by name

union all
select 'untimed', name, count(*), count(distinct patientunitstayid)
from (
    select 'nursecharting' as name, patientunitstayid from {schema}.nursecharting where nursingchartoffset is null
    union all
    select 'respiratorycharting', patientunitstayid from {schema}.respiratorycharting where respchartoffset is null
    union all
    select 'lab', patientunitstayid from {schema}.lab where labresultoffset is null
    union all
    select 'infusiondrug', patientunitstayid from {schema}.infusiondrug where infusionoffset is null
    union all
    select 'intakeoutput', patientunitstayid from {schema}.intakeoutput where intakeoutputoffset is null
    union all
    select 'vitalperiodic', patientunitstayid from {schema}.vitalperiodic where observationoffset is null
    union all
    select 'vitalaperiodic', patientunitstayid from {schema}.vitalaperiodic where observationoffset is null
) as undated
group by name
