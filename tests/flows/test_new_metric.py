"""A metric is added in one place: the table of metrics. Everything that judges forecasts then knows it."""

from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from builders import at, ended_pairs, random_observations, random_stays, small_config

from flows.pages import evaluation as page
from rnn_core.contracts.config import HORIZON_EDGES, Sampling
from rnn_core.contracts.known import Known
from rnn_core.evaluation.gate import judge_challenger
from rnn_core.evaluation.holdout import Scored, score_holdout
from rnn_core.evaluation.scorecard import score_published
from rnn_core.reporting.model_card import write_card
from rnn_core.statistics.bootstrap import Estimate, Statistic, Weighted, estimates_to_json, mean_of
from rnn_core.statistics.distribution import Distribution
from rnn_core.statistics.metric import METRICS, Margin, Metric, curve_metrics, gate_metrics
from rnn_core.statistics.outcomes import Outcomes


@Statistic
def share_flagged(y: np.ndarray, risk: np.ndarray) -> Weighted:
    """Share of forecasts above one fifth."""
    return mean_of((risk > 0.2).astype(float))


@pytest.fixture(autouse=True)
def made_up(monkeypatch, thrifty) -> str:
    """A made-up metric, added to the table and nowhere else; its name."""
    needs = (("death",), ("mortality_risk",))
    metric = Metric(
        "mortality_flagged", "share flagged", share_flagged, *needs, "lower", 1, margin=Margin(0.1, 0.2), main=True
    )
    monkeypatch.setitem(METRICS, metric.name, metric)
    return metric.name


def test_a_new_metric_is_scored_for_every_group_of_published_forecasts_beside_its_baseline(made_up):
    pairs = ended_pairs()
    card = pd.DataFrame(score_published(pairs)).set_index("metric").loc[made_up]
    whole = card[(card["model_id"] == "m1") & (card["stay_hours"] == "all") & (card["unit"] == "all")]
    assert len(card) > 20 and card["baseline"].isin([0, 1]).all()
    risk = pairs.loc[pairs["model_id"] == "m1", "mortality_risk"]
    assert whole["value"].iloc[0] == pytest.approx((risk > 0.2).mean())


def test_a_new_metric_is_measured_on_the_hold_out(made_up):
    rng, config = np.random.default_rng(1), small_config()
    stays = random_stays(rng, 60)
    population = Known(stays, random_observations(rng, stays, 600), at(200))
    masses = rng.dirichlet(np.full(2 * len(HORIZON_EDGES), 0.3), 40).reshape(40, -1, 2)
    forecast = Distribution(masses, HORIZON_EDGES)
    outcomes = Outcomes(
        np.full(40, 12.0), rng.integers(0, 2, 40).astype(float), rng.uniform(1, 99, 40), groups=np.arange(40)
    )
    forecaster = SimpleNamespace(config=config, sampling=Sampling())
    found, _ = score_holdout(forecaster, Scored(forecast, outcomes, np.arange(40), np.full(40, 12)), population)
    assert found[made_up].value == pytest.approx((forecast.mortality_risk() > 0.2).mean())
    assert found[f"baseline_{made_up}"].value in (0, 1)


def test_a_new_metric_with_a_margin_is_asked_by_the_gate(made_up):
    level = {metric.name: Estimate(0.0, -0.01, 0.01, 99) for metric in gate_metrics()}
    from_curve = {metric.name: Estimate(0.0, -0.01, 0.01, 99) for metric in curve_metrics()}
    assert judge_challenger(level, {}, from_curve, 99, 99, "champion").stage == "champion"
    level[made_up] = Estimate(0.3, 0.2, 0.4, 99)
    worse = judge_challenger(level, {}, from_curve, 99, 99, "champion")
    assert worse.stage == "challenger" and "share flagged +0.3" in worse.reason


def test_a_new_metric_is_shown_on_the_page_of_an_evaluation_and_on_the_model_card(made_up, monkeypatch, tmp_path):
    monkeypatch.setenv("ICU_HOME", str(tmp_path))
    columns = ["model_id", "role", "risk_band", "n_days", "flagged_per_day", "n_stays", "n_died", "n_flagged"]
    monkeypatch.setattr(page, "read_alert_burden", lambda *_: pd.DataFrame(columns=[*columns, "sensitivity", "ppv"]))
    pairs = ended_pairs().assign(stay_id=lambda p: p["patient_id"], prediction_time=at(np.zeros(240)), risk_band="low")
    rows = score_published(pairs)
    written = page.write_page(None, "ward", datetime(2031, 6, 1, tzinfo=UTC), pairs, rows, [])
    assert ">share flagged<" in written.read_text(encoding="utf-8")

    row = {"model_id": "m", "source": "ward", "stage": "champion", "stage_reason": None, "version": 1, "artifact": "m"}
    row |= {"trained_at": None, "data_cutoff": None, "warm_from": None}
    row["metrics"] = {"metrics": estimates_to_json({made_up: Estimate(0.31, 0.2, 0.4, 1234)})}
    card = write_card({"forecaster": "stay", "config": small_config().to_json()}, row)
    assert "| share flagged | 0.3 (0.2 to 0.4) | - | 1,234 |" in card
