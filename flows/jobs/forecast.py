"""The forecast flow: from the canonical tables to published forecasts of every open stay."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from sqlalchemy import Engine

from flows.runtime import clock
from flows.runtime.databases import open_store
from flows.runtime.flow import flow
from flows.runtime.log import log
from flows.runtime.naming import run_name
from flows.runtime.run_report import AGE, hours_old, report
from flows.runtime.settings import load_settings
from flows.runtime.steps import Recorded, alone, attempted, recorded, step
from flows.shards.open_stays import OpenForecasts, OpenStays, explain_open_stays, load_forecaster, score_open_stays
from rnn_core.contracts.errors import ArtifactError, ForecastError
from sql.intake import quality
from sql.intake.landing import read_watermark
from sql.published import canonical, registry, results, runs, trials
from sql.published.results import Publication

if TYPE_CHECKING:
    from rnn_core.contracts.census import RateFactors
    from rnn_core.forecasters.stay import StayForecaster

# Seconds that one forecast run waits for another: the hourly run for the catch-up, and vice versa.
PATIENCE = 600.0


@flow(name="forecast", flow_run_name=run_name)
def forecast(source: str, as_of: datetime | None = None, dry_run: bool = False) -> dict:
    """Forecast every stay of `source` that is open at `as_of` and publish the run; returns counts.

    A challenger, if there is one, scores the same slot in the shadow.
    """
    store = open_store()
    role = role_of(store, source)
    with attempted(store, source, "forecast", as_of, role=role, dry_run=dry_run) as slot:
        serving = require_serving(store, source)
        forecaster = load_model(serving["artifact"])
        if dry_run:
            forecasts = score(store, OpenStays(source, slot, serving["artifact"])).numbers
            return {"open stays": len(forecasts), **forecasts["status"].value_counts().to_dict(), "published": 0}
        with alone(store, source, "forecast", PATIENCE):
            counts = publish_slot(store, source, slot, forecaster, serving, kind="forecast", role=role)
            counts |= score_in_shadow(store, source, slot)
            counts |= renew_board(store, source, role)
    report(store, "forecast", source, slot, counts)
    return counts


def role_of(store: Engine, source: str) -> str:
    """The role of the serving model's runs: shown to readers, or hidden while the source is on trial."""
    return "trial" if trials.open_trial(store, source) else "champion"


def publish_slot(
    store: Engine, source: str, as_of: datetime, forecaster: "StayForecaster", model: dict, *, kind: str, role: str
) -> dict:
    """All steps of one slot, for schedule, back-fill and shadow; the caller holds the lock of the source (`alone`)."""
    with recorded(store, source, kind, as_of, role=role, model_id=model["model_id"]) as run:
        started_at = runs.read_run(store, run.run_id)["started_at"]
        stays = OpenStays(source, as_of, model["artifact"], ingested_by=started_at)
        forecasts = score(store, stays)
        check_forecasts(store, run, forecasts.numbers)
        # A back-fill is read in bulk, not per patient, and a shadow run by nobody.
        drivers, census, units = None, None, (None, None)
        if kind == "forecast" and role != "shadow":
            drivers = _unless_refused(run, "drivers", explain, store, stays, forecasts.numbers)
        if role != "shadow":
            census = _unless_refused(run, "census", forecast_census, store, stays, forecaster, forecasts)
            units = forecast_units(store, source, as_of)
        publication = Publication(
            run_id=run.run_id,
            kind=kind,
            model_id=model["model_id"],
            source=source,
            prediction_time=as_of,
            stays=forecasts.numbers,
            drivers=drivers,
            census=census,
            units=units[0],
            unit_model_id=units[1],
            newest_observation_at=forecasts.newest,
        )
        run.counts |= publish(store, run, publication)
        run.counts |= {"model": model["model_id"], "stage": model["stage"]}
    return {"run": run.run_id, **run.counts}


def _unless_refused(run: Recorded, what: str, make: Callable[..., pd.DataFrame], *given: Any) -> pd.DataFrame | None:
    """What a step makes of forecasts that stand without it; if it cannot, they are published and the run reports it."""
    try:
        return make(*given)
    except ForecastError as error:
        log.error("published without %s: %s", what, error)
        run.counts[what] = f"none: {error}"
        return None


def score_in_shadow(store: Engine, source: str, as_of: datetime) -> dict:
    """Publish the challenger's forecasts of the slot, marked as shadow; a failure affects nothing else."""
    challenger = registry.challenger(store, source)
    if challenger is None:
        return {}
    try:
        with attempted(store, source, "forecast", as_of, role="shadow"):
            forecaster = load_model(challenger["artifact"])
            publish_slot(store, source, as_of, forecaster, challenger, kind="forecast", role="shadow")
    except ForecastError as error:
        log.error("the challenger %s was not scored: %s", challenger["model_id"], error)
        return {"challenger": f"{challenger['model_id']} failed: {error}"}
    return {"challenger": challenger["model_id"]}


def renew_board(store: Engine, source: str, role: str) -> dict:
    """Write the board if ICU_BOARD is set; a failure affects nothing else. A trial hides what it would show."""
    if load_settings().board is None or role == "trial":
        return {}
    try:
        return {"board": str(write_board(store, source))}
    except ForecastError as error:
        log.error("the board was not written: %s", error)
        return {"board": f"none: {error}"}


def require_serving(store: Engine, source: str) -> dict:
    """The model that serves `source`. Raises ForecastError if there is none."""
    serving = registry.serving_model(store, source, "stay")
    if serving is None:
        raise ForecastError(
            f"No model serves {source} yet; run `icu-forecast train {source}`, or promote one with "
            "`icu-forecast models promote`."
        )
    return serving


@step("load the model")
def load_model(artifact: str) -> "StayForecaster":
    return load_forecaster(artifact)


@step("score", retries=2)
def score(store: Engine, stays: OpenStays) -> OpenForecasts:
    """Reads the open stays and scores them, in shards."""
    return score_open_stays(store, stays)


@step("explain")
def explain(store: Engine, stays: OpenStays, forecasts: pd.DataFrame) -> pd.DataFrame:
    """Drivers of the highest risks."""
    return explain_open_stays(store, stays, forecasts)


@step("forecast the census")
def forecast_census(
    store: Engine, stays: OpenStays, forecaster: "StayForecaster", forecasts: OpenForecasts
) -> pd.DataFrame:
    """How many patients each unit will hold, also tomorrow morning, from the forecasts of those in and what came before."""
    from rnn_core.census.census import forecast_census as of_units
    from rnn_core.contracts.census import horizons_at

    source, as_of = stays.source, stays.as_of
    units = canonical.read_units(store, source, as_of, newest=forecasts.newest, ingested_by=stays.ingested_by)
    calendar = clock.calendar(source)
    scored, horizons = forecasts.forecasts.scored, horizons_at(clock.to_numpy(as_of), calendar.timezone)
    factors = load_rate_factors(store, source, as_of)
    return of_units(units, scored, calendar=calendar, sampling=forecaster.sampling, horizons=horizons, factors=factors)


def load_rate_factors(store: Engine, source: str, as_of: datetime) -> "RateFactors | None":
    """Of the recurrent model of arrivals that serves, if there is one. It is not used before the time up to which it was
    judged, nor where its artifact is damaged: the census stands without it."""
    from rnn_core.forecasters.arrivals import ArrivalForecaster

    serving = registry.serving_model(store, source, "arrivals")
    if serving is None or as_of < serving["data_cutoff"]:
        return None
    try:
        loaded = ArrivalForecaster.load(load_settings().artifact_folder / serving["artifact"])
    except ArtifactError as error:
        log.warning("arrivals are forecast without their recurrent model: %s", error)
        return None
    log.info("%s corrects the arrivals", serving["model_id"])
    return loaded.factors


@step("check the forecasts")
def check_forecasts(store: Engine, run: Recorded, forecasts: pd.DataFrame) -> None:
    quality.check_forecasts(store, run.run_id, run.source, forecasts)


@step("forecast the next lengths of stay per unit")
def forecast_units(store: Engine, source: str, as_of: datetime) -> tuple[pd.DataFrame | None, str | None]:
    """The unit forecast and its model; a source too small for one has neither."""
    serving = registry.serving_model(store, source, "unit")
    if serving is None:
        return None, None
    from rnn_core.forecasters.unit import forecast_units as next_lengths
    from rnn_core.forecasters.unit import load_unit_forecaster

    lengths = canonical.read_unit_lengths(store, source, as_of)
    fitted = load_unit_forecaster(load_settings().artifact_folder / serving["artifact"])
    return next_lengths(fitted, lengths), serving["model_id"]


@step("write the board")
def write_board(store: Engine, source: str) -> Path:
    from flows.pages.board import write_board as write

    return write(store, source)


@step("publish")
def publish(store: Engine, run: Recorded, publication: Publication) -> dict:
    """Stays and units in one transaction: both or neither."""
    with store.connect() as connection:
        watermark = read_watermark(connection, run.source)
    counts = results.publish(store, replace(publication, watermark=watermark))
    return {**counts, AGE: hours_old(run.as_of, publication.newest_observation_at)}
