"""The scorecard of published censuses: every metric per model, unit, month and horizon, beside the simple answers."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from rnn_core.census.counts import from_arrays
from rnn_core.census.simple_answers import ERROR_DAYS, SIMPLE, WEEK, answer_simply, n_errors
from rnn_core.contracts.census import CURVES, HOSPITAL, PublishedCensus
from rnn_core.contracts.frames import HOUR
from rnn_core.evaluation.census_figures import BLOCK_DAYS, census_figures
from rnn_core.evaluation.scorecard import ALL, DIMENSIONS
from rnn_core.statistics.metric import CENSUS_METRICS, Metric, census_metric_name

# What forecasts are compared with, and in what.
ANSWERS = (*SIMPLE, CURVES)
COMPARED = ("crps", "mae")
_ARRAYS = ["census_probabilities", "curves_probabilities"]
_RESAMPLES = 200
# The errors of a simple answer are those at the same hour of the day; a distribution needs those of a week.
_STEP, _LEAST_ERRORS = 24, 7


def judge_published_census(published: PublishedCensus) -> pd.DataFrame:
    """Each forecast with the census that came and the figures of `census_figures`, in the order of the forecasts.

    The single number of a forecast is its median, that of a simple answer (`simple_answers`) what it says; its figures are in
    `crps_<name>` and `mae_<name>`, NaN where it knows fewer than seven of its own errors. A simple answer reads what came
    until the prediction time and nothing later. `curves` is the census that was published beside the forecast, as if each
    patient had been forecast by the curve of the unit alone. The reference of a full unit is the share of full hours in
    the 90 days before. Also month (YYYY-MM of the prediction, UTC) and block (the week that is resampled).
    """
    forecasts = published.forecasts.reset_index(drop=True)
    if forecasts.empty:
        return forecasts.drop(columns=_ARRAYS)
    times = forecasts["prediction_time"].to_numpy("datetime64[us]")
    start, last = _bounds(published, times, forecasts["horizon_hours"])
    slots = ((times - start) / HOUR).astype(np.int64)
    parts = []
    for seed, (unit, rows) in enumerate(forecasts.groupby("unit").indices.items()):
        census = count_present(published.stays, unit, start, last)
        parts.append(_judge_unit(forecasts.iloc[rows], census, slots[rows], seed))
    at = pd.DatetimeIndex(times)
    judged = pd.concat(parts).sort_index()
    days = times.astype("datetime64[D]").astype(np.int64)
    return judged.assign(month=at.strftime("%Y-%m"), block=days // BLOCK_DAYS)


def _bounds(published: PublishedCensus, times: np.ndarray, horizons: pd.Series) -> tuple[np.datetime64, int]:
    """The first hour of the course that is needed and known, and the number of hours from there to the last outcome."""
    begins = published.stays["intime"].to_numpy("datetime64[us]")
    known = np.max([published.since, begins.min()]) if len(begins) else published.since
    # Full hours from when on everybody is known; none after the first forecast.
    known = np.datetime64(known, "h") + np.timedelta64(1, "h")
    needed = times.min().astype("datetime64[h]") - np.timedelta64(ERROR_DAYS * 24 + 3 * WEEK, "h")
    start = np.minimum(np.maximum(known, needed), times.min().astype("datetime64[h]")).astype("datetime64[us]")
    end = (times + horizons.to_numpy(np.int64) * HOUR).max()
    return start, int((end - start) / HOUR) + 1


def count_present(stays: pd.DataFrame, unit: str, start: np.datetime64, hours: int) -> np.ndarray:
    """Patients of a unit, or of the hospital (`*`), at each full hour from `start` on, int64 [hours].

    Who is in has begun and not ended, as in `forecast.unit_forecast_outcome`; an end without a time counts nowhere.
    """
    usable = stays["outtime"].notna() | stays["outcome"].isna()
    stays = stays[usable if unit == HOSPITAL else usable & stays["unit"].eq(unit).fillna(False)]
    at = start + np.arange(hours) * HOUR
    begun, ended = (
        np.searchsorted(np.sort(stays[column].dropna().to_numpy("datetime64[us]")), at, side="right")
        for column in ("intime", "outtime")
    )
    return begun - ended


def _judge_unit(rows: pd.DataFrame, census: np.ndarray, slots: np.ndarray, seed: int) -> pd.DataFrame:
    """rows: forecasts of one unit. census: int64 [hours]. slots: hours of the census, [rows]."""
    horizons = rows["horizon_hours"].to_numpy(np.int64)
    observed, beds = census[slots + horizons], rows["usable_beds"].to_numpy(np.float64)
    said = from_arrays(rows["census_probabilities"])
    found = census_figures(said, said.quantile(0.5), observed, beds, _share_full(census, beds, slots), seed=seed)
    frame = rows.drop(columns=_ARRAYS).assign(census=observed, **found)
    answers = {name: _simple_figures(name, census, slots, horizons, observed) for name in SIMPLE}
    for name, figures in (answers | {CURVES: _figures_of_curves(rows["curves_probabilities"], observed)}).items():
        frame = frame.assign(**{f"{figure}_{name}": values for figure, values in figures.items()})
    return frame


def _figures_of_curves(arrays: pd.Series, observed: np.ndarray) -> dict[str, np.ndarray]:
    """By `COMPARED`, float64 [rows], NaN where the forecast was published without curves."""
    figures, known = {figure: np.full(len(arrays), np.nan) for figure in COMPARED}, arrays.notna().to_numpy()
    if known.any():
        said, came = from_arrays(arrays[known]), observed[known]
        figures["crps"][known], figures["mae"][known] = said.crps(came), np.abs(said.quantile(0.5) - came)
    return figures


def _share_full(census: np.ndarray, beds: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """Share of the hours of the last 90 days, up to each slot, in which the census reached its beds, float64 [rows]."""
    share = np.full(len(slots), np.nan)
    first = np.maximum(slots + 1 - ERROR_DAYS * 24, 0)
    for number in np.unique(beds[np.isfinite(beds)]):
        here, full = beds == number, np.concatenate([[0], np.cumsum(census >= number)])
        share[here] = ((full[slots + 1] - full[first]) / (slots + 1 - first))[here]
    return share


def _simple_figures(
    name: str, census: np.ndarray, slots: np.ndarray, horizons: np.ndarray, observed: np.ndarray
) -> dict[str, np.ndarray]:
    """Of a simple answer, float64 [rows], by `COMPARED`."""
    figures = {figure: np.full(len(slots), np.nan) for figure in COMPARED}
    # Horizon by horizon: the draws of all at once would take gigabytes.
    for horizon in np.unique(horizons):
        has_errors = (slots >= WEEK) & (n_errors(slots, horizon, _STEP) >= _LEAST_ERRORS)
        rows = np.flatnonzero((horizons == horizon) & has_errors)
        if len(rows):
            at, place = np.unique(slots[rows], return_inverse=True)
            answer = answer_simply(name, census[None], None, at, (horizon,), _STEP)
            figures["crps"][rows] = answer.census.take(place).crps(observed[rows])
            figures["mae"][rows] = np.abs(answer.point.ravel()[place] - observed[rows])
    return figures


def score_census(judged: pd.DataFrame) -> list[dict]:
    """Rows of forecast.score from `judge_published_census`: per model and horizon over all units, of each month, of each unit
    and of the hospital (unit `*`, which is no part of the others).

    metric: `census_24h_crps` and so on; `census_24h_crps_persistence` and the like are those of `ANSWERS`, and baseline is the
    best of them on the same rows, which nobody could have chosen beforehand. Intervals are over weeks.
    """
    rows = []
    for group, part in _groups(judged):
        for horizon, of_horizon in part.groupby("horizon_hours"):
            for name, found in _score(of_horizon).items():
                rows.append({**group, "metric": census_metric_name(int(horizon), name), **found})
    return rows


def _groups(judged: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    everything = dict.fromkeys(DIMENSIONS, ALL)
    for model_id, of_model in judged.groupby("model_id"):
        of_units = of_model[of_model["unit"] != HOSPITAL]
        if len(of_units):
            yield {"model_id": model_id, **everything}, of_units
        for dimension, frame in (("unit", of_model), ("month", of_units)):
            for name, part in frame.groupby(dimension):
                yield {"model_id": model_id, **everything, dimension: name}, part


def _score(rows: pd.DataFrame) -> dict[str, dict]:
    """Name → columns of forecast.score, of forecasts at one horizon."""
    found = {name: _estimate(metric, rows, metric.needs) for name, metric in CENSUS_METRICS.items()}
    for name in COMPARED:
        simple = {f"{name}_{of}": _estimate(CENSUS_METRICS[name], rows, (f"{name}_{of}",)) for of in ANSWERS}
        values = [row["value"] for row in simple.values() if row["n"] == len(rows)]
        found[name]["baseline"] = min(values, default=np.nan)
        found |= simple
    before = CENSUS_METRICS["brier_full"].estimate({"brier_full": rows["brier_before"]}, None, 0)
    found["brier_full"]["baseline"] = before.value
    return {name: row for name, row in found.items() if row["n"]}


def _estimate(metric: Metric, rows: pd.DataFrame, columns: tuple[str, ...]) -> dict:
    given = dict(zip(metric.needs, (rows[column] for column in columns), strict=True))
    return vars(metric.estimate(given, rows["block"], _RESAMPLES)) | {"baseline": np.nan}
