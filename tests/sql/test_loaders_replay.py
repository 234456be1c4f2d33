"""A replayed stay is the real one at another time: its hours, values and delays are those of the original."""

from datetime import timedelta

import builders_sql as b
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sqlalchemy import create_engine, text

from rnn_core.contracts.errors import ForecastError
from rnn_core.contracts.frames import HOUR
from sql.intake.adapter import load_adapter
from sql.intake.reading import BEGINNING, read_observations, read_stays
from sql.loaders import replay

LATER = b.NOW + timedelta(days=900)
# Whole hours forward and back, one stay twice, both sources in one hospital.
SHIFTS = [
    ("ward", "s1", "Unit 1", 5000),
    ("other", "t1", "Unit 2", 7),
    ("ward", "s1", "Unit 2", -30),
    ("ward", "s2", "Unit 1", 1),
]
PLAN = pd.DataFrame(SHIFTS, columns=["source", "stay_id", "unit", "shift"]).assign(
    shift=lambda plan: plan["shift"].to_numpy().astype("timedelta64[h]").astype("timedelta64[us]")
)
OBSERVATION = (
    "insert into icu.observation (source, stay_id, concept, observed_at, available_at, value, batch_id)"
    " values (:source, :stay_id, :concept, :observed_at, :available_at, :value, :batch_id)"
)


@pytest.fixture
def store(engine):
    """Three whole stays of two sources with delays and a correction; and one that is open."""
    for source, stays in (("ward", ("s1", "s2", "open")), ("other", ("t1",))):
        batch = b.add_batch(engine, source=source)
        for number, stay in enumerate(stays):
            begin = b.NOW - timedelta(days=9, minutes=17 * number + 3)
            b.add_stay(engine, stay, batch_id=batch, source=source, intime=begin, available_at=begin, unit="real")
            if stay != "open":
                end = begin + timedelta(hours=50, minutes=21)
                b.end_stay(
                    engine,
                    stay,
                    source=source,
                    intime=begin,
                    outtime=end,
                    outcome="died",
                    died_at=end,
                    available_at=end + timedelta(minutes=9),
                )
            with engine.begin() as connection:
                for hour, delay in ((1, 0), (1, 3), (30.25, 0.5)):
                    at = begin + timedelta(hours=hour)
                    row = {"source": source, "stay_id": stay, "concept": "sodium", "observed_at": at, "batch_id": batch}
                    row |= {"available_at": at + timedelta(hours=delay), "value": 130 + hour + delay / 7}
                    connection.execute(text(OBSERVATION), row)
    return engine


def read(engine, which) -> pd.DataFrame:
    rows = which(load_adapter("replay"), engine, BEGINNING, LATER)
    return pa.Table.from_batches(rows).to_pandas().sort_values(["stay_id", "available_at"], ignore_index=True)


def test_a_replayed_stay_keeps_its_hours_values_and_delays_under_new_ids(store):
    pool = replay.read_pool(store, ["ward", "other"], b.NOW)
    assert set(pool["stay_id"]) == {"s1", "s2", "t1"}, "an open stay is not whole"
    said = []
    report = replay.load(store, store, PLAN, {"Unit 1": 3, "Unit 2": 1}, '{"seed": 0}', progress=said.append)
    assert report.rows == {"replay_stay": 8, "replay_value": 12, "replay_unit": 2, "replay_process": 1}
    assert said == ["4 of 4 stays, 12 values written"]
    stays, values = read(store, read_stays), read(store, read_observations)
    assert stays["stay_id"].unique().tolist() == ["R000001", "R000002", "R000003", "R000004"]
    assert stays["patient_id"].str[1:].equals(stays["stay_id"].str[1:])
    for number, planned in enumerate(PLAN.itertuples(), start=1):
        versions = b.rows(
            store,
            "select * from icu.stay_version where source = :s and stay_id = :i order by available_at",
            s=planned.source,
            i=planned.stay_id,
        )
        moved = stays[stays["stay_id"] == f"R{number:06d}"]
        assert set(moved["unit"]) == {planned.unit} and len(moved) == 2
        for real, row in zip(versions, moved.itertuples(), strict=True):
            for name in ("available_at", "intime", "outtime", "died_at"):
                was, now = pd.Timestamp(real[name]), pd.Timestamp(getattr(row, name))
                assert (pd.isna(was) and pd.isna(now)) or now - was == planned.shift, name
            for name in ("outcome", "sex", "age_years", "admission_type", "unit_type"):
                assert getattr(row, name) == real[name] or (pd.isna(getattr(row, name)) and real[name] is None), name
        charted = b.rows(
            store,
            "select * from icu.observation where source = :s and stay_id = :i order by available_at",
            s=planned.source,
            i=planned.stay_id,
        )
        own = values[values["stay_id"] == f"R{number:06d}"]
        assert own["value"].astype(float).tolist() == [row["value"] for row in charted]
        for name in ("observed_at", "available_at"):
            assert [at - row[name] for at, row in zip(own[name], charted, strict=True)] == [planned.shift] * 3
    assert set(values["variable"]) == {"sodium"}
    with store.connect() as connection:
        assert replay.read_process(connection) == '{"seed": 0}'
    assert PLAN["shift"].mod(np.timedelta64(HOUR)).eq(pd.Timedelta(0)).all()
    replay.load(store, store, PLAN.iloc[:1], {"Unit 1": 3}, "{}")
    assert read(store, read_stays)["stay_id"].unique().tolist() == ["R000001"], "an earlier load is replaced"


def test_sources_without_whole_unit_stays_are_refused_in_one_sentence(store):
    with pytest.raises(ForecastError, match="no whole stay of nobody: load and ingest it first"):
        replay.read_pool(store, ["ward", "nobody"], b.NOW)
    with pytest.raises(ForecastError, match="replay needs --from"):
        replay.read_pool(store, [], b.NOW)
    with store.begin() as connection:
        connection.execute(text("update icu.stay_version set ends_at = 'hospital' where source = 'other'"))
    with pytest.raises(ForecastError, match="stays of other end with the hospital stay"):
        replay.read_pool(store, ["other"], b.NOW)
    with pytest.raises(ForecastError, match="loaded into PostgreSQL; its URL is one of sqlite"):
        replay.load(create_engine("sqlite://"), store, PLAN, {}, "{}")


CROWD = """
insert into icu.stay_version (source, stay_id, available_at, patient_id, unit, intime, outtime, outcome, ends_at, batch_id)
select 'ward', 'c' || n, begin + n * interval '1 hour', 'c' || n, 'real', begin, begin + n * interval '1 hour', 'alive',
    'unit', (select max(batch_id) from icu.batch where source = 'ward')
from generate_series(1, 60) n, lateral (select :now - n * interval '401 minutes' - interval '9 days' as begin)
"""


def test_the_command_fills_the_hospital_and_says_what_is_real_and_what_is_made_up(store, monkeypatch):
    from flows.public_data.datasets import describe, load_replay
    from flows.runtime import clock
    from flows.runtime.settings import load_settings

    url = store.url.render_as_string(hide_password=False)
    for name in ("ICU_DATABASE_URL", "ICU_SOURCES__REPLAY__URL"):
        monkeypatch.setenv(name, url)
    monkeypatch.setenv("ICU_SOURCES__WARD__ADAPTER", "site")
    monkeypatch.setattr(clock, "slot", lambda _: b.NOW)
    load_settings.cache_clear()
    with store.begin() as connection:
        connection.execute(text(CROWD), {"now": b.NOW})
    try:
        reports = [load_replay(["ward"], beds=[2, 3], days=6, seed=0) for _ in range(2)]
    finally:
        load_settings.cache_clear()
    assert reports[0] == reports[1]
    said = describe(reports[0])
    for part in (
        "Unit 1 (2 beds), Unit 2 (3 beds)",
        "Made up: units, beds, ids",
        "Real: the stays",
        "from 62 of ward",
        "copies",
    ):
        assert part in said
    stays = read(store, read_stays)
    assert set(stays["unit"]) == {"Unit 1", "Unit 2"} and stays["stay_id"].nunique() > 5
    ended = stays.dropna(subset="outtime")
    for hour in pd.date_range("2025-01-06", "2025-01-12", freq="h", tz="UTC"):
        is_in = ended[(ended["intime"] <= hour) & (ended["outtime"] > hour)]["unit"].value_counts()
        assert is_in.get("Unit 1", 0) <= 2 and is_in.get("Unit 2", 0) <= 3
    with store.connect() as connection:
        assert "burst_shape" in replay.read_process(connection)
