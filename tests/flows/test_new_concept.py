"""docs/new-concept.md: its lines are those of the code, and its steps lead to a forecast."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rnn_core.contracts import concepts
from sql.published import registry

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "new-concept.md").read_text()
BLOCKS = dict(re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
(MAPPED,) = csv.reader([BLOCKS["map.csv"].strip()])


def test_the_line_declares_a_concept_and_the_map_of_clif_has_its_variable_without_one():
    (declared,) = eval(f"({BLOCKS['concept.py'].strip()})", vars(concepts))
    assert declared.name == MAPPED[2] and declared.name not in concepts.NAMES and declared.low < declared.high
    with (ROOT / "sql" / "sources" / "clif" / "concept_map.csv").open() as file:
        lines = [row for row in csv.reader(file) if row[:2] == MAPPED[:2]]
    assert lines == [[*MAPPED[:2], "", "", ""]]


@pytest.mark.soak
def test_the_steps_lead_from_a_line_to_a_forecast_while_the_older_model_serves(trained, tmp_path):
    for floor in ("flows", "rnn_core", "sql"):
        shutil.copytree(ROOT / floor, tmp_path / "tree" / floor, ignore=shutil.ignore_patterns("__pycache__"))
    declared = tmp_path / "tree" / "rnn_core" / "contracts" / "concepts.py"
    line = '    _c("platelets",'
    declared.write_text(declared.read_text().replace(line, BLOCKS["concept.py"] + line))
    mapped = tmp_path / "tree" / "sql" / "sources" / "clif" / "concept_map.csv"
    mapped.write_text(mapped.read_text().replace(",".join(MAPPED[:2]) + ",,,", BLOCKS["map.csv"].strip()))

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments],
            cwd=tmp_path / "tree",
            env=os.environ | {"PYTHONPATH": str(tmp_path / "tree")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    at = ("--as-of", "2026-01-19T00:00", "--direct")
    run("ingest", "clif", "--reconcile", *at)
    query = f"select count(*) as n, max(value) as most from icu.observation where concept = '{MAPPED[2]}'"
    (found,) = json.loads(run("sql", query, "--json"))
    assert found["n"] > 20 and found["most"] <= 100
    (older,) = registry.list_models(trained, "clif", "stay")
    assert "rows published" in run("forecast", "clif", *at) or "stays_scored" in run("forecast", "clif", *at)
    few = ("--forecaster", "logistic", "--members", "2", "--name", "eosinophils")
    made = json.loads(run("train", "clif", *few, *at, "--json"))
    new = registry.read_model(trained, made["model"])
    assert MAPPED[2] in new["config"]["window"]["concepts"]
    assert MAPPED[2] not in older["config"]["window"]["concepts"]
    assert "CRPS" in run("models", "compare", made["model"], older["model_id"], "--as-of", "2026-01-19T00:00")
