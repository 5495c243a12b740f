"""What cannot be: always Google's envelope, naming the field; never HTML, a stack trace, or what stands behind."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from tests.clients.conftest import Stack
from tests.clients.sequences import machine, refused

IAN = ("ian-api-key", "ian-secret-key")


def raw(stack: Stack, payload: bytes, path: str = "/zones/ch-gv2/instances") -> requests.Response:
    headers = {"Authorization": f"Bearer {stack.token()}", "Content-Type": "application/json"}
    return requests.post(stack.api + path, payload, headers=headers, timeout=60)


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"name": "Bad_Name"}, 400, ["resource.name", "regex"]),
        ({"name": ""}, 400, ["resource.name"]),
        ({"machineType": "zones/ch-gv2/machineTypes/nope"}, 404, ["zones/ch-gv2/machineTypes/nope"]),
        ({"machineType": ""}, 400, ["resource.machineType"]),
        ({"machineType": "custom-1000-4096"}, 400, ["resource.machineType"]),
        ({"networkInterfaces": [{"network": "global/networks/nope"}]}, 404, ["global/networks/nope"]),
        ({"networkInterfaces": [{"network": "global/networks/net-a"}]}, 400, ["networkInterfaces[0].network"]),
        ({"networkInterfaces": [{"networkIP": "1.2.3.4"}]}, 400, ["networkInterfaces[0].networkIP"]),
        ({"disks": []}, 400, ["resource.disks"]),
        ({"disks": [{"boot": True}]}, 400, ["resource.disks[0].initializeParams.sourceImage"]),
        ({"disks": [{"boot": True, "source": "zones/ch-gv2/disks/x"}]}, 400, ["resource.disks[0].source"]),
        (
            {"disks": [{"boot": True, "initializeParams": {"sourceImage": "global/images/nope"}}]},
            404,
            ["global/images/nope"],
        ),
        (
            {
                "disks": [
                    {
                        "boot": True,
                        "initializeParams": {"sourceImage": "global/images/linux-debian-12-64-bit", "diskSizeGb": 1},
                    }
                ]
            },
            400,
            ["diskSizeGb"],
        ),
        ({"labels": {"Bad Key": "x"}}, 400, ["resource.labels.Bad Key"]),
        ({"tags": {"items": ["UPPER"]}}, 400, ["resource.tags.items[0]"]),
        ({"metadata": {"items": [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]}}, 400, ["items[1].key"]),
        ({"guestAccelerators": [{"acceleratorType": "x"}]}, 400, ["guestAccelerators"]),
        ({"scheduling": {"onHostMaintenance": "EXPLODE"}}, 400, ["scheduling.onHostMaintenance"]),
        ({"canIpForward": "maybe"}, 400, ["resource.canIpForward"]),
        ({"disks": "none"}, 400, ["resource.disks"]),
    ],
    ids=str,
)
def test_instances_that_cannot_be(stack: Stack, change: dict[str, Any], status: int, words: list[str]) -> None:
    refused(stack.call("POST", "/zones/ch-gv2/instances", machine("refused") | change), status, *words)
    assert stack.call("GET", "/zones/ch-gv2/instances/refused").status_code == 404


@pytest.mark.parametrize(
    "change",
    [
        {"guestAccelerators": []},
        {"params": {}},
        {"description": None},
        {"kind": "compute#instance"},
        {"deletionProtection": False, "enableVtpm": False},
    ],
    ids=str,
)
def test_what_says_nothing_is_accepted(stack: Stack, change: dict[str, Any]) -> None:
    wanted = machine("nothing-said") | change | {"machineType": "zones/ch-gv2/machineTypes/nope"}
    refused(stack.call("POST", "/zones/ch-gv2/instances", wanted), 404, "machineTypes/nope")


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"{", ["Invalid JSON payload"]),
        (b'{"name": NaN}', ["Invalid JSON payload"]),
        (b'{"name": "\xff"}', ["Invalid JSON payload"]),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, ["Invalid JSON payload"]),
        (b'{"name": "\\ud800"}', ["Invalid JSON payload"]),
        (b"[1]", ["resource"]),
        (b'{"disks": [{"diskSizeGb": 99999999999999999999}]}', ["disks[0].diskSizeGb"]),
        (b'{"nonsense": {"a": 1}}', ['"nonsense"']),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_bodies_that_are_not_what_they_should_be(stack: Stack, payload: bytes, words: list[str]) -> None:
    refused(raw(stack, payload), 400, *words)


def test_too_large(stack: Stack) -> None:
    refused(raw(stack, b'{"description": "' + b"x" * (9 * 1024 * 1024) + b'"}'), 413)
    refused(raw(stack, b'{"description": "' + b"x" * (17 * 1024 * 1024) + b'"}'), 413)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/zones/nope", 404, ["projects/demo/zones/nope"]),
        ("/zones/nope/instances", 404, ["projects/demo/zones/nope"]),
        ("/zones/ch-gv2/instances/nope", 404, ["projects/demo/zones/ch-gv2/instances/nope"]),
        ("/zones/ch-gv2/instances/%F0%9F%98%80", 404, []),
        ("/zones/ch-gv2/instances/12345678901234567890123", 404, []),
        ("/zones/ch-gv2/instances/00000000-0000-4000-8000-000000000000", 404, []),
        ("/zones/ch-gv2/machineTypes/nope", 404, ["machineTypes/nope"]),
        ("/global/images/nope", 404, ["global/images/nope"]),
        ("/global/images/family/nope", 404, ["family/nope"]),
        ("/global/networks/nope", 404, ["global/networks/nope"]),
        ("/global/firewalls/nope", 404, ["global/firewalls/nope"]),
        ("/global/operations/nope", 404, ["operations/nope"]),
        ("/regions/nope", 404, ["regions/nope"]),
        ("/regions/ch/subnetworks/nope", 404, ["subnetworks/nope"]),
        ("/regions/ch/addresses/nope", 404, ["addresses/nope"]),
        ("/zones/ch-gv2/disks/nope", 404, ["disks/nope"]),
        ("/zones/ch-gv2/diskTypes/nope", 404, ["diskTypes/nope"]),
        ("/nope", 404, []),
        ("/global/snapshots", 501, ["compute.snapshots.list"]),
        ("/global/backendServices/x", 501, ["compute.backendServices.get"]),
        ("/zones?filter=nope eq x", 400, ["nope"]),
        ("/zones?filter=name eq", 400, ["filter"]),
        ("/zones?filter=((", 400, ["filter"]),
        ("/zones?pageToken=nope", 400, ["pageToken"]),
        ("/zones?maxResults=-1", 400, ["maxResults"]),
        ("/zones?maxResults=501", 400, ["maxResults"]),
        ("/zones?orderBy=status", 400, ["orderBy"]),
        ("/zones?fields=items(", 400, ["field"]),
        ("/zones?nonsense=1", 400, ["nonsense"]),
        ("/zones/ch-gv2/instances/%ff", 400, []),
    ],
)
def test_reads_that_cannot_be(stack: Stack, path: str, status: int, words: list[str]) -> None:
    refused(stack.call("GET", path), status, *words)


def test_methods_and_paths(stack: Stack) -> None:
    refused(stack.call("PUT", "/zones"), 405)
    refused(stack.call("GET", stack.url + "/nope"), 404)
    refused(stack.call("GET", stack.url + "/compute/v9/projects/demo/zones"), 404)
    refused(stack.call("POST", "/zones/ch-gv2/instances/x/suspend"), 501, "compute.instances.suspend")


def test_other_tenants_do_not_exist(stack: Stack) -> None:
    """Neither the project nor anything in it: 404, not 403."""
    ian = stack.token(*IAN)
    refused(stack.call("GET", "/zones", token=ian), 404, "projects/demo")
    operation = stack.finish(stack.call("POST", "/zones/ch-gv2/instances", machine("secret-one")).json())
    own = f"{stack.url}/compute/v1/projects/ian@example.org"
    assert stack.call("GET", own, token=ian).json()["name"] == "ian@example.org"
    for path in ("/zones/ch-gv2/instances/secret-one", f"/zones/ch-gv2/operations/{operation['name']}"):
        refused(stack.call("GET", own + path, token=ian), 404)
    refused(stack.call("DELETE", own + "/zones/ch-gv2/instances/secret-one", token=ian), 404)
    refused(stack.call("GET", f"{own}/zones/ch-gv2/instances/{operation['targetId']}", token=ian), 404)
    stack.finish(stack.call("DELETE", "/zones/ch-gv2/instances/secret-one").json())


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ({"kind": "status", "status": 401}, 401),
        ({"kind": "status", "status": 429}, 429),
        ({"kind": "status", "status": 431}, 400),
        ({"kind": "status", "status": 432}, 403),
        ({"kind": "status", "status": 503}, 503),
        ({"kind": "status", "status": 530}, 500),
        ({"kind": "status", "status": 531}, 403),
        ({"kind": "status", "status": 532}, 403),
        ({"kind": "status", "status": 533}, 503),
        ({"kind": "status", "status": 534}, 503),
        ({"kind": "status", "status": 535}, 403),
        ({"kind": "status", "status": 536}, 400),
        ({"kind": "status", "status": 537}, 409),
        ({"kind": "html", "status": 502, "count": 2}, 503),
        ({"kind": "truncated", "count": 2}, 503),
    ],
    ids=str,
)
def test_what_the_cloud_does_wrong(stack: Stack, fault: dict[str, Any], status: int) -> None:
    stack.call("GET", "/zones/ch-gv2/disks")
    fault = {"command": "listVolumes", "text": "failure of [VM id=1 {secret}]", **fault}
    stack.simulate("POST", "faults", fault)
    try:
        error = refused(stack.call("GET", "/zones/ch-gv2/disks"), status)
        assert "VM id" not in json.dumps(error)
    finally:
        stack.simulate("DELETE", "faults")
    assert stack.call("GET", "/zones/ch-gv2/disks").status_code == 200
