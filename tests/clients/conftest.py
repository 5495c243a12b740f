"""The whole of gstack as its users meet it: real processes, started with the `gstack` command."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from gstack.kernel.rpc import healthy
from gstack.kernel.sealing import create_key
from tests.waits import LONG, until

API_KEY, SECRET_KEY, PROJECT = "demo-api-key", "demo-secret-key", "demo"
_ESTABLISHED = "01"
_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts for a module starts once: its tests go to one worker. A stack costs seconds of CPU."""
    for item in items:
        fixtures = getattr(item, "_fixtureinfo", None)
        if fixtures is None or item.get_closest_marker("xdist_group") or not item.path.is_relative_to(_HERE):
            continue
        if any(one.scope == "module" for found in fixtures.name2fixturedefs.values() for one in found):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def connected(pid: int) -> set[int]:
    """Ports that a process and its children are connected to."""
    found: set[int] = set()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for one in (str(pid), *children):
        sockets = {str(file.readlink()) for file in Path(f"/proc/{one}/fd").iterdir() if file.is_symlink()}
        for family in ("tcp", "tcp6"):
            for line in Path(f"/proc/{one}/net/{family}").read_text().splitlines()[1:]:
                (
                    _,
                    _,
                    remote,
                    state,
                    *_,
                ) = fields = line.split()
                if state == _ESTABLISHED and f"socket:[{fields[9]}]" in sockets:
                    found.add(int(remote.rpartition(":")[2], 16))
    return found


@dataclass
class Stack:
    """Gateway, translator, auth and simulator, each of which can be stopped, killed and started."""

    folder: Path
    port: int
    environment: dict[str, str]
    simulator_port: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self) -> str:
        return f"{self.url}/compute/v1/projects/{PROJECT}"

    def start(self, name: str, **extra: str) -> None:
        command = [sys.executable, "-m", "gstack.cli", name.partition("-")[0]]
        if name == "simulator":
            command += ["--listen", f"127.0.0.1:{self.simulator_port}"]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, env={**self.environment, **extra}, stdout=log, stderr=log)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A `gstack` command with the same settings."""
        command = [sys.executable, "-m", "gstack.cli", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)

    def kill(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def stop(self, name: str) -> None:
        self.processes[name].terminate()
        self.processes[name].wait(LONG)

    def wait_ready(self) -> None:
        def ready() -> bool:
            for name, process in self.processes.items():
                assert process.poll() is None, f"{name} ended:\n{self.log(name)}"
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=LONG) as reply:
                    return bool(reply.status == 200)
            except OSError:
                return False

        until(ready, pause=0.1, told=lambda: "\n".join(self.log(name) for name in self.processes))

    def wait_for_replicas(self, *addresses: str) -> None:
        """Until each of them serves and the gateway has found it: `readyz` is content with one."""
        ports = {int(address.rpartition(":")[2]) for address in addresses}
        until(lambda: all(healthy(address) for address in addresses), pause=0.1, told=lambda: addresses)
        # Its channels connect when they are first used.
        self.call("GET", "/zones")
        until(lambda: ports <= connected(self.processes["gateway"].pid), pause=0.1, told=lambda: addresses)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-4000:]

    def token(self, api_key: str = API_KEY, secret_key: str = SECRET_KEY) -> str:
        form = {"grant_type": "client_credentials", "client_id": api_key, "client_secret": secret_key}
        reply = requests.post(f"{self.url}/oauth2/token", form, timeout=30)
        assert reply.status_code == 200, reply.text
        return str(reply.json()["access_token"])

    def call(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, **options: Any
    ) -> requests.Response:
        """A request below the project, such as `call("GET", "/zones")`."""
        headers = {"Authorization": f"Bearer {token or self.token()}", **options.pop("headers", {})}
        url = path if path.startswith("http") else self.api + path
        return requests.request(method, url, json=body, headers=headers, timeout=180, **options)

    def finish(self, operation: dict[str, Any]) -> dict[str, Any]:
        """Wait for an operation by polling, as clients do."""
        end = time.monotonic() + LONG
        path = operation["selfLink"].partition(f"/projects/{PROJECT}")[2]
        while operation["status"] != "DONE":
            assert time.monotonic() < end, operation
            operation = self.call("POST", path + "/wait").json()
        return operation

    def simulate(self, method: str, what: str, body: Any = None) -> Any:
        """The simulator's control API: calls, faults, settings."""
        url = f"http://127.0.0.1:{self.simulator_port}/simulator/{what}"
        return requests.request(method, url, data=json.dumps(body) if body is not None else None, timeout=LONG).json()


def make_stack(folder: Path) -> Stack:
    port, translator, auth, simulator = free_ports(4)
    for name in ("sealing.key", "master.key"):
        create_key(folder / name)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("GSTACK_")},
        "GSTACK_STATE_DIR": str(folder),
        "GSTACK_GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "GSTACK_TRANSLATOR_LISTEN": f"127.0.0.1:{translator}",
        "GSTACK_TRANSLATOR_TARGET": f"127.0.0.1:{translator}",
        "GSTACK_AUTH_LISTEN": f"127.0.0.1:{auth}",
        "GSTACK_AUTH_TARGET": f"127.0.0.1:{auth}",
        "GSTACK_EXECUTOR_ID": "tests",
        "GSTACK_CLOUDSTACK_URL": f"http://127.0.0.1:{simulator}/client/api",
        # All tests come from one address, and many of them fail on purpose.
        "GSTACK_GATEWAY_DRAIN_SECONDS": "0",
        "GSTACK_RATE_REQUESTS": "1000000",
        "GSTACK_RATE_FAILURES": "100000",
        "GSTACK_RATE_KEYS": "1000",
        "GSTACK_RATE_TOKENS": "1000000",
        "PYTHONUNBUFFERED": "1",
    }
    return Stack(folder, port, environment, simulator)


def run_stack(folder: Path, **settings: str) -> Iterator[Stack]:
    """settings: more of the environment."""
    stack = make_stack(folder)
    stack.environment |= settings
    for name in ("simulator", "auth", "translator", "gateway"):
        stack.start(name)
    try:
        stack.wait_ready()
        stack.simulate("PATCH", "settings", {"job_seconds": {"": 0.1}})
        yield stack
    finally:
        for process in reversed(stack.processes.values()):
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One running gstack for all tests that leave it as they found it."""
    yield from run_stack(tmp_path_factory.mktemp("stack"))


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Stack]:
    """A gstack of the test's own, to kill parts of."""
    yield from run_stack(tmp_path)
