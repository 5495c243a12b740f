"""Disks: CloudStack volumes.

CloudStack names boot disks `ROOT-7`, so a boot disk that was made here has its GCE name in a tag; another is named like
its instance. What else its insert said of it that CloudStack has no field for (labels, description, how its image and
its type were called) is in tags too: it stays with the disk when the instance goes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from google.protobuf.message import Message

from gstack.compute.v1 import disks_pb2 as pb
from gstack.compute.v1.common_pb2 import GuestOsFeature
from gstack.compute.v1.instances_pb2 import AttachedDiskInitializeParams
from gstack.kernel.errors import already_exists, not_found
from translator_service import places
from translator_service.cloudstack.catalog import Entry
from translator_service.cloudstack.client import Answer, Client, all_rows
from translator_service.cloudstack.errors import CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.collection import Items, Reading, gets, lists
from translator_service.gce import naming
from translator_service.gce.labels import label_fingerprint
from translator_service.gce.lists import Later
from translator_service.gce.naming import Index, number, slug
from translator_service.gce.times import from_cloudstack
from translator_service.kept import details, fields, tags
from translator_service.operations.run import Run
from translator_service.places import Zone
from translator_service.resources import disk_types, images
from translator_service.resources.disk_types import DiskType
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


# Documents in the store: disks that operations are about to make, by zone and name.
_CLAIMS = "disk-names"


# What an insert may say of its boot disk that is only kept, besides labels.
_KEPT = fields.names(AttachedDiskInitializeParams.DESCRIPTOR) & set(pb.Disk.DESCRIPTOR.fields_by_name) - {"labels"}


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


def kept_of(row: Row) -> dict[str, Any]:
    """What an insert has kept with its boot disk; {} for any other disk."""
    found: dict[str, Any] = details.unpack(tags.of(row), tags.DISK, {})
    return found


def tags_for(
    name: str,
    params: AttachedDiskInitializeParams,
    features: Sequence[GuestOsFeature],
    disk_type: DiskType,
    image: images.Asked,
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
        architecture=images.architecture_of(scope, row.get("templateid")),
    )
    fields.put(disk, kept, _KEPT)
    disk.labelFingerprint = label_fingerprint(disk.labels)
    if row.get("templateid"):
        asked = str(kept.get("image", "")) if kept.get("template") == row["templateid"] else ""
        disk.sourceImage = images.link_of(scope, row["templateid"], row.get("templatename", ""), asked)
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


def of_machine(scope: Scope, zone: Zone, machine: Row, shown: str) -> tuple[list[Row], dict[str, str], list[Answer]]:
    """(volumes of a machine made elsewhere, their names by uuid, the answers they came from).

    shown: the machine's GCE name. Its boot disk has the same one, unless another disk has that for its own.
    """
    where, name = {"zoneid": zone.id}, slug(machine["name"])
    answers = scope.client.read_many(
        [
            ("listVolumes", {"virtualmachineid": machine["id"]}),
            ("listVolumes", {"name": name, **where}),
            ("listVolumes", {**tags.question(tags.NAME, name), **where}),
        ]
    )
    volumes = [row for row in answers[0].items if is_shown(row)]
    found = {row["id"]: shown for shown, row in names(_rows(answers))}
    for row in volumes:
        if row.get("type") == "ROOT" and shown != name and name_of(row) == name and tags.NAME not in tags.of(row):
            # Another machine has the name, and so has its disk.
            found[row["id"]] = naming.with_suffix(name, row["id"])
    return volumes, found, answers


def _rows(answers: Iterable[Answer]) -> list[Row]:
    """All rows, each once."""
    return list({row["id"]: row for row in all_rows(answers)}.values())


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


# New ones


def check_free(client: Client, scope: Scope, zone: Zone, name: str, instance: str) -> None:
    """Raise 409 when a disk of the zone has this name. instance: the one that is to be made, of which there is none."""
    where = {"zoneid": zone.id}
    questions = [("listVolumes", {"name": name, **where}), ("listVolumes", {**tags.question(tags.NAME, name), **where})]
    if name != instance:
        # A boot disk made elsewhere has the name of its machine.
        questions.append(("listVirtualMachines", {"name": name, "details": "min", **where}))
    named, tagged, *machines = client.read_many(questions)
    rows = _rows([named, tagged])
    for machine in _rows(machines):
        if slug(machine["name"]) == name and machine.get("state") not in _DESTROYED_MACHINE:
            rows += client.read("listVolumes", virtualmachineid=machine["id"], type="ROOT").items
    if any(is_shown(row) and name_of(row) == name for row in rows):
        raise already_exists(scope.links.path(zone.path, "disks", name))


@contextmanager
def name_held(run: Run, zone: Zone, name: str, instance: str) -> Iterator[None]:
    """Make a disk of this name, if nobody else has one, or makes one in another operation. Raises 409."""
    store, owner, key, claim = run.scope.store, run.scope.project.key, f"{zone.id}/{name}", run.name.encode()
    if not store.put_document(owner, _CLAIMS, key, claim, expected=None):
        known = store.document(owner, _CLAIMS, key)
        if known != claim:
            holder = store.operation(owner, known.decode()) if known else None
            if (holder and holder["status"] != "DONE") or not store.put_document(owner, _CLAIMS, key, claim, known):
                raise already_exists(run.scope.links.path(zone.path, "disks", name))
    try:
        run.look("disk-name-free", lambda scope: check_free(scope.client, scope, zone, name, instance))
        yield
    except Exception:
        store.delete_document(owner, _CLAIMS, key)
        raise
    store.delete_document(owner, _CLAIMS, key)


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
    differences="Two calls; more for one that was not made here and has no name of its own. A boot disk that was not "
    "made here is named like its instance. Volumes that are deleted but not yet "
    "expunged are not shown.",
)
lists("Disks", _read, calls=("listVolumes",))
