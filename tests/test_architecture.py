"""The architecture as tests: what loads what, and that every module says what it is for."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(p for floor in ("flows", "sql", "rnn_core") for p in (ROOT / floor).rglob("*.py"))
FLOWS = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "flows").rglob("*.py"))
    if path.stem != "__init__"
]


def test_importing_the_flows_to_run_them_directly_loads_no_library_that_takes_seconds():
    code = "import sys, importlib\nfrom flows.runtime import flow\nflow.run_directly()\n"
    code += f"for name in {FLOWS!r}: importlib.import_module(name)\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert not {"tensorflow", "keras", "great_expectations", "prefect", "sklearn", "matplotlib"} & set(loaded.split())


def test_the_help_loads_no_library_that_takes_seconds():
    code = "import sys\nfrom typer.testing import CliRunner\nfrom flows.cli import app\n"
    code += "print(CliRunner().invoke(app, ['--help']).exit_code, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    exit_code, *loaded = done.split()
    assert exit_code == "0"
    assert not {"tensorflow", "keras", "prefect", "great_expectations", "sqlalchemy", "pandas"} & set(loaded)


def test_the_contracts_load_numpy_and_pandas_only():
    code = "import sys\nfrom rnn_core.contracts import concepts, config, errors, frames, groups, known\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert not {"tensorflow", "keras", "sklearn", "scipy", "sqlalchemy", "prefect"} & set(loaded.split())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_in_its_first_line_what_it_is_for(path):
    tree = ast.parse(path.read_text())
    docstring = ast.get_docstring(tree)
    assert docstring and len(docstring.splitlines()[0]) > 20
    assert isinstance(tree.body[0], ast.Expr)


def drawn_layers(floor: str) -> list[set[str]]:
    """The rooms of a floor in the diagram of docs/architecture.md, from the top down: siblings share a layer."""
    document = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (chain,) = re.findall(rf'^    subgraph {floor}\[".+"\]\n +(.+)\n    end$', document, re.MULTILINE)
    return [set(layer.split(" & ")) for layer in chain.split(" --> ")]


@pytest.mark.parametrize("floor", ["flows", "sql", "rnn_core"])
def test_the_diagram_draws_every_room_once_in_the_order_of_the_import_contract(floor):
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = [contract["layers"] for contract in contracts if contract.get("containers") == [floor]]
    assert drawn_layers(floor) == [set(re.split(r" [:|] ", layer)) for layer in layers]


@pytest.mark.parametrize("floor", ["flows", "sql", "rnn_core"])
def test_the_diagram_and_the_table_of_rooms_hold_what_the_folders_hold(floor):
    modules = {path.stem for path in (ROOT / floor).glob("*.py")} - {"__init__"}
    rooms = {path.parent.name for path in (ROOT / floor).glob("*/__init__.py")}
    drawn = [room for layer in drawn_layers(floor) for room in layer]
    assert sorted(drawn) == sorted(rooms | modules)
    document = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    described = re.findall(rf"^\| `{floor}/(\w+)(?:\.py)?` \|", document, re.MULTILINE)
    assert sorted(described) == sorted(drawn)


def test_only_the_settings_read_the_environment():
    readers = [p for p in MODULES if "os.environ" in p.read_text() or "getenv" in p.read_text()]
    # psql passes the environment on to a child, it reads nothing from it.
    assert {str(p.relative_to(ROOT)) for p in readers} == {"flows/runtime/settings.py", "sql/store/embedded.py"}


def test_no_module_is_named_for_nothing():
    assert not [p for p in MODULES if p.stem in {"utils", "util", "helpers", "helper", "manager", "common", "misc"}]


STATEMENT = re.compile(
    r"\s*(select\s|with\s+\w+\s+as\b|insert\s+into\s|update\s+\S+\s+(as\s+\w+\s+)?set\b|delete\s+from\s)",
    re.IGNORECASE,
)


def statements(source: str) -> list[str]:
    """What a module holds of SQL: imports of SQLAlchemy's building blocks, and strings that begin as a statement does."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in ("sqlalchemy", "psycopg"):
            allowed = {"Engine", "URL"} if node.module == "sqlalchemy" else set()
            names = {name.name for name in node.names} - allowed
            found += sorted(names) if node.module != "sqlalchemy.exc" else []
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and STATEMENT.match(node.value):
            found.append(node.value)
    return found


@pytest.mark.parametrize("path", [p for p in MODULES if p.is_relative_to(ROOT / "flows")], ids=lambda p: p.stem)
def test_statements_of_sql_stand_under_sql_alone(path):
    assert statements(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "from sqlalchemy import text",
        "from psycopg.sql import SQL",
        "q = 'select 1'",
        "q = '\\nwith a as (select 1) select * from a'",
        "q = 'update icu.batch as b set status = 1'",
        "q = f'delete from {table}'",
    ],
)
def test_a_statement_of_sql_is_recognised(line):
    assert statements(line)
