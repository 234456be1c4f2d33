"""The material of a fit as a folder of plain arrays, which many processes read without a copy of their own."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd

from rnn_core.contracts.frames import Labels, Observations, Windows
from rnn_core.contracts.known import Known
from rnn_core.series.material import Material


def write_material(folder: Path, material: Material) -> None:
    """Write what a fit of members reads of `material` into `folder`, which exists. The files hold patients' data.

    Of `known` these are patient, source, intime, `borrowed` and `as_of`. Raises OSError where the disk is full.
    """
    known = material.known
    arrays = {
        "patient_id": known.stays["patient_id"].to_numpy(str),
        "source": known.stays["source"].to_numpy(str),
        "borrowed": known.borrowed,
        "intime": known.intime,
        "as_of": np.asarray(known.as_of),
        "known_until": material.known_until,
    }
    for name, part in (("windows", material.windows), ("labels", material.labels)):
        arrays |= {f"{name}.{field.name}": getattr(part, field.name) for field in fields(part)}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def read_material(folder: Path) -> Material:
    """What `write_material` wrote, for a fit; pages of the files are read when they are needed, and shared by processes."""

    def read(name: str) -> np.ndarray:
        return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)

    def parts(name: str, kind: type) -> dict[str, np.ndarray]:
        return {field.name: np.asarray(read(f"{name}.{field.name}")) for field in fields(kind)}

    stays = pd.DataFrame({name: read(name).astype(object) for name in ("patient_id", "source")})
    stays = stays.assign(intime=np.array(read("intime")), borrowed=np.array(read("borrowed")))
    nothing = Observations(*(np.empty(0, kind) for kind in ("i4", "i2", "M8[us]", "M8[us]", "f8")))
    as_of = np.load(folder / "as_of.npy", allow_pickle=False)[()]
    return Material(
        Known(stays, nothing, as_of),
        Windows(**parts("windows", Windows)),
        Labels(**parts("labels", Labels)),
        np.array(read("known_until")),
    )
