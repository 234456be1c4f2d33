"""Which stays train, tune and judge a model: disjoint in patients, ordered in time, and the same in every run."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from rnn_core.errors import ContractError
from rnn_core.grid import stay_times

PARTS: tuple[str, ...] = ("train", "valid", "test")
SHARES: tuple[float, float, float] = (0.7, 0.15, 0.15)
SALT = "icu-forecast"


def patient_split(
    patient_ids: Sequence[str] | pd.Series | np.ndarray,
    shares: tuple[float, float, float] = SHARES,
    salt: str = SALT,
) -> np.ndarray:
    """Part of each stay by a hash of its patient: str [stays], one of `PARTS`.

    All stays of a patient share a part, whatever other patients there are, and keep it for ever: a model that starts
    from an older one never meets its training patients among those that judge it. Changing `shares` or `salt` breaks
    that.
    Raises ContractError on shares that do not add up to 1 and on a missing patient id.
    """
    if len(shares) != len(PARTS) or min(shares) < 0 or not np.isclose(sum(shares), 1):
        raise ContractError(f"The shares of {PARTS} are not negative and add up to 1; found {shares}.")
    code, patients = pd.factorize(np.asarray(patient_ids, dtype=object))
    if missing := int((code < 0).sum()):
        raise ContractError(f"A split needs the patient of every stay; {missing} stays have no patient_id.")
    position = np.array([_hash_share(str(patient), salt) for patient in patients], dtype=np.float64)
    part = np.searchsorted(np.cumsum(shares)[:-1], position, side="right")
    return np.array(PARTS)[part][code]


def _hash_share(patient: str, salt: str) -> float:
    """A number in [0, 1) that depends on nothing but the patient and the salt."""
    digest = hashlib.sha256(f"{salt}|{patient}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def time_split(stays: pd.DataFrame, cutoffs: tuple[np.datetime64, np.datetime64]) -> np.ndarray:
    """Part of each stay by when it ended: before the first cut-off train, before the second valid, later or open test.

    A stay is placed by its end because that is when its label became known: a model trained at the first cut-off could
    have seen exactly the train part. A stay that ended at an unknown time counts as not ended. Patients may be in
    several parts.
    Raises ContractError on cut-offs that are not in order.
    """
    first, second = (np.datetime64(cutoff, "us") for cutoff in cutoffs)
    if not first <= second:
        raise ContractError("The cut-offs of a time split are in order: train | first | valid | second | test.")
    outtime = stay_times(stays, "outtime")
    part = np.select([outtime < first, outtime < second], [0, 1], 2)
    return np.array(PARTS)[part]


def patient_time_split(
    stays: pd.DataFrame,
    holdout_from: np.datetime64,
    shares: tuple[float, float, float] = SHARES,
    salt: str = SALT,
) -> np.ndarray:
    """Part of each stay, `PARTS` or "none", for a model that is judged on newer stays of patients it never saw.

    train, valid: stays that ended before `holdout_from`, by the permanent `patient_split`.
    test: stays that ended later or are open, of patients without a stay in train or valid.
    none: newer stays of patients in train or valid, and older stays of patients whom `patient_split` keeps for testing.
    As `holdout_from` moves on, a stay in train or valid stays there, so a warm start leaks nothing either: whoever was
    trained on once has an old stay, and is thus never tested on.
    """
    is_new = ~(stay_times(stays, "outtime") < np.datetime64(holdout_from, "us"))
    part = patient_split(stays["patient_id"], shares, salt)
    fitted = ~is_new & (part != "test")
    seen = stays["patient_id"].isin(stays["patient_id"][fitted]).to_numpy()
    return np.select([fitted, is_new & ~seen], [part, "test"], "none")
