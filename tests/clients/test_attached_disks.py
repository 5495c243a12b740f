"""Disks of instances as each client attaches, reads and detaches them: gcutil, gcloud, Terraform, libcloud."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.clients.conftest import Stack
from tests.clients.sequences import check_schema, machine, refused
from tests.clients.test_gcloud_sequences import Gcloud
from tests.clients.test_gcutil_sequences import Gcutil
from tests.clients.test_libcloud import connect
from tests.clients.test_terraform_sequences import Terraform

ZONE = "ch-zh-1"
IMAGE = "projects/debian-cloud/global/images/family/debian-12"


def names(instance: dict[str, Any]) -> list[tuple[str, str, bool]]:
    return [(one["source"].rpartition("/")[2], one["deviceName"], one["boot"]) for one in instance["disks"]]


def make_disk(client: Any, wait: Any, name: str, **fields: Any) -> dict[str, Any]:
    body = {"name": name, "sizeGb": "10", **fields}
    found: dict[str, Any] = wait(client.ask("POST", f"/zones/{ZONE}/disks?alt=json", body))
    return found


def test_gcutil(stack: Stack) -> None:
    """addinstance --disk=NAME,boot, attachdisk, setinstancediskautodelete, detachdisk, deleteinstance."""
    gcutil = Gcutil(stack)
    zone = f"/zones/{ZONE}"
    image = f"{gcutil.project}/global/images/linux-debian-12-64-bit"
    for name, query in (("gu-boot", f"&sourceImage={image}"), ("gu-data", ""), ("gu-more", "")):
        body = {"kind": "compute#disk", "name": name, "sizeGb": "12", "description": ""}
        gcutil.poll(gcutil.ask("POST", f"{zone}/disks?alt=json{query}", body))
    link = f"{gcutil.project}{zone}/disks/"
    disk = {"kind": "compute#attachedDisk", "type": "PERSISTENT", "mode": "READ_WRITE"}
    body = machine("gu-vm", ZONE, "net-a") | {
        "disks": [
            disk | {"source": f"{link}gu-boot", "deviceName": "gu-boot", "boot": True},
            disk | {"source": f"{link}gu-data", "deviceName": "gu-data", "boot": False},
        ]
    }
    found = gcutil.poll(gcutil.ask("POST", f"{zone}/instances?alt=json", body))
    assert names(found) == [("gu-boot", "gu-boot", True), ("gu-data", "gu-data", False)]
    one = f"{zone}/instances/gu-vm"
    assert gcutil.find("instances", "gu-vm") == ZONE
    more = disk | {"source": f"{link}gu-more", "deviceName": "gu-more", "boot": False}
    found = gcutil.poll(gcutil.ask("POST", f"{one}/attachDisk?alt=json", more))
    assert names(found)[2] == ("gu-more", "gu-more", False)
    assert gcutil.ask("GET", f"{zone}/disks/gu-more?alt=json")["users"] == [f"{gcutil.project}{one}"]
    found = gcutil.poll(gcutil.ask("POST", f"{one}/setDiskAutoDelete?alt=json&autoDelete=true&deviceName=gu-data"))
    assert [each["autoDelete"] for each in found["disks"]] == [False, True, False]
    found = gcutil.poll(gcutil.ask("POST", f"{one}/detachDisk?alt=json&deviceName=gu-more"))
    assert len(found["disks"]) == 2
    gcutil.poll(gcutil.ask("DELETE", f"{one}?alt=json"))
    left = [each["name"] for each in gcutil.ask("GET", f"{zone}/disks?alt=json&filter=name+eq+gu-.*")["items"]]
    assert left == ["gu-boot", "gu-more"]
    for name in left:
        gcutil.poll(gcutil.ask("DELETE", f"{zone}/disks/{name}?alt=json"))


def test_gcloud(stack: Stack) -> None:
    """instances create --disk --create-disk, attach-disk, set-disk-auto-delete, detach-disk, delete."""
    gcloud = Gcloud(stack)
    zone = f"/zones/{ZONE}"
    for name in ("gc-data", "gc-more"):
        make_disk(gcloud, gcloud.wait, name)
    link = f"{gcloud.project}{zone}/disks/"
    boot = {
        "autoDelete": True, "boot": True, "initializeParams": {"sourceImage": IMAGE}, "mode": "READ_WRITE",
        "type": "PERSISTENT",
    }  # fmt: skip
    given = {
        "autoDelete": False, "boot": False, "deviceName": "gc-data", "mode": "READ_WRITE", "source": f"{link}gc-data",
        "type": "PERSISTENT",
    }  # fmt: skip
    made = {
        "autoDelete": True, "boot": False, "mode": "READ_WRITE", "type": "PERSISTENT",
        "initializeParams": {
            "diskName": "gc-made", "diskSizeGb": "11", "diskType": f"{gcloud.project}{zone}/diskTypes/pd-ssd",
        },
    }  # fmt: skip
    body = machine("gc-vm", ZONE, "net-a") | {"disks": [boot, given, made]}
    found = gcloud.wait(gcloud.ask("POST", f"{zone}/instances?alt=json", body))
    check_schema(found, "Instance")
    assert names(found) == [
        ("gc-vm", "persistent-disk-0", True), ("gc-data", "gc-data", False), ("gc-made", "persistent-disk-2", False),
    ]  # fmt: skip
    one = f"{zone}/instances/gc-vm"
    more = {"mode": "READ_WRITE", "source": f"{link}gc-more", "type": "PERSISTENT"}
    gcloud.wait(gcloud.ask("POST", f"{one}/attachDisk?alt=json", more))
    error = refused(gcloud.send("POST", f"{one}/attachDisk?alt=json", more), 400, "is already being used by")
    assert error["errors"][0]["reason"] == "resourceInUseByAnotherResource"
    refused(gcloud.send("POST", f"{one}/attachDisk?alt=json", more | {"mode": "READ_ONLY"}), 400)
    # gcloud looks the device's name up by the disk.
    found = gcloud.ask("GET", f"{one}?alt=json")
    device = next(each["deviceName"] for each in found["disks"] if each["source"].endswith("/gc-more"))
    gcloud.wait(gcloud.ask("POST", f"{one}/setDiskAutoDelete?autoDelete=True&deviceName={device}&alt=json"))
    found = gcloud.ask("GET", f"{one}?alt=json")
    assert [each["autoDelete"] for each in found["disks"]] == [True, False, True, True]
    listed = gcloud.ask("GET", "/aggregated/instances?alt=json&includeAllScopes=True")["items"][f"zones/{ZONE}"]
    assert next(each for each in listed["instances"] if each["name"] == "gc-vm")["disks"] == found["disks"]
    gcloud.wait(gcloud.ask("POST", f"{one}/detachDisk?deviceName={device}&alt=json"))
    gcloud.wait(gcloud.ask("DELETE", f"{one}?alt=json"))
    left = [each["name"] for each in gcloud.ask("GET", f"{zone}/disks?alt=json&filter=name+eq+gc-.*")["items"]]
    assert left == ["gc-data", "gc-more"]
    assert gcloud.ask("GET", f"{zone}/disks/gc-more?alt=json")["lastDetachTimestamp"]
    for name in left:
        gcloud.wait(gcloud.ask("DELETE", f"{zone}/disks/{name}?alt=json"))


class Attaching(Terraform):
    """`attached_disk` blocks of an instance, and google_compute_attached_disk."""

    def done(self, operation: dict[str, Any]) -> None:
        while operation["status"] != "DONE":
            operation = self.ask("GET", f"/zones/{ZONE}/operations/{operation['name']}?alt=json")
        assert "error" not in operation, operation

    def body(self, config: dict[str, Any]) -> dict[str, Any]:
        body = super().body(config)
        for block in config["attached_disk"]:
            disk = {"mode": "READ_WRITE", "source": f"projects/demo/zones/{ZONE}/disks/{block['source']}"}
            body["disks"].append(disk | ({"deviceName": block["device_name"]} if "device_name" in block else {}))
        return body

    def plan(self, config: dict[str, Any]) -> list[str]:
        """The blocks are matched by the last segment of their sources; each has the device name that it was given."""
        instance = self.ask("GET", f"/zones/{ZONE}/instances/{config['name']}?alt=json")
        found = {each["source"].rpartition("/")[2]: each for each in instance["disks"] if not each["boot"]}
        different = [*super().plan(config)]
        if found.keys() != {block["source"] for block in config["attached_disk"]}:
            different.append("attached_disk")
        for block in config["attached_disk"]:
            disk = found[block["source"]]
            wanted = (block.get("device_name", disk["deviceName"]), "READ_WRITE")
            if (disk["deviceName"], disk["mode"]) != wanted:
                different.append(f"attached_disk.{block['source']}")
        return different


def test_terraform(stack: Stack) -> None:
    terraform = Attaching(stack)
    zone = f"/zones/{ZONE}"
    for name in ("tf-one", "tf-two", "tf-three"):
        terraform.done(terraform.ask("POST", f"{zone}/disks?alt=json", {"name": name, "sizeGb": 10}))
    config = {
        "name": "tf-vm", "zone": ZONE, "machine_type": "micro", "network": "net-a",
        "boot_disk": {"image": "debian-cloud/debian-12"},
        "attached_disk": [{"source": "tf-one"}, {"source": "tf-two", "device_name": "logs"}],
    }  # fmt: skip
    terraform.apply(config)
    assert terraform.plan(config) == []
    # An update of the instance: detach one, attach another.
    one = f"{zone}/instances/tf-vm"
    terraform.done(terraform.ask("POST", f"{one}/detachDisk?alt=json&deviceName=logs"))
    disk = {"mode": "READ_WRITE", "source": f"projects/demo{zone}/disks/tf-three", "deviceName": "new"}
    terraform.done(terraform.ask("POST", f"{one}/attachDisk?alt=json", disk))
    config["attached_disk"] = [{"source": "tf-one"}, {"source": "tf-three", "device_name": "new"}]
    assert terraform.plan(config) == []
    # compute_disk: before it is deleted, it is detached from its users by what their instances call it.
    users = terraform.ask("GET", f"{zone}/disks/tf-three?alt=json")["users"]
    assert [user.rpartition("/")[2] for user in users] == ["tf-vm"]
    terraform.done(terraform.ask("POST", f"{one}/detachDisk?alt=json&deviceName=new"))
    terraform.done(terraform.ask("DELETE", f"{zone}/disks/tf-three?alt=json"))
    terraform.done(terraform.ask("DELETE", f"{one}?alt=json"))
    for name in ("tf-one", "tf-two"):
        assert "users" not in terraform.ask("GET", f"{zone}/disks/{name}?alt=json")
        terraform.done(terraform.ask("DELETE", f"{zone}/disks/{name}?alt=json"))


def test_libcloud(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("libcloud") / "token.json"
    file.write_text(json.dumps({"access_token": stack.token(), "expire_time": "2099-01-01T00:00:00Z"}))
    driver = connect(stack, file)
    driver.connection.poll_interval = 0.2
    boot = driver.create_volume(12, "lc-boot", location=ZONE, ex_image_family="debian-12")
    data = driver.create_volume(10, "lc-data", location=ZONE)
    node = driver.create_node(
        "lc-vm", "micro", None, location=ZONE, ex_network="net-a", ex_boot_disk=boot, ex_disk_auto_delete=False
    )
    assert node.extra["boot_disk"].name == "lc-boot"
    # Its device is called like the disk.
    assert driver.attach_volume(node, data)
    disks = driver.ex_get_node("lc-vm", ZONE).extra["disks"]
    assert [each["deviceName"] for each in disks] == ["lc-boot", "lc-data"]
    assert driver.ex_set_volume_auto_delete(data, node, auto_delete=True)
    assert driver.detach_volume(driver.ex_get_volume("lc-data", ZONE), ex_node=node)
    again = driver.create_node(
        "lc-two", "micro", None, location=ZONE, ex_network="net-a",
        ex_disks_gce_struct=[
            {"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": IMAGE}},
            {"source": f"/projects/demo/zones/{ZONE}/disks/lc-data", "deviceName": "lc-data", "autoDelete": True},
        ],
    )  # fmt: skip
    assert [each["deviceName"] for each in again.extra["disks"]] == ["persistent-disk-0", "lc-data"]
    assert driver.detach_volume(driver.ex_get_volume("lc-data", ZONE), ex_node=again)
    assert driver.destroy_node(again) and driver.destroy_node(node)
    for name in ("lc-boot", "lc-data"):
        assert driver.destroy_volume(driver.ex_get_volume(name, ZONE))
