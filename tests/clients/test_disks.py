"""Disks as each client makes, reads, changes and deletes them: gcutil, gcloud, libcloud, Terraform's requests."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from libcloud.common.google import GoogleBaseError, ResourceExistsError, ResourceNotFoundError

from tests.clients.conftest import Stack
from tests.clients.sequences import check_schema, cloud, machine, refused
from tests.clients.test_gcloud_sequences import Gcloud
from tests.clients.test_gcutil_sequences import Gcutil
from tests.clients.test_libcloud import connect

ZONE = "ch-zh-1"
IMAGE = "projects/debian-cloud/global/images/family/debian-12"


@pytest.fixture
def gcutil(stack: Stack) -> Gcutil:
    return Gcutil(stack)


@pytest.fixture
def gcloud(stack: Stack) -> Gcloud:
    return Gcloud(stack)


@pytest.fixture(scope="module")
def driver(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tmp_path_factory.mktemp("libcloud") / "token.json"
    file.write_text(json.dumps({"access_token": stack.token(), "expire_time": "2099-01-01T00:00:00Z"}))
    found = connect(stack, file)
    found.connection.poll_interval = 0.2
    return found


@pytest.mark.parametrize("version", ["v1", "v1beta16"])
def test_gcutil(stack: Stack, version: str) -> None:
    """adddisk, adddisk --source_image, listdisks, getdisk, deletedisk."""
    gcutil = Gcutil(stack, version)
    type = f"{gcutil.project}/zones/{ZONE}/diskTypes/pd-standard"
    body = {"kind": "compute#disk", "name": "gu-blank", "description": "d", "sizeGb": "500", "type": type}
    disk = gcutil.poll(gcutil.ask("POST", f"/zones/{ZONE}/disks?alt=json", body))
    assert (disk["kind"], disk["sizeGb"], disk["description"]) == ("compute#disk", "500", "d")
    image = f"{gcutil.project}/global/images/linux-debian-12-64-bit"
    # v1beta16 calls it an instance.
    body = {"kind": "compute#instance", "name": "gu-image", "description": ""}
    operation = gcutil.ask("POST", f"/zones/{ZONE}/disks?alt=json&sourceImage={image}", body)
    assert gcutil.poll(operation)["sourceImage"] == image
    names = ["gu-blank", "gu-image"]
    listed = gcutil.ask("GET", f"/zones/{ZONE}/disks?alt=json&filter=name+eq+gu-.*")["items"]
    assert [one["name"] for one in listed] == names
    for name in names:
        assert gcutil.find("disks", name) == ZONE
        gcutil.poll(gcutil.ask("DELETE", f"/zones/{ZONE}/disks/{name}?alt=json"))
        assert gcutil.send("GET", f"/zones/{ZONE}/disks/{name}?alt=json").status_code == 404


def test_gcloud(gcloud: Gcloud) -> None:
    """disks create (blank, --image-family, --source-disk, --source-snapshot), list, resize, add-labels, update,
    delete."""
    zone = f"/zones/{ZONE}"
    disks: dict[str, dict[str, Any]] = {
        "gc-blank": {"sizeGb": "20", "type": f"{gcloud.project}{zone}/diskTypes/pd-ssd", "labels": {"a": "b"}},
        "gc-image": {"sizeGb": "12", "sourceImage": f"{gcloud.base}/compute/v1/{IMAGE}"},
        "gc-copy": {"sourceDisk": f"{gcloud.project}{zone}/disks/gc-blank"},
    }
    for name, body in disks.items():
        assert gcloud.ask("GET", f"{zone}?alt=json")["status"] == "UP"
        made = gcloud.wait(gcloud.ask("POST", f"{zone}/disks?alt=json", {"name": name, **body}))
        check_schema(made, "Disk")
        assert (made["name"], made["status"]) == (name, "READY")
    assert made["sizeGb"] == "20" and made["type"].endswith("/pd-ssd")
    found = gcloud.ask("GET", "/aggregated/disks?alt=json&includeAllScopes=True&maxResults=500")
    check_schema(found, "DiskAggregatedList")
    assert disks.keys() <= {one["name"] for one in found["items"][f"zones/{ZONE}"]["disks"]}
    for name in ("gc-blank", "gc-image"):
        resized = gcloud.wait(gcloud.ask("POST", f"{zone}/disks/{name}/resize?alt=json", {"sizeGb": "30"}))
        assert resized["sizeGb"] == "30"
        body = {"labelFingerprint": resized["labelFingerprint"], "labels": {"team": "x"}}
        labelled = gcloud.wait(gcloud.ask("POST", f"{zone}/disks/{name}/setLabels?alt=json", body))
        assert labelled["labels"] == {"team": "x"}
        refused(gcloud.send("POST", f"{zone}/disks/{name}/setLabels?alt=json", body), 412)
        path = f"{zone}/disks/{name}?alt=json&paths=sizeGb"
        assert gcloud.wait(gcloud.ask("PATCH", path, {"name": name, "sizeGb": "31"}))["sizeGb"] == "31"
        error = refused(gcloud.send("POST", f"{zone}/disks/{name}/resize?alt=json", {"sizeGb": "30"}), 400)
        assert "must be larger than existing size '31' GiB" in error["message"]
    # A snapshot needs something to be a snapshot of.
    with_disk = machine("gc-vm", ZONE, "net-a")
    gcloud.wait(gcloud.ask("POST", f"{zone}/instances?alt=json", with_disk))
    # The link of the operation is that of the disk, and another one that of the snapshot.
    operation = gcloud.ask("POST", f"{zone}/disks/gc-vm/createSnapshot?alt=json&guestFlush=False", {"name": "gc-snap"})
    gcloud.wait(operation)
    snapshot = gcloud.ask("GET", "/global/snapshots/gc-snap?alt=json")
    body = {"name": "gc-snapped", "sizeGb": "15", "sourceSnapshot": snapshot["selfLink"]}
    made = gcloud.wait(gcloud.ask("POST", f"{zone}/disks?alt=json", body))
    assert (made["sourceSnapshot"], made["sourceSnapshotId"]) == (snapshot["selfLink"], snapshot["id"])
    assert made["sizeGb"] == "15" and "sourceImage" not in made
    error = refused(gcloud.send("DELETE", f"{zone}/disks/gc-vm?alt=json"), 400, "is already being used by")
    assert error["errors"][0]["reason"] == "resourceInUseByAnotherResource"
    gcloud.wait(gcloud.ask("DELETE", f"{zone}/instances/gc-vm?alt=json"))
    for name in (*disks, "gc-snapped"):
        gcloud.wait(gcloud.ask("DELETE", f"{zone}/disks/{name}?alt=json"))
    gcloud.wait(gcloud.ask("DELETE", "/global/snapshots/gc-snap?alt=json"))
    assert "gc-" not in json.dumps(gcloud.ask("GET", f"{zone}/disks?alt=json"))


def test_libcloud(driver: Any) -> None:
    blank = driver.create_volume(5, "lc-blank", location=ZONE)
    assert (blank.size, blank.extra["zone"].name, blank.extra["type"]) == ("5", ZONE, "pd-standard")
    # The driver answers with what there is already, unless it is told otherwise.
    assert driver.create_volume(5, "lc-blank", location=ZONE).id == blank.id
    with pytest.raises(ResourceExistsError):
        driver.create_volume(5, "lc-blank", location=ZONE, use_existing=False)
    boot = driver.create_volume(None, "lc-boot", location=ZONE, image="linux-debian-12-64-bit", ex_disk_type="pd-ssd")
    assert (boot.size, boot.extra["type"]) == ("10", "pd-ssd")
    assert boot.extra["sourceImage"].endswith("/linux-debian-12-64-bit")
    for volume in (blank, boot):
        assert driver.ex_resize_volume(volume, 21)
        assert driver.ex_set_volume_labels(volume, {"a": "b"})
        found = driver.ex_get_volume(volume.name, zone=ZONE)
        assert (found.size, found.extra["labels"], found.id) == ("21", {"a": "b"}, volume.id)
        assert volume.name in [one.name for one in driver.list_volumes(ex_zone=ZONE)]
        assert driver.destroy_volume(found)
        with pytest.raises(ResourceNotFoundError):
            driver.ex_get_volume(volume.name, zone=ZONE)
    node = driver.create_node(
        "lc-vm", "micro", "linux-debian-12-64-bit", location=ZONE, ex_network="net-a", ex_disk_auto_delete=True
    )
    with pytest.raises(GoogleBaseError, match="is already being used by"):
        driver.destroy_volume(driver.ex_get_volume("lc-vm", zone=ZONE))
    assert driver.destroy_node(node)


def test_the_same_request_is_the_same_operation(stack: Stack) -> None:
    token = stack.token()
    for body in ({"name": "rq-1", "sizeGb": "3"}, {"name": "rq-2", "sourceImage": IMAGE}):
        for method, path, payload in (
            ("POST", "/disks", body),
            ("POST", f"/disks/{body['name']}/resize", {"sizeGb": "12"}),
            ("POST", f"/disks/{body['name']}/setLabels", {"labels": {"a": "b"}}),
            ("PATCH", f"/disks/{body['name']}", {"sizeGb": "14"}),
            ("DELETE", f"/disks/{body['name']}", None),
        ):
            where = f"/zones/{ZONE}{path}?requestId={uuid.uuid4()}"
            operations = []
            for _ in range(2):
                reply = stack.call(method, where, payload, token=token)
                assert reply.status_code == 200, reply.text
                operations.append(reply.json())
                assert "error" not in stack.finish(operations[-1])
            assert operations[0]["name"] == operations[1]["name"]


def test_what_disks_do_not_do_here_is_told_by_name(stack: Stack) -> None:
    token = stack.token()
    zone, region = f"/zones/{ZONE}", "/regions/ch-zh"
    for method, path in (
        ("POST", f"{zone}/disks/x/addResourcePolicies"),
        ("POST", f"{zone}/disks/x/removeResourcePolicies"),
        ("POST", f"{zone}/disks/x/setIamPolicy"),
        ("POST", f"{zone}/disks/x/startAsyncReplication"),
        ("POST", f"{zone}/disks/bulkInsert"),
        ("POST", f"{region}/disks"),
        ("POST", f"{region}/disks/x/resize"),
    ):
        error = refused(stack.call(method, path, {}, token=token), 400, "is not offered here")
        assert error["errors"][0]["reason"] == "notSupported"
    for path in (f"{region}/disks", f"{region}/diskTypes"):
        assert stack.call("GET", path, token=token).json()["items"] == []
        assert stack.call("GET", f"{path}/x", token=token).status_code == 404
    for field, value in (
        ("diskEncryptionKey", {"rawKey": "x"}),
        ("resourcePolicies", ["p"]),
        ("provisionedIops", "100"),
        ("accessMode", "READ_WRITE_MANY"),
    ):
        error = refused(stack.call("POST", f"{zone}/disks", {"name": "x", field: value}, token=token), 400)
        assert f"Invalid value for field 'resource.{field}': not supported here: " in error["message"]
    body = {"name": "x", "physicalBlockSizeBytes": "16384"}
    refused(stack.call("POST", f"{zone}/disks", body, token=token), 400, "'16384'")


def test_bodies_of_others(stack: Stack) -> None:
    """Values that say nothing, numbers as texts and texts as numbers."""
    token = stack.token()
    body: dict[str, Any] = {
        "name": "odd",
        "sizeGb": 4,
        "description": None,
        "accessMode": "READ_WRITE_SINGLE",
        "resourcePolicies": [],
        "status": "READY",
        "users": ["x"],
        "physicalBlockSizeBytes": "4096",
        "params": {},
    }
    made = stack.finish(stack.call("POST", f"/zones/{ZONE}/disks", body, token=token).json())
    assert "error" not in made
    assert stack.call("GET", f"/zones/{ZONE}/disks/odd", token=token).json()["sizeGb"] == "4"
    asked = {"permissions": ["compute.disks.get"]}
    reply = stack.call("POST", f"/zones/{ZONE}/disks/odd/testIamPermissions", asked, token=token)
    assert reply.json() == asked
    assert stack.call("GET", f"/zones/{ZONE}/disks/odd/getIamPolicy", token=token).json()["etag"]
    volume = cloud(stack, "listVolumes", name="odd")["volume"][0]
    assert {one["key"] for one in volume["tags"]} == {"gce-name", "gce-disk"}
    assert "error" not in stack.finish(stack.call("DELETE", f"/zones/{ZONE}/disks/odd", token=token).json())
