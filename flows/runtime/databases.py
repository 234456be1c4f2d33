"""Opens databases: our own, and sources by name."""

from dataclasses import replace
from functools import lru_cache

from sqlalchemy import URL, Engine

from flows.runtime.settings import Settings, SourceSettings, load_settings
from rnn_core.contracts.errors import ForecastError
from sql import engines
from sql.intake.adapter import Adapter, adapter_names, load_adapter
from sql.store import embedded
from sql.store.engine import open_engine, read_only
from sql.store.migrate import upgrade
from sql.store.refusals import check_reachable, wait_for_a_free_connection


def open_store(settings: Settings | None = None) -> Engine:
    """Our database, migrated to this version; the embedded server is started if none is configured."""
    engine = _engine(store_url(settings or load_settings()))
    check_reachable(engine, "database of icu-forecast (ICU_DATABASE_URL)")
    upgrade(engine)
    return engine


@lru_cache(maxsize=4)
def _engine(url: str | URL) -> Engine:
    """One per database and process, so that jobs that follow each other share its session."""
    return wait_for_a_free_connection(open_engine(url, keep=True))


def store_url(settings: Settings) -> str | URL:
    """URL of our database; starts and creates the embedded one if none is configured."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    return embedded.create_database(embedded.start(settings.cluster_folder), "icu_forecast")


def open_source(name: str, settings: Settings | None = None, *, writable: bool = False) -> tuple[Adapter, Engine]:
    """Adapter and engine of the source `name`; only loaders of public data ask for a writable one.

    In embedded mode a source without a URL is the database `source_<name>` of the embedded server.
    Raises ForecastError if there is no adapter, or no URL outside embedded mode.
    """
    settings = settings or load_settings()
    source = settings.source(name)
    adapter = load_adapter(adapter_name(name, settings))
    if source.url is not None:
        url: str | URL = source.url.get_secret_value()
    elif settings.embedded:
        url = embedded.create_database(embedded.start(settings.cluster_folder), f"source_{name}")
    else:
        raise ForecastError(
            f"The source {name} has no URL: set ICU_SOURCES__{name.upper()}__URL to that of its database "
            "(a user who may only select is enough)."
        )
    engine = open_engine(url, application=f"icu-forecast {name}")
    adapter = adapter.on(engine)
    # Errors and reports show the name of the source; several sources may share an adapter.
    here = replace(
        adapter,
        name=name,
        schemas=_schemas(adapter, source, engine),
        timezone=source.data_timezone,
        shift_days=adapter.shift_days if source.shift_days is None else source.shift_days,
        read_timeout_minutes=source.read_timeout_minutes,
    )
    return here, engine if writable else read_only(engine)


def _schemas(adapter: Adapter, source: SourceSettings, engine: Engine) -> dict[str, str]:
    """Schema per placeholder of the adapter: set for it, else set for all, else as published; SQLite has one only."""
    if unknown := sorted(source.schemas.keys() - adapter.schemas.keys()):
        raise ForecastError(
            f"The adapter {adapter.name} has no schema {', '.join(unknown)}, only {', '.join(adapter.schemas)}."
        )
    if engines.of(engine).has_one_schema:
        return dict(adapter.schemas)
    for_all = {} if source.db_schema is None else dict.fromkeys(adapter.schemas, source.db_schema)
    return {**adapter.schemas, **for_all, **source.schemas}


def adapter_name(name: str, settings: Settings | None = None) -> str:
    """Folder in sql/sources of the source `name`. Raises ForecastError if there is none."""
    adapter = (settings or load_settings()).source(name).adapter or name
    if adapter not in adapter_names():
        raise ForecastError(
            f"The source {name} has no adapter {adapter!r}; known are {', '.join(adapter_names())}. "
            f"Set ICU_SOURCES__{name.upper()}__ADAPTER, or copy a folder of sql/sources (docs/your-own-database.md)."
        )
    return adapter
