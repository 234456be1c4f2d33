"""Commands that look at an installation and its forecasts and change nothing."""

from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.arguments import SLOT, Json, Source, StayId, StaySource
from flows.runtime.settings import load_settings
from flows.runtime.terminal import print_counts, print_line, print_rows

app = typer.Typer()


@app.command()
def sql(query: Annotated[str, typer.Argument(help="One SELECT.", show_default=False)], as_json: Json = False) -> None:
    """Run a read-only query on the database of icu-forecast and print its rows.

    Example: icu-forecast sql "select * from forecast.current_risk limit 5"
    """
    from flows.inspection.query import run_query

    print_rows(run_query(query), as_json)


@app.command()
def why(
    stay: StayId,
    as_of: Annotated[
        datetime,
        typer.Option("--as-of", **SLOT, help="Prediction time.", show_default=False),
    ],
    source: StaySource = None,
    as_json: Json = False,
) -> None:
    """List every row of a stay: used in the forecast of that hour, quarantined, or not yet known.

    Example: icu-forecast why 20044587-1 --as-of 2026-01-20T14:00
    """
    from flows.inspection.explain import explain_rows

    print_rows(explain_rows(stay, as_of, source), as_json)


@app.command()
def explain(
    stay: StayId,
    as_of: Annotated[
        datetime | None,
        typer.Option("--as-of", **SLOT, help="Prediction time; default: the newest."),
    ] = None,
    source: StaySource = None,
    as_json: Json = False,
) -> None:
    """Show the five strongest drivers of a published risk, with their last values.

    Example: icu-forecast explain 20044587-1
    """
    from flows.inspection.explain import explain_forecast

    print_rows(explain_forecast(stay, as_of, source), as_json)


@app.command()
def reproduce(
    run_id: Annotated[int, typer.Argument(help="run_id of forecast.run.", show_default=False)], as_json: Json = False
) -> None:
    """Score a past run again from what was stored when it began; exit code 1 if a row differs.

    Example: icu-forecast reproduce 42
    """
    from flows.inspection.reproduce import reproduce as score_again

    found = score_again(run_id)
    print_counts(found, as_json)
    if not found["rows published"] == found["rows scored again"] == found["rows equal"]:
        raise typer.Exit(1)


@app.command()
def board(
    source: Source,
    patients: Annotated[
        bool, typer.Option("--patients", help="Also show patients: their ids, risks and changes.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the page to this file; default: in reports of ICU_HOME.", show_default=False),
    ] = None,
    serve: Annotated[
        int | None,
        typer.Option(
            help="Show the page on this port of 127.0.0.1 until stopped, always of the newest run.", min=1, max=65535
        ),
    ] = None,
) -> None:
    """Write a page of the newest forecast: how full the hospital and each unit will be in the next seven days.

    Example: icu-forecast board clif --out board.html
    """
    from flows.runtime.databases import open_store

    if patients and out is None and serve is None:
        raise typer.BadParameter("--patients shows patient data, so say where: --out FILE or --serve PORT")
    if serve is None:
        from flows.pages.board import write_board

        typer.echo(f"page: {write_board(open_store(), source, out, patients=patients)}")
        return
    if out is not None:
        raise typer.BadParameter("the page is either written (--out) or served (--serve)")
    from flows.pages.board_server import HOST, BoardServer

    with BoardServer(open_store(), source, serve, patients=patients) as server, suppress(KeyboardInterrupt):
        typer.echo(f"http://{HOST}:{serve}/ until Ctrl-C")
        server.serve_forever()


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check databases and grants, migrations, indices, watermarks, models, Prefect and disk; exit code 1 on a fault.

    Findings are printed as they are made; a look that does not end after 30 seconds is a fault.

    Example: icu-forecast doctor
    """
    from flows.inspection.doctor import examine

    findings = []
    for finding in examine(load_settings()):
        findings.append(finding)
        if not as_json:
            print_line([finding.state, finding.what, finding.found], widths=[5, 24, 0])
    if as_json:
        print_rows([finding.to_json() for finding in findings], as_json)
    if any(finding.state == "fault" for finding in findings):
        raise typer.Exit(1)
