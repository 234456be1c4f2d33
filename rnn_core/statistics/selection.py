"""How much better the best of several candidates is than one of them, with the luck of having been chosen taken off."""

import numpy as np

from rnn_core.statistics.bootstrap import LEVEL, MIN_GROUPS, Estimate

# Enough for the second digit of an interval.
_RESAMPLES = 400


def chosen_less_default(
    losses: np.ndarray, rows: np.ndarray, default: int = 0, n: int = _RESAMPLES, seed: int = 0
) -> Estimate:
    """Mean loss per row of the candidate that is chosen less that of `default`, below 0 where choosing helps.

    losses: sum of the losses of each candidate over the rows of a patient, [candidates, patients], of forecasts of patients
    that the candidate's model did not learn from. rows: of each patient, [patients].

    Who is best on the patients that chose it was lucky there, too. So in each resample of patients a candidate is chosen,
    and judged on the patients that were not drawn (bootstrap bias corrected cross-validation: Tsamardinos, Greasidou &
    Borboudakis, Machine Learning 107, 2018, 1895-1922); value and interval are the mean and the percentiles of these
    differences. A third of the patients judge in each, so the interval is wider rather than narrower. It is NaN with less
    than `MIN_GROUPS` patients.

    >>> luck = chosen_less_default(np.random.default_rng(0).normal(size=(20, 400)), np.ones(400))
    >>> bool(luck.low < 0 < luck.high)
    True
    """
    n_patients = losses.shape[1]
    random, found = np.random.default_rng(seed), []
    for _ in range(n if n_patients >= MIN_GROUPS else 0):
        drawn = np.bincount(random.integers(0, n_patients, n_patients), minlength=n_patients)
        left = drawn == 0
        if not rows[left].sum() or not (drawn @ rows):
            continue
        best = int(np.argmin(losses @ drawn))
        found.append((losses[best, left].sum() - losses[default, left].sum()) / rows[left].sum())
    if not found:
        return Estimate(np.nan, np.nan, np.nan, int(rows.sum()))
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(np.mean(found)), float(low), float(high), int(rows.sum()))
