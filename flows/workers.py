"""Starts a Prefect worker that gives its runs our settings, wherever they are started."""

import os
import sys

from flows.deploy import require_server
from flows.settings import export_settings


def start_worker(pool: str, name: str | None = None, limit: int | None = None, health_port: int | None = None) -> None:
    """Become a worker of the work pool `pool` until it is stopped; does not return.

    health_port: answer GET /health on this port of the loopback address, for a container's health check.
    Raises ForecastError where no Prefect server is configured.
    """
    require_server()
    options, health = [], {}
    if name:
        options += ["--name", name]
    if limit:
        options += ["--limit", str(limit)]
    if health_port:
        options.append("--with-healthcheck")
        health = {"PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1", "PREFECT_WORKER_WEBSERVER_PORT": str(health_port)}
    export_settings(health)
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process", *options]
    os.execv(sys.executable, command)
