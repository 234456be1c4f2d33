"""Drivers: each contribution is the difference between two forecasts that were really made."""

from dataclasses import replace

import numpy as np
import pytest
from builders import at, observed, random_observations, random_stays, small_config
from scipy.special import logit

from rnn_core.contracts.concepts import BY_NAME, INDEX
from rnn_core.contracts.known import Known
from rnn_core.forecasters.drivers import COLUMNS, N_DRIVERS, explain_stays
from rnn_core.forecasters.fit_stay import fit_forecaster
from rnn_core.forecasters.stay import StayForecaster, forecast_stays

NAMES = ("heart_rate", "lactate", "sodium", "creatinine", "map_invasive", "platelets", "ph_arterial")


@pytest.fixture(scope="module")
def known() -> Known:
    rng = np.random.default_rng(7)
    stays = random_stays(rng, 40).assign(ends_at="unit", intime=at(0.0), unit_type="medical")
    seen = random_observations(rng, stays, 4000, NAMES)
    never = np.datetime64("NaT", "us")
    return Known(stays.assign(outtime=never, outcome=None), seen, at(20))


@pytest.fixture(scope="module")
def forecaster(known) -> StayForecaster:
    """A blend, barely trained, with weights loud enough for every concept to matter."""
    rng = np.random.default_rng(8)
    stays = random_stays(rng, 80).assign(ends_at="unit", intime=at(0.0), unit_type="medical")
    learned = Known(stays, random_observations(rng, stays, 6000, NAMES), at(120))
    fitted, _ = fit_forecaster(learned, np.ones(80, bool), replace(small_config(epochs=1), forecaster="blend"))
    for network in fitted.model.parts[0].networks.plain:
        kernel = network.weights["head/kernel"]
        kernel += np.random.default_rng(9).standard_normal(kernel.shape, np.float32) * 0.1
    return fitted


@pytest.fixture(scope="module")
def risk(forecaster, known) -> np.ndarray:
    return forecast_stays(forecaster, known).numbers["mortality_risk"].to_numpy()


@pytest.fixture(scope="module")
def drivers(forecaster, known, risk):
    return explain_stays(forecaster, known, risk)


def without(known: Known, concept: str) -> Known:
    seen = known.observations
    return replace(known, observations=seen.take(seen.concept != INDEX[concept]))


def test_a_contribution_is_what_the_published_risk_loses_without_the_concept(forecaster, known, risk, drivers):
    ids = known.stays["stay_id"].to_list()
    of_concepts = drivers[drivers["driver"].isin(NAMES)]
    assert len(of_concepts) > 20
    again = {
        name: forecast_stays(forecaster, without(known, name)).numbers["mortality_risk"].to_numpy() for name in NAMES
    }
    for row in of_concepts.itertuples():
        stay = ids.index(row.stay_id)
        assert row.contribution == pytest.approx(logit(risk[stay]) - logit(again[row.driver][stay]), abs=1e-5)
        assert row.direction == ("raises" if row.contribution > 0 else "lowers")


def test_trees_alone_have_drivers_too(forecaster, known):
    trees = replace(forecaster, model=forecaster.model.parts[1])
    risk, again = (
        forecast_stays(trees, some).numbers["mortality_risk"].to_numpy() for some in (known, without(known, "lactate"))
    )
    found = explain_stays(trees, known, risk)
    of_lactate = found[found["driver"] == "lactate"].set_index("stay_id")["contribution"]
    assert len(of_lactate) > 3 and len(found) > 40
    expected = (logit(risk) - logit(again))[known.stays.set_index("stay_id").index.get_indexer(of_lactate.index)]
    np.testing.assert_allclose(of_lactate, expected, atol=1e-5)


def test_each_scored_stay_has_its_strongest_drivers_in_order(known, risk, drivers):
    assert list(drivers.columns) == list(COLUMNS)
    assert set(drivers["stay_id"]) == set(known.stays["stay_id"][~np.isnan(risk)])
    for _, rows in drivers.groupby("stay_id"):
        assert rows["rank"].to_list() == list(range(1, len(rows) + 1)) and len(rows) <= N_DRIVERS
        assert (rows["contribution"].abs().diff().dropna() <= 0).all()


def test_the_last_value_is_the_newest_known_at_the_prediction_time(known, drivers):
    row = drivers[drivers["driver"].isin(NAMES)].iloc[0]
    stay = known.stays["stay_id"].to_list().index(row["stay_id"])
    seen = known.observations.known_at(known.as_of)
    mine = np.flatnonzero((seen.stay == stay) & (seen.concept == INDEX[row["driver"]]))
    assert row["last_value"] == seen.value[mine[-1]] and row["last_observed_at"] == seen.observed_at[mine[-1]]
    assert row["value_unit"] == BY_NAME[row["driver"]].unit
    ages = drivers[drivers["driver"] == "age_years"]
    assert ages["last_value"].isin(known.stays["age_years"]).all() and ages["last_observed_at"].isna().all()


def test_a_concept_that_a_stay_does_not_have_is_no_driver_of_it(forecaster, known, risk):
    seen = known.observations
    keep = (seen.stay != 0) | (seen.concept != INDEX["lactate"])
    part = replace(known, observations=seen.take(keep))
    found = explain_stays(forecaster, part, forecast_stays(forecaster, part).numbers["mortality_risk"].to_numpy())
    first = known.stays["stay_id"][0]
    assert "lactate" not in set(found.loc[found["stay_id"] == first, "driver"])
    assert "lactate" in set(found["driver"])


def test_rows_of_later_change_no_driver(forecaster, known, risk, drivers):
    cut = replace(known, observations=known.observations.known_at(known.as_of))
    assert len(cut.observations) < len(known.observations)
    assert explain_stays(forecaster, cut, risk).equals(drivers)


def test_without_its_newest_data_a_stay_is_forecast_at_the_same_hour(forecaster, known):
    """Laboratory values of the first hours, and heart rate alone since: what is left without it is long stale."""
    rows = [(0, "heart_rate", float(hour), float(hour), 80.0) for hour in range(60)]
    rows += [(0, name, float(hour), float(hour), 2.0) for name in ("lactate", "creatinine") for hour in range(8)]
    part = Known(known.stays[:1].reset_index(drop=True), observed(*rows), at(60))
    risk = forecast_stays(forecaster, part).numbers["mortality_risk"].to_numpy()
    found = explain_stays(forecaster, part, risk).set_index("driver")
    patient = replace(forecaster.config.window, stale_hours=100.0)
    again = forecast_stays(
        replace(forecaster, config=replace(forecaster.config, window=patient)), without(part, "heart_rate")
    ).numbers
    expected = logit(risk[0]) - logit(again["mortality_risk"][0])
    assert found.loc["heart_rate", "contribution"] == pytest.approx(expected, abs=1e-4)


def test_of_many_stays_those_most_at_risk_are_explained(forecaster, known, risk):
    found = explain_stays(forecaster, known, risk, limit=3)
    highest = np.argsort(-np.nan_to_num(risk))[:3]
    assert set(found["stay_id"]) == set(known.stays["stay_id"].iloc[highest])


def test_where_nothing_was_scored_nothing_is_explained(forecaster, known):
    found = explain_stays(forecaster, known, np.full(len(known.stays), np.nan))
    assert len(found) == 0 and list(found.columns) == list(COLUMNS)
