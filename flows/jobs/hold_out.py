"""The stays of a source that models have not learned from: what they can be judged and compared on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import Engine

from flows.jobs.start import learned_from
from flows.shards.stored_stays import StoredStays
from rnn_core.contracts.errors import DataTooSmallError
from rnn_core.contracts.known import Known
from rnn_core.series.material_files import nothing
from sql.published import canonical


def unseen_by(store: Engine, models: list[Mapping[str, Any]], now: StoredStays) -> StoredStays:
    """The stays of `now` that none of `models` (rows of the registry) has learned from, nor a model that it started from.

    A patient whom one of them has learned from is left out with all stays. Raises DataTooSmallError if nothing is left.
    """
    source, keep = models[0]["source"], np.ones(len(now.stays), bool)
    for cutoff, whole in sorted(_cutoffs(store, models, source)):
        keep &= _unseen(store, source, now, cutoff, whole)
    if not keep.any():
        raise DataTooSmallError(
            f"{' and '.join(row['model_id'] for row in models)} have learned from all patients of {source} known at "
            f"{now.as_of}; ingest newer stays, or give a later --as-of."
        )
    return now.take(keep)


def _cutoffs(store: Engine, models: list[Mapping[str, Any]], source: str) -> set[tuple[pd.Timestamp, bool]]:
    """Until when the models have learned from stays of `source`, and whether from all patients (`train --with`)."""
    found = {(pd.Timestamp(row["data_cutoff"]).tz_convert("UTC"), False) for row in models}
    for row in models:
        ancestors = [one for one in learned_from(store, row) if one["source"] == source]
        found |= {(pd.Timestamp(one["data_cutoff"], tz="UTC"), not one["members"]) for one in ancestors}
    return found


def _unseen(store: Engine, source: str, now: StoredStays, cutoff: pd.Timestamp, whole: bool) -> np.ndarray:
    from rnn_core.evaluation.holdout import unseen

    then = Known(canonical.read_stays(store, source, cutoff.to_pydatetime()), nothing(), cutoff.to_datetime64())
    if whole:
        return now.sound & ~now.stays["patient_id"].isin(then.stays["patient_id"]).to_numpy()
    return unseen(now, then)[0]
