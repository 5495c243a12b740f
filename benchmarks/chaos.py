"""`make chaos`: what becomes of operations while everything around them fails, at random and again and again.

Two gateways, two translators and two auth services on a PostgreSQL, with a simulated CloudStack. Two tenants make and
delete machines and firewall rules and set tags, each request with an id of its own and repeated until it is answered.
Meanwhile processes are killed, the database goes away, CloudStack restarts, limits its callers and answers with errors,
halves, HTML, nothing, or rows that are not as they must be. In the end everybody is back, all operations are followed
to their end, and what they say is compared with what the cloud has.

    python -m benchmarks.chaos [--operations 200] [--seed 1] [--pause 1.5]

What it cannot reach: a CloudStack whose own database loses what it answered for, disks that lose what was written,
networks that are cut in two, and clocks that jump.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from benchmarks.rolling import Deployment, deployed, show
from tests.clients.conftest import Stack
from tests.clients.sequences import KINDS_OF_ZONE, cloud, machine

WORKERS = 4
JOB_SECONDS = 0.4
# Until an operation that was accepted is over once everybody is back.
PATIENCE = 240.0
_TRIES_SECONDS = 180.0

# A command whose answer is lost or spoilt, and what is done to it.
_QUESTIONS = (
    "queryAsyncJobResult",
    "listVirtualMachines",
    "listPublicIpAddresses",
    "listSecurityGroups",
    "listVolumes",
)
_CHANGES = ("deployVirtualMachine", "destroyVirtualMachine", "associateIpAddress", "enableStaticNat", "createTags")


# What goes wrong, and how often compared with the rest.
EVENTS = {
    "kill a translator": 4,
    "kill an auth service": 2,
    "kill a gateway": 2,
    "the database is away": 3,
    "CloudStack restarts": 2,
    "CloudStack limits": 2,
    "errors of questions": 4,
    "answers that are lost": 4,
    "answers that are spoilt": 4,
    "a change that is refused": 1,
}


@dataclass(frozen=True)
class Tenant:
    """project: of GCE; keys: `<name>-api-key` and `<name>-secret-key`."""

    name: str
    project: str

    @property
    def keys(self) -> tuple[str, str]:
        return f"{self.name}-api-key", f"{self.name}-secret-key"


TENANTS = (Tenant("demo", "demo"), Tenant("ian", "ian-example-org"))


@dataclass
class Begun:
    """An operation that was accepted, and what it was for."""

    tenant: Tenant
    verb: str
    target: str
    request: str
    operation: dict[str, Any]


@dataclass
class Work:
    """What is begun and what it came to. history: tenant and target -> its operations in their order."""

    begun: list[Begun] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    unanswered: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, one: Begun) -> None:
        with self.lock:
            self.begun.append(one)


class Session:
    """A tenant's client, which asks either gateway and repeats itself until one answers."""

    def __init__(self, deployment: Deployment, tenant: Tenant):
        self.tenant = tenant
        self._bases = [f"http://{listen}" for name, listen in deployment.listens.items() if name.startswith("gateway")]
        self._token = ""
        self._turn = 0

    def ask(self, method: str, path: str, body: Any = None) -> requests.Response | None:
        """An answer that is one, even a refusal; None when there was none for a long time."""
        end = time.monotonic() + _TRIES_SECONDS
        while time.monotonic() < end:
            self._turn += 1
            base = self._bases[self._turn % len(self._bases)]
            try:
                reply = self._send(base, method, path, body)
            except requests.RequestException:
                time.sleep(0.2)
                continue
            if reply.status_code == 401:
                self._token = ""
            elif reply.status_code < 500 and reply.status_code != 429:
                return reply
            time.sleep(0.2)
        return None

    def _send(self, base: str, method: str, path: str, body: Any) -> requests.Response:
        if not self._token:
            api_key, secret_key = self.tenant.keys
            form = {"grant_type": "client_credentials", "client_id": api_key, "client_secret": secret_key}
            reply = requests.post(f"{base}/oauth2/token", form, timeout=30)
            if reply.status_code != 200:
                return reply
            self._token = str(reply.json()["access_token"])
        url = f"{base}/compute/v1/projects/{self.tenant.project}{path}"
        return requests.request(method, url, json=body, headers={"Authorization": f"Bearer {self._token}"}, timeout=60)

    def begin(self, work: Work, verb: str, method: str, collection: str, target: str, body: Any = None) -> Begun | None:
        request = str(uuid.uuid4())
        path = collection if verb == "insert" else target
        if verb == "setTags":
            path += "/setTags"
        reply = self.ask(method, f"{path}?requestId={request}", body)
        if reply is None:
            work.unanswered.append(f"{verb} {target}")
            return None
        if reply.status_code != 200:
            with work.lock:
                work.refused[f"{verb} {reply.status_code}"] += 1
            return None
        begun = Begun(self.tenant, verb, target, request, reply.json())
        work.add(begun)
        return begun

    def follow(self, begun: Begun, seconds: float) -> bool:
        """Whether it is done, with `begun.operation` as it is then."""
        end = time.monotonic() + seconds
        path = begun.operation["selfLink"].partition(f"/projects/{self.tenant.project}")[2]
        while begun.operation["status"] != "DONE" and time.monotonic() < end:
            reply = self.ask("GET", path)
            if reply is not None and reply.status_code == 200:
                begun.operation = reply.json()
            time.sleep(0.3)
        return bool(begun.operation["status"] == "DONE")


def write(session: Session, work: Work, number: int, count: int, seed: int) -> None:
    """Machines come and go in both kinds of zone, with rules that name their tags; some of each stay."""
    choice = random.Random(f"{seed}/{session.tenant.name}/{number}")
    left = count
    while left > 0:
        zone, network = choice.choice(KINDS_OF_ZONE)
        name = f"c{number}-{left}-{choice.randrange(1000)}"
        instances, instance = f"/zones/{zone}/instances", f"/zones/{zone}/instances/{name}"
        left -= 1
        begun = session.begin(work, "insert", "POST", instances, instance, machine(name, zone, network))
        if begun is None or not session.follow(begun, PATIENCE) or "error" in begun.operation:
            continue
        if choice.random() < 0.4:
            left -= 1
            rule = {"name": name, "network": f"global/networks/{network or 'default'}", "targetTags": [name]}
            rule |= {"allowed": [{"IPProtocol": "tcp", "ports": [str(choice.randrange(1, 60000))]}]}
            firewall = f"/global/firewalls/{name}"
            made = session.begin(work, "insert", "POST", "/global/firewalls", firewall, rule)
            tags = session.begin(work, "setTags", "POST", "", instance, {"items": [name]})
            for one in (made, tags):
                if one is not None:
                    session.follow(one, PATIENCE)
            if choice.random() < 0.5 and (gone := session.begin(work, "delete", "DELETE", "", firewall)) is not None:
                session.follow(gone, PATIENCE)
        if choice.random() < 0.7:
            left -= 1
            if (gone := session.begin(work, "delete", "DELETE", "", instance)) is not None and choice.random() < 0.7:
                session.follow(gone, PATIENCE)


# What goes wrong


class Chaos:
    def __init__(self, deployment: Deployment, seed: int, pause: float):
        self._deployment = deployment
        self._choice = random.Random(seed)
        self._pause = pause
        self.done: Counter[str] = Counter()

    def run(self, stop: threading.Event, *, everything: bool) -> None:
        """everything: what did not happen by chance happens before the end."""
        while not stop.wait(self._choice.uniform(0.3, 1.7) * self._pause):
            # What has not been yet comes first, where all of it has to.
            missing = [name for name in EVENTS if not self.done[name]] if everything else []
            (name,) = self._choice.choices(missing or list(EVENTS), None if missing else list(EVENTS.values()))
            self._happen(name)
        for name in EVENTS if everything else ():
            if not self.done[name]:
                self._happen(name)

    def _happen(self, name: str) -> None:
        self.done[name] += 1
        match name:
            case "kill a translator":
                self._kill("translator")
            case "kill an auth service":
                self._kill("auth")
            case "kill a gateway":
                self._kill("gateway")
            case "the database is away":
                self._database()
            case "CloudStack restarts":
                self._stack.simulate("POST", "restart", {"told": self._choice.random() < 0.5})
            case "CloudStack limits":
                self._limit()
            case "errors of questions":
                self._errors()
            case "answers that are lost":
                self._lost()
            case "answers that are spoilt":
                self._fault(kind="mangled", command=self._choice.choice(_QUESTIONS), count=4)
            case "a change that is refused":
                # The one that is a no: its operation fails, and takes away what it made.
                self._fault(kind="status", command=self._choice.choice(_CHANGES), status=530)

    def heal(self) -> None:
        self._stack.simulate("DELETE", "faults")
        self._stack.simulate("PATCH", "settings", {"api_limit": 0})

    @property
    def _stack(self) -> Stack:
        return self._deployment.stack

    def _kill(self, service: str) -> None:
        name = f"{service}-{self._choice.choice('12')}"
        self._stack.kill(name)
        time.sleep(self._choice.uniform(0.0, 1.0))
        self._deployment.start(name)
        self._deployment.becomes_ready(name)

    def _database(self) -> None:
        self._deployment.database.stop()
        time.sleep(self._choice.uniform(0.5, 4.0))
        self._deployment.database.start()

    def _limit(self) -> None:
        self._stack.simulate("PATCH", "settings", {"api_limit": 5})
        time.sleep(self._choice.uniform(2.0, 5.0))
        self._stack.simulate("PATCH", "settings", {"api_limit": 0})

    def _fault(self, **fault: Any) -> None:
        self._stack.simulate("POST", "faults", fault)

    def _errors(self) -> None:
        # Those of before are over: on a slow machine they would grow faster than they are used up.
        self._stack.simulate("DELETE", "faults")
        for status in self._choice.sample((401, 429, 430, 431, 503, 530, 531), 3):
            count = self._choice.randrange(1, 8)
            self._fault(kind="status", command="queryAsyncJobResult", status=status, count=count)

    def _lost(self) -> None:
        kind = self._choice.choice(["drop", "truncated", "html"])
        self._fault(kind=kind, command=self._choice.choice(_CHANGES + _QUESTIONS), status=502, count=3)


# What must be in the end


def judge(deployment: Deployment, work: Work) -> tuple[list[dict[str, Any]], list[str]]:
    """(a row for each tenant and verb, what must not be)."""
    wrong = [f"never answered: {one}" for one in work.unanswered]
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for one in work.begun:
        row = rows.setdefault((one.tenant.name, one.verb), {"tenant": one.tenant.name, "what": one.verb})
        done, failed = one.operation["status"] == "DONE", "error" in one.operation
        for name, counts in (("begun", True), ("done", done), ("with an error", failed)):
            row[name] = row.get(name, 0) + counts
        if not done:
            wrong.append(f"stuck: {one.verb} {one.target}: {one.operation['status']}")
    for tenant in TENANTS:
        wrong += _compare(deployment, work, tenant)
    return [rows[key] for key in sorted(rows)], wrong


def _compare(deployment: Deployment, work: Work, tenant: Tenant) -> list[str]:
    """The operations of one tenant beside its machines and addresses in the cloud."""
    wrong: list[str] = []
    mine = [one for one in work.begun if one.tenant is tenant]
    session = Session(deployment, tenant)
    listed = session.ask("GET", "/aggregated/operations?maxResults=500")
    assert listed is not None
    known = [one for scope in listed.json()["items"].values() for one in scope.get("operations", [])]
    requests_known = Counter(one.get("clientOperationId", "") for one in known)
    for one in mine:
        if requests_known[one.request] != 1:
            wrong.append(f"{requests_known[one.request]} operations of one request: {one.verb} {one.target}")
    standing = cloud(deployment.stack, "listVirtualMachines", keys=tenant.keys).get("virtualmachine", [])
    there = Counter(row["name"] for row in standing)
    warned = " ".join(text["message"] for one in mine for text in one.operation.get("warnings", []))
    for target in dict.fromkeys(one.target for one in mine if "/instances/" in one.target):
        name = target.rpartition("/")[2]
        expected = stands([one for one in mine if one.target == target])
        if there[name] > 1:
            wrong.append(f"{there[name]} machines of one name: {name}")
        if expected is not None and bool(there[name]) != expected and f"'{name}'" not in warned:
            wrong.append(f"{name} is {'not ' if expected else ''}there, which no operation says")
    strangers = set(there) - {one.target.rpartition("/")[2] for one in mine}
    wrong += [f"a machine that nobody asked for: {name}" for name in sorted(strangers)]
    addresses = cloud(deployment.stack, "listPublicIpAddresses", keys=tenant.keys).get("publicipaddress", [])
    for row in addresses:
        if not row["issourcenat"] and not row.get("virtualmachineid") and "address" not in warned:
            wrong.append(f"an address of no machine: {row}")
    return wrong


def stands(operations: list[Begun]) -> bool | None:
    """Whether a machine is there after these, None when that is not told: a delete that failed may have been one."""
    found: bool | None = False
    for one in operations:
        if one.verb == "insert":
            found = "error" not in one.operation
        elif one.verb == "delete":
            found = None if "error" in one.operation else False
    return found


def give_networks(stack: Stack) -> None:
    """The demo cloud has an isolated network for one of the tenants."""
    for tenant in TENANTS:
        keys = tenant.keys
        if any(row["name"] == "net-a" for row in cloud(stack, "listNetworks", keys=keys).get("network", [])):
            continue
        zone = cloud(stack, "listZones", keys=keys, name="CH-ZH-1")["zone"][0]["id"]
        name = "DefaultIsolatedNetworkOfferingWithSourceNatService"
        offering = cloud(stack, "listNetworkOfferings", keys=keys, name=name)["networkoffering"][0]["id"]
        cloud(stack, "createNetwork", keys=keys, zoneid=zone, networkofferingid=offering, name="net-a", displaytext="n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos")
    parser.add_argument("--operations", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--pause", type=float, default=1.5, help="seconds between two events, on average")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, deployed(Path(folder)) as deployment:
        rows, events, wrong = run(deployment, options.operations, options.seed, options.pause)
        kept = Path(__file__).parent / "results"
        kept.mkdir(exist_ok=True)
        for path in deployment.stack.folder.glob("*.log") if wrong else ():
            (kept / f"chaos-{path.name}").write_bytes(path.read_bytes())
    show(rows)
    show([{"what went wrong": name, "times": count} for name, count in sorted(events.items())])
    verdict = wrong or ["nothing was lost, doubled or stuck; every machine is as its operations say"]
    sys.stdout.write(f"seed {options.seed}\n" + "\n".join(verdict) + "\n")
    return 1 if wrong else 0


def run(
    deployment: Deployment, operations: int, seed: int, pause: float, *, everything: bool = False
) -> tuple[list[dict[str, Any]], Counter[str], list[str]]:
    """(rows of a table, events, what must not be)."""
    deployment.stack.simulate("PATCH", "settings", {"job_seconds": {"": JOB_SECONDS}})
    give_networks(deployment.stack)
    work, stop, chaos = Work(), threading.Event(), Chaos(deployment, seed, pause)
    share = -(-operations // (len(TENANTS) * WORKERS))
    with ThreadPoolExecutor(len(TENANTS) * WORKERS + 1) as pool:
        wrecking = pool.submit(chaos.run, stop, everything=everything)
        writing = [
            pool.submit(write, Session(deployment, tenant), work, number, share, seed)
            for tenant in TENANTS
            for number in range(WORKERS)
        ]
        for one in writing:
            one.result()
        stop.set()
        wrecking.result()
    chaos.heal()
    for one in work.begun:
        Session(deployment, one.tenant).follow(one, PATIENCE)
    rows, wrong = judge(deployment, work)
    return rows, chaos.done, wrong


if __name__ == "__main__":
    raise SystemExit(main())
