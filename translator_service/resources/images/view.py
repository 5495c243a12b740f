"""Templates of CloudStack as images of GCE."""

from __future__ import annotations

from gstack.compute.v1 import images_pb2 as pb
from translator_service.cloudstack.rows import Row
from translator_service.gce.fingerprints import fingerprint
from translator_service.gce.naming import number
from translator_service.gce.times import from_cloudstack
from translator_service.resources.images.families import family_of
from translator_service.resources.images.templates import architecture, is_trusted
from translator_service.scope import Scope

_GIB = 1 << 30


def status(row: Row) -> str:
    if row.get("isready"):
        return "READY"
    text = str(row.get("status", "")).lower()
    return "FAILED" if any(word in text for word in ("fail", "error", "not able", "unable")) else "PENDING"


def to_image(scope: Scope, name: str, row: Row) -> pb.Image:
    """A row of listTemplates."""
    return pb.Image(
        kind="compute#image",
        id=number(row["id"]),
        creationTimestamp=from_cloudstack(row.get("created", "")),
        name=name,
        description=_description(row),
        sourceType="RAW",
        rawDisk=pb.Image.RawDisk(containerType="TAR", source=""),
        status=status(row),
        archiveSizeBytes=int(row.get("physicalsize") or row.get("size") or 0),
        diskSizeGb=max(-(-int(row.get("size") or 0) // _GIB), 1),
        family=family_of(scope, row),
        selfLink=scope.links.of("global", "images", name),
        labelFingerprint=fingerprint("labels"),
        architecture=architecture(row),
    )


def _description(row: Row) -> str:
    """With the account that shares it, for what neither the caller nor the operator made."""
    text = str(row.get("displaytext") or row["name"])
    return text if is_trusted(row) else f"{text} (of {row.get('account') or row.get('project') or 'another account'})"
