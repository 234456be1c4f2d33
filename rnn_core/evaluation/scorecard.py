"""The scorecard of published forecasts: every metric per model and group of forecasts, compared with the trivial baseline."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pandas as pd

from rnn_core.contracts.frames import ALIVE
from rnn_core.contracts.groups import age_groups
from rnn_core.contracts.thresholds import DISCHARGE_HOURS, LANDMARK_HOURS
from rnn_core.statistics.distribution import FORECAST_COLUMNS
from rnn_core.statistics.outcomes import Outcomes
from rnn_core.statistics.population import CENSORED, fit_population_curve
from rnn_core.statistics.scores import score_columns

ALL = "all"
# Dimensions by which forecasts are grouped, one at a time; the others are `all`.
DIMENSIONS: tuple[str, ...] = ("unit", "month", "age_group", "sex", "stay_hours")
# Hours of the stay at which a group of forecasts begins.
AGES: tuple[float, ...] = (0, 24, 48, 96, 168)
# Group → hour of the stay: one forecast of each stay that reached it.
LANDMARKS: dict[str, int] = {f"at {hour}": hour for hour in LANDMARK_HOURS}
_RESAMPLES = 200
_QUANTILES = (10, 50, 90)


def score_published(pairs: pd.DataFrame) -> list[dict]:
    """Rows of forecast.score from rows of forecast.forecast_outcome (scored, with the outcome as far as it is known).

    One set of metrics per model, and per model and group of each of `DIMENSIONS`; patients are resampled for the
    intervals. Every published hour counts the same; at a landmark (`LANDMARK_HOURS`, the stay_hours "at 24") there is one
    forecast of each stay that reached it.

    Forecasts of stays that are still open have null in died and remaining_hours, and in the column `followed_hours`
    (optional) the hours after the prediction for which the stay is known to have continued; it is null for ended stays.
    Open stays are censored there: they count in the concordance, in the quantile score, in whatever has a limit (a discharge,
    a prolonged stay, the share beyond a quantile) once that has passed, and in the baseline's lengths of stay. Errors of
    the remaining stay and mortality rest on ended stays, with `age_hours` (optional: from the prediction to the time at
    which outcomes were read) on settled forecasts only (`settled_age`), since finished recent stays are biased short.
    """
    rows = []
    for group, part in _groups(_with_dimensions(pairs)):
        outcomes = published_outcomes(part)
        estimates = score_columns(part, outcomes, n=_RESAMPLES)
        trivial = score_columns(_trivial(outcomes), outcomes, n=0)
        for metric, estimate in estimates.items():
            rows.append({**group, "metric": metric, **vars(estimate), "baseline": trivial[metric].value})
    return rows


def _with_dimensions(pairs: pd.DataFrame) -> pd.DataFrame:
    """With the groups that are not columns of the pairs already."""
    edges = [*AGES, np.inf]
    hours = pd.cut(pairs["hours_in_stay"], edges, right=False, labels=[name_hours(*span) for span in pairwise(edges)])
    return pairs.assign(age_group=age_groups(pairs["age_years"]), stay_hours=hours.astype(object))


def name_hours(start: float, stop: float) -> str:
    """Name of the group of forecasts from `start` to `stop` hours of a stay."""
    return f"{start:g} to {stop:g}" if np.isfinite(stop) else f"{start:g} on"


def _groups(pairs: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    everything = dict.fromkeys(DIMENSIONS, ALL)
    for model_id, of_model in pairs.groupby("model_id"):
        yield {"model_id": model_id, **everything}, of_model
        for dimension in DIMENSIONS:
            for name, part in of_model.groupby(dimension):
                yield {"model_id": model_id, **everything, dimension: name}, part
        for name, hour in LANDMARKS.items():
            part = of_model[np.floor(of_model["hours_in_stay"]) == hour]
            if len(part):
                yield {"model_id": model_id, **everything, "stay_hours": name}, part


def published_outcomes(pairs: pd.DataFrame) -> Outcomes:
    """What became of the stays behind rows of `read_outcome_pairs`; `followed_hours` and `age_hours` are optional."""

    def hours(column: str) -> np.ndarray | None:
        return pairs[column].to_numpy(np.float64) if column in pairs else None

    return Outcomes(
        elapsed_hours=hours("hours_in_stay"),
        death=pairs["died"].to_numpy(np.float64, na_value=np.nan),
        remaining_hours=hours("remaining_hours"),
        followed_hours=hours("followed_hours"),
        age_hours=hours("age_hours"),
        precision_hours=pairs["end_precision_hours"].fillna(0).to_numpy(np.float64),
        groups=pairs["patient_id"].to_numpy(),
        ends_alike=pairs["mortality_risk"].isna().to_numpy(),
    )


def _trivial(outcomes: Outcomes) -> pd.DataFrame:
    """The trivial forecast, the same for all rows: the prevalence and the quantiles of these very rows."""
    happened = outcomes.columns()
    constant = {
        "mortality_risk": _mean(happened["death"]),
        "prolonged_stay_risk": _mean(happened["prolonged"]),
        **{f"discharge_{h}h_prob": _mean(happened[f"discharged_{h}h"]) for h in DISCHARGE_HOURS},
    }
    for q, hours in zip(_QUANTILES, _remaining_quantiles(outcomes), strict=True):
        constant[f"remaining_los_p{q}_hours"] = hours
    return pd.DataFrame(constant, index=range(len(outcomes.death)))[list(FORECAST_COLUMNS)]


def _remaining_quantiles(outcomes: Outcomes) -> np.ndarray:
    """Hours by which each percentage of the stays (`_QUANTILES`) had ended, [quantiles]; NaN where none has.

    Kaplan-Meier, open stays censored. A quantile that the follow-up does not reach is its end, to be read as "at least".
    """
    hours, ended = outcomes.stayed_hours, outcomes.ended
    if not ended.any():
        return np.full(len(_QUANTILES), np.nan)
    known = np.isfinite(hours)
    # An end charted after the fact may lie before the prediction.
    hours, ended = np.maximum(hours[known], 0), ended[known]
    curve = fit_population_curve(hours, np.where(ended, ALIVE, CENSORED))
    left = curve.incidence.sum(axis=1)[1:]
    # Steps are sums of products, so one that should equal a quantile may miss it by rounding.
    reached = np.searchsorted(left, np.array(_QUANTILES) / 100 - 1e-9)
    return np.append(curve.times, hours.max())[reached]


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan
