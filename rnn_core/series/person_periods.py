"""Person-periods: what a row's labels say about each horizon bin on its own, for models of discrete hazards.

The likelihood of discrete competing risks is a product over the bins in which a stay is at risk (Tutz & Schmid,
"Modeling Discrete Time-to-Event Data", 2016, sections 3.4 and 8.1; Allison, Sociological Methodology 13, 1982, 61-98):
one bin of one row is a "person-period" whose target is that the stay goes on, ends alive, or ends in death. So any
classifier with weights fits hazards under right censoring and delayed entry.
"""

from dataclasses import dataclass

import numpy as np

from rnn_core.contracts.frames import Labels

# Self-consistency converges geometrically; the fractions it settles are those of coarse ends only.
_ROUNDS = 30


@dataclass(frozen=True)
class PersonPeriods:
    """Expected counts of each row in each horizon bin.

    ends: float32 [rows, bins, 2], the stay ends in the bin, by cause. stays: float32 [rows, bins], it outlasts the bin;
    always 0 in the open last bin, which no stay outlasts.
    """

    ends: np.ndarray
    stays: np.ndarray


def person_periods(labels: Labels, population: np.ndarray) -> PersonPeriods:
    """Person-periods of all rows of `labels`, all of them usable.

    population: masses [bins, 2] of all of them (`population_masses`); settles what the labels leave open.

    With w the weights and e the entry of a row (the share of each bin in which an end is possible, and in which it could
    have been seen), p and h the masses and hazards of the population:

    an end known to lie in some cells: the row counts in each of them by the cell's probability given all of them,
        q[k, c] = w[k, c] p[k, c] / sum(w p): one cell for an exact end, the bins that it may lie in for a coarse one.
        It outlasts bin k with weight e[k] * sum of q beyond k.
    an open stay: it outlasts bin k with weight (e[k] - w[k]) (1 - h[k]) / (1 - (1 - w[k]) h[k]), which is 1 in a bin
        that it has passed, 0 in a later one, and between them for the bin in which it was last known open.

    Both weights make the expected counts of a bin, in the sample that delayed entry and censoring leave, those of the
    hazard h. For entry at the share 1 - e of a bin, an end in the rest has probability e h / (1 - (1 - e) h) and the
    ratio of ends to stays is e h : e (1 - h). For a stay last known open after the share f = 1 - w of a bin, ends before
    f have probability f h, and weighting its survival, 1 - f h, by f (1 - h) / (1 - f h) keeps the ratio.

    A death or a discharge without a time is a coarse end that covers every bin: it says by which cause, and its time is
    that of the population's ends by this cause. It is kept because missing times are not missing at random: leaving it
    out would bias the risk of death by whichever outcome is recorded the worse.
    """
    weights, entry = labels.weights.astype(np.float64), labels.entry[:, :, 0].astype(np.float64)
    ended = ~(np.isnan(labels.death) & np.isnan(labels.remaining_hours))
    possible = weights * population
    total = possible.sum(axis=(1, 2))
    ends = (
        np.where((ended & (total > 0))[:, None, None], possible, 0.0) / np.where(total > 0, total, 1.0)[:, None, None]
    )
    beyond = ends.sum(axis=2)[:, ::-1].cumsum(axis=1)[:, ::-1] - ends.sum(axis=2)

    hazard = _hazard(population)
    later = weights[:, :, 0]  # of an open stay: the share of the bin after it was last known open, for both causes
    open_until = np.clip(entry - later, 0, None) * (1 - hazard) / np.maximum(1 - (1 - later) * hazard, 1e-9)
    stays = np.where(ended[:, None], entry * beyond, open_until)
    stays[:, -1] = 0
    return PersonPeriods(ends.astype(np.float32), stays.astype(np.float32))


def population_masses(labels: Labels) -> np.ndarray:
    """Masses [bins, 2] of the one forecast that agrees with the person-periods of all rows, float64, all above 0.

    Self-consistency for censored and truncated data (Turnbull, J R Stat Soc B 38, 1976, 290-295), in hazards.
    """
    bins, causes = labels.weights.shape[1:]
    masses = np.full((bins, causes), 1 / (bins * causes))
    # A tenth of a row that may end in any cell, so that none is impossible and none certain.
    prior = 0.1 / bins
    for _ in range(_ROUNDS):
        found = person_periods(labels, masses)
        ends = found.ends.sum(axis=0, dtype=np.float64) + prior / causes
        stays = found.stays.sum(axis=0, dtype=np.float64) + prior * np.arange(bins - 1, -1, -1)
        masses = masses_of_hazards((ends / (ends.sum(axis=1) + stays)[:, None])[None])[0]
    return masses


def masses_of_hazards(hazard: np.ndarray) -> np.ndarray:
    """Masses [rows, bins, 2] of the hazards of each bin and cause, [rows, bins, 2]; those of the last bin sum to 1."""
    outlasts = 1 - hazard.sum(axis=2)
    reaches = np.cumprod(outlasts[:, :-1], axis=1)
    return hazard * np.concatenate([np.ones((len(hazard), 1)), reaches], axis=1)[:, :, None]


def _hazard(masses: np.ndarray) -> np.ndarray:
    """Hazard of ending, whatever the cause, in each bin, [bins]."""
    ends = masses.sum(axis=1)
    return ends / ends[::-1].cumsum()[::-1]
