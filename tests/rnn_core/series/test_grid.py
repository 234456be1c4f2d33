"""The hourly grid: which rows a stay has, and which observation lies in which row."""

import sqlite3

import numpy as np
import pandas as pd
import pytest
from builders import T0, at, observed, random_observations, random_stays, stays_frame
from hypothesis import given, settings
from hypothesis import strategies as st

from rnn_core.contracts.concepts import INDEX, NAMES
from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.frames import Grid, Observations
from rnn_core.series.grid import make_grid

HR = INDEX["heart_rate"]
QUARTERS = st.integers(min_value=-8, max_value=200).map(lambda quarter: quarter / 4)


def same_rows(one: Grid, other: Grid) -> bool:
    """Whether both grids hold the same bits."""
    arrays = ("offsets", "base", "last", "observed_hours", "count", "last_available")
    return all(
        np.array_equal(getattr(one, a), getattr(other, a), equal_nan=a not in ("offsets", "base")) for a in arrays
    )


@settings(deadline=None)
@given(intime=QUARTERS, outtime=st.none() | QUARTERS, as_of=st.none() | QUARTERS)
def test_a_stay_has_one_row_for_each_clock_hour_at_which_it_is_open(intime, outtime, as_of):
    if outtime is None and as_of is None:
        return
    grid = make_grid(
        stays_frame({"intime": intime, "outtime": outtime}), observed(), None if as_of is None else at(as_of)
    )
    hours = [
        t for t in range(-10, 60) if intime < t and (as_of is None or t <= as_of) and (outtime is None or t < outtime)
    ]
    assert grid.lengths.tolist() == [len(hours)]
    assert hours == [np.floor(intime) + 1 + h for h in range(len(hours))]


def test_a_value_available_on_the_hour_is_known_to_the_prediction_of_that_hour():
    grid = make_grid(
        stays_frame({"intime": 0.5, "outtime": 5}),
        observed((0, "heart_rate", 1.9, 2.0, 70.0), (0, "heart_rate", 1.95, 2.0 + 1e-6, 90.0)),
    )
    assert grid.last[:, HR].tolist()[1:3] == [70.0, 90.0]


def test_what_was_known_before_the_first_hour_lies_in_it():
    grid = make_grid(
        stays_frame({"intime": 10.5, "outtime": 14}),
        observed((0, "lactate", -30.0, -29.0, 3.0), (0, "heart_rate", 10.2, 10.3, 80.0)),
    )
    assert grid.count.tolist() == [2, 0, 0]
    assert grid.last[0, INDEX["lactate"]] == 3.0
    assert grid.observed_hours[0, INDEX["lactate"]] == -40.0
    assert np.isclose(grid.last_available[0], 0.3)


def test_what_becomes_available_after_the_last_row_is_left_out():
    grid = make_grid(
        stays_frame({"intime": 0, "outtime": 2.5}, {"intime": 0, "outtime": 3}),
        observed((0, "heart_rate", 1.0, 2.2, 99.0), (1, "heart_rate", 1.0, 1.5, 60.0)),
    )
    assert grid.count.sum() == 1
    assert grid.last[~np.isnan(grid.last)].tolist() == [60.0]


def test_the_value_that_became_available_last_wins_within_an_hour_even_if_it_is_older():
    stays = stays_frame({"intime": 0, "outtime": 4})
    grid = make_grid(stays, observed((0, "lactate", 0.9, 1.1, 2.0), (0, "lactate", 0.2, 1.8, 5.0)))
    assert grid.last[1, INDEX["lactate"]] == 5.0
    assert np.isclose(grid.observed_hours[1, INDEX["lactate"]], 0.2)
    assert grid.count[1] == 2


def test_of_values_that_became_available_together_the_one_observed_last_wins():
    grid = make_grid(
        stays_frame({"intime": 0, "outtime": 4}), observed((0, "lactate", 0.9, 1.5, 2.0), (0, "lactate", 0.3, 1.5, 5.0))
    )
    assert grid.last[1, INDEX["lactate"]] == 2.0


def test_a_correction_replaces_a_value_from_its_own_hour_on():
    grid = make_grid(
        stays_frame({"intime": 0, "outtime": 6}),
        observed((0, "sodium", 0.5, 1.5, 14.0), (0, "sodium", 0.5, 3.5, 140.0)),
    )
    sodium = grid.last[:, INDEX["sodium"]]
    assert sodium[[1, 3]].tolist() == [14.0, 140.0]
    assert np.isnan(sodium[[0, 2, 4]]).all()


def test_the_order_in_which_observations_arrive_does_not_matter():
    rng = np.random.default_rng(1)
    stays = random_stays(rng, 5)
    ordered = random_observations(rng, stays, 400, names=("heart_rate", "lactate"))
    order = rng.permutation(len(ordered))
    shuffled = Observations(
        *(getattr(ordered, a)[order] for a in ("stay", "concept", "observed_at", "available_at", "value"))
    )
    assert same_rows(make_grid(stays, ordered), make_grid(stays, shuffled))


def test_an_end_sets_the_number_of_rows_and_nothing_else():
    rng = np.random.default_rng(2)
    stays = random_stays(rng, 6)
    observations = random_observations(rng, stays, 500)
    as_of = at(45)
    opened = stays.assign(outtime=pd.NaT, outcome=None)
    full, cut = make_grid(opened, observations, as_of), make_grid(stays, observations, as_of)
    assert (cut.lengths < full.lengths).any()
    keep = np.concatenate([full.offsets[i] + np.arange(n) for i, n in enumerate(cut.lengths)])
    assert np.array_equal(full.last[keep], cut.last, equal_nan=True)
    assert np.array_equal(full.count[keep], cut.count)


def test_a_stay_that_ended_at_an_unknown_time_has_rows_until_its_last_observation():
    stays = stays_frame({"outcome": "died"}, {"outcome": "alive"}, {})
    grid = make_grid(stays, observed((0, "heart_rate", 3.0, 3.2, 50.0)), at(9))
    assert grid.lengths.tolist() == [4, 0, 9]


def test_stays_without_observations_are_rows_of_nothing():
    grid = make_grid(stays_frame({"outtime": 3}), observed())
    assert grid.last.shape == (2, len(NAMES))
    assert np.isnan(grid.last).all() and np.isnan(grid.last_available).all() and not grid.count.any()


def test_a_frame_without_stays_gives_an_empty_grid():
    grid = make_grid(stays_frame({"outtime": 3}).iloc[:0], observed())
    assert grid.n_stays == 0 and grid.last.shape == (0, len(NAMES))


@pytest.mark.parametrize("dtype", ["datetime64[ns]", "datetime64[s]", "datetime64[us, UTC]"])
def test_the_resolution_in_which_a_frame_keeps_its_times_does_not_matter(dtype):
    stays = stays_frame({"intime": 0.5, "outtime": 7.25}, {"intime": 1, "outtime": 3})
    observations = observed((0, "heart_rate", 2.0, 2.1, 70.0))
    other = stays.copy()
    for column in ("intime", "outtime"):
        times = stays[column].dt.tz_localize("UTC") if "UTC" in dtype else stays[column]
        other[column] = times.astype(dtype)
    assert same_rows(make_grid(stays, observations), make_grid(other, observations))


def test_hours_follow_the_clock_for_dates_before_1970_too():
    intime = np.datetime64("1954-07-01T10:20", "us")
    grid = make_grid(stays_frame({"intime": intime, "outtime": intime + np.timedelta64(130, "m")}), observed())
    assert grid.base[0] == np.datetime64("1954-07-01T10", "h")
    assert grid.lengths.tolist() == [2]


def test_an_open_stay_needs_the_time_at_which_it_was_known():
    with pytest.raises(ContractError, match="1 of 2 stays have no outtime"):
        make_grid(stays_frame({"outtime": 3}, {}), observed())


def test_a_stay_needs_an_intime():
    with pytest.raises(ContractError, match="1 of 1"):
        make_grid(stays_frame({"intime": None, "outtime": 4}), observed())


@pytest.mark.parametrize(
    ("column", "broken", "named"),
    [
        ("stay", 7, "stay row"),
        ("stay", -1, "stay row"),
        ("concept", len(NAMES), "concept"),
        ("value", np.nan, "not finite"),
        ("observed_at", np.datetime64("NaT"), "no observed_at"),
        ("available_at", np.datetime64("NaT"), "no available_at"),
    ],
)
def test_observations_that_break_their_contract_are_refused_by_name_and_count(column, broken, named):
    observations = observed((0, "heart_rate", 1.0, 1.0, 7777.0), (0, "heart_rate", 2.0, 2.0, 80.0))
    getattr(observations, column)[0] = broken
    with pytest.raises(ContractError, match=named) as error:
        make_grid(stays_frame({"outtime": 9}), observations)
    assert ": 1}" in str(error.value) and "7777" not in str(error.value)


def test_the_grid_equals_what_sql_finds_hour_by_hour():
    rng = np.random.default_rng(3)
    stays = random_stays(rng, 25)
    observations = random_observations(rng, stays, 4000, names=("heart_rate", "lactate", "sodium"))
    grid = make_grid(stays, observations)

    row = np.repeat(np.arange(len(stays)), grid.lengths)
    end = (grid.base[row].astype("datetime64[us]") - T0).astype(int) + 3_600_000_000 * (
        np.arange(len(row)) - grid.offsets[row] + 1
    )
    database = sqlite3.connect(":memory:")
    database.execute("create table hour (stay, row, ends_at, is_first)")
    database.executemany(
        "insert into hour values (?, ?, ?, ?)",
        zip(
            row.tolist(),
            range(len(row)),
            end.tolist(),
            np.isin(np.arange(len(row)), grid.offsets).tolist(),
            strict=True,
        ),
    )
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
    in_hour = """
        from hour join observation as o on o.stay = hour.stay and o.available_at <= hour.ends_at
         and (o.available_at > hour.ends_at - 3600000000 or hour.is_first)
    """
    counts = dict(database.execute(f"select hour.row, count(*) {in_hour} group by hour.row"))
    assert grid.count.tolist() == [counts.get(r, 0) for r in range(len(row))]

    newest = database.execute(
        f"""
        select row, concept, value, (observed_at - ends_at) / 3.6e9 from (
            select hour.row, hour.ends_at, o.*, row_number() over (
                partition by hour.row, o.concept order by o.available_at desc, o.observed_at desc) as n {in_hour}
        ) where n = 1 order by row, concept
        """
    ).fetchall()
    sql_row, sql_concept, value, before_end = (np.array(c) for c in zip(*newest, strict=True))
    grid_row, grid_concept = np.nonzero(~np.isnan(grid.last))
    assert np.array_equal(grid_row, sql_row) and np.array_equal(grid_concept, sql_concept)
    assert np.array_equal(grid.last[grid_row, grid_concept], value.astype(np.float32))
    observed_hours = before_end + (sql_row - grid.offsets[row[sql_row]] + 1)
    assert np.allclose(grid.observed_hours[grid_row, grid_concept], observed_hours, atol=1e-4)


def test_a_stay_without_rows_leaves_its_observations_to_nobody():
    """A stay that begins after `as_of` has no row; what was known of it before must not land in the next stay's."""
    stays = stays_frame({"intime": 50.0, "outtime": 60.0}, {"intime": 0.0, "outtime": 10.0})
    grid = make_grid(stays, observed((0, "heart_rate", 49.5, 49.5, 200.0), (1, "heart_rate", 3.5, 3.5, 80.0)), at(20))
    assert grid.lengths.tolist() == [0, 9]
    assert np.nanmax(grid.last) == 80.0 and grid.count.sum() == 1


def test_rows_end_where_they_are_no_longer_wanted():
    stays = stays_frame({"intime": 0.0, "outtime": 100.0})
    grid = make_grid(stays, observed((0, "heart_rate", 3.5, 3.5, 80.0)), until=np.array([at(28)]))
    assert grid.lengths.tolist() == [28]
