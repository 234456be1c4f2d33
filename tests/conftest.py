"""Real parts for every test: one embedded PostgreSQL for all workers, a fresh database per test that asks for one.

What many tests begin with is made once, by the worker that needs it first, as a template that each test copies.
"""

import itertools
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["DO_NOT_TRACK"] = "1"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores. Threads of one that wait for those of another would spin: on the small data of tests
    # they cost several times the work.
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(threads, "1")

SHARED = Path(__file__).resolve().parents[2] / "shared"
# What a server may forget when the machine stops, and what would make two runs differ in speed.
CARELESS = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "autovacuum": "off", "jit": "off"}
# In memory, where the data are, a log of 4 GB would be waste.
CARELESS |= {"max_wal_size": "512MB"}
_names = itertools.count()


# Hundreds of databases of some 300 files each: a file system in memory makes and removes them in no time.
IN_MEMORY, ENOUGH_BYTES = Path("/dev/shm"), 6 * 2**30


def _has_room_in_memory() -> bool:
    return os.access(IN_MEMORY, os.W_OK) and shutil.disk_usage(IN_MEMORY).free > ENOUGH_BYTES


class Server:
    """The embedded PostgreSQL of a session, in a folder that its workers share."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="icu-pg-", dir=IN_MEMORY if _has_room_in_memory() else None))

    def start(self) -> str:
        from sql.store import embedded
        from sql.store.engine import open_engine

        url = embedded.start(self.folder / "pg")
        with open_engine(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for name, value in CARELESS.items():
                connection.exec_driver_sql(f"alter system set {name} = '{value}'")
            connection.exec_driver_sql("select pg_reload_conf()")
        return url.render_as_string(hide_password=False)

    def stop(self) -> None:
        """At once: nothing of it is kept."""
        from sql.store import embedded

        os.kill(int((self.folder / "pg" / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
        while embedded.is_running(self.folder / "pg"):
            time.sleep(0.05)
        shutil.rmtree(self.folder, ignore_errors=True)


_server = pytest.StashKey[Server]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """The workers of pytest-xdist get the server that is started here, before the first of them."""
    stash = node.config.stash
    if _server not in stash:
        stash[_server] = Server()
        stash[_server].url = stash[_server].start()
    node.workerinput["server"] = str(stash[_server].folder), stash[_server].url


def pytest_unconfigure(config):
    if _server in config.stash:
        config.stash[_server].stop()


@pytest.fixture(scope="session")
def server(request):
    """URL of a server that lives as long as the session, and a folder; the workers share both."""
    from sqlalchemy import make_url

    if worker := getattr(request.config, "workerinput", None):
        folder, url = worker["server"]
        yield make_url(url), Path(folder)
        return
    alone = Server()
    yield make_url(alone.start()), alone.folder
    alone.stop()


@pytest.fixture(scope="session")
def make_database(server):
    """A function that creates a database, empty or as a copy of a template, and returns its URL."""
    from sql.store.engine import open_engine

    url, _ = server

    def make(prefix: str = "t", template: str = "template1", encoding: str = ""):
        name = f"{prefix}_{os.getpid()}_{next(_names)}"
        if encoding:
            template = f"template0 encoding '{encoding}' lc_collate 'C' lc_ctype 'C'"
        with open_engine(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(f"create database {name} template {template} strategy file_copy")
        return url.set(database=name)

    return make


@pytest.fixture(scope="session")
def drop_database(server):
    """A function that removes the database at a URL, whoever is still connected to it."""
    from sql.store.engine import open_engine

    def drop(url) -> None:
        with open_engine(server[0]).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(f"drop database {url.database} with (force)")

    return drop


@pytest.fixture(scope="session")
def make_template(server):
    """A function that fills a database, empty or a copy of another template, once for all workers, and returns its name;
    nobody can connect to it later."""
    from sqlalchemy import text

    from sql.store.engine import open_engine
    from sql.store.lasting_lock import lasting_lock

    url, _ = server

    def make(name: str, fill: Callable, template: str = "template1") -> str:
        engine = open_engine(url)
        with engine.connect() as connection, lasting_lock(engine, f"template {name}", 600) as mine:
            assert mine, f"another worker has filled the template {name} for ten minutes"
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            made = connection.execute(text("select 1 from pg_database where datname = :name"), {"name": name}).scalar()
            if not made:
                connection.exec_driver_sql(f"drop database if exists {name}_unfinished")
                connection.exec_driver_sql(f"create database {name}_unfinished template {template}")
                fill(url.set(database=f"{name}_unfinished"))
                # An engine that nobody holds any more may keep its last session until it is collected.
                sessions = text("select pg_terminate_backend(pid) from pg_stat_activity where datname = :name")
                connection.execute(sessions, {"name": f"{name}_unfinished"})
                connection.exec_driver_sql(f"alter database {name}_unfinished rename to {name}")
                connection.exec_driver_sql(f"alter database {name} allow_connections false")
        return name

    return make


@pytest.fixture(scope="session")
def mariadb():
    """A MariaDB server without users; tests are skipped where none is installed."""
    from mariadb import SERVER, MariaDB

    if SERVER is None:
        pytest.skip("no MariaDB server is installed here (mariadbd)")
    folder = Path(tempfile.mkdtemp(prefix="icu-maria-", dir=IN_MEMORY if _has_room_in_memory() else None))
    server = MariaDB(folder)
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


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
def mimic_iii_source(make_database, make_template, mimic_iii_folder):
    """URL of a source database with the MIMIC-III demo, what was charted in every third hour; read only, shared by all tests."""
    from sql.loaders import mimic_iii
    from sql.store.engine import open_engine

    def tables():
        for name in mimic_iii.TABLES:
            rows = mimic_iii.read_table(mimic_iii.find(mimic_iii_folder, name))
            if name == "chartevents":
                rows = rows.filter(rows["charttime"].to_numpy().astype("datetime64[h]").astype(int) % 3 == 0)
            yield name, rows

    def load(url) -> None:
        mimic_iii.fill(open_engine(url), tables(), "mimiciii")

    return make_database("mimic_iii", make_template("mimic_iii", load))


@pytest.fixture(scope="session")
def eicu_folder():
    """The published files of the eICU demo, of 102 hospitals."""
    return _published("eicu-demo", "the eICU demo is")


@pytest.fixture(scope="session")
def eicu_source(make_database, make_template, eicu_folder):
    """URL of a source database with the eICU demo; read only, shared by all tests."""
    from sql.loaders import eicu
    from sql.store.engine import open_engine

    return make_database("eicu", make_template("eicu", lambda url: eicu.load(open_engine(url), eicu_folder)))


def _load_thinned_clif(url) -> None:
    from sql.loaders import clif
    from sql.store.engine import open_engine

    engine = open_engine(url)
    clif.load(engine, reanchor=True)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        row = "hospitalization_id || vital_category || extract(epoch from recorded_dttm)"
        frequent = "vital_category in ('heart_rate', 'respiratory_rate', 'spo2', 'sbp', 'dbp', 'map')"
        connection.exec_driver_sql(f"delete from vitals where mod(hashtext({row}), 3) in (-1, 0, 1) and {frequent}")
        connection.exec_driver_sql("vacuum full analyze vitals")
    engine.dispose()


@pytest.fixture(scope="session")
def clif_template(make_template):
    """Name of a database with the CLIF demo, re-anchored, to copy where a test changes it. Every third of its vital signs is
    there, which are two thirds of all values: most tests run jobs on all of it."""
    return make_template("clif", _load_thinned_clif)


@pytest.fixture(scope="session")
def clif_source(make_database, clif_template):
    """URL of a source database with the CLIF demo, re-anchored; read only, shared by all tests."""
    return make_database("clif", clif_template)


def _keep_some_patients(url) -> None:
    from sql.store.engine import open_engine

    of_others = "(select hospitalization_id from hospitalization where patient_id not in (select patient_id from kept))"
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "create temp table kept as"
            " with numbered as (select patient_id, row_number() over (order by patient_id) as n from patient)"
            " select patient_id from numbered where mod(n, 3) = 2 or mod(n, 12) = 6"
        )
        query = "select table_name from information_schema.columns where table_schema = 'public' and column_name = "
        for table in connection.exec_driver_sql(query + "'hospitalization_id'").scalars().all():
            if table != "hospitalization":
                connection.exec_driver_sql(f"delete from {table} where hospitalization_id in {of_others}")
        for table in ("hospitalization", "patient"):
            connection.exec_driver_sql(f"delete from {table} where patient_id not in (select patient_id from kept)")
    engine.dispose()


@pytest.fixture(scope="session")
def small_clif_template(make_template, clif_template):
    """Name of a database with two fifths of the patients of the CLIF demo, among them every kind of row that is quarantined: for
    tests that read all of it over and over."""
    return make_template("small_clif", _keep_some_patients, clif_template)


@pytest.fixture(scope="session")
def small_clif_source(make_database, small_clif_template):
    """URL of a source database with these patients; read only, shared by all tests."""
    return make_database("small_clif", small_clif_template)


@pytest.fixture(scope="session")
def migrated_template(make_template):
    """Name of an empty database of this version, to copy."""
    from sql.store import migrate
    from sql.store.engine import open_engine

    return make_template("migrated", lambda url: migrate.upgrade(open_engine(url)))


def _be_thrifty(monkeypatch) -> None:
    """Intervals are a little rougher than in use, and figures are drawn but not rendered, which the run in `test_prefect` and
    `test_plots` do."""
    from matplotlib.figure import Figure

    from rnn_core.evaluation import census_scorecard, holdout, scorecard, transfer, trial

    for module in (census_scorecard, holdout, scorecard, transfer, trial):
        monkeypatch.setattr(module, "_RESAMPLES", 30)
    monkeypatch.setattr(Figure, "savefig", lambda figure, out, **_: out.write("<svg></svg>"))


@pytest.fixture
def thrifty(monkeypatch):
    """Intervals and figures of this test cost little, as those of every installation here do."""
    _be_thrifty(monkeypatch)


def _enter(monkeypatch, folder: Path, store, clif_source) -> None:
    from flows.runtime.settings import load_settings

    _be_thrifty(monkeypatch)
    monkeypatch.setenv("ICU_HOME", str(folder))
    monkeypatch.setenv("ICU_DATABASE_URL", store.render_as_string(hide_password=False))
    monkeypatch.setenv("ICU_SOURCES__CLIF__URL", clif_source.render_as_string(hide_password=False))
    load_settings.cache_clear()


@pytest.fixture
def installation(make_database, drop_database, migrated_template, clif_source, tmp_path, monkeypatch):
    """A fresh installation: settings in the environment, an empty migrated database, the CLIF demo as a source."""
    from flows.runtime.databases import open_store
    from flows.runtime.settings import load_settings

    _enter(monkeypatch, tmp_path, make_database("store", migrated_template), clif_source)
    engine = open_store()
    yield engine
    engine.dispose()
    drop_database(engine.url)
    load_settings.cache_clear()


# Enough of the re-anchored demo to train on, and the hour up to which it is ingested.
TRAINED_AT = datetime(2026, 1, 19, tzinfo=UTC)


@pytest.fixture(scope="session")
def fill_trained(server, clif_source):
    """A function that runs jobs in the database at a URL, in the installation to which the templates below belong."""
    from flows.runtime.settings import load_settings

    def fill(url, *jobs: Callable) -> None:
        with pytest.MonkeyPatch.context() as patch:
            _enter(patch, server[1] / "trained", url, clif_source)
            for job in jobs:
                job()
        load_settings.cache_clear()

    return fill


@pytest.fixture(scope="session")
def trained_template(make_template, server, fill_trained):
    """Name of a database, and an artifact folder, in which the CLIF demo was ingested and trained on, briefly."""
    from flows.jobs.ingest import ingest
    from flows.jobs.train import train

    # Networks alone take half the time of a blend; what a test says of it trains one.
    learn = partial(train.fn, "clif", TRAINED_AT, epochs=3, members=2, forecaster="recurrent")
    name = make_template("trained", lambda url: fill_trained(url, partial(ingest.fn, "clif", TRAINED_AT), learn))
    return name, server[1] / "trained" / "artifacts"


@pytest.fixture(scope="session")
def published_template(make_template, trained_template, fill_trained):
    """The same, with the forecasts of `TRAINED_AT`, all of them explained."""
    from flows.jobs.forecast import forecast

    name, artifacts = trained_template
    publish = partial(forecast.fn, "clif", TRAINED_AT)
    return make_template("published", lambda url: fill_trained(url, publish), template=name), artifacts


@pytest.fixture(scope="session")
def trained_forecaster(trained_template):
    """The stay forecaster that serves in the template, loaded; never changed by a test."""
    from rnn_core.forecasters.stay import load_stay_forecaster

    (artifact,) = trained_template[1].glob("clif-stay-*")
    return load_stay_forecaster(artifact)


@pytest.fixture
def copy_installation(make_database, drop_database, clif_source, tmp_path, monkeypatch):
    """A function that makes an installation of this test from a template and returns its engine."""
    from flows.runtime.databases import open_store
    from flows.runtime.settings import load_settings

    engines = []

    def copy(template: str, artifacts: Path):
        shutil.copytree(artifacts, tmp_path / "artifacts")
        _enter(monkeypatch, tmp_path, make_database("trained", template), clif_source)
        engines.append(open_store())
        return engines[-1]

    yield copy
    for engine in engines:
        engine.dispose()
        drop_database(engine.url)
    load_settings.cache_clear()


@pytest.fixture
def trained(copy_installation, trained_template):
    """An installation of its own in which a model of the CLIF demo serves: a copy of the template."""
    return copy_installation(*trained_template)


@pytest.fixture
def published(copy_installation, published_template):
    """The same, in which the hour `TRAINED_AT` is published."""
    return copy_installation(*published_template)


@pytest.fixture
def few_drivers(monkeypatch):
    """Forecasts of this test explain one stay only: most of the time of a small run goes into its drivers."""
    from rnn_core.forecasters import drivers

    monkeypatch.setattr(drivers, "explain_stays", partial(drivers.explain_stays, limit=1))


@pytest.fixture(autouse=True)
def _no_more_drivers_than_needed(request):
    """Whatever forecasts with the trained model has few drivers, unless it is marked `all_drivers`."""
    if "copy_installation" in request.fixturenames and "all_drivers" not in request.keywords:
        request.getfixturevalue("few_drivers")


@pytest.fixture
def contradictory_forecasts(monkeypatch):
    """From here on no forecast's quantiles rise: the 90th lies below the others."""
    from flows.jobs import forecast

    score = forecast.score

    def broken(*given):
        forecasts = score(*given)
        frame = forecasts.numbers
        frame.loc[frame["status"] == "scored", "remaining_los_p90_hours"] = 0.0
        return forecasts

    monkeypatch.setattr(forecast, "score", broken)
