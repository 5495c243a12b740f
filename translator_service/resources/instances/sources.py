"""Disks that exist, as requests name them for an instance: what may be attached, and how."""

from __future__ import annotations

from gstack.compute.v1 import instances_pb2 as pb
from gstack.kernel.errors import invalid, not_found, unsupported
from translator_service import places
from translator_service.cloudstack.rows import Row
from translator_service.places import Zone
from translator_service.resources.disks import find as disks
from translator_service.resources.disks import intents
from translator_service.resources.disks.view import DESTROYED_MACHINE, size_gb
from translator_service.scope import Scope

# GCE's own bound of the disks of an instance. CloudStack's is the hypervisor's, which users may not ask for.
MOST = 128
_LONGEST_DEVICE = 128


def path(zone: Zone, name: str) -> str:
    """Of a disk, as the target of operations. Who attaches or detaches it takes turns on it with its other changes."""
    return f"{zone.path}/disks/{name}"


def find(scope: Scope, zone: Zone, text: str, field: str) -> tuple[str, Row]:
    """(GCE name, row) of a disk that nobody uses; of one that is still to be made, the row of its intent.

    Raises 404, and 400 for a disk of another zone or in use.
    """
    name = places.name_in(scope, zone, text, field, "disks")
    if (intent := intents.find(scope, zone, name)) is not None:
        intents.check_unused(scope, zone, intent)
        return intent.name, intent.row
    shown, row, _ = disks.find(scope, zone, name)
    check_unused(scope, zone, shown, row)
    return shown, row


def check_unused(scope: Scope, zone: Zone, name: str, row: Row) -> None:
    """Raises 400 for a volume that a machine has."""
    if row.get("virtualmachineid") and row.get("vmstate") not in DESTROYED_MACHINE:
        user = f"{zone.path}/instances/{scope.machine_name(row.get('vmname', ''))}"
        raise intents.in_use(scope, zone, name, user)


def unused(scope: Scope, zone: Zone, name: str, identity: str) -> Row:
    """The volume as it is when an operation's turn has come. Raises 404, and 400 when a machine has it by now."""
    row = disks.volume(scope, identity)
    if row is None:
        raise not_found(scope.links.path(zone.path, "disks", name))
    check_unused(scope, zone, name, row)
    return row


def check(disk: pb.AttachedDisk, field: str, row: Row) -> None:
    """Raises 400 for what cannot be said of a disk that exists."""
    if disk.type == "SCRATCH":
        raise invalid(f"{field}.type", "'SCRATCH'. A scratch disk is made with its instance and has no source.")
    if disk.HasField("initializeParams") and disk.initializeParams.ListFields():
        raise invalid(f"{field}.initializeParams", "A disk is either made or has a source.")
    there = size_gb(int(row.get("size", 0)))
    if disk.diskSizeGb and disk.diskSizeGb != there:
        raise invalid(f"{field}.diskSizeGb", f"'{disk.diskSizeGb}'. The disk has {there} GB; disks.resize changes it.")
    check_mode(disk, field)


def check_mode(disk: pb.AttachedDisk, field: str) -> None:
    if disk.mode == "READ_ONLY":
        raise unsupported(f"{field}.mode", "disks are attached for reading and writing only.")
    if len(disk.deviceName) > _LONGEST_DEVICE:
        raise invalid(f"{field}.deviceName", f"It must not be longer than {_LONGEST_DEVICE} characters.")
