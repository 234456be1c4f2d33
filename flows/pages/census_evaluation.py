"""Beds on the page of an evaluation: published censuses by horizon, beside the simple answers."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from flows.pages.page import Plot, Section, Table
from rnn_core.contracts.census import HOSPITAL
from rnn_core.statistics.bootstrap import Estimate
from rnn_core.statistics.metric import CENSUS_METRICS, census_metric_name

_SIMPLE = {"persistence": "as now", "moving_average": "mean of 7 days", "last_week": "a week ago"}
_SHOWN = ("mae", "bias", "coverage_80", "pit_coverage_80", "pit_coverage_90", "brier_full", "skill_full")
_PLOTTED = (24, 72)
# With fewer hours in which a unit was full, tenths of the forecasts are a matter of chance.
_LEAST_FULL = 5


def census_section(judged: pd.DataFrame, scores: Sequence[dict[str, Any]]) -> Section:
    """judged: of `judge_published_census`. scores: of `score_census`."""
    if judged.empty:
        return Section("Beds", ["No published forecast of a unit can be evaluated yet."])
    paragraphs = [
        "Published forecasts of the patients of each unit with those who were there. as now, mean of 7 days, a week ago: what "
        "one would say without a model, with a distribution of its own past errors. 95 % intervals over whole weeks; none "
        "with fewer than five.",
        "A range of whole patients covers at least its share if the forecast is right; by PIT, which divides the patients at "
        "its ends by chance, exactly that. Skill: share of the Brier score avoided that one has who says how often the unit "
        "was full in the last 90 days.",
    ]
    frame = pd.DataFrame(scores)
    frame = frame[frame["month"] == "all"]
    tables = [
        _table(f"{model_id}, {name}", part[part["unit"] == unit].set_index("metric"), judged["horizon_hours"].unique())
        for model_id, part in frame.groupby("model_id")
        for unit, name in {"all": "over all units", HOSPITAL: "the hospital"}.items()
        if (part["unit"] == unit).any()
    ]
    return Section("Beds", paragraphs, tables, list(_plots(judged)))


def _table(caption: str, scores: pd.DataFrame, horizons: np.ndarray) -> Table:
    crps = CENSUS_METRICS["crps"].label
    shown = [n for n in _SHOWN if any(census_metric_name(h, n) in scores.index for h in horizons)]
    columns = [crps, *(f"{crps}, {label}" for label in _SIMPLE.values()), *(CENSUS_METRICS[n].label for n in shown)]

    def cell(horizon: int, name: str, metric: str) -> str:
        stored = census_metric_name(horizon, name)
        if stored not in scores.index:
            return "-"
        row = scores.loc[stored]
        baseline = f" [{CENSUS_METRICS[metric].show(row['baseline'])}]" if np.isfinite(row["baseline"]) else ""
        return CENSUS_METRICS[metric].show(Estimate.from_json(row)) + baseline

    rows = []
    for horizon in map(int, np.sort(horizons)):
        own = scores.index == census_metric_name(horizon, "crps")
        if own.any():
            simple = [cell(horizon, f"crps_{name}", "crps") for name in _SIMPLE]
            rest = [cell(horizon, name, name) for name in shown]
            n = str(int(scores.loc[own, "n"].iloc[0]))
            rows.append([f"{horizon} h", n, cell(horizon, "crps", "crps"), *simple, *rest])
    return Table(f"{caption}; in brackets the best simple answer", ["horizon", "forecasts", *columns], rows)


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
