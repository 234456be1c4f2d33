"""The page of a benchmark run: every table and plot of what was measured, in one file."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from flows.pages.page import Plot, Section, Table, render_page
from rnn_core.benchmark.outcome import BASELINES, SHIPPED, Outcome
from rnn_core.statistics.metric import METRICS

if TYPE_CHECKING:
    from rnn_core.statistics.bootstrap import Estimate

# A plot of all models at once would be unreadable.
_PLOTTED = ("logistic", "trees", "lstm", "forecaster", "blend")
_LEVELS = np.linspace(0.1, 0.9, 9)


def build_page(outcome: Outcome) -> str:
    """The page as HTML."""
    protocol = outcome.protocol
    lead = (
        f"Learned from {protocol['learned_stays']:,} stays ({protocol['learned_deaths']:,} deaths) of set "
        f"{', '.join(protocol['train'])}; tested on {protocol['judged_stays']:,} stays ({protocol['judged_deaths']:,} deaths), "
        f"{_where(protocol['test'])}, {protocol['hour']} hours after admission to intensive care. Values with 95 % intervals "
        "from 1,000 resamples of stays."
    )
    return render_page("PhysioNet Challenge 2012", lead, list(_sections(outcome)))


_TABLE = (
    "mortality_auroc",
    "mortality_auprc",
    "mortality_event1",
    "mortality_event2",
    "mortality_calibration_slope",
    "los_mae_days",
    "los_kappa",
    "los_interval_coverage",
)


def summary_table(outcome: Outcome) -> str:
    """The main figures as a Markdown table, one model per line."""
    from rnn_core.reporting.markdown import render_table

    rows = [
        [name, *(METRICS[metric].show(scores[metric]) for metric in _TABLE)] for name, scores in outcome.scores.items()
    ]
    return render_table(["model", *_TABLE], rows)


def _where(test: list[str] | str) -> str:
    return test if isinstance(test, str) else f"set {', '.join(test)}"


def _sections(outcome: Outcome) -> Iterator[Section]:
    protocol, scores = outcome.protocol, outcome.scores
    yield Section(
        "Death in hospital",
        [
            f"The forecast flow would use {SHIPPED}. The strongest baseline by AUROC is {outcome.strongest}. Event 1 is the "
            "smaller of sensitivity and positive predictive value at a threshold fixed out of fold on the learned stays; "
            "Event 2 is the challenge's Hosmer-Lemeshow statistic divided by its range, lower is better.",
            f"{protocol['abstained']} stays have too little data; for them every model gets the forecast of prevalence.",
        ],
        [_scores_table("Every model", scores, _judged(scores, "mortality_"))],
        list(_death_plots(outcome)),
    )
    yield Section(
        "Length of stay",
        [
            "From the forecast to the end of the hospital stay. Ends are known to the day; an end counts with the share "
            "of its two days that the interval covers."
        ],
        [_scores_table("Every model", scores, _judged(scores, "los_"))],
        list(_stay_plots(outcome)),
    )
    yield Section(
        f"Against {outcome.strongest}",
        ["Differences on the same resamples of stays. If an interval contains 0, the data do not distinguish the two."],
        [
            _scores_table(
                f"Model less {outcome.strongest}", outcome.differences, list(next(iter(outcome.differences.values())))
            )
        ],
        [
            Plot(
                "AUROC, difference",
                _plots().interval_plot(
                    {name: found["mortality_auroc"] for name, found in outcome.differences.items()},
                    "AUROC, difference",
                    0.0,
                ),
            )
        ],
    )
    yield Section("By group of patients", [], list(_group_tables(outcome)))
    histories = {name: c.histories[0] for name, c in outcome.contests.items() if c.histories}
    cells = {name: history for name, history in histories.items() if name != "classic"}
    yield Section(
        "Training",
        ["For an ensemble, its first member. The loss of the classic network is its squared error."],
        [Table("Wall time", ["model", "seconds"], [[n, f"{c.seconds:.0f}"] for n, c in outcome.contests.items()])],
        [
            Plot("Loss per epoch, training (dashed) and validation", _plots().learning_curves_plot(cells)),
            Plot(
                "The classic network",
                _plots().learning_curves_plot({k: v for k, v in histories.items() if k == "classic"}),
            ),
        ],
    )
    settings = [[key, str(value)] for key, value in protocol.items() if key != "config"]
    settings += [
        [f"{part}.{key}", str(value)]
        for part in ("network", "train")
        for key, value in protocol["config"][part].items()
    ]
    yield Section("Protocol", [], [Table("Configuration", ["what", "value"], settings)])


def _death_plots(outcome: Outcome) -> Iterator[Plot]:
    from rnn_core.statistics.decision_metrics import net_benefit, net_benefit_of_all

    plots, known = _plots(), ~np.isnan(outcome.truth.death)
    y = outcome.truth.death[known]
    risks = {n: outcome.contests[n].forecast.risk[known] for n in _PLOTTED if n in outcome.contests}
    yield Plot("Receiver operating characteristic", plots.roc_plot(y, risks))
    yield Plot("Precision and recall; dotted: the share of deaths", plots.precision_recall_plot(y, risks))
    yield Plot("Calibration by deciles of the forecasts", plots.calibration_plot(y, risks))
    thresholds = np.linspace(0.02, 0.6, 59)
    curves = {name: net_benefit(y, risk, thresholds) for name, risk in risks.items()}
    yield Plot(
        "Decision curve",
        plots.decision_curve_plot(thresholds, curves | {"everybody": net_benefit_of_all(y, thresholds)}),
    )
    yield Plot("AUROC", plots.interval_plot({n: s["mortality_auroc"] for n, s in outcome.scores.items()}, "AUROC"))
    yield Plot("AUPRC", plots.interval_plot({n: s["mortality_auprc"] for n, s in outcome.scores.items()}, "AUPRC"))


def _stay_plots(outcome: Outcome) -> Iterator[Plot]:
    from rnn_core.benchmark.contest import coverage

    whole = {
        n: c for n, c in outcome.contests.items() if c.forecast.whole is not None and n in (*_PLOTTED, "prevalence")
    }
    shares = {name: coverage(contest, outcome.truth, _LEVELS) for name, contest in whole.items()}
    yield Plot(
        "Intervals of the remaining stay, nominal and observed coverage", _plots().coverage_plot(_LEVELS, shares)
    )
    errors = {name: found["los_mae_days"] for name, found in outcome.scores.items()}
    yield Plot("Mean absolute error of the length of stay", _plots().interval_plot(errors, "days"))


def _group_tables(outcome: Outcome) -> Iterator[Table]:
    shown = [name for name in (SHIPPED, outcome.strongest) if name in outcome.scores]
    for kind, groups in outcome.subgroups.items():
        rows = [
            [f"{group}, {name}", f"{found['n']:,}", f"{found['deaths']:,}", *_cells(found["models"][name])]
            for group, found in groups.items()
            for name in shown
        ]
        if rows:
            metrics = next(iter(groups.values()))["models"][shown[0]]
            yield Table(
                kind.replace("_", " "), ["group", "stays", "deaths", *(METRICS[m].label for m in metrics)], rows
            )


def _scores_table(caption: str, scores: "dict[str, dict[str, Estimate]]", metrics: list[str]) -> Table:
    rows = [[_named(name), *_cells({m: found[m] for m in metrics})] for name, found in scores.items()]
    return Table(caption, ["model", *(METRICS[metric].label for metric in metrics)], rows)


def _judged(scores: "dict[str, dict[str, Estimate]]", prefix: str) -> list[str]:
    return [name for name in next(iter(scores.values())) if name.startswith(prefix)]


def _cells(scores: "dict[str, Estimate]") -> list[str]:
    return [METRICS[name].show(estimate) for name, estimate in scores.items()]


def _named(name: str) -> str:
    return f"{name} (baseline)" if name in BASELINES else name


def _plots():
    from rnn_core.reporting import plots

    return plots
