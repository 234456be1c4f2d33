"""The blend as a forecaster: its parts, what it says out of fold, its members, its files, and what it starts from."""

from dataclasses import replace

import numpy as np
import pytest
from builders import at, material_of, random_observations, random_stays, small_config

from rnn_core.contracts.config import Sampling
from rnn_core.contracts.errors import ArtifactError, ContractError
from rnn_core.contracts.known import Known
from rnn_core.forecasters.blend import Blend, join
from rnn_core.forecasters.fit_stay import make_forecaster
from rnn_core.forecasters.logistic import LogisticRegressions
from rnn_core.forecasters.recurrent import RecurrentEnsemble
from rnn_core.forecasters.stay import load_stay_forecaster, save_stay_forecaster
from rnn_core.forecasters.trees import BoostedTrees
from rnn_core.series.material import make_served_grid
from rnn_core.series.scaling import fit_scaler, static_features
from rnn_core.series.splits import patient_folds

CONFIG = replace(small_config(epochs=1), forecaster="blend", blend=("recurrent", "trees", "logistic"))


@pytest.fixture(scope="module")
def material():
    rng = np.random.default_rng(4)
    stays = random_stays(rng, 80).assign(ends_at="unit")
    return material_of(Known(stays, random_observations(rng, stays, 5000), at(120)), CONFIG)


@pytest.fixture(scope="module")
def fitted(material):
    return Blend.fit(material, np.ones(80, bool), CONFIG)


def test_out_of_fold_is_the_pool_of_what_the_parts_said_out_of_fold(material, fitted):
    kinds = [type(part) for part in fitted.forecaster.parts]
    assert kinds == [RecurrentEnsemble, BoostedTrees, LogisticRegressions]
    np.testing.assert_array_equal(fitted.row, material.judged_rows)
    assert fitted.config.forecaster == "blend" and fitted.config.network.n_channels > 0
    assert len(fitted.histories) == len(fitted.best_epochs) == 2
    fold = patient_folds(material.known.stays["patient_id"], 2)[material.stay_of_row[fitted.row]]
    for k, member in enumerate(fitted.forecaster.members()):
        again = member.forecast(material.windows, fitted.row[fold == k])
        np.testing.assert_allclose(again.masses, fitted.forecast.masses[fold == k], atol=1e-6)


def test_a_blend_says_the_pool_of_its_parts_and_its_members_that_of_theirs(material, fitted):
    row = material.judged_rows[::5]
    seen = material.windows.prediction_hour[row], material.windows.values_per_hour(row)
    for one in (fitted.forecaster, *fitted.forecaster.members()):
        pooled = one.pool.pool([part.forecast(material.windows, row) for part in one.parts], *seen)
        np.testing.assert_array_equal(one.forecast(material.windows, row).masses, pooled.masses)


def test_a_served_blend_comes_back_from_its_artifact_and_forecasts_the_same_to_the_bit(material, fitted, tmp_path):
    known = material.known
    grid = make_served_grid(known, CONFIG.window, Sampling())
    scaler = fit_scaler(grid, static_features(known.stays), np.arange(80))
    forecaster = make_forecaster(material, fitted, scaler, Sampling())
    folder = save_stay_forecaster(tmp_path, "ward-stay-1", forecaster, {"data_cutoff": "2031-01-01"})
    assert {"model.keras", "trees.npz", "logistic.npz", "pool.json"} <= {file.name for file in folder.iterdir()}
    row = material.judged_rows[::7]
    here, there = (one.forecast(material.windows, row).masses for one in (forecaster, load_stay_forecaster(folder)))
    np.testing.assert_array_equal(here, there)
    (folder / "pool.json").write_text("{")
    with pytest.raises(ArtifactError, match="restore"):
        Blend.load(folder, forecaster.config)


def test_a_blend_or_a_network_starts_the_network_and_trees_start_nothing(material, fitted):
    learned = np.ones(80, bool)
    for start in (fitted.forecaster, fitted.forecaster.parts[0]):
        again = Blend.fit(material, learned, fitted.config, warm_from=start)
        assert isinstance(again.forecaster, Blend)
    with pytest.raises(ContractError, match="from scratch"):
        Blend.fit(material, learned, fitted.config, warm_from=fitted.forecaster.parts[1])


def test_only_fits_on_the_same_stays_are_joined(material, fitted):
    part = replace(fitted, row=fitted.row[:-1], forecast=fitted.forecast.take(np.arange(len(fitted.row) - 1)))
    with pytest.raises(ContractError, match="same stays"):
        join(material, [fitted, part], CONFIG)
