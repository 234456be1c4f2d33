"""Our views and functions: one file each in `views/`, dropped before a migration, rebuilt and re-granted after it."""

import hashlib
from dataclasses import dataclass

from psycopg.errors import DependentObjectsStillExist
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from rnn_core.contracts.errors import ForecastError
from sql.store.statements import read_statement

# In order of dependency: a relation may read those before it.
RELATIONS: tuple[str, ...] = (
    "quality.rejected_version",
    "icu.stay_at",
    "icu.stay",
    "icu.unit_at",
    "icu.planned_at",
    "quality.stay_audit_at",
    "quality.stay_audit",
    "forecast.current_risk",
    "forecast.current_driver",
    "forecast.fhir_risk_assessment",
    "forecast.risk_history",
    "forecast.unit_census",
    "forecast.unit_outlook",
    "forecast.tomorrow",
    "forecast.unit_forecast_outcome",
    "forecast.changes",
    "forecast.forecast_outcome",
    "forecast.alert_burden",
    "forecast.scorecard",
    "forecast.drift",
    "forecast.run_health",
    "forecast.quarantine_summary",
    "clif.scores",
    "clif.model_registry",
)


@dataclass(frozen=True)
class Grant:
    relation: str
    column: str | None
    grantee: str | None
    privilege: str
    with_grant_option: bool


def definition(relation: str) -> str:
    """The text of `views/<relation>.sql`: a SELECT for a view, a whole `create function` for a function."""
    return read_statement(f"views/{relation}.sql")


def is_function(relation: str) -> bool:
    return "create function" in definition(relation)


def _fingerprint(relation: str) -> str:
    return "icu-forecast " + hashlib.sha256(definition(relation).encode()).hexdigest()[:16]


def are_current(connection: Connection) -> bool:
    """Whether every view and function in the database equals its file in this version."""
    query = text(
        "select n.nspname || '.' || c.relname, obj_description(c.oid, 'pg_class')"
        " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where c.relkind = 'v' and n.nspname = any(:schemas)"
        " union all select n.nspname || '.' || p.proname, obj_description(p.oid, 'pg_proc')"
        " from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = any(:schemas)"
    )
    schemas = sorted({relation.split(".")[0] for relation in RELATIONS})
    comments = {name: comment or "" for name, comment in connection.execute(query, {"schemas": schemas})}
    return all(comments.get(relation, "").endswith(_fingerprint(relation)) for relation in RELATIONS)


def drop(connection: Connection) -> list[Grant]:
    """Drop our views, including those of earlier versions; returns their grants, down to columns.

    Raises ForecastError naming what else in the database depends on ours.
    """
    grants = _grants(connection)
    # A function may read a view; no view calls a function.
    for kind in ("function", "view"):
        if ours := _existing(connection, kind):
            try:
                connection.exec_driver_sql(f"drop {kind} {', '.join(ours)}")
            except DBAPIError as error:
                if not isinstance(error.orig, DependentObjectsStillExist):
                    raise
                dependents = (error.orig.diag.message_detail or "").replace("\n", "; ")
                raise ForecastError(
                    f"The upgrade rebuilds icu-forecast's views, but something of yours reads them: {dependents}. "
                    "Drop it, run `icu-forecast db migrate`, and create it again."
                ) from None
    return grants


def create(connection: Connection, grants: list[Grant]) -> None:
    """Create every view and function of this version and give back the grants they had."""
    # The text is sent unchanged: its percent signs are not parameters.
    plain = {"no_parameters": True}
    for relation in RELATIONS:
        body, kind = definition(relation), "function" if is_function(relation) else "view"
        sql = body if kind == "function" else f"create view {relation} as\n{body}"
        connection.exec_driver_sql(sql, execution_options=plain)
        comment = f"{_summary(body)} {_fingerprint(relation)}".replace("'", "''")
        connection.exec_driver_sql(f"comment on {kind} {relation} is '{comment}'", execution_options=plain)
    _restore(connection, grants)


def _restore(connection: Connection, grants: list[Grant]) -> None:
    quote = connection.dialect.identifier_preparer.quote
    for relation in {g.relation for g in grants if g.relation in RELATIONS and is_function(g.relation)}:
        # A new function is executable by public; keep an earlier revoke.
        connection.exec_driver_sql(f"revoke all on function {relation} from public")
    for grant in grants:
        if grant.relation in RELATIONS:
            what = f"({quote(grant.column)})" if grant.column else ""
            on = f"function {grant.relation}" if is_function(grant.relation) else grant.relation
            to = quote(grant.grantee) if grant.grantee else "public"
            option = " with grant option" if grant.with_grant_option else ""
            connection.exec_driver_sql(f"grant {grant.privilege} {what} on {on} to {to}{option}")


def _summary(body: str) -> str:
    """The header's first comment line."""
    return next((line[3:].strip() for line in body.splitlines() if line.startswith("-- ")), "")


def _existing(connection: Connection, kind: str) -> list[str]:
    """Views or functions (with their arguments) that carry our comment."""
    query = {
        "view": "select format('%I.%I', n.nspname, c.relname)"
        " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where c.relkind = 'v' and obj_description(c.oid, 'pg_class') ~ 'icu-forecast [0-9a-f]{16}$'",
        "function": "select format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))"
        " from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
        " where obj_description(p.oid, 'pg_proc') ~ 'icu-forecast [0-9a-f]{16}$'",
    }[kind]
    return list(connection.execute(text(query)).scalars())


def _grants(connection: Connection) -> list[Grant]:
    """The grants on our relations; a null grantee is public."""
    query = text(
        "select n.nspname || '.' || o.name, o.column_name, r.rolname, a.privilege_type, a.is_grantable from ("
        " select relnamespace as namespace, relname as name, null as column_name, relacl as acl"
        " from pg_class where relkind = 'v'"
        " union all select c.relnamespace, c.relname, t.attname, t.attacl"
        " from pg_class c join pg_attribute t on t.attrelid = c.oid where c.relkind = 'v'"
        " union all select pronamespace, proname, null, coalesce(proacl, acldefault('f', proowner)) from pg_proc) o"
        " join pg_namespace n on n.oid = o.namespace cross join aclexplode(o.acl) a"
        " left join pg_roles r on r.oid = a.grantee where n.nspname || '.' || o.name = any(:relations)"
    )
    return [Grant(*row) for row in connection.execute(query, {"relations": list(RELATIONS)})]
