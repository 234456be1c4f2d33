"""The documentation is complete and true: links resolve, names are those of the code, and the worked example runs."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer.main
from sqlalchemy import make_url, text

from flows.runtime.settings import Settings, SourceSettings
from rnn_core.contracts.concepts import CONCEPTS
from sql.store.rebuild_views import RELATIONS, is_function

ROOT = Path(__file__).resolve().parents[1]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def project_files() -> list[Path]:
    """Tracked files, and those that are about to be."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout of the repository: which files belong to it is not known")
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / name for name in listed if (ROOT / name).is_file()]


def blocks(name: str) -> dict[str, str]:
    """The fenced blocks of a document that are marked with `file=`, by that name."""
    return dict(re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", read(name), flags=re.MULTILINE | re.DOTALL))


# ------------------------------------------------------------------------------------------------ links and paths


def anchors(document: str) -> set[str]:
    """The names that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ +(.+?) *$", document, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_relative_link_leads_to_a_file_and_a_heading_that_exist():
    broken = []
    for file in (file for file in project_files() if file.suffix == ".md"):
        prose = re.sub(r"^```.*?^```$", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", prose):
            path, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", path):
                continue
            target = (file.parent / path).resolve() if path else file
            is_there = target.exists() and (not anchor or anchor in anchors(target.read_text(encoding="utf-8")))
            if not is_there:
                broken.append(f"{file.relative_to(ROOT)}: {link}")
    assert not broken


def defines(module: Path, name: str) -> bool:
    return bool(re.search(rf"^(?:def|class) {name}\b|^{name}\b.* = ", module.read_text(encoding="utf-8"), re.MULTILINE))


def is_in_the_code(dotted: str) -> bool:
    """Whether a dotted name is a package, a module, or a name that a module defines."""
    path = ROOT.joinpath(*dotted.split("."))
    parent = path.parent / "__init__.py" if path.parent.is_dir() else path.parent.with_suffix(".py")
    return path.is_dir() or path.with_suffix(".py").is_file() or (parent.is_file() and defines(parent, path.name))


def test_modules_and_paths_that_documents_name_exist():
    missing = []
    for file in (file for file in project_files() if file.suffix == ".md" and file.name != "CHANGELOG.md"):
        document = file.read_text(encoding="utf-8")
        modules = re.findall(r"`((?:flows|rnn_core|sql)(?:\.[a-z_]+)+)`", document)
        paths = re.findall(r"`((?:benchmarks|docs|flows|rnn_core|sql|tests)/[\w./]*)`", document)
        absent = [name for name in modules if not is_in_the_code(name)]
        absent += [name for name in paths if not (ROOT / name).exists()]
        missing += [f"{file.relative_to(ROOT)}: {name}" for name in absent]
    assert not missing


# Put together here, so that this file does not hold them.
FOREIGN = [
    "/" + "work/",
    "/" + "root/",
    "py" + "pi.org/simple",
    "files.python" + "hosted.org",
    "--index" + "-url",
    "--find" + "-links",
]


def test_no_file_names_a_path_of_a_machine_or_a_package_registry():
    found = []
    foreign = re.compile(r"(?<![\w.}-])(" + "|".join(map(re.escape, FOREIGN)) + ")")
    for file in project_files():
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{file.relative_to(ROOT)}, line {number}: {pattern}"
            for number, line in enumerate(lines, start=1)
            for pattern in foreign.findall(line)
        ]
    assert not found


# ------------------------------------------------------------------------------------------------ settings and commands


def setting_names() -> list[str]:
    names = [f"ICU_{name.upper()}" for name in Settings.model_fields if name != "sources"]
    return names + [f"ICU_SOURCES__<NAME>__{name.upper()}" for name in SourceSettings.model_fields]


@pytest.mark.parametrize("setting", setting_names())
def test_every_setting_is_in_the_example_file_and_in_the_table_of_operations(setting):
    assert re.search(rf"^# ?{re.escape(setting.replace('<NAME>', 'WARD'))}=", read(".env.example"), re.MULTILINE)
    assert f"| `{setting}` |" in read("docs/operations.md")


def test_documented_settings_exist():
    known = setting_names()
    for document in (".env.example", "docs/operations.md"):
        named = re.findall(r"\bICU_[A-Z_<>]+\b>?\w*", read(document).replace("__WARD__", "__<NAME>__"))
        assert {name for name in named if name not in known} == set()


def test_documented_defaults_are_those_of_the_code():
    table = read("docs/operations.md")
    for fields, prefix in ((Settings.model_fields, "ICU_"), (SourceSettings.model_fields, "ICU_SOURCES__<NAME>__")):
        for name, field in fields.items():
            if isinstance(field.default, str | int | float):
                default = f"{field.default:g}" if isinstance(field.default, float) else field.default
                assert f"| `{prefix}{name.upper()}` | `{default}` |" in table


def commands(group=None, prefix: str = "icu-forecast") -> Iterator[tuple[str, str]]:
    """Every command of the command line with its help text."""
    from flows.cli import app

    for name, command in (group or typer.main.get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command.help or ""


@pytest.mark.parametrize(("command", "help_text"), commands(), ids=[name for name, _ in commands()])
def test_every_command_shows_an_example_in_its_help_and_is_named_in_operations(command, help_text):
    assert re.search(rf"^ *Example: .*\b{command}\b", help_text, re.MULTILINE)
    assert re.search(rf"`{command}[ `]", read("docs/operations.md"))


def test_documented_commands_exist():
    known = [f"{name} " for name, _ in commands()]
    unknown = []
    for file in (file for file in project_files() if file.suffix == ".md"):
        # In a code span or called from the environment, so that prose may name the program.
        for line in re.findall(r"(?:`|bin/)(icu-forecast [a-z][^`\n]*)", file.read_text(encoding="utf-8")):
            if not f"{line} ".startswith(tuple(known)):
                unknown.append(f"{file.relative_to(ROOT)}: {line}")
    assert not unknown


def test_messages_that_operations_explains_are_in_the_code():
    table = read("docs/operations.md").split("| message contains |")[1].split("\n\n")[0]
    fragments = re.findall(r"`([^`]+)`", " ".join(row.split(" | ")[0] for row in table.splitlines()[2:]))
    sources = [
        path.read_text(encoding="utf-8")
        for floor in ("flows", "sql", "rnn_core")
        for path in (ROOT / floor).rglob("*.py")
    ]
    # A sentence may go over two literals of a source line each.
    code = re.sub(r'"\n\s+f?"', "", "\n".join(sources))
    assert len(fragments) > 15
    assert [fragment for fragment in fragments if fragment not in code] == []


# ------------------------------------------------------------------------------------------------ tables and packages


@pytest.mark.parametrize("relation", RELATIONS)
def test_every_view_is_named_in_the_architecture(relation):
    assert f"`{relation}`" in read("docs/architecture.md")


def test_every_table_is_named_in_the_architecture():
    from sql.store.schema import metadata

    document = read("docs/architecture.md")
    assert [name for name in metadata.tables if f"`{name}`" not in document] == []


def test_every_dependency_has_its_reason_in_the_decisions():
    project = tomllib.loads(read("pyproject.toml"))
    groups = [project["build-system"]["requires"], project["project"]["dependencies"]]
    groups += project["project"]["optional-dependencies"].values()
    packages = {re.split(r"[\[<>=;~ ]", requirement)[0] for group in groups for requirement in group}
    document = read("docs/decisions.md")
    assert [package for package in sorted(packages) if f"`{package}`" not in document] == []


def concept_table() -> str:
    rows = [
        f"| `{c.name}` | {c.unit} | {c.low:g} | {c.high:g} | {c.category} | {c.loinc or ''} |"
        f" {'' if c.carry_hours is None else f'{c.carry_hours:g} h'} | {'log' if c.log_scale else ''} |"
        for c in CONCEPTS
    ]
    head = ["| concept | unit | low | high | category | LOINC | carried for | scale |", "|---" * 8 + "|"]
    return "\n".join([*head, *rows, ""])


def test_the_concepts_of_the_data_dictionary_are_those_of_the_code():
    expected = concept_table()
    assert expected in read("docs/data-dictionary.md"), f"put this into docs/data-dictionary.md:\n{expected}"


def documented_columns(document: str, relation: str) -> list[str]:
    section = document.split(f"\n### `{relation}`\n")[1].split("\n#")[0]
    first_cells = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    return re.findall(r"`(\w+)`", " ".join(first_cells))


def test_the_columns_of_the_data_dictionary_are_those_of_the_database(make_database):
    from sql.store import migrate
    from sql.store.engine import open_engine

    engine = open_engine(make_database("dictionary"))
    migrate.upgrade(engine)
    query = text(
        "select column_name from information_schema.columns"
        " where table_schema || '.' || table_name = :relation order by ordinal_position"
    )
    document = read("docs/data-dictionary.md")
    views = [
        relation for relation in RELATIONS if relation.startswith(("forecast.", "clif.")) and not is_function(relation)
    ]
    with engine.connect() as connection:
        found = {view: list(connection.execute(query, {"relation": view}).scalars()) for view in views}
    engine.dispose()
    assert {view: documented_columns(document, view) for view in views} == found


# ------------------------------------------------------------------------------------------------ the worked example


@pytest.fixture
def ward(installation, make_database, tmp_path, monkeypatch):
    """The invented hospital of docs/your-own-database.md, as it stands there, read with the user that it makes."""
    from flows.runtime.settings import load_settings
    from sql.intake import adapter
    from sql.store.engine import open_engine

    files = blocks("docs/your-own-database.md")
    url = make_database("ward")
    owner = open_engine(url)
    with owner.begin() as connection:
        for name in ("hospital.sql", "rows.sql", "user.sql"):
            connection.exec_driver_sql(files[name], execution_options={"no_parameters": True})
    folder = tmp_path / "sources" / "ward"
    folder.mkdir(parents=True)
    for name in ("stays.sql", "observations.sql", "concept_map.csv", "source.yaml"):
        (folder / name).write_text(files[name], encoding="utf-8")
    monkeypatch.setattr(adapter, "_FOLDER", folder.parent)
    reader = url.set(username="icu_forecast_reader", password="change-me")
    monkeypatch.setenv("ICU_SOURCES__WARD__URL", reader.render_as_string(hide_password=False))
    monkeypatch.setenv("ICU_SOURCES__WARD__DB_SCHEMA", "ward")
    load_settings.cache_clear()
    yield files
    with owner.begin() as connection:
        connection.exec_driver_sql("drop owned by icu_forecast_reader")
        connection.exec_driver_sql("drop role icu_forecast_reader")
    owner.dispose()


def owner_of_the_ward():
    from flows.runtime.settings import load_settings
    from sql.store.engine import open_engine

    url = make_url(load_settings().source("ward").url.get_secret_value())
    return open_engine(url.set(username="postgres"))


AS_OF = datetime(2026, 1, 12, 6, tzinfo=UTC)


def test_the_worked_example_takes_over_and_quarantines_what_the_page_says(ward, installation):
    from flows.jobs.ingest import ingest

    counts = ingest.fn("ward", AS_OF)
    with installation.connect() as connection:

        def rows(query: str) -> list[tuple]:
            return [tuple(row) for row in connection.exec_driver_sql(query)]

        taken = rows("select concat_ws(' ', stay_id, concept, round(value::numeric, 1)) from icu.observation")
        stays = rows("select stay_id, outtime, age_years, height_cm, sex from icu.stay order by 1")
        rejected = rows("select check_name, row ->> 'value' from quality.quarantine order by 1")
        beds = dict(rows("select unit, beds from icu.unit"))
    assert sorted(line for (line,) in taken) == ward["taken.txt"].splitlines()
    assert stays == [("1", None, 69, 164, "female"), ("2", None, 35, None, "male")]
    assert rejected == [("implausible_value", "735"), ("text_in_a_number", "see note"), ("unknown_variable", "1")]
    assert (counts["rows not mapped"], beds) == (1, {"ICU1": 12, "ICU2": 8})


def test_the_end_of_the_worked_example_is_known_when_its_row_was_changed(ward, installation):
    from flows.jobs.ingest import ingest

    with owner_of_the_ward().begin() as connection:
        connection.exec_driver_sql(
            "insert into ward.bed_stay values"
            " (8, 'p3', 'ICU1', 'N', '2026-01-01 09:10', 'infinity', false, '2026-01-01 09:10'),"
            " (9, 'p3', 'ICU1', 'N', '-infinity', null, false, '2026-01-01 09:10');"
            "insert into ward.chart values (1, 'HF', null, null, '2026-01-10 10:04', '70'),"
            " (1, 'HF', null, '1900-01-01', '2026-01-10 10:04', '71'),"
            " (1, 'HF', null, 'infinity', 'infinity', '72')"
        )
    ingest.fn("ward", datetime(2026, 1, 13, tzinfo=UTC))
    lost = "select check_name, coalesce(row ->> 'value', row ->> 'stay_id') from quality.quarantine"
    with installation.connect() as connection:
        assert sorted(map(tuple, connection.exec_driver_sql(f"{lost} where check_name ~ 'time|long'"))) == [
            ("observed_long_before_stay", "71"),
            ("unreadable_time", "70"),
            ("unreadable_time", "72"),
            ("unreadable_time", "8"),
            ("unreadable_time", "9"),
        ]
    query = text("select outtime, outcome from icu.stay_at(:as_of) where stay_id = '1'")
    with installation.connect() as connection:
        before = connection.execute(query, {"as_of": datetime(2026, 1, 12, 15, 10, tzinfo=UTC)}).one()
        after = connection.execute(query, {"as_of": datetime(2026, 1, 12, 15, 20, tzinfo=UTC)}).one()
    assert tuple(before) == (None, None)
    assert tuple(after) == (datetime(2026, 1, 12, 15, tzinfo=UTC), "alive")


def test_the_check_of_the_worked_example_names_the_variable_that_has_no_line(ward):
    from flows.inspection.source_check import check

    report = check("ward", AS_OF)
    (fault,) = report.faults
    assert "'XYZ'" in fault and "concept_map.csv" in fault
    assert report.unmapped == [{"variable": "BEDPOS", "rows": 1}]


def test_the_query_of_the_readme_runs_on_current_risk(make_database):
    from sql.store import migrate
    from sql.store.engine import open_engine

    (query,) = re.findall(r"```sql\n(.+?)```", read("README.md"), re.DOTALL)
    engine = open_engine(make_database("readme"))
    migrate.upgrade(engine)
    with engine.connect() as connection:
        columns = list(connection.execute(text(query)).keys())
    engine.dispose()
    assert columns[:5] == ["unit", "stay_id", "hours_in_stay", "mortality_risk", "risk_band"]


def test_the_readme_shows_only_make_targets_and_commands_that_exist():
    readme = read("README.md")
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b", readme)) <= targets
    named = {tuple(words.split()) for words in re.findall(r"icu-forecast ((?:[a-z]+ ?)+)", readme)}
    from flows.cli import app

    top = typer.main.get_command(app).commands
    for words in named:
        assert words[0] in top, words
