"""instances.attachDisk, detachDisk, setDiskAutoDelete. On one instance they run one after another, and what was
checked at submit is checked again when their turn comes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import structlog
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from gstack.compute.v1 import instances_pb2 as pb
from gstack.kernel.errors import invalid, required, unsupported
from translator_service import places
from translator_service.cloudstack.errors import CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.gce.times import from_cloudstack, rfc3339
from translator_service.kept import details as kept
from translator_service.kept import tags
from translator_service.operations.run import Run, handler
from translator_service.places import Zone
from translator_service.resources.disks.intents import MARK, in_use
from translator_service.resources.disks.view import kept_of, size_gb
from translator_service.resources.instances import attached, sources
from translator_service.resources.instances.attached import Attached
from translator_service.resources.instances.find import AWAITED, find, machine, submit
from translator_service.resources.tagged import retag
from translator_service.rpc import rpc
from translator_service.scope import Scope

log = structlog.get_logger()


def _disks(scope: Scope, zone: Zone, row: Row, name: str) -> list[Attached]:
    """The disks that an instance has now."""
    if AWAITED in row:
        return []
    volumes, names, _ = attached.of_instance(scope, zone, row, name)
    return attached.attached(row, volumes, names.get)


def _at_turn(run: Run) -> tuple[Zone, Row, list[Attached]]:
    """(zone, machine, its disks) when an operation's turn has come."""
    zone = places.resolve_zone(run.scope, run.payload["zone"])
    row = machine(run, "machine")

    def work(scope: Scope) -> tuple[list[Row], dict[str, str]]:
        volumes, names, _ = attached.of_instance(scope, zone, row, run.payload["name"])
        return volumes, names

    volumes, names = run.look("disks", work)
    return zone, row, attached.attached(row, volumes, names.get)


def _keep(run: Run, row: Row, there: Sequence[Row], **changes: Any) -> None:
    changed = attached.changes(row, there, **changes)
    run.call("details", "updateVirtualMachine", id=row["id"], **kept.parameters_of_update(row["details"], changed))


# Attach


@rpc(
    "Instances.AttachDisk",
    calls=("listVirtualMachines", "listVolumes", "attachVolume", "updateVirtualMachine"),
    differences="Read-only disks are refused. A boot disk can be attached to a stopped instance that has none. A disk "
    "that is to be made from an image is made with its instance only. How many disks a machine may have is "
    "said by its hypervisor; CloudStack's own default is six besides the boot disk.",
)
def attach_disk(scope: Scope, request: pb.AttachDiskInstanceRequest) -> Message:
    """Raises 400 and 404."""
    disk = request.resource
    if request.forceAttach:
        raise unsupported("forceAttach", "there are no regional disks.")
    if not disk.source:
        raise required("resource.source")
    zone = places.resolve_zone(scope, request.zone)
    name, row, _ = find(scope, zone, request.instance)
    disk_name, volume = sources.find(scope, zone, disk.source, "resource.source")
    if volume.get(MARK):
        raise unsupported("resource.source", _UNMADE)
    sources.check(disk, "resource", volume)
    _check_attach(disk, row, _disks(scope, zone, row, name))
    sent = MessageToDict(disk, preserving_proto_field_name=True)
    return submit(
        scope,
        zone,
        name,
        row,
        "attachDisk",
        "instances.attach-disk",
        also=[sources.path(zone, disk_name)],
        disk=volume["id"],
        disk_name=disk_name,
        sent=sent,
    )


_UNMADE = (
    "the disk is to be made from an image, which happens with its machine only: make an instance with it as its boot "
    "disk."
)


def _check_attach(disk: pb.AttachedDisk, row: Row, there: Sequence[Attached]) -> None:
    if disk.deviceName and any(one.device_name == disk.deviceName for one in there):
        text = f"'{disk.deviceName}'. Another disk of the instance has this device name."
        raise invalid("resource.deviceName", text)
    if len(there) >= sources.MOST:
        raise invalid("resource.source", f"'{disk.source}'. An instance has at most {sources.MOST} disks.")
    if not disk.boot or AWAITED in row:
        return
    if any(one.is_boot for one in there):
        raise invalid("resource.boot", "'true'. The instance has a boot disk.")
    if row.get("state") != "Stopped":
        raise invalid("resource.boot", "'true'. A boot disk is attached to a stopped instance only.")


@handler("instances.attach-disk")
def do_attach(run: Run) -> None:
    zone, row, there = _at_turn(run)
    name, disk = run.payload["disk_name"], ParseDict(run.payload["sent"], pb.AttachedDisk())
    volume = run.look("disk", lambda scope: sources.unused(scope, zone, name, run.payload["disk"]))
    _check_attach(disk, row, there)
    if disk.boot:
        name_disk(run, "name-disk", volume, name)
    device = {"deviceid": "0"} if disk.boot else {}
    try:
        run.job("attach", "attachVolume", id=volume["id"], virtualmachineid=row["id"], **device)
    except CloudStackError as error:
        raise refused_attach(run, zone, error, name) from None
    taken = [one.device_name for one in there]
    position = 0 if disk.boot else max(len(there), 1)
    about = attached.record(disk, name, disk.deviceName or attached.free_device_name(taken, position))
    volumes = [one.volume for one in there]
    try:
        if disk.boot:
            _keep(run, row, volumes, boot={**about, "sizeGb": size_gb(int(volume.get("size", 0)))})
        else:
            _keep(run, row, [*volumes, volume], data={volume["id"]: about})
    except CloudStackError:
        run.job("undo-attach", "detachVolume", id=volume["id"])
        raise


def refused_attach(run: Run, zone: Zone, error: CloudStackError, name: str) -> Exception:
    """What is told when CloudStack does not attach a disk."""
    if error.code == 431 and "not attached to any VM" in error.text:
        return in_use(run.scope, zone, name, f"{zone.path}/instances")
    return error


def name_disk(run: Run, step: str, volume: Row, name: str) -> None:
    """Root volumes are called like their machines; one that had another name keeps it as a tag."""
    if tags.NAME not in tags.of(volume):
        tag = tags.parameters({tags.NAME: name})
        run.job(step, "createTags", resourceids=volume["id"], resourcetype="Volume", **tag)


# Detach


@rpc(
    "Instances.DetachDisk",
    calls=("listVirtualMachines", "listVolumes", "detachVolume", "createTags", "updateVirtualMachine"),
    differences="The boot disk only of a stopped instance. A scratch disk goes with its instance.",
)
def detach_disk(scope: Scope, request: pb.DetachDiskInstanceRequest) -> Message:
    """Raises 400 and 404."""
    if not request.deviceName:
        raise required("deviceName")
    zone = places.resolve_zone(scope, request.zone)
    name, row, _ = find(scope, zone, request.instance)
    disk = None if AWAITED in row else _check_detach(row, _disks(scope, zone, row, name), request.deviceName)
    return submit(
        scope,
        zone,
        name,
        row,
        "detachDisk",
        "instances.detach-disk",
        also=[sources.path(zone, disk.name)] if disk else [],
        device=request.deviceName,
        disk=disk.volume["id"] if disk else None,
    )


def _find(there: Sequence[Attached], device: str) -> Attached:
    found = next((one for one in there if one.device_name == device), None)
    if found is None:
        raise invalid("deviceName", f"'{device}'. No attached disk found with device name '{device}'.")
    return found


def _check_detach(row: Row, there: Sequence[Attached], device: str) -> Attached:
    found = _find(there, device)
    if found.is_boot and row.get("state") != "Stopped":
        raise invalid("deviceName", f"'{device}'. The boot disk can be detached from a stopped instance only.")
    if found.is_scratch:
        raise invalid("deviceName", f"'{device}'. A scratch disk cannot be detached.")
    return found


@handler("instances.detach-disk")
def do_detach(run: Run) -> None:
    zone, row, there = _at_turn(run)
    disk = _check_detach(row, there, run.payload["device"])
    if run.payload["disk"] not in (None, disk.volume["id"]):
        # Another one has the device name by now.
        _find((), run.payload["device"])
    run.step("disk-turn", lambda: run.take_turns(sources.path(zone, disk.name)))
    if disk.is_boot:
        name_disk(run, "name-disk", disk.volume, disk.name)
    run.job("detach", "detachVolume", id=disk.volume["id"])
    _keep(
        run,
        row,
        [one.volume for one in there if one is not disk],
        **({"boot": {}} if disk.is_boot else {}),
    )
    note_detached(run, "last-detach", disk.volume)


def note_detached(run: Run, step: str, volume: Row) -> None:
    """When a disk was attached and detached is kept with it. It is no failure when that cannot be: the disk is.

    volume: as it was when it was attached; a root volume is attached as it is made.
    """
    attach = from_cloudstack(volume.get("attached") or volume.get("created", ""))
    when = {"lastAttach": attach, "lastDetach": run.step(f"{step}/time", lambda: rfc3339(time.time()))}
    try:
        retag(run, step, "Volume", volume["id"], tags.DISK, volume, {**kept_of(volume), **when})
    except CloudStackError as error:
        log.warning("last_detach_not_kept", name=run.name, reason=str(error))


# Auto-delete


@rpc("Instances.SetDiskAutoDelete", calls=("listVirtualMachines", "listVolumes", "updateVirtualMachine"))
def set_disk_auto_delete(scope: Scope, request: pb.SetDiskAutoDeleteInstanceRequest) -> Message:
    """Raises 400 and 404."""
    if not request.HasField("autoDelete"):
        raise required("autoDelete")
    if not request.deviceName:
        raise required("deviceName")
    zone = places.resolve_zone(scope, request.zone)
    name, row, _ = find(scope, zone, request.instance)
    if AWAITED not in row:
        _check_auto_delete(_disks(scope, zone, row, name), request.deviceName, request.autoDelete)
    return submit(
        scope,
        zone,
        name,
        row,
        "setDiskAutoDelete",
        "instances.auto-delete",
        device=request.deviceName,
        auto_delete=request.autoDelete,
    )


def _check_auto_delete(there: Sequence[Attached], device: str, auto_delete: bool) -> Attached:
    found = _find(there, device)
    if found.is_scratch and not auto_delete:
        raise invalid("autoDelete", "'false'. A scratch disk goes with its instance.")
    return found


@handler("instances.auto-delete")
def do_auto_delete(run: Run) -> None:
    _, row, there = _at_turn(run)
    disk = _check_auto_delete(there, run.payload["device"], run.payload["auto_delete"])
    shown = {"name": disk.name, "deviceName": disk.device_name}
    about = {**shown, **disk.about, "autoDelete": run.payload["auto_delete"]}
    volumes = [one.volume for one in there]
    if disk.is_boot:
        _keep(run, row, volumes, boot={**about, "sizeGb": size_gb(int(disk.volume.get("size", 0)))})
    else:
        _keep(run, row, volumes, data={disk.volume["id"]: about})
