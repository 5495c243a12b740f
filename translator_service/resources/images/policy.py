"""images.getIamPolicy, setIamPolicy, testIamPermissions: who may use an image, as CloudStack shares templates.

`roles/compute.imageUser` of `allAuthenticatedUsers` is a public template, of `user:NAME` one that is shared with the
account of that name in the image's domain.
"""

from __future__ import annotations

from collections.abc import Iterable

from gstack.compute.v1 import images_pb2 as pb
from gstack.compute.v1.iam_pb2 import Binding, Policy
from gstack.kernel.errors import ApiError, invalid, unsupported
from translator_service.cloudstack.errors import CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.collection import permits
from translator_service.gce.fingerprints import check, fingerprint
from translator_service.gce.links import Reference
from translator_service.resources.images import second
from translator_service.resources.images.change import own
from translator_service.resources.images.references import find
from translator_service.resources.images.templates import is_own, kind
from translator_service.rpc import rpc
from translator_service.scope import Scope

_ROLE = "roles/compute.imageUser"
_EVERYBODY = "allAuthenticatedUsers"
_PERSON = "user:"
# Members of a policy in Google's documents.
_MOST = 1500


def _shared_with(scope: Scope, row: Row) -> set[str]:
    """The members that the template of an own image is shared with."""
    if second.template_of(row):
        return set()
    answer = scope.client.read("listTemplatePermissions", id=row["id"])
    shown = answer.one()
    # The owner is in the list of a private one, asked for or not (recordings, e).
    names = {name for name in shown.get("account") or () if name.lower() != str(row.get("account", "")).lower()}
    return {f"{_PERSON}{name}" for name in names} | ({_EVERYBODY} if shown.get("ispublic") else set())


def _policy(members: set[str]) -> Policy:
    shown = sorted(members)
    bindings = [Binding(role=_ROLE, members=shown)] if shown else []
    return Policy(version=1, etag=fingerprint("policy", *shown), bindings=bindings)


def _get_policy(scope: Scope, place: object, text: str) -> Policy:
    row = find(scope, Reference(text, "images", "global", scope.public_project))[0]
    return _policy(_shared_with(scope, row) if is_own(row) and not scope.public_project else set())


permits(
    "Images",
    lambda scope, place, text: find(scope, Reference(text, "images", "global", scope.public_project)),
    calls=("listTemplates", "listTemplatePermissions"),
    policy=_get_policy,
    differences="Of an image of one's own project: whom its template is shared with. Of others: empty.",
    public_projects=True,
)


@rpc(
    "Images.SetIamPolicy",
    calls=("listTemplates", "listTemplatePermissions", "updateTemplatePermissions"),
    differences="roles/compute.imageUser alone, for allAuthenticatedUsers (a public template) and user:NAME (an account"
    " of the same domain in CloudStack); other roles and members are refused by name.",
    public_projects=True,
)
def set_iam_policy(scope: Scope, request: pb.SetIamPolicyImageRequest) -> Policy:
    given = request.body.policy if request.body.HasField("policy") else request.body
    field = "body.policy" if request.body.HasField("policy") else "body"
    wanted = _wanted(given.bindings, f"{field}.bindings")
    _, row = own(scope, request.resource, "setIamPolicy")
    before = _shared_with(scope, row)
    check(given.etag or request.body.etag, _policy(before).etag, "policy")
    if second.template_of(row) and wanted:
        raise unsupported(
            f"{field}.bindings", "the image is another name of an image, which can be shared in its place."
        )
    # CloudStack takes any case.
    known = {member.lower(): member for member in before}
    added = [member for member in sorted(wanted) if member.lower() not in known]
    removed = sorted(member for key, member in known.items() if key not in {one.lower() for one in wanted})
    for members, how in ((added, "add"), (removed, "remove")):
        if people := [member.removeprefix(_PERSON) for member in members if member != _EVERYBODY]:
            _share(scope, row, f"{field}.bindings", op=how, accounts=",".join(people))
    if _EVERYBODY in (*added, *removed):
        _share(scope, row, f"{field}.bindings", ispublic="true" if _EVERYBODY in added else "false")
    scope.forget(kind(scope))
    return _policy(_shared_with(scope, row))


def _share(scope: Scope, row: Row, field: str, **parameters: str) -> None:
    try:
        scope.client.write("updateTemplatePermissions", id=row["id"], **parameters)
    except CloudStackError as error:
        if error.code == 431 and parameters.get("accounts"):
            # Nothing was done: CloudStack looks at all names before.
            text = f"'{parameters['accounts']}'. There is no such account in the domain of the image."
            raise invalid(field, text) from None
        if error.code in (431, 432, 530, 531) and "ispublic" in parameters:
            text = "This account may not make images public."
            raise ApiError(403, text, "forbidden") from None
        raise


def _wanted(bindings: Iterable[Binding], field: str) -> set[str]:
    """The members that are to have the one role. Raises 400 naming a role or a member that cannot."""
    found: set[str] = set()
    for index, binding in enumerate(bindings):
        if binding.role != _ROLE:
            raise unsupported(f"{field}[{index}].role", f"'{binding.role}'. Images have the role {_ROLE} only.")
        for position, member in enumerate(binding.members):
            name = member.removeprefix(_PERSON)
            if member != _EVERYBODY and (name == member or not name or "," in name):
                text = f"'{member}'. Images are shared with {_EVERYBODY} and user:NAME, an account of the same domain."
                raise unsupported(f"{field}[{index}].members[{position}]", text)
            found.add(member)
    if len(found) > _MOST:
        raise invalid(field, f"{len(found)} members. At most {_MOST} are allowed.")
    return found
