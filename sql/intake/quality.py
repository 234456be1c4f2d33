"""Runs the suites of `expectations/` in the database through Great Expectations and moves failing rows to quarantine."""

import logging
import sys
import warnings
from dataclasses import dataclass
from functools import cache
from importlib.util import LazyLoader, find_spec, module_from_spec
from typing import Any

import pandas as pd
import pyarrow as pa
import yaml
from sqlalchemy import Connection, Engine, insert, text
from sqlalchemy.exc import DBAPIError

from rnn_core.contracts.errors import ForecastError, QualityError
from sql.store.copy import copy_arrow
from sql.store.refusals import is_refused_connection, when_free
from sql.store.schema import check_result, stay_forecast
from sql.store.statements import read_statement


@dataclass(frozen=True)
class Check:
    """One check: `query` returns a row per fault; `where` selects the faulty rows of the relation."""

    name: str
    severity: str
    query: str
    where: str | None = None
    correct: str | None = None
    reason: str = ""
    detail: str | None = None
    advice: str = ""


@dataclass(frozen=True)
class CheckOutcome:
    """Counts only: the values that failed stay in the database."""

    check: Check
    passed: bool
    rows_failed: int


@cache
def load_suite(name: str) -> tuple[Check, ...]:
    """The checks of `expectations/<name>.yaml`, in the order in which rows are quarantined for them."""
    suite = _read_suite(name)
    checks = []
    for entry in suite["checks"]:
        where = entry.get("where")
        if where and "only" in suite:
            where = f"{suite['only']} and ({where})"
        query = f"select row_id from (select * from {{batch}}) as rows where {where}"
        checks.append(Check(**{"query": query} | entry | {"where": where}))
    return tuple(checks)


def any_fault(name: str) -> str:
    """The SQL condition that a row fails some check of `expectations/<name>.yaml`."""
    return " or ".join(f"({entry['where']})" for entry in _read_suite(name)["checks"] if "where" in entry)


@cache
def _read_suite(name: str) -> dict[str, Any]:
    return yaml.safe_load(read_statement(f"expectations/{name}.yaml"))


def validate(engine: Engine, suite: str, relation: str) -> list[CheckOutcome]:
    """Run a suite over the committed table `relation` (schema.table) by push-down; an outcome per check, in order.

    Raises QualityError if a check itself cannot run, which is a fault of the suite, and ForecastError where the database has
    had no free connection for a minute.
    """
    found = when_free(engine, lambda: _by_check(engine, suite, relation), of=_NoConnection)
    return [_outcome(suite, check, found[check.name]) for check in load_suite(suite)]


class _NoConnection(ForecastError):
    """Great Expectations found no free connection."""

    def __init__(self, suite: str) -> None:
        super().__init__(
            f"The checks of {suite}.yaml found no free connection of the database of icu-forecast; give its user more (a job "
            "needs up to six, docs/scale.md), or start fewer workers. Nothing of this batch was accepted."
        )


def _by_check(engine: Engine, suite: str, relation: str) -> dict[str, Any]:
    """What Great Expectations found, by check. Raises _NoConnection."""
    try:
        results = _run(engine, suite, relation)
    except ConnectionError as error:
        if isinstance(error.__cause__, DBAPIError) and is_refused_connection(error.__cause__):
            raise _NoConnection(suite) from None
        raise
    # The class of an error of a statement is one below it.
    if any("(psycopg.OperationalError)" in str(result.exception_info) for result in results):
        raise _NoConnection(suite)
    return {result.expectation_config.meta["check"]: result for result in results}


def _run(engine: Engine, suite: str, relation: str) -> list[Any]:
    _import_lazily("scipy.stats")
    import great_expectations as gx
    from great_expectations.datasource.fluent import GxDatasourceWarning
    from great_expectations.expectations import UnexpectedRowsExpectation

    # It logs each temporary folder it creates, and recommends a class that refuses our socket URLs.
    logging.getLogger("great_expectations.data_context.types.base").disabled = True
    warnings.filterwarnings("ignore", category=GxDatasourceWarning)
    checks = load_suite(suite)
    schema, table = relation.split(".")
    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    # A dollar sign would start a substitution in Great Expectations' configuration.
    url = engine.url.render_as_string(hide_password=False).replace("$", r"\$")
    source = context.data_sources.add_sql("icu_forecast", connection_string=url)
    try:
        asset = source.add_table_asset(table, table_name=table, schema_name=schema)
        batch = asset.add_batch_definition_whole_table("landed").get_batch()
        expectations = [
            UnexpectedRowsExpectation(
                unexpected_rows_query=check.query.strip(), severity=check.severity, meta={"check": check.name}
            )
            for check in checks
        ]
        results = batch.validate(
            gx.ExpectationSuite(name=suite, expectations=expectations),
            result_format={"result_format": "SUMMARY", "partial_unexpected_count": 0},
        )
    finally:
        source.get_execution_engine().close()
        # It keeps a pool besides, until it is collected.
        source.get_engine().dispose()
    return results.results


def _import_lazily(name: str) -> None:
    """Let whoever imports a module have it, and load it once something in it is used.

    Great Expectations imports some for checks that are not ours: a second of every job.
    """
    if name not in sys.modules and (spec := find_spec(name)) and spec.loader:
        spec.loader = LazyLoader(spec.loader)
        module = sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(module)
        package, _, own = name.rpartition(".")
        if package:
            # Without it `from package import own` looks into the module, which loads it.
            setattr(sys.modules[package], own, module)


def _outcome(suite: str, check: Check, result: Any) -> CheckOutcome:
    # The exception's own text may quote a row, so only its place is reported.
    if (result.exception_info or {}).get("raised_exception") or "observed_value" not in result.result:
        raise QualityError(
            f"The check {check.name} of {suite}.yaml could not run in the database; its SQL does not fit the relation's "
            "columns. Fix the suite; nothing of this batch was accepted."
        )
    return CheckOutcome(check, bool(result.success), int(result.result["observed_value"]))


def record(
    connection: Connection,
    outcomes: list[CheckOutcome],
    *,
    suite: str,
    source: str,
    rows_checked: int,
    batch_id: int | None = None,
    run_id: int | None = None,
) -> None:
    """Store the counts of every check in quality.check_result."""
    rows = [
        {
            "batch_id": batch_id,
            "run_id": run_id,
            "source": source,
            "suite": suite,
            "check_name": o.check.name,
            "severity": o.check.severity,
            "passed": o.passed,
            "rows_checked": rows_checked,
            "rows_failed": o.rows_failed,
        }
        for o in outcomes
    ]
    if rows:
        connection.execute(insert(check_result), rows)


_NEWEST_RESULTS = """
select distinct on (suite, check_name) suite, check_name, severity, rows_checked, rows_failed, checked_at,
    count(*) over runs as times, count(*) filter (where not passed) over runs as times_failed
from quality.check_result
where source = :source and checked_at > now() - make_interval(days => :days)
window runs as (partition by suite, check_name)
order by suite, check_name, checked_at desc
"""


def read_results(engine: Engine, source: str, days: int) -> dict[str, list[tuple[Check, dict[str, Any]]]]:
    """Per suite its checks in order, each with its newest result of the last `days` days; a suite that did not run then is
    left out.

    A result: severity, rows_checked, rows_failed and checked_at (UTC) of the newest time, and how many `times` the check
    ran in these days and failed (`times_failed`). Counts only: no row of a patient is in it.
    """
    with engine.connect() as connection:
        rows = connection.execute(text(_NEWEST_RESULTS), {"source": source, "days": days}).mappings().all()
    found = {(row["suite"], row["check_name"]): dict(row) for row in rows}
    suites = ("stay", "observation", "beds", "planned", "forecast")
    results = {
        suite: [(c, found[suite, c.name]) for c in load_suite(suite) if (suite, c.name) in found] for suite in suites
    }
    return {suite: checks for suite, checks in results.items() if checks}


def require_no_critical(outcomes: list[CheckOutcome]) -> None:
    """Raises QualityError with the advice of the first critical check that failed."""
    for outcome in outcomes:
        if outcome.check.severity == "critical" and not outcome.passed:
            raise QualityError(
                f"The critical check {outcome.check.name} failed ({outcome.rows_failed} findings). "
                f"{' '.join(outcome.check.advice.split())}"
            )


def quarantine(
    connection: Connection,
    outcomes: list[CheckOutcome],
    *,
    relation: str,
    checked: str,
    landed: str,
    source: str,
    batch_id: int,
) -> int:
    """Move the rows of `checked` that failed a check to quality.quarantine, or correct them; the rows rejected.

    row_id in `checked` is the place (ctid) of the raw row in `landed`; the raw row is quarantined. A row is rejected for
    the first check it fails.
    """
    connection.exec_driver_sql(
        "create temporary table faulty (row_id tid, check_name text, disposition text, reason text) on commit drop"
    )
    rows = {"rejected": 0, "corrected": 0}
    for outcome in outcomes:
        # Outcomes refer to the raw rows: after a correction, a check that passed may fail.
        if outcome.check.where and (rows["corrected"] or not outcome.passed):
            disposition = "corrected" if outcome.check.correct else "rejected"
            rows[disposition] += _take_out(connection, outcome.check, checked, disposition)
    # Analysed before the join: the planner has no statistics of a table just written.
    connection.exec_driver_sql("analyze faulty")
    # The rows are fetched by their place; any other join would read the whole batch for a few of its rows.
    connection.exec_driver_sql("set local enable_hashjoin = off; set local enable_mergejoin = off")
    connection.execute(
        text(_KEEP.format(landed=landed)), {"source": source, "relation": relation, "batch_id": batch_id}
    )
    connection.exec_driver_sql("set local enable_hashjoin = default; set local enable_mergejoin = default")
    connection.exec_driver_sql("drop table faulty")
    return rows["rejected"]


def _take_out(connection: Connection, check: Check, checked: str, disposition: str) -> int:
    """Remove the faulty rows from `checked`, or correct them there, and record them in `faulty`; how many."""
    reason = "cast(:reason as text)" + (f" || ': ' || ({check.detail})" if check.detail else "")
    change = f"update {checked} as rows set {check.correct}" if check.correct else f"delete from {checked} as rows"
    statement = (
        f"with found as ({change} where {check.where.replace('{batch}', checked)} returning row_id, {reason} as reason)"
        " insert into faulty select row_id, :check, :disposition, reason from found"
    )
    bound = {"reason": check.reason, "check": check.name, "disposition": disposition}
    return connection.execute(text(statement), bound).rowcount


_KEEP = """
insert into quality.quarantine (source, relation, row_hash, check_name, batch_id, row, reason, disposition)
select :source, :relation, md5(kept.row::text), faulty.check_name, :batch_id, kept.row, faulty.reason, faulty.disposition
from {landed} as landed join faulty on faulty.row_id = landed.ctid
cross join lateral (select to_jsonb(landed) as row) kept
on conflict do nothing
"""


def check_forecasts(engine: Engine, run_id: int, source: str, forecasts: pd.DataFrame) -> None:
    """Validate the rows of a run with the suite `forecast`, before anyone can read them.

    Raises QualityError if one fails; the counts are kept either way.
    """
    relation = f"landing.forecast_{run_id}"
    columns = [c for c in forecasts.columns if c in stay_forecast.c]
    with engine.begin() as connection:
        names = ", ".join(columns)
        connection.exec_driver_sql(f"drop table if exists {relation}")
        connection.exec_driver_sql(
            f"create unlogged table {relation} as select {names} from forecast.stay_forecast with no data"
        )
        copy_arrow(connection, relation, pa.Table.from_pandas(forecasts[columns], preserve_index=False))
    try:
        outcomes = validate(engine, "forecast", relation)
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"drop table if exists {relation}")
    with engine.begin() as connection:
        record(connection, outcomes, suite="forecast", source=source, rows_checked=len(forecasts), run_id=run_id)
    require_no_critical(outcomes)
