"""What keeps its GCE data in CloudStack's resource tags: how that is changed, and setLabels, alike for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from google.protobuf.message import Message

from gstack.kernel.errors import invalid
from translator_service.cloudstack.rows import Row
from translator_service.collection import methods_of, path_of, place_of, prefix_of
from translator_service.gce.fingerprints import check
from translator_service.gce.labels import check_labels, label_fingerprint
from translator_service.gce.naming import number
from translator_service.kept import tags
from translator_service.operations import engine
from translator_service.operations.run import OperationError, Run, handler
from translator_service.rpc import rpc
from translator_service.scope import Scope

# Bytes that are kept of one resource besides labels: some forty tags.
MOST_KEPT = 8 << 10


def check_kept(about: dict[str, Any], body: str = "resource") -> None:
    """Raises 400, which names the largest field, for more than is kept of one resource. about: fields of that body."""
    sizes = {f"{body}.{field}": len(orjson.dumps(value)) for field, value in about.items() if field != "labels"}
    if sum(sizes.values()) > MOST_KEPT:
        field = max(sizes, key=lambda one: sizes[one])
        raise invalid(field, f"The description and what else is kept may take at most {MOST_KEPT} bytes together.")


def retag(run: Run, step: str, resource_type: str, identity: str, key: str, before: Row, value: Any) -> None:
    """Put another value of one of our tags in the place of what a row has, in as many chunks as it takes; other tags
    stay. before: the row as a step has read it. resource_type: as createTags names it, such as "Volume"."""
    old = {name: text for name, text in tags.of(before).items() if tags.is_part(name, key)}
    new = tags.pack(key, value)
    where = {"resourceids": identity, "resourcetype": resource_type}
    # No tag can be written over.
    if gone := [name for name in old if new.get(name) != old[name]]:
        names = {f"tags[{index}].key": name for index, name in enumerate(gone)}
        run.job(f"{step}/delete", "deleteTags", **where, **names)
    if added := {name: text for name, text in new.items() if old.get(name) != text}:
        run.job(f"{step}/create", "createTags", **where, **tags.parameters(added))


@dataclass(frozen=True)
class Labelled:
    """A collection whose labels are in tags.

    find: (scope, place, what the request calls it) -> (GCE name, row), raises 404. look: (scope, CloudStack id) -> the
    row as it is now, None when it is gone.
    """

    collection: str
    resource_type: str
    find: Callable[[Scope, Any, str], tuple[str, Row]]
    look: Callable[[Scope, str], Row | None]


_KINDS: dict[str, Labelled] = {}


def sets_labels(service: str, kind: Labelled, *, calls: tuple[str, ...]) -> None:
    """Register `SetLabels`."""
    level, prefix, _ = path_of(methods_of(service)["SetLabels"])
    _KINDS[kind.collection] = kind

    def set_labels(scope: Scope, request: Any) -> Message:
        labels = check_labels(dict(request.body.labels), "body.labels")
        place = place_of(scope, request, level)
        name, row = kind.find(scope, place, request.resource)
        sent = request.body.labelFingerprint
        check(sent, label_fingerprint(tags.labels(row)), "label")
        return engine.submit(
            scope,
            type="setLabels",
            target=f"{prefix_of(place) or prefix}{kind.collection}/{name}",
            target_id=number(row["id"]),
            handler="tagged.labels",
            payload={"kind": kind.collection, "id": row["id"], "labels": labels, "expected": sent.hex()},
        )

    rpc(f"{service}.SetLabels", calls=(*calls, "deleteTags", "createTags"))(set_labels)


@handler("tagged.labels")
def do_labels(run: Run) -> None:
    """Of two changes made from the same labels the second one is refused, whenever it was submitted."""
    kind, identity = _KINDS[run.payload["kind"]], run.payload["id"]

    def look(scope: Scope) -> Row:
        row = kind.look(scope, identity)
        if row is None:
            raise OperationError("RESOURCE_NOT_FOUND", "The resource was not found.", 404)
        check(bytes.fromhex(run.payload["expected"]), label_fingerprint(tags.labels(row)), "label")
        return row

    retag(run, "labels", kind.resource_type, identity, tags.LABELS, run.look("row", look), run.payload["labels"])
