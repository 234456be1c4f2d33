from types import SimpleNamespace

import numpy as np
import pytest
from builders import at, stays_frame

from rnn_core.contracts.frames import ALIVE, DIED, Labels
from rnn_core.series.labels import make_labels
from rnn_core.series.person_periods import masses_of_hazards, person_periods, population_masses

EDGES = (0, 10, 20, 40)
# Ends of the simulated world are spread evenly over a bin; its last bin is open.
WIDTHS = np.array([10, 10, 20, 100])
TRUTH = np.array([[0.10, 0.05], [0.20, 0.05], [0.15, 0.15], [0.10, 0.20]])


def labels_of(*stays: dict, as_of: float = 1e4, delayed_entry_hours: float = 0.0, until=None) -> Labels:
    """Labels of one row per stay, an hour after it began."""
    frame = stays_frame(*stays)
    windows = SimpleNamespace(offsets=np.arange(len(frame) + 1))
    known_until = None if until is None else at(until)
    return make_labels(windows, frame, EDGES, delayed_entry_hours, at(as_of), known_until=known_until)


def end(remaining: float | None, outcome: str | None, precision: float | None = None) -> dict:
    outtime = None if remaining is None else 1 + remaining
    return {"intime": 0, "outtime": outtime, "outcome": outcome, "end_precision_hours": precision}


def world(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Remaining hours and outcome of n stays that end as `TRUTH` says."""
    rng = np.random.default_rng(seed)
    cell = rng.choice(TRUTH.size, n, p=TRUTH.ravel())
    number, cause = np.divmod(cell, 2)
    return np.array(EDGES)[number] + rng.random(n) * WIDTHS[number], np.where(cause == DIED, "died", "alive")


def test_an_exact_end_counts_in_its_bin_and_outlasts_those_before():
    found = person_periods(labels_of(end(25, "died")), TRUTH)
    assert found.ends[0].tolist() == [[0, 0], [0, 0], [0, 1], [0, 0]]
    assert found.stays[0].tolist() == [1, 1, 0, 0]


def test_an_open_stay_outlasts_what_it_has_passed_and_part_of_the_bin_that_it_is_in():
    found = person_periods(labels_of(end(None, None), as_of=1 + 15), TRUTH)
    hazard = 0.25 / 0.85
    assert found.ends.sum() == 0
    assert found.stays[0] == pytest.approx([1, 0.5 * (1 - hazard) / (1 - 0.5 * hazard), 0, 0])


def test_nothing_is_counted_from_before_entry():
    found = person_periods(labels_of(end(30, "alive"), end(18, "died"), delayed_entry_hours=16), TRUTH)
    assert found.stays[0] == pytest.approx([0, 0.5, 0, 0])
    assert found.stays[1].tolist() == [0, 0, 0, 0]
    assert found.ends[1, 1].tolist() == [0, 1]


def test_a_coarse_end_is_shared_by_the_bins_it_may_lie_in_as_the_population_ends():
    found = person_periods(labels_of(end(20, "died", precision=10)), TRUTH)
    # Half of the second bin and a quarter of the third are covered.
    second, third = 0.5 * TRUTH[1, DIED], 0.25 * TRUTH[2, DIED]
    assert found.ends[0, :, DIED] == pytest.approx([0, second / (second + third), third / (second + third), 0])
    assert found.stays[0] == pytest.approx([1, third / (second + third), 0, 0])


def test_an_end_without_a_time_is_that_of_the_population_by_its_cause():
    found = person_periods(labels_of(end(None, "died")), TRUTH)
    assert found.ends[0, :, DIED] == pytest.approx(TRUTH[:, DIED] / TRUTH[:, DIED].sum())
    assert found.ends[0, :, ALIVE].tolist() == [0, 0, 0, 0]


def test_an_open_stay_of_which_nothing_else_is_known_counts_nowhere():
    found = person_periods(labels_of(end(None, None), as_of=1), TRUTH)
    assert found.ends.sum() == found.stays.sum() == 0


def test_masses_and_hazards_are_one():
    hazard = TRUTH / TRUTH.sum(axis=1)[::-1].cumsum()[::-1][:, None]
    assert masses_of_hazards(hazard[None])[0] == pytest.approx(TRUTH)


def test_the_population_of_finished_stays_is_their_histogram():
    remaining, outcome = world(2000, seed=0)
    masses = population_masses(labels_of(*map(end, remaining, outcome)))
    for cause, name in enumerate(("alive", "died")):
        counts, _ = np.histogram(remaining[outcome == name], bins=[*EDGES, np.inf])
        assert masses[:, cause] == pytest.approx(counts / 2000, abs=1e-4)


@pytest.mark.parametrize("entry", [0.0, 16.0])
def test_what_is_censored_coarse_or_entered_late_is_the_same_population(entry):
    """Half of the stays are followed for a random time only, some ends are known to a day, some not at all."""
    remaining, outcome = world(8_000, seed=1)
    rng = np.random.default_rng(2)
    followed = np.where(rng.random(len(remaining)) < 0.5, rng.random(len(remaining)) * 60, np.inf)
    sampled = (remaining > entry) & (followed > 0)
    kind = rng.random(len(remaining))
    stays, until = [], []
    for hours, name, limit, kind_of in zip(
        remaining[sampled], outcome[sampled], followed[sampled], kind[sampled], strict=True
    ):
        is_open = hours > limit
        stays.append(
            end(None, None)
            if is_open
            else end(None, name)
            if kind_of < 0.05 and not np.isfinite(limit)
            else end(hours, name, precision=4.0 if kind_of < 0.3 else None)
        )
        until.append(1 + min(limit, 1e3))
    masses = population_masses(labels_of(*stays, delayed_entry_hours=1 + entry, until=until))
    # What ended before entry cannot be known.
    bins = slice(0, 4) if entry == 0 else slice(2, 4)
    truth = TRUTH[bins] / TRUTH[bins].sum()
    assert masses[bins] / masses[bins].sum() == pytest.approx(truth, abs=0.02)
