"""The forecast flow on the real CLIF demo: published whole, replayable, and defined where data are missing."""

import json
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders_census import constant_arrival_forecaster
from builders_sql import tuples
from sqlalchemy import text
from typer.testing import CliRunner

from flows.cli import app
from flows.inspection.explain import explain_forecast
from flows.inspection.models import diff_models
from flows.inspection.reproduce import reproduce
from flows.jobs import evaluate as evaluate_module
from flows.jobs import forecast as forecast_module
from flows.jobs import refresh as refresh_module
from flows.jobs.backfill import backfill
from flows.jobs.catch_up import catch_up
from flows.jobs.evaluate import evaluate
from flows.jobs.forecast import forecast
from flows.jobs.ingest import ingest
from flows.jobs.promotion import promote
from flows.pages.trial import report_trial
from flows.runtime import clock
from flows.runtime.settings import load_settings
from flows.shards.stored_stays import read_stored
from rnn_core.census.census import forecast_census
from rnn_core.contracts.census import CENSUS_HORIZONS, Calendar, no_plans
from rnn_core.contracts.config import UnitConfig
from rnn_core.contracts.errors import ArtifactError, ForecastError, QualityError, SourceError
from rnn_core.evaluation.holdout import Comparison
from rnn_core.statistics.bootstrap import Estimate
from rnn_core.statistics.distribution import Distribution
from rnn_core.statistics.metric import curve_metrics, gate_metrics
from rnn_core.statistics.scored_stays import ScoredStays
from sql.published import canonical, registry, runs, trials

AT = datetime(2026, 1, 19, tzinfo=UTC)
NUMBERS = (
    "select stay_id, status, status_reason, mortality_risk, prolonged_stay_risk, remaining_los_p10_hours,"
    " remaining_los_p50_hours, remaining_los_p90_hours, discharge_24h_prob, n_observations,"
    " hours_since_last_observation from forecast.stay_forecast where prediction_time = :at order by stay_id"
)
UNITS = (
    "select unit, step, los_days, last_los_days, median_los_days, n_stays from forecast.unit_los_forecast"
    " where prediction_time = :at order by unit, step"
)
CENSUS = "select * from forecast.unit_forecast where prediction_time = :at order by unit, horizon_hours"


def read(engine, query: str, **bound) -> pd.DataFrame:
    with engine.connect() as connection:
        return pd.read_sql_query(text(query), connection, params=bound)


def add_an_earlier_month(engine) -> None:
    """Every stay that ended came three times before, 30 to 32 days earlier: the demo alone is too short for a census."""
    with engine.begin() as connection:
        connection.execute(
            text(
                "insert into icu.stay_version (source, stay_id, available_at, patient_id, unit, intime, outtime, outcome,"
                " ends_at, batch_id) select source, stay_id || '-' || days, available_at - days * interval '1 day',"
                " patient_id, unit, intime - days * interval '1 day', outtime - days * interval '1 day', outcome, ends_at,"
                " batch_id from icu.stay_version cross join generate_series(30, 32) as days where outtime is not null"
            )
        )


def census_of(engine, at: datetime) -> pd.DataFrame:
    """The published census of a slot, without its run."""
    return read(engine, CENSUS, at=at).drop(columns="run_id")


@pytest.fixture(scope="module")
def unit_forecaster():
    """Short windows, so that the demo's units have enough stays for it."""
    from rnn_core.forecasters.unit import fit_unit_forecaster

    lengths = {"A": np.random.default_rng(0).gamma(2.0, 2.0, 60)}
    config = UnitConfig(window=3, horizon=2, units=(4,), first_epochs=1, second_epochs=1)
    return fit_unit_forecaster(lengths, config)


@pytest.fixture
def unit_model(trained, unit_forecaster):
    """Folder of a unit forecaster that serves."""
    from rnn_core.forecasters.unit import save_unit_forecaster

    model_id = "clif-unit-small"
    folder = save_unit_forecaster(load_settings().artifact_folder, model_id, unit_forecaster, {})
    row = {
        "model_id": model_id,
        "name": "unit",
        "source": "clif",
        "data_cutoff": AT,
        "artifact": model_id,
        "config": {},
        "metrics": {},
    }
    with trained.begin() as connection:
        registry.register(connection, row)
    registry.set_stage(trained, model_id, "champion", "test")
    return folder


def test_every_open_stay_is_scored_or_abstained_with_a_reason(trained):
    counts = forecast.fn("clif", AT)
    published = read(trained, NUMBERS, at=AT)
    still_open = read(trained, "select count(*) as n from icu.stay_at(:at) where outtime is null", at=AT)["n"][0]
    assert len(published) == still_open == counts["stays_scored"] + counts["stays_abstained"] > 15
    scored = published["status"] == "scored"
    assert scored.any() and published.loc[~scored, "status_reason"].notna().all()
    assert published.loc[scored, "mortality_risk"].between(0, 1).all()


def test_current_risk_shows_the_run_with_its_age_and_that_the_model_is_provisional(published):
    current = read(published, "select * from forecast.current_risk")
    assert len(current) > 15 and current["provisional"].all()
    risks = current["mortality_risk"].dropna().to_list()
    assert risks == sorted(risks, reverse=True)
    assert (current["forecast_age_hours"] > 0).all() and (current["data_age_hours"] >= 0).all()


@pytest.fixture
def hourly_board(monkeypatch):
    """Where the board is written by each forecast of this test."""
    monkeypatch.setenv("ICU_BOARD", "hourly")
    load_settings.cache_clear()
    return load_settings().home / "reports" / "board-clif.html"


def test_publishing_the_same_slot_again_leaves_the_same_rows_even_if_the_board_cannot_be_written(
    published, hourly_board
):
    before = read(published, NUMBERS, at=AT)
    hourly_board.mkdir(parents=True)
    assert re.fullmatch("none: .+ cannot be written .+", forecast.fn("clif", AT)["board"])
    pd.testing.assert_frame_equal(read(published, NUMBERS, at=AT), before)


def test_what_became_known_later_changes_no_past_forecast(trained, unit_model):
    """No look-ahead, through the database: rows up to a day later are already there when the past slot is scored."""
    past = AT - timedelta(hours=9)
    add_an_earlier_month(trained)
    with trained.begin() as connection:
        connection.execute(
            text(
                "insert into icu.unit (source, unit, available_at, beds, staffed_beds) select source, min(unit), at, beds,"
                " staffed from icu.stay_version cross join (values (cast(:past as timestamptz) - interval '1 year', 30, 25),"
                " (cast(:past as timestamptz) + interval '1 hour', 3, 2)) version (at, beds, staffed) group by 1, 3, 4, 5"
            ),
            {"past": past},
        )
        connection.execute(
            text(
                "insert into icu.planned select s.source, 'plan', cast(:past as timestamptz) + after * interval '1 hour',"
                " min(s.unit), 'admission', cast(:past as timestamptz) + interval '10 hours', 0.6, status, null,"
                " min(s.batch_id) from icu.stay_version s cross join (values (-1000, 'planned'), (1, 'cancelled'))"
                " version (after, status) group by s.source, after, status"
            ),
            {"past": past},
        )
    assert "census" not in forecast.fn("clif", past)
    with_later_rows = read(trained, NUMBERS, at=past)
    units_with_later_rows, census_with_later_rows = read(trained, UNITS, at=past), census_of(trained, past)
    assert len(units_with_later_rows) > 0 and (census_with_later_rows["status"] == "scored").any()
    beds = census_with_later_rows[["unit", "beds", "staffed_beds"]].dropna().drop_duplicates()
    assert beds[["beds", "staffed_beds"]].to_numpy().tolist() == [[30, 25]]
    with trained.begin() as connection:
        for table in ("icu.observation", "icu.stay_version", "icu.unit", "icu.planned"):
            gone = connection.execute(text(f"delete from {table} where available_at > :at"), {"at": past}).rowcount
            assert gone > 0
    forecast.fn("clif", past)
    pd.testing.assert_frame_equal(read(trained, NUMBERS, at=past), with_later_rows, check_exact=True)
    pd.testing.assert_frame_equal(read(trained, UNITS, at=past), units_with_later_rows, check_exact=True)
    pd.testing.assert_frame_equal(census_of(trained, past), census_with_later_rows, check_exact=True)
    check_that_units_agree_with_their_stays(trained, past)
    check_that_a_planned_patient_is_expected(trained, past)


def check_that_a_planned_patient_is_expected(engine, at: datetime) -> None:
    known, census = canonical.read_units(engine, "clif", at, newest=at), census_of(engine, at)
    assert known.plans["status"].tolist() == ["planned"]
    nobody = ScoredStays([], Distribution(np.full((1, 2, 2), 0.25), (0, 200)).take(np.zeros(0, int)))
    unplanned = forecast_census(replace(known, plans=no_plans()), nobody)
    more = census.merge(unplanned, on=["unit", "horizon_hours"])
    more = more[more["unit"] == known.plans["unit"][0]]
    gain = more["expected_arrivals_x"] - more["expected_arrivals_y"]
    np.testing.assert_allclose(gain, np.where(more["horizon_hours"] >= 10, 0.6, 0.0), atol=1e-12)


def check_that_units_agree_with_their_stays(engine, at: datetime) -> None:
    """Who is expected to leave a unit within a day is the sum over its patients: of their own forecasts, and of the unit's
    curve for those who have none."""
    from rnn_core.census.census import _Source
    from rnn_core.contracts.config import Sampling

    census, known = census_of(engine, at), canonical.read_units(engine, "clif", at, newest=at)
    stays = known.stays.merge(
        read(engine, "select * from forecast.stay_forecast where prediction_time = :at", at=at), on="stay_id"
    )
    source = _Source.of(known, Sampling(), np.array(CENSUS_HORIZONS))
    fresh = source.fit_fresh(Calendar())
    scored = census[(census["horizon_hours"] == 24) & (census["status"] == "scored")].set_index("unit")
    assert len(scored) > 3 and stays["status"].nunique() == 2
    for unit, row in scored.drop(index="*", errors="ignore").iterrows():
        mine = stays[stays["unit"] == unit]
        assert row["n_present"] == len(mine)
        number, silent = source.names.index(unit), mine[mine["status"] == "abstained"]
        elapsed = ((known.as_of - silent["intime"].to_numpy()) / np.timedelta64(1, "h")).astype(float)
        stays_on, dies = fresh.ahead(np.full(len(silent), number), elapsed, at.hour)
        expected = mine["discharge_24h_prob"].sum() + (1 - stays_on - dies)[:, 24].sum()
        assert row["expected_discharges"] == pytest.approx(expected, abs=1e-9)
        assert row["expected_census"] < row["n_present"] - expected + row["expected_arrivals"] + 1e-9
    whole = census[census["unit"] == "*"]
    assert (whole["n_present"] == len(stays)).all()


def test_scrambled_outcomes_and_faults_of_later_change_no_forecast(trained, unit_model):
    """A death that is told later contradicts the stays it belongs to; the audit of the past slot does not know it."""
    past = AT - timedelta(hours=9)
    forecast.fn("clif", past)
    before, units_before = read(trained, NUMBERS, at=past), read(trained, UNITS, at=past)
    with trained.begin() as connection:
        changed = connection.execute(
            text(
                "update icu.stay_version set outcome = case outcome when 'died' then 'alive' else 'died' end,"
                " outtime = outtime + interval '5 days' where available_at > :at and outtime is not null"
            ),
            {"at": past},
        ).rowcount
        faulty = connection.execute(
            text(
                "insert into icu.stay_version (source, stay_id, available_at, patient_id, unit, intime, outtime, outcome,"
                " ends_at, died_at, batch_id) select distinct on (stay_id) source, stay_id,"
                " cast(:at as timestamptz) + interval '1 hour',"
                " patient_id, unit, intime, outtime, outcome, ends_at, outtime - interval '3 days', batch_id"
                " from icu.stay_version where available_at <= :at and outtime is not null"
                " order by stay_id, available_at desc"
            ),
            {"at": past},
        ).rowcount
    assert changed > 0 and faulty > 0
    forecast.fn("clif", past)
    pd.testing.assert_frame_equal(read(trained, NUMBERS, at=past), before, check_exact=True)
    pd.testing.assert_frame_equal(read(trained, UNITS, at=past), units_before, check_exact=True)


@pytest.mark.all_drivers
def test_each_published_risk_has_its_drivers_and_a_backfill_has_none(published):
    scored = read(
        published, "select stay_id from forecast.stay_forecast where prediction_time = :at and status = 'scored'", at=AT
    )
    drivers = read(published, "select * from forecast.current_driver")
    assert set(drivers["stay_id"]) <= set(scored["stay_id"]) and len(drivers) > len(scored)
    stay = drivers["stay_id"].iloc[0]
    shown = explain_forecast(stay, None, "clif")
    assert [row["rank"] for row in shown] == list(range(1, len(shown) + 1)) and len(shown) <= 5
    assert [row["driver"] for row in shown] == drivers.loc[drivers["stay_id"] == stay, "driver"].to_list()
    assert all((row["direction"] == "raises") == (row["contribution"] > 0) for row in shown)
    forecast.fn("clif", AT)
    assert len(read(published, "select * from forecast.stay_forecast_driver")) == len(drivers), "a slot is replaced"
    backfill.fn("clif", AT - timedelta(hours=6), AT - timedelta(hours=6))
    slots = read(published, "select distinct prediction_time from forecast.stay_forecast_driver")["prediction_time"]
    assert slots.to_list() == [AT]
    with pytest.raises(ForecastError, match="published for 2026-01-18T18:00Z: back-fills publish no drivers"):
        explain_forecast(stay, AT - timedelta(hours=6), "clif")


def test_explain_prints_the_drivers_of_a_stay_strongest_first(published):
    stay = read(published, "select stay_id from forecast.current_driver where rank = 5 limit 1")["stay_id"][0]
    shown = CliRunner().invoke(app, ["explain", stay, "--json"], catch_exceptions=False)
    rows = json.loads(shown.stdout)
    sizes = [abs(row["contribution"]) for row in rows]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5] and sizes == sorted(sizes, reverse=True)
    at_risk = read(published, "select mortality_risk, risk_band from forecast.current_risk where stay_id = :s", s=stay)
    assert {(row["mortality_risk"], row["risk_band"]) for row in rows} == set(
        at_risk.itertuples(index=False, name=None)
    )
    at_that_hour = CliRunner().invoke(
        app, ["explain", stay, "--as-of", "2026-01-19T00:00", "--source", "clif", "--json"]
    )
    assert at_that_hour.stdout == shown.stdout


def test_explain_says_why_a_stay_has_no_drivers(published):
    scored = read(published, "select stay_id from forecast.current_risk where status = 'scored'")
    with published.begin() as connection:
        gone = "delete from forecast.stay_forecast_driver where stay_id = :stay"
        assert connection.execute(text(gone), {"stay": scored["stay_id"].iloc[-1]}).rowcount > 0
    assert len(explain_forecast(scored["stay_id"].iloc[0], None, "clif")) > 0
    with pytest.raises(
        ForecastError, match="though it was scored: a run with many stays explains only the highest risks"
    ):
        explain_forecast(scored["stay_id"].iloc[-1], None, "clif")
    youngest = read(
        published,
        "select stay_id, intime from icu.stay_at(:at) where outtime is null order by intime desc limit 1",
        at=AT,
    ).iloc[0]
    soon = clock.slot(youngest["intime"].to_pydatetime() + timedelta(hours=2))
    forecast.fn("clif", soon)
    with pytest.raises(ForecastError, match=rf"was not scored at {soon:%Y-%m-%dT%H:%MZ} \(too_early\)"):
        explain_forecast(youngest["stay_id"], soon, "clif")
    with pytest.raises(ForecastError, match="No forecast of this stay is published for 2026-01-01T00:00Z"):
        explain_forecast(scored["stay_id"].iloc[0], datetime(2026, 1, 1, tzinfo=UTC), "clif")
    with pytest.raises(ForecastError, match="No source has a stay"):
        explain_forecast("nobody", None, None)


def test_a_backfill_gives_what_each_hour_would_have_given_and_resumes(trained):
    hours = [AT - timedelta(hours=h) for h in (12, 6, 0)]
    forecast.fn("clif", hours[1])
    single, census = read(trained, NUMBERS, at=hours[1]), census_of(trained, hours[1])
    done = backfill.fn("clif", hours[0], hours[2], every_hours=6)
    assert done == {"slots requested": 3, "published now": 2, "already published": 1}
    again = backfill.fn("clif", hours[0], hours[2], every_hours=6, again=True, jobs=2)
    assert again["published now"] == 3
    pd.testing.assert_frame_equal(census_of(trained, hours[1]), census, check_exact=True)
    assert set(census["status_reason"]) == {"too_little_history"} and (census["n_present"] > 0).any()
    pd.testing.assert_frame_equal(read(trained, NUMBERS, at=hours[1]), single, check_exact=True)


def test_a_backfill_waits_for_the_source_and_catching_up_leaves_what_it_filled(trained):
    forecast.fn("clif", AT - timedelta(hours=4))
    filled = backfill.fn("clif", AT - timedelta(hours=3), AT + timedelta(hours=2))
    assert filled == {"slots requested": 6, "already published": 0, "waiting for ingest": 2, "published now": 4}
    assert catch_up.fn("clif", AT, dry_run=True)["hours missed"] == 0


def test_a_catch_up_that_fails_is_an_incident(trained, monkeypatch):
    from flows.jobs import catch_up as module
    from sql.published import incidents

    forecast.fn("clif", AT - timedelta(hours=2))
    monkeypatch.setattr(module, "find_missed", lambda *_: 1 / 0)
    with pytest.raises(ForecastError, match="ZeroDivisionError"):
        catch_up.fn("clif", AT)
    found = incidents.find_incidents(trained, ["clif"])
    assert ("failed_run", "catch_up") in {(one.kind, one.subject) for one in found}


def test_an_artifact_that_is_not_there_fails_runs_that_everybody_can_see_and_is_trained_again(
    trained, challenger, monkeypatch
):
    from sql.published import incidents

    artifacts = load_settings().artifact_folder
    challenger.rename(artifacts / "away")
    told = forecast.fn("clif", AT - timedelta(hours=4))["challenger"]
    assert "failed: The artifact" in told
    (shadow,) = tuples(trained, "select status, error from forecast.run where role = 'shadow'")
    assert shadow[0] == "failed" and shadow[1] in told

    serving = registry.serving_model(trained, "clif", "stay")["artifact"]
    (artifacts / serving).rename(artifacts / "away too")
    hours = [AT - timedelta(hours=n) for n in (2, 1, 0)]
    for hour in hours:
        with pytest.raises(ForecastError, match="check that the artifact folder is mounted"):
            forecast.fn("clif", hour)
    with pytest.raises(ForecastError, match="check that the artifact folder is mounted"):
        backfill.fn("clif", hours[0], hours[1])
    health = "select kind, last_run_status, consecutive_failures, last_run_as_of from forecast.run_health order by kind"
    found = {kind: row for kind, *row in tuples(trained, health)}
    assert (found["forecast"], found["backfill"]) == (["failed", 3, hours[-1]], ["failed", 1, hours[0]])
    (failed,) = [
        one
        for one in incidents.find_incidents(trained, ["clif"])
        if (one.kind, one.subject) == ("failed_run", "forecast")
    ]
    assert failed.sentence.startswith(f"The last forecast of clif failed (3 in a row): The artifact {serving} lacks")
    monkeypatch.setattr(refresh_module, "start_training", lambda *_: "a run")
    counts = refresh_module.refresh.fn("clif", AT + timedelta(hours=1))
    assert counts["training run"] == "a run" and "lacks" in counts["serving models"]
    assert counts["drifted concepts since"] == "not evaluated"


def test_catching_up_publishes_each_missed_hour_once_and_waits_for_the_source(trained):
    first, hours = AT - timedelta(hours=6), [AT - timedelta(hours=h) for h in range(5, 0, -1)]
    assert catch_up.fn("clif", AT)["hours missed"] == 0, "where nothing was published yet, nothing was missed"
    forecast.fn("clif", first)
    named = catch_up.fn("clif", AT, dry_run=True, limit=2, newest_first=True)
    assert (named["hours missed"], named["to publish"]) == (6, 2)
    assert named["hours"] == ", ".join(f"{hour:%Y-%m-%dT%HZ}" for hour in (AT, *hours[::-1]))
    assert len(read(trained, "select run_id from forecast.run where kind = 'forecast'")) == 1
    done = catch_up.fn("clif", hours[-1], limit=3)
    assert (done["published now"], done["left for later"]) == (3, 2)
    assert catch_up.fn("clif", hours[-1])["published now"] == 2
    assert catch_up.fn("clif", hours[-1])["hours missed"] == 0
    slots = read(
        trained, "select as_of from forecast.run where kind = 'forecast' and status = 'published' order by run_id"
    )
    assert [time.to_pydatetime() for time in slots["as_of"]] == [first, *hours]
    later = catch_up.fn("clif", AT + timedelta(hours=5), dry_run=True)
    assert (later["hours missed"], later["waiting for ingest"]) == (1, 5)


def test_a_source_on_trial_is_forecast_and_judged_but_shown_to_nobody(trained):
    """With few deaths its report says that it is too early for a verdict, and names no patient."""
    trials.start_trial(trained, "clif", 7, AT - timedelta(days=1))
    with pytest.raises(ForecastError, match="end that trial first"):
        trials.start_trial(trained, "clif", 7, AT)
    assert forecast.fn("clif", AT)["stays_scored"] > 10
    for view in ("current_risk", "risk_history", "current_driver"):
        assert len(read(trained, f"select * from forecast.{view}")) == 0
    with pytest.raises(ForecastError, match="can be evaluated yet"):
        report_trial("clif", None)
    ingest.fn("clif", AT + timedelta(days=14))
    judged = read(trained, "select role from forecast.forecast_outcome")["role"]
    assert len(judged) > 10 and set(judged) == {"trial"}
    decision, path = report_trial("clif", None)
    assert decision.verdict == "too early"
    page = path.read_text()
    for title in ("Decision", "Calibration here", "At landmarks", "Alerts", "Delays", "Missing"):
        assert f">{title}</h2>" in page
    patients = read(trained, "select stay_id from icu.stay_version union select patient_id from icu.stay_version")
    assert not [name for name in patients["stay_id"] if name in page]
    health = read(trained, "select last_good_as_of from forecast.run_health where kind = 'forecast'")
    assert health["last_good_as_of"].to_list() == [AT], "a run that is not shown is watched all the same"
    trials.end_trial(trained, "clif")
    forecast.fn("clif", AT + timedelta(hours=1))
    shown = read(trained, "select distinct prediction_time from forecast.risk_history")["prediction_time"]
    assert shown.to_list() == [AT + timedelta(hours=1)], "what was made during the trial stays hidden"
    with pytest.raises(ForecastError, match="not on trial"):
        trials.end_trial(trained, "clif")


def test_a_trial_hides_what_was_shown_before_it(published):
    assert len(read(published, "select * from forecast.current_risk")) > 10
    trials.start_trial(published, "clif", 7, AT + timedelta(hours=1))
    for view in ("current_risk", "unit_census", "current_driver"):
        assert len(read(published, f"select * from forecast.{view}")) == 0, view


def test_drift_found_since_the_last_training_starts_another_before_there_are_stays_enough(trained, monkeypatch):
    monkeypatch.setattr(refresh_module, "start_training", lambda *_: "a run")
    later = AT + timedelta(hours=1)
    calm = refresh_module.refresh.fn("clif", later)
    assert (calm["training run"], calm["serving models"]) == (None, "intact")
    with monkeypatch.context() as patch:
        measure = evaluate_module.measure_drift
        patch.setattr(
            evaluate_module,
            "measure_drift",
            lambda *given: (runs.close_dead_runs(trained, "clif", "evaluate"), measure(*given))[1],
        )
        with pytest.raises(ForecastError, match="is marked failed and cannot publish"):
            evaluate.fn("clif", later)
    assert tuples(trained, "select * from forecast.score") == [], "one that was taken for dead writes nothing"
    evaluate.fn("clif", later)
    with trained.begin() as connection:
        connection.execute(text("update forecast.concept_drift set drifted = (concept = 'heart_rate')"))
    counts = refresh_module.refresh.fn("clif", later)
    assert (counts["drifted concepts since"], counts["training run"]) == (1, "a run")
    monkeypatch.setattr(refresh_module, "start_training", lambda *_: 1 / 0)
    with pytest.raises(ForecastError, match="ZeroDivisionError"):
        refresh_module.refresh.fn("clif", later)
    recorded = tuples(trained, "select status from forecast.run where kind = 'refresh' order by run_id")
    assert recorded == [("published",), ("published",), ("failed",)]


@pytest.fixture
def challenger(trained):
    """A copy of the serving model, registered after it as a challenger; returns its folder."""
    serving = registry.serving_model(trained, "clif", "stay")
    model_id = f"{serving['model_id']}-again"
    folder = load_settings().artifact_folder / model_id
    shutil.copytree(load_settings().artifact_folder / serving["artifact"], folder)
    row = {
        name: serving[name]
        for name in ("name", "source", "data_cutoff", "ends_at", "concept_hash", "config", "metrics")
    }
    with trained.begin() as connection:
        registry.register(connection, {**row, "model_id": model_id, "artifact": model_id})
    registry.set_stage(trained, model_id, "challenger", "test")
    return folder


def test_a_challenger_scores_the_same_slot_in_the_shadow_of_the_serving_model(trained, challenger):
    counts = forecast.fn("clif", AT)
    assert counts["challenger"] == challenger.name
    roles = read(trained, "select role, stays_scored from forecast.run where kind = 'forecast' order by run_id")
    assert roles["role"].to_list() == ["champion", "shadow"] and roles["stays_scored"].nunique() == 1
    assert set(read(trained, "select model_id from forecast.current_risk")["model_id"]) == {counts["model"]}
    assert challenger.name not in set(read(trained, "select model_id from forecast.risk_history")["model_id"])
    assert set(read(trained, "select model_id from forecast.unit_forecast")["model_id"]) == {counts["model"]}


def test_a_challenger_that_is_broken_harms_nobody_but_itself(trained, challenger):
    for file in challenger.iterdir():
        file.write_bytes(b"broken")
    counts = forecast.fn("clif", AT)
    assert "failed" in counts["challenger"] and counts["stays_scored"] > 10
    assert len(read(trained, "select * from forecast.current_risk")) > 10


def test_a_promotion_without_outcomes_enough_is_refused_and_forced_only_with_a_reason(trained, challenger):
    """Two deaths among the demo's unseen stays: the gate has no verdict in favour of anybody."""
    serving = registry.serving_model(trained, "clif", "stay")["model_id"]
    registry.set_stage(trained, serving, "champion", "test")
    with pytest.raises(ForecastError, match="too few for a verdict"):
        promote(trained, challenger.name, None, force=False)
    with pytest.raises(ForecastError, match="needs a reason"):
        promote(trained, challenger.name, None, force=True)
    assert registry.serving_model(trained, "clif", "stay")["model_id"] == serving
    assert promote(trained, challenger.name, "test", force=True)["retired"] == serving
    assert registry.rollback(trained, "clif", "stay")["model_id"] == serving
    with pytest.raises(ForecastError, match="cannot be evaluated"):
        promote(trained, serving, None, force=False)


def test_evaluate_judges_the_challenger_and_lets_it_serve_once_it_passes(trained, challenger, monkeypatch):
    assert evaluate.fn("clif", AT)["its stage"] in ("challenger", "provisional")
    assert registry.serving_model(trained, "clif", "stay")["model_id"] != challenger.name
    monkeypatch.setattr("rnn_core.evaluation.gate.MIN_DEATHS", 0)
    level, from_curve = (
        {metric.name: Estimate(0, 0, 0, 9) for metric in metrics()} for metrics in (gate_metrics, curve_metrics)
    )
    monkeypatch.setattr("rnn_core.evaluation.holdout.compare_forecasters", lambda *_: Comparison(level, {}, from_curve))
    assert evaluate.fn("clif", AT)["its stage"] == "champion"
    assert registry.serving_model(trained, "clif", "stay")["model_id"] == challenger.name
    assert "Not worse" in registry.read_model(trained, challenger.name)["stage_reason"]


def test_models_are_told_apart_by_what_differs(trained, challenger):
    serving = registry.serving_model(trained, "clif", "stay")
    with trained.begin() as connection:
        connection.execute(
            text("update forecast.model set config = jsonb_set(config, '{train,seed}', '7') where model_id = :id"),
            {"id": challenger.name},
        )
    found = {
        row["what"]: (row[serving["model_id"]], row[challenger.name])
        for row in diff_models(serving["model_id"], challenger.name)
    }
    assert found["config.train.seed"] == (0, 7) and found["stage"] == ("provisional", "challenger")
    assert not [name for name in found if name.startswith("metrics")]


def _rows_of(known):
    return len(known.observations)


def test_a_past_run_scored_again_gives_the_same_numbers_also_after_rows_of_that_time_came_in_late(trained):
    run_id = forecast.fn("clif", AT)["run"]
    stays = read_stored(trained, "clif", AT)
    before = stays.map(_rows_of, [slice(0, 20), slice(20, None)], "count")
    with trained.begin() as connection:
        late = connection.execute(
            text(
                "with late as (insert into icu.batch (source, as_of, read_since, ingested_at, status)"
                " values ('clif', now(), now(), now(), 'done') returning batch_id)"
                " insert into icu.observation (source, stay_id, concept, observed_at, available_at, value, batch_id)"
                " select o.source, o.stay_id, o.concept, o.observed_at, o.available_at + interval '1 minute', o.value * 1.5,"
                " late.batch_id from icu.observation o, late where o.available_at < :at on conflict do nothing"
            ),
            {"at": AT - timedelta(hours=1)},
        ).rowcount
    assert late > 1000
    assert stays.map(_rows_of, [slice(0, 20), slice(20, None)], "count") == before, "all parts are of one state"
    assert sum(read_stored(trained, "clif", AT).map(_rows_of, [slice(None)], "count")) == sum(before) + late
    found = reproduce(run_id)
    assert found["rows equal"] == found["rows published"] == found["rows scored again"] > 15
    assert found["greatest difference"] == 0
    with trained.begin() as connection:
        connection.execute(
            text(
                "update forecast.stay_forecast set mortality_risk = mortality_risk / 2 where run_id = :run and stay_id ="
                " (select min(stay_id) from forecast.stay_forecast where run_id = :run and status = 'scored')"
            ),
            {"run": run_id},
        )
    assert reproduce(run_id)["rows equal"] == found["rows equal"] - 1
    forecast.fn("clif", AT)
    with pytest.raises(ForecastError, match="has replaced the slot"):
        reproduce(run_id)
    with pytest.raises(ForecastError, match="only published forecasts"):
        reproduce(1)


@pytest.mark.all_drivers
def test_forecasts_that_cannot_be_explained_or_counted_are_published_without_drivers_and_census(
    trained, monkeypatch, hourly_board
):
    def broken(*_):
        raise ForecastError("no drivers today")

    monkeypatch.setattr(forecast_module, "explain", broken)
    monkeypatch.setattr(canonical, "read_units", lambda *_, **__: 1 / 0)
    counts = forecast.fn("clif", AT)
    assert counts["drivers"] == "none: no drivers today"
    assert counts["census"].startswith("none: ") and "ZeroDivisionError" in counts["census"]
    assert len(census_of(trained, AT)) == 0
    assert counts["board"] == str(hourly_board) and "published without a census" in hourly_board.read_text()
    assert len(read(trained, "select * from forecast.current_risk")) > 10


def test_a_model_of_arrivals_corrects_the_census_from_its_cut_off_on_and_without_its_file_nothing(trained):
    add_an_earlier_month(trained)
    forecast.fn("clif", AT)
    without = census_of(trained, AT)
    folder = constant_arrival_forecaster(2.0).save(load_settings().artifact_folder, "clif-arrivals", {})
    row = {"model_id": "clif-arrivals", "name": "arrivals", "source": "clif", "artifact": "clif-arrivals"}
    with trained.begin() as connection:
        registry.register(connection, row | {"data_cutoff": AT, "config": {}, "metrics": {}})
    registry.set_stage(trained, "clif-arrivals", "champion", "test")
    forecast.fn("clif", AT)
    np.testing.assert_allclose(census_of(trained, AT)["expected_arrivals"], 2 * without["expected_arrivals"], rtol=1e-5)
    assert forecast_module.load_rate_factors(trained, "clif", AT - timedelta(hours=1)) is None
    (folder / "weights.npz").unlink()
    assert forecast_module.load_rate_factors(trained, "clif", AT) is None


def test_evaluate_pairs_outcomes_once_stays_have_ended_and_fills_the_scorecard(trained):
    add_an_earlier_month(trained)
    backfill.fn("clif", AT - timedelta(hours=24), AT, every_hours=12)
    ingest.fn("clif", AT + timedelta(days=14))
    counts = evaluate.fn("clif", AT + timedelta(days=14))
    pairs = read(trained, "select * from forecast.forecast_outcome where remaining_hours is not null")
    assert counts["forecasts paired"] > 10 and len(pairs) >= counts["forecasts paired"]
    card = read(trained, "select * from forecast.scorecard")
    assert {"mortality_brier", "los_mae_days", "los_interval_coverage"} <= set(card["metric"])
    overall = card[(card[["unit", "month", "age_group", "sex", "stay_hours"]] == "all").all(axis=1)].set_index("metric")
    assert overall.loc["los_mae_days", "n"] > 10
    assert overall["baseline"].notna().any()
    for dimension in ("unit", "month", "age_group", "sex", "stay_hours"):
        assert card[dimension].nunique() > 1, dimension
    came = read(trained, "select * from forecast.unit_forecast_outcome where status = 'scored'")
    came = came[came["horizon_hours"].isin(CENSUS_HORIZONS)]
    assert counts["censuses paired"] == len(came) > 50
    errors = (came["census_p50"] - came["census"]).abs().groupby([came["unit"], came["horizon_hours"]]).mean()
    for (unit, horizon), error in errors.items():
        (found,) = card[(card["unit"] == unit) & (card["metric"] == f"census_{horizon}h_mae")]["value"]
        assert found == pytest.approx(error), (unit, horizon)
    names = ("crps", "crps_persistence", "crps_curves", "mae_curves", "pit_coverage_80")
    assert {f"census_24h_{name}" for name in names} <= set(card["metric"])
    drift = read(trained, "select * from forecast.drift")
    assert len(drift) > 10 and drift["psi"].notna().any()
    burden = read(trained, "select * from forecast.alert_burden where risk_band = 'low'")
    assert burden["n_stays"][0] > 5 and burden["flagged_per_day"][0] > 1
    page = Path(counts["page"]).read_text()
    patients = read(trained, "select stay_id from icu.stay_version union select patient_id from icu.stay_version")
    assert not [name for name in patients["stay_id"] if name in page]
    assert page.count("<svg") >= 7 and "mean of 7 days" in page and "unit&#39;s curve" in page
    assert not re.search(r"(src|href)=.https?:", page), "it opens without a network"


def test_forecasts_that_contradict_themselves_are_not_published(trained, request):
    forecast.fn("clif", AT - timedelta(hours=1))
    request.getfixturevalue("contradictory_forecasts")
    with pytest.raises(QualityError, match="quantiles_rise"):
        forecast.fn("clif", AT)
    assert len(read(trained, NUMBERS, at=AT)) == 0
    assert (read(trained, "select prediction_time from forecast.current_risk")["prediction_time"] < AT).all()
    health = read(trained, "select * from forecast.run_health where kind = 'forecast'")
    assert "quantiles_rise" in health["last_run_error"][0]


def test_a_broken_unit_model_leaves_readers_on_the_previous_run_whole(trained, unit_model):
    forecast.fn("clif", AT - timedelta(hours=1))
    query = "select prediction_time, stay_id, mortality_risk from forecast.current_risk"
    before, units_before = read(trained, query), read(trained, UNITS, at=AT - timedelta(hours=1))
    (unit_model / "model.keras").write_bytes(b"broken")
    with pytest.raises(ArtifactError):
        forecast.fn("clif", AT)
    assert len(read(trained, NUMBERS, at=AT)) == 0
    pd.testing.assert_frame_equal(read(trained, query), before)
    pd.testing.assert_frame_equal(read(trained, UNITS, at=AT - timedelta(hours=1)), units_before)
    last = read(trained, "select status, error from forecast.run order by run_id desc limit 1").iloc[0]
    assert last["status"] == "failed" and "clif-unit-small" in last["error"]


def test_a_source_that_is_down_leaves_the_published_forecasts(published, monkeypatch):
    before = read(published, "select stay_id, mortality_risk from forecast.current_risk")
    monkeypatch.setenv("ICU_SOURCES__CLIF__URL", "postgresql+psycopg://127.0.0.1:9/away")
    load_settings.cache_clear()
    with pytest.raises(SourceError, match="Published forecasts are not affected"):
        ingest.fn("clif", AT + timedelta(hours=1))
    pd.testing.assert_frame_equal(read(published, "select stay_id, mortality_risk from forecast.current_risk"), before)


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
    census = census_of(trained, late)
    assert set(census["status_reason"]) == {"stale"} and census["expected_census"].isna().all()


def test_an_hour_without_open_stays_publishes_an_empty_run(published):
    """The previous run's patients must not be shown as current then."""
    with published.begin() as connection:
        connection.execute(text("delete from icu.stay_version where outtime is null"))
        connection.execute(text("delete from icu.stay_version where outtime > :at"), {"at": AT})
    counts = forecast.fn("clif", AT + timedelta(hours=1))
    assert counts["stays_scored"] == counts["stays_abstained"] == 0
    assert len(read(published, "select * from forecast.current_risk")) == 0
    census = read(published, "select * from forecast.unit_census")
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
