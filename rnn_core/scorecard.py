"""The scorecard of published forecasts: every metric per model, unit and month, beside the trivial baseline."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from rnn_core.metrics import Estimate, Outcomes, score_columns
from rnn_core.survival import FORECAST_COLUMNS

ALL = "all"
_RESAMPLES = 200


def score_published(pairs: pd.DataFrame) -> list[dict]:
    """Rows of forecast.score from rows of forecast.forecast_outcome (scored, with what happened).

    One set of metrics per model, per model and unit, and per model and month; patients are resampled for the intervals.
    """
    rows = []
    for model_id, unit, month, part in _groups(pairs):
        outcomes = _outcomes(part)
        estimates = score_columns(part, outcomes, n=_RESAMPLES)
        trivial = score_columns(_trivial(outcomes), outcomes, n=0)
        for metric, estimate in estimates.items():
            rows.append({"model_id": model_id, "unit": unit, "month": month, "metric": metric,
                         **_numbers(estimate), "baseline": trivial[metric].value})  # fmt: skip
    return rows


def _groups(pairs: pd.DataFrame) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    for model_id, of_model in pairs.groupby("model_id"):
        yield model_id, ALL, ALL, of_model
        for unit, part in of_model.groupby("unit"):
            yield model_id, unit, ALL, part
        for month, part in of_model.groupby("month"):
            yield model_id, ALL, month, part


def _outcomes(part: pd.DataFrame) -> Outcomes:
    return Outcomes(
        elapsed_hours=part["hours_in_stay"].to_numpy(np.float64),
        death=part["died"].astype("float64").to_numpy(),
        remaining_hours=part["remaining_hours"].to_numpy(np.float64),
        precision_hours=part["end_precision_hours"].fillna(0).to_numpy(np.float64),
        groups=part["patient_id"].to_numpy(),
    )


def _trivial(outcomes: Outcomes) -> pd.DataFrame:
    """What one would say without a model: the prevalence and the quantiles of these very rows, the same for all."""
    constant = {
        "mortality_risk": _mean(outcomes.death),
        "prolonged_stay_risk": _mean(outcomes.prolonged()),
        **{f"discharge_{h}h_prob": _mean(outcomes.discharged_within(h)) for h in (24, 48, 72)},
    }
    known = outcomes.remaining_hours[np.isfinite(outcomes.remaining_hours)]
    for q in (10, 50, 90):
        constant[f"remaining_los_p{q}_hours"] = float(np.quantile(known, q / 100)) if len(known) else np.nan
    return pd.DataFrame(constant, index=range(len(outcomes.death)))[list(FORECAST_COLUMNS)]


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan


def _numbers(estimate: Estimate) -> dict:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
