"""What became of a job that ended without a result: told by what it was to change.

A management server that restarts ends its jobs as failed, without a result, whatever they had done by then; the result
of others cannot be read (recordings, Surprises 4). Each function here looks at the thing itself and says one of

    Done      it is as the job was to make it
    Again     it is not, and to do it (once more, or what is left of it) is safe
    None      it is on its way; ask again later

or raises CloudStackError where it failed for good. A command without a function here has failed: its caller plans anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from translator_service.cloudstack.client import Client
from translator_service.cloudstack.errors import CloudStackError
from translator_service.cloudstack.rows import Row

_GONE = ("Destroyed", "Expunging")


@dataclass(frozen=True)
class Done:
    """result: as `jobresult` would have been."""

    result: Row = field(default_factory=dict)


@dataclass(frozen=True)
class Again:
    command: str
    parameters: dict[str, str]


Outcome = Done | Again | None
Look = Callable[[Client, dict[str, str], str | None], Outcome]


def outcome(client: Client, command: str, parameters: dict[str, str], entity: str | None) -> Outcome:
    """entity: id of a create command's new entity, None when it is not known."""
    look = _LOOKS.get(command)
    if look is None:
        raise without_result(command, entity)
    return look(client, parameters, entity)


def without_result(command: str, entity: str | None) -> CloudStackError:
    error = CloudStackError(530, f"the job of {command} ended without a result")
    error.entity = entity
    return error


def _rows(client: Client, command: str, **parameters: str) -> list[Row]:
    """The rows of a list; none for an id that CloudStack does not know any more (431)."""
    try:
        return client.read(command, **parameters).items
    except CloudStackError as error:
        if error.code != 431:
            raise
        return []


def _deployed(client: Client, parameters: dict[str, str], entity: str | None) -> Outcome:
    if entity:
        rows = _rows(client, "listVirtualMachines", id=entity)
    else:
        # The name alone may be another machine's; ours has the details that came with it.
        details = {key[11:]: value for key, value in parameters.items() if key.startswith("details[0].")}
        found = _rows(client, "listVirtualMachines", name=parameters["name"], zoneid=parameters["zoneid"])
        rows = [row for row in found if row["name"] == parameters["name"] and _has(row.get("details") or {}, details)]
    if not rows:
        return Again("deployVirtualMachine", parameters)
    machine, state = rows[0], rows[0].get("state")
    if state == "Running" or (state == "Stopped" and parameters.get("startvm") == "false"):
        return Done({"id": machine["id"], "virtualmachine": machine})
    if state == "Stopped":
        return Again("startVirtualMachine", {"id": machine["id"]})
    if state in (*_GONE, "Error"):
        raise without_result("deployVirtualMachine", machine["id"])
    return None


def _has(details: Row, wanted: dict[str, str]) -> bool:
    return all(details.get(key) == value for key, value in wanted.items() if key.startswith("gce."))


def _power(command: str, wanted: str, before: str) -> Look:
    def look(client: Client, parameters: dict[str, str], entity: str | None) -> Outcome:
        rows = _rows(client, "listVirtualMachines", id=parameters["id"])
        state = rows[0].get("state") if rows else "Destroyed"
        if state == wanted:
            return Done({"virtualmachine": rows[0]})
        if state == before:
            return Again(command, parameters)
        if state in (*_GONE, "Error"):
            raise without_result(command, None)
        return None

    return look


def _rebooted(client: Client, parameters: dict[str, str], entity: str | None) -> Outcome:
    """Nothing tells whether it was; a second reboot does what the first was asked for."""
    return Again("rebootVirtualMachine", parameters)


def _destroyed(client: Client, parameters: dict[str, str], entity: str | None) -> Outcome:
    """Users do not see what is destroyed (recordings, Surprises 19)."""
    rows = _rows(client, "listVirtualMachines", id=parameters["id"])
    if not rows or rows[0].get("state") in _GONE:
        return Done()
    return None if rows[0].get("state") == "Stopping" else Again("destroyVirtualMachine", parameters)


def _associated(client: Client, parameters: dict[str, str], entity: str | None) -> Outcome:
    """One that stays in Allocating is lost: the caller is told which, and gives it back.

    Without its id nothing tells that an address is this one: the job has to say it, later.
    """
    if entity is None:
        return None
    if _rows(client, "listPublicIpAddresses", id=entity):
        return Done({"id": entity})
    raise without_result("associateIpAddress", entity)


def _disassociated(client: Client, parameters: dict[str, str], entity: str | None) -> Outcome:
    there = _rows(client, "listPublicIpAddresses", id=parameters["id"])
    return Again("disassociateIpAddress", parameters) if there else Done()


def _tagged(client: Client, parameters: dict[str, str], entity: str | None) -> Outcome:
    """createTags is all or nothing (recordings, Surprises 48), so the first key tells of all."""
    what = {"resourcetype": parameters["resourcetype"], "key": parameters["tags[0].key"]}
    there = [_rows(client, "listTags", resourceid=one, **what) for one in parameters["resourceids"].split(",")]
    return Done() if all(there) else Again("createTags", parameters)


def _created_volume(client: Client, parameters: dict[str, str], entity: str | None) -> Outcome:
    """A blank one is there from its submit on, one from a snapshot when it is copied: nobody copies on when the job is
    over. Without its id nothing tells that a volume is this one."""
    rows = _rows(client, "listVolumes", id=entity) if entity else []
    if not rows:
        raise without_result("createVolume", entity)
    if rows[0].get("state") == "Ready" or (rows[0].get("state") == "Allocated" and "snapshotid" not in parameters):
        return Done({"id": entity, "volume": rows[0]})
    raise without_result("createVolume", entity)


def _attached(client: Client, parameters: dict[str, str], entity: str | None) -> Outcome:
    rows = _rows(client, "listVolumes", id=parameters["id"])
    if not rows or rows[0].get("virtualmachineid", parameters["virtualmachineid"]) != parameters["virtualmachineid"]:
        raise without_result("attachVolume", None)
    if rows[0].get("state") == "Attaching":
        return None
    return Done({"volume": rows[0]}) if rows[0].get("virtualmachineid") else Again("attachVolume", parameters)


def _detached(client: Client, parameters: dict[str, str], entity: str | None) -> Outcome:
    rows = _rows(client, "listVolumes", id=parameters["id"])
    if rows and not rows[0].get("virtualmachineid"):
        return Done({"volume": rows[0]})
    return Again("detachVolume", parameters)


def _snapshotted(client: Client, parameters: dict[str, str], entity: str | None) -> Outcome:
    """One that was only written down comes to nothing when its job is over."""
    # Its name alone is another one's too; of the same disk there is none.
    known = {"id": entity} if entity else {"name": parameters["name"], "volumeid": parameters["volumeid"]}
    rows = _rows(client, "listSnapshots", showunique="true", **known)
    if not rows:
        return Again("createSnapshot", parameters)
    state, identity = rows[0].get("state"), rows[0]["id"]
    if state == "BackedUp":
        return Done({"id": identity, "snapshot": rows[0]})
    if state in ("Allocated", "Error", "Destroying", "Destroyed"):
        raise without_result("createSnapshot", identity)
    return None


def _snapshot_deleted(client: Client, parameters: dict[str, str], entity: str | None) -> Outcome:
    rows = _rows(client, "listSnapshots", showunique="true", id=parameters["id"])
    if not rows or rows[0].get("state") == "Destroyed":
        return Done()
    return None if rows[0].get("state") == "Destroying" else Again("deleteSnapshot", parameters)


def _resized(client: Client, parameters: dict[str, str], entity: str | None) -> Outcome:
    rows = _rows(client, "listVolumes", id=parameters["id"])
    if not rows:
        raise without_result("resizeVolume", None)
    if int(rows[0].get("size") or 0) >= int(parameters["size"]) << 30:
        return Done({"volume": rows[0]})
    return None if rows[0].get("state") == "Resizing" else Again("resizeVolume", parameters)


def _untagged(client: Client, parameters: dict[str, str], entity: str | None) -> Outcome:
    """As createTags: the first key tells of all."""
    what = {"resourcetype": parameters["resourcetype"], "key": parameters["tags[0].key"]}
    there = [_rows(client, "listTags", resourceid=one, **what) for one in parameters["resourceids"].split(",")]
    return Again("deleteTags", parameters) if any(there) else Done()


def _template_created(client: Client, parameters: dict[str, str], entity: str | None) -> Outcome:
    """One that is not ready comes to nothing when its job is over."""
    known = {"id": entity} if entity else {"name": parameters["name"]}
    rows = _rows(client, "listTemplates", templatefilter="self", **known)
    if not rows:
        return Again("createTemplate", parameters)
    if rows[0].get("isready"):
        return Done({"id": rows[0]["id"], "template": rows[0]})
    raise without_result("createTemplate", rows[0]["id"])


def _template_deleted(client: Client, parameters: dict[str, str], entity: str | None) -> Outcome:
    rows = _rows(client, "listTemplates", templatefilter="self", id=parameters["id"])
    return Again("deleteTemplate", parameters) if rows else Done()


_LOOKS: dict[str, Look] = {
    "deployVirtualMachine": _deployed,
    "startVirtualMachine": _power("startVirtualMachine", "Running", "Stopped"),
    "stopVirtualMachine": _power("stopVirtualMachine", "Stopped", "Running"),
    "rebootVirtualMachine": _rebooted,
    "destroyVirtualMachine": _destroyed,
    "associateIpAddress": _associated,
    "disassociateIpAddress": _disassociated,
    "createTags": _tagged,
    "deleteTags": _untagged,
    "resizeVolume": _resized,
    "createVolume": _created_volume,
    "attachVolume": _attached,
    "detachVolume": _detached,
    "createSnapshot": _snapshotted,
    "deleteSnapshot": _snapshot_deleted,
    "createTemplate": _template_created,
    "deleteTemplate": _template_deleted,
}
