"""instances.setTags, setLabels, setMetadata, setDiskAutoDelete: what is kept in details; setDeletionProtection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from gstack.compute.v1 import instances_pb2 as pb
from gstack.kernel.errors import ApiError, invalid, required, unsupported
from translator_service import places
from translator_service.cloudstack.errors import CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.gce.fingerprints import check, fingerprint
from translator_service.gce.labels import check_labels, check_tags, label_fingerprint
from translator_service.kept import details as kept
from translator_service.networking import projection
from translator_service.networking.projection import tags_of
from translator_service.operations import engine
from translator_service.operations.run import OperationError, Run, handler
from translator_service.places import Zone
from translator_service.resources.common_metadata import check_metadata
from translator_service.resources.disks import view as disk_view
from translator_service.resources.instances import passwords
from translator_service.resources.instances.find import AWAITED, find, machine, path, target, target_id
from translator_service.resources.instances.metadata import (
    DOCUMENT,
    changed_user_data,
    document_of,
    forget_metadata,
    keep_metadata,
    metadata_items,
    metadata_of,
)
from translator_service.resources.instances.view import disk_of, labels_of, to_instance
from translator_service.rpc import rpc
from translator_service.scope import Scope

# Details that a user may not send back; CloudStack keeps them by itself (recordings, Surprises 16).
_DENIED = (
    "rootdisksize",
    "cpuOvercommitRatio",
    "memoryOvercommitRatio",
    "Message.ReservedCapacityFreed.Flag",
    "deployvm",
)


@rpc("Instances.SetTags", calls=("listVirtualMachines", "updateVirtualMachine", "authorizeSecurityGroupIngress"))
def set_tags(scope: Scope, request: pb.SetTagsInstanceRequest) -> Message:
    tags = check_tags(list(request.resource.items), "resource.items")
    zone = places.resolve_zone(scope, request.zone)
    name, row, _ = find(scope, zone, request.instance)
    expected = _expect(scope, row, "tags", request.resource.fingerprint)
    return _update(scope, zone, name, row, "setTags", {kept.TAGS: tags}, expected=expected, tags=tags)


@rpc("Instances.SetLabels", calls=("listVirtualMachines", "updateVirtualMachine"))
def set_labels(scope: Scope, request: pb.SetLabelsInstanceRequest) -> Message:
    labels = check_labels(dict(request.resource.labels), "resource.labels")
    zone = places.resolve_zone(scope, request.zone)
    name, row, _ = find(scope, zone, request.instance)
    expected = _expect(scope, row, "label", request.resource.labelFingerprint)
    return _update(scope, zone, name, row, "setLabels", {kept.LABELS: labels}, expected=expected)


@rpc(
    "Instances.SetMetadata",
    calls=(
        "listVirtualMachines", "getVirtualMachineUserData", "updateVirtualMachine", "resetPasswordForVirtualMachine",
    ),
    differences="New keys are in a Linux guest within a minute or so, new scripts at its next boot. A password is "
    "reset, for `windows-keys`, only of a stopped machine. See guests.md.",
)  # fmt: skip
def set_metadata(scope: Scope, request: pb.SetMetadataInstanceRequest) -> Message:
    items = check_metadata(request.resource, "resource")
    zone = places.resolve_zone(scope, request.zone)
    name, row, _ = find(scope, zone, request.instance)
    expected = _expect(scope, row, "metadata", request.resource.fingerprint)
    # Raises 400 for what does not fit; what the guest gets is made when its turn comes.
    changed_user_data(scope, items, row, is_there=AWAITED not in row)
    with keep_metadata(scope, items) as packed:
        changes = {kept.METADATA: packed}
        return _update(scope, zone, name, row, "setMetadata", changes, expected=expected)


def _expect(scope: Scope, row: Row, kind: str, sent: bytes) -> tuple[str, str]:
    """(kind, fingerprint as hex) of what the request was made from, for when its turn comes. Raises 412."""
    check(sent, _FINGERPRINTS[kind](scope, row), kind)
    return kind, sent.hex()


_FINGERPRINTS: dict[str, Callable[[Scope, Row], bytes]] = {
    "tags": lambda scope, row: fingerprint("tags", *tags_of(row)),
    "label": lambda scope, row: label_fingerprint(labels_of(row)),
    "metadata": lambda scope, row: bytes(metadata_of(scope, row).fingerprint),
}


@rpc(
    "Instances.SetDeletionProtection",
    calls=("listVirtualMachines", "updateVirtualMachine"),
    differences="CloudStack keeps to it too: who destroys the machine there is refused.",
)
def set_deletion_protection(scope: Scope, request: pb.SetDeletionProtectionInstanceRequest) -> Message:
    zone = places.resolve_zone(scope, request.zone)
    name, row, _ = find(scope, zone, request.resource)
    wanted = request.deletionProtection if request.HasField("deletionProtection") else True
    return engine.submit(
        scope,
        type="setDeletionProtection",
        target=path(zone, name),
        target_id=target_id(row),
        handler="instances.protect",
        payload={**target(scope, zone, name, row), "protect": wanted},
    )


@handler("instances.protect")
def do_protect(run: Run) -> None:
    protect = "true" if run.payload["protect"] else "false"
    run.call("protect", "updateVirtualMachine", id=machine(run, "machine")["id"], deleteprotection=protect)


@rpc(
    "Instances.SetDiskAutoDelete",
    calls=("listVirtualMachines", "updateVirtualMachine"),
    differences="Of boot disks only; data disks always stay when their instance is deleted.",
)
def set_disk_auto_delete(scope: Scope, request: pb.SetDiskAutoDeleteInstanceRequest) -> Message:
    for field in ("autoDelete", "deviceName"):
        if not (request.HasField(field) if field == "autoDelete" else request.deviceName):
            raise required(field)
    zone = places.resolve_zone(scope, request.zone)
    name, row, _ = find(scope, zone, request.instance)
    disk = disk_of(row)
    shown = to_instance(scope, zone, name, row, None if disk else _volumes(scope, row), None)
    boot = next((one for one in shown.disks if one.deviceName == request.deviceName), None)
    if boot is None:
        raise invalid("deviceName", f"'{request.deviceName}'. No attached disk found with this device name.")
    if not boot.boot:
        raise unsupported("deviceName", "data disks always stay when their instance is deleted.")
    disk = disk or {"name": boot.source.rpartition("/")[2], "deviceName": boot.deviceName, "sizeGb": boot.diskSizeGb}
    disk["autoDelete"] = request.autoDelete
    return _update(scope, zone, name, row, "setDiskAutoDelete", {kept.DISK: disk})


def _volumes(scope: Scope, row: Row) -> list[Row]:
    rows = scope.client.read("listVolumes", virtualmachineid=row["id"]).items
    return [volume for volume in rows if disk_view.is_shown(volume)]


def _update(
    scope: Scope,
    zone: Zone,
    name: str,
    row: Row,
    type: str,
    changes: dict[str, Any],
    *,
    expected: tuple[str, str] = ("", ""),
    tags: list[str] | None = None,
) -> Message:
    payload = {
        **target(scope, zone, name, row),
        "changes": changes,
        "expected": expected,
        "tags": tags,
    }
    return engine.submit(
        scope,
        type=type,
        target=path(zone, name),
        target_id=target_id(row),
        handler="instances.update",
        payload=payload,
    )


@handler("instances.update")
def do_update(run: Run) -> None:
    """Details are replaced as a whole, so the current ones are read, merged and sent back.

    Of two changes made from the same state the second one is refused, whenever it was submitted.
    """
    kind, sent = run.payload.get("expected", ("", ""))
    written = run.payload["changes"].get(kept.METADATA) or {}

    def check_again(scope: Scope, row: Row) -> None:
        if sent:
            check(bytes.fromhex(sent), _FINGERPRINTS[kind](scope, row), kind)

    try:
        row = machine(run, "machine", check_again)
    except (ApiError, OperationError):
        forget_metadata(run.scope, written.get(DOCUMENT, ""))
        raise
    details: dict[str, str] = {key: text for key, text in (row.get("details") or {}).items() if key not in _DENIED}
    for key, value in run.payload["changes"].items():
        details = kept.replaced(details, key, value)
    parameters = kept.parameters(details) if details else {"cleanupdetails": "true"}

    def update(scope: Scope) -> None:
        # The project's metadata may have changed since.
        if kept.METADATA in run.payload["changes"]:
            items = metadata_items(scope, {"details": details})
            data = changed_user_data(scope, items, row, is_there=True)
            parameters.update({"userdata": data} if data is not None else {})
        scope.client.write("updateVirtualMachine", id=row["id"], **parameters)

    try:
        run.look("update", update)
    except (CloudStackError, ApiError):
        forget_metadata(run.scope, written.get(DOCUMENT, ""))
        raise
    if kept.METADATA in run.payload["changes"]:
        forget_metadata(run.scope, document_of(row))
        passwords.answer_at_turn(run, {**row, "details": details})
    if run.payload["tags"] is not None:
        zone = places.resolve_zone(run.scope, run.payload["zone"])
        row["details"] = details
        projection.refresh_instance(run, "firewall", zone, row, run.payload["tags"])
