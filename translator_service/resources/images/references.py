"""What clients write for an image, resolved."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gstack.kernel.errors import ApiError, invalid, not_found
from translator_service.cloudstack.rows import Row
from translator_service.gce.links import Reference, parse
from translator_service.places import Zone
from translator_service.resources.images import second
from translator_service.resources.images.families import is_of, of_family, offered
from translator_service.resources.images.templates import about, in_zone, kind, state_of, template_row, templates
from translator_service.scope import Scope

# A family in the view of one zone, as gcloud writes it.
FAMILY = "imageFamilyViews"
_DATED = re.compile(r"-v\d{8}$")


@dataclass(frozen=True)
class Asked:
    """A template, and how it was asked for.

    path: `projects/debian-cloud/global/images/NAME` for one of a public project, and for a second name of a template
    (see `second`), else "". In a public project the name is the template's, unless it does not have in it what was
    asked for: clients take one that has the family's in it for one of the family, and another for another image.
    """

    row: Row
    path: str = ""


def resolve(scope: Scope, text: str, zone: Zone, field: str) -> Asked:
    """The template that a reference means, ready and usable in the zone. Raises 404, and 400 for one that is not; warns
    of a deprecated one."""
    reference = parse(text, field)
    if reference.collection not in ("", "images", FAMILY):
        raise invalid(field, f"'{text}'. The URL does not name an image.")
    found = find(scope, reference)
    if not found[0].get("isready"):
        raise ApiError(400, f"The resource '{_path(scope, reference)}' is not ready", "resourceNotReady", field)
    here = next((row for row in found if in_zone(scope, template_row(scope, row), zone)), None)
    if here is None:
        raise invalid(field, f"'{text}'. The image is not available in zone '{zone.name}'.")
    if (state := state_of(here)) in ("OBSOLETE", "DELETED"):
        # What Google says of it too: such an image makes nothing any more.
        raise invalid(field, f"'{text}'. The image is {state.lower()} and cannot be used.")
    if state == "DEPRECATED":
        _warn(scope, _path(scope, reference), str(about(here)["deprecated"].get("replacement") or ""))
    if second.template_of(here):
        return Asked(template_row(scope, here), f"projects/{scope.project.name}/global/images/{here['name']}")
    return Asked(here, _asked_path(scope, reference, here))


def names_one(text: str, field: str) -> bool:
    """Whether a reference is to one image, and not to whatever is the newest of a family."""
    return parse(text, field).collection != FAMILY


def _warn(scope: Scope, path: str, replacement: str) -> None:
    text, data = f"The resource '{path}' is deprecated.", {"resource_name": path}
    if replacement:
        data["suggested_replacement"] = replacement.partition("/compute/v1/")[2] or replacement
        text += f" A suggested replacement is '{data['suggested_replacement']}'."
    scope.warn("DEPRECATED_RESOURCE_USED", text, **data)


def _asked_path(scope: Scope, reference: Reference, row: Row) -> str:
    if not reference.project or not scope.names.is_public(reference.project):
        return ""
    offered, asked = templates(scope).offered, reference.name
    name = offered.name(row["id"]) or asked
    # Its own names and numbers mean the template; the rest are words of its name.
    by_words = reference.collection == FAMILY or offered.find(asked) is None
    return f"projects/{reference.project}/global/images/{asked if by_words and asked not in name else name}"


def _path(scope: Scope, reference: Reference) -> str:
    project = reference.project or scope.project.name
    family = "family/" if reference.collection == FAMILY else ""
    return f"projects/{project}/global/images/{family}{reference.name}"


def find(scope: Scope, reference: Reference) -> list[Row]:
    """What a reference means, the best first, never empty. Raises 404, also for another tenant's project."""
    if reference.project and scope.names.is_public(reference.project):
        found = _find_public(scope, reference)
    elif not scope.owns(reference):
        found = []
    elif reference.collection == FAMILY:
        found = of_family(scope, reference.name)
    else:
        row = scope.lookup(kind(scope), reference.name)
        found = [row] if row else []
    if not found:
        raise not_found(_path(scope, reference))
    return found


def _find_public(scope: Scope, reference: Reference) -> list[Row]:
    project, name = reference.project, reference.name
    families = scope.names.image_projects.get(project)
    if reference.collection == FAMILY:
        if families is None:
            return of_family(scope, name, project)
        return of_family(scope, name, project, mapped=True) if name in families else []
    # A miss asks CloudStack again.
    scope.lookup(kind(scope), name)
    row = templates(scope).offered.find(name)
    if row is not None:
        is_there = (
            is_of(row, project) if families is None else row["id"] in {one["id"] for one in offered(scope, project)}
        )
        return [row] if is_there else []
    # A name of Google's (`centos-6-v20140718`) stands for its system here.
    family = _DATED.sub("", name)
    if families is None:
        return of_family(scope, family, project)
    return of_family(scope, family, project, mapped=True) if family in families else []
