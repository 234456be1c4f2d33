"""The questions of docs/questions.md, asked of two hand-made weeks of an ICU; the page shows what the database answers."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import builders_sql as b
import numpy as np
import pandas as pd
import pytest
from sqlalchemy import text, update

from sql.published import results
from sql.store.schema import batch

PAGE = (Path(__file__).parents[1] / "docs" / "questions.md").read_text(encoding="utf-8")
QUESTIONS = dict(
    (heading, (sql, answer))
    for heading, sql, answer in re.findall(r"^## (.+?)\n.*?```sql\n(.+?)```\n\n((?:\|[^\n]*\n)+)", PAGE, re.M | re.S)
)
NOW = datetime(2026, 2, 12, 19, tzinfo=UTC)
HORIZONS = (4, 8, 12, 24, 36, 48, 72, 96, 120, 168)
BEDS = {"ICU1": (6, 5), "ICU2": (4, None)}


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
    for name in ("05", "10", "25", "50", "75", "90", "95"):
        row[f"census_p{name}"] = int(np.searchsorted(np.cumsum(counts), int(name) / 100 - 1e-12))
    row |= {"expected_arrivals": leave, "expected_discharges": 0.9 * leave, "expected_deaths": 0.1 * leave}
    if usable is not None:
        row["prob_full"] = min(1.0, counts[usable:].sum())
        row |= {f"prob_free_{k}": min(1.0, counts[: usable - k + 1].sum()) for k in (1, 2, 3)}
    return row


def stays() -> list[dict]:
    """Twelve that ended before, and nine that are in or have just left."""
    rows = []
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
        b.add_model(engine, "icu-stay-1")
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
