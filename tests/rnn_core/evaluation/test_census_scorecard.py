"""The scorecard of censuses on a hospital whose law is known: right forecasts are found right, others are found out."""

import numpy as np
import pandas as pd
import pytest

from flows.pages.census_evaluation import census_section
from rnn_core.census.counts import negative_binomial, poisson_binomial
from rnn_core.contracts.census import PublishedCensus
from rnn_core.evaluation import census_scorecard
from rnn_core.evaluation.census_scorecard import count_present, judge_published_census, score_census

START, DAYS, JUDGED, EVERY = np.datetime64("2031-01-06", "us"), 260, 150, 12
HOUR = np.timedelta64(1, "h")
PER_HOUR, MEAN_HOURS, BEDS = 0.45, 20.0, 11
HORIZONS = (24, 72)


def some_stays() -> pd.DataFrame:
    """Poisson arrivals in unit A, exponential stays; a second unit and a stay without one count in the hospital only."""
    random = np.random.default_rng(5)
    n = random.poisson(PER_HOUR * DAYS * 24)
    begin = np.sort(random.random(n)) * DAYS * 24
    end = begin + random.exponential(MEAN_HOURS, n)
    times = [START + (hours * 3.6e9).astype("timedelta64[us]") for hours in (begin, end)]
    ended = times[1] <= START + DAYS * 24 * HOUR
    stays = pd.DataFrame({"unit": "A", "intime": times[0], "outtime": pd.Series(times[1]).where(ended)})
    stays["outcome"] = np.where(ended, "alive", None)
    others = pd.DataFrame({"unit": ["B", None, "A"], "intime": START + 30 * 24 * HOUR, "outtime": pd.NaT})
    # Nobody knows when the last one ended.
    return pd.concat([stays, others.assign(outcome=[None, None, "died"])], ignore_index=True)


STAYS = some_stays()


def law(n_now: np.ndarray, horizon: int, shift: int = 0) -> list[np.ndarray]:
    stay = np.exp(-horizon / MEAN_HOURS)
    in_still = poisson_binomial(np.where(np.arange(n_now.max()) < n_now[:, None], stay, 0.0))
    come = negative_binomial(np.full(len(n_now), PER_HOUR * MEAN_HOURS * (1 - stay)), np.inf)
    return [np.concatenate([np.zeros(shift), row]) for row in in_still.convolve(come).probabilities]


def published(shift: int = 0, unit: str = "A", model: str = "m", since=START) -> PublishedCensus:
    slots = np.arange((DAYS - JUDGED) * 24, (DAYS - 3) * 24 + 1, EVERY)
    now = count_present(STAYS, "A", START, DAYS * 24 + 1)[slots]
    parts = [
        pd.DataFrame({"prediction_time": START + slots * HOUR, "horizon_hours": h}).assign(
            census_probabilities=law(now, h, shift), curves_probabilities=law(now, h, 2)
        )
        for h in HORIZONS
    ]
    forecasts = pd.concat(parts, ignore_index=True).assign(model_id=model, unit=unit, usable_beds=float(BEDS))
    return PublishedCensus(forecasts, STAYS, since)


@pytest.fixture(scope="module")
def judged():
    right, late = published(), published(shift=3, model="shifted")
    hospital = published(unit="*")
    forecasts = [right.forecasts, late.forecasts, hospital.forecasts.assign(usable_beds=np.nan)]
    both = pd.concat(forecasts, ignore_index=True)
    return judge_published_census(PublishedCensus(both, STAYS, START))


@pytest.fixture(scope="module")
def scores(judged):
    return score_census(judged)


@pytest.fixture(scope="module")
def card(scores):
    return pd.DataFrame(scores).set_index(["model_id", "unit", "month", "metric"]).sort_index()


def test_a_census_drawn_from_its_forecast_is_found_right(judged, card):
    right = judged[(judged["model_id"] == "m") & (judged["unit"] == "A")]
    tenths = np.histogram(right["pit"], np.linspace(0, 1, 11))[0] / len(right)
    assert np.abs(tenths - 0.1).max() < 0.05 and right["pit"].mean() == pytest.approx(0.5, abs=0.05)
    of = card.loc[("m", "A", "all")]
    for h in HORIZONS:
        bias, expected, actual = of.loc[f"census_{h}h_bias"], right["prob_full"].mean(), right["was_full"].mean()
        assert bias["low"] < 0 < bias["high"] and expected == pytest.approx(actual, abs=0.1)
        for level in (50, 80, 90):
            wide, exact = (of.loc[f"census_{h}h_{name}{level}"] for name in ("coverage_", "pit_coverage_"))
            assert exact["low"] <= level / 100 <= exact["high"] and wide["value"] > exact["value"]
        crps, full = of.loc[f"census_{h}h_crps"], of.loc[f"census_{h}h_brier_full"]
        simple = [
            of.loc[f"census_{h}h_crps_{name}", "value"]
            for name in ("persistence", "moving_average", "last_week", "curves")
        ]
        assert crps["value"] < min(simple) == crps["baseline"] and crps["low"] < crps["value"]
        assert crps["high"] < of.loc[f"census_{h}h_crps_persistence", "low"]
        # The curves of this hospital say two patients too many.
        curves = of.loc[f"census_{h}h_mae_curves"]
        assert simple[-1] > 1.05 * crps["value"] and curves["value"] > of.loc[f"census_{h}h_mae", "value"]
        assert full["value"] < full["baseline"]
        assert of.loc[f"census_{h}h_skill_full", "value"] == pytest.approx(1 - full["value"] / full["baseline"])


def test_a_forecast_of_three_patients_too_many_is_found_out(card):
    for h in HORIZONS:
        off, right = (card.loc[(model, "A", "all")] for model in ("shifted", "m"))
        bias, coverage = off.loc[f"census_{h}h_bias"], off.loc[f"census_{h}h_pit_coverage_80"]
        assert bias["low"] > 2 and bias["value"] == pytest.approx(right.loc[f"census_{h}h_bias", "value"] + 3)
        assert coverage["high"] < 0.8 and off.loc[f"census_{h}h_skill_full", "value"] < 0
        assert off.loc[f"census_{h}h_crps", "value"] > 1.3 * right.loc[f"census_{h}h_crps", "value"]


def test_units_months_and_the_hospital_are_groups_of_their_own(judged, card):
    groups = set(card.loc["m"].index.droplevel("metric"))
    months = sorted({str(m) for m in (START + np.arange(110, 257) * np.timedelta64(1, "D")).astype("datetime64[M]")})
    assert groups == {("all", "all"), ("A", "all"), ("*", "all"), *(("all", month) for month in months)}
    n = (DAYS - 3 - (DAYS - JUDGED)) * 24 // EVERY + 1
    assert card.loc[("m", "all", "all", "census_24h_crps"), "n"] == n
    # Of two more patients nothing was said; what is about beds is not known of the hospital.
    hospital = card.loc[("m", "*", "all")]
    bias = card.loc[("m", "A", "all", "census_24h_bias"), "value"] - 2
    assert hospital.loc["census_24h_bias", "value"] == pytest.approx(bias)
    assert not [name for name in hospital.index if "full" in name]
    assert judged["census"].dtype.kind == "i" and len(judged) == 3 * 2 * n


def test_simple_answers_say_what_had_been_seen_and_the_census_is_counted_one_by_one(judged):
    rows = judged[(judged["unit"] == "A") & (judged["horizon_hours"] == 72) & (judged["model_id"] == "m")]
    stays = STAYS[STAYS["unit"].eq("A") & ~(STAYS["outtime"].isna() & STAYS["outcome"].notna())]

    begin, end = (stays[name].to_numpy("datetime64[us]") for name in ("intime", "outtime"))

    def present(times) -> np.ndarray:
        times = np.atleast_1d(times)[:, None]
        return ((begin <= times) & ~(end <= times)).sum(axis=1)

    for _, row in rows.iloc[::60].iterrows():
        now = np.datetime64(row["prediction_time"], "us")
        assert row["census"] == present(now + 72 * HOUR)
        week = present(now - np.arange(168) * HOUR)
        said = {"persistence": week[0], "moving_average": np.mean(week), "last_week": week[96]}
        for name, number in said.items():
            assert row[f"mae_{name}"] == pytest.approx(abs(number - row["census"])), name
        before = present(now - np.arange(90 * 24) * HOUR) >= BEDS
        assert row["brier_before"] == pytest.approx((np.mean(before) - row["was_full"]) ** 2)


def test_without_enough_history_there_is_a_score_and_no_simple_answer(monkeypatch):
    monkeypatch.setattr(census_scorecard, "_RESAMPLES", 2)
    late = START + (DAYS - JUDGED + 100) * 24 * HOUR
    short = published(since=late)
    recent = short.forecasts[short.forecasts["prediction_time"] >= late].assign(curves_probabilities=None)
    judged = judge_published_census(PublishedCensus(recent, STAYS, late))
    day = ((judged["prediction_time"] - pd.Timestamp(late)) / pd.Timedelta(days=1)).to_numpy()
    # A week to look back, and seven errors that had been seen.
    first = judged["horizon_hours"].to_numpy() / 24 + 7 + 6
    known = judged["crps_last_week"].notna().to_numpy()
    assert known[day > first + 1].all() and not known[day < first].any() and judged["crps"].notna().all()
    card = pd.DataFrame(score_census(judged)).set_index(["unit", "metric"])
    rows = card.loc["A"]
    assert rows.loc["census_24h_crps_last_week", "n"] < rows.loc["census_24h_crps", "n"]
    assert np.isnan(rows.loc["census_24h_crps", "baseline"]) and "census_24h_crps_curves" not in rows.index


def test_the_page_has_a_table_by_horizon_the_pit_and_the_reliability_of_full(judged, scores):
    section = census_section(judged[judged["model_id"] == "m"], [row for row in scores if row["model_id"] == "m"])
    assert [len(table.rows) for table in section.tables] == [2, 2, 2, 2]
    errors, calibration = section.tables[:2]
    assert errors.columns[2:7] == ["CRPS", "as now", "mean of 7 days", "a week ago", "unit's curve"]
    assert "-" not in errors.rows[0]
    assert "Brier score of full" in calibration.columns and "Brier score of full" not in section.tables[3].columns
    assert len(section.plots) == 3 and not any("no data" in plot.svg for plot in section.plots)
    nothing = judge_published_census(PublishedCensus(published().forecasts.head(0), STAYS, START))
    assert score_census(nothing) == [] and not census_section(nothing, []).tables
