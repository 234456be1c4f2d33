"""The watch: restarts crashed runs, finds incidents, and sends one alert for each."""

from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine

from flows.runtime import clock, notify
from flows.runtime.databases import open_store
from flows.runtime.flow import flow
from flows.runtime.log import log
from flows.runtime.run_report import AGE, report
from flows.runtime.settings import load_settings
from flows.runtime.steps import step
from flows.server.recover import run_again
from rnn_core.contracts.errors import ForecastError
from sql.published import incidents, runs
from sql.published.incidents import Incident


@flow(name="watch", flow_run_name="watch")
def watch(dry_run: bool = False) -> dict:
    """Check all sources of this installation; returns counts, and under `incidents` what is wrong now.

    dry_run: only look; restart nothing and send nothing.
    """
    store = _open_or_tell(dry_run)
    from prefect.settings import PREFECT_API_URL

    has_prefect = bool(PREFECT_API_URL.value())
    restarted, given_up = start_dead_runs_again() if has_prefect and not dry_run else ([], [])
    sources = sorted(load_settings().sources) or runs.known_sources(store)
    current = [*find_incidents(store, sources), *given_up]
    counts = {
        "crashed runs restarted": len(restarted),
        "incidents": "; ".join(one.sentence for one in current) or "none",
    }
    if dry_run:
        return counts
    incidents.update_incidents(store, current, saw_prefect=has_prefect)
    counts |= {"alerts sent": send_alerts(store)}
    report(store, "watch", "all", clock.floor_hour(datetime.now(UTC)), {**counts, AGE: None})
    return counts


@step("restart crashed runs")
def start_dead_runs_again() -> tuple[list[str], list[Incident]]:
    """Only under a Prefect server: cron starts the next run anyway."""
    return run_again()


@step("look for incidents", retries=2)
def find_incidents(store: Engine, sources: list[str]) -> list[Incident]:
    return incidents.find_incidents(store, sources)


@step("send alerts")
def send_alerts(store: Engine) -> int:
    """Send one message for all incidents without an alert; returns their number. If it cannot be delivered, the next
    watch sends it."""
    unsent = incidents.unsent_incidents(store)
    for _, one in unsent:
        log.warning("incident of %s, %s: %s", one.source, one.kind, one.sentence)
    if not unsent:
        return 0
    if not notify.is_configured():
        log.warning("ICU_NOTIFY is not set, so no alert is sent")
        return 0
    notify.send(*_message([one for _, one in unsent]))
    incidents.mark_sent(store, [number for number, _ in unsent])
    return len(unsent)


def _message(found: list[Incident]) -> tuple[str, str]:
    sources = ", ".join(sorted({one.source for one in found}))
    kinds = ", ".join(sorted({one.kind.replace("_", " ") for one in found}))
    return f"icu-forecast: {kinds} ({sources})", "\n".join(one.sentence for one in found)


def _open_or_tell(dry_run: bool) -> Engine:
    """Our database; while it is down it cannot record incidents, so a file marks that the alert was sent."""
    marker = load_settings().home / "database-away"
    try:
        store = open_store()
    except ForecastError as error:
        if not dry_run and not marker.exists() and notify.is_configured():
            notify.send("icu-forecast: its database is down", str(error))
            _remember(marker)
        raise
    marker.unlink(missing_ok=True)
    return store


def _remember(marker: Path) -> None:
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
