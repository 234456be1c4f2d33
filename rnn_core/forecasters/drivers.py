"""Drivers of a risk: how it would differ had some of the patient's data never been charted."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter

import numpy as np
import pandas as pd

from rnn_core.contracts.concepts import CONCEPTS
from rnn_core.contracts.known import Known, stack
from rnn_core.forecasters.stay import StayForecaster, predict
from rnn_core.series.grid import make_grid
from rnn_core.statistics.calibration_metrics import log_odds

N_DRIVERS = 5
# With more stays, only the highest risks are explained: each concept is one more pass over the stays that have it. With
# all concepts charted, five members of 64 units and two CPU cores, 100 stays of two days take 4 s, of ten days 23 s.
MAX_EXPLAINED = 100
# Hours of stays scored at once; bounds the memory.
_PASS_HOURS = 50_000
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
    scored = np.flatnonzero(~np.isnan(risk))
    chosen = np.sort(scored[np.argsort(-risk[scored], kind="stable")][:limit])
    part = forecaster.reads(known).take(np.isin(np.arange(len(known.stays)), chosen))
    part = replace(part, observations=part.observations.known_at(part.as_of))
    if not len(chosen):
        return pd.DataFrame(columns=list(COLUMNS))
    names, having, variants = zip(*_without_each(part), strict=True)
    portions = _portions((part, *variants))
    whole, without = np.split(np.concatenate([_log_odds(forecaster, stack(some)) for some in portions]), [len(chosen)])
    change = np.zeros((len(chosen), len(names)))
    change.T[np.stack(having)] = np.concatenate([whole[stays] for stays in having]) - without
    return _strongest(part, list(names), change)


def _log_odds(forecaster: StayForecaster, known: Known) -> np.ndarray:
    """Of the calibrated risk at `known.as_of`, [stays]; NaN for a stay without an hour to predict at."""
    # Not the served grid: it ends where data become stale, and the omitted data may have been the newest.
    stay, forecast = predict(forecaster, known, make_grid(known.stays, known.observations, known.as_of))
    out = np.full(len(known.stays), np.nan)
    out[stay] = log_odds(forecast.mortality_risk())
    return out


def _portions(variants: Sequence[Known]) -> Iterator[Sequence[Known]]:
    """Groups of variants whose stays are scored in one pass: each pass has a fixed cost."""
    passes = np.cumsum([variant.elapsed_hours.sum() for variant in variants]) // _PASS_HOURS
    for _, some in groupby(zip(passes, variants, strict=True), key=itemgetter(0)):
        yield [variant for _, variant in some]


def _without_each(known: Known) -> Iterator[tuple[str, np.ndarray, Known]]:
    """Name, the stays that have it, bool [stays], and those stays without it: of every concept that was observed and every
    descriptor that is known. The forecasts of other stays would be the same."""
    seen = known.observations
    for concept in np.unique(seen.concept):
        having = np.isin(np.arange(len(known.stays)), seen.stay[seen.concept == concept])
        part = known.take(having)
        rest = part.observations.take(part.observations.concept != concept)
        yield CONCEPTS[concept].name, having, replace(part, observations=rest)
    for name in _DESCRIPTORS:
        column = known.stays[name]
        having = column.notna().to_numpy()
        if having.any():
            part = known.take(having)
            unknown = part.stays.assign(**{name: np.nan if pd.api.types.is_numeric_dtype(column) else None})
            yield name, having, replace(part, stays=unknown)


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
