"""`make bench-soak`: whether the memory of gstack's processes stays what it is under lasting, mixed work.

A gateway of two processes, a translator and an auth service with a simulated CloudStack. Two tenants read all that can
be read, with filters, pages and `fields` that differ each time, make and delete machines and firewall rules, set
metadata and tags, get and revoke tokens and send batches; strangers come with wrong tokens and keys. All the while the
resident memory of each process is read. Prints a table, writes benchmarks/results/soak.json; status 1 when a process
grew after half-time.

    python -m benchmarks.soak [--minutes 10]

The caches that are bounded by bytes get small bounds: full ones are flat, and with their usual bounds they would take
hours to fill.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from benchmarks.chaos import TENANTS, Tenant, give_networks
from benchmarks.rolling import show
from tests.clients.conftest import Stack, run_stack
from tests.clients.sequences import KINDS_OF_ZONE, machine

READERS = 2
WRITERS = 2
PAUSE = 0.02
SAMPLE_SECONDS = 2.0
# A process has grown if it is larger in the end than at half-time by more than both of these.
GROWTH_MB, GROWTH_PART = 8.0, 0.05
_CACHE_BYTES = 4 * 1024 * 1024
# Of the run, how much is looked at for each figure: a single sample says little.
_WINDOW = 0.1

_LISTS = (
    "/zones", "/regions", "/global/images", "/global/networks", "/global/firewalls", "/global/routes",
    "/aggregated/instances", "/aggregated/disks", "/aggregated/machineTypes", "/aggregated/operations",
    *(
        f"/zones/{zone}/{name}"
        for zone, _ in KINDS_OF_ZONE
        for name in ("instances", "disks", "machineTypes", "diskTypes", "operations")
    ),
)  # fmt: skip
_FIELDS = (
    "id",
    "name",
    "selfLink",
    "kind",
    "description",
    "creationTimestamp",
    "zone",
    "status",
    "tags/items",
    "disks",
)


@dataclass
class Done:
    """What was answered: kind of request and status -> how often."""

    counts: Counter[tuple[str, int]] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, status: int) -> None:
        with self.lock:
            self.counts[kind, status] += 1


class Session:
    """A tenant's client with a kept connection and a token, which it gets anew when it is no good any more."""

    def __init__(self, stack: Stack, tenant: Tenant, done: Done, seed: str):
        self.tenant = tenant
        self.choice = random.Random(seed)
        self._stack, self._done = stack, done
        self._http = requests.Session()
        self._token = ""

    def get_token(self) -> str:
        """Tried until it is given: strangers of the same address make it wait."""
        api_key, secret_key = self.tenant.keys
        form = {"grant_type": "client_credentials", "client_id": api_key, "client_secret": secret_key}
        end = time.monotonic() + 60
        while (reply := self.send("token", "POST", "/oauth2/token", data=form)).status_code != 200:
            if time.monotonic() > end:
                raise RuntimeError(f"no token: {reply.text}")
            time.sleep(0.5)
        return str(reply.json()["access_token"])

    def send(self, kind: str, method: str, path: str, **options: Any) -> requests.Response:
        reply = self._http.request(method, self._stack.url + path, timeout=180, **options)
        self._done.add(kind, reply.status_code)
        return reply

    def ask(self, kind: str, method: str, path: str, body: Any = None, **options: Any) -> requests.Response:
        """As the tenant. path: below its project."""
        self._token = self._token or self.get_token()
        headers = options.pop("headers", {}) | {"Authorization": f"Bearer {self._token}"}
        path = path if path.startswith("/batch") else f"/compute/v1/projects/{self.tenant.project}{path}"
        reply = self.send(kind, method, path, json=body, headers=headers, **options)
        if reply.status_code == 401:
            self._token = ""
        return reply

    def finish(self, reply: requests.Response) -> bool:
        """Follow an operation to its end."""
        if reply.status_code != 200:
            return False
        operation, end = reply.json(), time.monotonic() + 120
        path = operation["selfLink"].partition(f"/projects/{self.tenant.project}")[2]
        while operation["status"] != "DONE" and time.monotonic() < end:
            found = self.ask("wait", "POST", f"{path}/wait")
            operation = found.json() if found.status_code == 200 else operation
        return operation["status"] == "DONE" and "error" not in operation

    def mask(self) -> str:
        """A `fields` that nobody sent before."""
        chosen = self.choice.sample(_FIELDS, self.choice.randrange(1, len(_FIELDS)))
        return ",".join([*chosen, f"x{self.choice.randrange(10**12)}"])


# What is done


def read(session: Session, stop: threading.Event) -> None:
    choice = session.choice
    while not stop.wait(PAUSE):
        path, query = choice.choice(_LISTS), {}
        kind = choice.choice(("list", "filter", "fields", "pages", "get", "batch"))
        if kind == "batch":
            content = {"Content-Type": 'multipart/mixed; boundary="part"'}
            session.ask(kind, "POST", "/batch/compute/v1", data=_batch(session), headers=content)
            continue
        if kind == "filter":
            query["filter"] = f"name != x{choice.randrange(10**12)}"
        elif kind == "fields":
            query["fields"] = f"items({session.mask()})"
        elif kind == "pages":
            query |= {"maxResults": choice.randrange(1, 20), "orderBy": "creationTimestamp desc"}
        reply = session.ask(kind, "GET", path, params=query)
        if kind == "pages" and reply.status_code == 200 and (page := reply.json().get("nextPageToken")):
            session.ask(kind, "GET", path, params=query | {"pageToken": page})
        elif kind == "get" and reply.status_code == 200 and isinstance(items := reply.json().get("items"), list):
            name = choice.choice(items)["name"] if choice.random() < 0.9 else f"x{choice.randrange(10**12)}"
            session.ask(kind, "GET", f"{path}/{name}", params={"fields": session.mask()})


def _batch(session: Session) -> str:
    lines = []
    for number in range(session.choice.randrange(2, 9)):
        path = f"/compute/v1/projects/{session.tenant.project}{session.choice.choice(_LISTS)}"
        lines += ["--part", "Content-Type: application/http", f"Content-ID: <{number}>", ""]
        lines += [f"GET {path}?fields=items({session.mask()}) HTTP/1.1", "", ""]
    return "\r\n".join([*lines, "--part--", ""])


def write(session: Session, number: int, stop: threading.Event) -> None:
    """Machines come and go, with metadata, tags and a firewall rule."""
    choice = session.choice
    while not stop.wait(PAUSE):
        zone, network = choice.choice(KINDS_OF_ZONE)
        name = f"s{number}-{choice.randrange(10**9)}"
        path = f"/zones/{zone}/instances"
        if not session.finish(session.ask("insert", "POST", path, machine(name, zone, network))):
            continue
        found = session.ask("get", "GET", f"{path}/{name}").json()
        metadata = {"items": [{"key": "k", "value": "v" * choice.randrange(3000)}]}
        metadata["fingerprint"] = found["metadata"]["fingerprint"]
        session.finish(session.ask("setMetadata", "POST", f"{path}/{name}/setMetadata", metadata))
        rule = {"name": name, "network": f"global/networks/{network}", "targetTags": [name]}
        rule |= {"allowed": [{"IPProtocol": "tcp", "ports": [str(choice.randrange(1, 60000))]}]}
        made = session.ask("insert", "POST", "/global/firewalls", rule)
        tags = {"items": [name], "fingerprint": found["tags"]["fingerprint"]}
        session.finish(session.ask("setTags", "POST", f"{path}/{name}/setTags", tags))
        if session.finish(made):
            session.finish(session.ask("delete", "DELETE", f"/global/firewalls/{name}"))
        session.finish(session.ask("delete", "DELETE", f"{path}/{name}"))


def use_tokens(session: Session, stop: threading.Event) -> None:
    while not stop.wait(PAUSE * 5):
        token = session.get_token()
        path = f"/compute/v1/projects/{session.tenant.project}/zones"
        session.send("list", "GET", path, headers={"Authorization": f"Bearer {token}"})
        if session.choice.random() < 0.5:
            session.send("revoke", "POST", "/oauth2/revoke", data={"token": token})


def knock(session: Session, stop: threading.Event) -> None:
    """As somebody whom nobody knows."""
    while not stop.wait(PAUSE * 5):
        made_up = base64.urlsafe_b64encode(session.choice.randbytes(24)).decode()
        path = f"/compute/v1/projects/{made_up}/zones"
        session.send("wrong token", "GET", path, headers={"Authorization": f"Bearer {made_up}"})
        form = {"grant_type": "client_credentials", "client_id": made_up, "client_secret": made_up}
        session.send("wrong keys", "POST", "/oauth2/token", data=form)
        session.send("no such page", "GET", f"/{made_up}")


# What is measured


def processes_of(stack: Stack) -> dict[str, int]:
    """The ids of gstack's processes by name: services and their children."""
    found = {}
    for name, process in stack.processes.items():
        if name == "simulator":
            continue
        found[name] = process.pid
        for number, child in enumerate(_children(process.pid), 1):
            found[f"{name}, worker {number}"] = child
    return found


def _children(process: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def resident_mb(process: int) -> float:
    """Memory (RSS) of a process, in MB of 2^20 bytes; NaN for one that is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except FileNotFoundError:
        return float("nan")
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), float("nan"))


def figures(samples: list[float]) -> dict[str, Any]:
    """Memory at the start, at half-time and in the end, the most there was, and the growth after half-time."""
    window, half = max(int(len(samples) * _WINDOW), 1), len(samples) // 2
    middle, end = statistics.mean(samples[half : half + window]), statistics.mean(samples[-window:])
    grown = end - middle
    return {
        "idle_mb": round(samples[0], 1),
        "half_mb": round(middle, 1),
        "end_mb": round(end, 1),
        "most_mb": round(max(samples), 1),
        "growth_mb": round(grown, 1),
        "growth_percent": round(grown / middle * 100, 1),
        "flat": grown <= max(GROWTH_MB, middle * GROWTH_PART),
    }


def run(stack: Stack, minutes: float) -> dict[str, Any]:
    give_networks(stack)
    done, stop = Done(), threading.Event()

    def session(tenant: Tenant, role: str) -> Session:
        return Session(stack, tenant, done, f"{tenant.name}/{role}")

    watched = processes_of(stack)
    samples = {name: [resident_mb(process)] for name, process in watched.items()}
    with ThreadPoolExecutor(64) as pool:
        running = [pool.submit(knock, session(TENANTS[0], "stranger"), stop)]
        for tenant in TENANTS:
            running += [pool.submit(read, session(tenant, f"read {n}"), stop) for n in range(READERS)]
            running += [pool.submit(write, session(tenant, f"write {n}"), n, stop) for n in range(WRITERS)]
            running += [pool.submit(use_tokens, session(tenant, "tokens"), stop)]
        until = time.monotonic() + minutes * 60
        try:
            while time.monotonic() < until and not any(one.done() for one in running):
                time.sleep(SAMPLE_SECONDS)
                for name, process in watched.items():
                    samples[name].append(resident_mb(process))
        finally:
            stop.set()
        for one in running:
            one.result()
    return {
        "minutes": minutes,
        "processes": [{"process": name, **figures(found)} for name, found in samples.items()],
        "requests": {f"{kind} {status}": count for (kind, status), count in sorted(done.counts.items())},
        "samples": {name: [round(one, 1) for one in found] for name, found in samples.items()},
    }


def verdict(result: dict[str, Any]) -> list[str]:
    """What must not be."""
    wrong = [
        f"{row['process']} grew by {row['growth_mb']} MB ({row['growth_percent']} %) after half-time"
        for row in result["processes"]
        if not row["flat"]
    ]
    # 503 is what unknown keys are told while others are looked at.
    statuses = ((name.rpartition(" ")[2], count) for name, count in result["requests"].items())
    failed = sum(count for status, count in statuses if status.startswith("5") and status != "503")
    return [*wrong, *([f"{failed} requests failed"] if failed else [])]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-soak")
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    settings = {"GSTACK_GATEWAY_WORKERS": "2", "GSTACK_REPLY_CACHE_BYTES": str(_CACHE_BYTES)}
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        closing(run_stack(Path(folder), **settings)) as stacks,
    ):
        result = run(next(stacks), options.minutes)
    wrong = verdict(result)
    show(result["processes"])
    show([{"requests": sum(result["requests"].values()), "minutes": options.minutes}])
    sys.stdout.write("\n".join(wrong or ["no process grew after half-time"]) + "\n")
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    about = {"python": platform.python_version(), "cores": os.cpu_count(), "wrong": wrong, **result}
    (results / "soak.json").write_text(json.dumps(about, indent=2) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
