"""The units of a plain host: systemd understands them, and what they set starts a gstack that works."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from gstack.cli import main
from gstack.kernel.settings import Settings
from tests.clients.conftest import Stack, free_ports, make_stack
from tests.packages import install

pytestmark = pytest.mark.real

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
SERVICES = ("gateway", "translator", "auth")
PROGRAM = "/opt/gstack/bin/gstack"
OTHERS = {"GSTACK_CONFIG", "GSTACK_SECRETS_DIR"}

each = pytest.mark.parametrize("service", SERVICES)


def values(service: str, key: str) -> list[str]:
    lines = (FOLDER / f"gstack-{service}@.service").read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units, for a gstack that is at another place."""
    if not shutil.which("systemd-analyze"):
        install("systemd")
    folder = tmp_path_factory.mktemp("units")
    for path in FOLDER.iterdir():
        text = path.read_text().replace(PROGRAM, str(Path(sys.executable).parent / "gstack"))
        (folder / path.name.replace("@.", "@5001.")).write_text(text)
    return folder


def analyze(*arguments: str | Path) -> str:
    done = subprocess.run(["systemd-analyze", *arguments], check=False, capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


@each
def test_systemd_understands_them(units: Path, service: str) -> None:
    said = analyze("verify", "--man=no", "--recursive-errors=no", units / f"gstack-{service}@5001.service")
    assert "gstack" not in said, said


def test_systemd_understands_the_target(units: Path) -> None:
    assert "gstack" not in analyze("verify", "--man=no", "--recursive-errors=no", units / "gstack.target")


@each
def test_services_may_do_little(units: Path, service: str) -> None:
    """systemd's own measure, of 10 for everything to 0 for nothing; times 10."""
    unit = units / f"gstack-{service}@5001.service"
    analyze("security", "--offline=true", "--no-pager", "--threshold=20", unit)


@each
def test_they_name_what_there_is(service: str) -> None:
    known = {f"GSTACK_{name.upper()}" for name in Settings.model_fields} | OTHERS
    used = [entry.partition("=")[0] for entry in values(service, "Environment")]
    assert used and set(used) <= known and len(used) == len(set(used))
    (start,) = values(service, "ExecStart")
    assert start == f"{PROGRAM} {service}"
    health = re.findall(rf"{PROGRAM} (\S+) (\S+)", values(service, "ExecStartPost")[0])
    assert health == [("health", service)]
    assert isinstance(main, click.Group) and {service, "health"} <= set(main.commands)


def test_the_example_names_what_there_is() -> None:
    assert set(tomllib.loads((FOLDER / "gstack.toml").read_text())) <= set(Settings.model_fields)


@each
def test_there_is_time_to_stop(service: str) -> None:
    (seconds,) = values(service, "TimeoutStopSec")
    assert int(seconds) > Settings.model_fields["gateway_drain_seconds"].default + 30
    # A gateway's workers are told by their parent.
    assert values(service, "KillMode") == ["mixed"]


# What systemd does with them, done by hand


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Stack]:
    """A simulator, and the services with nothing but the files of `gstack secrets` and the units' environments."""
    stack = make_stack(tmp_path)
    made = stack.run("secrets", str(tmp_path / "secrets"))
    assert made.returncode == 0, made.stderr
    for service in ("auth", "translator"):
        for path in (tmp_path / "secrets" / service).glob("*_database_url"):
            path.write_text(f"sqlite:///{tmp_path / service}.sqlite")
    for name in ("sealing.key", "master.key"):
        (tmp_path / name).unlink()
    targets = {service: f"127.0.0.1:{port}" for service, port in zip(SERVICES, free_ports(3), strict=True)}
    example = (FOLDER / "gstack.toml").read_text()
    for key, value in (
        ("cloudstack_url", stack.environment["GSTACK_CLOUDSTACK_URL"]),
        ("translator_target", targets["translator"]),
        ("auth_target", targets["auth"]),
        ("public_url", ""),
    ):
        example, count = re.subn(rf"(?m)^{key} = .*$", f'{key} = "{value}"', example)
        assert count == 1, key
    (tmp_path / "gstack.toml").write_text(example)
    stack.environment = {key: value for key, value in stack.environment.items() if not key.startswith("GSTACK_")}
    stack.port = int(targets["gateway"].rpartition(":")[2])
    stack.start("simulator")
    for service in SERVICES:
        stack.start(service, **environment(tmp_path, service, targets[service].rpartition(":")[2]))
    try:
        stack.wait_ready()
        yield stack
    finally:
        for process in stack.processes.values():
            process.kill()
            process.wait()


def environment(folder: Path, service: str, port: str) -> dict[str, str]:
    """Of one instance of a unit, its credentials where systemd would put them."""
    credentials = folder / f"credentials-{service}"
    credentials.mkdir()
    for entry in values(service, "LoadCredential"):
        name, _, source = entry.partition(":")
        shutil.copy(source.replace("/etc/gstack", str(folder)), credentials / name)
        (credentials / name).chmod(0o400)
    found = {}
    for entry in values(service, "Environment"):
        name, _, value = entry.partition("=")
        for specifier, meaning in (("%d", str(credentials)), ("%S", str(folder / "state")), ("1%i", "0"), ("%i", port)):
            value = value.replace(specifier, meaning)
        found[name] = value.replace("/etc/gstack", str(folder))
    return found


def test_their_environments_start_a_gstack_that_works(host: Stack) -> None:
    assert host.call("GET", "/zones").json()["items"]
    for service in SERVICES:
        (check,) = values(service, "ExecStartPost")
        assert f"health {service}" in check
    # Nothing but what is in the credentials is needed: no keys, no database of a state folder.
    assert not [path for path in (host.folder / "state").rglob("*") if path.is_file()]
