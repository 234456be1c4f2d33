"""How good forecasts are by age of the stay: whole stays, every few hours, each patient judged by a fit on others."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rnn_core.contracts.config import ModelConfig, Sampling
from rnn_core.contracts.known import Known
from rnn_core.evaluation.holdout import population_forecast, score_stays
from rnn_core.evaluation.scorecard import AGES
from rnn_core.forecasters.fit_stay import fit_forecaster
from rnn_core.series.splits import patient_folds
from rnn_core.statistics.bootstrap import Estimate
from rnn_core.statistics.distribution import Distribution
from rnn_core.statistics.outcomes import Outcomes
from rnn_core.statistics.scores import score_forecasts

_RESAMPLES = 200


@dataclass(frozen=True)
class AgeGroup:
    """Forecasts made from `start` to `stop` hours of a stay; metrics of the forecaster and of the population's curve."""

    start: float
    stop: float
    n_forecasts: int
    n_patients: int
    n_deaths: int
    metrics: dict[str, Estimate]


def judge_whole_stays(
    known: Known, config: ModelConfig, sampling: Sampling, folds: int, progress: Callable[[int], None]
) -> list[AgeGroup]:
    """Groups by `AGES`; each fold of patients is forecast by a fit on the others, and by their population curve
    (Aalen-Johansen, conditional on the elapsed hours). n_deaths counts patients. `progress` is called with each fold."""
    fold = patient_folds(known.stays["patient_id"], folds, salt="whole stays")
    parts = []
    for k in range(folds):
        progress(k)
        learned, judged = known.take((fold != k) & known.sound), known.take((fold == k) & known.sound)
        forecaster, _ = fit_forecaster(learned, np.ones(len(learned.stays), bool), config, sampling=sampling)
        scored = score_stays(forecaster, judged)
        baseline = population_forecast(forecaster, learned, scored.outcomes.elapsed_hours)
        parts.append((scored.forecast, baseline, scored.outcomes))
    forecasts, baselines, outcomes = zip(*parts, strict=True)
    return list(_by_age(Distribution.concatenate(forecasts), Distribution.concatenate(baselines), _joined(outcomes)))


def _by_age(forecast: Distribution, baseline: Distribution, outcomes: Outcomes) -> Iterator[AgeGroup]:
    for start, stop in zip(AGES, (*AGES[1:], np.inf), strict=True):
        rows = (outcomes.elapsed_hours >= start) & (outcomes.elapsed_hours < stop)
        part = _taken(outcomes, rows)
        metrics = score_forecasts(forecast.take(rows), part, baseline.take(rows), n=_RESAMPLES)
        patients = np.unique(part.groups.astype(str))
        died = np.unique(part.groups[part.death == 1].astype(str))
        yield AgeGroup(start, stop, int(rows.sum()), len(patients), len(died), metrics)


def _joined(parts: Sequence[Outcomes]) -> Outcomes:
    return Outcomes(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})


def _taken(outcomes: Outcomes, rows: np.ndarray) -> Outcomes:
    return Outcomes(**{name: values[rows] for name, values in vars(outcomes).items()})
