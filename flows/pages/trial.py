"""The one page at the end of a silent trial: go or no-go, and why. It contains no patient data."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sqlalchemy import Engine

from flows.pages.evaluation import BURDEN_COLUMNS, burden_cells, landmark_table
from flows.pages.page import Plot, Section, Table, render_page, write_text
from flows.runtime import clock
from flows.runtime.databases import open_store
from flows.runtime.settings import load_settings
from rnn_core.contracts.errors import DataTooSmallError
from sql.published import canonical, registry, trials

if TYPE_CHECKING:
    from rnn_core.evaluation.trial import Calibrations, Decision

_AT_LANDMARKS = (
    "mortality_auroc",
    "los_mae_days",
    "los_beyond_p50",
    "los_beyond_p90",
    "discharge_24h_brier",
    "discharge_48h_brier",
    "los_interval_coverage",
)


@dataclass(frozen=True)
class _Trial:
    """What of a trial is judged: the hours that were due, and the runs in time of the model whose forecasts its end shows.

    due: hours from the start to the end or to now. first: of these, the model's first. published: hours with a run in time,
    of any model. n_failed: runs.
    """

    source: str
    model_id: str
    due: list[datetime]
    first: datetime
    ended: datetime
    run_ids: list[int]
    published: int
    n_failed: int


def report_trial(source: str, out: Path | None) -> tuple["Decision", Path]:
    """Evaluate the newest trial of `source`, write its page, and return the decision and the page's path.

    Raises ForecastError if there was no trial, DataTooSmallError if nothing of it can be evaluated yet.
    """
    from rnn_core.evaluation.trial import decide, judge_lengths, judge_risks

    store = open_store()
    as_of = clock.slot(None)
    trial = _read_trial(store, source, as_of)
    pairs = canonical.read_outcome_pairs(store, source, as_of)
    pairs = pairs[pairs["run_id"].isin(trial.run_ids)]
    n_open = int(pairs["died"].isna().sum())
    if n_open == len(pairs):
        raise DataTooSmallError(
            f"Nothing of the trial of {source} can be evaluated yet: {trial.published} of {len(trial.due)} hours from "
            f"{trial.due[0]:%Y-%m-%d %H:%M} UTC were published in time, {len(trial.run_ids)} of them by {trial.model_id}, and no "
            "stay in these has a known end. Wait, then run `icu-forecast ingest` and repeat."
        )
    risks = judge_risks(pairs)
    decision = decide(risks, judge_lengths(pairs), trial.published / len(trial.due))
    page = render_page(
        f"Silent trial of {source}: {decision.verdict}",
        _lead(trial, pairs, n_open),
        [_criteria(decision, trial), _calibration(risks), _landmarks(pairs), *_data(store, trial)],
    )
    path = out or load_settings().home / "reports" / f"trial-{source}.html"
    write_text(path, page)
    return decision, path


def _read_trial(store: Engine, source: str, as_of: datetime) -> _Trial:
    there = trials.last_trial(store, source)
    began, ended = there["started_at"], min(there["ended_at"] or as_of, as_of)
    due = [hour for hour in clock.slots(began, max(began, ended), timedelta(hours=1)) if began <= hour < ended]
    runs = trials.read_runs(store, there, ended)
    done = [run for run in runs if not run["failed"]]
    # While a trial is open, its end would show the model that serves; afterwards it has shown the last one.
    serving = None if there["ended_at"] else registry.serving_model(store, source, "stay")
    model_id = serving["model_id"] if serving else done[-1]["model_id"] if done else "a model"
    ours = [run for run in done if run["model_id"] == model_id]
    if not ours:
        raise DataTooSmallError(
            f"Nothing of the trial of {source} can be evaluated yet: {model_id} has published none of the {len(due)} hours "
            f"from {began:%Y-%m-%d %H:%M} UTC in time, and its forecasts are what the end of the trial shows."
        )
    return _Trial(
        source,
        model_id,
        due,
        ours[0]["as_of"],
        ended,
        [run["run_id"] for run in ours],
        len({run["as_of"] for run in done} & set(due)),
        len(runs) - len(done),
    )


def _lead(trial: _Trial, pairs: pd.DataFrame, n_open: int) -> str:
    return (
        f"{trial.due[0]:%Y-%m-%d} to {trial.ended:%Y-%m-%d}: {len(pairs):,} forecasts of {pairs['stay_id'].nunique():,} stays of "
        f"{pairs['patient_id'].nunique():,} patients by {trial.model_id}, not shown; {n_open:,} of stays that are still open, "
        "which count in the lengths of stay for as long as they were followed. "
        f"{len(trial.due):,} hours due, {len(trial.due) - trial.published:,} missed, {trial.n_failed} runs failed."
    )


def _criteria(decision: "Decision", trial: _Trial) -> Section:
    from rnn_core.evaluation.trial import RECALIBRATE

    summary = [decision.advice]
    if decision.verdict == "go":
        summary.append(f"`icu-forecast trial end {trial.source}` shows those of {trial.model_id} from the next run on.")
    if decision.advice == RECALIBRATE:
        summary.append(
            f"`icu-forecast models recalibrate {trial.model_id} {trial.source}` makes the copy; `models promote` lets it serve, "
            "and from then on the trial judges its forecasts."
        )
    said = {True: "met", False: "not met", None: "not yet clear"}
    rows = [[what, found, said[met]] for what, found, met in decision.criteria]
    return Section("Decision", summary, [Table("Criteria", ["criterion", "found", ""], rows)])


def _calibration(risks: "Calibrations") -> Section:
    from rnn_core.evaluation.trial import calibration_rows
    from rnn_core.reporting.plots import calibration_plot

    fitted = np.isfinite(risks.recalibrated)
    lines = {"as published": risks.published[fitted], "recalibrated": risks.recalibrated[fitted]}
    plots = [Plot("Calibration by deciles", calibration_plot(risks.died[fitted], lines))]
    return Section(
        "Calibration here",
        [
            "The verdict is about the risks as published. Beside them, what `models recalibrate` would give: its fit to the same "
            "hours of other patients' stays. Each forecast counts the same that was made so long ago that nearly all stays have "
            f"ended, long or short: {len(risks.died):,}."
        ],
        [Table("As published and recalibrated", ["", "as published", "recalibrated"], calibration_rows(risks))],
        plots if fitted.any() else [],
    )


def _landmarks(pairs: pd.DataFrame) -> Section:
    from rnn_core.evaluation.scorecard import ALL, LANDMARKS, score_published

    everything = pairs.assign(unit=None, month=None, age_years=float("nan"), sex=None)
    scores = pd.DataFrame(score_published(everything))
    return Section(
        "At landmarks",
        [
            "One forecast of each stay that reached the hour, and every forecast. In brackets, the prevalence and the quantiles "
            "of the same rows as forecasts. Half of the stays should last longer than the 50th percentile, a tenth longer than "
            "the 90th."
        ],
        [landmark_table(scores[scores["stay_hours"].isin([*LANDMARKS, ALL])], _AT_LANDMARKS)],
    )


def _data(store: Engine, trial: _Trial) -> list[Section]:
    from rnn_core.reporting.plots import bar_plot

    days = len({hour.date() for hour in trial.due if hour >= trial.first})
    burden = pd.DataFrame(trials.read_alerts(store, trial.source, trial.first, trial.ended, trial.run_ids, days))
    delays = trials.read_delays(store, trial.source, trial.due[0], trial.ended)
    missing = trials.read_missing(store, trial.source, trial.due[0], trial.ended)
    alerts = [burden_cells(row) for _, row in burden.iterrows()]
    per_day = dict(zip(burden["risk_band"], burden["flagged_per_day"], strict=True))
    late = [[row["concept"], f"{row['n']:,}", f"{row['hours'][0]:.1f}", f"{row['hours'][1]:.1f}"] for row in delays]
    never = [row["concept"] for row in missing if row["missing"] == 1]
    seldom = {
        row["concept"]: 100 * row["missing"]
        for row in missing
        if row["missing"] is not None and 0.5 < row["missing"] < 1
    }
    return [
        Section(
            "Alerts",
            [
                "What acting on a band would have meant. A missed hour raised no alert; patients without a forecast count as "
                "not flagged."
            ],
            [Table("Bands", BURDEN_COLUMNS, alerts)],
            [Plot("Patients flagged per day", bar_plot(per_day, "patients"))],
        ),
        Section(
            "Delays",
            ["Hours from when a value was true to when it was known."],
            [Table("By concept", ["concept", "values", "median", "90th percentile"], late)],
        ),
        Section(
            "Missing",
            [f"Never charted: {', '.join(never) or 'nothing'}."],
            [],
            [Plot("Missing in more than half of the stays", bar_plot(seldom, "% of stays"))],
        ),
    ]
