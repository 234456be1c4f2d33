"""The census benchmark: simple answers see no future, and what knows more scores better."""

import json

import numpy as np
import pandas as pd
import pytest

from flows.pages.census_benchmark import build_page, summary_table
from rnn_core.benchmark.census_contest import judge
from rnn_core.benchmark.census_run import (
    Hospital,
    StayForecasts,
    forecast_all,
    judged_slots,
    make_setting,
    rows_by_hour,
)
from rnn_core.benchmark.replay_truth import draw_futures
from rnn_core.census.counts import CountDistribution
from rnn_core.census.simple_answers import SIMPLE, Answer, answer_simply, from_draws
from rnn_core.contracts.census import CENSUS_HORIZONS
from rnn_core.contracts.config import Sampling, WindowConfig
from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.frames import Observations
from rnn_core.evaluation.census_figures import FIGURES, crps
from rnn_core.series.grid import make_grid
from rnn_core.series.scaling import fit_scaler, static_features
from rnn_core.series.windows import make_windows

DRAWS = 60
# The hospital is judged on its last eleven days, four of which have all horizons.
DAYS, JUDGED = 116, 11


def some_stays(n: int = 150) -> pd.DataFrame:
    random = np.random.default_rng(1)
    begin = np.datetime64("2031-03-04T00", "us") + random.integers(0, 10**4, n) * np.timedelta64(60, "s")
    end = begin + (random.gamma(0.7, 50, n) * 60 + 1).astype(int) * np.timedelta64(60, "s")
    return pd.DataFrame({"intime": begin, "outtime": end, "outcome": np.where(random.random(n) < 0.1, "died", "alive")})


STAYS = some_stays()


@pytest.fixture(scope="module")
def hospital():
    return Hospital.open(STAYS, (7,), DAYS, seed=4)


@pytest.fixture(scope="module")
def slots():
    return judged_slots(DAYS, JUDGED)


@pytest.fixture(scope="module")
def judgement(hospital, slots):
    setting = make_setting(hospital, slots)
    ends = StayForecasts.of_known_ends(hospital.lengths)
    answers = dict(zip(("patients", "curves"), forecast_all(hospital, slots, ends, Sampling()), strict=True))
    for same in forecast_all(hospital, slots[:2], StayForecasts.none(), Sampling()):
        curves = answers["curves"].census.probabilities.reshape(2, len(slots), len(CENSUS_HORIZONS), -1)[:, :2]
        found = same.census.probabilities.reshape(2, 2, len(CENSUS_HORIZONS), -1)
        np.testing.assert_allclose(curves[..., : found.shape[-1]], found, atol=1e-8)
    for name in SIMPLE:
        answers[name] = answer_simply(name, hospital.census, setting.beds, slots, CENSUS_HORIZONS)
    futures = draw_futures(hospital.world, hospital.lengths, slots, CENSUS_HORIZONS, DRAWS)
    answers["floor"] = Answer.of(from_draws(np.repeat(futures, 2, axis=0)), setting.observed.shape)
    protocol = {"stays": 150, "arrivals": 1, "turned_away": 0, "stay_model": "oracle", "folds": 2}
    protocol |= {
        "process": "{}",
        "floor_draws": DRAWS,
        "floor_crps_monte_carlo_error": dict.fromkeys(map(str, CENSUS_HORIZONS), 0.0),
    }
    pairs = [("patients", "curves"), ("curves", "floor")]
    return judge(answers, setting, protocol, pairs, {"floor": DRAWS}, n=20)


def test_what_is_known_at_a_slot_holds_nothing_later(hospital, slots):
    for slot in slots[[0, -1]]:
        known = hospital.known_at(int(slot))
        assert (known.stays["intime"] <= known.as_of).all() and not (known.stays["outtime"] > known.as_of).any()
        is_open = known.stays["outtime"].isna()
        assert is_open.sum() == hospital.census[0, slot] and known.stays["outcome"].notna().equals(~is_open)


def test_who_will_be_in_is_known_where_the_ends_are(hospital, slots):
    """Whoever is in at a slot and later is so by forecast, for all horizons; no one else."""
    ends = StayForecasts.of_known_ends(hospital.lengths)
    arrivals = hospital.world.arrivals
    last = arrivals["hour"] + hospital.lengths.hours[arrivals["stay"]]
    for slot in slots[::5]:
        scored = hospital.scored_at(int(slot), ends)
        assert len(scored.stay_ids) == hospital.census[0, slot]
        until = dict(zip(hospital.stays["stay_id"], last, strict=True))
        for horizon in CENSUS_HORIZONS:
            wanted = [float(until[stay] >= slot + horizon) for stay in scored.stay_ids]
            assert scored.forecast.survival(horizon).tolist() == wanted


@pytest.mark.parametrize("name", SIMPLE)
def test_a_simple_answer_sees_nothing_after_its_slot(name):
    random = np.random.default_rng(2)
    census = random.integers(0, 9, (2, 130 * 24))
    slots = np.arange(110 * 24, 120 * 24, 8)
    beds, horizons = np.array([8, 8]), (4, 24, 168)
    before = answer_simply(name, census, beds, slots, horizons)
    changed = census.copy()
    changed[:, slots[4] + 1 :] = 0
    after = answer_simply(name, changed, beds, slots, horizons)
    shape = (2, len(slots), 3, -1)
    seen, still = (a.census.probabilities.reshape(shape)[:, :5] for a in (before, after))
    assert (seen == still).all() and (before.point[:, :5] == after.point[:, :5]).all()
    assert (before.census.probabilities.reshape(shape)[:, 6:] != after.census.probabilities.reshape(shape)[:, 6:]).any()


def test_simple_answers_are_what_their_names_say_with_their_own_errors():
    census = np.random.default_rng(2).integers(0, 9, (1, 120 * 24))
    slots = np.arange(110 * 24, 111 * 24, 8)
    said = {name: answer_simply(name, census, np.array([20]), slots, (24,)) for name in SIMPLE}
    slot = int(slots[1])
    assert said["persistence"].point[0, 1, 0] == census[0, slot]
    assert said["last_week"].point[0, 1, 0] == census[0, slot + 24 - 168]
    assert said["moving_average"].point[0, 1, 0] == pytest.approx(census[0, slot - 167 : slot + 1].mean())
    past = slot - 24 - 8 * np.arange(270)
    wanted = np.maximum(census[0, slot] + census[0, past + 24] - census[0, past], 0)
    share = np.bincount(wanted, minlength=said["persistence"].census.probabilities.shape[1]) / 270
    assert said["persistence"].census.probabilities[1] == pytest.approx(share)


def test_the_score_of_a_sample_is_that_of_its_distribution():
    p, random = np.array([[0.1, 0.2, 0.4, 0.2, 0.1]]), np.random.default_rng(0)
    exact = CountDistribution(p).crps(3)[0]
    samples = from_draws(random.choice(5, (4000, 8), p=p[0]))
    observed = np.full(4000, 3)
    assert crps(samples, observed, 8).mean() == pytest.approx(exact, abs=0.01)
    assert samples.crps(observed).mean() > exact + 0.04


def test_a_forecast_is_found_by_the_full_hours_since_its_stay_began():
    stays = STAYS.head(20).assign(
        source="x",
        stay_id=[f"{n}" for n in range(20)],
        patient_id="p",
        unit="u",
        unit_type="medical",
        ends_at="unit",
        end_precision_hours=0.0,
        hospital_intime=pd.NaT,
        hospital_outtime=pd.NaT,
        died_at=pd.NaT,
        age_years=50.0,
        sex="male",
        height_cm=np.nan,
        weight_kg=np.nan,
        admission_type=None,
    )
    stays["outtime"] = stays["intime"] + pd.Timedelta(hours=30)
    stays.loc[0, "intime"] = stays.loc[0, "intime"].floor("h")
    begin = stays["intime"].to_numpy("datetime64[us]")
    seen = Observations(np.arange(20, dtype=np.int32), np.zeros(20, np.int16), begin, begin, np.full(20, 80.0))
    grid = make_grid(stays, seen, np.datetime64("2031-03-20", "us"))
    windows = make_windows(grid, stays, fit_scaler(grid, static_features(stays), np.arange(20)), WindowConfig())
    rows = np.flatnonzero(windows.scored)
    table = rows_by_hour(windows, rows, begin)
    for stay in range(20):
        hours = np.flatnonzero(table[stay] >= 0)
        first = np.datetime64(begin[stay] - np.timedelta64(1, "us"), "h")
        wanted = (first + hours.astype("timedelta64[h]") - begin[stay]) / np.timedelta64(1, "h")
        assert windows.prediction_hour[rows[table[stay, hours]]] == pytest.approx(wanted, abs=1e-4) and len(hours)


def test_what_knows_the_ends_of_those_who_are_in_beats_the_curve_and_all_beat_nothing(judgement):
    for horizon in (4, 24, 48):
        at = {name: judgement.figure(name, "crps", horizon).value for name in judgement.contenders}
        assert at["patients"] < 0.8 * at["curves"], at
        assert judgement.ratio("patients", "curves", horizon).value == pytest.approx(at["patients"] / at["curves"])
    assert set(judgement.contenders) == {"patients", "curves", "floor", *SIMPLE}
    assert judgement.figure("patients", "crps", 4, "*").value == pytest.approx(
        judgement.figure("patients", "crps", 4).value
    )


def test_every_figure_is_in_the_file_and_on_the_page(judgement):
    found = json.loads(json.dumps(judgement.to_json(), allow_nan=False))
    assert {*FIGURES, "skill_full"} < set(found["scores"][0])
    assert len(found["scores"]) == 6 * 3 * len(judgement.setting.periods) * len(CENSUS_HORIZONS)
    page = build_page(judgement)
    assert "made up are its units" in page and "oracle" in page and page.count("<svg") == 3
    assert summary_table(judgement).count("\n") == 8


def test_a_calendar_too_short_for_the_simple_answers_is_refused():
    with pytest.raises(ContractError, match="simple answers read the 105 days before"):
        judged_slots(110, 10)
