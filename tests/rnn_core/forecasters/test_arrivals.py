"""The recurrent model of arrivals: served as it was fitted, never ahead of its time, better only where there is more to know."""

from dataclasses import fields, replace

import keras
import numpy as np
import pytest
from builders_census import World

from rnn_core.census.census import learn_from_arrivals
from rnn_core.contracts.census import PARTS_AHEAD, PARTS_BEFORE, ArrivalWindows
from rnn_core.contracts.config import ArrivalConfig, UnitConfig
from rnn_core.contracts.errors import ArtifactError, DataTooSmallError
from rnn_core.forecasters import arrivals
from rnn_core.forecasters.arrivals import (
    MOST,
    ArrivalForecaster,
    ArrivalReport,
    fit_arrival_forecaster,
    forecast_factors,
)
from rnn_core.forecasters.artifact import save_artifact
from rnn_core.statistics.bootstrap import Estimate

REPORT = ArrivalReport(Estimate(0.3, 0.1, 0.5, 100), weeks=10, epochs=3, reach=PARTS_AHEAD)


def some_windows(rows: int, seed: int = 0) -> ArrivalWindows:
    random = np.random.default_rng(seed)
    expected = random.uniform(0.5, 4, (rows, PARTS_BEFORE + PARTS_AHEAD))
    came, anywhere = random.poisson(expected).astype(float), random.poisson(3 * expected).astype(float)
    return ArrivalWindows(came, expected, anywhere, 3 * expected, np.arange(rows) // 20)


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    made = arrivals.build_arrival_network(ArrivalConfig(units=5))
    random = np.random.default_rng(0)
    made.set_weights([w + random.normal(0, 0.4, w.shape) for w in made.get_weights()])
    return made


def test_what_is_served_is_the_network_that_was_fitted(network):
    windows = some_windows(30)
    factors = forecast_factors(arrivals.plain_network(network), windows)
    assert factors.std() > 0.05 and ((factors >= 1 / MOST) & (factors <= MOST)).all()
    came, anywhere = windows.came.copy(), windows.came_anywhere.copy()
    came[:, PARTS_BEFORE:] = factors * windows.expected[:, PARTS_BEFORE:]
    anywhere[:, PARTS_BEFORE:] = windows.expected_anywhere[:, PARTS_BEFORE:]
    as_forecast = replace(windows, came=came, came_anywhere=anywhere)
    raw = np.asarray(network(arrivals._channels(as_forecast)))[:, -PARTS_AHEAD:, 0]
    np.testing.assert_allclose(MOST ** np.tanh(raw / np.log(MOST)), factors, rtol=1e-5)


def test_what_comes_after_the_time_is_not_read_and_beyond_its_reach_nothing_is_corrected(network):
    windows, plain = some_windows(10), arrivals.plain_network(network)
    unknown = replace(windows, came=windows.came.copy(), came_anywhere=windows.came_anywhere.copy())
    unknown.came[:, PARTS_BEFORE:], unknown.came_anywhere[:, PARTS_BEFORE:] = np.nan, np.nan
    whole = forecast_factors(plain, windows)
    np.testing.assert_array_equal(forecast_factors(plain, unknown), whole)
    near = ArrivalForecaster(plain, ArrivalConfig(), replace(REPORT, reach=4)).factors(unknown)
    np.testing.assert_array_equal(near[:, :4], whole[:, :4])
    assert (near[:, 4:] == 1).all()


def test_an_artifact_forecasts_the_same_again(network, tmp_path):
    fitted = ArrivalForecaster(arrivals.plain_network(network), ArrivalConfig(units=5), REPORT)
    loaded = ArrivalForecaster.load(fitted.save(tmp_path, "arrivals-1", {"data_cutoff": "2026-01-01"}))
    assert (loaded.config, loaded.report) == (fitted.config, fitted.report)
    np.testing.assert_array_equal(loaded.factors(some_windows(5)), fitted.factors(some_windows(5)))
    other = save_artifact(tmp_path, "unit-1", lambda to: None, UnitConfig(), {}, {})
    with pytest.raises(ArtifactError, match="no forecaster of arrivals"):
        ArrivalForecaster.load(other)


def test_a_better_model_is_better_beyond_chance_and_by_enough_to_matter():
    def is_better(low):
        return replace(REPORT, gain=Estimate(0.3, low, 0.5, 100)).is_better

    assert is_better(0.03) and not is_better(0.01) and not is_better(-0.1) and not is_better(np.nan)


def test_lessons_are_apart_in_time_and_hold_what_was_expected_then():
    world = World(np.random.default_rng(0), [0.1, 0.2], 190)
    lessons = learn_from_arrivals(world.known(190 * 24.0))
    last = {f.name: int(getattr(lessons, f.name).week.max()) for f in fields(lessons)}
    assert last["learned"] < lessons.choosing.week.min() and last["choosing"] < lessons.judged.week.min()
    for part in (lessons.learned, lessons.judged):
        assert np.isfinite(part.came).all()
        np.testing.assert_allclose(part.expected.sum(), part.came.sum(), rtol=0.1)
    # The newest week is nobody's past.
    late = world.begin > 183 * 24
    again = learn_from_arrivals(world.known(190 * 24.0, keep=~late))
    judged = lessons.judged.came[:, : PARTS_BEFORE - 1], again.judged.came[:, : PARTS_BEFORE - 1]
    np.testing.assert_array_equal(*judged)
    np.testing.assert_allclose(again.learned.expected, lessons.learned.expected)
    for days, rate in ((100, 0.3), (190, 0.02)):
        with pytest.raises(DataTooSmallError, match="180 days and 500 begins"):
            learn_from_arrivals(World(np.random.default_rng(0), [rate], days).known(days * 24.0))


@pytest.mark.soak
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_better_where_arrivals_have_an_echo_and_not_where_they_are_poisson(seed):
    random = np.random.default_rng(seed)
    rates = np.array([0.15, 0.25, 0.35])
    worlds = {"echo": World(random, rates, 400).with_echo(random, 0.5), "poisson": World(random, 2 * rates, 400)}
    found = {}
    for name, world in worlds.items():
        lessons = learn_from_arrivals(world.known(400 * 24.0))
        fitted = fit_arrival_forecaster(lessons.learned, lessons.choosing, lessons.judged, ArrivalConfig(seed=seed))
        found[name] = fitted.report
    assert found["echo"].is_better and found["echo"].reach >= 2, found["echo"].sentence()
    assert not found["poisson"].is_better, found["poisson"].sentence()
