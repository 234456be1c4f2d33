"""The shipped roles: each can do its work and nothing of another's."""

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from builders_sql import rows, tuples
from sqlalchemy import text
from sqlalchemy.dialects import mssql, mysql, oracle, postgresql, sqlite
from sqlalchemy.exc import ProgrammingError

from flows.jobs.evaluate import evaluate
from flows.jobs.forecast import forecast
from flows.jobs.ingest import ingest
from flows.jobs.train import train
from flows.runtime.settings import load_settings
from rnn_core.contracts.errors import ForecastError
from sql.intake.adapter import load_adapter
from sql.intake.catalogue import check_source
from sql.intake.reading import read_observations, read_stays
from sql.store import migrate, rebuild_views, refusals
from sql.store.engine import open_engine

AT = datetime(2026, 1, 19, tzinfo=UTC)
ROLES = (Path(rebuild_views.__file__).parents[1] / "roles.sql").read_text()
KINDS = ("migrator", "job", "analyst")
RUN = "insert into forecast.run (source, kind, as_of) values ('s', 'train', now())"


def run_file(connection) -> None:
    """As psql would: as it stands, without placeholders."""
    connection.connection.driver_connection.execute(ROLES)


@pytest.fixture
def engines(make_database):
    """A database that the migrator migrated, seen by a user of each role, and by the superuser."""
    url = make_database("roles")
    owner = open_engine(url)
    with owner.begin() as connection:
        run_file(connection)
        for kind in KINDS:
            connection.exec_driver_sql(
                f"do $$ begin if not exists (select from pg_roles where rolname = 'user_{kind}') then"
                f" create user user_{kind} in role icu_forecast_{kind} password 'not-a-secret'; end if; end $$"
            )
        # As a user of the role would say, so that the tables belong to the role.
        connection.exec_driver_sql("alter user user_migrator set role icu_forecast_migrator")
    found = {kind: open_engine(url.set(username=f"user_{kind}", password="not-a-secret")) for kind in KINDS}
    migrate.upgrade(found["migrator"])
    with owner.begin() as connection:
        run_file(connection)
        run_file(connection)
    return {**found, "owner": owner}


def refused(engine, statement: str) -> bool:
    with pytest.raises(ProgrammingError) as error, engine.begin() as connection:
        connection.execute(text(statement))
    return "permission denied" in str(error.value) or "must be owner" in str(error.value)


@pytest.mark.parametrize("source", ["clif", pytest.param("mimic_iii", marks=pytest.mark.soak)])
def test_the_reader_of_a_source_selects_what_the_adapter_reads_and_nothing_else(request, source):
    url = request.getfixturevalue(f"{source}_source")
    owner, adapter, role = open_engine(url), load_adapter(source), f"reader_of_{source}"
    with owner.begin() as connection:
        connection.exec_driver_sql(f"create user {role} password 'not-a-secret'")
        for statement in adapter.grants(role, owner.dialect):
            connection.exec_driver_sql(statement)
    reader = open_engine(url.set(username=role, password="not-a-secret"))
    check_source(adapter, reader)
    since, until = datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
    for read in (read_stays, read_observations):
        assert next(read(adapter, reader, since, until)).num_rows > 0
    schema, table, _ = next(adapter.relations())
    assert refused(reader, f"select * from {schema}.{table}"), "columns that nobody needs"
    assert refused(reader, f"delete from {schema}.{table}") and refused(reader, f"create table {schema}.mine (a int)")
    with owner.begin() as connection:
        connection.exec_driver_sql(f"drop owned by {role}; drop user {role}")


@pytest.mark.parametrize(
    ("dialect", "first", "last"),
    [
        (postgresql, 'grant usage on schema "ward" to "reader";', 'grant select ("a", "b") on "ward"."t" to "reader";'),
        (mysql, None, "grant select (`a`, `b`) on `ward`.`t` to `reader`;"),
        (mssql, None, "grant select on [ward].[t] ([a], [b]) to [reader];"),
        (oracle, None, "grant select on ward.t to reader;"),
    ],
    ids=["postgresql", "mysql", "mssql", "oracle"],
)
def test_grants_are_spelt_as_the_engine_of_the_source_takes_them(dialect, first, last):
    adapter = replace(load_adapter("clif"), tables={"t": ["a", "b"]}, schemas={"schema": "ward"})
    assert adapter.grants("reader", dialect.dialect()) == [line for line in (first, last) if line]
    with pytest.raises(ForecastError, match="it is a file"):
        adapter.grants("reader", sqlite.dialect())


@pytest.fixture
def job_url(engines):
    """URL of a user with the rights of a job, and as many connections as docs/scale.md says that one needs."""
    user = f"user_job_{os.getpid()}"
    with engines["owner"].begin() as connection:
        connection.exec_driver_sql(
            f"create user {user} in role icu_forecast_job password 'not-a-secret' connection limit 6"
        )
    yield engines["job"].url.set(username=user)
    with engines["owner"].begin() as connection:
        connection.exec_driver_sql(f"drop owned by {user}; drop user {user}")


def test_the_job_does_all_its_work_with_the_jobs_rights_alone_and_six_connections(
    engines, job_url, clif_source, tmp_path, monkeypatch
):
    monkeypatch.setattr(refusals, "FREE_WITHIN", 1.0)
    monkeypatch.setenv("ICU_HOME", str(tmp_path))
    monkeypatch.setenv("ICU_DATABASE_URL", job_url.render_as_string(hide_password=False))
    monkeypatch.setenv("ICU_SOURCES__CLIF__URL", clif_source.render_as_string(hide_password=False))
    load_settings.cache_clear()
    assert ingest.fn("clif", AT)["observations added"] > 20_000
    train.fn("clif", AT, epochs=1, members=2, forecaster="trees")
    assert forecast.fn("clif", AT)["stays_scored"] > 10
    evaluate.fn("clif", AT)
    assert len(rows(engines["analyst"], "select * from forecast.current_risk")) > 10
    load_settings.cache_clear()


def test_the_analyst_asks_on_the_command_line_too(engines, monkeypatch):
    from flows.inspection.query import run_query

    monkeypatch.setenv("ICU_DATABASE_URL", engines["analyst"].url.render_as_string(hide_password=False))
    load_settings.cache_clear()
    assert run_query("select count(*) as n from forecast.current_risk") == [{"n": 0}]
    with pytest.raises(ForecastError, match="permission denied for table run"):
        run_query("select * from forecast.run")
    load_settings.cache_clear()


def test_the_analyst_reads_every_view_of_forecast_and_no_table_or_canonical_row(engines):
    for relation in (r for r in rebuild_views.RELATIONS if r.startswith(("forecast.", "clif."))):
        tuples(engines["analyst"], f"select * from {relation}")
    tables = tuples(
        engines["owner"],
        "select schemaname || '.' || tablename from pg_tables where schemaname = any(:s)",
        s=["icu", "landing", "quality", "forecast"],
    )
    assert len(tables) > 15
    for (table,) in tables:
        assert refused(engines["analyst"], f"select * from {table}"), table
    for relation in ("icu.stay", "icu.stay_at(now())", "quality.stay_audit"):
        assert refused(engines["analyst"], f"select * from {relation}")
    assert refused(engines["analyst"], RUN)


def test_the_job_changes_rows_and_no_table(engines):
    with engines["job"].begin() as connection:
        connection.execute(text(RUN))
    for statement in (
        "drop table forecast.run",
        "alter table icu.observation drop constraint pk_observation",
        "create table forecast.mine (n int)",
        "truncate icu.observation",
    ):
        assert refused(engines["job"], statement), statement
