"""A source whose stays all end alike, share one patient or begin at once: what is served, and what names the cause."""

import shutil
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import text

from flows.inspection.doctor import examine
from flows.inspection.explain import explain_forecast
from flows.inspection.models import model_card
from flows.inspection.reproduce import reproduce
from flows.inspection.source_check import check
from flows.jobs.evaluate import evaluate
from flows.jobs.forecast import forecast
from flows.jobs.ingest import ingest
from flows.jobs.train import NO_RISK, train
from flows.jobs.transfer import recalibrate
from flows.runtime.databases import open_store
from flows.runtime.settings import load_settings
from rnn_core.contracts.errors import DataTooSmallError, ForecastError
from rnn_core.forecasters.stay import load_stay_forecaster, predict
from sql.published import canonical, registry
from sql.store.engine import open_engine

AT = datetime(2026, 1, 19, tzinfo=UTC)
LATER = AT + timedelta(days=14)
NOBODY_DIED = "update hospitalization set discharge_category = 'Home' where lower(discharge_category) = 'expired'"
EVERYBODY_DIED = """
update hospitalization h set discharge_category = 'Expired', discharge_dttm = last.out_dttm
from (
    select hospitalization_id, max(out_dttm) as out_dttm from adt where location_category = 'icu' group by 1
) last
where last.hospitalization_id = h.hospitalization_id
"""
ONE_PATIENT = "update hospitalization set patient_id = (select min(patient_id) from hospitalization)"
ONE_BEGIN = "update adt set in_dttm = (select min(in_dttm) from adt) where location_category = 'icu'"
ON_THE_WHOLE = "concat(unit, month, age_group, sex, stay_hours) = 'allallallallall'"


def read(engine, query: str) -> pd.DataFrame:
    with engine.connect() as connection:
        return pd.read_sql_query(text(query), connection)


@pytest.fixture(scope="module")
def make_source(make_database, clif_template):
    """A function that copies the CLIF demo, changes it, and returns its URL."""

    def make(change: str) -> str:
        url = make_database("clif", clif_template)
        engine = open_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql(change)
        engine.dispose()
        return url.render_as_string(hide_password=False)

    return make


def read_from(source: str, monkeypatch) -> None:
    monkeypatch.setenv("ICU_SOURCES__CLIF__URL", source)
    load_settings.cache_clear()


@pytest.fixture(scope="module")
def without_deaths(make_source, make_template, migrated_template, tmp_path_factory):
    """URL of a source in which nobody died, and a database and a home in which trees were trained on it."""
    source, home = make_source(NOBODY_DIED), tmp_path_factory.mktemp("deathless")

    def fill(url) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ICU_HOME", str(home))
            patch.setenv("ICU_DATABASE_URL", url.render_as_string(hide_password=False))
            read_from(source, patch)
            ingest.fn("clif", AT)
            train.fn("clif", AT, epochs=5, members=2, forecaster="trees")
            open_store().dispose()
        load_settings.cache_clear()

    return source, make_template(f"deathless_{home.name}", fill, migrated_template), home


@pytest.fixture
def deathless(without_deaths, make_database, tmp_path, monkeypatch):
    """An installation of its own with a model that never saw a death."""
    source, template, home = without_deaths
    shutil.copytree(home / "artifacts", tmp_path / "artifacts")
    monkeypatch.setenv("ICU_HOME", str(tmp_path))
    monkeypatch.setenv("ICU_DATABASE_URL", make_database("deathless", template).render_as_string(hide_password=False))
    read_from(source, monkeypatch)
    engine = open_store()
    yield engine
    engine.dispose()
    load_settings.cache_clear()


def check_that_only_the_length_of_stay_is_published(store) -> None:
    current = read(store, "select * from forecast.current_risk")
    scored = current[current["status"] == "scored"]
    assert len(scored) > 10 and set(scored["status_reason"]) == {"outcome_not_learned"}
    assert current[["mortality_risk", "risk_band", "risk_change"]].isna().all(axis=None)
    times = ["remaining_los_p10_hours", "remaining_los_p50_hours", "remaining_los_p90_hours"]
    assert scored[[*times, "prolonged_stay_risk"]].notna().all(axis=None)
    assert scored["discharge_24h_prob"].between(0.01, 1).all()
    assert (scored["discharge_24h_prob"] <= scored["discharge_72h_prob"]).all()
    assert read(store, "select * from forecast.current_driver").empty
    census = read(store, "select * from forecast.unit_census where n_patients > 0")
    assert census[["expected_deaths", "n_high_risk"]].isna().all(axis=None)
    assert census["expected_discharges_24h"].sum() == pytest.approx(scored["discharge_24h_prob"].sum())


def test_where_nobody_died_the_length_of_stay_is_published_without_a_risk_of_death(deathless):
    forecast.fn("clif", AT)
    check_that_only_the_length_of_stay_is_published(deathless)


def test_remaining_stays_are_those_of_the_whole_distribution(deathless):
    forecast.fn("clif", AT)
    published = read(deathless, "select * from forecast.current_risk where status = 'scored'").set_index("stay_id")
    serving = registry.serving_model(deathless, "clif", "stay")
    forecaster = load_stay_forecaster(load_settings().artifact_folder / serving["artifact"])
    known = canonical.read_known(deathless, "clif", AT, only_open=True)
    stay, _ = predict(forecaster, known)
    both_causes = type(forecaster)(**{**vars(forecaster), "forecasts_death": True})
    _, whole = predict(both_causes, forecaster.reads(known))
    expected = pd.Series(whole.quantile(0.5), index=known.stays["stay_id"].to_numpy()[stay])
    np.testing.assert_allclose(published["remaining_los_p50_hours"], expected[published.index], rtol=1e-9)


def test_training_doctor_and_source_check_say_that_the_outcome_may_not_be_mapped(deathless):
    (model,) = registry.list_models(deathless, "clif", "stay")
    assert model["stage"] == "provisional" and "length of stay alone" in model["stage_reason"]
    doubt = "None of the 52 finished stays died: `outcome` in stays.sql may not be mapped."
    found = {finding.what: finding for finding in examine(load_settings())}
    assert found["outcome clif"].found.startswith(doubt)
    assert "risk of death not forecast" in found["model clif"].found and found["model clif"].state == "note"
    assert any(fault.startswith(doubt) for fault in check("clif", AT).faults)
    card = model_card(model["model_id"])
    assert "No risk of death: the stays learned from all ended alike." in card and "Risk bands" not in card


def test_training_reports_that_no_risk_of_death_is_forecast_and_a_worse_length_of_stay_does_not_serve(deathless):
    serving = registry.serving_model(deathless, "clif", "stay")["model_id"]
    counts = train.fn("clif", AT, epochs=1, members=2, forecaster="trees")
    assert counts["stage"] == "challenger" and "population given the elapsed hours: CRPS" in counts["reason"]
    assert registry.serving_model(deathless, "clif", "stay")["model_id"] == serving
    assert counts["risk of death"] == NO_RISK and "`outcome` in stays.sql" in NO_RISK
    assert counts["mortality_auroc"] == counts["mortality_brier"] == "not measurable on these stays"
    assert counts["los_mae_days"] != "not measurable on these stays"


def test_a_forecast_without_a_risk_is_evaluated_by_its_times_and_explained_by_nothing(deathless):
    run = forecast.fn("clif", AT)["run"]
    ingest.fn("clif", LATER)
    assert evaluate.fn("clif", LATER)["forecasts paired"] > 10
    scores = read(deathless, f"select metric, n, value from forecast.scorecard where {ON_THE_WHOLE}").set_index(
        "metric"
    )
    assert (scores.loc["mortality_brier", "n"], scores.loc["mortality_observed_expected", "n"]) == (0, 0)
    assert scores.loc["los_mae_days", "n"] > 10 and scores.loc["discharge_24h_brier", "value"] < 0.5
    again = reproduce(run)
    assert again["rows equal"] == again["rows published"] > 10
    stay = read(deathless, "select stay_id from forecast.stay_forecast where status = 'scored'")["stay_id"][0]
    with pytest.raises(ForecastError, match="no risk of death"):
        explain_forecast(stay, AT, "clif")
    (model,) = registry.list_models(deathless, "clif", "stay")
    with pytest.raises(ForecastError, match="forecasts no risk of death"):
        recalibrate(model["model_id"], "clif", LATER)


def test_once_the_outcome_is_mapped_the_next_training_serves_a_risk_and_a_later_loss_of_it_changes_nothing(
    deathless,
):
    with deathless.begin() as connection:
        mapped = "update icu.stay_version set outcome = 'died' where outcome = 'alive' and hashtext(patient_id) % 3 = 0"
        connection.execute(text(mapped))
    counts = train.fn("clif", AT, epochs=5, members=2, forecaster="trees")
    assert counts["stage"] == "provisional" and "risk of death" not in counts
    forecast.fn("clif", AT)
    assert read(deathless, "select * from forecast.current_risk")["mortality_risk"].notna().sum() > 10
    with deathless.begin() as connection:
        connection.execute(text("update icu.stay_version set outcome = 'alive' where outcome = 'died'"))
    lost = train.fn("clif", AT, epochs=5, members=2, forecaster="trees")
    assert lost["stage"] == "candidate" and "ended alike" in lost["reason"]
    assert registry.serving_model(deathless, "clif", "stay")["model_id"] == counts["model"]


@pytest.mark.soak
def test_where_everybody_died_networks_too_publish_the_length_of_stay_alone(installation, make_source, monkeypatch):
    read_from(make_source(EVERYBODY_DIED), monkeypatch)
    ingest.fn("clif", AT)
    outcomes = read(installation, "select outcome, count(*) as n from icu.stay where outcome is not null group by 1")
    died = int(outcomes.loc[outcomes["outcome"] == "died", "n"].sum())
    with installation.begin() as connection:
        # A stay that another one of the same hospitalization followed ended alive.
        connection.execute(text("update icu.stay_version set outcome = 'died' where outcome is not null"))
    assert died > 20
    train.fn("clif", AT, epochs=1, members=2, forecaster="recurrent")
    forecast.fn("clif", AT)
    check_that_only_the_length_of_stay_is_published(installation)
    found = {finding.what: finding.found for finding in examine(load_settings())}
    assert found["outcome clif"].startswith("All of the ") and "may not be mapped" in found["outcome clif"]


@pytest.mark.parametrize(
    ("change", "column", "cause"),
    [
        (ONE_PATIENT, "patient_id", "Only 1 distinct patient_id among 52 finished stays"),
        pytest.param(
            *(ONE_BEGIN, "intime", r"Only 1 distinct intime \(to the minute\) among 50 finished stays"),
            marks=pytest.mark.soak,
        ),
    ],
)
def test_one_patient_or_one_begin_for_all_is_named_as_the_cause(
    installation, make_source, monkeypatch, change, column, cause
):
    read_from(make_source(change), monkeypatch)
    ingest.fn("clif", AT)
    with pytest.raises(DataTooSmallError, match=f"{cause}.*stays.sql") as refused:
        train.fn("clif", AT, epochs=1, members=2, forecaster="recurrent")
    assert "Load more" not in str(refused.value)
    found = {finding.what: finding for finding in examine(load_settings())}
    assert found[f"{column} clif"].state == "fault" and str(refused.value) == found[f"{column} clif"].found
    assert str(refused.value) in check("clif", AT).faults
