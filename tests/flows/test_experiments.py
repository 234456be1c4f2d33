"""What an experimenter uses: models compared, windows in files, Python, all on the trained CLIF demo."""

import inspect
import json
import re
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
    from flows.inspection.compare import compare_models
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
