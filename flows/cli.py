"""The command line `icu-forecast`."""

import sys

import typer

from flows.commands import benchmark, database, export, inspection, jobs, models, public_data, scheduling, source, trial
from flows.runtime.flow import run_directly
from flows.runtime.settings import load_settings, quiet_environment
from rnn_core.contracts.errors import ForecastError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Forecast risk and length of stay in the ICU, from any SQL source to result tables. All times are UTC.",
)
for topic in (public_data, jobs, scheduling, inspection):
    app.add_typer(topic.app)
app.add_typer(database.app, name="db")
app.add_typer(export.app, name="export")
app.add_typer(models.app, name="models")
app.add_typer(source.app, name="source")
app.add_typer(trial.app, name="trial")
app.add_typer(benchmark.app, name="benchmark")


def main() -> None:
    """Entry point: an error of ours ends the process with its one sentence and exit code 1."""
    try:
        quiet_environment(load_settings())
        if "--direct" in sys.argv:
            run_directly()
        app()
    except ForecastError as error:
        typer.secho(f"icu-forecast: {error}", err=True, fg=typer.colors.RED)
        sys.exit(1)


if __name__ == "__main__":
    main()
