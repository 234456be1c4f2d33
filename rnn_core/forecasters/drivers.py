"""Drivers of a risk: how it would differ had some of the patient's data never been charted."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from rnn_core.contracts.concepts import CONCEPTS, NAMES
from rnn_core.contracts.known import Known
from rnn_core.forecasters.stay import StayForecaster
from rnn_core.series.grid import make_grid
from rnn_core.series.omission import NO_CONCEPT, windows_without
from rnn_core.series.scaling import static_features
from rnn_core.series.windows import last_predictions, make_windows
from rnn_core.statistics.calibration_metrics import log_odds

N_DRIVERS = 5
# With more stays, only the highest risks are explained.
MAX_EXPLAINED = 1000
# Hours of variants of stays scored at once; bounds the memory.
_PASS_HOURS = 1_000_000
# Below a hundredth of a log-odds unit the difference in risk is invisible.
_LEAST = 0.01

# Descriptors known at admission, and their value when missing.
_DESCRIPTORS = ("age_years", "sex", "height_cm", "weight_kg", "admission_type", "unit_type")

COLUMNS: tuple[str, ...] = (
    "stay_id",
    "rank",
    "driver",
    "direction",
    "contribution",
    "last_value",
    "value_unit",
    "last_observed_at",
)


def explain_stays(
    forecaster: StayForecaster, known: Known, risk: np.ndarray, limit: int = MAX_EXPLAINED
) -> pd.DataFrame:
    """The strongest drivers of the mortality risk of scored stays, up to `N_DRIVERS` rows per stay, strongest first.

    risk: published mortality risk, NaN where the forecaster abstained, [stays of known]. Of more than `limit` scored
    stays those with the highest risk are explained.

    contribution: log-odds of the risk with all data less those without any observation of the concept (or without the
    descriptor), everything else unchanged: the forecast of the same hour is made again without them, so the difference is
    exact (leave one out, as in Robnik-Šikonja & Kononenko, IEEE TKDE 20, 2008, 589-600). Calibration
    is included: the contribution to the network's own log-odds times the slope of that hour. Information
    shared by two concepts is lost with neither, so contributions do not add up. Integrated gradients (Sundararajan et al., ICML
    2017) do not either: along their path the wide head jumps where `encoding.RunningSummaries` finds the first value.

    last_value in `value_unit` as known at the prediction time, with the time it was observed; null for descriptors that
    are not numeric.
    """
    chosen = highest(risk, limit)
    part = forecaster.reads(known).take(np.isin(np.arange(len(known.stays)), chosen))
    part = replace(part, observations=part.observations.known_at(part.as_of))
    if not len(chosen):
        return pd.DataFrame(columns=list(COLUMNS))
    change = np.concatenate([_changes(forecaster, some) for some in _portions(part)])
    return _strongest(part, [*forecaster.config.window.concepts, *_DESCRIPTORS], change)


def highest(risk: np.ndarray, limit: int = MAX_EXPLAINED) -> np.ndarray:
    """Positions, rising, of the `limit` highest of `risk`, or of all that are not NaN: the stays to explain."""
    scored = np.flatnonzero(~np.isnan(risk))
    return np.sort(scored[np.argsort(-risk[scored], kind="stable")][:limit])


def _portions(known: Known) -> Iterator[Known]:
    """Runs of stays whose variants are scored in one pass."""
    charted = np.unique(np.column_stack([known.observations.stay, known.observations.concept]), axis=0)[:, 0]
    variants = np.bincount(charted, minlength=len(known.stays)) + len(_DESCRIPTORS)
    passes = np.cumsum(known.elapsed_hours * variants) // _PASS_HOURS
    for number in np.unique(passes):
        yield known.take(passes == number)


def _changes(forecaster: StayForecaster, known: Known) -> np.ndarray:
    """Log-odds of the calibrated risk at `known.as_of` less those without each concept of the model and each descriptor,
    [stays, concepts and descriptors]; 0 where a stay does not have it."""
    rules, scaler = forecaster.config.window, forecaster.scaler
    stays, seen = known.stays, known.observations
    # Not the served grid: it ends where data become stale, and the omitted data may have been the newest.
    grid = make_grid(stays, seen, known.as_of)
    windows = make_windows(grid, stays, scaler, rules)
    window, row = last_predictions(windows)
    at_end, whole = np.full(len(stays), -1), np.full(len(stays), np.nan)
    at_end[windows.stay[window]] = window
    whole[windows.stay[window]] = log_odds(forecaster.forecast(windows, row).mortality_risk())

    n, known_names = len(rules.concepts), {name: number for number, name in enumerate(rules.concepts)}
    columns = np.array([known_names.get(name, NO_CONCEPT) for name in NAMES])
    having = np.zeros((n + len(_DESCRIPTORS), len(stays)), dtype=bool)
    having[columns[seen.concept], seen.stay] = True
    having[n:] = [stays[name].notna() for name in _DESCRIPTORS]
    omitted, stay = np.nonzero(having & (at_end >= 0))
    static = windows.static[stay]
    for number, name in enumerate(_DESCRIPTORS, start=n):
        nothing = np.nan if pd.api.types.is_numeric_dtype(stays[name]) else None
        without = scaler.scale_static(static_features(stays.assign(**{name: nothing})))
        static[omitted == number] = without[stay[omitted == number]]
    concept = np.where(omitted < n, omitted, NO_CONCEPT)
    variants = windows_without(windows, grid, seen, columns, at_end[stay], concept, static)
    change = np.zeros((len(stays), len(having)))
    change[stay, omitted] = whole[stay] - log_odds(forecaster.forecast(variants, variants.stop - 1).mortality_risk())
    return change


def _strongest(known: Known, names: list[str], change: np.ndarray) -> pd.DataFrame:
    order = np.argsort(-np.abs(change), axis=1, kind="stable")[:, :N_DRIVERS]
    stay, rank = (axis.ravel() for axis in np.indices(order.shape))
    frame = pd.DataFrame(
        {
            "stay": stay,
            "rank": rank + 1,
            "driver": np.array(names, dtype=object)[order.ravel()],
            "contribution": np.take_along_axis(change, order, axis=1).ravel(),
        }
    )
    frame = frame[frame["contribution"].abs() >= _LEAST]
    frame["direction"] = np.where(frame["contribution"] > 0, "raises", "lowers")
    frame["stay_id"] = known.stays["stay_id"].to_numpy()[frame["stay"]]
    frame = frame.merge(_last_values(known), on=["stay", "driver"], how="left")
    return frame[list(COLUMNS)]


def _last_values(known: Known) -> pd.DataFrame:
    """Newest value of each concept of each stay, and the descriptors that are numbers."""
    seen = known.observations
    observed = pd.DataFrame(
        {
            "stay": seen.stay.astype(np.int64),
            "concept": seen.concept,
            "last_value": seen.value,
            "last_observed_at": seen.observed_at,
        }
    ).drop_duplicates(["stay", "concept"], keep="last")
    observed["driver"] = [CONCEPTS[concept].name for concept in observed["concept"]]
    observed["value_unit"] = [CONCEPTS[concept].unit for concept in observed["concept"]]
    parts = [observed.drop(columns="concept")]
    for name, unit in (("age_years", "years"), ("height_cm", "cm"), ("weight_kg", "kg")):
        values = known.stays[name].astype(float).to_numpy()
        parts.append(
            pd.DataFrame({"stay": np.arange(len(values)), "driver": name, "last_value": values, "value_unit": unit})
        )
    return pd.concat(parts, ignore_index=True)
