"""Brings a database to the schema of this version: tables by Alembic, then our views rebuilt, all in one transaction."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from sql.store import rebuild_views

_FOLDER = Path(__file__).resolve().parents[1] / "migrations"


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    config.attributes["connection"] = connection
    return config


def upgrade(engine: Engine) -> str:
    """Migrate to the newest revision and rebuild the views; the revision. Safe to call at any time and by many at once.

    Raises ForecastError, and changes nothing, if a view that is not ours depends on one of ours.
    """
    with engine.begin() as connection:
        # Two workers that start together queue here instead of racing.
        connection.execute(text("select pg_advisory_xact_lock(hashtextextended('icu-forecast migrate', 0))"))
        connection.execute(text("set local lock_timeout = '30s'"))
        if current_revision(connection) == newest_revision() and rebuild_views.are_current(connection):
            return newest_revision()
        grants = rebuild_views.drop(connection)
        command.upgrade(_config(connection), "head")
        rebuild_views.create(connection, grants)
    return newest_revision()


@cache
def newest_revision() -> str:
    """Of the migrations that came with this version; read once, since every job opens the store."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def current_revision(connection: Connection) -> str | None:
    """Revision of the database, None if it was never migrated."""
    options = {"version_table": "icu_forecast_version", "version_table_schema": "public"}
    return MigrationContext.configure(connection, opts=options).get_current_revision()
