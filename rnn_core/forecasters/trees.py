"""Boosted trees as a stay forecaster: discrete hazards of the end, and of death given an end, on summaries of a window."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self
from zipfile import BadZipFile

import numpy as np
from scipy.special import expit

from rnn_core.contracts.config import ModelConfig
from rnn_core.contracts.errors import ArtifactError
from rnn_core.contracts.frames import DIED, Labels, Windows
from rnn_core.forecasters.boosting import Boosting, Examples, fit_boosting
from rnn_core.series.material import Material
from rnn_core.series.person_periods import PersonPeriods, masses_of_hazards, person_periods, population_masses
from rnn_core.series.splits import patient_folds
from rnn_core.series.summaries import summary_features
from rnn_core.statistics.distribution import Distribution

# More rows than this only take time and memory: 160,000 examples of 480 features are 0.7 GB.
MAX_ROWS = 40_000
# Of the bins that a stay outlasts, so many are drawn for each end: more of them add little (Ury, Biometrics 31, 1975).
STAYS_PER_END = 3
_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Hazards:
    """One fit: log-odds of ending in a bin once it is reached, and of death given an end in a bin.

    Together they are the cause-specific hazards of the bin: ends * dies and ends * (1 - dies). The split keeps one
    tree per step where a classifier of three outcomes grows three, and learns the cause from one example per row
    (vertical modelling: Nicolaie, van Houwelingen & Putter, Stat Med 29, 2010, 1190-1205).
    """

    ends: Boosting
    dies: Boosting

    def masses(self, features: np.ndarray, bins: int) -> np.ndarray:
        """Masses float64 [rows, bins, 2] of rows `features` [rows, k]."""
        number = np.arange(bins)
        ends = np.ones((len(features), bins))
        ends[:, :-1] = expit(self.ends.log_odds(features, number[:-1]))
        dies = expit(self.dies.log_odds(features, number))
        return masses_of_hazards(ends[:, :, None] * np.stack([1 - dies, dies], axis=2))


@dataclass(frozen=True)
class BoostedTrees:
    """The mean of the forecasts of fits that each left out one fold of the patients.

    edges: lower edges of the horizon bins, hours after the prediction.
    """

    members: tuple[Hazards, ...]
    edges: tuple[float, ...]

    def forecast(self, windows: Windows, rows: np.ndarray) -> Distribution:
        """At the ends of `rows` (absolute, int64 [n]), at which a window predicts."""
        masses = np.empty((len(rows), len(self.edges), 2))
        for first in range(0, len(rows), _BLOCK_ROWS):
            block = slice(first, first + _BLOCK_ROWS)
            features = summary_features(windows, rows[block])
            masses[block] = np.mean([member.masses(features, len(self.edges)) for member in self.members], axis=0)
        return Distribution(masses, self.edges)

    def save(self, path: Path) -> None:
        """Write numbers only, as `.npz`."""
        arrays = {"edges": np.array(self.edges), "members": np.array(len(self.members))}
        for k, member in enumerate(self.members):
            arrays |= member.ends.to_arrays(f"{k}.ends.") | member.dies.to_arrays(f"{k}.dies.")
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read it back; runs nothing that the file holds. Raises ArtifactError where it is no file of trees."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                members = [
                    Hazards(*(Boosting.from_arrays(arrays, f"{k}.{part}.") for part in ("ends", "dies")))
                    for k in range(int(arrays["members"]))
                ]
                return cls(tuple(members), tuple(arrays["edges"].tolist()))
        except (OSError, KeyError, ValueError, BadZipFile) as error:
            raise ArtifactError(f"{path.name} holds no trees of this version; restore it, or train anew.") from error


@dataclass(frozen=True)
class FittedTrees:
    """Trees and what each member says of the fold that it never saw.

    row, forecast: absolute rows int64 [n], rising, and what was said at them. losses: of each member, on the fold that it
    left out, per tree: of the end, and of death given an end.
    """

    trees: BoostedTrees
    row: np.ndarray
    forecast: Distribution
    losses: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]


def fit_trees(
    material: Material,
    learned: np.ndarray,
    config: ModelConfig,
    *,
    folds: Sequence[int] | None = None,
    progress: Callable[[int, Sequence[float], Sequence[float]], None] | None = None,
) -> FittedTrees:
    """One member per fold of the patients, fitted without its fold and cut to the number of trees that is best there.

    learned: bool [stays of material]. folds: only members of these. progress: called with each member's number, from 0,
    and its losses. Raises DataTooSmallError where a fold leaves no deaths, or no ends, to learn from.
    """
    fold = patient_folds(material.known.stays["patient_id"], config.train.folds)
    rows = learned_rows(material, config)
    rows = rows[learned[material.stay_of_row[rows]]]
    random = np.random.default_rng(config.train.seed)
    if len(rows) > MAX_ROWS:
        rows = np.sort(random.choice(rows, MAX_ROWS, replace=False))
    features, stay = summary_features(material.windows, rows), material.stay_of_row[rows]
    labels = material.labels.take(rows)
    told = np.flatnonzero(material.labels.usable & (material.windows.prediction_hour >= config.window.first_hour))
    told = told[material.is_judged(told) & learned[material.stay_of_row[told]]]

    members, held_rows, held_told, losses = [], [], [], []
    for k in range(config.train.folds) if folds is None else folds:
        member, lost = fit_hazards(features, labels, fold[stay] == k, config, seed=(config.train.seed, k))
        mine = told[fold[material.stay_of_row[told]] == k]
        members.append(member)
        held_rows.append(mine)
        held_told.append(BoostedTrees((member,), config.network.horizon_edges).forecast(material.windows, mine))
        losses.append(lost)
        if progress is not None:
            progress(k, *lost)
    row = np.concatenate(held_rows)
    order = np.argsort(row)
    trees = BoostedTrees(tuple(members), config.network.horizon_edges)
    return FittedTrees(trees, row[order], Distribution.concatenate(held_told).take(order), tuple(losses))


def learned_rows(material: Material, config: ModelConfig) -> np.ndarray:
    """Rows that trees learn from: usable ones at the elapsed hours of the horizon's edges, absolute, int64 [n].

    A stay adds a row at each such hour that it reaches, all of one weight (landmarks: van Houwelingen & Putter, "Dynamic
    Prediction in Clinical Survival Analysis", 2012, chapter 7). Forecasts change less from hour to hour the longer a
    stay has lasted, so the landmarks lie further apart. Nothing that comes after the hour weighs or chooses a row.
    """
    predicted = material.labels.usable & (material.windows.prediction_hour >= config.window.first_hour)
    rows = np.flatnonzero(predicted)
    return rows[np.isin(material.hour_of_row(rows), config.network.horizon_edges[1:])]


def fit_hazards(
    features: np.ndarray, labels: Labels, held_out: np.ndarray, config: ModelConfig, seed: tuple[int, ...]
) -> tuple[Hazards, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Hazards fitted on rows that are not `held_out`, cut to the number of trees that is best on those that are.

    features: float32 [rows, k]. labels: of the same rows, all usable. held_out: bool [rows]. Returns the fit and the
    losses there, after each tree, of the end and of death given an end.

    Person-periods are drawn with the probabilities that `person_periods` gives, so all examples have one weight.
    """
    population = population_masses(labels.take(~held_out))
    train, valid = (person_periods(labels.take(part), population) for part in (~held_out, held_out))
    kept = min(1.0, STAYS_PER_END * float(train.ends.sum()) / max(float(train.stays.sum()), 1.0))
    random = np.random.default_rng(seed)
    parts = [(features[part], _draw(random, found, kept)) for part, found in ((~held_out, train), (held_out, valid))]
    settings = {"trees": config.trees.trees, "learning_rate": config.trees.learning_rate, "seed": config.train.seed}
    ends, ends_losses = fit_boosting(*(_examples_of_end(*part) for part in parts), **settings)
    dies, dies_losses = fit_boosting(*(_examples_of_death(*part) for part in parts), **settings)
    # Drawing stays with probability `kept` divides the odds of an end by it and changes nothing else (case-control
    # sampling: Prentice & Pyke, Biometrika 66, 1979, 403-411).
    return Hazards(replace(ends, baseline=ends.baseline + np.log(kept)), dies), (ends_losses, dies_losses)


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
