"""images.get, getFromFamily, list."""

from __future__ import annotations

from google.protobuf.message import Message

from gstack.compute.v1 import images_pb2 as pb
from translator_service.cloudstack.rows import Row
from translator_service.collection import Items, Reading, gets, lists
from translator_service.gce.links import Reference
from translator_service.resources.images.families import offered
from translator_service.resources.images.references import FAMILY, find
from translator_service.resources.images.templates import kind, templates
from translator_service.resources.images.view import to_image
from translator_service.rpc import rpc
from translator_service.scope import Scope


@rpc(
    "Images.GetFromFamily",
    calls=("listTemplates",),
    differences="Families are the operator's, or the words in the names of featured templates, in one's own project"
    " also of its own templates; never of templates that others share.",
    public_projects=True,
)
def get_from_family(scope: Scope, request: pb.GetFromFamilyImageRequest) -> Message:
    row = find(scope, Reference(request.family, FAMILY, "global", scope.public_project))[0]
    image = answer(scope, row, request.family)
    # As get and list show it; one that is called otherwise only here has nothing to agree with.
    image.family = image.family or request.family
    return image


def answer(scope: Scope, row: Row, asked: str) -> pb.Image:
    known = templates(scope)
    return to_image(scope, (known.offered if scope.public_project else known).name(row["id"]) or asked, row)


def _get(scope: Scope, place: None, name: str) -> Reading[Message]:
    row = find(scope, Reference(name, "images", "global", scope.public_project))[0]
    return Reading(lambda: answer(scope, row, name))


def _read(scope: Scope, place: None) -> Reading[Items]:
    entry = scope.catalog(kind(scope))

    def build() -> Items:
        if scope.public_project:
            return [("", answer(scope, row, "")) for row in offered(scope, scope.public_project)]
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
