"""Logistic regressions on hinged summaries as a stay forecaster: fitted by scikit-learn, kept and evaluated as numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from threadpoolctl import threadpool_limits

from rnn_core.contracts.config import ModelConfig
from rnn_core.contracts.errors import DataTooSmallError
from rnn_core.forecasters.hazards import Examples, HazardForecaster, LogOdds
from rnn_core.series.summaries import clock_columns

# Shares of the rows below the knots of a feature.
_KNOTS = (0.1, 0.5, 0.9)
# Enough rows for a quantile.
_KNOT_ROWS = 4000
# Inverse strengths of the ridge penalty among which held-out stays choose, the strongest first.
_PENALTIES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
# A feature that is nearly constant counts as if it varied by as much; features are scaled already.
_LEAST_SD = 0.05
# Effects of the horizon bins are hardly shrunk: shrinking them would bend the curve of the population.
_BIN_SCALE = 5.0
# What changes from bin to bin is shrunk the more, except for the clock: units discharge at certain hours of the day.
_CHANGE_SCALE, _CLOCK_SCALE = 0.5, 3.0


@dataclass(frozen=True)
class HingedRegression(LogOdds):
    """Log-odds of a binary outcome: linear in features, in their excess over knots, and in both times the number of the
    horizon bin, plus an effect of each bin and of the clock in each bin (pooled logistic regression: D'Agostino et al.,
    Stat Med 9, 1990, 1501-1515).

    feature int32, knot float32, both [terms]: max(feature - knot, 0), or the feature itself where the knot is -inf.
    weight: float32 [2, terms], in the first bin and added per bin. of_bin: float64 [bins]; later bins count as the last of
    these, the last in which an outcome was seen. clock: int32 [n], the features that say the hour of the day; of_clock:
    float64 [n, bins].
    """

    feature: np.ndarray
    knot: np.ndarray
    weight: np.ndarray
    of_bin: np.ndarray
    clock: np.ndarray
    of_clock: np.ndarray

    def log_odds(self, features: np.ndarray, last: np.ndarray) -> np.ndarray:
        """float64 [rows, bins] of rows `features` [rows, k] in each of the bins numbered `last` [bins]."""
        number = np.minimum(last, len(self.of_bin) - 1)
        first, per_bin = (_terms(features, self.feature, self.knot) @ self.weight.T).T.astype(np.float64)
        of_clock = features[:, self.clock] @ self.of_clock[:, number]
        return first[:, None] + per_bin[:, None] * number + of_clock + self.of_bin[number] + self.baseline


class LogisticRegressions(HazardForecaster):
    """See `HazardForecaster`. Regressions need fewer rows than trees, and all of them at once."""

    file: ClassVar[str] = "logistic.npz"
    model: ClassVar[type[LogOdds]] = HingedRegression
    max_rows: ClassVar[int] = 12_000

    @staticmethod
    def fit_log_odds(
        train: Examples, valid: Examples, config: ModelConfig, seed: int
    ) -> tuple[HingedRegression, np.ndarray]:
        """With the penalty that is best on `valid`. Nothing of it is random."""
        return fit_hinged(train, valid, clock_columns(len(config.window.concepts)))


def fit_hinged(train: Examples, valid: Examples, clock: Sequence[int] = ()) -> tuple[HingedRegression, np.ndarray]:
    """A regression on `train` whose penalty is the best on `valid`; its mean loss on both, in nats, [2].

    clock: the features that say the hour of the day. With one outcome alone in `train` there is nothing to tell apart:
    the share with half an example of each outcome added. Raises DataTooSmallError without examples in `train` or in `valid`.
    """
    if not len(train.y) or not len(valid.y):
        raise DataTooSmallError(
            f"Regressions learn from some stays and choose a penalty by others; found {len(train.y)} examples to learn "
            f"from and {len(valid.y)} to choose by. Load more finished stays."
        )
    design = _Design.of(train, clock)
    matrices = [design.matrix(part) for part in (train, valid)]

    def losses(weight: np.ndarray, intercept: float) -> np.ndarray:
        return np.array(
            [part.log_loss(x @ weight + intercept) for part, x in zip((train, valid), matrices, strict=True)]
        )

    best = np.zeros(design.columns, np.float32), _log_odds_of_share(train.y)
    least = losses(*best)
    if len(np.unique(train.y)) == 2:
        # Takes a second to import, and who only forecasts needs none of it.
        from sklearn.linear_model import LogisticRegression

        # Each penalty starts from the weights of the one before, a little stronger.
        model = LogisticRegression(warm_start=True, max_iter=200, tol=1e-3)
        for penalty in _PENALTIES:
            with threadpool_limits(1):
                model.set_params(C=penalty).fit(matrices[0], train.y)
            found = model.coef_[0].copy(), float(model.intercept_[0])
            if (at := losses(*found))[1] >= least[1]:
                break
            best, least = found, at
    return design.regression(*best), least


def _log_odds_of_share(y: np.ndarray) -> float:
    share = (y.sum() + 0.5) / (len(y) + 1)
    return float(np.log(share / (1 - share)))


def _terms(features: np.ndarray, feature: np.ndarray, knot: np.ndarray) -> np.ndarray:
    """float32 [rows, terms] of `features` [rows, k], see `HingedRegression`."""
    chosen = features.astype(np.float32)[:, feature]
    return np.where(np.isinf(knot), chosen, np.maximum(chosen - knot, 0))


def _place_terms(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Feature int32 and knot float32 of each term, [terms]: features that vary, and hinges at their quantiles.

    A hinge that no row passes, or that all do, would be nothing, or the feature itself.
    """
    least, most = features.min(axis=0), features.max(axis=0)
    varied = np.flatnonzero(most > least)
    some = features[:: -(-len(features) // _KNOT_ROWS), varied]
    knots = np.vstack([np.full(len(varied), -np.inf), np.quantile(some, _KNOTS, axis=0)]).astype(np.float32)
    inside = (knots[1:] > np.vstack([least[varied], knots[1:-1]])) & (knots[1:] < most[varied])
    kept = np.vstack([np.ones(len(varied), bool), inside])
    return np.broadcast_to(varied, kept.shape)[kept].astype(np.int32), knots[kept]


@dataclass(frozen=True)
class _Design:
    """How examples become the columns of a regression: terms over their standard deviation, the same times the number of
    the bin, and in each bin 1 and the clock."""

    feature: np.ndarray
    knot: np.ndarray
    clock: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    bin_mean: float
    bin_sd: float
    bins: int

    @classmethod
    def of(cls, examples: Examples, clock: Sequence[int]) -> Self:
        feature, knot = _place_terms(examples.x[:, :-1])
        terms, number = _terms(examples.x, feature, knot), examples.x[:, -1]
        mean, sd = terms.mean(axis=0, dtype=np.float64), terms.std(axis=0, dtype=np.float64)
        bins, clock = int(number.max()) + 1, np.array(clock, dtype=np.int32)
        return cls(feature, knot, clock, mean, np.maximum(sd, _LEAST_SD), number.mean(), max(number.std(), 1.0), bins)

    @property
    def columns(self) -> int:
        return 2 * len(self.feature) + (1 + len(self.clock)) * self.bins

    def matrix(self, examples: Examples) -> np.ndarray:
        """float32 [examples, columns]."""
        number = np.minimum(examples.x[:, -1].astype(int), self.bins - 1)
        x, n = np.zeros((len(number), self.columns), np.float32), len(self.feature)
        mean, sd = self.mean.astype(np.float32), self.sd.astype(np.float32)
        x[:, :n] = (_terms(examples.x, self.feature, self.knot) - mean) / sd
        x[:, n : 2 * n] = (
            x[:, :n] * (_CHANGE_SCALE * (number - self.bin_mean) / self.bin_sd).astype(np.float32)[:, None]
        )
        in_bin = np.column_stack([np.full(len(number), _BIN_SCALE), _CLOCK_SCALE * examples.x[:, self.clock]])
        for column, values in enumerate(in_bin.T):
            x[np.arange(len(number)), 2 * n + column * self.bins + number] = values
        return x

    def regression(self, weight: np.ndarray, intercept: float) -> HingedRegression:
        """The same in the units of the features."""
        weight = weight.astype(np.float64)
        always, changing = np.split(weight[: 2 * len(self.feature)], 2)
        of_bin, *of_clock = weight[2 * len(self.feature) :].reshape(-1, self.bins)
        per_bin = _CHANGE_SCALE * changing / self.sd / self.bin_sd
        first = always / self.sd - per_bin * self.bin_mean
        shift = self.mean @ (first[:, None] + per_bin[:, None] * np.arange(self.bins))
        return HingedRegression(
            np.float64(intercept),
            self.feature,
            self.knot,
            np.stack([first, per_bin]).astype(np.float32),
            _BIN_SCALE * of_bin - shift,
            self.clock,
            _CLOCK_SCALE * np.array(of_clock).reshape(-1, self.bins),
        )
