"""The page of a benchmark on whole stays: figures by landmark, quantile reliability, and how the networks learned."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.pages.page import Plot, Section, Table, render_page
from rnn_core.statistics.metric import METRICS

if TYPE_CHECKING:
    from rnn_core.benchmark.landmarks import Judgement
    from rnn_core.statistics.bootstrap import Estimate

_LEVELS = np.linspace(0.05, 0.95, 19)
_DEATH = ("auroc", "auprc", "brier", "calibration_slope", "observed_expected")
_STAY = ("los_crps_days", "los_mae_days", "los_medae_days", "los_kappa", "los_concordance")
_QUANTILES = ("share_beyond_p10", "share_beyond_p50", "share_beyond_p90", "discharge24_brier", "discharge48_brier")
# A plot of all models at once would be unreadable.
_PLOTTED = ("prevalence", "trees", "forecaster")


def build_page(judgement: "Judgement") -> str:
    """The page as HTML."""
    found = judgement.protocol
    test = found["test"] if isinstance(found["test"], str) else ", ".join(found["test"])
    lead = (
        f"Learned from {found['learned_stays']:,} stays of {', '.join(found['train'])}; judged on {found['judged_stays']:,} "
        f"stays of {found['judged_patients']:,} patients, of whom {found['judged_patients_who_died']:,} died in the unit "
        f"({test}), every six hours of each stay. Values with 95 % intervals from resamples of patients."
    )
    return render_page("Whole stays: eICU", lead, list(_sections(judgement)))


def summary_table(judgement: "Judgement") -> str:
    """The main figures as a Markdown table, one model and landmark per line."""
    from rnn_core.benchmark.landmarks import FIGURES, GROUPS
    from rnn_core.reporting.markdown import render_table

    names = ("auroc", "los_mae_days", "los_crps_days", "share_beyond_p50", "share_beyond_p90", "discharge24_brier")
    rows = [
        [model, group, *(_show(judgement.scores[model][group], name) for name in names)]
        for model in judgement.scores
        for group in GROUPS
    ]
    return render_table(["model", "hours", *(METRICS[FIGURES[name]].label for name in names)], rows)


def figure_rows(judgement: "Judgement") -> list[dict[str, Any]]:
    """One row per landmark and figure: the forecaster's value with its interval, and that of the population's curve."""
    from rnn_core.benchmark.landmarks import FIGURES, GROUPS

    ours, curve = judgement.scores["forecaster"], judgement.scores["prevalence"]
    return [
        {
            "hours": group,
            "figure": METRICS[FIGURES[name]].label,
            **{part: _number(getattr(found, part)) for part in ("value", "low", "high")},
            "population": _number(curve[group][name].value),
            "n": found.n,
        }
        for group in GROUPS
        for name, found in ours[group].items()
    ]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def _show(found: "dict[str, Estimate]", name: str) -> str:
    from rnn_core.benchmark.landmarks import FIGURES

    return METRICS[FIGURES[name]].show(found[name]) if name in found else ""


def _sections(judgement: "Judgement") -> Iterator[Section]:
    yield Section(
        "Length of stay",
        [
            "From the hour of the forecast to the end of the stay in the unit. Of calibrated forecasts half of the stays last "
            "longer than the median and a tenth longer than the 90th percentile. prevalence is the curve of the population "
            "given the hours that a stay has lasted: what one would say without a model.",
        ],
        [*_tables(judgement, _QUANTILES, "Quantiles and discharge"), *_tables(judgement, _STAY, "Errors")],
        list(_stay_plots(judgement)),
    )
    yield Section(
        "Death in the unit",
        [
            "apache is APACHE IVa as published with the data; it exists at hour 24, for the stays that it was computed for."
        ],
        list(_tables(judgement, _DEATH, "Risk of death")),
    )
    yield Section(
        "Differences",
        ["Paired on the same resamples of patients, model less other. A skill is 1 less the ratio of the losses."],
        list(_difference_tables(judgement)),
    )
    yield Section("Learning curves", ["Of the first fold."], (), list(_learning_plots(judgement)))


def _tables(judgement: "Judgement", names: tuple[str, ...], caption: str) -> Iterator[Table]:
    from rnn_core.benchmark.landmarks import GROUPS

    columns = ["model", *(name.replace("_", " ") for name in names)]
    for group in GROUPS:
        rows = [
            [model, *(_show(found[group], name) for name in names)]
            for model, found in judgement.scores.items()
            if any(name in found[group] and found[group][name].n for name in names)
        ]
        n = int(judgement.moments.of(group).sum())
        where = "all hours" if group == "all" else f"hour {group.removesuffix('h')}"
        yield Table(f"{caption}, {where} ({n:,} forecasts)", columns, rows)


def _stay_plots(judgement: "Judgement") -> Iterator[Plot]:
    from rnn_core.benchmark.landmarks import GROUPS, reached
    from rnn_core.reporting import plots

    whole = {name: judgement.contests[name] for name in _PLOTTED if name in judgement.contests}
    for group in GROUPS:
        ends = {name: reached(contest, judgement.moments, group) for name, contest in whole.items()}
        below = {name: np.array([(found <= q).mean() for q in _LEVELS]) for name, found in ends.items() if len(found)}
        where = "all hours" if group == "all" else f"hour {group.removesuffix('h')}"
        yield Plot(f"Quantile reliability, {where}", plots.reliability_plot(_LEVELS, below))
        if group in ("24h", "all"):
            yield Plot(f"Where the actual ends lie in the forecasts, {where}", plots.pit_plot(ends))
    for hours in (24, 48):
        rows = judgement.moments.of("24h")
        happened = judgement.moments.take(rows).happened[f"discharged_{hours}h"]
        known = ~np.isnan(happened)
        said = {name: contest.whole.take(rows).discharge_probability(hours)[known] for name, contest in whole.items()}
        # The population's curve alone forecasts nearly one probability.
        if len(said) > 1:
            svg = plots.calibration_plot(happened[known], said, f"a discharge within {hours} h")
            yield Plot(f"Reliability of the discharge within {hours} hours, hour 24", svg)


def _difference_tables(judgement: "Judgement") -> Iterator[Table]:
    from rnn_core.benchmark.landmarks import GROUPS

    names = (
        "auroc",
        "brier",
        "los_mae_days",
        "los_crps_days_skill",
        "discharge24_brier_skill",
        "discharge48_brier_skill",
    )
    for other, models in judgement.differences.items():
        rows = [
            [f"{model}, {group}", *(found[group][name].show(3) if name in found[group] else "" for name in names)]
            for model, found in models.items()
            for group in GROUPS
            if any(name in found[group] and found[group][name].n for name in names)
        ]
        yield Table(f"Against {other}", ["model", *(name.replace("_", " ") for name in names)], rows)


def _learning_plots(judgement: "Judgement") -> Iterator[Plot]:
    from rnn_core.reporting import plots

    for name, contest in judgement.contests.items():
        if contest.histories:
            histories = {f"member {k}": history for k, history in enumerate(contest.histories, start=1)}
            yield Plot(name, plots.learning_curves_plot(histories))
