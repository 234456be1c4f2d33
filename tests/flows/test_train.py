"""The train flow on the real CLIF demo: judged, registered, resumable, and harmless where it breaks."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from builders_census import constant_arrival_forecaster
from sqlalchemy import text

from flows.inspection.models import list_models, model_card
from flows.jobs import train as train_module
from flows.jobs.forecast import forecast
from flows.jobs.train import ArrivalCandidate, train
from flows.runtime.settings import load_settings
from rnn_core.contracts.errors import ForecastError
from rnn_core.evaluation.gate import Verdict
from sql.published import registry, runs

AT = datetime(2026, 1, 19, tzinfo=UTC)


@pytest.fixture(scope="module")
def fits():
    """What the fits of this module gave, by their data, configuration and start."""
    return {}


@pytest.fixture
def each_fit_once(fits, monkeypatch):
    """Fits of the same data from the same start give the same, so that what comes after them needs one of each."""
    fit = train_module.fit

    def fit_once(source, then, now, config, sampling, warm, others):
        start = warm and id(warm.forecaster.model.network)
        made = (source, str(then.as_of), str(now.as_of), repr(config), repr(sampling), start, *others)
        if made not in fits:
            fits[made] = fit(source, then, now, config, sampling, warm, others)
        return fits[made]

    monkeypatch.setattr(train_module, "fit", fit_once)


def models(engine) -> list[dict]:
    return registry.list_models(engine, "clif", "stay")


def test_a_model_of_few_outcomes_is_provisional_and_keeps_its_metrics_beside_the_trivial_baseline(trained):
    (model,) = models(trained)
    assert model["stage"] == "provisional" and "too few" in model["stage_reason"]
    metrics = model["metrics"]["metrics"]
    for name in ("mortality_brier", "los_mae_days", "los_interval_coverage"):
        assert metrics[name]["n"] > 0 and f"baseline_{name}" in metrics
    assert model["data_cutoff"] < AT and model["concept_hash"] and model["config"]["network"]["cell"] == "lstm"
    assert model["warm_from"] is None


def test_the_card_of_a_trained_model_tells_its_figures_and_who_was_learned_from(trained):
    (model,) = models(trained)
    card = model_card(model["model_id"])
    brier = model["metrics"]["metrics"]["mortality_brier"]
    assert (
        f"{brier['value']:.3f} ({brier['low']:.3f} to {brier['high']:.3f})" in card and "| lactate | mmol/L |" in card
    )
    assert f"learned {model['metrics']['n_stays']['learned']:,} stays" in card and "Stage **provisional**" in card
    assert "2026-01" in card.split("## Participants")[1].split("##")[0]
    with pytest.raises(ForecastError, match="There is no model nothing"):
        model_card("nothing")


def test_the_cut_off_lies_before_the_stays_that_judge(trained):
    (model,) = models(trained)
    sizes = model["metrics"]["n_stays"]
    assert sizes["learned"] > sizes["judged"] and sizes["judged"] >= sizes["newer"] > 0


@pytest.mark.usefixtures("each_fit_once")
def test_a_second_training_starts_from_the_serving_model_and_a_cold_one_says_it_did_not(trained, monkeypatch):
    first = models(trained)[0]["model_id"]
    # The demo is too short for a recurrent model of arrivals.
    of_arrivals = ArrivalCandidate(
        "clif-arrivals-1", constant_arrival_forecaster(2.0), Verdict("champion", "It is better.")
    )
    with monkeypatch.context() as patched:
        patched.setattr(train_module, "fit_arrivals", lambda *_: of_arrivals)
        counts = train.fn("clif", AT, epochs=1, members=2, forecaster="recurrent")
    serving = registry.serving_model(trained, "clif", "arrivals")
    assert (
        serving["model_id"] == counts["arrival model"] == "clif-arrivals-1" and serving["metrics"]["gain"]["low"] == 0.1
    )
    train.fn("clif", AT, epochs=1, members=2, forecaster="recurrent", warm=False)
    assert registry.serving_model(trained, "clif", "arrivals") is None, "none is better any more"
    by_version = sorted(models(trained), key=lambda model: model["version"])
    assert [model["warm_from"] for model in by_version] == [None, first, None]
    assert sum(model["stage"] in ("champion", "provisional") for model in by_version) == 1


@pytest.mark.usefixtures("each_fit_once")
def test_a_training_that_is_not_to_serve_is_judged_and_registered_and_leaves_what_serves(trained, monkeypatch):
    serving = models(trained)
    monkeypatch.setattr(train_module, "give_verdict", lambda *_: Verdict("champion", "It is the best."))
    counts = train.fn("clif", AT, epochs=1, members=2, forecaster="recurrent", serve=False)
    kept_back = max(models(trained), key=lambda model: model["version"])
    assert (counts["stage"], kept_back["stage"]) == ("candidate", "candidate")
    assert kept_back["stage_reason"] == "Trained not to serve; the verdict was champion: It is the best."
    assert [model for model in models(trained) if model != kept_back] == serving
    assert registry.challenger(trained, "clif") is None, "an evaluation does not promote it either"
    with trained.begin() as connection:
        later = "update forecast.run set as_of = as_of + interval '1 hour' where model_id = :model"
        connection.execute(text(later), {"model": counts["model"]})
    assert runs.last_slot(trained, "clif", "train") == AT, "the next training is as due as before"


@pytest.mark.soak
def test_another_cell_trains_and_serves(trained):
    counts = train.fn("clif", AT, epochs=1, members=2, forecaster="recurrent", cell="gru")
    assert counts["stage"] in ("provisional", "challenger")
    newest = max(models(trained), key=lambda model: model["version"])
    assert newest["config"]["network"]["cell"] == "gru" and newest["warm_from"] is None
    registry.set_stage(trained, newest["model_id"], "champion", "test")
    assert forecast.fn("clif", AT)["stays_scored"] > 10


@pytest.mark.usefixtures("each_fit_once")
def test_a_damaged_serving_artifact_does_not_block_the_next_training(trained):
    (model,) = models(trained)
    (load_settings().artifact_folder / model["artifact"] / "scaler.json").write_text("{}")
    train.fn("clif", AT, epochs=1, members=2, forecaster="recurrent")
    assert len(models(trained)) == 2


@pytest.mark.usefixtures("each_fit_once")
def test_a_training_that_breaks_leaves_the_serving_model_and_says_so(trained, monkeypatch):
    before = registry.serving_model(trained, "clif", "stay")
    monkeypatch.setattr(train_module, "fit_units", lambda *_: 1 / 0)
    with pytest.raises(Exception, match="ZeroDivisionError"):
        train.fn("clif", AT, epochs=1, members=2, forecaster="recurrent")
    assert registry.serving_model(trained, "clif", "stay") == before
    with trained.connect() as connection:
        run = connection.execute(text("select status, error from forecast.run order by run_id desc limit 1")).one()
    assert run.status == "failed" and "ZeroDivisionError" in run.error


@pytest.mark.usefixtures("each_fit_once")
def test_a_training_that_was_taken_for_dead_registers_nothing(trained, monkeypatch):
    """Its lock was lost, and another training of the source began."""
    before, save = models(trained), train_module.save

    def save_after_another_began(*given):
        save(*given)
        runs.close_dead_runs(trained, "clif", "train")

    monkeypatch.setattr(train_module, "save", save_after_another_began)
    with pytest.raises(ForecastError, match="is marked failed and cannot publish"):
        train.fn("clif", AT, epochs=1, members=2, forecaster="recurrent")
    assert models(trained) == before


def test_a_training_that_was_taken_for_dead_stops_after_the_epoch(trained, monkeypatch):
    epochs = []

    def fit(*_, progress, **__):
        for epoch in (1, 2, 3):
            epochs.append(epoch)
            if epoch == 2:
                runs.close_dead_runs(trained, "clif", "train")
            progress(
                dict.fromkeys(("member", "members", "epoch", "epochs", "train_loss", "valid_loss", "seconds"), epoch)
            )

    monkeypatch.setattr("rnn_core.evaluation.judged_fit.fit_stay_forecaster", fit)
    with pytest.raises(ForecastError, match="is marked failed and cannot publish"):
        train.fn("clif", AT, warm=False)
    assert epochs == [1, 2]


@pytest.mark.soak
def test_a_training_cut_off_after_an_epoch_goes_on_to_the_same_weights(trained, monkeypatch):
    train.fn("clif", AT, epochs=2, members=2, forecaster="recurrent", warm=False)
    told = train_module.after_epoch

    def cut_off(record):
        told(record)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "after_epoch", cut_off)
    with pytest.raises(KeyboardInterrupt):
        train.fn("clif", AT, epochs=2, members=2, forecaster="recurrent", warm=False)
    epochs = []
    monkeypatch.setattr(train_module, "after_epoch", lambda r: epochs.append((r["member"], r["epoch"])))
    train.fn("clif", AT, epochs=2, members=2, forecaster="recurrent", warm=False)
    assert epochs == [(1, 2), (2, 1), (2, 2)], "the first epoch was not trained again"
    undisturbed, resumed = sorted(models(trained), key=lambda model: model["version"])[-2:]
    assert json.dumps(resumed["metrics"]["metrics"]) == json.dumps(undisturbed["metrics"]["metrics"])


def test_the_log_tells_epochs_rounds_and_teachers_apart(caplog):
    shared = {"member": 2, "members": 5, "train_loss": 1.5, "valid_loss": 1.75, "seconds": 3.0}
    with caplog.at_level("INFO"):
        for more in ({"epoch": 3, "epochs": 8}, {"rounds": 40}, {"rounds": 40, "teacher_of": 1}):
            train_module.after_epoch(shared | more)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "member 2 of 5, epoch 3 of 8",
        "member 2 of 5, 40 rounds",
        "teacher of member 1, member 2 of 5, 40 rounds",
    ]


def test_training_without_stays_says_what_to_do(installation):
    from rnn_core.contracts.errors import DataTooSmallError

    with pytest.raises(DataTooSmallError, match="icu-forecast ingest clif"):
        train.fn("clif", AT - timedelta(days=300))


@pytest.mark.soak
def test_boosted_trees_train_beside_a_recurrent_model_and_serve_and_describe_themselves(trained, caplog):
    (recurrent,) = models(trained)
    counts = train.fn("clif", AT, epochs=4, members=2, forecaster="trees")
    trees = max(models(trained), key=lambda model: model["version"])
    assert counts["model"] == trees["model_id"] and trees["stage"] in ("provisional", "challenger")
    assert trees["config"]["forecaster"] == "trees" and trees["warm_from"] is None
    assert (load_settings().artifact_folder / trees["artifact"] / "trees.npz").is_file()
    kinds = {row["model_id"]: row["forecaster"] for row in list_models("clif")}
    assert (kinds[recurrent["model_id"]], kinds[trees["model_id"]]) == ("recurrent", "trees")
    card = model_card(trees["model_id"])
    assert "2 pairs of gradient-boosted trees" in card and "recurrent networks" not in card
    assert "recurrent networks" in model_card(recurrent["model_id"])

    registry.set_stage(trained, trees["model_id"], "champion", "test")
    assert forecast.fn("clif", AT)["stays_scored"] > 10
    with trained.connect() as connection:
        scored = connection.execute(
            text("select mortality_risk from forecast.stay_forecast where model_id = :model and status = 'scored'"),
            {"model": trees["model_id"]},
        )
        risks = list(scored.scalars())
    assert len(risks) > 10 and 0 < min(risks) < max(risks) < 1

    caplog.clear()
    again = train.fn("clif", AT, epochs=4, members=2, forecaster="trees")
    assert "from scratch" in caplog.text and again["stage"] in ("provisional", "challenger")


def test_a_blend_trains_and_serves_and_describes_its_parts_and_the_next_one_starts_from_it(trained):
    counts = train.fn("clif", AT, epochs=2, members=2, forecaster="blend")
    blend = registry.read_model(trained, counts["model"])
    assert counts["stage"] in ("provisional", "challenger") and blend["warm_from"] is None
    files = {file.name for file in (load_settings().artifact_folder / blend["artifact"]).iterdir()}
    assert {"model.keras", "trees.npz", "pool.json"} <= files
    (row,) = [row for row in list_models("clif") if row["model_id"] == blend["model_id"]]
    assert (row["forecaster"], row["members"]) == ("blend of recurrent and trees", 2)
    card = model_card(blend["model_id"])
    assert "2 pairs of gradient-boosted trees" in card and "2 recurrent networks" in card

    registry.set_stage(trained, blend["model_id"], "champion", "test")
    assert forecast.fn("clif", AT)["stays_scored"] > 10
    with trained.connect() as connection:
        drivers = "select count(*) from forecast.current_driver where model_id = :model"
        assert connection.execute(text(drivers), {"model": blend["model_id"]}).scalar_one() > 0
    again = train.fn("clif", AT, epochs=2, members=2, forecaster="blend")
    successor = registry.read_model(trained, again["model"])
    assert successor["warm_from"] == blend["model_id"]
    assert [one["model_id"] for one in successor["metrics"]["learned_from"]] == [again["model"]], (
        "the newest of its source"
    )
