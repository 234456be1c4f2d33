"""Arrays in files: written in parts and read where they are needed, shared by processes; or several, complete or absent."""

import mmap
import os
from pathlib import Path

import numpy as np


def create(path: Path, shape: tuple[int, ...], dtype: np.dtype | type) -> None:
    """A `.npy` file of zeros, which takes no space before it is written."""
    np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def write(path: Path, first: int, rows: np.ndarray) -> None:
    """Put `rows` from row `first` on into a file of `create`. Several processes may write other rows at the same time.

    Raises OSError if the disk is full.
    """
    into = read(path)
    with path.open("r+b") as file:
        file.seek(into.offset + first * into.strides[0])
        np.ascontiguousarray(rows, into.dtype).tofile(file)


def read(path: Path) -> np.ndarray:
    """The array of a `.npy` file; its pages are read when they are needed."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


def save_whole(path: Path, **arrays: np.ndarray) -> None:
    """An `.npz` file of numbers and texts that is complete or absent, whenever the process dies; its folder is made.

    Raises OSError if the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of this process alone: a shard may be computed again while the worker that seemed lost still writes.
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    partial.replace(path)


def release(*arrays: np.ndarray) -> None:
    """Let pages of mapped files go that this process has read: the system has them, and needs no second reading from disk."""
    for array in arrays:
        while array is not None and not isinstance(array, mmap.mmap):
            array = getattr(array, "base", None)
        if array is not None and hasattr(array, "madvise"):
            array.madvise(mmap.MADV_DONTNEED)
