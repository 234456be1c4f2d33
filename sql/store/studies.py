"""Searches for settings in our database: the schema `tuning`, whose tables Optuna makes and reads itself."""

from typing import Any

from sqlalchemy import Engine, text

SCHEMA = "tuning"


def study_storage(engine: Engine) -> tuple[str, dict[str, Any]]:
    """URL and arguments of an engine for Optuna's tables, which are in a schema of their own; the schema is made."""
    with engine.begin() as connection:
        connection.execute(text(f"create schema if not exists {SCHEMA}"))
    options = f"-c timezone=UTC -c search_path={SCHEMA}"
    arguments = {"connect_args": {"options": options, "application_name": "icu-forecast"}, "pool_size": 1}
    return engine.url.render_as_string(hide_password=False), arguments


def has_studies(engine: Engine) -> bool:
    """Whether a search was ever made here."""
    with engine.connect() as connection:
        return connection.execute(text(f"select to_regclass('{SCHEMA}.studies') is not null")).scalar_one()
