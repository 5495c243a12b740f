"""Volumes of CloudStack as disks of GCE."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gstack.compute.v1 import disks_pb2 as pb
from gstack.compute.v1.common_pb2 import GuestOsFeature
from gstack.compute.v1.instances_pb2 import AttachedDiskInitializeParams
from translator_service.cloudstack.rows import Row
from translator_service.gce.labels import label_fingerprint
from translator_service.gce.naming import Index, number, slug
from translator_service.gce.times import from_cloudstack, from_kept
from translator_service.kept import details, fields, tags
from translator_service.places import Zone
from translator_service.resources import disk_types
from translator_service.resources.disk_types import DiskType
from translator_service.resources.images import references, templates
from translator_service.scope import Scope

GIB = 1 << 30
# States of Volume.State in CloudStack 4.22; the others are READY.
_STATUS = {
    "Creating": "CREATING",
    "UploadOp": "CREATING",
    "NotUploaded": "CREATING",
    "UploadInProgress": "CREATING",
    "Copying": "CREATING",
    "RevertSnapshotting": "RESTORING",
    "Restoring": "RESTORING",
    "UploadError": "FAILED",
    "UploadAbandoned": "FAILED",
    "RestoreError": "FAILED",
}


# Deleted disks stay listed until they are expunged, also the one that a reinstalled machine had before.
_GONE = ("Destroy", "Destroyed", "Destroying", "Expunging", "Expunged")


DESTROYED_MACHINE = ("Destroyed", "Expunging")
# What an insert may say of a disk that is only kept, besides labels.
KEPT = fields.names(pb.Disk.DESCRIPTOR) - {"labels"}


def size_gb(size: int) -> int:
    """Bytes in GB, rounded up."""
    return -(-int(size) // GIB)


def is_shown(row: Row) -> bool:
    """Whether a row of listVolumes is a disk for GCE (recordings, Surprises 25)."""
    if row.get("state") in _GONE:
        return False
    return not (row.get("type") == "ROOT" and row.get("vmstate") in DESTROYED_MACHINE)


def boot_name(row: Row) -> str:
    """The name of a boot disk, before duplicates in its zone are told apart."""
    return tags.of(row).get(tags.NAME) or slug(row.get("vmname") or row["name"])


def name_of(row: Row) -> str:
    """The name of any disk, before duplicates in its zone are told apart."""
    if row.get("type") == "ROOT":
        return boot_name(row)
    return tags.of(row).get(tags.NAME) or slug(row["name"])


def names(rows: Iterable[Row]) -> Index:
    """The disks of one zone by name. Of several with one name the oldest has it, but before boot disks named as VMs."""
    shown = [row for row in rows if is_shown(row)]
    first = {row["id"]: name_of(row) for row in shown if row.get("type") != "ROOT" or tags.NAME in tags.of(row)}
    return Index(shown, "verbatim", label=name_of, mapped=first)


def kept_of(row: Row) -> dict[str, Any]:
    """What is kept with a disk; {} for one that was made elsewhere."""
    found: dict[str, Any] = details.unpack(tags.of(row), tags.DISK, {})
    return found


def identity_of(row: Row) -> str:
    """What the number of a disk is made of: the volume's uuid, or that of the intent which it was before."""
    kept = kept_of(row).get("id")
    return kept if isinstance(kept, str) and kept else str(row["id"])


def tags_for(
    name: str,
    params: AttachedDiskInitializeParams | pb.Disk,
    features: Sequence[GuestOsFeature],
    disk_type: DiskType,
    image: references.Asked | None,
    **more: str,
) -> dict[str, str]:
    """The tags of a disk that is to be made.

    features: of its instance's side, besides those of the disk. more: `snapshot` or `disk`, the name of its source,
    with `sourceId`, the number of that.
    """
    about = {name: value for name, value in fields.kept(params).items() if name in KEPT}
    if features:
        types = dict.fromkeys(one.type for one in [*params.guestOsFeatures, *features])
        about["guestOsFeatures"] = [{"type": type} for type in types]
    about |= {"type": disk_type.name, "offering": disk_type.row["id"] if disk_type.row else "", **more}
    if image is not None and image.path:
        about |= {"image": image.path, "template": image.row["id"]}
    return {tags.NAME: name, **tags.pack(tags.LABELS, dict(params.labels)), **tags.pack(tags.DISK, about)}


def with_kept(found: dict[str, str], **more: str) -> dict[str, str]:
    """Tags with something more kept in them."""
    rest = {name: text for name, text in found.items() if not tags.is_part(name, tags.DISK)}
    return {**rest, **tags.pack(tags.DISK, details.unpack(found, tags.DISK, {}) | more)}


def type_of(scope: Scope, row: Row, kept: dict[str, Any]) -> str:
    """As it was asked for, while the disk has the offering that this stood for."""
    found = disk_types.name_of(scope, row.get("diskofferingid"))
    offering = row.get("diskofferingid", "") if disk_types.is_listed(scope, row.get("diskofferingid")) else ""
    return str(kept["type"]) if "type" in kept and kept.get("offering") == offering else found


def to_disk(scope: Scope, zone: Zone, row: Row, name: str = "") -> pb.Disk:
    """A row of listVolumes. name: the one that `names` gave it, when it was listed with the others of its zone."""
    name = name or name_of(row)
    scope.environment.ids.remember(row["id"], identity_of(row))
    kept = kept_of(row)
    disk = pb.Disk(
        kind="compute#disk",
        id=number(identity_of(row)),
        creationTimestamp=from_cloudstack(row.get("created", "")),
        name=name,
        sizeGb=size_gb(row.get("size", 0)),
        zone=scope.links.of(zone.path),
        status=_STATUS.get(row.get("state", ""), "READY"),
        type=scope.links.of(zone.path, "diskTypes", type_of(scope, row, kept)),
        selfLink=scope.links.of(zone.path, "disks", name),
        labels=tags.labels(row),
        physicalBlockSizeBytes=4096,
        architecture=architecture_of(scope, row),
    )
    fields.put(disk, kept, KEPT)
    disk.labelFingerprint = label_fingerprint(disk.labels)
    _put_source(scope, zone, disk, row, kept)
    if (user := user_of(scope, zone, row)) is not None:
        disk.users.append(scope.links.of(user))
        disk.lastAttachTimestamp = from_cloudstack(row.get("attached") or row.get("created", ""))
    for key, name in (("lastAttach", "lastAttachTimestamp"), ("lastDetach", "lastDetachTimestamp")):
        if isinstance(kept.get(key), str) and not getattr(disk, name):
            setattr(disk, name, from_kept(kept[key]))
    return disk


def architecture_of(scope: Scope, row: Row) -> str:
    """Of its image."""
    return templates.architecture_of(scope, row.get("templateid"))


def user_of(scope: Scope, zone: Zone, row: Row) -> str | None:
    """Path of the instance that has the disk."""
    if not row.get("vmname") or row.get("vmstate") in DESTROYED_MACHINE:
        return None
    return f"{zone.path}/instances/{scope.machine_name(row['vmname'])}"


def _put_source(scope: Scope, zone: Zone, disk: pb.Disk, row: Row, kept: dict[str, Any]) -> None:
    """What it was made from. A copy is of the same template as its source, and not made from that."""
    identity = kept.get("sourceId")
    if isinstance(identity, str) and isinstance(snapshot := kept.get("snapshot"), str):
        disk.sourceSnapshot, disk.sourceSnapshotId = scope.links.of("global", "snapshots", snapshot), identity
    elif isinstance(identity, str) and isinstance(source := kept.get("disk"), str):
        disk.sourceDisk, disk.sourceDiskId = scope.links.of(zone.path, "disks", source), identity
    elif row.get("templateid"):
        asked = str(kept.get("image", "")) if kept.get("template") == row["templateid"] else ""
        disk.sourceImage = templates.link_of(scope, row["templateid"], row.get("templatename", ""), asked)
        disk.sourceImageId = str(number(row["templateid"]))
