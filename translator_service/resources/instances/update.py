"""instances.update: the instance as it is to be; what differs from what it is changes in one operation."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from google.protobuf.message import Message

from gstack.compute.v1 import instances_pb2 as pb
from gstack.kernel.accounts import default_service_account
from gstack.kernel.contract import is_map
from gstack.kernel.errors import invalid, required
from translator_service import places
from translator_service.cloudstack.rows import Row
from translator_service.gce.labels import check_labels, check_tags
from translator_service.kept import details as kept
from translator_service.kept import fields
from translator_service.operations import engine
from translator_service.resources import machine_types
from translator_service.resources.common_metadata import check_metadata
from translator_service.resources.instances import change
from translator_service.resources.instances.change import ACTIONS, Action, expect, protection
from translator_service.resources.instances.find import AWAITED, find, path, target_id
from translator_service.resources.instances.metadata import changed_user_data, keep_metadata, metadata_items
from translator_service.resources.instances.read import reading
from translator_service.resources.instances.settings import scales_live, size_for
from translator_service.resources.instances.view import default_scheduling
from translator_service.rpc import rpc
from translator_service.scope import Scope

# What the change of a field needs of a running machine, as GCE says. Other fields cannot be changed.
_NEEDS = {
    "description": "NO_EFFECT",
    "labels": "NO_EFFECT",
    "tags": "NO_EFFECT",
    "metadata": "NO_EFFECT",
    "deletionProtection": "NO_EFFECT",
    "scheduling": "NO_EFFECT",
    "shieldedInstanceIntegrityPolicy": "NO_EFFECT",
    "canIpForward": "REFRESH",
    "machineType": "RESTART",
    "serviceAccounts": "RESTART",
    "minCpuPlatform": "RESTART",
    "displayDevice": "RESTART",
    "shieldedInstanceConfig": "RESTART",
    "reservationAffinity": "RESTART",
    # Of these there is only what says nothing.
    "advancedMachineFeatures": "NO_EFFECT",
    "confidentialInstanceConfig": "NO_EFFECT",
    "networkPerformanceConfig": "NO_EFFECT",
    "workloadIdentityConfig": "NO_EFFECT",
}
_GUARDS = ("fingerprint", "labelFingerprint")
# Of those, what is only kept.
_KEPT = tuple(
    name for name in _NEEDS if name not in ("labels", "tags", "metadata", "deletionProtection", "machineType")
)


@rpc(
    "Instances.Update",
    calls=(
        "listVirtualMachines", "stopVirtualMachine", "changeServiceForVirtualMachine", "scaleVirtualMachine",
        "updateVirtualMachine", "startVirtualMachine",
    ),
    differences="Disks and network interfaces have methods of their own and cannot be changed by this one; left out,"
    " they stay. REFRESH does nothing: there is nothing that it would renew.",
)  # fmt: skip
def update(scope: Scope, request: pb.UpdateInstanceRequest) -> Message:
    wanted = request.resource
    if not wanted.machineType:
        raise required("resource.machineType")
    least, most = _actions(request)
    zone = places.resolve_zone(scope, request.zone)
    name, row, _ = find(scope, zone, request.instance)
    shown = reading(scope, zone, request.instance).build()
    assert isinstance(shown, pb.Instance)
    if field := _immutable(wanted, shown, "resource"):
        raise invalid(field, "It differs from what the instance has, and an update cannot change it.")
    expected = _expected(scope, row, wanted)
    changes, differing = _tags_and_labels(wanted, shown)
    config = _settings(scope, row, wanted, shown)
    differing += list(config)
    parameters: dict[str, str] = {}
    if wanted.deletionProtection != shown.deletionProtection:
        parameters = protection(wanted.deletionProtection)
        differing.append("deletionProtection")
    needs = {field: _NEEDS[field] for field in differing}
    machine_type = machine_types.resolve(scope, zone, wanted.machineType, "resource.machineType")
    size = None
    if machine_type.name != shown.machineType.rpartition("/")[2]:
        size, config["machineType"] = size_for(machine_type), machine_type.kept or None
        needs["machineType"] = "REFRESH" if scales_live(scope, row, machine_type) else "RESTART"
    items = check_metadata(wanted.metadata, "resource.metadata")
    has_metadata = items != metadata_items(scope, row)
    needs |= {"metadata": _NEEDS["metadata"]} if has_metadata else {}
    action = Action(max(needs.values(), key=ACTIONS.index, default=ACTIONS[0]), least, most)
    action.check(row)
    if not needs and least != "RESTART":
        return engine.finished(scope, type="update", target=path(zone, name), target_id=target_id(row))
    if has_metadata:
        # Raises 400 for what does not fit; what the guest gets is made when its turn comes.
        changed_user_data(scope, items, row, is_there=AWAITED not in row)
    with keep_metadata(scope, items) if has_metadata else nullcontext() as packed:
        if packed is not None:
            changes[kept.METADATA] = packed
        return change.update(
            scope, zone, name, row, "update", changes,
            config=config, parameters=parameters, size=size, expected=expected,
            tags=changes.get(kept.TAGS), action=action,
        )  # fmt: skip


def _actions(request: pb.UpdateInstanceRequest) -> tuple[str, str]:
    """(minimal action, most disruptive one allowed)."""
    least = request.minimalAction or ACTIONS[0]
    most = request.mostDisruptiveAllowedAction or ACTIONS[-1]
    for field, value in (("minimalAction", least), ("mostDisruptiveAllowedAction", most)):
        if value not in ACTIONS:
            raise invalid(field, f"'{value}'. Must be one of {', '.join(ACTIONS)}.")
    if ACTIONS.index(least) > ACTIONS.index(most):
        raise invalid("minimalAction", f"'{least}'. The most disruptive action allowed is {most}.")
    return least, most


def _expected(scope: Scope, row: Row, wanted: pb.Instance) -> dict[str, str]:
    """What the fingerprints say that this was made from. Raises 412."""
    sent = {
        "instance": wanted.fingerprint,
        "label": wanted.labelFingerprint,
        "tags": wanted.tags.fingerprint,
        "metadata": wanted.metadata.fingerprint,
    }
    found: dict[str, str] = {}
    for kind, value in sent.items():
        found |= expect(scope, row, kind, value) if value else {}
    return found


def _tags_and_labels(wanted: pb.Instance, shown: pb.Instance) -> tuple[dict[str, Any], list[str]]:
    """(new values of details, the fields that differ)."""
    changes: dict[str, Any] = {}
    tags = check_tags(list(wanted.tags.items), "resource.tags.items")
    labels = check_labels(dict(wanted.labels), "resource.labels")
    if sorted(tags) != sorted(shown.tags.items):
        changes[kept.TAGS] = tags
    if labels != dict(shown.labels):
        changes[kept.LABELS] = labels
    return changes, [field for field, key in (("tags", kept.TAGS), ("labels", kept.LABELS)) if key in changes]


def _settings(scope: Scope, row: Row, wanted: pb.Instance, shown: pb.Instance) -> dict[str, Any]:
    """A patch of the kept settings that differ."""
    whole = pb.Instance()
    whole.CopyFrom(wanted)
    whole.canIpForward = wanted.canIpForward
    default_scheduling(whole.scheduling)
    for account in whole.serviceAccounts:
        if account.email == "default":
            account.email = default_service_account(scope.project.number)
    new, now = fields.kept(whole), fields.kept(shown)
    before = kept.unpack(row.get("details") or {}, kept.CONFIG, {})
    # A message with nothing in it is none.
    differing = [name for name in _KEPT if (new.get(name) or None) != (now.get(name) or None)]
    return {name: _patch(before.get(name), new.get(name)) for name in differing}


def _patch(before: Any, after: Any) -> Any:
    """What makes the one of the other (see change.merged)."""
    if not isinstance(after, dict):
        return after
    old = before if isinstance(before, dict) else {}
    return {name: None for name in old if name not in after} | {
        name: _patch(old.get(name), value) for name, value in after.items()
    }


def _immutable(sent: Any, shown: Any, where: str) -> str:
    """Path of the first field that cannot be changed and is another one, "" for none."""
    for field, value in sent.ListFields():
        here, now = f"{where}.{field.json_name}", getattr(shown, field.name)
        if where == "resource" and (field.name in _NEEDS or field.name in _GUARDS):
            continue
        if field.is_repeated and not is_map(field):
            if len(value) != len(now):
                return here
            pairs = [(f"{here}[{index}]", *pair) for index, pair in enumerate(zip(value, now, strict=True))]
        else:
            pairs = [(here, value, now)]
        for place, one, other in pairs:
            if field.message_type is not None and not is_map(field):
                if found := _immutable(one, other, place):
                    return found
            elif not _is_same(one, other):
                return place
    return ""


def _is_same(sent: Any, shown: Any) -> bool:
    """A reference may be written in many ways."""
    if isinstance(sent, str) and isinstance(shown, str):
        return sent.rpartition("/")[2] == shown.rpartition("/")[2]
    return bool(sent == shown)
