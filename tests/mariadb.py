"""A MariaDB server from the system's packages, in a folder of its own, reached by a socket: for tests where it is installed."""

import shutil
import subprocess
import time
from pathlib import Path

SERVER = shutil.which("mariadbd", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
_SMALL = ("--innodb-buffer-pool-size=16M", "--innodb-log-file-size=4M", "--innodb-flush-log-at-trx-commit=0")
_START_SECONDS = 20


class MariaDB:
    """folder: must be short, as a path of a socket has at most 107 characters. with_users: it knows users and their rights,
    which takes seconds to set up; otherwise whoever connects may do everything."""

    def __init__(self, folder: Path, *, with_users: bool = False) -> None:
        self.socket, data = folder / "s", folder / "data"
        (data / "mysql").mkdir(parents=True)
        options = ["--no-defaults", f"--datadir={data}", "--user=root"]
        if with_users:
            subprocess.run(
                ["mariadb-install-db", *options, "--auth-root-authentication-method=normal", "--skip-test-db"],
                check=True,
                capture_output=True,
            )
        options += [f"--socket={self.socket}", f"--pid-file={folder / 'pid'}", "--skip-networking", *_SMALL]
        self.process = subprocess.Popen(
            [SERVER, *options, *([] if with_users else ["--skip-grant-tables"])],
            stdout=subprocess.DEVNULL,
            stderr=(folder / "log").open("wb"),
        )
        until = time.monotonic() + _START_SECONDS
        while not self.socket.exists():
            assert self.process.poll() is None and time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.02)

    def url(self, database: str = "", user: str = "root", dialect: str = "mysql") -> str:
        return f"{dialect}+pymysql://{user}@localhost/{database}?unix_socket={self.socket}&ssl_disabled=true"

    def make_database(self, name: str) -> str:
        """The URL of a new, empty database."""
        from sql.store.engine import open_engine

        with open_engine(self.url()).connect() as connection:
            connection.exec_driver_sql(f"create database `{name}` character set utf8mb4")
        return self.url(name)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
