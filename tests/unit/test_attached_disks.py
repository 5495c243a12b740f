"""Disks of an instance: attached, detached, shown, and what is kept of each."""

from __future__ import annotations

from typing import Any

import pytest

from gstack.compute.v1 import common_pb2, disks_pb2, operations_pb2
from gstack.compute.v1 import instances_pb2 as pb
from simulator.app import Fault
from tests.conftest import Cloud, OpenScope
from tests.unit.made import ask, first, job, machine, tag, volume
from tests.unit.test_disks import Calls
from tests.unit.test_instances import IMAGE, ZONE_LINK, Finish, delete, done, get, insert, refused, row_of, wanted
from tests.unit.test_instances_insert import boot
from translator_service.kept import details, tags
from translator_service.scope import Scope

COMMON = {"project": "demo", "zone": "ch-zh-1"}


pytestmark = pytest.mark.usefixtures("quick_jobs")


@pytest.fixture
def calls(simulated: Cloud) -> Calls:
    return Calls(simulated)


@pytest.fixture
def web(scope: Scope, operations: Finish) -> Scope:
    """A scope with the instance web-1 and the volume data-1."""
    done(scope, operations, insert(scope, wanted()))
    volume(scope, "data-1")
    return scope


def attach(scope: Scope, instance: str = "web-1", **fields: Any) -> operations_pb2.Operation:
    disk = pb.AttachedDisk(**{"source": "zones/ch-zh-1/disks/data-1", **fields})
    request = pb.AttachDiskInstanceRequest(instance=instance, resource=disk, **COMMON)
    found: operations_pb2.Operation = ask(scope, "Instances.AttachDisk", request)
    return found


def detach(scope: Scope, device: str, instance: str = "web-1") -> operations_pb2.Operation:
    request = pb.DetachDiskInstanceRequest(instance=instance, deviceName=device, **COMMON)
    found: operations_pb2.Operation = ask(scope, "Instances.DetachDisk", request)
    return found


def auto_delete(scope: Scope, device: str, value: bool, instance: str = "web-1") -> operations_pb2.Operation:
    request = pb.SetDiskAutoDeleteInstanceRequest(instance=instance, deviceName=device, autoDelete=value, **COMMON)
    found: operations_pb2.Operation = ask(scope, "Instances.SetDiskAutoDelete", request)
    return found


def disk(scope: Scope, name: str = "data-1") -> disks_pb2.Disk:
    found: disks_pb2.Disk = ask(scope, "Disks.Get", disks_pb2.GetDiskRequest(disk=name, **COMMON))
    return found


def disk_names(scope: Scope) -> list[str]:
    found = ask(scope, "Disks.List", common_pb2.ListInZoneRequest(**COMMON))
    return [item.name for item in found.items]


def listed(scope: Scope) -> dict[str, pb.Instance]:
    found = ask(scope, "Instances.List", common_pb2.ListInZoneRequest(**COMMON))
    return {item.name: item for item in found.items}


def stop(scope: Scope, name: str = "web-1") -> None:
    job(scope, "stopVirtualMachine", id=row_of(scope, name)["id"])


# Attach


def test_attached(web: Scope, operations: Finish, calls: Calls) -> None:
    sent = attach(web, deviceName="sdb", autoDelete=True, interface="NVME")
    assert (sent.operationType, sent.targetLink) == ("attachDisk", f"{ZONE_LINK}/instances/web-1")
    done(web, operations, sent)
    calls()
    first_seen = get(web)
    assert calls() == {"listVirtualMachines": 1, "listVolumes": 1}
    second_seen = listed(web)["web-1"]
    assert calls() == {"listVirtualMachines": 1, "listVolumes": 1}
    for found in (first_seen, second_seen):
        boot_disk, data = found.disks
        assert (boot_disk.index, boot_disk.boot, boot_disk.deviceName) == (0, True, "persistent-disk-0")
        assert data == pb.AttachedDisk(
            kind="compute#attachedDisk", type="PERSISTENT", mode="READ_WRITE", source=f"{ZONE_LINK}/disks/data-1",
            deviceName="sdb", index=1, boot=False, autoDelete=True, interface="NVME", diskSizeGb=5,
            architecture="X86_64",
        )  # fmt: skip
    assert list(disk(web).users) == [f"{ZONE_LINK}/instances/web-1"]
    assert disk(web).lastAttachTimestamp


def test_device_names_that_nobody_gave(web: Scope, operations: Finish) -> None:
    volume(web, "data-2")
    done(web, operations, attach(web))
    done(web, operations, attach(web, source="data-2"))
    assert [one.deviceName for one in get(web).disks] == ["persistent-disk-0", "persistent-disk-1", "persistent-disk-2"]
    done(web, operations, detach(web, "persistent-disk-1"))
    done(web, operations, attach(web))
    assert sorted(one.deviceName for one in get(web).disks)[1:] == ["persistent-disk-2", "persistent-disk-3"]


def test_licenses_of_the_disk(web: Scope, operations: Finish) -> None:
    said = ["projects/debian-cloud/global/licenses/debian-12"]
    done(web, operations, insert(web, wanted("web-2", **boot(licenses=said))))
    assert list(get(web, "web-2").disks[0].licenses) == said
    assert list(listed(web)["web-2"].disks[0].licenses) == said


def test_a_disk_attached_elsewhere_to_an_instance_with_others(web: Scope, operations: Finish) -> None:
    """Of two with one name the link names the one that is attached."""
    other = volume(web, "data-2")
    twin = volume(web, "data-2")
    done(web, operations, attach(web))
    job(web, "attachVolume", id=twin["id"], virtualmachineid=row_of(web)["id"])
    for found in (get(web), listed(web)["web-1"]):
        assert found.disks[2].source == f"{ZONE_LINK}/disks/data-2-{twin['id'][:8]}"
        assert (found.disks[2].deviceName, found.disks[2].autoDelete) == (f"data-2-{twin['id'][:8]}", False)
    assert other["id"] != twin["id"]
    done(web, operations, auto_delete(web, f"data-2-{twin['id'][:8]}", True))
    assert get(web).disks[2].autoDelete


def test_an_instance_made_elsewhere(scope: Scope, operations: Finish) -> None:
    machine(scope, "web-1")
    volume(scope, "data-1")
    data = volume(scope, "data-2")
    job(scope, "attachVolume", id=data["id"], virtualmachineid=row_of(scope)["id"])
    done(scope, operations, attach(scope, autoDelete=True))
    found = {one.deviceName: one.autoDelete for one in get(scope).disks}
    assert found == {"web-1": True, "data-2": False, "persistent-disk-2": True}
    done(scope, operations, auto_delete(scope, "web-1", False))
    assert {one.deviceName: one.autoDelete for one in get(scope).disks} == {**found, "web-1": False}
    assert list(get(scope).disks) == list(listed(scope)["web-1"].disks)


@pytest.mark.parametrize(
    ("fields", "location"),
    [
        ({"source": ""}, "resource.source"),
        ({"mode": "READ_ONLY"}, "resource.mode"),
        ({"type": "SCRATCH"}, "resource.type"),
        ({"diskSizeGb": 7}, "resource.diskSizeGb"),
        ({"initializeParams": pb.AttachedDiskInitializeParams(sourceImage=IMAGE)}, "resource.initializeParams"),
        ({"deviceName": "persistent-disk-0"}, "resource.deviceName"),
        ({"deviceName": "d" * 129}, "resource.deviceName"),
        ({"source": "zones/ch-gv2/disks/data-1"}, "resource.source"),
        ({"source": "zones/ch-zh-1/images/data-1"}, "resource.source"),
        ({"boot": True}, "resource.boot"),
    ],
)
def test_what_is_not_attached(web: Scope, simulated: Cloud, fields: dict[str, Any], location: str) -> None:
    error = refused(lambda: attach(web, **fields))
    assert (error.code, error.location) == (400, location), error
    assert "attachVolume" not in simulated.calls


def test_regional_disks_are_not_attached(web: Scope) -> None:
    resource = pb.AttachedDisk(source="data-1")
    request = pb.AttachDiskInstanceRequest(instance="web-1", forceAttach=True, resource=resource, **COMMON)
    assert refused(lambda: ask(web, "Instances.AttachDisk", request)).location == "forceAttach"


def test_an_unknown_disk_or_instance(web: Scope, scope_for: OpenScope) -> None:
    assert refused(lambda: attach(web, source="nope")).code == 404
    assert refused(lambda: attach(web, source="projects/else/zones/ch-zh-1/disks/data-1")).code == 404
    assert refused(lambda: attach(web, "nope")).code == 404
    other = scope_for("ian@example.org", account="ian@example.org")
    for call in (lambda: attach(other), lambda: detach(other, "web-1"), lambda: auto_delete(other, "web-1", True)):
        assert refused(call).code == 404


@pytest.mark.parametrize("user", ["web-1", "web-2"])
def test_a_disk_in_use(web: Scope, operations: Finish, user: str) -> None:
    if user == "web-2":
        done(web, operations, insert(web, wanted("web-2")))
    done(web, operations, attach(web, user))
    error = refused(lambda: attach(web))
    assert (error.code, error.reason) == (400, "resourceInUseByAnotherResource")
    paths = [f"projects/demo/zones/ch-zh-1/{path}" for path in ("disks/data-1", f"instances/{user}")]
    assert error.message == f"The disk resource '{paths[0]}' is already being used by '{paths[1]}'"


def test_taken_before_its_turn_comes(web: Scope, operations: Finish, simulated: Cloud) -> None:
    done(web, operations, insert(web, wanted("web-2")))
    simulated.app.world.settings.job_seconds = {"": 0.02, "attachVolume": 0.3}
    sent = [attach(web), attach(web)]
    errors = [operations(web, one)["error"] for one in sent]
    assert errors[0] is None
    assert errors[1]["code"] == "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE" and errors[1]["status"] == 400
    assert simulated.calls["attachVolume"] == 1


def test_of_two_instances_one_gets_it(web: Scope, operations: Finish, simulated: Cloud) -> None:
    """Both find it free; CloudStack says who was later."""
    done(web, operations, insert(web, wanted("web-2")))
    simulated.app.world.settings.job_seconds = {"": 0.02, "attachVolume": 0.3}
    sent = [attach(web), attach(web, "web-2")]
    errors = [row["error"] for row in (operations(web, one) for one in sent)]
    (error,) = [one for one in errors if one]
    assert error["code"] == "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE"
    assert len(disk(web).users) == 1


def test_a_device_name_taken_before_its_turn_comes(web: Scope, operations: Finish) -> None:
    volume(web, "data-2")
    sent = [attach(web, deviceName="sdb"), attach(web, source="data-2", deviceName="sdb")]
    errors = [operations(web, one)["error"] for one in sent]
    assert errors[0] is None and "device name" in errors[1]["message"]
    assert len(get(web).disks) == 2


def test_more_than_the_hypervisor_can(web: Scope, operations: Finish) -> None:
    for number in range(6):
        volume(web, f"more-{number}")
        done(web, operations, attach(web, source=f"more-{number}"))
    error = operations(web, attach(web))["error"]
    assert error["status"] == 400 and "maximum number of data disks (6)" in error["message"]
    assert len(get(web).disks) == 7


def test_what_is_kept_is_taken_back_with_the_disk(web: Scope, operations: Finish, simulated: Cloud) -> None:
    simulated.app.faults.append(Fault("status", "updateVirtualMachine", status=531))
    assert operations(web, attach(web))["error"]["code"] == "PERMISSION_DENIED"
    assert list(disk(web).users) == []
    assert len(get(web).disks) == 1


# Detach


def test_detached(web: Scope, operations: Finish, calls: Calls) -> None:
    done(web, operations, attach(web, deviceName="sdb"))
    attached = disk(web).lastAttachTimestamp
    done(web, operations, detach(web, "sdb"))
    calls()
    assert [one.deviceName for one in get(web).disks] == ["persistent-disk-0"]
    assert calls() == {"listVirtualMachines": 1}
    found = disk(web)
    assert (list(found.users), found.status) == ([], "READY")
    kept = details.unpack(tags.of(first(web, "listVolumes", name="data-1")), tags.DISK, {})
    assert kept["lastDetach"] == found.lastDetachTimestamp >= found.lastAttachTimestamp == attached


def test_the_boot_disk_of_a_stopped_instance(web: Scope, operations: Finish) -> None:
    error = refused(lambda: detach(web, "persistent-disk-0"))
    assert (error.code, error.location) == (400, "deviceName")
    stop(web)
    done(web, operations, detach(web, "persistent-disk-0"))
    assert list(get(web).disks) == []
    assert (list(disk(web, "web-1").users), disk_names(web)) == ([], ["data-1", "web-1"])
    volume(web, "other")
    done(web, operations, attach(web, source="other"))
    assert [one.boot for one in get(web).disks] == [False]
    done(web, operations, attach(web, source="web-1", boot=True, autoDelete=True))
    for found in (get(web), listed(web)["web-1"]):
        assert [(one.boot, one.source.rpartition("/")[2]) for one in found.disks] == [(True, "web-1"), (False, "other")]
        assert (found.disks[0].deviceName, found.disks[0].autoDelete) == ("persistent-disk-0", True)
    job(web, "startVirtualMachine", id=row_of(web)["id"])


def test_another_disk_as_the_boot_disk_keeps_its_name(web: Scope, operations: Finish) -> None:
    stop(web)
    done(web, operations, detach(web, "persistent-disk-0"))
    done(web, operations, attach(web, boot=True))
    assert [one.source for one in get(web).disks] == [f"{ZONE_LINK}/disks/data-1"]
    assert list(disk(web, "data-1").users) == [f"{ZONE_LINK}/instances/web-1"]
    assert disk_names(web) == ["data-1", "web-1"]
    done(web, operations, detach(web, "persistent-disk-0"))
    assert disk_names(web) == ["data-1", "web-1"]


def test_a_boot_disk_made_elsewhere_keeps_its_name(scope: Scope, operations: Finish) -> None:
    machine(scope, "web-1")
    stop(scope)
    done(scope, operations, detach(scope, "web-1"))
    assert disk_names(scope) == ["web-1"]


def test_a_name_that_another_disk_got_since(web: Scope, operations: Finish) -> None:
    """Attached when it was alone with its name; a disk made elsewhere since does not change the link."""
    data = first(web, "listVolumes", name="data-1")
    done(web, operations, attach(web))
    volume(web, "data-1")
    assert get(web).disks[1].source == f"{ZONE_LINK}/disks/data-1"
    assert disk(web, "data-1").id == disk(web, data["id"]).id


def test_what_is_not_detached(web: Scope) -> None:
    error = refused(lambda: detach(web, "sdb"))
    assert (error.code, error.location) == (400, "deviceName")
    assert "No attached disk found" in error.message
    assert refused(lambda: detach(web, "")).reason == "required"
    assert refused(lambda: detach(web, "x", "nope")).code == 404


def test_detached_before_its_turn_comes(web: Scope, operations: Finish, simulated: Cloud) -> None:
    done(web, operations, attach(web, deviceName="sdb"))
    sent = [detach(web, "sdb"), detach(web, "sdb")]
    errors = [operations(web, one)["error"] for one in sent]
    assert errors[0] is None and errors[1]["status"] == 400
    assert simulated.calls["detachVolume"] == 1


def test_another_disk_has_the_device_name_by_then(web: Scope, operations: Finish) -> None:
    volume(web, "data-2")
    done(web, operations, attach(web, deviceName="sdb"))
    sent = [detach(web, "sdb"), attach(web, source="data-2", deviceName="sdc"), detach(web, "sdb")]
    assert [bool(operations(web, one)["error"]) for one in sent] == [False, False, True]
    assert [one.source.rpartition("/")[2] for one in get(web).disks] == ["web-1", "data-2"]


# Auto-delete, and deletes


def test_auto_delete(web: Scope, operations: Finish) -> None:
    done(web, operations, attach(web, deviceName="sdb"))
    assert [one.autoDelete for one in get(web).disks] == [True, False]
    done(web, operations, auto_delete(web, "sdb", True))
    done(web, operations, auto_delete(web, "persistent-disk-0", False))
    assert [one.autoDelete for one in get(web).disks] == [False, True]
    assert [one.deviceName for one in get(web).disks] == ["persistent-disk-0", "sdb"]
    assert refused(lambda: auto_delete(web, "nope", True)).location == "deviceName"


@pytest.mark.parametrize("expunge", [True, False])
def test_each_disk_by_its_auto_delete(web: Scope, operations: Finish, simulated: Cloud, expunge: bool) -> None:
    simulated.app.world.settings.user_may_expunge = expunge
    for name in ("data-2", "data-3"):
        volume(web, name)
    done(web, operations, attach(web, autoDelete=True))
    done(web, operations, attach(web, source="data-2", autoDelete=False))
    done(web, operations, attach(web, source="data-3", autoDelete=True))
    done(web, operations, auto_delete(web, "persistent-disk-0", False))
    done(web, operations, delete(web))
    assert disk_names(web) == ["data-2", "web-1"]
    for name in disk_names(web):
        assert (list(disk(web, name).users), disk(web, name).status) == ([], "READY")
    for row in web.client.read("listVolumes").items:
        assert "lastDetach" in details.unpack(tags.of(row), tags.DISK, {})
    volume(web, "data-1")
    done(web, operations, insert(web, wanted("web-2")))


def test_a_disk_that_stays_though_its_instance_goes_can_be_attached_again(web: Scope, operations: Finish) -> None:
    done(web, operations, attach(web))
    tag(web, "Volume", first(web, "listVolumes", name="data-1")["id"], "color", "blue")
    done(web, operations, delete(web))
    done(web, operations, insert(web, wanted()))
    done(web, operations, attach(web))
    assert get(web).disks[1].source == f"{ZONE_LINK}/disks/data-1"
