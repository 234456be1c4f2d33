"""Draws the page of a registered model on stays that it has not learned from."""

from datetime import datetime
from pathlib import Path

from sqlalchemy import Engine

from flows.experiments.tune import newest_study
from flows.jobs.hold_out import unseen_by
from flows.runtime.settings import load_settings
from flows.shards.stored_stays import read_stored
from rnn_core.contracts.errors import ForecastError
from sql.published import registry


def draw_model(store: Engine, model_id: str, as_of: datetime, out: Path | None = None) -> Path:
    """Write the page of a stay model, by what is known at `as_of`, with the newest search of its source; return its path.

    Raises ForecastError if it is no stay model, DataTooSmallError if it has learned from all stays.
    """
    row = registry.read_model(store, model_id)
    if row["name"] != "stay":
        raise ForecastError(f"{model_id} forecasts no stays; a stay model was expected (`icu-forecast models list`).")
    from flows.pages.training import write_page
    from flows.pages.tuning import search_log
    from rnn_core.evaluation.holdout import count_deaths, score_stays
    from rnn_core.forecasters.stay import load_stay_forecaster

    judged = unseen_by(store, [row], read_stored(store, row["source"], as_of))
    scored = score_stays(load_stay_forecaster(load_settings().artifact_folder / row["artifact"]), judged)
    basis = (
        f"{len(scored.stay):,} forecasts of {len(set(scored.stay.tolist())):,} stays ({count_deaths(judged)} died) that it has "
        f"not learned from, every 6 hours of each stay, as known at {as_of:%Y-%m-%d %H:%M} UTC."
    )
    path = out or load_settings().home / "reports" / f"model-{model_id}.html"
    study = newest_study(store, row["source"])
    write_page(path, row, scored, basis, [search_log(study)] if study else [])
    return path
