"""The census forecast: consistent with its parts, covered in a world whose truth is known, never ahead of its time."""

from copy import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders_census import World, at

from rnn_core.census.census import forecast_census
from rnn_core.contracts.census import CENSUS_COLUMNS, CENSUS_HORIZONS, HOSPITAL, KnownUnits, horizons_at
from rnn_core.contracts.config import HORIZON_EDGES
from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.frames import DIED
from rnn_core.statistics.distribution import Distribution
from rnn_core.statistics.scored_stays import ScoredStays

NOBODY_SCORED = ScoredStays([], Distribution(np.full((1, 2, 2), 0.25), (0, 200)).take(np.zeros(0, int)))
DAYS = 120
NOW = DAYS * 24 + 8


@pytest.fixture(scope="module")
def world():
    return World(np.random.default_rng(0), [0.06, 0.12, 0.2], DAYS + 8)


@pytest.fixture(scope="module")
def known(world):
    return world.known(NOW)


def scored(known: KnownUnits, ids, seed: int = 0) -> ScoredStays:
    masses = np.random.default_rng(seed).dirichlet(np.ones(2 * len(HORIZON_EDGES)), len(ids))
    return ScoredStays(list(ids), Distribution(masses.reshape(len(ids), -1, 2), HORIZON_EDGES))


def open_ids(known: KnownUnits, unit: str | None = None) -> list[str]:
    stays = known.stays[known.stays["outtime"].isna()]
    return stays.loc[stays["unit"].eq(unit) | (unit is None), "stay_id"].tolist()


def of(frame: pd.DataFrame, unit: str) -> pd.DataFrame:
    return frame[frame["unit"] == unit].reset_index(drop=True)


def test_a_unit_and_the_hospital_have_a_row_per_horizon_and_their_numbers_agree(world, known):
    with_beds = replace(known, beds=known.beds.assign(beds=[8, 12, 20], staffed_beds=[np.nan, 10, np.nan]))
    frame = forecast_census(with_beds, scored(known, open_ids(known)))
    assert list(frame.columns) == list(CENSUS_COLUMNS)
    assert frame["unit"].unique().tolist() == ["U0", "U1", "U2", HOSPITAL]
    assert frame["horizon_hours"].tolist() == list(CENSUS_HORIZONS) * 4 and (frame["status"] == "scored").all()
    units, whole = frame[frame["unit"] != HOSPITAL], of(frame, HOSPITAL)
    for column in ("n_present", "expected_census", "expected_arrivals", "expected_discharges", "expected_deaths"):
        sums = units.groupby("horizon_hours")[column].sum().to_numpy(float)
        np.testing.assert_allclose(sums, whole[column].to_numpy(float), atol=1e-7)
    assert (whole["census_p90"] < units.groupby("horizon_hours")["census_p90"].sum().to_numpy()).all()
    for row in frame.itertuples():
        p = np.asarray(row.census_probabilities)
        assert abs(p.sum() - 1) < 1e-8 and p @ np.arange(len(p)) == pytest.approx(row.expected_census, abs=1e-6)
        usable = row.beds if pd.isna(row.staffed_beds) else row.staffed_beds
        assert row.prob_full == pytest.approx(p[usable:].sum(), abs=1e-8)
        assert row.prob_free_2 == pytest.approx(p[: usable - 1].sum(), abs=1e-8)
        assert row.prob_free_1 + row.prob_full == pytest.approx(1)
        assert np.cumsum(p)[row.census_p75] >= 0.75 > np.cumsum(p)[row.census_p75] - p[row.census_p75]
    assert (whole["beds"] == 40).all() and (whole["staffed_beds"] == 38).all()
    np.testing.assert_array_equal(of(frame, "U1")["n_present"], world.census(NOW)[1])


@pytest.mark.parametrize(
    ("slot", "zone", "ahead"),
    [
        ("2026-05-10T14", "UTC", 18),
        ("2026-05-10T22", "Europe/Berlin", 32),
        ("2026-03-28T12", "Europe/Berlin", 18),
        ("2026-10-24T12", "Europe/Berlin", 19),
        ("2026-05-10T14", "Asia/Kolkata", 12),
        ("2026-05-10T19", "Asia/Kolkata", 31),
    ],
)
def test_tomorrow_at_8_is_one_of_the_horizons_on_the_hospitals_clock(slot, zone, ahead):
    assert set(horizons_at(np.datetime64(slot, "us"), zone)) == {*CENSUS_HORIZONS, ahead}


def test_a_horizon_more_leaves_the_others_as_they_are_and_lies_between_its_neighbours(known):
    given = scored(known, open_ids(known)[:9])
    horizons = tuple(sorted({*CENSUS_HORIZONS, 30}))
    more, frame = forecast_census(known, given, horizons=horizons), forecast_census(known, given)
    shared = more[more["horizon_hours"].isin(CENSUS_HORIZONS)].reset_index(drop=True)
    pd.testing.assert_frame_equal(shared, frame)
    whole = of(more, HOSPITAL).set_index("horizon_hours")
    assert (whole["expected_discharges"].diff().dropna() > 0).all() and len(whole) == len(CENSUS_HORIZONS) + 1


def test_each_patient_leaves_as_the_stay_forecast_says_and_one_without_as_a_stay_so_old(known):
    ids = open_ids(known, "U2")
    given = scored(known, ids[:5])
    frame, bare = of(forecast_census(known, given), "U2"), of(forecast_census(known, NOBODY_SCORED), "U2")
    rest = of(forecast_census(without(known, ids[:5]), NOBODY_SCORED), "U2")
    for column, h in enumerate(CENSUS_HORIZONS):
        leave = given.forecast.discharge_probability(h).sum()
        # One open stay less or more hardly changes the curve of the unit.
        assert frame["expected_discharges"][column] - rest["expected_discharges"][column] == pytest.approx(
            leave, abs=0.1
        )
        died = given.forecast.cumulative_incidence(h, DIED).sum()
        assert frame["expected_deaths"][column] == pytest.approx(died, abs=1e-6), "in this world nobody dies"
    assert not np.allclose(frame["expected_discharges"], bare["expected_discharges"])
    assert bare["expected_deaths"].max() == 0
    silent = forecast_census(known, replace(given, forecasts_death=False))
    assert silent["expected_deaths"].isna().all()
    every_end = frame["expected_discharges"] + frame["expected_deaths"]
    np.testing.assert_allclose(of(silent, "U2")["expected_discharges"], every_end)
    np.testing.assert_array_equal(of(silent, "U2")["expected_census"], frame["expected_census"])


def without(known: KnownUnits, ids) -> KnownUnits:
    return replace(known, stays=known.stays[~known.stays["stay_id"].isin(ids)].reset_index(drop=True))


def covered(frame: pd.DataFrame, world: World, hours: float, rng: np.random.Generator) -> list[tuple]:
    """Unit, horizon and where the census that came is in its forecast, randomised, from 0 to 1."""
    found = []
    for row in frame[frame["status"] == "scored"].itertuples():
        came = world.census(hours + row.horizon_hours)
        n = came.sum() if row.unit == HOSPITAL else came[int(row.unit[1:])]
        p = np.append(row.census_probabilities, np.zeros(n + 1))
        found.append((row.unit, row.horizon_hours, p[:n].sum() + rng.random() * p[n]))
    return found


@pytest.fixture(scope="module")
def places():
    """Where the census that came was in its forecast, in a world of quiet units, of units with bursts, and of full ones."""
    rates, beds = [0.09, 0.15, 0.28] * 6, [None] * 12 + [8, 13, 22] * 2
    world = World(np.random.default_rng(0), rates, 260, burst=np.repeat([0.0, 1.0, 0.0], 6), beds=beds)
    rng, found = np.random.default_rng(1), []
    for hours in range(60 * 24 + 5, 252 * 24, 385):
        found += covered(forecast_census(world.known(hours), NOBODY_SCORED), world, hours, rng)
    places = pd.DataFrame(found, columns=["unit", "horizon", "place"]).query(f"unit != '{HOSPITAL}'")
    return places.assign(kind=places["unit"].str[1:].astype(int) // 6)


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["quiet", "bursts", "full"])
def test_the_census_that_comes_is_where_the_forecast_says_in_a_world_whose_truth_is_known(places, kind):
    for horizons in ((4, 8), (24, 36), (48, 72), (120, 168)):
        then = places.loc[(places["kind"] == kind) & places["horizon"].isin(horizons), "place"]
        assert len(then) == 6 * 12 * 2
        assert 0.71 < then.between(0.1, 0.9).mean() < 0.89
        assert 0.89 < then.between(0.025, 0.975).mean() < 0.995
        assert abs(then.mean() - 0.5) < 0.08


def test_what_happens_later_changes_no_forecast(world, known):
    other, early = copy(world), world.begin <= NOW
    other.unit, other.begin, other.stay_id = world.unit[early], world.begin[early], world.stay_id[early]
    other.end = np.where(world.end[early] > NOW, NOW + 0.5, world.end[early])
    given = scored(known, open_ids(known))
    pd.testing.assert_frame_equal(forecast_census(other.known(NOW), given), forecast_census(known, given))


def test_the_order_of_the_rows_changes_nothing(known):
    given = scored(known, open_ids(known))
    turned = replace(known, stays=known.stays.iloc[::-1].reset_index(drop=True), beds=known.beds.iloc[::-1])
    back = np.arange(len(given.stay_ids))[::-1]
    other = ScoredStays([given.stay_ids[i] for i in back], given.forecast.take(back))
    frame, again = forecast_census(known, given), forecast_census(turned, other)
    numbers = ["expected_census", "expected_discharges", "expected_arrivals"]
    pd.testing.assert_frame_equal(frame[numbers], again[numbers], rtol=1e-9)
    pd.testing.assert_frame_equal(frame[["unit", "census_p50"]], again[["unit", "census_p50"]])


def test_a_unit_that_is_empty_expects_those_who_come_and_a_closed_one_nobody(world, known):
    frame = forecast_census(without(known, open_ids(known, "U0")), NOBODY_SCORED)
    empty = of(frame, "U0")
    assert (empty["n_present"] == 0).all() and (empty["expected_discharges"] == 0).all()
    assert empty["expected_census"][0] < 0.4 < empty["expected_census"][9] < empty["expected_arrivals"][9]
    closed = world.known(NOW, keep=(world.unit > 0) | (world.end < NOW - 60 * 24))
    closed = forecast_census(replace(closed, beds=closed.beds.assign(beds=9)), NOBODY_SCORED)
    unit = of(closed, "U0")
    assert (unit["status"] == "scored").all() and (unit["expected_arrivals"] == 0).all()
    assert (unit["census_p95"] == 0).all() and (unit["prob_full"] == 0).all() and (unit["prob_free_3"] == 1).all()
    assert unit["census_probabilities"].map(list).tolist() == [[1.0]] * 10
    assert (of(closed, HOSPITAL)["status"] == "scored").all()


def test_a_unit_abstains_with_a_reason_and_the_hospital_with_it_if_someone_may_be_there(world, known):
    new = world.known(NOW, keep=(world.unit > 0) | (world.begin > NOW - 20 * 24))
    frame = forecast_census(replace(new, beds=new.beds.assign(beds=9)), NOBODY_SCORED)
    unit = of(frame, "U0")
    assert set(unit["status"]) == {"abstained"} and set(unit["status_reason"]) == {"too_little_history"}
    assert (unit["n_present"] == world.census(NOW)[0]).all() and (unit["beds"] == 9).all()
    rest = [
        c for c in CENSUS_COLUMNS if c not in ("unit", "horizon_hours", "status", "status_reason", "n_present", "beds")
    ]
    assert unit[rest].isna().all(axis=None)
    assert set(of(frame, "U1")["status"]) == {"scored"} and set(of(frame, HOSPITAL)["status_reason"]) == {
        "too_little_history"
    }

    few = world.known(NOW, keep=(world.unit > 0) | (np.cumsum(world.unit == 0) < 10) & (world.end < NOW))
    frame = forecast_census(few, NOBODY_SCORED)
    assert set(of(frame, "U0")["status"]) == {"scored"}, "closed"
    named = pd.DataFrame({"unit": ["U9"], "available_at": [at(0)], "beds": [4.0], "staffed_beds": [np.nan]})
    young = world.known(40 * 24)
    frame = forecast_census(replace(young, beds=pd.concat([young.beds, named])), NOBODY_SCORED)
    assert set(of(frame, "U9")["status_reason"]) == {"too_little_history"}
    assert set(of(frame, HOSPITAL)["status"]) == {"scored"}, "nobody was ever there"

    for broken, reason in (
        (replace(known, newest=known.as_of - np.timedelta64(25, "h")), "stale"),
        (replace(known, newest=np.datetime64("NaT", "us")), "stale"),
        (world.known(NOW, ends_at="hospital"), "ends_with_hospital"),
    ):
        frame = forecast_census(broken, NOBODY_SCORED)
        assert set(frame["status_reason"]) == {reason} and len(frame) == 4 * len(CENSUS_HORIZONS)
    assert set(forecast_census(replace(known, newest=at(NOW - 24)), NOBODY_SCORED)["status"]) == {"scored"}


def test_stays_without_a_unit_are_in_the_hospital_alone(known):
    ids = open_ids(known, "U2")
    stays = known.stays.assign(unit=known.stays["unit"].where(~known.stays["stay_id"].isin(ids[:2]), None))
    frame = forecast_census(replace(known, stays=stays), NOBODY_SCORED)
    assert frame["unit"].unique().tolist() == ["U0", "U1", "U2", HOSPITAL]
    whole, units = of(frame, HOSPITAL), frame[frame["unit"] != HOSPITAL].groupby("horizon_hours")
    assert (whole["n_present"].to_numpy() == units["n_present"].sum().to_numpy() + 2).all()
    more = whole["expected_census"].to_numpy() - units["expected_census"].sum().to_numpy()
    assert (np.diff(more) < 0).all() and 0 < more[-1] < more[0] < 2
    assert whole["beds"].isna().all(), "those of no unit are known"


def test_beds_are_those_known_at_the_slot(known):
    versions = pd.concat(
        [
            known.beds.assign(beds=[8.0, 12.0, 20.0]),
            pd.DataFrame({"unit": ["U2"], "available_at": [at(NOW - 100)], "beds": [20.0], "staffed_beds": [15.0]}),
        ]
    )
    frame = forecast_census(replace(known, beds=versions), NOBODY_SCORED)
    assert set(of(frame, "U2")["staffed_beds"]) == {15} and set(of(frame, "U2")["beds"]) == {20}
    assert of(frame, "U1")["staffed_beds"].isna().all()


def test_a_source_of_which_nothing_is_known_has_no_rows(known):
    nothing = replace(known, stays=known.stays.iloc[:0], beds=known.beds.iloc[:0])
    assert len(forecast_census(nothing, NOBODY_SCORED)) == 0
    unused = forecast_census(replace(known, stays=known.stays.iloc[:0]), NOBODY_SCORED)
    assert set(unused["status"]) == {"abstained"} and (unused["n_present"] == 0).all()


@pytest.mark.parametrize("name", ["", HOSPITAL])
def test_a_unit_that_is_named_like_the_hospital_is_refused(known, name):
    with pytest.raises(ContractError, match="which is the hospital"):
        forecast_census(replace(known, beds=known.beds.assign(unit=name)), NOBODY_SCORED)


def test_a_model_of_arrivals_changes_the_rates_of_its_parts_and_nothing_else(known):
    def forecast(factor, parts=21):
        seen.clear()
        factors = np.ones((4, 21))
        factors[:, :parts] = factor
        return forecast_census(known, NOBODY_SCORED, factors=lambda windows: seen.append(windows) or factors)

    seen = []
    without = forecast_census(known, NOBODY_SCORED)
    pd.testing.assert_frame_equal(forecast(1.0), without)
    (windows,) = seen
    # Units in their order and, last, stays without one; of the last week before now every begin is counted.
    week = known.stays["intime"] >= known.as_of - np.timedelta64(7, "D")
    came = known.stays[week].groupby("unit").size()
    np.testing.assert_allclose(windows.came[:3, 21:42].sum(axis=1), came)
    assert np.isnan(windows.came[:, 42:]).all() and (windows.expected[:3, 42:] > 0).all()
    arrivals = without["expected_arrivals"].to_numpy(float)
    np.testing.assert_allclose(forecast(2.0)["expected_arrivals"], 2 * arrivals, rtol=1e-6)
    near = forecast(2.0, parts=3)["expected_arrivals"].to_numpy(float) - arrivals
    horizon, by_day = without["horizon_hours"].to_numpy(), np.tile(arrivals[without["horizon_hours"] == 24], (10, 1)).T
    np.testing.assert_allclose(near[horizon >= 24], by_day.ravel()[horizon >= 24], rtol=1e-6)
