"""One rule of serving, seen from open stays and from rows of windows: both say the same of every stay at every hour."""

from dataclasses import replace

import numpy as np
import pytest
from builders import at, random_observations, random_stays

from rnn_core.contracts.config import Sampling, WindowConfig
from rnn_core.contracts.known import Known
from rnn_core.series.grid import make_grid
from rnn_core.series.scaling import fit_scaler, static_features
from rnn_core.series.serving_rule import abstention_reasons, is_served, served_until
from rnn_core.series.windows import make_windows

SAMPLING = Sampling(data_hours=40)


def made(seed: int) -> Known:
    rng = np.random.default_rng(seed)
    stays = random_stays(rng, 50)
    observations = random_observations(rng, stays, 300)
    return Known(stays.assign(outtime=np.datetime64("NaT", "us"), outcome=None), observations, at(100))


@pytest.mark.parametrize("least", [1, 6])
@pytest.mark.parametrize("seed", range(4))
def test_a_row_is_served_exactly_where_its_open_stay_has_no_reason_to_abstain(seed, least):
    rules, whole = WindowConfig(stale_hours=5, min_observations=least), made(seed)
    grid = make_grid(whole.stays, whole.observations, whole.as_of)
    scaler = fit_scaler(grid, static_features(whole.stays), np.arange(50))
    windows = make_windows(grid, whole.stays, scaler, rules)
    until, found = served_until(whole, rules, SAMPLING), set()
    for hour in range(1, 100):
        known = replace(whole, as_of=at(hour))
        stay = np.flatnonzero(known.as_of > known.intime)
        row = grid.offsets[stay] + (known.as_of - grid.base[stay]) // np.timedelta64(1, "h") - 1
        reasons = abstention_reasons(known, rules, SAMPLING)[stay]
        served = windows.scored[row] & is_served(windows, row, rules, SAMPLING)
        assert (served == (reasons == None)).all()  # noqa: E711 - element by element
        assert (known.as_of <= until[stay[served]]).all()
        found |= set(reasons)
    reasons = {"too_early", "no_observations", "stale", "too_few_observations", "later_than_learned"}
    assert found == {None, *reasons} - ({"too_few_observations"} if least == 1 else set())
