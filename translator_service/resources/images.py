"""Images: CloudStack templates. Also the resolver of everything that clients write for an image.

In public image projects (`debian-cloud`) are the templates that the operator maps to them, or those that have the
project's system in their names; `get`, `getFromFamily` and references find the newest that has the words of what is
asked. What was asked for through such a project is kept with the disk, and shown in its links.

Any account may call a template "Debian 12" and make it public. So only what the operator vouches for is found there:
featured templates, which nobody but an operator can make, and those that the names file names by their ids. Families of
the caller's own project hold its own templates too. What others share is found by its name, and by nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

from google.protobuf.message import Message

from gstack.compute.v1 import images_pb2 as pb
from gstack.kernel.errors import ApiError, invalid, not_found
from translator_service.cloudstack.catalog import Kind
from translator_service.cloudstack.client import Answer, Client, all_rows
from translator_service.cloudstack.rows import Row
from translator_service.collection import Items, Reading, gets, lists
from translator_service.gce.fingerprints import fingerprint
from translator_service.gce.links import Reference, parse
from translator_service.gce.naming import Index, Naming, number, slug
from translator_service.gce.times import from_cloudstack
from translator_service.places import Zone
from translator_service.rpc import rpc
from translator_service.scope import Scope

_GIB = 1 << 30


# A family in the view of one zone, as gcloud writes it.
_FAMILY = "imageFamilyViews"


_FILTERS = ("executable", "sharedexecutable")


# Images of a public project that is not mapped. Clients ask twenty such projects in a row.
_MOST = 500


# A mark of ours on rows of the caller's own; names of accounts are not unique.
_OWN = "gstack-own"


# Google's families name the processor only to tell it from another one.
_PROCESSORS = ("amd64", "x86")


# Systems that templates name otherwise than the public project does.
_SYSTEMS = {"rhel": ("rhel", "red-hat"), "suse": ("suse", "sles")}


# Google's families by what is in a slug: a system, then a version, and what tells it from others of that version.
_FAMILIES = tuple(
    (system, re.compile(rf"(?<![a-z]){pattern}"))
    for system, pattern in (
        ("debian", r"debian(?:-gnu-linux)?-?(\d+)"),
        ("ubuntu", r"ubuntu(?:-server)?-?(\d\d-?\d\d)(?!\d)(?:-\d+)?(?:-(lts))?"),
        ("centos", r"centos(?:-linux)?-(stream)-?(\d+)"),
        ("centos", r"centos(?:-linux)?-?(\d+)"),
        ("rocky-linux", r"rocky-linux-?(\d+)"),
        ("almalinux", r"almalinux-?(\d+)"),
        ("rhel", r"rhel-?(\d+)"),
        ("sles", r"sles-?(\d+)"),
        ("opensuse-leap", r"opensuse-leap()"),
        ("fedora", r"fedora(?:-linux|-server|-cloud)*-?(\d+)"),
        ("windows", r"windows-(?:server-)?(\d{4})(?:-(r2))?"),
    )
)


_DATED = re.compile(r"-v\d{8}$")


class Templates(Index):
    """The index of templates: by name the caller's own go first, then the operator's, then those of others.

    offered: an index of the operator's alone, the names in public image projects.
    """

    def __init__(self, rows: list[Row], naming: Naming, named: Container[str]):
        """named: ids in the operator's names file."""

        def is_offered(row: Row) -> bool:
            return bool(row.get("isfeatured")) or row["id"] in named

        super().__init__(rows, naming, rank=lambda row: 0 if row.get(_OWN) else 1 if is_offered(row) else 2)
        self.offered = Index(filter(is_offered, rows), naming)


def kind(scope: Scope) -> Kind:
    """Templates that the caller may deploy, own, public and shared ones, and own ones that are not ready."""
    naming, named = scope.environment.settings.naming, frozenset(scope.names.families.values())

    def fetch(client: Client) -> list[Answer]:
        filters = ("self", *_FILTERS)
        own, *others = client.read_all_many(
            [("listTemplates", {"templatefilter": one, "showunique": "true"}) for one in filters]
        )
        for row in all_rows(own):
            row[_OWN] = True
        return [*own, *(answer for answers in others for answer in answers)]

    def build(rows: list[Row]) -> Index:
        unique: dict[str, Row] = {}
        for row in rows:
            unique.setdefault(row["id"], row)
        return Templates(list(unique.values()), naming, named)

    return Kind("templates", 60.0, fetch, build)


def _templates(scope: Scope) -> Templates:
    found = scope.catalog(kind(scope)).index
    assert isinstance(found, Templates)
    return found


def in_zone(scope: Scope, row: Row, zone: Zone) -> bool:
    """Whether a template may be used in the zone. The list names one zone of each, so the others cost a question."""
    if row.get("crossZones") or row.get("zoneid") in (None, zone.id):
        return True
    # By name: the id of another account's template is refused where the list would be empty (recordings, Surprises 36).
    calls = [("listTemplates", {"templatefilter": one, "name": row["name"], "zoneid": zone.id}) for one in _FILTERS]
    return any(item["id"] == row["id"] for answer in scope.client.read_many(calls) for item in answer.items)


def link_of(scope: Scope, template_id: str, template_name: str, asked: str = "") -> str:
    """Link of the image that a volume or a machine was made from; it may be deleted by now. asked: see Asked.path."""
    if asked:
        return f"{scope.links.base}/{quote(asked, safe='/@:')}"
    name = scope.catalog(kind(scope)).index.name(template_id) or scope.environment.name(template_name)
    return scope.links.of("global", "images", name)


@dataclass(frozen=True)
class Asked:
    """A template, and how it was asked for.

    path: `projects/debian-cloud/global/images/NAME` for one of a public project, else "". The name is the template's
    there, unless it does not have in it what was asked for: clients take one that has the family's in it for one of the
    family, and another for another image.
    """

    row: Row
    path: str = ""


def resolve(scope: Scope, text: str, zone: Zone, field: str) -> Asked:
    """The template that a reference means, ready and usable in the zone. Raises 404, and 400 for one that is not."""
    reference = parse(text, field)
    if reference.collection not in ("", "images", _FAMILY):
        raise invalid(field, f"'{text}'. The URL does not name an image.")
    found = _find(scope, reference)
    if not found[0].get("isready"):
        raise ApiError(400, f"The resource '{_path(scope, reference)}' is not ready", "resourceNotReady", field)
    here = next((row for row in found if in_zone(scope, row, zone)), None)
    if here is None:
        raise invalid(field, f"'{text}'. The image is not available in zone '{zone.name}'.")
    return Asked(here, _asked_path(scope, reference, here))


def _asked_path(scope: Scope, reference: Reference, row: Row) -> str:
    if not reference.project or not scope.names.is_public(reference.project):
        return ""
    offered, asked = _templates(scope).offered, reference.name
    name = offered.name(row["id"]) or asked
    # Its own names and numbers mean the template; the rest are words of its name.
    by_words = reference.collection == _FAMILY or offered.find(asked) is None
    return f"projects/{reference.project}/global/images/{asked if by_words and asked not in name else name}"


def _path(scope: Scope, reference: Reference) -> str:
    project = reference.project or scope.project.name
    family = "family/" if reference.collection == _FAMILY else ""
    return f"projects/{project}/global/images/{family}{reference.name}"


def _find(scope: Scope, reference: Reference) -> list[Row]:
    """What a reference means, the best first, never empty. Raises 404, also for another tenant's project."""
    if reference.project and scope.names.is_public(reference.project):
        found = _find_public(scope, reference)
    elif not scope.owns(reference):
        found = []
    elif reference.collection == _FAMILY:
        found = _of_family(scope, reference.name)
    else:
        row = scope.lookup(kind(scope), reference.name)
        found = [row] if row else []
    if not found:
        raise not_found(_path(scope, reference))
    return found


def _find_public(scope: Scope, reference: Reference) -> list[Row]:
    project, name = reference.project, reference.name
    families = scope.names.image_projects.get(project)
    if reference.collection == _FAMILY:
        if families is None:
            return _of_family(scope, name, project)
        return _of_family(scope, name, project, mapped=True) if name in families else []
    # A miss asks CloudStack again.
    scope.lookup(kind(scope), name)
    row = _templates(scope).offered.find(name)
    if row is not None:
        offered = (
            _is_of(row, project) if families is None else row["id"] in {one["id"] for one in _offered(scope, project)}
        )
        return [row] if offered else []
    # A name of Google's (`centos-6-v20140718`) stands for its system here.
    family = _DATED.sub("", name)
    if families is None:
        return _of_family(scope, family, project)
    return _of_family(scope, family, project, mapped=True) if family in families else []


def _offered(scope: Scope, project: str) -> list[Row]:
    """What there is in a public project."""
    families = scope.names.image_projects.get(project)
    if families is None:
        return [row for _, row in _templates(scope).offered if row.get("isready") and _is_of(row, project)][:_MOST]
    found = [row for family in families for row in _of_family(scope, family, project, mapped=True)]
    return list({row["id"]: row for row in found}.values())


def _of_family(scope: Scope, family: str, project: str = "", *, mapped: bool = False) -> list[Row]:
    """The ready templates of a family: as the operator maps it, else by its words. Those that are shown with it
    first, then the newest, then the smallest.

    project: a public one; else the caller's own templates count too. mapped: the operator put the family into that
    project; else what is found by words must have the project's system in its name.
    """
    known = _templates(scope)
    ready = [row for _, row in (known.offered if project else known) if row.get("isready")]
    pattern = scope.names.families.get(family)
    if pattern is not None:
        found = [row for row in ready if _is_mapped(pattern, row)]
    else:
        words = _words(family)
        found = [
            row
            for row in ready
            if _is_trusted(row) and _has(row, words) and (not project or mapped or _is_of(row, project))
        ]
    found.sort(key=lambda row: int(row.get("size") or 0))
    found.sort(key=lambda row: str(row.get("created", "")), reverse=True)
    # Windows 2012 R2 has the words of 2012 too, and a family of its own.
    found.sort(key=lambda row: family_of(scope, row) != family)
    return found


def _words(family: str) -> list[str]:
    joined = re.sub(r"(?<=[0-9])-(?=[0-9])", "", family.lower())
    return [word for word in joined.split("-") if word and word not in _PROCESSORS]


def _is_trusted(row: Row) -> bool:
    """Whether the name of a template may decide: nobody else can have given it to mislead."""
    return bool(row.get("isfeatured") or row.get(_OWN))


def _is_mapped(pattern: str, row: Row) -> bool:
    """Whether the operator's template id, or name, or regular expression of names, means this template."""
    if pattern == row["id"]:
        return True
    if not _is_trusted(row):
        return False
    if pattern == row["name"]:
        return True
    try:
        return re.fullmatch(pattern, row["name"], re.IGNORECASE) is not None
    except re.error:
        return False


def _is_of(row: Row, project: str) -> bool:
    """Whether a template's name has the system of a public project: `debian` for `debian-cloud`."""
    system = project.partition("-")[0]
    return any(re.search(rf"(?<![a-z]){word}", slug(row["name"])) for word in _SYSTEMS.get(system, (system,)))


def _has(row: Row, words: list[str]) -> bool:
    """Whether the template's name has all these words in this order, as whole words: `1204` is `12-04`, `1` is not."""
    name, position = slug(row["name"]), 0
    for word in words:
        match = re.compile(_word(word)).search(name, position)
        if match is None:
            return False
        position = match.end()
    return bool(words)


def _word(word: str) -> str:
    if word.isdecimal():
        # Not inside a version: the 6 of CentOS 5.6 is not CentOS 6.
        return rf"(?<![0-9])(?<![0-9]-){'-?'.join(word)}(?![0-9])"
    return rf"(?<![a-z]){re.escape(word)}(?![a-z])"


def family_of(scope: Scope, row: Row) -> str:
    """The family of a template: the operator's, or the one that Google has for the system in its name."""
    for family, pattern in scope.names.families.items():
        if _is_mapped(pattern, row):
            return family
    found = _family_of_name(row["name"])
    return found if found and found not in scope.names.families and _is_trusted(row) else ""


@lru_cache(4096)
def _family_of_name(name: str) -> str:
    """`debian-12` for `Linux Debian GNU/Linux 12 (bookworm)`, "" where that is not found again by its words."""
    text = slug(name)
    for system, pattern in _FAMILIES:
        if match := pattern.search(text):
            parts = [part for part in match.groups() if part]
            family = "-".join([system, *(part.replace("-", "") if part[0].isdigit() else part for part in parts)])
            return family if _has({"name": name}, _words(family)) else ""
    return ""


def status(row: Row) -> str:
    if row.get("isready"):
        return "READY"
    text = str(row.get("status", "")).lower()
    return "FAILED" if any(word in text for word in ("fail", "error", "not able", "unable")) else "PENDING"


def architecture(row: Row) -> str:
    return "ARM64" if row.get("arch") == "aarch64" else "X86_64"


def architecture_of(scope: Scope, template_id: str | None) -> str:
    """Of what is made from a template, which may be deleted by now."""
    return architecture((scope.catalog(kind(scope)).index.find(template_id) if template_id else None) or {})


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
    return text if _is_trusted(row) else f"{text} (of {row.get('account') or row.get('project') or 'another account'})"


@rpc(
    "Images.GetFromFamily",
    calls=("listTemplates",),
    differences="Families are the operator's, or the words in the names of featured templates, in one's own project"
    " also of its own templates; never of templates that others share.",
    public_projects=True,
)
def get_from_family(scope: Scope, request: pb.GetFromFamilyImageRequest) -> Message:
    row = _find(scope, Reference(request.family, _FAMILY, "global", scope.public_project))[0]
    image = _answer(scope, row, request.family)
    # As get and list show it; one that is called otherwise only here has nothing to agree with.
    image.family = image.family or request.family
    return image


def _answer(scope: Scope, row: Row, asked: str) -> pb.Image:
    known = _templates(scope)
    return to_image(scope, (known.offered if scope.public_project else known).name(row["id"]) or asked, row)


def _get(scope: Scope, place: None, name: str) -> Reading[Message]:
    row = _find(scope, Reference(name, "images", "global", scope.public_project))[0]
    return Reading(lambda: _answer(scope, row, name))


def _read(scope: Scope, place: None) -> Reading[Items]:
    entry = scope.catalog(kind(scope))

    def build() -> Items:
        if scope.public_project:
            return [("", _answer(scope, row, "")) for row in _offered(scope, scope.public_project)]
        return [("", to_image(scope, name, row)) for name, row in entry.index]

    return Reading(build, [entry], (scope.public_project,))


gets(
    "Images",
    _get,
    calls=("listTemplates",),
    differences="In a public image project, a featured template with the words of the name. A template that another"
    " account shares is an image of its own name, with that account in its description.",
    public_projects=True,
)
lists(
    "Images",
    _read,
    calls=("listTemplates",),
    differences="In a public image project, what the operator maps to it, or featured templates with its system in "
    "their names.",
    public_projects=True,
)
