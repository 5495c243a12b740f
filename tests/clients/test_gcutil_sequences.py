"""What gcutil 1.16 sends, request by request, as it was seen on the wire: links of its own host, numeric protocols."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import requests

from tests.clients.conftest import Stack
from tests.clients.sequences import ISOLATED, SECURITY_GROUPS, Session, check_schema

AGENT = "Cloud SDK Command Line Tool google-api-python-client/1.0"
NEEDED = {
    "disks", "firewalls", "globalOperations", "images", "instances", "machineTypes", "networks", "projects", "routes",
    "snapshots", "zoneOperations", "zones",
}  # fmt: skip
NAT = {"type": "ONE_TO_ONE_NAT", "name": "External NAT"}


class Gcutil(Session):
    """gcutil polls the operation in the scope that its selfLink tells, and reads targetLink as it is."""

    def __init__(self, stack: Stack, version: str = "v1"):
        super().__init__(stack, AGENT)
        self.project = f"{stack.url}/compute/{version}/projects/demo"

    def links(self, answer: Any) -> list[str]:
        return re.findall(r'"(https?://[^"]*/compute/[^"]*)"', json.dumps(answer))

    def ask(self, method: str, url: str, payload: Any = None, **options: Any) -> Any:
        answer = super().ask(method, url, payload, **options)
        if "/discovery/" not in url:
            own = re.compile(rf"{re.escape(self.base)}/compute/\w*/projects/")
            wrong = [link for link in self.links(answer) if not own.match(link)]
            assert wrong == [], "gcutil takes only links of its own host apart"
        return answer

    def find(self, collection: str, name: str) -> str:
        """The zone of a resource that was named without one."""
        items = self.ask("GET", f"/aggregated/{collection}?filter=name+eq+{name}&maxResults=2&alt=json")["items"]
        assert isinstance(items, dict)
        found = [scope for scope, content in items.items() if content.get(collection)]
        assert len(found) == 1, items
        return found[0].partition("/")[2]

    def poll(self, operation: dict[str, Any]) -> Any:
        assert operation["kind"] == "compute#operation"
        check_schema(operation, "Operation")
        link = operation["selfLink"]
        while operation["status"] != "DONE":
            operation = self.ask("GET", f"{link}?alt=json")
            assert operation["selfLink"] == link
        assert "error" not in operation, operation
        return operation if operation["operationType"] == "delete" else self.ask("GET", operation["targetLink"])


@pytest.fixture
def gcutil(stack: Stack) -> Gcutil:
    return Gcutil(stack)


@pytest.mark.parametrize("version", ["v1", "v1beta16"])
def test_discovery_comes_before_each_command(stack: Stack, version: str) -> None:
    gcutil = Gcutil(stack, version)
    url = f"{stack.url}/discovery/v1/apis/compute/{version}/rest"
    first = gcutil.http.get(url, timeout=10)
    document = first.json()
    assert document["version"] == version
    assert document["rootUrl"] + document["servicePath"] == f"{stack.url}/compute/{version}/projects/"
    assert document["resources"].keys() >= NEEDED | ({"kernels"} if version == "v1beta16" else set())
    assert '"pattern"' not in first.text
    # Every parameter of a path is declared, and what a method takes and gives is among the schemas.
    for resource in document["resources"].values():
        for method in resource["methods"].values():
            assert set(re.findall(r"{(\w+)}", method["path"])) <= method["parameters"].keys()
            for side in ("request", "response"):
                assert side not in method or method[side]["$ref"] in document["schemas"]
    etag = first.headers["ETag"]
    again = gcutil.http.get(url, headers={"If-None-Match": etag}, timeout=10)
    assert (again.status_code, again.content) == (304, b"")
    assert gcutil.http.get(url, headers={"If-None-Match": '"other"'}, timeout=10).status_code == 200
    # Without a token, too: only the API asks for one.
    assert requests.get(url, timeout=10).headers["ETag"] == etag
    assert [zone["name"] for zone in gcutil.ask("GET", "/zones?alt=json&maxResults=500")["items"]] == [
        "ch-gv2",
        "ch-zh-1",
    ]


@pytest.mark.parametrize("version", ["v1", "v1beta16"])
def test_lists_and_gets(stack: Stack, version: str) -> None:
    gcutil = Gcutil(stack, version)
    for path in (
        "/zones", "/regions", "/global/images", "/global/firewalls", "/global/networks", "/global/routes",
        "/global/operations", "/zones/ch-gv2/instances", "/zones/ch-gv2/disks", "/zones/ch-gv2/machineTypes",
        "/zones/ch-gv2/operations", "/regions/ch/operations",
    ):  # fmt: skip
        found = gcutil.ask("GET", f"{path}?alt=json&maxResults=500")
        assert found["kind"].endswith("List")
        for item in found.get("items", []):
            assert item["selfLink"]
    for collection in ("machineTypes", "diskTypes", "disks", "instances", "operations", "addresses"):
        found = gcutil.ask("GET", f"/aggregated/{collection}?alt=json&maxResults=500")
        assert found["kind"].endswith("AggregatedList")
        assert isinstance(found["items"], dict)
    # Prompts show the description of a type, and the bare name of its zone.
    for item in gcutil.ask("GET", "/zones/ch-gv2/machineTypes?alt=json")["items"]:
        assert item["description"]
        assert item["zone"] == "ch-gv2"
    quotas = {quota["metric"] for quota in gcutil.ask("GET", "?alt=json")["quotas"]}
    assert quotas
    verbatim = gcutil.ask("GET", "/zones/CH-GV2?alt=json")
    assert verbatim["name"] == "ch-gv2"
    assert gcutil.ask("GET", "/global/images/Linux%20Debian%2012%2064-bit?alt=json")["status"] == "READY"


def test_seven_image_projects(gcutil: Gcutil) -> None:
    for project in (
        "demo", "debian-cloud", "centos-cloud", "rhel-cloud", "suse-cloud", "opensuse-cloud", "windows-cloud",
    ):  # fmt: skip
        url = f"{gcutil.base}/compute/v1/projects/{project}/global/images?alt=json&maxResults=500"
        found = gcutil.ask("GET", url)
        assert found["kind"] == "compute#imageList"
        systems = {item["name"].split("-")[0 if "windows" in item["name"] else 1] for item in found.get("items", [])}
        if project != "demo":
            assert systems <= {project.partition("-")[0]} | {"5"}, systems
            assert bool(systems) == (project in ("debian-cloud", "centos-cloud", "windows-cloud"))


def test_firewall_with_numeric_protocols(gcutil: Gcutil) -> None:
    rule = {
        "kind": "compute#firewall",
        "name": "gcutil-rule",
        "description": "",
        "network": f"{gcutil.project}/global/networks/default",
        "sourceRanges": ["0.0.0.0/0"],
        "allowed": [
            {"IPProtocol": "6", "ports": ["22", "80-90"]},
            {"IPProtocol": "17", "ports": ["53"]},
            {"IPProtocol": "1"},
        ],
    }
    shown = gcutil.poll(gcutil.ask("POST", "/global/firewalls?alt=json", rule))
    assert [(one["IPProtocol"], one.get("ports")) for one in shown["allowed"]] == [
        ("tcp", ["22", "80-90"]),
        ("udp", ["53"]),
        ("icmp", None),
    ]
    assert shown["network"] == rule["network"]
    gcutil.poll(gcutil.ask("DELETE", "/global/firewalls/gcutil-rule?alt=json"))
    assert gcutil.send("GET", "/global/firewalls/gcutil-rule").status_code == 404


@pytest.mark.parametrize(
    ("version", "zone", "network"), [("v1", *SECURITY_GROUPS), ("v1", *ISOLATED), ("v1beta16", *SECURITY_GROUPS)]
)
def test_life_of_an_instance(stack: Stack, version: str, zone: str, network: str) -> None:
    gcutil = Gcutil(stack, version)
    name = f"gcutil-{zone}"
    where = f"/zones/{zone}/instances"
    machine = {
        "kind": "compute#instance",
        "name": name,
        "description": "",
        "machineType": f"{gcutil.project}/zones/{zone}/machineTypes/micro",
        "disks": [
            {
                "type": "PERSISTENT", "mode": "READ_WRITE", "boot": True, "deviceName": name, "autoDelete": False,
                "initializeParams": {
                    "diskName": name,
                    "sourceImage": f"{gcutil.project}/global/images/linux-debian-12-64-bit",
                    "diskType": f"{gcutil.project}/zones/{zone}/diskTypes/pd-standard",
                    "diskSizeGb": 12,
                },
            }
        ],
        "networkInterfaces": [{"network": f"{gcutil.project}/global/networks/{network}", "accessConfigs": [NAT]}],
        "metadata": {"kind": "compute#metadata", "items": [{"key": "k", "value": "v"}]},
        "tags": {"items": ["web"]},
        "canIpForward": True,
        "serviceAccounts": [{"email": "default", "scopes": ["https://www.googleapis.com/auth/compute"]}],
    }  # fmt: skip
    shown = gcutil.poll(gcutil.ask("POST", f"{where}?alt=json", machine))
    assert (shown["status"], shown["canIpForward"]) == ("RUNNING", True)
    address = gcutil.ask("GET", "")["defaultServiceAccount"]
    assert shown["serviceAccounts"] == [{**machine["serviceAccounts"][0], "email": address}]
    interface = shown["networkInterfaces"][0]
    assert interface["network"] == f"{gcutil.project}/global/networks/{network}"
    assert (interface["accessConfigs"][0]["name"], interface["accessConfigs"][0]["type"]) == (NAT["name"], NAT["type"])
    assert interface["accessConfigs"][0]["natIP"]

    assert gcutil.find("instances", name) == zone
    assert gcutil.find("disks", name) == zone
    one = f"{where}/{name}"
    gcutil.poll(gcutil.ask("POST", f"{one}/reset?alt=json"))
    changed = {"kind": "compute#metadata", "fingerprint": shown["metadata"]["fingerprint"], "items": []}
    assert "items" not in gcutil.poll(gcutil.ask("POST", f"{one}/setMetadata?alt=json", changed))["metadata"]
    tags = {"items": ["db"], "fingerprint": shown["tags"]["fingerprint"]}
    assert gcutil.poll(gcutil.ask("POST", f"{one}/setTags?alt=json", tags))["tags"]["items"] == ["db"]
    assert "createConsoleEndpoint" in gcutil.ask("GET", f"{one}/serialPort?alt=json")["contents"]

    # deleteinstance with --delete_boot_pd: reads the disks, changes autoDelete, deletes.
    disk = gcutil.ask("GET", f"{where}?filter=name+eq+{name}&maxResults=2&alt=json")["items"][0]["disks"][0]
    assert (disk["type"], disk["boot"], disk["autoDelete"]) == ("PERSISTENT", True, False)
    query = f"deviceName={disk['deviceName']}&autoDelete=true&alt=json"
    assert gcutil.poll(gcutil.ask("POST", f"{one}/setDiskAutoDelete?{query}"))["disks"][0]["autoDelete"] is True
    operation = gcutil.poll(gcutil.ask("DELETE", f"{one}?alt=json"))
    assert gcutil.send("GET", one).status_code == 404
    assert gcutil.send("GET", f"/zones/{zone}/disks/{name}").status_code == 404

    name = operation["name"]
    assert gcutil.find("operations", name) == zone
    assert gcutil.ask("GET", f"/zones/{zone}/operations/{name}?alt=json") == operation
    # gcutil leaves alt=json out where the document names no answer.
    assert gcutil.send("DELETE", f"/zones/{zone}/operations/{name}").status_code in (200, 204)
    assert gcutil.send("GET", f"/zones/{zone}/operations/{name}").status_code == 404


def test_ssh_keys_of_the_project(gcutil: Gcutil) -> None:
    before = gcutil.ask("GET", "?alt=json")["commonInstanceMetadata"]
    items = [{"key": "sshKeys", "value": "joe:ssh-rsa AAAA joe@host"}]
    # `gcutil ssh` sends no fingerprint, and then reads the project.
    changed = gcutil.poll(gcutil.ask("POST", "/setCommonInstanceMetadata?alt=json", {"items": items}))
    assert changed["kind"] == "compute#project"
    assert changed["commonInstanceMetadata"]["items"] == items
    back = {"items": before.get("items", []), "fingerprint": changed["commonInstanceMetadata"]["fingerprint"]}
    assert gcutil.poll(gcutil.ask("POST", "/setCommonInstanceMetadata", back))["commonInstanceMetadata"] == before


def test_long_requests_come_as_forms(gcutil: Gcutil) -> None:
    """A URI that is too long for the library is sent as a form, with the method in a header."""
    others = "".join(f"(name ne zone-{number})" for number in range(100))
    reply = gcutil.http.post(
        f"{gcutil.project}/zones",
        {"filter": f"(name eq ch-gv2){others}", "alt": "json", "maxResults": "500"},
        headers={"X-HTTP-Method-Override": "GET"},
        timeout=30,
    )
    assert reply.status_code == 200, reply.text
    assert [zone["name"] for zone in reply.json()["items"]] == ["ch-gv2"]


def test_what_it_cannot_do_yet(gcutil: Gcutil) -> None:
    """One line for the user of gcutil: the message, never a traceback of its JSON reader."""
    for method, path, payload in (
        ("GET", "/global/httpHealthChecks?alt=json", None),
        ("POST", "/regions/ch/targetPools?alt=json", {"kind": "compute#targetPool", "name": "x"}),
    ):
        reply = gcutil.send(method, path, payload)
        assert reply.status_code == 400
        assert isinstance(reply.json()["error"]["message"], str)
    # It may speak v1beta16, and then it looks for kernels, of which there are none.
    url = f"{gcutil.base}/compute/v1beta16/projects/demo/global"
    assert gcutil.send("GET", f"{url}/kernels?alt=json&maxResults=500").json()["items"] == []
    assert gcutil.send("GET", f"{url}/kernels/x?alt=json").status_code == 404
    assert gcutil.send("GET", f"{url}/httpHealthChecks?alt=json").status_code == 400
