import numpy as np
import pytest

from rnn_core.contracts.config import HORIZON_EDGES
from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.frames import ALIVE, DIED
from rnn_core.contracts.thresholds import RISK_BANDS
from rnn_core.statistics.distribution import FORECAST_COLUMNS, Distribution, risk_band

EDGES = np.array(HORIZON_EDGES, dtype=float)
SHORT = (0.0, 10.0, 30.0)

# Over SHORT: 0.2 leave in [0, 10), 0.5 in [10, 30), 0.3 later; 0.3 die in all.
CELLS = np.array([[[0.1, 0.1], [0.4, 0.1], [0.2, 0.1]]])
HAND = Distribution(CELLS, SHORT)


def random_masses(n: int, seed: int = 0, bins: int = len(EDGES)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    masses = rng.dirichlet(np.full(2 * bins, 0.3), n).reshape(n, bins, 2)
    masses[: n // 4, rng.integers(0, bins, 5)] = 0
    return masses / masses.sum(axis=(1, 2), keepdims=True)


def random_forecast(n: int, seed: int = 0) -> Distribution:
    return Distribution(random_masses(n, seed), EDGES)


def test_every_number_of_a_hand_made_forecast_is_right():
    assert HAND.mortality_risk() == pytest.approx([0.3])
    assert HAND.survival(5.0) == pytest.approx([0.9])
    assert HAND.survival(20.0) == pytest.approx([0.55])
    assert HAND.cumulative_incidence(20.0, DIED) == pytest.approx([0.15])
    assert HAND.discharge_probability(30.0) == pytest.approx([0.5])
    assert HAND.quantile(0.1) == pytest.approx([5.0])
    assert HAND.quantile(0.45) == pytest.approx([20.0])
    assert HAND.expected_remaining_hours() == pytest.approx([10 * 0.9 + 20 * 0.55])
    assert HAND.prolonged_stay_risk([2.0], limit_hours=22.0) == pytest.approx([0.55])


def test_a_quantile_in_the_open_bin_is_the_last_edge():
    assert HAND.quantile(0.71) == pytest.approx([30.0])
    assert HAND.quantile(0.69) < 30.0


@pytest.mark.parametrize("q", [0.0, 1.0, 1.5, np.nan])
def test_a_quantile_that_is_none_is_refused(q):
    with pytest.raises(ContractError, match="between 0 and 1"):
        HAND.quantile(q)


def test_the_quantile_inverts_the_survival_curve():
    forecast = random_forecast(500)
    for q in (0.05, 0.1, 0.5, 0.9):
        hours = forecast.quantile(q)
        inside = hours < EDGES[-1]
        assert inside.sum() > 100
        assert forecast.survival(hours)[inside] == pytest.approx(1 - q)
        assert (forecast.survival(hours)[~inside] >= 1 - q - 1e-12).all()


def test_survival_never_rises_and_all_that_left_has_a_cause():
    forecast = random_forecast(200)
    previous = np.ones(200)
    for hours in np.linspace(0, EDGES[-1], 97):
        survival = forecast.survival(hours)
        assert (survival <= previous + 1e-12).all()
        left = sum(forecast.cumulative_incidence(hours, cause) for cause in (ALIVE, DIED))
        assert survival + left == pytest.approx(1.0)
        previous = survival


def test_hours_may_differ_by_row():
    forecast = random_forecast(50)
    hours = np.linspace(0, EDGES[-1], 50)
    one_by_one = [forecast.take(np.array([i])).survival(hours[i])[0] for i in range(50)]
    assert forecast.survival(hours) == pytest.approx(one_by_one)


def test_linear_interpolation_agrees_with_numpy():
    masses = random_masses(40)
    forecast = Distribution(masses, EDGES)
    at_edges = np.concatenate([np.zeros((40, 1)), masses.sum(axis=2).cumsum(axis=1)[:, :-1]], axis=1)
    hours = np.random.default_rng(1).uniform(0, EDGES[-1], 40)
    expected = [1 - np.interp(h, EDGES, cdf) for h, cdf in zip(hours, at_edges, strict=True)]
    assert forecast.survival(hours) == pytest.approx(expected)


def test_the_restricted_mean_is_the_area_under_the_survival_curve():
    forecast = random_forecast(10)
    hours = np.linspace(0, EDGES[-1], 20_001)
    curve = np.array([forecast.survival(h) for h in hours])
    assert forecast.expected_remaining_hours() == pytest.approx(np.trapezoid(curve, hours, axis=0), rel=1e-4)


@pytest.mark.parametrize("hours", [-1.0, EDGES[-1] + 1, np.nan])
def test_hours_outside_the_edges_are_refused(hours):
    with pytest.raises(ContractError, match="0 to 1440 hours"):
        random_forecast(3).survival(hours)


def test_a_stay_over_the_limit_is_prolonged_for_certain_and_one_on_it_nearly_so():
    risk = HAND.take(np.zeros(3, int)).prolonged_stay_risk([22.1, 22.0, 12.0], limit_hours=22.0)
    assert risk == pytest.approx([1.0, 1.0, 0.8])


def test_the_read_columns_are_those_of_the_table_and_never_contradict_each_other():
    elapsed = np.random.default_rng(2).uniform(0, 400, 2000)
    columns = Distribution(random_masses(2000).astype(np.float32), EDGES).numbers(elapsed)
    assert tuple(columns.columns) == FORECAST_COLUMNS
    probabilities = columns.filter(regex="risk|prob").to_numpy()
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert (columns["discharge_24h_prob"] <= columns["discharge_48h_prob"]).all()
    assert (columns["discharge_48h_prob"] <= columns["discharge_72h_prob"]).all()
    assert (columns["discharge_72h_prob"] + columns["mortality_risk"] <= 1 + 1e-12).all()
    assert (columns["remaining_los_p10_hours"] <= columns["remaining_los_p50_hours"]).all()
    assert (columns["remaining_los_p50_hours"] <= columns["remaining_los_p90_hours"]).all()
    assert (columns["prolonged_stay_risk"][elapsed > 168] == 1).all()


def test_no_forecast_reads_as_no_row():
    assert Distribution(np.empty((0, len(EDGES), 2)), EDGES).numbers(np.empty(0)).shape == (0, len(FORECAST_COLUMNS))


@pytest.mark.parametrize(
    "break_it",
    [
        lambda m: m * 1.01,
        lambda m: np.where(np.arange(3)[:, None] == 0, np.nan, m),
        lambda m: m + np.array([[0.3, -0.3], [0, 0], [0, 0]]),
        lambda m: m[:, :2],
        lambda m: m[0],
    ],
    ids=["sum", "nan", "negative", "bins", "dimensions"],
)
def test_broken_masses_are_refused(break_it):
    Distribution(CELLS, SHORT)
    with pytest.raises(ContractError):
        Distribution(break_it(CELLS), SHORT)


def test_single_precision_is_accepted_and_brought_to_sum_one():
    masses = random_masses(1000).astype(np.float32)
    assert np.abs(Distribution(masses, EDGES).masses.sum(axis=(1, 2)) - 1).max() < 1e-14


@pytest.mark.parametrize("edges", [(1.0, 2.0, 3.0), (0.0, 2.0, 2.0), (0.0, 2.0, np.inf), (0.0, np.nan, 3.0)])
def test_edges_that_do_not_rise_from_zero_are_refused(edges):
    with pytest.raises(ContractError, match="edges"):
        Distribution(CELLS, edges)


def test_rescaled_deaths_have_the_new_risk_and_the_old_times():
    masses = random_masses(300)
    new = np.random.default_rng(3).uniform(0, 1, 300)
    rescaled = Distribution(masses, EDGES).with_mortality_risk(new)
    assert rescaled.masses.sum(axis=(1, 2)) == pytest.approx(1.0)
    assert rescaled.mortality_risk() == pytest.approx(new)
    for cause in (ALIVE, DIED):
        before, after = masses[:, :, cause], rescaled.masses[:, :, cause]
        assert after / after.sum(axis=1, keepdims=True) == pytest.approx(before / before.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("old", [0.0, 1.0])
@pytest.mark.parametrize("new", [0.0, 0.3, 1.0])
def test_certain_death_and_certain_survival_can_be_rescaled(old, new):
    """A cause without any mass takes its times from the other."""
    times = np.array([0.2, 0.5, 0.3])
    masses = np.stack([times * (1 - old), times * old], axis=1)[None]
    rescaled = Distribution(masses, SHORT).with_mortality_risk(new).masses
    assert rescaled == pytest.approx(np.stack([times * (1 - new), times * new], axis=1)[None])


@pytest.mark.parametrize("risk", [-0.1, 1.1, np.nan])
def test_a_risk_that_is_no_probability_is_refused_for_rescaling(risk):
    with pytest.raises(ContractError, match="between 0 and 1"):
        HAND.with_mortality_risk(risk)


def test_a_risk_on_a_threshold_belongs_to_the_band_above():
    assert risk_band([0.0, 0.0499, 0.05, 0.15, 0.3999, 0.40, 1.0]).tolist() == [
        "low",
        "low",
        "medium",
        "high",
        "high",
        "very high",
        "very high",
    ]
    assert set(risk_band(np.linspace(0, 1, 101))) == set(RISK_BANDS)


def test_an_abstained_row_gets_no_band():
    """Without this NaN would be sorted behind all thresholds, as "very high"."""
    with pytest.raises(ContractError, match="abstained"):
        risk_band([0.1, np.nan])
    with pytest.raises(ContractError, match="thresholds"):
        risk_band([0.1], thresholds=(0.3, 0.2, 0.1))


# ---- the remaining stay


def positive_forecast(n: int) -> Distribution:
    """Every bin has some mass, so that a stay may last beyond any hour."""
    return Distribution(0.9 * random_masses(n) + 0.1 / (2 * len(EDGES)), EDGES)


@pytest.mark.parametrize("hours", [0.0, 3.0, 6.0, 100.5, 168.0, 1079.0, 1200.0])
def test_what_remains_after_some_hours_is_the_forecast_given_that_the_stay_lasts_so_long(hours):
    forecast = positive_forecast(100)
    later = forecast.after(hours)
    assert later.masses.sum(axis=(1, 2)) == pytest.approx(1.0)
    lasting = forecast.survival(hours)
    for more in np.linspace(0, later.edges[-1], 23):
        assert later.survival(more) == pytest.approx(forecast.survival(hours + more) / lasting)
        for cause in (ALIVE, DIED):
            within = forecast.cumulative_incidence(hours + more, cause) - forecast.cumulative_incidence(hours, cause)
            assert later.cumulative_incidence(more, cause) == pytest.approx(within / lasting)


def test_what_remains_after_no_time_is_the_forecast_itself():
    forecast = positive_forecast(20)
    later = forecast.after(0.0)
    assert np.array_equal(later.edges, forecast.edges)
    assert later.masses == pytest.approx(forecast.masses)


def test_what_remains_does_not_depend_on_the_stops_on_the_way():
    forecast = positive_forecast(20)
    once, twice = forecast.after(107.0), forecast.after(31.0).after(76.0)
    assert twice.edges == pytest.approx(once.edges)
    assert twice.masses == pytest.approx(once.masses)


def test_the_risk_of_death_before_and_after_an_hour_adds_up():
    forecast = positive_forecast(50)
    for hours in (6.0, 50.0, 700.0):
        died, lasting = forecast.cumulative_incidence(hours, DIED), forecast.survival(hours)
        assert died + lasting * forecast.after(hours).mortality_risk() == pytest.approx(forecast.mortality_risk())


def test_the_remaining_stay_of_a_hand_made_forecast_is_right():
    later = HAND.after(20.0)
    assert later.edges.tolist() == [0.0, 10.0]
    assert later.masses == pytest.approx(np.array([[[0.2, 0.05], [0.2, 0.1]]]) / 0.55)


@pytest.mark.parametrize("hours", [-1.0, 30.0, 40.0, np.nan])
def test_a_remaining_stay_from_outside_the_edges_is_refused(hours):
    with pytest.raises(ContractError, match="less than 30 hours"):
        HAND.after(hours)


def test_a_stay_that_has_ended_for_certain_has_no_remaining_stay():
    ended = Distribution([[[0.5, 0.5], [0, 0], [0, 0]], [[0.5, 0], [0, 0], [0, 0.5]]], SHORT)
    assert ended.after(5.0).survival(5.0) == pytest.approx([0, 2 / 3])
    with pytest.raises(ContractError, match="1 of 2 stays"):
        ended.after(10.0)


# ---- rows


def test_rows_are_taken_put_together_and_replaced():
    forecast = random_forecast(6)
    odd = np.arange(6) % 2 == 1
    both = Distribution.concatenate([forecast.take(odd), forecast.take(~odd)])
    assert len(both) == 6 and np.array_equal(both.masses, forecast.masses[[1, 3, 5, 0, 2, 4]])
    replaced = forecast.with_rows(odd, forecast.take(~odd))
    assert np.array_equal(replaced.masses, forecast.masses[[0, 0, 2, 2, 4, 4]])
    assert np.array_equal(forecast.masses, random_forecast(6).masses)


def test_forecasts_over_different_edges_are_not_put_together():
    with pytest.raises(ContractError, match="different horizon edges"):
        Distribution.concatenate([HAND, Distribution(CELLS, (0.0, 10.0, 31.0))])
