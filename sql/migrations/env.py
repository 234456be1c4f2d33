"""Alembic's entry: runs our migrations on the connection that `migrate.upgrade` hands over."""

from alembic import context

from sql.store.schema import SCHEMAS, metadata


def include_name(name: str | None, kind: str, parents: dict) -> bool:
    return name in SCHEMAS if kind == "schema" else True


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_schemas=True,
    include_name=include_name,
    version_table="icu_forecast_version",
    version_table_schema="public",
    transactional_ddl=True,
)
context.run_migrations()
