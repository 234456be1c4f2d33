"""Forecasts judged at each age of a stay: whose fit speaks of whom, and what is counted where."""

import numpy as np
import pytest
from builders import at, random_observations, random_stays, small_config

from rnn_core.contracts.config import Sampling
from rnn_core.contracts.known import Known
from rnn_core.evaluation import ages
from rnn_core.evaluation.ages import AGES, judge_whole_stays
from rnn_core.statistics.metric import main_metrics

FOLDS = 2


@pytest.fixture(scope="module")
def judged():
    """The groups by age, the stays that every fit learned from, and those it was judged on."""
    rng = np.random.default_rng(3)
    stays = random_stays(rng, 160, hours=90)
    stays["ends_at"] = "unit"
    known = Known(stays, random_observations(rng, stays, 8000), at(200))
    learned, scored = [], []
    fit, score = ages.fit_forecaster, ages.score_stays
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ages, "fit_forecaster", lambda a, *b, **c: learned.append(a.stays) or fit(a, *b, **c))
        patch.setattr(ages, "score_stays", lambda f, a: scored.append(a.stays) or score(f, a))
        groups = judge_whole_stays(known, small_config(), Sampling(), FOLDS, lambda k: None)
    return groups, learned, scored, stays


def test_every_stay_is_judged_once_by_a_fit_on_other_patients(judged):
    _, learned, scored, stays = judged
    assert len(learned) == len(scored) == FOLDS
    for one, other in zip(learned, scored, strict=True):
        assert not set(one["patient_id"]) & set(other["patient_id"]) and len(one) + len(other) == len(stays)
    assert sorted(s for part in scored for s in part["stay_id"]) == sorted(stays["stay_id"])


def test_a_forecast_counts_in_the_group_of_the_hours_its_stay_had_lasted(judged):
    groups, _, _, stays = judged
    assert [group.start for group in groups] == list(AGES)
    assert [group.stop for group in groups] == [*AGES[1:], np.inf]
    hours = (stays["outtime"] - stays["intime"]) / np.timedelta64(1, "h")
    for group in groups:
        reached = hours > group.start
        # Every six hours of a stay at most; a stay in its first hours has too little data to speak of.
        most = int(np.ceil((hours[reached].clip(upper=group.stop) - group.start) / 6).sum())
        assert 0.5 * most <= group.n_forecasts <= most
        assert 0.5 * reached.sum() <= group.n_patients <= reached.sum()
        assert group.n_deaths <= ((stays["outcome"] == "died") & reached).sum()
    assert groups[0].n_forecasts > groups[2].n_forecasts > 0 == groups[-1].n_forecasts


@pytest.mark.parametrize("name", [metric.name for metric in main_metrics()])
def test_every_metric_of_forecaster_and_population_rests_on_all_forecasts_of_its_group(judged, name):
    groups, *_ = judged
    for group in groups:
        for found in (group.metrics[name], group.metrics[f"baseline_{name}"]):
            assert found.n == group.n_forecasts, group
            assert np.isfinite(found.value) == (group.n_forecasts > 0), group
            assert np.isnan(found.low) or found.low <= found.value <= found.high


def test_the_population_forecast_is_the_same_for_all_patients_of_an_hour(judged):
    """Its risk of death is close to the share that died, so it ranks nobody and its Brier score is the variance."""
    groups, _, _, stays = judged
    share = (stays["outcome"] == "died").mean()
    for group in groups[:2]:
        assert group.metrics["baseline_mortality_auroc"].value == pytest.approx(0.5, abs=0.15)
        assert group.metrics["baseline_mortality_brier"].value == pytest.approx(share * (1 - share), abs=0.05)
        assert group.metrics["mortality_brier"].value != group.metrics["baseline_mortality_brier"].value
