"""The command line `icu-forecast`: every job by hand, and a look at everything that matters."""

import sys
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows.runtime import clock
from flows.runtime.settings import load_settings, quiet_environment
from flows.runtime.terminal import print_counts, print_done, print_rows, tell_own_errors_once
from rnn_core.contracts.config import Cell
from rnn_core.contracts.errors import ForecastError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Forecasts of ICU risk and length of stay, from any SQL source to result tables. All times are UTC.",
)
db = typer.Typer(no_args_is_help=True, help="The database of icu-forecast, embedded unless ICU_DATABASE_URL is set.")
models = typer.Typer(no_args_is_help=True, help="Which models there are and which one serves.")
source_app = typer.Typer(no_args_is_help=True, help="Look at a source before relying on it.")
app.add_typer(db, name="db")
app.add_typer(models, name="models")
app.add_typer(source_app, name="source")
trial_app = typer.Typer(
    no_args_is_help=True,
    help="A silent trial: forecasts are made and judged on your own patients, and shown to nobody.",
)
app.add_typer(trial_app, name="trial")
benchmark_app = typer.Typer(no_args_is_help=True, help="Measure the forecaster against others on published data.")
app.add_typer(benchmark_app, name="benchmark")


def _known_source(name: str) -> str:
    """Refuse a source that does not exist here, before a run starts Prefect's server."""
    from flows.runtime.databases import adapter_name

    adapter_name(name)
    return name


Source = Annotated[
    str, typer.Argument(help="Name of the source, e.g. clif.", show_default=False, callback=_known_source)
]
AsOf = Annotated[
    str | None, typer.Option("--as-of", help="Speak for this hour instead of now, e.g. 2026-01-20T14:00 (UTC).")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Direct = Annotated[
    bool, typer.Option("--direct", help="Run the same steps in this process, without a Prefect server and its record.")
]


class Dataset(StrEnum):
    clif = "clif"
    physionet_2012 = "physionet_2012"
    mimic_iii = "mimic_iii"


def main() -> None:
    """Entry point: errors meant for people end the process with one sentence and exit code 1."""
    try:
        quiet_environment(load_settings())
        app()
    except ForecastError as error:
        typer.secho(f"icu-forecast: {error}", err=True, fg=typer.colors.RED)
        sys.exit(1)


def _slot(value: str | None) -> datetime | None:
    """The hour asked for, refused where it has not come yet; None leaves it to the run."""
    return clock.slot(clock.parse_time(value)) if value else None


def _run(flow: Any, direct: bool, as_json: bool, **parameters: Any) -> None:
    """Run a flow through Prefect (its temporary server where none is configured), or its steps alone."""
    if not direct:
        tell_own_errors_once()
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
        Literal["calendar", "together"], typer.Option(help="physionet_2012: over a calendar year, or all at once.")
    ] = "calendar",
    sets: Annotated[str | None, typer.Option(help="physionet_2012: e.g. a,b; all that are found by default.")] = None,
    withhold_outcomes: Annotated[
        str, typer.Option(help="physionet_2012: sets whose stays stay open, e.g. b,c, or all.", show_default=False)
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed of the lay-out.")] = 0,
    as_json: Json = False,
) -> None:
    """Put a public data set, as published, into the database that plays the hospital's.

    Example: icu-forecast load clif --reanchor
    """
    from flows.public_data.datasets import describe, load_clif, load_mimic_iii, load_physionet_2012

    if dataset is Dataset.clif:
        report = load_clif(reanchor=reanchor, seed=seed)
    elif dataset is Dataset.mimic_iii:
        report = load_mimic_iii(path or [])
    else:
        withheld = withhold_outcomes.strip() == "all" or _names(withhold_outcomes)
        report = load_physionet_2012(
            path or [], sets=_names(sets) if sets else None, layout=layout, withhold_outcomes=withheld, seed=seed
        )
    print_done(describe(report), {"rows": report.rows, "notes": report.notes}, as_json)


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]


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
    from flows.jobs.ingest import ingest as flow

    _run(flow, direct, as_json, source=source, as_of=_slot(as_of), reconcile=reconcile, dry_run=dry_run)


@app.command()
def train(
    source: Source,
    as_of: AsOf = None,
    cold: Annotated[bool, typer.Option("--cold", help="Do not start from the serving model.")] = False,
    seed: Annotated[int, typer.Option(help="Same data and seed, same weights.")] = 0,
    epochs: Annotated[int | None, typer.Option(help="At most so many epochs.", min=1)] = None,
    members: Annotated[int | None, typer.Option(help="Networks in the ensemble; default 5.", min=2)] = None,
    cell: Annotated[Cell, typer.Option(help="Kind of recurrent cell.")] = "lstm",
    mixed_precision: Annotated[bool, typer.Option(help="Compute in bfloat16, where all GPUs are fast in it.")] = False,
    direct: Direct = False,
    as_json: Json = False,
) -> None:
    """Train on what was known at a time; the model serves if it passes the gate.

    Example: icu-forecast train clif --as-of 2026-01-20T14:00
    """
    from flows.jobs.train import train as flow

    _run(
        flow,
        direct,
        as_json,
        source=source,
        as_of=_slot(as_of),
        warm=not cold,
        seed=seed,
        epochs=epochs,
        members=members,
        cell=cell,
        mixed_precision=mixed_precision,
    )


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
    from flows.jobs.forecast import forecast as flow

    _run(flow, direct, as_json, source=source, as_of=_slot(as_of), dry_run=dry_run)


@app.command()
def evaluate(source: Source, as_of: AsOf = None, direct: Direct = False, as_json: Json = False) -> None:
    """Score published forecasts whose outcome is known by now.

    Example: icu-forecast evaluate clif
    """
    from flows.jobs.evaluate import evaluate as flow

    _run(flow, direct, as_json, source=source, as_of=_slot(as_of))


@app.command()
def backfill(
    source: Source,
    start: Annotated[str, typer.Option("--from", help="First slot.", show_default=False)],
    end: Annotated[str, typer.Option("--to", help="Last slot.", show_default=False)],
    every: Annotated[int, typer.Option(help="Hours between slots.")] = 6,
    again: Annotated[bool, typer.Option(help="Score published slots again.")] = False,
    jobs: Annotated[int, typer.Option(help="Slots at work at the same time.", min=1, max=16)] = 1,
    dry_run: Annotated[bool, typer.Option(help="Count the slots, score none.")] = False,
    direct: Direct = False,
    as_json: Json = False,
) -> None:
    """Score past slots from what was known then; resumes where it stopped.

    Example: icu-forecast backfill clif --from 2026-01-20 --to 2026-01-27 --every 6
    """
    slots = clock.slots(clock.parse_time(start), clock.parse_time(end), timedelta(hours=every))
    clock.slot(slots[-1])
    from flows.jobs.backfill import backfill as flow

    _run(
        flow,
        direct,
        as_json,
        source=source,
        start=slots[0],
        end=slots[-1],
        every_hours=every,
        again=again,
        jobs=jobs,
        dry_run=dry_run,
    )


@app.command("catch-up")
def catch_up(
    source: Source,
    as_of: AsOf = None,
    hours: Annotated[int, typer.Option(help="Look back so many hours.", min=1)] = 72,
    limit: Annotated[int, typer.Option(help="Publish at most so many; the next run goes on.", min=1)] = 24,
    newest_first: Annotated[bool, typer.Option("--newest-first", help="Begin with the latest missed hour.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Name the missed hours, score none.")] = False,
    direct: Direct = False,
    as_json: Json = False,
) -> None:
    """Publish the hours that were missed while something was down, each from what was known then.

    Example: icu-forecast catch-up clif --newest-first
    """
    from flows.jobs.catch_up import catch_up as flow

    _run(
        flow,
        direct,
        as_json,
        source=source,
        as_of=_slot(as_of),
        hours=hours,
        limit=limit,
        newest_first=newest_first,
        dry_run=dry_run,
    )


@app.command()
def transfer(
    sources: Annotated[list[str], typer.Argument(help="Sources to judge it on, ingested before.", show_default=False)],
    model_id: Annotated[str, typer.Option("--model", help="A stay model, of any source.", show_default=False)],
    hours: Annotated[str, typer.Option(help="Hours of the stay at which it is judged.")] = "24,48",
    as_of: AsOf = None,
    as_json: Json = False,
) -> None:
    """Judge a model trained on one source on the stays of others: risk of death, before and after recalibration there.

    Example: icu-forecast transfer clif mimic_iii --model physionet_2012-stay-20261101T00-2
    """
    from flows.jobs.transfer import measure_transfer

    chosen = [_known_source(source) for source in sources]
    if not all(hour.isdigit() and int(hour) > 0 for hour in _names(hours)):
        raise typer.BadParameter(f"hours are whole numbers such as 24,48; found {hours!r}")
    at = _slot(as_of) or clock.slot(None)
    rows = measure_transfer(model_id, chosen, at, [int(hour) for hour in _names(hours)])
    print_rows(rows, as_json)


@app.command()
def demo(seed: Annotated[int, typer.Option(help="Seed of the re-anchored stays.")] = 0) -> None:
    """Everything once, on real data: load, ingest, train, forecast, and the first rows of the result.

    Example: icu-forecast demo
    """
    from flows.public_data.demo import run_demo

    run_demo(seed)


# ---------------------------------------------------------------------------------------------- scheduling


@app.command()
def deploy(
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="Only these sources; all that have settings by default.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Show what would be deployed; asks no server.")] = False,
    as_json: Json = False,
) -> None:
    """Put pools, limits, schedules and automations on the Prefect server (PREFECT_API_URL); safe to repeat.

    Example: icu-forecast deploy clif
    """
    from flows.server import deploy as deployment

    chosen = deployment.configured_sources(sources)
    if dry_run:
        plan = deployment.plan_deployments(chosen)
        rows = [
            {"deployment": d.full_name, "pool": d.pool, "runs": d.schedule or "by hand", "zone": d.timezone}
            for d in plan
        ]
    else:
        rows = deployment.deploy(chosen, only_these=bool(sources))
    print_rows(rows, as_json)


@app.command()
def worker(
    pool: Annotated[str, typer.Argument(help="Work pool: cpu, or gpu for training.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="Name of the worker; default: one that Prefect makes.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many runs at a time here.")] = None,
    health_port: Annotated[int | None, typer.Option(help="Answer /health on this port of 127.0.0.1.")] = None,
) -> None:
    """Work on scheduled runs until stopped, each in a process of its own.

    Example: icu-forecast worker cpu
    """
    from flows.server.workers import start_worker

    start_worker(pool, name, limit, health_port)


@app.command()
def watch(
    dry_run: Annotated[bool, typer.Option(help="Only look: start and tell nothing.")] = False,
    test_alert: Annotated[bool, typer.Option("--test-alert", help="Send one message to ICU_NOTIFY and stop.")] = False,
    direct: Direct = False,
    as_json: Json = False,
) -> None:
    """Start dead runs again, find what is wrong, and tell ICU_NOTIFY once of each incident.

    Example: icu-forecast watch --dry-run --direct
    """
    if test_alert:
        from flows.runtime import notify

        notify.send("icu-forecast: a test", "If you read this, alerts reach you.")
        print_done("sent", {"sent": True}, as_json)
        return
    from flows.jobs.watch import watch as flow

    _run(flow, direct, as_json, dry_run=dry_run)


# ---------------------------------------------------------------------------------------------- looking


@app.command()
def sql(query: Annotated[str, typer.Argument(help="One SELECT.", show_default=False)], as_json: Json = False) -> None:
    """Run a query on the database of icu-forecast and print its rows; nothing can be changed.

    Example: icu-forecast sql "select * from forecast.current_risk limit 5"
    """
    from flows.inspection.query import run_query

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
    from flows.inspection.explain import explain_rows

    print_rows(explain_rows(stay, clock.slot(clock.parse_time(as_of)), source), as_json)


@app.command()
def explain(
    stay: Annotated[str, typer.Argument(help="stay_id.", show_default=False)],
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="Prediction time; the newest by default.", show_default=False)
    ] = None,
    source: Annotated[str | None, typer.Option(help="Needed where several sources know the stay.")] = None,
    as_json: Json = False,
) -> None:
    """Show what a published risk rests on: the five strongest drivers, with their last values.

    Example: icu-forecast explain 20044587-1
    """
    from flows.inspection.explain import explain_forecast

    print_rows(explain_forecast(stay, clock.slot(clock.parse_time(as_of)) if as_of else None, source), as_json)


@app.command()
def reproduce(
    run_id: Annotated[int, typer.Argument(help="run_id of forecast.run.", show_default=False)], as_json: Json = False
) -> None:
    """Score a past run again from what the tables held when it began; exit code 1 where a row is not equal.

    Example: icu-forecast reproduce 42
    """
    from flows.inspection.reproduce import reproduce as score_again

    found = score_again(run_id)
    print_counts(found, as_json)
    if not found["rows published"] == found["rows scored again"] == found["rows equal"]:
        raise typer.Exit(1)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check databases and grants, migrations, indices, watermarks, models, Prefect and disk; exit code 1 on a fault.

    Example: icu-forecast doctor
    """
    from flows.inspection.doctor import examine

    findings = examine(load_settings())
    print_rows([finding.to_json() for finding in findings], as_json)
    if any(finding.state == "fault" for finding in findings):
        raise typer.Exit(1)


@source_app.command("check")
def source_check(source: Source, as_of: AsOf = None, as_json: Json = False) -> None:
    """Coverage, units, label audit and indices of a source; exit code 1 where something looks wrong.

    Example: icu-forecast source check clif
    """
    from flows.inspection.source_check import check

    report = check(source, _slot(as_of) or clock.slot(None))
    report.print(as_json, whole=False)
    if report.faults:
        raise typer.Exit(1)


@source_app.command("profile")
def source_profile(
    source: Source,
    as_of: AsOf = None,
    page: Annotated[
        Path | None, typer.Option(help="Write the page here; default: reports in ICU_HOME.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """All that `check` tells, with a row per variable and unit, and as a page for people; always exit code 0.

    Example: icu-forecast source profile clif --page clif.html
    """
    from flows.inspection.source_check import check

    at = _slot(as_of) or clock.slot(None)
    report = check(source, at)
    path = report.write_page(at, page)
    report.print(as_json, whole=True)
    typer.echo(f"page: {path}", err=True)


@source_app.command("grants")
def source_grants(
    source: Source,
    role: Annotated[
        str, typer.Option(help="Role of the source's database, made there before.")
    ] = "icu_forecast_reader",
) -> None:
    """Print the statements that let a role of a PostgreSQL source read the columns that are needed, and nothing else.

    Example: icu-forecast source grants clif > grants.sql
    """
    from flows.runtime.databases import open_source

    adapter, _ = open_source(source)
    typer.echo("\n".join(adapter.grants(role)))


@source_app.command("audit")
def source_audit(
    sources: Annotated[list[str], typer.Argument(help="Names of sources.", show_default=False)],
    as_of: AsOf = None,
    as_json: Json = False,
) -> None:
    """Count the wrong labels of sources: stays whose times contradict each other, by kind of fault.

    Example: icu-forecast source audit clif mimic_iii
    """
    from flows.inspection.source_check import audit_source

    at = _slot(as_of) or clock.slot(None)
    print_rows([{"source": s, **row} for s in map(_known_source, sources) for row in audit_source(s, at)], as_json)


# ---------------------------------------------------------------------------------------------- benchmarks


@benchmark_app.command("physionet-2012")
def benchmark_physionet_2012(
    train: Annotated[
        str, typer.Option(help="Folders of the sets to learn from, comma between; or set-a.tar.gz itself.")
    ],
    test: Annotated[str, typer.Option(help="Folders of the sets to judge on.", show_default=False)] = "",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures to this file.", show_default=False)
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page with tables and plots.", show_default=False)] = None,
    cross_validate: Annotated[
        bool, typer.Option("--cross-validate", help="Judge each fold of the train sets by a fit on the others.")
    ] = False,
    folds: Annotated[int, typer.Option(help="Folds of the cross-validation.", min=2)] = 5,
    models: Annotated[str, typer.Option(help="Only these models, comma between.", show_default=False)] = "",
    seed: Annotated[int, typer.Option(help="Same data and seed, same figures.")] = 0,
    epochs: Annotated[int | None, typer.Option(help="At most so many epochs, for a quick look.", min=1)] = None,
    members: Annotated[int | None, typer.Option(help="Networks in an ensemble; default 5.", min=2)] = None,
    dry_run: Annotated[bool, typer.Option(help="Find the sets, say what would run, run nothing.")] = False,
) -> None:
    """Mortality and length of stay after 48 hours on the PhysioNet Challenge 2012, for every model, with intervals.

    Works in a database of its own that goes with the run. The outcomes of the test sets stay closed until all
    forecasts are made.

    Example: icu-forecast benchmark physionet-2012 --train data/a,data/b --test data/c --json out.json --report out.html
    """
    from flows.pages.benchmark import table_lines
    from flows.public_data import benchmark

    train_sets = benchmark.find_sets([Path(place) for place in _names(train)])
    test_sets = benchmark.find_sets([Path(place) for place in _names(test)])
    if cross_validate == bool(test_sets):
        raise ForecastError("Either name the sets to judge on with --test, or ask for --cross-validate.")
    chosen = _names(models) or list(benchmark.MODELS)
    benchmark.check(train_sets, test_sets, chosen)
    if dry_run:
        judged = f"set {', '.join(sorted(test_sets))}" if test_sets else f"{folds} folds of them"
        typer.echo(f"Learns from set {', '.join(sorted(train_sets))}, judges on {judged}: {', '.join(chosen)}.")
        return
    outcome = benchmark.run_benchmark(
        train_sets, test_sets, models=chosen, folds=folds, seed=seed, epochs=epochs, members=members
    )
    for line in table_lines(outcome):
        typer.echo(line)
    benchmark.write_files(outcome, json_file, report)


@benchmark_app.command("ages")
def benchmark_ages(
    source: Source,
    as_of: AsOf = None,
    folds: Annotated[int, typer.Option(help="Folds of patients, each judged by a fit on the others.", min=2)] = 5,
    as_json: Json = False,
) -> None:
    """Forecasts every 6 hours over whole stays, by age of the stay, beside the curve of the population.

    Publishes nothing. Small data give wide intervals: read them first.

    Example: icu-forecast benchmark ages clif --as-of 2026-01-29
    """
    from flows.public_data.ages import measure_ages

    print_rows(measure_ages(source, _slot(as_of) or clock.slot(None), folds), as_json)


# ---------------------------------------------------------------------------------------------- models


@models.command("list")
def models_list(
    source: Annotated[str | None, typer.Option(help="Only this source.")] = None, as_json: Json = False
) -> None:
    """List models with stage, cut-off and main metrics.

    Example: icu-forecast models list --source clif
    """
    from flows.inspection.models import list_models

    print_rows(list_models(source), as_json)


@models.command("card")
def models_card(
    model_id: Annotated[str, typer.Argument(show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Write it to this file.", show_default=False)] = None,
) -> None:
    """Write the model card: the items of TRIPOD+AI, from what is stored with the model.

    Example: icu-forecast models card clif-stay-20260120T14-2 --out card.md
    """
    from flows.inspection.models import model_card
    from flows.pages.page import write_text

    card = model_card(model_id)
    if out is None:
        typer.echo(card, nl=False)
    else:
        write_text(out, card)


@models.command("promote")
def models_promote(
    model_id: Annotated[str, typer.Argument(show_default=False)],
    reason: Annotated[str | None, typer.Option(help="Kept with the model.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Past the gate; takes a reason.")] = False,
    as_json: Json = False,
) -> None:
    """Let a model serve from the next run on, if it is not worse than the one that serves on stays neither has seen.

    Example: icu-forecast models promote clif-stay-20260120T14-2
    """
    from flows.jobs.promotion import promote
    from flows.runtime.databases import open_store

    done = promote(open_store(), model_id, reason, force)
    retired = done["retired"]
    print_done(
        f"{model_id} serves now as {done['stage']}" + (f"; {retired} is retired" if retired else ""), done, as_json
    )


@models.command("diff")
def models_diff(
    first: Annotated[str, typer.Argument(show_default=False)],
    second: Annotated[str, typer.Argument(show_default=False)],
    as_json: Json = False,
) -> None:
    """List in what two models differ: how they came about, their settings, their metrics.

    Example: icu-forecast models diff clif-stay-20260113T14-2 clif-stay-20260120T14-9
    """
    from flows.inspection.models import diff_models

    print_rows(diff_models(first, second), as_json)


@models.command("recalibrate")
def models_recalibrate(
    model_id: Annotated[str, typer.Argument(help="A stay model, of any source.", show_default=False)],
    source: Source,
    as_of: AsOf = None,
    as_json: Json = False,
) -> None:
    """Fit the risk of death of a model to the ended stays of a source; the copy waits there as a candidate.

    Example: icu-forecast models recalibrate clif-stay-20260120T14-2 mimic_iii
    """
    from flows.jobs.transfer import recalibrate

    print_counts(recalibrate(model_id, source, _slot(as_of) or clock.slot(None)), as_json)


@models.command("rollback")
def models_rollback(
    source: Source,
    name: Annotated[Literal["stay", "unit"], typer.Option(help="Which forecaster.")] = "stay",
    as_json: Json = False,
) -> None:
    """Bring back the model that served before.

    Example: icu-forecast models rollback clif
    """
    from flows.runtime.databases import open_store
    from sql.published import registry

    row = registry.rollback(open_store(), source, name)
    print_done(f"{row['model_id']} serves now", {"model_id": row["model_id"], "stage": row["stage"]}, as_json)


# ---------------------------------------------------------------------------------------------- trials


@trial_app.command("start")
def trial_start(
    source: Source,
    days: Annotated[int, typer.Option(help="How long it is to last.", min=1)] = 28,
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", help="Judge the forecasts for this hour (UTC) and later ones; default: now."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Keep the forecasts of a source from its readers, and judge those of the runs to come.

    Example: icu-forecast trial start clif --days 28
    """
    from flows.runtime.databases import open_store
    from sql.published import trials

    row = trials.start_trial(open_store(), source, days, _slot(as_of) or clock.slot(None))
    print_done(
        f"{source} is on trial until {row['ends_at']:%Y-%m-%d}: forecasts are made and judged, and shown to nobody",
        {"source": source, "started_at": row["started_at"].isoformat(), "ends_at": row["ends_at"].isoformat()},
        as_json,
    )


@trial_app.command("report")
def trial_report(
    source: Source,
    out: Annotated[Path | None, typer.Option(help="Write the page to this file.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Judge the newest trial on one page: go, no-go or too early; exit code 1 unless it is go.

    Example: icu-forecast trial report clif --out trial.html
    """
    from flows.pages.trial import report_trial

    decision, path = report_trial(source, out)
    rows = [{"criterion": what, "found": found, "met": met} for what, found, met in decision.criteria]
    if as_json:
        print_done("", {"verdict": decision.verdict, "page": str(path), "criteria": rows}, as_json)
    else:
        print_rows(rows, as_json)
        typer.echo(f"{decision.verdict}: {path}")
    if decision.verdict != "go":
        raise typer.Exit(1)


@trial_app.command("end")
def trial_end(source: Source, as_json: Json = False) -> None:
    """Show the forecasts of a source from the next run on.

    Example: icu-forecast trial end clif
    """
    from flows.runtime.databases import open_store
    from sql.published import trials

    row = trials.end_trial(open_store(), source)
    print_done(
        f"the trial of {source} has ended; from the next run on forecast.current_risk shows its forecasts",
        {"source": source, "ended_at": row["ended_at"].isoformat()},
        as_json,
    )


# ---------------------------------------------------------------------------------------------- database


@db.command("start")
def db_start(as_json: Json = False) -> None:
    """Start the embedded PostgreSQL and migrate.

    Example: icu-forecast db start
    """
    from flows.runtime.databases import open_store

    url = open_store().url.render_as_string(hide_password=True)
    print_done(f"running at {url}", {"url": url}, as_json)


@db.command("stop")
def db_stop(as_json: Json = False) -> None:
    """Stop the embedded PostgreSQL.

    Example: icu-forecast db stop
    """
    from sql.store import embedded

    stopped = embedded.stop(load_settings().cluster_folder)
    print_done("stopped" if stopped else "was not running", {"stopped": stopped}, as_json)


@db.command("url")
def db_url(as_json: Json = False) -> None:
    """Print the address, for other programs; it holds the password where there is one.

    Example: psql "$(icu-forecast db url)"
    """
    from flows.runtime.databases import open_store
    from sql.store.engine import libpq_uri

    url = libpq_uri(open_store())
    print_done(url, {"url": url}, as_json)


@db.command("migrate")
def db_migrate(as_json: Json = False) -> None:
    """Bring the tables and views to this version.

    Example: icu-forecast db migrate
    """
    from flows.runtime.databases import open_store
    from sql.store.migrate import newest_revision

    open_store()
    print_done(f"at revision {newest_revision()}", {"revision": newest_revision()}, as_json)


@app.command()
def purge(
    source: Source,
    older_than: Annotated[
        int, typer.Option("--older-than", help="Days since a stay ended.", min=1, show_default=False)
    ],
    dry_run: Annotated[bool, typer.Option(help="Count the rows, delete none.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete for good all rows of stays that ended long ago, and old quarantined rows; scores and counts stay.

    Example: icu-forecast purge clif --older-than 730 --dry-run
    """
    from flows.runtime.databases import open_store
    from sql.intake import retention

    store, cutoff = open_store(), clock.slot(None) - timedelta(days=older_than)
    counts = retention.purge(store, source, cutoff, dry_run=True)
    if not dry_run:
        if not yes:
            told = ", ".join(f"{n:,} of {table}" for table, n in counts.items())
            typer.confirm(f"Delete for good what ended before {cutoff:%Y-%m-%d}: {told}?", abort=True, err=True)
        counts = retention.purge(store, source, cutoff, dry_run=False)
    told = {f"{'would delete from' if dry_run else 'deleted from'} {table}": n for table, n in counts.items()}
    print_counts({"ended before": f"{cutoff:%Y-%m-%d}"} | told, as_json)


@db.command("psql")
def db_psql() -> None:
    """Open psql on the database of icu-forecast.

    Example: icu-forecast db psql
    """
    from flows.runtime.databases import open_store
    from sql.store import embedded

    raise typer.Exit(embedded.psql(open_store().url))


if __name__ == "__main__":
    main()
