"""What the board shows: the newest published run of a source, read in one transaction."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from sqlalchemy import Connection, Engine, text

from rnn_core.contracts.census import CENSUS_HORIZONS, HOSPITAL
from rnn_core.contracts.thresholds import LIKELY, RISK_BANDS
from sql.store.statements import read_statement

PAST_DAYS = 7
# What happened to a stay in forecast.changes.
CHANGES: tuple[str, ...] = ("admitted", "left", "died", "risk_up", "risk_down")

_OUTLOOK = "select * from forecast.unit_outlook where source = :source order by unit, horizon_hours"
_TOMORROW = "select * from forecast.tomorrow where source = :source order by unit"
_UNITS = "select unit from forecast.unit_census where source = :source and unit is not null order by unit"
# As it was known when the run began, so that the last hour holds the patients that the forecast begins with.
_PAST = """
with stay as materialized (
    select s.unit, s.intime, coalesce(s.outtime, 'infinity') as outtime
    from icu.stay_at(:as_of, :started_at) s
    where s.source = :source and (s.outtime > :since or (s.outtime is null and s.outcome is null))
)
select case grouping(s.unit) when 1 then :hospital else s.unit end as unit, h.at, count(s.intime) as census
from generate_series(cast(:since as timestamptz), :as_of, interval '1 hour') as h (at)
left join stay s on s.intime <= h.at and s.outtime > h.at
group by grouping sets ((h.at, s.unit), (h.at))
"""
_PATIENTS_NOW = """
select
    case grouping(unit) when 1 then :hospital else unit end as unit,
    count(*) as n_patients,
    count(*) filter (where status = 'abstained') as n_abstained,
    sum(discharge_24h_prob) as expected_to_leave,
    count(*) filter (where discharge_24h_prob >= :likely) as likely_to_leave,
    {bands}
from forecast.current_risk where source = :source
group by grouping sets ((unit), ())
"""
_CHANGES = """
select case grouping(unit) when 1 then :hospital else unit end as unit, change, count(*) as n
from forecast.changes where source = :source
group by grouping sets ((unit, change), (change))
"""
# Of a stay that has ended nothing is planned any more. A transfer is one to the unit, unless its stay is there already.
_PLANNED = """
select
    case grouping(unit) when 1 then :hospital else unit end as unit, day, kind, count(*) as n, sum(probability) as expected
from (
    select
        p.unit, p.probability, (p.expected_at at time zone :timezone)::date as day,
        case when p.kind = 'transfer' and s.unit = p.unit then 'discharge' else p.kind end as kind
    from icu.planned_at(:as_of, :started_at) p
    left join icu.stay_at(:as_of, :started_at) s on s.source = p.source and s.stay_id = p.stay_id
    where p.source = :source and p.status = 'planned' and p.expected_at > :as_of and p.expected_at <= :until
        and s.outcome is null and (s.outtime is null or s.outtime > :as_of)
) plan
group by grouping sets ((unit, day, kind), (day, kind))
order by day, kind
"""
_PATIENTS = (
    "select * from forecast.current_risk where source = :source order by mortality_risk desc nulls last, stay_id"
)
_CHANGED = "select * from forecast.changes where source = :source order by at desc, stay_id, change"


@dataclass(frozen=True)
class Board:
    """The newest published run of a source; unit `*` is the hospital.

    run: source, run_id, as_of, model_id, provisional, timezone, newest_observation_at, started_at, read_at and both ages.
    units: all of the source, without the hospital. outlook, tomorrow: the rows of those views.
    past: patients per hour [hours, units] of PAST_DAYS up to as_of, indexed by time.
    patients_now: per unit counts of patients with a row in the run, of those who abstain, and by risk band; how many are
        expected to leave within 24 hours, and how many leave with a probability of LIKELY or more.
    changes: counts since yesterday [units, CHANGES].
    planned: what was planned for the next days when the run began: n plans of a kind per unit and day of the hospital's clock,
        and expected, the sum of their probabilities.
    patients, changed: the rows of forecast.current_risk and forecast.changes; None unless requested.
    """

    run: Mapping[str, Any]
    units: list[str]
    outlook: pd.DataFrame
    tomorrow: pd.DataFrame
    past: pd.DataFrame
    patients_now: pd.DataFrame
    changes: pd.DataFrame
    planned: pd.DataFrame
    patients: pd.DataFrame | None
    changed: pd.DataFrame | None


def newest_run(engine: Engine, source: str) -> int | None:
    """run_id of the run that the board shows, None if readers see none."""
    with engine.connect() as connection:
        run = _run(connection, source)
    return run and run["run_id"]


def read_board(engine: Engine, source: str, *, patients: bool = False) -> Board | None:
    """The newest published run of `source`, None if readers see none.

    patients: also read the rows of patients; without it no row of a patient leaves the database.
    """
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        run = _run(connection, source)
        if run is None:
            return None

        def read(query: str, **bound: Any) -> pd.DataFrame:
            return pd.read_sql_query(text(query), connection, params={"source": source, **bound})

        outlook, total = read(_OUTLOOK), {"hospital": HOSPITAL}
        named = {*read(_UNITS)["unit"], *outlook["unit"]} - {HOSPITAL}
        units = sorted(named)
        shown = [HOSPITAL, *units]
        times = {"as_of": run["as_of"], "since": run["as_of"] - pd.Timedelta(days=PAST_DAYS)}
        past = read(_PAST, started_at=run["started_at"], **times, **total)
        horizon = run["as_of"] + pd.Timedelta(hours=max(CENSUS_HORIZONS))
        known = {"as_of": run["as_of"], "started_at": run["started_at"], "timezone": run["timezone"], "until": horizon}
        planned = read(_PLANNED, **known, **total)
        bands = ", ".join(f"count(*) filter (where risk_band = '{band}') as \"{band}\"" for band in RISK_BANDS)
        now = read(_PATIENTS_NOW.format(bands=bands), likely=LIKELY, **total)
        changes = read(_CHANGES, **total)
        return Board(
            run=run,
            units=units,
            outlook=outlook,
            tomorrow=read(_TOMORROW).set_index("unit"),
            past=_by_unit(past, "at", "census").reindex(columns=shown, fill_value=0),
            patients_now=now[now["unit"].notna()].set_index("unit").reindex(shown).fillna(0),
            changes=_by_unit(changes, "change", "n").T.reindex(index=shown, columns=CHANGES, fill_value=0),
            planned=planned,
            patients=read(_PATIENTS) if patients else None,
            changed=read(_CHANGED) if patients else None,
        )


def _run(connection: Connection, source: str) -> dict[str, Any] | None:
    row = connection.execute(text(read_statement("published/current_run.sql")), {"source": source}).mappings()
    found = row.one_or_none()
    return dict(found) if found else None


def _by_unit(rows: pd.DataFrame, index: str, value: str) -> pd.DataFrame:
    """Counts [index, units], 0 where there is no row; patients whose unit is not known are in the hospital's only."""
    known = rows[rows["unit"].notna()]
    return known.pivot(index=index, columns="unit", values=value).fillna(0).astype(int)
