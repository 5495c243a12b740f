"""What gcloud 512 and its elders send: batches with bare line feeds, `wait` for each operation, `True` and `False`."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.conftest import Stack
from tests.clients.sequences import KINDS_OF_ZONE, Session, check_schema, machine, refused, until

AGENT = "google-cloud-sdk gcloud/512.0.0 command/gcloud.compute.instances.create"
ALL_SCOPES = "alt=json&includeAllScopes=True&maxResults=500&returnPartialSuccess=True"
# Of gcloud 528; 512 knows three of them fewer.
PUBLIC_PROJECTS = (
    "centos-cloud", "cos-cloud", "debian-cloud", "fedora-coreos-cloud", "opensuse-cloud", "oracle-linux-cloud",
    "rhel-cloud", "rhel-sap-cloud", "rocky-linux-accelerator-cloud", "rocky-linux-cloud", "suse-cloud",
    "suse-sap-cloud", "ubuntu-os-accelerator-images", "ubuntu-os-cloud", "ubuntu-os-pro-cloud", "windows-cloud",
    "windows-sql-cloud",
)  # fmt: skip
FAMILY_VIEW = "https://compute.googleapis.com/compute/v1/projects/debian-cloud/zones/-/imageFamilyViews/debian-12"


class Gcloud(Session):
    def __init__(self, stack: Stack):
        super().__init__(stack, AGENT)

    def wait(self, operation: dict[str, Any]) -> Any:
        """The scope comes from the fields of the operation, and the target from the last segment of its link."""
        check_schema(operation, "Operation")
        assert operation["operationType"]
        link = operation["selfLink"]
        scope = f"zones/{operation['zone'].rpartition('/')[2]}" if "zone" in operation else "global"
        while True:
            operation = self.ask("POST", f"/{scope}/operations/{operation['name']}/wait?alt=json", None)
            assert operation["selfLink"] == link
            if operation["status"] == "DONE":
                break
        assert "error" not in operation, operation
        if operation["operationType"].endswith("delete"):
            return operation
        collection, name = operation["targetLink"].rsplit("/", 2)[1:]
        path = f"/{scope}/{collection}/{name}" if collection != "projects" else ""
        return self.ask("GET", f"{path}?alt=json")


@pytest.fixture
def gcloud(stack: Stack) -> Gcloud:
    return Gcloud(stack)


def creation(gcloud: Gcloud, name: str, zone: str, network: str) -> dict[str, Any]:
    """What `instances create` sends: no name for the disk or the device, and the image as a view of a family."""
    project = gcloud.project
    return {
        "canIpForward": False,
        "deletionProtection": False,
        "disks": [
            {
                "autoDelete": True,
                "boot": True,
                "initializeParams": {"sourceImage": FAMILY_VIEW, "diskSizeGb": "20"},
                "mode": "READ_WRITE",
                "type": "PERSISTENT",
            }
        ],
        "machineType": f"{project}/zones/{zone}/machineTypes/micro",
        "metadata": {},
        "name": name,
        "networkInterfaces": [
            {
                "accessConfigs": [{"name": "external-nat", "type": "ONE_TO_ONE_NAT"}],
                "network": f"{project}/global/networks/{network}",
            }
        ],
        "scheduling": {"automaticRestart": True},
    }


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_images_list_is_one_batch(gcloud: Gcloud, newline: str) -> None:
    query = "global/images?alt=json&maxResults=500"
    parts = [("GET", f"/compute/v1/projects/{project}/{query}", None) for project in ("demo", *PUBLIC_PROJECTS)]
    answers = gcloud.batch(parts, newline=newline)
    assert [status for status, _ in answers] == [200] * len(parts)
    names = {
        project: [item["name"] for item in answer.get("items", [])]
        for project, (_, answer) in zip(("demo", *PUBLIC_PROJECTS), answers, strict=True)
    }
    assert len(names["demo"]) == 13
    assert names["debian-cloud"] == ["linux-debian-12-64-bit"]
    assert names["rhel-cloud"] == []
    for _, answer in answers:
        check_schema(answer, "ImageList")


def test_batch_parts_succeed_and_fail_alone(gcloud: Gcloud) -> None:
    base = "/compute/v1/projects/demo"
    answers = gcloud.batch(
        [
            ("GET", f"{base}/zones/ch-gv2?alt=json", None),
            ("GET", f"{base}/zones/nope?alt=json", None),
            ("PUT", f"{base}/zones", None),
            ("GET", "/elsewhere", None),
            ("GET", f"{base}/global/httpHealthChecks?alt=json", None),
            ("POST", f"{base}/zones/ch-gv2/instances", {"name": "Bad_Name"}),
            ("GET", "/compute/v1/projects/ian@example.org/zones", None),
            ("POST", "/batch/compute/v1", None),
            ("GET", f"{base}/regions/ch?alt=json", None),
        ]
    )
    assert [status for status, _ in answers][:7] == [200, 404, 405, 404, 400, 400, 404]
    assert answers[7][0] >= 400
    assert answers[8][1]["name"] == "ch"
    for status, answer in answers:
        assert status == 200 or answer["error"]["code"] == status


def test_a_single_request_in_a_batch(gcloud: Gcloud) -> None:
    """gcloud 300 and 400 put every request into one."""
    ((status, zones),) = gcloud.batch([("GET", "/compute/v1/projects/demo/zones?alt=json&maxResults=500", None)])
    assert status == 200
    check_schema(zones, "ZoneList")
    # `/batch` alone is where the oldest sent it.
    assert gcloud.http.post(f"{gcloud.base}/batch/compute/v1", b"", timeout=10).status_code == 400


@pytest.mark.parametrize(("zone", "network"), KINDS_OF_ZONE)
def test_two_instances_at_once(gcloud: Gcloud, zone: str, network: str) -> None:
    where = f"/compute/v1/projects/demo/zones/{zone}"
    assert gcloud.ask("GET", f"/zones/{zone}?alt=json")["status"] == "UP"
    assert gcloud.ask("GET", "?alt=json")["name"] == "demo"
    names = [f"gcloud-{zone}-1", f"gcloud-{zone}-2"]
    inserts = gcloud.batch(
        [("POST", f"{where}/instances?alt=json", creation(gcloud, name, zone, network)) for name in names]
    )
    assert [status for status, _ in inserts] == [200, 200], inserts
    pending = [operation for _, operation in inserts]
    waits = [("POST", f"{where}/operations/{one['name']}/wait?alt=json", None) for one in pending]

    def done() -> bool:
        """A batch says how things are; gcloud asks again, after one second, two, up to five."""
        pending[:] = [operation for _, operation in gcloud.batch(waits)]
        return all(one["status"] == "DONE" for one in pending)

    until(done)
    for operation, name in zip(pending, names, strict=True):
        assert operation["status"] == "DONE"
        assert "error" not in operation
        assert operation["targetLink"].endswith(f"/zones/{zone}/instances/{name}")
        assert operation["zone"].endswith(f"/zones/{zone}")
        check_schema(operation, "Operation")
    gets = gcloud.batch([("GET", f"{where}/instances/{name}?alt=json", None) for name in names])
    assert [(status, one["name"], one["status"]) for status, one in gets] == [(200, name, "RUNNING") for name in names]
    assert len({one["id"] for _, one in gets}) == 2
    # The server names disk and device where gcloud does not.
    assert [one["disks"][0]["source"].rpartition("/")[2] for _, one in gets] == names
    assert all(one["disks"][0]["deviceName"] for _, one in gets)
    assert all(one["networkInterfaces"][0]["accessConfigs"][0]["name"] == "external-nat" for _, one in gets)

    listed = gcloud.ask("GET", f"/aggregated/instances?{ALL_SCOPES}")["items"]
    assert {item["name"] for item in listed[f"zones/{zone}"]["instances"]} >= set(names)
    sources = gcloud.batch([("GET", f"{where}/disks/{name}?alt=json", None) for name in names])
    assert all(disk["sourceImage"].endswith("/linux-debian-12-64-bit") for _, disk in sources)
    deletes = gcloud.batch([("DELETE", f"{where}/instances/{name}?alt=json", None) for name in names])
    for _, operation in deletes:
        assert gcloud.wait(operation)["operationType"] == "delete"
    gone = gcloud.batch([("GET", f"{where}/instances/{name}?alt=json", None) for name in names])
    assert [status for status, _ in gone] == [404, 404]


def test_commands_on_one_instance(gcloud: Gcloud) -> None:
    one = "/zones/ch-gv2/instances/gcloud-one"
    operation = gcloud.ask(
        "POST", "/zones/ch-gv2/instances?alt=json", creation(gcloud, "gcloud-one", *KINDS_OF_ZONE[0])
    )
    shown = gcloud.wait(operation)
    # stop, start: their poller asks `wait` at least once, also for what is done.
    assert gcloud.wait(gcloud.ask("POST", f"{one}/stop?alt=json"))["status"] == "TERMINATED"
    assert gcloud.wait(gcloud.ask("POST", f"{one}/start?alt=json"))["status"] == "RUNNING"
    assert gcloud.wait(gcloud.ask("POST", f"{one}/reset?alt=json"))["status"] == "RUNNING"
    # add-metadata and remove-metadata: items is left out when nothing is left.
    body = {"fingerprint": shown["metadata"]["fingerprint"], "items": [{"key": "a", "value": "b"}]}
    changed = gcloud.wait(gcloud.ask("POST", f"{one}/setMetadata?alt=json", body))
    assert changed["metadata"]["items"] == body["items"]
    emptied = {"fingerprint": changed["metadata"]["fingerprint"]}
    assert gcloud.wait(gcloud.ask("POST", f"{one}/setMetadata?alt=json", emptied))["metadata"] == shown["metadata"]
    tags = {"fingerprint": shown["tags"]["fingerprint"], "items": ["web"]}
    assert gcloud.wait(gcloud.ask("POST", f"{one}/setTags?alt=json", tags))["tags"]["items"] == ["web"]
    labels = {"labelFingerprint": shown["labelFingerprint"], "labels": {"env": "test"}}
    assert gcloud.wait(gcloud.ask("POST", f"{one}/setLabels?alt=json", labels))["labels"] == {"env": "test"}
    assert gcloud.send("POST", f"{one}/setLabels?alt=json", labels).status_code == 412
    serial = gcloud.ask("GET", f"{one}/serialPort?port=1&alt=json")
    assert "createConsoleEndpoint" in serial["contents"] and serial["contents"].count("\n") == 1
    assert (serial["start"], serial["next"]) == ("0", str(len(serial["contents"])))
    # delete --keep-disks, as it is written in Python.
    device = shown["disks"][0]["deviceName"]
    kept = gcloud.wait(gcloud.ask("POST", f"{one}/setDiskAutoDelete?autoDelete=False&deviceName={device}&alt=json"))
    assert kept["disks"][0]["autoDelete"] is False
    query = f"autoDelete=True&deviceName={device}&alt=json"
    assert gcloud.wait(gcloud.ask("POST", f"{one}/setDiskAutoDelete?{query}"))["disks"][0]["autoDelete"] is True
    gcloud.wait(gcloud.ask("DELETE", f"{one}?alt=json"))
    assert gcloud.send("GET", f"{one}?alt=json").status_code == 404


def test_firewall_rules(gcloud: Gcloud) -> None:
    """Protocols by name, one entry each; neither sources nor a priority unless they were given."""
    rule = {
        "allowed": [{"IPProtocol": "tcp", "ports": ["22"]}, {"IPProtocol": "icmp"}],
        "direction": "INGRESS",
        "name": "gcloud-rule",
        "network": f"{gcloud.project}/global/networks/default",
    }
    shown = gcloud.wait(gcloud.ask("POST", "/global/firewalls?alt=json", rule))
    assert (shown["sourceRanges"], shown["priority"], shown["allowed"]) == (["0.0.0.0/0"], 1000, rule["allowed"])
    assert shown["disabled"] is False
    listed = gcloud.ask("GET", r'/global/firewalls?alt=json&filter=name eq ".*\bgcloud\-rule\b.*"&maxResults=500')
    assert [item["name"] for item in listed["items"]] == ["gcloud-rule"]
    gcloud.wait(gcloud.ask("DELETE", "/global/firewalls/gcloud-rule?alt=json"))
    assert gcloud.send("GET", "/global/firewalls/gcloud-rule").status_code == 404


@pytest.mark.parametrize(
    ("path", "text", "names"),
    [
        ("/zones", r'name eq ".*\bch\-gv2\b.*"', ["ch-gv2"]),
        ("/zones", r'(name eq ".*\bch\-.*")(status eq UP)', ["ch-gv2", "ch-zh-1"]),
        ("/zones", r'region ne ".*\bch\b"', ["ch-zh-1"]),
        ("/regions", r'name ne ".*(^ch-zh).*"', ["ch"]),
        ("/global/networks", "name eq ^net-a$", ["net-a"]),
        ("/global/images", r"name eq ^linux-debian-12(-.+)*", ["linux-debian-12-64-bit"]),
        ("/global/images", r"name eq ^centos-7(-.+)*-v.+", []),
        ("/zones/ch-gv2/machineTypes", "guestCpus eq 8", ["huge"]),
        ("/zones/ch-gv2/diskTypes", "name eq pd-s.+", ["pd-ssd", "pd-standard"]),
    ],
)
def test_filters_as_gcloud_writes_them(gcloud: Gcloud, path: str, text: str, names: list[str]) -> None:
    found = gcloud.ask("GET", path, params={"alt": "json", "maxResults": 500, "filter": text})
    assert [item["name"] for item in found.get("items", [])] == names


def test_aggregated_lists_have_all_scopes(gcloud: Gcloud) -> None:
    for collection in ("instances", "disks", "machineTypes", "diskTypes", "acceleratorTypes"):
        items = gcloud.ask("GET", f"/aggregated/{collection}?{ALL_SCOPES}")["items"]
        assert {"zones/ch-gv2", "zones/ch-zh-1"} <= items.keys()
        for content in items.values():
            assert (collection in content) != (content.get("warning", {}).get("code") == "NO_RESULTS_ON_PAGE")
    operations = gcloud.ask("GET", "/aggregated/operations?alt=json&maxResults=500&returnPartialSuccess=True")
    for content in operations["items"].values():
        for item in content.get("operations", []):
            assert {"kind", "name", "operationType", "selfLink", "status", "targetLink"} <= item.keys()


def test_an_image_by_each_name(gcloud: Gcloud) -> None:
    """`--image`, `--image-family`, and the default, with names as they are and as they were escaped or not."""
    for image in (
        f"{gcloud.project}/global/images/linux-debian-12-64-bit",
        f"{gcloud.project}/global/images/Linux Debian 12 64-bit",
        f"{gcloud.project}/global/images/Linux%20Debian%2012%2064-bit",
        f"{gcloud.project}/global/images/family/linux-debian-12-64-bit",
        "projects/debian-cloud/global/images/family/debian-12",
        "projects/debian-cloud/zones/-/imageFamilyViews/debian-12",
    ):
        wanted = machine("gcloud-image")
        # Smaller than the image: who is told so has found it.
        wanted["disks"][0]["initializeParams"] = {"sourceImage": image, "diskSizeGb": "1"}
        refused(gcloud.send("POST", "/zones/ch-gv2/instances?alt=json", wanted), 400, "diskSizeGb")
