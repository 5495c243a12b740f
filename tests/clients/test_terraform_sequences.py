"""What Terraform's provider 7 sends for an instance, and whether its next plan is empty.

It reads the instance and its boot disk, flattens them into its state and compares that with the configuration, by rules
of its own for links, image families and numbers. What differs is a change, or a machine destroyed and made anew.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.clients.conftest import Stack
from tests.clients.sequences import Session, check_schema

AGENT = "Terraform/1.11.0 (+https://www.terraform.io) Terraform-Plugin-SDK/2.37.0 terraform-provider-google/7.46.0"
# Links of images that are read back must be of this form (the provider's resource_compute_disk).
_IMAGE = re.compile(r"https://www\.googleapis\.com/compute/v1/projects/([^/]+)/global/images/([-_a-zA-Z0-9]+)")
# Of the provider: `debian-cloud/debian-12`.
_SHORT = re.compile(r"([-a-z0-9.:]+)/([-_a-zA-Z0-9]+)")


class Terraform(Session):
    def __init__(self, stack: Stack):
        super().__init__(stack, AGENT)

    def resolve_image(self, text: str) -> str:
        """`P/N` is first looked for as an image, then as a family; the link goes into the body."""
        match = _SHORT.fullmatch(text)
        assert match is not None
        project, name = match.groups()
        for path, link in ((f"images/{name}", "images"), (f"images/family/{name}", "images/family")):
            reply = self.send("GET", f"{self.base}/compute/v1/projects/{project}/global/{path}?alt=json")
            if reply.status_code == 200:
                return f"projects/{project}/global/{link}/{name}"
            assert reply.status_code == 404, reply.text
        raise AssertionError(text)

    def apply(self, config: dict[str, Any]) -> None:
        body = self.body(config)
        operation = self.ask("POST", f"/zones/{config['zone']}/instances?alt=json", body)
        while operation["status"] != "DONE":
            operation = self.ask("GET", f"/zones/{config['zone']}/operations/{operation['name']}?alt=json")
        assert "error" not in operation, operation

    def body(self, config: dict[str, Any]) -> dict[str, Any]:
        zone, boot = config["zone"], config["boot_disk"]
        initial: dict[str, Any] = {"sourceImage": self.resolve_image(boot["image"])}
        if "type" in boot:
            initial["diskType"] = f"projects/demo/zones/{zone}/diskTypes/{boot['type']}"
        if "size" in boot:
            initial["diskSizeGb"] = str(boot["size"])
        initial |= {"labels": boot["labels"]} if "labels" in boot else {}
        return {
            "canIpForward": False,
            "deletionProtection": False,
            "disks": [{"autoDelete": True, "boot": True, "initializeParams": initial, "mode": "READ_WRITE"}],
            "labels": config.get("labels", {}),
            "machineType": f"projects/demo/zones/{zone}/machineTypes/{config['machine_type']}",
            "metadata": {},
            "name": config["name"],
            "networkInterfaces": [
                {
                    **self.network(config),
                    "accessConfigs": [
                        {"type": "ONE_TO_ONE_NAT", **({"networkTier": tier} if (tier := access.get("tier")) else {})}
                        for access in config.get("access", [])
                    ],
                }
            ],
            "params": {},
            "scheduling": config.get("scheduling", {"automaticRestart": True}),
            "tags": {"items": config["tags"]} if "tags" in config else {},
        }

    def network(self, config: dict[str, Any]) -> dict[str, str]:
        """A subnetwork by its name is in the region that the zone's name says, or in "" where it has too few parts."""
        if "subnetwork" not in config:
            return {"network": f"projects/demo/global/networks/{config['network']}"}
        parts = config["zone"].split("-")
        region = "-".join(parts[:-1]) if len(parts) > 2 else ""
        return {"subnetwork": f"projects/demo/regions/{region}/subnetworks/{config['subnetwork']}"}

    def plan(self, config: dict[str, Any]) -> list[str]:
        """What a second plan would change."""
        instance = self.ask("GET", f"/zones/{config['zone']}/instances/{config['name']}?alt=json")
        check_schema(instance, "Instance")
        boot = next(disk for disk in instance["disks"] if disk["boot"])
        disk = self.ask("GET", boot["source"].partition("/projects/demo")[2] + "?alt=json")
        check_schema(disk, "Disk")
        wanted = config["boot_disk"]
        state: dict[str, tuple[Any, Any]] = {
            "machine_type": (_last(instance["machineType"]), config["machine_type"]),
            "boot_disk.auto_delete": (boot["autoDelete"], True),
            "boot_disk.mode": (boot["mode"], "READ_WRITE"),
            "boot_disk.labels": (disk.get("labels", {}), wanted.get("labels", {})),
            "labels": (instance.get("labels", {}), config.get("labels", {})),
            "tags": (sorted(instance["tags"].get("items", [])), sorted(config.get("tags", []))),
            "metadata": (instance["metadata"].get("items", []), []),
            "hostname": (instance.get("hostname", ""), ""),
            "can_ip_forward": (instance.get("canIpForward", False), False),
            "deletion_protection": (instance.get("deletionProtection", False), False),
            "key_revocation_action_type": (instance.get("keyRevocationActionType", ""), ""),
            "network": (_last(instance["networkInterfaces"][0]["network"]), config["network"]),
            "nic_type": (instance["networkInterfaces"][0].get("nicType", ""), ""),
            "queue_count": (instance["networkInterfaces"][0].get("queueCount", 0), 0),
            "access_config": (
                [one["networkTier"] for one in instance["networkInterfaces"][0].get("accessConfigs", [])],
                [one.get("tier", "PREMIUM") for one in config.get("access", [])],
            ),
            "zone": (_last(instance["zone"]), config["zone"]),
        }
        if "subnetwork" in config:
            state["subnetwork"] = (_last(instance["networkInterfaces"][0]["subnetwork"]), config["subnetwork"])
        if "type" in wanted:
            state["boot_disk.type"] = (_last(disk["type"]), wanted["type"])
        if "size" in wanted:
            state["boot_disk.size"] = (int(disk["sizeGb"]), wanted["size"])
        for key, value in config.get("scheduling", {}).items():
            if value not in ([None], [], {}, None):
                state[f"scheduling.{key}"] = (instance["scheduling"].get(key), value)
        found = [f"{name}: {there} -> {asked}" for name, (there, asked) in state.items() if there != asked]
        return found + _image_difference(disk["sourceImage"], wanted["image"])


def _last(link: str) -> str:
    return link.rpartition("/")[2]


def _image_difference(link: str, asked: str) -> list[str]:
    """An image is the one that was asked for when it is of that project and has the family's name in its own."""
    match, short = _IMAGE.fullmatch(link), _SHORT.fullmatch(asked)
    if match and short and match[1] == short[1] and short[2] in match[2]:
        return []
    return [f"boot_disk.image: {link} -> {asked}"]


@pytest.fixture
def terraform(stack: Stack) -> Terraform:
    return Terraform(stack)


PLAIN = {
    "name": "tf-plain",
    "zone": "ch-gv2",
    "machine_type": "micro",
    "boot_disk": {"image": "debian-cloud/debian-12"},
    "network": "default",
    "access": [{}],
}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "tf-plain"},
        {
            "name": "tf-full",
            "machine_type": "e2-custom-2-4096",
            "boot_disk": {
                "image": "debian-cloud/debian-12",
                "type": "pd-balanced",
                "size": 20,
                "labels": {"team": "web", "goog-terraform-provisioned": "true"},
            },
            "labels": {"goog-terraform-provisioned": "true"},
            "tags": ["web", "db"],
            "access": [{"tier": "STANDARD"}],
            "scheduling": {
                "automaticRestart": False,
                "onHostMaintenance": "TERMINATE",
                "preemptible": True,
                "provisioningModel": "SPOT",
                "instanceTerminationAction": "STOP",
                "nodeAffinities": [None],
            },
        },
        {"name": "tf-e2", "machine_type": "e2-micro", "boot_disk": {"image": "debian-cloud/debian-12", "size": 10}},
        {"name": "tf-isolated", "zone": "ch-zh-1", "network": "net-a", "access": []},
        {"name": "tf-subnetwork", "subnetwork": "default"},
        {"name": "tf-part", "zone": "ch-zh-1", "network": "net-a", "subnetwork": "net-a", "access": []},
    ],
    ids=lambda changes: changes["name"],
)
def test_the_second_plan_of_an_instance_is_empty(terraform: Terraform, changes: dict[str, Any]) -> None:
    config = {**PLAIN, **changes}
    terraform.apply(config)
    assert terraform.plan(config) == []


def disk_plan(terraform: Terraform, config: dict[str, Any]) -> list[str]:
    """What a second plan would change of a google_compute_disk."""
    disk = terraform.ask("GET", f"/zones/{config['zone']}/disks/{config['name']}?alt=json")
    check_schema(disk, "Disk")
    state: dict[str, tuple[Any, Any]] = {
        "description": (disk.get("description", ""), config.get("description", "")),
        "labels": (disk.get("labels", {}), config.get("labels", {})),
        "type": (_last(disk["type"]), config.get("type", "pd-standard")),
        "size": (int(disk["sizeGb"]), config.get("size", int(disk["sizeGb"]))),
        "physical_block_size_bytes": (disk["physicalBlockSizeBytes"], "4096"),
        "snapshot": (_last(disk.get("sourceSnapshot", "")), config.get("snapshot", "")),
        "source_disk": (_last(disk.get("sourceDisk", "")), config.get("source_disk", "")),
        "storage_pool": (disk.get("storagePool", ""), ""),
        "zone": (_last(disk["zone"]), config["zone"]),
    }
    for field in ("licenses", "architecture"):
        if field in config:
            state[field] = (disk.get(field), config[field])
    found = [f"{name}: {there} -> {asked}" for name, (there, asked) in state.items() if there != asked]
    if "image" not in config:
        return [*found, *(["image: not asked for"] if "sourceImage" in disk else [])]
    return found + _image_difference(disk.get("sourceImage", ""), config["image"])


def disk_body(terraform: Terraform, config: dict[str, Any]) -> dict[str, Any]:
    zone = config["zone"]
    body: dict[str, Any] = {
        "labels": config.get("labels", {}),
        "name": config["name"],
        "physicalBlockSizeBytes": 4096,
        "type": f"projects/demo/zones/{zone}/diskTypes/{config.get('type', 'pd-standard')}",
    }
    body |= {key: config[key] for key in ("description", "licenses", "architecture") if key in config}
    body |= {"sizeGb": config["size"]} if "size" in config else {}
    body |= {"sourceImage": terraform.resolve_image(config["image"])} if "image" in config else {}
    body |= {"sourceSnapshot": f"projects/demo/global/snapshots/{config['snapshot']}"} if "snapshot" in config else {}
    if "source_disk" in config:
        body["sourceDisk"] = f"projects/demo/zones/{zone}/disks/{config['source_disk']}"
    return body


def finished(terraform: Terraform, method: str, path: str, body: Any = None) -> None:
    operation = terraform.ask(method, f"/zones/ch-zh-1{path}", body)
    while operation["status"] != "DONE":
        operation = terraform.ask("GET", f"/zones/ch-zh-1/operations/{operation['name']}?alt=json")
    assert "error" not in operation, operation


def test_disks(terraform: Terraform) -> None:
    """Made, planned again, changed in each way that the provider knows, planned again, and destroyed."""
    instance = {**PLAIN, "name": "tf-disk-vm", "zone": "ch-zh-1", "network": "net-a", "access": []}
    terraform.apply(instance)
    finished(terraform, "POST", "/disks/tf-disk-vm/createSnapshot", {"name": "tf-disk-snap"})
    configs = [
        {"name": "tf-d-blank"},
        {
            "name": "tf-d-full",
            "size": 30,
            "type": "pd-ssd",
            "description": "Of a database",
            "labels": {"goog-terraform-provisioned": "true", "team": "db"},
            "licenses": ["https://www.googleapis.com/compute/v1/projects/debian-cloud/global/licenses/debian-12"],
            "architecture": "X86_64",
        },
        {"name": "tf-d-image", "image": "debian-cloud/debian-12", "size": 15, "labels": {"a": "b"}},
        {"name": "tf-d-snap", "snapshot": "tf-disk-snap", "size": 25},
        {"name": "tf-d-copy", "source_disk": "tf-d-full", "type": "pd-ssd"},
    ]
    for one in configs:
        config = {**one, "zone": "ch-zh-1"}
        finished(terraform, "POST", "/disks?alt=json", disk_body(terraform, config))
        assert disk_plan(terraform, config) == []
        disk = terraform.ask("GET", f"/zones/ch-zh-1/disks/{config['name']}?alt=json")
        config |= {"labels": {"new": "label"}, "size": int(disk["sizeGb"]) + 5}
        labels = {"labels": config["labels"], "labelFingerprint": disk["labelFingerprint"]}
        finished(terraform, "POST", f"/disks/{config['name']}/setLabels?alt=json", labels)
        finished(terraform, "POST", f"/disks/{config['name']}/resize?alt=json", {"sizeGb": config["size"]})
        assert disk_plan(terraform, config) == []
    for one in configs[::-1]:
        # It would detach the disk first.
        assert "users" not in terraform.ask("GET", f"/zones/ch-zh-1/disks/{one['name']}?alt=json")
        finished(terraform, "DELETE", f"/disks/{one['name']}?alt=json")
        assert terraform.send("GET", f"/zones/ch-zh-1/disks/{one['name']}?alt=json").status_code == 404
    finished(terraform, "DELETE", "/instances/tf-disk-vm?alt=json")
