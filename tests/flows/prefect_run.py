"""Runs the whole job through a Prefect server, then lets it fail in the ways in which a library would quote a row.

One process, since a temporary server takes a quarter of a minute to start. Prints what the server recorded of the runs.
"""

import json
import os
import sys
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import text

from flows.runtime.settings import load_settings, quiet_environment

quiet_environment(load_settings())

from prefect.client.orchestration import get_client  # noqa: E402

from flows.jobs.catch_up import catch_up  # noqa: E402
from flows.jobs.evaluate import evaluate  # noqa: E402
from flows.jobs.forecast import forecast  # noqa: E402
from flows.jobs.ingest import ingest  # noqa: E402
from flows.jobs.train import train  # noqa: E402
from flows.jobs.watch import watch  # noqa: E402
from flows.pages.checks import write_page  # noqa: E402
from flows.runtime import notify  # noqa: E402
from flows.runtime.databases import open_store  # noqa: E402
from rnn_core.contracts.errors import ForecastError  # noqa: E402
from rnn_core.evaluation import holdout, scorecard  # noqa: E402
from rnn_core.forecasters import drivers  # noqa: E402

QUOTING = """
create function quote() returns trigger language plpgsql as
    $$ begin raise exception 'the row was % of %', new, (select string_agg(stay_id, ' ') from icu.stay); end $$
"""


def run_each_flow(at: datetime) -> dict:
    """What each flow returned."""
    counts = {"ingest": ingest("clif", at), "train": train("clif", at, epochs=1, members=2, forecaster="recurrent")}
    counts["forecast"] = forecast("clif", at)
    evaluate("clif", at)
    # As the schedule starts it: the hour it speaks for is when the run was due.
    counts["catch_up"] = catch_up("clif")
    try:
        forecast("physionet_2012", at)
    except ForecastError as error:
        counts["refused"] = str(error)
    return counts


def alert_an_unknown_block() -> str:
    """What an alert to a block that the server does not have is refused with."""
    os.environ["ICU_NOTIFY"] = "prefect:slack-webhook/none"
    load_settings.cache_clear()
    try:
        notify.send("a", "b")
    except ForecastError as error:
        return str(error)
    finally:
        del os.environ["ICU_NOTIFY"]
        load_settings.cache_clear()
    raise AssertionError("an unknown block took the message")


def read_server() -> dict:
    """What the server knows of the runs."""
    with get_client(sync_client=True) as client:
        runs, tasks, artifacts = client.read_flow_runs(), client.read_task_runs(), client.read_artifacts()
    return {
        "runs": {run.name: run.state_name for run in runs},
        "parameters": [run.parameters for run in runs],
        "tasks": {task.name.split(" clif ")[0]: task.state_name for task in tasks},
        "artifacts": {artifact.key: artifact.data for artifact in artifacts if artifact.type == "table"},
        "other artifacts": [str(artifact.data) for artifact in artifacts if artifact.type != "table"],
    }


def fail(at: datetime) -> None:
    """Our database refuses rows in the words of a trigger that quotes them, and the watch reports the failed runs."""
    with open_store().begin() as connection:
        connection.execute(text(QUOTING))
        for table in ("forecast.stay_forecast", "icu.observation"):
            connection.execute(
                text(f"create trigger quote before insert on {table} for each row execute function quote()")
            )
    for job, hours in ((forecast, 2), (ingest, 48)):
        try:
            job("clif", at + timedelta(hours=hours))
        except ForecastError as error:
            print(f"failed as it should: {error}")
        else:
            raise AssertionError(f"{job.name} did not fail")
    watch()


def main(as_of: str) -> None:
    at = datetime.fromisoformat(as_of)
    # Most of the time of a small run goes into its drivers.
    drivers.explain_stays = partial(drivers.explain_stays, limit=1)
    holdout._RESAMPLES = scorecard._RESAMPLES = 60
    result = run_each_flow(at) | read_server() | {"unknown block": alert_an_unknown_block()}
    print("RESULT" + json.dumps(result, default=str))
    evaluate("clif", at + timedelta(hours=1))
    write_page(open_store(), "clif", None)
    fail(at)


main(*sys.argv[1:])
