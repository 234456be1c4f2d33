"""Migrations give the tables of the schema, and the views are rebuilt without losing what people had built on them."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from builders_sql import NOW, SOURCE, add_model, forecasts, migrated, rows
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from rnn_core.contracts.errors import ForecastError
from rnn_core.statistics.metric import METRICS
from sql.intake.reading import BEGINNING
from sql.published import results, runs
from sql.store import migrate, rebuild_views
from sql.store.engine import open_engine
from sql.store.schema import SCHEMAS, metadata

# What compare_metadata does not look at: checks, keys, indexes, defaults, identities, comments, unlogged tables.
_CATALOG = """
select 'constraint' as kind, conrelid::regclass::text as relation, conname as name,
    pg_get_constraintdef(oid) as definition
from pg_constraint where connamespace = any(select oid from pg_namespace where nspname = any(:schemas))
union all
select 'index', indexrelid::regclass::text, '', pg_get_indexdef(indexrelid)
from pg_index join pg_class c on c.oid = indexrelid join pg_namespace n on n.oid = c.relnamespace
where nspname = any(:schemas)
union all
select 'table', c.oid::regclass::text, '', concat_ws(' ', c.relpersistence, pg_get_partkeydef(c.oid))
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where nspname = any(:schemas) and relkind = any(array['r', 'p'])
union all
select 'column', attrelid::regclass::text, attname, concat_ws(' ',
    row_number() over (partition by attrelid order by attnum), format_type(atttypid, atttypmod), attnotnull,
    attidentity, pg_get_expr(adbin, adrelid), col_description(attrelid, attnum))
from pg_attribute join pg_class c on c.oid = attrelid join pg_namespace n on n.oid = c.relnamespace
left join pg_attrdef on adrelid = attrelid and adnum = attnum
where nspname = any(:schemas) and relkind = any(array['r', 'p']) and attnum > 0 and not attisdropped
order by 1, 2, 3, 4
"""


def catalog(engine):
    return rows(engine, _CATALOG, schemas=list(SCHEMAS))


def make_stale(engine):
    """Let the view of who is at risk look like one of an earlier version."""
    with engine.begin() as connection:
        connection.execute(text("comment on view forecast.current_risk is 'icu-forecast 0123456789abcdef'"))


@pytest.fixture
def engine(make_database):
    with migrated(make_database()) as engine:
        yield engine


def test_a_migrated_database_equals_the_metadata(engine):
    options = {"include_schemas": True, "include_name": lambda name, kind, _: kind != "schema" or name in SCHEMAS}
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


def test_checks_indexes_defaults_and_persistence_equal_the_metadata_too(engine, make_database):
    other = open_engine(make_database())
    with other.begin() as connection:
        for schema in SCHEMAS:
            connection.execute(text(f"create schema {schema}"))
        metadata.create_all(connection)
    assert catalog(engine) == catalog(other)
    other.dispose()


def test_observations_and_beds_survive_the_revisions_after_the_first(make_database):
    engine = open_engine(make_database())
    with engine.begin() as connection:
        command.upgrade(migrate._config(connection), "0001")
        connection.execute(
            text("insert into icu.observation values ('hospital', 's1', 'heart_rate', now(), now(), 80, 1)")
        )
        connection.execute(text("insert into icu.unit (source, unit, beds) values ('hospital', 'ICU1', 12)"))
    assert migrate.upgrade(engine) == migrate.newest_revision()
    assert rows(engine, "select stay_id, value from icu.observation") == [{"stay_id": "s1", "value": 80.0}]
    (beds,) = rows(engine, "select unit, available_at, beds, staffed_beds from icu.unit_at('1990-01-01')")
    assert beds == {"unit": "ICU1", "available_at": BEGINNING, "beds": 12, "staffed_beds": None}
    with engine.begin() as connection:
        rebuild_views.drop(connection)
        command.downgrade(migrate._config(connection), "0014")
    assert rows(engine, "select * from icu.unit") == [{"source": "hospital", "unit": "ICU1", "beds": 12}]
    engine.dispose()


def test_scores_and_metrics_stored_under_earlier_names_are_read_under_todays(make_database):
    engine = open_engine(make_database())
    value = {"value": 0.5, "low": None, "high": None, "n": 7}
    stored = {
        "n_stays": {"learned": 9},
        "metrics": dict.fromkeys(
            ["mortality_auroc", "los_mean_absolute_error_days", "baseline_prolonged_stay_brier"], value
        ),
        "groups": {"sex": {"female": {"auroc": value, "los_mae_days": value}}, "age": {}},
    }
    with engine.begin() as connection:
        command.upgrade(migrate._config(connection), "0009")
        connection.execute(
            text(
                "insert into forecast.model (model_id, name, source, version, stage, data_cutoff, artifact, config, metrics)"
                " select id, 'stay', 'ward', number, 'candidate', now(), id, '{}', cast(metrics as jsonb)"
                " from (values ('old', 1, :old), ('unit', 2, :unit)) model (id, number, metrics)"
            ),
            {"old": json.dumps(stored), "unit": json.dumps({"test_mse": 4.0})},
        )
        run_id = connection.execute(
            text(
                "insert into forecast.run (kind, source, as_of, status) values ('evaluate', 'ward', now(), 'published')"
                " returning run_id"
            )
        ).scalar_one()
        connection.execute(
            text(
                "insert into forecast.score (run_id, model_id, source, unit, month, metric, value, n)"
                " select :run_id, 'old', 'ward', 'all', 'all', metric, 0.5, 7"
                " from unnest(array['los_mean_absolute_error_days', 'prolonged_stay_auroc', 'mortality_brier']) metric"
            ),
            {"run_id": run_id},
        )
    migrate.upgrade(engine)
    found = {row["model_id"]: row["metrics"] for row in rows(engine, "select model_id, metrics from forecast.model")}
    assert found["unit"] == {"test_mse": 4.0} and found["old"]["n_stays"] == {"learned": 9}
    assert found["old"]["metrics"] == dict.fromkeys(
        ["mortality_auroc", "los_mae_days", "baseline_prolonged_brier"], value
    )
    assert found["old"]["groups"] == {"sex": {"female": {"mortality_auroc": value, "los_mae_days": value}}, "age": {}}
    named = {row["metric"] for row in rows(engine, "select metric from forecast.score")}
    assert named == {"los_mae_days", "prolonged_auroc", "mortality_brier"} <= set(METRICS)
    with engine.begin() as connection:
        rebuild_views.drop(connection)
        command.downgrade(migrate._config(connection), "0009")
    assert rows(engine, "select metrics from forecast.model where model_id = 'old'") == [{"metrics": stored}]
    engine.dispose()


def test_the_version_before_holds_a_forecast_without_a_risk_of_death_as_an_abstention(make_database):
    engine = open_engine(make_database())
    migrate.upgrade(engine)
    add_model(engine, "m1")
    run_id = runs.start_run(engine, SOURCE, "forecast", NOW, model_id="m1")
    nothing = {"mortality_risk": None, "risk_band": None, "status_reason": "outcome_not_learned"}
    stays = forecasts({"s1": 0.5, "s2": 0.5}).assign(**nothing)
    slot = {"model_id": "m1", "source": SOURCE, "prediction_time": NOW}
    results.publish(engine, results.Publication(run_id=run_id, stays=stays, **slot))
    with engine.begin() as connection:
        rebuild_views.drop(connection)
        command.downgrade(migrate._config(connection), "0011")
    found = rows(engine, "select status, remaining_los_p50_hours, discharge_24h_prob from forecast.stay_forecast")
    assert found == [{"status": "abstained", "remaining_los_p50_hours": None, "discharge_24h_prob": None}] * 2
    engine.dispose()


def test_forecasts_of_before_become_one_partition_also_after_an_upgrade_that_was_killed(published):
    query = "select * from forecast.stay_forecast order by prediction_time, stay_id"
    real = rows(published, query)
    with published.begin() as connection:
        rebuild_views.drop(connection)
        command.downgrade(migrate._config(connection), "0019")
        connection.exec_driver_sql("grant insert on forecast.stay_forecast to public")
        connection.exec_driver_sql("create view forecast.mine as select stay_id from forecast.stay_forecast")
    with pytest.raises(ForecastError, match=r"something of yours reads it: forecast\.mine"):
        migrate.upgrade(published)

    def die(connection, _cursor, statement, *_):
        if "attach partition" in statement and "do $$" in statement:
            with published.connect() as other:
                pid = connection.connection.driver_connection.info.backend_pid
                other.execute(text("select pg_terminate_backend(:pid)"), {"pid": pid})

    with published.begin() as connection:
        connection.exec_driver_sql("drop view forecast.mine")
    event.listen(published, "after_cursor_execute", die)
    with pytest.raises(DBAPIError):
        migrate.upgrade(published)
    event.remove(published, "after_cursor_execute", die)
    assert rows(published, query) == real and not months(published)
    migrate.upgrade(published)
    assert rows(published, query) == real and len(real) > 10
    assert months(published) == ["stay_forecast_before"]
    rights = "select has_table_privilege('public', 'forecast.stay_forecast', 'insert') as ok"
    rights += " union all select has_function_privilege('public', 'forecast.add_month(timestamptz)', 'execute')"
    assert rows(published, rights) == [{"ok": True}] * 2


def test_a_month_gets_a_partition_when_it_is_first_published(engine):
    for at in ("2031-01-31 23:59+00", "2031-01-01 00:00+00", "2031-02-01 00:30+01", "2031-02-01 00:00+00"):
        with engine.begin() as connection:
            # The clock of the session does not matter.
            connection.exec_driver_sql("set local timezone = 'Asia/Kolkata'; set local datestyle = 'German'")
            connection.execute(text("select forecast.add_month(:at)"), {"at": at})
    assert months(engine) == ["stay_forecast_2031_01", "stay_forecast_2031_02"]


def months(engine) -> list[str]:
    query = (
        "select inhrelid::regclass::text as name from pg_inherits where inhparent = 'forecast.stay_forecast'::regclass"
    )
    return sorted(row["name"].removeprefix("forecast.") for row in rows(engine, query))


def test_landing_tables_are_unlogged(engine):
    found = rows(
        engine,
        "select relname, relpersistence::text as persistence from pg_class"
        " where relnamespace = 'landing'::regnamespace and relkind = 'r' order by 1",
    )
    names = ("beds", "observation", "planned", "stay")
    assert found == [{"relname": name, "persistence": "u"} for name in names]


def test_a_second_upgrade_touches_nothing(engine):
    query = "select oid, relname, xmin::text from pg_class where relname ~ 'stay|risk|census' order by oid"
    before = rows(engine, query)
    assert migrate.upgrade(engine) == migrate.newest_revision()
    assert rows(engine, query) == before


def test_two_upgrades_at_once_both_succeed(make_database):
    url = make_database()
    engines = [open_engine(url) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(migrate.upgrade, engines)) == [migrate.newest_revision()] * 2
    with engines[0].connect() as connection:
        assert rebuild_views.are_current(connection)
    for engine in engines:
        engine.dispose()


def test_a_changed_view_is_rebuilt(engine):
    make_stale(engine)
    with engine.connect() as connection:
        assert not rebuild_views.are_current(connection)
    migrate.upgrade(engine)
    with engine.connect() as connection:
        assert rebuild_views.are_current(connection)


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("create view reports.mine as select stay_id from forecast.current_risk", "reports.mine"),
        ("create view reports.mine as select stay_id from icu.stay_at(now())", "reports.mine"),
        ("create materialized view reports.mine as select fault from quality.stay_audit", "reports.mine"),
        ("create view reports.mine as select fault from quality.stay_audit_at(now())", "reports.mine"),
        (
            "create function reports.mine() returns bigint language sql"
            " begin atomic select count(*) from icu.stay; end",
            "reports.mine()",
        ),
    ],
)
def test_what_depends_on_a_view_of_ours_is_named_and_nothing_is_changed(engine, statement, named):
    with engine.begin() as connection:
        connection.execute(text("create schema reports"))
        connection.execute(text(statement))
    make_stale(engine)
    query = "select c.oid, relname from pg_class c where relkind = 'v' and relname ~ 'stay|risk|census' order by 1"
    before = rows(engine, query)
    with pytest.raises(ForecastError, match="something of yours reads them") as caught:
        migrate.upgrade(engine)
    assert named in str(caught.value)
    assert rows(engine, query) == before


def test_grants_survive_a_rebuild_down_to_columns_and_grant_options(engine):
    with engine.begin() as connection:
        for role in ("bed_manager", "analyst"):
            if not connection.execute(text("select 1 from pg_roles where rolname = :role"), {"role": role}).scalar():
                connection.execute(text(f"create role {role}"))
        connection.execute(text("grant usage on schema forecast, icu to analyst"))
        connection.execute(text("grant select on forecast.current_risk to bed_manager with grant option"))
        connection.execute(text("grant select (stay_id, mortality_risk) on forecast.risk_history to analyst"))
        connection.execute(text("grant select on forecast.scorecard to public"))
        connection.execute(text("revoke execute on function icu.stay_at from public"))
        connection.execute(text("grant execute on function icu.stay_at to bed_manager"))
    query = """
        select relname::text, relacl::text as acl from pg_class where relkind = 'v' and relacl is not null
            and relnamespace = 'forecast'::regnamespace
        union all select attname, attacl::text from pg_attribute
            where attrelid = 'forecast.risk_history'::regclass and attacl is not null
        union all select proname, proacl::text from pg_proc where proname = 'stay_at' order by 1
    """
    before = rows(engine, query)
    assert [row["relname"] for row in before] == ["current_risk", "mortality_risk", "scorecard", "stay_at", "stay_id"]
    make_stale(engine)
    migrate.upgrade(engine)
    assert rows(engine, query) == before


def test_the_right_to_read_a_view_is_enough_to_read_it(engine):
    with engine.begin() as connection:
        if not connection.execute(text("select 1 from pg_roles where rolname = 'reader'")).scalar():
            connection.execute(text("create role reader"))
        connection.execute(text("grant usage on schema icu, quality, forecast, clif to reader"))
        readable = [relation for relation in rebuild_views.RELATIONS if not rebuild_views.is_function(relation)]
        for relation in readable:
            connection.execute(text(f"grant select on {relation} to reader"))
    with engine.connect() as connection:
        connection.execute(text("set role reader"))
        for relation in readable:
            assert connection.execute(text(f"select count(*) from {relation}")).scalar_one() == 0
        connection.rollback()


def test_every_file_of_views_is_a_relation_with_a_header():
    files = {path.stem for path in (Path(rebuild_views.__file__).parents[1] / "views").glob("*.sql")}
    assert files == set(rebuild_views.RELATIONS)
    for relation in rebuild_views.RELATIONS:
        assert "-- include" not in rebuild_views.definition(relation)
        for word in ("-- Grain:", "-- Purpose:", "-- Units:"):
            assert word in rebuild_views.definition(relation)
