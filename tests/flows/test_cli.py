"""The command line as people and machines use it."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from typer.main import get_command
from typer.testing import CliRunner

from flows.cli import app

T0 = datetime(2026, 1, 1, tzinfo=UTC)
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
    from rnn_core.contracts.errors import ForecastError

    with pytest.raises(ForecastError, match="read-only"):
        run("sql", "delete from icu.observation")


def test_sql_takes_one_statement_so_that_none_can_leave_the_read_only_transaction(trained):
    from rnn_core.contracts.errors import ForecastError

    with pytest.raises(ForecastError, match="multiple commands"):
        run("sql", "commit; create table public.x(a int); commit")
    with pytest.raises(ForecastError, match="failed"):
        run("sql", "do $$ begin set transaction_read_only = off; create table public.x(a int); end $$")
    assert json.loads(run("sql", "select to_regclass('public.x') as x", "--json")) == [{"x": None}]


def test_sql_leaves_percent_signs_and_colons_as_they_are(trained):
    query = "select 'a%b' like 'a%' as likes, '5'::int % 3 as rest, ':name' as colon, '%s' as place"
    assert json.loads(run("sql", query, "--json")) == [{"likes": True, "rest": 2, "colon": ":name", "place": "%s"}]


def test_sql_shows_columns_of_the_same_name_side_by_side(trained):
    shown = run("sql", "select 1 as n, 2 as n_2, 3 as n, 4 as n", "--json")
    assert json.loads(shown) == [{"n": 1, "n_2": 2, "n_3": 3, "n_4": 4}]


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
    from rnn_core.contracts.errors import ForecastError

    with pytest.raises(ForecastError, match="No source has"):
        run("why", "nobody", "--as-of", AT)


QUARANTINED = """
insert into quality.quarantine (source, relation, row_hash, check_name, batch_id, row, reason)
values ('clif', :relation, md5(random()::text), 'unreadable_time', 1, cast(:row as jsonb), 'a time cannot be read')
"""


def test_why_lists_a_row_whose_time_cannot_be_read_and_finds_a_stay_that_only_the_quarantine_knows(trained):
    row = {"stay_id": "unheard-of", "variable": "hr", "observed_at": "31.02.2026", "available_at": None, "value": "80"}
    with trained.begin() as connection:
        connection.execute(text(QUARANTINED), {"relation": "observation", "row": json.dumps(row)})
    (told,) = json.loads(run("why", "unheard-of", "--as-of", AT, "--json"))
    assert (told["variable"], told["value"], told["fate"]) == ("hr", "80", "quarantined")
    assert told["observed_at"] is None and told["available_at"] is None


def test_why_speaks_for_the_hour_as_runs_do(trained):
    query = "select stay_id, available_at from icu.observation where extract(minute from available_at) > 0 limit 1"
    (row,) = json.loads(run("sql", query, "--json"))
    hour = datetime.fromisoformat(row["available_at"]).replace(minute=0, second=0, microsecond=0)
    within = run("why", row["stay_id"], "--as-of", hour.replace(minute=59).isoformat(), "--json")
    assert within == run("why", row["stay_id"], "--as-of", hour.isoformat(), "--json")
    fates = {told["available_at"]: told["fate"] for told in json.loads(within)}
    assert fates[row["available_at"]] == "not yet known"


def test_doctor_finds_a_sound_installation_sound(trained):
    findings = {f["what"]: f["state"] for f in json.loads(run("doctor", "--json"))}
    assert findings["training device"] == "ok"
    assert "fault" not in findings.values()
    assert {"database", "migrations", "grants", "indices", "source clif", "watermark clif", "model clif"} <= set(
        findings
    )


def test_doctor_names_the_training_device_and_why(trained):
    found = doctor()["training device"]["found"]
    assert re.fullmatch(r"training here would use (the CPU: .+|\d+ GPUs? \(.+\), .+; .+)", found)


def test_doctor_says_where_tensorflow_cannot_be_imported(trained, monkeypatch):
    monkeypatch.delitem(sys.modules, "rnn_core.network.devices", raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    finding = doctor()["training device"]
    assert finding["state"] == "fault"
    assert finding["found"].startswith("TensorFlow cannot be imported")


def test_doctor_ends_with_1_where_the_champions_artifact_is_damaged(trained, tmp_path):
    (artifact,) = [folder for folder in (tmp_path / "artifacts").iterdir() if folder.name.startswith("clif-stay")]
    (artifact / "model.keras").write_bytes(b"damaged")
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 1
    assert {f["what"]: f["state"] for f in json.loads(result.stdout)}["model clif"] == "fault"


def doctor() -> dict[str, dict[str, str]]:
    return {f["what"]: f for f in json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)}


def test_doctor_prints_each_finding_at_once_and_ends_a_look_at_a_server_that_hangs(trained, monkeypatch):
    from flows.inspection import doctor as looks
    from flows.runtime.settings import load_settings

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("ICU_SOURCES__SILENT__ADAPTER", "clif")
        monkeypatch.setenv("ICU_SOURCES__SILENT__URL", f"postgresql://reader@127.0.0.1:{silent.getsockname()[1]}/ward")
        monkeypatch.setattr(looks, "LOOK_SECONDS", 2.0)
        load_settings.cache_clear()
        found, began = {}, time.monotonic()
        for finding in looks.examine(load_settings()):
            found[finding.what] = finding.found
            if finding.what == "watermark clif":
                assert "source silent" not in found, "what was found before the server that hangs is there already"
            if finding.what == "source silent":
                assert time.monotonic() - began < 30
                break
    assert found["source silent"] == "no answer within 2 seconds; does a server or a file system hang?"
    lines = CliRunner().invoke(app, ["doctor"]).stdout.splitlines()
    assert lines and {line.split()[0] for line in lines} <= {"ok", "note", "fault"}


def test_doctor_looks_at_the_unit_forecasters_artifact_too(trained, tmp_path):
    with trained.begin() as connection:
        connection.exec_driver_sql(
            "insert into forecast.model (model_id, name, version, source, stage, data_cutoff, artifact, config, metrics)"
            " values ('u', 'unit', 99, 'clif', 'retired', now(), 'not-there', '{}', '{}')"
        )
        connection.exec_driver_sql("update forecast.model set stage = 'retired' where name = 'unit'")
        connection.exec_driver_sql("update forecast.model set stage = 'champion' where model_id = 'u'")
    assert doctor()["unit model clif"]["state"] == "fault"


def test_doctor_names_views_that_are_not_of_this_version(trained):
    with trained.begin() as connection:
        connection.exec_driver_sql("comment on view forecast.current_risk is 'somebody replaced me'")
    found = doctor()["migrations"]
    assert found["state"] == "fault" and "icu-forecast db migrate" in found["found"]


def test_doctor_names_a_table_of_the_source_that_may_not_be_selected(trained, clif_source, monkeypatch):
    from flows.runtime.settings import load_settings
    from sql.store.engine import open_engine

    owner = open_engine(clif_source)
    with owner.begin() as connection:
        connection.exec_driver_sql("create role clif_reader login")
        connection.exec_driver_sql("grant select on all tables in schema public to clif_reader")
        connection.exec_driver_sql("revoke select on labs from clif_reader")
    try:
        url = clif_source.set(username="clif_reader").render_as_string(hide_password=False)
        monkeypatch.setenv("ICU_SOURCES__CLIF__URL", url)
        load_settings.cache_clear()
        found = doctor()["source clif"]
    finally:
        with owner.begin() as connection:
            connection.exec_driver_sql("drop owned by clif_reader; drop role clif_reader")
        owner.dispose()
    assert found["state"] == "fault" and "public.labs;" in found["found"] and "vitals" not in found["found"]


@pytest.mark.parametrize(
    ("lag", "ingested", "published", "state"),
    [(2, 1, True, "ok"), (30, 1, True, "fault"), (20, 1, True, "note"), (30, 60, True, "note"), (30, 1, False, "note")],
    ids=["fresh", "stale", "a little late", "no schedule", "nothing published"],
)
def test_doctor_takes_late_data_for_a_fault_only_where_the_schedule_is_live(trained, lag, ingested, published, state):
    with trained.begin() as connection:
        connection.execute(
            text("update icu.batch set observations_watermark = now() - make_interval(hours => :lag)"), {"lag": lag}
        )
        connection.execute(
            text("update forecast.run set as_of = now() - make_interval(hours => :hours) where kind = 'ingest'"),
            {"hours": ingested},
        )
        if published:
            connection.exec_driver_sql(
                "insert into forecast.run (source, kind, role, as_of, status)"
                " values ('clif', 'forecast', 'champion', now(), 'published')"
            )
    assert doctor()["watermark clif"]["state"] == state


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
    assert coverage["cholesterol"]["lacks"] == "no row" and coverage["urine"]["lacks"] == "not in the map"


def test_source_profile_writes_one_page_that_names_no_patient(trained, tmp_path):
    page = tmp_path / "clif.html"
    told = json.loads(run("source", "profile", "clif", "--as-of", AT, "--page", str(page), "--json"))
    parts = {(row["variable"], row["charted in"]) for row in told["by unit"]}
    assert {("heart_rate", "(none)"), ("creatinine", "mg/dl")} <= parts
    assert next(row for row in told["by unit"] if row["variable"] == "creatinine")["delay h"] > 0.5
    html = page.read_text()
    for title in ("Look at", "Coverage", "Units", "Delays", "Label audit"):
        assert f">{title}</h2>" in html
    with trained.connect() as connection:
        query = text("select stay_id from icu.stay_version union select patient_id from icu.stay_version")
        assert not [name for name in connection.execute(query).scalars() if name in html]


def test_source_audit_counts_by_source(trained):
    (everything,) = json.loads(run("source", "audit", "clif", "--as-of", "2026-06-01T00:00", "--json"))
    assert everything["source"] == "clif" and everything["note"].startswith(
        "155 stays, 155 ended, 13 deaths, 13 charted"
    )


def test_models_can_be_listed_promoted_and_rolled_back(trained):
    (model,) = json.loads(run("models", "list", "--json"))
    assert model["stage"] == "provisional"
    reason = ("--force", "--reason", "reviewed by the unit")
    assert "serves now as champion" in run("models", "promote", model["model_id"], *reason)
    (promoted,) = json.loads(run("models", "list", "--json"))
    assert promoted["stage"] == "champion"
    assert promoted["reason"] == "by hand, past the gate: reviewed by the unit"


def test_changes_of_models_are_told_as_one_object(trained):
    (model,) = json.loads(run("models", "list", "--json"))
    told = json.loads(run("models", "promote", model["model_id"], "--force", "--reason", "test", "--json"))
    assert told == {"model_id": model["model_id"], "stage": "champion", "retired": None}


def test_the_database_tells_its_address_and_revision_as_one_object(trained):
    assert json.loads(run("db", "url", "--json"))["url"].startswith("postgresql://")
    assert json.loads(run("db", "migrate", "--json")).keys() == {"revision"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["ingest", "nosuch"], "no adapter 'nosuch'; known are clif"),
        (["forecast", "clif", "--as-of", "2999-01-01"], "has not come yet"),
        (["train", "clif", "--as-of", "soon"], "A time looks like"),
        (["backfill", "clif", "--from", "2026-01-20", "--to", "2026-01-10"], "from the earlier to the later"),
        (["backfill", "clif", "--from", "2026-01-20", "--to", "2999-01-01"], "has not come yet"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_run_is_refused_before_a_flow_begins(arguments, sentence, installation, monkeypatch):
    from prefect import Flow

    from rnn_core.contracts.errors import ForecastError

    monkeypatch.setattr(Flow, "__call__", lambda *_, **__: pytest.fail("a flow began"))
    with pytest.raises(ForecastError, match=sentence):
        run(*arguments)


def test_an_unknown_cell_is_wrong_usage():
    result = CliRunner().invoke(app, ["train", "clif", "--cell", "foo"])
    assert result.exit_code == 2 and "elman" in result.stderr


def test_an_ensemble_of_one_is_wrong_usage_and_told_why():
    result = CliRunner().invoke(app, ["train", "clif", "--members", "1"])
    assert result.exit_code == 2 and "at least 2 members, not 1" in " ".join(result.stderr.replace("│", " ").split())


def test_the_command_line_wins_over_the_file_of_a_training_and_both_are_checked_before_it(tmp_path, monkeypatch):
    from flows.commands import jobs

    given = {}
    monkeypatch.setattr(jobs, "_run", lambda *_, **parameters: given.update(parameters))
    file = tmp_path / "wide.yaml"
    file.write_text("layers: [64, 32]\nlearning-rate: 1.0e-3\n")
    run(
        "train",
        "clif",
        "--config",
        str(file),
        "--layers",
        "16",
        "--no-wide",
        "--name",
        "narrow",
        "--no-serve",
        "--direct",
    )
    assert given["options"] == {"layers": "16", "learning-rate": 1e-3, "wide": False}
    assert (given["name"], given["serve"], given["source"]) == ("narrow", False, "clif")
    file.write_text("layer: 64\n")
    result = CliRunner().invoke(app, ["train", "clif", "--config", str(file)])
    assert result.exit_code == 2 and "did you mean layers" in " ".join(result.stderr.replace("│", " ").split())


@pytest.fixture
def challenge(make_database, tmp_path, monkeypatch):
    """Sets a and b with a stay each, and an empty database for them."""
    from flows.runtime.settings import load_settings

    for name, record in (("a", 1), ("b", 2)):
        (tmp_path / f"set-{name}").mkdir()
        (tmp_path / f"set-{name}" / f"{record}.txt").write_text("Time,Parameter,Value\n00:07,HR,73\n")
        (tmp_path / f"Outcomes-{name}.txt").write_text(
            f"RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n{record},6,1,5,-1,0\n"
        )
    url = make_database("challenge").render_as_string(hide_password=False)
    monkeypatch.setenv("ICU_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ICU_SOURCES__PHYSIONET_2012__URL", url)
    load_settings.cache_clear()
    yield tmp_path
    load_settings.cache_clear()


@pytest.mark.parametrize(
    ("options", "stays", "outcomes"),
    [
        ([], 2, 2),
        (["--sets", "a"], 1, 1),
        (["--sets", "a,b", "--withhold-outcomes", "b"], 2, 1),
        (["--withhold-outcomes", "a, b"], 2, 0),
        (["--withhold-outcomes", "all"], 2, 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_load_takes_the_sets_named_and_withholds_the_outcomes_of_those_named(challenge, options, stays, outcomes):
    told = json.loads(run("load", "physionet_2012", "--path", str(challenge), *options, "--json"))
    assert (told["rows"]["record"], told["rows"]["outcome"]) == (stays, outcomes)
    assert told["notes"]


def test_load_eicu_names_its_empty_tables_and_the_next_step(tmp_path, make_database, monkeypatch):
    from flows.runtime.settings import load_settings
    from sql.intake.adapter import load_adapter

    monkeypatch.setenv("ICU_HOME", str(tmp_path))
    database = make_database("eicu_cli").render_as_string(hide_password=False)
    monkeypatch.setenv("ICU_SOURCES__EICU__URL", database)
    load_settings.cache_clear()
    (tmp_path / "patient.csv").write_text(",".join(load_adapter("eicu").tables["patient"]) + "\n")
    shown = run("load", "eicu", "--path", str(tmp_path))
    assert "created empty: hospital, nursecharting, " in shown
    assert shown.endswith("Next: icu-forecast source check eicu, then icu-forecast ingest eicu.\n")
    load_settings.cache_clear()


@pytest.mark.soak
def test_a_run_through_prefect_that_we_refuse_shows_one_sentence_and_no_traceback(tmp_path, make_database):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ICU_", "PREFECT_"))} | {
        "ICU_HOME": str(tmp_path / "new"),
        "ICU_DATABASE_URL": make_database("refused").render_as_string(hide_password=False),
    }
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "forecast", "clif"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.count("No model serves clif yet") == 1
    assert "Finished in state Failed\n" in done.stderr


def test_the_program_ends_with_1_and_one_sentence_on_standard_error(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ICU_")} | {
        "ICU_HOME": str(tmp_path),
        "ICU_DATABASE_URL": "postgresql://someone:secret@127.0.0.1:9/x",
    }
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
        [sys.executable, "-m", "flows.cli", "doctor"],
        env={**os.environ, "ICU_DATABSE_URL": "x"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "ICU_DATABSE_URL" in done.stderr
