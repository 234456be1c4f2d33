"""Commands that run a job: ingest, train, forecast and what keeps them going."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.arguments import AsOf, Direct, Json, Source, known_source, split_names
from flows.commands.model_options import with_model_options
from flows.runtime import clock
from flows.runtime.flow import run_directly
from flows.runtime.terminal import print_counts, print_done, print_rows, show_own_errors_once
from rnn_core.contracts.thresholds import LANDMARK_HOURS

app = typer.Typer()


def _run(flow: Any, direct: bool, as_json: bool, **parameters: Any) -> None:
    """Run a flow through Prefect (a temporary server if none is configured), or its steps alone."""
    if not direct:
        show_own_errors_once()
    print_counts(flow.fn(**parameters) if direct else flow(**parameters), as_json)


@app.command()
def ingest(
    source: Source,
    as_of: AsOf = None,
    reconcile: Annotated[bool, typer.Option(help="Read from the beginning, to find rows written late.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Read and check, but store nothing.")] = False,
    direct: Direct = False,
    as_json: Json = False,
) -> None:
    """Read, check and store the rows of a source that are new since the last run.

    Example: icu-forecast ingest clif --as-of 2026-01-20T14:00
    """
    from flows.jobs.ingest import ingest as flow

    _run(flow, direct, as_json, source=source, as_of=as_of, reconcile=reconcile, dry_run=dry_run)


@app.command()
@with_model_options
def train(
    source: Source,
    options: dict[str, Any],
    as_of: AsOf = None,
    cold: Annotated[bool, typer.Option("--cold", help="Do not start from the weights of the serving model.")] = False,
    warm_from: Annotated[
        str | None,
        typer.Option(
            metavar="<model>",
            help="Start from the networks of this model, of any source: its id, or the folder of its artifact.",
            show_default=False,
        ),
    ] = None,
    learn_with: Annotated[
        str | None,
        typer.Option(
            "--with",
            metavar="<sources>",
            help="Other sources whose stays the networks learn from too, comma-separated; default: as the serving model did.",
            show_default=False,
        ),
    ] = None,
    alone: Annotated[bool, typer.Option("--alone", help="Learn from this source alone.")] = False,
    name: Annotated[
        str | None,
        typer.Option(help="A name for the model, which becomes a part of its id; no patient data.", show_default=False),
    ] = None,
    no_serve: Annotated[
        bool, typer.Option("--no-serve", help="Register and judge it, but leave what serves as it is.")
    ] = False,
    direct: Direct = False,
    as_json: Json = False,
) -> None:
    """Train a model on what was known at a time; it serves if it passes the gate.

    Example: icu-forecast train clif --as-of 2026-01-20T14:00 --layers 64,32 --learning-rate 0.001
    """
    if cold and warm_from:
        raise typer.BadParameter("--cold starts from no model, --warm-from from one: give one of them.")
    if alone and learn_with:
        raise typer.BadParameter("--alone learns from one source, --with from several: give one of them.")
    others = [] if alone else None if learn_with is None else [known_source(name) for name in split_names(learn_with)]
    from flows.jobs.train import train as flow

    _run(
        flow,
        direct,
        as_json,
        source=source,
        as_of=as_of,
        warm=not cold,
        warm_from=warm_from,
        learn_with=others,
        options=options,
        name=name,
        serve=not no_serve,
    )


@app.command()
def tune(
    source: Source,
    trials: Annotated[int, typer.Option(help="Trials in all, with those of earlier calls.", min=1)] = 40,
    hours: Annotated[float, typer.Option(help="Hours after which no further trial begins.", min=0)] = 2.0,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="<file>",
            help="YAML file of options that all trials share; those that are searched are the default's.",
            show_default=False,
        ),
    ] = None,
    as_of: AsOf = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the page to this file; default: in reports of ICU_HOME.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Search for better settings of the networks, judged out of fold; writes a page and a file for `train --config`.

    The same call with the same --as-of resumes the search. The stays that judge a model have no part. Needs the extra tune.

    Example: icu-forecast tune clif --as-of 2026-01-20T14:00 --trials 40 --hours 2
    """
    # It is no flow, and Prefect's log would show every line of Dask's.
    run_directly()
    from flows.experiments.tune import tune as search
    from rnn_core.contracts.options import read_options

    base = read_options(config) if config else {}
    print_counts(search(source, as_of or clock.slot(None), trials, hours, base, out), as_json)


@app.command()
def forecast(
    source: Source,
    as_of: AsOf = None,
    dry_run: Annotated[bool, typer.Option(help="Score and check, but publish nothing.")] = False,
    direct: Direct = False,
    as_json: Json = False,
) -> None:
    """Forecast every open stay of a source and publish the forecasts.

    Example: icu-forecast forecast clif --as-of 2026-01-20T14:00
    """
    from flows.jobs.forecast import forecast as flow

    _run(flow, direct, as_json, source=source, as_of=as_of, dry_run=dry_run)


@app.command()
def evaluate(source: Source, as_of: AsOf = None, direct: Direct = False, as_json: Json = False) -> None:
    """Score published forecasts whose outcome is now known, and promote a challenger that passes the gate.

    Example: icu-forecast evaluate clif
    """
    from flows.jobs.evaluate import evaluate as flow

    _run(flow, direct, as_json, source=source, as_of=as_of)


@app.command()
def backfill(
    source: Source,
    start: Annotated[
        datetime,
        typer.Option("--from", parser=clock.parse_time, metavar="<time>", help="First slot.", show_default=False),
    ],
    end: Annotated[
        datetime, typer.Option("--to", parser=clock.parse_time, metavar="<time>", help="Last slot.", show_default=False)
    ],
    every: Annotated[int, typer.Option(help="Hours between slots.")] = 6,
    again: Annotated[bool, typer.Option(help="Also score slots that are already published.")] = False,
    jobs: Annotated[int, typer.Option(help="Slots scored in parallel.", min=1, max=16)] = 1,
    dry_run: Annotated[bool, typer.Option(help="Count the slots, but score none.")] = False,
    direct: Direct = False,
    as_json: Json = False,
) -> None:
    """Forecast past slots from what was known then; an interrupted back-fill resumes.

    Example: icu-forecast backfill clif --from 2026-01-20 --to 2026-01-27 --every 6
    """
    slots = clock.slots(start, end, timedelta(hours=every))
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
    hours: Annotated[int, typer.Option(help="Hours to look back.", min=1)] = 72,
    limit: Annotated[int, typer.Option(help="Maximum number of hours to publish; the next run continues.", min=1)] = 24,
    newest_first: Annotated[bool, typer.Option("--newest-first", help="Start with the latest missed hour.")] = False,
    dry_run: Annotated[bool, typer.Option(help="List the missed hours, but score none.")] = False,
    direct: Direct = False,
    as_json: Json = False,
) -> None:
    """Publish the hours missed during an outage, each from what was known then.

    Example: icu-forecast catch-up clif --newest-first
    """
    from flows.jobs.catch_up import catch_up as flow

    _run(
        flow,
        direct,
        as_json,
        source=source,
        as_of=as_of,
        hours=hours,
        limit=limit,
        newest_first=newest_first,
        dry_run=dry_run,
    )


@app.command()
def transfer(
    sources: Annotated[list[str], typer.Argument(help="Ingested sources to judge it on.", show_default=False)],
    model_id: Annotated[str, typer.Option("--model", help="Id of a stay model of any source.", show_default=False)],
    hours: Annotated[str, typer.Option(help="Hours of the stay at which to judge, comma-separated.")] = ",".join(
        map(str, LANDMARK_HOURS)
    ),
    as_of: AsOf = None,
    as_json: Json = False,
) -> None:
    """Judge the risk of death of a model on the stays of other sources, before and after recalibration.

    Example: icu-forecast transfer clif mimic_iii --model physionet_2012-stay-20261101T00-2
    """
    from flows.jobs.transfer import measure_transfer

    chosen = [known_source(source) for source in sources]
    if not all(hour.isdigit() and int(hour) > 0 for hour in split_names(hours)):
        raise typer.BadParameter(f"hours are whole numbers such as 24,48; found {hours!r}")
    rows = measure_transfer(model_id, chosen, as_of or clock.slot(None), [int(hour) for hour in split_names(hours)])
    print_rows(rows, as_json)


@app.command()
def purge(
    source: Source,
    older_than: Annotated[int, typer.Option(help="Days since the stay ended.", min=1, show_default=False)],
    dry_run: Annotated[bool, typer.Option(help="Count the rows, but delete none.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Skip the confirmation.")] = False,
    as_json: Json = False,
) -> None:
    """Permanently delete the rows of stays that ended long ago, and old quarantined rows; scores and counts remain.

    Example: icu-forecast purge clif --older-than 730 --dry-run
    """
    from flows.runtime.databases import open_store
    from sql.intake import retention

    store, cutoff = open_store(), clock.slot(None) - timedelta(days=older_than)
    counts = retention.purge(store, source, cutoff, dry_run=True)
    if not dry_run:
        if not yes:
            rows = ", ".join(f"{n:,} of {table}" for table, n in counts.items())
            typer.confirm(f"Permanently delete what ended before {cutoff:%Y-%m-%d}: {rows}?", abort=True, err=True)
        counts = retention.purge(store, source, cutoff, dry_run=False)
    done = "would delete from" if dry_run else "deleted from"
    print_counts(
        {"ended before": f"{cutoff:%Y-%m-%d}"} | {f"{done} {table}": n for table, n in counts.items()}, as_json
    )


@app.command()
def watch(
    dry_run: Annotated[bool, typer.Option(help="Only look: restart nothing, send nothing.")] = False,
    test_alert: Annotated[
        bool, typer.Option("--test-alert", help="Send a test message to ICU_NOTIFY and exit.")
    ] = False,
    direct: Direct = False,
    as_json: Json = False,
) -> None:
    """Restart crashed runs, look for incidents, and alert ICU_NOTIFY once to each.

    Example: icu-forecast watch --dry-run --direct
    """
    if test_alert:
        from flows.runtime import notify

        notify.send("icu-forecast: a test", "If you read this, alerts reach you.")
        print_done("sent", {"sent": True}, as_json)
        return
    from flows.jobs.watch import watch as flow

    _run(flow, direct, as_json, dry_run=dry_run)
