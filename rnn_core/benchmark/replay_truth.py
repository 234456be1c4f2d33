"""What an omniscient forecaster would publish for the census of a made-up hospital: the floor that no forecast without
the patients' own values can go below.

It knows the process and, of each patient who is in, how long such stays last given the elapsed hours; it knows neither
the future nor anything of the patient. Since a full unit turns patients away there is no formula: the future is drawn.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from rnn_core.benchmark.replay import Lengths, World, run

# Nodes of the day's gamma factor; enough for its posterior to be smooth.
_NODES = np.arange(0.5, 200) / 200
# Bounds the memory: 169 numbers of 8 bytes each.
_PATHS_AT_ONCE = 10_000


def draw_futures(
    world: World, lengths: Lengths, slots: np.ndarray, horizons: Sequence[int], draws: int, seed: int = 0
) -> np.ndarray:
    """Drawn numbers of patients in at each horizon (hours) after each slot, int16 [units, slots, horizons, draws].

    slots: int64 [slots], full hours since the beginning. Units are independent, so sums over units at equal draws are
    draws of the hospital's census.
    """
    units, at_once = range(len(world.process.beds)), max(1, _PATHS_AT_ONCE // draws)
    parts = [slots[first : first + at_once] for first in range(0, len(slots), at_once)]
    found = [[_futures_of(world, lengths, unit, part, horizons, draws, seed) for part in parts] for unit in units]
    return np.stack([np.concatenate(of_unit) for of_unit in found])


def _futures_of(
    world: World, lengths: Lengths, unit: int, slots: np.ndarray, horizons: Sequence[int], draws: int, seed: int
) -> np.ndarray:
    """[slots, horizons, draws] of one unit."""
    random = np.random.default_rng([seed, unit, int(slots[0])])
    own = world.arrivals[(world.arrivals["unit"] == unit).to_numpy()]
    hour, hours = own["hour"].to_numpy(), lengths.hours[own["stay"].to_numpy()]
    leaving = np.zeros((len(slots), draws, max(horizons) + 1), np.int64)
    burst = np.empty((len(slots), draws))
    for position, slot in enumerate(slots):
        elapsed = slot - hour - 1
        for patient in np.flatnonzero((elapsed >= 0) & (hours > elapsed)):
            more = lengths.draw_remaining(int(hour[patient] % 24), int(elapsed[patient]), draws, random)
            np.add.at(leaving[position], (np.arange(draws), np.minimum(more, max(horizons))), 1)
        burst[position] = draw_todays_burst(world, unit, int(slot), draws, random)
    first = np.repeat(slots, draws)
    steps = run(world.process, unit, lengths, first, leaving.reshape(len(first), -1), burst.ravel(), random)
    census = {step: course.present for step, course in enumerate(steps, start=1) if step in horizons}
    return np.stack([census[h].reshape(len(slots), draws) for h in horizons], axis=1).astype(np.int16)


def draw_todays_burst(world: World, unit: int, slot: int, n: int, random: np.random.Generator) -> np.ndarray:
    """Draws of the factor of the day that has begun, given who has come on it, float64 [n].

    The gamma prior on nodes of equal probability, weighted by the likelihood: Poisson in an hour after which a bed was
    left, at least as many as came in one that filled the unit, since more may have been turned away.
    """
    process, hours = world.process, np.arange(slot - slot % 24, slot)
    nodes = stats.gamma.ppf(_NODES, process.burst_shape, scale=1 / process.burst_shape)
    emergencies, electives = world.admitted[unit, :, hours].T[:, :, None]
    expected = process.emergency_rate(unit, hours)[:, None] * nodes
    # Emergencies come first, so an elective admission shows that all of them found a bed.
    all_in = (world.census[unit, hours + 1] < process.beds[unit])[:, None] | (electives > 0)
    log_weight = np.where(
        all_in, stats.poisson.logpmf(emergencies, expected), stats.poisson.logsf(emergencies - 1, expected)
    ).sum(axis=0)
    weight = np.exp(log_weight - log_weight.max())
    return random.choice(nodes, n, p=weight / weight.sum())
