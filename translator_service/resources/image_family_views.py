"""imageFamilyViews.get: a family as one zone sees it."""

from __future__ import annotations

from google.protobuf.message import Message

from gstack.compute.v1.image_family_views_pb2 import GetImageFamilyViewRequest, ImageFamilyView
from gstack.kernel.errors import not_found
from translator_service import places
from translator_service.gce.links import Reference
from translator_service.resources.images.read import answer
from translator_service.resources.images.references import FAMILY, find
from translator_service.resources.images.templates import in_zone, template_row
from translator_service.rpc import rpc
from translator_service.scope import Scope


@rpc(
    "ImageFamilyViews.Get",
    calls=("listTemplates",),
    differences="As images.getFromFamily, of the images that can be used in the zone; zone `-` is any.",
    public_projects=True,
)
def get(scope: Scope, request: GetImageFamilyViewRequest) -> Message:
    found = find(scope, Reference(request.family, FAMILY, "global", scope.public_project))
    if request.zone != "-":
        zone = places.resolve_zone(scope, request.zone)
        found = [row for row in found if in_zone(scope, template_row(scope, row), zone)]
    if not found:
        raise not_found(scope.links.path("zones", request.zone, FAMILY, request.family))
    image = answer(scope, found[0], request.family)
    image.family = image.family or request.family
    return ImageFamilyView(image=image)
