"""Commands that examine a source before its forecasts are relied on."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.arguments import AsOf, Json, Source, known_source
from flows.runtime import clock
from flows.runtime.terminal import print_rows

app = typer.Typer(no_args_is_help=True, help="Examine a source before relying on it.")


@app.command()
def check(source: Source, as_of: AsOf = None, as_json: Json = False) -> None:
    """Check coverage, units, labels and indices of a source; exit code 1 if something looks wrong.

    Example: icu-forecast source check clif
    """
    from flows.inspection.source_check import check as examine

    report = examine(source, as_of or clock.slot(None))
    report.print(as_json, whole=False)
    if report.faults:
        raise typer.Exit(1)


@app.command()
def profile(
    source: Source,
    as_of: AsOf = None,
    page: Annotated[
        Path | None, typer.Option(help="File of the page; default: in reports of ICU_HOME.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Write everything that `check` finds, and a row per variable and unit, to a page; exit code 0 even on a fault.

    Example: icu-forecast source profile clif --page clif.html
    """
    from flows.inspection.source_check import check as examine

    at = as_of or clock.slot(None)
    report = examine(source, at)
    path = report.write_page(at, page)
    report.print(as_json, whole=True)
    typer.echo(f"page: {path}", err=True)


@app.command()
def checks(
    source: Source,
    page: Annotated[
        Path | None, typer.Option(help="File of the page; default: in reports of ICU_HOME.", show_default=False)
    ] = None,
) -> None:
    """Write what the data checks of ingest and of publication found to a page: counts, no patient's row.

    Example: icu-forecast source checks clif
    """
    from flows.pages.checks import write_page
    from flows.runtime.databases import open_store

    typer.echo(f"page: {write_page(open_store(), source, page)}")


@app.command()
def grants(
    source: Source,
    role: Annotated[str, typer.Option(help="Existing role of the source's database.")] = "icu_forecast_reader",
) -> None:
    """Print the statements that let a role (on MySQL, a user) read the required columns of a source, and nothing else.

    Example: icu-forecast source grants clif > grants.sql
    """
    from flows.runtime.databases import open_source

    adapter, engine = open_source(source)
    typer.echo("\n".join(adapter.grants(role, engine.dialect)))


@app.command()
def translate(
    source: Source,
    to: Annotated[str, typer.Option(help="Dialect: mysql, tsql, oracle, snowflake, bigquery …", show_default=False)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the SELECTs, write nothing.")] = False,
) -> None:
    """Write the SELECTs of a source in the dialect of another database, into its folder; exit code 1 if something is in doubt.

    What cannot be carried over for certain is named: compare its rows before you rely on it.

    Example: icu-forecast source translate site --to tsql --dry-run
    """
    from flows.runtime.databases import adapter_name
    from sql.intake.translation import translate_adapter

    doubts = []
    for file in translate_adapter(adapter_name(source), to):
        if dry_run:
            typer.echo(f"-- {file.path.name}\n{file.sql}")
        else:
            file.path.write_text(file.sql)
            typer.echo(f"written: {file.path}")
        doubts += [f"LOOK: {file.path.name}: {doubt}" for doubt in file.doubts]
    typer.echo("\n".join(doubts) or "Nothing is in doubt. Run `icu-forecast source check` there.", err=True)
    if doubts:
        raise typer.Exit(1)


@app.command()
def audit(
    sources: Annotated[list[str], typer.Argument(help="Names of sources.", show_default=False)],
    as_of: AsOf = None,
    as_json: Json = False,
) -> None:
    """Count stays whose times contradict each other, by source and kind of fault.

    Example: icu-forecast source audit clif mimic_iii
    """
    from flows.inspection.source_check import audit_source

    at = as_of or clock.slot(None)
    print_rows([{"source": s, **row} for s in map(known_source, sources) for row in audit_source(s, at)], as_json)
