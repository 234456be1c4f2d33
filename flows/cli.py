"""The command line `icu-forecast`: every job by hand, and a look at everything that matters."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import clock
from flows.settings import load_settings, quiet_environment
from flows.terminal import print_counts, print_rows
from rnn_core.errors import ForecastError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Forecasts of ICU risk and length of stay, from any SQL source to result tables. All times are UTC.",
)  # fmt: skip
db = typer.Typer(no_args_is_help=True, help="The database of icu-forecast, embedded unless ICU_DATABASE_URL is set.")
models = typer.Typer(no_args_is_help=True, help="Which models there are and which one serves.")
source_app = typer.Typer(no_args_is_help=True, help="Look at a source before relying on it.")
app.add_typer(db, name="db")
app.add_typer(models, name="models")
app.add_typer(source_app, name="source")

Source = Annotated[str, typer.Argument(help="Name of the source, e.g. clif.", show_default=False)]
AsOf = Annotated[
    str | None, typer.Option("--as-of", help="Speak for this hour instead of now, e.g. 2026-01-20T14:00 (UTC).")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Direct = Annotated[
    bool, typer.Option("--direct", help="Run the same steps in this process, without a Prefect server and its record.")
]


class Layout(StrEnum):
    calendar = "calendar"
    together = "together"


class Dataset(StrEnum):
    clif = "clif"
    physionet_2012 = "physionet_2012"


def main() -> None:
    """Entry point: errors meant for people end the process with one sentence and exit code 1."""
    try:
        quiet_environment(load_settings())
        app()
    except ForecastError as error:
        typer.secho(f"icu-forecast: {error}", err=True, fg=typer.colors.RED)
        sys.exit(1)


def _time(value: str | None) -> Any:
    return clock.parse_time(value) if value else None


def _run(flow: Any, direct: bool, as_json: bool, **parameters: Any) -> None:
    """Run a flow through Prefect (its temporary server where none is configured), or its steps alone."""
    print_counts(flow.fn(**parameters) if direct else flow(**parameters), as_json)


# ---------------------------------------------------------------------------------------------- jobs


@app.command()
def load(
    dataset: Annotated[Dataset, typer.Argument(help="Which public data set plays the hospital.", show_default=False)],
    path: Annotated[
        list[Path] | None, typer.Option(help="Folder of the published files; repeat for several. clif brings its own.")
    ] = None,
    reanchor: Annotated[
        bool, typer.Option(help="clif: lay the stays over 28 days, so that there is a census.")
    ] = False,
    layout: Annotated[
        Layout, typer.Option(help="physionet_2012: over a calendar year, or all at once.")
    ] = Layout.calendar,
    withhold_outcomes: Annotated[bool, typer.Option(help="physionet_2012: stays stay open.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the lay-out.")] = 0,
) -> None:
    """Put a public data set, as published, into the database that plays the hospital's.

    Example: icu-forecast load clif --reanchor
    """
    from flows.demo import load_dataset

    print(load_dataset(dataset.value, path or [], reanchor, layout.value, withhold_outcomes, seed))


@app.command()
def ingest(
    source: Source,
    as_of: AsOf = None,
    reconcile: Annotated[bool, typer.Option(help="Read again from the beginning, for rows written late.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Read and check, but take nothing over.")] = False,
    direct: Direct = False,
    as_json: Json = False,
) -> None:
    """Take over what became available in a source since the last time, checked.

    Example: icu-forecast ingest clif --as-of 2026-01-20T14:00
    """
    from flows.ingest import ingest as flow

    _run(flow, direct, as_json, source=source, as_of=_time(as_of), reconcile=reconcile, dry_run=dry_run)


@app.command()
def train(
    source: Source,
    as_of: AsOf = None,
    cold: Annotated[bool, typer.Option("--cold", help="Do not start from the serving model.")] = False,
    seed: Annotated[int, typer.Option(help="Same data and seed, same weights.")] = 0,
    epochs: Annotated[int | None, typer.Option(help="At most so many epochs.")] = None,
    cell: Annotated[str, typer.Option(help="elman, jordan, lstm or gru.")] = "lstm",
    direct: Direct = False,
    as_json: Json = False,
) -> None:
    """Train on what was known at a time; the model serves if it passes the gate.

    Example: icu-forecast train clif --as-of 2026-01-20T14:00
    """
    from flows.train import train as flow

    _run(flow, direct, as_json, source=source, as_of=_time(as_of), warm=not cold, seed=seed, epochs=epochs, cell=cell)


@app.command()
def forecast(
    source: Source,
    as_of: AsOf = None,
    dry_run: Annotated[bool, typer.Option(help="Score and check, but publish nothing.")] = False,
    direct: Direct = False,
    as_json: Json = False,
) -> None:
    """Forecast every open stay of a source and publish the run.

    Example: icu-forecast forecast clif --as-of 2026-01-20T14:00
    """
    from flows.forecast import forecast as flow

    _run(flow, direct, as_json, source=source, as_of=_time(as_of), dry_run=dry_run)


@app.command()
def evaluate(source: Source, as_of: AsOf = None, direct: Direct = False, as_json: Json = False) -> None:
    """Score published forecasts whose outcome is known by now.

    Example: icu-forecast evaluate clif
    """
    from flows.evaluate import evaluate as flow

    _run(flow, direct, as_json, source=source, as_of=_time(as_of))


@app.command()
def backfill(
    source: Source,
    start: Annotated[str, typer.Option("--from", help="First slot.", show_default=False)],
    end: Annotated[str, typer.Option("--to", help="Last slot.", show_default=False)],
    every: Annotated[int, typer.Option(help="Hours between slots.")] = 6,
    again: Annotated[bool, typer.Option(help="Score published slots again.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Count the slots, score none.")] = False,
    direct: Direct = False,
    as_json: Json = False,
) -> None:
    """Score past slots from what was known then; resumes where it stopped.

    Example: icu-forecast backfill clif --from 2026-01-20 --to 2026-01-27 --every 6
    """
    from flows.backfill import backfill as flow

    _run(
        flow, direct, as_json, source=source, start=_time(start), end=_time(end), every_hours=every, again=again,
        dry_run=dry_run,
    )  # fmt: skip


@app.command()
def demo(seed: Annotated[int, typer.Option(help="Seed of the re-anchored stays.")] = 0) -> None:
    """Everything once, on real data: load, ingest, train, forecast, and the first rows of the result.

    Example: icu-forecast demo
    """
    from flows.demo import run_demo

    run_demo(seed)


# ---------------------------------------------------------------------------------------------- looking


@app.command()
def sql(query: Annotated[str, typer.Argument(help="One SELECT.", show_default=False)], as_json: Json = False) -> None:
    """Run a query on the database of icu-forecast and print its rows; nothing can be changed.

    Example: icu-forecast sql "select * from forecast.current_risk limit 5"
    """
    from flows.inspection import run_query

    print_rows(run_query(query), as_json)


@app.command()
def why(
    stay: Annotated[str, typer.Argument(help="stay_id.", show_default=False)],
    as_of: Annotated[str, typer.Option("--as-of", help="The prediction time in question.", show_default=False)],
    source: Annotated[str | None, typer.Option(help="Needed where several sources know the stay.")] = None,
    as_json: Json = False,
) -> None:
    """List each row of a stay: used in the forecast of that hour, quarantined, or not yet known.

    Example: icu-forecast why 20044587-1 --as-of 2026-01-20T14:00
    """
    from flows.inspection import explain_rows

    print_rows(explain_rows(stay, clock.parse_time(as_of), source), as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check databases and grants, migrations, indices, watermarks, models, Prefect and disk; exit code 1 on a fault.

    Example: icu-forecast doctor
    """
    from flows.doctor import examine

    findings = examine(load_settings())
    print_rows([finding.to_json() for finding in findings], as_json)
    if any(finding.state == "fault" for finding in findings):
        raise typer.Exit(1)


@source_app.command("check")
def source_check(source: Source, as_of: AsOf = None, as_json: Json = False) -> None:
    """Coverage per concept, unit suspicions and label audit of a source; exit code 1 where something looks wrong.

    Example: icu-forecast source check clif
    """
    from flows.source_check import check

    report = check(source, clock.slot(_time(as_of)))
    report.print(as_json)
    if report.faults:
        raise typer.Exit(1)


# ---------------------------------------------------------------------------------------------- models


@models.command("list")
def models_list(
    source: Annotated[str | None, typer.Option(help="Only this source.")] = None, as_json: Json = False
) -> None:
    """List models with stage, cut-off and main metrics.

    Example: icu-forecast models list --source clif
    """
    from flows.inspection import list_models

    print_rows(list_models(source), as_json)


@models.command("promote")
def models_promote(
    model_id: Annotated[str, typer.Argument(show_default=False)],
    reason: Annotated[str, typer.Option(help="Kept with the model.")] = "promoted by hand",
) -> None:
    """Let a model serve its source from the next run on.

    Example: icu-forecast models promote clif-stay-20260120T14-2 --reason "reviewed by the unit"
    """
    from flows.databases import open_store
    from sql import registry

    before = registry.promote(open_store(), model_id, reason)
    print(f"{model_id} serves now" + (f"; {before['model_id']} is retired" if before else ""))


@models.command("rollback")
def models_rollback(source: Source, name: Annotated[str, typer.Option(help="stay or unit.")] = "stay") -> None:
    """Bring back the model that served before.

    Example: icu-forecast models rollback clif
    """
    from flows.databases import open_store
    from sql import registry

    print(f"{registry.rollback(open_store(), source, name)['model_id']} serves now")


# ---------------------------------------------------------------------------------------------- database


@db.command("start")
def db_start() -> None:
    """Start the embedded PostgreSQL and migrate.

    Example: icu-forecast db start
    """
    from flows.databases import open_store

    print(f"running at {open_store().url.render_as_string(hide_password=True)}")


@db.command("stop")
def db_stop() -> None:
    """Stop the embedded PostgreSQL.

    Example: icu-forecast db stop
    """
    from sql import embedded

    print("stopped" if embedded.stop(load_settings().cluster_folder) else "was not running")


@db.command("url")
def db_url() -> None:
    """Print the address, for other programs; it holds the password where there is one.

    Example: psql "$(icu-forecast db url)"
    """
    from flows.databases import open_store
    from sql.engine import libpq_uri

    print(libpq_uri(open_store()))


@db.command("migrate")
def db_migrate() -> None:
    """Bring the tables and views to this version.

    Example: icu-forecast db migrate
    """
    from flows.databases import open_store
    from sql.migrate import newest_revision

    open_store()
    print(f"at revision {newest_revision()}")


@db.command("psql")
def db_psql() -> None:
    """Open psql on the database of icu-forecast.

    Example: icu-forecast db psql
    """
    from flows.databases import open_store
    from sql import embedded

    raise typer.Exit(embedded.psql(open_store().url))


if __name__ == "__main__":
    main()
