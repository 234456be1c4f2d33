"""Drift: recent observations compared with the training deciles of a model, concept by concept."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import chi2, norm

from rnn_core.contracts.concepts import NAMES
from rnn_core.contracts.frames import HOUR
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
# An empty decile would make the index infinite.
_FLOOR = 1e-3


def describe_concepts(known: Known) -> dict[str, dict[str, Any]]:
    """Concept → `edges`, the nine decile edges of its observed values, and `shares`, the share of a stay's
    observations in each decile, averaged over stays. Concepts of fewer than 100 observations are left out."""
    described = {}
    for number, name in enumerate(NAMES):
        of_concept = known.observations.concept == number
        values, stays = known.observations.value[of_concept], known.observations.stay[of_concept]
        if len(values) >= _LEAST_OBSERVATIONS:
            edges = _rounded(np.quantile(values, _TENTHS))
            described[name] = {"edges": edges.tolist(), "shares": _shares(values, stays, edges).tolist()}
    return described


def measure_drift(participants: Mapping[str, Any], recent: Known) -> list[dict[str, Any]]:
    """One row per concept of `participants` (a model's `FitReport.participants`): columns of forecast.concept_drift.

    recent: the stays of the last `RECENT_DAYS` with their observations; observations from earlier are left out here.
    psi: sum of (p - q) log(p / q) over the deciles of the reference (Siddiqi, Credit Risk Scorecards, 2006). Every stay
    has the same weight, since its observations are correlated. Between samples of n and m stays of one population the
    index is about chi-squared with nine degrees of freedom, times 1/n + 1/m (Yurdakul, Statistical Properties of
    Population Stability Index, 2018); what chance can explain is no drift.
    """
    seen = recent.observations
    is_new = seen.observed_at > recent.as_of - RECENT_DAYS * 24 * HOUR
    rows = []
    for name, reference in participants.get("concepts", {}).items():
        of_concept = is_new & (seen.concept == NAMES.index(name))
        rows.append(
            _row(name, reference, participants, seen.value[of_concept], seen.stay[of_concept], len(recent.stays))
        )
    return rows


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
    values: np.ndarray,
    stays: np.ndarray,
    n_stays: int,
) -> dict[str, Any]:
    edges, n_with = np.array(reference["edges"]), len(np.unique(stays))
    before = float(participants["stays_without"][name])
    missing = 1 - n_with / n_stays if n_stays else None
    median = float(_rounded(np.median(values))) if len(values) else None
    enough = len(values) >= _LEAST_OBSERVATIONS and n_with >= _LEAST_STAYS
    psi = _psi(_shares(values, stays, edges), np.array(reference["shares"])) if enough else None
    other_shape = psi is not None and psi > max(MAX_PSI, _chance_psi(n_with, (1 - before) * participants["stays"]))
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


def _shares(values: np.ndarray, stays: np.ndarray, edges: np.ndarray) -> np.ndarray:
    _, stay, n_of_stay = np.unique(stays, return_inverse=True, return_counts=True)
    weights = 1 / n_of_stay[stay] / len(n_of_stay)
    return np.bincount(np.searchsorted(edges, values, side="right"), weights, minlength=len(edges) + 1)


def _psi(now: np.ndarray, then: np.ndarray) -> float:
    p, q = np.maximum(now, _FLOOR), np.maximum(then, _FLOOR)
    return float(((p - q) * np.log(p / q)).sum())


def _is_another_unit(median: float, edges: np.ndarray) -> bool:
    low, middle, high = edges[0], edges[4], edges[-1]
    if low <= median <= high or median <= 0 or middle <= 0:
        return False
    return max(median / middle, middle / median) > UNIT_FACTOR
