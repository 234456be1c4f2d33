-- The rules of the stay audit. They need, as known at one time: `stay`, the stays; `version`, the accepted versions;
-- `rejected`, the rows of quality.rejected_version.
unreplaced as (
    select r.*
    from rejected r
    where r.stay_id is not null and not exists (
        select from version v
        where v.source = r.source and v.stay_id = r.stay_id
            and (v.available_at, v.batch_id) > (r.known_at, r.batch_id)
    )
),
deaths as (
    select source, patient_id, min(died_at) as died_at from stay where died_at is not null group by source, patient_id
),
-- In one pass: a source that names all its patients alike must not take forever.
after_earlier as (
    select
        source, stay_id, intime, outtime,
        max(outtime) over (
            partition by source, patient_id order by intime, stay_id rows between unbounded preceding and 1 preceding
        ) as earlier_until
    from stay
    where patient_id is not null
),
fault as (
    select
        source, stay_id, 'overlapping_stays' as fault,
        extract(epoch from least(earlier_until, outtime) - intime) / 3600 as hours,
        'h shared with an earlier stay of the same patient' as meaning
    from after_earlier
    where earlier_until - intime > interval '1 hour' and (outtime is null or outtime - intime > interval '1 hour')
    union all
    select
        source, stay_id, 'died_before_outtime', extract(epoch from outtime - died_at) / 3600,
        'h between the death and the end of the stay'
    from stay
    where outtime - died_at > interval '{charting_delay_hours} hours'
    union all
    select
        s.source, s.stay_id, 'stay_after_death', extract(epoch from s.intime - d.died_at) / 3600,
        'h between a death of the patient and the begin of the stay'
    from stay s
    join deaths d on d.source = s.source and d.patient_id = s.patient_id
    where s.intime - d.died_at > interval '1 hour'
    union all
    select
        source, stay_id, 'longer_than_hospital',
        greatest(extract(epoch from outtime - hospital_outtime), extract(epoch from hospital_intime - intime)) / 3600,
        'h of the stay outside the hospital stay'
    from stay
    where outtime - hospital_outtime > interval '{charting_delay_hours} hours' or hospital_intime - intime > interval '{early_admission_hours} hours'
    union all
    select r.source, r.stay_id, 'negative_stay', count(*), 'quarantined version(s) end before they begin'
    from unreplaced r
    where r.check_name = 'ends_before_it_begins'
    group by r.source, r.stay_id
    union all
    select r.source, r.stay_id, 'impossible_begin', count(*), 'quarantined version(s) begin before the first plausible day'
    from unreplaced r
    where r.check_name = 'begins_before_first_day'
    group by r.source, r.stay_id
    union all
    -- The other quarantined ends matter where the stay had no other end.
    select r.source, r.stay_id, 'rejected_end', count(*), 'quarantined version(s) report the end of an open stay'
    from unreplaced r
    where r.reports_end and r.check_name not in ('ends_before_it_begins', 'begins_before_first_day')
        and not exists (select from stay s where s.source = r.source and s.stay_id = r.stay_id)
    group by r.source, r.stay_id
)
select source, stay_id, fault, trim_scale(round(hours, 1))::text || ' ' || meaning as explanation
from fault
