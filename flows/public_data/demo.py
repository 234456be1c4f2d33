"""The demonstration: public data play the hospital, and every job runs once on them."""

from typing import Any

from sqlalchemy import text

from flows.public_data.datasets import describe, load_clif
from flows.runtime.databases import open_source, open_store
from flows.runtime.settings import load_settings
from flows.runtime.terminal import print_rows, tell_own_errors_once

DEMO_SOURCE = "clif"

_CURRENT_RISK = """
select stay_id, unit, round(hours_in_stay::numeric, 1) as hours_in, round(mortality_risk::numeric, 3) as mortality_risk,
    risk_band, round(prolonged_stay_risk::numeric, 3) as prolonged_stay_risk,
    round(remaining_los_p10_hours::numeric) as p10_h, round(remaining_los_p50_hours::numeric) as p50_h,
    round(remaining_los_p90_hours::numeric) as p90_h, round(discharge_24h_prob::numeric, 2) as home_24h, status, model_stage
from forecast.current_risk where source = :source limit 10
"""
_QUARANTINE = """
select relation, check_name, disposition, sum(rows)::bigint as rows from forecast.quarantine_summary
where source = :source group by 1, 2, 3 order by rows desc
"""


def run_demo(seed: int) -> None:
    """Load, ingest, train and forecast through Prefect, then show what a bed manager would query."""
    from flows.jobs.forecast import forecast
    from flows.jobs.ingest import ingest
    from flows.jobs.train import train
    from sql.loaders import clif

    tell_own_errors_once()
    _heading("1 of 4  The MIMIC-IV demo (100 real, de-identified patients) becomes a hospital's database")
    print(describe(load_clif(reanchor=True, seed=seed)))
    adapter, engine = open_source(DEMO_SOURCE)
    with engine.connect() as connection:
        as_of = clif.peak_census(connection, adapter.schemas["schema"])
    print(f"Its ICUs are fullest at {as_of:%Y-%m-%d %H:%M} UTC; everything below is what was known then.")

    _heading("2 of 4  Ingest: read, check, quarantine (starts Prefect's temporary server, about 20 s)")
    ingest(DEMO_SOURCE, as_of)
    _heading("3 of 4  Train on the stays known by then")
    train(DEMO_SOURCE, as_of)
    _heading("4 of 4  Forecast every patient who is in the ICU")
    forecast(DEMO_SOURCE, as_of)

    store = open_store()
    with store.connect() as connection:

        def rows(query: str) -> list[dict[str, Any]]:
            return [dict(row) for row in connection.execute(text(query), {"source": DEMO_SOURCE}).mappings()]

        print_rows(rows(_CURRENT_RISK), title="\nforecast.current_risk, highest risk first (10 rows)")
        print_rows(rows(_QUARANTINE), title="\nWhat the checks found in the real data (forecast.quarantine_summary)")
    print(
        "\nTry next:\n"
        '  .venv/bin/icu-forecast sql "select * from forecast.unit_census"\n'
        f"  .venv/bin/icu-forecast source check {DEMO_SOURCE}\n"
        f"  .venv/bin/icu-forecast ingest {DEMO_SOURCE} --direct && .venv/bin/icu-forecast backfill {DEMO_SOURCE} "
        f"--from {as_of:%Y-%m-%dT%H:%M} --to 2026-02-01 --every 12 --direct && "
        f".venv/bin/icu-forecast evaluate {DEMO_SOURCE} --direct\n"
        f"State lies in {load_settings().home}; `icu-forecast db stop` stops the database."
    )


def _heading(words: str) -> None:
    print(f"\n=== {words}", flush=True)
