"""What a census forecast is judged by, row by row: CRPS, errors, coverage and the probability of a full unit."""

import numpy as np

from rnn_core.census.counts import CountDistribution

LEVELS = (50, 80, 90, 95)
# Patients of neighbouring days are the same ones: resamples are drawn by whole weeks.
BLOCK_DAYS = 7
FIGURES = (
    "crps",
    "mae",
    "bias",
    *(f"coverage_{x}" for x in LEVELS),
    *(f"pit_coverage_{x}" for x in LEVELS),
    "brier_full",
)


def census_figures(
    census: CountDistribution,
    point: np.ndarray,
    observed: np.ndarray,
    beds: np.ndarray,
    full_before: np.ndarray,
    draws: int | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Each of `FIGURES` of each forecast, and prob_full, was_full, brier_before and pit, float64 [rows].

    point: float64 [rows], the single number that is said; the mean absolute error is of it. observed: int64 [rows].
    beds: float64 [rows], usable beds, NaN where not known. full_before: float64 [rows], the probability of a full unit that one
    would say without a forecast. What is about full units is NaN without beds. draws: see `crps`. seed: of the randomised PIT.

    coverage_80 is the share of censuses within the published whole numbers, which hold at least 80 % of a right forecast;
    pit_coverage_80 counts the parts of a patient that are too many at the ends by chance, so 80 % is right.
    """
    has_beds = np.isfinite(beds)
    pit = census.pit(observed, np.random.default_rng(seed).random(len(observed)))
    prob_full = np.where(has_beds, census.at_least(np.where(has_beds, beds, 0).astype(np.int64)), np.nan)
    was_full = np.where(has_beds, observed >= beds, np.nan)
    found = {
        "crps": crps(census, observed, draws),
        "mae": np.abs(point - observed),
        "bias": census.mean() - observed,
        "brier_full": np.square(prob_full - was_full),
        "prob_full": prob_full,
        "was_full": was_full,
        "brier_before": np.square(full_before - was_full),
        "pit": pit,
    }
    for level in LEVELS:
        tail = (1 - level / 100) / 2
        low, high = census.quantile(tail), census.quantile(1 - tail)
        found[f"coverage_{level}"] = ((low <= observed) & (observed <= high)).astype(np.float64)
        found[f"pit_coverage_{level}"] = ((tail <= pit) & (pit <= 1 - tail)).astype(np.float64)
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


def crps(census: CountDistribution, observed: np.ndarray, draws: int | None = None) -> np.ndarray:
    """CRPS of each row, in patients; of a sample of so many draws, corrected to that of the distribution they were drawn from
    (Ferro, Q. J. R. Meteorol. Soc. 140, 2014)."""
    cdf = np.cumsum(census.probabilities, axis=1)
    return census.crps(observed) - ((cdf * (1 - cdf)).sum(axis=1) / (draws - 1) if draws else 0.0)
