"""Boosted trees as plain arrays: fitted by scikit-learn, evaluated, written and read without it.

So a file of trees holds numbers only (no pickle, no code), and gives the same forecasts with any later scikit-learn.
"""

from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from rnn_core.contracts.errors import DataTooSmallError
from rnn_core.forecasters.hazards import Examples, LogOdds

# A set of leaves is one byte.
LEAVES = 8
_ALL_LEAVES = np.uint8(0xFF)
_FIRST_LEAF = np.array([(byte & -byte).bit_length() - 1 if byte else 0 for byte in range(256)])
_BLOCK_ROWS = 256
# Of the values of each feature, between which trees split. With the usual 255 a tree on few stays is mostly the making of
# histograms, and forecasts are no better.
VALUE_BINS = 31


@dataclass(frozen=True)
class Boosting(LogOdds):
    """A sum of trees of at most `LEAVES` leaves, numbered from left to right; the log-odds of a binary outcome.

    baseline: float64 [], before the first tree. value: float64 [trees, LEAVES], what each leaf adds.
    feature int32, threshold float64, kept uint8, all [trees, LEAVES - 1]: each split sends a row to its right where the
    feature is above the threshold, and then only the leaves whose bits are set in `kept` are possible. Splits that a
    smaller tree lacks have an infinite threshold.
    """

    feature: np.ndarray
    threshold: np.ndarray
    kept: np.ndarray
    value: np.ndarray

    @property
    def rounds(self) -> int:
        """Number of trees."""
        return len(self.value)

    def log_odds(self, features: np.ndarray, last: np.ndarray) -> np.ndarray:
        """float64 [rows, values] of rows `features` [rows, k] with each of the values `last` [values] as feature k.

        The leaf of a row is the first that all splits leave possible, in whatever order they are looked at (QuickScorer:
        Lucchese et al., SIGIR 2015). Splits by the first features and by the last one are thus looked at separately, and
        a row is walked once for all values.
        """
        k = features.shape[1]
        of_last = self._possible(np.column_stack([np.zeros((len(last), k)), last]), self.feature == k)
        # A tree splits by the last feature once or twice: most values leave it the same leaves.
        cases, case = np.unique(256 * np.arange(len(self.value)) + of_last, return_inverse=True)
        of_case = np.zeros((len(cases), len(last)))
        of_case[case.reshape(of_last.shape), np.arange(len(last))[:, None]] = 1
        tree, left = cases // 256, (cases % 256).astype(np.uint8)
        values = self.value[:, _FIRST_LEAF].ravel()
        out = np.empty((len(features), len(last)))
        for first in range(0, len(features), _BLOCK_ROWS):
            block = slice(first, first + _BLOCK_ROWS)
            possible = self._possible(features[block], self.feature < k)[:, tree] & left
            out[block] = values[256 * tree + possible] @ of_case
        return out + self.baseline

    def _possible(self, x: np.ndarray, looked_at: np.ndarray) -> np.ndarray:
        """Leaves that the splits `looked_at` leave to each row, uint8 [rows, trees]."""
        right = x[:, np.where(looked_at, self.feature, 0)] > np.where(looked_at, self.threshold, np.inf)
        return np.bitwise_and.reduce(np.where(right, self.kept, _ALL_LEAVES), axis=2)


def fit_boosting(
    train: Examples, valid: Examples, *, trees: int, learning_rate: float, seed: int
) -> tuple[Boosting, np.ndarray]:
    """Trees fitted on `train` and cut to the number that is best on `valid`; their mean loss on both, in nats, [2].

    With one outcome alone in `train` there is nothing to split by: no tree, and the share with half an example of each
    outcome added. Raises DataTooSmallError without examples in `train` or in `valid`.
    """
    if not len(train.y) or not len(valid.y):
        raise DataTooSmallError(
            f"Trees learn from some stays and stop by others; found {len(train.y)} examples to learn from and "
            f"{len(valid.y)} to stop by. Load more finished stays."
        )
    if len(np.unique(train.y)) < 2:
        constant = _constant(train.y)
        at = np.full(len(train.y), constant.baseline), np.full(len(valid.y), constant.baseline)
        return constant, np.array([part.log_loss(found) for part, found in zip((train, valid), at, strict=True)])
    # Concepts that a source never charts are constant, and looking through them would take as long as through the others.
    varied = np.flatnonzero(np.ptp(train.x, axis=0) > 0)
    train, valid = (Examples(part.x[:, varied], part.y) for part in (train, valid))
    # Takes a second to import, and who only forecasts needs none of it.
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        max_iter=trees,
        learning_rate=learning_rate,
        max_leaf_nodes=LEAVES,
        # Shallow trees, each split over a random part of the features: they overfit least on a few thousand stays.
        max_features=0.2,
        max_bins=VALUE_BINS,
        l2_regularization=5.0,
        early_stopping=False,
        random_state=seed,
    )
    # Trees of few leaves are many short parallel loops. Beside another job, two threads wait for each other by spinning:
    # seven times the processor time was measured.
    with threadpool_limits(1, user_api="openmp"):
        model.fit(train.x, train.y)
        losses = np.array(
            [[part.log_loss(found) for found in model.staged_decision_function(part.x)] for part in (train, valid)]
        )
    best = int(losses[1].argmin()) + 1
    flat = [_flatten(predictor.nodes) for (predictor,) in model._predictors[:best]]
    feature, threshold, kept, value = (np.stack(part) for part in zip(*flat, strict=True))
    return Boosting(
        np.float64(model._baseline_prediction.item()), varied[feature].astype(np.int32), threshold, kept, value
    ), losses[:, best - 1]


def _constant(y: np.ndarray) -> Boosting:
    share = (y.sum() + 0.5) / (len(y) + 1)
    splits = np.empty((0, LEAVES - 1))
    return Boosting(
        np.float64(np.log(share / (1 - share))),
        splits.astype(np.int32),
        splits,
        splits.astype(np.uint8),
        np.empty((0, LEAVES)),
    )


def _flatten(nodes: np.ndarray) -> tuple[np.ndarray, ...]:
    """Feature, threshold and kept leaves of the splits of one tree, and the values of its leaves, padded."""
    feature, threshold = np.zeros(LEAVES - 1, np.int32), np.full(LEAVES - 1, np.inf)
    kept, value = np.full(LEAVES - 1, _ALL_LEAVES), np.zeros(LEAVES)
    splits = leaves = 0

    def walk(number: int) -> None:
        nonlocal splits, leaves
        node = nodes[number]
        if node["is_leaf"]:
            value[leaves] = node["value"]
            leaves += 1
            return
        first, split = leaves, splits
        splits += 1
        walk(node["left"])
        feature[split], threshold[split] = node["feature_idx"], node["num_threshold"]
        kept[split] = _ALL_LEAVES & ~np.uint8((1 << leaves) - (1 << first))
        walk(node["right"])

    walk(0)
    return feature, threshold, kept, value
