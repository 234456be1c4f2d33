"""The made-up hospital: the process keeps to its numbers, and the floor is calibrated in its own world."""

import numpy as np
import pytest
from scipy import stats

from rnn_core.benchmark.replay import START, Lengths, Process, first_hour, make_process, make_world
from rnn_core.benchmark.replay_truth import draw_futures, draw_todays_burst
from rnn_core.contracts.errors import ContractError, DataTooSmallError

HORIZONS = (4, 24, 48)


def some_lengths() -> Lengths:
    random = np.random.default_rng(3)
    begin = np.datetime64("2031-03-04T00", "us") + random.integers(0, 10**4, 240) * np.timedelta64(60, "s")
    return Lengths.of(begin, begin + (random.gamma(0.8, 40, 240) * 60).astype(int) * np.timedelta64(60, "s"))


LENGTHS = some_lengths()


@pytest.fixture(scope="module")
def wide():
    """One unit with so many beds that none is ever missing."""
    process = Process(
        beds=(400,), days=120, emergencies_per_day=(30.0,), elective_slots=(3,), elective_share=(0.6,), seed=5
    )
    return make_world(process, LENGTHS)


@pytest.fixture(scope="module")
def tight():
    """Four units that are often full."""
    return make_world(make_process((4, 5, 6, 7), 50, LENGTHS, seed=2, load=0.95), LENGTHS)


def test_hours_are_open_at_their_beginning():
    times = np.array(["2030-01-01T10:00", "2030-01-01T10:01", "2030-01-01T11:00"], "datetime64[us]")
    assert first_hour(times).tolist() == first_hour(times[:1]).tolist() + [first_hour(times)[1]] * 2
    found = Lengths.of(
        times[[1, 1, 2]], np.array(["2030-01-01T10:59", "2030-01-01T12:30", "2030-01-01T11:01"], "M8[us]")
    )
    # In at no full hour; at 11 and 12; at 11.
    assert found.hours.tolist() == [0, 2, 1] and found.clock.tolist() == [10, 10, 10]


def test_the_same_seed_gives_the_same_course_and_another_seed_another():
    process = make_process((4, 5), 8, LENGTHS, seed=2)
    world, again = (make_world(p, LENGTHS) for p in (process, Process.from_json(process.to_json())))
    assert again.arrivals.equals(world.arrivals) and (again.census == world.census).all() and len(world.arrivals)
    assert not make_world(make_process((4, 5), 8, LENGTHS, seed=3), LENGTHS).arrivals.equals(world.arrivals)


def test_emergencies_come_at_the_stated_rate_in_bursts(wide):
    process, hours = wide.process, np.arange(120 * 24)
    came = wide.admitted[0, 0]
    expected = process.emergency_rate(0, hours)
    by_day, of_day = came.reshape(-1, 24).sum(axis=1), expected.reshape(-1, 24).sum(axis=1)
    # A Poisson count with a gamma factor of shape k: variance m + m² / k.
    variance = of_day + of_day**2 / process.burst_shape
    assert abs(by_day.sum() - of_day.sum()) < 3 * np.sqrt(variance.sum())
    scatter = ((by_day - of_day) ** 2 / variance).mean()
    assert 0.6 < scatter < 1.5
    for half in (hours < process.change_hour, hours >= process.change_hour):
        assert came[half].sum() == pytest.approx(expected[half].sum(), rel=0.2)
    assert process.emergency_rate(0, np.array([1440]))[0] == pytest.approx(
        1.25 * process.emergency_rate(0, np.array([1440 - 168]))[0]
    )
    # Given the day's number, the hours follow the daily pattern whatever the bursts.
    share = expected.reshape(-1, 24) / of_day[:, None]
    wanted = (share * by_day[:, None]).sum(axis=0)
    assert stats.chisquare(came.reshape(-1, 24).sum(axis=0), wanted).pvalue > 0.01


def test_elective_patients_come_on_weekday_mornings_at_the_stated_share(wide):
    came = wide.admitted[0, 1].reshape(-1, 24)
    weekday = np.arange(120) % 7 < 5
    assert came[~weekday].sum() == 0 and came[:, [h for h in range(24) if h not in (8, 9, 10, 11)]].sum() == 0
    slots = 3 * 4 * int(weekday.sum())
    assert stats.binomtest(int(came.sum()), slots, 0.6).pvalue > 0.01


def test_the_real_stays_of_the_arrivals_add_up_to_the_census_and_begin_near_their_clock(wide):
    hour, stay = wide.arrivals["hour"].to_numpy(), wide.arrivals["stay"].to_numpy()
    slots = np.arange(len(wide.census[0]))
    is_in = (hour[:, None] < slots) & (slots <= (hour + LENGTHS.hours[stay])[:, None])
    assert (is_in.sum(axis=0) == wide.census[0]).all()
    apart = np.abs(LENGTHS.clock[stay] - hour % 24)
    assert np.minimum(apart, 24 - apart).max() <= 2


def test_a_full_unit_turns_patients_away_and_never_holds_more_than_its_beds(tight, wide):
    beds = np.array(tight.process.beds)
    assert (tight.census.max(axis=1) == beds).all() and (tight.turned_away > 0).all()
    assert wide.turned_away.tolist() == [0] and wide.census.max() < 400


def test_times_move_by_whole_hours_to_the_hour_of_the_arrival(wide):
    begin = np.array(["2030-05-05T07:20", "2031-01-01T00:00"], "datetime64[us]")
    chosen = wide.arrivals.assign(stay=np.arange(len(wide.arrivals)) % 2)
    world = type(wide)(wide.process, chosen, wide.census, wide.turned_away)
    moved = begin[chosen["stay"]] + world.shifts(first_hour(begin))
    assert (first_hour(moved) == START + chosen["hour"].to_numpy().astype("timedelta64[h]")).all()
    assert set((moved - begin[chosen["stay"]]).astype(np.int64) % 3_600_000_000) == {0}


def test_the_floor_is_calibrated_in_its_own_world(tight):
    """Randomised PIT, uniform for each horizon; neighbouring slots share patients, so they are two days apart."""
    slots = np.arange(5 * 24 + 16, 48 * 24, 44)
    futures = draw_futures(tight, LENGTHS, slots, HORIZONS, draws=200)
    assert futures.shape == (4, len(slots), 3, 200) and (futures.max(axis=(1, 2, 3)) <= tight.process.beds).all()
    random = np.random.default_rng(0)
    for number, horizon in enumerate(HORIZONS):
        observed = tight.census[:, slots + horizon][:, :, None]
        below, at = ((drawn(futures[:, :, number], observed)).mean(axis=2) for drawn in (np.less, np.equal))
        pit = (below + random.random(below.shape) * at).ravel()
        assert stats.kstest(pit, "uniform").pvalue > 0.01, horizon


def test_the_factor_of_the_day_follows_from_who_came(wide):
    """Without a full hour it is the conjugate gamma posterior."""
    slot = 40 * 24 + 16
    came, expected = (
        wide.admitted[0, 0, slot - 16 : slot].sum(),
        wide.process.emergency_rate(0, np.arange(slot - 16, slot)),
    )
    drawn = draw_todays_burst(wide, 0, slot, 20_000, np.random.default_rng(0))
    exact = stats.gamma(4 + came, scale=1 / (4 + expected.sum()))
    assert drawn.mean() == pytest.approx(exact.mean(), rel=0.02)
    assert drawn.std() == pytest.approx(exact.std(), rel=0.05)


def test_a_hospital_without_beds_days_or_stays_is_refused_in_one_sentence():
    for beds, days in (((), 10), ((0,), 10), ((4,), 1)):
        with pytest.raises(ContractError, match="units of 1 to 1000 beds"):
            make_process(beds, days, LENGTHS)
    with pytest.raises(DataTooSmallError, match="3 whole stays"):
        make_process((4,), 10, Lengths(np.ones(3, int), np.ones(3, int)))
