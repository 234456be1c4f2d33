"""Fitted networks and their files: as plain arrays to score with, and as the Keras model that they were taken from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from zipfile import BadZipFile

from rnn_core.contracts.errors import ArtifactError
from rnn_core.forecasters.artifact import checksum_of, read_meta, versions_of
from rnn_core.network.scoring import FittedNetwork, load_networks, save_networks

if TYPE_CHECKING:
    import keras

KERAS_FILE, WEIGHTS_FILE = "model.keras", "weights.npz"

# Champion, challenger, unit model and one more of a process that serves them hour after hour, by checksum.
_MODELS_KEPT = 4
_models: dict[str, "keras.Model"] = {}


@dataclass(frozen=True)
class Networks:
    """One network, or the members of an ensemble.

    plain: what scores. source: the same as one Keras model (`network.build.build_ensemble`), or the folder that holds it:
    only who trains or saves needs Keras, which takes seconds to import. It is not sent to other processes, which score.
    """

    plain: tuple[FittedNetwork, ...]
    source: "keras.Model | Path | None"

    def __getstate__(self) -> dict[str, Any]:
        return {"plain": self.plain, "source": None}

    @classmethod
    def of(cls, model: "keras.Model") -> Self:
        """With the weights that `model` has now."""
        from rnn_core.network.fitted import networks_of

        return cls(networks_of(model), model)

    @property
    def keras_model(self) -> "keras.Model":
        """Never changed by who reads it."""
        return load_keras_model(self.source) if isinstance(self.source, Path) else self.source

    def members(self, of: int = 1) -> tuple["Networks", ...]:
        """Its networks, or runs of `of` of them."""
        from rnn_core.network.build import build_ensemble, members_of

        models = members_of(self.keras_model)
        runs = [slice(first, first + of) for first in range(0, len(self.plain), of)]
        return tuple(Networks(self.plain[run], build_ensemble(models[run])) for run in runs)

    @classmethod
    def join(cls, members: Sequence["Networks"]) -> Self:
        """One ensemble, which owns the Keras models of its members."""
        from rnn_core.network.build import build_ensemble

        plain = tuple(network for member in members for network in member.plain)
        return cls(plain, build_ensemble([member.keras_model for member in members]))

    def save(self, folder: Path) -> None:
        self.keras_model.save(folder / KERAS_FILE)
        save_networks(self.plain, folder / WEIGHTS_FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote; scores the same to the bit. Artifacts of versions that scored with Keras hold its model alone.

        Raises ArtifactError where the files cannot be read.
        """
        if not (folder / WEIGHTS_FILE).exists():
            return cls.of(load_keras_model(folder))
        try:
            return cls(load_networks(folder / WEIGHTS_FILE), folder)
        except (OSError, KeyError, ValueError, BadZipFile) as error:
            raise ArtifactError(
                f"{WEIGHTS_FILE} of the artifact {folder.name} cannot be read; restore the folder from its backup, or train "
                "again."
            ) from error


def load_keras_model(folder: Path) -> "keras.Model":
    """The Keras model of an artifact, not compiled for training.

    It is read once per process, since rebuilding it takes seconds; artifacts with the same model share it: copy it to
    change it. Raises ArtifactError if this version of Keras cannot read it.
    """
    import keras

    # Both register the layers that a saved network may hold.
    import rnn_core.network.cells
    import rnn_core.network.heads  # noqa: F401

    checksum = checksum_of(folder / KERAS_FILE)
    if checksum not in _models:
        try:
            model = keras.saving.load_model(folder / KERAS_FILE, compile=False)
        except (ValueError, TypeError, OSError) as error:
            raise ArtifactError(
                f"The network of the artifact {folder.name} cannot be read with keras {keras.__version__}; it was written "
                f"with {versions_of(read_meta(folder))}. Install those versions, or train again."
            ) from error
        while len(_models) >= _MODELS_KEPT:
            del _models[next(iter(_models))]
        _models[checksum] = model
    return _models[checksum]
