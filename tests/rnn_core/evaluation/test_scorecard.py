import numpy as np
import pandas as pd
import pytest
from builders import ended_pairs

from rnn_core.contracts.thresholds import LANDMARK_HOURS
from rnn_core.evaluation.scorecard import DIMENSIONS, score_published
from rnn_core.statistics.calibration_metrics import brier
from rnn_core.statistics.discrimination import concordance
from rnn_core.statistics.distribution import FORECAST_COLUMNS
from rnn_core.statistics.outcomes import Outcomes
from rnn_core.statistics.scores import score_columns

# Intervals are narrower or wider with more of them, which no test here is about.
pytestmark = pytest.mark.usefixtures("thrifty")


def cut(pairs: pd.DataFrame, hours: float | np.ndarray) -> pd.DataFrame:
    """The same forecasts as known so many hours after each: what had not ended by then is open."""
    is_open = (pairs["remaining_hours"] > hours).to_numpy()
    return pairs.assign(
        died=pairs["died"].where(~is_open, None),
        remaining_hours=pairs["remaining_hours"].where(~is_open),
        followed_hours=np.where(is_open, hours, np.nan),
    )


def scores(pairs: pd.DataFrame, model_id: str = "m1") -> pd.DataFrame:
    """The metrics of all rows of a model; without units and months there is nothing else to score."""
    card = pd.DataFrame(
        score_published(pairs[pairs["model_id"] == model_id].assign(unit=None, month=None, age_years=np.nan))
    )
    card = card[card["stay_hours"] == "all"]
    return card.set_index("metric")


def test_every_metric_is_given_once_per_model_and_per_group_of_each_dimension():
    pairs = ended_pairs()
    card = pd.DataFrame(score_published(pairs))
    groups = [{}, {"unit": "MICU"}, {"unit": "SICU"}, *({"month": f"2031-0{month}"} for month in (3, 4, 5))]
    groups += [{"age_group": name} for name in ("under 50", "65 to 79")]
    groups += [{"stay_hours": name} for name in ("0 to 24", "24 to 48", "48 to 96", "96 to 168")]
    groups = [tuple(group.get(name, "all") for name in DIMENSIONS) for group in groups]
    named = score_columns(pairs, Outcomes(*np.ones((3, len(pairs)))), n=0)
    expected = {(model, *group, metric) for model in ("m1", "m2") for group in groups for metric in named}
    expected |= {
        (model, "all", "all", "all", "all", f"at {hour:g}", metric)
        for model, hours in pairs.groupby("model_id")["hours_in_stay"]
        for hour in set(np.floor(hours)) & set(LANDMARK_HOURS)
        for metric in named
    }
    found = list(card[["model_id", *DIMENSIONS, "metric"]].itertuples(index=False, name=None))
    assert set(found) == expected and len(found) == len(expected)
    assert list(card.columns[7:]) == ["value", "low", "high", "n", "baseline"]


def test_a_group_is_scored_on_its_own_rows():
    pairs = ended_pairs()
    card = pd.DataFrame(score_published(pairs))
    card = card[(card[["age_group", "sex", "stay_hours"]] == "all").all(axis=1)]
    card = card.set_index(["model_id", "unit", "month", "metric"]).sort_index()
    for model_id, unit, month in (("m1", "all", "all"), ("m1", "SICU", "all"), ("m2", "all", "2031-04")):
        chosen = pairs["model_id"] == model_id
        chosen &= (pairs["unit"] == unit) | (unit == "all")
        mine = pairs[chosen & ((pairs["month"] == month) | (month == "all"))]
        row = card.loc[(model_id, unit, month, "mortality_brier")]
        assert row["value"] == pytest.approx(brier(mine["died"].astype(float), mine["mortality_risk"]))
        assert row["n"] == len(mine)
        assert row["low"] < row["value"] < row["high"]


def test_beside_each_metric_stands_that_of_a_forecast_that_says_the_same_for_all():
    pairs = ended_pairs()
    card, mine = scores(pairs), pairs[pairs["model_id"] == "m1"]
    prevalence = mine["died"].mean()
    assert card.loc["mortality_brier", "baseline"] == pytest.approx(prevalence * (1 - prevalence))
    assert card.loc["mortality_auroc", "baseline"] == 0.5
    assert card.loc["mortality_observed_expected", "baseline"] == pytest.approx(1)
    error = (mine["remaining_hours"] - mine["remaining_hours"].median()).abs() / 24
    assert card.loc["los_mae_days", "baseline"] == pytest.approx(error.mean())
    assert card.loc["los_interval_coverage", "baseline"] == pytest.approx(0.8, abs=0.02)
    # A constant has no slope.
    assert card.index[card["baseline"].isna()].tolist() == ["mortality_calibration_slope"]


def test_patients_are_resampled_whole():
    pairs = ended_pairs()
    apart = pairs.assign(patient_id=[f"p{i}" for i in range(len(pairs))])
    copies = pd.concat([apart] * 9, ignore_index=True)
    once, together = (scores(frame).loc["mortality_brier"] for frame in (apart, copies))
    assert together["high"] - together["low"] == pytest.approx(once["high"] - once["low"])


def test_open_stays_are_censored_where_they_were_last_known():
    pairs = ended_pairs()
    pairs = pairs[pairs["model_id"] == "m1"]
    length, is_open = pairs["remaining_hours"].to_numpy(), (pairs["remaining_hours"] > 30).to_numpy()
    card = scores(cut(pairs, 30.0))
    median = pairs["remaining_los_p50_hours"]
    assert card.loc["los_concordance", "value"] == pytest.approx(concordance(np.minimum(length, 30), ~is_open, median))
    assert card.loc["los_concordance", "n"] == len(pairs)
    # After 30 hours it is known of all who had left within 24, and of none whether within 48 but of those who had.
    assert card.loc["discharge_24h_brier", "value"] == scores(pairs).loc["discharge_24h_brier", "value"]
    assert card.loc["discharge_24h_brier", "n"] == len(pairs)
    elapsed = pairs["hours_in_stay"].to_numpy()
    assert card.loc["prolonged_brier", "n"] == (~is_open | (elapsed + 30 > 168)).sum()
    ended_only = ["discharge_48h_brier", "mortality_brier", "los_mae_days", "los_interval_coverage"]
    assert (card.loc[ended_only, "n"] == (~is_open).sum()).all()


def test_the_baseline_of_the_remaining_stay_is_not_shortened_by_open_stays():
    """The width of its interval from the 10th to the 90th percentile, of exponential stays with a mean of 80 hours."""
    pairs = ended_pairs(4000).assign(model_id="m1")
    censored = cut(pairs, np.random.default_rng(1).uniform(0, 400, len(pairs)))
    ended = censored[censored["remaining_hours"].notna()]
    truth = 80 * np.log(9) / 24
    width = {
        name: scores(frame).loc["los_interval_width_days", "baseline"]
        for name, frame in (("all", pairs), ("censored", censored), ("ended", ended))
    }
    assert width["all"] == pytest.approx(truth, rel=0.05)
    assert width["censored"] == pytest.approx(truth, rel=0.08)
    assert width["ended"] < 0.85 * truth


@pytest.mark.parametrize("n", [30, 40, 60, 70])
def test_a_baseline_quantile_of_ended_stays_is_the_end_that_completes_it(n):
    pairs = ended_pairs(n).assign(model_id="m1", remaining_hours=np.arange(1.0, n + 1))
    assert scores(pairs).loc["los_interval_width_days", "baseline"] == pytest.approx(0.8 * n / 24)


def test_a_baseline_quantile_beyond_the_follow_up_is_its_end():
    pairs = ended_pairs(400).assign(model_id="m1")
    card = scores(cut(pairs, 60.0))
    tenth = np.sort(pairs["remaining_hours"])[39]
    assert card.loc["los_interval_width_days", "baseline"] == pytest.approx((60 - tenth) / 24)


def test_ended_stays_score_the_same_with_and_without_the_column_of_open_ones():
    pairs = ended_pairs()
    empty, untyped = np.nan, pd.Series([None] * len(pairs), dtype=object, index=pairs.index)
    without = scores(pairs)
    pd.testing.assert_frame_equal(scores(pairs.assign(followed_hours=empty)), without)
    pd.testing.assert_frame_equal(scores(pairs.assign(followed_hours=untyped)), without)


def test_open_stays_alone_have_neither_errors_nor_a_baseline():
    card = scores(cut(ended_pairs(40).assign(model_id="m1"), 0.0))
    assert card.loc["los_mae_days", "n"] == 0
    assert card.loc["los_concordance", "n"] == 40
    assert card["baseline"].isna().all()
    # The width of an interval needs no end, and of nothing followed the quantile score is 0.
    assert set(card.index[card["value"].notna()]) == {"los_interval_width_days", "los_quantile_score_days"}


def test_an_end_charted_before_the_forecast_counts_as_one_at_once():
    pairs = ended_pairs(40).assign(model_id="m1")
    pairs.loc[:9, "remaining_hours"] = -3.0
    card = scores(pairs)
    assert card.loc["discharge_24h_brier", "n"] == 40
    ninetieth = np.sort(pairs["remaining_hours"])[35]
    assert card.loc["los_interval_width_days", "baseline"] == pytest.approx(ninetieth / 24)


def test_a_day_that_holds_the_limit_leaves_a_discharge_unknown():
    pairs = ended_pairs().assign(end_precision_hours=24.0)
    mine = pairs[pairs["model_id"] == "m1"]["remaining_hours"]
    card = scores(pairs)
    assert card.loc["discharge_48h_brier", "n"] == ((mine <= 36) | (mine >= 60)).sum()
    assert card.loc["mortality_brier", "n"] == len(mine)


def test_one_death_gives_a_value_without_an_interval():
    pairs = ended_pairs(60).assign(model_id="m1", died=False)
    pairs.loc[7, ["died", "mortality_risk"]] = [True, 0.99]
    card = scores(pairs)
    assert card.loc["mortality_auroc", "value"] == 1
    assert card.loc["mortality_auroc", ["low", "high"]].isna().all()
    assert card.loc["los_mae_days", ["low", "high"]].notna().all()


def test_nothing_to_score_gives_no_rows():
    pairs = ended_pairs()
    assert set(FORECAST_COLUMNS) < set(pairs.columns)
    assert score_published(pairs.iloc[:0]) == []
