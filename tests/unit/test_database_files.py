"""SQLite files that are damaged, locked, full or open to others, and logs that cannot be written."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from gstack.kernel import database
from translator_service.kept.store import open_store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "translator.sqlite"


def opened(path: Path) -> sa.Engine:
    return open_store(f"sqlite:///{path}").engine


def test_d6_a_damaged_file_is_named_with_what_to_do(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(database.DatabaseFileError) as raised:
        opened(path)
    text = str(raised.value)
    assert f"database {path} is damaged" in text and "backup" in text and "translator.sqlite-wal" in text


def test_d6_a_file_that_is_damaged_later_makes_the_service_not_ready(path: Path) -> None:
    engine = opened(path)
    assert database.answers(engine)
    engine.dispose()
    whole = path.read_bytes()
    # The head is good, and every page after it is not.
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with capture_logs() as logs:
        for _ in range(2):
            # Told as a database that is away, which services know how to answer.
            with pytest.raises(sa.exc.OperationalError), engine.connect() as connection:
                connection.execute(sa.text("SELECT * FROM operations"))
    told = [one for one in logs if one["event"] == "database_damaged"]
    assert len(told) == 1 and told[0]["file"] == str(path) and "backup" in told[0]["advice"]
    assert not database.answers(engine)
    engine.dispose()


def test_d6_a_locked_file_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.05)
    holder = sqlite3.connect(path)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(database.DatabaseFileError, match=f"{path} is locked by another process"):
        opened(path)
    holder.close()


def test_d6_a_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(database.DatabaseFileError, match="No such file"):
        opened(tmp_path / "nowhere" / "translator.sqlite")
    with pytest.raises(database.DatabaseFileError, match="directory"):
        opened(tmp_path)


def test_d6_nobody_else_reads_it(path: Path) -> None:
    old = os.umask(0)
    try:
        path.touch(0o666)
        path.chmod(0o644)
        for _ in range(2):
            engine = opened(path)
            with engine.begin() as connection:
                connection.execute(sa.text("DELETE FROM operations"))
                found = {one.name: stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()}
            assert found == dict.fromkeys((path.name, f"{path.name}-wal", f"{path.name}-shm"), 0o600)
            engine.dispose()
            path.unlink()
    finally:
        os.umask(old)


_LOGS = """
import logging, os, sys
import structlog
from gstack.kernel import logs
logs.configure("test")
log = structlog.get_logger()
log.info("before", text="\\udcff\\u20ac")
kept, full = os.dup(1), os.open("/dev/full", os.O_WRONLY)
os.dup2(full, 1)
log.info("lost")
logs.audit("lost")
logging.getLogger("other").warning("lost")
os.dup2(kept, 1)
log.info("after")
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_d6_logging_never_fails() -> None:
    done = subprocess.run([sys.executable, "-c", _LOGS], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["before", "after"]


def test_a_server_that_vanished_is_not_waited_for_long() -> None:
    known = database.with_patience("postgresql+psycopg://a:b@c/d?connect_timeout=9&sslmode=require").query
    assert (known["connect_timeout"], known["sslmode"]) == ("9", "require")
    assert 0 < int(known["tcp_user_timeout"]) <= 30_000
    assert database.with_patience("sqlite:////tmp/x").query == {}


def test_c1_a_connection_keeps_little_of_the_file(path: Path) -> None:
    with opened(path).connect() as connection:
        assert connection.exec_driver_sql("PRAGMA cache_size").scalar() == -500
