"""What a forecast was made from: the rows of a stay, and its drivers."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine

from flows.runtime.databases import open_store
from rnn_core.contracts.errors import ForecastError
from sql.published import explanations


def explain_rows(stay: str, as_of: datetime, source: str | None) -> list[dict[str, Any]]:
    """Each row of a stay with its fate at the hour `as_of`, as `explanations.read_rows` returns them.

    Raises ForecastError if neither tables nor quarantine contain the stay, or if several sources do.
    """
    store = open_store()
    return explanations.read_rows(store, _source_of(store, stay, source), stay, as_of)


def explain_forecast(stay: str, as_of: datetime | None, source: str | None) -> list[dict[str, Any]]:
    """The published drivers of a stay at the hour `as_of`, by default the newest it has, strongest first.

    Raises ForecastError if none are published, or if no source or several have the stay.
    """
    store = open_store()
    source = _source_of(store, stay, source)
    rows = explanations.read_drivers(store, source, stay, as_of)
    if not rows:
        raise ForecastError(_why_unexplained(as_of, explanations.last_forecast(store, source, stay, as_of)))
    return rows


def _source_of(store: Engine, stay: str, source: str | None) -> str:
    found = explanations.sources_of(store, stay)
    if source is None and len(found) == 1:
        source = found[0]
    if source not in found:
        raise ForecastError(
            f"Several sources have this stay: {', '.join(found)}; choose one with --source."
            if found
            else "No source has a stay with this id; see forecast.current_risk and icu.stay."
        )
    return source


def _why_unexplained(as_of: datetime | None, last: Mapping[str, Any] | None) -> str:
    """The sentence for a stay without drivers; `last`: its forecast of that hour, or its newest if no hour is given."""
    if last is None:
        when = f" for {as_of:%Y-%m-%dT%H:%MZ}; see its hours in forecast.risk_history" if as_of else " yet"
        return f"No forecast of this stay is published{when}."
    at = f"{last['prediction_time'].astimezone(UTC):%Y-%m-%dT%H:%MZ}"
    if last["status_reason"] == "outcome_not_learned":
        return f"The stay has no risk of death at {at}: the stays its model learned from all ended alike."
    if last["status_reason"]:
        return f"The stay was not scored at {at} ({last['status_reason']}), so there is nothing to explain."
    none = f"No drivers of this stay are published for {at}"
    if last["kind"] == "backfill":
        return f"{none}: back-fills publish no drivers. Run `icu-forecast forecast` for that hour."
    return (
        f"{none}, though it was scored: a run with many stays explains only the highest risks, and older versions "
        "explained none. Or no concept changes this risk enough."
    )
