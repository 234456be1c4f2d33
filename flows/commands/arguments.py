"""Arguments and options that several commands share, and how their values are parsed."""

from datetime import datetime
from typing import Annotated

import typer

from flows.runtime import clock
from rnn_core.contracts.errors import ForecastError


def known_source(name: str) -> str:
    """The name of a source that exists. Raises ForecastError before a run starts Prefect's server."""
    from flows.runtime.databases import adapter_name

    adapter_name(name)
    return name


def parse_slot(value: str) -> datetime:
    """The hour of a time, UTC. Raises ForecastError for text that is no time and for an hour in the future."""
    return clock.slot(clock.parse_time(value))


def split_names(listed: str) -> list[str]:
    """The names in a comma-separated list.

    >>> split_names("a, b,")
    ['a', 'b']
    """
    return [name.strip() for name in listed.split(",") if name.strip()]


def parse_beds(listed: str) -> list[int]:
    """Beds of each unit. Raises ForecastError for what is not whole numbers.

    >>> parse_beds("12,8")
    [12, 8]
    """
    names = split_names(listed)
    if not all(name.isdigit() for name in names):
        raise ForecastError(f"Beds are whole numbers such as 12,8,20; found {listed!r}.")
    return [int(name) for name in names]


# Of a typer.Option: the hour that a command runs for.
SLOT = {"parser": parse_slot, "metavar": "<time>"}

Source = Annotated[
    str, typer.Argument(help="Name of the source, e.g. clif.", show_default=False, callback=known_source)
]
AsOf = Annotated[
    datetime | None,
    typer.Option("--as-of", **SLOT, help="Hour to run for, e.g. 2026-01-20T14:00; default: now."),
]
ModelId = Annotated[str, typer.Argument(help="Id of the model.", show_default=False)]
StayId = Annotated[str, typer.Argument(help="Id of the stay.", show_default=False)]
StaySource = Annotated[str | None, typer.Option("--source", help="Source of the stay, if several have its id.")]
DrawnFrom = Annotated[
    str, typer.Option("--from", help="Sources ingested here to draw whole stays from, e.g. eicu,clif.")
]
Beds = Annotated[str, typer.Option(help="Beds of each unit of the made-up hospital.")]
Seed = Annotated[int, typer.Option(help="Random seed; the same data and seed give the same result.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Direct = Annotated[
    bool, typer.Option("--direct", help="Run the steps in this process, without a Prefect server and its records.")
]
