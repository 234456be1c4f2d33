from dataclasses import replace

import numpy as np
import pytest
from builders import observed, random_observations, random_stays, stays_frame, windows_of

from rnn_core.contracts.concepts import INDEX, NAMES
from rnn_core.contracts.config import WindowConfig
from rnn_core.contracts.errors import ContractError
from rnn_core.series import summaries
from rnn_core.series.summaries import summary_features
from rnn_core.series.windows import TIME_CHANNELS

N = len(NAMES)


def scored_rows(windows) -> np.ndarray:
    pairs = zip(windows.score_from, windows.stop, strict=True)
    return np.concatenate([np.arange(first, stop) for first, stop in pairs])


@pytest.fixture(scope="module")
def long_windows():
    rng = np.random.default_rng(2)
    stays = random_stays(rng, 25, hours=90)
    return windows_of(stays, random_observations(rng, stays, 6000), config=WindowConfig(chunk_hours=24, first_hour=4))


def test_summaries_are_those_of_the_window_up_to_the_row_and_no_more(long_windows):
    windows, rows = long_windows, scored_rows(long_windows)
    assert (np.diff(windows.offsets).max() > 72) and (len(windows) > 40)
    features = summary_features(windows, rows)
    assert features.shape == (len(rows), 6 * N + len(TIME_CHANNELS) + windows.static.shape[1])
    for i in range(0, len(rows), 7):
        row = rows[i]
        (w,) = np.flatnonzero((windows.score_from <= row) & (row < windows.stop))
        seen = windows.channels[windows.start[w] : row + 1]
        value, observed_mask = seen[:, :N], seen[:, N : 2 * N]
        expected = [
            value[-1],
            value.mean(axis=0),
            value.min(axis=0),
            value.max(axis=0),
            1 - observed_mask.mean(axis=0),
            seen[-1, 2 * N :],
            windows.static[windows.stay[w]],
        ]
        np.testing.assert_allclose(features[i], np.concatenate(expected), rtol=1e-4, atol=1e-4)


def test_summaries_do_not_depend_on_what_comes_later_or_on_what_else_is_asked(long_windows, monkeypatch):
    rows = scored_rows(long_windows)
    shuffled = np.random.default_rng(3).permutation(rows)[:50]
    whole = summary_features(long_windows, rows)
    np.testing.assert_allclose(
        summary_features(long_windows, shuffled), whole[np.searchsorted(rows, shuffled)], rtol=1e-6, atol=1e-6
    )
    row = int(rows[0])
    later = long_windows.channels.copy()
    later[row + 1 :] += 5
    changed = summary_features(replace(long_windows, channels=later), np.array([row]))
    assert np.array_equal(changed, whole[:1])
    monkeypatch.setattr(summaries, "_SPAN", 100)
    assert len(long_windows.channels) > 1000
    np.testing.assert_allclose(summary_features(long_windows, rows), whole, rtol=1e-6, atol=1e-6)


def test_a_hand_made_heart_rate_is_summed_up_right():
    stays = stays_frame({"intime": 0, "outtime": 10, "outcome": "alive"})
    values = observed(*((0, "heart_rate", h, h, v) for h, v in [(0.5, 80.0), (1.5, 120.0), (3.5, 100.0)]))
    features = summary_features(windows_of(stays, values), np.array([4]))[0]
    last, mean, least, most, missing = (features[k * N + INDEX["heart_rate"]] for k in range(5))
    assert (last, mean, least, most) == pytest.approx((100, (80 + 120 + 120 + 100 + 100) / 5, 80, 120))
    assert missing == pytest.approx(2 / 5)


def test_rows_that_no_window_scores_are_refused(long_windows):
    with pytest.raises(ContractError, match="rows"):
        summary_features(long_windows, np.array([0]))
    assert len(summary_features(long_windows, np.array([], dtype=np.int64))) == 0
    nothing = windows_of(stays_frame({"intime": 0, "outtime": 2, "outcome": "alive"}))
    assert len(summary_features(nothing, np.array([], dtype=np.int64))) == 0
    with pytest.raises(ContractError, match="rows"):
        summary_features(nothing, np.array([0]))
