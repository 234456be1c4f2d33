"""The watch: starts dead runs again, finds what is wrong, and tells a person once of each incident."""

from datetime import UTC, datetime
from pathlib import Path

from prefect import flow
from sqlalchemy import Engine

from flows.runtime import clock, notify
from flows.runtime.databases import open_store
from flows.runtime.log import log
from flows.runtime.run_report import AGE, report
from flows.runtime.settings import load_settings
from flows.runtime.steps import step
from flows.server.recover import run_again
from rnn_core.contracts.errors import ForecastError
from sql.published import incidents, results
from sql.published.incidents import Incident


@flow(name="watch", flow_run_name="watch")
def watch(dry_run: bool = False) -> dict:
    """Look after all sources of this installation; returns counts, and under `incidents` what is wrong now.

    dry_run: neither start nor tell anything, only look.
    """
    store = _open_or_tell(dry_run)
    restarted, given_up = ([], []) if dry_run else start_dead_runs_again()
    sources = sorted(load_settings().sources) or results.known_sources(store)
    current = [*find_incidents(store, sources), *given_up]
    counts = {
        "dead runs started again": len(restarted),
        "incidents": "; ".join(one.sentence for one in current) or "none",
    }
    if dry_run:
        return counts
    incidents.update_incidents(store, current)
    counts |= {"told now": tell(store)}
    report(store, "watch", "all", clock.floor_hour(datetime.now(UTC)), {**counts, AGE: None})
    return counts


@step("start dead runs again")
def start_dead_runs_again() -> tuple[list[str], list[Incident]]:
    """Nothing where no Prefect server is configured: cron starts the next run by itself."""
    from prefect.settings import PREFECT_API_URL

    return run_again() if PREFECT_API_URL.value() else ([], [])


@step("look for incidents", retries=2)
def find_incidents(store: Engine, sources: list[str]) -> list[Incident]:
    return incidents.find_incidents(store, sources)


@step("tell of incidents")
def tell(store: Engine) -> int:
    """One message for all that nobody was told of yet; returns how many those were. A message that is not taken is
    sent again by the next watch."""
    untold = incidents.untold_incidents(store)
    for _, one in untold:
        log.warning("incident of %s, %s: %s", one.source, one.kind, one.sentence)
    if not untold:
        return 0
    if not notify.is_configured():
        log.warning("ICU_NOTIFY is not set, so nobody is told")
        return 0
    notify.send(*_message([one for _, one in untold]))
    incidents.mark_told(store, [number for number, _ in untold])
    return len(untold)


def _message(found: list[Incident]) -> tuple[str, str]:
    sources = ", ".join(sorted({one.source for one in found}))
    kinds = ", ".join(sorted({one.kind.replace("_", " ") for one in found}))
    return f"icu-forecast: {kinds} ({sources})", "\n".join(one.sentence for one in found)


def _open_or_tell(dry_run: bool) -> Engine:
    """Our database; while it is away incidents cannot be kept in it, so a file remembers that somebody was told."""
    told = load_settings().home / "database-away"
    try:
        store = open_store()
    except ForecastError as error:
        if not dry_run and not told.exists() and notify.is_configured():
            notify.send("icu-forecast: its database is away", str(error))
            _remember(told)
        raise
    told.unlink(missing_ok=True)
    return store


def _remember(told: Path) -> None:
    told.parent.mkdir(parents=True, exist_ok=True)
    told.touch()
