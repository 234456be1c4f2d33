"""The census forecast of a hospital of 100 units, against drawing 10,000 futures of each unit."""

from collections.abc import Iterator
from time import process_time

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from benchmarks.stage import Row
from rnn_core.census.census import forecast_census
from rnn_core.census.counts import negative_binomial, poisson_binomial, total_of
from rnn_core.contracts.census import CENSUS_HORIZONS, KnownUnits
from rnn_core.contracts.config import HORIZON_EDGES
from rnn_core.statistics.distribution import Distribution
from rnn_core.statistics.scored_stays import ScoredStays

UNITS, BEDS, DAYS = 100, 40, 400
AS_OF = np.datetime64("2026-01-01", "us")
LENGTH_HOURS, FULL = 96.0, 0.85
DRAWS = 10_000


def run() -> Iterator[Row]:
    known = _hospital()
    scored = _forecasts(known)
    with threadpool_limits(1):
        whole = _best(lambda: forecast_census(known, scored))
        stay, mean = _parts(len(scored.stay_ids))
        ours, theirs = _best(lambda: _convolved(stay, mean)), _timed(lambda: _drawn(stay, mean))
    exact, drawn = _convolved(stay, mean), _drawn(stay, mean)
    assert np.abs(exact - drawn.mean(axis=1)).max() < 5 * drawn.std(axis=1).max() / np.sqrt(DRAWS)
    patients, horizons = len(scored.stay_ids), len(CENSUS_HORIZONS)
    yield Row(
        f"census of {UNITS} units of {BEDS} beds and their hospital at {horizons} horizons, {patients:,} patients",
        f"{ours:.2f} s",
        f"{DRAWS:,} draws per unit: {theirs:.2f} s",
        f"{theirs / ours:.1f}",
        "10",
    )
    yield Row(
        f"the same with arrivals and lengths learned from {len(known.stays):,} stays of {DAYS} days",
        f"{whole:.2f} s ({whole * 1000 / UNITS:.1f} ms a unit)",
        "",
        "",
        "1 s",
    )


def _hospital() -> KnownUnits:
    """Begins at a constant rate, exponential lengths, units full to `FULL`."""
    rng, n = np.random.default_rng(0), round(DAYS * 24 * BEDS * FULL / LENGTH_HOURS)
    begin = rng.uniform(0, DAYS * 24, (UNITS, n)).ravel()
    end = begin + rng.exponential(LENGTH_HOURS, UNITS * n)
    is_open = end > DAYS * 24
    times = [AS_OF + ((x - DAYS * 24) * 3_600_000_000).astype("timedelta64[us]") for x in (begin, end)]
    times[1][is_open] = np.datetime64("NaT")
    names = np.array([f"unit {u}" for u in range(UNITS)])
    stays = pd.DataFrame(
        {
            "stay_id": [f"s{i}" for i in range(UNITS * n)],
            "unit": np.repeat(names, n),
            "intime": times[0],
            "outtime": times[1],
            "outcome": np.where(is_open, None, "alive"),
            "ends_at": "unit",
            "sound": True,
        }
    )
    since_ever = np.datetime64("1000-01-01", "us")
    beds = pd.DataFrame({"unit": names, "available_at": since_ever, "beds": BEDS, "staffed_beds": np.nan})
    return KnownUnits(stays, beds, AS_OF, AS_OF)


def _forecasts(known: KnownUnits) -> ScoredStays:
    ids = known.stays.loc[known.stays["outtime"].isna(), "stay_id"].tolist()
    left = 1 - np.exp(-np.array(HORIZON_EDGES) / LENGTH_HOURS)
    masses = np.zeros((len(ids), len(left), 2))
    masses[:, :, 0] = np.append(np.diff(left), 1 - left[-1])
    return ScoredStays(ids, Distribution(masses, HORIZON_EDGES))


def _parts(patients: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of staying [units, horizons, patients of a unit] and expected newcomers [units, horizons]."""
    rng, hours = np.random.default_rng(1), np.array(CENSUS_HORIZONS)
    length = rng.lognormal(np.log(LENGTH_HOURS), 0.5, (UNITS, 1, patients // UNITS))
    return np.exp(-hours[:, None] / length), np.tile(BEDS * FULL * (1 - np.exp(-hours / LENGTH_HOURS)), (UNITS, 1))


def _convolved(stay: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Expected census of units and hospital, [units + 1, horizons], off distributions that are made for it."""
    census = poisson_binomial(stay.reshape(-1, stay.shape[2])).convolve(negative_binomial(mean.ravel(), 50.0))
    n = len(CENSUS_HORIZONS)
    whole = total_of([census.take(np.arange(unit * n, (unit + 1) * n)) for unit in range(UNITS)])
    return np.concatenate([census.mean().reshape(UNITS, n), whole.mean()[None]])


def _drawn(stay: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The same from `DRAWS` draws of every patient and of the newcomers, int64 [units + 1, draws, horizons]."""
    rng, futures = np.random.default_rng(2), []
    for p, expected in zip(stay, mean, strict=True):
        # One uniform number per patient serves all horizons: who has left does not come back.
        lasts = rng.random((DRAWS, 1, p.shape[1])) < p
        factor = rng.gamma(50.0, 1 / 50.0, (DRAWS, 1))
        futures.append(lasts.sum(axis=2) + rng.poisson(factor * expected))
    return np.stack([*futures, np.sum(futures, axis=0)])


def _best(function) -> float:
    function()
    return min(_timed(function) for _ in range(3))


def _timed(function) -> float:
    """Seconds of one core."""
    begun = process_time()
    function()
    return process_time() - begun
