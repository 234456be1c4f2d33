"""Commands of a silent trial: start, judge, end."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.arguments import SLOT, Json, Source
from flows.runtime import clock
from flows.runtime.terminal import print_done, print_rows

app = typer.Typer(
    no_args_is_help=True, help="Silent trial: judge forecasts on your own patients without showing them to readers."
)


@app.command()
def start(
    source: Source,
    days: Annotated[int, typer.Option(help="Length of the trial in days.", min=1)] = 28,
    as_of: Annotated[
        datetime | None,
        typer.Option("--as-of", **SLOT, help="First hour to judge; default: now."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Start a trial: hide the forecasts of a source from its readers and judge those of the runs to come.

    Example: icu-forecast trial start clif --days 28
    """
    from flows.runtime.databases import open_store
    from sql.published import trials

    row = trials.start_trial(open_store(), source, days, as_of or clock.slot(None))
    print_done(
        f"{source} is on trial until {row['ends_at']:%Y-%m-%d}: its forecasts are judged, and hidden from readers",
        {"source": source, "started_at": row["started_at"].isoformat(), "ends_at": row["ends_at"].isoformat()},
        as_json,
    )


@app.command()
def report(
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
        print_done(
            "", {"verdict": decision.verdict, "advice": decision.advice, "page": str(path), "criteria": rows}, as_json
        )
    else:
        print_rows(rows, as_json)
        typer.echo(f"{decision.verdict}: {decision.advice} {path}")
    if decision.verdict != "go":
        raise typer.Exit(1)


@app.command()
def end(source: Source, as_json: Json = False) -> None:
    """End the trial: readers see the forecasts of a source from the next run on.

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
