"""Reads for people: any SELECT, the models, and why a forecast saw what it saw."""

from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from flows.databases import open_store
from rnn_core.errors import ForecastError
from sql import registry


def run_query(query: str) -> list[dict[str, Any]]:
    """Rows of one SELECT in a read-only transaction. Raises ForecastError with the database's own message."""
    with open_store().connect() as connection:
        connection.exec_driver_sql("set transaction read only")
        try:
            result = connection.exec_driver_sql(query.replace("%", "%%"))
            return [dict(row) for row in result.mappings()] if result.returns_rows else []
        except DBAPIError as error:
            raise ForecastError(f"The query did not run: {str(error.orig).strip()}") from None


def list_models(source: str | None) -> list[dict[str, Any]]:
    """One row per model with what tells it from the others."""
    return [
        {
            "model_id": row["model_id"], "source": row["source"], "name": row["name"], "version": row["version"],
            "stage": row["stage"], "data_cutoff": row["data_cutoff"], "trained_at": row["trained_at"],
            **_main_metrics(row["metrics"]), "reason": row["stage_reason"],
        }
        for row in registry.list_models(open_store(), source)
    ]  # fmt: skip


def _main_metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    if "test_mse" in metrics:
        return {"auroc": None, "los_mae_days": None, "test_mse": metrics["test_mse"]}
    judged = metrics.get("metrics", {})
    shown = {"auroc": "mortality_auroc", "los_mae_days": "los_mean_absolute_error_days"}
    return {name: judged.get(metric, {}).get("value") for name, metric in shown.items()} | {"test_mse": None}


_WHY = """
select concept as variable, observed_at, available_at, value::text as value,
    case when available_at <= :as_of then 'used' else 'not yet known' end as fate, null as reason
from icu.observation where source = :source and stay_id = :stay
union all
select coalesce(row ->> 'variable', relation), nullif(row ->> 'observed_at', '')::timestamptz,
    nullif(row ->> 'available_at', '')::timestamptz, row ->> 'value',
    case disposition when 'rejected' then 'quarantined' else disposition end, check_name || ': ' || reason
from quality.quarantine
where source = :source and row ->> 'stay_id' = :stay
    and coalesce(pg_input_is_valid(nullif(row ->> 'observed_at', ''), 'timestamptz'), true)
    and coalesce(pg_input_is_valid(nullif(row ->> 'available_at', ''), 'timestamptz'), true)
union all
select 'stay version', intime, available_at, concat_ws(', ', unit, outcome, outtime::text),
    case when available_at <= :as_of then 'used' else 'not yet known' end, null
from icu.stay_version where source = :source and stay_id = :stay
order by available_at, observed_at, variable
"""


def explain_rows(stay: str, as_of: datetime, source: str | None) -> list[dict[str, Any]]:
    """Each row of a stay with its fate at `as_of`. Raises ForecastError where the stay is not known, or is ambiguous."""
    with open_store().connect() as connection:
        found = list(
            connection.execute(
                text("select distinct source from icu.stay_version where stay_id = :stay order by 1"), {"stay": stay}
            ).scalars()
        )
        if source is None and len(found) == 1:
            source = found[0]
        if source not in found:
            raise ForecastError(
                f"The stay is known to {', '.join(found)}; say which with --source." if found
                else "No source knows a stay of this id; stay ids stand in forecast.current_risk and icu.stay."
            )  # fmt: skip
        bound = {"source": source, "stay": stay, "as_of": as_of}
        return [dict(row) for row in connection.execute(text(_WHY), bound).mappings()]
