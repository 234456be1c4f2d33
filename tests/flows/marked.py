"""Runs the whole job through a Prefect server, then lets it fail in the ways in which a library would quote a row."""

import sys
from datetime import datetime, timedelta

from sqlalchemy import text

from flows.runtime.settings import load_settings, quiet_environment

quiet_environment(load_settings())

from flows.jobs.evaluate import evaluate  # noqa: E402
from flows.jobs.forecast import forecast  # noqa: E402
from flows.jobs.ingest import ingest  # noqa: E402
from flows.jobs.train import train  # noqa: E402
from flows.jobs.watch import watch  # noqa: E402
from flows.pages.checks import write_page  # noqa: E402
from flows.runtime.databases import open_store  # noqa: E402
from rnn_core.contracts.errors import ForecastError  # noqa: E402

QUOTING = """
create function quote() returns trigger language plpgsql as
    $$ begin raise exception 'the row was % of %', new, (select string_agg(stay_id, ' ') from icu.stay); end $$
"""


def main(as_of: str) -> None:
    at = datetime.fromisoformat(as_of)
    store = open_store()
    ingest("clif", at)
    train("clif", at, epochs=1, members=2)
    forecast("clif", at)
    evaluate("clif", at + timedelta(hours=1))
    write_page(store, "clif", None)
    with store.begin() as connection:
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


main(*sys.argv[1:])
