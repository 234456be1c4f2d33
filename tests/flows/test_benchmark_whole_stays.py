"""`benchmark eicu` on the real demo: by hospital, and on hospitals whose outcomes stay closed until the last forecast."""

import csv
import gzip
import json

import pytest
from conftest import SHARED
from typer.testing import CliRunner

from flows import cli
from flows.pages.whole_stays import build_page, summary_table
from flows.public_data.benchmark_run import write_files
from flows.public_data.whole_stays import run_benchmark
from rnn_core.benchmark.landmarks import FIGURES, GROUPS

TABLES = ("patient", "vitalPeriodic", "lab", "apachePatientResult")
STAYS = 160


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The first stays of the eICU demo in two folders, by hospital."""
    demo = SHARED / "data" / "eicu-demo"
    if not demo.is_dir():
        pytest.skip("the eICU demo is not beside this checkout (../shared/data/eicu-demo)")
    folder = tmp_path_factory.mktemp("eicu")
    side = {}
    for table in TABLES:
        with gzip.open(demo / f"{table}.csv.gz", "rt") as file:
            rows = csv.reader(file)
            head = next(rows)
            column = [name.lower() for name in head]
            stay = column.index("patientunitstayid")
            parts = {"a": [head], "b": [head]}
            for row in rows:
                if table == "patient" and len(side) < STAYS:
                    side[row[stay]] = "ab"[int(row[column.index("hospitalid")]) % 2]
                if row[stay] in side:
                    parts[side[row[stay]]].append(row)
        for letter, found in parts.items():
            (folder / letter).mkdir(exist_ok=True)
            with gzip.open(folder / letter / f"{table}.csv.gz", "wt") as file:
                csv.writer(file).writerows(found)
    return folder


@pytest.mark.soak
def test_on_withheld_hospitals_every_model_has_every_figure_at_every_landmark(folders, tmp_path):
    out, page = tmp_path / "out.json", tmp_path / "out.html"
    models = ("prevalence", "logistic", "apache")
    judgement = run_benchmark([folders / "a"], [folders / "b"], models=models)
    write_files(judgement, out, page, build_page)
    found = json.loads(out.read_text())
    assert set(found["models"]) == set(models)
    for name in ("prevalence", "logistic"):
        assert {group: set(found["models"][name][group]) for group in GROUPS} == {
            group: set(FIGURES) for group in GROUPS
        }
    judged = found["models"]["prevalence"]
    assert (
        20 < judged["24h"]["los_mae_days"]["n"] < judged["6h"]["los_mae_days"]["n"] <= found["protocol"]["judged_stays"]
    )
    assert 0 < found["models"]["apache"]["24h"]["los_mae_days"]["n"] <= judged["24h"]["los_mae_days"]["n"]
    assert found["models"]["apache"]["48h"]["los_mae_days"]["n"] == 0
    assert found["differences"]["apache"]["logistic"]["24h"]["auroc"]["n"] <= judged["24h"]["auroc"]["n"]
    assert "prevalence | 24h" in summary_table(judgement) and "Quantile reliability" in page.read_text()


@pytest.mark.soak
def test_across_hospitals_every_stay_with_a_forecast_is_judged_once(folders):
    found = run_benchmark([folders / "a", folders / "b"], [], models=("prevalence",), folds=2).to_json()
    stays = found["protocol"]["judged_stays"]
    assert 80 < stays <= STAYS and found["models"]["prevalence"]["6h"]["los_mae_days"]["n"] <= stays
    assert found["models"]["prevalence"]["6h"]["share_beyond_p50"]["value"] == pytest.approx(0.5, abs=0.15)


def test_a_dry_run_says_what_would_be_learned_and_judged_and_a_folder_on_both_sides_is_refused(folders):
    given = ["benchmark", "eicu", "--train", str(folders / "a")]
    plan = CliRunner().invoke(cli.app, [*given, "--cross-validate", "--dry-run"]).output
    assert "unit stays" in plan and "folds of hospitals" in plan and "prevalence" in plan
    refused = CliRunner().invoke(cli.app, [*given, "--test", str(folders / "a")])
    assert refused.exit_code != 0 and "both training and test" in f"{refused.output}{refused.exception}"
