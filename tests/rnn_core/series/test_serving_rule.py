"""One rule of serving, seen from open stays and from rows of windows: both say the same of every stay at every hour."""

from dataclasses import replace

import numpy as np
import pytest
from builders import at, random_observations, random_stays

from rnn_core.contracts.config import Sampling, WindowConfig
from rnn_core.contracts.known import Known
from rnn_core.series.grid import make_grid
from rnn_core.series.material import make_served_grid
from rnn_core.series.scaling import fit_scaler, static_features
from rnn_core.series.serving_rule import abstention_reasons, is_served, served_until
from rnn_core.series.windows import make_windows

# After hour 40 nothing is served, for one reason or the other.
LIMITS = {"later_than_learned": (Sampling(data_hours=40), {}), "too_long": (Sampling(), {"last_hour": 40})}


def made(seed: int) -> Known:
    rng = np.random.default_rng(seed)
    stays = random_stays(rng, 50)
    observations = random_observations(rng, stays, 300)
    return Known(stays.assign(outtime=np.datetime64("NaT", "us"), outcome=None), observations, at(100))


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("least", [1, 6])
@pytest.mark.parametrize("seed", range(4))
def test_a_row_is_served_exactly_where_its_open_stay_has_no_reason_to_abstain(seed, least, limit):
    sampling, last = LIMITS[limit]
    rules, whole = WindowConfig(stale_hours=5, min_observations=least, **last), made(seed)
    grid = make_grid(whole.stays, whole.observations, whole.as_of)
    scaler = fit_scaler(grid, static_features(whole.stays), np.arange(50))
    windows = make_windows(grid, whole.stays, scaler, rules)
    until, found = served_until(whole, rules, sampling), set()
    for hour in range(1, 100):
        known = replace(whole, as_of=at(hour))
        stay = np.flatnonzero(known.as_of > known.intime)
        row = grid.offsets[stay] + (known.as_of - grid.base[stay]) // np.timedelta64(1, "h") - 1
        reasons = abstention_reasons(known, rules, sampling)[stay]
        served = windows.scored[row] & is_served(windows, row, rules, sampling)
        assert (served == (reasons == None)).all()  # noqa: E711 - element by element
        assert (known.as_of <= until[stay[served]]).all()
        found |= set(reasons)
    reasons = {"too_early", "no_observations", "stale", "too_few_observations", limit}
    assert found == {None, *reasons} - ({"too_few_observations"} if least == 1 else set())


@pytest.mark.parametrize("years", [3, 126])
def test_a_stay_that_is_open_for_years_has_the_rows_of_one_year_and_abstains_as_too_long(years):
    """However long ago a row says that it began, and although it is charted to this hour."""
    rules, known = WindowConfig(), made(0)
    begun = known.as_of - np.timedelta64(years * 8766, "h")
    longest = known.stays["stay_id"] == known.stays["stay_id"].iloc[7]
    since = replace(known, stays=known.stays.assign(intime=known.stays["intime"].mask(longest, begun)))
    before, after = (make_served_grid(k, rules, Sampling()).lengths for k in (known, since))
    assert after[7] == rules.last_hour and (np.delete(after, 7) == np.delete(before, 7)).all()
    assert abstention_reasons(since, replace(rules, min_observations=1, stale_hours=1e9), Sampling())[7] == "too_long"
