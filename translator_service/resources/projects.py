"""Projects: the caller's account, or a CloudStack project. Limits are CloudStack's, common metadata is in our store."""

from __future__ import annotations

import math
import re
from typing import Any

from google.protobuf.message import Message

from gstack.compute.v1 import common_pb2
from gstack.compute.v1 import projects_pb2 as pb
from gstack.kernel.accounts import default_service_account
from gstack.kernel.errors import ApiError, invalid
from translator_service.cloudstack.catalog import Entry, Kind
from translator_service.cloudstack.client import Answer
from translator_service.cloudstack.rows import Row
from translator_service.gce.fingerprints import check, fingerprint
from translator_service.gce.times import from_cloudstack
from translator_service.kept import details as kept
from translator_service.operations import engine
from translator_service.rpc import rpc
from translator_service.scope import Scope

_DOCUMENT = "project-metadata"
_KEY = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_MAX_VALUE = 256 * 1024
_MAX_TOTAL = 512 * 1024
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


def _stored(scope: Scope) -> tuple[dict[str, str], bytes | None]:
    raw = scope.store.document(scope.project.key, _DOCUMENT, "")
    return (kept.decode(raw.decode(), {}) if raw else {}), raw


def _metadata_fingerprint(items: dict[str, str]) -> bytes:
    return fingerprint("metadata", *(part for pair in sorted(items.items()) for part in pair))


def common_metadata(scope: Scope) -> common_pb2.Metadata:
    """What all instances of the project see."""
    items, _ = _stored(scope)
    metadata = common_pb2.Metadata(kind="compute#metadata", fingerprint=_metadata_fingerprint(items))
    for key, value in items.items():
        metadata.items.add(key=key, value=value)
    return metadata


def check_metadata(metadata: common_pb2.Metadata, field: str) -> dict[str, str]:
    """The items of a request. Raises 400 for a bad or repeated key, and for too much."""
    found: dict[str, str] = {}
    for position, item in enumerate(metadata.items):
        place = f"{field}.items[{position}]"
        if not _KEY.fullmatch(item.key):
            raise invalid(f"{place}.key", f"'{item.key}'. Metadata keys must be a match of regex '{_KEY.pattern}'")
        if item.key in found:
            raise invalid(f"{place}.key", f"'{item.key}'. Metadata has duplicate key: {item.key}")
        if len(item.value.encode()) > _MAX_VALUE:
            raise invalid(f"{place}.value", f"'{item.key}'. Metadata values may have at most {_MAX_VALUE} bytes.")
        found[item.key] = item.value
    if sum(len(key.encode()) + len(value.encode()) for key, value in found.items()) > _MAX_TOTAL:
        raise invalid(f"{field}.items", f"Metadata may have at most {_MAX_TOTAL} bytes in total.")
    return found


@rpc(
    "Projects.Get",
    calls=("listAccounts", "listProjects"),
    differences="Unlimited quotas are shown as 1000000. There is no default service account.",
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
    differences="Seen by instances that are made afterwards, and by others when their own metadata is set.",
)
def set_common_instance_metadata(scope: Scope, request: pb.SetCommonInstanceMetadataRequest) -> Message:
    items = check_metadata(request.resource, "resource")
    current, raw = _stored(scope)
    check(request.resource.fingerprint, _metadata_fingerprint(current))
    content = kept.encode(items).encode()
    if content != raw and not scope.store.put_document(scope.project.key, _DOCUMENT, "", content, expected=raw):
        text = "Supplied fingerprint does not match current metadata fingerprint."
        raise ApiError(412, text, "conditionNotMet")
    return engine.finished(scope, type="setMetadata", target="", target_id=scope.project.number)
