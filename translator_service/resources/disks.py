"""Disks: CloudStack volumes.

CloudStack names boot disks `ROOT-7`, so a boot disk has its GCE name in a tag, or is named like its instance.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from google.protobuf.message import Message

from gstack.compute.v1 import disks_pb2 as pb
from gstack.kernel.errors import not_found
from translator_service import places
from translator_service.cloudstack.catalog import Entry
from translator_service.cloudstack.client import Answer
from translator_service.cloudstack.errors import CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.collection import Items, Reading, gets, lists
from translator_service.gce import naming
from translator_service.gce.labels import label_fingerprint
from translator_service.gce.lists import Later
from translator_service.gce.naming import Index, number, slug
from translator_service.gce.times import from_cloudstack
from translator_service.kept import tags
from translator_service.places import Zone
from translator_service.resources import disk_types, images
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


_DESTROYED_MACHINE = ("Destroyed", "Expunging")


# What a list answers to the id of nothing, or of somebody else's (recordings, Surprises 33 and n 61).
NO_SUCH_ROW = (431, 531)


_WORD = re.compile(r"[a-z0-9]+")


# Mapping


def size_gb(size: int) -> int:
    """Bytes in GB, rounded up."""
    return -(-int(size) // GIB)


def is_shown(row: Row) -> bool:
    """Whether a row of listVolumes is a disk for GCE (recordings, Surprises 25)."""
    if row.get("state") in _GONE:
        return False
    return not (row.get("type") == "ROOT" and row.get("vmstate") in _DESTROYED_MACHINE)


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


def to_disk(scope: Scope, zone: Zone, row: Row, name: str = "") -> pb.Disk:
    """A row of listVolumes. name: the one that `names` gave it, when it was listed with the others of its zone."""
    name = name or name_of(row)
    scope.environment.ids.remember(row["id"])
    disk = pb.Disk(
        kind="compute#disk",
        id=number(row["id"]),
        creationTimestamp=from_cloudstack(row.get("created", "")),
        name=name,
        sizeGb=size_gb(row.get("size", 0)),
        zone=scope.links.of(zone.path),
        status=_STATUS.get(row.get("state", ""), "READY"),
        type=scope.links.of(zone.path, "diskTypes", disk_types.name_of(scope, row.get("diskofferingid"))),
        selfLink=scope.links.of(zone.path, "disks", name),
        labels=tags.labels(row),
        physicalBlockSizeBytes=4096,
        architecture="X86_64",
    )
    disk.labelFingerprint = label_fingerprint(disk.labels)
    if row.get("templateid"):
        disk.sourceImage = images.link_of(scope, row["templateid"], row.get("templatename", ""))
        disk.sourceImageId = str(number(row["templateid"]))
    if row.get("vmname") and row.get("vmstate") not in _DESTROYED_MACHINE:
        disk.users.append(scope.links.of(zone.path, "instances", scope.machine_name(row["vmname"])))
        disk.lastAttachTimestamp = from_cloudstack(row.get("attached") or row.get("created", ""))
    return disk


# Finding one


def find(scope: Scope, zone: Zone, name: str) -> tuple[str, Row, list[Answer]]:
    """(GCE name, row, the answers it came from) of one disk. Raises 404.

    Two questions side by side find a disk by its own name or its tag. Only what they miss costs more.
    """
    found = None
    if naming.UUID.fullmatch(name) or naming.is_number(name):
        found = _by_id(scope, zone, name)
    elif naming.is_askable(name):
        found = _by_name(scope, zone, name)
        if found is None and (parts := naming.split_suffix(name)):
            found = _by_name(scope, zone, parts[0], parts[1])
    if found is None:
        raise not_found(scope.links.path(zone.path, "disks", name))
    return found


def _by_id(scope: Scope, zone: Zone, text: str) -> tuple[str, Row, list[Answer]] | None:
    known = scope.environment.ids.find(int(text)) if naming.is_number(text) else text
    # CloudStack knows no numbers: one that no answer has shown yet is looked for in the zone.
    question = {"id": known} if known else {}
    try:
        answers = scope.client.read_all("listVolumes", zoneid=zone.id, **question)
    except CloudStackError as error:
        if error.code not in NO_SUCH_ROW:
            raise
        return None
    rows = _rows(answers)
    for row in rows:
        scope.environment.ids.remember(row["id"])
    for shown, row in names(rows):
        if text in (str(number(row["id"])), row["id"]) or text.lower() == row["id"]:
            return shown, row, answers
    return None


def _by_name(scope: Scope, zone: Zone, name: str, prefix: str = "") -> tuple[str, Row, list[Answer]] | None:
    """prefix: the beginning of the disk's uuid, when several have the name."""
    where = {"zoneid": zone.id}
    answers = scope.client.read_many(
        [("listVolumes", {"name": name, **where}), ("listVolumes", {**tags.question(tags.NAME, name), **where})]
    )
    if found := _pick(answers, name, prefix):
        return *found, answers
    # A boot disk made elsewhere has the name of its machine. A disk with a name that is no GCE name, as `My Disk`, is
    # found by a part of it: no filter knows `my-disk`.
    word = max(_WORD.findall(slug(name)), key=len)
    machines, similar = scope.client.read_all_many(
        [
            ("listVirtualMachines", {"name": name, "details": "min", **where}),
            ("listVolumes", {"keyword": word, **where}),
        ]
    )
    answers += similar
    for machine in _rows(machines):
        if name in (slug(machine["name"]), machine["name"]) and machine.get("state") not in _DESTROYED_MACHINE:
            answers.append(scope.client.read("listVolumes", virtualmachineid=machine["id"], type="ROOT"))
    found = _pick(answers, name, prefix)
    return (*found, answers) if found else None


def _rows(answers: Iterable[Answer]) -> list[Row]:
    """All rows, each once."""
    return list({row["id"]: row for answer in answers for row in answer.items}.values())


def _pick(answers: Iterable[Answer], name: str, prefix: str) -> tuple[str, Row] | None:
    """The disk with this name, which may also be CloudStack's own, as it is written there."""
    rows = _rows(answers)
    for shown, row in names(row for row in rows if name_of(row) == name):
        if row["id"].startswith(prefix) if prefix else shown == name:
            return shown, row
    for shown, row in names(rows):
        is_named_as_machine = row.get("type") == "ROOT" and tags.NAME not in tags.of(row)
        if not prefix and name in (row["name"], row.get("vmname") if is_named_as_machine else None):
            return shown, row
    return None


# Methods


def _catalogs(scope: Scope) -> list[Answer | Entry]:
    """The cached lists that a disk's links come from."""
    return [scope.catalog(one(scope)) for one in (places.kind, disk_types.kind, images.kind)]


def _disks(scope: Scope, zone: Zone, rows: Iterable[Row]) -> list[Later]:
    def later(name: str, row: Row) -> Later:
        created = from_cloudstack(row.get("created", ""))
        return Later(name, created, number(row["id"]), lambda: to_disk(scope, zone, row, name))

    return [later(name, row) for name, row in names(rows)]


def _find(scope: Scope, zone: Zone, text: str) -> Reading[Message]:
    name, row, answers = find(scope, zone, text)
    return Reading(lambda: to_disk(scope, zone, row, name), [*answers, *_catalogs(scope)])


def _read(scope: Scope, zone: Zone | None) -> Reading[Items]:
    answers = scope.client.read_all("listVolumes", **({"zoneid": zone.id} if zone else {}))

    def build() -> Items:
        by_zone: dict[str, list[Row]] = {}
        for row in _rows(answers):
            by_zone.setdefault(row["zoneid"], []).append(row)
        for place in [zone] if zone else places.all_zones(scope):
            for disk in _disks(scope, place, by_zone.get(place.id, ())):
                yield place.path, disk

    return Reading(build, [*answers, *_catalogs(scope)])


gets(
    "Disks",
    _find,
    calls=("listVolumes", "listVirtualMachines"),
    differences="A boot disk that was not made here is named like its instance. Volumes that are deleted but not yet "
    "expunged are not shown.",
)
lists("Disks", _read, calls=("listVolumes",))
