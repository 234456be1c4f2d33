"""What a fit takes over from a model of another source, and what starts afresh."""

from dataclasses import replace

import numpy as np
import pytest
from builders import at, random_observations, random_stays, scaler_of, small_config, untrained

from rnn_core.contracts.concepts import NAMES
from rnn_core.contracts.config import ModelConfig, Sampling
from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.known import Known
from rnn_core.forecasters.recurrent import RecurrentEnsemble
from rnn_core.forecasters.start import WarmStart
from rnn_core.forecasters.stay import StayForecaster
from rnn_core.network.build import members_of
from rnn_core.series.material import Material, make_material, make_served_grid
from rnn_core.series.person_periods import population_masses
from rnn_core.series.scaling import Scaler

CONFIG = small_config()
# Concepts that the start has seen; one that it reads and never saw; one that it does not read.
SEEN, UNSEEN, UNREAD = NAMES[:-2], NAMES[-2], NAMES[-1]
EVERYONE = np.ones(20, bool)


def known(names: tuple[str, ...], seed: int = 4) -> Known:
    rng = np.random.default_rng(seed)
    stays = random_stays(rng, 20).assign(ends_at="unit")
    return Known(stays, random_observations(rng, stays, 1500, names), at(120))


def read_with(scaler: Scaler, stays: Known, config: ModelConfig = CONFIG) -> Material:
    return make_material(stays, make_served_grid(stays, config.window, Sampling()), scaler, config, Sampling())


@pytest.fixture(scope="module")
def start() -> StayForecaster:
    """A network with weights as a training might leave them, and the scaler of stays without the last two concepts."""
    window = replace(CONFIG.window, concepts=NAMES[:-1])
    there = known(SEEN, seed=1)
    fitted = scaler_of(there, CONFIG)
    scaler = replace(fitted, center=fitted.center[:-1], scale=fitted.scale[:-1], concepts=window.concepts)
    return untrained(there, replace(CONFIG, window=window), scaler)


def begun(start: StayForecaster, stays: Known, config: ModelConfig = CONFIG) -> tuple[RecurrentEnsemble, Material]:
    material = read_with(start.scaler.completed(scaler_of(stays, CONFIG)), stays, config)
    return WarmStart(start).networks(material, EVERYONE, config), material


@pytest.fixture(scope="module")
def at_home(start):
    """Networks that begin at it, for stays in which nothing else is measured than it has seen; and their material."""
    return begun(start, known(SEEN))


def test_a_start_forecasts_the_same_where_nothing_is_measured_that_it_never_saw(start, at_home):
    here = known(SEEN)
    networks, material = at_home
    theirs = read_with(start.scaler, here, start.config)
    row = material.judged_rows
    assert len(row) > 20 and len(networks.members()) == 2
    said, before = (one.forecast(m.windows, row).masses for one, m in ((networks, material), (start.model, theirs)))
    np.testing.assert_allclose(said, before, atol=2e-5)
    assert np.ptp(before[:, 0], axis=0).max() > 0.01, "the networks say something"


def test_what_a_start_never_saw_starts_afresh_in_the_units_of_the_new_stays(start):
    here = known(NAMES)
    networks, _ = begun(start, here)
    ours, theirs = (
        one.members()[0].network.get_layer("embed_hour").get_weights()[0] for one in (networks, start.model)
    )
    n = len(NAMES)
    np.testing.assert_array_equal(ours[: n - 2], theirs[: n - 2])
    assert not np.isclose(ours[[n - 2, 2 * n - 2]], theirs[[n - 2, 2 * n - 3]]).any(), (
        "value and observed of the unseen"
    )
    assert start.scaler.unseen == (UNSEEN,)
    completed, own = start.scaler.completed(scaler_of(here, CONFIG)), scaler_of(here, CONFIG)
    np.testing.assert_array_equal(completed.center, [*start.scaler.center[:-1], *own.center[-2:]])
    np.testing.assert_array_equal(completed.scale, [*start.scaler.scale[:-1], *own.scale[-2:]])
    np.testing.assert_array_equal(completed.static_center[0], start.scaler.static_center[0])
    np.testing.assert_array_equal(completed.static_center[1], own.static_center[1])
    (words,) = WarmStart(start).afresh(CONFIG, "unit")
    assert UNSEEN in words and UNREAD in words and NAMES[0] not in words


def test_stays_that_end_elsewhere_start_from_their_own_level(start, at_home):
    here = known(SEEN)
    elsewhere = Known(here.stays.assign(ends_at="hospital"), here.observations, here.as_of)
    networks, material = begun(start, elsewhere)
    row = np.flatnonzero(material.labels.usable & material.windows.scored)
    before, after = (one.forecast(material.windows, row).masses.mean(axis=0) for one in (at_home[0], networks))
    population = population_masses(material.labels.take(row))
    assert np.abs(after - population).sum() < 0.3 * np.abs(before - population).sum()
    assert "end at the unit" in WarmStart(start).afresh(CONFIG, "hospital")[0]


def test_another_cell_or_horizon_keeps_what_the_head_knows_of_the_features(start):
    edges = (0.0, 6.0, 24.0, *CONFIG.network.horizon_edges[4:])
    other = replace(
        CONFIG,
        network=replace(CONFIG.network, cell="gru", horizon_edges=edges),
        train=replace(CONFIG.train, folds=3, cells=("gru", "lstm")),
    )
    networks, _ = begun(start, known(NAMES), other)
    assert len(networks.members()) == 3, "the members of the start in turn"
    (ours, second), theirs = members_of(networks.members()[0].network), start.model.members()[0].network
    np.testing.assert_array_equal(*(one.get_layer("recurrent_0").get_weights()[1] for one in (second, theirs)))
    np.testing.assert_array_equal(*(one.get_layer("embed_static").get_weights()[0] for one in (ours, theirs)))
    kernel, old = (one.get_layer("head").get_weights()[0] for one in (ours, theirs))
    np.testing.assert_array_equal(kernel[16 : 16 + 3, :2], old[16 : 16 + 3, :2])
    assert np.abs(kernel[:8]).max() < 0.1 < np.abs(old[:8]).max(), "states of another cell mean nothing to it"
    assert np.abs(kernel[:, 2:4]).max() < 0.1 < np.abs(old[:, 2:4]).max(), "nor does a bin of another length"
    words = " ".join(WarmStart(start).afresh(other, "unit"))
    assert "lstm of 8 units" in words and "horizon" in words


def test_trees_neither_give_nor_take_a_start(start):
    with pytest.raises(ContractError, match="no recurrent networks to start from"):
        WarmStart(replace(start, model=object())).afresh(CONFIG, "unit")
    with pytest.raises(ContractError, match="from scratch"):
        WarmStart(start).afresh(replace(CONFIG, forecaster="trees"), "unit")
