"""Stays of a benchmark without their ends, as a forecaster sees them, and with them, as a judge does."""

import numpy as np
import pandas as pd

from rnn_core.contracts.frames import HOUR
from rnn_core.contracts.known import Known


def as_open(known: Known, as_of: np.datetime64) -> Known:
    """The same stays as known at `as_of`, when all of them were open."""
    never = dict.fromkeys(("outtime", "hospital_outtime", "died_at"), np.datetime64("NaT", "us"))
    return Known(known.stays.assign(**never, outcome=None), known.observations, as_of)


def read_ends(stays: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Death (1 died, 0 left alive) and length of stay in hours, NaN where not known, float64 [stays] both."""
    intime, outtime = (stays[column].to_numpy("datetime64[us]") for column in ("intime", "outtime"))
    return stays["outcome"].map({"died": 1.0, "alive": 0.0}).to_numpy(np.float64), (outtime - intime) / HOUR
