"""The forecast flow on the real CLIF demo: published whole, replayable, and defined where data are missing."""

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from sqlalchemy import text

from flows import forecast as forecast_module
from flows.backfill import backfill
from flows.evaluate import evaluate
from flows.forecast import forecast
from flows.ingest import ingest
from rnn_core.errors import ForecastError, QualityError, SourceError

AT = datetime(2026, 1, 19, tzinfo=UTC)
NUMBERS = (
    "select stay_id, status, status_reason, mortality_risk, prolonged_stay_risk, remaining_los_p10_hours,"
    " remaining_los_p50_hours, remaining_los_p90_hours, discharge_24h_prob, n_observations,"
    " hours_since_last_observation from forecast.stay_forecast where prediction_time = :at order by stay_id"
)


def read(engine, query: str, **bound) -> pd.DataFrame:
    with engine.connect() as connection:
        return pd.read_sql_query(text(query), connection, params=bound)


def test_every_open_stay_is_scored_or_abstained_with_a_reason(trained):
    counts = forecast.fn("clif", AT)
    published = read(trained, NUMBERS, at=AT)
    still_open = read(trained, "select count(*) as n from icu.stay_at(:at) where outtime is null", at=AT)["n"][0]
    assert len(published) == still_open == counts["stays_scored"] + counts["stays_abstained"] > 15
    scored = published["status"] == "scored"
    assert scored.any() and published.loc[~scored, "status_reason"].notna().all()
    assert published.loc[scored, "mortality_risk"].between(0, 1).all()


def test_current_risk_shows_the_run_with_its_age_and_that_the_model_is_provisional(trained):
    forecast.fn("clif", AT)
    current = read(trained, "select * from forecast.current_risk")
    assert len(current) > 15 and current["provisional"].all()
    risks = current["mortality_risk"].dropna().to_list()
    assert risks == sorted(risks, reverse=True)
    assert (current["forecast_age_hours"] > 0).all() and (current["data_age_hours"] >= 0).all()


def test_publishing_the_same_slot_again_leaves_the_same_rows(trained):
    forecast.fn("clif", AT)
    before = read(trained, NUMBERS, at=AT)
    forecast.fn("clif", AT)
    pd.testing.assert_frame_equal(read(trained, NUMBERS, at=AT), before)


def test_what_became_known_later_changes_no_past_forecast(trained):
    """No look-ahead, through the database: rows up to a day later are already there when the past slot is scored."""
    past = AT - timedelta(hours=9)
    forecast.fn("clif", past)
    with_later_rows = read(trained, NUMBERS, at=past)
    with trained.begin() as connection:
        for table in ("icu.observation", "icu.stay_version"):
            gone = connection.execute(text(f"delete from {table} where available_at > :at"), {"at": past}).rowcount
            assert gone > 0
    forecast.fn("clif", past)
    pd.testing.assert_frame_equal(read(trained, NUMBERS, at=past), with_later_rows, check_exact=True)


def test_scrambled_outcomes_of_later_change_no_forecast(trained):
    past = AT - timedelta(hours=9)
    forecast.fn("clif", past)
    before = read(trained, NUMBERS, at=past)
    with trained.begin() as connection:
        changed = connection.execute(
            text(
                "update icu.stay_version set outcome = case outcome when 'died' then 'alive' else 'died' end,"
                " outtime = outtime + interval '5 days' where available_at > :at and outtime is not null"
            ),
            {"at": past},
        ).rowcount
    assert changed > 0
    forecast.fn("clif", past)
    pd.testing.assert_frame_equal(read(trained, NUMBERS, at=past), before, check_exact=True)


def test_a_backfill_gives_what_each_hour_would_have_given_and_resumes(trained):
    hours = [AT - timedelta(hours=h) for h in (12, 6, 0)]
    forecast.fn("clif", hours[1])
    single = read(trained, NUMBERS, at=hours[1])
    done = backfill.fn("clif", hours[0], hours[2], every_hours=6)
    assert done == {"slots asked for": 3, "published now": 2, "published before": 1}
    again = backfill.fn("clif", hours[0], hours[2], every_hours=6, again=True)
    assert again["published now"] == 3
    pd.testing.assert_frame_equal(read(trained, NUMBERS, at=hours[1]), single, check_exact=True)


def test_evaluate_pairs_outcomes_once_stays_have_ended_and_fills_the_scorecard(trained):
    backfill.fn("clif", AT - timedelta(hours=24), AT, every_hours=12)
    ingest.fn("clif", AT + timedelta(days=14))
    counts = evaluate.fn("clif", AT + timedelta(days=14))
    pairs = read(trained, "select * from forecast.forecast_outcome where remaining_hours is not null")
    assert counts["forecasts paired"] > 10 and len(pairs) >= counts["forecasts paired"]
    card = read(trained, "select * from forecast.scorecard")
    assert {"mortality_brier", "los_mean_absolute_error_days", "los_interval_coverage"} <= set(card["metric"])
    overall = card[(card["unit"] == "all") & (card["month"] == "all")].set_index("metric")
    assert overall.loc["los_mean_absolute_error_days", "n"] > 10
    assert overall["baseline"].notna().any()


def test_forecasts_that_contradict_themselves_are_not_published(trained, monkeypatch):
    forecast.fn("clif", AT - timedelta(hours=1))
    score = forecast_module.score

    def broken(*args):
        frame = score(*args)
        frame.loc[frame["status"] == "scored", "remaining_los_p90_hours"] = 0.0
        return frame

    monkeypatch.setattr(forecast_module, "score", broken)
    with pytest.raises(QualityError, match="quantiles_rise"):
        forecast.fn("clif", AT)
    assert len(read(trained, NUMBERS, at=AT)) == 0
    assert (read(trained, "select prediction_time from forecast.current_risk")["prediction_time"] < AT).all()
    health = read(trained, "select * from forecast.run_health where kind = 'forecast'")
    assert "quantiles_rise" in health["last_run_error"][0]


def test_a_source_that_is_down_leaves_the_published_forecasts(trained, monkeypatch):
    from flows.settings import load_settings

    forecast.fn("clif", AT)
    before = read(trained, "select stay_id, mortality_risk from forecast.current_risk")
    monkeypatch.setenv("ICU_SOURCES__CLIF__URL", "postgresql+psycopg://127.0.0.1:9/away")
    load_settings.cache_clear()
    with pytest.raises(SourceError, match="Published forecasts stay"):
        ingest.fn("clif", AT + timedelta(hours=1))
    pd.testing.assert_frame_equal(read(trained, "select stay_id, mortality_risk from forecast.current_risk"), before)


def test_without_laboratory_results_every_stay_still_has_a_forecast(trained):
    with trained.begin() as connection:
        gone = connection.execute(text("delete from icu.observation where available_at > observed_at")).rowcount
    assert gone > 1000
    assert forecast.fn("clif", AT)["stays_scored"] > 10


def test_a_stale_feed_gives_abstentions_and_no_numbers(trained):
    """A day and a bit after the last row of the feed nothing is known any more."""
    late = AT + timedelta(hours=30)
    counts = forecast.fn("clif", late)
    published = read(trained, NUMBERS, at=late)
    assert counts["stays_scored"] == 0 and len(published) > 0
    assert set(published["status_reason"]) <= {"stale", "no_observations"}
    assert published["mortality_risk"].isna().all()


def test_an_hour_without_open_stays_publishes_an_empty_run(trained):
    """The previous run's patients must not be shown as current then."""
    forecast.fn("clif", AT)
    with trained.begin() as connection:
        connection.execute(text("delete from icu.stay_version where outtime is null"))
        connection.execute(text("delete from icu.stay_version where outtime > :at"), {"at": AT})
    counts = forecast.fn("clif", AT + timedelta(hours=1))
    assert counts["stays_scored"] == counts["stays_abstained"] == 0
    assert len(read(trained, "select * from forecast.current_risk")) == 0
    census = read(trained, "select * from forecast.unit_census")
    assert len(census) > 0 and (census["n_patients"] == 0).all()


def test_without_a_model_the_run_says_what_to_do(installation):
    with pytest.raises(ForecastError, match="icu-forecast train clif"):
        forecast.fn("clif", AT)


def test_a_dry_run_publishes_nothing(trained):
    assert forecast.fn("clif", AT, dry_run=True)["scored"] > 10
    assert len(read(trained, NUMBERS, at=AT)) == 0


def test_a_slot_in_the_future_is_refused(trained):
    with pytest.raises(ForecastError, match="has not come yet"):
        forecast.fn("clif", datetime.now(UTC) + timedelta(days=1))
