"""Logistic regressions on hinged summaries as a stay forecaster: fitted by scikit-learn, kept and evaluated as numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Self

import numpy as np
from threadpoolctl import threadpool_limits

from rnn_core.contracts.config import ModelConfig
from rnn_core.contracts.errors import DataTooSmallError
from rnn_core.forecasters.hazards import Examples, HazardForecaster, LogOdds
from rnn_core.series.summaries import clock_columns

# Shares of the rows below the knots of a feature.
_KNOTS = (0.1, 0.5, 0.9)
# Between these a feature counts as it is, beyond them as at them: lines through a few extreme rows lead anywhere.
_BOUNDS = (0.01, 0.99)
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
class _Terms:
    """Of a regression: feature int32, low, high, knot float32, all [terms]. A term is the feature, kept between low and
    high; where the knot is finite, what it exceeds the knot by."""

    feature: np.ndarray
    low: np.ndarray
    high: np.ndarray
    knot: np.ndarray

    def __len__(self) -> int:
        return len(self.feature)

    def of(self, features: np.ndarray) -> np.ndarray:
        """float32 [rows, terms] of `features` [rows, k]."""
        chosen = np.clip(features.astype(np.float32)[:, self.feature], self.low, self.high)
        return np.where(np.isinf(self.knot), chosen, np.maximum(chosen - self.knot, 0))


@dataclass(frozen=True)
class HingedRegression(LogOdds):
    """Log-odds of a binary outcome: linear in features, in their excess over knots, and in both times the number of the
    horizon bin, plus an effect of each bin and of the clock in each bin (pooled logistic regression: D'Agostino et al.,
    Stat Med 9, 1990, 1501-1515).

    feature, low, high, knot: see `_Terms`. weight: float32 [2, terms], in the first bin and added per bin. of_bin: float64
    [bins]; later bins count as the last of these, the last in which an outcome was seen. clock: int32 [n], the features
    that say the hour of the day; of_clock: float64 [n, bins].
    """

    feature: np.ndarray
    low: np.ndarray
    high: np.ndarray
    knot: np.ndarray
    weight: np.ndarray
    of_bin: np.ndarray
    clock: np.ndarray
    of_clock: np.ndarray

    def log_odds(self, features: np.ndarray, last: np.ndarray) -> np.ndarray:
        """float64 [rows, bins] of rows `features` [rows, k] in each of the bins numbered `last` [bins]."""
        terms, number = _Terms(self.feature, self.low, self.high, self.knot), np.minimum(last, len(self.of_bin) - 1)
        first, per_bin = (terms.of(features) @ self.weight.T).T.astype(np.float64)
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


def _place_terms(features: np.ndarray) -> _Terms:
    """Features that vary, and hinges at their quantiles. A hinge at a bound would be nothing, or the feature itself."""
    some = features[:: -(-len(features) // _KNOT_ROWS)]
    low, high = np.quantile(some, _BOUNDS, axis=0)
    varied = np.flatnonzero(high > low)
    low, high, some = low[varied], high[varied], some[:, varied]
    knot = np.vstack([np.full(len(varied), -np.inf), np.quantile(some, _KNOTS, axis=0)])
    inside = (knot[1:] > np.vstack([low, knot[1:-1]])) & (knot[1:] < high)
    kept = np.vstack([np.ones(len(varied), bool), inside])
    feature, low, high = (np.broadcast_to(of, kept.shape)[kept] for of in (varied, low, high))
    return _Terms(feature.astype(np.int32), *(of.astype(np.float32) for of in (low, high, knot[kept])))


@dataclass(frozen=True)
class _Design:
    """How examples become the columns of a regression: terms over their standard deviation, the same times the number of
    the bin, and in each bin 1 and the clock."""

    terms: _Terms
    clock: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    bin_mean: float
    bin_sd: float
    bins: int

    @classmethod
    def of(cls, examples: Examples, clock: Sequence[int]) -> Self:
        terms, number = _place_terms(examples.x[:, :-1]), examples.x[:, -1]
        x = terms.of(examples.x)
        mean, sd = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
        bins, clock = int(number.max()) + 1, np.array(clock, dtype=np.int32)
        return cls(terms, clock, mean, np.maximum(sd, _LEAST_SD), number.mean(), max(number.std(), 1.0), bins)

    @property
    def columns(self) -> int:
        return 2 * len(self.terms) + (1 + len(self.clock)) * self.bins

    def matrix(self, examples: Examples) -> np.ndarray:
        """float32 [examples, columns]."""
        number = np.minimum(examples.x[:, -1].astype(int), self.bins - 1)
        x, n = np.zeros((len(number), self.columns), np.float32), len(self.terms)
        mean, sd = self.mean.astype(np.float32), self.sd.astype(np.float32)
        x[:, :n] = (self.terms.of(examples.x) - mean) / sd
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
        always, changing = np.split(weight[: 2 * len(self.terms)], 2)
        of_bin, *of_clock = weight[2 * len(self.terms) :].reshape(-1, self.bins)
        per_bin = _CHANGE_SCALE * changing / self.sd / self.bin_sd
        first = always / self.sd - per_bin * self.bin_mean
        shift = self.mean @ (first[:, None] + per_bin[:, None] * np.arange(self.bins))
        return HingedRegression(
            np.float64(intercept),
            *(getattr(self.terms, field.name) for field in fields(self.terms)),
            np.stack([first, per_bin]).astype(np.float32),
            _BIN_SCALE * of_bin - shift,
            self.clock,
            _CLOCK_SCALE * np.array(of_clock).reshape(-1, self.bins),
        )
