"""The command line as people and machines use it."""

import json
import os
import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from flows.cli import app

AT = "2026-01-19T00:00"


def commands():
    def walk(command, path):
        if hasattr(command, "commands"):
            for name, child in command.commands.items():
                yield from walk(child, [*path, name])
        else:
            yield path, command

    return list(walk(get_command(app), []))


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=" ".join)
def test_every_command_has_help_with_an_example(path):
    shown = run(*path, "--help")
    assert f"Example: icu-forecast {' '.join(path)}" in shown or f'"$(icu-forecast {" ".join(path)})"' in shown


def test_sql_prints_an_array_of_row_objects(trained):
    rows = json.loads(run("sql", "select stage, count(*) as n from forecast.model group by 1", "--json"))
    assert rows == [{"stage": "provisional", "n": 1}]


def test_sql_changes_nothing(trained):
    from rnn_core.errors import ForecastError

    with pytest.raises(ForecastError, match="read-only"):
        run("sql", "delete from icu.observation")


def test_forecast_then_current_risk_as_json(trained):
    counts = json.loads(run("forecast", "clif", "--as-of", AT, "--direct", "--json"))
    rows = json.loads(run("sql", "select stay_id, mortality_risk from forecast.current_risk", "--json"))
    assert counts["stays_scored"] > 10 and 0 < rows[0]["mortality_risk"] < 1


def test_why_lists_what_was_used_what_was_not_yet_known_and_what_was_quarantined(trained):
    stay = json.loads(
        run(
            "sql",
            "select row ->> 'stay_id' as stay from quality.quarantine where relation = 'observation' limit 1",
            "--json",
        )
    )[0]["stay"]
    rows = json.loads(run("why", stay, "--as-of", "2026-01-12T00:00", "--json"))
    fates = {row["fate"] for row in rows}
    assert "quarantined" in fates and fates <= {"used", "quarantined", "corrected", "not yet known"}
    assert all(row["reason"] for row in rows if row["fate"] == "quarantined")
    later = [row for row in rows if row["fate"] == "not yet known"]
    assert all(row["available_at"] > "2026-01-12T00:00" for row in later)


def test_why_of_an_unknown_stay_is_refused_with_a_sentence(trained):
    from rnn_core.errors import ForecastError

    with pytest.raises(ForecastError, match="No source knows"):
        run("why", "nobody", "--as-of", AT)


def test_doctor_finds_a_sound_installation_sound(trained):
    findings = {f["what"]: f["state"] for f in json.loads(run("doctor", "--json"))}
    assert "fault" not in findings.values()
    assert {"database", "migrations", "grants", "indices", "source clif", "watermark clif", "model clif"} <= set(
        findings
    )


def test_doctor_ends_with_1_where_the_champions_artifact_is_damaged(trained, tmp_path):
    (artifact,) = [folder for folder in (tmp_path / "artifacts").iterdir() if folder.name.startswith("clif-stay")]
    (artifact / "model.keras").write_bytes(b"damaged")
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 1
    assert {f["what"]: f["state"] for f in json.loads(result.stdout)}["model clif"] == "fault"


def test_doctor_names_a_missing_index(trained):
    with trained.begin() as connection:
        connection.exec_driver_sql("drop index icu.ix_stay_version_source_available_at")
    result = CliRunner().invoke(app, ["doctor", "--json"])
    findings = {f["what"]: f["found"] for f in json.loads(result.stdout)}
    assert result.exit_code == 1 and "ix_stay_version_source_available_at" in findings["indices"]


def test_source_check_reports_coverage_and_audit(trained):
    report = json.loads(run("source", "check", "clif", "--as-of", AT, "--json"))
    coverage = {row["concept"]: row for row in report["coverage"]}
    assert coverage["heart_rate"]["stays %"] > 90 and coverage["cholesterol"]["rows"] == 0
    assert report["audit"] and report["faults"] == []


def test_models_can_be_listed_promoted_and_rolled_back(trained):
    (model,) = json.loads(run("models", "list", "--json"))
    assert model["stage"] == "provisional"
    assert "serves now" in run("models", "promote", model["model_id"])
    assert json.loads(run("models", "list", "--json"))[0]["stage"] == "champion"


def test_the_program_ends_with_1_and_one_sentence_on_standard_error(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ICU_")} | {
        "ICU_HOME": str(tmp_path), "ICU_DATABASE_URL": "postgresql://someone:secret@127.0.0.1:9/x",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "db", "migrate"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert "does not answer" in done.stderr and "secret" not in done.stderr and "Traceback" not in done.stderr


def test_a_misspelt_setting_is_named(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "doctor"], env={**os.environ, "ICU_DATABSE_URL": "x"}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "ICU_DATABSE_URL" in done.stderr
