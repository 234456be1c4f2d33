"""The page of a trained model: how its networks learned, and how reliable its forecasts are on stays it never saw."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.pages.page import Plot, Section, Table, render_page, write_text
from rnn_core.contracts.thresholds import DISCHARGE_HOURS
from rnn_core.statistics.bootstrap import Estimate
from rnn_core.statistics.metric import main_metrics

if TYPE_CHECKING:
    from rnn_core.evaluation.holdout import Scored

_LEVELS = np.linspace(0.05, 0.95, 19)
# With fewer on either side, tenths of the forecasts are a matter of chance.
_LEAST = 5


def write_page(path: Path, row: Mapping[str, Any], scored: "Scored", basis: str, more: Sequence[Section] = ()) -> None:
    """Write the page of the registered model `row`; scored: its forecasts of stays that it has not learned from."""
    sections = [_figures(row), _curves(row), _lengths(scored), _risks(scored), _settings(row), *more]
    write_text(path, render_page(f"Model {row['model_id']}", basis, sections))


def _figures(row: Mapping[str, Any]) -> Section:
    judged = row["metrics"].get("metrics", {})
    rows = [
        [
            metric.label,
            *(metric.show(Estimate.from_json(judged.get(f"{kind}{metric.name}"))) for kind in ("", "baseline_")),
        ]
        for metric in main_metrics()
    ]
    table = Table("When it was trained", ["metric", "model", "without a model"], rows)
    return Section("Figures", [f"Stage {row['stage']}. {row['stage_reason'] or ''}"], [table])


def _curves(row: Mapping[str, Any]) -> Section:
    from rnn_core.reporting.plots import learning_curves_plot

    histories = {f"network {n}": h for n, h in enumerate(row["metrics"].get("histories", []), start=1) if h}
    if not histories:
        return Section("Learning curves", ["It has no networks, or was recalibrated from another model."])
    plot = Plot("Loss per epoch", learning_curves_plot(histories))
    return Section(
        "Learning curves",
        ["Dashed: stays learned from. Solid: the fold that was left out, whose best epoch is kept."],
        [],
        [plot],
    )


def _lengths(scored: "Scored") -> Section:
    from rnn_core.reporting.plots import reliability_plot
    from rnn_core.statistics.length_of_stay import share_beyond

    happened = scored.outcomes.columns()
    known = [happened[name] for name in ("stayed_hours", "precision_hours", "known_hours")]
    beyond = []
    for level in _LEVELS:
        columns = np.array([*known, scored.forecast.quantile(level)])
        rows = ~np.isnan(columns).any(axis=0)
        beyond.append(share_beyond(*columns[:, rows]) if rows.any() else np.nan)
    below = {} if np.isnan(beyond).all() else {"this model": 1 - np.array(beyond)}
    return Section(
        "Length of stay",
        ["Open stays count as far as they were followed. On the dotted line the quantiles are calibrated."],
        [],
        [Plot("Quantile reliability of the remaining stay", reliability_plot(_LEVELS, below))],
    )


def _risks(scored: "Scored") -> Section:
    return Section("Risks", ["Tenths of the forecasts with 95 % intervals."], [], list(_risk_plots(scored)))


def _risk_plots(scored: "Scored") -> Iterator[Plot]:
    from rnn_core.reporting.plots import calibration_plot

    happened = scored.outcomes.columns()
    risks = {"death": (happened["death"], scored.forecast.mortality_risk())}
    for hours in DISCHARGE_HOURS:
        said = scored.forecast.discharge_probability(hours)
        risks[f"a discharge within {hours} h"] = happened[f"discharged_{hours}h"], said
    for what, (came, said) in risks.items():
        known = ~np.isnan(came)
        if min((came[known] == 1).sum(), (came[known] == 0).sum()) >= _LEAST:
            yield Plot(f"Reliability of {what}", calibration_plot(came[known], {"this model": said[known]}, what))


def _settings(row: Mapping[str, Any]) -> Section:
    from rnn_core.contracts.config import ModelConfig
    from rnn_core.contracts.options import TrainingConfig, chosen_in

    found, default = chosen_in(TrainingConfig(ModelConfig.from_json(row["config"]))), chosen_in(TrainingConfig())
    rows = [[name, _shown(value), _shown(default[name])] for name, value in found.items() if value != default[name]]
    return Section("Settings", [], [Table("Other than the defaults", ["option", "model", "default"], rows)])


def _shown(value: Any) -> str:
    values = value if isinstance(value, tuple) else (value,)
    return ", ".join(map(str, values)) if len(values) <= 20 else f"{len(values)} values"
