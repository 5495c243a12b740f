"""google-api-python-client, unchanged: with the documents that we serve, and with Google's own and an endpoint.

Each way walks through every method of the contract; what was called is compared with the document at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import google_auth_httplib2
import httplib2
import pytest
from google.oauth2.credentials import Credentials
from googleapiclient import discovery
from googleapiclient.errors import HttpError
from googleapiclient.http import HttpRequest

from gstack.kernel.contract import method_id, services
from tests.clients.conftest import API_KEY, PROJECT, SECRET_KEY, Stack
from tests.clients.sequences import ISOLATED, KINDS_OF_ZONE, check_schema, cloud, google_methods, machine

WAYS = ("v1", "v1beta16", "static")


class Answered:
    """Makes requests that note their method once it was answered, and hold the answer against Google's schema."""

    def __init__(self) -> None:
        self.methods: set[str] = set()

    def __call__(self, http: Any, postproc: Callable[..., Any], *args: Any, **options: Any) -> HttpRequest:
        method = str(options["methodId"])

        def read(response: Any, content: Any) -> Any:
            answer = postproc(response, content)
            self.methods.add(method)
            if schema := google_methods()[method].get("response", {}).get("$ref"):
                check_schema(answer, schema)
            return answer

        return HttpRequest(http, read, *args, **options)


class Client:
    def __init__(self, stack: Stack, way: str = "v1"):
        self.way = way
        self.answered = Answered()
        # Keys as client id and secret; the library asks the token endpoint by itself.
        credentials = Credentials(  # type: ignore[no-untyped-call]
            None, refresh_token="x", token_uri=f"{stack.url}/oauth2/token", client_id=API_KEY, client_secret=SECRET_KEY
        )
        http = google_auth_httplib2.AuthorizedHttp(credentials, http=httplib2.Http())
        where: dict[str, Any] = {"discoveryServiceUrl": stack.url + "/discovery/v1/apis/{api}/{apiVersion}/rest"}
        if way == "static":
            where = {"static_discovery": True, "client_options": {"api_endpoint": f"{stack.url}/compute/v1/"}}
        version = "v1" if way == "static" else way
        self.api = discovery.build(
            "compute", version, http=http, cache_discovery=False, requestBuilder=self.answered, **where
        )

    def ask(self, collection: str, method: str, **parameters: Any) -> Any:
        return getattr(getattr(self.api, collection)(), method)(project=PROJECT, **parameters).execute()

    def pages(self, collection: str, method: str = "list", **parameters: Any) -> list[dict[str, Any]]:
        resource = getattr(self.api, collection)()
        request = getattr(resource, method)(project=PROJECT, **parameters)
        found: list[dict[str, Any]] = []
        while request is not None:
            answer = request.execute()
            found.append(answer)
            request = getattr(resource, f"{method}_next")(request, answer)
        return found

    def done(self, operation: dict[str, Any]) -> dict[str, Any]:
        """As Google's samples do it: `wait` in the scope that the operation names."""
        end = time.monotonic() + 60
        scope = {"zone": operation["zone"].rpartition("/")[2]} if "zone" in operation else {}
        collection = "zoneOperations" if scope else "globalOperations"
        while operation["status"] != "DONE":
            assert time.monotonic() < end, operation
            operation = self.ask(collection, "wait", operation=operation["name"], **scope)
        assert "error" not in operation, operation
        return operation


@pytest.fixture(scope="module")
def clients(stack: Stack) -> dict[str, Client]:
    return {way: Client(stack, way) for way in WAYS}


def failure(call: Callable[[], Any]) -> HttpError:
    with pytest.raises(HttpError) as caught:
        call()
    return caught.value


# The walk through every method


def read_catalog(client: Client) -> None:
    for collection, where in (
        ("zones", {}), ("regions", {}), ("images", {}), ("networks", {}), ("routes", {}),
        ("machineTypes", {"zone": "ch-gv2"}), ("diskTypes", {"zone": "ch-zh-1"}), ("subnetworks", {"region": "ch-zh"}),
    ):  # fmt: skip
        listed = client.ask(collection, "list", **where)["items"]
        for item in (listed[0], listed[-1]):
            for spelling in (item["name"], item["id"]):
                assert client.ask(collection, "get", **where, **{collection[:-1]: spelling}) == item
    for collection, scope in (
        ("machineTypes", "zones/ch-gv2"), ("diskTypes", "zones/ch-gv2"), ("subnetworks", "regions/ch-zh"),
    ):  # fmt: skip
        assert client.ask(collection, "aggregatedList")["items"][scope][collection], collection
    family = client.ask("images", "getFromFamily", family="linux-debian-12-64-bit")
    assert family["name"] == "linux-debian-12-64-bit"
    assert client.ask("licenses", "get", license="any")["chargesUseFee"] is False
    assert client.ask("acceleratorTypes", "list", zone="ch-gv2")["kind"] == "compute#acceleratorTypeList"
    assert "zones/ch-gv2" in client.ask("acceleratorTypes", "aggregatedList")["items"]


def change_project(client: Client) -> None:
    before = client.ask("projects", "get")["commonInstanceMetadata"]
    body = {"items": [{"key": "sshKeys", "value": "joe:ssh-rsa AAAA joe"}], "fingerprint": before["fingerprint"]}
    client.done(client.ask("projects", "setCommonInstanceMetadata", body=body))
    stale = failure(lambda: client.ask("projects", "setCommonInstanceMetadata", body=body))
    assert stale.status_code == 412
    after = client.ask("projects", "get")["commonInstanceMetadata"]
    assert after["items"] == body["items"]
    client.done(client.ask("projects", "setCommonInstanceMetadata", body={"fingerprint": after["fingerprint"]}))
    assert client.ask("projects", "get")["commonInstanceMetadata"]["fingerprint"] == before["fingerprint"]


def change_firewall(client: Client, name: str) -> None:
    rule = {
        "name": name,
        "network": "global/networks/default",
        "allowed": [{"IPProtocol": "tcp", "ports": ["80", "8000-8080"]}, {"IPProtocol": "icmp"}],
        "sourceRanges": ["192.0.2.0/24"],
        "targetTags": ["web"],
    }
    operation = client.done(client.ask("firewalls", "insert", body=rule))
    assert operation["operationType"] == "insert"
    got = client.ask("firewalls", "get", firewall=name)
    assert (got["allowed"], got["sourceRanges"], got["targetTags"]) == (
        rule["allowed"],
        rule["sourceRanges"],
        ["web"],
    )
    assert got["direction"] == "INGRESS"
    assert name in [item["name"] for item in client.ask("firewalls", "list")["items"]]
    assert failure(lambda: client.ask("firewalls", "insert", body=rule)).status_code == 409
    client.done(client.ask("firewalls", "delete", firewall=name))
    gone = failure(lambda: client.ask("firewalls", "get", firewall=name))
    assert (gone.status_code, gone.error_details[0]["reason"]) == (404, "notFound")
    listed = client.ask("globalOperations", "list", filter=f"name eq {operation['name']}")["items"]
    assert [item["name"] for item in listed] == [operation["name"]]
    client.ask("globalOperations", "wait", operation=operation["name"])
    client.ask("globalOperations", "delete", operation=operation["name"])
    assert failure(lambda: client.ask("globalOperations", "get", operation=operation["name"])).status_code == 404


def take_snapshots(client: Client, zone: str, disk: str) -> None:
    name = f"{disk}-snap"
    client.done(client.ask("disks", "createSnapshot", zone=zone, disk=disk, body={"name": name}))
    client.done(client.ask("snapshots", "delete", snapshot=name))
    body = {"name": name, "sourceDisk": f"zones/{zone}/disks/{disk}", "labels": {"env": "test"}}
    client.done(client.ask("snapshots", "insert", body=body))
    got = client.ask("snapshots", "get", snapshot=name)
    assert (got["status"], got["labels"], got["diskSizeGb"]) == ("READY", {"env": "test"}, "20")
    assert got in client.ask("snapshots", "list")["items"]
    labels = {"labels": {"a": "b"}, "labelFingerprint": got["labelFingerprint"]}
    client.done(client.ask("snapshots", "setLabels", resource=name, body=labels))
    assert failure(lambda: client.ask("snapshots", "setLabels", resource=name, body=labels)).status_code == 412
    permissions = {"permissions": ["compute.snapshots.delete"]}
    assert client.ask("snapshots", "testIamPermissions", resource=name, body=permissions) == permissions
    assert client.ask("snapshots", "getIamPolicy", resource=name)["version"] == 1
    client.done(client.ask("snapshots", "delete", snapshot=name))


def live(client: Client, zone: str, network: str, name: str) -> None:
    where = {"zone": zone}
    one = {"zone": zone, "instance": name}
    wanted = machine(
        name,
        zone,
        network,
        tags={"items": ["web"]},
        labels={"env": "test"},
        metadata={"items": [{"key": "startup-script", "value": "#!/bin/sh\necho ü"}]},
        description="made by a test",
        scheduling={"automaticRestart": False, "onHostMaintenance": "TERMINATE"},
    )
    wanted["disks"][0]["initializeParams"] |= {"diskSizeGb": "20", "diskType": f"zones/{zone}/diskTypes/pd-ssd"}
    operation = client.done(client.ask("instances", "insert", **where, body=wanted))
    got = client.ask("instances", "get", **one)
    assert (got["status"], got["labels"], got["tags"]["items"]) == ("RUNNING", {"env": "test"}, ["web"])
    assert got["metadata"]["items"] == wanted["metadata"]["items"]
    assert got["disks"][0]["diskSizeGb"] == "20"
    assert operation["targetId"] == got["id"]
    assert operation["targetLink"] == got["selfLink"]
    outside = got["networkInterfaces"][0]["accessConfigs"][0]["natIP"]
    # In a shared network the machine's own address is the one that others see.
    assert (outside == got["networkInterfaces"][0]["networkIP"]) == (network == "default")
    # It is the instance's as long as it lives, and no address that the user reserved.
    assert "items" not in client.ask("addresses", "list", region="ch-zh", filter=f'address = "{outside}"')

    assert [item["id"] for item in client.ask("instances", "list", **where, filter=f"name eq {name}")["items"]] == [
        got["id"]
    ]
    found = client.ask("instances", "aggregatedList", filter=f"name = {name}")["items"]
    assert [item["name"] for item in found[f"zones/{zone}"]["instances"]] == [name]
    assert client.ask("disks", "get", **where, disk=name)["users"] == [got["selfLink"]]
    assert name in [item["name"] for item in client.ask("disks", "list", **where)["items"]]
    assert client.ask("disks", "aggregatedList")["items"][f"zones/{zone}"]["disks"]
    assert failure(lambda: client.ask("instances", "insert", **where, body=wanted)).status_code == 409

    client.done(client.ask("instances", "stop", **one))
    assert client.ask("instances", "get", **one)["status"] == "TERMINATED"
    client.done(client.ask("instances", "start", **one))
    client.done(client.ask("instances", "reset", **one))
    tags = {"items": ["db", "web"], "fingerprint": got["tags"]["fingerprint"]}
    client.done(client.ask("instances", "setTags", **one, body=tags))
    assert failure(lambda: client.ask("instances", "setTags", **one, body=tags)).status_code == 412
    labels = {"labels": {"a": "b"}, "labelFingerprint": got["labelFingerprint"]}
    client.done(client.ask("instances", "setLabels", **one, body=labels))
    metadata = {"items": [{"key": "k", "value": "v"}], "fingerprint": got["metadata"]["fingerprint"]}
    client.done(client.ask("instances", "setMetadata", **one, body=metadata))
    device = {"autoDelete": True, "deviceName": got["disks"][0]["deviceName"]}
    client.done(client.ask("instances", "setDiskAutoDelete", **one, **device))
    for protect in (True, False):
        which = {"zone": zone, "resource": name, "deletionProtection": protect}
        client.done(client.ask("instances", "setDeletionProtection", **which))
        assert client.ask("instances", "get", **one)["deletionProtection"] is protect
    changed = client.ask("instances", "get", **one)
    assert (changed["status"], changed["labels"], changed["tags"]["items"]) == ("RUNNING", {"a": "b"}, ["db", "web"])
    assert changed["metadata"]["items"] == metadata["items"]
    assert "createConsoleEndpoint" in client.ask("instances", "getSerialPortOutput", **one)["contents"]

    take_snapshots(client, zone, name)
    change_disks(client, zone, f"{name}-disk")
    if network == "default":
        # Alike in zones of every kind.
        change_disks_of(client, zone, name)
        make_images(client, zone, name)
        change_settings(client, zone, name)
        make_many(client, zone, wanted)

    client.done(client.ask("instances", "delete", **one))
    assert failure(lambda: client.ask("instances", "get", **one)).status_code == 404
    assert failure(lambda: client.ask("disks", "get", **where, disk=name)).status_code == 404
    read_operations(client, zone, operation)


def change_disks(client: Client, zone: str, name: str) -> None:
    one = {"zone": zone, "disk": name}
    client.done(client.ask("disks", "insert", zone=zone, body={"name": name, "sizeGb": "3", "labels": {"a": "b"}}))
    client.done(client.ask("disks", "resize", **one, body={"sizeGb": "4"}))
    client.done(client.ask("disks", "update", **one, paths=["sizeGb", "licenses"], body={"sizeGb": "5"}))
    labels = {"labels": {"c": "d"}, "labelFingerprint": client.ask("disks", "get", **one)["labelFingerprint"]}
    client.done(client.ask("disks", "setLabels", zone=zone, resource=name, body=labels))
    found = client.ask("disks", "get", **one)
    assert (found["sizeGb"], found["labels"]) == ("5", {"c": "d"})
    asked = {"permissions": ["compute.disks.use"]}
    assert client.ask("disks", "testIamPermissions", zone=zone, resource=name, body=asked) == asked
    assert client.ask("disks", "getIamPolicy", zone=zone, resource=name)["etag"]
    client.done(client.ask("disks", "delete", **one))
    assert failure(lambda: client.ask("disks", "get", **one)).status_code == 404


def change_disks_of(client: Client, zone: str, name: str) -> None:
    one, disk = {"zone": zone, "instance": name}, f"{name}-data"
    client.done(client.ask("disks", "insert", zone=zone, body={"name": disk, "sizeGb": "3"}))
    body = {"source": f"zones/{zone}/disks/{disk}", "deviceName": "data"}
    client.done(client.ask("instances", "attachDisk", **one, body=body))
    assert client.ask("instances", "get", **one)["disks"][1]["deviceName"] == "data"
    client.done(client.ask("instances", "detachDisk", **one, deviceName="data"))
    client.done(client.ask("disks", "delete", zone=zone, disk=disk))


def make_images(client: Client, zone: str, disk: str) -> None:
    name = f"{disk}-image"
    body = {"name": name, "sourceDisk": f"zones/{zone}/disks/{disk}", "family": name}
    client.done(client.ask("images", "insert", body=body, forceCreate=True))
    got = client.ask("images", "get", image=name)
    view = client.ask("imageFamilyViews", "get", zone=zone, family=name)
    assert view["image"]["selfLink"] == got["selfLink"]
    client.done(client.ask("images", "patch", image=name, body={"description": "changed"}))
    labels = {"labels": {"a": "b"}, "labelFingerprint": got["labelFingerprint"]}
    client.done(client.ask("images", "setLabels", resource=name, body=labels))
    client.done(client.ask("images", "deprecate", image=name, body={"state": "DEPRECATED"}))
    changed = client.ask("images", "get", image=name)
    assert (changed["description"], changed["labels"], changed["deprecated"]["state"]) == (
        "changed", {"a": "b"}, "DEPRECATED",
    )  # fmt: skip
    asked = {"permissions": ["compute.images.useReadOnly"]}
    assert client.ask("images", "testIamPermissions", resource=name, body=asked) == asked
    policy = client.ask("images", "getIamPolicy", resource=name)
    assert client.ask("images", "setIamPolicy", resource=name, body={"policy": policy})["etag"] == policy["etag"]
    client.done(client.ask("images", "delete", image=name))
    assert failure(lambda: client.ask("images", "get", image=name)).status_code == 404


def change_settings(client: Client, zone: str, name: str) -> None:
    one = {"zone": zone, "instance": name}
    client.done(client.ask("instances", "stop", **one))
    for method, body in (
        ("setMachineType", {"machineType": f"zones/{zone}/machineTypes/small"}),
        ("setScheduling", {"automaticRestart": True, "onHostMaintenance": "MIGRATE"}),
        ("setServiceAccount", {"email": "default", "scopes": ["https://www.googleapis.com/auth/compute"]}),
        ("setMinCpuPlatform", {"minCpuPlatform": "Intel Skylake"}),
        ("updateShieldedInstanceConfig", {"enableVtpm": True}),
        ("setShieldedInstanceIntegrityPolicy", {"updateAutoLearnPolicy": True}),
        ("updateDisplayDevice", {"enableDisplay": True}),
        ("setMachineResources", {"guestAccelerators": []}),
    ):
        client.done(client.ask("instances", method, **one, body=body))
    found = client.ask("instances", "get", **one)
    assert found["machineType"].endswith("/small") and found["minCpuPlatform"] == "Intel Skylake"
    client.done(client.ask("instances", "setName", **one, body={"name": f"{name}-new", "currentName": name}))
    moved = {"zone": zone, "instance": f"{name}-new"}
    client.done(client.ask("instances", "setName", **moved, body={"name": name, "currentName": f"{name}-new"}))
    found = client.ask("instances", "get", **one) | {"description": "updated"}
    client.done(client.ask("instances", "update", **one, body=found))
    assert client.ask("instances", "get", **one)["description"] == "updated"
    client.done(client.ask("instances", "start", **one))
    which, asked = {"zone": zone, "resource": name}, {"permissions": ["compute.instances.get"]}
    assert client.ask("instances", "testIamPermissions", **which, body=asked) == asked
    assert client.ask("instances", "getIamPolicy", **which)["version"] == 1
    assert "items" not in client.ask("instances", "listReferrers", **one)
    assert failure(lambda: client.ask("instances", "getGuestAttributes", **one)).status_code == 404
    assert "networkInterface" not in client.ask("instances", "getEffectiveFirewalls", **one, networkInterface="nic0")


def make_many(client: Client, zone: str, wanted: dict[str, Any]) -> None:
    names = [f"{wanted['name']}-{number}" for number in (1, 2)]
    properties = {"machineType": "micro", "disks": wanted["disks"], "networkInterfaces": wanted["networkInterfaces"]}
    body = {"count": 2, "namePattern": f"{wanted['name']}-#", "instanceProperties": properties}
    client.done(client.ask("instances", "bulkInsert", zone=zone, body=body))
    for name in names:
        assert client.ask("instances", "get", zone=zone, instance=name)["status"] == "RUNNING"
        client.done(client.ask("instances", "delete", zone=zone, instance=name))


def read_operations(client: Client, zone: str, operation: dict[str, Any]) -> None:
    """An operation of a zone is found under its region and globally too: clients guess the scope in several ways."""
    name = operation["name"]
    for collection, where in (
        ("zoneOperations", {"zone": zone}), ("regionOperations", {"region": zone.rpartition("-")[0]}),
        ("globalOperations", {}),
    ):  # fmt: skip
        client.ask(collection, "list", **where, maxResults=5)
        assert client.ask(collection, "get", **where, operation=name)["name"] == name
        assert client.ask(collection, "wait", **where, operation=name)["status"] == "DONE"
    items = client.ask("globalOperations", "aggregatedList")["items"]
    assert name in [item["name"] for item in items[f"zones/{zone}"]["operations"]]
    client.ask("zoneOperations", "delete", zone=zone, operation=name)
    gone = failure(lambda: client.ask("regionOperations", "delete", region=zone.rpartition("-")[0], operation=name))
    assert gone.status_code == 404


def reserved(client: Client, stack: Stack) -> None:
    """An address reserved in the cloud's own interface: given to an instance by natIP, and still there after it."""
    zone = cloud(stack, "listZones", name="CH-ZH-1")["zone"][0]["id"]
    network = cloud(stack, "listNetworks", zoneid=zone, keyword="net-a")["network"][0]["id"]
    made = cloud(stack, "associateIpAddress", zoneid=zone, networkid=network)["ipaddress"]
    where = {"region": "ch-zh", "address": f"address-{made['ipaddress'].replace('.', '-')}"}
    address = client.ask("addresses", "get", **where)
    assert (address["address"], address["status"]) == (made["ipaddress"], "RESERVED")
    assert client.ask("addresses", "list", region="ch-zh")["items"] == [address]
    assert client.ask("addresses", "aggregatedList")["items"]["regions/ch-zh"]["addresses"] == [address]

    wanted = machine("reserved", *ISOLATED)
    wanted["networkInterfaces"][0]["accessConfigs"][0]["natIP"] = address["address"]
    client.done(client.ask("instances", "insert", zone="ch-zh-1", body=wanted))
    got = client.ask("instances", "get", zone="ch-zh-1", instance="reserved")
    assert got["networkInterfaces"][0]["accessConfigs"][0]["natIP"] == address["address"]
    used = client.ask("addresses", "get", **where)
    assert (used["status"], used["users"]) == ("IN_USE", [got["selfLink"]])
    client.done(client.ask("instances", "delete", zone="ch-zh-1", instance="reserved"))
    assert client.ask("addresses", "get", **where) == address
    cloud(stack, "disassociateIpAddress", id=made["id"])
    assert failure(lambda: client.ask("addresses", "get", **where)).status_code == 404


OUR_METHODS = {method_id(method) for service in services() for method in service.methods}


@pytest.mark.parametrize("way", WAYS)
def test_every_method_of_the_contract_is_answered(stack: Stack, clients: dict[str, Client], way: str) -> None:
    client = clients[way]
    read_catalog(client)
    change_project(client)
    change_firewall(client, f"api-{way}")
    for zone, network in KINDS_OF_ZONE:
        live(client, zone, network, f"api-{way}-{zone}")
    reserved(client, stack)
    # Deleted through its region, as a client may that lost the zone.
    left = client.ask("zoneOperations", "list", zone="ch-gv2", filter=f"targetLink eq .*/api-{way}-ch-gv2")["items"]
    client.ask("regionOperations", "delete", region="ch", operation=left[0]["name"])
    missing = failure(lambda: client.ask("acceleratorTypes", "get", zone="ch-gv2", acceleratorType="gpu"))
    assert (missing.status_code, missing.error_details[0]["reason"]) == (404, "notFound")
    # There are no accelerators to get, and no attributes of guests: these can only be refused.
    refused = {"compute.acceleratorTypes.get", "compute.instances.getGuestAttributes"}
    assert OUR_METHODS - client.answered.methods == refused


# Pages, batches, errors


@pytest.mark.parametrize("way", WAYS)
def test_pages(clients: dict[str, Client], way: str) -> None:
    client = clients[way]
    for collection, where, size in (
        ("images", {}, 4), ("zones", {}, 1), ("machineTypes", {"zone": "ch-gv2"}, 3), ("routes", {}, 1),
        ("images", {"filter": "name eq linux-.*"}, 2), ("images", {"orderBy": "creationTimestamp desc"}, 5),
    ):  # fmt: skip
        whole = [item["name"] for page in client.pages(collection, **where) for item in page["items"]]
        pages = [
            [item["name"] for item in page["items"]] for page in client.pages(collection, **where, maxResults=size)
        ]
        assert [name for page in pages for name in page] == whole
        assert all(len(page) <= size for page in pages)
        assert len(whole) == len(set(whole)) > size or collection == "routes"
    pages = client.pages("machineTypes", "aggregatedList", maxResults=5)
    names = [
        item["selfLink"] for page in pages for scope in page["items"].values() for item in scope.get("machineTypes", [])
    ]
    assert len(pages) > 2
    assert len(names) == len(set(names)) == 14


def test_batch(stack: Stack, clients: dict[str, Client]) -> None:
    client = clients["v1"]
    answers: dict[str, Any] = {}
    batch = client.api.new_batch_http_request(
        callback=lambda key, answer, error: answers.update({key: error or answer})
    )
    for zone, network in KINDS_OF_ZONE:
        wanted = machine(f"batch-{zone}", zone, network)
        batch.add(client.api.instances().insert(project=PROJECT, zone=zone, body=wanted), request_id=zone)
    batch.add(client.api.zones().list(project=PROJECT, filter="name = ch-gv2"), request_id="zones")
    batch.add(client.api.images().get(project=PROJECT, image="nope"), request_id="nope")
    batch.add(client.api.images().get(project=PROJECT, image="ü & <b>"), request_id="odd")
    batch.execute()
    assert [zone["name"] for zone in answers["zones"]["items"]] == ["ch-gv2"]
    assert (answers["nope"].status_code, answers["nope"].error_details[0]["reason"]) == (404, "notFound")
    assert answers["odd"].status_code == 404
    for zone, _ in KINDS_OF_ZONE:
        client.done(answers[zone])
        client.done(client.ask("instances", "delete", zone=zone, instance=f"batch-{zone}"))


@pytest.mark.parametrize("way", WAYS)
def test_errors(clients: dict[str, Client], way: str) -> None:
    client = clients[way]
    for call, status, reason in (
        (lambda: client.ask("zones", "get", zone="nope"), 404, "notFound"),
        (lambda: client.ask("instances", "list", zone="nope"), 404, "notFound"),
        (lambda: client.ask("zones", "list", filter="nope eq x"), 400, "invalid"),
        (lambda: client.ask("zones", "list", pageToken="nope"), 400, "invalid"),
        (lambda: client.ask("firewalls", "insert", body={"name": "Bad_Name"}), 400, "invalid"),
        (lambda: client.ask("instances", "insert", zone="ch-gv2", body={"name": "x"}), 400, "required"),
    ):
        error = failure(call)
        assert (error.status_code, error.error_details[0]["reason"]) == (status, reason), error
        assert error.reason == error.error_details[0]["message"]
    other = failure(lambda: client.api.zones().list(project="ian@example.org").execute()) if way == "v1" else None
    assert other is None or other.status_code == 404


@pytest.mark.parametrize("end", ["compute/v1/", "compute/v1", "compute/v1/projects/", "compute/beta/"])
@pytest.mark.parametrize("path", ["discovery/v1/apis/{api}/{apiVersion}/rest", "$discovery/rest?version={apiVersion}"])
def test_an_endpoint_besides_the_document(stack: Stack, path: str, end: str) -> None:
    """`api_endpoint` is the base of the document's paths, whichever of both bases somebody means."""
    api = discovery.build(
        "compute",
        "v1",
        credentials=Credentials(stack.token()),  # type: ignore[no-untyped-call]
        cache_discovery=False,
        discoveryServiceUrl=f"{stack.url}/{path}",
        client_options={"api_endpoint": f"{stack.url}/{end}"},
    )
    assert [zone["name"] for zone in api.zones().list(project=PROJECT).execute()["items"]]
    assert api.projects().get(project=PROJECT).execute()["name"] == PROJECT
    operations = api.globalOperations().list(project=PROJECT, filter="name eq x").execute()
    assert operations["kind"] == "compute#operationList"
    nothing = api.interconnects().list(project=PROJECT).execute()
    assert (nothing["kind"], nothing["items"]) == ("compute#interconnectList", [])
    for call in (
        api.httpHealthChecks().insert(project=PROJECT, body={"name": "x"}),
        api.firewallPolicies().list(parentId="folders/1"),
    ):
        assert failure(call.execute).error_details[0]["reason"] == "notSupported"


def test_what_is_not_offered_says_so_by_name(clients: dict[str, Client]) -> None:
    """Google's own document knows all methods: each one that is not ours says so."""
    api = clients["static"].api
    for call, name in (
        (api.disks().bulkInsert(project=PROJECT, zone="ch-gv2", body={}), "compute.disks.bulkInsert"),
        (api.instances().suspend(project=PROJECT, zone="ch-gv2", instance="x"), "compute.instances.suspend"),
        (api.firewalls().patch(project=PROJECT, firewall="x", body={}), "compute.firewalls.patch"),
        (api.backendServices().aggregatedList(project=PROJECT), "compute.backendServices.aggregatedList"),
    ):
        error = failure(call.execute)
        assert (error.status_code, error.error_details[0]["reason"]) == (400, "notSupported")
        assert name in error.reason
