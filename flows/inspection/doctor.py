"""Checks an installation from end to end; each finding says what to do about a fault."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from flows.jobs.train import NO_RISK
from flows.runtime import compute, notify
from flows.runtime.databases import open_source, store_url
from flows.runtime.quiet_tensorflow import import_tensorflow
from flows.runtime.settings import Settings
from rnn_core.contracts.errors import ForecastError
from rnn_core.series.finished_stays import FinishedStays
from sql.intake.catalogue import check_source
from sql.intake.landing import read_watermark
from sql.published import registry, runs
from sql.published.canonical import count_finished
from sql.store import health, rebuild_views
from sql.store.deadline import within
from sql.store.engine import address, open_engine
from sql.store.migrate import current_revision, newest_revision
from sql.store.refusals import check_reachable
from sql.store.schema import SCHEMAS

# A server answers in far less; importing TensorFlow may take longer.
LOOK_SECONDS, IMPORT_SECONDS = 30.0, 120.0
FREE_GB = 2.0
# Age of the newest row that is worth a note, and that is a fault if ingest is scheduled and forecasts are published.
LAG_HOURS, FAULT_LAG_HOURS = 3.0, 26.0
LIVE_HOURS = 48.0


@dataclass(frozen=True)
class Finding:
    """state is ok, note (worth knowing) or fault (something to do)."""

    what: str
    state: str
    found: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


Looked = Finding | Iterable[Finding]


def examine(settings: Settings) -> Iterator[Finding]:
    """All findings, each as soon as it is made, in the order in which a run would need what they check."""
    yield from _look("disk", _disk, settings)
    database = _look("database", _database, settings)
    yield from database
    if database[0].state == "ok":
        yield from _examine_store(open_engine(store_url(settings)), settings)
    yield from _look("compute", _compute, seconds=IMPORT_SECONDS)
    yield from _look("training device", _training_device, seconds=IMPORT_SECONDS)
    yield from _look("prefect", _prefect)
    yield _alerts()


def _examine_store(store: Engine, settings: Settings) -> Iterator[Finding]:
    migrations = _look("migrations", _migrations, store)
    yield from migrations
    if migrations[0].state != "ok":
        return
    yield from _look("grants", _grants, store)
    yield from _look("indices", _indices, store)
    for source in sorted({*runs.known_sources(store), *settings.sources}):
        yield from _look(f"source {source}", _source, source, settings)
        yield from _look(f"watermark {source}", _watermark, store, source)
        yield from _look(f"stays {source}", _stays, store, source)
        yield from _look(f"model {source}", _models, store, source, settings)


def _look(
    what: str, look: Callable[..., Finding | Iterable[Finding]], *given: Any, seconds: float | None = None
) -> list[Finding]:
    """The findings of one look; a look that fails or does not end is a fault and keeps nothing else from being seen."""

    def findings() -> list[Finding]:
        found = look(*given)
        return [found] if isinstance(found, Finding) else list(found)

    seconds = seconds or LOOK_SECONDS
    try:
        return within(seconds, findings)
    except TimeoutError:
        found = f"no answer within {seconds:g} seconds; does a server or a file system hang?"
    except ForecastError as error:
        found = str(error)
    except DBAPIError as error:
        found = f"the database refused a query ({type(error.orig).__name__})"
    return [Finding(what, "fault", found)]


def _database(settings: Settings) -> Finding:
    store = open_engine(store_url(settings))
    check_reachable(store, "database of icu-forecast (ICU_DATABASE_URL)")
    return Finding("database", "ok", address(store))


def _alerts() -> Finding:
    if notify.is_configured():
        return Finding("alerts", "ok", "alerts go to ICU_NOTIFY")
    return Finding("alerts", "note", "ICU_NOTIFY is not set; no alerts are sent")


def _disk(settings: Settings) -> Finding:
    folder = settings.artifact_folder
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / 1e9
    if not os.access(folder, os.W_OK):
        return Finding("disk", "fault", f"{folder} is not writable; set ICU_ARTIFACTS to a folder that is.")
    state = "ok" if free >= FREE_GB else "fault"
    return Finding(
        "disk", state, f"{free:.1f} GB free at {folder}" + ("" if state == "ok" else f", {FREE_GB} GB needed")
    )


def _migrations(store: Engine) -> Finding:
    with store.connect() as connection:
        revision, current = current_revision(connection), rebuild_views.are_current(connection)
    if revision == newest_revision() and current:
        return Finding(
            "migrations", "ok", f"at {revision}, {len(rebuild_views.RELATIONS)} views and functions of this version"
        )
    if revision == newest_revision():
        return Finding(
            "migrations", "fault", "a view or function is missing or of another version; run `icu-forecast db migrate`."
        )
    return Finding(
        "migrations", "fault", f"at {revision}, this version needs {newest_revision()}; run `icu-forecast db migrate`."
    )


def _grants(store: Engine) -> Finding:
    if lacking := health.lacking_grants(store):
        return Finding("grants", "fault", f"this user may not use and create in {', '.join(lacking)}; grant both.")
    return Finding("grants", "ok", f"usage and create in {', '.join(SCHEMAS)}")


def _indices(store: Engine) -> Finding:
    if missing := health.missing_indices(store):
        return Finding(
            "indices", "fault", f"missing or invalid: {', '.join(missing)}; create them as sql/store/schema.py says."
        )
    return Finding("indices", "ok", f"{len(health.declared_indices())} in place")


def _source(source: str, settings: Settings) -> Finding:
    adapter, engine = open_source(source, settings)
    check_source(adapter, engine)
    return Finding(f"source {source}", "ok", f"reachable, {len(adapter.tables)} tables with the columns that are read")


def _watermark(store: Engine, source: str) -> Finding:
    with store.connect() as connection:
        watermark = read_watermark(connection, source)
    if watermark is None:
        return Finding(f"watermark {source}", "note", f"nothing ingested yet; run `icu-forecast ingest {source}`.")
    lag = _hours_since(watermark)
    found = f"newest row known at {watermark:%Y-%m-%d %H:%M}, {lag:.1f} h ago"
    if lag <= LAG_HOURS:
        return Finding(f"watermark {source}", "ok", found)
    last_ingest = runs.last_slot(store, source, "ingest", finished=False)
    is_live = last_ingest is not None and _hours_since(last_ingest) <= LIVE_HOURS
    if lag > FAULT_LAG_HOURS and is_live and runs.last_slot(store, source, "forecast"):
        found += ", though ingest ran for a recent hour; see forecast.run_health, and check that the source still receives rows."
        return Finding(f"watermark {source}", "fault", found)
    return Finding(f"watermark {source}", "note", found)


def _hours_since(time: datetime) -> float:
    return (datetime.now(UTC) - time).total_seconds() / 3600


def _stays(store: Engine, source: str) -> Iterator[Finding]:
    """What the finished stays themselves show of the mapping."""
    for column, doubt in FinishedStays(**count_finished(store, source)).doubts().items():
        # No death may be true of a small unit; training cannot work with one patient id or one begin.
        yield Finding(f"{column} {source}", "note" if column == "outcome" else "fault", doubt)


def _models(store: Engine, source: str, settings: Settings) -> Iterator[Finding]:
    """The stay forecaster, and those of units and arrivals where they serve."""
    from rnn_core.forecasters.artifact import check_artifact

    for name, what in zip(
        registry.NAMES, (f"model {source}", f"unit model {source}", f"arrival model {source}"), strict=True
    ):
        serving = registry.serving_model(store, source, name)
        if serving is None:
            if name == "stay":
                yield Finding(what, "note", f"no model serves yet; run `icu-forecast train {source}`.")
            continue
        try:
            meta = check_artifact(settings.artifact_folder / serving["artifact"])
            found = f"{serving['model_id']}, {serving['stage']}, checksums match"
            if meta.get("forecasts_death", True):
                yield Finding(what, "ok", found)
            else:
                yield Finding(what, "note", f"{found}; risk of death {NO_RISK}")
        except ForecastError as error:
            yield Finding(what, "fault", str(error))


def _compute() -> Iterator[Finding]:
    yield Finding("compute", "ok", f"shards are computed {compute.describe()}")
    if compute.is_open_to_others():
        found = "a tcp:// scheduler beyond this machine runs anyone's code, and patients' data reach it unencrypted"
        yield Finding(
            "compute", "note", f"{found}; use tls:// unless the network is the cluster's own (docs/scale.md)."
        )


def _training_device() -> Finding:
    try:
        import_tensorflow()
        from rnn_core.network.devices import choose_devices
    except ImportError as error:
        found = f"TensorFlow cannot be imported ({error}); run `make setup`, or `make setup-gpu` on a GPU worker."
        return Finding("training device", "fault", found)
    devices = choose_devices()
    return Finding("training device", "ok", f"training here would use {devices.reason}")


def _prefect() -> Finding:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    url = PREFECT_API_URL.value()
    if not url:
        return Finding("prefect", "note", "no PREFECT_API_URL; each run starts a temporary server")
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(sync_client=True, httpx_settings={"timeout": 5}) as client,
    ):
        error = client.api_healthcheck()
    if error is not None:
        found = f"{url} does not answer ({type(error).__name__}); start `prefect server start`."
        return Finding("prefect", "fault", found)
    return Finding("prefect", "ok", url)
