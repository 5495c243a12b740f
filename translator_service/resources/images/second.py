"""Images that are made of other images: second names of their templates.

CloudStack has no command for users that copies a template under another name. Such an image is a document in the store,
with its own name, id, family, labels and state; what is made of it is made of the template. So it is gone when the
template is, and while there is one, an image of the same project is not deleted under it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from gstack.kernel.errors import ApiError, already_exists, not_found
from translator_service.cloudstack.client import Answer
from translator_service.cloudstack.rows import Row
from translator_service.gce.naming import number
from translator_service.scope import Scope

_KIND = "image-names"
# Of a project: all of them are read with each list of its templates.
_MOST = 1000
_TEMPLATE = "gstack-template"


def answer(scope: Scope) -> Answer:
    """All of the project, as an answer of listTemplates."""
    found = scope.store.documents(scope.project.key, _KIND)
    rows = [orjson.loads(found[name]) for name in sorted(found)]
    return Answer(orjson.dumps({"second": {"template": rows} if rows else {}}), "listTemplates")


def template_of(row: Row) -> str:
    """Id of the template that an image is a second name of, "" for an image that is a template."""
    return str(row.get(_TEMPLATE, ""))


def of_template(scope: Scope, template: str) -> list[str]:
    """The second names of a template; never an old answer."""
    return [row["name"] for row in map(orjson.loads, _documents(scope).values()) if template_of(row) == template]


def find(scope: Scope, name: str) -> Row | None:
    """Never an old answer."""
    content = scope.store.document(scope.project.key, _KIND, name)
    return orjson.loads(content) if content else None


def check_room(scope: Scope) -> None:
    """Raises 403 when the project has as many as it may."""
    if len(_documents(scope)) >= _MOST:
        text = f"Quota 'IMAGES' exceeded. Limit: {_MOST} images made of images."
        raise ApiError(403, text, "quotaExceeded")


def add(scope: Scope, identity: str, name: str, template: str, created: str, tags: dict[str, str]) -> None:
    """identity: a uuid. created: as CloudStack writes times. The same one may be added twice. Raises 409."""
    row = {"id": identity, "name": name, _TEMPLATE: template, "created": created, "tags": _tags(tags)}
    if scope.store.put_document(scope.project.key, _KIND, name, orjson.dumps(row), expected=None):
        return
    known = find(scope, name)
    if known is None or known["id"] != identity:
        raise already_exists(scope.links.path("global", "images", name))


def change(scope: Scope, name: str, identity: str, changed: Callable[[Row], dict[str, str]]) -> None:
    """changed: the new tags for the row as it is. Raises 404 for one that is gone, or another one by now."""
    while True:
        content = scope.store.document(scope.project.key, _KIND, name)
        row = orjson.loads(content) if content else None
        if content is None or row is None or row["id"] != identity:
            raise not_found(scope.links.path("global", "images", name))
        after = orjson.dumps({**row, "tags": _tags(changed(row))})
        if scope.store.put_document(scope.project.key, _KIND, name, after, expected=content):
            return


def remove(scope: Scope, name: str, identity: str) -> None:
    row = find(scope, name)
    if row is not None and row["id"] == identity:
        scope.store.delete_document(scope.project.key, _KIND, name)


def by_number(scope: Scope, text: str) -> Row | None:
    """The one with this id, as a number or a uuid."""
    for row in map(orjson.loads, _documents(scope).values()):
        if text.lower() in (row["id"], str(number(row["id"]))):
            return dict(row)
    return None


def _documents(scope: Scope) -> dict[str, bytes]:
    return scope.store.documents(scope.project.key, _KIND)


def _tags(found: dict[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value": value} for key, value in found.items()]
