"""Real parts for every test: one embedded PostgreSQL per session, a fresh database per test that asks for one."""

import itertools
import os
import shutil
import tempfile
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
    from sql import embedded

    folder = Path(tempfile.mkdtemp(prefix="icu-pg-"))
    yield embedded.start(folder / "pg")
    embedded.stop(folder / "pg")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def make_database(postgres_url):
    """A function that creates an empty database and returns its URL."""
    from sql import embedded

    def make(prefix: str = "t"):
        return embedded.create_database(postgres_url, f"{prefix}_{os.getpid()}_{next(_names)}")

    return make


@pytest.fixture(scope="session")
def physionet_folder():
    """The published files of PhysioNet 2012."""
    folder = SHARED / "data" / "physionet-2012"
    if not folder.is_dir():
        pytest.skip("the PhysioNet 2012 files are not beside this checkout (../shared/data/physionet-2012)")
    return folder


@pytest.fixture(scope="session")
def clif_source(make_database):
    """URL of a source database with the CLIF demo, re-anchored; read only, shared by all tests."""
    from sql.engine import open_engine
    from sql.loaders import clif

    url = make_database("clif")
    clif.load(open_engine(url), reanchor=True)
    return url


@pytest.fixture
def installation(make_database, clif_source, tmp_path, monkeypatch):
    """A fresh installation: settings in the environment, an empty migrated database, the CLIF demo as a source."""
    from flows.databases import open_store
    from flows.settings import load_settings

    monkeypatch.setenv("ICU_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ICU_DATABASE_URL", make_database("store").render_as_string(hide_password=False))
    monkeypatch.setenv("ICU_SOURCES__CLIF__URL", clif_source.render_as_string(hide_password=False))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    load_settings.cache_clear()
    engine = open_store()
    yield engine
    engine.dispose()
    load_settings.cache_clear()
