"""What a model must beat: the population by length of stay, and regressions on summaries of the same windows."""

import numpy as np
import pandas as pd
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from rnn_core.contracts.config import HORIZON_EDGES
from rnn_core.contracts.errors import DataTooSmallError
from rnn_core.contracts.frames import ALIVE, DIED, HOUR
from rnn_core.statistics.population import CENSORED, PopulationCurve, fit_population_curve


def fit_population(
    stays: pd.DataFrame, as_of: np.datetime64, delayed_entry_hours: float = 0.0, known_until: np.ndarray | None = None
) -> PopulationCurve:
    """Cumulative incidence of both causes by length of stay, as known at `as_of`; see `population.fit_population_curve`.

    stays: reads intime, outtime and outcome; a stay with only one of outtime and outcome, or none that begins before it
        ends, is left out.
    delayed_entry_hours: the sample holds only stays that lasted so long.
    known_until: datetime64 [stays], until when each open stay is known to have continued; `as_of` by default.
    """
    as_of = np.datetime64(as_of, "us")
    intime, outtime = (stays[column].to_numpy("datetime64[us]") for column in ("intime", "outtime"))
    outtime = np.where(outtime > as_of, np.datetime64("NaT", "us"), outtime)
    outcome = stays["outcome"].where(stays["outtime"].isna() | ~np.isnat(outtime))
    causes = outcome.map({"alive": ALIVE, "died": DIED}).fillna(CENSORED).to_numpy(np.int64)
    last_open = as_of if known_until is None else np.fmin(np.asarray(known_until, "datetime64[us]"), as_of)
    hours = (np.where(np.isnat(outtime), last_open, outtime) - intime) / HOUR
    usable = ((causes == CENSORED) == np.isnat(outtime)) & (hours > 0)
    return fit_population_curve(hours[usable], causes[usable], np.full(int(usable.sum()), delayed_entry_hours))


def fit_death_regression(features: np.ndarray, death: np.ndarray) -> Pipeline:
    """Logistic regression of death (1, 0, or NaN where not known) on features [rows, features].

    Its risk is `predict_proba(features)[:, 1]`. Raises DataTooSmallError without rows of both outcomes.
    """
    known = ~np.isnan(death)
    if len(np.unique(death[known])) < 2:
        raise DataTooSmallError("A regression of death needs stays with both outcomes; load more finished stays.")
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    return model.fit(features[known], death[known])


def fit_remaining_regression(features: np.ndarray, remaining_hours: np.ndarray) -> TransformedTargetRegressor:
    """Linear regression of the logarithm of the remaining stay (NaN where not known) on features [rows, features].

    `predict(features)` gives hours, about the median. Raises DataTooSmallError without any known end.
    """
    known = ~np.isnan(remaining_hours)
    if not known.any():
        raise DataTooSmallError("A regression of the remaining stay needs finished stays; load some.")
    # The light ridge only handles collinear features.
    model = TransformedTargetRegressor(
        make_pipeline(StandardScaler(), Ridge(alpha=10.0)), func=np.log1p, inverse_func=_hours, check_inverse=False
    )
    return model.fit(features[known], remaining_hours[known])


def _hours(log_hours: np.ndarray) -> np.ndarray:
    # A line through logarithms is unbounded; forecasts end at the last edge.
    return np.expm1(np.clip(log_hours, 0.0, np.log1p(HORIZON_EDGES[-1])))
