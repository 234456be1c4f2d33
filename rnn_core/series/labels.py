"""Labels: what is known of the remaining stay at each row, as weights over the cells of the forecast distribution.

Every kind of knowledge is one interval of possible ends and a set of possible causes: an exact end is known to its bin,
a coarse end to its interval, an open stay to everything after the time it was last known open, a cause without a time
to everything. Ends are taken as spread evenly over a bin, so survival is linear within it.
"""

import numpy as np
import pandas as pd

from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.frames import ALIVE, DIED, OUTCOMES, Labels, Windows
from rnn_core.series.grid import hours_after, stay_base, stay_times


def make_labels(
    windows: Windows,
    stays: pd.DataFrame,
    edges: tuple[float, ...],
    delayed_entry_hours: float = 0.0,
    as_of: np.datetime64 | None = None,
    exclude: np.ndarray | None = None,
    known_until: np.ndarray | None = None,
) -> Labels:
    """Labels of every row of `windows`; reads intime, outtime, outcome and end_precision_hours of `stays` alone.

    edges: lower edges of the horizon bins in hours after the prediction, from 0 on; bins are half-open [a, b), the last
        one is open-ended.
    delayed_entry_hours: the sample holds only stays that lasted this long after intime; no likelihood is taken from
        earlier hours. A stay that ended earlier contradicts that and is not usable.
    as_of: when the stays were known. An end after it counts as not yet known; what is open then is censored there.
    exclude: bool [stays], stays whose labels are wrong; none of their rows is usable.
    known_until: datetime64 [stays], until when each open stay is known to have continued, and is censored; `as_of` by
        default, and never later. Later rows carry no information and are not usable.

    Raises ContractError on edges that do not rise from 0, on an unknown outcome, and on an open stay without `as_of`.
    """
    if edges[0] != 0 or (np.diff(edges) <= 0).any():
        raise ContractError(f"Horizon edges rise from 0; found {edges}.")
    end = _read_ends(stays, as_of, known_until)
    row_stay = np.repeat(np.arange(len(stays)), np.diff(windows.offsets))
    row_hour = np.arange(1, len(row_stay) + 1) - windows.offsets[row_stay]
    entry = np.maximum(delayed_entry_hours - (row_hour - end["intime"][row_stay]), 0)
    remaining = end["outtime"][row_stay] - row_hour
    censored = end["censored"][row_stay] - row_hour

    usable = ~(remaining <= 0) & ~(censored < 0)  # a comparison with NaN, what is not known, is false
    if exclude is not None:
        usable &= ~np.asarray(exclude, dtype=bool)[row_stay]
    lower, upper = _possible_ends(remaining, censored, end["precision"][row_stay], edges)
    usable &= ~(_is_exact(remaining, end["precision"][row_stay]) & (remaining <= entry))

    share, entered = _bin_weights(lower, upper, entry, edges)
    share[~usable] = 0
    weights = share[:, :, None] * end["causes"][row_stay][:, None, :]
    known = usable & share.any(axis=1)
    return Labels(
        weights=weights,
        entry=np.broadcast_to(entered[:, :, None], weights.shape),
        death=np.where(known, end["death"][row_stay], np.nan).astype(np.float32),
        remaining_hours=np.where(known, remaining, np.nan).astype(np.float32),
        usable=known,
    )


def _read_ends(
    stays: pd.DataFrame, as_of: np.datetime64 | None, known_until: np.ndarray | None
) -> dict[str, np.ndarray]:
    """What is known of the end of each stay at `as_of`; times in hours after its base, float64 [stays].

    outtime: NaN where not known. precision: width of the interval around it, 0 where exact. censored: when the stay was
    last known open, NaN where it has ended. death: 1, 0, NaN. causes: float32 [stays, 2], 1 for each possible cause.
    """
    base = stay_base(stays)
    outcome = stays["outcome"]
    if unknown := int((outcome.notna() & ~outcome.isin(OUTCOMES)).sum()):
        raise ContractError(
            f"An outcome is one of {OUTCOMES} or null; {unknown} stays have another. Map it in the source."
        )
    alive, died = (outcome.eq(name).fillna(False).to_numpy(dtype=bool) for name in OUTCOMES)
    outtime = stay_times(stays, "outtime")
    if as_of is not None:
        later = outtime > np.datetime64(as_of, "us")
        alive, died = alive & ~later, died & ~later
        outtime = np.where(later, np.datetime64("NaT"), outtime)
    is_open = np.isnat(outtime) & ~alive & ~died
    last_known = np.full(len(stays), np.datetime64("NaT") if as_of is None else np.datetime64(as_of), "datetime64[us]")
    if known_until is not None:
        last_known = np.fmin(last_known, np.asarray(known_until, dtype="datetime64[us]"))
    if unplaced := int((is_open & np.isnat(last_known)).sum()):
        raise ContractError(f"{unplaced} stays are open; pass `as_of`, the time at which that was known.")
    causes = np.ones((len(stays), 2), dtype=np.float32)
    causes[died, ALIVE] = 0
    causes[alive, DIED] = 0
    precision = pd.to_numeric(stays["end_precision_hours"]).to_numpy(dtype=np.float64, na_value=0.0)
    return {
        "intime": hours_after(stay_times(stays, "intime"), base),
        "outtime": hours_after(outtime, base),
        "precision": np.nan_to_num(precision),
        "censored": np.where(is_open, hours_after(last_known, base), np.nan),
        "death": np.select([died, alive], [1.0, 0.0], np.nan),
        "causes": causes,
    }


def _is_exact(remaining: np.ndarray, precision: np.ndarray) -> np.ndarray:
    return ~np.isnan(remaining) & (precision <= 0)


def _possible_ends(
    remaining: np.ndarray, censored: np.ndarray, precision: np.ndarray, edges: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Interval of possible ends of every row in hours after the prediction, float32 lower and upper [rows]."""
    left, right = np.array(edges, dtype=np.float64), np.append(edges[1:], np.inf)
    own_bin = np.clip(np.searchsorted(left, remaining, side="right") - 1, 0, len(left) - 1)
    exact = _is_exact(remaining, precision)
    coarse = ~np.isnan(remaining) & ~exact
    kinds = [exact, coarse, ~np.isnan(censored)]
    lower = np.select(kinds, [left[own_bin], remaining - precision / 2, censored], 0.0)
    upper = np.select(kinds, [right[own_bin], remaining + precision / 2, np.inf], np.inf)
    return np.maximum(lower, 0).astype(np.float32), upper.astype(np.float32)


def _bin_weights(
    lower: np.ndarray, upper: np.ndarray, entry: np.ndarray, edges: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Weight of each bin for an end in (lower, upper), and of the part after `entry`, two float32 [rows, bins].

    A bin weighs the fraction of its width that the interval covers after entry. An interval narrower than a bin would
    weigh the less the finer the clock is, so weights that add up to less than one bin are scaled up to one: it then
    weighs what an exact end does, by a factor that does not depend on the forecast. The open last bin is not resolved
    in time: all of it is after any entry, and an interval that reaches into it by the width of the bin before covers it.
    """
    left, right = np.array(edges, dtype=np.float32), np.append(edges[1:], np.inf).astype(np.float32)
    width = np.diff(left, append=left[-1])
    width[-1] = width[-2] if len(width) > 1 else 24.0
    entry = entry.astype(np.float32)
    entered = np.clip((right - entry[:, None]) / width, 0, 1)
    covered = np.minimum(upper[:, None], right)
    covered -= np.maximum(np.maximum(lower, entry)[:, None], left)
    covered /= width
    np.clip(covered, 0, entered, out=covered)
    bins = np.divide(covered, entered, out=np.zeros_like(covered), where=entered > 0).sum(axis=1)
    scale = np.divide(1, bins, out=np.ones_like(bins), where=(bins > 0) & (bins < 1))
    return np.minimum(covered * scale[:, None], entered), entered
