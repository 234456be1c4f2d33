"""The forecaster at each age of a stay, on the stays of any source that was ingested."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.runtime.databases import open_source, open_store
from flows.runtime.log import log
from flows.runtime.quiet_tensorflow import import_tensorflow
from rnn_core.contracts.config import ModelConfig
from rnn_core.contracts.errors import DataTooSmallError
from sql.published import canonical

if TYPE_CHECKING:
    from rnn_core.evaluation.ages import AgeGroup


def measure_ages(source: str, as_of: datetime, folds: int) -> list[dict[str, Any]]:
    """One row per age of the stay and metric, ours and the population's curve. Raises DataTooSmallError without a stay."""
    adapter, _ = open_source(source)
    known = canonical.read_known(open_store(), source, as_of)
    if not len(known.stays):
        raise DataTooSmallError(f"There is no stay of {source} as of {as_of.isoformat()}; run `icu-forecast ingest`.")
    import_tensorflow()
    from rnn_core.evaluation.ages import judge_whole_stays

    groups = judge_whole_stays(
        known, ModelConfig(), adapter.sampling, folds, lambda k: log.info("fold %d of %d", k + 1, folds)
    )
    return [row for group in groups for row in _rows(group)]


def _rows(group: "AgeGroup") -> list[dict[str, Any]]:
    from rnn_core.evaluation.scorecard import name_hours
    from rnn_core.statistics.metric import main_metrics

    about = {
        "hours": name_hours(group.start, group.stop),
        "forecasts": group.n_forecasts,
        "patients": group.n_patients,
        "died": group.n_deaths,
    }
    found = group.metrics
    return [
        about
        | {"metric": metric.name}
        | {part: _number(getattr(found[metric.name], part)) for part in ("value", "low", "high")}
        | {"population": _number(found[f"baseline_{metric.name}"].value)}
        for metric in main_metrics()
    ]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
