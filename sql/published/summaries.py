"""Summaries read from our views, for pages and the terminal."""

from typing import Any

import pandas as pd
from sqlalchemy import Engine, text

_CURRENT_RISK = """
select stay_id, unit, round(hours_in_stay::numeric, 1) as hours_in, round(mortality_risk::numeric, 3) as mortality_risk,
    risk_band, round(prolonged_stay_risk::numeric, 3) as prolonged_stay_risk,
    round(remaining_los_p10_hours::numeric) as p10_h, round(remaining_los_p50_hours::numeric) as p50_h,
    round(remaining_los_p90_hours::numeric) as p90_h, round(discharge_24h_prob::numeric, 2) as home_24h, status, model_stage
from forecast.current_risk where source = :source limit :n
"""
_QUARANTINE = """
select relation, check_name, disposition, sum(rows)::bigint as rows from forecast.quarantine_summary
where source = :source group by 1, 2, 3 order by rows desc
"""
_ALERT_BURDEN = """
select model_id, role, risk_band, n_days, flagged_per_day, n_stays, n_died, n_flagged, sensitivity, ppv
from forecast.alert_burden where source = :source order by model_id, role, n_flagged desc
"""


def highest_risks(engine: Engine, source: str, n: int) -> list[dict[str, Any]]:
    """The `n` open stays with the highest risk, rounded for display; times in hours, risks 0 to 1."""
    return _rows(engine, _CURRENT_RISK, {"source": source, "n": n})


def count_quarantined(engine: Engine, source: str) -> list[dict[str, Any]]:
    """Rows in quarantine per relation, check and disposition, most first."""
    return _rows(engine, _QUARANTINE, {"source": source})


def read_alert_burden(engine: Engine, source: str) -> pd.DataFrame:
    """Rows of `forecast.alert_burden` by model and role, the widest band first; patients a day, shares 0 to 1."""
    with engine.connect() as connection:
        return pd.read_sql_query(text(_ALERT_BURDEN), connection, params={"source": source})


def _rows(engine: Engine, query: str, bound: dict[str, Any]) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(text(query), bound).mappings()]
