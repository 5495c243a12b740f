"""What clients get wrong and what goes wrong behind: refused at once, in Google's envelope, and nothing is let out."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from gateway.others import absent_collections
from gstack.kernel.contract import method_id, services
from tests.clients.conftest import Stack
from tests.clients.sequences import DEBIAN, Session, check_schema, cloud, differences, google_methods, machine, refused
from tests.waits import LONG

IAN = ("ian-api-key", "ian-secret-key")
INSTANCES = "/zones/ch-gv2/instances"
PATTERN = "(?:[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?)"


@pytest.fixture(scope="module")
def client(stack: Stack) -> Session:
    return Session(stack, "tests")


def boot(**parameters: Any) -> dict[str, Any]:
    return {"disks": [{"boot": True, "initializeParams": {"sourceImage": DEBIAN} | parameters}]}


# Instances and firewalls that cannot be


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"name": "Bad_Name"}, 400, ["resource.name", "Bad_Name", PATTERN]),
        ({"name": "-x"}, 400, ["resource.name", PATTERN]),
        ({"name": "x" * 64}, 400, ["resource.name", PATTERN]),
        ({"name": "x" * 100_000}, 400, ["resource.name"]),
        ({"name": "😀" * 100_000}, 400, ["resource.name"]),
        ({"name": "x\0"}, 400, ["resource.name"]),
        ({"description": "x\0"}, 400, ["resource.description"]),
        ({"name": "1x"}, 400, ["resource.name"]),
        ({"name": None}, 400, ["resource.name"]),
        ({"name": "a\nb"}, 400, ["resource.name"]),
        ({"name": 12}, 400, ["resource.name"]),
        ({"machineType": "zones/ch-gv2/machineTypes/nope"}, 404, ["projects/demo/zones/ch-gv2/machineTypes/nope"]),
        ({"machineType": "zones/ch-zh-1/machineTypes/micro"}, 400, ["machineType"]),
        ({"machineType": "projects/demo/zones/ch-gv2/disks/micro"}, 400, ["machineType"]),
        ({"machineType": None}, 400, ["resource.machineType"]),
        ({"machineType": "custom-3"}, 404, ["custom-3"]),
        ({"machineType": "custom-9999-1024"}, 400, ["machineType"]),
        (boot(sourceImage="global/images/nope"), 404, ["global/images/nope"]),
        (boot(sourceImage="projects/debian-cloud/global/images/nope"), 404, ["debian-cloud/global/images/nope"]),
        (boot(sourceImage="projects/debian-cloud/global/images/family/nope"), 404, ["family/nope"]),
        (boot(sourceImage="projects/nope/global/images/x"), 404, ["projects/nope"]),
        (boot(sourceImage=""), 400, ["initializeParams.sourceImage"]),
        (boot(diskSizeGb="1"), 400, ["diskSizeGb"]),
        (boot(diskSizeGb="many"), 400, ["diskSizeGb"]),
        (boot(diskSizeGb=-1), 400, ["diskSizeGb"]),
        (boot(diskSizeGb=1.5), 400, ["diskSizeGb"]),
        (boot(diskType="zones/ch-gv2/diskTypes/nope"), 404, ["diskTypes/nope"]),
        ({"disks": 2 * boot()["disks"]}, 400, ["resource.disks"]),
        ({"disks": []}, 400, ["resource.disks"]),
        ({"networkInterfaces": [{"network": "global/networks/nope"}]}, 404, ["global/networks/nope"]),
        ({"networkInterfaces": [{"network": "global/networks/net-a"}]}, 400, ["networkInterfaces[0].network"]),
        ({"networkInterfaces": [{"subnetwork": "regions/ch/subnetworks/nope"}]}, 404, ["subnetworks/nope"]),
        ({"networkInterfaces": [{"networkIP": "not an address"}]}, 400, ["networkInterfaces[0].networkIP"]),
        ({"networkInterfaces": [{"accessConfigs": [{"natIP": "192.0.2.250"}]}]}, 400, ["natIP"]),
        ({"labels": {"Upper": "x"}}, 400, ["resource.labels"]),
        ({"labels": {"a": "x" * 64}}, 400, ["resource.labels"]),
        ({"labels": ["a"]}, 400, ["resource.labels"]),
        ({"labels": {"a": {"b": 1}}}, 400, ["resource.labels"]),
        ({"tags": {"items": ["Bad Tag"]}}, 400, ["resource.tags.items[0]"]),
        ({"tags": {"items": "web"}}, 400, ["resource.tags.items"]),
        ({"metadata": {"items": [{"key": "bad key", "value": "x"}]}}, 400, ["metadata.items[0].key"]),
        ({"metadata": {"items": [{"key": "k", "value": "x" * 300_000}]}}, 400, ["metadata"]),
        ({"canIpForward": "perhaps"}, 400, ["resource.canIpForward"]),
        ({"scheduling": {"onHostMaintenance": "EXPLODE"}}, 400, ["scheduling.onHostMaintenance", "EXPLODE"]),
        ({"disks": {"boot": True}}, 400, ["resource.disks"]),
        ({"unheardOf": 1}, 400, ["unheardOf"]),
        ({"guestAccelerators": [{"acceleratorCount": 1}]}, 400, ["guestAccelerators"]),
        ({"confidentialInstanceConfig": {"enableConfidentialCompute": True}}, 400, ["confidentialInstanceConfig"]),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)
def test_instances_that_cannot_be(client: Session, change: dict[str, Any], status: int, words: list[str]) -> None:
    refused(client.send("POST", INSTANCES, machine("refused") | change), status, *words)
    assert client.send("GET", f"{INSTANCES}/refused").status_code == 404


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"name": "Bad_Name"}, 400, ["resource.name", PATTERN]),
        ({"network": "global/networks/nope"}, 404, ["global/networks/nope"]),
        ({"allowed": []}, 400, ["allowed"]),
        ({"allowed": [{"IPProtocol": "nope"}]}, 400, ["allowed[0].IPProtocol"]),
        ({"allowed": [{"IPProtocol": "tcp", "ports": ["99999"]}]}, 400, ["allowed[0].ports[0]"]),
        ({"allowed": [{"IPProtocol": "tcp", "ports": ["90-80"]}]}, 400, ["allowed[0].ports[0]"]),
        ({"allowed": [{"IPProtocol": "icmp", "ports": ["1"]}]}, 400, ["allowed[0].ports"]),
        ({"sourceRanges": ["300.0.0.0/8"]}, 400, ["sourceRanges[0]"]),
        ({"sourceTags": ["Bad Tag"]}, 400, ["sourceTags[0]"]),
        ({"allowed": None, "denied": [{"IPProtocol": "tcp"}]}, 400, ["denied"]),
        ({"denied": [{"IPProtocol": "tcp"}]}, 400, []),
        ({"direction": "SIDEWAYS"}, 400, ["direction"]),
        ({"priority": "high"}, 400, ["priority"]),
        ({"priority": 70000}, 400, ["priority"]),
        ({"targetServiceAccounts": ["x@example.org"]}, 400, ["targetServiceAccounts"]),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)
def test_firewalls_that_cannot_be(client: Session, change: dict[str, Any], status: int, words: list[str]) -> None:
    rule = {"name": "refused", "allowed": [{"IPProtocol": "tcp", "ports": ["22"]}], "sourceRanges": ["0.0.0.0/0"]}
    refused(client.send("POST", "/global/firewalls", rule | change), status, *words)
    assert client.send("GET", "/global/firewalls/refused").status_code == 404


def test_what_is_there_already(stack: Stack, client: Session) -> None:
    stack.finish(client.ask("POST", INSTANCES, machine("twice")))
    error = refused(client.send("POST", INSTANCES, machine("twice")), 409, f"projects/demo{INSTANCES}/twice")
    assert error["errors"][0]["reason"] == "alreadyExists"
    # Two that come together: one of them is told, and there is one machine.
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: stack.call("POST", INSTANCES, machine("race")), range(4)))
    made = [stack.finish(reply.json()) for reply in replies if reply.status_code == 200]
    for reply in replies:
        assert reply.status_code in (200, 409)
    assert len([one for one in made if "error" not in one]) == 1, made
    for one in made:
        if "error" in one:
            assert one["httpErrorStatusCode"] == 409
            assert one["error"]["errors"][0]["code"] == "RESOURCE_ALREADY_EXISTS"
    found = cloud(stack, "listVirtualMachines", name="race").get("virtualmachine", [])
    assert len(found) == 1
    rule = {"name": "twice", "allowed": [{"IPProtocol": "tcp"}]}
    stack.finish(client.ask("POST", "/global/firewalls", rule))
    refused(client.send("POST", "/global/firewalls", rule), 409, "global/firewalls/twice")
    stack.finish(client.ask("DELETE", "/global/firewalls/twice"))
    for name in ("twice", "race"):
        stack.finish(client.ask("DELETE", f"{INSTANCES}/{name}"))


# Bodies


@pytest.mark.parametrize(
    "payload",
    [
        b"{",
        b"",
        b"null",
        b"[1]",
        b'"text"',
        b"12",
        b'{"name": NaN}',
        b'{"name": Infinity}',
        b'{"name": "\xff"}',
        b'{"name": "\\ud800"}',
        b'{"name": "a\\u0000b"}',
        b"\xef\xbb\xbf{}",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"[" * 100_000,
        b'{"name": "x"} trailing',
        b'{"name": 1e400}',
        b'{"disks": [{"diskSizeGb": 99999999999999999999}]}',
        b'{"disks": [{"diskSizeGb": 1e3000}]}',
        b'{"scheduling": []}',
        b'{"disks": [[]]}',
        b'{"disks": [null]}',
        b'{"name": "x", "name": "Y_"}',
        b'{"nonsense": {"a": 1}}',
        "{}".encode("utf-16"),
        b"name=x",
    ],
    ids=lambda value: repr(value)[:30],
)
def test_bodies(client: Session, payload: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    for path in (INSTANCES, "/global/firewalls"):
        reply = client.http.post(client.project + path, payload, headers=headers, timeout=60)
        refused(reply, 400)
    reply = client.http.post(f"{client.project}/setCommonInstanceMetadata", payload, headers=headers, timeout=60)
    if reply.status_code != 200:  # an empty body is a whole one here: it empties the metadata
        refused(reply, 400)


@pytest.mark.parametrize("megabytes", [9, 17, 40])
def test_too_large(client: Session, megabytes: int) -> None:
    payload = b'{"description": "' + b"x" * (megabytes << 20) + b'"}'
    reply = client.http.post(client.project + INSTANCES, payload, timeout=60)
    refused(reply, 413)
    parts = [("POST", "/compute/v1/projects/demo" + INSTANCES, {"name": "x" * (megabytes << 20)})]
    if megabytes > 16:
        with pytest.raises(AssertionError, match="413"):
            client.batch(parts)


@pytest.fixture(scope="module")
def changed(stack: Stack, client: Session) -> Iterator[None]:
    """An instance to change."""
    stack.finish(client.ask("POST", INSTANCES, machine("changed")))
    yield
    stack.finish(client.ask("DELETE", f"{INSTANCES}/changed"))


@pytest.mark.parametrize(
    ("method", "path", "payload", "words"),
    [
        ("POST", f"{INSTANCES}/changed/setTags", {"items": ["Bad Tag"]}, ["items[0]"]),
        ("POST", f"{INSTANCES}/changed/setLabels", {"labels": {"A": "b"}}, ["labels"]),
        ("POST", f"{INSTANCES}/changed/setMetadata", {"items": [{"key": "a"}, {"key": "a"}]}, ["items[1].key"]),
        ("POST", f"{INSTANCES}/changed/setDiskAutoDelete?autoDelete=perhaps&deviceName=x", None, ["autoDelete"]),
        ("POST", f"{INSTANCES}/changed/setDiskAutoDelete?autoDelete=true", None, ["deviceName"]),
        ("GET", f"{INSTANCES}/changed/serialPort?port=9", None, ["port"]),
        ("GET", f"{INSTANCES}/changed/serialPort?port=one", None, ["port"]),
        ("POST", f"{INSTANCES}?requestId=nope", machine("refused"), ["requestId"]),
        ("POST", "/setCommonInstanceMetadata", {"items": "x"}, ["items"]),
    ],
)
@pytest.mark.usefixtures("changed")
def test_changes_that_cannot_be(client: Session, method: str, path: str, payload: Any, words: list[str]) -> None:
    refused(client.send(method, path, payload), 400, *words)


# Reads


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/zones/nope", 404, ["projects/demo/zones/nope"]),
        ("/zones/nope/instances", 404, ["projects/demo/zones/nope"]),
        ("/zones/nope/operations", 404, ["projects/demo/zones/nope"]),
        ("/regions/nope/addresses", 404, ["projects/demo/regions/nope"]),
        ("/regions/nope/operations", 404, ["projects/demo/regions/nope"]),
        (f"{INSTANCES}/nope", 404, [f"projects/demo{INSTANCES}/nope"]),
        (f"{INSTANCES}/nope/serialPort", 404, [f"projects/demo{INSTANCES}/nope"]),
        (f"{INSTANCES}/Bad_Name", 404, []),
        (f"{INSTANCES}/%F0%9F%98%80", 404, []),
        (f"{INSTANCES}/%2e%2e", 404, []),
        (f"{INSTANCES}/a%2Fb", 404, []),
        (f"{INSTANCES}/99999999999999999999999999", 404, []),
        (f"{INSTANCES}/%ff", 400, []),
        (f"{INSTANCES}/a%00b", 400, ["instance"]),
        (f"{INSTANCES}/a%2500b", 400, ["instance"]),
        ("/global/images/family/nope", 404, ["family/nope"]),
        ("/global/networks/nope", 404, ["global/networks/nope"]),
        ("/zones/ch-gv2/operations/operation-1-2-3-4", 404, ["operations/operation-1-2-3-4"]),
        ("/zones/ch-zh-1/disks/nope", 404, ["zones/ch-zh-1/disks/nope"]),
        ("/nope", 404, []),
        ("/zones/ch-gv2/nope", 404, []),
        ("/global/httpHealthChecks", 400, ["compute.httpHealthChecks.list"]),
        ("/aggregated/forwardingRules", 400, ["compute.forwardingRules.aggregatedList"]),
        ("/regions/ch/targetPools/x", 400, ["compute.targetPools.get"]),
        ("/zones?filter=nope%20eq%20x", 400, ["nope"]),
        ("/zones?filter=name%20eq%20(", 400, ["filter"]),
        ("/zones?filter=((", 400, ["filter"]),
        ("/zones?filter=" + "(" * 500, 400, ["filter"]),
        ("/zones?filter=name%20eq%20" + "a" * 4100, 400, ["filter"]),
        ("/zones?pageToken=nope", 400, ["pageToken"]),
        ("/zones?pageToken=" + "A" * 4000, 400, ["pageToken"]),
        ("/zones?maxResults=many", 400, ["maxResults"]),
        ("/zones?maxResults=-1", 400, ["maxResults"]),
        ("/zones?maxResults=501", 400, ["maxResults"]),
        ("/zones?orderBy=nope", 400, ["orderBy"]),
        ("/zones?fields=items(", 400, ["field"]),
        ("/zones?fields=items,,name", 400, ["field"]),
        ("/zones?nonsense=1", 400, ["nonsense"]),
        ("/zones?alt=xml", 400, ["alt"]),
        ("/zones?returnPartialSuccess=perhaps", 400, ["returnPartialSuccess"]),
    ],
    ids=lambda value: value[:50] if isinstance(value, str) else "",
)
def test_reads(client: Session, path: str, status: int, words: list[str]) -> None:
    refused(client.send("GET", path), status, *words)


def test_a_page_token_is_good_for_its_question_only(client: Session) -> None:
    token = client.ask("GET", "/global/images?maxResults=2")["nextPageToken"]
    assert client.ask("GET", f"/global/images?maxResults=2&pageToken={token}")["items"]
    refused(client.send("GET", f"/zones?pageToken={token}"), 400, "pageToken")
    refused(
        client.send("GET", f"/global/images?maxResults=2&filter=name%20eq%20l.*&pageToken={token}"), 400, "pageToken"
    )
    swapped = token[:-3] + ("AAA" if token[-3:] != "AAA" else "BBB")
    refused(client.send("GET", f"/global/images?maxResults=2&pageToken={swapped}"), 400, "pageToken")


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("PUT", "/compute/v1/projects/demo/zones", 405),
        ("DELETE", "/compute/v1/projects/demo", 405),
        ("PATCH", "/compute/v1/projects/demo/zones/ch-gv2", 405),
        ("GET", "/compute/v1/projects/demo/setCommonInstanceMetadata", 405),
        ("BREW", "/compute/v1/projects/demo/zones", 405),
        ("GET", "/compute/v9/projects/demo/zones", 404),
        ("GET", "/compute/v1/", 404),
        ("GET", "/nope", 404),
        ("GET", "/compute/v1/projects/demo/../../../../etc/passwd", 404),
        ("GET", "/compute/v1/projects/nope/zones", 404),
        ("GET", "/compute/v1/projects/nope/zones/ch-gv2/instances", 404),
        ("GET", "/compute/v1/projects/Not%20A%20Project/zones", 404),
        ("GET", "/discovery/v1/apis/compute/v9/rest", 404),
        ("GET", "/discovery/v1/apis/storage/v1/rest", 404),
        ("GET", "/batch/compute/v1", 405),
    ],
)
def test_methods_and_paths(client: Session, method: str, url: str, status: int) -> None:
    refused(client.send(method, client.base + url), status)


def test_each_method_of_google_is_ours_or_says_so(client: Session) -> None:
    """Names the method, whichever it is; a path that Google has is never an empty success, but where there can be
    nothing."""
    ours = {method_id(method) for service in services() for method in service.methods}
    asked = 0
    for name, method in google_methods().items():
        # Few stand outside of projects, or hold a whole path in one parameter.
        if name in ours or not method["path"].startswith("projects/{project}") or "{+" in method["path"]:
            continue
        verb, path = method["httpMethod"], re.sub(r"{\w+}", "x", method["path"].removeprefix("projects/{project}"))
        reply = client.send(verb, path, {} if verb in ("POST", "PUT", "PATCH") else None)
        if verb == "GET" and name.split(".")[1] in absent_collections():
            assert reply.status_code in (200, 404) or name.endswith("ExpressionSets"), name
            continue
        error = refused(reply, 400, f"Method {name} is not offered", revealing=("cloudstack", "traceback"))
        assert error["errors"][0]["reason"] == "notSupported"
        asked += 1
    assert asked > 700


# Who


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Bearer " + "x" * 5000},
        {"Authorization": "Bearer a b"},
        {"Authorization": "Basic ZGVtby1hcGkta2V5OmRlbW8tc2VjcmV0LWtleQ=="},
        {"Authorization": "demo-api-key"},
        {"Authorization": "Bearer eyJhbGciOiJub25lIn0.eyJpc3MiOiJkZW1vIn0."},
        {"X-Goog-Api-Key": "demo-api-key"},
    ],
    ids=str,
)
def test_who_is_unknown(stack: Stack, headers: dict[str, str]) -> None:
    for path in ("/zones", f"{INSTANCES}/x", "/aggregated/instances"):
        reply = requests.get(stack.api + path, headers=headers, timeout=30)
        error = refused(reply, 401)
        assert error["errors"][0]["reason"] in ("authError", "required")
        assert reply.headers["WWW-Authenticate"].startswith("Bearer")


def test_tokens_do_not_come_in_the_url(stack: Stack) -> None:
    token = stack.token()
    reply = requests.get(f"{stack.api}/zones?access_token={token}", timeout=30)
    assert reply.status_code in (400, 401)
    assert token not in reply.text


def test_another_tenant(stack: Stack, client: Session) -> None:
    """What is not theirs does not exist for them: 404 with the same words as for what never was."""
    ian = stack.token(*IAN)
    stack.finish(client.ask("POST", INSTANCES, machine("private")))
    rule = {"name": "private", "allowed": [{"IPProtocol": "tcp", "ports": ["22"]}]}
    operation = stack.finish(client.ask("POST", "/global/firewalls", rule))
    for path in ("", "/zones", INSTANCES, f"{INSTANCES}/private", "/global/firewalls/private", "/aggregated/instances"):
        missing = refused(stack.call("GET", path, token=ian), 404, "projects/demo")
        unknown = stack.call("GET", stack.api.replace("/demo", "/nobody") + path, token=ian).json()["error"]
        assert unknown["message"].replace("nobody", "demo") == missing["message"]
    own = f"{stack.url}/compute/v1/projects/ian@example.org"
    check_schema(stack.call("GET", own, token=ian).json(), "Project")
    for path in (f"{INSTANCES}/private", "/global/firewalls/private", f"/global/operations/{operation['name']}"):
        refused(stack.call("GET", own + path, token=ian), 404)
        refused(stack.call("DELETE", own + path, token=ian), 404)
    for verb in ("stop", "start", "reset"):
        refused(stack.call("POST", f"{own}{INSTANCES}/private/{verb}", token=ian), 404)
    for path in (INSTANCES, "/zones/ch-gv2/disks", "/global/firewalls", "/global/operations"):
        assert "private" not in stack.call("GET", own + path, token=ian).text
    # Nor by its number or uuid, which are no secrets.
    number = client.ask("GET", f"{INSTANCES}/private")["id"]
    uuid = cloud(stack, "listVirtualMachines", name="private")["virtualmachine"][0]["id"]
    for text in (number, uuid):
        refused(stack.call("GET", f"{own}{INSTANCES}/{text}", token=ian), 404)
        refused(stack.call("DELETE", f"{own}{INSTANCES}/{text}", token=ian), 404)
    assert client.ask("GET", f"{INSTANCES}/private")["status"] == "RUNNING"
    stack.finish(client.ask("DELETE", f"{INSTANCES}/private"))
    stack.finish(client.ask("DELETE", "/global/firewalls/private"))


# What goes wrong behind

STATUSES = {
    401: 401, 429: 429, 431: 400, 432: 403, 503: 503, 530: 500, 531: 403, 532: 403, 533: 503, 534: 503, 535: 403,
    536: 400, 537: 409,
}  # fmt: skip


@pytest.mark.parametrize(("behind", "told"), STATUSES.items())
def test_errors_from_behind(stack: Stack, client: Session, behind: int, told: int) -> None:
    text = "CloudStack: failed on VM[User|i-2-3-VM] {secret} com.cloud.exception.Nasty"
    for path, command in ((f"{INSTANCES}/y", "listVirtualMachines"), ("/zones/ch-gv2/disks", "listVolumes")):
        # More than one: a call that is one too many for CloudStack (429) is sent again.
        fault = {"kind": "status", "command": command, "status": behind, "text": text, "count": 5}
        stack.simulate("POST", "faults", fault)
        try:
            reply = client.send("GET", path)
        finally:
            stack.simulate("DELETE", "faults")
        if command == "listVirtualMachines" and behind in (431, 531):
            # What one may not see, and what there is not, are told alike where one thing is asked for.
            refused(reply, 404)
            continue
        error = refused(reply, told)
        assert "secret" not in json.dumps(error)
        assert "com.cloud" not in json.dumps(error)
        assert ("Retry-After" in reply.headers) == (told in (429, 503))


@pytest.mark.parametrize("behind", [429, 503])
def test_operations_wait_for_what_may_be_tried_again(stack: Stack, client: Session, behind: int) -> None:
    fault = {"kind": "status", "command": "deployVirtualMachine", "status": behind, "text": "CloudStack {secret}"}
    stack.simulate("POST", "faults", fault)
    try:
        operation = stack.finish(client.ask("POST", INSTANCES, machine("waits")))
    finally:
        stack.simulate("DELETE", "faults")
    assert "error" not in operation
    stack.finish(client.ask("DELETE", f"{INSTANCES}/waits"))


@pytest.mark.parametrize(("behind", "told"), [pair for pair in STATUSES.items() if pair[0] not in (429, 503)])
def test_operations_that_fail_behind(stack: Stack, client: Session, behind: int, told: int) -> None:
    fault = {"kind": "status", "command": "deployVirtualMachine", "status": behind, "text": "CloudStack {secret}"}
    stack.simulate("POST", "faults", fault)
    try:
        operation = stack.finish(client.ask("POST", INSTANCES, machine("fails")))
    finally:
        stack.simulate("DELETE", "faults")
    check_schema(operation, "Operation")
    assert operation["error"]["errors"][0]["code"].isupper()
    assert operation["httpErrorStatusCode"] == told
    assert operation["httpErrorMessage"]
    assert "cloudstack" not in json.dumps(operation).lower()
    assert "secret" not in json.dumps(operation)
    assert client.send("GET", f"{INSTANCES}/fails").status_code == 404


@pytest.mark.parametrize(
    "fault", [{"kind": "html", "status": 502}, {"kind": "html", "status": 200}, {"kind": "truncated"}]
)
def test_nonsense_from_behind(stack: Stack, client: Session, fault: dict[str, Any]) -> None:
    for path, command in (
        (f"{INSTANCES}/y", "listVirtualMachines"), ("/zones/ch-gv2/disks", "listVolumes"),
        ("/regions/ch-zh/addresses", "listPublicIpAddresses"), ("/aggregated/instances", "listVirtualMachines"),
    ):  # fmt: skip
        stack.simulate("POST", "faults", {"command": command, "count": 9, **fault})
        try:
            reply = client.send("GET", path)
        finally:
            stack.simulate("DELETE", "faults")
        refused(reply, 503)
        assert reply.headers["Retry-After"]
        assert client.send("GET", path).status_code in (200, 404)


def test_a_read_is_tried_again_once(stack: Stack, client: Session) -> None:
    stack.simulate("POST", "faults", {"kind": "drop", "command": "listVolumes"})
    assert client.send("GET", "/zones/ch-gv2/disks").status_code == 200


def test_silence_from_behind(own_stack: Stack) -> None:
    """A hanging question ends in time, in JSON, and holds up nobody else."""
    stack = own_stack
    stack.stop("translator")
    stack.start("translator", GSTACK_CLOUDSTACK_TIMEOUT="1.5")
    stack.wait_ready()
    client = Session(stack, "tests")
    assert client.ask("GET", "/zones")["items"]
    stack.simulate("POST", "faults", {"kind": "hang", "command": "listVolumes", "count": 50})
    replies: list[requests.Response] = []
    threads = [
        threading.Thread(target=lambda: replies.append(stack.call("GET", "/zones/ch-gv2/disks"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for _ in range(10):
        assert client.ask("GET", "/zones/ch-gv2/machineTypes")["items"]
        assert stack.call("GET", f"{stack.url}/compute/v1/projects/ian@example.org/zones", token=stack.token(*IAN)).ok
    for thread in threads:
        thread.join(LONG)
    assert len(replies) == 8
    for reply in replies:
        refused(reply, 503)
    stack.simulate("DELETE", "faults")
    assert client.send("GET", "/zones/ch-gv2/disks").status_code == 200
    # Nobody there at all.
    stack.kill("simulator")
    del stack.processes["simulator"]
    refused(client.send("GET", "/zones/ch-gv2/disks"), 503)
    insert = client.send("POST", INSTANCES, machine("nobody"))
    assert insert.status_code in (200, 503), insert.text


# Google's schemas


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": 12}, {"id": "-1"}, {"id": "18446744073709551616"}, {"name": None}, {"unheardOf": 1}, {"disks": {}},
        {"canIpForward": "true"}, {"status": "UNHEARD_OF"}, {"fingerprint": "a"}, {"creationTimestamp": "yesterday"},
        {"disks": [{"diskSizeGb": 10}]}, {"disks": [{"index": "0"}]}, {"disks": [{"index": True}]},
        {"labels": {"a": 1}},
    ],
    ids=str,
)  # fmt: skip
def test_the_validator_finds_what_is_wrong(wrong: dict[str, Any]) -> None:
    good = {"id": "18446744073709551615", "name": "x", "disks": [{"index": 0, "diskSizeGb": "10"}], "labels": {}}
    assert differences(good, {"$ref": "Instance"}, "Instance") == []
    assert len(differences(good | wrong, {"$ref": "Instance"}, "Instance")) == 1


def test_all_answers_are_what_googles_schemas_say(stack: Stack, client: Session) -> None:
    for zone, network in (("ch-gv2", "default"), ("ch-zh-1", "net-a")):
        wanted = machine(
            f"schema-{zone}", zone, network, labels={"a": "b"}, tags={"items": ["web"]}, description="ü",
            metadata={"items": [{"key": "k", "value": "v"}]},
        )  # fmt: skip
        first = client.ask("POST", f"/zones/{zone}/instances", wanted)
        check_schema(first, "Operation")
        check_schema(stack.finish(first), "Operation")
    taken = client.ask("POST", "/zones/ch-gv2/disks/schema-ch-gv2/createSnapshot", {"name": "schema"})
    check_schema(stack.finish(taken), "Operation")
    rule = {"name": "schema", "allowed": [{"IPProtocol": "tcp", "ports": ["22"]}], "sourceTags": ["a"]}
    operation = stack.finish(client.ask("POST", "/global/firewalls", rule))
    document = client.ask("GET", f"{client.base}/discovery/v1/apis/compute/v1/rest")
    values = {
        "zone": "ch-gv2", "region": "ch-zh", "instance": "schema-ch-gv2", "disk": "schema-ch-gv2",
        "firewall": "schema", "network": "default", "subnetwork": "net-a", "image": "linux-debian-12-64-bit",
        "family": "linux-debian-12-64-bit", "machineType": "micro", "diskType": "pd-ssd", "license": "x",
        "operation": operation["name"],
        "snapshot": "schema",
        "route": client.ask("GET", "/global/routes")["items"][0]["name"],
    }  # fmt: skip
    ours = {method_id(method) for service in services() for method in service.methods}
    read = set()
    for part in document["resources"].values():
        for method in part["methods"].values():
            if method["httpMethod"] != "GET" or method["id"] not in ours:
                continue
            google = google_methods().get(method["id"], {})
            path = method["path"].removeprefix("{project}")
            # What IAM calls a resource is one of the collection.
            of_iam = {"resource": values.get(method["id"].split(".")[1].removesuffix("s"), "")}
            for name, value in (values | of_iam).items():
                path = path.replace(f"{{{name}}}", value)
            reply = client.send("GET", path)
            if method["id"] == "compute.instances.getGuestAttributes":
                assert reply.status_code == 404  # Guests have none.
            elif "{" in path:
                assert method["id"] in ("compute.addresses.get", "compute.acceleratorTypes.get"), path
                assert reply.status_code == 404
            else:
                assert reply.status_code == 200, reply.text
                check_schema(reply.json(), google["response"]["$ref"])
                assert "null" not in json.dumps(reply.json())
                read.add(method["id"])
    assert len(read) >= 38, sorted(read)
    for path in ("/global/firewalls/schema", "/global/snapshots/schema"):
        stack.finish(client.ask("DELETE", path))
    for zone in ("ch-gv2", "ch-zh-1"):
        stack.finish(client.ask("DELETE", f"/zones/{zone}/instances/schema-{zone}"))
