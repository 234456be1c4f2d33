"""Judges a stay forecaster on stays it never saw, beside the trivial baseline, and compares two of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
import pandas as pd

from rnn_core.contracts.concepts import NAMES
from rnn_core.contracts.config import ModelConfig, Sampling
from rnn_core.contracts.frames import HOUR
from rnn_core.contracts.groups import patient_groups
from rnn_core.contracts.known import Cohort, Known, parts_of
from rnn_core.evaluation.baselines import fit_population
from rnn_core.evaluation.drift import describe_concepts
from rnn_core.evaluation.gate import is_clear
from rnn_core.forecasters.stay import StayForecaster
from rnn_core.series.material import Material, known_until, make_material, make_served_grid
from rnn_core.series.splits import is_in_sample, split_stays
from rnn_core.statistics.bootstrap import Estimate
from rnn_core.statistics.distribution import Distribution
from rnn_core.statistics.metric import METRICS, Metric, gate_metrics, score
from rnn_core.statistics.outcomes import Outcomes
from rnn_core.statistics.scores import differences_from_curve, judged_numbers, score_forecasts

# Enough for the second digit of an interval; the concordance of ten thousand rows takes long per resample.
_RESAMPLES = 200
# Of groups of patients a few figures, where the many others would only be noise.
_IN_GROUPS = (
    "mortality_auroc",
    "mortality_brier",
    "mortality_observed_expected",
    "mortality_calibration_slope",
    "los_mae_days",
)
# Enough for deciles of what was charted; of more, all observations would be in memory.
_DESCRIBED_STAYS = 4000
# Fewer stays of a group of patients hold too few deaths to say anything.
MIN_GROUP_STAYS = 50


@dataclass(frozen=True)
class Scored:
    """Calibrated forecasts, what became of the stays, and where each was made, [rows] each.

    stay: position in the judged stays. hour: prediction hours since the stay's first, from 1; with the stay it names the
        same moment for every forecaster.
    """

    forecast: Distribution
    outcomes: Outcomes
    stay: np.ndarray
    hour: np.ndarray


def unseen(now: Cohort, then: Cohort) -> tuple[np.ndarray, np.ndarray]:
    """Sound stays of `now` of patients whom a fit on `then` never saw, and those of them that began after the cut-off;
    two bool [stays of now].

    A patient counts as seen by any stay in learned, sound or not: the audit may change its mind, the split not.
    """
    fitted = split_stays(then.stays, then.as_of)
    seen = then.stays["patient_id"][fitted.learned]
    later = split_stays(now.stays, then.as_of)
    judged = later.judged & now.sound & ~now.stays["patient_id"].isin(seen).to_numpy()
    return judged, judged & later.newer


def score_holdout(
    forecaster: StayForecaster, scored: Scored, population: Cohort
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Metrics of what the forecaster said (`score_stays`) and of the trivial baseline, the curve of `population`; and the
    paired differences between the two."""
    baseline = _curve_for(forecaster, population, scored)
    return (
        score_forecasts(scored.forecast, scored.outcomes, baseline, n=_RESAMPLES),
        differences_from_curve(scored.forecast, baseline, scored.outcomes, n=_RESAMPLES),
    )


def score_groups(scored: Scored, stays: pd.DataFrame) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Kind → group → metrics of its stays, for groups of at least `MIN_GROUP_STAYS` of the judged `stays`."""
    return {
        kind: {name: _score_group(scored, rows[scored.stay]) for name, rows in found.items()}
        for kind, found in patient_groups(stays, MIN_GROUP_STAYS).items()
    }


def _score_group(scored: Scored, rows: np.ndarray) -> dict[str, Estimate]:
    happened = {name: column[rows] for name, column in scored.outcomes.columns().items()}
    numbers = scored.forecast.take(rows).numbers(scored.outcomes.elapsed_hours[rows])
    metrics = [METRICS[name] for name in _IN_GROUPS]
    return score(happened | dict(numbers), metrics, scored.outcomes.groups[rows], n=_RESAMPLES)


def describe(known: Cohort) -> dict[str, Any]:
    """Who is in the data, in counts, dates of the first and last admission, and quantiles; no patient.

    What was charted is described of `_DESCRIBED_STAYS` stays, if there are more, which a hash of the patients chooses.
    """
    stays = known.stays
    share = _DESCRIBED_STAYS / max(len(stays), 1)
    some = known.take(is_in_sample(stays["patient_id"], share, "described")) if share < 1 else known
    (some,) = some.map(_itself, [slice(0, len(some.stays))], "describing")
    seen = some.observations
    age = pd.to_numeric(stays["age_years"]).astype(float)
    with_concept = np.zeros((len(some.stays), len(NAMES)), bool)
    with_concept[seen.stay, seen.concept] = True
    return {
        "stays": len(stays),
        "patients": int(stays["patient_id"].nunique()),
        "described": len(some.stays),
        "observations": len(seen),
        "first_admission": str(stays["intime"].min()),
        "last_admission": str(stays["intime"].max()),
        "age_years_quartiles": [None if np.isnan(q) else float(q) for q in age.quantile([0.25, 0.5, 0.75])],
        **{
            column: {str(name): int(n) for name, n in stays[column].value_counts(dropna=False).items()}
            for column in ("sex", "unit_type", "admission_type", "outcome")
        },
        "stays_without": {
            name: round(float(share), 4) for name, share in zip(NAMES, 1 - with_concept.mean(axis=0), strict=True)
        },
        "concepts": describe_concepts(some),
    }


def _itself(known: Known) -> Known:
    return known


def _curve_for(forecaster: StayForecaster, population: Cohort, scored: Scored) -> Distribution:
    return population_forecast(population, forecaster.config, forecaster.sampling, scored.outcomes.elapsed_hours)


def population_forecast(
    population: Cohort, config: ModelConfig, sampling: Sampling, elapsed_hours: np.ndarray
) -> Distribution:
    """What one would say without a model: the population's curve after as many hours, [rows]."""
    until, end = np.full(len(population.stays), population.as_of), population.stays["outtime"]
    is_open = (end.isna() | (end > population.as_of)).to_numpy()
    still = population.take(is_open)
    read = partial(known_until, window=config.window)
    until[is_open] = np.concatenate(still.map(read, parts_of(len(still.stays)), "reading until when stays go on"))
    curve = fit_population(population.stays, population.as_of, sampling.delayed_entry_hours, until)
    return curve.forecast_after(elapsed_hours, config.network.horizon_edges)


@dataclass(frozen=True)
class Comparison:
    """Paired differences, challenger less champion: over all stays, and by `kind: group` of patients; and challenger less
    the population's curve."""

    overall: dict[str, Estimate]
    groups: dict[str, dict[str, Estimate]]
    from_curve: dict[str, Estimate]


@dataclass(frozen=True)
class Paired:
    """What two forecasters said of the same stays at the same hours, [rows]: their `judged_numbers`, what became of the stays
    (`outcomes`), and the position of each in the judged stays."""

    first: pd.DataFrame
    second: pd.DataFrame
    outcomes: Outcomes
    stay: np.ndarray

    @classmethod
    def of(cls, first: Scored, second: Scored) -> Self:
        a, b = _same_moments(first, second)
        outcomes = first.outcomes.take(a)
        numbers = (judged_numbers(one.forecast.take(at), outcomes) for one, at in ((first, a), (second, b)))
        return cls(*numbers, outcomes, first.stay[a])

    def differences(
        self, metrics: Iterable[Metric], happened: Mapping[str, np.ndarray], rows: np.ndarray | slice = slice(None)
    ) -> dict[str, Estimate]:
        """First less second in `metrics`, on some rows; happened: `outcomes.columns()` of all."""
        columns = {name: column[rows] for name, column in happened.items()}
        first, second, groups = self.first[rows], self.second[rows], self.outcomes.groups[rows]
        return {one.name: one.difference(columns, first, second, groups, _RESAMPLES) for one in metrics}


def compare_on_all(pair: Paired) -> list[dict[str, Any]]:
    """A row per metric that both forecasters have: values of both, the paired difference, and which is better: `first` or
    `second` where the interval leaves no other answer, else None.

    The difference is first less second; with a best value, how much farther from it the first is.
    """
    happened, groups, rows = pair.outcomes.columns(), pair.outcomes.groups, []
    n_deaths = len(np.unique(groups[happened["death"] == 1]))
    columns = set(happened) | set(pair.first)
    metrics = [one for one in METRICS.values() if not one.one_per_stay and columns >= set(one.needs)]
    for metric, difference in zip(metrics, pair.differences(metrics, happened).values(), strict=True):
        values = [metric.estimate({**happened, **said}, groups, n=0).value for said in (pair.first, pair.second)]
        if np.isfinite(values).all():
            better = _clearly_better(metric, difference, n_deaths)
            rows.append({"metric": metric, "values": values, "difference": difference, "better": better})
    return rows


def _clearly_better(metric: Metric, difference: Estimate, n_deaths: int) -> str | None:
    harm = metric.harm(difference)
    relief = Estimate(-harm.value, -harm.high, -harm.low, harm.n)
    if is_clear(metric, relief, n_deaths):
        return "first"
    return "second" if is_clear(metric, harm, n_deaths) else None


def compare_forecasters(
    challenger: StayForecaster, champion: StayForecaster, judged: Cohort, population: Cohort
) -> Comparison:
    """Differences over the hours of `judged` that both of them forecast, in the `gate_metrics`, and from the curve of
    `population` in the `curve_metrics`."""
    ours = score_stays(challenger, judged)
    pair = Paired.of(ours, score_stays(champion, judged))
    happened = pair.outcomes.columns()
    found = patient_groups(judged.stays, MIN_GROUP_STAYS)
    in_group = {f"{kind}: {name}": rows for kind, groups in found.items() for name, rows in groups.items()}
    return Comparison(
        pair.differences(gate_metrics(), happened),
        {name: pair.differences(gate_metrics(), happened, rows[pair.stay]) for name, rows in in_group.items()},
        differences_from_curve(ours.forecast, _curve_for(challenger, population, ours), ours.outcomes, n=_RESAMPLES),
    )


def _same_moments(ours: Scored, theirs: Scored) -> tuple[np.ndarray, np.ndarray]:
    """Positions in both of the forecasts that were made of the same stay at the same hour."""
    moments = [pd.DataFrame({"stay": scored.stay, "hour": scored.hour}).reset_index() for scored in (ours, theirs)]
    both = moments[0].merge(moments[1], on=["stay", "hour"])
    return both["index_x"].to_numpy(), both["index_y"].to_numpy()


def count_deaths(known: Cohort) -> int:
    return int(known.stays["outcome"].eq("died").sum())


def count_ends(known: Cohort) -> int:
    """Stays whose end is known."""
    return int((known.stays["outcome"].notna() & known.stays["outtime"].notna()).sum())


def score_stays(forecaster: StayForecaster, judged: Cohort) -> Scored:
    """Forecasts of the judged stays every `JUDGE_EVERY_HOURS` hours, and what became of them."""
    parts = parts_of(len(judged.stays))
    found = judged.map(partial(_score_part, forecaster), parts, "evaluating")
    return Scored(
        Distribution.concatenate([one.forecast for one in found]),
        Outcomes.concatenate([one.outcomes for one in found]),
        np.concatenate([one.stay + part.start for one, part in zip(found, parts, strict=True)]),
        np.concatenate([one.hour for one in found]),
    )


def _score_part(forecaster: StayForecaster, judged: Known) -> Scored:
    judged = forecaster.reads(judged)
    grid = make_served_grid(judged, forecaster.config.window, forecaster.sampling)
    material = make_material(judged, grid, forecaster.scaler, forecaster.config, forecaster.sampling)
    row = material.judged_rows
    forecast = forecaster.forecast(material.windows, row)
    outcomes = replace(_outcomes(material, row), ends_alike=not forecaster.forecasts_death)
    return Scored(forecast, outcomes, material.stay_of_row[row], material.hour_of_row(row))


def _outcomes(material: Material, row: np.ndarray) -> Outcomes:
    stays, stay = material.known.stays, material.stay_of_row[row]
    elapsed = material.windows.prediction_hour[row].astype(np.float64)
    intime = stays["intime"].to_numpy("datetime64[us]")[stay]
    followed = (material.known_until[stay] - intime) / HOUR - elapsed
    age = (material.known.as_of - intime) / HOUR - elapsed
    return Outcomes(
        elapsed_hours=elapsed,
        death=material.labels.death[row].astype(np.float64),
        remaining_hours=material.labels.remaining_hours[row].astype(np.float64),
        followed_hours=np.where(stays["outcome"].isna().to_numpy()[stay], np.maximum(followed, 0), np.nan),
        age_hours=age,
        precision_hours=stays["end_precision_hours"].fillna(0).to_numpy(np.float64)[stay],
        groups=stays["patient_id"].to_numpy()[stay],
    )
