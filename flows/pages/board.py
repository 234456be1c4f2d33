"""The board of a source: how full the hospital and each unit will be, from the newest published run.

Counts only, unless patients are requested.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
from sqlalchemy import Engine

from flows.pages.page import Plot, Section, Table, render_page, warning, write_text
from flows.runtime.settings import load_settings
from rnn_core.contracts.census import CENSUS_HORIZONS, HOSPITAL
from rnn_core.contracts.errors import DataTooSmallError, ForecastError
from rnn_core.contracts.thresholds import LIKELY, RISK_BANDS
from sql.published import trials
from sql.published.board import PAST_DAYS, Board, read_board

# A board that is older than this says so first: forecasts are due every hour.
_OLD_HOURS = 2.0
# Why a unit has no forecast, in words.
REASONS = {
    "stale": "when it was due, nothing of the source had become known for 24 hours",
    "too_little_history": "the history is shorter than 28 days, or has fewer than 10 admissions",
    "ends_with_hospital": "stays of this source end with the hospital stay, so who is in which unit is not known",
}
_CHANGES = {"admitted": "admitted", "left": "left", "died": "died", "risk_up": "risk up", "risk_down": "risk down"}
# Kinds of plans, in words.
_PLANNED = {"admission": "admissions", "transfer": "transfers in", "discharge": "to leave"}


def write_board(store: Engine, source: str, path: Path | None = None, *, patients: bool = False) -> Path:
    """Write the board of `source` and return its path. Raises as `render_board`, and ForecastError if it cannot be written."""
    page = render_board(store, source, patients=patients)
    path = path or load_settings().home / "reports" / f"board-{source}.html"
    write_text(path, page)
    return path


def render_board(store: Engine, source: str, *, patients: bool = False) -> str:
    """The board of the newest published run as HTML; with `patients`, with ids and rows of patients.

    Raises DataTooSmallError if nothing of the source is published, ForecastError if a trial hides it.
    """
    board = read_board(store, source, patients=patients)
    if board is None:
        if trials.open_trial(store, source):
            raise ForecastError(
                f"{source} is on trial, and its forecasts are hidden; see `icu-forecast trial report {source}`."
            )
        raise DataTooSmallError(f"No forecast of {source} is published yet; run `icu-forecast forecast {source}`.")
    sections = [_overview(board), *(_section(board, unit) for unit in [HOSPITAL, *board.units])]
    if patients:
        sections.append(_changed(board))
    return render_page(f"Beds of {source}", warning(source) + " ".join(_ages(board)), sections)


def _ages(board: Board) -> Iterator[str]:
    run = board.run
    zone = ZoneInfo(run["timezone"])
    age = run["forecast_age_hours"]
    if age > _OLD_HOURS:
        yield "Old forecast: check forecast.run_health before you use it."
    when = f"{_clock(run['as_of'], zone, year=True)} ({run['timezone']})"
    yield f"Forecast of {when}, {_hours(age)} old when this page was written."
    if run["newest_observation_at"] is None:
        yield "It used no values of patients."
    else:
        yield f"The newest value it used was {_hours(max(run['data_age_hours'], 0))} old."
    if run["provisional"]:
        yield "Provisional: the model had too few known outcomes for a verdict when it published."
    yield f"Run {run['run_id']} of {run['model_id']}."
    if board.patients is not None:
        yield "This page contains patient data."


def _overview(board: Board) -> Section:
    columns = ["unit", "patients", "usable beds", "tomorrow", "expected", "80 % range", "full", "1 bed free"]
    columns += ["likely to leave", "high risk", "admitted", "left", "died"]
    rows = [_overview_row(board, unit) for unit in [HOSPITAL, *board.units]]
    words = (
        "Patients: at the time of the forecast. Tomorrow: at 08:00. Full: every usable bed is taken. "
        f"Likely to leave: alive within 24 hours, with a probability of {100 * LIKELY:.0f} % or more; high risk: of death, bands "
        f"{' and '.join(RISK_BANDS[2:])}; both of those who are still there. Admitted, left, died: in the 24 hours before the "
        "forecast, and since."
    )
    return Section("At a glance", [words], [Table("Units now and tomorrow", columns, rows)])


def _overview_row(board: Board, unit: str) -> list[str]:
    now, changes = board.patients_now.loc[unit], board.changes.loc[unit]
    row = [_name(unit), f"{board.past[unit].iloc[-1]}"]
    there = board.tomorrow.loc[unit] if unit in board.tomorrow.index else None
    if there is None or there["status"] != "scored":
        row += [_count(None if there is None else there["usable_beds"]), "no forecast", *[""] * 4]
    else:
        row += [_count(there["usable_beds"]), f"{there['local_time']:%a %H:%M}", f"{there['expected_patients']:.1f}"]
        row += [_range(there["patients_low"], there["patients_high"])]
        row += [_percent(there["prob_full"]), _percent(there["prob_free_1"])]
    high = sum(now[band] for band in RISK_BANDS[2:])
    return [
        *row,
        _count(now["likely_to_leave"]),
        _count(high),
        *(str(changes[c]) for c in ("admitted", "left", "died")),
    ]


def _section(board: Board, unit: str) -> Section:
    rows = board.outlook[board.outlook["unit"] == unit]
    scored = rows[rows["status"] == "scored"]
    words = [
        " ".join([*_status(rows, unit), *_flow(scored)]),
        " ".join(_patients_now(board, unit)),
        _since(board, unit),
    ]
    plots = [_fan(board, unit, scored)] if len(scored) else []
    tables = [_horizons(scored, unit)] if len(scored) else []
    planned = board.planned[board.planned["unit"] == unit]
    tables += [_planned(planned, unit)] if len(planned) else []
    if board.patients is not None:
        # Who is in no unit that is known stands with the hospital.
        here = board.patients["unit"].isna() if unit == HOSPITAL else board.patients["unit"] == unit
        tables += [_patients(board.patients[here], unit)] if here.any() else []
    return Section(_name(unit), [sentence for sentence in words if sentence], tables, plots, plots_first=True)


def _status(rows: pd.DataFrame, unit: str) -> Iterator[str]:
    if not len(rows):
        yield "No forecast: the run was published without a census; its report says why."
        return
    first = rows.iloc[0]
    usable = _usable(first)
    beds = "the number of its beds is not known" if usable is None else f"{usable} usable beds"
    yield f"{first['n_present']} {'patient' if first['n_present'] == 1 else 'patients'}; {beds}."
    if first["status"] == "abstained":
        reason = REASONS.get(first["status_reason"], first["status_reason"])
        yield f"No forecast{' of at least one unit' if unit == HOSPITAL else ''}: {reason}."


def _flow(scored: pd.DataFrame) -> Iterator[str]:
    for _, row in scored[scored["horizon_hours"] == 24].iterrows():
        deaths = "" if pd.isna(row["expected_deaths"]) else f", {row['expected_deaths']:.1f} to die"
        yield (
            f"Expected within 24 hours: {row['expected_arrivals']:.1f} to come; of the patients now, "
            f"{row['expected_discharges']:.1f} to leave{deaths}."
        )


def _patients_now(board: Board, unit: str) -> Iterator[str]:
    now = board.patients_now.loc[unit]
    if not now["n_patients"]:
        return
    yield f"Likely to leave within 24 hours: {_count(now['likely_to_leave'])} of {_count(now['n_patients'])}."
    bands = [f"{_count(now[band])} {band}" for band in reversed(RISK_BANDS)]
    yield f"Risk of death: {', '.join(bands)}, {_count(now['n_abstained'])} without a forecast of their own."


def _since(board: Board, unit: str) -> str:
    changes = board.changes.loc[unit]
    return (
        "In the 24 hours before the forecast, and since: "
        + ", ".join(f"{changes[name]} {words}" for name, words in _CHANGES.items())
        + "."
    )


def _fan(board: Board, unit: str, scored: pd.DataFrame) -> Plot:
    from rnn_core.reporting.plots import fan_plot

    as_of, first = board.run["as_of"], scored.iloc[0]
    past = board.past[unit]
    past_hours = (past.index - as_of) / pd.Timedelta(hours=1)
    hours = np.array([0, *scored["horizon_hours"]])
    quantiles = {q: np.array([first["n_present"], *scored[f"census_p{q:02d}"]]) for q in (5, 25, 50, 75, 95)}
    usable = _usable(first)
    limit = None if usable is None else (f"{usable} usable beds", usable)
    days = _days(as_of, ZoneInfo(board.run["timezone"]))
    svg = fan_plot((past_hours.to_numpy(), past.to_numpy()), quantiles, hours, days, limit)
    lines = "dotted line: time of the forecast" + ("" if limit is None else f", dashed line: {limit[0]}")
    return Plot(f"{_name(unit)}: patients in the past week, and forecast of the next seven days; {lines}", svg)


def _days(as_of: datetime, zone: ZoneInfo) -> tuple[list[float], list[str]]:
    """Midnights of the hospital's clock in hours from `as_of`, every second with its name."""
    today = as_of.astimezone(zone).replace(hour=0, tzinfo=None)
    midnights = [(today + timedelta(days=n)).replace(tzinfo=zone) for n in range(-PAST_DAYS, PAST_DAYS + 2)]
    hours = [(midnight.astimezone(as_of.tzinfo) - as_of).total_seconds() / 3600 for midnight in midnights]
    inside = [n for n, hour in enumerate(hours) if abs(hour) <= CENSUS_HORIZONS[-1]]
    return [hours[n] for n in inside], ["" if n % 2 else f"{midnights[n]:%a %-d}" for n in inside]


def _horizons(scored: pd.DataFrame, unit: str) -> Table:
    has_beds = scored["prob_full"].notna().all()
    columns = ["clock time", "hours ahead", "expected", "50 % range", "90 % range"]
    if has_beds:
        columns += ["full", "1 bed free", "2 beds free", "3 beds free"]
    rows = []
    for _, row in scored.iterrows():
        cells = [f"{row['local_time']:%a %-d %b %H:%M}", f"{row['horizon_hours']}", f"{row['expected_census']:.1f}"]
        cells += [_range(row["census_p25"], row["census_p75"]), _range(row["census_p05"], row["census_p95"])]
        if has_beds:
            cells += [_percent(row[name]) for name in ("prob_full", "prob_free_1", "prob_free_2", "prob_free_3")]
        rows.append(cells)
    beds = ", and probabilities of being full and of at least 1, 2 and 3 free beds" if has_beds else ""
    return Table(f"{_name(unit)}: expected patients with ranges{beds}", columns, rows)


def _planned(planned: pd.DataFrame, unit: str) -> Table:
    rows = []
    for day, of_day in planned.groupby("day"):
        cells = {row["kind"]: f"{row['n']} ({row['expected']:.1f})" for _, row in of_day.iterrows()}
        rows.append([f"{day:%a %-d %b}", *(cells.get(kind, "0") for kind in _PLANNED)])
    words = f"{_name(unit)}: plans of the next seven days; in brackets the expected number"
    return Table(words, ["day", *_PLANNED.values()], rows)


def _patients(patients: pd.DataFrame, unit: str) -> Table:
    columns = ["stay", "patient", "days in", "risk of death", "band", "since last run", "leaves within 24 h"]
    columns += ["median hours left", "no forecast because"]
    rows = [
        [
            row["stay_id"],
            _text(row["patient_id"]),
            f"{row['hours_in_stay'] / 24:.1f}",
            _percent(row["mortality_risk"]),
            _text(row["risk_band"]),
            "" if pd.isna(row["risk_change"]) else f"{100 * row['risk_change']:+.0f}",
            _percent(row["discharge_24h_prob"]),
            "" if pd.isna(row["remaining_los_p50_hours"]) else f"{row['remaining_los_p50_hours']:.0f}",
            _text(row["status_reason"]).replace("_", " "),
        ]
        for _, row in patients.iterrows()
    ]
    return Table(f"{_name(unit)}: patients, highest risk first; risks and their change in percent", columns, rows)


def _changed(board: Board) -> Section:
    zone = ZoneInfo(board.run["timezone"])
    columns = ["stay", "patient", "unit", "change", "at", "risk before", "risk now"]
    assert board.changed is not None
    rows = [
        [
            row["stay_id"],
            _text(row["patient_id"]),
            _text(row["unit"]),
            _CHANGES[row["change"]],
            _clock(row["at"], zone),
            _percent(row["risk_before"]),
            _percent(row["risk_now"]),
        ]
        for _, row in board.changed.iterrows()
    ]
    return Section(
        "Since yesterday", [], [Table("Patients who came, left or died, or whose risk moved", columns, rows)]
    )


def _usable(row: pd.Series) -> int | None:
    beds = row["beds"] if pd.isna(row["staffed_beds"]) else row["staffed_beds"]
    return None if pd.isna(beds) else int(beds)


def _name(unit: str) -> str:
    return "Hospital" if unit == HOSPITAL else unit


def _text(value: Any) -> str:
    return "" if pd.isna(value) else str(value)


def _count(value: Any) -> str:
    return "" if pd.isna(value) else f"{int(value)}"


def _range(low: float, high: float) -> str:
    return f"{low:.0f} to {high:.0f}" if low < high else f"{low:.0f}"


def _percent(share: Any) -> str:
    """A probability as people read it: what is not certain is neither 0 nor 100 percent.

    >>> _percent(0.996), _percent(0.0004), _percent(0.25), _percent(None)
    ('> 99 %', '< 1 %', '25 %', '')
    """
    if pd.isna(share):
        return ""
    return "< 1 %" if share < 0.005 else "> 99 %" if share > 0.995 else f"{100 * share:.0f} %"


def _hours(hours: float) -> str:
    if hours < 48:
        return f"{hours:.0f} h" if hours >= 1 else f"{60 * hours:.0f} min" if hours >= 1 / 60 else "less than 1 min"
    return f"{hours / 24:,.0f} days"


def _clock(time: datetime, zone: ZoneInfo, *, year: bool = False) -> str:
    return f"{time.astimezone(zone):%a %-d %b{' %Y' if year else ''} %H:%M}"
