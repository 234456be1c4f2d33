"""The table of metrics: one entry is all that a metric needs, and each is best where the truth is known."""

import numpy as np
import pytest

from rnn_core.contracts.thresholds import DISCHARGE_HOURS
from rnn_core.statistics.bootstrap import Estimate
from rnn_core.statistics.distribution import FORECAST_COLUMNS
from rnn_core.statistics.length_of_stay import los_bucket
from rnn_core.statistics.metric import METRICS, gate_metrics, score

N = 4000
ONLY_WITH_MORE = {"threshold", "crps_days", "los_days", "forecast_los_days", "los_bucket", "forecast_los_bucket"}


def world(seed: int = 0) -> dict[str, np.ndarray]:
    """Stays whose risks are true and whose remaining hours scatter around a known median; every column there is."""
    rng = np.random.default_rng(seed)
    median = rng.uniform(20, 300, N)
    remaining = median * rng.lognormal(0, 0.5, N)
    ten = np.exp(0.5 * 1.2815515655446004)
    columns = {
        "remaining_hours": remaining,
        "precision_hours": np.zeros(N),
        "stayed_hours": remaining,
        "known_hours": np.full(N, np.inf),
        "ended": np.ones(N),
        "los_days": remaining / 24,
        "los_bucket": los_bucket(remaining / 24),
        "remaining_los_p10_hours": median / ten,
        "remaining_los_p50_hours": median,
        "remaining_los_p90_hours": median * ten,
        "forecast_los_days": median / 24,
        "forecast_los_bucket": los_bucket(median / 24),
        "crps_days": np.abs(remaining - median) / 24,
        "threshold": np.full(N, 0.3),
    }
    risks = {"death": "mortality_risk", "prolonged": "prolonged_stay_risk"}
    risks |= {f"discharged_{hours}h": f"discharge_{hours}h_prob" for hours in DISCHARGE_HOURS}
    for happened, forecast in risks.items():
        risk = rng.beta(1, 3, N)
        columns |= {forecast: risk, happened: (rng.random(N) < risk).astype(float)}
    return columns


def spoilt(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same stays forecast worse: risks too extreme, too high and half of them another stay's; lengths doubled and
    those of another stay."""
    made = dict(columns)
    for name in (*FORECAST_COLUMNS, "forecast_los_days"):
        shuffled = np.where(np.arange(N) % 2 == 0, columns[name], np.roll(columns[name], 7))
        made[name] = 2 * shuffled if "los" in name else np.clip(2 * shuffled, 0.001, 0.999)
    made["forecast_los_bucket"] = los_bucket(made["forecast_los_days"])
    made["crps_days"] = np.abs(made["remaining_los_p50_hours"] - columns["remaining_hours"]) / 24
    return made


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_a_metric_is_best_where_the_forecasts_are_true(metric):
    true, worse = world(), spoilt(world())
    harm = metric.harm(metric.difference(true, worse, true, None, n=100))
    assert harm.low > 0
    if metric.target is not None:
        found = metric.estimate(true, None, n=100)
        assert found.low <= metric.target <= found.high


@pytest.mark.parametrize("metric", [m for m in METRICS.values() if m.chance is not None], ids=lambda m: m.name)
def test_a_constant_forecast_reaches_what_is_said_to_be_chance(metric):
    columns = world()
    constant = {name: np.full(N, np.median(columns[name])) for name in metric.forecast}
    assert metric.estimate(columns | constant, None, n=0).value == pytest.approx(metric.chance, abs=1e-9)


def test_every_published_column_is_judged_and_no_metric_asks_for_one_that_nobody_makes():
    needed = {name for metric in METRICS.values() for name in metric.needs}
    assert set(FORECAST_COLUMNS) < needed == set(world())
    published = {name for m in METRICS.values() if not m.one_per_stay for name in m.needs}
    assert published & ONLY_WITH_MORE == {"crps_days"}


def test_names_begin_with_what_is_scored_and_labels_are_told_apart():
    prefixes = ("mortality_", "prolonged_", *(f"discharge_{hours}h_" for hours in DISCHARGE_HOURS), "los_")
    assert all(name.startswith(prefixes) and METRICS[name].name == name for name in METRICS)
    assert len({metric.label for metric in METRICS.values()}) == len(METRICS)


def test_only_metrics_whose_columns_are_there_are_scored():
    columns = world()
    found = score({name: columns[name] for name in ("death", "mortality_risk")}, METRICS.values(), n=0)
    assert set(found) == {name for name in METRICS if name.startswith("mortality_")} - {"mortality_event1"}
    assert [metric.name for metric in gate_metrics()] == [
        "mortality_auroc",
        "mortality_auprc",
        "mortality_calibration_slope",
        "los_mae_days",
    ]


def test_a_difference_from_a_best_value_counts_the_distance_on_either_side():
    columns = world()
    slope = METRICS["mortality_calibration_slope"]
    log_odds = np.log(columns["mortality_risk"] / (1 - columns["mortality_risk"]))
    steep, flat = ({"mortality_risk": 1 / (1 + np.exp(-factor * log_odds))} for factor in (2.0, 0.5))
    values = [slope.estimate(columns | part, None, n=0).value for part in (steep, flat)]
    assert values[0] < 1 < values[1]
    difference = slope.difference(columns, steep, flat, None, n=0)
    assert difference.value == pytest.approx((1 - values[0]) - (values[1] - 1)) and slope.harm(difference) is difference
    assert slope.show_difference(difference).startswith("distance of the calibration slope from 1 -")


def test_a_metric_that_should_be_high_is_harmed_by_a_loss():
    harm = METRICS["mortality_auroc"].harm(Estimate(-0.02, -0.05, 0.01, 9))
    assert (harm.value, harm.low, harm.high, harm.n) == (0.02, -0.01, 0.05, 9)
    assert METRICS["mortality_auroc"].show_difference(Estimate(0.012, 0, 0, 9)) == "AUROC of death +0.012"
