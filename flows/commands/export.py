"""Commands that write what is stored in the forms of others."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.arguments import AsOf, Json, Source
from flows.runtime import clock
from flows.runtime.terminal import print_counts

app = typer.Typer(no_args_is_help=True, help="Write what is stored as files in the forms of others.")


@app.command()
def meds(
    source: Source,
    out: Annotated[Path, typer.Option(help="Folder to write; new or empty.", show_default=False)],
    as_of: AsOf = None,
    as_json: Json = False,
) -> None:
    """Write stays, observations and published forecasts with their outcomes in the form of MEDS. Patient data.

    Example: icu-forecast export meds clif --out meds
    """
    from flows.inspection.meds_export import export_meds
    from flows.runtime.databases import open_store

    print_counts(export_meds(open_store(), source, out, as_of or clock.slot(None)), as_json)


@app.command()
def windows(
    source: Source,
    parquet: Annotated[Path, typer.Option(help="Folder to write; new or empty.", show_default=False)],
    model_id: Annotated[
        str | None,
        typer.Option(
            "--model", help="Windows and scaler of this model; default: those of a training now.", show_default=False
        ),
    ] = None,
    as_of: AsOf = None,
    as_json: Json = False,
) -> None:
    """Write the windows that a model learns from, with their labels, names and scaler, as Parquet. Patient data.

    Example: icu-forecast export windows clif --parquet windows
    """
    from flows.experiments.windows_export import export_windows
    from flows.runtime.databases import open_store

    print_counts(export_windows(open_store(), source, parquet, as_of or clock.slot(None), model_id), as_json)
