"""Commands on public data: load a data set as a source, and the demonstration."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.commands.arguments import Json, Seed, parse_beds, split_names
from flows.runtime.terminal import print_done

app = typer.Typer()


class Dataset(StrEnum):
    clif = "clif"
    physionet_2012 = "physionet_2012"
    mimic_iii = "mimic_iii"
    eicu = "eicu"
    meds = "meds"
    replay = "replay"


@app.command()
def load(
    dataset: Annotated[Dataset, typer.Argument(help="Public data set to load.", show_default=False)],
    path: Annotated[
        list[Path] | None, typer.Option(help="Folder of the published files; repeat for several. clif needs none.")
    ] = None,
    reanchor: Annotated[bool, typer.Option(help="clif: move the stays into 28 days, so that they overlap.")] = False,
    layout: Annotated[
        Literal["calendar", "together"],
        typer.Option(help="physionet_2012: spread admissions over a year, or start all stays at once."),
    ] = "calendar",
    sets: Annotated[
        str | None, typer.Option(help="physionet_2012: sets to load, e.g. a,b; default: all found.")
    ] = None,
    withhold_outcomes: Annotated[
        str,
        typer.Option(help="physionet_2012: sets to load without outcomes, e.g. b,c, or all.", show_default=False),
    ] = "",
    drawn_from: Annotated[
        str, typer.Option("--from", help="replay: sources ingested here to draw stays from, e.g. eicu,mimic_iii.")
    ] = "",
    beds: Annotated[str, typer.Option(help="replay: beds of each unit of the made-up hospital.")] = "12,8,20",
    days: Annotated[int, typer.Option(help="replay: days of its calendar.", min=2)] = 400,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Load a public data set, as published, into the database of the source of its name.

    replay draws whole stays of other sources into a made-up hospital; sql/sources/replay/README.md says how.

    Example: icu-forecast load clif --reanchor
    """
    from flows.public_data.datasets import (
        describe,
        load_clif,
        load_eicu,
        load_meds,
        load_mimic_iii,
        load_physionet_2012,
        load_replay,
    )

    if dataset is Dataset.clif:
        report = load_clif(reanchor=reanchor, seed=seed)
    elif dataset is Dataset.mimic_iii:
        report = load_mimic_iii(path or [])
    elif dataset is Dataset.eicu:
        report = load_eicu(path or [])
    elif dataset is Dataset.meds:
        report = load_meds(path or [])
    elif dataset is Dataset.replay:
        report = load_replay(split_names(drawn_from), beds=parse_beds(beds), days=days, seed=seed)
    else:
        withheld = withhold_outcomes.strip() == "all" or split_names(withhold_outcomes)
        report = load_physionet_2012(
            path or [], sets=split_names(sets) if sets else None, layout=layout, withhold_outcomes=withheld, seed=seed
        )
    steps = f"Next: icu-forecast source check {dataset}, then icu-forecast ingest {dataset}."
    print_done(f"{describe(report)} {steps}", {"rows": report.rows, "notes": report.notes}, as_json)


@app.command()
def demo(seed: Seed = 0) -> None:
    """Run every job once on public data: load, ingest, train, forecast; then show the first rows of the result.

    Example: icu-forecast demo
    """
    from flows.public_data.demo import run_demo

    run_demo(seed)
