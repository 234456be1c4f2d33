"""The material of a fit as a folder of plain arrays, which many processes read without a copy of their own."""

import os
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd

from rnn_core.contracts.concepts import NAMES
from rnn_core.contracts.frames import Grid, Labels, Observations, Windows
from rnn_core.contracts.known import Known
from rnn_core.series import mapped
from rnn_core.series.material import Material


def write_material(folder: Path, material: Material) -> None:
    """Write what a fit of members reads of `material` into `folder`, which exists. The files hold patients' data.

    Of `known` these are patient, source, intime, `borrowed` and `as_of`. Arrays that are files already are linked. Raises
    OSError where the disk is full.
    """
    known, labels = material.known, material.labels
    arrays = {
        "patient_id": known.stays["patient_id"].to_numpy(str),
        "source": known.stays["source"].to_numpy(str),
        "borrowed": known.borrowed,
        "intime": known.intime,
        "as_of": np.asarray(known.as_of),
        "known_until": material.known_until,
    }
    for name, part in (("windows", material.windows), ("labels", labels)):
        found = {f"{name}.{field.name}": getattr(part, field.name) for field in fields(part)}
        arrays |= {field: array for field, array in found.items() if array is not None}
    # Both causes may be seen from the same time on.
    arrays["labels.entry"] = labels.entry[:, :, :1]
    if material.fixed is not None:
        arrays["fixed"] = material.fixed
    for name, array in arrays.items():
        if isinstance(array, np.memmap):
            _link(Path(str(array.filename)), folder / f"{name}.npy")
        else:
            np.save(folder / f"{name}.npy", array, allow_pickle=False)


def _link(path: Path, link: Path) -> None:
    try:
        os.link(path, link)
    except OSError:  # not every file system has links
        shutil.copyfile(path, link)


def read_material(folder: Path) -> Material:
    """What `write_material` wrote, for a fit; pages of the files are read when they are needed, and shared by processes."""

    def read(name: str) -> np.ndarray:
        return mapped.read(folder / f"{name}.npy")

    def parts(name: str, kind: type) -> dict[str, np.ndarray]:
        files = {field.name: f"{name}.{field.name}" for field in fields(kind)}
        return {field: read(file) for field, file in files.items() if (folder / f"{file}.npy").exists()}

    stays = pd.DataFrame({name: read(name).astype(object) for name in ("patient_id", "source")})
    stays = stays.assign(intime=np.array(read("intime")), borrowed=np.array(read("borrowed")))
    as_of = np.load(folder / "as_of.npy", allow_pickle=False)[()]
    labels = parts("labels", Labels)
    labels["entry"] = np.broadcast_to(labels["entry"], labels["weights"].shape)
    return Material(
        Known(stays, nothing(), as_of),
        Windows(**parts("windows", Windows)),
        Labels(**labels),
        np.array(read("known_until")),
        read("fixed") if (folder / "fixed.npy").exists() else None,
    )


def nothing() -> Observations:
    """No observations."""
    return Observations(*(np.empty(0, kind) for kind in ("i4", "i2", "M8[us]", "M8[us]", "f8")))


def write_grid(path: Path, grid: Grid, **beside: np.ndarray) -> None:
    """The observed cells of a grid, and arrays `beside` it, as a file that is complete or absent. Raises OSError if the
    disk is full."""
    cell = np.flatnonzero(~np.isnan(grid.last))
    mapped.save_whole(
        path,
        offsets=grid.offsets,
        base=grid.base,
        cell=cell,
        last=grid.last.ravel()[cell],
        observed_hours=grid.observed_hours.ravel()[cell],
        count=grid.count,
        last_available=grid.last_available,
        **beside,
    )


def read_grid(path: Path) -> tuple[Grid, dict[str, np.ndarray]]:
    """What `write_grid` wrote, to the bit: the grid, and all arrays of the file. Raises OSError, KeyError, ValueError or
    BadZipFile for any other file."""
    with np.load(path, allow_pickle=False) as file:
        found = dict(file)
    shape = (len(found["count"]), len(NAMES))
    dense = {}
    for name in ("last", "observed_hours"):
        dense[name] = np.full(shape, np.nan, np.float32)
        dense[name].ravel()[found["cell"]] = found[name]
    return Grid(
        found["offsets"], found["base"], **dense, count=found["count"], last_available=found["last_available"]
    ), found
