"""The page of a search for settings: what it found, which settings matter, learning curves, and every trial."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.pages.page import Plot, Section, Table, render_page, write_text

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

# Trials in the parallel coordinates that are drawn as the best.
_BEST = 5


def write_page(path: Path, source: str, study: "optuna.Study", default: int, best: int, verdict: str) -> None:
    """Write the page of a study of `source`; best, default: numbers of trials."""
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    lead = (
        f"{len(trials)} trials, {sum(trial.state.name == 'PRUNED' for trial in trials)} of them pruned. Judged out of fold on "
        "the stays that training learns from, by the negative log likelihood of when and how a stay ends (nats per forecast; "
        "lower is better). The stays that judge a model had no part."
    )
    sections = [
        _found(study, default, best, verdict),
        _importance(study),
        _parallel(complete),
        _curves({"best": study.trials[best], "default": study.trials[default]}),
        search_log(study),
    ]
    write_text(path, render_page(f"Settings for {source}", lead, sections))


def search_log(study: "optuna.Study") -> Section:
    trials = study.get_trials(deepcopy=False)
    return Section("Search log", [], [_table(f"Every trial of {study.study_name}, in the order of the search", trials)])


def _found(study: "optuna.Study", default: int, best: int, verdict: str) -> Section:
    shown = [study.trials[best]] + ([study.trials[default]] if default != best else [])
    return Section("What was found", [verdict], [_table("The best setting and the default", shown)])


def _table(caption: str, trials: Sequence["FrozenTrial"]) -> Table:
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    rows = [
        [
            str(trial.number),
            trial.state.name.lower(),
            _value(trial),
            _minutes(trial),
            *(_shown(trial.params.get(n)) for n in names),
        ]
        for trial in trials
    ]
    return Table(caption, ["trial", "state", "loss", "minutes", *names], rows)


def _value(trial: "FrozenTrial") -> str:
    return f"{trial.value:.4f}" if trial.state.name == "COMPLETE" else "-"


def _minutes(trial: "FrozenTrial") -> str:
    return f"{trial.duration.total_seconds() / 60:.1f}" if trial.duration else "-"


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _importance(study: "optuna.Study") -> Section:
    from optuna.importance import get_param_importances

    from rnn_core.reporting.plots import bar_plot

    try:
        with warnings.catch_warnings(action="ignore"):  # of few trials, as the page says
            found = get_param_importances(study)
    except (ValueError, RuntimeError):  # too few finished trials, or all alike
        return Section("Which settings matter", ["Too few trials have finished to say."])
    plot = bar_plot({name: 100 * share for name, share in found.items()}, "% of the variation of the loss")
    return Section("Which settings matter", ["Importance among the finished trials."], [], [Plot("Importance", plot)])


def _parallel(complete: Sequence["FrozenTrial"]) -> Section:
    from rnn_core.reporting.plots import parallel_plot

    ranked = sorted(complete, key=lambda trial: trial.value)
    columns = {name: [trial.params[name] for trial in ranked] for name in (ranked[0].params if ranked else ())}
    losses = np.array([trial.value for trial in ranked])
    caption = f"Finished trials; the best {min(_BEST, len(ranked))} in colour"
    return Section("Settings and loss", [], [], [Plot(caption, parallel_plot(columns, losses, _BEST))])


def _curves(trials: dict[str, "FrozenTrial"]) -> Section:
    from rnn_core.reporting.plots import learning_curves_plot

    plots = []
    for name, trial in trials.items():
        histories = trial.user_attrs.get("histories", [])
        curves = {f"member {number}": history for number, history in enumerate(histories, start=1)}
        plots.append(Plot(f"{name}: trial {trial.number}", learning_curves_plot(curves)))
    return Section("Learning curves", ["Dashed: learned from. Solid: the fold that was left out."], [], plots)
