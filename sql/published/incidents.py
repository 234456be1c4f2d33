"""Incidents: what is wrong now according to the tables, and which alerts were sent."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Engine, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from rnn_core.contracts.thresholds import CALIBRATION_SLOPE, OBSERVED_EXPECTED
from sql.store.schema import incident

# A feed that is readable but has nothing new for this long has stopped further up.
STALE_FEED_HOURS = 6
# A run is too long at three times the longest of its source's last good runs of its kind (at two days of hourly runs, the
# nightly ones are among them), and never within the first hour; without a good run, after six hours.
_USUAL_RUNS, _TIMES = 50, 3
_SHORTEST, _FIRST = timedelta(hours=1), timedelta(hours=6)
# Known by Prefect's server alone, not by the tables.
BY_PREFECT = "gave_up"


@dataclass(frozen=True)
class Incident:
    """Something a person should look at; `sentence` contains no patient data."""

    source: str
    kind: str
    subject: str
    sentence: str


_LATE = """
select source, 'late_run' as kind, kind as subject,
    format('No %s of %s for %s hours; the last good one is for %s.', kind, source, round(age_hours::numeric, 1),
        coalesce(to_char(last_good_as_of at time zone 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC', 'no hour yet')) as sentence
from forecast.run_health
where stale and kind in ('ingest', 'forecast', 'evaluate', 'refresh')
"""
# A failed critical check is a kind of its own, so that one fault gives one alert. Both stay open until a good run: that the
# next one has started mends nothing.
_FAILED = """
with failed as (
    select h.source, h.kind, h.consecutive_failures, r.run_id, r.error, r.started_at, r.finished_at
    from forecast.run_health h
    join forecast.run r on r.run_id = h.last_failed_run_id
),
critical as (
    select f.source, f.kind, min(c.check_name) as check_name
    from failed f
    join quality.check_result c on c.source = f.source and c.severity = 'critical' and not c.passed
        and (c.run_id = f.run_id or (f.kind = 'ingest' and c.checked_at between f.started_at and f.finished_at))
    group by f.source, f.kind
)
select f.source, case when c.check_name is null then 'failed_run' else 'critical_check' end as kind, f.kind as subject,
    format('The last %s of %s failed (%s in a row): %s', f.kind, f.source, f.consecutive_failures, f.error)
        as sentence
from failed f
left join critical c on c.source = f.source and c.kind = f.kind
"""
# Its process hangs, or died and left the row: the next run of its kind would close it, and may be a week away.
_LONG = """
select r.source, 'long_run' as kind, r.kind as subject,
    format('The %s of %s (run %s) has been running for %s hours, %s; it hangs, or its process died.', r.kind, r.source,
        r.run_id, round((extract(epoch from now() - r.started_at) / 3600)::numeric, 1),
        coalesce('the last good ones took up to ' || round((extract(epoch from usual.longest) / 3600)::numeric, 1),
            'and there is no good one yet')) as sentence
from forecast.run r
cross join lateral (
    select max(finished_at - started_at) as longest
    from (
        select finished_at, started_at from forecast.run good
        where (good.source, good.kind, good.status) = (r.source, r.kind, 'published')
        order by run_id desc limit :usual_runs
    ) good
) usual
where r.status = 'running'
    and now() - r.started_at > greatest(coalesce(usual.longest * :times, :first), :shortest)
"""
_STALE_FEED = """
with newest as (
    select source, max(watermark) as watermark from icu.batch where ingested_at is not null group by source
)
select h.source, 'stale_feed' as kind, 'feed' as subject,
    format('%s is readable but has nothing new: its newest data are from %s UTC.', h.source,
        to_char(n.watermark at time zone 'UTC', 'YYYY-MM-DD HH24:MI')) as sentence
from forecast.run_health h
join newest n on n.source = h.source
where h.kind = 'ingest' and not h.stale and h.last_good_as_of - n.watermark > make_interval(hours => :stale_feed_hours)
"""
# Only an interval entirely outside the acceptable range counts, so that small numbers raise no alarm.
_CALIBRATION = """
select s.source, 'calibration' as kind, s.model_id as subject,
    format('The risks of %s are off: %s %s (%s to %s), acceptable are %s to %s.', s.model_id,
        case s.metric when 'mortality_observed_expected' then 'observed to expected deaths' else 'calibration slope' end,
        round(s.value::numeric, 2), round(s.low::numeric, 2), round(s.high::numeric, 2), b.low, b.high) as sentence
from (
    select distinct on (source, model_id) * from forecast.scorecard s
    where (unit, month, age_group, sex, stay_hours) = ('all', 'all', 'all', 'all', 'all')
        and metric in ('mortality_observed_expected', 'mortality_calibration_slope')
        and exists (
            select from (values ('mortality_observed_expected', :oe_low, :oe_high),
                ('mortality_calibration_slope', :slope_low, :slope_high)) b (metric, low, high)
            where b.metric = s.metric and (s.low > b.high or s.high < b.low)
        )
    order by source, model_id, metric
) s
join (values ('mortality_observed_expected', :oe_low, :oe_high), ('mortality_calibration_slope', :slope_low, :slope_high))
    b (metric, low, high) on b.metric = s.metric
join forecast.model m on m.model_id = s.model_id and m.stage in ('champion', 'provisional')
"""
_DRIFT = """
select d.source, 'drift' as kind, d.concept as subject,
    format('%s of %s has drifted%s: median %s (%s in training), stability index %s, missing in %s of the stays (%s).',
        d.concept, d.source, case when d.wrong_unit then ', perhaps to another unit' else '' end,
        coalesce(round(d.median::numeric, 2)::text, 'none'), round(d.reference_median::numeric, 2),
        coalesce(round(d.psi::numeric, 2)::text, 'none'), round(d.missing::numeric, 2),
        round(d.reference_missing::numeric, 2)) as sentence
from forecast.drift d
join forecast.model m on m.model_id = d.model_id and m.stage in ('champion', 'provisional')
where d.drifted
"""


def find_incidents(engine: Engine, sources: Iterable[str]) -> list[Incident]:
    """What is wrong now with `sources`, according to the tables."""
    bound = {
        "stale_feed_hours": STALE_FEED_HOURS,
        "oe_low": OBSERVED_EXPECTED[0],
        "oe_high": OBSERVED_EXPECTED[1],
        "slope_low": CALIBRATION_SLOPE[0],
        "slope_high": CALIBRATION_SLOPE[1],
        "usual_runs": _USUAL_RUNS,
        "times": _TIMES,
        "shortest": _SHORTEST,
        "first": _FIRST,
    }
    known = set(sources)
    found = []
    with engine.connect() as connection:
        for query in (_LATE, _FAILED, _LONG, _STALE_FEED, _CALIBRATION, _DRIFT):
            statement = text(query)
            rows = connection.execute(statement, {name: bound[name] for name in statement.compile().params}).mappings()
            found += [Incident(**row) for row in rows]
    return [one for one in found if one.source in known]


def update_incidents(engine: Engine, current: Iterable[Incident], *, saw_prefect: bool = True) -> None:
    """Open new incidents, update those that persist, close those that are over.

    saw_prefect: without Prefect's server, its incidents can be neither found nor over.
    """
    current = list(current)
    with engine.begin() as connection:
        seen = []
        for one in current:
            row = insert(incident).values(**vars(one))
            lasting = row.on_conflict_do_update(
                index_elements=["source", "kind", "subject"],
                index_where=incident.c.closed_at.is_(None),
                set_={"sentence": row.excluded.sentence, "seen_at": func.clock_timestamp()},
            )
            seen.append(connection.execute(lasting.returning(incident.c.incident_id)).scalar_one())
        over = incident.c.closed_at.is_(None) & incident.c.incident_id.not_in(seen)
        if not saw_prefect:
            over &= incident.c.kind != BY_PREFECT
        connection.execute(update(incident).where(over).values(closed_at=func.clock_timestamp()))


def unsent_incidents(engine: Engine) -> list[tuple[int, Incident]]:
    """Open incidents without a sent alert, oldest first, with their ids."""
    query = (
        select(incident)
        .where(incident.c.closed_at.is_(None), incident.c.notified_at.is_(None))
        .order_by(incident.c.incident_id)
    )
    with engine.connect() as connection:
        return [
            (row.incident_id, Incident(row.source, row.kind, row.subject, row.sentence))
            for row in connection.execute(query)
        ]


def mark_sent(engine: Engine, incident_ids: Iterable[int]) -> None:
    """Record that alerts for these incidents were sent."""
    with engine.begin() as connection:
        sent = update(incident).where(incident.c.incident_id.in_(list(incident_ids)))
        connection.execute(sent.values(notified_at=func.clock_timestamp()))
