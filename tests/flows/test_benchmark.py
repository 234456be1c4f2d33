"""The benchmark command on a part of the published files, as a user would run it."""

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from flows.public_data.benchmark import MODELS, check, find_sets
from rnn_core.contracts.errors import ForecastError

METRICS = (
    "mortality_auroc",
    "mortality_auprc",
    "mortality_event1",
    "mortality_event2",
    "mortality_brier",
    "mortality_calibration_slope",
    "mortality_calibration_intercept",
    "los_mae_days",
    "los_medae_days",
    "los_msle",
    "los_kappa",
    "los_concordance",
    "los_interval_coverage",
)
RUN = ("prevalence", "saps", "logistic", "trees", "forecaster", "blend")


def empty_set(folder: Path, letter: str) -> Path:
    (folder / f"set-{letter}").mkdir(parents=True)
    (folder / f"Outcomes-{letter}.txt").touch()
    return folder


def test_sets_are_found_in_their_folder_and_by_their_own_name(tmp_path):
    folder = empty_set(empty_set(tmp_path / "both", "a"), "b")
    assert find_sets([folder]) == {"a": folder, "b": folder}
    assert find_sets([folder / "set-b"]) == {"b": folder / "set-b"}
    (folder / "set-c.tar.gz").touch()
    (folder / "Outcomes-c.txt").touch()
    assert find_sets([folder / "set-c.tar.gz"]) == {"c": folder}


def test_a_folder_without_a_set_and_a_set_named_twice_are_refused(tmp_path):
    folder = empty_set(tmp_path, "a")
    with pytest.raises(ForecastError, match="holds no set"):
        find_sets([tmp_path / "set-a" / "deeper"])
    with pytest.raises(ForecastError, match="Set a is named twice"):
        find_sets([folder, folder / "set-a"])


def test_outcomes_that_are_not_there_are_missed_before_anything_runs(tmp_path):
    folder = empty_set(tmp_path, "a")
    (folder / "Outcomes-a.txt").unlink()
    with pytest.raises(ForecastError, match=r"Outcomes-a\.txt is not next to set a"):
        find_sets([folder])


def test_a_set_cannot_judge_what_learned_from_it(tmp_path):
    sets = {"a": tmp_path}
    with pytest.raises(ForecastError, match="Set a is given for both training and test"):
        check(sets, sets, MODELS)
    with pytest.raises(ForecastError, match="no model lightgbm"):
        check(sets, {}, ["prevalence", "lightgbm"])
    with pytest.raises(ForecastError, match="needs the model prevalence"):
        check(sets, {}, ["blend"])


@pytest.fixture(scope="module")
def ran(physionet_folder, tmp_path_factory):
    """A small run: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("benchmark")
    for letter, stays in (("a", 500), ("b", 300)):
        place = empty_set(folder / letter, letter) / f"set-{letter}"
        with tarfile.open(physionet_folder / f"set-{letter}.tar.gz") as archive:
            for member in [m for m in archive.getmembers() if re.search(r"\d+\.txt$", m.name)][:stays]:
                (place / Path(member.name).name).write_bytes(archive.extractfile(member).read())
        outcomes = (physionet_folder / f"Outcomes-{letter}.txt").read_text()
        (folder / letter / f"Outcomes-{letter}.txt").write_text(outcomes)
    options = {
        "--train": folder / "a",
        "--test": folder / "b",
        "--json": folder / "out" / "out.json",
        "--report": folder / "out" / "out.html",
        "--models": ",".join(RUN),
        "--epochs": "1",
        "--members": "2",
    }
    given = [str(part) for option in options.items() for part in option]
    command = [Path(sys.executable).with_name("icu-forecast"), "benchmark", "physionet-2012", *given]
    # A home that must not be touched: the benchmark works in one of its own.
    environment = os.environ | {"ICU_HOME": str(folder / "home")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder, done


@pytest.mark.soak
def test_every_model_has_every_figure_under_its_name(ran):
    folder, _ = ran
    found = json.loads((folder / "out" / "out.json").read_text())
    assert found["shipped"] == "forecaster" and set(found["models"]) == set(RUN)
    for name, figures in found["models"].items():
        assert set(METRICS) <= set(figures), name
        assert {"value", "low", "high"} <= set(figures["mortality_auroc"])
    assert found["models"]["prevalence"]["mortality_auroc"]["value"] == 0.5
    assert found["models"]["logistic"]["mortality_auroc"]["low"] > 0.5
    assert found["protocol"]["judged_stays"] == 300 and found["protocol"]["learned_stays"] == 500
    assert set(found["differences"]) == set(RUN) - {found["strongest_baseline"]}


@pytest.mark.soak
def test_the_outcomes_of_the_judged_set_are_loaded_after_the_last_fit_but_that_on_the_published_score(ran):
    _, done = ran
    told = done.stderr
    loaded = [match.start() for match in re.finditer(r"outcome: [\d,]+ rows", told)]
    assert re.findall(r"outcome: ([\d,]+) rows", told) == ["4,000", "8,000"]
    assert told.index("blend fitted") < loaded[1] < told.index("saps fitted")


@pytest.mark.soak
def test_the_page_holds_tables_and_plots_and_the_table_is_printed(ran):
    folder, done = ran
    page = (folder / "out" / "out.html").read_text()
    assert page.count("<svg") >= 8 and "blend" in page and "no data" not in page.split("The classic network")[0]
    assert "| forecaster | " in done.stdout
    assert not (folder / "home" / "postgres").exists()
