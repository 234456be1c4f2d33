"""Beds on the page of an evaluation: published censuses by horizon, beside the simple answers."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from flows.pages.page import Plot, Section, Table
from rnn_core.contracts.census import CENSUS_HORIZONS, HOSPITAL
from rnn_core.statistics.bootstrap import Estimate
from rnn_core.statistics.metric import CENSUS_METRICS, census_metric_name

# Caption → columns: name of the score and its head.
_TABLES = {
    "CRPS and mean absolute error (MAE) of the median, in patients; in brackets the best of the four others": {
        "crps": "CRPS",
        "crps_persistence": "as now",
        "crps_moving_average": "mean of 7 days",
        "crps_last_week": "a week ago",
        "crps_curves": "unit's curve",
        "mae": "MAE",
    },
    "calibration; in brackets the Brier score of the share of full hours before": {
        "bias": "expected less actual",
        "coverage_80": "80 % covers",
        "pit_coverage_80": "80 % (PIT)",
        "pit_coverage_90": "90 % (PIT)",
        "brier_full": "Brier score of full",
        "skill_full": "its skill",
    },
}
_PLOTTED = (24, 72)
# With fewer hours in which a unit was full, tenths of the forecasts are a matter of chance.
_LEAST_FULL = 5


def census_section(judged: pd.DataFrame, scores: Sequence[dict[str, Any]]) -> Section:
    """judged: of `judge_published_census`. scores: of `score_census`."""
    if judged.empty:
        return Section("Beds", ["No published forecast of a unit can be evaluated yet."])
    paragraphs = [
        "Published forecasts of the patients of each unit, with those who were there. Simple answers: as many as now, the mean "
        "of 7 days, as many as at the same hour a week before, each with a distribution of its own past errors; and the forecast "
        "itself as if every patient had the curve of the unit, which shows what the patients' own forecasts add. 95 % "
        "intervals over whole weeks; none with fewer than five.",
        "If the forecast is right, a range of whole patients covers at least its share. By the randomised PIT, which divides "
        "the patients at the ends of a range by chance, it covers exactly that. Skill: the share of the Brier score that is "
        "avoided, compared with the share of hours in which the unit was full in the last 90 days.",
    ]
    frame = pd.DataFrame(scores)
    frame = frame[frame["month"] == "all"]
    tables = [
        _table(f"{model_id}, {name}: {caption}", columns, part[part["unit"] == unit].set_index("metric"))
        for model_id, part in frame.groupby("model_id")
        for unit, name in {"all": "all units", HOSPITAL: "the hospital"}.items()
        if (part["unit"] == unit).any()
        for caption, columns in _TABLES.items()
    ]
    return Section("Beds", paragraphs, tables, list(_plots(judged)))


def _table(caption: str, columns: dict[str, str], scores: pd.DataFrame) -> Table:
    """scores: of one model and group, by metric."""
    horizons = [h for h in CENSUS_HORIZONS if census_metric_name(h, "crps") in scores.index]
    shown = {name: head for name, head in columns.items() if any(_has(scores, h, name) for h in horizons)}
    rows = [
        [
            f"{horizon} h",
            str(scores.at[census_metric_name(horizon, "crps"), "n"]),
            *(_cell(scores, horizon, name) for name in shown),
        ]
        for horizon in horizons
    ]
    return Table(caption, ["horizon", "forecasts", *shown.values()], rows)


def _has(scores: pd.DataFrame, horizon: int, name: str) -> bool:
    return census_metric_name(horizon, name) in scores.index


def _cell(scores: pd.DataFrame, horizon: int, name: str) -> str:
    if not _has(scores, horizon, name):
        return "-"
    row, metric = scores.loc[census_metric_name(horizon, name)], CENSUS_METRICS.get(name, CENSUS_METRICS["crps"])
    # The CRPS of the simple answers has columns of its own.
    beside = np.isfinite(row["baseline"]) and metric.name != "crps"
    return metric.show(Estimate.from_json(row)) + (f" [{metric.show(row['baseline'])}]" if beside else "")


def _plots(judged: pd.DataFrame) -> Iterator[Plot]:
    from rnn_core.reporting.plots import calibration_plot, pit_plot

    of_units = judged[judged["unit"] != HOSPITAL]
    of_units = of_units if len(of_units) else judged
    for model_id, part in of_units[of_units["horizon_hours"].isin(_PLOTTED)].groupby("model_id"):
        pits = {f"{h} h": rows["pit"].to_numpy() for h, rows in part.groupby("horizon_hours")}
        plot = pit_plot(pits, "share of the forecast below the census", "% of censuses")
        yield Plot(f"{model_id}: where the census came within its forecast (randomised PIT); flat is right", plot)
        known = part[part["was_full"].notna()]
        for horizon, rows in known.groupby("horizon_hours"):
            full = rows["was_full"].to_numpy()
            if full.sum() >= _LEAST_FULL:
                plot = calibration_plot(full, {f"{horizon} h": rows["prob_full"].to_numpy()}, "a full unit")
                yield Plot(f"{model_id}: full after {horizon} h, by tenths of the forecasts", plot)
