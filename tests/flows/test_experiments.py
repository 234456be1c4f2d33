"""What an experimenter uses: models compared, windows in files, Python, all on the trained CLIF demo."""

import inspect
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli import app
from rnn_core.contracts.errors import ForecastError
from sql.published import registry

AT = "2026-01-19T00:00"
ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def code(name: str) -> dict[str, str]:
    return dict(re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL))


@pytest.fixture
def two_models(trained, trained_forecaster):
    """Ids of the serving model and of a copy that forecasts far too long stays, and far too many deaths."""
    from flows.runtime.settings import load_settings
    from rnn_core.forecasters.stay import save_stay_forecaster

    row = registry.serving_model(trained, "clif", "stay")
    calibration = trained_forecaster.calibration
    mortality = replace(calibration.mortality, intercept=calibration.mortality.intercept + 4)
    worse = replace(calibration, mortality=mortality, time=replace(calibration.time, late=calibration.time.late / 50))
    meta = {"data_cutoff": str(row["data_cutoff"]), "metrics": {}, "learned_from": []}
    save_stay_forecaster(load_settings().artifact_folder, "worse", replace(trained_forecaster, calibration=worse), meta)
    copied = {name: row[name] for name in ("name", "source", "ends_at", "config", "data_cutoff", "concept_hash")}
    with trained.begin() as connection:
        registry.register(connection, copied | {"model_id": "worse", "artifact": "worse", "metrics": {"metrics": {}}})
    return row["model_id"], "worse"


def test_models_are_compared_in_pairs_on_stays_that_neither_learned_from(two_models, trained):
    from flows.experiments.compare import compare_models
    from flows.runtime import clock

    found = json.loads(run("models", "compare", *two_models, "--as-of", AT, "--json"))
    rows = {row["metric"]: row for row in found["metrics"]}
    crps, brier = rows["los_crps_days"], rows["mortality_brier"]
    assert crps["difference"]["high"] < 0 and crps["better"] == two_models[0]
    assert crps["first"] - crps["second"] == pytest.approx(crps["difference"]["value"])
    assert brier["difference"]["high"] < 0 and brier["better"] is None, "nobody died: a lower risk is no merit"
    (judged,) = re.findall(r"of (\d+) stays \(\d+ died\) that neither has learned from", found["basis"])
    model = registry.read_model(trained, two_models[0])
    assert int(judged) <= model["metrics"]["n_stays"]["judged"]
    table = run("models", "compare", *two_models, "--as-of", AT)
    assert max(map(len, table.splitlines())) <= 100 and "A less B" in table and f"B: {two_models[1]}" in table
    with pytest.raises(ForecastError, match="compared with another model"):
        compare_models(trained, two_models[0], two_models[0], clock.parse_time(AT))


def test_exported_windows_are_those_of_a_training_with_names_scaler_and_labels(trained, tmp_path):
    from flows.notebook import make_windows, read_stays

    out = tmp_path / "windows"
    counts = json.loads(run("export", "windows", "clif", "--parquet", str(out), "--as-of", AT, "--json"))
    known = read_stays("clif", AT)
    metadata = json.loads((out / "metadata.json").read_text())
    hours, stays, windows = (pq.read_table(out / part).to_pandas() for part in ("hours", "stays", "windows"))
    assert (len(stays), len(windows), len(hours)) == (counts["stays"], counts["windows"], counts["hours"])
    assert list(stays["stay_id"]) == list(known.stays["stay_id"]) and set(stays["part"]) <= {
        "learned",
        "judged",
        "none",
    }
    assert (stays["part"] == "learned").sum() == counts["learned"] > 0
    (model,) = (row["model_id"] for row in registry.list_models(trained, "clif", "stay"))
    from flows.notebook import load_model

    with_scaler = tmp_path / "of-model"
    run("export", "windows", "clif", "--parquet", str(with_scaler), "--model", model, "--as-of", AT)
    material = make_windows(known, load_model(model))
    of_model = pq.read_table(with_scaler / "hours").to_pandas()
    assert np.array_equal(of_model[metadata["channels"]].to_numpy(), material.windows.channels)
    assert np.array_equal(of_model["usable"], material.labels.usable)
    assert np.array_equal(np.stack(of_model["weights"]), material.labels.weights.reshape(len(of_model), -1))
    assert np.array_equal(of_model["died"].to_numpy(float), material.settled_death, equal_nan=True)
    assert len(metadata["scaler"]["center"]) == len(metadata["scaler"]["concepts"])
    with pytest.raises(ForecastError, match="exists already"):
        run("export", "windows", "clif", "--parquet", str(out), "--as-of", AT)
    assert {path.name for path in tmp_path.glob("*windows*")} == {"windows"}, "nothing half done is left"


def test_the_signatures_of_the_python_interface_are_those_of_the_code():
    import flows.notebook

    lines = []
    for name in sorted(
        flows.notebook.__all__, key=lambda name: code("docs/python.md")["signatures.txt"].find(f"\n{name}(")
    ):
        signature = str(inspect.signature(getattr(flows.notebook, name)))
        lines.append(name + re.sub(r"\b(?:rnn_core|pandas|typing)[\w.]*\.(?=[A-Z])", "", signature))
    assert "\n".join(lines) + "\n" == code("docs/python.md")["signatures.txt"]


def test_the_examples_of_the_python_interface_run(trained, capsys):
    names: dict = {}
    for text in (code("docs/python.md")[f"{part}.py"] for part in ("example", "compare", "windows")):
        exec(compile(text, "docs/python.md", "exec"), names)
    shown = capsys.readouterr().out
    assert "stays," in shown and "mortality_brier" in shown and "los_mae_days" in shown
    assert set(names["now"]["status"]) <= {"scored", "abstained"} and len(names["now"])
    assert names["heart_rate"].shape == names["labels"].death.shape


def test_a_trained_model_is_logged_to_mlflow_with_intervals_and_its_card_and_no_patient(trained, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="MLflow is not installed (extra track)")
    from mlflow import MlflowClient

    from flows.jobs.tracking import track

    uri = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (model,) = registry.list_models(trained, "clif", "stay")
    run_id = track(trained, model["model_id"])
    client = MlflowClient(tracking_uri=uri)
    logged = client.get_run(run_id)
    assert logged.info.run_name == model["model_id"] and logged.info.status == "FINISHED"
    assert (logged.data.params["layers"], logged.data.params["forecaster"]) == ("64", "recurrent")
    assert "unit-layers" not in logged.data.params, "those are of another model"
    crps = model["metrics"]["metrics"]["los_crps_days"]
    for name in ("value", "low", "high"):
        assert logged.data.metrics["los_crps_days" + ("" if name == "value" else f"_{name}")] == pytest.approx(
            crps[name]
        )
    assert [one.step for one in client.get_metric_history(run_id, "network_1_valid_loss")] == [1, 2, 3]
    files = [path for path in (tmp_path / "mlruns").rglob("*") if path.is_file()]
    (card,) = (path for path in files if path.name == "model_card.md")
    assert model["model_id"] in card.read_text()
    with trained.connect() as connection:
        stays = connection.exec_driver_sql("select distinct stay_id from icu.stay_version").scalars().all()
    everything = "".join(path.read_text() for path in files)
    assert not [stay for stay in stays if stay in everything]


def test_tracking_that_does_not_work_is_a_warning_and_none_is_asked_for_without_the_setting(
    trained, monkeypatch, caplog
):
    from flows.jobs.tracking import track

    (model,) = registry.list_models(trained, "clif", "stay")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert track(trained, model["model_id"]) is None and not caplog.records
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert track(trained, model["model_id"]) is None
    assert "pip install 'icu-forecast[track]'" in caplog.text


def test_the_page_of_a_model_shows_how_it_learned_and_how_reliable_it_is(trained, tmp_path):
    (model,) = registry.list_models(trained, "clif", "stay")
    out = tmp_path / "model.html"
    assert str(out) in run("models", "page", model["model_id"], "--as-of", AT, "--out", str(out))
    page = out.read_text()
    shown = (
        "Loss per epoch",
        "Quantile reliability",
        "Reliability of a discharge within 24 h",
        '<th scope="row">epochs',
    )
    assert [words for words in shown if words not in page] == []
    assert "Reliability of death" not in page, "nobody died"
