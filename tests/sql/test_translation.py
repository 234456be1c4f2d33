"""SELECTs in another dialect: nothing is lost on the way, and what cannot be carried over is named."""

import re
import shutil
from collections import Counter
from functools import cache

import pytest
import sqlglot
from sqlglot import exp
from typer.testing import CliRunner

from flows.cli import app
from rnn_core.contracts.errors import ForecastError
from sql.intake import adapter as adapters
from sql.intake.adapter import folder_of, load_adapter
from sql.intake.translation import _hide, _show, dialect_of, translate, translate_adapter

READ_BACK = {"mssql": "tsql", "oracle": "oracle", "mysql": "mysql", "snowflake": "snowflake", "bigquery": "bigquery"}
CASES = [("site", "mssql"), ("site", "oracle"), ("site", "mysql"), ("omop", "mssql"), ("omop", "oracle")]
CASES += [pytest.param("site", to, marks=pytest.mark.soak) for to in ("snowflake", "bigquery")]
translated = cache(translate_adapter)
# What the transpiler adds: an extra level where one row per key is kept, and its number.
ADDED = {"_t", "_row_number", "*", "infinity"}


def parsed(sql: str, dialect: str) -> exp.Expression:
    """The tree of a SELECT, its placeholders and bounds taken for names."""
    return sqlglot.parse_one(_hide(sql), read=dialect).transform(_without_own_name)


def _without_own_name(node: exp.Expression) -> exp.Expression:
    """`a as a` is `a`."""
    is_named_alike = isinstance(node, exp.Alias) and isinstance(node.this, exp.Column) and node.this.name == node.alias
    return node.this if is_named_alike else node


def skeleton(tree: exp.Expression) -> dict[str, object]:
    """What a SELECT reads and returns, whatever the dialect: tables, joins, columns, steps, texts and numbers, bounds."""
    first = tree.find(exp.Select, bfs=True)
    columns = Counter(column.name.lower() for column in tree.find_all(exp.Column))
    return {
        "returns": [shown.alias_or_name for shown in first.expressions] if first else [],
        "steps": [step.alias for step in tree.find_all(exp.CTE)],
        "tables": Counter(table.name for table in tree.find_all(exp.Table)),
        "outer joins": sum(join.side == "LEFT" for join in tree.find_all(exp.Join)),
        "unions": len(list(tree.find_all(exp.Union))),
        "columns": set(columns) - ADDED,
        "texts": {text.name for text in tree.find_all(exp.Literal) if re.fullmatch(r"[a-z_]{4,}|[A-Z]+\d?", text.name)}
        - ADDED,
        "bounds": {name: n for name, n in columns.items() if name.startswith("icu_bound_")},
    }


@pytest.mark.parametrize(("source", "to"), CASES)
def test_what_a_translated_select_reads_and_returns_is_what_the_first_did(source, to):
    for file in translated(source, to):
        name = file.path.name.replace(f".{to}", "")
        first = skeleton(parsed((folder_of(source) / name).read_text(), "postgres"))
        found = skeleton(parsed(file.sql, READ_BACK[to]))
        assert {k: v for k, v in found.items() if first[k] != v} == {}, (
            name,
            [first[k] for k in first if first[k] != found[k]],
        )
        assert set(re.findall(r"\{\w+\}", file.sql)) == set(
            re.findall(r"\{\w+\}", (folder_of(source) / name).read_text())
        )
        if source == "omop":
            continue  # Half a second each.
        # Read and written once more it is the same text: nothing in it is foreign to that dialect's grammar.
        body = file.sql.split("\n", 2)[2].strip()
        again = _show(parsed(body, READ_BACK[to]).sql(READ_BACK[to], pretty=True))
        assert parsed(again, READ_BACK[to]) == parsed(body, READ_BACK[to]), name


@pytest.mark.parametrize("to", ["mssql", "oracle"])
def test_where_a_condition_is_no_value_neither_is_used_for_the_other(to):
    for source in ("site", "omop"):
        for file in translated(source, to):
            tree = parsed(file.sql, READ_BACK[to])
            assert not list(tree.find_all(exp.Boolean, exp.NullSafeNEQ)), file.path.name
            for select in tree.find_all(exp.Select):
                shown = [s.unalias() for s in select.expressions]
                assert not [s for s in shown if isinstance(s, exp.Predicate | exp.Connector)], file.path.name
                assert not isinstance(getattr(select.args.get("where"), "this", None), exp.Column)
            assert not (to == "mssql" and list(tree.find_all(exp.Interval, exp.Window)) and tree.find(exp.Interval))


def test_what_differs_between_engines_is_rewritten():
    select = (
        "select *, ltrim(v, '<') as v, a is distinct from b as differs, x + interval '2 hours' as later, btrim(u, '<> ') as u,"
        " y + n * interval '1 hour' as last, greatest(a, b) as most"
        " from {schema}.t where (c between '2000-01-01' and :until) is not true and flag"
    )
    tsql, oracle, mysql = (translate(select, "postgresql", to).sql for to in ("mssql", "oracle", "mysql"))
    assert "DATEADD(HOUR, 2, x) AS later" in tsql and "DATEADD(SECOND, n * 3600, y) AS last" in tsql
    assert (
        "GREATEST(a, b)" in tsql and "GREATEST(COALESCE(a, b), COALESCE(b, a))" in oracle and "COALESCE(b, a)" in mysql
    )
    assert "flag <> 0" in tsql and "flag <> 0" in oracle and "AND flag" in mysql
    assert "t.*" in oracle and "LTRIM(RTRIM(u, '<> '), '<> ')" in oracle
    assert "TO_TIMESTAMP('2000-01-01 00:00:00', 'YYYY-MM-DD HH24:MI:SS')" in oracle
    assert "DATE_ADD(y, INTERVAL (n * 3600) SECOND)" in mysql and "x + INTERVAL '2' HOUR" in mysql
    assert all(sql.count(":until") == 1 and "{schema}" in sql for sql in (tsql, oracle, mysql))


def test_what_cannot_be_carried_over_is_in_doubt():
    doubts = {to: [d for file in translated("omop", to) for d in file.doubts] for to in ("mssql", "mysql", "oracle")}
    assert all(any(d.startswith("7 regular expressions") for d in of_one) for of_one in doubts.values())
    assert any("SQL Server 2022" in d for d in doubts["mssql"])
    trimmed = translate("select btrim(a, '<> ') from {schema}.t", "postgresql", "mysql")
    assert trimmed.doubts == ("TRIM takes '<> ' as one text there, not as a set of characters",)
    zoned = translate(
        "select a at time zone 'Europe/Zurich' as a, age(b, c) as b from {schema}.t", "postgresql", "oracle"
    )
    assert [d.split(" ")[0] for d in zoned.doubts] == ["AT", "functions"] and zoned.doubts[1].endswith(": AGE")
    assert not [d for file in translated("site", "mssql") for d in file.doubts]


def test_a_dialect_that_is_not_known_and_a_select_that_is_not_understood_are_named():
    assert dialect_of("TSQL") == "mssql" and dialect_of("mariadb") == "mysql"
    with pytest.raises(ForecastError, match=r"no dialect called 'sybase'; known are .*bigquery.*mssql.*oracle"):
        translate_adapter("site", "sybase")
    with pytest.raises(
        ForecastError, match="SELECTs of site are written for postgresql; there is nothing to translate"
    ):
        translate_adapter("site", "postgresql")
    with pytest.raises(ForecastError, match="Its line 2 is not understood as SQL of postgresql"):
        translate("select 1\nfrom from {schema}.t where", "postgresql", "oracle")


def test_the_template_for_mysql_is_what_the_command_writes():
    for file in translated("site", "mysql"):
        assert file.path.read_text() == file.sql, "run `icu-forecast source translate site --to mysql`"


def test_the_command_writes_files_that_the_adapter_then_reads(tmp_path, monkeypatch):
    shutil.copytree(folder_of("omop"), tmp_path / "omop")
    monkeypatch.setattr(adapters, "_FOLDER", tmp_path)
    run = CliRunner().invoke
    shown = run(app, ["source", "translate", "omop", "--to", "tsql", "--dry-run"])
    assert (
        shown.exit_code == 1
        and "-- stays.mssql.sql" in shown.output
        and "LOOK: stays.mssql.sql: 7 regular" in shown.output
    )
    assert not list(tmp_path.glob("omop/*.mssql.sql"))
    assert run(app, ["source", "translate", "omop", "--to", "tsql"]).exit_code == 1
    adapters._read_folder.cache_clear()
    assert load_adapter("omop").dialects == ("postgresql", "mssql")
    (tmp_path / "omop" / "observations.mssql.sql").unlink()
    adapters._read_folder.cache_clear()
    with pytest.raises(
        ForecastError, match=r"omop has SELECTs for mssql, but no observations\.mssql\.sql; `icu-forecast source"
    ):
        load_adapter("omop")
    adapters._read_folder.cache_clear()
