"""Fits a stay forecaster on what was known at its cut-off and evaluates it on stays that had no part in the fit."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rnn_core.contracts.config import ModelConfig, Sampling
from rnn_core.contracts.errors import DataTooSmallError
from rnn_core.contracts.frames import EpochRecord
from rnn_core.contracts.known import Cohort, borrow
from rnn_core.evaluation.holdout import (
    count_deaths,
    count_ends,
    describe,
    score_groups,
    score_holdout,
    score_stays,
    unseen,
)
from rnn_core.forecasters.fit_stay import Beforehand, fit_forecaster
from rnn_core.forecasters.forecaster import Start
from rnn_core.forecasters.stay import StayForecaster
from rnn_core.series.finished_stays import FinishedStays
from rnn_core.series.splits import split_stays
from rnn_core.statistics.bootstrap import Estimate, estimates_to_json


@dataclass(frozen=True)
class FitReport:
    """The record of a training: sizes, the loss per member and epoch, and metrics on stays that had no part in it.

    n_ends: judged stays whose end is known. from_curve: paired differences from the population's curve.
    participants: the training data in counts and quantiles. groups: kind → group → a few of the metrics.
    """

    n_stays: dict[str, int]
    n_deaths: dict[str, int]
    n_ends: int
    histories: tuple[tuple[EpochRecord, ...], ...]
    best_epochs: tuple[int, ...]
    metrics: dict[str, Estimate]
    from_curve: dict[str, Estimate]
    participants: dict[str, Any]
    groups: dict[str, dict[str, dict[str, Estimate]]]

    def to_json(self) -> dict[str, Any]:
        return {
            "n_stays": self.n_stays,
            "n_deaths": self.n_deaths,
            "histories": [list(history) for history in self.histories],
            "best_epochs": list(self.best_epochs),
            "metrics": estimates_to_json(self.metrics),
            "from_curve": estimates_to_json(self.from_curve),
            "participants": self.participants,
            "groups": {
                kind: {name: estimates_to_json(metrics) for name, metrics in found.items()}
                for kind, found in self.groups.items()
            },
        }


def fit_stay_forecaster(
    then: Cohort,
    now: Cohort,
    config: ModelConfig,
    *,
    sampling: Sampling = Sampling(),
    borrowed: Sequence[Cohort] = (),
    checkpoint_dir: Path | None = None,
    warm_from: Start | None = None,
    progress: Callable[[EpochRecord], None] | None = None,
    beforehand: Beforehand | None = None,
) -> tuple[StayForecaster, FitReport]:
    """Fit on `then`, what was known at the cut-off, and evaluate on `now`, on stays that had no part in the fit.

    borrowed: stays of other sources as known at the cut-off; networks learn from them too, and nothing is stopped,
        calibrated or judged on them. Patients whose id `now` holds are left out of them.
    warm_from: what the networks start from. beforehand: see `fit_forecaster`.

    Raises DataTooSmallError if too few stays have finished, ContractError if nothing can start from `warm_from`.
    """
    learned = split_stays(then.stays, then.as_of).learned & then.sound
    with _cause_named(now):
        if not learned.any():
            raise DataTooSmallError(f"No stay known at {then.as_of} can be learned from. Load more finished stays.")
        joined = borrow(then, borrowed, now.stays["patient_id"]) if borrowed else then
        forecaster, fitted = fit_forecaster(
            joined,
            np.concatenate([learned, np.ones(len(joined.stays) - len(learned), bool)]),
            config,
            sampling=sampling,
            checkpoint_dir=checkpoint_dir,
            warm_from=warm_from,
            progress=progress,
            beforehand=beforehand,
        )
    judged, newer = unseen(now, then)
    parts = {"learned": then.take(learned), "judged": now.take(judged), "newer": now.take(newer)}
    scored = score_stays(forecaster, parts["judged"])
    report = FitReport(
        {name: len(part.stays) for name, part in parts.items()},
        {name: count_deaths(part) for name, part in parts.items()},
        count_ends(parts["judged"]),
        fitted.histories,
        fitted.best_epochs,
        *score_holdout(forecaster, scored, parts["learned"]),
        describe(parts["learned"]),
        score_groups(scored, parts["judged"].stays),
    )
    return forecaster, report


@contextmanager
def _cause_named(now: Cohort) -> Iterator[None]:
    """Too few stays to learn from are often many stays of one patient id, or with one begin: then the error says that."""
    try:
        yield
    except DataTooSmallError as error:
        doubts = FinishedStays.of(now.stays).doubts()
        causes = [doubts[column] for column in ("patient_id", "intime") if column in doubts]
        raise DataTooSmallError(" ".join(causes)) if causes else error from None
