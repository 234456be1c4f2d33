"""No window, feature or forecast used what was not known: shown on the real rows of the MIMIC-III demo, bit for bit."""

from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import insert, text

from flows.jobs.ingest import ingest
from flows.runtime.databases import open_store
from flows.runtime.settings import load_settings
from rnn_core.contracts.config import WindowConfig
from rnn_core.contracts.known import Known
from rnn_core.forecasters.stay import forecast_stays
from rnn_core.series.grid import make_grid
from rnn_core.series.scaling import fit_scaler, static_features
from rnn_core.series.windows import make_windows
from sql.intake.adapter import load_adapter
from sql.published import canonical
from sql.store.engine import open_engine
from sql.store.schema import observation

# Dates of the demo are read as of 1902 to 2002.
AFTER_ALL = datetime(2005, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def store(make_database, mimic_iii_source, tmp_path_factory):
    """Our database, in which the demo was taken over; the schema `scrambled` of the source is another hospital."""
    source = mimic_iii_source.render_as_string(hide_password=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICU_HOME", str(tmp_path_factory.mktemp("known")))
        patch.setenv("ICU_DATABASE_URL", make_database("known_then").render_as_string(hide_password=False))
        for name, schema in (("MIMIC_III", "mimiciii"), ("SCRAMBLED", "scrambled")):
            patch.setenv(f"ICU_SOURCES__{name}__URL", source)
            patch.setenv(f"ICU_SOURCES__{name}__ADAPTER", "mimic_iii")
            patch.setenv(f"ICU_SOURCES__{name}__DB_SCHEMA", schema)
        load_settings.cache_clear()
        ingest.fn("mimic_iii", AFTER_ALL)
        yield open_store()
    load_settings.cache_clear()


@pytest.fixture(scope="module")
def hours(store):
    """Whole hours within stays of both monitoring systems, the latest first; the one stay is open at each."""
    with store.connect() as connection:
        query = (
            "select stay_id, intime, outtime from icu.stay where source = 'mimic_iii'"
            " and outtime - intime > interval '4 days' order by intime"
        )
        stays = connection.execute(text(query)).all()
    chosen = [stays[n] for n in range(0, len(stays), 8)]
    middle = [(s.intime + (s.outtime - s.intime) / 2).replace(minute=0, second=0, microsecond=0) for s in chosen]
    assert len(middle) >= 4
    return sorted(middle, reverse=True)


def naive(time: datetime) -> np.datetime64:
    return np.datetime64(time.replace(tzinfo=None), "us")


def arrays(of: Known) -> dict[str, np.ndarray]:
    """Every array of the grid and of the windows of all stays begun by then."""
    grid = make_grid(of.stays, of.observations, of.as_of)
    scaler = fit_scaler(grid, static_features(of.stays), np.arange(len(of.stays)))
    windows = make_windows(grid, of.stays, scaler, WindowConfig())
    return {f"{type(o).__name__}.{f.name}": getattr(o, f.name) for o in (grid, windows) for f in fields(o)}


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_dropping_every_row_of_later_changes_no_window_no_feature_and_no_forecast(store, hours, trained_forecaster):
    """From the latest hour to the earliest, the rows of later are deleted for good and all is made again."""
    with store.begin() as connection:
        for table in ("observation", "stay_version"):
            connection.execute(text(f"create table icu.kept_{table} as select * from icu.{table}"))
    try:
        assert sum(_scored_without_later_rows(store, as_of, trained_forecaster) for as_of in hours) >= 3
    finally:
        with store.begin() as connection:
            for table in ("observation", "stay_version"):
                restored = f"delete from icu.{table}; insert into icu.{table} select * from icu.kept_{table}"
                connection.execute(text(f"{restored}; drop table icu.kept_{table}"))


def _scored_without_later_rows(store, as_of, forecaster) -> int:
    before = canonical.read_known(store, "mimic_iii", as_of)
    with store.begin() as connection:
        for table in ("observation", "stay_version"):
            gone = connection.execute(text(f"delete from icu.{table} where available_at > :t"), {"t": as_of})
            assert gone.rowcount > 0
    after = canonical.read_known(store, "mimic_iii", as_of)
    assert_equal(arrays(after), arrays(before))
    told, again = (
        forecast_stays(forecaster, of.take(of.stays["outtime"].isna().to_numpy())).numbers for of in (before, after)
    )
    pd.testing.assert_frame_equal(again, told, check_exact=True)
    return int((told["status"] == "scored").sum())


def test_a_late_result_appears_in_later_runs_only(store):
    """Rows that were stored hours after their time, of the whole demo."""
    with store.connect() as connection:
        late = connection.execute(
            text(
                "select stay_id, concept, observed_at, available_at from icu.observation where source = 'mimic_iii'"
                " and available_at - observed_at > interval '4 hours' order by available_at limit 20"
            )
        ).all()
    assert len(late) == 20
    for row in late[::5]:
        before = row.available_at.replace(minute=0, second=0, microsecond=0)
        assert row.observed_at < before < row.available_at
        there = arrays(canonical.read_known(store, "mimic_iii", before))
        with taken_out(store, row):
            assert_equal(arrays(canonical.read_known(store, "mimic_iii", before)), there)
        of = canonical.read_known(store, "mimic_iii", row.available_at).observations
        assert (of.observed_at[of.available_at == naive(row.available_at)] == naive(row.observed_at)).any()


@contextmanager
def taken_out(store, row):
    """Without this observation."""
    with store.begin() as connection:
        taken = connection.execute(
            text(
                "delete from icu.observation where source = 'mimic_iii' and stay_id = :s and concept = :c"
                " and observed_at = :o and available_at = :a returning *"
            ),
            {"s": row.stay_id, "c": row.concept, "o": row.observed_at, "a": row.available_at},
        )
        gone = dict(taken.mappings().one())
    try:
        yield
    finally:
        with store.begin() as connection:
            connection.execute(insert(observation).values(gone))


def test_a_corrected_value_changes_later_runs_only(store):
    """A value of one time that was stored twice with different numbers: the first stands until the second was stored."""
    query = (
        "select a.stay_id, a.concept, a.observed_at, a.available_at as first_at, b.available_at as available_at,"
        " a.value as first, b.value as second from icu.observation a join icu.observation b"
        " using (source, stay_id, concept, observed_at) where source = 'mimic_iii' and a.value <> b.value"
        " and b.available_at - a.available_at > interval '2 hours' order by 1, 2, 3, 4 limit 5"
    )
    with store.connect() as connection:
        corrected = connection.execute(text(query)).all()
    assert len(corrected) == 5
    for row in corrected:
        between = row.first_at.replace(minute=0, second=0) + HOUR
        assert row.first_at <= between < row.available_at
        before = arrays(canonical.read_known(store, "mimic_iii", between))
        with taken_out(store, row):
            assert_equal(arrays(canonical.read_known(store, "mimic_iii", between)), before)
        of = canonical.read_known(store, "mimic_iii", row.available_at).observations
        at = (of.observed_at == naive(row.observed_at)) & (of.available_at == naive(row.available_at))
        assert row.second in of.value[at]


def test_scrambled_labels_leave_the_inputs_as_they_are(store, hours):
    """Deaths, ends and lengths of stay of the source are mixed up from a moment on; what was known then is the same."""
    as_of = hours[len(hours) // 2]
    moment = as_of.replace(tzinfo=None) - timedelta(days=load_adapter("mimic_iii").shift_days)
    source = open_engine(load_settings().source("mimic_iii").url.get_secret_value())
    tables = (
        "icustays",
        "admissions",
        "patients",
        "transfers",
        "chartevents",
        "labevents",
        "outputevents",
        "inputevents_cv",
        "inputevents_mv",
    )
    with source.begin() as connection:
        connection.execute(text("drop schema if exists scrambled cascade; create schema scrambled"))
        for table in tables:
            connection.execute(text(f"create table scrambled.{table} as select * from mimiciii.{table}"))
        bound = {"t": moment}
        changed = connection.execute(
            text(
                "update scrambled.icustays set los = 100 * random(), outtime = case when outtime > :t"
                " then greatest(intime, :t) + random() * interval '60 days' else outtime end"
            ),
            bound,
        )
        assert changed.rowcount == 136
        connection.execute(
            text(
                "update scrambled.admissions set hospital_expire_flag = 1 - hospital_expire_flag,"
                " deathtime = case when deathtime > :t then null when deathtime is null and dischtime > :t then"
                " greatest(admittime, :t) + random() * interval '60 days' else deathtime end,"
                " dischtime = case when dischtime > :t then greatest(admittime, :t) + random() * interval '60 days'"
                " else dischtime end"
            ),
            bound,
        )
    ingest.fn("scrambled", as_of)
    assert_equal(
        arrays(canonical.read_known(store, "scrambled", as_of)), arrays(canonical.read_known(store, "mimic_iii", as_of))
    )


def test_outcomes_of_stays_that_ended_never_reach_the_inputs(store):
    """The labels of all ended stays swapped and moved: channels and static features of every hour are the same."""
    of = canonical.read_known(store, "mimic_iii", AFTER_ALL)
    rng = np.random.default_rng(0)
    scrambled = of.stays.assign(
        outcome=rng.permutation(of.stays["outcome"].to_numpy()),
        died_at=of.stays["outtime"] + pd.Timedelta(days=3),
        hospital_outtime=rng.permutation(of.stays["hospital_outtime"].to_numpy()),
        ends_at="hospital",
    )
    assert (scrambled["outcome"] != of.stays["outcome"]).sum() > 20
    assert_equal(arrays(Known(scrambled, of.observations, of.as_of)), arrays(of))


def test_a_longer_stay_has_the_same_hours_before(store):
    """The end moved by a day: all hours up to the true end are the same, so the length tells nothing."""
    of = canonical.read_known(store, "mimic_iii", AFTER_ALL)
    longer = of.stays.assign(outtime=of.stays["outtime"] + pd.Timedelta(days=1))
    grid, later = (make_grid(stays, of.observations, of.as_of) for stays in (of.stays, longer))
    scaler = fit_scaler(grid, static_features(of.stays), np.arange(len(of.stays)))
    true, moved = (make_windows(g, of.stays, scaler, WindowConfig()) for g in (grid, later))
    kept = np.concatenate(
        [np.arange(n) + start for n, start in zip(np.diff(true.offsets), moved.offsets[:-1], strict=True)]
    )
    last = true.offsets[1:] - 1
    inside = np.setdiff1d(np.arange(len(true.channels)), last)
    np.testing.assert_array_equal(moved.channels[kept][inside], true.channels[inside])
