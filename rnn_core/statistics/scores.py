"""Scores of a set of forecasts: every metric that their columns allow, by name, with intervals over patients."""

import numpy as np
import pandas as pd

from rnn_core.contracts.errors import ContractError
from rnn_core.statistics.bootstrap import Estimate
from rnn_core.statistics.distribution import Distribution
from rnn_core.statistics.length_of_stay import crps_hours
from rnn_core.statistics.metric import METRICS, curve_metrics, score
from rnn_core.statistics.outcomes import Outcomes
from rnn_core.statistics.population import CENSORED, fit_population_curve


def score_columns(columns: pd.DataFrame, outcomes: Outcomes, n: int = 1000, seed: int = 0) -> dict[str, Estimate]:
    """The metrics of published forecasts (`FORECAST_COLUMNS`, NaN where abstained) by name, with intervals.

    columns: one row per forecast; a metric whose columns are not there is left out. low and
        high are NaN where too few patients had the event, or were spared it (`bootstrap_interval`).
    """
    if len(columns) != len(outcomes.death):
        raise ContractError(
            f"Forecasts and outcomes are paired row by row; found {len(columns)} and {len(outcomes.death)} rows."
        )
    judged = [metric for metric in METRICS.values() if not metric.one_per_stay]
    return score({**columns, **outcomes.columns()}, judged, outcomes.groups, n, seed)


def judged_numbers(forecast: Distribution, outcomes: Outcomes) -> pd.DataFrame:
    """The published numbers of each forecast, and the CRPS of its remaining stay in days, as far as that is known."""
    crps = crps_hours(forecast, outcomes.stayed_hours, outcomes.known_hours) / 24
    return forecast.numbers(outcomes.elapsed_hours).assign(crps_days=crps)


def differences_from_curve(
    forecast: Distribution, curve: Distribution, outcomes: Outcomes, n: int = 1000
) -> dict[str, Estimate]:
    """Paired differences in the `curve_metrics`, forecast less the population's curve of the same rows."""
    ours, theirs = (judged_numbers(said, outcomes) for said in (forecast, curve))
    happened = outcomes.columns()
    return {metric.name: metric.difference(happened, ours, theirs, outcomes.groups, n) for metric in curve_metrics()}


def score_forecasts(
    forecast: Distribution,
    outcomes: Outcomes,
    baseline: Distribution | None = None,
    n: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Every metric of a set of forecasts by name, and of the trivial baseline beside it as `baseline_<name>`.

    baseline: what one would forecast without a model, fitted on training stays (`population.PopulationCurve`), row by
        row. By default the best constant there is: prevalence and distribution over time of these very rows, which no
        honest constant can beat.
    """
    baseline = _constant(forecast, outcomes) if baseline is None else baseline
    scores = {}
    for prefix, said in (("", forecast), ("baseline_", baseline)):
        named = score_columns(judged_numbers(said, outcomes), outcomes, n, seed)
        scores |= {prefix + name: estimate for name, estimate in named.items()}
    return scores


def _constant(forecast: Distribution, outcomes: Outcomes) -> Distribution:
    """The population's forecast of these rows, the same in each; without any outcome nothing is scored, so any will do."""
    stayed, death = outcomes.stayed_hours, outcomes.death
    followed = ~np.isnan(stayed) & ~(outcomes.ended & np.isnan(death))
    if not followed.any():
        return forecast
    causes = np.where(outcomes.ended, death, CENSORED)
    population = fit_population_curve(stayed[followed], causes[followed]).forecast_after(np.zeros(1), forecast.edges)
    if np.isfinite(judged := outcomes.columns()["death"]).any():
        population = population.with_mortality_risk(np.nanmean(judged))
    return population.take(np.zeros(len(forecast), dtype=np.int64))
