"""Projects: the caller's account, or a CloudStack project. Limits are CloudStack's."""

from __future__ import annotations

import math
import time
from typing import Any

from google.protobuf.message import Message

from gstack.compute.v1 import common_pb2
from gstack.compute.v1 import projects_pb2 as pb
from gstack.kernel.accounts import default_service_account
from gstack.kernel.errors import ApiError, invalid
from translator_service.cloudstack.catalog import Entry, Kind
from translator_service.cloudstack.client import Answer, all_rows
from translator_service.cloudstack.rows import Row
from translator_service.gce.fingerprints import check
from translator_service.gce.times import from_cloudstack
from translator_service.kept import userdata
from translator_service.operations import engine
from translator_service.operations.run import Run, handler
from translator_service.resources.common_metadata import (
    check_metadata,
    common_metadata,
    items_of,
    metadata_fingerprint,
    store,
    stored,
)
from translator_service.resources.instances import guests
from translator_service.resources.instances.metadata import metadata_items
from translator_service.resources.instances.view import DETAILS, HIDDEN
from translator_service.rpc import rpc
from translator_service.scope import Scope

# CloudStack says "Unlimited"; GCE always has a number.
_UNLIMITED = 1_000_000.0

# GCE's metric -> CloudStack's name of the limit, and what one of its units is in GCE's.
_METRICS = (
    ("SNAPSHOTS", "snapshot", 1.0),
    ("NETWORKS", "network", 1.0),
    ("IMAGES", "template", 1.0),
    ("INSTANCES", "vm", 1.0),
    ("CPUS", "cpu", 1.0),
    ("DISKS_TOTAL_GB", "primarystorage", 1.0),
    ("STATIC_ADDRESSES", "ip", 1.0),
    ("IN_USE_ADDRESSES", "ip", 1.0),
)


def _kind(scope: Scope) -> Kind:
    """The row with the limits: of the account or of the CloudStack project. Usage may be some seconds old."""
    if scope.project.id is None:
        return Kind(
            "limits",
            10.0,
            lambda client: [client.read("listAccounts", name=scope.caller.account_name)],
            scope.environment.index,
        )
    identity = scope.project.id
    return Kind(
        "limits",
        10.0,
        lambda client: [client.read("listProjects", id=identity)],
        scope.environment.index,
    )


def _row(scope: Scope) -> Row:
    rows = [row for _, row in scope.catalog(_kind(scope)).index]
    # Accounts of several domains may share a name; an administrator sees them all.
    own = [row for row in rows if row["id"] in (scope.project.id, scope.caller.account_id)]
    return next(iter(own or rows), {})


def quotas(scope: Scope) -> list[common_pb2.Quota]:
    """Limits and usage of the project."""
    row = _row(scope)
    found = [
        common_pb2.Quota(
            metric=metric,
            limit=_number(row.get(f"{name}limit")) * unit,
            usage=_number(row.get(f"{name}total", 0)) * unit,
        )
        for metric, name, unit in _METRICS
    ]
    found.append(
        common_pb2.Quota(metric="FIREWALLS", limit=_UNLIMITED, usage=len(scope.store.list_firewalls(scope.project.key)))
    )
    return found


def _number(text: Any) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return _UNLIMITED
    return value if 0 <= value < math.inf else _UNLIMITED


# Metadata


@rpc(
    "Projects.Get",
    calls=("listAccounts", "listProjects"),
    differences="Unlimited quotas are shown as 1000000.",
)
def get(scope: Scope, request: pb.GetProjectRequest) -> Any:
    metadata, firewalls = common_metadata(scope), len(scope.store.list_firewalls(scope.project.key))
    sources: list[Answer | Entry] = [scope.catalog(_kind(scope))]
    extra = (scope.project.name, firewalls, metadata.SerializeToString(deterministic=True))
    return scope.reply(sources, request, lambda: to_project(scope, _row(scope), metadata), *extra)


def to_project(scope: Scope, row: Row, metadata: common_pb2.Metadata) -> pb.Project:
    """A row of listAccounts or listProjects."""
    return pb.Project(
        kind="compute#project",
        id=scope.project.number,
        creationTimestamp=from_cloudstack(row.get("created", "")),
        name=scope.project.name,
        description=row.get("displaytext", ""),
        commonInstanceMetadata=metadata,
        quotas=quotas(scope),
        selfLink=scope.links.of(),
        defaultNetworkTier="PREMIUM",
        defaultServiceAccount=default_service_account(scope.project.number),
        xpnProjectStatus="UNSPECIFIED_XPN_PROJECT_STATUS",
    )


@rpc(
    "Projects.SetCommonInstanceMetadata",
    calls=("listVirtualMachines", "updateVirtualMachine"),
    differences="Keys reach guests that run within a minute or so, scripts at their next boot (see guests.md). What "
    "would leave no room in the user data of an instance is refused.",
)
def set_common_instance_metadata(scope: Scope, request: pb.SetCommonInstanceMetadataRequest) -> Message:
    items = check_metadata(request.resource, "resource")
    raw = stored(scope)
    current = items_of(raw)
    check(request.resource.fingerprint, metadata_fingerprint(current))
    _check_room(scope, items, current)
    if not store(scope, items, expected=raw):
        text = "Supplied fingerprint does not match current metadata fingerprint."
        raise ApiError(412, text, "conditionNotMet")
    number = scope.project.number
    if userdata.for_guests(items) == userdata.for_guests(current):
        return engine.finished(scope, type="setMetadata", target="", target_id=number)
    try:
        return engine.submit(
            scope, type="setMetadata", target="", target_id=number, handler="projects.metadata", payload={}
        )
    except ApiError:
        store(scope, current, expected=stored(scope))
        raise


@handler("projects.metadata")
def do_set_common_instance_metadata(run: Run) -> None:
    """The metadata is set. What it is now is for the guests, whatever it was when this was submitted."""
    guests.refresh(run)


def _check_room(scope: Scope, items: dict[str, str], current: dict[str, str]) -> None:
    """Raises 400 for metadata with which no instance could be made, or the metadata of one that is there be set."""
    settings, now = scope.environment.settings, time.time()
    limit = settings.cloudstack_user_data
    userdata.check_common(items, limit=limit, now=now, field="resource")
    if not userdata.has_effect(items, now):
        return
    for row in all_rows(scope.client.read_all("listVirtualMachines", details=DETAILS)):
        own = metadata_items(scope, row)
        if row["state"] in HIDDEN or not userdata.has_effect(own, now):
            continue
        refusal = userdata.refusal(own, items, limit=limit, now=now)
        # One that could not be set before either is no reason.
        if refusal and not userdata.refusal(own, current, limit=limit, now=now):
            raise invalid("resource.items", f"The instance '{row['name']}' would have no room for it. {refusal}")
