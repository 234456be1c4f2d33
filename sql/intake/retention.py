"""Retention: deletes patients' rows that are no longer needed, in one transaction; counts and scores stay."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, text

# Ended stays of the source without a new version since the cut-off; a reconcile that starts there finds no row. A stay
# whose end is quarantined is not in icu.stay.
_PURGED = """
create temporary table purged on commit drop as
select stay_id from icu.stay
where source = :source and (outtime < :cutoff or (outtime is null and outcome is not null)) and available_at < :cutoff
union
select v.stay_id from icu.stay_version v
where v.source = :source and not exists (select from icu.stay s where s.source = v.source and s.stay_id = v.stay_id)
    and not exists (
        select from quality.rejected_version r
        where r.reports_end and r.source = v.source and r.stay_id = v.stay_id and r.known_at >= :cutoff
    )
group by v.stay_id having max(v.available_at) < :cutoff
"""
# After the last batch that said something of them, and their end, no run found them open: months later than that are left
# alone. A day, because jobs and database may have different clocks.
_LAST_FORECAST = """
select greatest(:cutoff, max(b.ingested_at)) + interval '1 day'
from (
    select source, stay_id, batch_id from icu.stay_version
    union all select source, stay_id, batch_id from quality.rejected_version
) v
join purged p on p.stay_id = v.stay_id
join icu.batch b on b.batch_id = v.batch_id
where v.source = :source
"""
_OF_STAYS = ("icu.observation", "icu.stay_version", "forecast.stay_forecast_driver", "forecast.stay_forecast")
# Without its quarantined end a stay that is kept would count as present again.
_OF_QUARANTINE = """
from quality.quarantine q where q.source = :source and q.quarantined_at < :cutoff and not (
    q.relation = 'stay' and exists (
        select from icu.stay_version v where v.source = q.source and v.stay_id = q."row" ->> 'stay_id'
    )
)
"""
# Plans whose time and last word are past; those of a stay that goes are among them, or go with it.
_OF_PLANS = """
from icu.planned t where t.source = :source and (
    t.stay_id in (select stay_id from purged) or greatest(t.expected_at, t.available_at) < :cutoff
)
"""
_REMEMBER = """
insert into icu.retention (source, purged_until) values (:source, :cutoff)
on conflict (source) do update set purged_until = greatest(icu.retention.purged_until, excluded.purged_until)
"""


def purge(engine: Engine, source: str, cutoff: datetime, *, dry_run: bool) -> dict[str, int]:
    """Delete all rows of the stays of `source` that ended before `cutoff` and have no later version, and its plans and
    quarantined rows from before; returns the rows per table.

    A later reconcile does not bring them back. Open stays are kept, however old. dry_run: count, delete nothing.
    """
    bound: dict[str, Any] = {"source": source, "cutoff": cutoff}
    with engine.begin() as connection:
        connection.execute(text(_PURGED), bound)
        connection.exec_driver_sql("analyze purged")
        of_stays = {
            t: f"from {t} t using purged p where t.source = :source and t.stay_id = p.stay_id" for t in _OF_STAYS
        }
        bound["until"] = connection.execute(text(_LAST_FORECAST), bound).scalar_one()
        of_stays["forecast.stay_forecast"] += " and t.prediction_time <= :until"
        counts = {
            table: _delete(connection, statement, bound)
            for table, statement in (
                *of_stays.items(),
                ("icu.planned", _OF_PLANS),
                ("quality.quarantine", _OF_QUARANTINE),
            )
        }
        connection.execute(text(_REMEMBER), bound)
        if dry_run:
            connection.rollback()
    return counts


def _delete(connection: Connection, statement: str, bound: dict) -> int:
    return connection.execute(text(f"delete {statement}"), bound).rowcount


def purged_until(connection: Connection, source: str) -> datetime | None:
    """Time before which ended stays of the source were purged; None if none ever were."""
    query = text("select purged_until from icu.retention where source = :source")
    return connection.execute(query, {"source": source}).scalar()
