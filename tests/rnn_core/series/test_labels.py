"""Labels: identities of the censored likelihood, and what they may and may not read."""

import numpy as np
import pandas as pd
import pytest
from builders import at, random_observations, random_stays, stays_frame, windows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from rnn_core.contracts.config import HORIZON_EDGES
from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.frames import ALIVE, DIED, Labels
from rnn_core.series.labels import make_labels

EDGES = (0.0, 6.0, 12.0, 24.0, 48.0)
WIDTHS = (6.0, 6.0, 12.0, 24.0)


def labels_of(*rows: dict, edges=EDGES, as_of=None, open_until=None, **options) -> Labels:
    """Labels of stays; windows are those of the same frame, or of the stays while all were open until `open_until`."""
    stays = stays_frame(*rows)
    if open_until is None:
        windows = windows_of(stays, as_of=as_of)
    else:
        windows = windows_of(stays.assign(outtime=pd.NaT, outcome=None), as_of=at(open_until))
    return make_labels(windows, stays, edges, as_of=as_of, **options)


def masses(rng: np.random.Generator, n: int, edges=EDGES) -> np.ndarray:
    """Random forecasts, [n, bins, 2], each adding up to 1."""
    p = rng.dirichlet(np.full(len(edges) * 2, 0.3), n)
    return p.reshape(n, len(edges), 2)


def likelihood(labels: Labels, p: np.ndarray) -> np.ndarray:
    return (labels.weights * p).sum(axis=(1, 2)) / (labels.entry * p).sum(axis=(1, 2))


def cumulated(p: np.ndarray, edges, hours: np.ndarray) -> np.ndarray:
    """Share of stays that ended within `hours` under each forecast, linear within bins; hours up to the last edge."""
    total = np.concatenate([np.zeros((len(p), 1)), np.cumsum(p.sum(axis=2), axis=1)], axis=1)[:, : len(edges)]
    return np.array([np.interp(h, edges, row) for h, row in zip(hours, total, strict=True)])


@pytest.mark.parametrize(
    ("remaining", "in_bin"),
    [(0.001, 0), (5.999, 0), (6.0, 1), (23.999, 2), (24.0, 3), (47.5, 3), (48.0, 4), (900.0, 4)],
)
@pytest.mark.parametrize(("outcome", "cause"), [("alive", ALIVE), ("died", DIED)])
def test_an_exact_end_weighs_one_in_the_bin_and_cause_it_fell_into(remaining, in_bin, outcome, cause):
    labels = labels_of({"outtime": 1 + remaining, "outcome": outcome}, open_until=1)
    expected = np.zeros((5, 2))
    expected[in_bin, cause] = 1
    assert labels.weights[0].tolist() == expected.tolist()
    assert labels.usable.tolist() == [True]
    assert labels.death.tolist() == [float(outcome == "died")]
    assert labels.remaining_hours[0] == pytest.approx(remaining, abs=1e-4)


def test_an_open_stay_adds_no_event():
    labels = labels_of({}, as_of=at(40))
    known_open = 40 - np.arange(1, 41)
    for row, hours in enumerate(known_open):
        before = np.array(EDGES[1:]) <= hours
        assert not labels.weights[row, :-1][before].any()
        assert (labels.weights[row, :-1][np.array(EDGES[:-1]) >= hours] == 1).all()
        assert (labels.weights[row, -1] == 1).all()
    assert np.array_equal(labels.weights[:, :, ALIVE], labels.weights[:, :, DIED])
    assert np.isnan(labels.death).all() and np.isnan(labels.remaining_hours).all()
    assert labels.usable.all()


def test_the_likelihood_of_an_open_stay_is_the_forecast_survival_to_the_time_it_was_known_open():
    rng = np.random.default_rng(1)
    labels = labels_of({"intime": 0.4}, as_of=at(47.3))
    p = masses(rng, len(labels.usable))
    known_open = 47.3 - np.arange(1, 48)
    assert np.allclose(likelihood(labels, p), 1 - cumulated(p, EDGES, known_open), atol=1e-5)


def test_an_end_known_only_to_lie_anywhere_has_likelihood_one():
    labels = labels_of({"outtime": 30, "end_precision_hours": 1e9}, open_until=20)
    assert np.allclose(likelihood(labels, masses(np.random.default_rng(2), 20)), 1)


def test_a_tiny_interval_weighs_what_an_exact_end_weighs():
    stay = {"outtime": 100.25, "outcome": "died"}
    exact = labels_of(stay, edges=HORIZON_EDGES)
    tiny = labels_of(stay | {"end_precision_hours": 0.01}, edges=HORIZON_EDGES)
    assert np.allclose(exact.weights, tiny.weights, atol=1e-4)
    assert np.array_equal(exact.death, tiny.death) and np.array_equal(exact.remaining_hours, tiny.remaining_hours)


def test_the_likelihood_of_a_coarse_end_is_the_forecast_mass_of_its_interval():
    """In full where the interval covers a whole bin; where it is narrower, up to a factor that no forecast changes."""
    rng = np.random.default_rng(3)
    edges = (0.0, 4.0, 8.0, 16.0, 24.0, 100.0)
    labels = labels_of({"outtime": 40.5, "end_precision_hours": 20.0}, edges=edges)
    remaining = 40.5 - np.arange(1, 41)
    covers_a_bin = remaining <= 26
    factors = []
    for p in (masses(rng, 40, edges), masses(rng, 40, edges)):
        mass = cumulated(p, edges, remaining + 10) - cumulated(p, edges, np.maximum(remaining - 10, 0))
        assert np.allclose(likelihood(labels, p)[covers_a_bin], mass[covers_a_bin], atol=1e-5)
        factors.append(likelihood(labels, p) / mass)
    assert np.allclose(*factors, rtol=1e-3)
    assert (factors[0][~covers_a_bin] > 1 - 1e-4).all() and factors[0][0] > 3


def test_a_coarse_end_weighs_one_in_bins_it_covers_and_a_share_of_those_it_enters():
    labels = labels_of({"outtime": 20, "outcome": "alive", "end_precision_hours": 24.0}, open_until=2)
    interval_from_6_to_30 = [0, 1, 1, 6 / 24, 0]
    assert labels.weights[1, :, ALIVE].tolist() == pytest.approx(interval_from_6_to_30)
    assert not labels.weights[:, :, DIED].any()


def test_an_interval_narrower_than_a_bin_weighs_one_in_all_and_bins_by_how_densely_they_are_covered():
    labels = labels_of({"outtime": 25, "outcome": "died", "end_precision_hours": 4.0}, open_until=1)
    at_24 = labels.weights[0, :, DIED]
    assert at_24.tolist() == pytest.approx([0, 0, 2 / 3, 1 / 3, 0])  # two of 12 hours against two of 24


def test_an_interval_beyond_the_last_edge_weighs_one_in_the_open_bin():
    labels = labels_of({"outtime": 201, "outcome": "died", "end_precision_hours": 24.0}, open_until=1)
    assert labels.weights[0, :, DIED].tolist() == [0, 0, 0, 0, 1]


def test_a_cause_without_a_time_weighs_one_in_all_bins_of_the_cause():
    stays = stays_frame({"outcome": "died"}, {"outcome": "alive"})
    windows = windows_of(stays.assign(outcome=None), as_of=at(3))
    labels = make_labels(windows, stays, EDGES, as_of=at(50))
    assert (labels.weights[:3, :, DIED] == 1).all() and not labels.weights[:3, :, ALIVE].any()
    assert (labels.weights[3:, :, ALIVE] == 1).all() and not labels.weights[3:, :, DIED].any()
    assert labels.death.tolist() == [1, 1, 1, 0, 0, 0] and np.isnan(labels.remaining_hours).all()


def test_an_end_of_unknown_cause_weighs_one_for_both_causes():
    labels = labels_of({"outtime": 9}, open_until=1)
    assert labels.weights[0].tolist() == [[0, 0], [1, 1], [0, 0], [0, 0], [0, 0]]
    assert np.isnan(labels.death[0]) and labels.remaining_hours[0] == 8 and labels.usable[0]


def test_rows_at_or_after_the_end_are_not_usable():
    labels = labels_of({"outtime": 3, "outcome": "died"}, open_until=5)
    assert labels.usable.tolist() == [True, True, False, False, False]
    assert (
        not labels.weights[2:].any() and np.isnan(labels.death[2:]).all() and np.isnan(labels.remaining_hours[2:]).all()
    )


def test_stays_with_wrong_labels_are_left_out():
    labels = labels_of(
        {"outtime": 3, "outcome": "died"}, {"outtime": 3, "outcome": "alive"}, exclude=np.array([True, False])
    )
    assert labels.usable.tolist() == [False, False, True, True]
    assert not labels.weights[:2].any() and np.isnan(labels.death[:2]).all()


def test_without_delayed_entry_all_bins_are_entered():
    labels = labels_of({"outtime": 9, "outcome": "died"})
    assert labels.entry.shape == labels.weights.shape and labels.entry.dtype == np.float32 and (labels.entry == 1).all()


def test_no_likelihood_is_taken_from_before_a_delayed_entry():
    rng = np.random.default_rng(4)
    stay = {"intime": 0.25, "outtime": 60.5, "outcome": None}
    exact = labels_of(stay, delayed_entry_hours=30.25)
    entry = np.maximum(30.5 - np.arange(1, 61), 0)
    p = masses(rng, 60)
    remaining_share = 1 - cumulated(p, EDGES, np.minimum(entry, 48))
    assert np.allclose((exact.entry * p).sum(axis=(1, 2)), remaining_share, atol=1e-5)
    coarse = labels_of(stay | {"end_precision_hours": 48.0}, delayed_entry_hours=30.25)
    low, high = np.maximum(60.5 - 24 - np.arange(1, 61), entry), 60.5 + 24 - np.arange(1, 61)
    inside = (high <= 48) & (high - low > 26)
    mass = cumulated(p, EDGES, np.minimum(high, 48)) - cumulated(p, EDGES, np.minimum(low, 48))
    assert inside.sum() >= 10
    assert np.allclose(likelihood(coarse, p)[inside], (mass / remaining_share)[inside], atol=1e-5)


def test_an_exact_end_in_the_bin_of_its_entry_weighs_the_part_of_the_bin_after_entry():
    labels = labels_of({"outtime": 21, "outcome": "died"}, open_until=1, delayed_entry_hours=16)
    assert labels.entry[0, :, DIED].tolist() == pytest.approx([0, 0, 9 / 12, 1, 1])
    assert labels.weights[0, :, DIED].tolist() == pytest.approx([0, 0, 9 / 12, 0, 0])


def test_an_open_stay_known_open_until_before_its_entry_says_nothing():
    labels = labels_of({}, as_of=at(10), delayed_entry_hours=20)
    assert np.allclose(labels.weights, labels.entry)


def test_a_stay_that_ended_before_its_entry_contradicts_the_sample_and_is_not_usable():
    ended = {"outtime": 20, "outcome": "died"}
    labels = labels_of(ended, ended | {"end_precision_hours": 2.0}, delayed_entry_hours=24)
    assert not labels.usable.any() and not labels.weights.any()


@settings(deadline=None, max_examples=50)
@given(
    outtime=st.none() | st.floats(0.1, 120),
    outcome=st.sampled_from([None, "alive", "died"]),
    precision=st.none() | st.floats(0, 200),
    intime=st.floats(0, 0.99),
    entry=st.floats(0, 80),
    as_of=st.floats(1, 60),
    seed=st.integers(0, 1000),
)
def test_a_likelihood_is_never_more_than_one_and_never_of_no_forecast(
    outtime, outcome, precision, intime, entry, as_of, seed
):
    end = None if outtime is None else intime + outtime
    stay = {"intime": intime, "outtime": end, "outcome": outcome, "end_precision_hours": precision}
    stays = stays_frame(stay)
    windows = windows_of(stays.assign(outtime=pd.NaT, outcome=None), as_of=at(as_of))
    labels = make_labels(windows, stays, EDGES, delayed_entry_hours=entry, as_of=at(as_of))
    assert (labels.weights >= 0).all() and (labels.weights <= labels.entry).all() and (labels.entry <= 1).all()
    assert np.array_equal(labels.usable, labels.weights.any(axis=(1, 2)))
    p = masses(np.random.default_rng(seed), len(labels.usable)) * 0.999 + 0.001 / 10
    ratio = likelihood(labels, p)[labels.usable]
    assert (ratio > 0).all() and (ratio <= 1 + 1e-5).all()


def test_an_end_after_as_of_is_not_yet_known():
    rng = np.random.default_rng(5)
    stays = random_stays(rng, 20)
    as_of = at(35)
    ended = stays["outtime"] <= as_of
    hidden = stays.assign(outtime=stays["outtime"].where(ended), outcome=stays["outcome"].where(ended))
    windows = windows_of(hidden, as_of=as_of)
    assert 0 < ended.sum() < 20
    known, reported = (make_labels(windows, frame, EDGES, as_of=as_of) for frame in (hidden, stays))
    for name in ("weights", "entry", "death", "remaining_hours", "usable"):
        assert np.array_equal(getattr(known, name), getattr(reported, name), equal_nan=name != "usable")


def test_labels_read_the_end_and_the_intime_alone():
    rng = np.random.default_rng(6)
    stays = random_stays(rng, 10)
    before = make_labels(windows_of(stays), stays, EDGES)
    few = stays[["intime", "outtime", "outcome", "end_precision_hours"]]
    after = make_labels(windows_of(stays, random_observations(rng, stays, 300)), few, EDGES)
    for name in ("weights", "entry", "death", "remaining_hours", "usable"):
        assert np.array_equal(getattr(before, name), getattr(after, name), equal_nan=name != "usable")


def test_labels_of_many_stays_are_those_of_each_alone():
    rng = np.random.default_rng(7)
    stays = random_stays(rng, 15).assign(end_precision_hours=np.tile([0.0, 24.0, np.nan], 5))
    together = make_labels(windows_of(stays), stays, EDGES, delayed_entry_hours=5)
    alone = [make_labels(windows_of(s), s, EDGES, delayed_entry_hours=5) for s in (stays.iloc[[i]] for i in range(15))]
    assert np.array_equal(together.weights, np.concatenate([a.weights for a in alone]))
    assert np.array_equal(together.entry, np.concatenate([a.entry for a in alone]))


def test_ends_and_open_stays_together_recover_the_forecast_that_made_them():
    """The most likely constant forecast of simulated stays, many of them censored (EM, Dempster et al. 1977)."""
    rng = np.random.default_rng(8)
    truth = np.array([[0.1, 0.2], [0.15, 0.05], [0.2, 0.05], [0.1, 0.05], [0.1, 0.0]])
    n, as_of = 4000, 61
    in_bin, cause = np.divmod(rng.choice(10, n, p=truth.ravel()), 2)
    left, right = np.array(EDGES), np.append(EDGES[1:], 96.0)
    end = left[in_bin] + rng.random(n) * (right - left)[in_bin]
    seen_for = rng.integers(1, 61, n)  # from the first prediction, an hour after intime, to as_of
    stays = stays_frame(
        *(
            {"intime": as_of - 1 - f, "outtime": as_of - f + e, "outcome": ("alive", "died")[c]}
            if e <= f
            else {"intime": as_of - 1 - f}
            for f, e, c in zip(seen_for, end, cause, strict=True)
        )
    )
    assert 0.2 < stays["outtime"].isna().mean() < 0.5
    windows = windows_of(stays, as_of=at(as_of))
    first_row = windows.offsets[:-1]
    weights = make_labels(windows, stays, EDGES, as_of=at(as_of)).weights[first_row].reshape(n, 10).astype(float)
    p = np.full(10, 0.1)
    for _ in range(200):
        share = weights * p
        p = (share / share.sum(axis=1, keepdims=True)).mean(axis=0)
    p = p.reshape(5, 2)
    assert np.allclose(p[:4], truth[:4], atol=0.03)
    assert np.isclose(p[4].sum(), truth[4].sum(), atol=0.03)


def test_an_open_stay_is_censored_when_it_was_last_known_to_go_on():
    stays = stays_frame({}, {}, {"outtime": 9, "outcome": "died"})
    windows = windows_of(stays, as_of=at(30))
    until = np.array([at(20.5), at(99), at(2)])
    labels = make_labels(windows, stays, EDGES, as_of=at(30), known_until=until)
    plain = make_labels(windows, stays, EDGES, as_of=at(30))
    first = slice(0, 30)
    earlier = make_labels(windows_of(stays[:1], as_of=at(20.5)), stays[:1], EDGES, as_of=at(20.5))
    assert np.array_equal(labels.weights[:20], earlier.weights)
    assert labels.usable[first].tolist() == [True] * 20 + [False] * 10
    assert np.array_equal(labels.weights[30:], plain.weights[30:]) and np.array_equal(
        labels.usable[30:], plain.usable[30:]
    )


def test_an_open_stay_needs_the_time_at_which_that_was_known():
    stays = stays_frame({})
    with pytest.raises(ContractError, match="1 stays are open"):
        make_labels(windows_of(stays, as_of=at(5)), stays, EDGES)


@pytest.mark.parametrize("edges", [(1.0, 2.0), (0.0, 5.0, 5.0), (0.0, 9.0, 4.0)])
def test_edges_that_do_not_rise_from_zero_are_refused(edges):
    with pytest.raises(ContractError, match="rise from 0"):
        labels_of({"outtime": 5}, edges=edges)


def test_an_outcome_that_nobody_knows_is_refused_without_being_quoted():
    with pytest.raises(ContractError, match="1 stays have another") as error:
        labels_of({"outtime": 5, "outcome": "eloped"})
    assert "eloped" not in str(error.value)
