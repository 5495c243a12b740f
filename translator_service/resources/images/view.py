"""Templates of CloudStack as images of GCE."""

from __future__ import annotations

from typing import Any

from gstack.compute.v1 import images_pb2 as pb
from translator_service.cloudstack.rows import Row
from translator_service.gce.labels import label_fingerprint
from translator_service.gce.naming import number
from translator_service.gce.times import from_cloudstack
from translator_service.kept import fields, tags
from translator_service.resources.images.families import family_of
from translator_service.resources.images.templates import about, architecture, is_trusted, state_of
from translator_service.scope import Scope

_GIB = 1 << 30
# What an insert may say that is only kept, in the tags of the template.
_KEPT = fields.names(pb.Image.DESCRIPTOR) - {"labels", "family"}
# What an image was made of: paths as `projects/p/zones/z/disks/d`, and their ids.
SOURCES = ("sourceDisk", "sourceSnapshot", "sourceImage")


def status(row: Row) -> str:
    if row.get("isready"):
        return "READY"
    text = str(row.get("status", "")).lower()
    words = ("fail", "error", "not able", "unable", "http server returned", "abandoned")
    return "FAILED" if any(word in text for word in words) else "PENDING"


def to_image(scope: Scope, name: str, row: Row) -> pb.Image:
    """A row of listTemplates."""
    kept = about(row)
    image = pb.Image(
        kind="compute#image",
        id=number(row["id"]),
        creationTimestamp=from_cloudstack(row.get("created", "")),
        name=name,
        sourceType="RAW",
        rawDisk=pb.Image.RawDisk(containerType="TAR", source=""),
        status=status(row),
        archiveSizeBytes=int(row.get("physicalsize") or row.get("size") or 0),
        diskSizeGb=max(-(-int(row.get("size") or 0) // _GIB), 1),
        selfLink=scope.links.of("global", "images", name),
        labels=tags.labels(row),
        architecture=architecture(row),
    )
    image.labelFingerprint = label_fingerprint(image.labels)
    fields.put(image, kept, _KEPT)
    if family := family_of(scope, row):
        image.family = family
    if description := _description(row, kept):
        image.description = description
    for field in SOURCES:
        _put_source(scope, image, kept, field)
    if state_of(row) != "ACTIVE" or kept.get("deprecated"):
        fields.put(image, kept, {"deprecated"})
    return image


def _put_source(scope: Scope, image: pb.Image, kept: dict[str, Any], field: str) -> None:
    path, identity = kept.get(field), kept.get(f"{field}Id")
    if isinstance(path, str) and path:
        setattr(image, field, f"{scope.links.base}/{path}")
    if isinstance(identity, str) and identity:
        setattr(image, f"{field}Id", identity)


def _description(row: Row, kept: dict[str, Any]) -> str:
    """With the account that shares it, for what neither the caller nor the operator made."""
    found = kept.get("description", "") if kept else row.get("displaytext") or row["name"]
    text = str(found)
    return text if is_trusted(row) else f"{text} (of {row.get('account') or row.get('project') or 'another account'})"
