"""Disk types: CloudStack disk offerings.

Clients ask for `pd-standard`, `pd-balanced` and `pd-ssd` without being told to. Unless the operator maps names, the
first offering of a free size with "ssd" in its name is `pd-ssd`, the first other one of a free size `pd-standard`;
others keep their own. One of the three that no offering has is the first offering of a free size, and for a boot disk,
which needs no offering, it is none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.message import Message

from gstack.compute.v1 import disk_types_pb2 as pb
from gstack.kernel.errors import invalid, not_found
from translator_service import places
from translator_service.cloudstack.catalog import Kind
from translator_service.cloudstack.rows import Row
from translator_service.collection import Items, Reading, gets, lists
from translator_service.gce.naming import Index, number, slug
from translator_service.gce.times import from_cloudstack
from translator_service.places import Zone
from translator_service.resources.machine_types import in_zone
from translator_service.scope import Scope

STANDARD, BALANCED, SSD = "pd-standard", "pd-balanced", "pd-ssd"
_USUAL = (STANDARD, BALANCED, SSD)


# Of an offering with a free size: CloudStack's bounds when custom.diskoffering.size.min and .max were not changed, and
# what gcutil asks for when it is not told.
_MOST_GB = 1024
_SIZES = f"1GB-{_MOST_GB}GB"
_DEFAULT_GB = 500


def kind(scope: Scope) -> Kind:
    return Kind(
        "disk offerings", 300.0, lambda client: client.read_all("listDiskOfferings"), lambda rows: _index(scope, rows)
    )


def _index(scope: Scope, rows: Iterable[Row]) -> Index:
    rows = list(rows)
    mapped = {row["id"]: scope.names.disk_types[row["name"]] for row in rows if row["name"] in scope.names.disk_types}
    for row in sorted(rows, key=lambda row: row.get("created", "")):
        if row.get("iscustomized") and row["id"] not in mapped:
            name = SSD if "ssd" in row["name"].lower() else STANDARD
            if name not in mapped.values():
                mapped[row["id"]] = name
    return scope.environment.index(rows, mapped=mapped)


@dataclass(frozen=True)
class DiskType:
    """A resolved disk type. row: its offering, None for what only a boot disk can be of."""

    name: str
    row: Row | None


def resolve(scope: Scope, zone: Zone, text: str, field: str) -> DiskType:
    """What a request means by a disk type. Raises 404."""
    name = places.name_in(scope, zone, text, field, "diskTypes")
    index = scope.catalog(kind(scope)).index
    row = index.find(name)
    if name in _USUAL and (row is None or not in_zone(row, zone)):
        free = (row for _, row in index if row.get("iscustomized") and in_zone(row, zone))
        return DiskType(name, min(free, key=lambda row: str(row.get("created", "")), default=None))
    row = row or _by_slug(scope, name) or scope.lookup(kind(scope), name)
    if row is None or not in_zone(row, zone):
        raise not_found(scope.links.path(zone.path, "diskTypes", name))
    return DiskType(scope.catalog(kind(scope)).index.name(row["id"]) or name, row)


def for_boot_disk(scope: Scope, zone: Zone, text: str, field: str) -> DiskType:
    """The same for a boot disk: without an offering where none has this name for its own. Raises 404."""
    found = resolve(scope, zone, text, field)
    own = found.row is not None and scope.catalog(kind(scope)).index.name(found.row["id"]) == found.name
    return found if own and found.name != STANDARD else DiskType(found.name, None)


def size_of(scope: Scope, row: Row, asked: int, field: str, least: int = 0) -> int:
    """The size in GB of a disk of an offering. asked: 0 for what is usual; least: what its source needs. Raises 400."""
    if not row.get("iscustomized"):
        fixed = int(row.get("disksize") or 0)
        if asked and asked != fixed:
            raise invalid(field, f"'{asked}'. With this disk type the disk has {fixed} GB.")
        if fixed < least:
            raise invalid(field, f"'{asked}'. With this disk type the disk has {fixed} GB, and it needs {least} GB.")
        return fixed
    size = asked or least or _DEFAULT_GB
    check_size(scope, size, field)
    return size


def check_size(scope: Scope, size: int, field: str) -> None:
    """Raises 400 for more than a disk of a free size may have."""
    if size < 1:
        raise invalid(field, f"'{size}'. Disk size cannot be smaller than 1 GB.")
    if size > _MOST_GB:
        most = scope.client.read("listCapabilities").one().get("customdiskofferingmaxsize") or _MOST_GB
        if size > int(most):
            raise invalid(field, f"'{size}'. Disk size cannot be larger than {most} GB.")


def _by_slug(scope: Scope, name: str) -> Row | None:
    """The offering whose own name has this slug, when it is shown by another name and no other is shown by this one."""
    index = scope.catalog(kind(scope)).index
    return None if index.find(name) else next((row for _, row in index if slug(row["name"]) == name), None)


def name_of(scope: Scope, offering_id: str | None) -> str:
    """Disk type of a volume. Root volumes have no disk offering of their own: they are of the standard type."""
    return (scope.catalog(kind(scope)).index.name(offering_id) if offering_id else None) or STANDARD


def is_listed(scope: Scope, offering_id: str | None) -> bool:
    """Whether it is an offering for disks; that of a machine has one behind it that no list shows."""
    return bool(offering_id and scope.catalog(kind(scope)).index.name(offering_id))


def to_disk_type(scope: Scope, zone: Zone, name: str, row: Row | None) -> pb.DiskType:
    """A row of listDiskOfferings; None for what only a boot disk can be of."""
    row = row or {"iscustomized": True, "displaytext": "Of boot disks"}
    size = int(row.get("disksize") or 0)
    return pb.DiskType(
        kind="compute#diskType",
        id=number(row.get("id") or f"diskType/{zone.id}/{name}"),
        creationTimestamp=from_cloudstack(row.get("created", "")),
        name=name,
        description=row.get("displaytext") or row["name"],
        validDiskSize=_SIZES if row.get("iscustomized") else f"{size}GB-{size}GB",
        defaultDiskSizeGb=_DEFAULT_GB if row.get("iscustomized") else size,
        zone=scope.links.of(zone.path),
        selfLink=scope.links.of(zone.path, "diskTypes", name),
    )


def _find(scope: Scope, zone: Zone, name: str) -> Reading[Message]:
    found = resolve(scope, zone, name, "diskType")
    return Reading(lambda: to_disk_type(scope, zone, found.name, found.row))


def _read(scope: Scope, zone: Zone | None) -> Reading[Items]:
    entry = scope.catalog(kind(scope))

    def build() -> Items:
        for place in [zone] if zone else places.all_zones(scope):
            for name, row in entry.index:
                if in_zone(row, place):
                    yield place.path, to_disk_type(scope, place, name, row)

    return Reading(build, [entry, scope.catalog(places.kind(scope))])


gets(
    "DiskTypes",
    _find,
    calls=("listDiskOfferings",),
    differences="`pd-standard`, `pd-balanced` and `pd-ssd` are the first offerings of a free size, unless the operator"
    " maps them; of boot disks they are always there.",
)
lists("DiskTypes", _read, calls=("listDiskOfferings",))
