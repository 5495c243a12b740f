"""`gstack db` on SQLite; the migrations themselves are in tests/clients/test_migrations.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from gstack.cli import main
from gstack.kernel.sealing import create_key


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GSTACK_STATE_DIR", str(tmp_path))
    create_key(tmp_path / "master.key")
    return tmp_path


def db(command: str) -> Result:
    return CliRunner().invoke(main, ["db", command])


def set_version(folder: Path, service: str, version: str) -> None:
    engine = sa.create_engine(f"sqlite:///{folder / service}.sqlite")
    table = {"auth": "auth_service_version", "translator": "translator_service_version"}[service]
    with engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {table} SET version_num = :version"), {"version": version})
    engine.dispose()


def test_nothing_is_made_by_looking(folder: Path) -> None:
    looked = db("check")
    assert looked.exit_code == 1
    assert "auth: schema none" in looked.output and "translator: schema none" in looked.output
    assert sorted(path.name for path in folder.iterdir()) == ["master.key"]


def test_upgrade_then_check(folder: Path) -> None:
    for _ in range(2):
        done = db("upgrade")
        assert done.exit_code == 0, done.output
        assert "auth: schema 0004" in done.output and "translator: schema 0005" in done.output
    looked = db("check")
    assert looked.exit_code == 0, looked.output
    assert looked.output.count("as this release") == 2


def test_an_older_and_a_newer_schema(folder: Path) -> None:
    db("upgrade")
    set_version(folder, "auth", "0001")
    looked = db("check")
    assert looked.exit_code == 1 and "this release has 0004" in looked.output
    set_version(folder, "auth", "0099")
    looked = db("check")
    assert looked.exit_code == 0 and "newer than this release" in looked.output


def test_what_is_missing_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "master.key").unlink()
    done = db("upgrade")
    assert done.exit_code == 1 and "gstack keys init" in done.output
    secret = "postgresql+psycopg://gstack:hunter2@127.0.0.1:1/auth"
    monkeypatch.setenv("GSTACK_AUTH_DATABASE_URL", secret)
    looked = db("check")
    assert looked.exit_code == 1 and looked.output.startswith("Error: auth: ")
    assert "hunter2" not in looked.output
