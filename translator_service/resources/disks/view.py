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
from translator_service.gce.times import from_cloudstack
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
# What an insert may say of its boot disk that is only kept, besides labels.
_KEPT = fields.names(AttachedDiskInitializeParams.DESCRIPTOR) & set(pb.Disk.DESCRIPTOR.fields_by_name) - {"labels"}


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
    """What an insert has kept with its boot disk; {} for any other disk."""
    found: dict[str, Any] = details.unpack(tags.of(row), tags.DISK, {})
    return found


def tags_for(
    name: str,
    params: AttachedDiskInitializeParams,
    features: Sequence[GuestOsFeature],
    disk_type: DiskType,
    image: references.Asked,
) -> dict[str, str]:
    """The tags of a boot disk that is to be made. features: of its instance's side, besides those of the disk."""
    about = {name: value for name, value in fields.kept(params).items() if name in _KEPT}
    if features:
        types = dict.fromkeys(one.type for one in [*params.guestOsFeatures, *features])
        about["guestOsFeatures"] = [{"type": type} for type in types]
    about |= {"type": disk_type.name, "offering": disk_type.row["id"] if disk_type.row else ""}
    if image.path:
        about |= {"image": image.path, "template": image.row["id"]}
    return {tags.NAME: name, **tags.pack(tags.LABELS, dict(params.labels)), **tags.pack(tags.DISK, about)}


def _type_of(scope: Scope, row: Row, kept: dict[str, Any]) -> str:
    """As it was asked for, while the disk has the offering that this stood for."""
    found = disk_types.name_of(scope, row.get("diskofferingid"))
    offering = row.get("diskofferingid", "") if disk_types.is_listed(scope, row.get("diskofferingid")) else ""
    return str(kept["type"]) if "type" in kept and kept.get("offering") == offering else found


def to_disk(scope: Scope, zone: Zone, row: Row, name: str = "") -> pb.Disk:
    """A row of listVolumes. name: the one that `names` gave it, when it was listed with the others of its zone."""
    name = name or name_of(row)
    scope.environment.ids.remember(row["id"])
    kept = kept_of(row)
    disk = pb.Disk(
        kind="compute#disk",
        id=number(row["id"]),
        creationTimestamp=from_cloudstack(row.get("created", "")),
        name=name,
        sizeGb=size_gb(row.get("size", 0)),
        zone=scope.links.of(zone.path),
        status=_STATUS.get(row.get("state", ""), "READY"),
        type=scope.links.of(zone.path, "diskTypes", _type_of(scope, row, kept)),
        selfLink=scope.links.of(zone.path, "disks", name),
        labels=tags.labels(row),
        physicalBlockSizeBytes=4096,
        architecture=templates.architecture_of(scope, row.get("templateid")),
    )
    fields.put(disk, kept, _KEPT)
    disk.labelFingerprint = label_fingerprint(disk.labels)
    if row.get("templateid"):
        asked = str(kept.get("image", "")) if kept.get("template") == row["templateid"] else ""
        disk.sourceImage = templates.link_of(scope, row["templateid"], row.get("templatename", ""), asked)
        disk.sourceImageId = str(number(row["templateid"]))
    if row.get("vmname") and row.get("vmstate") not in DESTROYED_MACHINE:
        disk.users.append(scope.links.of(zone.path, "instances", scope.machine_name(row["vmname"])))
        disk.lastAttachTimestamp = from_cloudstack(row.get("attached") or row.get("created", ""))
    return disk
