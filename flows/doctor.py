"""Examines an installation from end to end: what is in order, what is not, and what to do about it."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from flows.databases import open_source, store_url
from flows.settings import Settings
from rnn_core.errors import ForecastError
from sql import registry
from sql.adapter import check_source
from sql.engine import check_reachable, open_engine
from sql.landing import read_watermark
from sql.migrate import current_revision, newest_revision
from sql.schema import SCHEMAS, metadata

FREE_GB = 2.0
LAG_HOURS = 3.0


@dataclass(frozen=True)
class Finding:
    """state is ok, note (worth knowing) or fault (something to do)."""

    what: str
    state: str
    found: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(settings: Settings) -> list[Finding]:
    """All findings, in the order in which a run would meet them."""
    findings = [_disk(settings)]
    try:
        store = open_engine(store_url(settings))
        check_reachable(store, "database of icu-forecast (ICU_DATABASE_URL)")
    except ForecastError as error:
        return [*findings, Finding("database", "fault", str(error)), _prefect()]
    findings += [Finding("database", "ok", store.url.render_as_string(hide_password=True)), _migrations(store)]
    if findings[-1].state == "ok":
        findings += [*_grants(store), _indices(store)]
        for source in _sources(store, settings):
            findings += [_source(source, settings), _watermark(store, source), _model(store, source, settings)]
    return [*findings, _prefect()]


def _disk(settings: Settings) -> Finding:
    folder = settings.artifact_folder
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / 1e9
    if not os.access(folder, os.W_OK):
        return Finding("disk", "fault", f"{folder} cannot be written to; set ICU_ARTIFACTS to a folder that can.")
    state = "ok" if free >= FREE_GB else "fault"
    return Finding(
        "disk", state, f"{free:.1f} GB free at {folder}" + ("" if state == "ok" else f", {FREE_GB} GB needed")
    )


def _migrations(store: Engine) -> Finding:
    with store.connect() as connection:
        revision = current_revision(connection)
    if revision == newest_revision():
        return Finding("migrations", "ok", f"at {revision}")
    return Finding(
        "migrations", "fault", f"at {revision}, this version needs {newest_revision()}; run `icu-forecast db migrate`."
    )


def _grants(store: Engine) -> Iterator[Finding]:
    query = text(
        "select schema, has_schema_privilege(current_user, schema, 'usage, create') from unnest(cast(:s as text[])) schema"
    )
    with store.connect() as connection:
        lacking = [name for name, granted in connection.execute(query, {"s": list(SCHEMAS)}) if not granted]
    if lacking:
        yield Finding("grants", "fault", f"this user may not use and create in {', '.join(lacking)}; grant both.")
    else:
        yield Finding("grants", "ok", f"usage and create in {', '.join(SCHEMAS)}")


def _indices(store: Engine) -> Finding:
    wanted = {index.name for table in metadata.tables.values() for index in table.indexes}
    with store.connect() as connection:
        found = set(
            connection.execute(
                text("select c.relname from pg_index i join pg_class c on c.oid = i.indexrelid where i.indisvalid")
            ).scalars()
        )
    if missing := sorted(wanted - found):
        return Finding(
            "indices", "fault", f"missing or invalid: {', '.join(missing)}; create them as sql/schema.py says."
        )
    return Finding("indices", "ok", f"{len(wanted)} in place")


def _sources(store: Engine, settings: Settings) -> list[str]:
    with store.connect() as connection:
        ingested = connection.execute(text("select distinct source from icu.batch")).scalars()
        return sorted({*ingested, *settings.sources})


def _source(source: str, settings: Settings) -> Finding:
    try:
        adapter, engine, schema = open_source(source, settings)
        check_source(adapter, engine, schema)
    except (ForecastError, DBAPIError) as error:
        found = str(error) if isinstance(error, ForecastError) else type(error).__name__
        return Finding(f"source {source}", "fault", found)
    return Finding(f"source {source}", "ok", f"reachable, {len(adapter.tables)} tables with the columns that are read")


def _watermark(store: Engine, source: str) -> Finding:
    with store.connect() as connection:
        watermark = read_watermark(connection, source)
    if watermark is None:
        return Finding(f"watermark {source}", "note", f"nothing ingested yet; run `icu-forecast ingest {source}`.")
    lag = (datetime.now(UTC) - watermark).total_seconds() / 3600
    state = "ok" if lag <= LAG_HOURS else "note"
    return Finding(f"watermark {source}", state, f"newest row known at {watermark:%Y-%m-%d %H:%M}, {lag:.1f} h ago")


def _model(store: Engine, source: str, settings: Settings) -> Finding:
    serving = registry.serving_model(store, source, "stay")
    if serving is None:
        return Finding(f"model {source}", "note", f"none serves yet; run `icu-forecast train {source}`.")
    from rnn_core.artifact import check_artifact

    try:
        check_artifact(settings.artifact_folder / serving["artifact"])
    except ForecastError as error:
        return Finding(f"model {source}", "fault", str(error))
    return Finding(f"model {source}", "ok", f"{serving['model_id']}, {serving['stage']}, checksums right")


def _prefect() -> Finding:
    import httpx
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if not url:
        return Finding("prefect", "note", "no PREFECT_API_URL; each run starts a temporary server")
    try:
        httpx.get(f"{url.rstrip('/')}/health", timeout=5).raise_for_status()
    except httpx.HTTPError as error:
        return Finding(
            "prefect", "fault", f"{url} does not answer ({type(error).__name__}); start `prefect server start`."
        )
    return Finding("prefect", "ok", url)
