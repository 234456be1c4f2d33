"""The questions of docs/questions.md, asked of two hand-made weeks of an ICU; the page shows what the database answers.

So does the board.
"""

import http.client
import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import builders_sql as b
import numpy as np
import pandas as pd
import pytest
from sqlalchemy import insert, text, update
from typer.testing import CliRunner

from flows.cli import app
from flows.pages import board_server
from flows.pages.board import REASONS, render_board, write_board
from rnn_core.census import census as of_units
from rnn_core.contracts.errors import DataTooSmallError, ForecastError
from rnn_core.evaluation.census_scorecard import judge_published_census, score_census
from sql.published import results, runs, trials
from sql.published.census_outcomes import read_published_census
from sql.store.schema import batch, model, planned

PAGE = (Path(__file__).parents[1] / "docs" / "questions.md").read_text(encoding="utf-8")
QUESTIONS = dict(
    (heading, (sql, answer))
    for heading, sql, answer in re.findall(r"^## (.+?)\n.*?```sql\n(.+?)```\n\n((?:\|[^\n]*\n)+)", PAGE, re.M | re.S)
)
NOW = datetime(2026, 2, 12, 19, tzinfo=UTC)
HORIZONS = (4, 8, 12, 24, 36, 48, 72, 96, 120, 168)
BEDS = {"ICU1": (6, 5), "ICU2": (4, None)}
# Kind, unit, hours ahead, probability, stay, status; the first is before midnight in UTC and after it in Zurich.
PLANS = (
    ("admission", "ICU1", 4.5, 0.8, None, "planned"),
    ("admission", "ICU1", 16, 0.5, None, "planned"),
    ("transfer", "ICU2", 20, 0.9, "c1", "planned"),
    ("transfer", "ICU2", 40, 0.6, "c4", "planned"),
    ("discharge", "ICU1", 40, 0.7, "c2", "planned"),
    ("discharge", "ICU1", 40, 0.7, "c6", "planned"),
    ("admission", "ICU2", 40, 0.7, None, "cancelled"),
    ("admission", "ICU2", 169, 0.7, None, "planned"),
    ("admission", "ICU2", -2, 0.7, None, "planned"),
)


def hours(n: float) -> timedelta:
    return timedelta(hours=n)


def binomial(n: int, p: float) -> np.ndarray:
    counts = np.array([1.0])
    for _ in range(n):
        counts = np.convolve(counts, [1 - p, p])
    return counts


def census(present: dict[str, int]) -> pd.DataFrame:
    """Each patient is still there after h hours with probability exp(-h / 100), and as many come as leave."""
    rows, whole = [], {h: np.array([1.0]) for h in HORIZONS}
    for unit, n in present.items():
        beds, staffed = BEDS[unit]
        for h in HORIZONS:
            stays = np.exp(-h / 100)
            counts = np.convolve(binomial(n, stays), binomial(8, n / 8 * (1 - stays)))
            whole[h] = np.convolve(whole[h], counts)
            rows.append(numbers(unit, h, n, counts, staffed or beds) | {"beds": beds, "staffed_beds": staffed})
    rows += [numbers("*", h, sum(present.values()), counts, None) for h, counts in whole.items()]
    return pd.DataFrame(rows, columns=list(results.UNIT_FORECAST_COLUMNS))


def numbers(unit: str, horizon: int, n: int, counts: np.ndarray, usable: int | None) -> dict:
    leave = n * (1 - np.exp(-horizon / 100))
    row = {"unit": unit, "horizon_hours": horizon, "status": "scored", "n_present": n}
    row |= {"expected_census": counts @ np.arange(len(counts)), "census_probabilities": counts.tolist()}
    row["curves_probabilities"] = None
    for name in ("05", "10", "25", "50", "75", "90", "95"):
        row[f"census_p{name}"] = int(np.searchsorted(np.cumsum(counts), int(name) / 100 - 1e-12))
    row |= {"expected_arrivals": leave, "expected_discharges": 0.9 * leave, "expected_deaths": 0.1 * leave}
    if usable is not None:
        row["prob_full"] = min(1.0, counts[usable:].sum())
        row |= {f"prob_free_{k}": min(1.0, counts[: usable - k + 1].sum()) for k in (1, 2, 3)}
    return row


def stays() -> list[dict]:
    """Some of the month before, twelve that ended since, and nine that are in or have just left."""
    rows = []
    for n in range(16):
        begin = NOW - hours(24 * 40 - 36 * n)
        end = begin + hours(20 + 11 * (n % 7))
        rows.append({"stay_id": f"a{n}", "unit": ("ICU1", "ICU2")[n % 3 == 0], "intime": begin, "outtime": end})
        rows[-1]["outcome"] = "alive"
    for n in range(12):
        begin = NOW - hours(24 * 14 - 19 * n)
        end = begin + hours(30 + 23 * (n % 5))
        rows.append({"stay_id": f"b{n}", "unit": ("ICU1", "ICU2")[n % 3 == 0], "intime": begin, "outtime": end})
        rows[-1]["outcome"] = "died" if n % 6 == 5 else "alive"
    now = [("c1", "ICU1", 70), ("c2", "ICU1", 52), ("c3", "ICU1", 31), ("c4", "ICU2", 90), ("c5", "ICU2", 9)]
    now += [("c8", "ICU1", 14), ("c9", "ICU2", 28)]
    rows += [{"stay_id": stay, "unit": unit, "intime": NOW - hours(h)} for stay, unit, h in now]
    rows.append({"stay_id": "c6", "unit": "ICU1", "intime": NOW - hours(60), "outtime": NOW - hours(5)})
    rows.append({"stay_id": "c7", "unit": "ICU2", "intime": NOW - hours(40), "outtime": NOW - hours(11)})
    rows[-2]["outcome"], rows[-1]["outcome"] = "alive", "died"
    return rows


@pytest.fixture(scope="module")
def icu(make_database, migrated_template):
    """A source with a forecast every eighth hour, each of its time."""
    with b.migrated(make_database("questions", migrated_template)) as engine:
        made, first = stays(), b.add_batch(engine, as_of=NOW, ingested_at=NOW)
        with engine.begin() as connection:
            connection.execute(update(batch).values(watermark=NOW, timezone="Europe/Zurich"))
        for row in made:
            known = {"batch_id": first, "available_at": row["intime"]}
            b.add_stay(engine, **{k: v for k, v in row.items() if k not in ("outtime", "outcome")} | known)
            if "outtime" in row:
                b.end_stay(engine, **row | {"batch_id": first})
        for number, (kind, unit, ahead, probability, stay, status) in enumerate(PLANS):
            row = {"planned_id": f"plan{number}", "kind": kind, "unit": unit, "probability": probability}
            row |= {"source": b.SOURCE, "stay_id": stay, "status": status, "batch_id": first}
            times = {"expected_at": NOW + hours(ahead), "available_at": NOW - hours(30)}
            with engine.begin() as connection:
                connection.execute(insert(planned).values(row | times))
        b.add_model(engine, "icu-stay-1")
        with engine.begin() as connection:
            connection.execute(update(model).values(data_cutoff=NOW - hours(24 * 14)))
        for slot in (NOW - hours(h) for h in range(24 * 13, -1, -8)):
            present = [r for r in made if r["intime"] <= slot and not r.get("outtime", NOW + hours(1)) <= slot]
            stayed = {r["stay_id"]: (slot - r["intime"]) / hours(1) for r in present}
            risks = {stay: round(0.05 + (h + 13 * len(stay)) % 40 / 100, 2) for stay, h in stayed.items()}
            run = {"as_of": slot, "model_id": "icu-stay-1"}
            in_unit = {unit: sum(r["unit"] == unit for r in present) for unit in BEDS}
            b.add_forecasts(engine, risks, census=census(in_unit), **run)
            # A median of half an hour to two days, as if the longest were to leave first.
            p50 = {stay: 2.0 + 40 * (1 - h / 100) ** 2 for stay, h in stayed.items()}
            change = text(
                "update forecast.stay_forecast set remaining_los_p10_hours = :p50 / 3, remaining_los_p50_hours = :p50,"
                " remaining_los_p90_hours = :p50 * 5 where stay_id = :stay and prediction_time = :slot"
            )
            with engine.begin() as connection:
                for stay, hours_left in p50.items():
                    connection.execute(change, {"p50": hours_left, "stay": stay, "slot": slot})
        scores = score_census(judge_published_census(read_published_census(engine, b.SOURCE, NOW)))
        run_id = runs.start_run(engine, b.SOURCE, "evaluate", NOW)
        with runs.finishing(engine, run_id) as (connection, _):
            results.write_scores(connection, run_id, [{**row, "source": b.SOURCE} for row in scores])
        yield engine


def table(rows: list[dict]) -> str:
    """As the page shows it; an empty answer has no columns to show."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_shown(v) for v in row.values()] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _shown(value) -> str:
    return "" if value is None else f"{value:%Y-%m-%d %H:%M}" if isinstance(value, datetime) else str(value)


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_page_shows_what_the_database_answers(icu, question):
    sql, answer = QUESTIONS[question]
    found = table(b.rows(icu, sql.replace(":", r"\:").rstrip().rstrip(";")))
    assert answer == found, f"put this into docs/questions.md:\n{found}"


def test_every_question_of_the_page_has_a_query_and_an_answer():
    assert list(QUESTIONS) == re.findall(r"^## (.+)$", PAGE, re.M) and len(QUESTIONS) == PAGE.count("```sql")


def test_every_relation_that_a_question_reads_is_in_the_data_dictionary():
    dictionary = (Path(__file__).parents[1] / "docs" / "data-dictionary.md").read_text(encoding="utf-8")
    named = {relation for sql, _ in QUESTIONS.values() for relation in re.findall(r"forecast\.\w+", sql)}
    assert len(named) >= 7 and [r for r in sorted(named) if f"### `{r}`" not in dictionary] == []


# ------------------------------------------------------------------------------------------------ the board


def sections(page: str) -> dict[str, str]:
    return dict(re.findall(r"<section id=\"s\d+\">\s*<h2>(.+?)</h2>(.+?)</section>", page, re.DOTALL))


def cells(section: str, caption: str) -> list[list[str]]:
    """Rows of the table whose caption has these words, with its head."""
    (found,) = (t for t in re.findall(r"<table>.+?</table>", section, re.DOTALL) if caption in t.split("</caption>")[0])
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>.*?</tr>", found, re.DOTALL)]


@pytest.fixture(scope="module")
def board(icu):
    return render_board(icu, b.SOURCE)


def test_the_board_shows_the_hospital_then_each_unit_with_a_chart_before_its_table(board):
    found = sections(board)
    assert list(found) == ["At a glance", "Hospital", *BEDS]
    for title in ("Hospital", *BEDS):
        assert 0 < found[title].index("<svg") < found[title].index("<table>")
    assert "5 usable beds" in found["ICU1"] and "4 usable beds" in found["ICU2"]
    assert "beds free" not in found["Hospital"] and "number of its beds is not known" in found["Hospital"]
    assert [row[0] for row in cells(found["At a glance"], "Units now")] == ["unit", "Hospital", *BEDS]


@pytest.mark.parametrize("unit", ["*", *BEDS])
def test_the_numbers_of_each_horizon_are_those_of_the_view(icu, board, unit):
    query = "select * from forecast.unit_outlook where unit = :unit order by horizon_hours"
    view, found = b.rows(icu, query, unit=unit), sections(board)["Hospital" if unit == "*" else unit]
    head, *rows = cells(found, "expected patients")
    assert [row[1] for row in rows] == [str(h) for h in HORIZONS] == [str(row["horizon_hours"]) for row in view]
    for row, of_view in zip(rows, view, strict=True):
        assert row[0] == f"{of_view['local_time']:%a %-d %b %H:%M}" and row[2] == f"{of_view['expected_census']:.1f}"
        for cell, (low, high) in zip(row[3:5], (("p25", "p75"), ("p05", "p95")), strict=True):
            ends = [of_view[f"census_{low}"], of_view[f"census_{high}"]]
            assert [int(n) for n in cell.split(" to ")] in (ends, ends[:1])
        chances = [of_view[name] for name in ("prob_full", "prob_free_1", "prob_free_2", "prob_free_3")]
        if unit == "*":
            assert chances == [None] * 4 and len(row) == len(head) == 5
        else:
            assert [float(re.sub("&[lg]t;|%", "", cell)) / 100 for cell in row[5:]] == pytest.approx(
                chances, abs=0.0101
            )


def test_the_past_of_the_board_ends_with_the_patients_that_the_forecast_begins_with(icu, board):
    from sql.published.board import read_board

    past = read_board(icu, b.SOURCE).past
    assert len(past) == 7 * 24 + 1 and past.index[-1] == NOW
    assert past.iloc[-1].to_dict() == {"*": 7, "ICU1": 4, "ICU2": 3}
    counted = (
        "select unit, count(*) as n from icu.stay where intime <= :at and (outtime > :at or outtime is null) group by 1"
    )
    at = NOW - hours(50)
    there = {row["unit"]: row["n"] for row in b.rows(icu, counted, at=at)}
    assert past.loc[at].to_dict() == {"*": sum(there.values()), **there}


def test_the_board_counts_what_changed_and_who_is_at_risk(icu, board):
    changed = b.rows(icu, "select unit, change, count(*) as n from forecast.changes group by 1, 2")
    assert {row["change"] for row in changed} >= {"admitted", "left", "died"}
    for row in changed:
        assert f"{row['n']} {row['change'].replace('_', ' ')}" in sections(board)[row["unit"]]
    bands = b.rows(icu, "select unit, risk_band, count(*) as n from forecast.current_risk group by 1, 2")
    for row in bands:
        assert f"{row['n']} {row['risk_band']}" in sections(board)[row["unit"]]
    assert "Likely to leave within 24 hours: 0 of 4." in sections(board)["ICU1"]


def test_the_board_counts_what_is_planned_by_day_and_how_many_of_it_are_expected(board):
    """Not what is over, cancelled, too far ahead, or of a stay that has ended; a transfer of who is in already is an end."""
    head = ["day", "admissions", "transfers in", "to leave"]
    friday, saturday = "Fri 13 Feb", "Sat 14 Feb"
    planned_of = {
        "Hospital": [[friday, "2 (1.3)", "1 (0.9)", "0"], [saturday, "0", "0", "2 (1.3)"]],
        "ICU1": [[friday, "2 (1.3)", "0", "0"], [saturday, "0", "0", "1 (0.7)"]],
        "ICU2": [[friday, "0", "1 (0.9)", "0"], [saturday, "0", "0", "1 (0.6)"]],
    }
    for title, rows in planned_of.items():
        assert cells(sections(board)[title], "plans of the next seven days") == [head, *rows]


def test_the_board_names_patients_only_where_they_are_requested(icu, board):
    named = [row["stay_id"] for row in b.rows(icu, "select stay_id from forecast.current_risk")]
    named += [row["stay_id"] for row in b.rows(icu, "select stay_id from forecast.changes")]
    everybody = [*named, *(f"p-{stay}" for stay in named)]
    text_of = re.sub(r"<svg.+?</svg>", "", board, flags=re.DOTALL)
    assert len(set(named)) == 9 and not [name for name in everybody if re.search(rf"\b{name}\b", text_of)]
    with_patients = render_board(icu, b.SOURCE, patients=True)
    assert all(f">{name}<" in with_patients for name in everybody)
    assert "This page contains patient data." in with_patients and "patient data" not in board
    # Not among the reports, which anybody may get.
    assert CliRunner().invoke(app, ["board", "clif", "--patients"]).exit_code == 2


def test_the_board_is_one_file_that_is_read_without_sight_on_paper_and_in_the_dark(board, icu, tmp_path):
    assert write_board(icu, b.SOURCE, tmp_path / "board.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert not re.findall(r"(?<!xmlns=\")(?<!xlink=\")https?://|src=|@import|<link|<script", board)
    assert '<html lang="en">' in board and "prefers-color-scheme: dark" in board and "size: A4" in board
    assert len(re.findall(r"<figure><div role=\"img\" aria-label=\"[^\"]{20,}\"", board)) == board.count("<svg") == 3
    assert board.count("<caption>") == board.count("<table>") and "var(--ink" in board


def serves_each_run_once(icu) -> None:
    """On this machine, under its own name, and again when a newer run is published."""
    with board_server.BoardServer(icu, "other", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"127.0.0.1:{server.server_port}"

        def get(path: str = "/", host: str = at) -> tuple[int, str]:
            connection = http.client.HTTPConnection(at, timeout=30)
            connection.request("GET", path, headers={"Host": host})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

        assert server.server_address[0] == "127.0.0.1"
        assert get("/other")[0] == 404 and get(host="rebound.example")[0] == 403
        status, first = get()
        assert status == 200 and "Beds of other" in first and get()[1] == first
        run = b.add_forecasts(icu, {}, model_id="other-stay-1", as_of=NOW + hours(2), source="other")
        assert f"Run {run} of" in get()[1] and f"Run {run} of" not in first
        server.shutdown()


def test_the_board_says_that_a_model_is_provisional_that_a_forecast_is_old_and_why_a_unit_has_none(icu):
    assert set(REASONS) == {of_units.STALE, of_units.TOO_LITTLE_HISTORY, of_units.ENDS_WITH_HOSPITAL}
    with pytest.raises(DataTooSmallError, match="icu-forecast forecast other"):
        render_board(icu, "other")
    b.add_unit(icu, "A", 3, source="other")
    b.add_model(icu, "other-stay-1", stage="provisional", source="other")
    census = b.census({"A": None, "B & C": 3, "*": None}, HORIZONS)
    census.loc[census["unit"] == "B & C", "prob_full"] = 0.999
    b.add_forecasts(icu, {}, model_id="other-stay-1", census=census, as_of=NOW, source="other")
    page = render_board(icu, "other")
    found = sections(page)
    assert list(found) == ["At a glance", "Hospital", "A", "B &amp; C"]
    assert REASONS["stale"] in found["A"] and "<svg" not in found["A"] and "of at least one unit" in found["Hospital"]
    assert "<svg" in found["B &amp; C"] and cells(found["B &amp; C"], "expected patients")[1][2:6] == [
        "3.0",
        "3",
        "3",
        "&gt; 99 %",
    ]
    assert cells(found["At a glance"], "Units now")[2][2:4] == ["", "no forecast"]
    assert "Provisional:" in page and "Old forecast:" in page
    b.add_forecasts(icu, {}, model_id="other-stay-1", as_of=NOW + hours(1), source="other")
    assert "No forecast: the run was published without a census" in render_board(icu, "other")
    serves_each_run_once(icu)
    trials.start_trial(icu, "other", 7, NOW)
    with pytest.raises(ForecastError, match="trial report other"):
        render_board(icu, "other")
