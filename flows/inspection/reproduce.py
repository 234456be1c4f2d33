"""A past run scored again from what the tables held when it began, and compared with what it published."""

from typing import Any

import numpy as np
import pandas as pd

from flows.jobs.forecast import load_model, score
from flows.runtime.databases import open_store
from flows.shards.open_stays import OpenStays
from rnn_core.contracts.errors import ForecastError
from sql.published import registry, results, runs

_NUMBERS = [
    name for name in results.STAY_FORECAST_COLUMNS if name not in ("stay_id", "status", "status_reason", "risk_band")
]
_WORDS = ["status", "status_reason", "risk_band"]


def reproduce(run_id: int) -> dict[str, Any]:
    """Score the run again; returns how many of its rows are equal, and the greatest difference of a number.

    Raises ForecastError if the run published no forecasts, or a later run has replaced its slot.
    """
    store = open_store()
    run = runs.read_run(store, run_id)
    if run["kind"] not in ("forecast", "backfill") or run["status"] != "published":
        raise ForecastError(
            f"Run {run_id} is a {run['kind']} with status {run['status']}; only published forecasts are scored again."
        )
    published = results.read_forecasts(store, run_id).set_index("stay_id")
    if published.empty and run["stays_scored"] + run["stays_abstained"] > 0:
        raise ForecastError(f"A later run of the same model has replaced the slot of run {run_id}; see forecast.run.")
    model = registry.read_model(store, run["model_id"])
    load_model(model["artifact"])
    stays = OpenStays(run["source"], run["as_of"], model["artifact"], ingested_by=run["started_at"])
    again = score(store, stays).numbers.set_index("stay_id")
    return {
        "run": run_id,
        "model": run["model_id"],
        "as of": run["as_of"].isoformat(),
        **_differences(published, again),
    }


def _differences(published: pd.DataFrame, again: pd.DataFrame) -> dict[str, Any]:
    both = published.index.intersection(again.index)
    a, b = (frame.loc[both, _NUMBERS].astype(float).to_numpy() for frame in (published, again))
    words, again_words = (frame.loc[both, _WORDS].fillna("") for frame in (published, again))
    same_words = (words == again_words).all(axis=1)
    equal = same_words.to_numpy() & ((a == b) | (np.isnan(a) & np.isnan(b))).all(axis=1)
    gap = np.abs(a - b)
    return {
        "rows published": len(published),
        "rows scored again": len(again),
        "rows equal": int(equal.sum()),
        "greatest difference": float(np.nanmax(gap)) if np.isfinite(gap).any() else 0.0,
    }
