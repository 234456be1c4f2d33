"""Our views and functions: one file each in `views/`, dropped before a migration, rebuilt and re-granted after it."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sqlalchemy import Connection, text

from rnn_core.errors import ForecastError

_FOLDER = Path(__file__).parent / "views"

# In order of dependence: a relation may read those before it.
RELATIONS: tuple[str, ...] = (
    "icu.stay_at",
    "icu.stay",
    "quality.stay_audit",
    "forecast.current_risk",
    "forecast.risk_history",
    "forecast.unit_census",
    "forecast.forecast_outcome",
    "forecast.scorecard",
    "forecast.run_health",
    "forecast.quarantine_summary",
)


@dataclass(frozen=True)
class Grant:
    relation: str
    grantee: str
    privilege: str


@cache
def definition(relation: str) -> str:
    """The file's text: a SELECT for a view, a whole `create function` for a function."""
    return (_FOLDER / f"{relation}.sql").read_text()


def is_function(relation: str) -> bool:
    return "create function" in definition(relation)


def _fingerprint(relation: str) -> str:
    return "icu-forecast " + hashlib.sha256(definition(relation).encode()).hexdigest()[:16]


def are_current(connection: Connection) -> bool:
    """Whether every view and function of this version stands in the database as its file says."""
    query = text(
        "select n.nspname || '.' || c.relname, obj_description(c.oid, 'pg_class')"
        " from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relkind = 'v'"
        " union all select n.nspname || '.' || p.proname, obj_description(p.oid, 'pg_proc')"
        " from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
    )
    comments = {name: comment or "" for name, comment in connection.execute(query)}
    return all(comments.get(relation, "").endswith(_fingerprint(relation)) for relation in RELATIONS)


def drop(connection: Connection) -> list[Grant]:
    """Drop our views, those of earlier versions too; returns who had been granted what on them.

    Raises ForecastError naming the foreign views that depend on ours.
    """
    ours = _existing(connection)
    if foreign := _foreign_dependents(connection, ours):
        raise ForecastError(
            f"The upgrade rebuilds icu-forecast's views, but these views of yours read them: {', '.join(foreign)}. "
            "Drop them, run `icu-forecast db migrate`, and create them again."
        )
    grants = _grants(connection)
    for kind, name in reversed(ours):
        connection.execute(text(f"drop {kind} {name} cascade"))
    return [grant for grant in grants if grant.relation in {name.split("(")[0] for _, name in ours}]


def create(connection: Connection, grants: list[Grant]) -> None:
    """Create every view and function of this version and give back the grants they had."""
    for relation in RELATIONS:
        body, kind = definition(relation), "function" if is_function(relation) else "view"
        sql = body if kind == "function" else f"create view {relation} as\n{body}"
        # The driver's own call, since the text is ours and holds colons that are not parameters.
        connection.exec_driver_sql(sql)
        comment = f"{_summary(body)} {_fingerprint(relation)}".replace("'", "''")
        connection.exec_driver_sql(f"comment on {kind} {relation} is '{comment}'")
    quote = connection.dialect.identifier_preparer.quote
    for grant in grants:
        if grant.relation in RELATIONS:
            on = f"function {grant.relation}" if grant.privilege == "EXECUTE" else grant.relation
            grantee = "public" if grant.grantee == "PUBLIC" else quote(grant.grantee)
            connection.exec_driver_sql(f"grant {grant.privilege} on {on} to {grantee}")


def _summary(body: str) -> str:
    """The header's first comment line."""
    return next((line[3:].strip() for line in body.splitlines() if line.startswith("-- ")), "")


def _existing(connection: Connection) -> list[tuple[str, str]]:
    """Views and functions that carry our comment, oldest first."""
    query = text(
        "select kind, name from ("
        " select c.oid, 'view' as kind, n.nspname || '.' || c.relname as name"
        " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where c.relkind = 'v' and obj_description(c.oid, 'pg_class') ~ 'icu-forecast [0-9a-f]{16}$'"
        " union all"
        " select p.oid, 'function', n.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')'"
        " from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
        " where obj_description(p.oid, 'pg_proc') ~ 'icu-forecast [0-9a-f]{16}$') ours order by oid"
    )
    return [(kind, name) for kind, name in connection.execute(query)]


def _foreign_dependents(connection: Connection, ours: list[tuple[str, str]]) -> list[str]:
    names = [name.split("(")[0] for _, name in ours]
    query = text(
        "select distinct dn.nspname || '.' || dv.relname"
        " from pg_depend d join pg_rewrite r on r.oid = d.objid join pg_class dv on dv.oid = r.ev_class"
        " join pg_namespace dn on dn.oid = dv.relnamespace"
        " left join pg_class c on d.refclassid = 'pg_class'::regclass and c.oid = d.refobjid"
        " left join pg_proc p on d.refclassid = 'pg_proc'::regclass and p.oid = d.refobjid"
        " join pg_namespace n on n.oid = coalesce(c.relnamespace, p.pronamespace)"
        " where n.nspname || '.' || coalesce(c.relname, p.proname) = any(:names)"
        " and dn.nspname || '.' || dv.relname <> all(:names) order by 1"
    )
    return list(connection.execute(query, {"names": names}).scalars())


def _grants(connection: Connection) -> list[Grant]:
    query = text(
        "select table_schema || '.' || table_name, grantee, privilege_type from information_schema.table_privileges"
        " where grantee <> grantor union all"
        " select routine_schema || '.' || routine_name, grantee, privilege_type from information_schema.routine_privileges"
        " where grantee <> grantor"
    )
    return [Grant(*row) for row in connection.execute(query)]
