"""A fitted model on disk: `model.keras`, `scaler.json` and `meta.json` in one folder, complete or absent."""

import hashlib
import json
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from rnn_core.contracts.concepts import concept_hash
from rnn_core.contracts.config import ClassicConfig, ModelConfig
from rnn_core.contracts.errors import ArtifactError

if TYPE_CHECKING:
    import keras

MODEL_FILE, SCALER_FILE, META_FILE = "model.keras", "scaler.json", "meta.json"

# Champion, challenger, unit model and one more of a process that serves them hour after hour, by checksum.
_NETWORKS_KEPT = 4
_networks: dict[str, "keras.Model"] = {}

_PACKAGES = ("numpy", "keras", "tensorflow", "icu-forecast")
_PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Artifact:
    """A loaded artifact.

    model: ready to score, not compiled for training. Artifacts with the same network share it: copy it to change it.
    scaler: the scaler's own JSON.
    config: ModelConfig of a stay forecaster, ClassicConfig of a unit forecaster.
    meta: all of `meta.json`: the arguments of `save_artifact` and what it added (`forecaster`, `model_id`, `config`,
        `concept_hash`, `versions`, `git_revision`, `sha256`).
    """

    model: "keras.Model"
    scaler: dict[str, Any]
    config: ModelConfig | ClassicConfig
    meta: dict[str, Any]


def save_artifact(
    root: Path,
    model_id: str,
    model: "keras.Model",
    config: ModelConfig | ClassicConfig,
    scaler: dict[str, Any],
    meta: dict[str, Any],
) -> Path:
    """Writes the artifact `root/model_id` and returns its folder; readers see all of it or nothing.

    `meta`: JSON of the caller, such as data cut-off, metrics and `ends_at` of the labels. Raises ArtifactError if
    `model_id` is not a plain name or exists already (an artifact is never changed), and if it cannot be written.
    """
    if not model_id or model_id != Path(model_id).name or model_id.startswith("."):
        raise ArtifactError(f"An artifact's name is a plain folder name, not {model_id!r}.")
    target = Path(root) / model_id
    if target.exists():
        raise ArtifactError(f"The artifact {model_id} already exists and is never changed; save under a new model id.")
    partial = Path(root) / f".{model_id}.{uuid4().hex}.partial"
    partial.mkdir(parents=True)
    try:
        model.save(partial / MODEL_FILE)
        _write_json(partial / SCALER_FILE, scaler)
        _write_json(partial / META_FILE, {**meta, **_describe(model_id, config, partial)})
        partial.rename(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ArtifactError(
            f"The artifact {model_id} cannot be written to {root} ({error.strerror or type(error).__name__}); free space, or "
            "set another folder in ICU_ARTIFACTS. The serving model is not affected; the next training resumes."
        ) from None
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return target


def load_artifact(path: Path) -> Artifact:
    """Reads an artifact after `check_artifact` has passed.

    Raises ArtifactError, which says what is wrong and what to do, otherwise.
    """
    # Loading Keras takes seconds and is not needed to read the meta data.
    import keras

    path = Path(path)
    meta = check_artifact(path)
    config_class = ModelConfig if meta["forecaster"] == "stay" else ClassicConfig
    try:
        model = _load_network(path / MODEL_FILE, meta["sha256"][MODEL_FILE])
    except (ValueError, TypeError, OSError) as error:
        raise ArtifactError(
            f"The network of the artifact {path.name} cannot be read with keras {keras.__version__}; it was written "
            f"with {_versions_of(meta)}. Install those versions, or train again."
        ) from error
    return Artifact(model, _read_json(path / SCALER_FILE), config_class.from_json(meta["config"]), meta)


def _load_network(path: Path, checksum: str) -> "keras.Model":
    """The network in a file with this SHA-256; read once per process, since rebuilding and tracing it takes seconds."""
    import keras

    import rnn_core.network.cells
    import rnn_core.network.heads  # noqa: F401 - both register the layers that a saved network may hold

    if checksum not in _networks:
        network = keras.saving.load_model(path, compile=False)
        while len(_networks) >= _NETWORKS_KEPT:
            del _networks[next(iter(_networks))]
        _networks[checksum] = network
    return _networks[checksum]


def check_artifact(path: Path) -> dict[str, Any]:
    """The meta data of an artifact, if its files are intact and, for a stay forecaster, fit the current concepts.

    Raises ArtifactError otherwise. Does not load the network.
    """
    path = Path(path)
    if missing := [name for name in (MODEL_FILE, SCALER_FILE) if not (path / name).is_file()]:
        raise ArtifactError(_lacking(path, missing))
    meta = read_meta(path)
    stated = meta.get("sha256", {})
    if changed := [name for name in (MODEL_FILE, SCALER_FILE) if _sha256(path / name) != stated.get(name)]:
        raise ArtifactError(
            f"The artifact {path.name} is damaged: the checksum of {changed} is not the one in {META_FILE}. "
            "Restore the folder from its backup, or roll back to another model."
        )
    if meta["forecaster"] == "stay" and meta["concept_hash"] != concept_hash():
        raise ArtifactError(
            f"The artifact {path.name} was trained for concepts with the hash {meta['concept_hash']}, this version has "
            f"{concept_hash()}; score it with the version that trained it ({_versions_of(meta)}), or train again."
        )
    return meta


def read_meta(path: Path) -> dict[str, Any]:
    """`meta.json` of an artifact, checked only to exist and to be JSON (ArtifactError)."""
    path = Path(path)
    if not (path / META_FILE).is_file():
        raise ArtifactError(_lacking(path, [META_FILE]))
    return _read_json(path / META_FILE)


def _describe(model_id: str, config: ModelConfig | ClassicConfig, folder: Path) -> dict[str, Any]:
    return {
        "model_id": model_id,
        "forecaster": "stay" if isinstance(config, ModelConfig) else "unit",
        "config": config.to_json(),
        "concept_hash": concept_hash(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "git_revision": _git_revision(),
        "sha256": {name: _sha256(folder / name) for name in (MODEL_FILE, SCALER_FILE)},
    }


def _lacking(path: Path, missing: list[str]) -> str:
    return f"The artifact {path.name} lacks {missing}; check that the artifact folder is mounted, or train again."


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _versions_of(meta: dict[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in meta.get("versions", {}).items())


def _git_revision() -> str | None:
    """The commit of the project, `-dirty` with uncommitted changes; None if it does not run from its own repository."""
    if not (_PROJECT / ".git").exists():
        return None
    command = ["git", "-C", str(_PROJECT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path.name} of the artifact {path.parent.name} is not JSON; restore it.") from error
