"""Snapshots as clients take, read and delete them: what each sends, and what it must find afterwards."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from libcloud.common.google import ResourceExistsError, ResourceNotFoundError

from tests.clients.conftest import Stack, run_stack
from tests.clients.sequences import check_schema, cloud, machine, refused
from tests.clients.test_gcloud_sequences import Gcloud
from tests.clients.test_gcutil_sequences import Gcutil
from tests.clients.test_libcloud import connect
from tests.clients.test_terraform_sequences import Terraform
from tests.waits import until

ZONE, DISK = "ch-zh-1", "data-1"
DISK_LINK = f"https://www.googleapis.com/compute/v1/projects/demo/zones/{ZONE}/disks/{DISK}"
TAKE = f"/zones/{ZONE}/disks/{DISK}/createSnapshot"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One with the machine web-1, and its data disk data-1."""
    for made in run_stack(tmp_path_factory.mktemp("snapshots")):
        operation = made.call("POST", f"/zones/{ZONE}/instances", machine("web-1", ZONE, "net-a")).json()
        assert "error" not in made.finish(operation)
        zone = cloud(made, "listZones", name="CH-ZH-1")["zone"][0]["id"]
        offering = cloud(made, "listDiskOfferings", name="SSD")["diskoffering"][0]["id"]
        volume = cloud(made, "createVolume", name=DISK, zoneid=zone, diskofferingid=offering, size="5")["volume"]
        vm = cloud(made, "listVirtualMachines", name="web-1")["virtualmachine"][0]["id"]
        cloud(made, "attachVolume", id=volume["id"], virtualmachineid=vm)
        yield made


def names(stack: Stack) -> list[str]:
    found = stack.call("GET", "/global/snapshots").json()
    check_schema(found, "SnapshotList")
    return [item["name"] for item in found.get("items", [])]


def test_gcutil(stack: Stack) -> None:
    """addsnapshot, listsnapshots, getsnapshot, deletesnapshot."""
    gcutil = Gcutil(stack)
    zone = gcutil.find("disks", DISK)
    body = {"kind": "compute#snapshot", "name": "gcutil-1", "description": "by gcutil"}
    operation = gcutil.ask("POST", f"/zones/{zone}/disks/{DISK}/createSnapshot?alt=json", body)
    assert gcutil.poll(operation)["name"] == DISK
    listed = gcutil.ask("GET", "/global/snapshots?alt=json&maxResults=500")["items"]
    (shown,) = (item for item in listed if item["name"] == "gcutil-1")
    found = gcutil.ask("GET", "/global/snapshots/gcutil-1?alt=json")
    assert found == shown
    assert (found["description"], found["status"], found["diskSizeGb"]) == ("by gcutil", "READY", "5")
    assert found["sourceDisk"].endswith(f"/zones/{ZONE}/disks/{DISK}")
    gcutil.poll(gcutil.ask("DELETE", "/global/snapshots/gcutil-1?alt=json"))
    assert names(stack) == []


@pytest.mark.parametrize("version", ["v1", "beta"])
def test_gcloud_disks_snapshot(stack: Stack, version: str) -> None:
    gcloud = Gcloud(stack)
    gcloud.project = f"{stack.url}/compute/{version}/projects/demo"
    operation = gcloud.ask("POST", f"{TAKE}?alt=json&guestFlush=False", {"name": "gcloud-1"})
    assert operation["operationType"] == "createSnapshot"
    # It waits at the disk's zone, at least once, and reads the snapshot that it has named itself.
    gcloud.wait(operation)
    assert gcloud.ask("GET", "/global/snapshots/gcloud-1?alt=json")["status"] == "READY"
    refused(gcloud.send("POST", f"{TAKE}?alt=json&guestFlush=True", {"name": "gcloud-2"}), 400, "guestFlush")
    gcloud.wait(gcloud.ask("DELETE", "/global/snapshots/gcloud-1?alt=json"))
    assert names(stack) == []


def test_gcloud_snapshots(stack: Stack) -> None:
    """create, describe, list, add-labels, remove-labels, delete."""
    gcloud = Gcloud(stack)
    source = f"https://compute.googleapis.com/compute/v1/projects/demo/zones/{ZONE}/disks/{DISK}"
    body = {"name": "gcloud-1", "sourceDisk": source, "storageLocations": ["eu"]}
    shown = gcloud.wait(gcloud.ask("POST", "/global/snapshots?alt=json", body))
    check_schema(shown, "Snapshot")
    assert (shown["name"], shown["storageLocations"], shown["sourceDisk"]) == ("gcloud-1", ["eu"], DISK_LINK)
    assert gcloud.ask("GET", "/global/snapshots?alt=json&filter=name+eq+.*gcloud.*&maxResults=500")["items"] == [shown]
    for labels in ({"env": "prod"}, {}):
        current = gcloud.ask("GET", "/global/snapshots/gcloud-1?alt=json")
        change = {"labelFingerprint": current["labelFingerprint"], "labels": labels}
        changed = gcloud.wait(gcloud.ask("POST", "/global/snapshots/gcloud-1/setLabels?alt=json", change))
        assert changed.get("labels", {}) == labels
    gcloud.wait(gcloud.ask("DELETE", "/global/snapshots/gcloud-1?alt=json"))
    refused(gcloud.send("GET", "/global/snapshots/gcloud-1?alt=json"), 404, "global/snapshots/gcloud-1")


# What makes Terraform destroy a snapshot and take it anew when it reads back otherwise, and what it reads besides.
FORCES_NEW = {
    "chain_name": "chainName",
    "snapshot_type": "snapshotType",
    "description": "description",
    "storage_locations": "storageLocations",
}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"description": "nightly", "storage_locations": ["europe-west6"], "labels": {"team": "a"}},
        {"chain_name": "chain", "snapshot_type": "STANDARD"},
        {"snapshot_type": "ARCHIVE"},
    ],
)
def test_the_second_plan_of_terraform_is_empty(stack: Stack, config: dict[str, Any]) -> None:
    terraform = Terraform(stack)
    labels = {"goog-terraform-provisioned": "true", **config.get("labels", {})}
    body = {json_name: config[name] for name, json_name in FORCES_NEW.items() if name in config}
    at = {"sourceDisk": f"projects/demo/zones/{ZONE}/disks/{DISK}", "zone": ZONE}
    operation = terraform.ask("POST", f"{TAKE}?alt=json", {**at, "name": "tf-1", "labels": labels, **body})
    assert "error" not in stack.finish(operation)
    found = terraform.ask("GET", "/global/snapshots/tf-1?alt=json")
    check_schema(found, "Snapshot")
    for name, json_name in FORCES_NEW.items():
        assert found.get(json_name) == config.get(name), name
    assert found["labels"] == labels
    assert found["sourceDisk"].partition("/projects/")[2] == f"demo/zones/{ZONE}/disks/{DISK}"
    assert (int(found["diskSizeGb"]), int(found["storageBytes"]) > 0) == (5, True)
    change = {"labelFingerprint": found["labelFingerprint"], "labels": {**labels, "more": "x"}}
    assert "error" not in stack.finish(terraform.ask("POST", "/global/snapshots/tf-1/setLabels?alt=json", change))
    again = terraform.ask("GET", "/global/snapshots/tf-1?alt=json")
    assert again["labels"] == change["labels"] and again["sourceDisk"] == found["sourceDisk"]
    assert "error" not in stack.finish(terraform.ask("DELETE", "/global/snapshots/tf-1?alt=json"))
    assert names(stack) == []


def test_libcloud(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "token.json"
    file.write_text(json.dumps({"access_token": stack.token(), "expire_time": "2099-01-01T00:00:00Z"}))
    driver = connect(stack, file)
    driver.connection.poll_interval = 0.2
    volume = driver.ex_get_volume(DISK, ZONE)
    snapshot = driver.create_volume_snapshot(volume, "lc-1")
    assert (snapshot.name, snapshot.size, snapshot.extra["sourceDisk"]) == ("lc-1", "5", volume.extra["selfLink"])
    assert [found.name for found in driver.ex_list_snapshots()] == ["lc-1"]
    assert [found.name for found in driver.list_volume_snapshots(volume)] == ["lc-1"]
    assert driver.ex_get_snapshot("lc-1").status == "READY"
    with pytest.raises(ResourceExistsError):
        driver.create_volume_snapshot(volume, "lc-1")
    assert driver.destroy_volume_snapshot(snapshot)
    with pytest.raises(ResourceNotFoundError):
        driver.ex_get_snapshot("lc-1")


def test_what_has_no_effect_here_is_refused_by_name(stack: Stack) -> None:
    for body, word in (
        ({"guestFlush": True}, "resource.guestFlush"),
        ({"snapshotEncryptionKey": {"rawKey": "x"}}, "resource.snapshotEncryptionKey"),
        ({"sourceInstantSnapshot": "zones/a/instantSnapshots/b"}, "resource.sourceInstantSnapshot"),
        ({"snapshotType": "WEEKLY"}, "resource.snapshotType"),
        ({"nonsense": 1}, "nonsense"),
    ):
        refused(stack.call("POST", TAKE, {"name": "snap-1", **body}), 400, word)
    for method, path in (
        ("POST", "/global/snapshots/snap-1/setIamPolicy"),
        ("POST", "/global/snapshots/snap-1/updateKmsKey"),
    ):
        refused(stack.call(method, path, {}), 400, "not offered")
    assert names(stack) == []


def test_a_repeated_request_is_one_operation(stack: Stack) -> None:
    stack.simulate("DELETE", "calls")
    request = f"{TAKE}?requestId={uuid.uuid4()}"
    first, second = (stack.call("POST", request, {"name": "twice"}).json() for _ in range(2))
    assert first["name"] == second["name"]
    assert "error" not in stack.finish(second)
    assert stack.call("POST", request, {"name": "twice"}).json()["name"] == first["name"]
    assert stack.simulate("GET", "calls")["createSnapshot"] == 1
    gone = f"/global/snapshots/twice?requestId={uuid.uuid4()}"
    operations = [stack.call("DELETE", gone).json() for _ in range(2)]
    assert operations[0]["name"] == operations[1]["name"]
    assert "error" not in stack.finish(operations[0])
    assert names(stack) == []


def test_a_translator_that_is_killed_meanwhile(stack: Stack) -> None:
    stack.simulate("DELETE", "calls")
    stack.simulate("PATCH", "settings", {"job_seconds": {"": 0.1, "createSnapshot": 1.5}})
    operation = stack.call("POST", TAKE, {"name": "killed", "labels": {"a": "b"}}).json()
    until(lambda: stack.simulate("GET", "calls").get("createSnapshot"))
    stack.kill("translator")
    stack.start("translator")
    stack.wait_ready()
    assert "error" not in stack.finish(operation)
    stack.simulate("PATCH", "settings", {"job_seconds": {"": 0.1}})
    found = stack.call("GET", "/global/snapshots/killed").json()
    assert (found["status"], found["labels"]) == ("READY", {"a": "b"})
    assert stack.simulate("GET", "calls")["createSnapshot"] == 1
    assert "error" not in stack.finish(stack.call("DELETE", "/global/snapshots/killed").json())
    assert names(stack) == []


def test_quotas_tell_how_many_there_may_be(stack: Stack) -> None:
    metrics = {quota["metric"]: quota for quota in stack.call("GET", "").json()["quotas"]}
    assert metrics["SNAPSHOTS"]["limit"] > 0
