"""A fitted model on disk: its own files, `scaler.json` and `meta.json` in one folder, complete or absent."""

import hashlib
import json
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from uuid import uuid4

from rnn_core.contracts.concepts import BY_NAME, NAMES, concept_hash
from rnn_core.contracts.config import ArrivalConfig, ModelConfig, UnitConfig
from rnn_core.contracts.errors import ArtifactError

SCALER_FILE, META_FILE = "scaler.json", "meta.json"

_PACKAGES = ("numpy", "keras", "tensorflow", "scikit-learn", "icu-forecast")
# Of each kind of forecaster, the class of its configuration.
_CONFIGS = {"stay": ModelConfig, "unit": UnitConfig, "arrivals": ArrivalConfig}
Config = ModelConfig | UnitConfig | ArrivalConfig
_PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Artifact:
    """A complete artifact; the class of its forecaster loads the model.

    folder: where the model's own files are.
    scaler: the scaler's own JSON.
    config: ModelConfig of a stay forecaster, UnitConfig of a unit forecaster, ArrivalConfig of one of arrivals.
    meta: all of `meta.json`: the arguments of `save_artifact` and what it added (`forecaster`, `model_id`, `config`,
        `concepts` that it reads and their `concept_hash`, `versions`, `git_revision`, `sha256`).
    """

    folder: Path
    scaler: dict[str, Any]
    config: Config
    meta: dict[str, Any]


def save_artifact(
    root: Path,
    model_id: str,
    save: Callable[[Path], None],
    config: Config,
    scaler: dict[str, Any],
    meta: dict[str, Any],
) -> Path:
    """Writes the artifact `root/model_id` and returns its folder; readers see all of it or nothing.

    `save` writes the model's own files, under any names, into the folder it is given.
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
        save(partial)
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
    """Reads an artifact, except the model's own files, after `check_artifact` has passed.

    Raises ArtifactError, which says what is wrong and what to do, otherwise.
    """
    path = Path(path)
    meta = check_artifact(path)
    config = _CONFIGS[meta["forecaster"]].from_json(meta["config"])
    return Artifact(path, _read_json(path / SCALER_FILE), config, meta)


def check_artifact(path: Path) -> dict[str, Any]:
    """The meta data of an artifact, if its files are intact and, for a stay forecaster, its concepts unchanged.

    Concepts added to the vocabulary since do not matter: the model does not read them. Raises ArtifactError otherwise.
    Does not load the model.
    """
    path = Path(path)
    meta = read_meta(path)
    stated = meta.get("sha256") or {SCALER_FILE: None}
    if missing := [name for name in stated if not (path / name).is_file()]:
        raise ArtifactError(_lacking(path, missing))
    if changed := [name for name, checksum in stated.items() if checksum_of(path / name) != checksum]:
        raise ArtifactError(
            f"The artifact {path.name} is damaged: the checksum of {changed} is not the one in {META_FILE}. "
            "Restore the folder from its backup, or roll back to another model."
        )
    if meta["forecaster"] == "stay" and (wrong := _changed_concepts(meta, path)):
        raise ArtifactError(
            f"The artifact {path.name} {wrong}; score it with the version that trained it ({versions_of(meta)}), or train "
            "again."
        )
    return meta


def read_meta(path: Path) -> dict[str, Any]:
    """`meta.json` of an artifact, checked only to exist and to be JSON (ArtifactError)."""
    path = Path(path)
    if not (path / META_FILE).is_file():
        raise ArtifactError(_lacking(path, [META_FILE]))
    return _read_json(path / META_FILE)


def _changed_concepts(meta: dict[str, Any], path: Path) -> str | None:
    """What became of the concepts that the model reads, in words; None where each is defined as it was."""
    learned: dict[str, str] | None = meta.get("concepts")
    # Version 0.1.0 kept one hash of all the concepts that it had, which the scaler names.
    names = list(learned or _read_json(path / SCALER_FILE)["concepts"])
    if removed := [name for name in names if name not in BY_NAME]:
        return f"reads concepts that this version does not have: {', '.join(removed)}"
    if learned is None:
        now = concept_hash(names)
        changed = f"was trained for concepts with the hash {meta['concept_hash']}, which this version defines as {now}"
        return changed if now != meta["concept_hash"] else None
    changed = [
        f"{old} (now {BY_NAME[name].definition})" for name, old in learned.items() if old != BY_NAME[name].definition
    ]
    return f"learned concepts that are defined differently now: {', '.join(changed)}" if changed else None


def versions_of(meta: dict[str, Any]) -> str:
    """The packages that an artifact was written with, in words."""
    return ", ".join(f"{name} {number}" for name, number in meta.get("versions", {}).items())


def _describe(model_id: str, config: Config, folder: Path) -> dict[str, Any]:
    reads = config.window.concepts if isinstance(config, ModelConfig) else NAMES
    return {
        "model_id": model_id,
        "forecaster": next(name for name, of in _CONFIGS.items() if isinstance(config, of)),
        "config": config.to_json(),
        "concepts": {name: BY_NAME[name].definition for name in reads},
        "concept_hash": concept_hash(reads),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "git_revision": _git_revision(),
        "sha256": {file.name: checksum_of(file) for file in sorted(folder.iterdir())},
    }


def _lacking(path: Path, missing: list[str]) -> str:
    return f"The artifact {path.name} lacks {missing}; check that the artifact folder is mounted, or train again."


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


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


def checksum_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path.name} of the artifact {path.parent.name} is not JSON; restore it.") from error
