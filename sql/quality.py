"""Runs the suites of `expectations/` in the database through Great Expectations and moves failing rows to quarantine."""

import logging
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import yaml
from sqlalchemy import Connection, Engine, insert, text

from rnn_core.errors import QualityError
from sql.copy import copy_arrow
from sql.schema import check_result, stay_forecast

_FOLDER = Path(__file__).parent / "expectations"


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
    data = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text())
    checks = []
    for entry in data["checks"]:
        where = entry.get("where")
        query = entry.pop("query", None) or f"select row_id from (select * from {{batch}}) as rows where {where}"
        checks.append(Check(query=query, **entry))
    return tuple(checks)


def validate(engine: Engine, suite: str, relation: str) -> list[CheckOutcome]:
    """Run a suite over the committed table `relation` (schema.table) by push-down; an outcome per check, in order.

    Raises QualityError where a check itself cannot run, which is a fault of the suite.
    """
    import great_expectations as gx
    from great_expectations.datasource.fluent import GxDatasourceWarning
    from great_expectations.expectations import UnexpectedRowsExpectation

    # It tells of each temporary folder it makes, and advises a class that refuses the socket addresses we connect to.
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
    by_name = {result.expectation_config.meta["check"]: result for result in results.results}
    return [_outcome(suite, check, by_name[check.name]) for check in checks]


def _outcome(suite: str, check: Check, result: Any) -> CheckOutcome:
    # The exception's own text may quote a row, so only its place is told.
    if (result.exception_info or {}).get("raised_exception") or "observed_value" not in result.result:
        raise QualityError(
            f"The check {check.name} of {suite}.yaml could not run in the database; its SQL does not fit the relation's "
            "columns. Mend the suite; nothing of this batch was taken over."
        )
    return CheckOutcome(check, bool(result.success), int(result.result["observed_value"]))


def record(
    connection: Connection, outcomes: list[CheckOutcome], *, suite: str, source: str, rows_checked: int,
    batch_id: int | None = None, run_id: int | None = None,
) -> None:  # fmt: skip
    """Keep the counts of every check in quality.check_result."""
    rows = [
        {
            "batch_id": batch_id, "run_id": run_id, "source": source, "suite": suite, "check_name": o.check.name,
            "severity": o.check.severity, "passed": o.passed, "rows_checked": rows_checked, "rows_failed": o.rows_failed,
        }
        for o in outcomes
    ]  # fmt: skip
    if rows:
        connection.execute(insert(check_result), rows)


def require_no_critical(outcomes: list[CheckOutcome]) -> None:
    """Raises QualityError with the advice of the first critical check that failed."""
    for outcome in outcomes:
        if outcome.check.severity == "critical" and not outcome.passed:
            raise QualityError(
                f"The critical check {outcome.check.name} failed ({outcome.rows_failed} findings). "
                f"{' '.join(outcome.check.advice.split())}"
            )


def quarantine(
    connection: Connection, outcomes: list[CheckOutcome], *, relation: str, checked: str, landed: str, source: str,
    batch_id: int,
) -> int:  # fmt: skip
    """Move the rows of `checked` that failed a check to quality.quarantine, or correct them; the rows rejected.

    `landed` holds the same row_ids as they came; what is kept is the row as it came. A row is rejected for the first
    check that it fails.
    """
    rejected = corrected = 0
    for outcome in outcomes:
        check = outcome.check
        # The outcomes are those of the rows as they came: once any was corrected, a check that passed may fail.
        if check.where is None or (outcome.passed and not corrected):
            continue
        rows = _move(connection, check, relation, checked, landed, source, batch_id)
        if check.correct:
            corrected += rows
        else:
            rejected += rows
    return rejected


def _move(
    connection: Connection, check: Check, relation: str, checked: str, landed: str, source: str, batch_id: int
) -> int:
    """Keep the faulty rows in quarantine as they came, and take them out of `checked` or correct them there; how many.

    The faulty rows are written down first and counted by ANALYZE: in one statement the planner takes them for a single
    row and scans the whole batch once per row.
    """
    where = check.where.replace("{batch}", checked)
    reason = "cast(:reason as text)" + (f" || ': ' || ({check.detail})" if check.detail else "")
    connection.exec_driver_sql("create temporary table faulty (row_id bigint, reason text) on commit drop")
    found = connection.execute(
        text(f"insert into faulty select row_id, {reason} from {checked} as rows where {where}"),
        {"reason": check.reason},
    ).rowcount
    connection.exec_driver_sql("analyze faulty")
    connection.execute(
        text(
            "insert into quality.quarantine"
            " (source, relation, row_hash, check_name, batch_id, row, reason, disposition)"
            " select :source, :relation, md5(kept.row::text), :check, :batch_id, kept.row, faulty.reason, :disposition"
            f" from {landed} as landed join faulty using (row_id)"
            " cross join lateral (select to_jsonb(landed) - 'batch_id' - 'row_id' as row) kept"
            " on conflict do nothing"
        ),
        {
            "source": source, "relation": relation, "check": check.name, "batch_id": batch_id,
            "disposition": "corrected" if check.correct else "rejected",
        },
    )  # fmt: skip
    change = f"update {checked} as rows set {check.correct}" if check.correct else f"delete from {checked} as rows"
    connection.exec_driver_sql(f"{change} where row_id in (select row_id from faulty)")
    connection.exec_driver_sql("drop table faulty")
    return found


def check_forecasts(engine: Engine, run_id: int, source: str, forecasts: pd.DataFrame) -> None:
    """Validate the rows of a run, before anyone can read them, with the suite `forecast`.

    Raises QualityError where one fails; the counts are kept either way.
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
