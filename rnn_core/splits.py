"""Which stays train, tune and judge a model: disjoint in patients, ordered in time, and the same in every run."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Split:
    """Parts of a split in patients and time, each bool [stays].

    train, valid: stays that began before the cut-off; use them as they were known then.
    judged: stays of patients who have no part in train or valid.
    newer: those of them that began at or after the cut-off.
    """

    train: np.ndarray
    valid: np.ndarray
    judged: np.ndarray
    newer: np.ndarray


def split_stays(
    stays: pd.DataFrame,
    cutoff: np.datetime64,
    shares: tuple[float, float, float] = SHARES,
    salt: str = SALT,
) -> Split:
    """Split for a model that is fitted at `cutoff` and judged on patients it never saw.

    Stays that were open at the cut-off take part in the fit, censored there: without them it would see too many short
    stays. Who had a stay before the cut-off keeps the part of the permanent `patient_split`; a patient who comes later
    is judged whatever the hash says. As the cut-off moves on, a stay in train or valid stays there, so a warm start
    leaks nothing: whoever was fitted on once has an older stay, and is thus never judged on.
    """
    part = patient_split(stays["patient_id"], shares, salt)
    begun = stay_times(stays, "intime") < np.datetime64(cutoff, "us")
    train, valid = begun & (part == "train"), begun & (part == "valid")
    judged = ~stays["patient_id"].isin(stays["patient_id"][train | valid]).to_numpy()
    return Split(train, valid, judged, judged & ~begun)
