"""The disks of new instances: made from snapshots, blank, existing, on local storage, and what boots from a volume."""

from __future__ import annotations

from typing import Any

import pytest

from gstack.compute.v1 import common_pb2, disks_pb2
from gstack.compute.v1 import instances_pb2 as pb
from simulator import cloud
from simulator.app import Fault
from simulator.world import Template
from tests.conftest import Cloud, OpenScope
from tests.unit.killed import killed_in_each
from tests.unit.made import ask, first, job, machine, tag, until, volume
from tests.unit.test_attached_disks import COMMON, attach, auto_delete, calls, detach, disk, disk_names, listed, stop
from tests.unit.test_disks import Calls
from tests.unit.test_instances import IMAGE, ZONE_LINK, Finish, delete, done, get, insert, refused, row_of, wanted
from tests.unit.test_instances_insert import NOTHING, left_behind
from translator_service import places
from translator_service.kept import details, tags
from translator_service.operations import engine
from translator_service.resources.disks import intents
from translator_service.resources.disks import view as disk_view
from translator_service.scope import Scope

__all__ = ["calls"]
BOOT = pb.AttachedDisk(boot=True, autoDelete=True, initializeParams={"sourceImage": IMAGE})


pytestmark = pytest.mark.usefixtures("quick_jobs")


def with_disks(*disks: pb.AttachedDisk, name: str = "web-1", **fields: Any) -> pb.Instance:
    return wanted(name, disks=[BOOT, *disks], **fields)


def further(**fields: Any) -> pb.AttachedDisk:
    """Fields of AttachedDisk, and of its initializeParams."""
    names = pb.AttachedDiskInitializeParams.DESCRIPTOR.fields_by_name
    initial = {key: value for key, value in fields.items() if key in names}
    rest = {key: value for key, value in fields.items() if key not in names}
    return pb.AttachedDisk(**rest, **({"initializeParams": initial} if initial else {}))


def from_disk(source: str, name: str = "web-1", **fields: Any) -> pb.Instance:
    return wanted(name, disks=[pb.AttachedDisk(boot=True, source=f"zones/ch-zh-1/disks/{source}", **fields)])


def snapshot(scope: Scope, of: str, name: str) -> dict[str, Any]:
    return job(scope, "createSnapshot", volumeid=first(scope, "listVolumes", id=of)["id"], name=name)


def a_former_boot_disk(scope: Scope, operations: Finish, name: str = "old") -> dict[str, Any]:
    """A disk that an instance of this name left."""
    done(scope, operations, insert(scope, wanted(name)))
    done(scope, operations, auto_delete(scope, "persistent-disk-0", False, name))
    done(scope, operations, delete(scope, name))
    return first(scope, "listVolumes", **tags.question(tags.NAME, name))


def intent(scope: Scope, name: str = "fresh", **fields: Any) -> intents.Intent:
    zone = places.resolve_zone(scope, "ch-zh-1")
    template = first(scope, "listTemplates", templatefilter="executable", name="Linux Debian 12 64-bit")["id"]
    found = intents.Intent(
        name=name, id="0f0e0d0c-1111-4111-8111-000000000001", zone=zone.id, created="2026-11-26T00:00:00+0000",
        template=template, tags={tags.NAME: name, **tags.pack(tags.LABELS, {"team": "a"})}, **{"size_gb": 20, **fields},
    )  # fmt: skip
    intents.add(scope, zone, found)
    return found


def with_local_storage(simulated: Cloud, **offering: Any) -> None:
    description = cloud.read(None)
    description["settings"] = {"job_seconds": {"": 0.02}}
    description["disk_offering"].append({"name": "Local", "local": True, **offering})
    simulated.app.world = cloud.build(description)


def summary(instance: pb.Instance) -> list[tuple[str, str, int]]:
    return [(one.source.rpartition("/")[2], one.deviceName, one.diskSizeGb) for one in instance.disks]


# Further disks


def test_a_snapshot_makes_the_same_disk_with_an_instance_and_alone(
    scope: Scope, operations: Finish, simulated: Cloud
) -> None:
    made, other = volume(scope, "data", size=4), machine(scope, "other")
    job(scope, "attachVolume", id=made["id"], virtualmachineid=other["id"])
    about = {"architecture": "X86_64", "licenses": ["l"], "guestOsFeatures": [{"type": "UEFI_COMPATIBLE"}]}
    taken = snapshot(scope, made["id"], "snap-1")
    for key, value in tags.pack(tags.SNAPSHOT, about).items():
        tag(scope, "Snapshot", taken["id"], key, value)
    field = "resource.disks[1].initializeParams"
    refusals = (({"diskType": "small"}, f"{field}.diskType"), ({"architecture": "ARM64"}, f"{field}.architecture"))
    for fields, location in refusals:
        error = refused(lambda: insert(scope, with_disks(further(sourceSnapshot="snap-1", **fields))))  # noqa: B023
        assert (error.code, error.location) == (400, location)
    done(scope, operations, insert(scope, with_disks(further(sourceSnapshot="snap-1", diskName="one"))))
    alone = disks_pb2.InsertDiskRequest(
        project="demo", zone="ch-zh-1", resource=disks_pb2.Disk(name="two", sourceSnapshot="snap-1")
    )
    done(scope, operations, ask(scope, "Disks.Insert", alone))
    one, two = disk(scope, "one"), disk(scope, "two")
    assert one.type == two.type == f"{ZONE_LINK}/diskTypes/pd-ssd"
    assert list(one.licenses) == list(two.licenses) == ["l"]
    assert one.guestOsFeatures[0] == two.guestOsFeatures[0]


def test_of_each_kind(scope: Scope, operations: Finish, calls: Calls) -> None:
    existing = volume(scope, "existing", size=3)
    source = a_former_boot_disk(scope, operations)
    snapshot(scope, source["id"], "snap-1")
    calls()
    sent = insert(
        scope,
        with_disks(
            further(diskSizeGb=7, diskType="zones/ch-zh-1/diskTypes/pd-ssd", autoDelete=True, labels={"a": "b"}),
            further(source="existing", deviceName="sdx"),
            further(sourceSnapshot="global/snapshots/snap-1", diskName="copied", interface="NVME"),
        ),
    )
    done(scope, operations, sent)
    made = calls()
    assert (made["createVolume"], made["attachVolume"], made["updateVirtualMachine"]) == (2, 3, 1)
    for found in (get(scope), listed(scope)["web-1"]):
        assert found.status == "RUNNING"
        size = found.disks[0].diskSizeGb
        assert summary(found) == [
            ("web-1", "persistent-disk-0", size), ("web-1-1", "persistent-disk-1", 7), ("existing", "sdx", 3),
            ("copied", "persistent-disk-3", size),
        ]  # fmt: skip
        assert [one.autoDelete for one in found.disks] == [True, True, False, False]
        assert [one.boot for one in found.disks] == [True, False, False, False]
        assert found.disks[3].interface == "NVME"
    assert dict(disk(scope, "web-1-1").labels) == {"a": "b"}
    assert disk(scope, "web-1-1").type == f"{ZONE_LINK}/diskTypes/pd-ssd"
    assert list(disk(scope, "existing").users) == [f"{ZONE_LINK}/instances/web-1"]
    done(scope, operations, delete(scope))
    assert disk_names(scope) == ["copied", "existing", "old"]
    assert first(scope, "listVolumes", id=existing["id"])["state"] == "Ready"


def test_the_guest_finds_all_its_disks_when_it_boots(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    simulated.app.world.settings.job_seconds = {"": 0.02, "startVirtualMachine": 0.3}
    sent = insert(scope, with_disks(further(diskSizeGb=7)))
    until(lambda: simulated.calls.get("startVirtualMachine", 0) > 0)
    assert len(scope.client.read("listVolumes", virtualmachineid=row_of(scope)["id"]).items) == 2
    assert get(scope).status in ("PROVISIONING", "STAGING")
    done(scope, operations, sent)


def test_disks_that_are_coming_are_shown(scope: Scope, request: pytest.FixtureRequest) -> None:
    sent = insert(scope, with_disks(further(diskSizeGb=7, autoDelete=True)))
    shown = [("web-1", "persistent-disk-0", get(scope).disks[0].diskSizeGb), ("web-1-1", "persistent-disk-1", 7)]
    assert summary(get(scope)) == summary(listed(scope)["web-1"]) == shown
    done(scope, request.getfixturevalue("operations"), sent)


def test_a_snapshot_that_grows(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    """CloudStack takes a size of a boot disk's snapshot with an offering only: elsewhere the copy is resized."""
    data = volume(scope, "data", size=5)
    machine(scope, "other")
    job(scope, "attachVolume", id=data["id"], virtualmachineid=row_of(scope, "other")["id"])
    snapshot(scope, data["id"], "snap-1")
    done(scope, operations, insert(scope, with_disks(further(sourceSnapshot="snap-1", diskSizeGb=9))))
    assert summary(get(scope))[1] == ("web-1-1", "persistent-disk-1", 9)
    assert simulated.calls["resizeVolume"] == 1


@pytest.mark.parametrize("text", ["", "local-ssd", "local", "zones/ch-zh-1/diskTypes/local-ssd"])
@pytest.mark.parametrize("offering", [{}, {"size": 100}])
def test_scratch_disks(scope: Scope, operations: Finish, simulated: Cloud, offering: dict[str, int], text: str) -> None:
    with_local_storage(simulated, **offering)
    size = offering.get("size", 375)
    done(scope, operations, insert(scope, with_disks(further(type="SCRATCH", diskType=text, interface="NVME"))))
    for found in (get(scope), listed(scope)["web-1"]):
        scratch = found.disks[1]
        assert (scratch.type, scratch.source, scratch.autoDelete) == ("SCRATCH", "", True)
        assert (scratch.diskSizeGb, scratch.interface, scratch.deviceName) == (size, "NVME", "persistent-disk-1")
    assert refused(lambda: detach(scope, "persistent-disk-1")).location == "deviceName"
    assert refused(lambda: auto_delete(scope, "persistent-disk-1", False)).location == "autoDelete"
    done(scope, operations, delete(scope))
    assert disk_names(scope) == []


def test_no_scratch_disks_without_local_storage(scope: Scope, simulated: Cloud) -> None:
    error = refused(lambda: insert(scope, with_disks(further(type="SCRATCH"))))
    assert (error.code, error.location, error.reason) == (400, "resource.disks[1].type", "unsupportedOperation")


@pytest.mark.parametrize(
    ("fields", "code", "location"),
    [
        ({"sourceImage": IMAGE}, 400, "resource.disks[1].initializeParams.sourceImage"),
        ({"mode": "READ_ONLY", "diskSizeGb": 5}, 400, "resource.disks[1].mode"),
        ({"source": "nope"}, 404, ""),
        ({"source": "zones/ch-gv2/disks/data"}, 400, "resource.disks[1].source"),
        ({"source": "data", "diskName": "x"}, 400, "resource.disks[1].initializeParams"),
        ({"source": "data", "type": "SCRATCH"}, 400, "resource.disks[1].type"),
        ({"source": "busy"}, 400, ""),
        ({"source": "fresh"}, 400, "resource.disks[1].source"),
        ({"sourceSnapshot": "nope"}, 404, ""),
        ({"sourceSnapshot": "projects/else/global/snapshots/s"}, 404, ""),
        ({"sourceSnapshot": "global/images/s"}, 400, "resource.disks[1].initializeParams.sourceSnapshot"),
        ({"diskType": "nope"}, 404, ""),
        ({"diskType": "small", "diskSizeGb": 7}, 400, "resource.disks[1].initializeParams.diskSizeGb"),
        ({"diskSizeGb": 4096}, 400, "resource.disks[1].initializeParams.diskSizeGb"),
        ({"diskName": "A B"}, 400, "resource.disks[1].initializeParams.diskName"),
        ({"description": "x" * 9000}, 400, "resource.disks[1].initializeParams.description"),
        ({"labels": {"A": "b"}}, 400, "resource.disks[1].initializeParams.labels.A"),
        ({"diskName": "data"}, 409, ""),
        ({"diskName": "web-1"}, 400, "resource.disks"),
        ({"deviceName": "sda", "diskSizeGb": 5}, 400, "resource.disks[1].deviceName"),
        ({"boot": True, "sourceImage": IMAGE}, 400, "resource.disks"),
    ],
)
def test_refused(scope: Scope, simulated: Cloud, fields: dict[str, Any], code: int, location: str) -> None:
    volume(scope, "data")
    machine(scope, "other")
    job(scope, "attachVolume", id=volume(scope, "busy")["id"], virtualmachineid=row_of(scope, "other")["id"])
    intent(scope)
    before = simulated.calls["createVolume"]
    boot = pb.AttachedDisk(boot=True, deviceName="sda", initializeParams={"sourceImage": IMAGE})
    error = refused(lambda: insert(scope, wanted(disks=[boot, further(**fields)])))
    assert (error.code, error.location) == (code, location), error
    assert "CloudStack" not in error.message
    assert simulated.calls["createVolume"] == before and simulated.calls["deployVirtualMachine"] == 1


def test_more_disks_than_there_may_be(scope: Scope) -> None:
    error = refused(lambda: insert(scope, with_disks(*(further(diskSizeGb=1) for _ in range(128)))))
    assert (error.code, error.location) == (400, "resource.disks")


def test_one_source_twice(scope: Scope) -> None:
    volume(scope, "data")
    error = refused(
        lambda: insert(scope, with_disks(further(source="data"), further(source="zones/ch-zh-1/disks/data")))
    )
    assert (error.code, error.location) == (400, "resource.disks")


def test_the_same_request_twice(scope_for: OpenScope, operations: Finish, simulated: Cloud) -> None:
    resource = with_disks(further(diskSizeGb=7))
    request = pb.InsertInstanceRequest(resource=resource, requestId="0e9f9a3e-3333-4333-8333-333333333333", **COMMON)
    sent = []
    for _ in range(2):
        scope = scope_for()
        sent.append(engine.replay(scope, request) or ask(scope, "Instances.Insert", request))
        done(scope, operations, sent[-1])
    assert sent[0].name == sent[1].name
    assert (simulated.calls["createVolume"], simulated.calls["deployVirtualMachine"]) == (1, 1)


# From a volume


def kvm(simulated: Cloud) -> None:
    simulated.app.world.settings.zone_wide_storage = True
    for template in simulated.app.world.all(Template):
        template.hypervisor = "KVM"


@pytest.mark.parametrize("is_kvm", [True, False])
def test_from_a_disk(scope: Scope, operations: Finish, simulated: Cloud, is_kvm: bool) -> None:
    if is_kvm:
        kvm(simulated)
    source = a_former_boot_disk(scope, operations)
    before = simulated.calls.get("attachVolume", 0)
    done(scope, operations, insert(scope, from_disk("old", autoDelete=True, deviceName="sda")))
    assert simulated.calls.get("attachVolume", 0) - before == (0 if is_kvm else 1)
    for found in (get(scope), listed(scope)["web-1"]):
        assert (found.status, len(found.disks)) == ("RUNNING", 1)
        shown = found.disks[0]
        assert (shown.source, shown.boot, shown.autoDelete) == (f"{ZONE_LINK}/disks/old", True, True)
        assert (shown.deviceName, shown.diskSizeGb) == ("sda", source["size"] >> 30)
    assert disk_names(scope) == ["old"]
    assert disk(scope, "old").id == disk(scope, source["id"]).id
    assert list(disk(scope, "old").users) == [f"{ZONE_LINK}/instances/web-1"]
    done(scope, operations, delete(scope))
    assert disk_names(scope) == []


def test_a_cloud_that_cannot_after_all(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    """KVM, but storage of one cluster."""
    kvm(simulated)
    a_former_boot_disk(scope, operations)
    simulated.app.world.settings.zone_wide_storage = False
    done(scope, operations, insert(scope, from_disk("old")))
    assert disk_names(scope) == ["old"] and get(scope).status == "RUNNING"


def test_from_a_disk_that_was_no_boot_disk(scope: Scope, operations: Finish) -> None:
    """It has no template, and keeps its name though CloudStack calls root volumes by their machines."""
    volume(scope, "data")
    done(scope, operations, insert(scope, from_disk("data")))
    assert get(scope).disks[0].source == f"{ZONE_LINK}/disks/data"
    assert disk_names(scope) == ["data"]
    done(scope, operations, delete(scope))
    assert disk_names(scope) == ["data"]
    done(scope, operations, insert(scope, from_disk("data")))


def test_from_a_snapshot(scope: Scope, operations: Finish) -> None:
    source = a_former_boot_disk(scope, operations)
    snapshot(scope, source["id"], "snap-1")
    boot = pb.AttachedDisk(boot=True, initializeParams={"sourceSnapshot": "global/snapshots/snap-1", "diskName": "new"})
    done(scope, operations, insert(scope, wanted(disks=[boot, further(diskSizeGb=3)])))
    assert summary(get(scope)) == [
        ("new", "persistent-disk-0", source["size"] >> 30), ("web-1-1", "persistent-disk-1", 3),
    ]  # fmt: skip
    assert disk_names(scope) == ["new", "old", "web-1-1"]
    assert get(scope).status == "RUNNING"


def test_from_one_that_is_still_to_be_made(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    planned = intent(scope)
    done(scope, operations, insert(scope, from_disk("fresh", autoDelete=False)))
    zone = places.resolve_zone(scope, "ch-zh-1")
    assert intents.of(scope, zone) == []
    assert summary(get(scope)) == [("fresh", "persistent-disk-0", 20)]
    found = disk(scope, "fresh")
    assert (found.sizeGb, dict(found.labels)) == (20, {"team": "a"})
    assert disk_view.kept_of(first(scope, "listVolumes", virtualmachineid=row_of(scope)["id"]))["id"] == planned.id
    done(scope, operations, delete(scope))
    assert disk_names(scope) == ["fresh"]


def test_one_that_is_still_to_be_made_is_given_back(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    planned = intent(scope)
    simulated.app.faults.append(Fault("status", "enableStaticNat", status=531))
    assert operations(scope, insert(scope, from_disk("fresh")))["error"]
    zone = places.resolve_zone(scope, "ch-zh-1")
    assert intents.of(scope, zone) == [planned]
    assert left_behind(scope) == NOTHING
    done(scope, operations, insert(scope, from_disk("fresh")))


def test_of_two_with_one_disk_one_is_made(scope: Scope, operations: Finish) -> None:
    a_former_boot_disk(scope, operations)
    intent(scope)
    for source in ("old", "fresh"):
        sent = [insert(scope, from_disk(source, f"{source}-{number}")) for number in range(2)]
        errors = [row["error"] for row in (operations(scope, one) for one in sent)]
        (error,) = [one for one in errors if one]
        assert (error["code"], error["status"]) == ("RESOURCE_IN_USE_BY_ANOTHER_RESOURCE", 400)
    assert sorted(listed(scope)) in (
        [f"fresh-{one}", f"old-{other}"] for one in (0, 1) for other in (0, 1)
    )  # fmt: skip
    assert disk_names(scope) == ["fresh", "old"]


@pytest.mark.parametrize(
    ("fields", "code", "location"),
    [
        ({"source": "nope"}, 404, ""),
        ({"source": "busy"}, 400, ""),
        ({"source": "data", "mode": "READ_ONLY"}, 400, "resource.disks[0].mode"),
        ({"source": "data", "diskSizeGb": 50}, 400, "resource.disks[0].diskSizeGb"),
        ({"source": "data", "initializeParams": {"sourceImage": IMAGE}}, 400, "resource.disks[0].initializeParams"),
        ({"initializeParams": {"sourceSnapshot": "nope"}}, 404, ""),
    ],
)
def test_what_does_not_boot(scope: Scope, fields: dict[str, Any], code: int, location: str) -> None:
    volume(scope, "data")
    machine(scope, "other")
    job(scope, "attachVolume", id=volume(scope, "busy")["id"], virtualmachineid=row_of(scope, "other")["id"])
    error = refused(lambda: insert(scope, wanted(disks=[pb.AttachedDisk(boot=True, **fields)])))
    assert (error.code, error.location) == (code, location), error


# When it fails


@pytest.mark.parametrize(
    ("command", "is_kvm"),
    [
        ("createVolume", False), ("createTags", False), ("deployVirtualMachine", False), ("detachVolume", False),
        ("attachVolume", False), ("deleteVolume", False), ("updateVirtualMachine", False),
        ("startVirtualMachine", False), ("enableStaticNat", False), ("attachVolume", True),
        ("enableStaticNat", True),
    ],
)  # fmt: skip
def test_any_step_fails(scope: Scope, operations: Finish, simulated: Cloud, command: str, is_kvm: bool) -> None:
    """What was there stays as it was, and may be used again; what was made is gone."""
    if is_kvm:
        kvm(simulated)
    source = a_former_boot_disk(scope, operations)
    volume(scope, "data")
    # Of the disk and of the address, each beside its making and once more afterwards.
    count = 4 if command == "createTags" else 1
    simulated.app.faults.append(Fault("status", command, status=533, count=count))
    boot = pb.AttachedDisk(boot=True, autoDelete=True, source="old")
    resource = wanted(disks=[boot, further(diskSizeGb=3, autoDelete=True), further(source="data", autoDelete=True)])
    row = operations(scope, insert(scope, resource))
    assert row["error"], row
    assert left_behind(scope) == NOTHING
    assert disk_names(scope) == ["data", "old"]
    assert first(scope, "listVolumes", id=source["id"])["state"] == "Ready"
    assert len(scope.client.read("listVolumes").items) == 2
    done(scope, operations, insert(scope, resource))


def test_tags_refused_beside_are_asked_for_once_more(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    """A disk or an address is tagged while it is made; nothing is left without its tags when that did not work."""
    a_former_boot_disk(scope, operations)
    before = simulated.calls["createTags"]
    simulated.app.faults.append(Fault("status", "createTags", status=533, count=2))
    boot = pb.AttachedDisk(boot=True, autoDelete=True, source="old")
    done(scope, operations, insert(scope, wanted(disks=[boot, further(diskSizeGb=3)])))
    assert simulated.calls["createTags"] >= before + 4
    rows = scope.client.read("listVolumes").items
    assert len(rows) == 2 and all(row["tags"] for row in rows)


def test_no_room_for_it(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    source = a_former_boot_disk(scope, operations)
    resource = from_disk("old")
    simulated.app.faults.append(
        Fault("status", "startVirtualMachine", status=530, text="Unable to create a deployment")
    )
    row = operations(scope, insert(scope, resource))
    assert (row["error"]["code"], row["error"]["status"]) == ("ZONE_RESOURCE_POOL_EXHAUSTED", 503)
    assert left_behind(scope) == NOTHING
    assert first(scope, "listVolumes", id=source["id"])["state"] == "Ready"


def test_a_disk_that_cannot_be_taken_out_again_is_not_deleted(
    scope: Scope, operations: Finish, simulated: Cloud
) -> None:
    a_former_boot_disk(scope, operations)
    simulated.app.faults += [
        Fault("status", "enableStaticNat", status=531), Fault("status", "stopVirtualMachine", status=530),
    ]  # fmt: skip
    row = operations(scope, insert(scope, from_disk("old")))
    assert row["error"]["code"] == "PERMISSION_DENIED"
    assert "'web-1'" in row["warnings"][0]["message"]
    assert list(disk(scope, "old").users) == [f"{ZONE_LINK}/instances/web-1"]


# Killed


def _all_kinds(scope: Scope, operations: Finish) -> pb.Instance:
    source = a_former_boot_disk(scope, operations)
    snapshot(scope, source["id"], "snap-1")
    volume(scope, "data")
    boot = pb.AttachedDisk(boot=True, autoDelete=True, source="old")
    blank, copied = further(diskSizeGb=3, labels={"a": "b"}), further(sourceSnapshot="snap-1", diskName="copied")
    return wanted(disks=[boot, blank, copied, further(source="data")])


def test_killed_between_any_two_steps_of_an_insert(
    scope: Scope, operations: Finish, simulated: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = _all_kinds(scope, operations)
    before = dict(simulated.calls)
    killer = killed_in_each(monkeypatch, "done", "before")
    done(scope, operations, insert(scope, resource))
    assert len(killer.steps) > 12 and len(set(killer.steps)) == len(killer.steps)
    assert [name for name, _, _ in summary(get(scope))] == ["old", "web-1-1", "copied", "data"]
    assert disk_names(scope) == ["copied", "data", "old", "web-1-1"]
    assert left_behind(scope)["machines"] == ["web-1"] and len(left_behind(scope)["addresses"]) == 1
    made = {name: count - before.get(name, 0) for name, count in simulated.calls.items()}
    assert (made["deployVirtualMachine"], made["createVolume"], made["attachVolume"]) == (1, 2, 4)


def test_killed_between_any_two_steps_of_one_that_fails(
    scope: Scope, operations: Finish, simulated: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = _all_kinds(scope, operations)
    simulated.app.faults.append(Fault("status", "enableStaticNat", status=531, count=2))
    killed_in_each(monkeypatch, "done", "before")
    row = operations(scope, insert(scope, resource))
    assert row["error"] and not row["warnings"], row
    assert left_behind(scope) == NOTHING
    assert disk_names(scope) == ["data", "old"]


def test_killed_between_any_two_steps_with_one_that_is_to_be_made(
    scope: Scope, operations: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    intent(scope)
    killed_in_each(monkeypatch, "done", "before")
    done(scope, operations, insert(scope, from_disk("fresh")))
    assert intents.of(scope, None) == []
    assert disk_names(scope) == ["fresh"]


def test_killed_between_any_two_steps_of_the_rest(
    scope: Scope, operations: Finish, simulated: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(scope, operations, insert(scope, wanted()))
    for name in ("data-1", "data-2"):
        volume(scope, name)
    done(scope, operations, attach(scope, autoDelete=True))
    stop(scope)
    killer = killed_in_each(monkeypatch, "done", "before")
    done(scope, operations, detach(scope, "persistent-disk-0"))
    done(scope, operations, attach(scope, source="web-1", boot=True))
    done(scope, operations, attach(scope, source="data-2"))
    assert [one.source.rpartition("/")[2] for one in get(scope).disks] == ["web-1", "data-1", "data-2"]
    done(scope, operations, delete(scope))
    assert disk_names(scope) == ["data-2", "web-1"]
    assert len(killer.steps) > 15
    for row in scope.client.read("listVolumes").items:
        assert "lastDetach" in details.unpack(tags.of(row), tags.DISK, {})


def test_a_restart_of_cloudstack_in_any_job(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    from simulator.families.jobs import restart

    resource = _all_kinds(scope, operations)
    for command in ("attachVolume", "startVirtualMachine"):
        simulated.app.world.settings.job_seconds = {"": 0.02, command: 3600.0}
        before = simulated.calls.get(command, 0)
        sent = insert(scope, resource)
        until(lambda: simulated.calls.get(command, 0) > before)  # noqa: B023
        simulated.app.world.settings.job_seconds = {"": 0.02}
        restart(simulated.app.world, told=False)
        done(scope, operations, sent)
        assert get(scope).status == "RUNNING" and len(get(scope).disks) == 4
        done(scope, operations, auto_delete(scope, "persistent-disk-0", False))
        done(scope, operations, delete(scope))
        for name in ("web-1-1", "copied"):
            row = first(scope, "listVolumes", name=name)
            scope.client.write("deleteVolume", id=row["id"])


def test_a_list_is_two_questions(scope: Scope, operations: Finish, calls: Calls) -> None:
    done(scope, operations, insert(scope, with_disks(further(diskSizeGb=1), further(diskSizeGb=1))))
    calls()
    ask(scope, "Instances.List", common_pb2.ListInZoneRequest(**COMMON))
    assert calls() == {"listVirtualMachines": 1, "listVolumes": 1}
    ask(scope, "Instances.AggregatedList", common_pb2.AggregatedListRequest(project="demo"))
    assert calls() == {"listVirtualMachines": 1, "listVolumes": 1}
