"""`make bench`: what gstack adds to a CloudStack call, in one run on one machine, with the direct call beside each.

Starts the whole of gstack with a simulated CloudStack, prints a table, writes benchmarks/results/latest.json.
"""

from __future__ import annotations

import base64
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jwt
import requests
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from benchmarks import load
from gstack.auth.v1 import auth_pb2, auth_pb2_grpc
from gstack.kernel import rpc, trust
from simulator.signature import sign
from tests.clients.conftest import API_KEY, SECRET_KEY, Stack, run_stack

SECONDS = float(os.environ.get("BENCH_SECONDS", "5"))
_ZONE = "ch-gv2"
# Seconds that the simulated CloudStack takes for its work while a whole insert is measured, and how many are.
_WORK = {"": 0.3, "deployVirtualMachine": 1.5, "attachVolume": 1.0, "startVirtualMachine": 4.0}
_INSERTS = 3


def direct(stack: Stack, command: str, **parameters: str) -> tuple[str, int, bytes]:
    """The same question asked of the simulated CloudStack itself."""
    query = {**parameters, "command": command, "response": "json", "apikey": API_KEY}
    query["signature"] = sign(query, SECRET_KEY)
    path = "/client/api?" + urlencode(query)
    return "127.0.0.1", stack.simulator_port, load.get("127.0.0.1", stack.simulator_port, path)


def through(stack: Stack, token: str, path: str) -> tuple[str, int, bytes]:
    headers = {"Authorization": f"Bearer {token}"}
    return "127.0.0.1", stack.port, load.get("127.0.0.1", stack.port, "/compute/v1/projects/demo" + path, headers)


def zone_id(name: str, stack: Stack) -> str:
    query = {"command": "listZones", "response": "json", "apikey": API_KEY}
    query["signature"] = sign(query, SECRET_KEY)
    reply = requests.get(f"http://127.0.0.1:{stack.simulator_port}/client/api", query, timeout=10).json()
    return next(zone["id"] for zone in reply["listzonesresponse"]["zone"] if zone["name"] == name)


def add_instances(stack: Stack, token: str, names: list[str]) -> None:
    for name in names:
        body = {
            "name": name,
            "machineType": f"zones/{_ZONE}/machineTypes/micro",
            "disks": [
                {
                    "boot": True,
                    "autoDelete": True,
                    "initializeParams": {"sourceImage": "global/images/linux-debian-12-64-bit"},
                }
            ],
            "networkInterfaces": [{"network": "global/networks/default"}],
        }
        reply = stack.call("POST", f"/zones/{_ZONE}/instances", body, token=token)
        assert reply.status_code == 200, reply.text
    until = time.monotonic() + 600
    while any(item["status"] != "DONE" for item in operations(stack, token)) and time.monotonic() < until:
        time.sleep(0.5)


def operations(stack: Stack, token: str) -> list[dict[str, Any]]:
    return stack.call("GET", f"/zones/{_ZONE}/operations?filter=status ne DONE", token=token).json().get("items", [])


def asking(stack: Stack) -> Callable[..., dict[str, Any]]:
    """Asks the simulated cloud itself: ask(command, **parameters)."""
    session = requests.Session()

    def ask(command: str, **parameters: str) -> dict[str, Any]:
        query = {**parameters, "command": command, "response": "json", "apikey": API_KEY}
        query["signature"] = sign(query, SECRET_KEY)
        url = f"http://127.0.0.1:{stack.simulator_port}/client/api"
        return next(iter(session.get(url, params=query, timeout=30).json().values()))

    return ask


def insert_whole(stack: Stack, token: str, name: str) -> None:
    """A machine with a boot disk, a data disk and an address, as a client makes it and waits for it."""
    zone = "/zones/ch-zh-1"
    body = {
        "name": name,
        "machineType": f"{zone[1:]}/machineTypes/micro",
        "disks": [
            {
                "boot": True,
                "autoDelete": True,
                "initializeParams": {"sourceImage": "global/images/linux-debian-12-64-bit"},
            },
            {"autoDelete": True, "initializeParams": {"diskSizeGb": "10", "diskType": f"{zone[1:]}/diskTypes/pd-ssd"}},
        ],
        "networkInterfaces": [{"network": "global/networks/net-a", "accessConfigs": [{}]}],
    }
    operation = stack.call("POST", f"{zone}/instances", body, token=token).json()
    while operation["status"] != "DONE":
        operation = stack.call("POST", f"{zone}/operations/{operation['name']}/wait", token=token).json()
    assert "error" not in operation, operation


def insert_direct(stack: Stack, name: str) -> None:
    """The same by CloudStack's own commands, each as soon as it can be and its end known at once."""
    ask = asking(stack)
    zone = ask("listZones", name="CH-ZH-1")["zone"][0]["id"]
    template = ask("listTemplates", templatefilter="executable", name="Linux Debian 12 64-bit")["template"][0]["id"]
    offering = ask("listServiceOfferings", name="Micro")["serviceoffering"][0]["id"]
    disk_offering = ask("listDiskOfferings", name="SSD")["diskoffering"][0]["id"]
    network = ask("listNetworks", keyword="net-a")["network"][0]["id"]

    def job(command: str, **parameters: str) -> str:
        ask = asking(stack)
        begun = ask(command, **parameters)
        while not (state := ask("queryAsyncJobResult", jobid=begun["jobid"]))["jobstatus"]:
            time.sleep(0.01)
        assert state["jobstatus"] == 1, state
        return str(begun.get("id", ""))

    of_machine = {"templateid": template, "serviceofferingid": offering, "networkids": network, "startvm": "false"}
    with ThreadPoolExecutor(3) as pool:
        machine = pool.submit(job, "deployVirtualMachine", name=name, zoneid=zone, **of_machine)
        disk = pool.submit(job, "createVolume", name=name, zoneid=zone, diskofferingid=disk_offering, size="10")
        address = pool.submit(job, "associateIpAddress", networkid=network)
    job("attachVolume", id=disk.result(), virtualmachineid=machine.result())
    job("startVirtualMachine", id=machine.result())
    ask("enableStaticNat", ipaddressid=address.result(), virtualmachineid=machine.result(), networkid=network)


def timed(work: Callable[[str], None], prefix: str) -> load.Result:
    result = load.Result()
    for number in range(_INSERTS):
        started = time.monotonic()
        work(f"{prefix}-{number}")
        result.seconds.append(time.monotonic() - started)
    result.elapsed = sum(result.seconds)
    return result


def deploy_direct(stack: Stack, count: int) -> None:
    """Many machines, made in the simulated cloud itself: the list is what is measured, not the making."""
    ask = asking(stack)
    zone = zone_id("CH-GV2", stack)
    template = ask("listTemplates", templatefilter="executable", name="Linux Debian 12 64-bit")["template"][0]["id"]
    offering = ask("listServiceOfferings", name="Micro")["serviceoffering"][0]["id"]
    for number in range(count):
        ask(
            "deployVirtualMachine",
            name=f"many-{number:04}",
            zoneid=zone,
            templateid=template,
            serviceofferingid=offering,
        )
    time.sleep(1)


def measure(stack: Stack) -> list[dict[str, Any]]:
    token = stack.token()
    zone = zone_id("CH-GV2", stack)
    add_instances(stack, token, ["bench-1", "bench-2", "bench-3"])
    details = "nics,tmpl,servoff,secgrp"
    rows = []

    def row(name: str, target: str, ours: load.Result, beside: load.Result, met: bool) -> None:
        rows.append(
            {
                "what": name,
                "target": target,
                "per_second": round(ours.per_second, 1),
                "median_ms": round(ours.median_ms, 2),
                "p99_ms": round(ours.p99_ms, 2),
                "failures": ours.failures,
                "direct_per_second": round(beside.per_second, 1),
                "direct_median_ms": round(beside.median_ms, 2),
                "met": met and not ours.failures,
            }
        )

    get_direct = direct(stack, "listVirtualMachines", name="bench-1", zoneid=zone, details=details)
    get_ours = through(stack, token, f"/zones/{_ZONE}/instances/bench-1")
    list_direct = direct(stack, "listVirtualMachines", zoneid=zone, details=details)
    list_ours = through(stack, token, f"/zones/{_ZONE}/instances")
    for target in (get_ours, list_ours):  # warm up
        load.run(*target, clients=4, seconds=1)

    beside = load.run(*get_direct, clients=1, seconds=SECONDS)
    ours = load.run(*get_ours, clients=1, seconds=SECONDS)
    row("get an instance, 1 client", "median <= direct + 3 ms", ours, beside, ours.median_ms <= beside.median_ms + 3)

    beside = load.run(*list_direct, clients=8, seconds=SECONDS)
    ours = load.run(*list_ours, clients=8, seconds=SECONDS)
    row("list 3 instances, 8 clients", ">= 400/s", ours, beside, ours.per_second >= 400)

    stack.simulate("PATCH", "settings", {"delays": {"": 0.1}})
    beside = load.run(*list_direct, clients=64, seconds=SECONDS)
    ours = load.run(*list_ours, clients=64, seconds=SECONDS)
    row("list 3 instances, 64 clients, CloudStack answers in 100 ms", ">= 300/s", ours, beside, ours.per_second >= 300)
    stack.simulate("PATCH", "settings", {"delays": {}})

    insert_whole(stack, token, "warm-up")  # the network runs from now on
    stack.simulate("PATCH", "settings", {"job_seconds": _WORK})
    beside = timed(partial(insert_direct, stack), "direct")
    ours = timed(partial(insert_whole, stack, token), "whole")
    name = "insert with a data disk and an address (direct: its steps, side by side where they can be)"
    row(name, "median <= direct + 500 ms", ours, beside, ours.median_ms <= beside.median_ms + 500)
    stack.simulate("PATCH", "settings", {"job_seconds": {"": 0.1}})

    deploy_direct(stack, 997)
    load.run(*through(stack, token, f"/zones/{_ZONE}/instances?maxResults=500"), clients=1, seconds=2)
    page = direct(stack, "listVirtualMachines", zoneid=zone, details=details, page="1", pagesize="500")
    beside = load.run(*page, clients=2, seconds=SECONDS)
    ours = load.run(*list_ours, clients=2, seconds=SECONDS)
    row("list of 1000 instances, 2 clients (direct: a page of 500)", ">= 10/s", ours, beside, ours.per_second >= 10)

    keys = {"grant_type": "client_credentials", "client_id": API_KEY, "client_secret": SECRET_KEY}
    request = load.post_form("127.0.0.1", stack.port, "/oauth2/token", keys)
    ours = load.run("127.0.0.1", stack.port, request, clients=4, seconds=SECONDS)
    row("token by client_credentials, 4 clients", "", ours, load.Result(), True)

    ours = load.run("127.0.0.1", stack.port, iter(assertions(stack, token)), clients=4, seconds=SECONDS)
    row("token by JWT bearer, 4 clients", ">= 200/s", ours, load.Result(), ours.per_second >= 200)

    ours = introspections(stack)
    row("introspection of a token that no cache knows", "median <= 5 ms", ours, load.Result(), ours.median_ms <= 5)
    return rows


def assertions(stack: Stack, token: str) -> list[bytes]:
    """Token requests of a service account, each with an assertion of its own."""
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {token}"
    accounts = f"{stack.url}/v1/projects/demo/serviceAccounts"
    made = session.post(accounts, json={"accountId": "benchmark"}, timeout=30).json()
    file = session.post(f"{accounts}/{made['email']}/keys", json={}, timeout=30).json()["privateKeyData"]
    content = json.loads(base64.b64decode(file))
    private = load_pem_private_key(content["private_key"].encode(), None)
    now = int(time.time())
    claims = {
        "iss": content["client_email"],
        "aud": content["token_uri"],
        "scope": "https://www.googleapis.com/auth/compute",
        "iat": now,
        "exp": now + 3600,
    }
    header = {"kid": content["private_key_id"]}
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer"}
    return [
        load.post_form(
            "127.0.0.1",
            stack.port,
            "/oauth2/token",
            {**form, "assertion": jwt.encode({**claims, "jti": str(number)}, private, "RS256", headers=header)},
        )
        for number in range(int(1000 * SECONDS))
    ]


def introspections(stack: Stack) -> load.Result:
    """What the gateway waits for when it sees a token for the first time."""
    result = load.Result()
    tokens = [stack.token() for _ in range(300)]
    with rpc.channel(
        stack.environment["GSTACK_AUTH_TARGET"], "auth", trust.Secret(stack.folder / "services.key")
    ) as channel:
        auth = auth_pb2_grpc.AuthStub(channel)
        auth.Authenticate(auth_pb2.AuthenticateRequest(token="unknown"), timeout=10)
        begun = time.monotonic()
        for token in tokens:
            started = time.monotonic()
            found = auth.Authenticate(auth_pb2.AuthenticateRequest(token=token, base=stack.url), timeout=10)
            result.seconds.append(time.monotonic() - started)
            result.failures += not found.active
        result.elapsed = time.monotonic() - begun
    return result


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        stacks = run_stack(Path(folder))
        stack = next(stacks)
        try:
            rows = measure(stack)
        finally:
            stacks.close()
    columns = (
        "what",
        "target",
        "per_second",
        "median_ms",
        "p99_ms",
        "direct_per_second",
        "direct_median_ms",
        "failures",
        "met",
    )
    table = [list(columns), *([str(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in table) for index in range(len(columns))]
    for line in table:
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n")
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    about = {"python": platform.python_version(), "cores": os.cpu_count(), "seconds": SECONDS, "rows": rows}
    (results / "latest.json").write_text(json.dumps(about, indent=2) + "\n")
    return 0 if all(row["met"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
