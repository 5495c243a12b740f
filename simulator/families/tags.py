"""createTags, deleteTags, listTags, and the tag filter of the other families' lists.

`row.tags` holds what the lists of the row's own kind show under `tags`: the short form for networks, addresses and
rules, the long one elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from simulator import errors
from simulator import world as w
from simulator.commands import Call, Listing, command
from simulator.errors import ApiError
from simulator.world import Account, Row

R = TypeVar("R", bound=Row)

KINDS: dict[str, type[Row]] = {
    "UserVm": w.VirtualMachine,
    "Volume": w.Volume,
    "Snapshot": w.Snapshot,
    "Network": w.Network,
    "Template": w.Template,
    "PublicIpAddress": w.PublicAddress,
    "SecurityGroup": w.SecurityGroup,
    "FirewallRule": w.FirewallRule,
    "Project": w.Project,
}
_SHORT = ("Network", "PublicIpAddress", "FirewallRule")
# Resource types that CloudStack knows, of which the simulator holds none, or which cannot carry tags.
_WITHOUT_ROWS = (
    "ISO", "LoadBalancer", "PortForwardingRule", "SecurityGroupRule", "Vpc", "NetworkACL", "NetworkACLList",
    "StaticRoute", "VMSnapshot", "RemoteAccessVpn", "Zone", "ServiceOffering", "Storage", "VpnGateway",
    "CustomerGateway", "AutoScaleVmGroup", "LBStickinessPolicy", "LBHealthCheckPolicy", "SnapshotPolicy", "User",
    "UserData", "DiskOffering", "NetworkOffering",
)  # fmt: skip
_WITHOUT_TAGS = ("Nic",)
_MAX_LENGTH = 255  # the column's; longer keys and values are cut without a word


def owner_of(row: Row) -> Account | None:
    """The account a tag on this row belongs to."""
    owner: Account | None = getattr(row, "account", None)
    return owner


def owner_keys(owner: Account) -> dict[str, Any]:
    """`account`, or `projectid` and `project` for a project's things, with the domain."""
    keys: dict[str, Any] = (
        {"projectid": owner.project.id, "project": owner.project.name} if owner.project else {"account": owner.name}
    )
    return keys | {"domainid": owner.domain.id, "domain": owner.domain.name}


def filter_rows(call: Call, rows: Iterable[R]) -> list[R]:
    """The rows that carry one of the tags asked for with `tags[i].key` and `tags[i].value`, ignoring case."""
    wanted = set()
    for entry in call.entries("tags"):
        if "value" not in entry:
            raise errors.invalid(f"No value is passed in for key {entry.get('key')}")
        wanted.add((entry.get("key", "").lower(), entry["value"].lower()))
    if not wanted:
        return list(rows)
    return [row for row in rows if any((tag["key"].lower(), tag["value"].lower()) in wanted for tag in row.tags)]


def _resources(call: Call, kind: str) -> list[Row]:
    if kind in _WITHOUT_TAGS:
        raise errors.invalid(f"The resource type {kind} doesn't support resource tags")
    if kind not in KINDS and kind not in _WITHOUT_ROWS:
        raise errors.invalid(f"Invalid resource type {kind}")
    found = []
    for identity in call.items("resourceids"):
        row = call.world.find(KINDS[kind], identity) if kind in KINDS else None
        if row is None or row.removed:
            raise errors.invalid(f"Unable to find resource by uuid {identity} and type {kind}")
        owner = owner_of(row)
        if (owner is None and not call.is_admin) or not call.may_use(owner):
            # Found out inside the job, where a missing permission is 530 (recordings, Surprises 7).
            raise errors.internal("Caller does not have permission to operate with provided resource.")
        found.append(row)
    return found


def _resource_type(call: Call) -> str:
    """The type as CloudStack spells it; it takes any case."""
    given = call.text("resourcetype")
    known = (*KINDS, *_WITHOUT_ROWS, *_WITHOUT_TAGS)
    return next((kind for kind in known if kind.lower() == given.lower()), given)


@command("createTags")
def create_tags(call: Call) -> dict[str, Any]:
    kind, entries = _resource_type(call), call.entries("tags")

    def create() -> dict[str, Any]:
        rows = _resources(call, kind)
        new: dict[str, str] = {}
        for entry in entries:
            key, value = entry.get("key", "")[:_MAX_LENGTH], entry.get("value")
            if value is None:
                raise ApiError(530, "Command failed due to Internal Server Error")
            if not value:
                raise errors.invalid(f"Value for the key {key} is either null or empty")
            if any(ord(character) > 0xFFFF for character in key + value):
                raise errors.internal("Unable to persist on DB, due to: Data truncation: Incorrect string value")
            new[key] = value[:_MAX_LENGTH]
        for row in rows:
            for key in new:
                if any(tag["key"].lower() == key.lower() for tag in row.tags):
                    raise errors.internal(f"tag {key} already on {kind} with id {row.id}")
        for row in rows:
            add(row, kind, new)
        return {"success": True}

    return call.job(create)


def add(row: Row, kind: str, new: dict[str, str]) -> None:
    """Tags of a row, for commands that take them with what they make, too; too long ones are cut without a word."""
    row.tags += [_render(row, kind, key[:_MAX_LENGTH], value[:_MAX_LENGTH]) for key, value in new.items()]


def _render(row: Row, kind: str, key: str, value: str) -> dict[str, Any]:
    tag: dict[str, Any] = {"key": key, "value": value}
    owner = owner_of(row)
    if kind not in _SHORT and owner is not None:
        tag |= {"resourcetype": kind, "resourceid": row.id} | owner_keys(owner)
        if kind in ("Project", "SecurityGroup"):
            tag["domainpath"] = owner.domain.path
    return tag


@command("deleteTags")
def delete_tags(call: Call) -> dict[str, Any]:
    kind, entries = _resource_type(call), call.entries("tags")

    def matches(tag: dict[str, Any]) -> bool:
        return not entries or any(
            tag["key"].lower() == entry.get("key", "").lower()
            and ("value" not in entry or tag["value"].lower() == entry["value"].lower())
            for entry in entries
        )

    def delete() -> dict[str, Any]:
        rows = _resources(call, kind)
        kept = {row: [tag for tag in row.tags if not matches(tag)] for row in rows}
        if all(len(tags) == len(row.tags) for row, tags in kept.items()):
            raise errors.internal("Failed to delete tags")
        for row, tags in kept.items():
            row.tags[:] = tags  # answers already rendered hold this list
        return {"success": True}

    return call.job(delete)


@command("listTags")
def list_tags(call: Call) -> Listing:
    owners = call.owners()
    wanted_kind = _resource_type(call) if "resourcetype" in call.parameters else None
    key, value, resource = (call.parameters.get(name) for name in ("key", "value", "resourceid"))
    items = []
    for kind, rows_kind in KINDS.items():
        if wanted_kind not in (None, kind):
            continue
        for row in call.world.all(rows_kind):
            owner = owner_of(row) if row.tags else None
            if owner not in owners or owner is None or (resource and row.id != resource.lower()):
                continue
            for tag in row.tags:
                if key is not None and tag["key"].lower() != key.lower():
                    continue
                if value is not None and tag["value"].lower() != value.lower():
                    continue
                shown = {"key": tag["key"], "value": tag["value"], "resourcetype": kind, "resourceid": row.id}
                items.append(shown | owner_keys(owner) | {"domainpath": owner.domain.path})
    return Listing(items)
