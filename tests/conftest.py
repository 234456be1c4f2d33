"""Real parts for every test: one embedded PostgreSQL per session, a fresh database per test that asks for one."""

import itertools
import os
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["DO_NOT_TRACK"] = "1"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"

SHARED = Path(__file__).resolve().parents[2] / "shared"
_names = itertools.count()


@pytest.fixture(scope="session")
def postgres_url():
    """URL of an embedded server that lives as long as the session."""
    from sql.store import embedded

    folder = Path(tempfile.mkdtemp(prefix="icu-pg-"))
    yield embedded.start(folder / "pg")
    embedded.stop(folder / "pg")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def make_database(postgres_url):
    """A function that creates an empty database and returns its URL."""
    from sql.store import embedded

    def make(prefix: str = "t"):
        return embedded.create_database(postgres_url, f"{prefix}_{os.getpid()}_{next(_names)}")

    return make


def _published(name: str, what: str) -> Path:
    folder = SHARED / "data" / name
    if not folder.is_dir():
        pytest.skip(f"{what} not beside this checkout (../shared/data/{name})")
    return folder


@pytest.fixture(scope="session")
def physionet_folder():
    """The published files of PhysioNet 2012."""
    return _published("physionet-2012", "the PhysioNet 2012 files are")


@pytest.fixture(scope="session")
def mimic_iii_folder():
    """The published files of the MIMIC-III demo."""
    return _published("mimic-iii-demo", "the MIMIC-III demo is")


@pytest.fixture(scope="session")
def mimic_iii_source(make_database, mimic_iii_folder):
    """URL of a source database with the MIMIC-III demo; read only, shared by all tests."""
    from sql.loaders import mimic_iii
    from sql.store.engine import open_engine

    url = make_database("mimic_iii")
    mimic_iii.load(open_engine(url), mimic_iii_folder)
    return url


@pytest.fixture(scope="session")
def clif_source(make_database):
    """URL of a source database with the CLIF demo, re-anchored; read only, shared by all tests."""
    from sql.loaders import clif
    from sql.store.engine import open_engine

    url = make_database("clif")
    clif.load(open_engine(url), reanchor=True)
    return url


def _enter(monkeypatch, folder: Path, store, clif_source) -> None:
    from flows.runtime.settings import load_settings

    monkeypatch.setenv("ICU_HOME", str(folder))
    monkeypatch.setenv("ICU_DATABASE_URL", store.render_as_string(hide_password=False))
    monkeypatch.setenv("ICU_SOURCES__CLIF__URL", clif_source.render_as_string(hide_password=False))
    load_settings.cache_clear()


@pytest.fixture
def installation(make_database, clif_source, tmp_path, monkeypatch):
    """A fresh installation: settings in the environment, an empty migrated database, the CLIF demo as a source."""
    from flows.runtime.databases import open_store
    from flows.runtime.settings import load_settings

    _enter(monkeypatch, tmp_path, make_database("store"), clif_source)
    engine = open_store()
    yield engine
    engine.dispose()
    load_settings.cache_clear()


# Enough of the re-anchored demo to train on, and the hour up to which it is ingested.
TRAINED_AT = datetime(2026, 1, 19, tzinfo=UTC)


@pytest.fixture(scope="session")
def trained_template(make_database, clif_source, tmp_path_factory):
    """A database and an artifact folder in which the CLIF demo was ingested and trained on, briefly."""
    from flows.jobs.ingest import ingest
    from flows.jobs.train import train
    from flows.runtime.databases import open_store
    from flows.runtime.settings import load_settings

    folder, store = tmp_path_factory.mktemp("trained"), make_database("trained")
    with pytest.MonkeyPatch.context() as patch:
        _enter(patch, folder, store, clif_source)
        ingest.fn("clif", TRAINED_AT)
        train.fn("clif", TRAINED_AT, epochs=3, members=2)
        open_store().dispose()
    load_settings.cache_clear()
    return store, folder


@pytest.fixture(scope="session")
def trained_forecaster(trained_template):
    """The stay forecaster that serves in the template, loaded; never changed by a test."""
    from rnn_core.forecasters.stay import load_stay_forecaster
    from sql.published import registry
    from sql.store.engine import open_engine

    store, folder = trained_template
    serving = registry.serving_model(open_engine(store), "clif", "stay")
    return load_stay_forecaster(folder / "artifacts" / serving["artifact"])


@pytest.fixture
def trained(trained_template, postgres_url, clif_source, tmp_path, monkeypatch):
    """An installation of its own in which a model of the CLIF demo serves: a copy of the template."""
    from sqlalchemy import text

    from flows.runtime.databases import open_store
    from flows.runtime.settings import load_settings
    from sql.store.engine import open_engine

    template, folder = trained_template
    name = f"copy_{os.getpid()}_{next(_names)}"
    with open_engine(postgres_url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(
            text("select pg_terminate_backend(pid) from pg_stat_activity where datname = :name"),
            {"name": template.database},
        )
        connection.exec_driver_sql(f"create database {name} template {template.database}")
    shutil.copytree(folder / "artifacts", tmp_path / "artifacts")
    _enter(monkeypatch, tmp_path, template.set(database=name), clif_source)
    engine = open_store()
    yield engine
    engine.dispose()
    load_settings.cache_clear()


@pytest.fixture
def few_drivers(monkeypatch):
    """Forecasts of this test explain three stays only: most of the time of a small run goes into its drivers."""
    from functools import partial

    from rnn_core.forecasters import drivers

    monkeypatch.setattr(drivers, "explain_stays", partial(drivers.explain_stays, limit=3))


@pytest.fixture(autouse=True)
def _no_more_drivers_than_needed(request):
    """Whatever forecasts with the trained model has few drivers, unless it is marked `all_drivers`."""
    if "trained" in request.fixturenames and "all_drivers" not in request.keywords:
        request.getfixturevalue("few_drivers")


@pytest.fixture
def contradictory_forecasts(monkeypatch):
    """From here on no forecast's quantiles rise: the 90th lies below the others."""
    from flows.jobs import forecast

    score = forecast.score

    def broken(*given):
        frame = score(*given)
        frame.loc[frame["status"] == "scored", "remaining_los_p90_hours"] = 0.0
        return frame

    monkeypatch.setattr(forecast, "score", broken)
