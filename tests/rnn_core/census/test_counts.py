"""Distributions of counts: exact against brute force over all outcomes, questions, cut tails, wrong input."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import nbinom, poisson

from rnn_core.census.counts import (
    CountDistribution,
    negative_binomial,
    nobody,
    poisson_binomial,
    total_of,
)
from rnn_core.contracts.errors import ContractError

EXACT = 1e-9
probabilities = st.lists(st.floats(0, 1), max_size=7)
arrivals = st.tuples(st.floats(0, 3), st.one_of(st.floats(0.3, 50), st.just(np.inf)))


def over_all_outcomes(p: list[float]) -> np.ndarray:
    """Probabilities of 0, 1, ... events, from every combination of happening and not."""
    total = np.zeros(len(p) + 1)
    for happens in product((0, 1), repeat=len(p)):
        total[sum(happens)] += np.prod([q if h else 1 - q for q, h in zip(p, happens, strict=True)])
    return total


def arriving(mean: float, size: float, n: int) -> np.ndarray:
    counts = np.arange(n)
    return poisson.pmf(counts, mean) if np.isinf(size) or not mean else nbinom.pmf(counts, size, size / (size + mean))


def padded(p: np.ndarray, n: int) -> np.ndarray:
    return np.pad(p, (0, max(n - len(p), 0)))[:n]


@settings(max_examples=60, deadline=None)
@given(units=st.lists(st.tuples(probabilities, arrivals), min_size=1, max_size=3))
def test_staying_and_coming_of_small_units_and_their_hospital_are_exact(units):
    longest, n = max(len(p) for p, _ in units), 400
    staying = poisson_binomial([p + [0.0] * (longest - len(p)) for p, _ in units])
    census = staying.convolve(negative_binomial(*zip(*(a for _, a in units), strict=True)))
    hospital = np.ones(1)
    for row, (p, (mean, size)) in enumerate(units):
        brute = np.convolve(over_all_outcomes(p), arriving(mean, size, n))
        hospital = np.convolve(hospital, brute)
        np.testing.assert_allclose(padded(census.probabilities[row], n), brute[:n], atol=EXACT, rtol=0)
    whole = total_of([census.take(np.array([row])) for row in range(len(units))])
    np.testing.assert_allclose(padded(whole.probabilities[0], n), hospital[:n], atol=EXACT, rtol=0)
    assert whole.mean()[0] == pytest.approx(census.mean().sum(), abs=1e-8)
    assert whole.mean()[0] == pytest.approx(sum(sum(p) + mean for p, (mean, _) in units), abs=1e-8)


def test_the_sum_of_many_units_loses_less_than_its_tolerance_in_the_tails():
    rng = np.random.default_rng(0)
    p = rng.random((100, 40))
    means, sizes = rng.uniform(0, 20, 100), rng.uniform(2, 50, 100)
    units = poisson_binomial(p).convolve(negative_binomial(means, sizes))
    whole = total_of([units.take(np.array([row])) for row in range(100)])
    assert abs(1 - whole.probabilities.sum()) < EXACT
    assert whole.mean()[0] == pytest.approx(p.sum() + means.sum(), abs=1e-6)
    variance = (p * (1 - p)).sum() + (means + means**2 / sizes).sum()
    assert whole.variance()[0] == pytest.approx(variance, rel=1e-6)
    assert whole.probabilities.shape[1] < 4000, "counts that nobody will see are not kept"


def test_a_count_answers_every_question_from_one_distribution():
    count = CountDistribution([[0.1, 0.2, 0.3, 0.4], [1.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(count.mean(), [2.0, 0.0])
    np.testing.assert_allclose(count.cdf(1), [0.3, 1.0])
    np.testing.assert_allclose(count.at_least(2), [0.7, 0.0])
    np.testing.assert_allclose(count.cdf(np.array([-1, 9])), [0.0, 1.0])
    np.testing.assert_allclose(count.at_least(np.array([0, 9])), [1.0, 0.0])
    assert count.quantile(0.3).tolist() == [1, 0], "the smallest count that reaches it"
    assert count.quantile(0.31).tolist() == [2, 0]
    np.testing.assert_allclose(count.cdf(2) + count.at_least(3), 1.0)


def test_the_score_is_that_of_the_pairs_of_draws_and_the_transform_is_uniform():
    count = CountDistribution([[0.1, 0.2, 0.3, 0.4]])
    p, n = count.probabilities[0], np.arange(4)
    for observed in (0, 2, 3, 7):
        # E|N - observed| - E|N - N'| / 2 (Gneiting & Raftery 2007).
        pairs = p @ np.abs(n - observed) - (p[:, None] * p * np.abs(n[:, None] - n)).sum() / 2
        assert count.crps(observed)[0] == pytest.approx(pairs)
    rng = np.random.default_rng(0)
    drawn = rng.choice(n, 20_000, p=p)
    many = count.take(np.zeros(20_000, int))
    shares = np.histogram(many.pit(drawn, rng.random(20_000)), bins=10, range=(0, 1))[0] / 20_000
    np.testing.assert_allclose(shares, 0.1, atol=0.01)


def test_nobody_and_a_mean_of_zero_are_certain():
    for certain in (
        nobody(2),
        negative_binomial([0.0, 0.0], np.inf),
        negative_binomial([0.0, 0.0], 3.0),
        poisson_binomial([[], []]),
    ):
        assert certain.probabilities.tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize(
    "make",
    [
        lambda: CountDistribution([[0.5, 0.4]]),
        lambda: CountDistribution([[1.5, -0.5]]),
        lambda: CountDistribution([[np.nan, 1.0]]),
        lambda: CountDistribution([0.5, 0.5]),
        lambda: poisson_binomial([[1.2]]),
        lambda: poisson_binomial([[np.nan]]),
        lambda: negative_binomial([-1.0], np.inf),
        lambda: negative_binomial([np.nan], np.inf),
        lambda: negative_binomial([1.0], 0.0),
        lambda: nobody(1).quantile(1.0),
    ],
)
def test_what_is_no_distribution_of_a_count_is_refused(make):
    with pytest.raises(ContractError):
        make()
