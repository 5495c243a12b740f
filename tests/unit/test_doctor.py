"""What `gstack doctor` finds wrong, against a simulated CloudStack that has it."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from structlog.testing import capture_logs

from gstack.kernel.settings import Settings
from simulator import cloud as clouds
from simulator.app import Simulator
from translator_service.cloudstack.client import Client, Endpoint, Keys

ROOT = Path(__file__).parents[2]
KEYS = ("demo-api-key", "demo-secret-key")
# The package has the command of this name.
doctor = importlib.import_module("gstack.cli.doctor")


@pytest.fixture
def simulator() -> Simulator:
    return Simulator(clouds.build(clouds.read(None)))


@contextmanager
def served(app: Any, **options: Any) -> Iterator[str]:
    """The address of the application's API."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, interface="asgi3", log_level="error", lifespan="off", **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/client/api"
    finally:
        server.should_exit = True
        thread.join(10)


@contextmanager
def answering(status: int, headers: dict[str, str], body: bytes) -> Iterator[str]:
    """The address of a server that has one answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def diagnose(url: str, capsys: pytest.CaptureFixture[str], folder: Path, endpoint: str | None = None) -> dict[str, str]:
    """What is said, by the name of the check."""
    with capture_logs():
        doctor.check(Settings(cloudstack_url=url, state_dir=folder), *KEYS, endpoint)
    said = capsys.readouterr().out.splitlines()
    return {line[5:].partition(":")[0]: line for line in said}


def test_a_cloud_that_is_well(simulator: Simulator, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with served(simulator) as url:
        found = diagnose(url, capsys, tmp_path)
    assert len(found) == 12 and not [line for line in found.values() if line.startswith("FAIL")]


def test_the_right_address_is_found(simulator: Simulator, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with served(simulator) as url:
        base = url.removesuffix("/client/api")
        for wrong in (base, f"{base}/client", f"{base}/api/v1", url.replace("http", "https")):
            line = diagnose(wrong, capsys, tmp_path)["address of CloudStack"]
            assert line.startswith("FAIL") and line.endswith(f": it is at {url}"), line


def test_an_address_of_something_else(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with answering(200, {}, b"<html>CloudStack's pages for people</html>") as url:
        line = diagnose(f"{url}/client/api", capsys, tmp_path)["address of CloudStack"]
        assert "answers 200 with a web page, which is not CloudStack's API; its path is usually /client/api" in line
    with answering(200, {}, json.dumps({"status": "ok"}).encode()) as url:
        assert "something else" in diagnose(f"{url}/client/api", capsys, tmp_path)["address of CloudStack"]
    assert "does not answer" in diagnose(f"{url}/client/api", capsys, tmp_path)["address of CloudStack"]
    assert "must begin with http://" in diagnose("cloud.example.org", capsys, tmp_path)["address of CloudStack"]


def test_an_address_that_leads_elsewhere(
    simulator: Simulator, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    query = "?command=listZones&response=json"
    with served(simulator) as url, answering(302, {"Location": url + query}, b"") as old:
        line = diagnose(f"{old}/client/api", capsys, tmp_path)["address of CloudStack"]
        assert line.startswith("FAIL") and f"leads to {url}: give that address" in line


@pytest.mark.parametrize("date", [True, False], ids=["Date", "no Date"])
@pytest.mark.parametrize(("ahead", "expected"), [(0, "ok"), (300, "FAIL"), (-300, "FAIL")])
def test_the_clock(
    simulator: Simulator, capsys: pytest.CaptureFixture[str], tmp_path: Path, date: bool, ahead: int, expected: str
) -> None:
    simulator.world.clock = lambda: time.time() + ahead
    headers = [("Date", formatdate(time.time() + ahead, usegmt=True))] if date else []
    with served(simulator, date_header=False, headers=headers) as url:
        line = diagnose(url, capsys, tmp_path)["clock"]
    assert line.startswith(expected), line
    assert ("takes a signed request for expired" in line) != date
    if ahead and not date:
        assert ("ahead of" if ahead > 0 else "behind") in line


def test_each_command_that_is_called_is_asked_for() -> None:
    """No command stands in the translator's code that the doctor does not know of."""
    specs = json.loads((ROOT / "simulator" / "commands.json").read_text())
    called = {
        word
        for path in (ROOT / "translator_service").rglob("*.py")
        for word in re.findall(r'"([a-z]+[A-Z][A-Za-z]+)"', path.read_text())
        if word in specs
    }
    assert called - set(doctor._needed()) == doctor.OPTIONAL
    assert set(doctor._needed()) <= set(specs)


def test_missing_permissions_are_told_with_what_needs_them(
    simulator: Simulator, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    account = simulator.world.users_by_key[KEYS[0]].account
    account.denied_commands = frozenset({"enableStaticNat", "queryAsyncJobResult"})
    with served(simulator) as url:
        line = diagnose(url, capsys, tmp_path)["permissions"]
        assert line.startswith("FAIL") and "queryAsyncJobResult (for every change)" in line
        assert re.search(r"enableStaticNat \(for [^)]*Instances\.", line), line
        assert "deployVirtualMachine" not in line
        account.denied_commands = frozenset({"listApis"})
        line = diagnose(url, capsys, tmp_path)["permissions"]
        assert line.startswith("note") and "deployVirtualMachine" in line


def test_networks_and_whether_anything_gets_out(
    simulator: Simulator, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with served(simulator) as url:
        client = Client(Endpoint(url), Keys(*KEYS))
        zone = next(row for row in client.read("listZones").items if row["name"] == "CH-ZH-1")
        for row in client.read("listNetworks", zoneid=zone["id"]).items:
            finish(client, "deleteNetwork", id=row["id"])
        line = diagnose(url, capsys, tmp_path)["networks"]
        assert line.startswith("note") and "CH-ZH-1: none yet" in line and "which will deny egress" in line
        offering = client.read("listNetworkOfferings", guestiptype="Isolated", availability="Required").items[0]
        made = client.write(
            "createNetwork", zoneid=zone["id"], networkofferingid=offering["id"], name="web", displaytext="web"
        ).one()
        line = diagnose(url, capsys, tmp_path)["networks"]
        assert line.startswith("note") and "Nothing gets out of web (CH-ZH-1)" in line and "Egress rules" in line
        finish(client, "createEgressFirewallRule", networkid=made["id"], protocol="all")
        line = diagnose(url, capsys, tmp_path)["networks"]
        assert line.startswith("ok") and "CH-ZH-1: web" in line and "CH-GV2: " in line


def finish(client: Client, command: str, **parameters: str) -> None:
    job = client.write(command, **parameters).body["jobid"]
    while (state := client.read("queryAsyncJobResult", jobid=job).body)["jobstatus"] == 0:
        time.sleep(0.02)
    assert state["jobstatus"] == 1, state


def test_the_gateways_address(simulator: Simulator, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ready = json.dumps({"ready": True, "services": {"gateway": True}}).encode()
    tired = json.dumps({"ready": False, "services": {"gateway": True, "auth": False}}).encode()
    with served(simulator) as url, answering(200, {}, ready) as good, answering(503, {}, tired) as bad:
        assert diagnose(url, capsys, tmp_path, good)["gateway"] == f"ok   gateway: {good} is ready"
        assert "see the logs of auth" in diagnose(url, capsys, tmp_path, bad)["gateway"]
        line = diagnose(url, capsys, tmp_path, good.replace("http", "https"))["gateway"]
        assert line.startswith("FAIL") and line.endswith(f"it is at {good}")
        line = diagnose(url, capsys, tmp_path, url)["gateway"]
        assert "which is not gstack's" in line
