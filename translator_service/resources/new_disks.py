"""disks.insert: a blank disk, or one from an image, a snapshot or another disk.

What is asked for is made a plan at once, which refuses what cannot be had, and once more when the operation's turn has
come, because what it is made from may be gone by then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from gstack.compute.v1 import disks_pb2 as pb
from gstack.compute.v1.snapshots_pb2 import Snapshot
from gstack.kernel.errors import ApiError, already_exists, invalid
from translator_service import places
from translator_service.cloudstack.errors import CloudStackError
from translator_service.cloudstack.jobs import object_of
from translator_service.cloudstack.rows import Row
from translator_service.gce import naming
from translator_service.gce.labels import check_labels
from translator_service.gce.naming import number
from translator_service.gce.times import cloudstack_time
from translator_service.kept import fields, tags
from translator_service.operations import engine
from translator_service.operations.cleanup import clear_away
from translator_service.operations.run import OperationError, Run, handler
from translator_service.places import Zone
from translator_service.resources import disk_types, snapshots
from translator_service.resources.disk_types import DiskType
from translator_service.resources.disks import claims, intents, view
from translator_service.resources.disks.delete import remove
from translator_service.resources.disks.find import find
from translator_service.resources.disks.intents import Intent
from translator_service.resources.images import references, templates
from translator_service.resources.tagged import check_kept
from translator_service.rpc import rpc
from translator_service.scope import Scope

_BLOCK = 4096


@dataclass(frozen=True)
class Fields:
    """How errors name what is asked for."""

    size: str = "resource.sizeGb"
    type: str = "resource.type"
    snapshot: str = "resource.sourceSnapshot"
    architecture: str = "resource.architecture"


_BODY = Fields()


@rpc(
    "Disks.Insert",
    calls=(
        "listVolumes", "listVirtualMachines", "createVolume", "createTags", "resizeVolume", "createSnapshot",
        "deleteSnapshot",
    ),
    differences="A disk from an image is kept by gstack until an instance is made of it, which alone can use it: "
    "CloudStack makes no volume from a template. A copy of a disk is made by a snapshot, which is deleted afterwards.",
)  # fmt: skip
def insert(scope: Scope, request: pb.InsertDiskRequest) -> Message:
    """Raises 400, 403, 404 and 409 for whatever the operation could not do."""
    wanted = request.resource
    zone = places.resolve_zone(scope, request.zone)
    naming.check_new_name(wanted.name)
    field = "resource.sourceImage"
    if request.sourceImage and request.sourceImage != wanted.sourceImage:
        if wanted.sourceImage:
            raise invalid("sourceImage", f"'{request.sourceImage}'. The disk has another one.")
        wanted.sourceImage, field = request.sourceImage, "sourceImage"
    _plan(scope, zone, wanted, field)
    path = f"{zone.path}/disks/{wanted.name}"
    if scope.store.is_busy(scope.project.key, path):
        raise already_exists(scope.links.path(path))
    claims.check_free(scope.client, scope, zone, wanted.name, "")
    return engine.submit(
        scope,
        type="insert",
        target=path,
        handler="disks.insert",
        payload={"zone": zone.name, "disk": MessageToDict(wanted), "field": field},
    )


# Plans: what a disk is made with, as JSON.
#   intent      the document of a disk that a machine is to be made of
#   parameters  of createVolume
#   tags        of the volume
#   copies      id of the volume that is copied, by a snapshot of it; source: as errors name it
#   grow        parameters of resizeVolume, for what createVolume cannot make so at once
#   offering    id of the disk offering that it must have got then, "" for any


def _plan(scope: Scope, zone: Zone, wanted: pb.Disk, image_field: str) -> dict[str, Any]:
    """Raises 400, 403 and 404."""
    if wanted.physicalBlockSizeBytes not in (0, _BLOCK):
        text = f"'{wanted.physicalBlockSizeBytes}'. Blocks have {_BLOCK} bytes here."
        raise invalid("resource.physicalBlockSizeBytes", text)
    check_labels(dict(wanted.labels), "resource.labels")
    check_kept(fields.kept(wanted))
    if wanted.sizeGb < 0:
        raise invalid(_BODY.size, f"'{wanted.sizeGb}'. Disk size cannot be smaller than 1 GB.")
    sources = {
        image_field: wanted.sourceImage,
        "resource.sourceSnapshot": wanted.sourceSnapshot,
        "resource.sourceDisk": wanted.sourceDisk,
    }
    given = [field for field, text in sources.items() if text]
    if len(given) > 1:
        raise invalid(given[1], f"'{sources[given[1]]}'. A disk is made from one thing: '{given[0]}' is given too.")
    if wanted.sourceImage:
        return _from_image(scope, zone, wanted, image_field)
    if wanted.sourceSnapshot:
        return from_snapshot(scope, zone, wanted)
    if wanted.sourceDisk:
        return _from_disk(scope, zone, wanted)
    return _blank(scope, zone, wanted, _free_type(scope, zone, wanted), {})


def _free_type(scope: Scope, zone: Zone, wanted: pb.Disk) -> DiskType:
    """The disk type of a blank disk, which needs an offering."""
    asked = wanted.type or disk_types.STANDARD
    found = disk_types.resolve(scope, zone, asked, "resource.type")
    if found.row is None:
        raise invalid("resource.type", f"'{asked}'. Only boot disks can be of this type in zone '{zone.name}'.")
    return found


def _copy_type(scope: Scope, zone: Zone, wanted: pb.Disk, where: Fields = _BODY) -> DiskType:
    """The disk type of what is made from something else, and needs none."""
    if not wanted.type:
        return DiskType(disk_types.STANDARD, None)
    return disk_types.for_boot_disk(scope, zone, wanted.type, where.type)


def _blank(
    scope: Scope, zone: Zone, wanted: pb.Disk, disk_type: DiskType, source: dict[str, str], least: int = 0
) -> dict[str, Any]:
    assert disk_type.row is not None
    size = disk_types.size_of(scope, disk_type.row, wanted.sizeGb, _BODY.size, least)
    parameters = of_offering(wanted.name, zone, disk_type.row, size)
    return {"parameters": parameters, "tags": view.tags_for(wanted.name, wanted, (), disk_type, None, **source)}


def of_offering(name: str, zone: Zone, offering: Row, size: int) -> dict[str, str]:
    """Parameters of createVolume for a blank disk. size: in GB, which is the offering's own unless that is free."""
    found = {"name": name, "zoneid": zone.id, "diskofferingid": offering["id"]}
    return found | ({"size": str(size)} if offering.get("iscustomized") else {})


def _from_image(scope: Scope, zone: Zone, wanted: pb.Disk, field: str) -> dict[str, Any]:
    asked = references.resolve(scope, wanted.sourceImage, zone, field)
    _check_architecture(wanted, templates.architecture(asked.row))
    disk_type = _copy_type(scope, zone, wanted)
    made = view.tags_for(wanted.name, wanted, (), disk_type, asked)
    least = view.size_gb(int(asked.row.get("size", 0)))
    return _intent(scope, zone, wanted, asked.row["id"], disk_type, made, ("image", least))


def _intent(
    scope: Scope,
    zone: Zone,
    wanted: pb.Disk,
    template: str,
    disk_type: DiskType,
    made: dict[str, str],
    source: tuple[str, int],
) -> dict[str, Any]:
    """made: its tags. source: what it is made from, and the size in GB of that."""
    intents.check_room(scope)
    size = _size(scope, wanted, disk_type, *source)
    offering = disk_type.row["id"] if disk_type.row else ""
    # It gets its id when it is made, the same one however often that is begun.
    intent = Intent(wanted.name, "", zone.id, cloudstack_time(time.time()), size, template, offering, made)
    return {"intent": asdict(intent)}


def _size(scope: Scope, wanted: pb.Disk, disk_type: DiskType, what: str, least: int, where: Fields = _BODY) -> int:
    if wanted.sizeGb and wanted.sizeGb < least:
        text = f"'{wanted.sizeGb}'. Requested disk size cannot be smaller than the {what} size ({least} GB)"
        raise invalid(where.size, text)
    if disk_type.row is not None:
        return disk_types.size_of(scope, disk_type.row, wanted.sizeGb, where.size, least)
    size = wanted.sizeGb or least
    disk_types.check_size(scope, size, where.size)
    return size


def _check_architecture(wanted: pb.Disk, architecture: str, where: Fields = _BODY) -> None:
    if wanted.architecture and wanted.architecture != architecture:
        raise invalid(where.architecture, f"'{wanted.architecture}'. It is not the one of what it is made from.")


def _inheriting(wanted: pb.Disk, source: pb.Disk | Snapshot, where: Fields = _BODY) -> pb.Disk:
    """The disk with what it has of its source. Raises 400 for another architecture."""
    found = pb.Disk()
    found.CopyFrom(wanted)
    if source.architecture:
        _check_architecture(wanted, source.architecture, where)
        found.architecture = source.architecture
    found.licenses[:] = wanted.licenses or source.licenses
    own = {one.type for one in wanted.guestOsFeatures}
    found.guestOsFeatures.extend(one for one in source.guestOsFeatures if one.type not in own)
    return found


def from_snapshot(scope: Scope, zone: Zone, wanted: pb.Disk, where: Fields = _BODY) -> dict[str, Any]:
    """The plan of a disk, also of a new instance's; in it `size` in GB and `disk`, the row of the snapshot's volume, or
    None. Raises 400 and 404."""
    name, row = snapshots.resolve(scope, wanted.sourceSnapshot, where.snapshot)
    shown = snapshots.to_snapshot(scope, row, name)
    wanted = _inheriting(wanted, shown, where)
    source, disk = {"snapshot": name, "sourceId": str(shown.id)}, _disk_of(scope, row)
    plan = _from_copy(scope, zone, wanted, disk, source, ("snapshot", shown.diskSizeGb), where)
    plan["parameters"]["snapshotid"] = row["id"]
    return {**plan, "disk": disk}


def _disk_of(scope: Scope, row: Row) -> Row | None:
    """The volume of a snapshot. CloudStack asks what kind it is of now, not what it was."""
    return next(iter(scope.client.rows_of_id("listVolumes", str(row.get("volumeid")))), None)


def _from_disk(scope: Scope, zone: Zone, wanted: pb.Disk) -> dict[str, Any]:
    field = "resource.sourceDisk"
    name, row, _ = find(scope, zone, places.name_in(scope, zone, wanted.sourceDisk, field, "disks"))
    source = {"disk": name, "sourceId": str(number(view.identity_of(row)))}
    least = view.size_gb(int(row.get("size", 0)))
    wanted = _inheriting(wanted, view.to_disk(scope, zone, row, name))
    if intents.MARK in row:
        disk_type = _copy_type(scope, zone, wanted) if wanted.type else _type_of(scope, row)
        made = view.tags_for(wanted.name, wanted, (), disk_type, None, **source)
        return _intent(scope, zone, wanted, row["templateid"], disk_type, made, ("source disk", least))
    if row.get("state") == "Allocated" and row.get("type") != "ROOT":
        # Nothing was ever written to it, and there is nothing to take a snapshot of.
        disk_type = _free_type(scope, zone, wanted) if wanted.type else _type_of(scope, row)
        if disk_type.row is None:
            disk_type = _free_type(scope, zone, wanted)
        _size(scope, wanted, disk_type, "source disk", least)
        return _blank(scope, zone, wanted, disk_type, source, least)
    if row.get("state") != "Ready":
        raise ApiError(400, f"The resource '{scope.links.path(zone.path, 'disks', name)}' is not ready", _NOT_READY)
    plan = _from_copy(scope, zone, wanted, row, source, ("source disk", least))
    return {**plan, "copies": row["id"], "source": scope.links.path(zone.path, "disks", name)}


_NOT_READY = "resourceNotReady"


def _type_of(scope: Scope, row: Row) -> DiskType:
    """The disk type that a disk has."""
    kept, offering = view.kept_of(row), row.get("diskofferingid", "")
    found = scope.catalog(disk_types.kind(scope)).index.find(offering) if offering else None
    name = view.type_of(scope, row, kept)
    return DiskType(name, found)


def _from_copy(
    scope: Scope,
    zone: Zone,
    wanted: pb.Disk,
    row: Row | None,
    source: dict[str, str],
    least: tuple[str, int],
    where: Fields = _BODY,
) -> dict[str, Any]:
    """A volume from a snapshot. row: of its disk, whose disk type the new one has unless another is asked for; None for
    one that is gone. least: what it is made from, and the size in GB of that.

    Only a boot disk's snapshot takes an offering with createVolume, and only with one a size counts (recordings,
    Surprises 110 and 111). Other disks have the offering of their source, and none changes it later.
    """
    disk_type = _copy_type(scope, zone, wanted, where) if wanted.type or row is None else _type_of(scope, row)
    size, offering = _size(scope, wanted, disk_type, *least, where), disk_type.row
    made = view.tags_for(wanted.name, wanted, (), disk_type, None, **source)
    plan: dict[str, Any] = {"parameters": {"name": wanted.name, "zoneid": zone.id}, "tags": made}
    if offering is not None and row is not None and offering["id"] != row.get("diskofferingid"):
        if row.get("type") != "ROOT":
            there = view.type_of(scope, row, {})
            raise invalid(where.type, f"'{wanted.type}'. What is made from this {least[0]} is of type '{there}'.")
        plan["parameters"] |= {"diskofferingid": offering["id"]}
        plan["parameters"] |= {"size": str(size)} if offering.get("iscustomized") else {}
    elif size > least[1]:
        plan["grow"] = {"size": str(size)}
    return {**plan, "offering": offering["id"] if offering else "", "size": size}


# The operation

ANOTHER_TYPE = "What is made from this snapshot is of another disk type."


@handler("disks.insert")
def do_insert(run: Run) -> None:
    zone = places.resolve_zone(run.scope, run.payload["zone"])
    wanted = ParseDict(run.payload["disk"], pb.Disk())
    with claims.name_held(run, zone, wanted.name, ""):
        plan = run.look("plan", lambda scope: _plan(scope, zone, wanted, run.payload["field"]))
        if "intent" in plan:
            intent = Intent(**plan["intent"] | {"id": run.job_id("disk")})
            run.step("intent", lambda: intents.add(run.scope, zone, intent))
            run.set_target_id(number(intent.id))
        else:
            _make(run, wanted.name, plan)


def _make(run: Run, name: str, plan: dict[str, Any]) -> None:
    parameters, made = dict(plan["parameters"]), dict[str, str]()
    try:
        if "copies" in plan:
            made["snapshot"] = parameters["snapshotid"] = snapshots.take(
                run, "copy", plan["copies"], plan["source"], f"copy-{run.name}", {tags.EPHEMERAL: name}
            )
        volume = _create(run, made, parameters)
        run.set_target_id(number(volume["id"]), progress=60)
        if plan.get("grow"):
            volume = {**run.job("grow", "resizeVolume", id=volume["id"], **plan["grow"]), "id": volume["id"]}
        if is_of_another_type(plan, volume):
            raise OperationError("INVALID_USAGE", ANOTHER_TYPE)
        wanted = tags_of(run.scope, plan, volume)
        run.job("tag", "createTags", resourceids=volume["id"], resourcetype="Volume", **tags.parameters(wanted))
    except Exception:
        clear_away(run, _parts(run, name, made))
        raise
    clear_away(run, _parts(run, name, {key: one for key, one in made.items() if key != "volume"}))


def is_of_another_type(plan: dict[str, Any], volume: dict[str, Any]) -> bool:
    """Whether a volume has another offering than it was to get. volume: the job's result."""
    return plan.get("offering", "") not in ("", object_of(volume).get("diskofferingid", ""))


def tags_of(scope: Scope, plan: dict[str, Any], volume: dict[str, Any]) -> dict[str, str]:
    """What its type stands for is the offering that it has."""
    offering = object_of(volume).get("diskofferingid", "")
    known = disk_types.is_listed(scope, offering)
    return view.with_kept(plan["tags"], offering=offering if known else "")


def _create(run: Run, made: dict[str, str], parameters: dict[str, str]) -> dict[str, Any]:
    """The volume, which is in `made` also when its making has failed."""
    try:
        found = run.job("volume", "createVolume", **parameters)
    except CloudStackError as error:
        made |= {"volume": error.entity} if error.entity else {}
        raise
    made["volume"] = found["id"]
    return found


def _parts(run: Run, name: str, made: dict[str, str]) -> list[tuple[str, Callable[[], object]]]:
    """What is to be taken away, and how."""
    parts: list[tuple[str, Callable[[], object]]] = []
    if "volume" in made:
        parts.append((f"The disk '{name}' ({made['volume']})", partial(remove, run, "undo-volume", made["volume"])))
    if "snapshot" in made:
        away = partial(snapshots.remove, run, "undo-copy", made["snapshot"])
        parts.append((f"The snapshot that '{name}' was copied by ({made['snapshot']})", away))
    return parts
