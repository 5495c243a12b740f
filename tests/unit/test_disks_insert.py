"""disks.insert: blank disks, disks from images, snapshots and other disks, what comes back of them, what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from gstack.compute.v1 import disks_pb2 as pb
from gstack.compute.v1 import operations_pb2, snapshots_pb2
from gstack.compute.v1.common_pb2 import GuestOsFeature
from simulator.app import Fault
from simulator.families.jobs import restart
from simulator.world import DiskOffering, Snapshot, Volume
from tests.conftest import LINK_BASE, Cloud, OpenScope
from tests.unit import test_instances as instances
from tests.unit.killed import killed_in_each
from tests.unit.made import ask, first, job, machine, until, volume
from tests.unit.test_disks import Calls, get
from tests.unit.test_disks import names as listed
from tests.unit.test_instances import Finish, done, refused
from translator_service.gce.naming import number
from translator_service.kept import tags
from translator_service.operations import engine
from translator_service.resources.disks import intents
from translator_service.scope import Scope

ZONE_LINK = f"{LINK_BASE}/projects/demo/zones/ch-zh-1"
IMAGE = "global/images/linux-debian-12-64-bit"
PUBLIC = "projects/debian-cloud/global/images/family/debian-12"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, quick_jobs: None) -> None:
    monkeypatch.setattr(engine, "_LOOK", 0.02)


def insert(scope: Scope, name: str = "disk-1", zone: str = "ch-zh-1", query: str = "", **fields: Any) -> Any:
    resource = pb.Disk(name=name, **fields)
    request = pb.InsertDiskRequest(project="demo", zone=zone, sourceImage=query, resource=resource)
    found = ask(scope, "Disks.Insert", request)
    assert isinstance(found, operations_pb2.Operation)
    return found


def row_of(scope: Scope, name: str = "disk-1") -> dict[str, Any]:
    """CloudStack's view of a disk."""
    return first(scope, "listVolumes", name=name)


@pytest.fixture
def web(scope: Scope) -> Scope:
    """A scope with the machine web-1, its boot disk, and its data disk data-1."""
    made = machine(scope, "web-1")
    job(scope, "attachVolume", id=volume(scope, "data-1")["id"], virtualmachineid=made["id"])
    return scope


def snapshot(scope: Scope, operations: Finish, disk: str, name: str = "snap-1") -> None:
    wanted = snapshots_pb2.Snapshot(name=name)
    request = pb.CreateSnapshotDiskRequest(project="demo", zone="ch-zh-1", disk=disk, resource=wanted)
    done(scope, operations, ask(scope, "Disks.CreateSnapshot", request))


def left_behind(simulated: Cloud) -> tuple[list[str], list[str]]:
    """(volumes, snapshots) that there are."""
    world = simulated.app.world
    found = ([one.name for one in world.all(kind) if not one.removed] for kind in (Volume, Snapshot))
    volumes, taken = found
    return sorted(volumes), sorted(taken)


# Blank disks


def test_a_blank_disk(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    fields: dict[str, Any] = {
        "description": "Data of ü",
        "labels": {"env": "test"},
        "licenses": ["projects/p/global/licenses/l"],
        "licenseCodes": [1, 2],
        "guestOsFeatures": [GuestOsFeature(type="UEFI_COMPATIBLE")],
        "architecture": "ARM64",
        "locationHint": "near",
        "physicalBlockSizeBytes": 4096,
        "sizeGb": 7,
    }
    calls = Calls(simulated)
    sent = insert(scope, type="zones/ch-zh-1/diskTypes/pd-ssd", **fields)
    assert calls() == {"listVolumes": 2, "listVirtualMachines": 1}
    assert (sent.operationType, sent.targetLink, sent.zone) == ("insert", f"{ZONE_LINK}/disks/disk-1", ZONE_LINK)
    row = done(scope, operations, sent)
    found = get(scope, "disk-1")
    for field, value in fields.items():
        shown = getattr(found, field)
        assert (dict(shown) if field == "labels" else list(shown) if isinstance(value, list) else shown) == value
    assert (found.type, found.status, list(found.users)) == (f"{ZONE_LINK}/diskTypes/pd-ssd", "READY", [])
    assert row["target_id"] == str(found.id) == str(number(row_of(scope)["id"]))
    assert not found.sourceImage and not found.sourceSnapshot and not found.sourceDisk
    assert not found.lastAttachTimestamp and not found.lastDetachTimestamp
    assert row_of(scope)["diskofferingname"] == "SSD"
    assert left_behind(simulated)[0] == ["disk-1"]


@pytest.mark.parametrize(
    ("fields", "type", "size"),
    [
        ({}, "pd-standard", 500),
        ({"sizeGb": 3}, "pd-standard", 3),
        ({"type": "pd-balanced"}, "pd-balanced", 500),
        ({"type": "diskTypes/small"}, "small", 20),
        ({"type": f"{LINK_BASE}/projects/demo/zones/ch-zh-1/diskTypes/small", "sizeGb": 20}, "small", 20),
    ],
)
def test_type_and_size(scope: Scope, operations: Finish, fields: dict[str, Any], type: str, size: int) -> None:
    done(scope, operations, insert(scope, **fields))
    found = get(scope, "disk-1")
    assert (found.type.rpartition("/")[2], found.sizeGb) == (type, size)


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"name": "Disk_1"}, "resource.name", "Must be a match of regex"),
        ({"name": ""}, "resource.name", "not specified"),
        ({"type": "small", "sizeGb": 21}, "resource.sizeGb", "'21'. With this disk type the disk has 20 GB."),
        ({"sizeGb": 5000}, "resource.sizeGb", "'5000'. Disk size cannot be larger than 1024 GB."),
        ({"sizeGb": -1}, "resource.sizeGb", "'-1'. Disk size cannot be smaller than 1 GB."),
        ({"physicalBlockSizeBytes": 16384}, "resource.physicalBlockSizeBytes", "'16384'. Blocks have 4096 bytes here."),
        ({"labels": {"A": "b"}}, "resource.labels.A", "Label keys must be"),
        ({"type": "zones/ch-gv2/diskTypes/small"}, "resource.type", "It must be in the zone 'ch-zh-1'."),
        ({"type": "zones/ch-zh-1/machineTypes/micro"}, "resource.type", "does not name one of diskTypes"),
        ({"sourceImage": IMAGE, "sizeGb": 5}, "resource.sizeGb", "smaller than the image size (10 GB)"),
        ({"description": "x" * 9000, "licenses": ["l"]}, "resource.description", "at most 8192 bytes together."),
        ({"sourceImage": IMAGE, "architecture": "ARM64"}, "resource.architecture", "'ARM64'. It is not the one of"),
        ({"sourceImage": IMAGE, "type": "small", "sizeGb": 30}, "resource.sizeGb", "the disk has 20 GB."),
        ({"sourceImage": IMAGE, "sourceDisk": "x"}, "resource.sourceDisk", "A disk is made from one thing"),
        ({"sourceImage": IMAGE, "query": "other"}, "sourceImage", "'other'. The disk has another one."),
        ({"sourceImage": "global/snapshots/s"}, "resource.sourceImage", "The URL does not name an image."),
        ({"query": "global/snapshots/s"}, "sourceImage", "The URL does not name an image."),
        ({"sourceSnapshot": "global/images/i"}, "resource.sourceSnapshot", "The URL does not name a snapshot."),
        ({"sourceDisk": "zones/ch-gv2/disks/d"}, "resource.sourceDisk", "It must be in the zone 'ch-zh-1'."),
    ],
)
def test_refused(scope: Scope, simulated: Cloud, fields: dict[str, Any], field: str, words: str) -> None:
    error = refused(lambda: insert(scope, **fields))
    assert (error.code, error.location) == (400, field)
    assert words in error.message
    assert left_behind(simulated) == ([], []) and not listed(scope)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"type": "nope"}, "projects/demo/zones/ch-zh-1/diskTypes/nope"),
        ({"sourceImage": "global/images/nope"}, "projects/demo/global/images/nope"),
        ({"sourceImage": "projects/ian/global/images/i"}, "projects/ian/global/images/i"),
        ({"sourceSnapshot": "global/snapshots/nope"}, "projects/demo/global/snapshots/nope"),
        ({"sourceSnapshot": "projects/ian/global/snapshots/s"}, "projects/ian/global/snapshots/s"),
        ({"sourceDisk": "zones/ch-zh-1/disks/nope"}, "projects/demo/zones/ch-zh-1/disks/nope"),
        ({"zone": "nope"}, "projects/demo/zones/nope"),
    ],
)
def test_not_there(scope: Scope, fields: dict[str, Any], path: str) -> None:
    error = refused(lambda: insert(scope, **fields))
    assert (error.code, error.message) == (404, f"The resource '{path}' was not found")


def test_a_zone_where_every_disk_type_has_its_size(scope: Scope, simulated: Cloud) -> None:
    for one in simulated.app.world.all(DiskOffering):
        one.customized, one.size = False, one.size or 5
    error = refused(lambda: insert(scope))
    assert (error.code, error.location) == (400, "resource.type")


# Disks from images


def test_from_an_image(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    sent = insert(scope, sourceImage=PUBLIC, sizeGb=12, labels={"a": "b"}, description="boot", type="pd-ssd")
    row = done(scope, operations, sent)
    found = get(scope, "disk-1")
    assert (found.status, found.sizeGb, dict(found.labels), found.description) == ("READY", 12, {"a": "b"}, "boot")
    assert found.type == f"{ZONE_LINK}/diskTypes/pd-ssd"
    assert found.sourceImage == f"{LINK_BASE}/projects/debian-cloud/global/images/linux-debian-12-64-bit"
    assert found.sourceImageId and found.architecture == "X86_64" and not found.users
    assert str(found.id) == row["target_id"]
    # No volume, and shown like any disk.
    assert left_behind(simulated) == ([], [])
    assert listed(scope) == ["disk-1"]
    assert listed(scope, filter="labels.a=b") == ["disk-1"] and not listed(scope, filter="labels.a=c")
    assert listed(scope, "ch-gv2") == []
    for text in (str(found.id), intents.of(scope, None)[0].id):
        assert get(scope, text) == found


@pytest.mark.parametrize("how", ["body", "query", "both"])
def test_the_image_as_clients_tell_it(scope: Scope, operations: Finish, how: str) -> None:
    image = f"{LINK_BASE}/projects/demo/{IMAGE}"
    done(
        scope,
        operations,
        insert(scope, query=image if how != "body" else "", sourceImage=image if how != "query" else ""),
    )
    found = get(scope, "disk-1")
    assert (found.sourceImage, found.sizeGb) == (image, 10)
    assert found.type.endswith("/pd-standard")


def test_there_are_not_too_many_of_images(scope: Scope, operations: Finish, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intents, "_MOST", 1)
    done(scope, operations, insert(scope, sourceImage=IMAGE))
    error = refused(lambda: insert(scope, "disk-2", sourceImage=IMAGE))
    assert (error.code, error.reason) == (403, "quotaExceeded")


def test_it_is_listed_once_when_it_is_a_volume(scope: Scope, operations: Finish) -> None:
    """The machine is there before the document is gone; its number stays."""
    template = first(scope, "listTemplates", templatefilter="executable")["id"]
    done(scope, operations, insert(scope, sourceImage=f"global/images/{template}"))
    before = get(scope, "disk-1")
    (intent,) = intents.of(scope, None)
    root = first(scope, "listVolumes", virtualmachineid=machine(scope, "web-1")["id"], type="ROOT")
    job(scope, "createTags", resourcetype="Volume", resourceids=root["id"], **tags.parameters(intent.volume_tags))
    for _ in range(2):
        assert listed(scope) == ["disk-1"]
        found = get(scope, "disk-1")
        assert (found.id, list(found.users)) == (before.id, [f"{ZONE_LINK}/instances/web-1"])
        assert found.sourceImage == before.sourceImage
        scope.store.delete_document(scope.project.key, "disk-intents", f"{intent.zone}/disk-1")
    for text in (str(before.id), intent.id, root["id"]):
        assert get(scope, text).name == "disk-1"


# Disks from snapshots


@pytest.mark.parametrize(
    ("disk", "fields", "size", "offering"),
    [
        ("data-1", {}, 5, "SSD"),
        ("data-1", {"sizeGb": 9}, 9, "SSD"),
        ("data-1", {"type": "pd-ssd", "sizeGb": 9}, 9, "SSD"),
        ("data-1", {"type": "pd-standard", "sizeGb": 9}, 9, "SSD"),
        ("web-1", {}, 10, ""),
        ("web-1", {"sizeGb": 15}, 15, ""),
        ("web-1", {"type": "pd-ssd", "sizeGb": 15}, 15, "SSD"),
        ("web-1", {"type": "pd-ssd"}, 10, "SSD"),
        ("web-1", {"type": "small"}, 20, "Small"),
    ],
)
def test_from_a_snapshot(
    web: Scope, operations: Finish, disk: str, fields: dict[str, Any], size: int, offering: str
) -> None:
    snapshot(web, operations, disk)
    done(web, operations, insert(web, sourceSnapshot="global/snapshots/snap-1", labels={"a": "b"}, **fields))
    found = get(web, "disk-1")
    assert (found.sizeGb, dict(found.labels)) == (size, {"a": "b"})
    assert found.sourceSnapshot == f"{LINK_BASE}/projects/demo/global/snapshots/snap-1"
    assert found.sourceSnapshotId == str(number(first(web, "listSnapshots", name="snap-1")["id"]))
    # A configuration without an image would find one that it did not ask for.
    assert not found.sourceImage and not found.sourceDisk
    assert found.type.rpartition("/")[2] == fields.get("type", "pd-ssd" if disk == "data-1" else "pd-standard")
    assert row_of(web).get("diskofferingname", "") == offering


def test_a_snapshot_is_no_larger_than_its_disk(web: Scope, operations: Finish) -> None:
    snapshot(web, operations, "data-1")
    error = refused(lambda: insert(web, sourceSnapshot="snap-1", sizeGb=4))
    assert error.message.endswith("'4'. Requested disk size cannot be smaller than the snapshot size (5 GB)")


@pytest.mark.parametrize("fields", [{"sourceSnapshot": "snap-1"}, {"sourceDisk": "data-1"}])
def test_another_disk_type_than_the_sources(
    web: Scope, operations: Finish, simulated: Cloud, fields: dict[str, Any]
) -> None:
    snapshot(web, operations, "data-1")
    error = refused(lambda: insert(web, type="small", **fields))
    assert (error.code, error.location) == (400, "resource.type")
    assert error.message.endswith("is of type 'pd-ssd'.")
    if "sourceSnapshot" in fields:
        # When the disk is gone only the new one tells.
        job(web, "detachVolume", id=row_of(web, "data-1")["id"])
        web.client.write("deleteVolume", id=row_of(web, "data-1")["id"])
        row = operations(web, insert(web, type="small", **fields))
        assert (row["error"]["code"], row["error"]["status"]) == ("INVALID_USAGE", 400)
        done(web, operations, insert(web, type="pd-ssd", **fields))
        assert left_behind(simulated)[0] == ["ROOT-1", "disk-1"]


def test_a_snapshot_that_is_not_ready(web: Scope, operations: Finish, simulated: Cloud) -> None:
    snapshot(web, operations, "data-1")
    (taken,) = simulated.app.world.all(Snapshot)
    taken.state = "BackingUp"
    error = refused(lambda: insert(web, sourceSnapshot="snap-1"))
    assert (error.code, error.reason) == (400, "resourceNotReady")


# Copies


@pytest.mark.parametrize(("fields", "size"), [({}, 5), ({"sizeGb": 8}, 8), ({"type": "pd-ssd"}, 5)])
def test_a_copy(web: Scope, operations: Finish, simulated: Cloud, fields: dict[str, Any], size: int) -> None:
    done(web, operations, insert(web, sourceDisk="zones/ch-zh-1/disks/data-1", **fields))
    found, source = get(web, "disk-1"), get(web, "data-1")
    assert (found.sourceDisk, found.sourceDiskId) == (source.selfLink, str(source.id))
    assert found.sizeGb == size and not found.sourceSnapshot and not found.sourceImage
    assert found.type == source.type
    # What it was copied by is gone.
    assert left_behind(simulated)[1] == []


def test_a_copy_of_a_boot_disk(web: Scope, operations: Finish, simulated: Cloud) -> None:
    done(web, operations, insert(web, sourceDisk=f"{ZONE_LINK}/disks/web-1"))
    assert (get(web, "disk-1").sizeGb, get(web, "disk-1").sourceImage) == (10, "")
    assert left_behind(simulated)[1] == []


def test_a_copy_of_what_nothing_was_written_to(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    done(scope, operations, insert(scope, "data-1", type="pd-ssd", sizeGb=6, description="d"))
    done(scope, operations, insert(scope, sourceDisk="data-1"))
    found, source = get(scope, "disk-1"), get(scope, "data-1")
    assert (found.sizeGb, found.type, found.sourceDiskId) == (6, source.type, str(source.id))
    assert not found.description
    assert "createSnapshot" not in simulated.calls
    error = refused(lambda: insert(scope, "disk-2", sourceDisk="data-1", sizeGb=5))
    assert "smaller than the source disk size (6 GB)" in error.message


def test_a_copy_of_a_disk_of_an_image(scope: Scope, operations: Finish) -> None:
    done(scope, operations, insert(scope, "boot-1", sourceImage=IMAGE, sizeGb=11))
    done(scope, operations, insert(scope, sourceDisk="boot-1"))
    found = get(scope, "disk-1")
    assert (found.sizeGb, found.sourceDisk, found.sourceImage) == (11, f"{ZONE_LINK}/disks/boot-1", "")
    assert {one.template for one in intents.of(scope, None)} == {
        first(scope, "listTemplates", templatefilter="executable", name="Linux Debian 12 64-bit")["id"]
    }


def test_a_copy_has_what_its_source_has(web: Scope, operations: Finish) -> None:
    done(web, operations, insert(web, "a", licenses=["l-1"], guestOsFeatures=[GuestOsFeature(type="GVNIC")]))
    done(web, operations, insert(web, "b", sourceDisk="a", guestOsFeatures=[GuestOsFeature(type="UEFI_COMPATIBLE")]))
    found = get(web, "b")
    assert list(found.licenses) == ["l-1"]
    assert {one.type for one in found.guestOsFeatures} == {"GVNIC", "UEFI_COMPATIBLE"}


# Names


@pytest.mark.parametrize("name", ["web-1", "data-1", "boot-1"])
@pytest.mark.parametrize("fields", [{}, {"sourceImage": IMAGE}, {"sourceDisk": "data-1"}])
def test_a_name_in_use(web: Scope, operations: Finish, name: str, fields: dict[str, Any]) -> None:
    done(web, operations, insert(web, "boot-1", sourceImage=IMAGE))
    error = refused(lambda: insert(web, name, **fields))
    assert (error.code, error.reason) == (409, "alreadyExists")
    assert error.message == f"The resource 'projects/demo/zones/ch-zh-1/disks/{name}' already exists"
    # In another zone it is free.
    done(web, operations, insert(web, name, "ch-gv2"))


def test_the_name_of_a_disk_of_an_image_is_no_boot_disks(scope: Scope, operations: Finish) -> None:
    done(scope, operations, insert(scope, "web-1", sourceImage=IMAGE))
    assert refused(lambda: instances.insert(scope, instances.wanted())).code == 409
    assert instances.names(scope) == []


@pytest.mark.parametrize(("one", "other"), list(itertools.product(["", IMAGE], repeat=2)))
def test_of_two_with_one_name_one_is_made(
    scope: Scope, simulated: Cloud, request: pytest.FixtureRequest, one: str, other: str
) -> None:
    """The second was accepted before the first had its turn."""
    sent = [insert(scope, sourceImage=one)]
    assert refused(lambda: insert(scope, sourceImage=other)).code == 409
    target = "zones/ch-zh-1/disks/disk-1"
    resource = {"name": "disk-1", "sourceImage": other}
    payload = {"zone": "ch-zh-1", "disk": resource, "field": "resource.sourceImage"}
    sent.append(engine.submit(scope, type="insert", target=target, handler="disks.insert", payload=payload))
    operations = request.getfixturevalue("operations")
    ended = [operations(scope, each) for each in sent]
    assert [row["error"] and row["error"]["code"] for row in ended] == [None, "RESOURCE_ALREADY_EXISTS"]
    assert listed(scope) == ["disk-1"]


def test_what_it_is_made_from_is_gone_by_then(web: Scope, request: pytest.FixtureRequest) -> None:
    sent = insert(web, sourceDisk="data-1")
    row = row_of(web, "data-1")
    job(web, "detachVolume", id=row["id"])
    web.client.write("deleteVolume", id=row["id"])
    ended = request.getfixturevalue("operations")(web, sent)
    assert (ended["error"]["code"], ended["error"]["status"]) == ("RESOURCE_NOT_FOUND", 404)


def test_disks_of_others(web: Scope, scope_for: OpenScope) -> None:
    other = scope_for("ian@example.org", account="ian@example.org")
    assert refused(lambda: insert(other, sourceDisk="zones/ch-zh-1/disks/data-1")).code == 404
    identity = row_of(web, "data-1")["id"]
    assert refused(lambda: insert(other, sourceDisk=identity)).code == 404


# Failures


WAYS: dict[str, Callable[[], dict[str, Any]]] = {
    "blank": dict,
    "image": lambda: {"sourceImage": IMAGE},
    "snapshot": lambda: {"sourceSnapshot": "snap-1", "sizeGb": 9},
    "copy": lambda: {"sourceDisk": "data-1", "sizeGb": 9},
}


@pytest.mark.parametrize(
    ("way", "kept"), [("blank", False), ("image", False), ("snapshot", False), ("copy", False), ("copy", True)]
)
def test_a_translator_dies_in_any_step(
    web: Scope, operations: Finish, simulated: Cloud, monkeypatch: pytest.MonkeyPatch, way: str, kept: bool
) -> None:
    """Each step is interrupted once: when it is done, and written down or not."""
    snapshot(web, operations, "data-1")
    before, killer = left_behind(simulated), killed_in_each(monkeypatch, "recorded" if kept else "done")
    row = done(web, operations, insert(web, **WAYS[way]()))
    assert len(killer.died) > 2
    volumes, taken = left_behind(simulated)
    assert volumes == sorted([*before[0], *(["disk-1"] if way != "image" else [])])
    assert taken == before[1]
    found = get(web, "disk-1")
    assert str(found.id) == row["target_id"]
    assert simulated.calls.get("createVolume", 0) == (1 if way == "image" else 2)


@pytest.mark.parametrize(
    ("way", "command"),
    [
        ("blank", "createVolume"),
        ("blank", "createTags"),
        ("snapshot", "createVolume"),
        ("snapshot", "resizeVolume"),
        ("snapshot", "createTags"),
        ("copy", "createSnapshot"),
        ("copy", "createVolume"),
        ("copy", "resizeVolume"),
        ("copy", "createTags"),
    ],
)
def test_any_step_fails(web: Scope, operations: Finish, simulated: Cloud, way: str, command: str) -> None:
    snapshot(web, operations, "data-1")
    before = left_behind(simulated)
    simulated.app.faults.append(Fault("status", command, status=531))
    row = operations(web, insert(web, **WAYS[way]()))
    assert (row["error"]["code"], row["error"]["status"]) == ("PERMISSION_DENIED", 403)
    assert left_behind(simulated) == before
    assert not row["warnings"]
    done(web, operations, insert(web, **WAYS[way]()))


def test_what_cannot_be_taken_away_is_told(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    simulated.app.faults += [
        Fault("status", "createTags", status=531),
        Fault("status", "deleteVolume", status=531),
    ]
    row = operations(scope, insert(scope))
    (warning,) = row["warnings"]
    assert warning["code"] == "CLEANUP_FAILED"
    assert f"The disk 'disk-1' ({row_of(scope)['id']})" in warning["message"]


def test_a_copys_snapshot_that_stays_is_told(web: Scope, operations: Finish, simulated: Cloud) -> None:
    simulated.app.faults.append(Fault("status", "deleteSnapshot", status=531, count=2))
    row = done(web, operations, insert(web, sourceDisk="data-1"))
    (warning,) = row["warnings"]
    assert "The snapshot that 'disk-1' was copied by" in warning["message"]


def test_answers_that_are_lost(web: Scope, operations: Finish, simulated: Cloud) -> None:
    for command in ("createSnapshot", "createVolume", "createTags", "deleteSnapshot"):
        simulated.app.faults.append(Fault("drop", command))
    before = left_behind(simulated)
    done(web, operations, insert(web, sourceDisk="data-1"))
    volumes, taken = left_behind(simulated)
    assert (volumes, taken) == (sorted([*before[0], "disk-1"]), before[1])


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("command", ["createVolume", "resizeVolume"])
def test_a_restart_of_cloudstack(web: Scope, operations: Finish, simulated: Cloud, command: str, told: bool) -> None:
    snapshot(web, operations, "data-1")
    simulated.app.world.settings.job_seconds = {"": 0.02, command: 3600.0}
    count = simulated.calls.get(command, 0)
    sent = insert(web, sourceSnapshot="snap-1", sizeGb=9)
    until(lambda: simulated.calls.get(command, 0) > count)
    simulated.app.world.settings.job_seconds = {"": 0.02}
    restart(simulated.app.world, told=told)
    row = operations(web, sent)
    volumes = left_behind(simulated)[0]
    if row["error"]:
        assert "disk-1" not in volumes
    else:
        assert volumes.count("disk-1") == 1 and get(web, "disk-1").sizeGb == 9


def test_a_quota(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    simulated.app.faults.append(Fault("status", "createVolume", status=535, text="Maximum number 2 of [volume]"))
    row = operations(scope, insert(scope))
    assert (row["error"]["code"], row["error"]["status"]) == ("QUOTA_EXCEEDED", 403)
    assert listed(scope) == []
