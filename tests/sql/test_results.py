"""Publication: all of a run or nothing, the same rows when it is repeated, and nothing of a patient in an error."""

import math
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import builders_sql as b
import pandas as pd
import pytest
from sqlalchemy import text

from rnn_core.contracts.errors import ContractError, ForecastError
from sql.published import results, runs

BEFORE = b.NOW - b.hours(1)


@pytest.fixture
def engine(engine):
    """Two open stays, a champion, and a good run one hour ago."""
    for stay_id in ("s1", "s2"):
        b.add_stay(engine, stay_id)
    b.add_model(engine, "m1")
    b.add_forecasts(engine, {"s1": 0.1, "s2": 0.2}, model_id="m1", as_of=BEFORE)
    return engine


def publish(engine, run_id, frame, **changes):
    slot = {"model_id": "m1", "source": b.SOURCE, "prediction_time": b.NOW}
    return results.publish(engine, results.Publication(run_id=run_id, stays=frame, **(slot | changes)))


def start(engine, as_of=b.NOW, kind="forecast"):
    return runs.start_run(engine, b.SOURCE, kind, as_of)


def risks(engine):
    return {r["stay_id"]: r["mortality_risk"] for r in b.rows(engine, "select * from forecast.current_risk")}


def run_row(engine, run_id):
    return b.one(engine, "select * from forecast.run where run_id = :run_id", run_id=run_id)


@pytest.fixture
def trigger(engine):
    """Lets `body` run (PL/pgSQL) before each row of stay_forecast is inserted."""

    def install(body):
        with engine.begin() as connection:
            connection.exec_driver_sql(
                f"create function public.interfere() returns trigger language plpgsql as $$begin {body} end$$"
            )
            connection.exec_driver_sql(
                "create trigger interfere before insert on forecast.stay_forecast"
                " for each row execute function public.interfere()"
            )

    yield install
    with engine.begin() as connection:
        connection.execute(text("drop function if exists public.interfere cascade"))


def test_a_run_is_seen_as_running_before_it_publishes(engine):
    run_id = start(engine)
    row = run_row(engine, run_id)
    assert (row["status"], row["as_of"], row["finished_at"]) == ("running", b.NOW, None)


def test_publishing_shows_the_rows_and_marks_the_run(engine):
    run_id = start(engine)
    counts = publish(
        engine, run_id, b.forecasts({"s1": 0.3, "s2": None}), watermark=b.NOW, newest_observation_at=b.NOW - b.hours(2)
    )
    assert counts == {"stays_scored": 1, "stays_abstained": 1}
    row = run_row(engine, run_id)
    assert row["status"] == "published" and row["finished_at"] is not None
    assert (row["stays_scored"], row["stays_abstained"]) == (1, 1)
    assert (row["model_id"], row["model_stage"]) == ("m1", "champion")
    assert (row["watermark"], row["newest_observation_at"]) == (b.NOW, b.NOW - b.hours(2))
    assert risks(engine) == {"s1": 0.3, "s2": None}


def test_every_column_of_the_frame_arrives_as_it_was(engine):
    frame = b.forecasts({"s1": 0.1234567890123456, "s2": None})
    publish(engine, start(engine), frame)
    stored = pd.DataFrame(
        b.rows(engine, "select * from forecast.stay_forecast where prediction_time = :t order by stay_id", t=b.NOW)
    )
    pd.testing.assert_frame_equal(stored[list(frame.columns)], frame, check_dtype=False)


def test_an_empty_frame_publishes_an_empty_unit(engine):
    assert publish(engine, start(engine), b.forecasts({})) == {"stays_scored": 0, "stays_abstained": 0}
    assert risks(engine) == {}


def test_numpy_and_pandas_times_without_a_zone_are_utc(engine):
    as_of = pd.Timestamp("2031-05-10 13:00")
    run_id = start(engine, as_of=as_of.to_datetime64())
    publish(engine, run_id, b.forecasts({"s1": 0.3}), prediction_time=as_of)
    assert b.one(engine, "select max(prediction_time) as t from forecast.stay_forecast")["t"] == datetime(
        2031, 5, 10, 13, tzinfo=UTC
    )


def test_publishing_twice_leaves_the_same_rows(engine):
    run_id = start(engine)
    for _ in range(2):
        publish(engine, run_id, b.forecasts({"s1": 0.3, "s2": 0.4}))
    query = "select stay_id, mortality_risk from forecast.stay_forecast order by prediction_time, stay_id"
    before = b.rows(engine, query)
    again = start(engine)
    publish(engine, again, b.forecasts({"s1": 0.3, "s2": 0.4}))
    after = b.rows(engine, query)
    assert after == before and len(after) == 4


def test_no_row_of_an_earlier_try_survives_in_its_slot(engine):
    publish(engine, start(engine), b.forecasts({"s1": 0.3, "s2": 0.4}))
    publish(engine, start(engine), b.forecasts({"s1": 0.5}))
    assert risks(engine) == {"s1": 0.5}


def drivers_frame(*rows):
    """Rows of (stay, rank, driver, contribution)."""
    frame = pd.DataFrame(rows, columns=["stay_id", "rank", "driver", "contribution"])
    frame["direction"] = ["raises" if c > 0 else "lowers" for c in frame["contribution"]]
    return frame.assign(last_value=1.5, value_unit="mmol/L", last_observed_at=b.NOW)


def drivers(engine):
    found = b.rows(engine, "select stay_id, rank, driver, contribution from forecast.current_driver")
    return [(r["stay_id"], r["rank"], r["driver"], r["contribution"]) for r in found]


def test_drivers_are_published_with_their_run_and_replaced_with_their_slot(engine):
    reported = [("s2", 1, "lactate", 0.8), ("s2", 2, "sodium", -0.1), ("s1", 1, "lactate", 0.2)]
    publish(engine, start(engine), b.forecasts({"s1": 0.3, "s2": 0.4}), drivers=drivers_frame(*reported))
    assert drivers(engine) == reported
    publish(engine, start(engine), b.forecasts({"s1": 0.3, "s2": 0.4}), drivers=drivers_frame(("s1", 1, "bun", -0.3)))
    assert drivers(engine) == [("s1", 1, "bun", -0.3)]
    publish(engine, start(engine), b.forecasts({"s1": 0.3}))
    assert drivers(engine) == []


def test_a_driver_whose_direction_contradicts_its_contribution_leaves_readers_on_the_previous_run(engine):
    wrong = drivers_frame(("s1", 1, "bun", -0.3)).assign(direction="raises")
    with pytest.raises(ForecastError, match="ck_stay_forecast_driver_sign"):
        publish(engine, start(engine), b.forecasts({"s1": 0.7}), drivers=wrong)
    assert risks(engine) == {"s1": 0.1, "s2": 0.2}


def test_other_slots_and_models_are_left_alone(engine):
    b.add_model(engine, "m2", stage="challenger")
    b.add_forecasts(engine, {"s1": 0.9}, model_id="m2", role="shadow")
    publish(engine, start(engine), b.forecasts({"s1": 0.3}))
    found = b.rows(engine, "select model_id, count(*) as n from forecast.stay_forecast group by model_id order by 1")
    assert found == [{"model_id": "m1", "n": 3}, {"model_id": "m2", "n": 1}]


def test_a_row_that_breaks_a_check_halfway_leaves_readers_on_the_previous_run(engine):
    frame = b.forecasts({f"s{n}": 0.5 for n in range(1, 5001)})
    frame.loc[2500, "mortality_risk"] = 1.5
    run_id = start(engine)
    with pytest.raises(ForecastError, match="mortality_risk_is_a_probability") as caught:
        publish(engine, run_id, frame)
    assert "1.5" not in str(caught.value) and "s2501" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert risks(engine) == {"s1": 0.1, "s2": 0.2}
    assert run_row(engine, run_id)["status"] == "running"
    runs.fail_run(engine, run_id, "It broke.")
    assert risks(engine) == {"s1": 0.1, "s2": 0.2}
    assert (run_row(engine, run_id)["status"], run_row(engine, run_id)["error"]) == ("failed", "It broke.")


def test_a_backend_killed_halfway_leaves_the_slot_as_it_was(engine, trigger):
    publish(engine, start(engine), b.forecasts({"s1": 0.3, "s2": 0.4}))
    trigger("if new.stay_id = 's2500' then perform pg_terminate_backend(pg_backend_pid()); end if; return new;")
    with pytest.raises(ForecastError, match="aborted the publication"):
        publish(engine, start(engine), b.forecasts({f"s{n}": 0.5 for n in range(1, 5001)}))
    assert risks(engine) == {"s1": 0.3, "s2": 0.4}
    assert b.one(engine, "select count(*) as n from forecast.stay_forecast")["n"] == 4


def test_rows_that_do_not_arrive_are_noticed_and_nothing_is_published(engine, trigger):
    trigger("if new.stay_id = 's2' then return null; end if; return new;")
    with pytest.raises(ForecastError, match=r"wrote 2 rows to .*, but 1 are there"):
        publish(engine, start(engine), b.forecasts({"s1": 0.3, "s2": 0.4}))
    assert risks(engine) == {"s1": 0.1, "s2": 0.2}


def test_two_publishers_of_one_slot_at_once_leave_the_rows_of_one(engine):
    sets = [{f"s{n}": risk for n in range(1, 2001)} for risk in (0.3, 0.6)]
    runs = [start(engine) for _ in sets]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda pair: publish(engine, pair[0], b.forecasts(pair[1])), zip(runs, sets, strict=True)))
    found = b.rows(
        engine,
        "select distinct run_id, mortality_risk, count(*) over () as n from forecast.stay_forecast"
        " where prediction_time = :t",
        t=b.NOW,
    )
    assert len(found) == 1 and found[0]["n"] == 2000
    assert (found[0]["run_id"], found[0]["mortality_risk"]) in zip(runs, (0.3, 0.6), strict=True)
    assert risks(engine).keys() == {"s1", "s2"}


@pytest.mark.parametrize(("known", "stored"), [(b.NOW - b.hours(1), b.NOW - b.hours(1)), (b.NOW + b.hours(9), b.NOW)])
def test_a_watermark_of_after_the_slot_is_stored_as_the_slot(engine, known, stored):
    """A back-fill finds today's watermark, but read nothing later than its slot."""
    run_id = start(engine)
    publish(engine, run_id, b.forecasts({"s1": 0.3}), watermark=known)
    assert run_row(engine, run_id)["watermark"] == stored


def test_a_frame_with_other_columns_or_types_is_refused(engine):
    run_id = start(engine)
    with pytest.raises(ContractError, match=r"missing: \['risk_band'\], unknown: \['colour'\]"):
        publish(engine, run_id, b.forecasts({"s1": 0.3}).rename(columns={"risk_band": "colour"}))
    frame = b.forecasts({"s1": 0.3}).assign(mortality_risk=["high"])
    with pytest.raises(ContractError, match=r"Column mortality_risk of .* takes double") as caught:
        publish(engine, run_id, frame)
    assert "high" not in str(caught.value)


@pytest.mark.parametrize(
    "changes", [{"source": "other"}, {"prediction_time": BEFORE}, {"kind": "backfill"}], ids=lambda c: next(iter(c))
)
def test_a_run_publishes_its_own_slot_only(engine, changes):
    with pytest.raises(ContractError, match="publishes nothing else"):
        publish(engine, start(engine), b.forecasts({"s1": 0.3}), **changes)


def test_a_failed_or_unknown_run_cannot_publish(engine):
    run_id = start(engine)
    runs.fail_run(engine, run_id, "It broke.")
    with pytest.raises(ForecastError, match="marked failed"):
        publish(engine, run_id, b.forecasts({"s1": 0.3}))
    with pytest.raises(ForecastError, match="no run 999"):
        publish(engine, 999, b.forecasts({"s1": 0.3}))


def test_an_unknown_model_is_refused_by_the_database_in_a_sentence(engine):
    with pytest.raises(ForecastError, match="fk_stay_forecast_model_id"):
        publish(engine, start(engine), b.forecasts({"s1": 0.3}), model_id="m9")


def test_failing_a_published_run_changes_nothing(engine):
    run_id = start(engine)
    publish(engine, run_id, b.forecasts({"s1": 0.3}))
    runs.fail_run(engine, run_id, "A step after it broke.")
    assert (run_row(engine, run_id)["status"], run_row(engine, run_id)["error"]) == ("published", None)


def test_a_run_without_forecasts_is_finished_with_its_counts(engine):
    run_id = start(engine, kind="ingest")
    runs.finish_run(engine, run_id, watermark=b.NOW)
    row = run_row(engine, run_id)
    assert (row["status"], row["watermark"], row["model_stage"]) == ("published", b.NOW, None)
    with pytest.raises(ContractError, match="rows_eaten"):
        runs.finish_run(engine, run_id, rows_eaten=3)


def test_a_finished_training_keeps_its_model_and_the_stage_it_got(engine):
    run_id = start(engine, kind="train")
    runs.finish_run(engine, run_id, model_id="m1")
    assert (run_row(engine, run_id)["model_id"], run_row(engine, run_id)["model_stage"]) == ("m1", "champion")


def test_runs_whose_process_died_are_closed_and_others_are_not(engine):
    dead, other_kind = start(engine), start(engine, kind="train")
    assert runs.close_dead_runs(engine, b.SOURCE, "forecast") == 1
    assert run_row(engine, dead)["status"] == "failed"
    assert run_row(engine, dead)["error"].startswith("Its process died")
    assert run_row(engine, other_kind)["status"] == "running"


def test_what_a_dead_run_left_in_landing_is_dropped(engine):
    dead, living = start(engine), start(engine, kind="backfill")
    with engine.begin() as connection:
        for run_id in (dead, living):
            connection.execute(text(f"create unlogged table landing.forecast_{run_id} (stay_id text)"))
    runs.close_dead_runs(engine, b.SOURCE, "forecast")
    query = "select relname::text from pg_class where relname ~ '^forecast_[0-9]+$'"
    assert b.rows(engine, query) == [{"relname": f"forecast_{living}"}]
    with engine.begin() as connection:
        connection.execute(text(f"drop table landing.forecast_{living}"))


def test_published_slots_are_those_of_good_runs_of_the_asked_kinds(engine):
    b.add_forecasts(engine, {"s1": 0.3}, model_id="m1")
    b.add_forecasts(engine, {"s1": 0.3}, model_id="m1")
    b.add_forecasts(engine, {"s1": 0.3}, model_id="m1", as_of=b.NOW - b.hours(5), kind="backfill")
    b.add_model(engine, "m2", stage="challenger")
    b.add_forecasts(engine, {"s1": 0.3}, model_id="m2", as_of=b.NOW - b.hours(6), role="shadow")
    start(engine, as_of=b.NOW + b.hours(1))
    assert runs.published_slots(engine, b.SOURCE) == [b.NOW - b.hours(5), BEFORE, b.NOW]
    assert runs.published_slots(engine, b.SOURCE, "backfill") == [b.NOW - b.hours(5)]
    assert runs.published_slots(engine, b.SOURCE, role="shadow") == [b.NOW - b.hours(6)]
    assert runs.published_slots(engine, b.SOURCE, role="shadow", model_id="m1") == []
    assert runs.published_slots(engine, b.SOURCE, "forecast", model_id="m1") == [BEFORE, b.NOW]
    assert runs.published_slots(engine, "other") == []


# ------------------------------------------------------------------------------------------------ units beside stays


def unit_frame(days):
    return pd.DataFrame(
        {
            "unit": ["MICU"] * len(days),
            "step": range(1, len(days) + 1),
            "los_days": days,
            "last_los_days": 2.0,
            "median_los_days": 3.0,
            "n_stays": 50,
        }
    )


def test_a_census_arrives_as_it_was_and_a_run_again_replaces_it(engine):
    first = b.census({"MICU": 2, "*": 3}, prob_full=0.25)
    publish(engine, start(engine), b.forecasts({"s1": 0.3}), census=first)
    query = "select * from forecast.unit_forecast where prediction_time = :t order by unit desc, horizon_hours"
    stored = pd.DataFrame(b.rows(engine, query, t=b.NOW))
    pd.testing.assert_frame_equal(stored[list(first.columns)], first, check_dtype=False)
    again = start(engine)
    publish(engine, again, b.forecasts({"s1": 0.3}), census=b.census({"MICU": None}, horizons=(4,)))
    (row,) = b.rows(engine, query, t=b.NOW)
    assert (row["status_reason"], row["n_present"], row["census_probabilities"], row["run_id"]) == (
        "stale",
        1,
        None,
        again,
    )
    publish(engine, start(engine), b.forecasts({"s1": 0.3}))
    assert b.rows(engine, query, t=b.NOW) == []


@pytest.mark.parametrize(
    ("values", "broken"),
    [
        ({"census_p90": 1}, "quantiles_rise"),
        ({"prob_full": 1.5}, "prob_full_is_a_probability"),
        ({"status_reason": "stale"}, "abstains_with_a_reason"),
        ({"census_probabilities": None}, "abstains_without_numbers"),
    ],
)
def test_a_census_that_contradicts_itself_leaves_readers_on_the_previous_run_with_its_stays(engine, values, broken):
    with pytest.raises(ForecastError, match=f"ck_unit_forecast_{broken}"):
        publish(engine, start(engine), b.forecasts({"s1": 0.9}), census=b.census({"MICU": 2}, **values))
    assert risks(engine) == {"s1": 0.1, "s2": 0.2}


@pytest.fixture
def unit_model(engine):
    return b.add_model(engine, "u1", name="unit")


def publish_both(engine, risk, days):
    run_id = start(engine)
    publish(engine, run_id, b.forecasts({"s1": risk}), units=unit_frame(days), unit_model_id="u1")
    return run_id


def units(engine):
    found = b.rows(engine, "select step, los_days, run_id from forecast.unit_los_forecast order by step")
    return [(row["step"], row["los_days"], row["run_id"]) for row in found]


def test_stays_and_units_are_published_together_and_replace_their_slots(engine, unit_model):
    publish_both(engine, 0.3, [1.0, 2.0, 3.0])
    run_id = publish_both(engine, 0.4, [4.0, 5.0])
    assert units(engine) == [(1, 4.0, run_id), (2, 5.0, run_id)]
    assert risks(engine) == {"s1": 0.4}
    row = run_row(engine, run_id)
    assert (row["status"], row["model_id"], row["stays_scored"]) == ("published", "m1", 1)


def test_units_that_the_database_refuses_leave_readers_on_the_previous_run_with_its_stays(engine, unit_model):
    good = publish_both(engine, 0.3, [1.0])
    with pytest.raises(ForecastError, match="ck_unit_los_forecast_los_days"):
        publish_both(engine, 0.9, [2.0, -1.0])
    assert (risks(engine), units(engine)) == ({"s1": 0.3}, [(1, 1.0, good)])
    assert run_row(engine, good + 1)["status"] == "running"


def test_a_run_without_a_unit_model_leaves_the_units_of_the_slot(engine, unit_model):
    good = publish_both(engine, 0.3, [1.0])
    publish(engine, start(engine), b.forecasts({"s1": 0.5}))
    assert (risks(engine), units(engine)) == ({"s1": 0.5}, [(1, 1.0, good)])


# ------------------------------------------------------------------------------------------------ scores


def test_scores_replace_those_of_the_same_run_and_store_nan_as_null(engine):
    run_id = start(engine, kind="evaluate")
    row = {
        "model_id": "m1",
        "source": b.SOURCE,
        "unit": "all",
        "month": "all",
        "age_group": "all",
        "sex": "all",
        "stay_hours": "all",
        "metric": "auroc",
        "value": 0.8,
        "low": 0.7,
        "high": math.nan,
        "baseline": 0.5,
        "n": 100,
    }
    for rows in ([row, row | {"metric": "brier"}], [row]):
        with engine.begin() as connection:
            assert results.write_scores(connection, run_id, rows) == len(rows)
    stored = b.one(engine, "select * from forecast.score")
    assert stored == row | {"run_id": run_id, "high": None}
    with engine.begin() as connection:
        assert results.write_scores(connection, run_id, []) == 0
