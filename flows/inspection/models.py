"""Reads for people: any SELECT, the models, and why a forecast saw what it saw."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import Connection, text

from flows.runtime.databases import open_store, store_url
from flows.runtime.settings import load_settings
from rnn_core.contracts.errors import ForecastError
from sql.published import registry
from sql.store.engine import check_reachable, open_engine


def run_query(query: str) -> list[dict[str, Any]]:
    """Rows of one SELECT in a session that may only read. Raises ForecastError with the database's own message."""
    # Not migrated first: who may only read the views may not even look at the version.
    store = open_engine(store_url(load_settings()))
    check_reachable(store, "database of icu-forecast (ICU_DATABASE_URL)")
    with store.connect() as connection:
        # A session setting outlives what the query itself might commit, and must not go back into the pool.
        connection.detach()
        connection.exec_driver_sql("set default_transaction_read_only = on")
        connection.commit()
        try:
            # Prepared: the server takes one statement only, and percent signs and colons are plain text.
            cursor = connection.connection.cursor(row_factory=dict_row).execute(query, prepare=True)
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            raise ForecastError(f"The query did not run: {str(error).strip()}") from None


def list_models(source: str | None) -> list[dict[str, Any]]:
    """One row per model with what tells it from the others."""
    return [
        {
            "model_id": row["model_id"],
            "source": row["source"],
            "name": row["name"],
            "version": row["version"],
            "stage": row["stage"],
            "data_cutoff": row["data_cutoff"],
            "trained_at": row["trained_at"],
            **_main_metrics(row["metrics"]),
            "reason": row["stage_reason"],
        }
        for row in registry.list_models(open_store(), source)
    ]


def diff_models(first: str, second: str) -> list[dict[str, Any]]:
    """One row per thing in which two models differ: how they came about, their settings, their metrics."""
    store = open_store()
    a, b = (_flat(registry.read_model(store, model_id)) for model_id in (first, second))
    names = [*a, *(name for name in b if name not in a)]
    differing = [name for name in names if a.get(name) != b.get(name)]
    return [{"what": name, first: _short(a.get(name)), second: _short(b.get(name))} for name in differing]


def _short(value: Any) -> Any:
    """What fits into a cell; of a list, such as a learning curve, its length."""
    return f"({len(value)} values)" if isinstance(value, Sequence) and not isinstance(value, str) else value


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted names; of an estimate its value alone."""
    flat: dict[str, Any] = {}
    for name, part in value.items():
        if isinstance(part, Mapping) and "value" not in part:
            flat |= _flat(part, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = part["value"] if isinstance(part, Mapping) else part
    return flat


def model_card(model_id: str) -> str:
    """The card of a model as Markdown. Raises ForecastError where there is no such model or its artifact is damaged."""
    from rnn_core.forecasters.artifact import read_meta
    from rnn_core.reporting.model_card import write_card

    rows = [row for row in registry.list_models(open_store(), None) if row["model_id"] == model_id]
    if not rows:
        raise ForecastError(f"There is no model {model_id}; see `icu-forecast models list`.")
    return write_card(read_meta(load_settings().artifact_folder / rows[0]["artifact"]), rows[0])


def _main_metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    if "test_mse" in metrics:
        return {"auroc": None, "los_mae_days": None, "test_mse": metrics["test_mse"]}
    judged = metrics.get("metrics", {})
    shown = {"auroc": "mortality_auroc", "los_mae_days": "los_mean_absolute_error_days"}
    return {name: judged.get(metric, {}).get("value") for name, metric in shown.items()} | {"test_mse": None}


_WHY = """
with kept_out as (
    select
        coalesce(row ->> 'variable', relation) as variable, coalesce(row ->> 'observed_at', row ->> 'intime') as observed,
        row ->> 'available_at' as available, row ->> 'value' as value,
        case disposition when 'rejected' then 'quarantined' else disposition end as fate, check_name || ': ' || reason as reason
    from quality.quarantine where source = :source and row ->> 'stay_id' = :stay
), readable as (
    select variable, value, fate, reason,
        case when pg_input_is_valid(observed, 'timestamptz') then observed::timestamptz end as observed_at,
        case when pg_input_is_valid(available, 'timestamptz') then available::timestamptz end as available_at
    from kept_out
)
select concept as variable, observed_at, available_at, value::text as value,
    case when available_at <= :as_of then 'used' else 'not yet known' end as fate, null as reason
from icu.observation where source = :source and stay_id = :stay
union all
select variable, case when observed_at >= '0001-01-01' and observed_at < '10000-01-01' then observed_at end,
    case when available_at >= '0001-01-01' and available_at < '10000-01-01' then available_at end, value, fate, reason
from readable
union all
select 'stay version', intime, available_at, concat_ws(', ', unit, outcome, outtime::text),
    case when available_at <= :as_of then 'used' else 'not yet known' end, null
from icu.stay_version where source = :source and stay_id = :stay
order by available_at, observed_at, variable
"""
_SOURCES_OF_STAY = """
select source from icu.stay_version where stay_id = :stay
union select source from quality.quarantine where row ->> 'stay_id' = :stay
order by source
"""


def _source_of(connection: Connection, stay: str, source: str | None) -> str:
    found = list(connection.execute(text(_SOURCES_OF_STAY), {"stay": stay}).scalars())
    if source is None and len(found) == 1:
        source = found[0]
    if source not in found:
        raise ForecastError(
            f"The stay is known to {', '.join(found)}; say which with --source."
            if found
            else "No source knows a stay of this id; stay ids stand in forecast.current_risk and icu.stay."
        )
    return source


def explain_rows(stay: str, as_of: datetime, source: str | None) -> list[dict[str, Any]]:
    """Each row of a stay with its fate at the hour `as_of`; a time that cannot be read is null.

    So is one outside the years 1 to 9999, which Python cannot hold.

    Raises ForecastError where neither the tables nor the quarantine know the stay, or several sources do.
    """
    with open_store().connect() as connection:
        source = _source_of(connection, stay, source)
        bound = {"source": source, "stay": stay, "as_of": as_of}
        return [dict(row) for row in connection.execute(text(_WHY), bound).mappings()]


_EXPLANATION = """
select f.prediction_time, f.mortality_risk, f.risk_band, d.rank, d.driver, d.direction, d.contribution, d.last_value,
    d.value_unit, d.last_observed_at, f.model_id
from forecast.stay_forecast f
join forecast.run r on r.run_id = f.run_id and r.status = 'published' and r.role = 'champion'
join forecast.stay_forecast_driver d
    on d.model_id = f.model_id and d.source = f.source
    and d.prediction_time = f.prediction_time and d.stay_id = f.stay_id
where f.source = :source and f.stay_id = :stay
    and f.prediction_time = coalesce(
        :as_of,
        (select max(e.prediction_time) from forecast.stay_forecast_driver e where e.source = :source and e.stay_id = :stay)
    )
order by r.run_id desc, d.rank
"""


def explain_forecast(stay: str, as_of: datetime | None, source: str | None) -> list[dict[str, Any]]:
    """The published drivers of a stay at the hour `as_of`, by default the newest it has, strongest first.

    Raises ForecastError where none are published, no source knows the stay, or several do.
    """
    with open_store().connect() as connection:
        source = _source_of(connection, stay, source)
        bound = {"source": source, "stay": stay, "as_of": as_of}
        rows = [dict(row) for row in connection.execute(text(_EXPLANATION), bound).mappings()]
        if not rows:
            last = connection.execute(text(_LAST_FORECAST), bound).mappings().one_or_none()
            raise ForecastError(_why_unexplained(as_of, last))
    return [row for row in rows if row["model_id"] == rows[0]["model_id"]]


_LAST_FORECAST = """
select f.prediction_time, f.status_reason, r.kind
from forecast.stay_forecast f
join forecast.run r on r.run_id = f.run_id and r.status = 'published' and r.role = 'champion'
where f.source = :source and f.stay_id = :stay
    and (cast(:as_of as timestamptz) is null or f.prediction_time = :as_of)
order by f.prediction_time desc, r.run_id desc
limit 1
"""


def _why_unexplained(as_of: datetime | None, last: Mapping[str, Any] | None) -> str:
    """The sentence for a stay without drivers; `last`: its forecast of that hour, or its newest where no hour is named."""
    if last is None:
        when = f" for {as_of:%Y-%m-%dT%H:%MZ}; its hours stand in forecast.risk_history" if as_of else " yet"
        return f"No forecast of this stay is published{when}."
    at = f"{last['prediction_time'].astimezone(UTC):%Y-%m-%dT%H:%MZ}"
    if last["status_reason"]:
        return f"The stay was not scored at {at} ({last['status_reason']}), so there is nothing to explain."
    none = f"No drivers of this stay are published for {at}"
    if last["kind"] == "backfill":
        return (
            f"{none}: it was published by a back-fill, which explains none. Run `icu-forecast forecast` for that hour."
        )
    return (
        f"{none}, though it was scored: of many stays a run explains those most at risk, and those of an older version "
        "explained none. Or no concept changes this risk by enough to be named."
    )
