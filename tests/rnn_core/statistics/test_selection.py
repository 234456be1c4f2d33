"""The best of several candidates is not credited with the luck of having been chosen."""

import numpy as np

from rnn_core.statistics.selection import chosen_less_default

PATIENTS = 300


def losses(seed: int, gain: float = 0.0) -> np.ndarray:
    """Twenty candidates of equal worth beside the default, [21, patients]; the first of them better by `gain`."""
    random = np.random.default_rng(seed)
    shared = random.normal(3, 1, PATIENTS)
    found = shared + random.normal(0, 0.6, (21, PATIENTS))
    found[1] -= gain
    return found


def test_the_best_of_candidates_that_are_alike_is_not_better():
    rows, misses = np.ones(PATIENTS), 0
    for seed in range(20):
        one = losses(seed)
        assert one.sum(axis=1).argmin() != 0 or one.mean(axis=1).min() == one[0].mean()
        found = chosen_less_default(one, rows, n=100)
        misses += found.high < 0
    assert misses <= 1, "as chosen, the best of twenty would look better nearly always"
    naive = [losses(seed)[1:].mean(axis=1).min() - losses(seed)[0].mean() for seed in range(20)]
    assert np.mean(naive) < -0.04


def test_one_that_is_better_is_found_to_be_by_about_as_much():
    found = chosen_less_default(losses(3, gain=0.5), np.ones(PATIENTS))
    assert found.low < -0.5 + 0.05 and -0.6 < found.value < -0.4 and found.high < 0


def test_patients_count_by_their_forecasts_and_too_few_give_no_interval():
    one = losses(1, gain=1.0)
    weights = np.where(np.arange(PATIENTS) % 2, 4.0, 1.0)
    assert chosen_less_default(one * weights, weights).value < -0.8
    few = chosen_less_default(one[:, :3], np.ones(3))
    assert np.isnan(few.value) and np.isnan(few.high) and few.n == 3
