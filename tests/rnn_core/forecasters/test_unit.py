from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from rnn_core.contracts.config import ModelConfig, NetworkConfig, UnitConfig
from rnn_core.contracts.errors import ArtifactError, ContractError, DataTooSmallError
from rnn_core.forecasters.artifact import save_artifact
from rnn_core.forecasters.unit import fit_unit_forecaster, forecast_units, load_unit_forecaster, save_unit_forecaster

TINY = UnitConfig(window=4, units=(6, 4), first_epochs=2, second_epochs=3, learning_rate=0.01, dropout=0.1, l1=1e-4)


def swinging(n, level, seed):
    """Lengths of stay that swing slowly around a level: what follows can be told from the last ones."""
    noise = np.random.default_rng(seed).normal(0, 0.1, n)
    return level + np.sin(np.arange(n) / 3) + noise


SERIES = {"A": swinging(80, 3.0, 0), "B": swinging(60, 6.0, 1), "C": swinging(4, 4.0, 2)}


@pytest.fixture(scope="module")
def fitted():
    return fit_unit_forecaster(SERIES, TINY)


def hand_made_split(series, window):
    """Windows of each unit in the order of time: 70 % to train on, 15 % to validate, the newest 15 % to test."""
    parts = ([], [], [])
    for lengths in series.values():
        n = len(lengths) - window
        for i in range(n):
            part = 0 if i < int(n * 0.7) else 1 if i < int(n * 0.85) else 2
            parts[part].append((lengths[i : i + window], lengths[i + window]))
    return [(np.array([x for x, _ in part]), np.array([y for _, y in part])) for part in parts]


def test_the_report_counts_the_windows_of_units_that_have_any(fitted):
    (train, _), (valid, _), (test, _) = hand_made_split(SERIES, TINY.window)
    report = fitted.report
    assert (report.n_train, report.n_valid, report.n_test) == (len(train), len(valid), len(test)) == (92, 19, 21)
    assert report.units == 2


def test_all_errors_are_of_the_same_newest_windows_in_days_squared(fitted):
    (x, y), _, (test_x, test_y) = hand_made_split(SERIES, TINY.window)

    def mse(forecast):
        return np.mean((forecast - test_y) ** 2)

    report = fitted.report
    assert report.last_value_mse == pytest.approx(mse(test_x[:, -1]), rel=1e-4)
    assert report.median_mse == pytest.approx(mse(np.median(y)), rel=1e-4)
    assert report.linear_mse == pytest.approx(mse(LinearRegression().fit(x, y).predict(test_x)), rel=1e-3)
    one_by_one = [fitted.predict_next({"": window}, 1)[""][0] for window in test_x]
    assert report.test_mse == pytest.approx(mse(np.array(one_by_one)), rel=1e-4)


@pytest.mark.soak
def test_with_enough_epochs_the_network_beats_the_median():
    longer = replace(TINY, first_epochs=10, second_epochs=15, units=(12, 6), dropout=0.0)
    report = fit_unit_forecaster(SERIES, longer).report
    assert report.test_mse < 0.5 * report.median_mse


def test_the_first_phase_lowers_the_learning_rate_and_the_second_goes_on_with_it_until_it_no_longer_helps():
    fitted = fit_unit_forecaster(SERIES, replace(TINY, first_epochs=3, second_epochs=40, patience=1, learning_rate=0.2))
    assert 3 + 2 <= fitted.report.epochs < 3 + 40
    assert float(fitted.model.optimizer.learning_rate) == pytest.approx(0.2 * 10 ** (-2 / 20), rel=1e-5)


@pytest.mark.soak
def test_the_same_seed_gives_the_same_weights_and_another_does_not(fitted):
    same, other = fit_unit_forecaster(SERIES, TINY), fit_unit_forecaster(SERIES, replace(TINY, seed=1))
    for a, b in zip(fitted.model.get_weights(), same.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(fitted.model.get_weights()[0], other.model.get_weights()[0])
    assert fitted.report == same.report


def test_a_forecast_of_several_steps_feeds_each_on_into_the_next(fitted):
    first = fitted.predict_next(SERIES, 1)
    longer = {unit: np.append(SERIES[unit], first[unit]) for unit in first}
    both = fitted.predict_next(SERIES, 2)
    second = fitted.predict_next(longer, 1)
    for unit in ("A", "B"):
        np.testing.assert_allclose(both[unit], [first[unit][0], second[unit][0]], rtol=1e-5)


def test_a_unit_with_fewer_lengths_than_a_window_has_no_forecast(fitted):
    assert set(fitted.predict_next({"A": SERIES["A"], "D": np.array([1.0, 2.0])})) == {"A"}
    assert fitted.predict_next({"D": np.array([1.0, 2.0])}) == {}


def test_a_forecast_depends_on_its_own_unit_alone(fitted):
    alone, beside = fitted.predict_next({"A": SERIES["A"]}), fitted.predict_next(SERIES)
    np.testing.assert_allclose(alone["A"], beside["A"], rtol=1e-5)


def test_no_forecast_is_below_zero(fitted):
    assert fitted.predict_next({"A": np.full(4, -1e3)}, 3)["A"].min() >= 0


def test_rows_for_the_result_table_hold_the_simple_forecasts_beside(fitted):
    rows = forecast_units(replace(fitted, config=replace(TINY, horizon=2)), SERIES | {"D": np.array([1.0])})
    assert rows["unit"].tolist() == ["A", "A", "B", "B", "C", "C"] and rows["step"].tolist() == [1, 2] * 3
    of_b = rows[rows["unit"] == "B"].iloc[0]
    assert of_b["last_los_days"] == SERIES["B"][-1] and of_b["median_los_days"] == np.median(SERIES["B"])
    assert of_b["n_stays"] == 60
    assert of_b["los_days"] == pytest.approx(fitted.predict_next(SERIES, 1)["B"][0])


def test_without_any_unit_the_rows_are_empty_but_have_their_columns(fitted):
    rows = forecast_units(fitted, {})
    assert isinstance(rows, pd.DataFrame) and len(rows) == 0
    assert list(rows.columns) == ["unit", "step", "los_days", "last_los_days", "median_los_days", "n_stays"]


def test_a_saved_forecaster_comes_back_with_the_same_forecasts_and_report(fitted, tmp_path):
    loaded = load_unit_forecaster(save_unit_forecaster(tmp_path, "unit-1", fitted, {"cut_off": "2024-03-01"}))
    np.testing.assert_array_equal(loaded.predict_next(SERIES, 3)["A"], fitted.predict_next(SERIES, 3)["A"])
    assert (loaded.report, loaded.config) == (fitted.report, fitted.config)


def test_an_artifact_of_the_other_forecaster_is_refused(tmp_path):
    config = ModelConfig(network=NetworkConfig(units=(2,), n_channels=1, wide=False, horizon_edges=(0, 6)))
    path = save_artifact(tmp_path, "stay-1", lambda folder: None, config, {}, {})
    with pytest.raises(ArtifactError, match="stay forecaster"):
        load_unit_forecaster(path)


def test_dropout_and_l1_reach_the_network(fitted):
    assert [layer.rate for layer in fitted.model.layers if hasattr(layer, "rate")] == [0.1, 0.1]
    assert float(sum(fitted.model.losses)) > 0


def test_the_report_reads_as_a_sentence(fitted):
    assert "over 21 windows of 2 units: LSTM" in fitted.report.sentence()


@pytest.mark.parametrize("series", [{}, {"A": np.arange(20.0)}, {"A": np.arange(3.0)}])
def test_too_few_windows_are_refused_with_what_is_needed(series):
    with pytest.raises(DataTooSmallError, match="20 windows of 4 lengths of stay"):
        fit_unit_forecaster(series, TINY)


@pytest.mark.parametrize("lengths", [np.array([1.0, np.nan]), np.ones((2, 2))])
def test_lengths_that_are_not_finite_days_are_refused_without_their_values(lengths):
    with pytest.raises(ContractError, match="1 units have something else"):
        fit_unit_forecaster({"A": lengths}, TINY)
