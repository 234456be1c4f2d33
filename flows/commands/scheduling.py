"""Commands that put the jobs on a Prefect server and run them there."""

from typing import Annotated

import typer

from flows.commands.arguments import Json
from flows.runtime.terminal import print_rows

app = typer.Typer()


@app.command()
def deploy(
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="Sources to deploy; default: all that have settings.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Show the plan without contacting the server.")] = False,
    as_json: Json = False,
) -> None:
    """Create or update pools, limits, schedules and automations on the Prefect server (PREFECT_API_URL).

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
    name: Annotated[str | None, typer.Option(help="Name of the worker; default: chosen by Prefect.")] = None,
    limit: Annotated[int | None, typer.Option(help="Maximum number of simultaneous runs here.")] = None,
    health_port: Annotated[int | None, typer.Option(help="Answer /health on this port of 127.0.0.1.")] = None,
) -> None:
    """Execute scheduled runs, each in its own process, until stopped.

    Example: icu-forecast worker cpu
    """
    from flows.server.workers import start_worker

    start_worker(pool, name, limit, health_port)
