"""Plans in the census: who is announced is counted once, leaves at the time that was planned, and not when cancelled."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders_census import World, at

from rnn_core.census.census import forecast_census
from rnn_core.census.counts import CountDistribution
from rnn_core.contracts.census import CENSUS_HORIZONS, HOSPITAL, PLAN_COLUMNS, KnownUnits
from rnn_core.contracts.frames import DIED
from rnn_core.statistics.distribution import Distribution
from rnn_core.statistics.scored_stays import ScoredStays

NOBODY_SCORED = ScoredStays([], Distribution(np.full((1, 2, 2), 0.25), (0, 200)).take(np.zeros(0, int)))
HOURS = np.array(CENSUS_HORIZONS)
NOW = 100 * 24 + 7
# A plan of long ago that let expect nobody: plans are known for long enough, and none of those who came was planned.
OLD = ("old", "U1", "admission", NOW - 900, NOW - 1000, 0.0, "planned", None)


@pytest.fixture(scope="module")
def world():
    return World(np.random.default_rng(3), [0.1] * 6, 230)


@pytest.fixture(scope="module")
def known(world):
    return world.known(NOW)


@pytest.fixture(scope="module")
def before(known):
    return forecast_census(known, NOBODY_SCORED)


def with_plans(known: KnownUnits, *rows: tuple) -> KnownUnits:
    plans = pd.DataFrame(rows, columns=list(PLAN_COLUMNS))
    times = {column: [at(hours) for hours in plans[column]] for column in ("expected_at", "available_at")}
    return replace(known, plans=plans.assign(**times))


def planned(known: KnownUnits, *rows: tuple, given: ScoredStays = NOBODY_SCORED) -> pd.DataFrame:
    return forecast_census(with_plans(known, OLD, *rows), given)


def of(frame: pd.DataFrame, unit: str, column: str) -> np.ndarray:
    return frame.loc[frame["unit"] == unit, column].to_numpy(float)


def judged(world: World, plans: pd.DataFrame | None = None) -> pd.DataFrame:
    """Scores of each forecast of a unit, from what was known at each slot."""
    rng, found = np.random.default_rng(5), []
    for hours in range(80 * 24 + 5, 222 * 24, 323):
        known = world.known(hours)
        if plans is not None:
            known = replace(known, plans=plans[(plans["available_at"] <= known.as_of).to_numpy()])
        frame = forecast_census(known, NOBODY_SCORED)
        for row in frame[frame["unit"] != HOSPITAL].itertuples():
            n = world.census(hours + row.horizon_hours)[int(row.unit[1:])]
            said = CountDistribution(np.append(row.census_probabilities, np.zeros(n + 1))[None])
            scores = said.crps(n)[0], said.pit(n, rng.random())[0], row.expected_census - n
            found.append((row.horizon_hours, *scores, row.expected_arrivals))
    return pd.DataFrame(found, columns=["h", "crps", "place", "bias", "arrivals"])


@pytest.fixture(scope="module")
def bare(world):
    return judged(world)


@pytest.mark.parametrize(
    "done",
    [pytest.param(True, id="reported when done"), pytest.param(False, id="never reported", marks=pytest.mark.soak)],
)
def test_where_begins_are_announced_the_forecast_is_sharper_and_counts_nobody_twice(world, bare, done):
    found = judged(world, world.plan(np.random.default_rng(4), 0.9, done=done))
    near = bare["h"].between(8, 48)
    assert found["crps"][near].mean() < 0.97 * bare["crps"][near].mean()
    assert 0.75 < found["place"].between(0.1, 0.9).mean() < 0.86
    assert abs(found["bias"].mean()) < abs(bare["bias"].mean()) + 0.05
    assert found["arrivals"].mean() == pytest.approx(bare["arrivals"].mean(), rel=0.04)


def test_a_planned_patient_comes_at_the_planned_time_with_the_probability_of_the_plan(known, before):
    admission = ("a", "U0", "admission", NOW + 10, NOW - 2, 0.7, "planned", None)
    frame = planned(known, admission)
    more = of(frame, "U0", "expected_arrivals") - of(before, "U0", "expected_arrivals")
    np.testing.assert_allclose(more, np.where(HOURS >= 10, 0.7, 0.0), atol=1e-12)
    more = of(frame, "U0", "expected_census") - of(before, "U0", "expected_census")
    assert (np.abs(more[:2]) < 1e-9).all() and 0.6 < more[2] < 0.7 and (np.diff(more[2:]) < 0).all() and more[-1] > 0.05
    whole = of(frame, HOSPITAL, "expected_census") - of(before, HOSPITAL, "expected_census")
    np.testing.assert_allclose(whole, more, atol=1e-7)
    pd.testing.assert_frame_equal(frame.query("unit == 'U3'"), before.query("unit == 'U3'"))
    for status in ("cancelled", "done"):
        changed = ("a", "U0", "admission", NOW + 10, NOW - 1, 0.7, status, None)
        pd.testing.assert_frame_equal(planned(known, changed, admission), before)
    moved = planned(known, admission, ("a", "U0", "admission", NOW + 30, NOW, 0.7, "planned", None))
    late = of(moved, "U0", "expected_arrivals") - of(before, "U0", "expected_arrivals")
    np.testing.assert_allclose(late, np.where(HOURS >= 30, 0.7, 0.0), atol=1e-12)


def test_an_overdue_patient_is_expected_for_a_few_hours_unless_someone_came(world, known):
    def more(known: KnownUnits, late: float) -> float:
        overdue = ("a", unit, "admission", NOW - late, NOW - 50, 0.5, "planned", None)
        frames = planned(known, overdue), planned(known)
        return np.subtract(*(of(frame, unit, "expected_arrivals")[0] for frame in frames))

    last = {f"U{u}": NOW - world.begin[(world.unit == u) & (world.begin <= NOW)].max() for u in range(6)}
    unit = max(last, key=last.get)
    assert last[unit] > 8, "for hours nobody came there"
    assert more(known, 5.8) == pytest.approx(0.5) and more(known, 6.1) == 0
    someone = known.stays.iloc[[-1]].assign(stay_id="new", unit=unit, intime=at(NOW - 2), outtime=pd.NaT, outcome=None)
    with_one_more = replace(known, stays=pd.concat([known.stays, someone], ignore_index=True))
    # That one came as planned is now known: a little less is expected of the others.
    assert -0.02 < more(with_one_more, 2.5) < 0 and -0.02 < more(with_one_more, 1.5) < 0
    assert more(with_one_more, 0.5) == pytest.approx(0.5, abs=0.02), "too early to be that patient"


def test_plans_that_are_too_new_or_none_leave_every_bit_as_it_was(known, before):
    new = ("a", "U0", "admission", NOW + 10, NOW - 27 * 24, 0.7, "planned", None)
    pd.testing.assert_frame_equal(forecast_census(with_plans(known, new), NOBODY_SCORED), before, check_exact=True)
    for row in (OLD, (*OLD[:6], "cancelled", None), (*OLD[:5], 1.0, "cancelled", None)):
        pd.testing.assert_frame_equal(forecast_census(with_plans(known, row), NOBODY_SCORED), before, check_exact=True)


def test_patients_come_and_leave_as_late_as_those_who_were_planned():
    """All who come are planned, and come one, three or five hours late; those who leave do so from 3 hours before on."""
    rng, now = np.random.default_rng(8), 100 * 24 + 7
    world = World(rng, [0.015] * 4, 101)
    late, early = rng.choice([1.0, 3.0, 5.0], len(world.begin)), rng.uniform(-3, 3, len(world.begin))
    unit, ended = [f"U{u}" for u in world.unit], world.end < now
    plans = [
        (f"a{i}", u, "admission", world.begin[i] - late[i], world.begin[i] - 40, 1.0, "planned", None)
        for i, u in enumerate(unit)
        if world.begin[i] < now
    ]
    plans += [
        (f"d{i}", unit[i], "discharge", world.end[i] - early[i], world.end[i] - 20, 1.0, "planned", world.stay_id[i])
        for i in np.flatnonzero(ended)
    ]
    known = world.known(now)
    stay = known.stays[known.stays["outtime"].isna()].iloc[0]

    def more(column: str, of_unit: str, *rows: tuple) -> np.ndarray:
        frames = (forecast_census(with_plans(known, *plans, *more), NOBODY_SCORED) for more in (rows, ()))
        return np.subtract(*(of(frame, of_unit, column) for frame in frames))

    comes = more("expected_arrivals", "U3", ("new", "U3", "admission", now + 6, now - 2, 0.9, "planned", None))
    np.testing.assert_allclose(comes[:4] / 0.9, [0, 1 / 3, 1, 1], atol=0.15)
    overdue = more("expected_arrivals", "U3", ("new", "U3", "admission", now - 2, now - 9, 0.9, "planned", None))
    np.testing.assert_allclose(overdue[:2] / 0.9, [1, 1], atol=1e-3)
    # Of those in who leave at four hours, half have left by then; all by eight, and none but for it.
    leave = ("out", stay["unit"], "discharge", now + 4, now - 2, 1.0, "planned", stay["stay_id"])
    never = ("out", stay["unit"], "discharge", now + 400, now - 2, 1.0, "planned", stay["stay_id"])
    gone = more("expected_census", stay["unit"], never) - more("expected_census", stay["unit"], leave)
    np.testing.assert_allclose(gone[:3], [0.5, 1, 1], atol=0.13)


def test_a_planned_end_is_mixed_with_the_forecast_of_the_stay(known):
    stay = known.stays[known.stays["outtime"].isna() & known.stays["unit"].eq("U0")]["stay_id"].iloc[0]
    given = ScoredStays([stay], Distribution(np.full((1, 2, 2), 0.25), (0, 200)))
    own = np.array([given.forecast.survival(h)[0] for h in HOURS])
    dies = np.array([given.forecast.cumulative_incidence(h, DIED)[0] for h in HOURS])
    bare = forecast_census(known, given)
    in_until = (HOURS < 30).astype(float)

    def check(frame: pd.DataFrame, staying: np.ndarray, dying: np.ndarray) -> None:
        for column, change in (
            ("expected_census", staying - own),
            ("expected_deaths", dying - dies),
            ("expected_discharges", own + dies - staying - dying),
        ):
            found = of(frame, "U0", column) - of(bare, "U0", column)
            np.testing.assert_allclose(found, change, atol=1e-8)

    leave = ("d", "U0", "discharge", NOW + 30, NOW - 3, 0.8, "planned", stay)
    check(planned(known, leave, given=given), 0.8 * in_until + 0.2 * own, 0.2 * dies)
    # Without the 28 days that admissions need.
    check(forecast_census(with_plans(known, leave), given), 0.8 * in_until + 0.2 * own, 0.2 * dies)
    first = ("e", "U0", "discharge", NOW + 6, NOW - 3, 0.5, "planned", stay)
    staying = 0.5 * (HOURS < 6) + 0.5 * (0.8 * in_until + 0.2 * own)
    check(planned(known, leave, first, given=given), staying, 0.1 * dies)
    overdue = ("d", "U0", "discharge", NOW - 2, NOW - 30, 0.8, "planned", stay)
    check(planned(known, overdue, given=given), 0.2 * own, 0.2 * dies)
    for none in (
        ("d", "U0", "discharge", NOW - 7, NOW - 30, 0.8, "planned", stay),
        ("d", "U0", "discharge", NOW + 30, NOW - 30, 0.8, "planned", None),
        (*leave[:6], "cancelled", stay),
    ):
        check(planned(known, none, given=given), own, dies)

    frame = planned(known, ("t", "U1", "transfer", NOW + 30, NOW - 3, 0.8, "planned", stay), given=given)
    check(frame, 0.8 * in_until + 0.2 * own, 0.2 * dies)
    comes = of(frame, "U1", "expected_arrivals") - of(bare, "U1", "expected_arrivals")
    np.testing.assert_allclose(comes, np.where(HOURS >= 30, 0.8, 0.0), atol=1e-12)
    out = planned(known, ("t", "U0", "transfer", NOW + 30, NOW - 3, 0.8, "planned", stay), given=given)
    check(out, 0.8 * in_until + 0.2 * own, 0.2 * dies)
    np.testing.assert_array_equal(of(out, "U0", "expected_arrivals"), of(bare, "U0", "expected_arrivals"))
    ended = known.stays.loc[known.stays["outtime"].notna(), "stay_id"].iloc[-1]
    gone = planned(known, ("t", "U1", "transfer", NOW + 30, NOW - 3, 0.8, "planned", ended), given=given)
    np.testing.assert_array_equal(of(gone, "U1", "expected_arrivals"), of(bare, "U1", "expected_arrivals"))
