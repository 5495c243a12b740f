"""The security groups that are ours: their names, how they are made, and how they go."""

from __future__ import annotations

import re

import structlog

from translator_service.cloudstack.client import all_rows
from translator_service.cloudstack.errors import CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.networking import claims
from translator_service.operations.run import Run
from translator_service.scope import Scope

log = structlog.get_logger()
# Groups of instances that are gone, cleared at a time.
_LEFTOVERS = 16
_INSTANCE_GROUP = "gce-vm-"
# How the description of an instance's group ends.
_OPERATION = re.compile(r"\((operation-[0-9a-f-]+)\)$")


def network_group(network: str) -> str:
    return f"gce-{network}"


def instance_group(run: Run, name: str) -> str:
    """The name of the group that an operation makes for its new instance, and that no other can have."""
    return f"{_INSTANCE_GROUP}{name}.{run.job_id('group')[-12:]}"


def is_ours(group: str) -> bool:
    return group.lower().startswith("gce-")


def is_instance_group(name: str) -> bool:
    return name.lower().startswith(_INSTANCE_GROUP)


def same_name(row: Row, name: str) -> bool:
    """CloudStack ignores case in names of groups (recordings, Surprises 58)."""
    return str(row["name"]).lower() == name.lower()


def make_group(scope: Scope, name: str, description: str) -> Row:
    """The row of a new group; somebody else, or an earlier try, may have made it already."""
    try:
        return scope.client.write("createSecurityGroup", name=name, description=description).one()
    except CloudStackError as error:
        if error.code != 431:
            raise
        rows = scope.client.read("listSecurityGroups", securitygroupname=name).items
        if not rows:
            raise
        return rows[0]


# For instances


def delete_group(scope: Scope, group: str) -> None:
    """Unless it is gone, or in use."""
    try:
        scope.client.write("deleteSecurityGroup", id=group)
    except CloudStackError as error:
        if error.code not in (431, 536):
            raise
        if error.code == 536:
            return
    claims.forget(scope, group)


def clear_leftovers(scope: Scope, tried: set[str]) -> None:
    """Delete some groups of instances that are gone: deleted in CloudStack, or expunged since gstack deleted them."""
    try:
        rows = all_rows(scope.client.read_all("listSecurityGroups", keyword=_INSTANCE_GROUP))
        unused = [row for row in rows if row["id"] not in tried and is_instance_group(row["name"])]
        unused = [row for row in unused if not row.get("virtualmachinecount") and not row.get("virtualmachineids")]
        for row in [row for row in unused if not _is_awaited(scope, row)][:_LEFTOVERS]:
            delete_group(scope, row["id"])
    except CloudStackError as error:
        log.warning("groups_not_cleared", error=str(error))


def _is_awaited(scope: Scope, group: Row) -> bool:
    """Whether an operation is about to put an instance into the group."""
    if match := _OPERATION.search(group.get("description", "")):
        row = scope.store.operation(scope.project.key, match[1])
        return row is not None and row["status"] != "DONE"
    # Made before there were suffixes.
    name = group["name"][len(_INSTANCE_GROUP) :].partition(".")[0]
    return any(target.endswith(f"/instances/{name}") for target, _ in scope.store.running(scope.project.key))
