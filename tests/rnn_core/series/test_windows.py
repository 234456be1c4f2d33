"""Windows: no look-ahead, equal in bulk and in replay, equal to SQL, and cut as the config says."""

import sqlite3
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders import T0, at, observed, plain_scaler, random_observations, random_stays, stays_frame, windows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from rnn_core.contracts.concepts import BY_NAME, INDEX
from rnn_core.contracts.config import WindowConfig
from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.frames import Observations, Windows
from rnn_core.series import windows as windows_module
from rnn_core.series.grid import make_grid
from rnn_core.series.scaling import fit_scaler, static_features
from rnn_core.series.windows import (
    BUCKETS,
    TIME_CHANNELS,
    batch_rows,
    bucket_lengths,
    gather_batch,
    last_predictions,
    make_windows,
)

# Some carried for ever, some for 12 or 24 hours, some on a log scale.
MIXED = ("heart_rate", "lactate", "fio2", "urine", "mechanical_ventilation", "norepinephrine")
SHORT = WindowConfig(concepts=MIXED, chunk_hours=12, first_hour=4)
PER_ROW = ("channels", "prediction_hour", "n_observations", "hours_since_last")


def channel_names(config: WindowConfig) -> tuple[str, ...]:
    """Names of the channels of windows, in order."""
    per_concept = (f"{name}.{kind}" for kind in ("value", "observed", "age") for name in config.concepts)
    return (*per_concept, *TIME_CHANNELS)


def channel(windows: Windows, name: str, config: WindowConfig) -> np.ndarray:
    return windows.channels[:, channel_names(config).index(name)]


def one_stay(hours: float, *rows: tuple, names: tuple[str, ...] = MIXED, **stay) -> tuple[Windows, WindowConfig]:
    """Windows of one stay from `T0` on with observations (concept, observed at, available at, value)."""
    config = replace(SHORT, concepts=names)
    return windows_of(stays_frame({"outtime": hours} | stay), observed(*((0, *r) for r in rows)), config=config), config


@pytest.fixture(scope="module")
def cohort():
    """Stays of up to five chunks with late results and corrections, and a scaler fitted on them."""
    rng = np.random.default_rng(11)
    stays = random_stays(rng, 12)
    stays.loc[3, "outtime"] = stays.loc[3, "intime"] + pd.Timedelta(hours=57.3)
    observations = random_observations(rng, stays, 350, names=MIXED)
    scaler = fit_scaler(make_grid(stays, observations), static_features(stays), np.arange(len(stays)))
    return stays, observations, scaler


def known_at(stays: pd.DataFrame, as_of: np.datetime64) -> pd.DataFrame:
    """The stays that had begun at `as_of`, without the ends that were not known then."""
    ended = stays["outtime"] <= as_of
    hidden = stays.assign(outtime=stays["outtime"].where(ended), outcome=stays["outcome"].where(ended))
    return hidden[stays["intime"] < as_of]


def test_windows_in_bulk_equal_the_windows_of_single_runs_replayed_hour_by_hour(cohort):
    stays, observations, scaler = cohort
    bulk = windows_of(stays, observations, config=SHORT, scaler=scaler)
    window_of_row = {row: w for w in range(len(bulk)) for row in range(bulk.score_from[w], bulk.stop[w])}
    replayed, long_stays = set(), set()
    first, last = stays["intime"].min().floor("h"), stays["outtime"].max()
    for as_of in pd.date_range(first, last, freq="h").to_numpy("datetime64[us]"):
        known = known_at(stays, as_of)
        renumber = np.full(len(stays), -1)
        renumber[known.index] = np.arange(len(known))
        seen = observations.known_at(as_of)
        of_known = renumber[seen.stay] >= 0
        seen = Observations(
            renumber[seen.stay[of_known]].astype(np.int32),
            *(getattr(seen, a)[of_known] for a in ("concept", "observed_at", "available_at", "value")),
        )
        run = windows_of(known, seen, as_of, SHORT, scaler)
        for w, row in zip(*last_predictions(run), strict=True):
            stay = known.index[run.stay[w]]
            if known.loc[stay, "outtime"] <= as_of:
                continue
            bulk_row = row - run.offsets[run.stay[w]] + bulk.offsets[stay]
            bulk_window = window_of_row[bulk_row]
            start = bulk.start[bulk_window]
            assert row - run.start[w] == bulk_row - start
            assert np.array_equal(run.channels[run.start[w] : row + 1], bulk.channels[start : bulk_row + 1])
            assert np.array_equal(run.static[run.stay[w]], bulk.static[stay])
            assert all(getattr(run, a)[row] == getattr(bulk, a)[bulk_row] for a in PER_ROW[1:])
            replayed.add(bulk_row)
            long_stays |= {stay} if start > bulk.offsets[stay] else set()
    assert replayed == set(window_of_row), "every prediction of the bulk windows was made by one single run"
    assert len(long_stays) > 3


@pytest.mark.parametrize("hour", [6.0, 17.5, 31.0])
def test_nothing_that_becomes_known_later_changes_a_row(cohort, hour):
    stays, observations, scaler = cohort
    as_of = at(hour)
    before = windows_of(stays, observations, config=SHORT, scaler=scaler)
    rng = np.random.default_rng(12)
    later = stays["outtime"] > as_of
    scrambled = stays.assign(
        outtime=stays["outtime"].where(~later, as_of + pd.to_timedelta(1 + 90 * rng.random(len(stays)), unit="h")),
        outcome=stays["outcome"].where(~later, pd.Series(rng.choice(["alive", "died"], len(stays)))),
        died_at=stays["intime"],
    )
    assert later.any() and len(observations.known_at(as_of)) < len(observations)
    after = windows_of(scrambled, observations.known_at(as_of), config=SHORT, scaler=scaler)
    for stay in range(len(stays)):
        ends = before.offsets[stay] + np.arange(before.offsets[stay + 1] - before.offsets[stay])
        known = stays["intime"].iloc[stay].floor("h") + pd.to_timedelta(1 + np.arange(len(ends)), unit="h") <= as_of
        rows = np.flatnonzero(known)
        for name in PER_ROW:
            one = getattr(before, name)[before.offsets[stay] + rows]
            other = getattr(after, name)[after.offsets[stay] + rows]
            assert np.array_equal(one, other), name


def test_windows_do_not_depend_on_the_blocks_they_are_made_in(cohort, monkeypatch):
    stays, observations, scaler = cohort
    whole = windows_of(stays, observations, config=SHORT, scaler=scaler)
    monkeypatch.setattr(windows_module, "_BLOCK_ROWS", 7)
    blocks = windows_of(stays, observations, config=SHORT, scaler=scaler)
    assert all(np.array_equal(getattr(whole, name), getattr(blocks, name)) for name in PER_ROW)


def test_carrying_forward_equals_what_sql_finds_at_each_prediction_time(cohort):
    stays, observations, _ = cohort
    windows = windows_of(stays, observations, config=SHORT)
    lengths = np.diff(windows.offsets)
    row_stay = np.repeat(np.arange(len(stays)), lengths)
    base = (stays["intime"].dt.floor("h").to_numpy("datetime64[us]") - T0).astype(int)
    ends = base[row_stay] + 3_600_000_000 * (np.arange(len(row_stay)) - windows.offsets[row_stay] + 1)
    database = sqlite3.connect(":memory:")
    database.execute("create table prediction (row, stay, at)")
    database.executemany(
        "insert into prediction values (?, ?, ?)",
        zip(range(len(row_stay)), row_stay.tolist(), ends.tolist(), strict=True),
    )
    database.execute("create table carry (concept, hours)")
    database.executemany("insert into carry values (?, ?)", [(INDEX[n], BY_NAME[n].carry_hours) for n in MIXED])
    database.execute("create table observation (stay, concept, observed_at, available_at, value)")
    database.executemany(
        "insert into observation values (?, ?, ?, ?, ?)",
        zip(
            observations.stay.tolist(),
            observations.concept.tolist(),
            (observations.observed_at - T0).astype(int).tolist(),
            (observations.available_at - T0).astype(int).tolist(),
            observations.value.tolist(),
            strict=True,
        ),
    )
    database.execute("create index known on observation (stay, available_at)")
    found = database.execute(
        """
        with known as (
            select p.row, p.at, o.*, row_number() over (
                partition by p.row, o.concept order by o.available_at desc, o.observed_at desc) as n
            from prediction as p join observation as o on o.stay = p.stay and o.available_at <= p.at
        ),
        newest as (
            -- the prediction that saw it first: how many hours it has been carried since
            select known.*, (known.at - (select min(e.at) from prediction as e
                where e.stay = known.stay and e.at >= known.available_at)) / 3600000000 as carried
            from known where n = 1
        )
        select row, newest.concept, (at - observed_at) / 3.6e9 as age, carried = 0 as in_hour,
            case when carry.hours is null or carried <= carry.hours then value end as value
        from newest join carry using (concept)
        """
    ).fetchall()
    n = len(MIXED)
    shape = (len(row_stay), n)
    value, seen, age = np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.ones(shape)
    for row, concept, hours, in_hour, newest in found:
        c = MIXED.index(next(name for name in MIXED if INDEX[name] == concept))
        value[row, c] = 0 if newest is None else plain_scaler().scale_values(np.array([newest]), np.array([concept]))[0]
        seen[row, c] = in_hour
        age[row, c] = np.log1p(min(max(hours, 0), 168)) / np.log1p(168)
    assert np.array_equal(windows.channels[:, :n], value)
    assert np.array_equal(windows.channels[:, n : 2 * n], seen)
    assert np.allclose(windows.channels[:, 2 * n : 3 * n], age, atol=1e-5)
    assert 0 < np.count_nonzero(value) < np.count_nonzero(age < 1), "some values are no longer carried"

    known = dict(
        database.execute(
            """select row, count(*) from prediction as p join observation as o
               on o.stay = p.stay and o.available_at <= p.at group by row"""
        )
    )
    assert windows.n_observations.tolist() == [known.get(row, 0) for row in range(len(row_stay))]


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    intime_minutes=st.sampled_from([0, 1, 20, 59]),
    chunk=st.integers(1, 15),
    first_hour=st.integers(0, 20),
)
def test_every_prediction_is_scored_once_and_sees_what_the_config_says(lengths, intime_minutes, chunk, first_hour):
    late = intime_minutes / 60
    stays = stays_frame(*({"intime": late, "outtime": max(late, n + 0.999)} for n in lengths))
    windows = windows_of(stays, config=WindowConfig(concepts=("ldh",), chunk_hours=chunk, first_hour=first_hour))
    assert np.diff(windows.offsets).tolist() == lengths
    scored = {}
    for w in range(len(windows)):
        stay = windows.stay[w]
        assert windows.offsets[stay] <= windows.start[w] <= windows.score_from[w] < windows.stop[w]
        assert windows.stop[w] <= windows.offsets[stay + 1]
        for row in range(windows.score_from[w], windows.stop[w]):
            key = (stay, row - windows.offsets[stay])
            assert key not in scored
            scored[key] = windows.start[w] - windows.offsets[stay]
    expected = {
        (stay, h): max(0, (h // chunk - 1) * chunk)
        for stay, length in enumerate(lengths)
        for h in range(length)
        if h + 1 - late >= first_hour - 1e-9
    }
    assert scored == expected


def test_a_value_is_carried_no_longer_than_its_concept_allows_while_its_age_goes_on():
    windows, config = one_stay(20, ("mechanical_ventilation", 0.5, 0.5, 1.0), ("heart_rate", 0.5, 0.5, 80.0))
    assert BY_NAME["mechanical_ventilation"].carry_hours == 12 and BY_NAME["heart_rate"].carry_hours is None
    assert channel(windows, "mechanical_ventilation.value", config).tolist() == [1.0] * 13 + [0.0] * 6
    assert channel(windows, "heart_rate.value", config).tolist() == [80.0] * 19
    age = channel(windows, "mechanical_ventilation.age", config)
    assert (np.diff(age) > 0).all() and age[-1] < 1


def test_a_late_result_is_used_when_it_is_known_and_is_as_old_as_its_sample():
    windows, config = one_stay(9, ("lactate", 1.0, 4.5, np.e - 1))
    assert channel(windows, "lactate.value", config).tolist() == pytest.approx([0] * 4 + [1] * 4)
    age = np.expm1(channel(windows, "lactate.age", config) * np.log1p(168))
    assert age.tolist() == pytest.approx([168] * 4 + [4, 5, 6, 7], rel=1e-4)


def test_an_observation_dated_ahead_of_its_hour_is_new_rather_than_of_negative_age():
    windows, config = one_stay(6, ("lactate", 5.5, 1.5, 2.0))
    assert channel(windows, "lactate.age", config).tolist()[1:4] == [0, 0, 0]


def test_one_stay_never_reads_the_values_of_the_stay_before_it():
    stays = stays_frame({"outtime": 6}, {"outtime": 6}, {"outtime": 6})
    windows = windows_of(stays, observed((0, "heart_rate", 1, 1, 80.0), (2, "heart_rate", 3, 3, 60.0)), config=SHORT)
    assert channel(windows, "heart_rate.value", SHORT)[5:].tolist() == [0] * 5 + [0, 0] + [60] * 3
    assert (channel(windows, "heart_rate.age", SHORT)[5:12] == 1).all()
    assert windows.n_observations.tolist() == [1] * 5 + [0] * 5 + [0, 0, 1, 1, 1]
    hours = np.array([1, 2, 3, 4, 5])
    expected = [*1 / hours, *np.zeros(5), *np.array([0, 0, 1, 1, 1]) / hours]
    np.testing.assert_allclose(windows.values_per_hour(np.arange(15)), expected)


def test_the_density_of_observation_is_that_of_the_last_day():
    windows, _ = one_stay(30, ("heart_rate", 0.5, 0.5, 80.0), ("heart_rate", 3, 3, 80.0))
    np.testing.assert_allclose(windows.values_per_hour(np.array([5, 23, 24, 27])), [2 / 6, 2 / 24, 1 / 24, 0])


def test_values_are_carried_across_chunk_starts():
    windows, config = one_stay(40, ("heart_rate", 1, 1, 80.0))
    assert (channel(windows, "heart_rate.value", config) == 80).all()


def test_a_stay_without_any_observation_has_defined_windows(cohort):
    _, _, scaler = cohort
    windows = windows_of(stays_frame({"outtime": 30}), config=WindowConfig(chunk_hours=12), scaler=scaler)
    assert len(windows) == 2
    assert np.isfinite(windows.channels).all() and np.isfinite(windows.static).all()
    assert not windows.n_observations.any() and np.isinf(windows.hours_since_last).all()
    n = len(WindowConfig().concepts)
    assert not windows.channels[:, : 2 * n].any() and (windows.channels[:, 2 * n : 3 * n] == 1).all()


def test_hours_since_last_run_from_the_moment_anything_became_available():
    windows, _ = one_stay(7, ("heart_rate", -3, -2.5, 80.0), ("ldh", 1.0, 3.25, 300.0), names=("heart_rate",))
    assert windows.hours_since_last.tolist() == [3.5, 4.5, 5.5, 0.75, 1.75, 2.75]


def test_time_channels_follow_the_clock_and_the_elapsed_stay():
    config = WindowConfig(concepts=("heart_rate",), chunk_hours=200)
    stays = stays_frame({"intime": 4.25, "outtime": 204.5})
    windows = windows_of(stays, observed((0, "heart_rate", 5, 5.5, 80.0), (0, "ldh", 5, 5.5, 99.0)), config=config)
    assert windows.prediction_hour[:2].tolist() == [0.75, 1.75]
    assert channel(windows, "hours_in_stay", config)[[0, -1]].tolist() == pytest.approx([0.75 / 168, 1])
    assert channel(windows, "log_hours_in_stay", config)[1] == pytest.approx(np.log1p(1.75) / np.log1p(168))
    assert channel(windows, "log_count", config)[:3].tolist() == pytest.approx([0, np.log(3), 0])
    six, noon = 1, 7  # rows that end at 06:00 and at 12:00 UTC
    assert channel(windows, "hour_of_day_sin", config)[[six, noon]].tolist() == pytest.approx([1, 0], abs=1e-6)
    assert channel(windows, "hour_of_day_cos", config)[[six, noon]].tolist() == pytest.approx([0, -1], abs=1e-6)


def test_channels_are_those_of_the_configured_concepts_in_their_order(cohort):
    stays, observations, scaler = cohort
    full = WindowConfig()
    few = replace(full, concepts=("urine", "heart_rate"))
    wide = windows_of(stays, observations, config=full, scaler=scaler)
    narrow = windows_of(stays, observations, config=few, scaler=scaler)
    assert narrow.channels.shape[1] == len(channel_names(few)) == 3 * 2 + 5
    assert channel_names(few)[:4] == ("urine.value", "heart_rate.value", "urine.observed", "heart_rate.observed")
    for name in channel_names(few):
        assert np.array_equal(channel(wide, name, full), channel(narrow, name, few)), name


def test_a_config_with_an_unknown_concept_is_refused():
    with pytest.raises(ContractError, match="phlogiston"):
        windows_of(stays_frame({"outtime": 5}), config=WindowConfig(concepts=("phlogiston",)))


def test_a_grid_of_other_stays_is_refused():
    stays = stays_frame({"outtime": 5}, {"outtime": 5})
    with pytest.raises(ContractError, match="2 stays, the frame 1"):
        make_windows(make_grid(stays, observed()), stays.iloc[:1], plain_scaler(), SHORT)


def test_the_last_prediction_of_each_stay_is_its_newest_row():
    stays = stays_frame({"outtime": 40}, {"outtime": 3}, {"outtime": 10})
    windows = windows_of(stays, config=SHORT)
    window, row = last_predictions(windows)
    assert windows.stay[window].tolist() == [0, 2]
    assert row.tolist() == [38, 39 + 2 + 8]
    assert (windows.score_from[window] <= row).all() and (row < windows.stop[window]).all()


def test_there_are_no_last_predictions_where_no_stay_is_old_enough():
    window, row = last_predictions(windows_of(stays_frame({"outtime": 3}), config=SHORT))
    assert len(window) == len(row) == 0


def test_a_batch_holds_its_windows_and_zeros_behind_them(cohort):
    stays, observations, scaler = cohort
    windows = windows_of(stays, observations, config=SHORT, scaler=scaler)
    chosen = np.random.default_rng(0).permutation(len(windows))
    x, static, valid = gather_batch(windows, chosen, 25)
    rows, valid_too, scored = batch_rows(windows, chosen, 25)
    assert x.shape == (len(chosen), 25, windows.channels.shape[1]) and x.dtype == np.float32
    assert np.array_equal(valid, valid_too)
    for i, w in enumerate(chosen):
        n = windows.stop[w] - windows.start[w]
        assert valid[i].tolist() == [True] * n + [False] * (25 - n)
        assert np.array_equal(x[i, :n], windows.channels[windows.start[w] : windows.stop[w]])
        assert not x[i, n:].any()
        assert np.array_equal(static[i], windows.static[windows.stay[w]])
        assert rows[i][scored[i]].tolist() == list(range(windows.score_from[w], windows.stop[w]))


def test_a_batch_that_is_too_short_for_a_window_is_refused():
    windows = windows_of(stays_frame({"outtime": 20}), config=SHORT)
    with pytest.raises(ContractError, match="up to 19 hours"):
        gather_batch(windows, np.array([0]), 18)


@given(st.integers(0, 2000))
def test_a_bucket_is_the_smallest_that_holds_a_length(length):
    bucket = int(bucket_lengths(np.array([length]))[0])
    assert bucket >= length
    if length <= BUCKETS[-1]:
        assert bucket == min(b for b in BUCKETS if b >= length)
    else:
        assert bucket % BUCKETS[-1] == 0 and bucket - length < BUCKETS[-1]
