"""Stay forecasters of discrete hazards, of the end and of death given an end, on summaries of a window."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import ClassVar, Self
from zipfile import BadZipFile

import numpy as np
from scipy.special import expit

from rnn_core.contracts.config import ModelConfig
from rnn_core.contracts.errors import ArtifactError, ContractError
from rnn_core.contracts.frames import DIED, EpochRecord, Labels, Windows
from rnn_core.forecasters.forecaster import Forecaster, OutOfFold, join_folds
from rnn_core.series.mapped import save_whole
from rnn_core.series.material import Material
from rnn_core.series.person_periods import PersonPeriods, masses_of_hazards, person_periods, population_masses
from rnn_core.series.splits import patient_folds
from rnn_core.series.summaries import summary_features
from rnn_core.statistics.distribution import Distribution

# Of the bins that a stay outlasts, so many are drawn for each end: more of them add little (Ury, Biometrics 31, 1975).
STAYS_PER_END = 2
_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Examples:
    """Rows to learn from or to stop by, all of one weight: x float64 [n, features], the last one the number of the horizon
    bin; y bool [n]."""

    x: np.ndarray
    y: np.ndarray

    def log_loss(self, log_odds: np.ndarray) -> float:
        """Mean of these log-odds [n], nats."""
        return float(np.logaddexp(0, np.where(self.y, -log_odds, log_odds)).mean())


@dataclass(frozen=True)
class LogOdds:
    """A fitted model of a binary outcome; its fields are arrays.

    baseline: float64 [], added to every log-odds.
    """

    baseline: np.ndarray

    @property
    def rounds(self) -> int:
        """Of its fit."""
        return 1

    def log_odds(self, features: np.ndarray, last: np.ndarray) -> np.ndarray:
        """float64 [rows, values] of `features` [rows, k] with each of the values `last` [values] as feature k."""
        raise NotImplementedError

    def to_arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """All its numbers, by names that begin with `prefix`."""
        return {f"{prefix}{field.name}": getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str) -> Self:
        """What `to_arrays` gave."""
        return cls(**{field.name: arrays[f"{prefix}{field.name}"] for field in fields(cls)})


# From examples to learn from, others to choose its size by, the config and a seed to a model and its loss on both, [2].
# Raises DataTooSmallError without examples of either.
Fit = Callable[[Examples, Examples, ModelConfig, int], tuple[LogOdds, np.ndarray]]


@dataclass(frozen=True)
class Hazards:
    """One fit: log-odds of ending in a bin once it is reached, and of death given an end in a bin.

    Together they are the cause-specific hazards of the bin: ends * dies and ends * (1 - dies). The split keeps one
    tree per step where a classifier of three outcomes grows three, and learns the cause from one example per row
    (vertical modelling: Nicolaie, van Houwelingen & Putter, Stat Med 29, 2010, 1190-1205).
    """

    ends: LogOdds
    dies: LogOdds

    def masses(self, features: np.ndarray, bins: int) -> np.ndarray:
        """Masses float64 [rows, bins, 2] of rows `features` [rows, k]."""
        number = np.arange(bins)
        ends = np.ones((len(features), bins))
        ends[:, :-1] = expit(self.ends.log_odds(features, number[:-1]))
        dies = expit(self.dies.log_odds(features, number))
        return masses_of_hazards(ends[:, :, None] * np.stack([1 - dies, dies], axis=2))

    def to_arrays(self, prefix: str) -> dict[str, np.ndarray]:
        return self.ends.to_arrays(f"{prefix}ends.") | self.dies.to_arrays(f"{prefix}dies.")

    @classmethod
    def from_arrays(cls, model: type[LogOdds], arrays: Mapping[str, np.ndarray], prefix: str) -> Self:
        """What `to_arrays` gave of fits of `model`."""
        return cls(*(model.from_arrays(arrays, f"{prefix}{part}.") for part in ("ends", "dies")))


@dataclass(frozen=True)
class HazardForecaster:
    """The mean of the forecasts of fits that each left out one fold of the patients; its kinds differ in `fit_log_odds`.

    edges: lower edges of the horizon bins, hours after the prediction. file: where a kind keeps its numbers. model: what
    its fit gives. max_rows: more of them only take time and memory.
    """

    file: ClassVar[str]
    model: ClassVar[type[LogOdds]]
    max_rows: ClassVar[int]
    fit_log_odds: ClassVar[Fit]

    fits: tuple[Hazards, ...]
    edges: tuple[float, ...]

    def forecast(self, windows: Windows, rows: np.ndarray) -> Distribution:
        """See `Forecaster`."""
        masses = np.empty((len(rows), len(self.edges), 2))
        for first in range(0, len(rows), _BLOCK_ROWS):
            block = slice(first, first + _BLOCK_ROWS)
            features = summary_features(windows, rows[block])
            masses[block] = np.mean([one.masses(features, len(self.edges)) for one in self.fits], axis=0)
        return Distribution(masses, self.edges)

    def members(self) -> tuple[Self, ...]:
        return tuple(type(self)((one,), self.edges) for one in self.fits)

    def save(self, folder: Path) -> None:
        """Numbers only, as `.npz`."""
        arrays = {"fits": np.array(len(self.fits))}
        for k, one in enumerate(self.fits):
            arrays |= one.to_arrays(f"{k}.")
        np.savez_compressed(folder / self.file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, folder: Path, config: ModelConfig) -> Self:
        """See `Forecaster`. Runs nothing that the file holds."""
        try:
            with np.load(folder / cls.file, allow_pickle=False) as arrays:
                fits = [Hazards.from_arrays(cls.model, arrays, f"{k}.") for k in range(int(arrays["fits"]))]
        except (OSError, KeyError, ValueError, BadZipFile) as error:
            raise ArtifactError(
                f"{cls.file} of the artifact {folder.name} holds no {cls.__name__} that this version reads; restore the "
                "folder from its backup, or train anew."
            ) from error
        return cls(tuple(fits), config.network.horizon_edges)

    @classmethod
    def fit(
        cls,
        material: Material,
        learned: np.ndarray,
        config: ModelConfig,
        *,
        checkpoint_dir: Path | None = None,
        warm_from: Forecaster | None = None,
        progress: Callable[[EpochRecord], None] | None = None,
        folds: Sequence[int] | None = None,
    ) -> OutOfFold:
        """See `Forecaster`. The size of each member is the best on the fold that it left out.

        The last fit of each member is kept in `checkpoint_dir`. `progress` is called after each member.
        """
        if warm_from is not None:
            raise ContractError(f"{cls.__name__} are always fitted from scratch.")
        n_folds, edges = config.train.folds, config.network.horizon_edges
        learned = learned & ~material.known.borrowed  # networks have an intercept of each source, these have none
        fold = patient_folds(material.known.stays["patient_id"], n_folds)[material.stay_of_row]
        rows, judged = sampled_rows(material, learned, config, cls.max_rows), material.calibration_rows
        judged = judged[learned[material.stay_of_row[judged]]]
        features, labels = summary_features(material.windows, rows), material.labels.take(rows)
        digest = _digest(config, features, labels) if checkpoint_dir else ""

        fits, held_out_forecasts = [], []
        for k in range(n_folds) if folds is None else folds:
            began = perf_counter()
            seed = config.train.seed * n_folds + k
            fit = partial(fit_hazards, features, labels, fold[rows] == k, config, seed, cls.fit_log_odds)
            one, losses = cls._kept(checkpoint_dir, k, f"{digest} {_hash([fold[rows] == k])}", fit)
            mine = judged[fold[judged] == k]
            fits.append(one)
            held_out_forecasts.append((mine, cls((one,), edges).forecast(material.windows, mine)))
            if progress is not None:
                record = {"rounds": one.ends.rounds, "seconds": perf_counter() - began}
                record |= dict(zip(("train_loss", "valid_loss"), losses.tolist(), strict=True))
                progress(record | {"member": k + 1, "members": n_folds})
        row, forecast = join_folds(held_out_forecasts)
        return OutOfFold(
            forecaster=cls(tuple(fits), edges),
            config=config,
            row=row,
            forecast=forecast,
            best_epochs=tuple(one.ends.rounds for one in fits),
        )

    @classmethod
    def _kept(
        cls, folder: Path | None, k: int, digest: str, fit: Callable[[], tuple[Hazards, np.ndarray]]
    ) -> tuple[Hazards, np.ndarray]:
        """Member `k` and its losses: of the fit that was kept, if it is of the same data, else of `fit`, which is kept."""
        if folder is None:
            return fit()
        path = folder / f"{k}_{cls.file}"
        with suppress(OSError, KeyError, ValueError, BadZipFile), np.load(path, allow_pickle=False) as arrays:
            if str(arrays["digest"]) == digest:
                return Hazards.from_arrays(cls.model, arrays, ""), arrays["losses"]
        one, losses = fit()
        save_whole(path, digest=np.array(digest), losses=losses, **one.to_arrays(""))
        return one, losses


def _digest(config: ModelConfig, features: np.ndarray, labels: Labels) -> str:
    """Identifies what all members of a fit learn from."""
    arrays = [features, labels.weights, labels.entry, labels.death, labels.remaining_hours]
    return _hash(arrays, json.dumps(config.to_json()))


def _hash(arrays: Sequence[np.ndarray], text: str = "") -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def learned_rows(material: Material, config: ModelConfig) -> np.ndarray:
    """Rows to learn from: usable ones at the elapsed hours of the horizon's edges, absolute, int64 [n].

    A stay adds a row at each such hour that it reaches, all of one weight (landmarks: van Houwelingen & Putter, "Dynamic
    Prediction in Clinical Survival Analysis", 2012, chapter 7). Forecasts change less from hour to hour the longer a
    stay has lasted, so the landmarks lie further apart. Nothing that comes after the hour weighs or chooses a row.
    """
    rows = np.flatnonzero(material.windows.scored & material.labels.usable)
    return rows[np.isin(material.hour_of_row(rows), config.network.horizon_edges[1:])]


def sampled_rows(material: Material, learned: np.ndarray, config: ModelConfig, at_most: int) -> np.ndarray:
    """The `learned_rows` of the stays `learned`, bool [stays], or `at_most` of them at random, rising."""
    rows = learned_rows(material, config)
    rows = rows[learned[material.stay_of_row[rows]]]
    if len(rows) > at_most:
        rows = np.sort(np.random.default_rng(config.train.seed).choice(rows, at_most, replace=False))
    return rows


def fit_hazards(
    features: np.ndarray, labels: Labels, held_out: np.ndarray, config: ModelConfig, seed: int, fit: Fit
) -> tuple[Hazards, np.ndarray]:
    """Hazards fitted on rows that are not `held_out`, of the size that is best on those that are.

    features: float32 [rows, k]. labels: of the same rows, all usable. held_out: bool [rows]. fit: what fits the log-odds
    of an outcome. Returns the fit and its loss on rows learned from and on those held out, in
    nats per person-period and per end together, [2].

    Person-periods are drawn with the probabilities that `person_periods` gives, so all examples have one weight.
    """
    population = population_masses(labels.take(~held_out))
    train, valid = (person_periods(labels.take(part), population) for part in (~held_out, held_out))
    kept = min(1.0, STAYS_PER_END * float(train.ends.sum()) / max(float(train.stays.sum()), 1.0))
    random = np.random.default_rng(seed)
    parts = [(features[part], _draw(random, found, kept)) for part, found in ((~held_out, train), (held_out, valid))]
    ends, ends_losses = fit(*(_examples_of_end(*part) for part in parts), config, seed)
    dies, dies_losses = fit(*(_examples_of_death(*part) for part in parts), config, seed)
    # Drawing stays with probability `kept` divides the odds of an end by it and changes nothing else (case-control
    # sampling: Prentice & Pyke, Biometrika 66, 1979, 403-411).
    return Hazards(replace(ends, baseline=ends.baseline + np.log(kept)), dies), ends_losses + dies_losses


def _draw(random: np.random.Generator, expected: PersonPeriods, kept: float) -> PersonPeriods:
    """Whole counts, bool, whose expectation is that of the ends, and `kept` times that of the stays."""
    ends, stays = (random.random(counts.shape, np.float32) for counts in (expected.ends, expected.stays))
    return PersonPeriods(ends < expected.ends, stays < kept * expected.stays)


def _examples_of_end(features: np.ndarray, periods: PersonPeriods) -> Examples:
    """The bins before the open last one: whether the stay ends there."""
    ended, stayed = (np.nonzero(part) for part in (periods.ends[:, :-1].any(axis=2), periods.stays[:, :-1]))
    row, number = (np.concatenate(both) for both in zip(ended, stayed, strict=True))
    return Examples(_with_bin(features, row, number), np.arange(len(row)) < len(ended[0]))


def _examples_of_death(features: np.ndarray, periods: PersonPeriods) -> Examples:
    row, number, cause = np.nonzero(periods.ends)
    return Examples(_with_bin(features, row, number), cause == DIED)


def _with_bin(features: np.ndarray, row: np.ndarray, number: np.ndarray) -> np.ndarray:
    x = np.empty((len(row), features.shape[1] + 1))
    x[:, :-1] = features[row]
    x[:, -1] = number
    return x
