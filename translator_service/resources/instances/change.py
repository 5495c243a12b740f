"""How an instance is changed: one operation that reads what it is at its turn, merges, and writes.

Of the methods: setTags, setLabels, setMetadata, setDeletionProtection. Those of settings.py and
update.py come here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from google.protobuf.message import Message

from gstack.compute.v1 import instances_pb2 as pb
from gstack.kernel.errors import ApiError, invalid
from translator_service import places
from translator_service.cloudstack.errors import CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.gce.fingerprints import check, fingerprint
from translator_service.gce.labels import check_labels, check_tags, label_fingerprint
from translator_service.kept import details as kept
from translator_service.networking import projection
from translator_service.networking.projection import tags_of
from translator_service.operations.cleanup import clear_away
from translator_service.operations.run import OperationError, Run, handler
from translator_service.places import Zone
from translator_service.resources import machine_types
from translator_service.resources.common_metadata import check_metadata
from translator_service.resources.instances import passwords
from translator_service.resources.instances.find import AWAITED, find, machine, path, submit, under_way
from translator_service.resources.instances.metadata import (
    DOCUMENT,
    changed_user_data,
    document_of,
    forget_metadata,
    keep_metadata,
    metadata_items,
    metadata_of,
)
from translator_service.resources.instances.rename import rename
from translator_service.resources.instances.view import (
    instance_fingerprint,
    labels_of,
    status,
)
from translator_service.rpc import rpc
from translator_service.scope import Scope


@rpc("Instances.SetTags", calls=("listVirtualMachines", "updateVirtualMachine", "authorizeSecurityGroupIngress"))
def set_tags(scope: Scope, request: pb.SetTagsInstanceRequest) -> Message:
    tags = check_tags(list(request.resource.items), "resource.items")
    zone = places.resolve_zone(scope, request.zone)
    name, row, _ = find(scope, zone, request.instance)
    expected = expect(scope, row, "tags", request.resource.fingerprint)
    return update(scope, zone, name, row, "setTags", {kept.TAGS: tags}, expected=expected, tags=tags)


@rpc("Instances.SetLabels", calls=("listVirtualMachines", "updateVirtualMachine"))
def set_labels(scope: Scope, request: pb.SetLabelsInstanceRequest) -> Message:
    labels = check_labels(dict(request.resource.labels), "resource.labels")
    zone = places.resolve_zone(scope, request.zone)
    name, row, _ = find(scope, zone, request.instance)
    expected = expect(scope, row, "label", request.resource.labelFingerprint)
    return update(scope, zone, name, row, "setLabels", {kept.LABELS: labels}, expected=expected)


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
    expected = expect(scope, row, "metadata", request.resource.fingerprint)
    # Raises 400 for what does not fit; what the guest gets is made when its turn comes.
    changed_user_data(scope, items, row, is_there=AWAITED not in row)
    with keep_metadata(scope, items) as packed:
        changes = {kept.METADATA: packed}
        return update(scope, zone, name, row, "setMetadata", changes, expected=expected)


def expect(scope: Scope, row: Row, kind: str, sent: bytes) -> dict[str, str]:
    """Kind -> fingerprint, as hex, of what the request was made from, for when its turn comes. Raises 412."""
    check(sent, _FINGERPRINTS[kind](scope, row), kind)
    return {kind: sent.hex()}


_FINGERPRINTS: dict[str, Callable[[Scope, Row], bytes]] = {
    "tags": lambda scope, row: fingerprint("tags", *tags_of(row)),
    "label": lambda scope, row: label_fingerprint(labels_of(row)),
    "metadata": lambda scope, row: bytes(metadata_of(scope, row).fingerprint),
    "instance": lambda scope, row: instance_fingerprint(row),
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
    return update(scope, zone, name, row, "setDeletionProtection", parameters=protection(wanted))


def protection(wanted: bool) -> dict[str, str]:
    """Of updateVirtualMachine."""
    return {"deleteprotection": str(wanted).lower()}


@dataclass(frozen=True)
class Size:
    """What a machine is to have. details: of a free size. ha: whether the offering restarts what fails."""

    offering: str
    details: dict[str, str]
    ha: bool

    def is_of(self, row: Row) -> bool:
        if row.get("serviceofferingid") != self.offering:
            return False
        have = {"cpuNumber": str(row.get("cpunumber")), "memory": str(row.get("memory"))}
        return all(have[name] == text for name, text in self.details.items() if name in have)


@dataclass(frozen=True)
class Action:
    """How far a change may disturb a running machine: NO_EFFECT, REFRESH or RESTART.

    needed: by what changes; least: is done anyhow; most: is allowed.
    """

    needed: str
    least: str
    most: str

    def check(self, row: Row) -> bool:
        """Whether the machine is to be restarted. Raises 400 for more than is allowed."""
        if not is_up(row):
            return False
        if ACTIONS.index(self.needed) > ACTIONS.index(self.most):
            why = f"The update needs the action {self.needed}, and the most disruptive one allowed is {self.most}."
            raise invalid("mostDisruptiveAllowedAction", why)
        return "RESTART" in (self.needed, self.least)


ACTIONS = ("NO_EFFECT", "REFRESH", "RESTART")


def is_up(row: Row) -> bool:
    """Whether a machine is anything else than stopped for good."""
    return status(row, None) != "TERMINATED"


def check_stopped(row: Row, under_way: str | None, what: str) -> None:
    """Raise 400, in GCE's words, for what can be changed of a stopped instance only."""
    if what and (AWAITED in row or status(row, under_way) != "TERMINATED"):
        raise ApiError(400, f"The instance must be stopped before {what} can be changed.", "badRequest")


def update(
    scope: Scope,
    zone: Zone,
    name: str,
    row: Row,
    type: str,
    changes: dict[str, Any] | None = None,
    *,
    config: dict[str, Any] | None = None,
    parameters: dict[str, str] | None = None,
    size: Size | None = None,
    rename: str = "",
    expected: dict[str, str] | None = None,
    tags: list[str] | None = None,
    stopped: str = "",
    action: Action | None = None,
) -> Message:
    """Submit an operation that changes an instance. Raises 400 for what only a stopped one can have changed.

    changes: values that are kept in details, by their key. config: fields of the settings that are kept, as a patch: an
    object is merged, None takes away. parameters: of updateVirtualMachine. rename: its new name. tags: its
    new network tags. stopped: what of it only a stopped machine can have changed, in words.
    """
    payload: dict[str, Any] = {
        "changes": changes or {},
        "config": config or {},
        "parameters": parameters or {},
        "size": asdict(size) if size else None,
        "rename": rename,
        "expected": expected or {},
        "tags": tags,
        "stopped": stopped,
        "action": asdict(action) if action else None,
    }
    check_stopped(row, under_way(scope).get(path(zone, name)), stopped)
    return submit(scope, zone, name, row, type, "instances.update", **payload)


# The operation


@handler("instances.protect")
def do_protect(run: Run) -> None:
    """Submitted before all changes were one."""
    run.payload.update(changes={}, tags=None, parameters=protection(run.payload["protect"]))
    do_update(run)


@handler("instances.update")
def do_update(run: Run) -> None:
    """Of two changes made from the same state the second one is refused, whenever it was submitted."""
    written = (run.payload["changes"].get(kept.METADATA) or {}).get(DOCUMENT, "")
    try:
        row = machine(run, "machine", partial(_check_again, run.payload))
    except (ApiError, OperationError):
        forget_metadata(run.scope, written)
        raise
    action = run.payload.get("action")
    if not action or not Action(**action).check(row):
        _change(run, row, written)
        return
    run.job("stop", "stopVirtualMachine", id=row["id"])
    try:
        _change(run, {**row, "state": "Stopped"}, written)
    except Exception:
        # It ran before, and what it is now has little to do with what could not be changed.
        again = partial(run.job, "start-again", "startVirtualMachine", id=row["id"])
        clear_away(run, [(f"The stop of the instance '{run.payload['name']}'", again)])
        raise
    run.job("start", "startVirtualMachine", id=row["id"])


def _check_again(payload: dict[str, Any], scope: Scope, row: Row) -> None:
    expected = payload.get("expected") or {}
    # Payloads of before there were several have one pair.
    for kind, sent in expected.items() if isinstance(expected, dict) else [expected]:
        if sent:
            check(bytes.fromhex(sent), _FINGERPRINTS[kind](scope, row), kind)
    check_stopped(row, None, payload.get("stopped", ""))
    if action := payload.get("action"):
        Action(**action).check(row)


def _change(run: Run, row: Row, written: str) -> None:
    """written: name of the document with the new metadata, when they are large."""
    size = Size(**found) if (found := run.payload.get("size")) else None
    try:
        with _resized(run, row, size) as now:
            _write(run, now, size)
    except (CloudStackError, OperationError, ApiError):
        forget_metadata(run.scope, written)
        raise
    if kept.METADATA in run.payload["changes"]:
        forget_metadata(run.scope, document_of(row))
        passwords.answer_at_turn(run, {**row, "details": _with_metadata(run, row)})
    if run.payload["tags"] is not None:
        zone = places.resolve_zone(run.scope, run.payload["zone"])
        projection.refresh_instance(run, "firewall", zone, row, run.payload["tags"])


@contextmanager
def _resized(run: Run, row: Row, size: Size | None) -> Iterator[Row]:
    """The machine with its new size, which it has no longer when what follows fails."""
    if size is None or size.is_of(row):
        yield row
        return
    _resize(run, "size", row, size)
    now = machine(run, "resized")
    try:
        yield now
    except Exception:
        details = {name: text for name, text in (row.get("details") or {}).items() if name in _SIZE}
        before = Size(row["serviceofferingid"], details, False)
        clear_away(run, [("The new machine type", partial(_resize, run, "size-before", now, before))])
        raise


# Of a free size, in the details of a machine.
_SIZE = ("cpuNumber", "cpuSpeed", "memory")


def _resize(run: Run, step: str, row: Row, size: Size) -> None:
    """changeServiceForVirtualMachine knows neither free sizes nor running machines (recordings, Surprises 115)."""
    machine_id, offering = row["id"], size.offering
    if size.details or is_up(row):
        details = kept.parameters(size.details)
        run.job(step, "scaleVirtualMachine", id=machine_id, serviceofferingid=offering, **details)
        return

    def change(scope: Scope) -> None:
        # Twice is an error: a repeated step finds its own work done.
        rows = scope.client.read("listVirtualMachines", id=machine_id, details="servoff").items
        if not any(size.is_of(row) for row in rows):
            scope.client.write("changeServiceForVirtualMachine", id=machine_id, serviceofferingid=offering)

    run.look(step, change)


def _write(run: Run, row: Row, size: Size | None) -> None:
    details, changes = row.get("details") or {}, dict(run.payload["changes"])
    parameters = dict(run.payload.get("parameters") or {})
    patch = run.payload.get("config") or {}
    config = merged(kept.unpack(details, kept.CONFIG, {}), patch)
    if patch:
        changes[kept.CONFIG] = config
    if size is not None or "scheduling" in patch:
        parameters |= _restarts(run.scope, row, config, size)
    if name := run.payload.get("rename"):
        rename(run, row, name, changes, parameters)
        return
    if changes:
        parameters |= kept.parameters_of_update(details, changes)
    if not parameters:
        return

    def write(scope: Scope) -> None:
        sent = dict(parameters)
        if kept.METADATA in changes:
            # The project's metadata may have changed since.
            items = metadata_items(scope, {"details": _with_metadata(run, row)})
            data = changed_user_data(scope, items, row, is_there=True)
            sent |= {"userdata": data} if data is not None else {}
        scope.client.write("updateVirtualMachine", id=row["id"], **sent)

    run.look("update", write)


def _with_metadata(run: Run, row: Row) -> dict[str, str]:
    """The details of a machine with the metadata that it gets."""
    return kept.replaced(row.get("details") or {}, kept.METADATA, run.payload["changes"][kept.METADATA])


def merged(value: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """As RFC 7396 merges."""
    found = dict(value)
    for name, new in patch.items():
        if new is None:
            found.pop(name, None)
        elif isinstance(new, dict):
            old = found.get(name)
            if below := merged(old if isinstance(old, dict) else {}, new):
                found[name] = below
            else:
                found.pop(name, None)
        else:
            found[name] = new
    return found


def _restarts(scope: Scope, row: Row, config: dict[str, Any], size: Size | None) -> dict[str, str]:
    """CloudStack's own word for automaticRestart, where the offering has it."""
    offering = scope.catalog(machine_types.kind(scope)).index.find(row.get("serviceofferingid", ""))
    if not (size.ha if size else offering is not None and offering.get("offerha")):
        return {}
    scheduling = config.get("scheduling") or {}
    wanted = scheduling.get("automaticRestart", not scheduling.get("preemptible"))
    return {} if bool(row.get("haenable")) == wanted else {"haenable": str(bool(wanted)).lower()}
