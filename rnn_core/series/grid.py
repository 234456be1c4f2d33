"""Observations to the ragged hourly grid: what became available in each hour of each stay."""

import numpy as np
import pandas as pd

from rnn_core.contracts.concepts import NAMES
from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.frames import Grid, Observations

HOUR_US = 3_600_000_000


def stay_times(stays: pd.DataFrame, column: str) -> np.ndarray:
    """One time column of a stays frame as datetime64[us] [stays], UTC; NaT where null."""
    return stays[column].to_numpy(dtype="datetime64[us]")


def stay_base(stays: pd.DataFrame) -> np.ndarray:
    """`intime` floored to the clock hour, datetime64[h] [stays]. Raises ContractError where an intime is null."""
    intime = stay_times(stays, "intime")
    if missing := int(np.isnat(intime).sum()):
        raise ContractError(
            f"Every stay has an intime; {missing} of {len(stays)} have none. Leave them out as bad rows."
        )
    return intime.astype("datetime64[h]")


def hours_after(times: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Hours from `base` to `times`, float64, NaN where a time is NaT."""
    return (times - base.astype("datetime64[us]")) / np.timedelta64(HOUR_US, "us")


def make_grid(
    stays: pd.DataFrame,
    observations: Observations,
    as_of: np.datetime64 | None = None,
    n_concepts: int = len(NAMES),
    until: np.ndarray | None = None,
) -> Grid:
    """The grid of all stays, one row per prediction time.

    A prediction is made at the clock hour t if intime < t <= as_of and the stay is still open then (t < outtime, or no
    outtime). Row h of a stay is the hour that ends in its prediction time t = base + h + 1, from h = 0 to the last such
    t; hours too early to be scored (`WindowConfig.first_hour`) are rows as well. A stay whose outcome is known without
    an outtime has ended at an unknown time: its rows end with the hour of its last observation.
    `outtime` and `outcome` set the number of rows and nothing else.

    An observation is in row ceil((available_at - base) / 1 h) - 1, so what is available exactly on the hour t is known
    to the prediction at t. Observations from before the first row are in the first; later ones than the last row are
    left out. The newest value of a row wins, by (available_at, observed_at): a correction applies from its hour on.

    until: datetime64 [stays], the time after which a stay has no rows, so that a stay without observations for weeks
        takes no memory.

    Raises ContractError on an open stay without `as_of` and on observations that break their contract.
    """
    base = stay_base(stays)
    observations = _checked(_in_order(observations), len(stays), n_concepts)
    base_us = base.astype("datetime64[us]").view(np.int64)
    cell = _cell(_us(observations.available_at), base_us[observations.stay])
    cell = np.maximum(cell, 0)
    lengths = _count_rows(stays, base_us, as_of, cell, observations.stay)
    if until is not None:
        wanted = (_us(np.asarray(until)) - base_us) // HOUR_US
        lengths = np.clip(lengths, 0, np.maximum(wanted, 0))
    offsets = np.concatenate([[0], np.cumsum(lengths)])

    inside = cell < lengths[observations.stay]
    stay = observations.stay[inside]
    row = offsets[stay] + cell[inside]
    position = row * n_concepts + observations.concept[inside]
    stay_base_us = base_us[stay]

    def hours(times: np.ndarray) -> np.ndarray:
        return ((_us(times)[inside] - stay_base_us) / HOUR_US).astype(np.float32)

    n_hours = int(offsets[-1])
    return Grid(
        offsets=offsets,
        base=base,
        last=_newest(position, observations.value[inside], n_hours * n_concepts).reshape(n_hours, n_concepts),
        observed_hours=_newest(position, hours(observations.observed_at), n_hours * n_concepts).reshape(
            n_hours, n_concepts
        ),
        count=np.bincount(row, minlength=n_hours).astype(np.float32),
        last_available=_newest(row, hours(observations.available_at), n_hours),
    )


def observation_rows(grid: Grid, observations: Observations) -> np.ndarray:
    """The row of each observation, int64 [n]; -1 for those that became available after the last row of their stay."""
    base_us = grid.base.astype("datetime64[us]").view(np.int64)
    cell = np.maximum(_cell(_us(observations.available_at), base_us[observations.stay]), 0)
    return np.where(cell < grid.lengths[observations.stay], grid.offsets[observations.stay] + cell, -1)


def _newest(position: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """float32 [size]: at each position the value that comes last in `values`, NaN where there is none."""
    newest = np.full(size, np.nan, dtype=np.float32)
    newest[position] = values  # an index that comes twice keeps the last of its values
    return newest


def _us(times: np.ndarray) -> np.ndarray:
    return times.astype("datetime64[us]", copy=False).view(np.int64)


def _cell(time_us: np.ndarray, base_us: np.ndarray) -> np.ndarray:
    """Row whose hour (base + h, base + h + 1] holds a time, ceil(x) - 1 in integers; negative before the first."""
    return (time_us - base_us - 1) // HOUR_US


def _count_rows(
    stays: pd.DataFrame, base_us: np.ndarray, as_of: np.datetime64 | None, cell: np.ndarray, stay: np.ndarray
) -> np.ndarray:
    """Prediction times of each stay, int64 [stays]; `cell` and `stay` belong to the observations, in order of time."""
    outtime = stay_times(stays, "outtime")
    no_end = np.isnat(outtime)
    if as_of is None and no_end.any():
        raise ContractError(
            f"{int(no_end.sum())} of {len(stays)} stays have no outtime and no `as_of` was given: "
            "pass the time at which they were known to be open, or leave them out."
        )
    # The prediction times strictly before the end are as many as the whole hours before the cell that holds the end.
    rows = np.where(no_end, np.iinfo(np.int64).max, _cell(outtime.view(np.int64), base_us))
    unknown_end = no_end & stays["outcome"].notna().to_numpy()
    if unknown_end.any():
        last_row = np.full(len(stays), -1)
        last_row[stay] = cell
        rows = np.where(unknown_end, last_row + 1, rows)
    if as_of is not None:
        rows = np.minimum(rows, (np.datetime64(as_of, "us").astype(np.int64) - base_us) // HOUR_US)
    return np.maximum(rows, 0)


def _in_order(observations: Observations) -> Observations:
    """The observations sorted by (available_at, observed_at): as they are if they keep their contract, else sorted."""
    available_at, observed_at = _us(observations.available_at), _us(observations.observed_at)
    step = np.diff(available_at)
    if not ((step < 0) | ((step == 0) & (np.diff(observed_at) < 0))).any():
        return observations
    order = np.lexsort((observed_at, available_at))
    return Observations(
        observations.stay[order],
        observations.concept[order],
        observations.observed_at[order],
        observations.available_at[order],
        observations.value[order],
    )


def _checked(observations: Observations, n_stays: int, n_concepts: int) -> Observations:
    """The observations themselves. Raises ContractError, with counts only, where they do not fit the stays."""
    broken = {
        "a stay row that is not in the stays frame": (observations.stay < 0) | (observations.stay >= n_stays),
        "an unknown concept": (observations.concept < 0) | (observations.concept >= n_concepts),
        "no observed_at": np.isnat(observations.observed_at),
        "no available_at": np.isnat(observations.available_at),
        "a value that is not finite": ~np.isfinite(observations.value),
    }
    if found := {what: int(where.sum()) for what, where in broken.items() if where.any()}:
        raise ContractError(
            f"Observations belong to a known stay and concept and have both times and a finite value; of "
            f"{len(observations)} found {found}. Quarantine such rows at ingest."
        )
    return observations
