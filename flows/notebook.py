"""The Python interface, for notebooks: read known stays, make windows, fit, forecast, judge and compare (docs/python.md)."""

from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from flows.runtime import clock
from flows.runtime.databases import adapter_name, open_store
from flows.runtime.quiet_tensorflow import import_tensorflow
from flows.runtime.settings import load_settings, quiet_environment
from rnn_core.contracts.config import Sampling
from rnn_core.contracts.errors import DataTooSmallError, ForecastError
from rnn_core.contracts.known import Known
from rnn_core.contracts.options import configure
from rnn_core.forecasters.stay import StayForecaster, forecast_stays, load_stay_forecaster
from rnn_core.series.material import Material
from rnn_core.series.splits import split_stays
from rnn_core.series.windows import channel_names
from rnn_core.statistics.metric import METRICS
from sql.intake.adapter import load_adapter
from sql.published import canonical, registry

__all__ = ["channel_names", "compare", "fit", "forecast", "judge", "load_model", "make_windows", "read_stays"]


def read_stays(source: str, as_of: str | datetime | None = None) -> Known:
    """Stays of an ingested source and their observations, as they were known at `as_of` (UTC; default: the last full hour).

    Nothing that became known later is in it. Raises ForecastError for a source or a time that does not exist.
    """
    adapter_name(source)
    quiet_environment(load_settings())
    slot = clock.slot(clock.parse_time(as_of) if isinstance(as_of, str) else as_of)
    return canonical.read_known(open_store(), source, slot)


def load_model(model_id: str) -> StayForecaster:
    """A registered stay model. Raises ForecastError if there is none of this id, ArtifactError if its files are damaged."""
    row = registry.read_model(open_store(), model_id)
    if row["name"] != "stay":
        raise ForecastError(f"{model_id} forecasts no stays; a stay model was expected (`icu-forecast models list`).")
    return load_stay_forecaster(load_settings().artifact_folder / row["artifact"])


def make_windows(stays: Known, model: StayForecaster | None = None, **options: Any) -> Material:
    """Windows and labels of all stays, as a fit on them would read them: `.windows`, `.labels`.

    The scaler is that of `model`, else fitted to the stays that a fit would learn from. The names of the channels are those of
    `channel_names(config.window)`. options: as in `fit`.
    """
    from rnn_core.forecasters.training_material import build_material

    config = model.config if model else configure(options).model
    completed = (lambda _: model.scaler) if model else (lambda fitted: fitted)
    return build_material(stays, _learned(stays), config, _sampling(stays), completed=completed)[0]


def fit(stays: Known, **options: Any) -> StayForecaster:
    """A calibrated forecaster that learned from the stays that training takes by its hash of patients; it is not stored.

    options: those of `icu-forecast train` with underscores, e.g. forecaster="trees", layers=(64, 32), learning_rate=0.001.
    Raises ContractError for an option that is not allowed, DataTooSmallError if too few stays have ended.
    """
    from rnn_core.forecasters.fit_stay import fit_forecaster

    config = configure(options).model
    import_tensorflow()
    return fit_forecaster(stays, _learned(stays), config, sampling=_sampling(stays))[0]


def forecast(model: StayForecaster, stays: Known) -> pd.DataFrame:
    """A row for each stay that is open at `stays.as_of`, with the numbers of `forecast.stay_forecast`; or, in `status_reason`,
    why there are none."""
    still_open = stays.take(stays.stays["outtime"].isna().to_numpy())
    return forecast_stays(model, still_open).numbers


def judge(model: StayForecaster, stays: Known, learned: Known) -> pd.DataFrame:
    """A row per metric: value, 95 % interval (`low`, `high`), and `without_a_model`, the same of the population's curve.

    stays: as known when they are judged. learned: as known when `model` was fitted; its patients that training takes are
    left out. Raises DataTooSmallError if nothing is left.
    """
    from rnn_core.evaluation.holdout import score_holdout, score_stays

    judged = _unseen(stays, learned)
    metrics, _ = score_holdout(model, score_stays(model, judged), learned.take(_learned(learned)))
    rows = [
        {
            "metric": name,
            "value": metrics[name].value,
            "low": metrics[name].low,
            "high": metrics[name].high,
            "without_a_model": metrics[f"baseline_{name}"].value,
        }
        for name in METRICS
        if name in metrics
    ]
    return pd.DataFrame(rows).set_index("metric")


def compare(first: StayForecaster, second: StayForecaster, stays: Known, learned: Known) -> pd.DataFrame:
    """A row per metric: both values, their paired `difference` with a 95 % interval, and which is `better`: first, second, or
    None where chance may decide. stays, learned: as in `judge`, of the later one of both fits."""
    from rnn_core.evaluation.holdout import Paired, compare_on_all, score_stays

    judged = _unseen(stays, learned)
    rows = [
        {
            "metric": row["metric"].name,
            "first": row["values"][0],
            "second": row["values"][1],
            "difference": row["difference"].value,
            "low": row["difference"].low,
            "high": row["difference"].high,
            "better": row["better"],
        }
        for row in compare_on_all(Paired.of(score_stays(first, judged), score_stays(second, judged)))
    ]
    return pd.DataFrame(rows).set_index("metric")


def _learned(stays: Known) -> np.ndarray:
    return split_stays(stays.stays, stays.as_of).learned & stays.sound


def _unseen(stays: Known, learned: Known) -> Known:
    from rnn_core.evaluation.holdout import unseen

    judged, _ = unseen(stays, learned)
    if not judged.any():
        raise DataTooSmallError(
            "No stay is left to judge on: all patients were learned from. Read stays of a later time."
        )
    return stays.take(judged)


def _sampling(stays: Known) -> Sampling:
    """How the source of these stays samples them. Raises ForecastError if they are of none or of several."""
    sources = stays.stays["source"].unique()
    if len(sources) != 1:
        raise ForecastError(f"Stays of one source were expected; found {', '.join(sources) or 'none'}.")
    return load_adapter(adapter_name(sources[0])).sampling
