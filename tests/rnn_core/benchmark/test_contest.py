"""The benchmark's arena on made stays: nobody is judged by a fit that saw them, all are judged alike."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from builders import at, random_observations, random_stays, small_config

from rnn_core.benchmark import contenders
from rnn_core.benchmark.contenders import Arena, Entry, Forecast
from rnn_core.benchmark.contest import Contest, Truth, enter, paired_differences, pool, score_contest, strongest
from rnn_core.contracts.config import Sampling
from rnn_core.contracts.groups import patient_groups
from rnn_core.contracts.known import Known
from rnn_core.statistics.discrimination import auroc

HOUR = 12.0


def made_stays(n: int, seed: int) -> Known:
    rng = np.random.default_rng(seed)
    stays = random_stays(rng, n, hours=90).assign(ends_at="unit", intime=at(0.0))
    lasting = 13 + rng.random(n) * 80
    stays["outtime"] = at(lasting)
    stays["outcome"] = np.where(rng.random(n) < 0.3, "died", "alive")
    stays["patient_id"] = [f"p{seed}-{i}" for i in range(n)]
    return Known(stays, random_observations(rng, stays, 60 * n), at(200))


def opened(known: Known) -> Known:
    stays = known.stays.assign(outtime=np.datetime64("NaT", "us"), outcome=None)
    return Known(stays, known.observations, at(HOUR))


@pytest.fixture(scope="module")
def arena() -> Arena:
    learned, judged = made_stays(90, 1), made_stays(30, 2)
    score = np.random.default_rng(0).normal(size=90)
    score[3] = np.nan
    config = small_config(epochs=1)
    return Arena(learned, opened(judged), config, Sampling(), HOUR, score, score[:30])


@pytest.fixture(scope="module")
def entries(arena) -> Callable[[str], Entry]:
    """A function that lets a contender enter, once."""
    return cache(
        lambda name: contenders.plain_cell(name, arena) if name == "elman" else getattr(contenders, name)(arena)
    )


SLOW = [pytest.param(name, marks=pytest.mark.soak) for name in ("trees", "forecaster", "blend", "elman")]


@pytest.mark.parametrize("name", ["prevalence", "saps", "linear", "logistic", *SLOW])
def test_every_contender_speaks_of_every_judged_stay(entries, name):
    risk, remaining = entries(name).forecast.risk, entries(name).forecast.remaining
    assert risk.shape == (30,) and ((risk > 0) & (risk < 1)).all()
    assert remaining.shape == (30, 3) and (np.diff(remaining, axis=1) >= 0).all() and (remaining >= 0).all()


@pytest.mark.parametrize("name", ["linear", "logistic", *SLOW])
def test_risks_out_of_fold_cover_every_learned_stay_or_the_one_fold_left_out(arena, entries, name):
    known = ~np.isnan(entries(name).out_of_fold)
    assert np.array_equal(known, arena.fold == 0) if name == "elman" else known.all()


def with_the_outcomes_of_fold_0_turned_around(arena: Arena) -> Arena:
    stays = arena.learned.stays
    turned = stays["outcome"].map({"died": "alive", "alive": "died"}).where(arena.fold == 0, stays["outcome"])
    learned = Known(stays.assign(outcome=turned), arena.learned.observations, arena.learned.as_of)
    return replace(arena, learned=learned)


def test_what_is_said_of_a_fold_does_not_know_its_outcomes(arena, entries):
    again = contenders.linear(with_the_outcomes_of_fold_0_turned_around(arena))
    before, after = entries("linear").out_of_fold, again.out_of_fold
    np.testing.assert_array_equal(after[arena.fold == 0], before[arena.fold == 0])
    assert not np.array_equal(after[arena.fold == 1], before[arena.fold == 1])


@pytest.mark.soak
def test_the_member_that_left_a_fold_out_orders_it_without_knowing_its_outcomes(arena, entries):
    """The fold stops its member, which one epoch leaves no choice, and calibrates all, which keeps the order."""
    again = contenders.forecaster(with_the_outcomes_of_fold_0_turned_around(arena))
    before, after = (entry.out_of_fold[arena.fold == 0] for entry in (entries("forecaster"), again))
    np.testing.assert_array_equal(np.argsort(before), np.argsort(after))


def test_learned_stays_are_all_open_at_the_hour_of_the_forecast(arena):
    assert arena.then.stays["outcome"].isna().all() and arena.then.stays["outtime"].isna().all()
    assert len(arena.snapshots[0].stay) == len(arena.learned.stays)
    assert (arena.snapshots[0].windows.prediction_hour[arena.snapshots[0].row] == HOUR).all()


@pytest.mark.soak
def test_the_same_seed_gives_the_same_forecasts_twice(arena, entries):
    again = contenders.forecaster(arena)
    np.testing.assert_array_equal(again.forecast.risk, entries("forecaster").forecast.risk)
    np.testing.assert_array_equal(again.forecast.remaining, entries("forecaster").forecast.remaining)


def test_where_the_forecaster_abstains_everybody_says_what_prevalence_says(arena, entries):
    abstained = np.arange(30) < 4
    contest = enter(entries("logistic"), arena.death, entries("prevalence"), abstained, 1.0)
    assert (contest.forecast.risk[:4] == np.nanmean(arena.death)).all()
    np.testing.assert_array_equal(contest.forecast.risk[4:], entries("logistic").forecast.risk[4:])
    assert len(np.unique(contest.threshold)) == 1


def contest_of(risk: np.ndarray, middle: np.ndarray) -> Contest:
    remaining = np.stack([middle / 2, middle, middle * 2], axis=1)
    return Contest(Forecast(risk, remaining), np.full(len(risk), 0.3), 0.0)


@pytest.fixture(scope="module")
def judged() -> tuple[Truth, dict[str, Contest]]:
    rng = np.random.default_rng(3)
    risk = rng.beta(1, 3, 400)
    death = (rng.random(400) < risk).astype(float)
    los = HOUR + rng.exponential(100, 400)
    los[:5] = np.nan
    stays = pd.DataFrame(
        {
            "age_years": rng.integers(20, 95, 400).astype(float),
            "sex": ["male", "female"] * 200,
            "unit_type": ["medical"] * 350 + ["cardiac"] * 50,
        }
    )
    truth = Truth(death, los, HOUR, np.zeros(400), stays)
    good, bad = contest_of(risk, np.nan_to_num(los, nan=50.0) - HOUR), contest_of(risk[::-1].copy(), np.full(400, 60.0))
    return truth, {"good": good, "bad": bad}


def test_metrics_are_those_of_their_definitions_and_a_perfect_length_has_no_error(judged):
    truth, contests = judged
    scores = score_contest(contests["good"], truth, resamples=20)
    assert scores["mortality_auroc"].value == auroc(truth.death, contests["good"].forecast.risk)
    assert scores["los_mae_days"].value == pytest.approx(0, abs=1e-9) and scores["los_mae_days"].n == 395
    assert scores["los_kappa"].value == 1 and scores["los_concordance"].value == 1
    assert scores["los_interval_coverage"].value == 1
    assert scores["mortality_auroc"].low < scores["mortality_auroc"].value < scores["mortality_auroc"].high


def test_differences_are_paired_and_the_strongest_baseline_is_found(judged):
    truth, contests = judged
    scores = {name: score_contest(contest, truth, 10, ["mortality_auroc"]) for name, contest in contests.items()}
    assert strongest(scores, ("bad", "good", "absent")) == "good"
    difference = paired_differences(contests["bad"], contests["good"], truth, resamples=50)
    assert difference["mortality_auroc"].value == pytest.approx(
        scores["bad"]["mortality_auroc"].value - scores["good"]["mortality_auroc"].value
    )
    assert difference["mortality_auroc"].high < 0 < difference["los_mae_days"].low
    same = paired_differences(contests["good"], contests["good"], truth, resamples=20)
    assert {(e.low, e.value, e.high) for e in same.values()} == {(0.0, 0.0, 0.0)}


def test_pooled_folds_stand_in_the_order_of_the_whole(judged):
    _, contests = judged
    whole = contests["good"]
    odd, even = np.arange(1, 400, 2), np.arange(0, 400, 2)
    pooled = pool([(odd, whole.take(odd)), (even, whole.take(even))])
    np.testing.assert_array_equal(pooled.forecast.risk, whole.forecast.risk)
    np.testing.assert_array_equal(pooled.forecast.remaining, whole.forecast.remaining)


def test_small_groups_are_not_judged(judged):
    found = patient_groups(judged[0].stays, 100)
    assert set(found["unit_type"]) == {"medical"} and set(found["sex"]) == {"male", "female"}
    assert sum(chosen.sum() for chosen in found["sex"].values()) == 400
