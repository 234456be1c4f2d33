"""Which stays a model learns from, in which fold, and on which it is judged: no patient in both, the same in every run."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rnn_core.contracts.errors import ContractError
from rnn_core.series.grid import stay_times

# Share of the patients whose stays a model learns from; it is judged on the others.
LEARNED_SHARE = 0.85
SALT = "icu-forecast"


def is_learned_from(patient_ids: Sequence[str] | pd.Series | np.ndarray, salt: str = SALT) -> np.ndarray:
    """Whether a model may learn from a stay, by a hash of its patient: bool [stays].

    All stays of a patient share the answer, it does not depend on other patients, and it never changes: a model that
    starts from an older one is never judged on patients it learned from. Changing the share or `salt` breaks that.
    Raises ContractError on a missing patient id.
    """
    return _positions(patient_ids, salt) < LEARNED_SHARE


def patient_folds(patient_ids: Sequence[str] | pd.Series | np.ndarray, folds: int, salt: str = SALT) -> np.ndarray:
    """Fold of each stay by a hash of its patient: int64 [stays], 0 to folds - 1; as permanent as `is_learned_from`."""
    return (_positions(patient_ids, f"{salt}|fold") * folds).astype(np.int64)


def is_in_sample(patient_ids: Sequence[str] | pd.Series | np.ndarray, share: float, purpose: str) -> np.ndarray:
    """Whether a stay is in a sample of about this share of the patients, by a hash of its patient: bool [stays]."""
    return _positions(patient_ids, f"{SALT}|{purpose}") < share


def _positions(patient_ids: Sequence[str] | pd.Series | np.ndarray, salt: str) -> np.ndarray:
    code, patients = pd.factorize(np.asarray(patient_ids, dtype=object))
    if missing := int((code < 0).sum()):
        raise ContractError(f"A split needs the patient of every stay; {missing} stays have no patient_id.")
    return np.array([_hash_share(str(patient), salt) for patient in patients], dtype=np.float64)[code]


def _hash_share(patient: str, salt: str) -> float:
    """A number in [0, 1) that depends on nothing but the patient and the salt."""
    digest = hashlib.sha256(f"{salt}|{patient}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


@dataclass(frozen=True)
class Split:
    """Parts of a split in patients and time, each bool [stays].

    learned: stays that began before the cut-off; use them as they were known then.
    judged: stays of patients who have no part in learned.
    newer: those of them that began at or after the cut-off.
    """

    learned: np.ndarray
    judged: np.ndarray
    newer: np.ndarray


def split_stays(stays: pd.DataFrame, cutoff: np.datetime64, salt: str = SALT) -> Split:
    """Split for a model that is fitted at `cutoff` and judged on patients it never saw.

    Stays that were open at the cut-off take part in the fit, censored there: without them it would see too many short
    stays. A patient with a stay before the cut-off is in the part that `is_learned_from` gives; a patient who comes later
    is judged, whatever the hash. As the cut-off moves on, a stay that was learned from remains so and a warm start leaks
    nothing: a patient of an earlier fit has an older stay, so no later model is judged on that patient.
    """
    begun = stay_times(stays, "intime") < np.datetime64(cutoff, "us")
    learned = begun & is_learned_from(stays["patient_id"], salt)
    judged = ~stays["patient_id"].isin(stays["patient_id"][learned]).to_numpy()
    return Split(learned, judged, judged & ~begun)
