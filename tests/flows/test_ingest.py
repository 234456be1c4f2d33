"""The ingest flow on the real CLIF demo: incremental, safe to kill, and clear when the source is not right."""

import os
import signal
from datetime import UTC, datetime, timedelta

import killed
import pytest
from builders_sql import tuples
from hospital import site
from sqlalchemy import text

from flows.jobs.ingest import ingest
from flows.runtime.databases import open_source
from flows.runtime.settings import load_settings
from flows.runtime.steps import alone, recorded, step
from rnn_core.contracts.errors import ForecastError, QualityError, SourceError
from sql.intake import landing
from sql.intake.adapter import load_adapter
from sql.published import runs
from sql.store.engine import open_engine

AS_OF = datetime(2026, 1, 13, 12, tzinfo=UTC)

CONTENTS = {
    "stays": "select source, stay_id, available_at, patient_id, unit, unit_type, intime, outtime, outcome, died_at,"
    " hospital_outtime, age_years, sex, admission_type from icu.stay_version order by 1, 2, 3",
    "observations": "select source, stay_id, concept, observed_at, available_at, value from icu.observation"
    " order by 1, 2, 3, 4, 5",
    "quarantine": "select source, relation, row_hash, check_name, row::text, reason, disposition"
    " from quality.quarantine order by 1, 2, 3, 4",
    "units": "select source, unit, beds from icu.unit order by 1, 2",
    "watermark": "select max(watermark) from icu.batch where status = 'done'",
    "landing": "select relname from pg_class where relnamespace = 'landing'::regnamespace and relkind = 'r'"
    " and relname not in ('stay', 'observation', 'beds', 'planned')",
}


def contents(store) -> dict:
    """All that an ingest leaves, without the numbers and times of its batches."""
    with store.connect() as connection:
        return {name: [tuple(row) for row in connection.execute(text(query))] for name, query in CONTENTS.items()}


@pytest.fixture(scope="module")
def clif_source(small_clif_source):
    """What an installation of these tests reads."""
    return small_clif_source


@pytest.fixture(scope="module")
def clean_run(make_database, clif_source):
    """What one undisturbed pass up to AS_OF leaves."""
    from flows.runtime.databases import open_store
    from flows.runtime.settings import load_settings

    before = dict(os.environ)
    os.environ["ICU_DATABASE_URL"] = make_database("clean").render_as_string(hide_password=False)
    os.environ["ICU_SOURCES__CLIF__URL"] = clif_source.render_as_string(hide_password=False)
    load_settings.cache_clear()
    try:
        ingest.fn("clif", AS_OF)
        yield contents(open_store())
    finally:
        os.environ.clear()
        os.environ.update(before)
        load_settings.cache_clear()


def test_one_pass_takes_over_real_rows_and_quarantines_the_bad_ones_with_reasons(clean_run):
    assert len(clean_run["stays"]) > 20 and len(clean_run["observations"]) > 7_000
    checks = {row[3] for row in clean_run["quarantine"]}
    assert {"implausible_value", "duplicate_key", "text_in_a_number"} <= checks
    assert all(row[5] for row in clean_run["quarantine"])
    assert clean_run["landing"] == []


def test_slices_of_any_size_leave_the_same_tables_as_one_pass(installation, clean_run):
    """From an hour to longer than the overlap."""
    for hours in (96, 36, 35, 12, 1, 0):
        ingest.fn("clif", AS_OF - timedelta(hours=hours))
    assert contents(installation) == clean_run


def test_ingesting_again_and_reconciling_change_nothing(installation, clean_run):
    ingest.fn("clif", AS_OF)
    again = ingest.fn("clif", AS_OF)
    assert (again["stay versions added"], again["observations added"]) == (0, 0)
    assert again["observations read"] > 0, "the overlap is read again"
    ingest.fn("clif", AS_OF, reconcile=True)
    assert contents(installation) == clean_run


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    ["land", *(pytest.param(s, marks=pytest.mark.soak) for s in ("cast_and_map", "check", "quarantine", "finish"))],
)
def test_a_killed_ingest_run_again_leaves_the_same_tables_as_a_clean_one(installation, clean_run, stage):
    assert killed.run("ingest", stage, AS_OF.isoformat()) == -signal.SIGKILL
    assert contents(installation)["observations"] == []
    ingest.fn("clif", AS_OF)
    assert contents(installation) == clean_run
    with installation.connect() as connection:
        states = connection.execute(text("select status from icu.batch order by batch_id")).scalars().all()
    assert states == ["abandoned", "done"]


def test_an_ingest_never_takes_over_what_was_not_known_at_its_time(clean_run):
    stamp = clean_run["watermark"][0][0]
    assert stamp <= AS_OF
    assert all(row[2] <= AS_OF for row in clean_run["stays"])
    assert all(row[4] <= AS_OF for row in clean_run["observations"])


def test_a_dry_run_tells_the_findings_and_takes_nothing_over(installation):
    found = ingest.fn("clif", AS_OF, dry_run=True)
    assert found["observation: implausible_value"] > 0
    after = contents(installation)
    assert after["observations"] == after["quarantine"] == after["landing"] == []


def _only_sentence(error) -> str:
    sentence = str(error.value)
    assert "\n" not in sentence
    return sentence


def test_an_unreachable_source_stops_the_run_with_one_sentence(installation, monkeypatch):
    from flows.runtime.settings import load_settings

    monkeypatch.setenv("ICU_SOURCES__CLIF__URL", "postgresql+psycopg://reader:secret@127.0.0.1:9/hospital")
    load_settings.cache_clear()
    with pytest.raises(SourceError) as error:
        ingest.fn("clif", AS_OF)
    sentence = _only_sentence(error)
    assert "does not answer" in sentence and "secret" not in sentence
    with installation.connect() as connection:
        run = connection.execute(text("select status, error from forecast.run order by run_id desc limit 1")).one()
    assert run.status == "failed" and run.error == sentence


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("alter table vitals rename to vitals_old", "public.vitals"),
        ("alter table labs rename column lab_result_dttm to resulted", "lab_result_dttm"),
    ],
)
def test_a_missing_table_or_column_is_named_and_nothing_is_taken_over(
    installation, make_database, small_clif_template, monkeypatch, change, named
):
    from flows.runtime.settings import load_settings

    broken = open_engine(make_database("broken", small_clif_template))
    with broken.begin() as connection:
        connection.exec_driver_sql(change)
    monkeypatch.setenv("ICU_SOURCES__CLIF__URL", broken.url.render_as_string(hide_password=False))
    load_settings.cache_clear()
    with pytest.raises(SourceError) as error:
        ingest.fn("clif", AS_OF)
    assert named in _only_sentence(error)
    assert contents(installation)["observations"] == []


def test_a_changed_unit_stops_the_run_and_names_the_check(
    installation, make_database, small_clif_template, monkeypatch
):
    from flows.runtime.settings import load_settings

    changed = open_engine(make_database("fahrenheit", small_clif_template))
    with changed.begin() as connection:
        connection.exec_driver_sql(
            "update vitals set vital_value = vital_value * 1.8 + 32 where vital_category = 'temp_c'"
        )
    monkeypatch.setenv("ICU_SOURCES__CLIF__URL", changed.url.render_as_string(hide_password=False))
    load_settings.cache_clear()
    with pytest.raises(QualityError, match="units_fit_the_concepts"):
        ingest.fn("clif", AS_OF)
    assert contents(installation)["observations"] == []


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_source_in_another_encoding_is_ingested_and_a_byte_that_is_no_text_costs_its_row(
    installation, make_database, monkeypatch, encoding
):
    source = open_engine(make_database("encoded", encoding=encoding))
    names = site.build(source)
    monkeypatch.setenv("ICU_SOURCES__SITE__URL", source.url.render_as_string(hide_password=False))
    monkeypatch.setenv("ICU_SOURCES__SITE__DATA_TIMEZONE", "UTC")
    load_settings.cache_clear()
    umlaut = {"LATIN1": r"\xfc", "SQL_ASCII": r"\xc3\xbc"}[encoding]
    with source.begin() as connection:
        connection.exec_driver_sql(f"update ward_stay set ward = E'Innere S{umlaut}d'")
        if encoding == "SQL_ASCII":
            connection.exec_driver_sql(r"update ward_stay set ward = E'S\xfcd' where stay_no = '" + names["2"] + "'")
    ingest.fn("site", AS_OF + timedelta(days=100))
    units = dict(tuples(installation, "select stay_id, unit from icu.stay_version group by 1, 2"))
    rejected = tuples(installation, "select distinct check_name from quality.quarantine where relation = 'stay'")
    odd = {names["2"]} if encoding == "SQL_ASCII" else set()
    assert set(units) == set(names.values()) - odd and set(units.values()) == {"Innere Süd"}
    assert rejected == ([("unreadable_text",)] if odd else [])


def test_a_source_is_opened_read_only_and_moved_by_as_many_days_as_are_set(installation, monkeypatch):
    adapter, engine = open_source("clif")
    assert adapter.shift_days == 0
    monkeypatch.setenv("ICU_SOURCES__CLIF__SHIFT_DAYS", "-73052")
    load_settings.cache_clear()
    assert open_source("clif")[0].shift_days == -73052
    with pytest.raises(Exception, match="read-only"), engine.begin() as connection:
        connection.exec_driver_sql("delete from vitals")


def test_two_ingests_of_one_source_do_not_run_at_once(installation):
    with alone(installation, "clif", "ingest"), pytest.raises(ForecastError, match="is running"):
        ingest.fn("clif", AS_OF)
    rows = "select kind, as_of, status, left(error, 22) from forecast.run"
    refused = ("ingest", AS_OF, "refused", "Another ingest of clif")
    assert tuples(installation, rows) == [refused]
    assert tuples(installation, "select * from forecast.run_health") == [], "it says nothing about the health of ingest"


def test_an_ingest_that_was_taken_for_dead_accepts_nothing(installation, monkeypatch):
    """Its lock was lost, and another ingest of the source closed it."""
    check = landing.check

    def check_while_another_begins(*given):
        runs.close_dead_runs(installation, "clif", "ingest")
        return check(*given)

    monkeypatch.setattr(landing, "check", check_while_another_begins)
    with pytest.raises(ForecastError, match="is marked failed and cannot publish"):
        ingest.fn("clif", AS_OF)
    found = contents(installation)
    assert (found["stays"], found["observations"], found["quarantine"]) == ([], [], [])
    assert tuples(installation, "select status, watermark from icu.batch") == [("failed", None)]


def test_a_step_of_a_run_that_was_taken_for_dead_does_not_begin_and_one_whose_database_is_away_does(installation):
    begun = []
    next_step = step("next")(begun.append)
    with pytest.raises(ForecastError, match="is marked failed"), recorded(installation, "clif", "ingest", AS_OF) as run:
        next_step(1)
        runs.close_dead_runs(installation, "clif", "ingest")
        run.engine = open_engine("postgresql://nobody@127.0.0.1:1/none")
        next_step(2)
        run.engine = installation
        next_step(3)
    next_step(4)
    assert begun == [1, 2, 4]


def test_an_ingest_that_cannot_open_its_source_is_recorded_with_its_sentence(installation, monkeypatch):
    monkeypatch.setenv("ICU_SOURCES__CLIF__DB_SCHEMA", "public")
    monkeypatch.setenv("ICU_SOURCES__CLIF__SCHEMAS__HOSP", "elsewhere")
    load_settings.cache_clear()
    for options in ({"dry_run": True}, {}):
        with pytest.raises(ForecastError, match="has no schema hosp"):
            ingest.fn("clif", AS_OF, **options)
    (row,) = tuples(installation, "select kind, status, error, finished_at is not null from forecast.run")
    assert row[:2] == ("ingest", "failed") and "has no schema hosp" in row[2] and row[3]
    for nobody in ("clfi", "nowhere"):
        with pytest.raises(ForecastError, match="has no adapter"):
            ingest.fn(nobody, AS_OF)
    assert runs.known_sources(installation) == ["clif"], "a misspelt name is no source to watch"


def test_deaths_charted_before_the_end_are_clipped_and_recorded(clean_run):
    corrected = [row for row in clean_run["quarantine"] if row[3] == "death_shortly_before_charted_end"]
    died = [row for row in clean_run["stays"] if row[8] == "died"]
    assert corrected and all(row[6] == "corrected" for row in corrected)
    assert died and all(row[7] <= row[9] + timedelta(hours=1) for row in died)


def test_variables_that_no_concept_takes_are_counted_and_not_copied(installation):
    counts = ingest.fn("clif", AS_OF)
    unused = {line.variable for line in load_adapter("clif").concept_map if line.concept is None}
    with installation.connect() as connection:
        counted = connection.execute(text("select unmapped from icu.batch where status = 'done'")).scalar_one()
    assert counts["rows not mapped"] == sum(counted.values()) > 0
    assert set(counted) <= unused
