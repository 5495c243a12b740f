"""instances.bulkInsert: many instances alike, each by an insert of its own.

The operation submits the inserts, and is parked while they are under way. When fewer come to be than there must, those
that did are deleted. All these operations have a group id together.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from google.protobuf.message import Message

from gstack.compute.v1 import instances_pb2 as pb
from gstack.kernel.errors import ApiError, already_exists, invalid, required
from translator_service import places
from translator_service.cloudstack.client import all_rows
from translator_service.cloudstack.errors import TRY_LATER, CloudStackError, to_api_error
from translator_service.gce import naming
from translator_service.operations import engine
from translator_service.operations.render import TRANSPORT
from translator_service.operations.run import OperationError, Parked, Run, handler
from translator_service.places import Zone
from translator_service.resources.instances.find import AWAITED, awaited, path
from translator_service.resources.instances.insert import prepare
from translator_service.resources.instances.view import index
from translator_service.rpc import rpc
from translator_service.scope import Scope

_MOST = 1000
_PATTERN = re.compile(r"([^#]*)(#{1,18})([^#]*)")
# Seconds until it is looked after the operations of its own again, and the more for each.
_PAUSE, _MORE = 0.3, 0.02


@rpc(
    "Instances.BulkInsert",
    calls=("listVirtualMachines", "deployVirtualMachine"),
    differences="Each instance has an insert operation of its own, as at Google; a warning tells which of them failed.",
)
def bulk_insert(scope: Scope, request: pb.BulkInsertInstanceRequest) -> Message:
    wanted = request.resource
    zone = places.resolve_zone(scope, request.zone)
    if not wanted.HasField("instanceProperties"):
        raise required("resource.instanceProperties")
    names = _names(scope, zone, wanted)
    least = wanted.minCount if wanted.HasField("minCount") else len(names)
    if not 1 <= least <= len(names):
        raise invalid("resource.minCount", f"'{least}'. Must be within the range: [1, {len(names)}]")
    if len(names) > 1 and (own := _only_one_can_have(wanted.instanceProperties)):
        field, what = own
        raise invalid(field, f"{what} can be one instance's only.")
    engine.check_room(scope, len(names))
    hosts = {name: one.hostname for name, one in wanted.perInstanceProperties.items() if one.hostname}
    for name in dict.fromkeys([names[0], *hosts]):
        _checked(scope, zone, wanted.instanceProperties, name, hosts.get(name, ""))
    group = str(uuid.uuid4())
    payload = {
        "zone": zone.name,
        "names": names,
        "least": least,
        "hosts": hosts,
        "group": group,
        "properties": wanted.instanceProperties.SerializeToString(deterministic=True).hex(),
    }
    return engine.submit(
        scope,
        type="bulkInsert",
        target=f"{zone.path}#{group}",
        handler="instances.bulkInsert",
        payload=payload,
        group=group,
    )


def _names(scope: Scope, zone: Zone, wanted: pb.BulkInsertInstanceResource) -> list[str]:
    """Of the instances. Raises 400 and 409."""
    names = list(wanted.perInstanceProperties)
    if not names and not wanted.namePattern:
        raise required("resource.namePattern")
    count = wanted.count if wanted.HasField("count") else len(names)
    if not 1 <= count <= _MOST:
        raise invalid("resource.count", f"'{count}'. Must be within the range: [1, {_MOST}]")
    if len(names) > count:
        raise invalid("resource.perInstanceProperties", f"{len(names)} names for {count} instances.")
    for name in names:
        naming.check_new_name(name, f"resource.perInstanceProperties.{name}")
    # Side by side with what is under insert, which CloudStack need not show yet.
    coming = {row["name"] for row in awaited(scope, zone.path).values()}
    rows = all_rows(scope.client.read_all("listVirtualMachines", zoneid=zone.id, details="min"))
    there = coming | {name for name, _ in index(scope, rows)}
    for name in names:
        if name in there:
            raise already_exists(scope.links.path(path(zone, name)))
    if len(names) < count:
        names += _numbered(wanted.namePattern, count - len(names), there | set(names))
    return names


def _numbered(pattern: str, count: int, there: set[str]) -> list[str]:
    """Names by a pattern such as `web-####`, numbered on from the largest number that there is."""
    field = "resource.namePattern"
    if not pattern:
        raise required(field)
    match = _PATTERN.fullmatch(pattern)
    if match is None:
        raise invalid(field, f"'{pattern}'. Must contain one row of 1 to 18 characters #.")
    before, hashes, after = match.groups()
    digits = len(hashes)
    known = re.compile(rf"{re.escape(before)}(\d{{{digits}}}){re.escape(after)}")
    first = max((int(found[1]) for name in there if (found := known.fullmatch(name))), default=0) + 1
    if first + count > 10**digits:
        raise invalid(field, f"'{pattern}'. It has no room for {count} instances from number {first} on.")
    names = [f"{before}{number:0{digits}}{after}" for number in range(first, first + count)]
    naming.check_new_name(names[0], field)
    return names


def _only_one_can_have(properties: pb.InstanceProperties) -> tuple[str, str] | None:
    """(path, what it is) of something that two instances cannot have."""
    base = "resource.instanceProperties"
    for position, nic in enumerate(properties.networkInterfaces):
        where = f"{base}.networkInterfaces[{position}]"
        if nic.networkIP:
            return f"{where}.networkIP", "An address"
        for place, access in enumerate(nic.accessConfigs):
            if access.natIP:
                return f"{where}.accessConfigs[{place}].natIP", "An address"
    for position, disk in enumerate(properties.disks):
        if disk.source:
            return f"{base}.disks[{position}].source", "A disk"
        if disk.initializeParams.diskName:
            return f"{base}.disks[{position}].initializeParams.diskName", "The name of a disk"
    return None


def _checked(
    scope: Scope, zone: Zone, properties: pb.InstanceProperties, name: str, host: str, group: str = ""
) -> Callable[[], Message]:
    """What submits the insert of one of them. Raises what the insert would, with the path of this request."""
    instance = pb.Instance(name=name, hostname=host)
    for field, value in properties.ListFields():
        own = getattr(instance, field.name)
        if field.is_repeated:
            own.MergeFrom(value)
        elif field.message_type is not None:
            own.CopyFrom(value)
        else:
            setattr(instance, field.name, value)
    try:
        return prepare(scope, zone, instance, group)
    except ApiError as error:
        here = "resource.instanceProperties."
        message = error.message.replace("'resource.", f"'{here}")
        location = error.location.replace("resource.", here, 1)
        raise ApiError(error.code, message, error.reason, location, error.retry_after) from None


# The operation


@handler("instances.bulkInsert")
def do_bulk_insert(run: Run) -> None:
    payload = run.payload
    begun = run.look("begin", lambda scope: [_begin(run, scope, name) for name in payload["names"]])
    made, failed = _ended(run, begun)
    if len(made) < payload["least"]:
        undone = run.look("remove", lambda scope: [_remove(run, scope, one) for one in made])
        _, left = _ended(run, undone)
        for one, _ in left:
            run.warn("CLEANUP_FAILED", f"The instance '{one}' could not be taken away again.")
        _, error = failed[0]
        raise OperationError(error["code"], error["message"], error["status"])
    for name, error in failed:
        run.warn("PARTIAL_SUCCESS", f"The instance '{name}' could not be created: {error['message']}")


def _begin(run: Run, scope: Scope, name: str) -> dict[str, Any]:
    """The insert of one of them, {"name", "operation"}, or {"name", "error"} for what is refused at once."""
    own, there = _own_request(run, scope, f"insert/{name}")
    if there:
        return {"name": name, "operation": there}
    zone = places.resolve_zone(scope, run.payload["zone"])
    properties = pb.InstanceProperties.FromString(bytes.fromhex(run.payload["properties"]))
    host, group = run.payload["hosts"].get(name, ""), run.payload["group"]
    try:
        try:
            operation: Any = _checked(own, zone, properties, name, host, group)()
        except CloudStackError as error:
            if error.code in TRY_LATER:
                raise
            raise to_api_error(error) from None
    except ApiError as error:
        if error.code == 429:
            raise Parked("too many operations", 5.0) from None
        return {"name": name, "error": engine.describe(error)}
    return {"name": name, "operation": operation.name}


def _own_request(run: Run, scope: Scope, what: str) -> tuple[Scope, str]:
    """(scope of a request that is this operation's, the operation that it began before or "")."""
    identity = f"{TRANSPORT}{run.job_id(what)}"
    row = scope.store.operation_by_request(scope.project.key, identity)
    return replace(scope, request_id=identity, request_hash=""), str(row["name"]) if row else ""


def _ended(run: Run, begun: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[tuple[str, dict[str, Any]]]]:
    """(what has succeeded, name and error of what has not), when all of it has ended; until then it is parked."""
    made, failed = [], []
    for one in begun:
        error = one.get("error")
        if error is None:
            row = run.scope.store.operation_by_name(one["operation"])
            # One that is not there any more was deleted, as only what has ended can be.
            if row is not None and row["status"] != "DONE":
                raise Parked("its operations are under way", _PAUSE + _MORE * len(begun))
            error = row["error"] if row is not None else None
        if error:
            failed.append((one["name"], error))
        else:
            made.append(one)
    return made, failed


def _remove(run: Run, scope: Scope, one: dict[str, Any]) -> dict[str, Any]:
    """The delete of one that was made."""
    name = one["name"]
    own, there = _own_request(run, scope, f"delete/{name}")
    if there:
        return {"name": name, "operation": there}
    zone = places.resolve_zone(scope, run.payload["zone"])
    payload = {"id": None, "zone": zone.name, "name": name, AWAITED: one["operation"], "whole": True}
    operation = engine.submit(
        own,
        type="delete",
        target=path(zone, name),
        handler="instances.delete",
        payload=payload,
        group=run.payload["group"],
    )
    return {"name": name, "operation": operation.name}
