"""Starts a Prefect worker that gives its runs our settings, wherever they are started."""

import os
import sys

from flows.deploy import require_server
from flows.settings import export_settings


def start_worker(pool: str, name: str | None = None, limit: int | None = None) -> None:
    """Become a worker of the work pool `pool` until it is stopped; does not return.

    Raises ForecastError where no Prefect server is configured.
    """
    require_server()
    export_settings()
    options = ["--name", name] if name else []
    options += ["--limit", str(limit)] if limit else []
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process", *options]
    os.execv(sys.executable, command)
