"""Commands that compare the forecaster with alternatives on published data."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.commands.arguments import AsOf, Beds, DrawnFrom, Json, Seed, Source, parse_beds, split_names
from flows.runtime import clock
from flows.runtime.terminal import print_rows
from rnn_core.contracts.errors import ForecastError

app = typer.Typer(no_args_is_help=True, help="Compare the forecaster with alternatives on published data.")

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.", show_default=False)]
Report = Annotated[
    Path | None, typer.Option(help="Write a page with tables and plots to this file.", show_default=False)
]
Folds = Annotated[int, typer.Option(help="Folds of the cross-validation.", min=2)]
Models = Annotated[str, typer.Option(help="Only these models, comma-separated.", show_default=False)]
Epochs = Annotated[int | None, typer.Option(help="Maximum number of epochs, for a quick look.", min=1)]
Members = Annotated[int | None, typer.Option(help="Networks in an ensemble; default: 5.", min=2)]


@app.command("physionet-2012")
def physionet_2012(
    train: Annotated[
        str, typer.Option(help="Folders of the sets to learn from, comma-separated; or set-a.tar.gz itself.")
    ],
    test: Annotated[str, typer.Option(help="Folders of the sets to judge on.", show_default=False)] = "",
    json_file: JsonFile = None,
    report: Report = None,
    cross_validate: Annotated[
        bool, typer.Option("--cross-validate", help="Judge each fold of the train sets by a fit on the others.")
    ] = False,
    folds: Folds = 5,
    models: Models = "",
    seed: Seed = 0,
    epochs: Epochs = None,
    members: Members = None,
    dry_run: Annotated[bool, typer.Option(help="Find the sets and show the plan, but run nothing.")] = False,
) -> None:
    """Compare all models on mortality and length of stay after 48 hours, on the PhysioNet Challenge 2012.

    Works in a temporary database. The outcomes of the test sets stay closed until all forecasts are made.

    Example: icu-forecast benchmark physionet-2012 --train data/a,data/b --test data/c --json out.json --report out.html
    """
    from flows.pages.benchmark import build_page, summary_table
    from flows.public_data import benchmark
    from flows.public_data.benchmark_run import write_files

    train_sets = benchmark.find_sets([Path(place) for place in split_names(train)])
    test_sets = benchmark.find_sets([Path(place) for place in split_names(test)])
    if cross_validate == bool(test_sets):
        raise ForecastError("Give either --test with the sets to judge on, or --cross-validate.")
    chosen = split_names(models) or list(benchmark.MODELS)
    benchmark.check(train_sets, test_sets, chosen)
    if dry_run:
        judged = f"set {', '.join(sorted(test_sets))}" if test_sets else f"{folds} folds of them"
        typer.echo(f"Learns from set {', '.join(sorted(train_sets))}, judges on {judged}: {', '.join(chosen)}.")
        return
    outcome = benchmark.run_benchmark(
        train_sets, test_sets, models=chosen, folds=folds, seed=seed, epochs=epochs, members=members
    )
    typer.echo(summary_table(outcome), nl=False)
    write_files(outcome, json_file, report, build_page)


@app.command()
def eicu(
    train: Annotated[str, typer.Option(help="Folders of published tables to learn from, comma-separated.")],
    test: Annotated[str, typer.Option(help="Folders to judge on, comma-separated.", show_default=False)] = "",
    json_file: JsonFile = None,
    report: Report = None,
    cross_validate: Annotated[
        bool, typer.Option("--cross-validate", help="Judge each fold of the hospitals by a fit on the others.")
    ] = False,
    folds: Folds = 5,
    models: Models = "",
    seed: Seed = 0,
    epochs: Epochs = None,
    members: Members = None,
    warm_from: Annotated[
        Path | None,
        typer.Option(help="Also judge a forecaster that starts from the model in this folder.", show_default=False),
    ] = None,
    own_stays: Annotated[
        int | None, typer.Option(help="Learn from so many stays only, as a small hospital has.", min=20)
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Find the tables and show the plan, but run nothing.")] = False,
) -> None:
    """Compare all models on whole stays of eICU: remaining stay, discharge and death at hours 6 to 96 and over all hours.

    Works in a temporary database. The outcomes of the test folders stay closed until all forecasts are made.

    Example: icu-forecast benchmark eicu --train eicu-demo --cross-validate --json out.json --report out.html
    """
    from flows.pages.whole_stays import build_page, summary_table
    from flows.public_data import whole_stays
    from flows.public_data.benchmark_run import write_files
    from sql.loaders.eicu import read_stay_ids

    train_places, test_places = ([Path(place) for place in split_names(places)] for places in (train, test))
    if cross_validate == bool(test_places):
        raise ForecastError("Give either --test with the folders to judge on, or --cross-validate.")
    chosen = split_names(models) or list(whole_stays.MODELS)
    if warm_from and whole_stays.WARM not in chosen:
        chosen.append(whole_stays.WARM)
    whole_stays.check(train_places, test_places, chosen)
    counts = [len(read_stay_ids(places)) for places in (train_places, test_places)]
    if dry_run:
        judged = (
            f"{counts[1]:,} stays of {', '.join(map(str, test_places))}"
            if test_places
            else f"{folds} folds of hospitals"
        )
        typer.echo(f"Learns from {counts[0]:,} unit stays of {train}, judges on {judged}: {', '.join(chosen)}.")
        return
    judgement = whole_stays.run_benchmark(
        train_places,
        test_places,
        models=chosen,
        folds=folds,
        seed=seed,
        epochs=epochs,
        members=members,
        warm_from=warm_from,
        own_stays=own_stays,
    )
    write_files(judgement, json_file, report, build_page)
    typer.echo(summary_table(judgement), nl=False)


@app.command()
def census(
    drawn_from: DrawnFrom = "eicu",
    beds: Beds = "12,8,20",
    days: Annotated[int, typer.Option(help="Days of the hospital's calendar.", min=2)] = 400,
    judged_days: Annotated[int, typer.Option(help="Last days, on which forecasts are judged.", min=10)] = 200,
    stay_model: Annotated[
        Literal["none", "trees", "recurrent", "blend"],
        typer.Option(help="Kind of model that forecasts the patients; none: unit-wide curves only."),
    ] = "trees",
    folds: Folds = 5,
    draws: Annotated[int, typer.Option(help="Courses drawn per time for the floor.", min=20)] = 400,
    json_file: JsonFile = None,
    report: Report = None,
    seed: Seed = 0,
    dry_run: Annotated[bool, typer.Option(help="Check the plan, but run nothing.")] = False,
) -> None:
    """Judge the census forecast in a made-up hospital of real stays, beside simple answers and the least possible error.

    Whole stays of sources that are loaded and ingested arrive as sql/sources/replay/README.md says; each is forecast by a
    model of other patients. Nothing is written to a database.

    Example: icu-forecast benchmark census --from eicu --json out.json --report out.html
    """
    from flows.pages.census_benchmark import build_page, summary_table
    from flows.public_data.benchmark_run import write_files
    from flows.public_data.census import run_benchmark
    from rnn_core.benchmark.census_run import judged_slots

    sources, of_units = split_names(drawn_from), parse_beds(beds)
    times = len(judged_slots(days, judged_days))
    if dry_run:
        typer.echo(
            f"Units of {beds} beds, {days} days of stays of {drawn_from}; {times} times of forecast; {stay_model}."
        )
        return
    judgement = run_benchmark(
        sources, beds=of_units, days=days, judged_days=judged_days, kind=stay_model, folds=folds, draws=draws, seed=seed
    )
    write_files(judgement, json_file, report, build_page)
    typer.echo(summary_table(judgement), nl=False)


@app.command()
def ages(
    source: Source,
    as_of: AsOf = None,
    folds: Annotated[int, typer.Option(help="Folds of patients, each judged by a fit on the others.", min=2)] = 5,
    as_json: Json = False,
) -> None:
    """Judge the forecaster on whole stays of a source, at hours 6 to 96 and over all hours, beside the population's curve.

    Publishes nothing. Intervals are wide on small data: read them first.

    Example: icu-forecast benchmark ages clif --as-of 2026-01-29
    """
    from flows.pages.whole_stays import figure_rows
    from flows.public_data.whole_stays import judge_source

    print_rows(figure_rows(judge_source(source, as_of or clock.slot(None), folds)), as_json)
