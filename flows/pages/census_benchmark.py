"""The page of the census benchmark: figures by horizon, of the units and of the hospital, beside simple answers and the floor."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from flows.pages.page import Plot, Section, Table, render_page

if TYPE_CHECKING:
    from rnn_core.benchmark.census_contest import CensusJudgement

_SHOWN = (4, 12, 24, 48, 72, 120, 168)
_PERIODS = {
    "all": "all times",
    "month_after_change": "the 30 days after the change of level",
    "later": "later than 30 days after the change of level",
}
_GROUPS = {"units": "units", "*": "hospital"}
_CONTENDERS = (
    "patients: the census forecast with each patient's own forecast. curves: the same with the curve of the unit "
    "for all patients, given their elapsed hours. ends: the same as if every patient's end were known, so that "
    "only those who come are uncertain: the most that a forecast of the patients can add. persistence: as many as "
    "now. moving_average: the mean of the last 7 days. last_week: as many as at the same hour a week before. The "
    "last three are single numbers; their distribution is made of their own errors at the same hours of the last "
    "90 days, and their mean absolute error is that of the number. floor: what one would say who knows the "
    "process and, of each patient, the law of the lengths given the elapsed hours, but neither the future nor the "
    "patient's values. A forecast that reads the values may go below it."
)


def build_page(judgement: "CensusJudgement") -> str:
    """The page as HTML."""
    found = judgement.protocol
    sources = ", ".join(found.get("sources", []))
    lead = (
        f"A made-up hospital: real are the {found['stays']:,} stays{f' of {sources}' if sources else ''}, with their "
        f"values, lengths and outcomes; made up are its units, its beds, and when and where the stays begin "
        f"({found['arrivals']:,} arrivals, {found['turned_away']:,} more turned away). Stay model: {found['stay_model']}; each "
        f"stay is forecast by a fit on other patients ({found['folds']} folds). {len(judgement.setting.slots):,} times of "
        "forecast; "
        "95 % intervals from resamples of whole weeks."
    )
    return render_page("Census: a made-up hospital of real stays", lead, list(_sections(judgement)))


def summary_table(judgement: "CensusJudgement") -> str:
    """CRPS of the units by contender and horizon as a Markdown table."""
    from rnn_core.reporting.markdown import render_table

    rows = [[name, *_cells(judgement, name, "crps", "units", "all")] for name in judgement.contenders]
    return render_table(["CRPS (patients)", *_heads(judgement)], rows)


def _horizons(judgement: "CensusJudgement") -> list[int]:
    return [h for h in judgement.setting.horizons if h in _SHOWN]


def _heads(judgement: "CensusJudgement") -> list[str]:
    return [f"{h} h" for h in _horizons(judgement)]


def _cells(judgement: "CensusJudgement", name: str, figure: str, group: str, period: str, digits: int = 2) -> list[str]:
    return [judgement.figure(name, figure, h, group, period).show(digits) for h in _horizons(judgement)]


def _sections(judgement: "CensusJudgement") -> Iterator[Section]:
    for period in judgement.setting.periods:
        tables = [
            table
            for group in _GROUPS
            for table in (
                _of_figure(judgement, "crps", "CRPS, patients", group, period),
                _of_ratios(judgement, group, period),
            )
        ]
        yield Section(f"CRPS, {_PERIODS[period]}", [_CONTENDERS] if period == "all" else [], tables)
    yield Section(
        "Coverage",
        [
            "Share of times at which the census was in the central interval. Counts are whole numbers, so an honest interval "
            "holds more than its level; the share by the randomised PIT does not have this excess."
        ],
        [
            _of_figure(judgement, f"{kind}_{level}", f"{label} {level} %", group, "all")
            for group in _GROUPS
            for level in (50, 80, 90, 95)
            for kind, label in (("coverage", "Interval"), ("pit_coverage", "By randomised PIT"))
        ],
        list(_pit_plots(judgement)),
    )
    yield Section(
        "Errors",
        ["Mean absolute error of the median, or of the single number; bias of the mean, forecast less census."],
        [
            _of_figure(judgement, figure, label, group, "all")
            for group in _GROUPS
            for figure, label in (("mae", "Mean absolute error, patients"), ("bias", "Bias, patients"))
        ],
    )
    yield Section(
        "Full units",
        [
            "Skill: 1 less the ratio of the Brier score to that of the share of earlier hours in which the unit was full."
        ],
        [
            _of_figure(judgement, figure, label, "units", "all", digits=3)
            for figure, label in (("brier_full", "Brier score"), ("skill_full", "Skill"))
        ],
        [_full_plot(judgement)],
    )
    error = judgement.protocol["floor_crps_monte_carlo_error"]
    rows = [[f"{h} h", f"{error[str(h)]:.4f}"] for h in judgement.setting.horizons]
    table = Table("Monte-Carlo standard error of the floor's mean CRPS, units", ["horizon", "patients"], rows)
    draws = (
        f"The floor is drawn, {judgement.protocol['floor_draws']:,} courses per time, and its CRPS corrected for it."
    )
    yield Section("The floor", [draws, "The process: " + judgement.protocol["process"]], [table])


def _of_figure(
    judgement: "CensusJudgement", figure: str, label: str, group: str, period: str, digits: int = 2
) -> Table:
    rows = [[name, *_cells(judgement, name, figure, group, period, digits)] for name in judgement.contenders]
    return Table(f"{label}: {_GROUPS[group]}", ["", *_heads(judgement)], rows)


def _of_ratios(judgement: "CensusJudgement", group: str, period: str) -> Table:
    pairs = judgement.ratios[["contender", "other"]].drop_duplicates().itertuples(index=False)
    rows = [
        [f"{one} / {other}", *(judgement.ratio(one, other, h, group, period).show(2) for h in _horizons(judgement))]
        for one, other in pairs
    ]
    return Table(f"Ratio of the CRPS: {_GROUPS[group]}", ["", *_heads(judgement)], rows)


def _pit_plots(judgement: "CensusJudgement") -> Iterator[Plot]:
    from rnn_core.reporting.plots import pit_plot

    for horizon in (24, 72):
        column = judgement.setting.horizons.index(horizon)
        shares = {name: judgement.pits[name][:-1, :, column].ravel() for name in _plotted(judgement)}
        svg = pit_plot(shares, "share of the forecast below the census", "% of times")
        yield Plot(f"Randomised PIT of the units' census, {horizon} hours ahead", svg)


def _full_plot(judgement: "CensusJudgement") -> Plot:
    from rnn_core.reporting.plots import calibration_plot

    column = judgement.setting.horizons.index(24)
    happened = judgement.setting.is_full[:-1, :, column].ravel().astype(np.float64)
    said = {name: judgement.full[name][:-1, :, column].ravel() for name in _plotted(judgement)}
    return Plot("Reliability, 24 hours ahead", calibration_plot(happened, said, "a full unit"))


def _plotted(judgement: "CensusJudgement") -> Sequence[str]:
    return [name for name in ("patients", "curves", "floor") if name in judgement.contenders]
