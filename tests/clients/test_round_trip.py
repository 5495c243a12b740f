"""What someone puts in is what comes back: each leaf that the contract keeps or honours, put in and read again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gstack.compute.v1.instances_pb2 import AttachedDiskInitializeParams
from gstack.kernel.contract import bodies, enum_values, leaves, message_of
from tests.clients.conftest import Stack
from tests.clients.sequences import cloud

BODIES = bodies()
ZONE, REGION, NETWORK = "ch-zh-1", "ch-zh", "net-a"
NAME = "round-trip"
LINKS = "https://www.googleapis.com/compute/v1/"

# Never shown as they were put in, and why.
NOT_SHOWN = {
    "Instance.tags.fingerprint": "a guard of changes; an insert has nothing to guard",
    "Instance.metadata.fingerprint": "a guard of changes; an insert has nothing to guard",
    "Instance.image": "API version v1beta16: in place of disks",
    "Instance.fingerprint": "a guard of changes; an insert has nothing to guard",
    "Instance.labelFingerprint": "a guard of changes; an insert has nothing to guard",
    "Instance.disks[].source": "instead of what it is made from; AttachedDisk.source is put in",
    "Instance.disks[].initializeParams.sourceSnapshot": "instead of an image; Disk.sourceSnapshot is put in",
    "AttachedDisk.boot": "a boot disk is attached to a stopped instance without one",
    "Tags.fingerprint": "a guard",
    "Metadata.fingerprint": "a guard",
    "InstancesSetLabelsRequest.labelFingerprint": "a guard",
    "GlobalSetLabelsRequest.labelFingerprint": "a guard",
    "ZoneSetLabelsRequest.labelFingerprint": "a guard",
    "Disk.labelFingerprint": "a guard of changes; an insert has nothing to guard",
    "GlobalSetPolicyRequest.etag": "a guard",
    "GlobalSetPolicyRequest.policy.etag": "a guard",
    "InstancesSetNameRequest.currentName": "a guard",
    "BulkInsertInstanceResource.count": "the instances are counted",
    "BulkInsertInstanceResource.minCount": "how many must come to be",
    "BulkInsertInstanceResource.namePattern": "the instances have their own names",
}
# Every leaf of an instance's properties is one of an instance.
PROPERTIES = "BulkInsertInstanceResource.instanceProperties."

# What is said of a disk that is to be made is refused of one that is to be attached.
NOT_SHOWN |= {
    f"AttachedDisk.initializeParams.{path}": "of new instances"
    for path, _ in leaves(AttachedDiskInitializeParams.DESCRIPTOR)
}

# Values that must be right, and not only of the right type. A function gets what was prepared.
SAMPLES: dict[str, Any] = {
    "Firewall.name": NAME,
    "Firewall.network": f"global/networks/{NETWORK}",
    "Firewall.sourceRanges[]": "192.0.2.0/24",
    "Firewall.destinationRanges[]": "198.51.100.0/24",
    "Firewall.sourceTags[]": "web",
    "Firewall.targetTags[]": "db",
    "Firewall.allowed[].IPProtocol": "tcp",
    "Firewall.allowed[].ports[]": "8000-8080",
    "Instance.name": NAME,
    "Instance.tags.items[]": "web",
    "Instance.machineType": f"zones/{ZONE}/machineTypes/micro",
    "Instance.networkInterfaces[].network": f"global/networks/{NETWORK}",
    "Instance.networkInterfaces[].subnetwork": f"regions/{REGION}/subnetworks/{NETWORK}",
    "Instance.networkInterfaces[].networkIP": "10.1.1.99",
    "Instance.networkInterfaces[].accessConfigs[].natIP": lambda prepared: prepared["address"],
    "Instance.networkInterfaces[].accessConfigs[].networkTier": "STANDARD",
    "Instance.networkInterfaces[].nicType": "GVNIC",
    "Instance.disks[].type": "PERSISTENT",
    "Instance.disks[].mode": "READ_WRITE",
    "Instance.disks[].initializeParams.diskName": f"{NAME}-disk",
    "Instance.disks[].initializeParams.sourceImage": "global/images/linux-debian-12-64-bit",
    "Instance.disks[].initializeParams.diskSizeGb": "20",
    "Instance.disks[].initializeParams.diskType": f"zones/{ZONE}/diskTypes/pd-ssd",
    "Instance.disks[].initializeParams.labels": {"team": "a"},
    "Instance.disks[].initializeParams.licenses[]": LINKS + "projects/debian-cloud/global/licenses/debian-12-bookworm",
    "Instance.disks[].initializeParams.guestOsFeatures[].type": "VIRTIO_SCSI_MULTIQUEUE",
    "Instance.disks[].guestOsFeatures[].type": "UEFI_COMPATIBLE",
    "Instance.disks[].diskSizeGb": "20",
    "AttachedDisk.type": "PERSISTENT",
    "AttachedDisk.mode": "READ_WRITE",
    "AttachedDisk.source": lambda prepared: f"zones/{ZONE}/disks/{prepared['disk']['name']}",
    "AttachedDisk.diskSizeGb": lambda prepared: prepared["disk"]["sizeGb"],
    "AttachedDisk.guestOsFeatures[].type": "UEFI_COMPATIBLE",
    "Instance.metadata.items[].key": "a-key",
    "Instance.serviceAccounts[].email": "someone@example.org",
    "Instance.serviceAccounts[].scopes[]": "https://www.googleapis.com/auth/compute",
    "Instance.scheduling.onHostMaintenance": "TERMINATE",
    "Instance.scheduling.automaticRestart": False,
    "Instance.scheduling.provisioningModel": "SPOT",
    "Instance.scheduling.instanceTerminationAction": "STOP",
    "Instance.scheduling.localSsdRecoveryTimeout.seconds": "3600",
    "Instance.labels": {"owner": "ops"},
    "Instance.minCpuPlatform": "Intel Skylake",
    "Instance.hostname": f"{NAME}.example.org",
    "Instance.reservationAffinity.consumeReservationType": "NO_RESERVATION",
    "Instance.keyRevocationActionType": "STOP",
    "Disk.name": f"{NAME}-blank",
    "Disk.sizeGb": "30",
    "Disk.sourceImage": "global/images/linux-debian-12-64-bit",
    "Disk.sourceSnapshot": f"global/snapshots/{NAME}",
    "Disk.sourceDisk": f"zones/{ZONE}/disks/{NAME}-disk",
    "Disk.type": f"zones/{ZONE}/diskTypes/pd-ssd",
    "Disk.licenses[]": LINKS + "projects/debian-cloud/global/licenses/debian-12-bookworm",
    "Disk.licenseCodes[]": "5926592092274602096",
    "Disk.guestOsFeatures[].type": "UEFI_COMPATIBLE",
    "Disk.labels": {"team": "b"},
    "Disk.physicalBlockSizeBytes": "4096",
    "DisksResizeRequest.sizeGb": "40",
    "ZoneSetLabelsRequest.labels": {"team": "c"},
    "Snapshot.name": NAME,
    "Snapshot.sourceDisk": f"zones/{ZONE}/disks/{NAME}-disk",
    "Snapshot.storageLocations[]": "europe-west6",
    "Snapshot.labels": {"keep": "weekly"},
    "GlobalSetLabelsRequest.labels": {"keep": "daily"},
    "Image.name": f"{NAME}-file",
    "Image.sourceDisk": f"zones/{ZONE}/disks/{NAME}-disk",
    "Image.sourceSnapshot": f"global/snapshots/{NAME}",
    "Image.sourceImage": f"global/images/{NAME}-file",
    "Image.rawDisk.source": "https://files.example.org/disk.qcow2",
    "Image.rawDisk.sha1Checksum": "0123456789" * 4,
    "Image.diskSizeGb": "20",
    "Image.family": "round-trips",
    "Image.labels": {"kind": "golden"},
    "Image.licenses[]": LINKS + "projects/debian-cloud/global/licenses/debian-12-bookworm",
    "Image.licenseCodes[]": "5926592092274602096",
    "Image.guestOsFeatures[].type": "UEFI_COMPATIBLE",
    "Image.architecture": "X86_64",
    "DeprecationStatus.replacement": "global/images/linux-debian-12-64-bit",
    "DeprecationStatus.deprecated": "2026-11-26T00:00:00Z",
    "DeprecationStatus.obsolete": "2027-01-01T00:00:00Z",
    "DeprecationStatus.deleted": "2027-06-01T00:00:00Z",
    "GlobalSetPolicyRequest.bindings[].role": "roles/compute.imageUser",
    "GlobalSetPolicyRequest.bindings[].members[]": "allAuthenticatedUsers",
    "GlobalSetPolicyRequest.policy.bindings[].role": "roles/compute.imageUser",
    "GlobalSetPolicyRequest.policy.bindings[].members[]": "user:ian@example.org",
    "Tags.items[]": "db",
    "Metadata.items[].key": "another-key",
    "InstancesSetLabelsRequest.labels": {"owner": "dev"},
    "InstancesSetMachineTypeRequest.machineType": f"zones/{ZONE}/machineTypes/e2-medium",
    "InstancesSetNameRequest.name": f"{NAME}-2",
    "Scheduling.onHostMaintenance": "MIGRATE",
    "Scheduling.provisioningModel": "STANDARD",
    "Scheduling.localSsdRecoveryTimeout.seconds": "7200",
    "BulkInsertInstanceResource.perInstanceProperties": {f"{NAME}-bulk": {"hostname": f"{NAME}-bulk.example.org"}},
}
# Methods that take a body of their own, and where in the instance it is read again; in the order in which they go.
SETTERS = {
    "Scheduling": ("POST", "setScheduling", "scheduling"),
    "ShieldedInstanceIntegrityPolicy": (
        "PATCH", "setShieldedInstanceIntegrityPolicy", "shieldedInstanceIntegrityPolicy",
    ),
    "InstancesSetMachineTypeRequest": ("POST", "setMachineType", ""),
    "InstancesSetServiceAccountRequest": ("POST", "setServiceAccount", "serviceAccounts"),
    "InstancesSetMinCpuPlatformRequest": ("POST", "setMinCpuPlatform", ""),
    "ShieldedInstanceConfig": ("PATCH", "updateShieldedInstanceConfig", "shieldedInstanceConfig"),
    "DisplayDevice": ("PATCH", "updateDisplayDevice", "displayDevice"),
    "InstancesSetNameRequest": ("POST", "setName", ""),
}  # fmt: skip

# Where a leaf is read again, when that is elsewhere: in the instance, or (behind "disk.") in its boot disk.
READ = {
    "disks[].initializeParams.diskName": "disk.name",
    "disks[].initializeParams.sourceImage": "disk.sourceImage",
    "disks[].initializeParams.diskSizeGb": "disk.sizeGb",
    "disks[].initializeParams.diskType": "disk.type",
    "disks[].initializeParams.labels": "disk.labels",
    "disks[].initializeParams.description": "disk.description",
    "disks[].initializeParams.licenses[]": "disk.licenses[]",
    "disks[].initializeParams.architecture": "disk.architecture",
    "disks[].initializeParams.guestOsFeatures[].type": "disk.guestOsFeatures[].type",
}

LEAVES = [
    (name, path)
    for name, (descriptor, _) in BODIES.items()
    for path, found in leaves(descriptor)
    if found.use in ("HONOURED", "KEPT")
    and f"{name}.{path}" not in NOT_SHOWN
    and not f"{name}.{path}".startswith(PROPERTIES)
]


def field_of(descriptor: Descriptor, path: str) -> FieldDescriptor:
    *above, last = path.replace("[]", "").split(".")
    for step in above:
        descriptor = message_of(next(field for field in descriptor.fields if field.json_name == step))
    return next(field for field in descriptor.fields if field.json_name == last)


def sample(name: str, path: str, prepared: dict[str, Any]) -> Any:
    """A value for the leaf: that of the table, or one of its type that is not the default."""
    found = SAMPLES.get(f"{name}.{path}")
    if callable(found):
        return found(prepared)
    if found is not None:
        return found
    field = field_of(BODIES[name][0], path)
    if values := enum_values(field):
        return values[-1]
    if field.type == FieldDescriptor.TYPE_BOOL:
        return True
    return f"sample {path}" if field.type == FieldDescriptor.TYPE_STRING else 120


def put(body: dict[str, Any], path: str, value: Any) -> None:
    *above, last = path.split(".")
    for step in above:
        below = body.setdefault(step.removesuffix("[]"), [{}] if step.endswith("[]") else {})
        body = below[0] if step.endswith("[]") else below
    body[last.removesuffix("[]")] = [value] if last.endswith("[]") else value


def look(answer: Any, path: str) -> list[Any]:
    """All values at a path, through lists."""
    found = [answer]
    for step in path.split("."):
        found = [
            one[step.removesuffix("[]")] for one in found if isinstance(one, dict) and step.removesuffix("[]") in one
        ]
        if step.endswith("[]"):
            found = [item for one in found for item in one]
    return found


def has(found: list[Any], value: Any) -> bool:
    """Links come back whole."""
    links = ("global/", "zones/", "regions/", "projects/")
    if isinstance(value, str) and value.startswith(links):
        return any(str(one).endswith(f"/{value}") for one in found)
    return value in found


class Prepared:
    """Everything that is put in, and everything that is read again."""

    def __init__(self, stack: Stack):
        self.stack = stack
        self.values: dict[str, Any] = {}
        self.read: dict[str, Any] = {}
        token = stack.token()
        self.call: Callable[..., Any] = lambda *asked: self._checked(stack.call(*asked, token=token))

    def _checked(self, reply: Any) -> Any:
        assert reply.status_code == 200, reply.text
        return reply.json()

    def done(self, operation: dict[str, Any]) -> None:
        found = self.stack.finish(operation)
        assert "error" not in found, found

    def body(self, name: str, *but: str, **prepared: Any) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for one, path in LEAVES:
            if one == name and path not in but:
                self.values[f"{name}.{path}"] = value = sample(name, path, prepared)
                put(made, path, value)
        return made


@pytest.fixture(scope="module")
def round_trip(stack: Stack) -> Iterator[Prepared]:
    it = Prepared(stack)
    zone = cloud(stack, "listZones", name="CH-ZH-1")["zone"][0]["id"]
    network = cloud(stack, "listNetworks", zoneid=zone, keyword=NETWORK)["network"][0]["id"]
    # The first one of a network is its router's own.
    addresses = [cloud(stack, "associateIpAddress", zoneid=zone, networkid=network)["ipaddress"] for _ in range(2)]
    address = addresses[1]

    instances = f"/zones/{ZONE}/instances"
    prepared = {"address": address["ipaddress"]}
    it.done(it.call("POST", instances, it.body("Instance", **prepared)))
    it.read["Instance"] = it.call("GET", f"{instances}/{NAME}")
    it.read["Instance"]["disk"] = it.call("GET", f"/zones/{ZONE}/disks/{NAME}-disk")

    for name, path in (("Tags", "tags"), ("Metadata", "metadata"), ("InstancesSetLabelsRequest", "labels")):
        method = f"set{path.title()}"
        it.done(it.call("POST", f"{instances}/{NAME}/{method}", it.body(name)))
        found = it.call("GET", f"{instances}/{NAME}")[path]
        it.read[name] = {"labels": found} if path == "labels" else found

    snapshots = "/global/snapshots"
    it.done(it.call("POST", snapshots, it.body("Snapshot")))
    it.read["Snapshot"] = it.call("GET", f"{snapshots}/{NAME}")
    permissions = it.body("TestPermissionsRequest")
    it.read["TestPermissionsRequest"] = it.call("POST", f"{snapshots}/{NAME}/testIamPermissions", permissions)
    it.done(it.call("POST", f"{snapshots}/{NAME}/setLabels", it.body("GlobalSetLabelsRequest")))
    it.read["GlobalSetLabelsRequest"] = it.call("GET", f"{snapshots}/{NAME}")

    # A disk is made from one thing.
    disks, sources = f"/zones/{ZONE}/disks", ("sourceImage", "sourceSnapshot", "sourceDisk")
    blank = it.body("Disk", *sources)
    it.done(it.call("POST", disks, blank))
    it.read["Disk"] = it.call("GET", f"{disks}/{blank['name']}")
    made = [blank["name"]]
    for field in sources:
        name = f"{NAME}-{field.lower()}"
        body = it.body("Disk", *(one for _, one in LEAVES if one not in (field, "name"))) | {"name": name}
        it.done(it.call("POST", disks, body))
        it.read["Disk"][field] = it.call("GET", f"{disks}/{name}")[field]
        made.append(name)
    it.values["Disk.name"] = blank["name"]
    it.done(it.call("POST", f"{disks}/{made[0]}/resize", it.body("DisksResizeRequest")))
    it.done(it.call("POST", f"{disks}/{made[0]}/setLabels", it.body("ZoneSetLabelsRequest")))
    changed = it.call("GET", f"{disks}/{made[0]}")
    it.read["DisksResizeRequest"] = it.read["ZoneSetLabelsRequest"] = changed

    # An image is made of one thing; that of a file has no size of its own.
    images, sources = "/global/images", ("sourceDisk", "sourceSnapshot", "sourceImage", "diskSizeGb")
    whole = it.body("Image", *sources)
    it.done(it.call("POST", images, whole))
    it.read["Image"] = it.call("GET", f"{images}/{whole['name']}")
    pictures = [whole["name"]]
    for field in sources[:3]:
        size = ["diskSizeGb"] if field == "sourceDisk" else []
        name = f"{NAME}-{field.lower()}"
        body = it.body("Image", *(one for _, one in LEAVES if one not in (field, *size))) | {"name": name}
        it.done(it.call("POST", f"{images}?forceCreate=true", body))
        found = it.call("GET", f"{images}/{name}")
        it.read["Image"] |= {one: found[one] for one in (field, *size)}
        pictures.insert(0, name)
    image = f"{images}/{whole['name']}"
    alone = it.body("GlobalSetPolicyRequest", *(one for _, one in LEAVES if not one.startswith("bindings")))
    within = it.body("GlobalSetPolicyRequest", *(one for _, one in LEAVES if not one.startswith("policy.")))
    found = [it.call("POST", f"{image}/setIamPolicy", one) for one in (alone, within)]
    it.read["GlobalSetPolicyRequest"] = {**found[0], "policy": found[1]}
    it.done(it.call("POST", f"{image}/deprecate", it.body("DeprecationStatus")))
    it.read["DeprecationStatus"] = it.call("GET", image)["deprecated"]
    for name in pictures:
        it.done(it.call("DELETE", f"{images}/{name}"))

    it.done(it.call("POST", f"{instances}/{NAME}/attachDisk", it.body("AttachedDisk", disk=changed)))
    it.read["AttachedDisk"] = attached = it.call("GET", f"{instances}/{NAME}")["disks"][1]

    # What may be changed of a running one comes first.
    for name, (verb, method, path) in SETTERS.items():
        if name == "InstancesSetMachineTypeRequest":
            it.done(it.call("POST", f"{instances}/{NAME}/stop"))
        it.done(it.call(verb, f"{instances}/{NAME}/{method}", it.body(name)))
        found = it.call("GET", f"{instances}/{NAME}{'-2' if method == 'setName' else ''}")
        part = found[path] if path else found
        it.read[name] = part[0] if isinstance(part, list) else part
    renamed, bulk = f"{NAME}-2", f"{NAME}-bulk"

    own = it.body("BulkInsertInstanceResource")
    one = {key: value for key, value in it.body("Instance", **prepared).items() if key in ("machineType", "disks")}
    one["disks"][0]["initializeParams"].pop("diskName")
    one["networkInterfaces"] = [{"network": f"global/networks/{NETWORK}"}]
    it.done(it.call("POST", f"{instances}/bulkInsert", {**own, "instanceProperties": one}))
    found = it.call("GET", f"{instances}/{bulk}")
    it.read["BulkInsertInstanceResource"] = {"perInstanceProperties": {bulk: {"hostname": found["hostname"]}}}
    it.done(it.call("DELETE", f"{instances}/{bulk}"))

    # Directions have fields of their own.
    ingress, egress = it.body("Firewall", "destinationRanges[]"), it.body("Firewall", "sourceRanges[]", "sourceTags[]")
    ingress |= {"direction": "INGRESS"}
    egress |= {"name": f"{NAME}-egress", "direction": "EGRESS", "targetTags": []}
    it.values["Firewall.direction"] = "INGRESS"
    for rule in (ingress, egress):
        it.done(it.call("POST", "/global/firewalls", rule))
    found = [it.call("GET", f"/global/firewalls/{rule['name']}") for rule in (ingress, egress)]
    it.read["Firewall"] = {**found[0], "destinationRanges": found[1]["destinationRanges"]}
    yield it

    it.done(it.call("POST", f"{instances}/{renamed}/detachDisk?deviceName={quote(attached['deviceName'])}"))
    for name in made:
        it.done(it.call("DELETE", f"{disks}/{name}"))
    it.done(it.call("DELETE", f"{snapshots}/{NAME}"))
    machine = cloud(stack, "listVirtualMachines", name=renamed)["virtualmachine"][0]["id"]
    cloud(stack, "updateVirtualMachine", id=machine, deleteprotection="false")
    it.done(it.call("DELETE", f"{instances}/{renamed}"))
    for rule in (ingress, egress):
        it.done(it.call("DELETE", f"/global/firewalls/{rule['name']}"))
    for one in addresses:
        if not one["issourcenat"]:
            cloud(stack, "disassociateIpAddress", id=one["id"])


@pytest.mark.parametrize(("name", "path"), LEAVES, ids=[f"{name}.{path}" for name, path in LEAVES])
def test_what_is_put_in_comes_back(round_trip: Prepared, name: str, path: str) -> None:
    leaf = f"{name}.{path}"
    found = look(round_trip.read[name], READ.get(path, path) if name == "Instance" else path)
    assert has(found, round_trip.values[leaf]), f"{round_trip.values[leaf]!r} came back as {found}"


def test_what_many_instances_are_like_is_what_one_is_like() -> None:
    """A leaf of their properties is decided as that of an instance is, which is put in and read again above."""
    instance = dict(leaves(BODIES["Instance"][0]))
    properties = dict(leaves(BODIES["BulkInsertInstanceResource"][0]))
    own = {
        path.partition(".")[2]: found for path, found in properties.items() if path.startswith("instanceProperties.")
    }
    assert {path: found for path, found in own.items() if path != "resourceManagerTags"} == {
        path: instance[path] for path in own if path != "resourceManagerTags"
    }


def test_the_tables_speak_of_leaves_that_there_are() -> None:
    known = {f"{name}.{path}" for name, (descriptor, _) in BODIES.items() for path, _ in leaves(descriptor)}
    assert set(SAMPLES) | set(NOT_SHOWN) <= known
    assert {f"Instance.{path}" for path in READ} <= known
