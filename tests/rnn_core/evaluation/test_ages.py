"""Forecasts judged at each age of a stay: whose fit speaks of whom, and what is counted where."""

import numpy as np
import pytest
from builders import at, random_observations, random_stays, small_config

from rnn_core.contracts.config import Sampling
from rnn_core.contracts.known import Known
from rnn_core.evaluation import ages as whole_stays
from rnn_core.evaluation.ages import AGES, judge_whole_stays
from rnn_core.statistics.metric import main_metrics

FOLDS = 2


@pytest.fixture(scope="module")
def judged():
    """What was said by age, the stays that every fit learned from, and those it was judged on."""
    rng = np.random.default_rng(3)
    stays = random_stays(rng, 160, hours=90)
    stays["ends_at"] = "unit"
    known = Known(stays, random_observations(rng, stays, 8000), at(200))
    learned, told = [], []
    fit, score = whole_stays.fit_forecaster, whole_stays.score_stays
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole_stays, "fit_forecaster", lambda a, *b, **c: learned.append(a.stays) or fit(a, *b, **c))
        patch.setattr(whole_stays, "score_stays", lambda f, a: told.append(a.stays) or score(f, a))
        groups = judge_whole_stays(known, small_config(), Sampling(), FOLDS, lambda k: None)
    return groups, learned, told, stays


def test_every_stay_is_judged_once_by_a_fit_on_other_patients(judged):
    _, learned, told, stays = judged
    assert len(learned) == len(told) == FOLDS
    for one, other in zip(learned, told, strict=True):
        assert not set(one["patient_id"]) & set(other["patient_id"]) and len(one) + len(other) == len(stays)
    assert sorted(s for part in told for s in part["stay_id"]) == sorted(stays["stay_id"])


def test_a_forecast_counts_in_the_group_of_the_hours_its_stay_had_lasted(judged):
    groups, _, _, stays = judged
    assert [group.start for group in groups] == list(AGES)
    assert [group.stop for group in groups] == [*AGES[1:], np.inf]
    hours = (stays["outtime"] - stays["intime"]) / np.timedelta64(1, "h")
    for group in groups:
        reached = hours > group.start
        # Every six hours of a stay at most; a stay in its first hours has too little data to speak of.
        assert group.n_forecasts <= int(np.ceil((hours[reached].clip(upper=group.stop) - group.start) / 6).sum())
        assert group.n_patients <= reached.sum()
        assert group.n_deaths <= ((stays["outcome"] == "died") & reached).sum()
    assert groups[0].n_forecasts > groups[2].n_forecasts > 0 == groups[-1].n_forecasts


def test_the_population_stands_beside_the_forecaster_wherever_something_was_forecast(judged):
    groups, *_ = judged
    for group in groups[:2]:
        for name in (metric.name for metric in main_metrics()):
            both = [group.metrics[name], group.metrics[f"baseline_{name}"]]
            assert all(estimate.n == group.n_forecasts for estimate in both if name == "mortality_brier")
            assert not np.isnan([estimate.value for estimate in both]).any(), name
