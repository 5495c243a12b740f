"""Disks: list, create, attach, detach, resize, delete, destroy, recover."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from simulator import errors
from simulator.commands import Call, Lazy, Listing, command
from simulator.errors import ApiError
from simulator.families import tags
from simulator.families.deploy import ATTACHED, GIB, add_volume, attach, detach, disk_size, forget_volume
from simulator.families.machines import (
    WORK_DONE,
    check_limit,
    describe,
    describe_disk,
    owner_fields,
    removed,
    volume,
    volumes,
)
from simulator.world import (
    Account,
    DiskOffering,
    Job,
    ServiceOffering,
    Snapshot,
    VirtualMachine,
    Volume,
    Zone,
    timestamp,
)

MAX_DATA_DISKS = 6
CD_DEVICE = 3
STORAGE = {
    "storagetype": "shared",
    "hypervisor": "Simulator",
    "storage": "PS0",
    "storageid": "7c07ec9b-a3c6-3466-ab5a-f5669ead0b22",
    "clusterid": "84deb7de-a7ad-4011-ac85-2a8f63f6b081",
    "clustername": "C0",
    "podid": "715fa93f-c738-4c19-83ff-3a270dbff049",
    "podname": "POD0",
}
Test = Callable[[Volume], bool]


def render(disk: Volume, *, admin: bool = False) -> dict[str, Any]:
    vm, offering, template = disk.vm, disk.offering, disk.template
    body: dict[str, Any] = {"id": disk.id, "name": disk.name, "zoneid": disk.zone.id, "zonename": disk.zone.name}
    body["type"] = disk.type
    if vm:
        body |= {"deviceid": disk.device, "virtualmachineid": vm.id}
    if template:
        body |= {
            "templateid": template.id,
            "templatename": template.name,
            "templatedisplaytext": template.display_text,
        }
    if vm:
        body |= {
            "vmname": vm.name,
            "vmdisplayname": vm.display_name or vm.name,
            "vmstate": vm.state,
            "vmtype": "User",
        }
    body |= {
        "provisioningtype": "thin",
        "size": disk.size,
        "created": timestamp(disk.created),
        "state": disk.state,
        **owner_fields(disk.account),
        "domainid": disk.account.domain.id,
        "domain": disk.account.domain.name,
        "domainpath": disk.account.domain.path,
    }
    if vm and disk.state == "Ready":
        body |= {"diskkbsread": 0, "diskkbswrite": 0, "diskioread": 0, "diskiowrite": 0}
    if offering:
        body |= {
            "diskofferingid": offering.id,
            "diskofferingname": offering.name,
            "diskofferingdisplaytext": offering.display_text,
        }
    if disk.attached is not None:
        body["attached"] = timestamp(disk.attached)
    body["destroyed"] = disk.state in ("Destroy", "Expunging", "Expunged")
    if service := disk.service_offering:
        body |= {
            "serviceofferingid": str(service.number),
            "serviceofferingname": service.name,
            "serviceofferingdisplaytext": service.display_text,
        }
    # Only what boots depends on what its image allows.
    body["isextractable"] = disk.type == "DATADISK" or template is None or template.type != "BUILTIN"
    if admin:
        body |= {"displayvolume": True}
        if disk.state == "Ready":
            body |= STORAGE | {"path": disk.name}
    body |= {"quiescevm": False, "supportsstoragesnapshot": False, "deleteprotection": False}
    body |= {"tags": disk.tags, "hasannotations": False}
    if disk.jobs:
        body |= {"jobid": disk.jobs[0].id, "jobstatus": 0}
    return body


# Lists


@command("listVolumes")
def list_volumes(call: Call) -> Listing:
    rows = _candidates(call)
    for test in _tests(call):
        rows = list(filter(test, rows))
    rows = tags.filter_rows(call, rows)
    admin = call.is_admin
    return Listing(Lazy(rows, lambda disk: render(disk, admin=admin)))


def _candidates(call: Call) -> list[Volume]:
    wanted = call.rows(Volume, "ids")
    if (one := call.row(Volume, "id")) is not None:
        wanted = [one]
    vm = call.row(VirtualMachine, "virtualmachineid")
    owners = call.owners()
    index = volumes(call.world)
    if wanted is None and vm is not None:
        wanted = list(vm.volumes)
    if wanted is None and (name := call.text("name")):
        wanted = index.of(name.lower())
    if wanted is None:
        return index.of(*owners)
    return [disk for disk in wanted if not disk.removed and (call.is_admin or disk.account in owners)]


def _tests(call: Call) -> Iterator[Test]:
    if name := call.text("name").lower():
        yield lambda disk: disk.name.lower() == name
    if keyword := call.text("keyword").lower():
        # Found in the type too: DATADISK matches "disk".
        yield lambda disk: keyword in disk.name.lower() or keyword in disk.type.lower()
    if kind := call.text("type").upper():
        yield lambda disk: disk.type == kind
    if state := call.text("state").lower():
        yield lambda disk: disk.state.lower() == state
    if zone := call.row(Zone, "zoneid"):
        yield lambda disk: disk.zone is zone
    if vm := call.row(VirtualMachine, "virtualmachineid"):
        yield lambda disk: disk.vm is vm
    if offering := call.row(DiskOffering, "diskofferingid"):
        yield lambda disk: disk.offering is offering
    if service := call.row(ServiceOffering, "serviceofferingid"):
        yield lambda disk: disk.service_offering is service


# Jobs


def _submit(
    call: Call,
    disk: Volume,
    effect: Callable[[], None],
    vms: Iterable[VirtualMachine] = (),
    *,
    created: bool = False,
    shown: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """A job on a disk, with the disk (and `shown`) as its result; it waits for the jobs of the VMs it concerns."""
    world = call.world
    wait = max([0.0, *(vm.busy_until - world.now for vm in vms)])
    begun: list[Job] = []
    outcome: list[ApiError] = []

    def work() -> None:
        try:
            if begun:
                effect()
        except ApiError as error:
            outcome.append(error)

    def finish() -> dict[str, Any]:
        (job,) = begun
        disk.jobs.remove(job)
        if outcome:
            raise outcome[0]
        body = {**render(disk, admin=call.is_admin), **shown, "tags": list(disk.tags)}
        if disk.moved:
            # CloudStack has made a new row of it, where its job does not find it.
            disk.moved, job.instance_id = False, None
            return {"volume": body}
        return {"volume": body | {"jobid": job.id, "jobstatus": 0}}

    world.at(wait + WORK_DONE * call.duration(), work)
    answer = call.job(
        finish,
        instance=("Volume", disk.id),
        create_id=disk.id if created else None,
        seconds=wait + call.duration(),
    )
    job = world.find(Job, answer["jobid"])
    assert job is not None
    begun.append(job)
    disk.jobs.append(job)
    for vm in vms:
        vm.busy_until = world.now + wait + call.duration()
    return answer


def _check_owner(call: Call, disk: Volume) -> None:
    """Inside a job a missing permission is 530."""
    if not call.may_use(disk.account):
        raise errors.internal("Caller does not have permission to operate with provided resource.")


# Create, resize, delete


@command("createVolume")
def create_volume(call: Call) -> dict[str, Any]:
    offering, zone = call.row(DiskOffering, "diskofferingid"), call.row(Zone, "zoneid")
    vm, snapshot = call.row(VirtualMachine, "virtualmachineid"), call.row(Snapshot, "snapshotid")
    call.check_named_account()
    owner = call.owner()
    if snapshot is not None:
        return _create_from_snapshot(call, snapshot, owner, vm)
    if offering is None:
        raise errors.invalid("At least one of disk Offering ID or snapshot ID must be passed whilst creating volume")
    size = disk_size(offering, call.integer("size"))
    if zone is None:
        raise errors.invalid("Unable to find zone by id null")
    check_limit(call, owner, "volume", 1)
    world = call.world
    disk = add_volume(
        world,
        owner,
        zone,
        name=call.text("name") or world.new_id(),
        type="DATADISK",
        size=size * GIB,
        state="Allocated",
        offering=offering,
    )

    def created() -> None:
        if vm is not None:
            _attach(call, disk, vm, None)

    return _submit(call, disk, created, created=True)


def _create_from_snapshot(call: Call, snapshot: Snapshot, owner: Account, vm: VirtualMachine | None) -> dict[str, Any]:
    """A disk as large as the snapshot; only that of a boot disk may get another offering, which gives it its size."""
    call.check_access(snapshot.account)
    source, offering = snapshot.volume, call.row(DiskOffering, "diskofferingid")
    zone = call.row(Zone, "zoneid") or snapshot.zone
    if snapshot.removed or snapshot.state != "BackedUp":
        raise errors.invalid(
            f"Snapshot id={snapshot.number} is not in BackedUp state yet and can't be used for volume creation"
        )
    size = snapshot.size
    if offering is not None:
        if source.type != "ROOT":
            raise errors.invalid(
                "Disk Offering ID cannot be passed whilst creating volume from snapshot other than ROOT disk snapshots"
            )
        size = disk_size(offering, call.integer("size")) * GIB
    if size < snapshot.size:
        raise errors.invalid(
            f"Invalid size for volume creation: {size // GIB}GB, snapshot size is: {snapshot.size // GIB}GB"
        )
    check_limit(call, owner, "volume", 1)
    disk = add_volume(
        call.world,
        owner,
        zone,
        name=call.text("name") or call.world.new_id(),
        type="DATADISK",
        size=size,
        state="Creating",
        offering=offering or source.offering,
        template=source.template,
        service_offering=None if offering else source.service_offering,
    )

    def created() -> None:
        disk.state = "Ready"
        if vm is not None:
            _attach(call, disk, vm, None)

    return _submit(call, disk, created, created=True, shown={"snapshotid": snapshot.id})


@command("resizeVolume")
def resize_volume(call: Call) -> dict[str, Any]:
    disk = volume(call)
    offering, size = call.row(DiskOffering, "diskofferingid"), call.integer("size")
    call.check_access(disk.account)
    if offering is None and size is None:
        raise errors.invalid("Either new size or a new disk offering must be specified")
    shrink = call.flag("shrinkok")

    def resized() -> None:
        new = size * GIB if size is not None else offering.size * GIB if offering else disk.size
        if new < disk.size and not shrink:
            raise _no_shrink(disk, new)
        if new < disk.size:
            # No format that a hypervisor of CloudStack resizes can shrink.
            text = f"Failed to resize volume operation of volume UUID: [{disk.id}] due to - Failed to resize"
            raise errors.internal(text)
        disk.size = new

    return _submit(call, disk, resized, [disk.vm] if disk.vm else [])


def _no_shrink(disk: Volume, new: int) -> ApiError:
    return ApiError(
        432,
        f"Going from existing size of {disk.size} to size of {new} would shrink the volume.Need to sign off by "
        "supplying the shrinkok parameter with value of true.",
    )


@command("updateVolume")
def update_volume(call: Call) -> dict[str, Any]:
    """For administrators only, in the default roles."""
    disk = volume(call)

    def updated() -> None:
        if name := call.text("name"):
            disk.name = name
            volumes(call.world).put(disk)

    return _submit(call, disk, updated)


@command("deleteVolume")
def delete_volume(call: Call) -> dict[str, Any]:
    disk = volume(call)
    call.check_access(disk.account)
    if disk.vm is not None:
        raise errors.invalid(ATTACHED)
    forget_volume(call.world, disk)
    return {"success": True}


@command("destroyVolume")
def destroy_volume(call: Call) -> dict[str, Any]:
    disk, world, at_once = volume(call), call.world, call.flag("expunge")
    call.check_access(disk.account)

    def destroyed() -> None:
        if disk.vm is not None:
            raise errors.invalid(ATTACHED)
        if at_once or disk.state == "Allocated":
            forget_volume(world, disk)
        else:
            disk.state = "Destroy"

    return _submit(call, disk, destroyed)


@command("recoverVolume")
def recover_volume(call: Call) -> dict[str, Any]:
    disk = volume(call)
    call.check_access(disk.account)
    if disk.state != "Destroy":
        raise errors.invalid("Please specify a volume in Destroy state.")
    disk.state = "Ready"
    # This answer shows the storage to users too.
    return render(disk) | STORAGE | {"path": disk.name}


# Attach and detach


@command("attachVolume")
def attach_volume(call: Call) -> dict[str, Any]:
    disk, vm = volume(call), call.require(VirtualMachine, "virtualmachineid")
    if vm.removed:
        raise removed("VirtualMachine", vm.number)
    device = call.integer("deviceid")
    return _submit(call, disk, lambda: _attach(call, disk, vm, device), [vm])


def _attach(call: Call, disk: Volume, vm: VirtualMachine, device: int | None) -> None:
    _check_owner(call, disk)
    if not call.may_use(vm.account) or disk.account is not vm.account:
        raise errors.internal("Caller does not have permission to operate with provided resource.")
    if disk.vm is not None:
        raise errors.invalid(ATTACHED)
    if disk.state not in ("Allocated", "Ready", "Uploaded"):
        raise errors.invalid("Volume state must be in Allocated, Ready or in Uploaded state")
    if vm.state not in ("Running", "Stopped"):
        raise errors.invalid("Please specify a VM that is either running or stopped.")
    if disk.zone is not vm.zone:
        raise errors.invalid("Please specify a VM that is in the same zone as the volume.")
    if device == 0 and vm.state != "Stopped":
        raise errors.invalid("Root volume detach can happen only when vm is in states: Stopped or Destroyed")
    if device == 0 and any(row.device == 0 for row in vm.volumes):
        raise errors.invalid("Vm already has root volume attached to it")
    data_disks = [row for row in vm.volumes if row.type == "DATADISK"]
    if device != 0 and len(data_disks) >= MAX_DATA_DISKS:
        raise errors.invalid(
            f"The specified VM already has the maximum number of data disks ({MAX_DATA_DISKS}) attached. "
            "Please specify another VM."
        )
    used = {row.device: row for row in vm.volumes}
    if device is None:
        device = next(number for number in range(1, 64) if number not in used and number != CD_DEVICE)
    if device in used:
        raise errors.internal(f"deviceId {device} is used by vol {describe_disk(used[device])} on vm {describe(vm)}")
    if device == CD_DEVICE:
        raise errors.internal("deviceId 3 is reserved for CD-ROM")
    if disk.state == "Allocated" and vm.state == "Stopped":
        disk.created, disk.moved = call.world.now, True
    attach(disk, vm, device)
    disk.type = "ROOT" if device == 0 else "DATADISK"
    disk.state, disk.attached = "Ready", call.world.now


@command("detachVolume")
def detach_volume(call: Call) -> dict[str, Any]:
    if "id" not in call.parameters:
        return _detach_by_device(call)
    disk = volume(call)

    def detached() -> None:
        _check_owner(call, disk)
        if disk.vm is None:
            raise errors.invalid("The specified volume is not attached to a VM.")
        if disk.type == "ROOT" and disk.vm.state not in ("Stopped", "Destroyed"):
            raise errors.invalid("Root volume detach can happen only when vm is in states: Stopped or Destroyed")
        detach(disk)
        disk.type = "DATADISK"

    return _submit(call, disk, detached, [disk.vm] if disk.vm else [])


def _detach_by_device(call: Call) -> dict[str, Any]:
    """CloudStack's own bug: this documented form always fails."""
    if not call.text("virtualmachineid") or not call.text("deviceid"):
        raise errors.invalid("Please provide either a volume id, or a tuple(device id, instance id)")

    def fail() -> dict[str, Any]:
        raise errors.internal('Cannot invoke "java.lang.Long.longValue()" because "volumeId" is null')

    return call.job(fail)
