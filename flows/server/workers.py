"""Starts a Prefect worker whose runs have our settings in their environment."""

import os
import signal
import sys

from flows.runtime.settings import export_settings
from flows.server.deploy import known_pools, require_server
from rnn_core.contracts.errors import ForecastError


def start_worker(pool: str, name: str | None = None, limit: int | None = None, health_port: int | None = None) -> None:
    """Replace this process by a worker of the work pool `pool`; does not return.

    limit: maximum number of simultaneous runs.
    health_port: answer GET /health on this port of the loopback address, for a container's health check.
    Raises ForecastError if no Prefect server is configured or prefect.yaml has no such pool.
    """
    require_server()
    if pool not in (pools := known_pools()):
        raise ForecastError(f"There is no work pool {pool}; prefect.yaml has {', '.join(pools)}.")
    options, health = [], {}
    if name:
        options += ["--name", name]
    if limit:
        options += ["--limit", str(limit)]
    if health_port:
        options.append("--with-healthcheck")
        health = {"PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1", "PREFECT_WORKER_WEBSERVER_PORT": str(health_port)}
    export_settings(health)
    # A shell starts background jobs with SIGINT ignored, but Prefect's worker needs it to stop.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process", *options]
    os.execv(sys.executable, command)
