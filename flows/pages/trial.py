"""The one page at the end of a silent trial: go or no-go, and why. It contains no patient data."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sqlalchemy import Engine

from flows.pages.evaluation import BURDEN_COLUMNS, burden_cells
from flows.pages.page import Plot, Section, Table, render_page, write_text
from flows.runtime import clock
from flows.runtime.databases import open_store
from flows.runtime.settings import load_settings
from rnn_core.contracts.errors import DataTooSmallError
from sql.published import canonical, trials
from sql.published.summaries import read_alert_burden

if TYPE_CHECKING:
    from rnn_core.evaluation.trial import Calibrations, Decision

_OF_STAY = ("los_mae_days", "los_interval_coverage", "los_concordance", "discharge_24h_auroc")


def report_trial(source: str, out: Path | None) -> tuple["Decision", Path]:
    """Evaluate the newest trial of `source`, write its page, and return the decision and the page's path.

    Raises ForecastError if there was no trial, DataTooSmallError if nothing of it can be evaluated yet.
    """
    from rnn_core.evaluation.trial import decide, judge_risks

    store = open_store()
    trial = trials.last_trial(store, source)
    as_of = clock.slot(None)
    began, ended = trial["started_at"], min(trial["ended_at"] or as_of, as_of)
    runs = trials.count_runs(store, source, began, ended)
    pairs = canonical.read_outcome_pairs(store, source, as_of)
    pairs = pairs[pairs["run_id"].isin(runs["run_ids"] or [])]
    if pairs["died"].notna().sum() == 0:
        raise DataTooSmallError(
            f"Nothing of the trial of {source} can be evaluated yet: {runs['published']} forecasts were published for the hours "
            f"from {began:%Y-%m-%d %H:%M} to {ended:%Y-%m-%d %H:%M} UTC, and no stay in them has a known end. "
            "Wait, then run `icu-forecast ingest` and repeat."
        )
    due = len(clock.slots(runs["first"], runs["last"], pd.Timedelta(hours=1).to_pytimedelta()))
    risks = judge_risks(pairs)
    decision = decide(risks, runs["published"] / due)
    page = render_page(
        f"Silent trial of {source}: {decision.verdict}",
        _lead(pairs, began, ended, runs["failed"], due),
        [_criteria(decision), _calibration(risks), _length_of_stay(pairs), *_data(store, source, began, ended)],
    )
    path = out or load_settings().home / "reports" / f"trial-{source}.html"
    write_text(path, page)
    return decision, path


def _lead(pairs: pd.DataFrame, began: datetime, ended: datetime, failed: int, due: int) -> str:
    return (
        f"{began:%Y-%m-%d} to {ended:%Y-%m-%d}: {len(pairs):,} forecasts of {pairs['stay_id'].nunique():,} stays of "
        f"{pairs['patient_id'].nunique():,} patients, not shown; {due:,} hours due, {failed} runs failed."
    )


def _criteria(decision: "Decision") -> Section:
    summary = {
        "go": "Every criterion is met. `icu-forecast trial end` shows the forecasts from the next run on.",
        "no-go": "Not every criterion is met: resolve those before any forecast is shown.",
        "too early": "Too few deaths for a verdict: continue the trial.",
    }[decision.verdict]
    rows = [[what, found, "met" if met else "not met"] for what, found, met in decision.criteria]
    return Section("Decision", [summary], [Table("Criteria", ["criterion", "found", ""], rows)])


def _calibration(risks: "Calibrations") -> Section:
    from rnn_core.evaluation.trial import calibration_rows
    from rnn_core.reporting.plots import calibration_plot

    fitted = np.isfinite(risks.recalibrated)
    lines = {"as published": risks.published[fitted], "recalibrated": risks.recalibrated[fitted]}
    plots = [Plot("Calibration by deciles", calibration_plot(risks.died[fitted], lines))]
    return Section(
        "Calibration here",
        ["Recalibrated out of fold on the site's own outcomes: slope and intercept of the log-odds."],
        [Table("Before and after", ["", "as published", "recalibrated"], calibration_rows(risks))],
        plots if fitted.any() else [],
    )


def _length_of_stay(pairs: pd.DataFrame) -> Section:
    from rnn_core.evaluation.scorecard import ALL, score_published
    from rnn_core.statistics.bootstrap import Estimate
    from rnn_core.statistics.metric import METRICS

    everything = pairs.assign(unit=None, month=None, age_years=float("nan"), sex=None)
    scores = pd.DataFrame(score_published(everything))
    scores = scores[scores["stay_hours"] == ALL]
    rows = [
        [
            model_id,
            METRICS[name].label,
            METRICS[name].show(Estimate.from_json(row)),
            METRICS[name].show(row["baseline"]),
        ]
        for (model_id, name), part in scores[scores["metric"].isin(_OF_STAY)].groupby(["model_id", "metric"])
        for _, row in part.iterrows()
    ]
    return Section("Length of stay", [], [Table("By model", ["model", "", "here", "without a model"], rows)])


def _data(store: Engine, source: str, began: datetime, ended: datetime) -> list[Section]:
    from rnn_core.reporting.plots import bar_plot

    burden = read_alert_burden(store, source).query("role == 'trial'").sort_values("n_flagged", ascending=False)
    delays = trials.read_delays(store, source, began, ended)
    missing = trials.read_missing(store, source, began, ended)
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
            ["What acting on a band would have meant."],
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
