"""images.delete, deprecate, patch, setLabels: for images of the project alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from gstack.compute.v1 import images_pb2 as pb
from gstack.kernel.errors import ApiError, invalid, unsupported
from translator_service.cloudstack.errors import CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.gce.fingerprints import check
from translator_service.gce.labels import check_labels, label_fingerprint
from translator_service.gce.links import Reference, parse
from translator_service.gce.naming import check_new_name, number
from translator_service.kept import tags
from translator_service.operations import engine
from translator_service.operations.run import OperationError, Run, handler
from translator_service.resources.images import second
from translator_service.resources.images.references import find
from translator_service.resources.images.templates import about, is_own, kind, templates
from translator_service.resources.images.view import to_image
from translator_service.resources.tagged import check_kept, retag
from translator_service.rpc import rpc
from translator_service.scope import Scope

_READS = ("listTemplates",)
_TAGS = ("listTemplates", "deleteTags", "createTags")
_OWN_ONLY = "Only for images of one's own project; others are 403."


def own(scope: Scope, text: str, permission: str) -> tuple[str, Row]:
    """(GCE name, row) of an image of the project. Raises 404, and 403 for one of others, or of a public project."""
    row = find(scope, Reference(text, "images", "global", scope.public_project))[0]
    known = templates(scope)
    name = (known.offered if scope.public_project else known).name(row["id"]) or text
    if scope.public_project or not is_own(row):
        path = f"projects/{scope.links.project}/global/images/{name}"
        raise ApiError(403, f"Required 'compute.images.{permission}' permission for '{path}'", "forbidden")
    return name, row


def _submit(scope: Scope, type: str, name: str, row: Row, handler: str, **payload: Any) -> Message:
    return engine.submit(
        scope,
        type=type,
        target=f"global/images/{name}",
        target_id=number(row["id"]),
        handler=handler,
        payload={"id": row["id"], "name": row["name"], "second": bool(second.template_of(row)), **payload},
    )


# Delete


@rpc(
    "Images.Delete",
    calls=(*_READS, "deleteTemplate"),
    differences=f"{_OWN_ONLY} Instances made of it go on, but for CloudStack's own reinstallation. While an image of "
    "the project is another name for the same template, it is in use: 400.",
    public_projects=True,
)
def delete(scope: Scope, request: pb.DeleteImageRequest) -> Message:
    name, row = own(scope, request.image, "delete")
    _check_unused(scope, name, row["id"])
    return _submit(scope, "delete", name, row, "images.delete")


def _check_unused(scope: Scope, name: str, template: str) -> None:
    """Raises 400 while the template has second names."""
    if users := second.of_template(scope, template):
        image, user = (scope.links.path("global", "images", one) for one in (name, sorted(users)[0]))
        text = f"The image resource '{image}' is already being used by '{user}'"
        raise ApiError(400, text, "resourceInUseByAnotherResource")


@handler("images.delete")
def do_delete(run: Run) -> None:
    payload = run.payload
    if payload["second"]:
        second.remove(run.scope, payload["name"], payload["id"])
    else:
        run.look("unused", lambda scope: _check_unused(scope, payload["name"], payload["id"]))
        try:
            # Without `forced` machines that were made of it would hold it.
            run.job("delete", "deleteTemplate", id=payload["id"], forced="true")
        except CloudStackError as error:
            # Gone already: an earlier one was first, or somebody in CloudStack.
            if error.code != 431 or run.look("gone", lambda scope: _row(scope, payload["id"]) is not None):
                raise
    run.scope.forget(kind(run.scope))


def _row(scope: Scope, template: str) -> Row | None:
    return next(
        iter(scope.client.rows_of_id("listTemplates", template, templatefilter="self", showunique="true")), None
    )


# Changes of what is kept


@rpc(
    "Images.Deprecate",
    calls=_TAGS,
    differences=f"{_OWN_ONLY} OBSOLETE and DELETED images make no disks and instances any more, families leave out "
    "deprecated ones; the times are only kept, as Google does.",
    public_projects=True,
)
def deprecate(scope: Scope, request: pb.DeprecateImageRequest) -> Message:
    wanted = request.resource
    # libcloud says nothing for ACTIVE.
    wanted.state = wanted.state or "ACTIVE"
    for field in ("deprecated", "obsolete", "deleted"):
        _check_time(getattr(wanted, field), f"resource.{field}")
    if wanted.replacement and parse(wanted.replacement, "resource.replacement").collection != "images":
        raise invalid("resource.replacement", f"'{wanted.replacement}'. The URL does not name an image.")
    name, row = own(scope, request.image, "deprecate")
    kept = MessageToDict(wanted, preserving_proto_field_name=True)
    if wanted.replacement and "://" not in wanted.replacement:
        reference = parse(wanted.replacement, "resource.replacement")
        project = reference.project or scope.project.name
        kept["replacement"] = f"{scope.links.base}/projects/{project}/global/images/{reference.name}"
    # ACTIVE without times takes everything back.
    value = kept if kept != {"state": "ACTIVE"} else None
    check_kept({**about(row), "deprecated": value})
    return _submit(scope, "deprecate", name, row, "images.change", changes={"deprecated": value})


def _check_time(text: str, field: str) -> None:
    try:
        if not text or datetime.fromisoformat(text).tzinfo is not None:
            return
    except ValueError:
        pass
    raise invalid(field, f"'{text}'. Must be a time as in RFC 3339.")


_PATCHED = ("family", "description")


@rpc(
    "Images.Patch",
    calls=_TAGS,
    differences=f"{_OWN_ONLY} Changes family and description; other fields must be as they are.",
    public_projects=True,
)
def patch(scope: Scope, request: pb.PatchImageRequest) -> Message:
    wanted = request.resource
    name, row = own(scope, request.image, "update")
    current = to_image(scope, name, row)
    for field, value in wanted.ListFields():
        if field.name in _PATCHED:
            continue
        if field.name == "labels" and dict(wanted.labels) != dict(current.labels):
            raise unsupported("resource.labels", "setLabels changes the labels of an image.")
        if field.name != "labels" and value != getattr(current, field.name):
            raise unsupported(
                f"resource.{field.name}", "only the family and the description of an image can be changed."
            )
    for field_name in scope.cleared:
        if field_name not in (*_PATCHED, "labelFingerprint") and MessageToDict(current).get(field_name):
            raise unsupported(
                f"resource.{field_name}", "only the family and the description of an image can be changed."
            )
    if wanted.family:
        check_new_name(wanted.family, "resource.family")
    changes = {key: getattr(wanted, key) or None for key in _PATCHED if wanted.HasField(key) or key in scope.cleared}
    check_kept({**about(row), **changes})
    return _submit(scope, "patch", name, row, "images.change", changes=changes)


@rpc("Images.SetLabels", calls=_TAGS, differences=_OWN_ONLY, public_projects=True)
def set_labels(scope: Scope, request: pb.SetLabelsImageRequest) -> Message:
    labels = check_labels(dict(request.body.labels), "body.labels")
    name, row = own(scope, request.resource, "setLabels")
    sent = request.body.labelFingerprint
    check(sent, label_fingerprint(tags.labels(row)), "label")
    return _submit(scope, "setLabels", name, row, "images.labels", labels=labels, expected=sent.hex())


@handler("images.change")
def do_change(run: Run) -> None:
    """changes: of what is kept with the image; None takes a value away."""

    def changed(row: Row) -> dict[str, Any]:
        # An image made elsewhere shows its own description until it has another one.
        before = about(row) or {"description": str(row.get("displaytext") or row["name"]), "sourceType": "RAW"}
        after = before | run.payload["changes"]
        return {key: value for key, value in after.items() if value is not None}

    _change(run, tags.IMAGE, changed)


@handler("images.labels")
def do_labels(run: Run) -> None:
    """Of two changes made from the same labels the second one is refused, whenever it was submitted."""

    def changed(row: Row) -> dict[str, str]:
        check(bytes.fromhex(run.payload["expected"]), label_fingerprint(tags.labels(row)), "label")
        labels: dict[str, str] = run.payload["labels"]
        return labels

    _change(run, tags.LABELS, changed)


def _change(run: Run, key: str, changed: Callable[[Row], Any]) -> None:
    """Put another value of one of our tags in the place of what the image has, as it is when its turn comes."""
    payload = run.payload
    if payload["second"]:

        def work() -> None:
            def replaced(row: Row) -> dict[str, str]:
                rest = {name: text for name, text in tags.of(row).items() if not tags.is_part(name, key)}
                return {**rest, **tags.pack(key, changed(row))}

            second.change(run.scope, payload["name"], payload["id"], replaced)

        run.step("change", work)
    else:

        def look(scope: Scope) -> dict[str, Any]:
            row = _row(scope, payload["id"])
            if row is None:
                raise OperationError("RESOURCE_NOT_FOUND", "The image was not found.", 404)
            return {"row": {"tags": row.get("tags", [])}, "value": changed(row)}

        found = run.look("row", look)
        retag(run, "tags", "Template", payload["id"], key, found["row"], found["value"])
    run.scope.forget(kind(run.scope))
