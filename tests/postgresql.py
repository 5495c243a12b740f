"""A PostgreSQL server of a test's own.

Debian's `postgresql` package is installed by the test where it is missing; that needs root.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.clients.conftest import free_ports
from tests.packages import install
from tests.waits import LONG, until


def _binaries() -> Path:
    """The folder of PostgreSQL's programs, after installing them if need be."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        install("postgresql")
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent


class Server:
    """A PostgreSQL with the databases `translator` and `auth`. url: prefix of their addresses."""

    def __init__(self, folder: Path):
        self.binaries = _binaries()
        self._folder = folder
        self.port = free_ports(1)[0]
        self.url = f"postgresql+psycopg://gstack@127.0.0.1:{self.port}/"
        self._prefix = []
        # The server refuses to run as root, so it runs as the package's user.
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
            self._prefix = ["runuser", "-u", "postgres", "--"]
        data = str(folder / "data")
        self._run("initdb", "-D", data, "-A", "trust", "-U", "gstack", "--no-sync", "-E", "UTF8")
        options = f"-p {self.port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=300"
        self._control = ["pg_ctl", "-D", data, "-w", "-o", options, "-l", str(folder / "log")]
        self.start()
        for name in ("translator", "auth"):
            self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "gstack", name)

    @classmethod
    @contextmanager
    def in_a_folder(cls) -> Iterator[Server]:
        """In one of its own: pytest's belong to whom the tests run as, and each start of pytest closes them again."""
        with tempfile.TemporaryDirectory(prefix="gstack-postgresql-") as folder:
            made = cls(Path(folder))
            try:
                yield made
            finally:
                made.stop()

    def start(self) -> None:
        self._run(*self._control, "start")

    def stop(self) -> None:
        """As if it crashed. Returns when nobody listens any more."""
        self._run(*self._control, "-m", "immediate", "stop", check=False)
        until(lambda: not self._listens(), told=lambda: (self._folder / "log").read_text()[-4000:])

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), LONG).close()
            return True
        except OSError:
            return False

    def _run(self, program: str, *arguments: str, check: bool = True) -> None:
        command = [*self._prefix, str(self.binaries / program), *arguments]
        subprocess.run(command, check=check, capture_output=True)


def empty_database(server: str) -> str:
    """URL of a new database. server: URL prefix, as of the fixture `database`."""
    name = f"test_{secrets.token_hex(8)}"
    engine = sa.create_engine(server + "auth", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server + name


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server.in_a_folder() as made:
        yield made


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """URL prefix of a PostgreSQL server of the test's own."""
    with Server.in_a_folder() as made:
        yield made.url
