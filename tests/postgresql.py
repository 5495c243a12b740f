"""A PostgreSQL server of a test's own.

Debian's `postgresql` package is installed by the test where it is missing; that needs root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import free_ports
from tests.packages import install


def _binaries() -> Path:
    """The folder of PostgreSQL's programs, after installing them if need be."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        install("postgresql")
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL prefix of a PostgreSQL server of the test's own."""
    binaries = _binaries()
    folder = tmp_path_factory.mktemp("postgresql")
    port = free_ports(1)[0]
    # The server refuses to run as root, so it runs as the package's user.
    prefix = []
    if os.geteuid() == 0:
        for path in (folder, *folder.parents):
            if path == Path("/tmp"):
                break
            path.chmod(0o755)
        shutil.chown(folder, "postgres")
        prefix = ["runuser", "-u", "postgres", "--"]
    data = folder / "data"
    initdb = [str(binaries / "initdb"), "-D", str(data), "-A", "trust", "-U", "gstack", "--no-sync", "-E", "UTF8"]
    subprocess.run([*prefix, *initdb], check=True, capture_output=True)
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=300"
    control = [*prefix, str(binaries / "pg_ctl"), "-D", str(data), "-w"]
    subprocess.run([*control, "-o", options, "-l", str(folder / "log"), "start"], check=True, capture_output=True)
    try:
        for name in ("translator", "auth"):
            create = [str(binaries / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "gstack", name]
            subprocess.run([*prefix, *create], check=True, capture_output=True)
        yield f"postgresql+psycopg://gstack@127.0.0.1:{port}/"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=False, capture_output=True)
