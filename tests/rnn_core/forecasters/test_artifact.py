import subprocess
import sys

import keras
import numpy as np
import pytest

from rnn_core.contracts.concepts import NAMES, concept_hash
from rnn_core.contracts.config import ModelConfig, NetworkConfig, WindowConfig
from rnn_core.contracts.errors import ArtifactError
from rnn_core.forecasters import artifact
from rnn_core.forecasters.artifact import check_artifact, load_artifact, read_meta, save_artifact
from rnn_core.forecasters.networks import Networks
from rnn_core.forecasters.recurrent import RecurrentEnsemble
from rnn_core.network.build import build_network

CONFIG = ModelConfig(
    window=WindowConfig(chunk_hours=96),
    network=NetworkConfig(cell="jordan", units=(4,), n_channels=3, n_concepts=1, n_static=2, horizon_edges=(0, 6, 12)),
)
INPUTS = [np.ones((1, 5, 3), np.float32), np.ones((1, 2), np.float32)]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return RecurrentEnsemble(Networks.of(build_network(CONFIG.network)), CONFIG.network.horizon_edges)


@pytest.fixture
def saved(model, tmp_path):
    return save_artifact(tmp_path, "stay-1", model.save, CONFIG, {"center": [1.5]}, {"cut_off": "2024-03-01"})


def test_an_artifact_comes_back_as_it_was_saved(saved, model):
    loaded = load_artifact(saved)
    again = RecurrentEnsemble.load(loaded.folder, loaded.config)
    np.testing.assert_array_equal(again.network(INPUTS), model.network(INPUTS))
    assert again.edges == CONFIG.network.horizon_edges
    assert loaded.config == CONFIG
    assert loaded.scaler == {"center": [1.5]}
    assert loaded.meta["cut_off"] == "2024-03-01"


def test_the_meta_data_say_what_the_model_was_made_with(saved):
    meta = read_meta(saved)
    assert meta["model_id"] == "stay-1" and meta["forecaster"] == "stay"
    assert meta["concept_hash"] == concept_hash() and list(meta["concepts"]) == list(NAMES)
    assert meta["versions"]["keras"] == keras.__version__
    assert set(meta["versions"]) == {"python", "numpy", "keras", "tensorflow", "scikit-learn", "icu-forecast"}
    assert set(meta["sha256"]) == {"model.keras", "weights.npz", "scaler.json"}


def test_the_folder_holds_its_files_and_nothing_is_left_beside_it(saved):
    assert {path.name for path in saved.iterdir()} == {"model.keras", "weights.npz", "scaler.json", "meta.json"}
    assert [path.name for path in saved.parent.iterdir()] == ["stay-1"]


def test_a_save_that_fails_leaves_nothing_behind(model, tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        save_artifact(tmp_path, "stay-1", model.save, CONFIG, {}, {"auroc": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_is_never_changed(saved, model):
    with pytest.raises(ArtifactError, match="already exists"):
        save_artifact(saved.parent, "stay-1", model.save, CONFIG, {}, {})
    assert check_artifact(saved)["cut_off"] == "2024-03-01"


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "/tmp/a"])
def test_a_model_id_that_is_no_plain_name_is_refused(name, model, tmp_path):
    with pytest.raises(ArtifactError, match="plain folder name"):
        save_artifact(tmp_path, name, model.save, CONFIG, {}, {})


@pytest.mark.parametrize("name", ["model.keras", "scaler.json", "meta.json"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        load_artifact(saved)


def test_a_folder_that_is_not_there_says_to_check_the_mount(tmp_path):
    with pytest.raises(ArtifactError, match="mounted"):
        load_artifact(tmp_path / "gone")


@pytest.mark.parametrize("name", ["model.keras", "scaler.json"])
def test_a_changed_file_is_found_by_its_checksum(saved, name):
    data = bytearray((saved / name).read_bytes())
    data[len(data) // 2] ^= 1
    (saved / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=f"damaged.*{name}"):
        load_artifact(saved)


def test_meta_data_that_are_not_json_are_said_to_be_broken(saved):
    (saved / "meta.json").write_text('{"model_id": ')
    with pytest.raises(ArtifactError, match="not JSON"):
        load_artifact(saved)


def test_the_git_revision_is_null_outside_of_the_projects_repository(monkeypatch, tmp_path, model):
    monkeypatch.setattr(artifact, "_PROJECT", tmp_path)
    assert read_meta(save_artifact(tmp_path, "m", model.save, CONFIG, {}, {}))["git_revision"] is None


def test_the_git_revision_names_the_commit_and_says_if_files_were_changed(monkeypatch, tmp_path):
    monkeypatch.setattr(artifact, "_PROJECT", tmp_path)

    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    (tmp_path / "a.txt").write_text("1")
    git("add", "a.txt")
    git("commit", "-m", "first")
    assert artifact._git_revision() == git("rev-parse", "HEAD")
    (tmp_path / "a.txt").write_text("2")
    assert artifact._git_revision() == git("rev-parse", "HEAD") + "-dirty"


def test_looking_at_an_artifact_does_not_load_keras(saved):
    code = (
        "import sys; from pathlib import Path; from rnn_core.forecasters.artifact import check_artifact;"
        f"print(check_artifact(Path({str(saved)!r}))['model_id'], 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["stay-1", "False"]
