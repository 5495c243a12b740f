"""disks.resize, update, setLabels."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from gstack.compute.v1 import disks_pb2 as pb
from gstack.kernel.errors import ApiError, invalid, required, unsupported
from translator_service import places
from translator_service.cloudstack.rows import Row
from translator_service.gce.fingerprints import check
from translator_service.gce.labels import check_labels, label_fingerprint
from translator_service.gce.naming import number
from translator_service.kept import details as kept
from translator_service.kept import fields, tags
from translator_service.operations import engine
from translator_service.operations.run import OperationError, Run, handler
from translator_service.places import Zone
from translator_service.resources import disk_types
from translator_service.resources.disks import intents, view
from translator_service.resources.disks.find import find, look
from translator_service.resources.tagged import check_kept, retag
from translator_service.rpc import rpc
from translator_service.scope import Scope

_CALLS = ("listVolumes", "listVirtualMachines", "resizeVolume", "updateVirtualMachine", "deleteTags", "createTags")
# What is only kept, and may be changed. (GCE changes no description, and no features of the guest.)
_KEPT = ("architecture", "licenseCodes", "licenses", "locationHint")
_FIELDS = ("labels", "sizeGb", *_KEPT)


@rpc(
    "Disks.Resize",
    calls=_CALLS,
    differences="Disks of a disk type with a fixed size grow too.",
)
def resize(scope: Scope, request: pb.ResizeDiskRequest) -> Message:
    if not request.resource.sizeGb:
        raise required("resource.sizeGb")
    zone = places.resolve_zone(scope, request.zone)
    name, row, _ = find(scope, zone, request.disk)
    if request.resource.sizeGb <= view.size_gb(row.get("size", 0)):
        raise _no_shrink(row, request.resource.sizeGb)
    return _submit(scope, zone, name, row, "resizeDisk", {"size": request.resource.sizeGb})


@rpc(
    "Disks.Update",
    calls=_CALLS,
    differences=f"Changes {', '.join(_FIELDS[:-1])} and {_FIELDS[-1]}.",
)
def update(scope: Scope, request: pb.UpdateDiskRequest) -> Message:
    """Raises 400 for a field that cannot be changed."""
    wanted = request.resource
    zone = places.resolve_zone(scope, request.zone)
    name, row, _ = find(scope, zone, request.disk)
    chosen = _chosen(scope, zone, name, row, request)
    changes: dict[str, Any] = {}
    if "sizeGb" in chosen:
        changes["size"] = wanted.sizeGb
    if "labels" in chosen:
        check(wanted.labelFingerprint, label_fingerprint(tags.labels(row)), "label")
        changes |= {"labels": dict(wanted.labels), "expected": wanted.labelFingerprint.hex()}
    about = fields.kept(wanted)
    changes["about"] = {field: about.get(field) for field in _KEPT if field in chosen}
    if changes["about"]:
        check_kept({**view.kept_of(row), **changes["about"]})
    return _submit(scope, zone, name, row, "update", changes)


def _chosen(scope: Scope, zone: Zone, name: str, row: Row, request: pb.UpdateDiskRequest) -> Collection[str]:
    """The fields that a request changes: those that it names, or has otherwise than the disk."""
    named = [one.strip() for text in (*request.paths, request.updateMask) for one in text.split(",") if one.strip()]
    given = "paths" if request.paths else "updateMask"
    for field in named:
        if field not in _FIELDS:
            if field not in pb.Disk.DESCRIPTOR.fields_by_name and not field.isidentifier():
                raise invalid(given, f"'{field}'. It is no field of a disk.")
            raise unsupported(given, f"'{field}' cannot be changed here.")
    if named:
        return set(named)
    shown = MessageToDict(view.to_disk(scope, zone, row, name))
    found = set(scope.cleared).intersection(_FIELDS)
    if "sizeGb" in found:
        raise required("resource.sizeGb")
    for field in set(scope.cleared).difference(_FIELDS, ("labelFingerprint",)):
        if shown.get(field):
            raise unsupported(f"resource.{field}", "it cannot be changed here.")
    for field, value in MessageToDict(request.resource).items():
        if field in _FIELDS:
            found.add(field)
        elif field != "labelFingerprint" and value != shown.get(field):
            raise unsupported(f"resource.{field}", "it cannot be changed here.")
    return found


@rpc("Disks.SetLabels", calls=("listVolumes", "listVirtualMachines", "deleteTags", "createTags"))
def set_labels(scope: Scope, request: pb.SetLabelsDiskRequest) -> Message:
    labels, sent = dict(request.body.labels), request.body.labelFingerprint
    zone = places.resolve_zone(scope, request.zone)
    name, row, _ = find(scope, zone, request.resource)
    check(sent, label_fingerprint(tags.labels(row)), "label")
    return _submit(scope, zone, name, row, "setLabels", {"labels": labels, "expected": sent.hex()}, "body.labels")


def _submit(
    scope: Scope,
    zone: Zone,
    name: str,
    row: Row,
    type: str,
    changes: dict[str, Any],
    labels_field: str = "resource.labels",
) -> Message:
    check_labels(changes.get("labels", {}), labels_field)
    _check(scope, zone, name, row, changes)
    return engine.submit(
        scope,
        type=type,
        target=f"{zone.path}/disks/{name}",
        target_id=number(view.identity_of(row)),
        handler="disks.change",
        payload={"zone": zone.name, "name": name, "id": view.identity_of(row), **changes},
        also=_users(scope, zone, row, changes),
    )


def _users(scope: Scope, zone: Zone, row: Row, changes: dict[str, Any]) -> list[str]:
    """The instance that a new size is a change of too: CloudStack queues what is done to one machine nowhere."""
    user = view.user_of(scope, zone, row) if changes.get("size") is not None else None
    return [user] if user else []


def _check(scope: Scope, zone: Zone, name: str, row: Row, changes: dict[str, Any]) -> None:
    """What may be changed; said again when the turn has come."""
    if (size := changes.get("size")) is not None:
        if size < view.size_gb(row.get("size", 0)):
            raise _no_shrink(row, size)
        disk_types.check_size(scope, size, "resource.sizeGb")
    check(bytes.fromhex(changes.get("expected", "")), label_fingerprint(tags.labels(row)), "label")
    if intents.MARK in row:
        intents.check_unused(scope, zone, intents.of_row(scope, zone, row))
    architecture = (changes.get("about") or {}).get("architecture")
    if architecture and row.get("templateid") and architecture != view.architecture_of(scope, row):
        raise invalid("resource.architecture", f"'{architecture}'. It is not the image's.")


def _no_shrink(row: Row, size: int) -> ApiError:
    there = view.size_gb(row.get("size", 0))
    return invalid(
        "resource.sizeGb", f"'{size}'. New disk size '{size}' GiB must be larger than existing size '{there}' GiB."
    )


@handler("disks.change")
def do_change(run: Run) -> None:
    """Of two changes of labels made from the same ones the second is refused, whenever it was submitted."""
    payload = run.payload
    zone, name, size = places.resolve_zone(run.scope, payload["zone"]), payload["name"], payload.get("size")

    def work(scope: Scope) -> Row:
        row = look(scope, zone, payload["id"])
        if row is None:
            path = scope.links.path(zone.path, "disks", name)
            raise OperationError("RESOURCE_NOT_FOUND", f"The resource '{path}' was not found", 404)
        # It may be another's by now. While this has its turn, none attaches or detaches it.
        run.take_turns(*_users(scope, zone, row, payload))
        _check(scope, zone, name, row, payload)
        return row

    row = run.look("disk", work)
    about = {**view.kept_of(row), **(payload.get("about") or {})}
    about = {key: value for key, value in about.items() if value is not None}
    if intents.MARK in row:
        changes = {"size_gb": size or view.size_gb(row["size"]), "tags": _retagged(row, payload, about)}
        run.step("intent", lambda: intents.change(run.scope, zone, row["id"], **changes) and None)
        return
    if size is not None and size != view.size_gb(row["size"]):
        run.job("resize", "resizeVolume", id=row["id"], size=str(size))
    if size is not None and row.get("type") == "ROOT" and row.get("virtualmachineid"):
        run.look("boot-disk", lambda scope: _keep_size(scope, row, size))
    if payload.get("about"):
        retag(run, "kept", "Volume", row["id"], tags.DISK, row, about)
    if "labels" in payload:
        retag(run, "labels", "Volume", row["id"], tags.LABELS, row, payload["labels"])


def _retagged(row: Row, payload: dict[str, Any], about: dict[str, Any]) -> dict[str, str]:
    """The tags of an intent after a change."""
    labels = payload.get("labels", tags.labels(row))
    parts = (tags.DISK, tags.LABELS)
    rest = {key: text for key, text in tags.of(row).items() if not any(tags.is_part(key, one) for one in parts)}
    return {**rest, **tags.pack(tags.LABELS, labels), **tags.pack(tags.DISK, about)}


def _keep_size(scope: Scope, disk: Row, size: int) -> None:
    """An instance keeps the size of its boot disk in its details, so that a list of instances needs no volumes."""
    rows = scope.client.read("listVirtualMachines", id=disk["virtualmachineid"], details="min").items
    details = (rows[0].get("details") or {}) if rows else {}
    about = kept.unpack(details, kept.DISK, {})
    if about.get("sizeGb", size) != size:
        changed = kept.parameters_of_update(details, {kept.DISK: {**about, "sizeGb": size}})
        scope.client.write("updateVirtualMachine", {"id": disk["virtualmachineid"], **changed})
