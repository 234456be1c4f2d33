"""When a forecast is served: one rule, for open stays when serving and for rows of windows when learning and judging."""

import numpy as np
from numpy.typing import ArrayLike

from rnn_core.contracts.config import Sampling, WindowConfig
from rnn_core.contracts.frames import Windows
from rnn_core.contracts.known import Known


def abstention_reasons(known: Known, rules: WindowConfig, sampling: Sampling) -> np.ndarray:
    """Why no forecast is made of an open stay at `known.as_of`, None where one is, object [stays]."""
    refused = _refusals(known.elapsed_hours, known.n_observations, known.hours_since_last, rules, sampling)
    return np.select(list(refused.values()), list(refused), None)


def is_served(windows: Windows, rows: np.ndarray | slice, rules: WindowConfig, sampling: Sampling) -> np.ndarray:
    """Whether a forecast at the ends of `rows` (absolute) would have been served, bool [n]."""
    known = windows.prediction_hour[rows], windows.n_observations[rows], windows.hours_since_last[rows]
    return ~np.any(list(_refusals(*known, rules, sampling).values()), axis=0)


def served_until(known: Known, rules: WindowConfig, sampling: Sampling) -> np.ndarray:
    """After when every forecast of a stay would be refused, unless more becomes known of it, datetime64[us] [stays]."""
    last = min(rules.last_hour, sampling.data_hours)
    return np.minimum(known.last_heard + _hours(rules.stale_hours), known.intime + _hours(last))


def is_fresh(known: Known, rules: WindowConfig) -> np.ndarray:
    """Whether something was heard of a stay recently enough at `known.as_of`, bool [stays]."""
    return known.as_of - known.last_heard <= _hours(rules.stale_hours)


def _refusals(
    elapsed_hours: ArrayLike,
    n_observations: ArrayLike,
    silent_hours: ArrayLike,
    rules: WindowConfig,
    sampling: Sampling,
) -> dict[str, np.ndarray]:
    """Reason → where it holds; of several, the first is given."""
    return {
        "too_early": elapsed_hours < rules.first_hour,
        "no_observations": n_observations == 0,
        # What came before admission makes no stay staler than it is old.
        "stale": np.minimum(silent_hours, elapsed_hours) > rules.stale_hours,
        "too_few_observations": n_observations < rules.min_observations,
        "later_than_learned": elapsed_hours > sampling.data_hours,
        "too_long": elapsed_hours > rules.last_hour,
    }


def _hours(hours: float) -> np.timedelta64:
    return np.timedelta64(round(hours * 3600), "s")
