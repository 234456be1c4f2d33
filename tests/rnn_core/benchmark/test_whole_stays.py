"""Whole stays: every contender speaks of the same hours and reads nothing of how they end; figures agree with known worlds."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders import at, random_observations, random_stays, small_config, untrained

from rnn_core.benchmark import landmarks
from rnn_core.benchmark.landmarks import ALL, COMPARED, FIGURES, GROUPS, Contest, Moments, judge, make_moments, pool
from rnn_core.benchmark.whole_stays import CONTENDERS, SHIPPED, Fold
from rnn_core.contracts.config import HORIZON_EDGES, Sampling
from rnn_core.contracts.known import Known
from rnn_core.contracts.thresholds import LANDMARK_HOURS
from rnn_core.forecasters.start import WarmStart
from rnn_core.statistics.distribution import Distribution
from rnn_core.statistics.outcomes import Outcomes


def made(n: int, seed: int) -> Known:
    rng = np.random.default_rng(seed)
    stays = random_stays(rng, n, hours=90).assign(ends_at="unit")
    stays["outtime"] = stays["intime"].to_numpy() + ((20 + rng.exponential(60, n)) * 3600).astype("timedelta64[s]")
    stays["outcome"] = np.where(rng.random(n) < 0.4, "died", "alive")
    stays["patient_id"] = [f"{seed}-{i}" for i in range(n)]
    return Known(stays, random_observations(rng, stays, 60 * n), at(600))


@pytest.fixture(scope="module")
def fold() -> Fold:
    config = small_config(epochs=1)
    start = WarmStart(untrained(made(20, 3), config))
    return Fold(made(80, 1), made(25, 2), replace(config, trees=replace(config.trees, trees=10)), Sampling(), start)


def longer(known: Known) -> Known:
    """The same stays as if each had gone on for two more weeks and ended the other way."""
    stays = known.stays.assign(
        outtime=known.stays["outtime"] + np.timedelta64(14, "D"),
        outcome=known.stays["outcome"].map({"died": "alive", "alive": "died"}),
    )
    return replace(known, stays=stays)


QUICK = ("prevalence", "trees")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.soak) for name in CONTENDERS]
)
def test_a_contender_speaks_of_every_hour_and_reads_nothing_of_how_the_judged_stays_end(fold, name):
    other = replace(fold, judged=longer(fold.judged))
    found, _ = CONTENDERS[name](fold)
    # What was learned is shared: it comes from other stays.
    vars(other).update(
        {part: vars(fold)[part] for part in ("material", "scaler", "fits", "warm") if part in vars(fold)}
    )
    again, _ = CONTENDERS[name](other)
    assert len(found) == len(fold.rows) > 100
    here, there = (pd.MultiIndex.from_arrays([f.stay, f.hour]) for f in (fold, other))
    position = there.get_indexer(here)
    assert (position >= 0).all(), "an hour is judged whatever comes after it"
    np.testing.assert_allclose(again.take(position).masses, found.masses, atol=1e-6)


def test_an_hour_of_a_stay_weighs_the_same_however_long_the_stay_goes_on(fold):
    """Every sixth hour counts once, so what a stay adds up to an hour does not depend on what follows."""
    other = replace(fold, judged=longer(fold.judged))
    for one in (fold, other):
        assert (one.hour % 6 == 0).all() and not pd.MultiIndex.from_arrays([one.stay, one.hour]).has_duplicates
    up_to = [sorted(zip(f.stay[f.hour <= 24], f.hour[f.hour <= 24], strict=True)) for f in (fold, other)]
    assert set(up_to[0]) <= set(up_to[1])


def world(n: int = 3000, seed: int = 0, wider: float = 1.0) -> tuple[Contest, Moments]:
    """Stays of exponential length, each with its own mean, forecast by that very distribution, or by one with `wider`
    times its mean; every stay is seen at the landmarks it reaches."""
    rng = np.random.default_rng(seed)
    mean, risk = np.exp(rng.normal(4, 0.5, n)), rng.beta(1, 6, n)
    length, died = rng.exponential(mean), rng.random(n) < risk
    stay, hour = (found.ravel() for found in np.meshgrid(np.arange(n), LANDMARK_HOURS, indexing="ij"))
    reached = length[stay] > hour
    stay, hour = stay[reached], hour[reached]
    cdf = 1 - np.exp(-np.array(HORIZON_EDGES) / (wider * mean[stay, None]))
    masses = np.diff(cdf, axis=1, append=1)[:, :, None] * np.stack([1 - risk, risk], axis=1)[stay, None, :]
    stays = pd.DataFrame(
        {
            "stay_id": np.arange(n).astype(str),
            "patient_id": np.arange(n),
            "intime": at(0.0),
            "outtime": at(length),
            "outcome": np.where(died, "died", "alive"),
            "end_precision_hours": 0.0,
        }
    )
    return Contest(Distribution(masses, HORIZON_EDGES)), make_moments(stays, stay, hour, hour.astype(float))


def test_the_true_distribution_is_beyond_its_quantiles_as_often_as_they_say_at_every_landmark():
    contest, moments = world()
    found = judge({"prevalence": contest}, moments, {}, resamples=0).scores["prevalence"]
    for group in GROUPS:
        for q in (10, 50, 90):
            n = found[group][f"share_beyond_p{q}"].n
            assert found[group][f"share_beyond_p{q}"].value == pytest.approx(1 - q / 100, abs=4 * 0.5 / np.sqrt(n))
        assert found[group]["observed_expected"].value == pytest.approx(1, abs=0.2)
        reached = landmarks.reached(contest, moments, group)
        assert np.histogram(reached, 5, (0, 1))[0] / len(reached) == pytest.approx(0.2, abs=0.05)


def test_forecasts_twice_too_long_are_found_out_and_the_skill_of_the_truth_is_positive():
    truth, moments = world()
    wide, _ = world(wider=2.0)
    found = judge({"prevalence": wide, SHIPPED: truth}, moments, {"a": 1}, resamples=40)
    assert found.scores["prevalence"]["24h"]["share_beyond_p50"].value < 0.33
    for group in GROUPS:
        against = found.differences["prevalence"][SHIPPED][group]
        assert against["los_crps_days_skill"].low > 0 and against["discharge24_brier_skill"].low > 0
        assert against["los_crps_days"].value < 0 and against["auroc"].value == pytest.approx(0, abs=1e-9)


def test_the_report_has_every_figure_of_every_landmark_and_what_is_shipped_under_its_own_name():
    contest, moments = world(300)
    report = judge({"prevalence": contest, SHIPPED: contest}, moments, {}, resamples=5).to_json()
    assert set(report["models"]) == {"prevalence", SHIPPED, "shipped"}
    assert report["models"]["shipped"] == report["models"][SHIPPED]
    for group in GROUPS:
        assert set(report["models"][SHIPPED][group]) == set(FIGURES)
        assert set(report["models"][SHIPPED][group]["auroc"]) == {"value", "low", "high", "n"}
        assert set(COMPARED) <= set(report["differences"]["prevalence"][SHIPPED][group])
    assert report["models"]["prevalence"][ALL]["auroc"]["n"] == len(moments.hour)


def test_a_published_score_is_judged_where_it_exists_and_compared_on_those_stays_alone():
    contest, moments = world(400)
    said = np.where((moments.hour == 24) & (moments.outcomes.groups % 2 == 0), 0.2, np.nan)
    score = Contest(columns={"mortality_risk": said, "remaining_los_p50_hours": said * 100})
    found = judge({"prevalence": contest, "apache": score}, moments, {}, resamples=5)
    here = found.scores["apache"]
    assert here["24h"]["brier"].n == here["24h"]["los_mae_days"].n == np.isfinite(said).sum() > 50
    assert here["6h"]["brier"].n == 0 and "los_crps_days" not in here["24h"]
    assert found.differences["apache"]["prevalence"]["24h"]["brier"].n == np.isfinite(said).sum()


def test_parts_of_a_cross_validation_are_pooled_without_hours_after_the_end():
    contest, moments = world(50)
    ended = replace(
        moments.outcomes, remaining_hours=np.where(moments.hour == 6, -1.0, moments.outcomes.remaining_hours)
    )
    late = Moments(moments.stay_id, moments.hour, ended)
    part = (late, late.outcomes.remaining_hours > 0, {"prevalence": contest})
    pooled, contests = pool([part, part])
    n = 2 * int((moments.hour != 6).sum())
    assert len(pooled.hour) == len(contests["prevalence"].whole) == n and 6 not in pooled.hour
    assert isinstance(pooled.outcomes, Outcomes) and len(pooled.outcomes.groups) == n
