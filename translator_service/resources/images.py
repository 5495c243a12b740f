"""Images: CloudStack templates. Also the resolver of everything that clients write for an image.

Public image projects (`debian-cloud`) hold nothing to list unless the operator maps them, but `get`, `getFromFamily` and
references into them find a template that matches: the operator's, or the newest whose name has the words of what is asked.
"""

from __future__ import annotations

import re
from typing import Any

from google.protobuf.message import Message

from gstack.compute.v1 import images_pb2 as pb
from gstack.kernel.errors import ApiError, invalid, not_found
from translator_service import lists
from translator_service.catalog import Kind
from translator_service.fingerprints import fingerprint
from translator_service.links import Reference, parse
from translator_service.naming import Index, Row, number, slug
from translator_service.operations.render import from_cloudstack
from translator_service.resources.zones import Zone
from translator_service.rpc import rpc
from translator_service.scope import Scope

_GIB = 1 << 30
# A family in the view of one zone, as gcloud writes it.
_FAMILY = "imageFamilyViews"
_WORDS = re.compile(r"[a-z]+|\d+")
# What stands in names of Google's images and says nothing about the system.
_NOISE = {"cloud", "os", "v", "lts", "server", "gce", "amd64", "x86", "bit", "linux"}
_DATED = re.compile(r"-v\d{8}$")


def kind(scope: Scope) -> Kind:
    """Templates that the caller may deploy: own, public and shared ones."""

    def fetch(client: Any) -> list[Any]:
        calls = [
            ("listTemplates", {"templatefilter": chosen, "showunique": "true"})
            for chosen in ("executable", "sharedexecutable")
        ]
        return [answer for answers in client.read_all_many(calls) for answer in answers]

    def build(rows: list[Row]) -> Index:
        unique = {row["id"]: row for row in rows}
        return scope.environment.index(unique.values())

    return Kind("templates", 60.0, fetch, build)


def in_zone(row: Row, zone: Zone) -> bool:
    return bool(row.get("crossZones")) or row.get("zoneid") in (None, zone.id) or "zoneid" not in row


def link_of(scope: Scope, template_id: str, template_name: str) -> str:
    """Link of the image that a volume or a machine was made from; it may be deleted by now."""
    name = scope.catalog(kind(scope)).index.name(template_id) or scope.environment.name(template_name)
    return scope.links.of("global", "images", name)


def resolve(scope: Scope, text: str, zone: Zone, field: str) -> Row:
    """The template that a reference means, ready and usable in the zone. Raises 404, and 400 for one that is not."""
    reference = parse(text, field)
    row = _find(scope, reference)
    if not row.get("isready", False):
        raise ApiError(400, f"The resource '{_path(scope, reference)}' is not ready", "resourceNotReady", field)
    if not in_zone(row, zone):
        raise invalid(field, f"'{text}'. The image is not available in zone '{zone.name}'.")
    return row


def _path(scope: Scope, reference: Reference) -> str:
    project = reference.project or scope.project.name
    family = "family/" if reference.collection == _FAMILY else ""
    return f"projects/{project}/global/images/{family}{reference.name}"


def _find(scope: Scope, reference: Reference) -> Row:
    """Raises 404. A reference into another project than the caller's or a public one finds nothing."""
    public = reference.project if reference.project and scope.names.is_public(reference.project) else ""
    own = {
        scope.project.name,
        scope.links.project,
        str(scope.project.row.get("name", "")),
        str(scope.project.number),
        "",
    }
    if not public and reference.project not in own:
        raise not_found(_path(scope, reference))
    if reference.collection == _FAMILY:
        row = _of_family(scope, reference.name, public)
    else:
        row = scope.lookup(kind(scope), reference.name)
        if row is None and public:
            # A dated name of Google's (`debian-12-bookworm-v20260101`) stands for its system here.
            row = _of_family(scope, _DATED.sub("", reference.name), public)
    if row is None:
        raise not_found(_path(scope, reference))
    return row


def _of_family(scope: Scope, family: str, public: str) -> Row | None:
    """The newest ready template of a family: as the operator maps it, else by the words of its name."""
    rows = [row for _, row in scope.catalog(kind(scope)).index if row.get("isready")]
    if family in scope.names.families:
        pattern = re.compile(scope.names.families[family], re.IGNORECASE)
        found = [row for row in rows if pattern.fullmatch(row["name"]) or row["name"] == scope.names.families[family]]
    elif public and family not in scope.names.image_projects.get(public, [family]):
        found = []
    else:
        words = _words(family)
        system = _words(public)[:1]
        found = [
            row
            for row in rows
            if words and _has(row, [*system, *words] if system and system[0] not in words else words)
        ]
    # Of several sizes of one system the smallest, of those the newest.
    found.sort(key=lambda row: (-int(row.get("size") or 0), row.get("created", "")))
    return found[-1] if found else None


def _words(text: str) -> list[str]:
    """`ubuntu-1204-lts` -> ubuntu, 12, 04: names of systems write their versions with and without a dot."""
    found = []
    for word in _WORDS.findall(text.lower()):
        if word in _NOISE:
            continue
        found += [word[:2], word[2:]] if word.isdigit() and len(word) == 4 and not word.startswith("20") else [word]
    return found


def _has(row: Row, words: list[str]) -> bool:
    """Whether the template's name has all the words, in this order."""
    have = iter(_WORDS.findall(slug(row["name"])))
    return all(word in have for word in words)


def _families(scope: Scope, row: Row) -> str:
    return next(
        (
            family
            for family, pattern in scope.names.families.items()
            if pattern == row["name"] or re.fullmatch(pattern, row["name"], re.IGNORECASE)
        ),
        "",
    )


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
        description=row.get("displaytext") or row["name"],
        sourceType="RAW",
        rawDisk=pb.Image.RawDisk(containerType="TAR", source=""),
        status=status(row),
        archiveSizeBytes=int(row.get("physicalsize") or row.get("size") or 0),
        diskSizeGb=max(-(-int(row.get("size") or 0) // _GIB), 1),
        family=_families(scope, row),
        selfLink=scope.links.of("global", "images", name),
        labelFingerprint=fingerprint("labels"),
        architecture="ARM64" if row.get("arch") == "aarch64" else "X86_64",
    )


@rpc(
    "Images.Get",
    calls=("listTemplates",),
    differences="In a public image project, a template with the words of the name.",
    public_projects=True,
)
def get(scope: Scope, request: pb.GetImageRequest) -> Message:
    row = _find(scope, Reference(request.image, "images", "global", scope.public_project))
    return _answer(scope, row, request.image)


@rpc(
    "Images.GetFromFamily",
    calls=("listTemplates",),
    differences="Families are the operator's, or the words of template names.",
    public_projects=True,
)
def get_from_family(scope: Scope, request: pb.GetFromFamilyImageRequest) -> Message:
    row = _find(scope, Reference(request.family, _FAMILY, "global", scope.public_project))
    image = _answer(scope, row, request.family)
    image.family = image.family or request.family
    return image


def _answer(scope: Scope, row: Row, asked: str) -> pb.Image:
    return to_image(scope, scope.catalog(kind(scope)).index.name(row["id"]) or asked, row)


@rpc(
    "Images.List",
    calls=("listTemplates",),
    differences="Public image projects are empty unless the operator maps them.",
    public_projects=True,
)
def list_(scope: Scope, request: pb.ListImagesRequest) -> Any:
    entry = scope.catalog(kind(scope))

    def build() -> Message:
        if scope.public_project:
            offered = scope.names.image_projects.get(scope.public_project, [])
            found = {row["id"]: row for family in offered if (row := _of_family(scope, family, scope.public_project))}
            images = [_answer(scope, row, "") for row in found.values()]
        else:
            images = [to_image(scope, name, row) for name, row in entry.index]
        return lists.page(scope, request, images, pb.ImageList, "global/images")

    return scope.reply([entry], request, build, scope.public_project)
