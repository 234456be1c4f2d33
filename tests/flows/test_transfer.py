"""A model trained on the CLIF demo, used on the real stays of the MIMIC-III demo."""

import json
import re
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from scipy.stats import spearmanr
from sqlalchemy import text
from typer.testing import CliRunner

from flows.cli import app
from flows.inspection.models import model_card
from flows.jobs.forecast import forecast
from flows.jobs.ingest import ingest
from flows.jobs.promotion import promote
from flows.jobs.start import find_start
from flows.jobs.train import read_others, read_training_set, train
from flows.jobs.transfer import measure_transfer, recalibrate
from flows.runtime.databases import open_store
from flows.runtime.settings import load_settings
from rnn_core.contracts.errors import ArtifactError, DataTooSmallError, ForecastError
from rnn_core.contracts.frames import Observations
from rnn_core.contracts.known import Known, stack
from rnn_core.evaluation.transfer import deaths, recalibrated, risks_at
from rnn_core.forecasters.artifact import read_meta
from rnn_core.forecasters.stay import forecast_stays, load_stay_forecaster
from rnn_core.series.splits import split_stays
from sql.published import canonical, registry

AT = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def both_ended(trained_template, make_template, clif_source, mimic_iii_source):
    """The trained template with all stays of both demos ended."""

    def fill(url):
        urls = {"DATABASE": url, "SOURCES__CLIF_": clif_source, "SOURCES__MIMIC_III_": mimic_iii_source}
        with pytest.MonkeyPatch.context() as patch:
            for name, where in urls.items():
                patch.setenv(f"ICU_{name}_URL", where.render_as_string(hide_password=False))
            load_settings.cache_clear()
            for source in ("clif", "mimic_iii"):
                ingest.fn(source, AT)
        load_settings.cache_clear()

    return make_template("both_ended", fill, trained_template[0])


@pytest.fixture
def two(both_ended, trained, make_database, drop_database, mimic_iii_source, monkeypatch):
    """The installation in which a model of the CLIF demo serves, with all stays of both demos ended."""
    url = make_database("both", both_ended)
    monkeypatch.setenv("ICU_DATABASE_URL", url.render_as_string(hide_password=False))
    monkeypatch.setenv("ICU_SOURCES__MIMIC_III__URL", mimic_iii_source.render_as_string(hide_password=False))
    load_settings.cache_clear()
    engine = open_store()
    yield engine
    engine.dispose()
    drop_database(url)


def serving(store):
    row = registry.serving_model(store, "clif", "stay")
    return row, load_stay_forecaster(load_settings().artifact_folder / row["artifact"])


def test_a_model_is_judged_at_home_and_elsewhere_with_what_is_lost(two):
    row, _ = serving(two)
    at_home, there = measure_transfer(row["model_id"], ["mimic_iii"], AT, hours=[24])
    assert at_home["source"] == "clif (held out)" and there["source"] == "mimic_iii"
    assert (there["hour"], there["missing"]) == (24, 0) and 80 < there["stays"] < 136 and there["deaths"] > 10
    value, low, high = map(float, re.findall(r"[\d.]+", there["auroc"]))
    assert low < value < high and 0.4 < value <= 1
    off, refitted = (float(there[name].split()[0]) for name in ("observed_expected", "observed_expected recalibrated"))
    assert abs(np.log(refitted)) < abs(np.log(off))
    shown = CliRunner().invoke(
        app, ["transfer", "mimic_iii", "--model", row["model_id"], "--hours", "24", "--as-of", "2026-03-01", "--json"]
    )
    assert [line["source"] for line in json.loads(shown.stdout)] == ["clif (held out)", "mimic_iii"]


def test_the_risk_at_an_hour_is_what_a_run_of_that_hour_would_have_forecast(two):
    """Of one stay: the risk at 24 hours, and the forecast of a run at the same clock hour that knew what was known then."""
    _, forecaster = serving(two)
    known = canonical.read_known(two, "mimic_iii", AT)
    stay, risk = risks_at(forecaster, known, 24)
    assert len(stay) > 80
    for position in (0, 20, 60):
        row = known.stays.iloc[stay[position]]
        hour = pd.Timestamp(row["intime"]).floor("h") + pd.Timedelta(hours=24)
        hour += pd.Timedelta(hours=1) if (hour - row["intime"]) < pd.Timedelta(hours=24) else pd.Timedelta(0)
        then = canonical.read_known(two, "mimic_iii", hour.tz_localize("UTC").to_pydatetime())
        told = forecast_stays(forecaster, then.take((then.stays["stay_id"] == row["stay_id"]).to_numpy())).numbers
        assert told["mortality_risk"].iloc[0] == pytest.approx(risk[position], rel=1e-4)


def test_a_recalibrated_copy_waits_for_promotion_and_then_serves_the_other_source(two, few_drivers):
    row, forecaster = serving(two)
    told = recalibrate(row["model_id"], "mimic_iii", AT)
    assert told["stage"] == "candidate" and told["patients who died, fitted to"] > 5
    fitted = load_stay_forecaster(load_settings().artifact_folder / registry.read_model(two, told["model"])["artifact"])
    known = canonical.read_known(two, "mimic_iii", AT)
    judged = known.take(~split_stays(known.stays, known.as_of).learned)
    stay, before = risks_at(forecaster, judged, 24)
    _, after = risks_at(fitted, judged, 24)
    assert spearmanr(before, after).statistic > 0.99
    died = deaths(judged, "unit")[stay]
    off, still_off = (abs(np.log(died.sum() / risk.sum())) for risk in (before, after))
    assert still_off < off, "nearer to the deaths of patients that it was not fitted to"
    done = promote(two, told["model"], None, force=False)
    assert done == {"model_id": told["model"], "stage": "provisional", "retired": None}
    with two.connect() as connection:
        middle = "select intime + (outtime - intime) / 2 from icu.stay where source = 'mimic_iii'"
        hour = connection.execute(text(middle + " order by outtime - intime desc limit 1")).scalar_one()
    assert forecast.fn("mimic_iii", hour)["stays_scored"] >= 1
    assert "AUROC" in model_card(told["model"])


def test_a_model_is_no_transfer_where_it_or_its_origin_has_learned(two):
    row, _ = serving(two)
    with pytest.raises(ForecastError, match="has learned from clif"):
        measure_transfer(row["model_id"], ["mimic_iii", "clif"], AT)
    told = recalibrate(row["model_id"], "mimic_iii", AT)
    with pytest.raises(ForecastError, match="has learned from clif, mimic_iii"):
        measure_transfer(told["model"], ["clif", "mimic_iii"], AT)


@pytest.mark.soak
def test_a_training_starts_from_a_model_of_another_source_and_says_what_that_has_learned(two):
    row, _ = serving(two)
    again = partial(train.fn, "mimic_iii", AT, epochs=1, members=2, forecaster="recurrent")
    told = registry.read_model(two, again(warm_from=row["model_id"])["model"])
    assert told["warm_from"] == row["model_id"]
    lineage = told["metrics"]["learned_from"]
    assert [(one["source"], one["members"]) for one in lineage] == [("mimic_iii", 2), ("clif", 2)]
    assert pd.Timestamp(lineage[1]["data_cutoff"], tz="UTC") == row["data_cutoff"]
    folder = load_settings().artifact_folder
    assert read_meta(folder / told["artifact"])["learned_from"] == lineage
    card = model_card(told["model_id"])
    assert f"started from those of {row['model_id']}, which learned from the source `clif` until" in card
    assert f"Started from: {row['model_id']}, except for the concepts that it never saw (" in card
    with pytest.raises(ForecastError, match="has learned from clif, mimic_iii"):
        measure_transfer(told["model_id"], ["clif", "mimic_iii"], AT)

    # The folder of its artifact starts the source that it came from, with the same folds and no earlier.
    back = partial(find_start, two, str(folder / told["artifact"]))
    assert back().learned_from == lineage
    cutoff = np.datetime64(lineage[1]["data_cutoff"])
    assert back().leak("clif", cutoff, members=2) is None and back().leak("eicu", cutoff - 1, members=5) is None
    assert "until" in back().leak("clif", cutoff - 1, members=2)
    assert "2 members, not 3" in back().leak("clif", cutoff, members=3)
    (unit,) = registry.list_models(two, "mimic_iii", "unit")
    with pytest.raises(ForecastError, match="forecasts units"):
        again(warm_from=unit["model_id"])


def test_a_start_that_fits_nothing_is_refused_with_a_sentence(two):
    row, _ = serving(two)
    for model, forecaster, sentence in (
        ("nobody", "blend", "no model 'nobody'; there are: clif-stay"),
        (row["model_id"], "trees", "all others are fitted from scratch"),
    ):
        with pytest.raises(ForecastError, match=sentence):
            train.fn("mimic_iii", AT, warm_from=model, forecaster=forecaster)
    shown = CliRunner().invoke(app, ["train", "clif", "--cold", "--warm-from", row["model_id"]])
    assert shown.exit_code == 2 and "--cold" in shown.output and "--warm-from" in shown.output


def test_other_sources_are_learned_from_as_known_at_the_cut_off_or_refused_with_a_sentence(two, caplog):
    then, _, sampling = read_training_set(two, "clif", AT)
    read = partial(read_others, two, "clif", then=then, sampling=sampling)
    found = read(["mimic_iii"], None)["mimic_iii"]
    assert len(found.stays) > 100 and found.as_of == then.as_of and set(found.stays["source"]) == {"mimic_iii"}
    at = pd.Timestamp(then.as_of, tz="UTC").to_pydatetime()
    in_memory = stack([canonical.read_known(two, name, at) for name in ("clif", "mimic_iii")])
    half = slice(len(then.stays) // 2, len(then.stays) + 40)
    (ours,) = then.beside([found]).map(lambda known: known, [half], "reading")
    (theirs,) = in_memory.map(lambda known: known, [half], "reading")
    assert_frame_equal(ours.stays, theirs.stays)
    for column in fields(Observations):
        np.testing.assert_array_equal(*(getattr(one.observations, column.name) for one in (ours, theirs)), strict=True)
    elsewhere = replace(then, stays=then.stays.assign(ends_at="hospital"))
    for name, given, sentence in (
        ("clif", then, "is learned from anyway"),
        ("eicu", then, "No stay of eicu is known at the cut-off"),
        ("mimic_iii", elsewhere, "end at the unit and those of clif at the hospital.*--warm-from"),
    ):
        with pytest.raises(ForecastError, match=sentence):
            read([name], None, then=given)
    with pytest.raises(ForecastError, match="Only recurrent networks learn from other sources"):
        train.fn("clif", AT, forecaster="trees", learn_with=["mimic_iii"])
    # A training that names none goes on as the serving model was made, as far as it can.
    serving_with = {"metrics": {"learn_with": ["eicu", "mimic_iii"]}}
    assert list(read(None, serving_with)) == ["mimic_iii"] and "eicu is left out: No stay" in caplog.text
    assert read([], serving_with) == read(None, None) == {}


@pytest.mark.soak
def test_a_model_that_learned_with_another_source_says_so_and_so_does_its_successor(two):
    again = partial(train.fn, "clif", AT, epochs=1, members=2)
    for told in (again(learn_with=["mimic_iii"]), again()):
        assert told["learned with"] == "mimic_iii"
        row = registry.read_model(two, told["model"])
        assert {one["source"] for one in row["metrics"]["learned_from"]} == {"clif", "mimic_iii"}
        assert "also learned from stays of mimic_iii" in model_card(told["model"])
        assert find_start(two, told["model"]).leak("mimic_iii", np.datetime64("2030-01-01"), members=2)
    assert "learned with" not in again(learn_with=[])


def test_a_death_after_the_hospital_is_none_and_an_open_hospital_stay_is_not_told(two):
    known = canonical.read_known(two, "mimic_iii", AT)
    left = known.stays["hospital_outtime"]
    alive = np.flatnonzero(deaths(known, "hospital") == 0)
    stays = known.stays.copy()
    stays.loc[alive[0], "died_at"] = left[alive[0]] + pd.Timedelta(days=300)
    stays.loc[alive[1], "hospital_outtime"] = pd.NaT
    found = deaths(Known(stays, known.observations, known.as_of), "hospital")
    assert found[alive[0]] == 0 and np.isnan(found[alive[1]])
    untold = known.stays.assign(hospital_outtime=pd.NaT)
    with pytest.raises(ArtifactError, match="no stay here has the end of its hospital stay"):
        deaths(Known(untold, known.observations, known.as_of), "hospital")


def test_a_model_of_unit_stays_is_not_used_where_stays_end_with_the_hospital(two):
    _, forecaster = serving(two)
    known = canonical.read_known(two, "mimic_iii", AT)
    hospital = Known(known.stays.assign(ends_at="hospital"), known.observations, known.as_of)
    with pytest.raises(ArtifactError, match="have deaths in hospital only"):
        deaths(hospital, "unit")
    with pytest.raises(ArtifactError, match="it cannot serve here"):
        recalibrated(forecaster, hospital, (24,))


def test_a_model_of_hospital_stays_is_asked_for_deaths_in_hospital(two):
    known = canonical.read_known(two, "mimic_iii", AT)
    in_unit, in_hospital = deaths(known, "unit"), deaths(known, "hospital")
    assert np.nansum(in_unit) == 29 and np.nansum(in_hospital) == 46


def test_nothing_is_fitted_to_stays_that_all_ended_alike(two):
    _, forecaster = serving(two)
    known = canonical.read_known(two, "mimic_iii", AT)
    alive = known.take((known.stays["outcome"] == "alive").to_numpy())
    with pytest.raises(DataTooSmallError, match="stays that ended with a death"):
        recalibrated(forecaster, alive, (24,))
