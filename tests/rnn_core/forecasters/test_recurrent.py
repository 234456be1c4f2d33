"""The recurrent ensemble as a forecaster: what it says at rows, its members, its files, and what it starts from."""

import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from builders import at, material_of, random_observations, random_stays, small_config

from rnn_core.contracts.config import ModelConfig
from rnn_core.contracts.errors import ArtifactError, ContractError
from rnn_core.contracts.known import Known
from rnn_core.forecasters import networks
from rnn_core.forecasters.forecaster import KINDS, kind_of
from rnn_core.forecasters.networks import KERAS_FILE, WEIGHTS_FILE, load_keras_model
from rnn_core.forecasters.recurrent import RecurrentEnsemble
from rnn_core.network.build import build_network
from rnn_core.series.material import Material
from rnn_core.series.splits import patient_folds

CONFIG = small_config(epochs=1, folds=2)


@pytest.fixture(scope="module")
def material() -> Material:
    rng = np.random.default_rng(4)
    stays = random_stays(rng, 60).assign(ends_at="unit")
    known = Known(stays, random_observations(rng, stays, 4000), at(120))
    return material_of(known, CONFIG)


@pytest.fixture(scope="module")
def fitted(material):
    return RecurrentEnsemble.fit(material, np.ones(60, bool), CONFIG)


def test_the_kind_in_the_config_names_the_class():
    assert kind_of(ModelConfig()) is RecurrentEnsemble
    for name in KINDS:
        assert {"forecast", "members", "save", "load", "fit"} <= set(dir(kind_of(ModelConfig(forecaster=name))))


def test_out_of_fold_is_said_at_every_judged_row_by_the_member_that_never_saw_the_stay(material, fitted):
    np.testing.assert_array_equal(fitted.row, material.judged_rows)
    fold = patient_folds(material.known.stays["patient_id"], 2)[material.stay_of_row[fitted.row]]
    for k, member in enumerate(fitted.forecaster.members()):
        mine = fold == k
        again = member.forecast(material.windows, fitted.row[mine])
        np.testing.assert_allclose(again.masses, fitted.forecast.masses[mine], atol=1e-6)


def test_the_ensemble_says_the_mean_of_its_members(material, fitted):
    row = material.judged_rows[::7]
    said = [member.forecast(material.windows, row).masses for member in fitted.forecaster.members()]
    np.testing.assert_allclose(fitted.forecaster.forecast(material.windows, row).masses, np.mean(said, 0), atol=1e-6)


def test_a_member_may_be_the_mean_of_networks_of_several_cells(material, fitted, tmp_path):
    config = replace(CONFIG, train=replace(CONFIG.train, cells=("lstm", "gru")))
    several = RecurrentEnsemble.fit(material, np.ones(60, bool), config)
    networks, row = several.forecaster.networks, material.judged_rows
    assert [network.cells for network in networks.plain] == [("lstm",), ("gru",)] * 2
    assert several.config.train.cells == ("lstm", "gru") and several.config.network == fitted.config.network
    # The first network of each member is the only one of an ensemble of single networks.
    for first, only in zip(networks.plain[::2], fitted.forecaster.networks.plain, strict=True):
        np.testing.assert_array_equal(first.weights["head/kernel"], only.weights["head/kernel"])
    several.forecaster.save(tmp_path)
    for forecaster in (several.forecaster, RecurrentEnsemble.load(tmp_path, several.config)):
        fold = patient_folds(material.known.stays["patient_id"], 2)[material.stay_of_row[row]]
        members = [member.forecast(material.windows, row).masses for member in forecaster.members()]
        np.testing.assert_allclose(np.choose(fold[:, None, None], members), several.forecast.masses, atol=1e-6)
        np.testing.assert_allclose(forecaster.forecast(material.windows, row).masses, np.mean(members, 0), atol=1e-6)
    with pytest.raises(ContractError, match="needs 2 members; the model has 4"):
        RecurrentEnsemble.fit(material, np.ones(60, bool), CONFIG, warm_from=several.forecaster)


@pytest.mark.soak
def test_each_network_of_a_member_starts_from_its_own(material):
    config = replace(CONFIG, train=replace(CONFIG.train, cells=("lstm", "gru")))
    several = RecurrentEnsemble.fit(material, np.ones(60, bool), config)
    again = RecurrentEnsemble.fit(material, np.ones(60, bool), config, warm_from=several.forecaster)
    assert len(again.histories) == 4


def test_rows_may_come_in_any_order_and_together_or_alone(material, fitted):
    row = material.judged_rows[[40, 3, 41, 5, 3]]
    together = fitted.forecaster.forecast(material.windows, row).masses
    alone = [fitted.forecaster.forecast(material.windows, one).masses[0] for one in row[:, None]]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert len(fitted.forecaster.forecast(material.windows, row[:0])) == 0


def test_a_loaded_ensemble_says_the_same_to_the_bit_also_without_the_weights_that_older_versions_did_not_save(
    material, fitted, tmp_path
):
    fitted.forecaster.save(tmp_path)
    loaded = RecurrentEnsemble.load(tmp_path, fitted.config)
    (tmp_path / WEIGHTS_FILE).unlink()
    older = RecurrentEnsemble.load(tmp_path, fitted.config)
    for row in (material.judged_rows, material.judged_rows[:1]):
        said, *again = (one.forecast(material.windows, row).masses for one in (fitted.forecaster, loaded, older))
        np.testing.assert_array_equal([said, said], again)
    (tmp_path / WEIGHTS_FILE).write_bytes(b"cut off")
    with pytest.raises(ArtifactError, match="restore the folder"):
        RecurrentEnsemble.load(tmp_path, fitted.config)


def test_who_only_forecasts_needs_no_tensorflow(material, fitted, tmp_path):
    fitted.forecaster.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(fitted.config.to_json()))
    row = material.judged_rows[:9]
    with (tmp_path / "windows.pickle").open("wb") as file:
        pickle.dump((material.windows, row), file)
    found = subprocess.run([sys.executable, "-c", FORECASTS_ALONE, tmp_path], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    np.testing.assert_allclose(
        json.loads(found.stdout), fitted.forecaster.forecast(material.windows, row).mortality_risk(), rtol=1e-6
    )


FORECASTS_ALONE = """
import json, pickle, sys
from pathlib import Path
from rnn_core.contracts.config import ModelConfig
from rnn_core.forecasters import drivers, stay, unit
from rnn_core.forecasters.forecaster import kind_of

folder = Path(sys.argv[1])
config = ModelConfig.from_json(json.loads((folder / "config.json").read_text()))
windows, row = pickle.loads((folder / "windows.pickle").read_bytes())
print(json.dumps(kind_of(config).load(folder, config).forecast(windows, row).mortality_risk().tolist()))
assert not {"keras", "tensorflow", "sklearn"} & set(sys.modules), "an hourly job would wait seconds for these"
"""


def test_a_warm_start_from_another_kind_or_number_of_members_is_refused(material, fitted):
    everyone = np.ones(60, bool)
    with pytest.raises(ContractError, match="another kind"):
        RecurrentEnsemble.fit(material, everyone, CONFIG, warm_from=object())
    with pytest.raises(ContractError, match="needs 2 members; the model has 1"):
        RecurrentEnsemble.fit(material, everyone, CONFIG, warm_from=fitted.forecaster.members()[0])


def test_a_network_is_read_once_per_process_whatever_the_folder(fitted, tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "_models", {})
    monkeypatch.setattr(networks, "_MODELS_KEPT", 2)

    def saved(name: str, network):
        (tmp_path / name).mkdir()
        network.save(tmp_path / name / KERAS_FILE)
        return tmp_path / name

    folder = saved("first", fitted.forecaster.members()[0].network)
    first = load_keras_model(folder)
    assert load_keras_model(shutil.copytree(folder, tmp_path / "copy")) is first
    others = [build_network(fitted.config.network) for _ in range(2)]
    for n, other in enumerate(others):
        for ours, theirs in zip(load_keras_model(saved(str(n), other)).get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert len(networks._models) == 2 and load_keras_model(folder) is not first, "the oldest made room"
