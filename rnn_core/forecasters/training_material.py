"""The material of a fit, made of some stays at a time: in files of a folder, memory does not grow with the stays."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from rnn_core.contracts.config import ModelConfig, Sampling, WindowConfig
from rnn_core.contracts.errors import ForecastError
from rnn_core.contracts.frames import Grid, Labels, Windows
from rnn_core.contracts.known import Cohort, Known, parts_of
from rnn_core.network.scoring import fixed_inputs, fixed_width
from rnn_core.series import mapped
from rnn_core.series.material import (
    Material,
    known_until,
    make_material,
    make_served_grid,
    origin_of,
    other_sources,
)
from rnn_core.series.material_files import nothing, read_grid, write_grid
from rnn_core.series.scaling import STATIC_NAMES, Moments, Scaler, scaler_of, static_features
from rnn_core.series.windows import TIME_CHANNELS

# What the files hold; a folder of another version is not read.
_VERSION = 1
# Of each hour, in files where there is a folder; all else is small.
_LARGE = ("channels", "weights", "entry", "fixed")


@dataclass(frozen=True)
class _Made:
    """Of a part: hours of its stays, `known_until`, moments of the stays learned from; its grid, if that is in no file."""

    lengths: np.ndarray
    until: np.ndarray
    moments: Moments
    grid: Grid | None


def build_material(
    known: Cohort,
    learned: np.ndarray,
    config: ModelConfig,
    sampling: Sampling,
    folder: Path | None = None,
    completed: Callable[[Scaler], Scaler] = lambda scaler: scaler,
) -> tuple[Material, Scaler]:
    """Material of `known`, and the scaler fitted to the stays `learned`, bool [stays], and `completed`.

    folder: for files, which hold patients' data; observations that a call with the same stays and config has read are not
        read again. None: all is in memory. Raises ForecastError if the disk is full.
    """
    try:
        return _build(
            known, learned, config, sampling, folder and _prepared(folder, known, config, sampling), completed
        )
    except OSError as error:
        raise ForecastError(
            f"The material of the fit cannot be written to {folder} ({error.strerror or type(error).__name__}); free space, or "
            "set another folder in ICU_ARTIFACTS."
        ) from None


def _build(
    known: Cohort,
    learned: np.ndarray,
    config: ModelConfig,
    sampling: Sampling,
    folder: Path | None,
    completed: Callable[[Scaler], Scaler],
) -> tuple[Material, Scaler]:
    parts = parts_of(len(known.stays))
    files = [folder and folder / f"grid-{number:04d}.npz" for number in range(len(parts))]
    read = partial(_read_part, config.window, sampling)
    made = known.map(read, parts, "reading what is learned from", files, [learned[part] for part in parts])
    scaler = completed(
        scaler_of(reduce(Moments.joined, (one.moments for one in made)), static_features(known.stays)[learned])
    )
    first = np.concatenate([[0], np.cumsum([one.lengths.sum() for one in made])])
    into = _Arrays.of(folder, int(first[-1]), _widths(known, config))
    fill = partial(_fill_part, scaler, config, sampling, other_sources(known), into)
    small = known.map(fill, parts, "making what is learned from", made, files, first[:-1].tolist(), observed=False)
    return _join(known, parts, small, made, into), scaler


def _prepared(folder: Path, known: Cohort, config: ModelConfig, sampling: Sampling) -> Path:
    """A folder in `folder` for these stays alone; what others left is removed."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update(json.dumps([_VERSION, str(known.as_of), config.window.to_json(), sampling.to_json()]).encode())
    digest.update(pd.util.hash_pandas_object(known.stays.astype(str)).to_numpy().tobytes())
    own = folder / digest.hexdigest()
    for other in folder.iterdir() if folder.exists() else ():
        if other != own:
            shutil.rmtree(other, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    own.mkdir(exist_ok=True, mode=0o700)
    return own


def _read_part(window: WindowConfig, sampling: Sampling, known: Known, file: Path | None, learned: np.ndarray) -> _Made:
    if left := _left(file):
        grid, until = left
    else:
        known = known.of_concepts(window.concepts)
        grid, until = make_served_grid(known, window, sampling), known_until(known, window)
        if file is not None:
            write_grid(file, grid, until=until)
    return _Made(grid.lengths, until, Moments.of(grid, learned), None if file else grid)


def _left(file: Path | None) -> tuple[Grid, np.ndarray] | None:
    """What a fit that was interrupted has read."""
    if file is None:
        return None
    try:
        grid, found = read_grid(file)
        return grid, found["until"]
    except (OSError, KeyError, ValueError, BadZipFile):
        return None


def _widths(known: Cohort, config: ModelConfig) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape of an hour, and type, of each of the large arrays."""
    n, bins = len(config.window.concepts), len(config.network.horizon_edges)
    channels, static = 3 * n + len(TIME_CHANNELS), len(STATIC_NAMES) + len(other_sources(known))
    widths = {
        "channels": ((channels,), np.float32),
        "weights": ((bins, 2), np.float32),
        "entry": ((bins, 1), np.float32),
    }
    if "recurrent" in (config.forecaster, *(config.blend if config.forecaster == "blend" else ())):
        widths["fixed"] = ((fixed_width(static, channels, config),), np.float16)
    return widths


@dataclass(frozen=True)
class _Arrays:
    """The large arrays: where they are, or they themselves."""

    folder: Path | None
    arrays: dict[str, np.ndarray]
    names: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path | None, hours: int, widths: dict[str, tuple[tuple[int, ...], type]]) -> "_Arrays":
        arrays = {}
        for name, (width, dtype) in widths.items():
            if folder is None:
                arrays[name] = np.zeros((hours, *width), dtype)
            else:
                mapped.create(folder / f"{name}.npy", (hours, *width), dtype)
        return cls(folder, arrays, tuple(widths))

    def write(self, first: int, **rows: np.ndarray) -> None:
        for name, values in rows.items():
            if self.folder is None:
                self.arrays[name][first : first + len(values)] = values
            else:
                mapped.write(self.folder / f"{name}.npy", first, values)

    def read(self, name: str) -> np.ndarray:
        return self.arrays[name] if self.folder is None else mapped.read(self.folder / f"{name}.npy")


def _fill_part(
    scaler: Scaler,
    config: ModelConfig,
    sampling: Sampling,
    others: list[str],
    into: _Arrays,
    known: Known,
    made: _Made,
    file: Path | None,
    first: int,
) -> Material:
    """Writes the large arrays of a part from row `first` on; returns its material without them."""
    grid = made.grid or read_grid(file)[0]
    material = make_material(known, grid, scaler, config, sampling, made.until)
    windows, labels = material.windows, material.labels
    rows = {"channels": windows.channels, "weights": labels.weights, "entry": labels.entry[:, :, :1]}
    if "fixed" in into.names:
        origin = origin_of(known.stays, known.borrowed, others)
        rows["fixed"] = fixed_inputs(replace(windows, static=np.concatenate([windows.static, origin], axis=1)), config)
    into.write(first, **rows)
    without = np.empty(0, np.float32)
    return replace(
        material,
        known=replace(known, observations=nothing()),
        windows=replace(windows, channels=without),
        labels=replace(labels, weights=without, entry=without),
    )


def _join(known: Cohort, parts: list[slice], small: list[Material], made: list[_Made], into: _Arrays) -> Material:
    hours = np.concatenate([[0], np.cumsum([len(one.windows.prediction_hour) for one in small])])[:-1]
    windows, labels = [one.windows for one in small], [one.labels for one in small]

    def joined(each: list, name: str) -> np.ndarray:
        return np.concatenate([getattr(one, name) for one in each])

    def shifted(name: str, by: np.ndarray | list[int]) -> np.ndarray:
        return np.concatenate([getattr(one, name) + first for one, first in zip(windows, by, strict=True)])

    weights = into.read("weights")
    return Material(
        known,
        Windows(
            channels=into.read("channels"),
            static=joined(windows, "static"),
            offsets=np.concatenate([[0], np.cumsum(joined(made, "lengths"))]),
            stay=shifted("stay", [part.start for part in parts]),
            **{name: shifted(name, hours) for name in ("start", "stop", "score_from")},
            **{name: joined(windows, name) for name in ("prediction_hour", "n_observations", "hours_since_last")},
        ),
        Labels(
            weights=weights,
            entry=np.broadcast_to(into.read("entry"), weights.shape),
            **{name: joined(labels, name) for name in ("death", "remaining_hours", "usable")},
        ),
        joined(made, "until"),
        into.read("fixed") if "fixed" in into.names else None,
    )
