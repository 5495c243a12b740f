"""`gstack keys`: the way of a rotation, what it refuses, and what it says."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from auth_service.store.auth_store import AuthStore
from auth_service.store.credentials import Credential
from auth_service.store.tables import credentials
from gstack.auth.v1.identity_pb2 import Account
from gstack.cli import keys, main
from gstack.kernel.sealing import Keyring, SealError, read_ring

DAY = 24 * 3600.0


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GSTACK_STATE_DIR", str(tmp_path))
    return tmp_path


def run(*arguments: str, ring: str = "master") -> str:
    """What the command says; it must be done without a complaint."""
    result = CliRunner().invoke(main, ["keys", *arguments, "--ring", ring])
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: str, ring: str = "master") -> str:
    result = CliRunner().invoke(main, ["keys", *arguments, "--ring", ring])
    assert (result.exit_code, type(result.exception)) == (1, SystemExit), result.output
    assert result.output.startswith("Error: "), result.output
    return result.output


def states(path: Path) -> list[str]:
    return [key.state for key in read_ring(path)]


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.fixture
def ring(folder: Path) -> Path:
    run("init")
    return folder / "master.key"


Open = Callable[[], AuthStore]


@pytest.fixture
def open_store(folder: Path, ring: Path) -> Iterator[Open]:
    """Opens the auth service's store, as a replica does at its start."""
    opened: list[AuthStore] = []

    def open_() -> AuthStore:
        opened.append(AuthStore(f"sqlite:///{folder / 'auth.sqlite'}", Keyring(ring)))
        return opened[-1]

    yield open_
    for store in opened:
        store.engine.dispose()


def save(store: AuthStore, number: int) -> Credential:
    account = Account(account_id="a-1", account_name="demo", user_id=f"u-{number}", user_name=f"user-{number}")
    return store.credentials.save(f"key-{number}", f"secret-{number}", account)


@pytest.mark.parametrize("kind", ["master", "sealing"])
def test_b8_init_makes_a_file_for_the_owner_once(folder: Path, kind: str) -> None:
    path = folder / f"{kind}.key"
    said = run("init", ring=kind)
    assert Keyring(path).primary_id in said and str(path) in said
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    assert f"gstack keys stage --ring {kind}" in refused("init", ring=kind)
    assert path.read_bytes() == before


@pytest.mark.parametrize("command", ["stage", "promote", "retire", "rewrap", "status"])
def test_b5_without_a_file_every_command_says_what_to_do(command: str) -> None:
    assert "gstack keys init" in refused(command)


@pytest.mark.parametrize("command", ["stage", "promote", "retire", "rewrap", "status"])
def test_b8_a_file_that_is_open_to_everybody_is_not_used(ring: Path, command: str) -> None:
    ring.chmod(0o644)
    assert "set mode 0600" in refused(command)


@pytest.mark.parametrize("kind", ["master", "sealing"])
def test_the_way_of_a_rotation(folder: Path, kind: str) -> None:
    path = folder / f"{kind}.key"
    run("init", ring=kind)
    [old] = read_ring(path)
    assert f"gstack keys stage --ring {kind}" in refused("promote", ring=kind)
    assert run("retire", ring=kind) == "No secondary key.\n"
    run("stage", ring=kind)
    assert states(path) == ["primary", "staged"] and read_ring(path)[0] == old
    assert f"gstack keys promote --ring {kind}" in refused("stage", ring=kind)
    assert "every replica must have read" in refused("promote", ring=kind)
    age(path, 121)
    run("promote", ring=kind)
    new = read_ring(path)[1]
    assert states(path) == ["secondary", "primary"] and read_ring(path)[0].secret == old.secret != new.secret
    age(path, DAY + 60)
    assert old.id in run("retire", ring=kind)
    assert read_ring(path) == [new]


def test_b4_promote_now(ring: Path) -> None:
    run("stage")
    run("promote", "--now")
    assert states(ring) == ["secondary", "primary"]


def test_a_sealing_key_is_kept_for_a_day(folder: Path) -> None:
    path = folder / "sealing.key"
    run("init", ring="sealing")
    run("stage", ring="sealing")
    run("promote", "--now", ring="sealing")
    age(path, DAY - 7200)
    assert "try again in 2 hours" in refused("retire", ring="sealing")
    run("retire", "--now", ring="sealing")
    assert states(path) == ["primary"]


def test_b3_rewrap_while_a_service_runs(ring: Path, open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gstack.kernel.sealing._LOOK_SECONDS", 0.0)
    store = open_store()
    saved = [save(store, number) for number in range(250)]
    store.signing_keys.add(b"private", "public")
    [old] = read_ring(ring)
    run("stage")
    run("promote", "--now")
    assert "251 records still need a secondary key: `gstack keys rewrap`" in refused("retire", "--now")
    assert states(ring) == ["secondary", "primary"]
    new = read_ring(ring)[1].id
    [old_line] = [line for line in run("status").splitlines() if line.startswith(old.id)]
    assert old_line.split() == [old.id, "secondary", "251", "records"]
    assert run("rewrap") == f"251 records rewrapped with {new}, 0 left.\n"
    assert run("rewrap") == f"0 records rewrapped with {new}, 0 left.\n"
    assert store.sealed.use() == {new: 251}
    age(ring, 60)
    run("retire")
    # The service of before and one that starts now read everything, without the old key.
    for reader in (store, open_store()):
        assert [reader.credentials.find(one.id) for one in saved[::50]] == saved[::50]
        [row] = reader.signing_keys.since(0)
        assert reader.signing_keys.open(row) == b"private"


def test_retire_waits_for_replicas_that_still_write_with_the_old_key(
    ring: Path, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = open_store()
    run("stage")
    run("promote", "--now")
    assert "0 left" in run("rewrap")
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        save(late, 1)

    monkeypatch.setattr(keys.time, "sleep", wait)
    assert "1 records still need" in refused("retire")
    assert 5 < waited[0] <= 10


def test_b6_rewrap_leaves_a_record_of_another_row_and_says_so(ring: Path, open_store: Open) -> None:
    store = open_store()
    one, other = save(store, 1), save(store, 2)
    with store.engine.begin() as connection:
        keys_of = sa.select(credentials.c["keys"]).where(credentials.c.id == other.id)
        moved = {"keys": connection.execute(keys_of).scalar_one()}
        connection.execute(credentials.update().where(credentials.c.id == one.id).values(moved))
    with pytest.raises(SealError):
        store.credentials.find(one.id)
    run("stage")
    run("promote", "--now")
    said = CliRunner().invoke(main, ["keys", "rewrap"]).output
    assert "1 records rewrapped" in said and "does not open" in said
    assert "secret-" not in said
    assert "still need" in refused("retire", "--now")
    # The good one is rewrapped all the same, and the old key stays.
    assert sorted(store.sealed.use().values()) == [1, 1]


def test_b5_status_names_a_key_that_is_lost(ring: Path, open_store: Open) -> None:
    save(open_store(), 1)
    [lost] = read_ring(ring)
    ring.unlink()
    run("init")
    said = run("status").splitlines()
    assert said[0] == str(ring)
    assert said[1:] == [
        f"{read_ring(ring)[0].id}  primary  0 records",
        f"{lost.id}  missing: these records cannot be read  1 records",
    ]


def test_status_of_the_sealing_ring_and_without_a_database(folder: Path) -> None:
    for kind, tail in (("sealing", ""), ("master", "  0 records")):
        run("init", ring=kind)
        identity = Keyring(folder / f"{kind}.key").primary_id
        assert run("status", ring=kind) == f"{folder / f'{kind}.key'}\n{identity}  primary{tail}\n"
    assert not (folder / "auth.sqlite").exists(), "the service makes it, as its own user"


def test_only_the_master_ring_is_rewrapped(folder: Path) -> None:
    run("init", ring="sealing")
    assert "nothing to rewrap" in refused("rewrap", ring="sealing")


def test_no_command_shows_a_key(ring: Path) -> None:
    said = run("status") + run("stage") + run("promote", "--now") + run("status")
    lines = [line.split()[1] for line in ring.read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == 2
    assert not any(line in said for line in lines)


def test_b5_a_database_that_does_not_answer(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GSTACK_AUTH_DATABASE_URL", "postgresql+psycopg://gstack:hidden@127.0.0.1:1/auth")
    said = refused("status")
    assert "database of the auth service" in said
    assert "hidden" not in said
