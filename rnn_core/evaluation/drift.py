"""Drift: recent observations compared with the training deciles of a model, concept by concept."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import chi2, norm

from rnn_core.contracts.concepts import NAMES
from rnn_core.contracts.frames import HOUR, Observations
from rnn_core.contracts.known import Known

RECENT_DAYS = 7
# The usual reading of a population stability index: above 0.25 the distribution has changed.
MAX_PSI = 0.25
MAX_MORE_MISSING = 0.3
# A median outside the reference's 10th to 90th percentile and off by this factor usually means another unit.
UNIT_FACTOR = 1.5
# Dozens of concepts are tested every day: drift must exceed what chance gives once in a thousand tests.
_CHANCE = 0.999
_LEAST_OBSERVATIONS, _LEAST_STAYS = 100, 20
_TENTHS = np.arange(0.1, 0.95, 0.1)
# Half a value is added to each decile: an empty one would make the index infinite.
_EMPTY = 0.5


def describe_concepts(known: Known) -> dict[str, dict[str, Any]]:
    """Concept → `edges`, the nine decile edges of its observed values, and `first_shares`, the share of the stays' first
    values between them. Concepts of fewer than 100 observations are left out."""
    described = {}
    for number, name in enumerate(NAMES):
        of_concept = known.observations.concept == number
        seen = known.observations.take(of_concept)
        if len(seen) >= _LEAST_OBSERVATIONS:
            edges = _rounded(np.quantile(seen.value, _TENTHS))
            first = seen.value[_is_first(seen)]
            described[name] = {"edges": edges.tolist(), "first_shares": _shares(first, edges).tolist()}
    return described


def measure_drift(participants: Mapping[str, Any], recent: Known) -> list[dict[str, Any]]:
    """One row per concept of `participants` (a model's `FitReport.participants`): columns of forecast.concept_drift.

    recent: the stays of the last `RECENT_DAYS` with their observations; observations from earlier are left out here.
    psi: sum of (p - q) log(p / q) over the deciles of the reference (Siddiqi, Credit Risk Scorecards, 2006), of the first
    value of each stay alone: the values of a stay are correlated, and any weight by their number would depend on how long
    the stay goes on. None for a model of a version that described all values. Between samples of n and m stays of one
    population the index is about chi-squared with nine degrees of freedom, times 1/n + 1/m (Yurdakul, Statistical
    Properties of Population Stability Index, 2018); what chance can explain is no drift.
    """
    seen = recent.observations
    is_new = seen.observed_at > recent.as_of - RECENT_DAYS * 24 * HOUR
    rows = []
    for name, reference in participants.get("concepts", {}).items():
        of_concept = seen.concept == NAMES.index(name)
        of_stay = seen.take(of_concept)
        first = of_stay.value[_is_first(of_stay) & is_new[of_concept]]
        new = seen.take(of_concept & is_new)
        rows.append(_row(name, reference, participants, new, first, len(recent.stays)))
    return rows


def _is_first(seen: Observations) -> np.ndarray:
    """The earliest value of each stay, bool [observations]; the one that became available first, of several."""
    order = np.lexsort((seen.available_at, seen.observed_at, seen.stay))
    first = np.zeros(len(seen), bool)
    first[order] = np.diff(seen.stay[order], prepend=-1) != 0
    return first


def concepts_elsewhere(participants: Mapping[str, Any], known: Known) -> tuple[list[str], list[str]]:
    """Concepts that the model learned from and no stay of `known` has, and those whose median suggests another unit."""
    absent, other_unit = [], []
    for name, reference in participants.get("concepts", {}).items():
        values = known.observations.value[known.observations.concept == NAMES.index(name)]
        if len(values) == 0:
            absent.append(name)
        elif len(values) >= _LEAST_OBSERVATIONS and _is_another_unit(
            float(np.median(values)), np.array(reference["edges"])
        ):
            other_unit.append(name)
    return absent, other_unit


def _row(
    name: str,
    reference: Mapping[str, Any],
    participants: Mapping[str, Any],
    new: Observations,
    first: np.ndarray,
    n_stays: int,
) -> dict[str, Any]:
    values, edges, n_with = new.value, np.array(reference["edges"]), len(np.unique(new.stay))
    before = float(participants["stays_without"][name])
    missing = 1 - n_with / n_stays if n_stays else None
    median = float(_rounded(np.median(values))) if len(values) else None
    enough = len(values) >= _LEAST_OBSERVATIONS and n_with >= _LEAST_STAYS
    shares = reference.get("first_shares")
    psi = _psi(_shares(first, edges), np.array(shares)) if enough and shares and len(first) >= _LEAST_STAYS else None
    other_shape = psi is not None and psi > max(MAX_PSI, _chance_psi(len(first), (1 - before) * participants["stays"]))
    more_missing = (
        missing is not None and n_stays >= _LEAST_STAYS and missing - before > _chance_missing(before, n_stays)
    )
    wrong_unit = bool(enough and median is not None and _is_another_unit(median, edges))
    return {
        "concept": name,
        "n_observations": len(values),
        "median": median,
        "reference_median": float(edges[4]),
        "psi": psi,
        "missing": missing,
        "reference_missing": before,
        "wrong_unit": wrong_unit,
        "drifted": bool(wrong_unit or more_missing or other_shape),
    }


def _rounded(values: np.ndarray | float) -> np.ndarray:
    """Three digits: a summary of the values, not a patient's value."""
    return np.vectorize(lambda value: float(f"{value:.3g}"), otypes=[float])(values)


def _chance_psi(n: float, m: float) -> float:
    """The index that two samples of n and m stays of one population exceed once in a thousand times."""
    return float(chi2.ppf(_CHANCE, len(_TENTHS)) * (1 / n + 1 / m))


def _chance_missing(before: float, n_stays: int) -> float:
    share = min(max(before, 0.05), 0.95)
    return max(MAX_MORE_MISSING, norm.ppf(_CHANCE) * np.sqrt(share * (1 - share) / n_stays))


def _shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1) + _EMPTY
    return counts / counts.sum()


def _psi(now: np.ndarray, then: np.ndarray) -> float:
    return float(((now - then) * np.log(now / then)).sum())


def _is_another_unit(median: float, edges: np.ndarray) -> bool:
    low, middle, high = edges[0], edges[4], edges[-1]
    if low <= median <= high or median <= 0 or middle <= 0:
        return False
    return max(median / middle, middle / median) > UNIT_FACTOR
