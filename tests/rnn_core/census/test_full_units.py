"""Units that fill: the truth of simulated hours, the loss system in its steady state, and no change where no bed is short."""

import numpy as np
import pytest
from scipy.stats import poisson

from rnn_core.census.counts import negative_binomial, poisson_binomial
from rnn_core.census.full_units import Flow

HORIZONS = np.array([4, 12, 24, 36, 72])
HOURS = np.arange(HORIZONS[-1])
CLOCK = HOURS % 24
PATHS = 8_000
# Patients leave by day and come in the evening: the unit fills at night and empties in the morning.
LEAVE = np.where((CLOCK >= 8) & (CLOCK < 16), 0.12, 0.005)
EVENING = np.where(CLOCK >= 17, 0.9, 0.05)
ALIKE = np.cumprod(1 - LEAVE)
# Some patients are about to leave, others stay for weeks.
MIXED = ALIKE ** np.array([0.1, 0.1, 0.3, 0.5, 1.0, 2.0, 4.0])[:, None]


def forecast(stays: np.ndarray, come: np.ndarray, beds: float, size: float = np.inf) -> tuple[np.ndarray, np.ndarray]:
    """Without a limit and with beds, of one unit, [horizons, counts]. stays: each patient's probability of being in after each
    hour, [patients, hours]; come: expected begins of each hour, who leave as `LEAVE` has it from the next on."""
    mean = come @ np.triu(ALIKE / ALIKE[:, None])
    of_stays = poisson_binomial(stays[:, HORIZONS - 1].T)
    free = of_stays.convolve(negative_binomial(mean[HORIZONS - 1], size)).probabilities
    expected = stays.sum(axis=0) + mean
    flow = Flow.of(np.array([len(stays)]), np.array([float(beds)]), expected[None], come[None])
    limited = flow.limit(free[None], np.full((1, len(HORIZONS)), size), HORIZONS)[0]
    return free, np.pad(limited, ((0, 0), (0, free.shape[1] - limited.shape[1])))


def simulated(stays: np.ndarray, come: np.ndarray, beds: int, size: float, width: int) -> np.ndarray:
    """Shares of each number of patients, [horizons, width]: hour by hour they leave, then others come while there are beds."""
    rng = np.random.default_rng(0)
    lasts = rng.random((PATHS, len(stays)))
    factor = np.ones(PATHS) if np.isinf(size) else rng.gamma(size, 1 / size, PATHS)
    newcomers, found = np.zeros(PATHS, int), []
    for hour in HOURS:
        present = (lasts < stays[:, hour]).sum(axis=1)
        newcomers = rng.binomial(newcomers, 1 - LEAVE[hour])
        room = np.maximum(beds - present - newcomers, 0)
        newcomers = newcomers + np.minimum(rng.poisson(come[hour] * factor), room)
        if hour + 1 in HORIZONS:
            found.append(np.bincount(present + newcomers, minlength=width)[:width] / PATHS)
    return np.stack(found)


def apart(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Total variation distance, [horizons]."""
    return np.abs(p - q).sum(axis=-1) / 2


def cut(free: np.ndarray, beds: int) -> np.ndarray:
    kept = free * (np.arange(free.shape[1]) <= beds)
    return kept / kept.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("n_present", "beds"), [(5, 8), (8, 8), (10, 8)], ids=["room", "full", "more than beds"])
def test_of_patients_who_are_alike_every_probability_is_the_simulated_one(n_present, beds):
    stays = np.tile(ALIKE, (n_present, 1))
    free, limited = forecast(stays, EVENING, beds)
    truth = simulated(stays, EVENING, beds, np.inf, free.shape[1])
    assert (np.abs(limited - truth) < 5 * np.sqrt(truth * (1 - truth) / PATHS) + 1e-3).all()
    assert apart(cut(free, max(n_present, beds)), truth)[2:].min() > 0.1, "a cut at the beds is none of it"


def test_patients_who_differ_and_bursts_move_it_a_little():
    free, limited = forecast(MIXED, EVENING, 8, size=6.0)
    truth = simulated(MIXED, EVENING, 8, 6.0, free.shape[1])
    far = apart(cut(free, 8), truth)
    assert (apart(limited, truth) < np.maximum(0.2 * far, 0.03)).all() and far[2:].max() > 0.15
    assert np.abs((limited - truth) @ np.arange(free.shape[1])).max() < 0.12


def test_in_a_steady_state_it_is_the_distribution_cut_at_the_beds():
    beds, asked = 8, 7.5
    leave, hours = 0.004, 800
    come = np.full((1, hours), asked * leave)
    flow = Flow.of(np.array([7]), np.array([float(beds)]), np.full((1, hours), asked), come)
    free = poisson.pmf(np.arange(40), asked)[None, None]
    limited = flow.limit(free, np.full((1, 1), np.inf), np.array([hours]))[0, 0]
    # Erlang's loss formula; hours instead of moments let a few more in.
    np.testing.assert_allclose(limited, cut(free[0], beds)[0, : beds + 1], atol=0.006)


def test_where_beds_are_never_short_nothing_changes():
    free, limited = forecast(MIXED, EVENING, 60)
    np.testing.assert_allclose(limited, free, atol=1e-9, rtol=0)
