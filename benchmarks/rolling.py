"""`make bench-rolling`: what clients notice while every process of gstack is restarted, and while some are killed.

Two gateways, two translators and two auth services on a PostgreSQL, with a simulated CloudStack. The load comes as
through an ingress: to the gateways that call themselves ready. Prints a table, writes benchmarks/results/rolling.json.
"""

from __future__ import annotations

import http.client
import json
import os
import platform
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from gstack.kernel.rpc import healthy
from tests.clients.conftest import API_KEY, PROJECT, SECRET_KEY, Stack, free_ports, make_stack
from tests.clients.sequences import cloud, machine
from tests.postgresql import Server

READERS = int(os.environ.get("BENCH_READERS", "3"))
WRITERS = int(os.environ.get("BENCH_WRITERS", "4"))
PAUSE = 0.02
PROBE_SECONDS = 0.2
DRAIN_SECONDS = 5
JOB_SECONDS = 0.5
# How long everybody needs to find a replica that is there again, and what a rollout waits for as `minReadySeconds`.
SETTLE_SECONDS = 2.0
# Not a gateway: nobody can answer for what that has in hand.
KILLED = ["translator-1", "auth-1"]
KILLED_SECONDS = 3.0
# Who does not stop in this time is killed, and that is a failure.
STOP_SECONDS = 60.0
PATIENCE = 90.0

_API = f"/compute/v1/projects/{PROJECT}"
_ZONE = "/zones/ch-gv2"
_NO_ANSWER = "none"


class Ingress:
    """Knows which gateways are ready, by asking them as a load balancer does."""

    def __init__(self, ports: list[int]):
        self._ready = dict.fromkeys(ports, False)
        self._turn = 0
        self._stop = threading.Event()
        for port in ports:
            threading.Thread(target=self._watch, args=(port,), daemon=True).start()

    def choose(self) -> int | None:
        ports = [port for port, ready in self._ready.items() if ready]
        self._turn += 1
        return ports[self._turn % len(ports)] if ports else None

    def has_all(self) -> bool:
        return all(self._ready.values())

    def _watch(self, port: int) -> None:
        while not self._stop.wait(PROBE_SECONDS):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request("GET", "/readyz/gateway")
                self._ready[port] = connection.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                self._ready[port] = False
            finally:
                connection.close()

    def stop(self) -> None:
        self._stop.set()


@dataclass
class Seen:
    """What clients saw of one kind of request in one phase."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    @property
    def bad(self) -> int:
        return sum(count for status, count in self.statuses.items() if status != "200")


class Record:
    """All requests, by the phase in which they ended and by kind."""

    def __init__(self) -> None:
        self.phase = "before"
        self.seen: dict[tuple[str, str], Seen] = defaultdict(Seen)
        self.bad: list[dict[str, Any]] = []
        self.began = time.monotonic()
        self._lock = threading.Lock()

    def add(self, kind: str, status: str, seconds: float, port: int | None, text: str) -> None:
        with self._lock:
            seen = self.seen[self.phase, kind]
            seen.statuses[status] += 1
            seen.seconds.append(seconds)
            if status != "200":
                at = round(time.monotonic() - self.began, 2)
                found = {"at": at, "phase": self.phase, "kind": kind, "gateway": port, "status": status}
                self.bad.append(found | {"seconds": round(seconds, 2), "text": text[:300]})


class Client:
    """One client of the ingress: a kept connection to each gateway."""

    def __init__(self, ingress: Ingress, record: Record, token: str = ""):
        self._ingress = ingress
        self._record = record
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._connections: dict[int, http.client.HTTPConnection] = {}

    def ask(self, kind: str, method: str, path: str, body: bytes = b"", content: str = "") -> dict[str, Any] | None:
        """The answer, None if it was no good one."""
        headers = self._headers | ({"Content-Type": content} if content else {})
        started = time.monotonic()
        port = self._ingress.choose()
        if port is None:
            self._record.add(kind, _NO_ANSWER, 0.0, None, "no gateway is ready")
            time.sleep(PROBE_SECONDS)
            return None
        status, text = _NO_ANSWER, b""
        try:
            connection = self._connection(port)
            connection.request(method, path, body or None, headers)
            reply = connection.getresponse()
            text = reply.read()
            status = str(reply.status)
        except (OSError, http.client.HTTPException) as error:
            text = repr(error).encode()
            self._connections.pop(port).close()
        self._record.add(kind, status, time.monotonic() - started, port, text.decode(errors="replace"))
        found: dict[str, Any] | None = json.loads(text) if status == "200" else None
        return found

    def _connection(self, port: int) -> http.client.HTTPConnection:
        connection = self._connections.get(port)
        if connection is not None and connection.sock is not None and not _is_closed(connection.sock):
            return connection
        if connection is not None:
            connection.close()
        made = self._connections[port] = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        made.connect()
        made.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made


def _is_closed(connection: socket.socket) -> bool:
    """Between two requests nothing but the end can have come."""
    return bool(select.select([connection], [], [], 0)[0])


@dataclass
class Work:
    """What writers began and saw ended, and which machines must be there in the end."""

    begun: dict[str, str] = field(default_factory=dict)
    finished: dict[str, str] = field(default_factory=dict)
    failed: list[dict[str, Any]] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)


def read(client: Client, stop: threading.Event) -> None:
    paths = (("zones.list", "/zones"), ("instances.list", f"{_ZONE}/instances"), ("instances.get", _FIRST))
    while not stop.is_set():
        for kind, path in paths:
            client.ask(kind, "GET", _API + path)
            time.sleep(PAUSE)


def get_tokens(client: Client, stop: threading.Event) -> None:
    form = {"grant_type": "client_credentials", "client_id": API_KEY, "client_secret": SECRET_KEY}
    while not stop.is_set():
        client.ask("token", "POST", "/oauth2/token", urlencode(form).encode(), "application/x-www-form-urlencoded")
        time.sleep(PAUSE)


_FIRST = f"{_ZONE}/instances/first"


def write(client: Client, work: Work, number: int, stop: threading.Event) -> None:
    """Machines come and go; every third stays. Each operation is followed to its end."""
    count = 0
    while not stop.is_set():
        count += 1
        name = f"w{number}-{count}"
        body = json.dumps(machine(name)).encode()
        inserted = _operate(client, work, "insert", "POST", f"{_ZONE}/instances", body)
        if not inserted:
            continue
        if count % 3 == 0:
            work.kept.add(name)
        else:
            _operate(client, work, "delete", "DELETE", f"{_ZONE}/instances/{name}")


def _operate(client: Client, work: Work, verb: str, method: str, path: str, body: bytes = b"") -> bool:
    """Begin with a requestId of its own, repeat it if there is no answer, and follow the operation to its end."""
    request = str(uuid.uuid4())
    path = f"{_API}{path}?requestId={request}"
    operation = _until_answered(lambda: client.ask(f"instances.{verb}", method, path, body, "application/json"))
    if operation is None:
        work.failed.append({"request": path, "why": "never answered"})
        return False
    work.begun[request] = operation["name"]
    # Half of the clients wait as gcloud does, half ask again and again.
    waits = int(request[0], 16) % 2 == 0
    follow = f"{_API}{_ZONE}/operations/{operation['name']}"
    end = time.monotonic() + PATIENCE
    while operation["status"] != "DONE" and time.monotonic() < end:
        found = (
            client.ask("operations.wait", "POST", f"{follow}/wait")
            if waits
            else client.ask("operations.get", "GET", follow)
        )
        operation = found or operation
        if not waits:
            time.sleep(0.1)
    if operation["status"] == "DONE":
        work.finished[request] = operation["name"]
    if operation["status"] != "DONE" or "error" in operation:
        work.failed.append(operation)
    return operation["status"] == "DONE" and "error" not in operation


def _until_answered(ask: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := ask():
            return found
        time.sleep(0.3)
    return None


# What is restarted


@dataclass
class Deployment:
    stack: Stack
    listens: dict[str, str]
    database: Server
    events: list[dict[str, Any]] = field(default_factory=list)

    def start(self, name: str) -> None:
        service = name.partition("-")[0]
        extra = {f"GSTACK_{service.upper()}_LISTEN": self.listens[name]}
        self.stack.start(name, **extra, GSTACK_EXECUTOR_ID=name)

    def becomes_ready(self, name: str) -> bool:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.stack.processes[name].poll() is None:
            if self._is_ready(name):
                return True
            time.sleep(0.1)
        return False

    def _is_ready(self, name: str) -> bool:
        if not name.startswith("gateway"):
            return healthy(self.listens[name])
        connection = http.client.HTTPConnection(self.listens[name], timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def restart(self, name: str, *, kill: bool = False) -> None:
        began = time.monotonic()
        process = self.stack.processes[name]
        if kill:
            process.kill()
        else:
            process.terminate()
        try:
            status = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        gone = time.monotonic()
        if kill:
            time.sleep(KILLED_SECONDS)
        self.start(name)
        is_ready = self.becomes_ready(name)
        self.events.append(
            {
                "process": name,
                "how": "SIGKILL" if kill else "SIGTERM",
                "status": status,
                "seconds_to_exit": round(gone - began, 1),
                "seconds_to_ready": round(time.monotonic() - gone, 1) if is_ready else None,
            }
        )
        time.sleep(SETTLE_SECONDS)


@contextmanager
def deployed(folder: Path) -> Iterator[Deployment]:
    stack = make_stack(folder)
    with Server.in_a_folder() as database:
        ports = iter(free_ports(3))
        listens: dict[str, str] = {}
        for service in ("translator", "auth", "gateway"):
            first = stack.environment[f"GSTACK_{service.upper()}_LISTEN"]
            listens |= {f"{service}-1": first, f"{service}-2": f"127.0.0.1:{next(ports)}"}
            both = f"{first},{listens[f'{service}-2']}"
            stack.environment |= {f"GSTACK_{service.upper()}_TARGET": f"ipv4:{both}"} if service != "gateway" else {}
        stack.environment |= {
            "GSTACK_DATABASE_URL": database.url + "translator",
            "GSTACK_AUTH_DATABASE_URL": database.url + "auth",
            "GSTACK_GATEWAY_DRAIN_SECONDS": str(DRAIN_SECONDS),
            # Connections are made anew as often in this run as in an hour elsewhere.
            "GSTACK_CONNECTION_AGE": "2",
        }
        deployment = Deployment(stack, listens, database)
        try:
            stack.start("simulator")
            for name in listens:
                deployment.start(name)
            for name in listens:
                if not deployment.becomes_ready(name):
                    raise RuntimeError(f"{name} does not start:\n{stack.log(name)}")
            stack.simulate("PATCH", "settings", {"job_seconds": {"": JOB_SECONDS}})
            time.sleep(SETTLE_SECONDS)
            yield deployment
        finally:
            for process in reversed(stack.processes.values()):
                process.kill()
                process.wait()


# The run


def run(deployment: Deployment) -> dict[str, Any]:
    stack, record, work, stop = deployment.stack, Record(), Work(), threading.Event()
    token = stack.token()
    stack.finish(stack.call("POST", f"{_ZONE}/instances", machine("first"), token=token).json())
    stack.simulate("DELETE", "calls")
    ingress = Ingress([int(listen.rpartition(":")[2]) for name, listen in deployment.listens.items() if "gate" in name])
    while not ingress.has_all():
        time.sleep(0.1)
    with ThreadPoolExecutor(READERS + WRITERS + 1) as pool:
        running = [pool.submit(read, Client(ingress, record, token), stop) for _ in range(READERS)]
        running += [pool.submit(write, Client(ingress, record, token), work, n, stop) for n in range(WRITERS)]
        running += [pool.submit(get_tokens, Client(ingress, record), stop)]
        durations = {}
        try:
            for phase, names in (("before", []), ("rolling", [*deployment.listens]), ("killing", KILLED)):
                record.phase = phase
                began = time.monotonic()
                time.sleep(SETTLE_SECONDS)
                for name in names:
                    deployment.restart(name, kill=phase == "killing")
                durations[phase] = round(time.monotonic() - began, 1)
        finally:
            stop.set()
        for one in running:
            one.result(PATIENCE * 3)
    ingress.stop()
    return {
        "requests": requests_of(record, durations),
        "bad": record.bad,
        "operations": operations_of(stack, work, token),
        "restarts": deployment.events,
        "seconds": durations,
    }


def requests_of(record: Record, durations: dict[str, float]) -> list[dict[str, Any]]:
    rows = []
    for (phase, kind), seen in sorted(
        record.seen.items(), key=lambda one: (list(durations).index(one[0][0]), one[0][1])
    ):
        statuses = seen.statuses
        rows.append(
            {
                "phase": phase,
                "kind": kind,
                "requests": sum(statuses.values()),
                "statuses": dict(sorted(statuses.items())),
                "failed": statuses[_NO_ANSWER],
                "5xx": sum(count for status, count in statuses.items() if status.startswith("5")),
                "bad": seen.bad,
                "median_ms": round(statistics.median(seen.seconds) * 1000, 1),
                "slowest_ms": round(max(seen.seconds) * 1000, 1),
            }
        )
    return rows


def operations_of(stack: Stack, work: Work, token: str) -> dict[str, Any]:
    """The operations that clients know, beside those that gstack knows and the machines that the cloud has."""
    known: list[dict[str, Any]] = []
    page = ""
    while True:
        reply = stack.call("GET", f"{_ZONE}/operations?maxResults=500&pageToken={page}", token=token).json()
        known += reply.get("items", [])
        page = reply.get("nextPageToken", "")
        if not page:
            break
    by_request = Counter(one.get("clientOperationId", "") for one in known)
    machines = Counter(row["name"] for row in cloud(stack, "listVirtualMachines").get("virtualmachine", []))
    calls = stack.simulate("GET", "calls")
    expected = work.kept | {"first"}
    inserts = sum(one["operationType"] == "insert" and one.get("clientOperationId") in work.begun for one in known)
    doubled = [request for request in work.begun if by_request[request] > 1]
    return {
        "begun": len(work.begun),
        "finished": len(work.finished),
        "failed": work.failed,
        "lost": [request for request in work.begun if request not in work.finished or not by_request[request]],
        "lost_machines": sorted(expected - set(machines)),
        "doubled": doubled,
        "doubled_machines": sorted((machines - Counter(expected)).elements()),
        "inserts": inserts,
        "deploy_calls": calls.get("deployVirtualMachine", 0),
        "destroy_calls": calls.get("destroyVirtualMachine", 0),
        "machines_kept": len(expected),
    }


def verdict(result: dict[str, Any]) -> list[str]:
    """What must not be."""
    found = []
    bad = sum(row["bad"] for row in result["requests"] if row["phase"] != "killing")
    if bad:
        found.append(f"{bad} requests got no answer, or an error")
    operations = result["operations"]
    for name in ("failed", "lost", "lost_machines", "doubled", "doubled_machines"):
        if operations[name]:
            found.append(f"operations: {name}: {len(operations[name])}")
    if operations["deploy_calls"] != operations["inserts"]:
        found.append(f"{operations['deploy_calls']} machines deployed for {operations['inserts']} inserts")
    for event in result["restarts"]:
        if event["how"] == "SIGTERM" and event["status"]:
            found.append(f"{event['process']} did not stop by itself: status {event['status']}")
        if event["seconds_to_ready"] is None:
            found.append(f"{event['process']} did not get ready again")
    return found


def show(rows: list[dict[str, Any]]) -> None:
    table = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[index]) for line in table) for index in range(len(table[0]))]
    for line in table:
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n")
    sys.stdout.write("\n")


def main() -> int:
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, deployed(Path(folder)) as deployment:
        result = run(deployment)
        wrong = verdict(result)
        for path in deployment.stack.folder.glob("*.log") if wrong else ():
            shutil.copy(path, results)
    show(result["requests"])
    show(result["restarts"])
    counted = result["operations"].items()
    show([{name: len(value) if isinstance(value, list) else value for name, value in counted}])
    for one in result["bad"][:20]:
        sys.stdout.write(f"{one}\n")
    sys.stdout.write("\n".join(wrong or ["no request failed, nothing was lost or done twice"]) + "\n")
    about = {"python": platform.python_version(), "cores": os.cpu_count(), "wrong": wrong, **result}
    (results / "rolling.json").write_text(json.dumps(about, indent=2) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
