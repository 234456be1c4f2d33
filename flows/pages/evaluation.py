"""The page of an evaluation: one file with plots of forecasts and data, without patient data."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import Engine

from flows.pages.page import Plot, Section, Table, render_page, warning, write_text
from flows.runtime.settings import load_settings
from rnn_core.contracts.thresholds import RISK_BANDS
from rnn_core.statistics.bootstrap import Estimate
from rnn_core.statistics.metric import METRICS, Metric, main_metrics
from sql.published.summaries import read_alert_burden

BURDEN_COLUMNS = ["band and above", "patients per day", "stays flagged", "deaths flagged", "flagged that died"]
_GROUPS = {"unit": "unit", "age_group": "age", "sex": "sex", "stay_hours": "hours of the stay"}
_DAYS_SHOWN = 60
# With fewer deaths, deciles of the forecasts are a matter of chance.
_LEAST_DEATHS = 5


def write_page(
    store: Engine,
    source: str,
    as_of: datetime,
    pairs: pd.DataFrame,
    scores: Sequence[dict[str, Any]],
    drift: Sequence[dict[str, Any]],
    more: Sequence[Section] = (),
) -> Path:
    """Write the page of the newest evaluation of `source`, with `more` sections at its end, and return its path."""
    lead = (
        f"{warning(source)}{len(pairs):,} forecasts of {pairs['stay_id'].nunique():,} stays with their outcomes, as known at "
        f"{as_of:%Y-%m-%d %H:%M} UTC. 95 % intervals over patients. Open stays count as followed so far."
    )
    burden = read_alert_burden(store, source)
    sections = [*_sections(pairs, pd.DataFrame(scores), pd.DataFrame(drift), burden), *more]
    path = load_settings().home / "reports" / f"evaluate-{source}.html"
    write_text(path, render_page(f"Forecasts of {source}", lead, sections))
    return path


def _sections(
    pairs: pd.DataFrame, scores: pd.DataFrame, drift: pd.DataFrame, burden: pd.DataFrame
) -> Iterator[Section]:
    if scores.empty:
        yield Section(
            "Forecasts", ["No published forecast can be evaluated yet: none was made after its model's data cut-off."]
        )
    else:
        yield _overall(pairs, scores)
        yield _over_time(scores)
        yield _at_landmarks(scores)
        yield _by_group(scores)
    yield _burden(burden, pairs)
    yield _drift(drift)


def _overall(pairs: pd.DataFrame, scores: pd.DataFrame) -> Section:
    from rnn_core.reporting.plots import calibration_plot

    everything = _of(scores)
    shown = [metric for metric in main_metrics() if metric.name in set(everything["metric"])]
    table = Table(
        "Every model over all forecasts; in brackets the prevalence and the median of the same rows as forecasts",
        ["model", *(metric.label for metric in shown)],
        [
            [model_id, *(_cell(metric, part[part["metric"] == metric.name]) for metric in shown)]
            for model_id, part in everything.groupby("model_id")
        ],
    )
    plots = []
    for model_id, part in pairs.dropna(subset=["died", "mortality_risk"]).groupby("model_id"):
        died = part["died"].to_numpy(float)
        if died.sum() >= _LEAST_DEATHS:
            plot = calibration_plot(died, {str(model_id): part["mortality_risk"].to_numpy(float)})
            plots.append(Plot(f"Calibration of {model_id} by deciles of its forecasts", plot))
    return Section("All forecasts", [], [table], plots)


def landmark_table(scores: pd.DataFrame, metrics: Sequence[str]) -> Table:
    """Of scores at landmarks and over all hours: one row per model and hour, one column per metric."""
    return Table(
        "By hour of the stay; in brackets without a model",
        ["model", "hours", *(METRICS[name].label for name in metrics)],
        [
            [model_id, hours, *(_cell(METRICS[name], part[part["metric"] == name]) for name in metrics)]
            for (model_id, hours), part in scores.groupby(["model_id", "stay_hours"], sort=False)
        ],
    )


def _at_landmarks(scores: pd.DataFrame) -> Section:
    from rnn_core.evaluation.scorecard import LANDMARKS

    at = scores[scores["stay_hours"].isin(list(LANDMARKS))]
    shown = [metric.name for metric in main_metrics() if metric.name in set(at["metric"])]
    return Section("At landmarks", ["One forecast of each stay that reached the hour."], [landmark_table(at, shown)])


def _over_time(scores: pd.DataFrame) -> Section:
    from rnn_core.reporting.plots import interval_plot

    plots = []
    by_month = scores[scores["month"] != "all"]
    for metric in (METRICS["mortality_observed_expected"], METRICS["los_interval_coverage"]):
        for model_id, part in by_month[by_month["metric"] == metric.name].groupby("model_id"):
            plot = interval_plot(_estimates(part, "month"), metric.label, metric.reference)
            plots.append(Plot(f"{model_id} by month", plot))
    return Section("Over time", ["If an interval excludes the dotted line, the forecasts are off."], [], plots)


def _by_group(scores: pd.DataFrame) -> Section:
    from rnn_core.reporting.plots import interval_plot

    plots, newest = [], scores["model_id"].iloc[-1]
    of_newest = scores[scores["model_id"] == newest]
    of_newest = of_newest[of_newest["low"].notna()]
    for name in ("mortality_auroc", "mortality_observed_expected", "los_interval_coverage"):
        metric, of_metric = METRICS[name], of_newest[of_newest["metric"] == name]
        estimates = {}
        for column, what in _GROUPS.items():
            found = _estimates(of_metric[of_metric[column] != "all"], column)
            estimates |= {f"{what}: {group}": estimate for group, estimate in found.items()}
        plots.append(Plot(metric.label, interval_plot(estimates, metric.label, metric.reference)))
    return Section("By group", [f"{newest}. Groups with too few deaths for an interval are left out."], [], plots)


def _burden(burden: pd.DataFrame, pairs: pd.DataFrame) -> Section:
    from rnn_core.reporting.plots import bar_plot

    rows = [[f"{row['model_id']} ({row['role']})", *burden_cells(row)] for _, row in burden.iterrows()]
    plots = []
    for (model_id, role), part in burden.groupby(["model_id", "role"]):
        per_day = dict(zip(part["risk_band"], part["flagged_per_day"], strict=True))
        plots.append(Plot(f"{model_id} ({role})", bar_plot(per_day, "patients flagged per day")))
    plots += _by_day(pairs)
    columns = ["model (role)", *BURDEN_COLUMNS]
    return Section(
        "Alerts", ["Finished stays: what acting on a band would have meant."], [Table("Bands", columns, rows)], plots
    )


def _by_day(pairs: pd.DataFrame) -> Iterator[Plot]:
    """Different patients flagged per day by a band and those above it, per model, on the last days."""
    from rnn_core.reporting.plots import day_plot

    for model_id, part in pairs.groupby("model_id"):
        day = part["prediction_time"].to_numpy("datetime64[D]")
        days = np.arange(max(day.min(), day.max() - _DAYS_SHOWN), day.max() + 1)
        counts = {}
        for rank, band in enumerate(RISK_BANDS[1:], start=1):
            flagged = part["risk_band"].isin(RISK_BANDS[rank:]).to_numpy()
            alerts = pd.DataFrame({"day": day[flagged], "stay": part["stay_id"].to_numpy()[flagged]}).drop_duplicates()
            counts[f"{band} and above"] = np.array([(alerts["day"].to_numpy() == one).sum() for one in days])
        yield Plot(f"{model_id}: patients flagged on each day", day_plot(counts, days, "patients"))


def burden_cells(row: pd.Series) -> list[str]:
    """Cells under `BURDEN_COLUMNS` of a row of forecast.alert_burden."""
    flagged = f"{row['n_flagged']} of {row['n_stays']}"
    return [row["risk_band"], f"{row['flagged_per_day']:.1f}", flagged, _share(row["sensitivity"]), _share(row["ppv"])]


def _drift(drift: pd.DataFrame) -> Section:
    from rnn_core.evaluation.drift import MAX_PSI, RECENT_DAYS
    from rnn_core.reporting.plots import heat_plot

    if drift.empty:
        return Section("Data", ["Nothing to compare: the model has no reference, or nothing was observed."])
    serving = drift[drift["model_id"] == drift["model_id"].iloc[-1]].sort_values("psi", ascending=False)
    more_missing = (serving["missing"] - serving["reference_missing"]).astype(float).clip(0)
    values = np.stack([serving["psi"].astype(float), more_missing], axis=1)
    plot = heat_plot(values, serving["concept"].to_list(), ["stability index", "more missing"], 2 * MAX_PSI)
    drifted = serving[serving["drifted"]]
    summary = f"The last {RECENT_DAYS} days compared with the training data of {serving['model_id'].iloc[0]}. "
    summary += f"Drifted: {', '.join(drifted['concept'])}." if len(drifted) else "Nothing has drifted."
    units = drifted.loc[drifted["wrong_unit"], "concept"].to_list()
    more = [f"Possibly in another unit: {', '.join(units)}."] if units else []
    return Section("Data", [summary, *more], [], [Plot("Concepts, most changed first", plot)])


def _of(scores: pd.DataFrame) -> pd.DataFrame:
    from rnn_core.evaluation.scorecard import ALL, DIMENSIONS

    return scores[(scores[list(DIMENSIONS)] == ALL).all(axis=1)]


def _estimates(rows: pd.DataFrame, name: str) -> dict[str, Any]:
    return {str(row[name]): Estimate.from_json(row) for _, row in rows.iterrows()}


def _cell(metric: Metric, rows: pd.DataFrame) -> str:
    if rows.empty:
        return "-"
    row = rows.iloc[0]
    baseline = f" [{metric.show(row['baseline'])}]" if np.isfinite(row["baseline"]) else ""
    return metric.show(Estimate.from_json(row)) + baseline


def _share(value: float | None) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{100 * value:.0f} %"
