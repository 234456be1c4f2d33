"""The demo: public data stand in for the hospital, and every job runs once."""

from flows.public_data.datasets import describe, load_clif
from flows.runtime.databases import open_source, open_store
from flows.runtime.settings import load_settings
from flows.runtime.terminal import print_rows, show_own_errors_once
from sql.published import summaries

DEMO_SOURCE = "clif"


def run_demo(seed: int) -> None:
    """Load, ingest, train and forecast through Prefect, then show what a bed manager would query."""
    from flows.jobs.forecast import forecast
    from flows.jobs.ingest import ingest
    from flows.jobs.train import train
    from sql.loaders import clif

    show_own_errors_once()
    _heading("1 of 4  The MIMIC-IV demo (100 real, de-identified patients) is loaded as a hospital's database")
    print(describe(load_clif(reanchor=True, seed=seed)))
    adapter, engine = open_source(DEMO_SOURCE)
    with engine.connect() as connection:
        as_of = clif.peak_census(connection, adapter.schemas["schema"])
    print(f"Its ICUs are fullest at {as_of:%Y-%m-%d %H:%M} UTC; everything below uses what was known then.")

    _heading("2 of 4  Ingest: read, check, quarantine (starts Prefect's temporary server, about 20 s)")
    ingest(DEMO_SOURCE, as_of)
    _heading("3 of 4  Train on the stays known by then")
    train(DEMO_SOURCE, as_of)
    _heading("4 of 4  Forecast every patient who is in the ICU")
    forecast(DEMO_SOURCE, as_of)

    store = open_store()
    print_rows(
        summaries.highest_risks(store, DEMO_SOURCE, 10), title="\nforecast.current_risk, highest risk first (10 rows)"
    )
    print_rows(
        summaries.count_quarantined(store, DEMO_SOURCE),
        title="\nWhat the checks found in the real data (forecast.quarantine_summary)",
    )
    print('\nTry next:\n  .venv/bin/icu-forecast sql "select * from forecast.unit_census"')
    print(
        f"  .venv/bin/icu-forecast source check {DEMO_SOURCE}\n"
        f"  .venv/bin/icu-forecast ingest {DEMO_SOURCE} --direct && .venv/bin/icu-forecast backfill {DEMO_SOURCE} "
        f"--from {as_of:%Y-%m-%dT%H:%M} --to 2026-02-01 --every 12 --direct && "
        f".venv/bin/icu-forecast evaluate {DEMO_SOURCE} --direct\n"
        f"State is in {load_settings().home}; `icu-forecast db stop` stops the database."
    )


def _heading(words: str) -> None:
    print(f"\n=== {words}", flush=True)
