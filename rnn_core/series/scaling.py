"""Standardisation of the values that the network reads: fitted on training stays, saved in the artifact."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import pandas as pd

from rnn_core.contracts.concepts import CONCEPTS, NAMES, STATIC_RANGES, bounds
from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.frames import ADMISSION_TYPES, SEXES, UNIT_TYPES, Grid
from rnn_core.contracts.saved import Array, Saved

_CATEGORIES: dict[str, tuple[str, ...]] = {"sex": SEXES, "admission_type": ADMISSION_TYPES, "unit_type": UNIT_TYPES}

STATIC_NAMES: tuple[str, ...] = (
    *STATIC_RANGES,
    *(f"{name}_missing" for name in STATIC_RANGES),
    *(f"{column}_{level}" for column, levels in _CATEGORIES.items() for level in levels),
)

# Scaled values are clipped here: beyond four deviations the network sees "extreme", not how extreme.
CLIP = 4.0

_LOG_SCALE = np.array([concept.log_scale for concept in CONCEPTS])


@dataclass(frozen=True)
class Scaler(Saved):
    """Centre and spread of every concept (after log1p where `Concept.log_scale`) and of every static feature.

    center, scale: float32 [concepts], in the order of `concepts`.
    static_center, static_scale: float32 [static features], in the order of `static`; 0 and 1 for indicators.
    clip: scaled values are in [-clip, clip].
    concepts, static: names of the features it was fitted on. Raises ContractError where this version lacks one of the
        concepts, or has other static features or another order of them.
    """

    center: Array
    scale: Array
    static_center: Array
    static_scale: Array
    clip: float = CLIP
    concepts: tuple[str, ...] = NAMES
    static: tuple[str, ...] = STATIC_NAMES

    def __post_init__(self) -> None:
        if removed := sorted(set(self.concepts) - set(NAMES)):
            raise ContractError(
                f"The saved scaler was fitted on concepts that this version does not have: {', '.join(removed)}; "
                "score with the version that trained the model, or train again."
            )
        if self.static != STATIC_NAMES:
            raise ContractError(
                f"The saved scaler has {len(self.static)} static features, this version has {len(STATIC_NAMES)}, and "
                "their names or order differ; score with the version that trained the model, or train again."
            )

    def scale_values(self, values: np.ndarray, concept: np.ndarray) -> np.ndarray:
        """Values in concept units to scaled float32; NaN stays NaN.

        concept: of each, its position in `concepts.NAMES`; one that the scaler was fitted on.
        """
        own = self._own_position[concept]
        scaled = (_transform(values, concept) - self.center[own]) / self.scale[own]
        return np.clip(scaled, -self.clip, self.clip)

    def scale_static(self, static_raw: np.ndarray) -> np.ndarray:
        """`static_features`, [stays, k], as the network reads them: missing numbers are 0 (the mean); their mask marks them."""
        scaled = (static_raw - self.static_center) / self.static_scale
        return np.nan_to_num(np.clip(scaled, -self.clip, self.clip), nan=0.0)

    @property
    def unseen(self) -> tuple[str, ...]:
        """Concepts that training never saw."""
        plain = _plain_concepts()[[NAMES.index(name) for name in self.concepts]]
        return tuple(np.array(self.concepts)[_is_plain(self.center, self.scale, plain)].tolist())

    def completed(self, fitted: "Scaler") -> "Scaler":
        """This one for all that its training saw, and `fitted` for the rest, in the order of `fitted`: weights mean
        something only with the scaler that they were learned with."""
        kept = [name for name in self.concepts if name in set(fitted.concepts) - set(self.unseen)]
        own, theirs = ([names.index(name) for name in kept] for names in (self.concepts, fitted.concepts))
        center, scale = fitted.center.copy(), fitted.scale.copy()
        center[theirs], scale[theirs] = self.center[own], self.scale[own]
        plain = _is_plain(self.static_center, self.static_scale, _plain_static())
        return replace(
            fitted,
            center=center,
            scale=scale,
            static_center=np.where(plain, fitted.static_center, self.static_center),
            static_scale=np.where(plain, fitted.static_scale, self.static_scale),
        )

    @cached_property
    def _own_position(self) -> np.ndarray:
        """Of each of `concepts.NAMES`, its position in `concepts`; beyond the last where it is not there."""
        own = {name: position for position, name in enumerate(self.concepts)}
        return np.array([own.get(name, len(own)) for name in NAMES])


def static_features(stays: pd.DataFrame) -> np.ndarray:
    """The features of a stay that are known at admission, float32 [stays, len(STATIC_NAMES)], not yet scaled.

    Numbers (NaN where missing or outside `STATIC_RANGES`), a 0/1 mask that says they are missing, and one 0/1 column
    per level of sex, admission type and unit type; an unknown level is all zeros.
    """
    numbers = [_number(stays[name], *bounds) for name, bounds in STATIC_RANGES.items()]
    missing = [np.isnan(column) for column in numbers]
    levels = [
        stays[column].eq(level).fillna(False).to_numpy(dtype=bool)
        for column, names in _CATEGORIES.items()
        for level in names
    ]
    return np.column_stack([*numbers, *missing, *levels]).astype(np.float32)


@dataclass(frozen=True)
class Moments:
    """Of the observed cells of each concept: how many, their mean, and the sum of squared differences from it; float64
    [concepts] each."""

    n: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, grid: Grid, chosen: np.ndarray) -> Self:
        """chosen: bool [stays of the grid]."""
        rows = np.flatnonzero(np.repeat(chosen, grid.lengths))
        found = np.zeros((3, len(NAMES)))
        for c in range(len(NAMES)):  # one concept at a time, so that no copy of the whole grid is made
            values = _transform(_known(grid.last[rows, c]), c)
            if len(values):
                found[:, c] = len(values), values.mean(dtype=np.float64), values.var(dtype=np.float64) * len(values)
        return cls(*found)

    def joined(self, other: Self) -> Self:
        """Of the cells of both (Chan, Golub & LeVeque, Am Stat 37, 1983, 242-247)."""
        n, apart = self.n + other.n, other.mean - self.mean
        share = np.divide(other.n, n, out=np.zeros_like(n), where=n > 0)
        return type(self)(n, self.mean + share * apart, self.squares + other.squares + share * self.n * apart**2)


def fit_scaler(grid: Grid, static_raw: np.ndarray, stay_rows: np.ndarray) -> Scaler:
    """`scaler_of` the stays of a grid with the row numbers `stay_rows`, int [n], whose `static_features` are `static_raw`."""
    chosen = np.zeros(grid.n_stays, dtype=bool)
    chosen[stay_rows] = True
    return scaler_of(Moments.of(grid, chosen), static_raw[chosen])


def scaler_of(moments: Moments, static_raw: np.ndarray) -> Scaler:
    """Mean and standard deviation over the observed cells of the training stays, and of their static numbers.

    static_raw: their `static_features`.
    A feature that training never saw is centred in its plausible range and scaled so that the range maps to [-2, 2];
    one that hardly varied (spread under a hundredth of that scale) keeps its mean and takes that scale.
    """
    bound = zip(*(_transform(each, np.arange(len(NAMES))) for each in bounds()), strict=True)
    spread = np.sqrt(moments.squares / np.maximum(moments.n, 1))
    fitted = [
        _center_and_scale(*each, *pair) for *each, pair in zip(moments.n, moments.mean, spread, bound, strict=True)
    ]
    numbers = []
    for i, name in enumerate(STATIC_RANGES):
        values = _known(static_raw[:, i])
        found = (values.mean(dtype=np.float64), values.std(dtype=np.float64)) if len(values) else (0.0, 0.0)
        numbers.append(_center_and_scale(len(values), *found, *STATIC_RANGES[name]))
    indicators = [(0.0, 1.0)] * (len(STATIC_NAMES) - len(STATIC_RANGES))
    center, scale = np.array(fitted, dtype=np.float32).T.copy()
    static_center, static_scale = np.array(numbers + indicators, dtype=np.float32).T.copy()
    return Scaler(center, scale, static_center, static_scale)


def _transform(values: np.ndarray, concept: np.ndarray) -> np.ndarray:
    """float32; log1p where the concept has a long right tail."""
    values = np.asarray(values, dtype=np.float32)
    return np.where(_LOG_SCALE[concept], np.log1p(np.maximum(values, 0)), values)


def _known(column: np.ndarray) -> np.ndarray:
    return column[~np.isnan(column)]


def _center_and_scale(n: float, mean: float, spread: float, low: float, high: float) -> tuple[float, float]:
    range_scale = (float(high) - float(low)) / 4
    if not n:
        return (float(high) + float(low)) / 2, range_scale
    return float(mean), float(spread) if spread > range_scale / 100 else range_scale


def _plain_concepts() -> np.ndarray:
    """Centre and scale of each concept if training never sees it, float32 [concepts, 2]."""
    ranges = [_transform(bound, np.arange(len(NAMES))) for bound in bounds()]
    return np.array([_center_and_scale(0, 0, 0, *pair) for pair in zip(*ranges, strict=True)], dtype=np.float32)


def _plain_static() -> np.ndarray:
    """Likewise of the static features."""
    plain = [_center_and_scale(0, 0, 0, *STATIC_RANGES[name]) for name in STATIC_RANGES]
    return np.array(plain + [(0.0, 1.0)] * (len(STATIC_NAMES) - len(plain)), dtype=np.float32)


def _is_plain(center: np.ndarray, scale: np.ndarray, plain: np.ndarray) -> np.ndarray:
    return (np.stack([center, scale], axis=1) == plain).all(axis=1)


def _number(column: pd.Series, low: float, high: float) -> np.ndarray:
    values = pd.to_numeric(column).to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where((values >= low) & (values <= high), values, np.nan)
