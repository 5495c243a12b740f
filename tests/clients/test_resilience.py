"""Services that are killed and come back, clients that repeat themselves, and a cloud that fails halfway.

Nothing is lost, nothing is done twice, nothing is left behind: what stands behind is asked directly.
"""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.clients.conftest import API_KEY, SECRET_KEY, Stack, free_ports, make_stack
from tests.clients.sequences import ISOLATED, KINDS_OF_ZONE, Session, check_schema, cloud, machine, refused, until

SLOW = {"job_seconds": {"": 0.1, "deployVirtualMachine": 3.0}}
INSTANCES = "/zones/ch-gv2/instances"


def in_the_cloud(stack: Stack) -> dict[str, list[str]]:
    """Machines, disks, public addresses of instances and groups of rules, as the cloud itself lists them."""
    addresses = cloud(stack, "listPublicIpAddresses").get("publicipaddress", [])
    return {
        "machines": sorted(row["name"] for row in cloud(stack, "listVirtualMachines").get("virtualmachine", [])),
        "disks": sorted(str(row.get("vmname")) for row in cloud(stack, "listVolumes").get("volume", [])),
        "addresses": [row["ipaddress"] for row in addresses if not row["issourcenat"]],
    }


def calls(stack: Stack) -> dict[str, int]:
    return dict(stack.simulate("GET", "calls"))


def deploying(stack: Stack, count: int) -> None:
    until(lambda: calls(stack).get("deployVirtualMachine", 0) >= count)


# Killed, and started again


def test_translator_killed_in_the_middle_of_inserts(own_stack: Stack) -> None:
    """One in each kind of zone, one of them with an address to get, after the machine is there."""
    stack = own_stack
    client = Session(stack, "tests")
    stack.simulate("PATCH", "settings", SLOW)
    operations = [
        client.ask("POST", f"/zones/{zone}/instances", machine(f"survivor-{zone}", zone, network))
        for zone, network in KINDS_OF_ZONE
    ]
    deploying(stack, 2)
    stack.kill("translator")
    gone = client.send("GET", "/zones")
    refused(gone, 503)
    assert gone.headers["Retry-After"]
    stack.start("translator")
    stack.wait_ready()
    for operation, (zone, _) in zip(operations, KINDS_OF_ZONE, strict=True):
        done = stack.finish(operation)
        assert "error" not in done, done
        check_schema(done, "Operation")
        found = client.ask("GET", f"/zones/{zone}/instances/survivor-{zone}")
        assert (found["status"], found["id"]) == ("RUNNING", done["targetId"])
        assert found["networkInterfaces"][0]["accessConfigs"][0]["natIP"]
    assert calls(stack)["deployVirtualMachine"] == 2
    assert calls(stack)["associateIpAddress"] == 1
    names = sorted(f"survivor-{zone}" for zone, _ in KINDS_OF_ZONE)
    standing = in_the_cloud(stack)
    assert (standing["machines"], standing["disks"], len(standing["addresses"])) == (names, names, 1)
    # Killed again in the middle of the deletions: they end as well.
    stack.simulate("PATCH", "settings", {"job_seconds": {"": 0.1, "destroyVirtualMachine": 3.0}})
    operations = [client.ask("DELETE", f"/zones/{zone}/instances/survivor-{zone}") for zone, _ in KINDS_OF_ZONE]
    until(lambda: calls(stack).get("destroyVirtualMachine", 0) >= 1)
    stack.kill("translator")
    stack.start("translator")
    stack.wait_ready()
    for operation in operations:
        assert "error" not in stack.finish(operation)
    for zone, _ in KINDS_OF_ZONE:
        assert "items" not in client.ask("GET", f"/zones/{zone}/instances")
        assert "items" not in client.ask("GET", f"/zones/{zone}/disks")
    assert in_the_cloud(stack)["addresses"] == []


@pytest.fixture
def two_translators(tmp_path: Path) -> Iterator[Stack]:
    """Two translators on one database, and a gateway that knows both."""
    stack = make_stack(tmp_path)
    second = f"127.0.0.1:{free_ports(1)[0]}"
    both = f"ipv4:{stack.environment['GSTACK_TRANSLATOR_LISTEN']},{second}"
    for name in ("simulator", "auth", "translator"):
        stack.start(name)
    stack.start("translator-2", GSTACK_EXECUTOR_ID="tests-2", GSTACK_TRANSLATOR_LISTEN=second)
    stack.start("gateway", GSTACK_TRANSLATOR_TARGET=both)
    try:
        stack.wait_ready()
        stack.wait_for_replicas(stack.environment["GSTACK_TRANSLATOR_LISTEN"], second)
        stack.simulate("PATCH", "settings", SLOW)
        yield stack
    finally:
        for process in stack.processes.values():
            process.kill()
            process.wait()


def test_the_second_translator_takes_over(two_translators: Stack) -> None:
    """Whichever is killed: what it had begun is finished by the other, and readers notice nothing."""
    stack = two_translators
    client = Session(stack, "tests")
    client.ask("GET", "/zones")
    wanted = [(f"taken-{number}", *KINDS_OF_ZONE[number % 2]) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda one: stack.call("POST", f"/zones/{one[1]}/instances", machine(*one)), wanted))
    deploying(stack, 4)
    stack.kill("translator")
    statuses = [client.send("GET", "/zones").status_code for _ in range(40)]
    assert statuses == [200] * 40
    for reply in replies:
        done = stack.finish(reply.json())
        assert "error" not in done, done
    assert calls(stack)["deployVirtualMachine"] == 4
    standing = in_the_cloud(stack)
    assert standing["machines"] == standing["disks"] == sorted(name for name, _, _ in wanted)
    assert len(standing["addresses"]) == 2
    for name, zone, _ in wanted:
        assert client.ask("GET", f"/zones/{zone}/instances/{name}")["status"] == "RUNNING"
    # The first comes back, and the second goes: everything is still known.
    stack.start("translator")
    stack.wait_for_replicas(stack.environment["GSTACK_TRANSLATOR_LISTEN"])
    stack.kill("translator-2")
    until(lambda: client.send("GET", INSTANCES).status_code == 200)
    assert client.ask("GET", f"/zones/ch-gv2/operations/{replies[0].json()['name']}")["status"] == "DONE"


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[tuple[Stack, dict[str, dict[str, str]]]]:
    """Two translators and two auth services behind one gateway, and the settings of each of the four."""
    stack = make_stack(tmp_path)
    settings: dict[str, dict[str, str]] = {}
    for service, port in zip(("translator", "auth"), free_ports(2), strict=True):
        listen = f"GSTACK_{service.upper()}_LISTEN"
        first, second = stack.environment[listen], f"127.0.0.1:{port}"
        stack.environment[f"GSTACK_{service.upper()}_TARGET"] = f"ipv4:{first},{second}"
        settings |= {service: {listen: first}, f"{service}-2": {listen: second, "GSTACK_EXECUTOR_ID": "tests-2"}}
    for name in ("simulator", *settings, "gateway"):
        stack.start(name, **settings.get(name, {}))
    try:
        stack.wait_ready()
        stack.wait_for_replicas(*(next(iter(one.values())) for one in settings.values()))
        yield stack, settings
    finally:
        for process in stack.processes.values():
            process.kill()
            process.wait()


def test_c5_a_rolling_restart_fails_no_request(replicas: tuple[Stack, dict[str, dict[str, str]]]) -> None:
    """Each is told to stop (SIGTERM) while clients list machines and get tokens without a pause."""
    stack, settings = replicas
    client = Session(stack, "tests")
    stop, answers = threading.Event(), [[], []]

    def list_machines() -> None:
        while not stop.is_set():
            answers[0].append(client.send("GET", INSTANCES).status_code)

    def get_tokens() -> None:
        form = {"grant_type": "client_credentials", "client_id": API_KEY, "client_secret": SECRET_KEY}
        while not stop.is_set():
            answers[1].append(requests.post(f"{stack.url}/oauth2/token", form, timeout=60).status_code)

    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(work) for work in (list_machines, list_machines, get_tokens)]
        for name, own in settings.items():
            stack.stop(name)
            stack.start(name, **own)
            stack.wait_for_replicas(next(iter(own.values())))
        stop.set()
        for one in running:
            one.result(60)
    for seen in answers:
        assert len(seen) > 50 and set(seen) == {200}


def test_everything_survives_a_kill_of_each_service(own_stack: Stack) -> None:
    stack = own_stack
    token, other = stack.token(), stack.token()
    rule = {"name": "web", "allowed": [{"IPProtocol": "tcp", "ports": ["80"]}], "targetTags": ["web"]}
    operation = stack.finish(stack.call("POST", "/global/firewalls", rule, token=token).json())
    metadata = {"items": [{"key": "k", "value": "v"}]}
    stack.finish(stack.call("POST", "/setCommonInstanceMetadata", metadata, token=token).json())
    firewall = stack.call("GET", "/global/firewalls/web", token=token).json()
    page = stack.call("GET", "/global/images?maxResults=3", token=token).json()["nextPageToken"]
    following = stack.call("GET", f"/global/images?maxResults=3&pageToken={page}", token=token).json()
    for service in ("auth", "translator", "gateway"):
        stack.kill(service)
        if service == "gateway":
            # Its workers see that their parent is gone, and end.
            until(lambda: not listening(stack.port))
        stack.start(service)
        stack.wait_ready()
        assert stack.call("GET", "/global/firewalls/web", token=token).json() == firewall, service
        assert stack.call("GET", f"/global/operations/{operation['name']}", token=token).json() == operation, service
        assert stack.call("GET", "", token=token).json()["commonInstanceMetadata"]["items"] == metadata["items"]
        assert stack.call("GET", f"/global/images?maxResults=3&pageToken={page}", token=token).json() == following
    # One that the gateway had never seen before auth was killed.
    assert stack.call("GET", "/zones", token=other).status_code == 200


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_what_is_away_is_told(own_stack: Stack) -> None:
    stack = own_stack
    token, fresh = stack.token(), stack.token()
    assert stack.call("GET", "/zones", token=token).status_code == 200
    stack.kill("auth")
    del stack.processes["auth"]
    # Trusted for a while without asking; a token that would have to be asked for is no wrong one, either.
    assert stack.call("GET", "/zones", token=token).status_code == 200
    for unknown in (fresh, "unknown"):
        reply = stack.call("GET", "/zones", token=unknown)
        refused(reply, 503)
        assert reply.headers["Retry-After"]
    form = {"grant_type": "client_credentials", "client_id": "demo-api-key", "client_secret": "demo-secret-key"}
    answer = requests.post(f"{stack.url}/oauth2/token", form, timeout=30)
    assert answer.status_code == 503
    assert answer.json()["error"]
    assert ready(stack) == (503, {"gateway": True, "translator": True, "auth": False})
    stack.kill("translator")
    del stack.processes["translator"]
    assert ready(stack) == (503, {"gateway": True, "translator": False, "auth": False})
    # Alive is not ready: nobody restarts a gateway for what stands behind it.
    assert requests.get(f"{stack.url}/healthz", timeout=10).status_code == 200
    for name in ("auth", "translator"):
        stack.start(name)
    stack.wait_ready()
    assert stack.call("GET", "/zones", token=fresh).status_code == 200


def ready(stack: Stack) -> tuple[int, dict[str, bool]]:
    reply = requests.get(f"{stack.url}/readyz", timeout=30)
    return reply.status_code, reply.json()["services"]


# Repeated, and at once


def test_a_repeated_request_is_one_operation(stack: Stack) -> None:
    request_id = str(uuid.uuid4())
    path = f"{INSTANCES}?requestId={request_id}"
    before = calls(stack).get("deployVirtualMachine", 0)
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: stack.call("POST", path, machine("repeated")), range(4)))
    assert [reply.status_code for reply in replies] == [200] * 4, [reply.text for reply in replies]
    (name,) = {reply.json()["name"] for reply in replies}
    assert replies[0].json()["clientOperationId"] == request_id
    # As with Google the id stands for the request, whatever the body says, but not for one to another place.
    for other in (machine("another"), machine("repeated", description="x")):
        assert stack.call("POST", path, other).json()["name"] == name
    elsewhere = f"/zones/ch-zh-1/instances?requestId={request_id}"
    refused(stack.call("POST", elsewhere, machine("another", *ISOLATED)), 400, "requestId")
    done = stack.finish(replies[0].json())
    assert "error" not in done
    # Also when it is done, for a client that missed the answer.
    again = stack.call("POST", path, machine("repeated")).json()
    assert (again["name"], again["status"]) == (name, "DONE")
    assert calls(stack)["deployVirtualMachine"] == before + 1
    assert in_the_cloud(stack)["machines"].count("repeated") == 1

    request_id = str(uuid.uuid4())
    delete = f"{INSTANCES}/repeated?requestId={request_id}"
    first, second = (stack.call("DELETE", delete).json()["name"] for _ in range(2))
    assert first == second
    stack.finish(stack.call("GET", f"/zones/ch-gv2/operations/{first}").json())


def test_b3_a_wait_in_a_batch_is_answered_at_once(own_stack: Stack) -> None:
    """With the operation as it is: what waits would hold up the others of the batch, and other users' batches."""
    client = Session(own_stack, "tests")
    own_stack.simulate("PATCH", "settings", {"job_seconds": {"": 0.1, "deployVirtualMachine": 10_000}})
    operation = client.ask("POST", INSTANCES, machine("pending"))
    wait = f"/compute/v1/projects/demo/zones/ch-gv2/operations/{operation['name']}/wait"
    answers = client.batch([("POST", wait, None)] * 100 + [("GET", "/compute/v1/projects/demo/zones", None)])
    assert [status for status, _ in answers] == [200] * 101
    assert {body["status"] for _, body in answers[:100]} <= {"PENDING", "RUNNING"}


def test_operations_on_one_instance_take_turns(stack: Stack) -> None:
    stack.finish(stack.call("POST", INSTANCES, machine("turns")).json())
    path = f"{INSTANCES}/turns"
    stack.simulate("PATCH", "settings", {"job_seconds": {"": 0.1, "stopVirtualMachine": 0.5}})
    token = stack.token()
    pending = [stack.call("POST", f"{path}/{verb}", token=token).json() for verb in ("stop", "stop", "start")]
    finished = [stack.finish(operation) for operation in pending]
    stack.simulate("PATCH", "settings", {"job_seconds": {"": 0.1}})
    for before, after in pairwise(finished):
        assert "error" not in after, after
        assert before["endTime"] <= after["endTime"]
    assert stack.call("GET", path).json()["status"] == "RUNNING"
    stack.finish(stack.call("DELETE", path).json())


# A cloud that fails halfway


@pytest.mark.parametrize("command", ["enableStaticNat", "associateIpAddress", "deployVirtualMachine"])
def test_a_failing_step_leaves_nothing_behind(stack: Stack, command: str) -> None:
    before = in_the_cloud(stack)
    fault = {"kind": "status", "command": command, "status": 530, "text": "CloudStack {secret}"}
    stack.simulate("POST", "faults", fault)
    done = stack.finish(stack.call("POST", "/zones/ch-zh-1/instances", machine("halfway", *ISOLATED)).json())
    stack.simulate("DELETE", "faults")
    check_schema(done, "Operation")
    assert done["error"]["errors"][0]["code"] == "INTERNAL_ERROR"
    assert done["error"]["errors"][0]["message"]
    assert (done["httpErrorStatusCode"], "warnings" in done) == (500, False)
    assert in_the_cloud(stack) == before
    # The name is free, and so is everything else.
    again = stack.finish(stack.call("POST", "/zones/ch-zh-1/instances", machine("halfway", *ISOLATED)).json())
    assert "error" not in again
    stack.finish(stack.call("DELETE", "/zones/ch-zh-1/instances/halfway").json())
    assert in_the_cloud(stack)["addresses"] == before["addresses"]


@pytest.mark.parametrize("command", ["deployVirtualMachine", "enableStaticNat", "associateIpAddress"])
@pytest.mark.parametrize("kind", ["drop", "truncated"])
def test_a_lost_answer_does_not_do_the_work_twice(stack: Stack, kind: str, command: str) -> None:
    before = in_the_cloud(stack)
    stack.simulate("DELETE", "calls")
    stack.simulate("POST", "faults", {"kind": kind, "command": command})
    done = stack.finish(stack.call("POST", "/zones/ch-zh-1/instances", machine("lost", *ISOLATED)).json())
    stack.simulate("DELETE", "faults")
    assert "error" not in done, done
    after = in_the_cloud(stack)
    assert after["machines"] == sorted([*before["machines"], "lost"])
    assert len(after["addresses"]) == len(before["addresses"]) + 1
    assert calls(stack)["deployVirtualMachine"] == 1
    stack.finish(stack.call("DELETE", "/zones/ch-zh-1/instances/lost").json())
    assert in_the_cloud(stack)["addresses"] == before["addresses"]


# How much is asked


def test_questions_are_few(stack: Stack) -> None:
    stack.finish(stack.call("POST", INSTANCES, machine("few")).json())
    token = stack.token()
    for path, expected in (
        (f"{INSTANCES}/few", {"listVirtualMachines": 1}),
        (INSTANCES, {"listVirtualMachines": 1, "listVolumes": 1}),
        ("/aggregated/instances", {"listVirtualMachines": 1, "listVolumes": 1}),
        ("/zones/ch-gv2/disks", {"listVolumes": 1}),
        ("/zones", {}),
        ("/zones/ch-gv2/machineTypes", {}),
        ("/global/images", {}),
    ):
        counted = []
        # What is kept for a while may end its time between two of them.
        for _ in range(3):
            stack.simulate("DELETE", "calls")
            assert stack.call("GET", path, token=token).status_code == 200
            counted.append(calls(stack))
        assert expected in counted[1:], (path, counted)
    stack.finish(stack.call("DELETE", f"{INSTANCES}/few").json())


def test_a_large_zone(own_stack: Stack) -> None:
    """1,200 machines that somebody made behind gstack: pages of 500, at most two calls for each 500 of them."""
    stack = own_stack
    stack.simulate("PATCH", "settings", {"job_seconds": {"": 0.0}})
    client = Session(stack, "tests")
    zone = cloud(stack, "listZones", name="CH-GV2")["zone"][0]["id"]
    offering = cloud(stack, "listServiceOfferings", name="Micro")["serviceoffering"][0]["id"]
    images = cloud(stack, "listTemplates", templatefilter="executable", zoneid=zone)["template"]
    template = next(row["id"] for row in images if row["name"] == "Linux Debian 12 64-bit")
    local = threading.local()

    def deploy(number: int) -> None:
        if not hasattr(local, "http"):
            local.http = requests.Session()
        cloud(
            stack, "deployVirtualMachine", local.http, zoneid=zone, serviceofferingid=offering, templateid=template,
            name=f"many-{number:04}",
        )  # fmt: skip

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(deploy, range(1200)))
    client.ask("GET", f"{INSTANCES}?maxResults=1")  # zones, offerings and the like, which are kept
    names: list[str] = []
    query: dict[str, Any] = {"maxResults": 500, "filter": "name eq many-.*"}
    while True:
        stack.simulate("DELETE", "calls")
        page = client.ask("GET", INSTANCES, params=query)
        asked = calls(stack)
        # Lists that are kept for a while may be due in between; machines and disks are asked for anew each time.
        assert (asked["listVirtualMachines"], asked["listVolumes"]) == (3, 3)
        assert all(count <= 3 for count in asked.values()), asked
        names += [item["name"] for item in page["items"]]
        assert len(page["items"]) == min(500, 1200 - len(names) + len(page["items"]))
        if "nextPageToken" not in page:
            break
        query["pageToken"] = page["nextPageToken"]
    assert names == [f"many-{number:04}" for number in range(1200)]
    stack.simulate("DELETE", "calls")
    assert client.ask("GET", f"{INSTANCES}/many-0777")["status"] == "RUNNING"
    # Its disk is in no note of ours, since it was made elsewhere, and its name depends on others.
    assert calls(stack) == {"listVirtualMachines": 1, "listVolumes": 3}
