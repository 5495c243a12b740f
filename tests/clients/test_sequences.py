"""What gcutil 1.16 and gcloud send, request by request, as they were seen on the wire; and answers held against
Google's own schemas."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pytest
import requests

from tests.clients.conftest import Stack
from tests.clients.test_life_and_death import body

GCUTIL = "Cloud SDK Command Line Tool google-api-python-client/1.0"
GOOGLE: dict[str, Any] = json.loads(
    resources.files("googleapiclient.discovery_cache.documents").joinpath("compute.v1.json").read_text()
)


class Session:
    """A client with its own User-Agent and token."""

    def __init__(self, stack: Stack, user_agent: str):
        self.base = stack.url
        self.http = requests.Session()
        self.http.headers.update({"User-Agent": user_agent, "Authorization": f"Bearer {stack.token()}"})

    def ask(self, method: str, url: str, payload: Any = None) -> Any:
        url = url if url.startswith("http") else f"{self.base}/compute/v1/projects/demo{url}"
        reply = self.http.request(method, url, json=payload, timeout=150)
        assert reply.status_code == 200, reply.text
        return reply.json()


# gcutil


@pytest.mark.parametrize("version", ["v1", "v1beta16"])
def test_gcutil_discovery(stack: Stack, version: str) -> None:
    session = Session(stack, GCUTIL)
    url = f"{stack.url}/discovery/v1/apis/compute/{version}/rest"
    document = session.ask("GET", url)
    assert document["version"] == version
    assert document["rootUrl"] + document["servicePath"] == f"{stack.url}/compute/{version}/projects/"
    needed = {
        "disks", "firewalls", "globalOperations", "images", "instances", "machineTypes", "networks", "projects",
        "routes", "snapshots", "zoneOperations", "zones",
    }  # fmt: skip
    assert needed | ({"kernels"} if version == "v1beta16" else set()) <= document["resources"].keys()
    assert '"pattern"' not in json.dumps(document)
    etag = session.http.get(url, timeout=10).headers["ETag"]
    assert session.http.get(url, headers={"If-None-Match": etag}, timeout=10).status_code == 304


def poll(session: Session, operation: dict[str, Any]) -> dict[str, Any]:
    """gcutil polls the link of the operation, and then reads the target as it is told."""
    while operation["status"] != "DONE":
        operation = session.ask("GET", operation["selfLink"])
    assert "error" not in operation, operation
    return session.ask("GET", operation["targetLink"]) if operation["operationType"] != "delete" else operation


def test_gcutil_session(stack: Stack) -> None:
    session = Session(stack, GCUTIL)
    api = f"{stack.url}/compute/v1/projects/demo"
    access = [{"type": "ONE_TO_ONE_NAT", "name": "External NAT"}]
    assert [zone["name"] for zone in session.ask("GET", "/zones?alt=json&maxResults=500")["items"]] == [
        "ch-gv2",
        "ch-zh-1",
    ]
    assert all(link.startswith(api) for link in [zone["selfLink"] for zone in session.ask("GET", "/zones")["items"]])
    for project in (
        "demo",
        "debian-cloud",
        "centos-cloud",
        "rhel-cloud",
        "suse-cloud",
        "opensuse-cloud",
        "windows-cloud",
    ):
        found = session.ask("GET", f"{stack.url}/compute/v1/projects/{project}/global/images?alt=json&maxResults=500")
        assert found["kind"] == "compute#imageList"
        assert bool(found.get("items")) == (project == "demo")
    rule = {
        "kind": "compute#firewall",
        "name": "gcutil-ssh",
        "description": "",
        "network": f"{api}/global/networks/default",
        "sourceRanges": ["0.0.0.0/0"],
        "allowed": [{"IPProtocol": "6", "ports": ["22"]}, {"IPProtocol": "17", "ports": ["53"]}, {"IPProtocol": "1"}],
    }
    shown = poll(session, session.ask("POST", "/global/firewalls?alt=json", rule))
    assert [one["IPProtocol"] for one in shown["allowed"]] == ["tcp", "udp", "icmp"]
    machine = {
        "kind": "compute#instance",
        "name": "gcutil-1",
        "description": "",
        "machineType": f"{api}/zones/ch-gv2/machineTypes/micro",
        "disks": [
            {
                "type": "PERSISTENT", "mode": "READ_WRITE", "boot": True, "deviceName": "gcutil-1", "autoDelete": False,
                "initializeParams": {
                    "diskName": "gcutil-1",
                    "sourceImage": f"{api}/global/images/linux-debian-12-64-bit",
                    "diskType": f"{api}/zones/ch-gv2/diskTypes/pd-standard",
                },
            }
        ],
        "networkInterfaces": [
            {"network": f"{api}/global/networks/default", "accessConfigs": access}
        ],
        "metadata": {"kind": "compute#metadata", "items": []},
        "tags": {"items": []},
    }  # fmt: skip
    shown = poll(session, session.ask("POST", "/zones/ch-gv2/instances?alt=json", machine))
    assert shown["status"] == "RUNNING"
    zones = session.ask("GET", "/aggregated/instances?filter=name+eq+gcutil-1&maxResults=2")["items"]
    assert [item["name"] for item in zones["zones/ch-gv2"]["instances"]] == ["gcutil-1"]
    assert "warning" in zones["zones/ch-zh-1"]
    poll(session, session.ask("POST", "/zones/ch-gv2/instances/gcutil-1/reset?alt=json"))
    assert "contents" in session.ask("GET", "/zones/ch-gv2/instances/gcutil-1/serialPort")
    device = "deviceName=gcutil-1&autoDelete=true&alt=json"
    poll(session, session.ask("POST", f"/zones/ch-gv2/instances/gcutil-1/setDiskAutoDelete?{device}"))
    poll(session, session.ask("DELETE", "/zones/ch-gv2/instances/gcutil-1?alt=json"))
    poll(session, session.ask("DELETE", "/global/firewalls/gcutil-ssh?alt=json"))
    # A URI that is too long for the library is sent as a form with the method in a header.
    reply = session.http.post(
        f"{api}/zones",
        {"filter": "name eq ch-gv2", "alt": "json"},
        headers={"X-HTTP-Method-Override": "GET"},
        timeout=30,
    )
    assert [zone["name"] for zone in reply.json()["items"]] == ["ch-gv2"]


# gcloud


def batch(session: Session, parts: list[tuple[str, str, Any]]) -> list[tuple[int, Any]]:
    """The multipart body of gcloud: LF line ends, relative paths, identity only outside."""
    lines: list[str] = []
    for number, (method, path, payload) in enumerate(parts):
        lines += [
            "--===1==",
            "Content-Type: application/http",
            "MIME-Version: 1.0",
            f"Content-ID: <a-b-c+{number}>",
            "",
        ]
        lines += [f"{method} {path} HTTP/1.1", "content-type: application/json", "Host: somewhere", ""]
        lines += [json.dumps(payload) if payload is not None else "", ""]
    lines += ["--===1==--"]
    reply = session.http.post(
        f"{session.base}/batch/compute/v1",
        "\n".join(lines),
        headers={"content-type": 'multipart/mixed; boundary="===1=="'},
        timeout=180,
    )
    assert reply.status_code == 200, reply.text
    boundary = reply.headers["Content-Type"].partition("boundary=")[2]
    found: dict[int, tuple[int, Any]] = {}
    for part in reply.text.split(f"--{boundary}")[1:-1]:
        outer, inner, content = part.strip().split("\r\n\r\n", 2)
        number = int(outer.partition("+")[2].partition(">")[0])
        found[number] = (int(inner.split(" ")[1]), json.loads(content))
    return [found[number] for number in range(len(parts))]


def test_gcloud_session(stack: Stack) -> None:
    session = Session(stack, "google-cloud-sdk gcloud/512.0.0")
    where = "/compute/v1/projects/demo/zones/ch-gv2"
    image = "https://compute.googleapis.com/compute/v1/projects/debian-cloud/zones/-/imageFamilyViews/debian-12"
    wanted = []
    for name in ("gcloud-1", "gcloud-2"):
        machine = body(name) | {"canIpForward": False, "deletionProtection": False, "metadata": {}}
        machine["disks"][0]["initializeParams"]["sourceImage"] = image
        machine["machineType"] = f"{stack.url}{where}/machineTypes/micro"
        machine["scheduling"] = {"automaticRestart": True}
        wanted.append(("POST", f"{where}/instances?alt=json", machine))
    operations = batch(session, wanted)
    assert [status for status, _ in operations] == [200, 200]
    waits = [("POST", f"{where}/operations/{operation['name']}/wait?alt=json", None) for _, operation in operations]
    finished = [operation for _, operation in batch(session, waits)]
    assert [(operation["status"], operation.get("error")) for operation in finished] == [("DONE", None)] * 2
    for operation in finished:
        assert {"zone", "targetLink", "operationType", "selfLink"} <= operation.keys()
    gets = batch(
        session, [("GET", f"{where}/instances/{name}?alt=json", None) for name in ("gcloud-1", "nope", "gcloud-2")]
    )
    assert [status for status, _ in gets] == [200, 404, 200]
    query = "alt=json&includeAllScopes=True&maxResults=500&returnPartialSuccess=True"
    assert len(session.ask("GET", f"/aggregated/instances?{query}")["items"]["zones/ch-gv2"]["instances"]) >= 2
    deletes = batch(session, [("DELETE", f"{where}/instances/{name}", None) for name in ("gcloud-1", "gcloud-2")])
    batch(session, [("POST", f"{where}/operations/{one['name']}/wait", None) for _, one in deletes])
    left = session.ask("GET", "/zones/ch-gv2/instances").get("items", [])
    assert not {"gcloud-1", "gcloud-2"} & {item["name"] for item in left}


# Google's schemas


def differences(value: Any, schema: dict[str, Any], path: str) -> list[str]:
    """Where a value is not what the schema says; unknown fields included."""
    if "$ref" in schema:
        schema = GOOGLE["schemas"][schema["$ref"]]
    kind = schema.get("type")
    if kind == "object":
        if not isinstance(value, dict):
            return [f"{path}: {value!r} is no object"]
        known, more = schema.get("properties", {}), schema.get("additionalProperties")
        found = []
        for name, item in value.items():
            below = known.get(name, more)
            found += [f"{path}.{name}: unknown"] if below is None else differences(item, below, f"{path}.{name}")
        return found
    if kind == "array":
        if not isinstance(value, list):
            return [f"{path}: {value!r} is no list"]
        return [
            text for index, item in enumerate(value) for text in differences(item, schema["items"], f"{path}[{index}]")
        ]
    python = {"string": str, "boolean": bool, "integer": int, "number": (int, float)}[str(kind)]
    right = isinstance(value, python) and (kind == "boolean" or not isinstance(value, bool))  # type: ignore[arg-type]
    if schema.get("format") in ("int64", "uint64"):
        right = right and isinstance(value, str) and value.lstrip("-").isdigit()
    if "enum" in schema and value not in schema["enum"] and schema.get("readOnly"):
        right = False
    return [] if right else [f"{path}: {value!r} is no {kind} {schema.get('format', '')}"]


def test_answers_are_what_googles_schemas_say(stack: Stack) -> None:
    session = Session(stack, "tests")
    for zone, network in (("ch-gv2", "default"), ("ch-zh-1", "net-a")):
        stack.finish(session.ask("POST", f"/zones/{zone}/instances", body(f"schema-{zone}", zone, network)))
    rule = {"name": "schema", "allowed": [{"IPProtocol": "tcp", "ports": ["22"]}], "sourceTags": ["a"]}
    operation = stack.finish(session.ask("POST", "/global/firewalls", rule))
    assert differences(operation, {"$ref": "Operation"}, "operation") == []
    for path, schema in (
        ("", "Project"), ("/zones", "ZoneList"), ("/regions", "RegionList"), ("/global/images", "ImageList"),
        ("/global/networks", "NetworkList"), ("/global/routes", "RouteList"), ("/global/firewalls", "FirewallList"),
        ("/global/operations", "OperationList"), ("/aggregated/operations", "OperationAggregatedList"),
        ("/aggregated/instances", "InstanceAggregatedList"), ("/zones/ch-zh-1/instances", "InstanceList"),
        ("/aggregated/disks", "DiskAggregatedList"), ("/zones/ch-gv2/disks", "DiskList"),
        ("/aggregated/machineTypes", "MachineTypeAggregatedList"), ("/aggregated/diskTypes", "DiskTypeAggregatedList"),
        ("/aggregated/acceleratorTypes", "AcceleratorTypeAggregatedList"),
        ("/aggregated/addresses", "AddressAggregatedList"),
        ("/aggregated/subnetworks", "SubnetworkAggregatedList"), ("/global/licenses/x", "License"),
        ("/zones/ch-gv2/instances/schema-ch-gv2/serialPort", "SerialPortOutput"),
    ):  # fmt: skip
        assert differences(session.ask("GET", path), {"$ref": schema}, schema) == [], path
    for path in (
        "/zones/ch-gv2/instances/schema-ch-gv2",
        "/zones/ch-zh-1/instances/schema-ch-zh-1",
        "/global/firewalls/schema",
    ):
        stack.finish(session.ask("DELETE", path))
