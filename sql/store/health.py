"""Health checks of our database: which one it is, rights that its user lacks, missing indices."""

from sqlalchemy import Engine, text

from sql.store.schema import SCHEMAS, metadata

_GRANTED = """
select schema from unnest(cast(:schemas as text[])) schema
where has_schema_privilege(current_user, schema, 'usage, create')
"""
_IDENTITY = """
select concat(system_identifier, '/', d.oid) from pg_control_system(), pg_database d where d.datname = current_database()
"""
_VALID_INDICES = "select c.relname from pg_index i join pg_class c on c.oid = i.indexrelid where i.indisvalid"


def identity(engine: Engine) -> str:
    """The same for everybody who is connected to this database of this server, whatever the host, user and password."""
    with engine.connect() as connection:
        return connection.execute(text(_IDENTITY)).scalar_one()


def lacking_grants(engine: Engine) -> list[str]:
    """Our schemas in which this user lacks usage or create, in the order of SCHEMAS."""
    with engine.connect() as connection:
        granted = set(connection.execute(text(_GRANTED), {"schemas": list(SCHEMAS)}).scalars())
    return [schema for schema in SCHEMAS if schema not in granted]


def declared_indices() -> set[str]:
    """Names of the indices that `sql/store/schema.py` declares, without keys."""
    return {str(index.name) for table in metadata.tables.values() for index in table.indexes}


def missing_indices(engine: Engine) -> list[str]:
    """Names of declared indices that the database lacks or holds as invalid, sorted."""
    with engine.connect() as connection:
        found = set(connection.execute(text(_VALID_INDICES)).scalars())
    return sorted(declared_indices() - found)
