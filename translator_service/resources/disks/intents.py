"""Boot disks that no machine has been made of yet.

CloudStack makes no volume from a template; only a machine that is deployed from one gets it. So a disk that is to be
made from an image is a document in the store until a machine is made of it, and is shown as any disk meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import orjson

from gstack.kernel.errors import ApiError, already_exists, not_found
from translator_service.cloudstack.rows import Row
from translator_service.gce import naming
from translator_service.gce.naming import number
from translator_service.operations.run import Run
from translator_service.places import Zone
from translator_service.resources.disks.view import with_kept
from translator_service.scope import Scope

_KIND = "disk-intents"
# Of a project: all of a zone are read with each list of its disks.
_MOST = 1000
# Of a row of ours that stands for an intent.
MARK = "intent"


@dataclass(frozen=True)
class Intent:
    """id: a uuid. zone: CloudStack's id. created: as CloudStack writes times. template: CloudStack's id. offering: id
    of a disk offering, or "". tags: as createTags takes them. used_by: the operation that makes a machine of it."""

    name: str
    id: str
    zone: str
    created: str
    size_gb: int
    template: str
    offering: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    used_by: str = ""

    @property
    def row(self) -> Row:
        """As a row of listVolumes."""
        return {
            "id": self.id,
            "name": self.name,
            "zoneid": self.zone,
            "type": "DATADISK",
            "state": "Allocated",
            "created": self.created,
            "size": self.size_gb << 30,
            "templateid": self.template,
            **({"diskofferingid": self.offering} if self.offering else {}),
            "tags": [{"key": key, "value": value} for key, value in self.tags.items()],
            MARK: True,
        }

    @property
    def volume_tags(self) -> dict[str, str]:
        """The tags of the volume that it becomes, which keeps its number."""
        return with_kept(self.tags, id=self.id)


def of(scope: Scope, zone: Zone | None) -> list[Intent]:
    """Those of a zone, or all; never an old answer."""
    found = map(_parse, scope.store.documents(scope.project.key, _KIND).values())
    return [one for one in found if zone is None or one.zone == zone.id]


def state(found: Iterable[Intent]) -> tuple[bytes, ...]:
    """What tells one answer about them from another."""
    return tuple(sorted(map(_dump, found)))


def find(scope: Scope, zone: Zone, text: str) -> Intent | None:
    """By its name, its number, or its uuid."""
    if naming.UUID.fullmatch(text) or naming.is_number(text):
        return next((one for one in of(scope, zone) if text.lower() in (one.id, str(number(one.id)))), None)
    is_name = len(text) <= naming.MAX_LENGTH
    content = scope.store.document(scope.project.key, _KIND, _key(zone, text)) if is_name else None
    return _parse(content) if content else None


def add(scope: Scope, zone: Zone, intent: Intent) -> None:
    """Raises 409 for a name that another one has; the same one may be added twice. See `check_room` too."""
    store, owner, key = scope.store, scope.project.key, _key(zone, intent.name)
    if store.put_document(owner, _KIND, key, _dump(intent), expected=None):
        return
    known = store.document(owner, _KIND, key)
    if known is None or _parse(known).id != intent.id:
        raise already_exists(scope.links.path(zone.path, "disks", intent.name))


def of_row(scope: Scope, zone: Zone, row: Row) -> Intent:
    """The intent that a row of ours stands for, as it is now. Raises 404."""
    found = find(scope, zone, row["id"])
    if found is None:
        raise not_found(scope.links.path(zone.path, "disks", row["name"]))
    return found


def check_room(scope: Scope) -> None:
    """Raises 403 when the project has as many as it may."""
    if len(scope.store.documents(scope.project.key, _KIND)) >= _MOST:
        text = f"Quota 'DISKS_TOTAL' exceeded. Limit: {_MOST} disks made from images that no instance has used."
        raise ApiError(403, text, "quotaExceeded")


def change(scope: Scope, zone: Zone, identity: str, **changes: Any) -> Intent:
    """Another size, or other tags. Raises 404 when it is not there any more, and 400 while a machine is made of it."""
    while True:
        one = next((one for one in of(scope, zone) if one.id == identity), None)
        if one is None:
            raise not_found(scope.links.path(zone.path, "disks", identity))
        check_unused(scope, zone, one)
        changed = replace(one, **changes)
        if _put(scope, zone, one, changed):
            return changed


def claim(run: Run, zone: Zone, name: str) -> Intent:
    """A machine is made of it by this operation, and by no other. Raises 404, and 400 while another one has it.

    Kept as a step: what it found is the same after a restart, also when the intent is forgotten by then.
    """

    def work() -> dict[str, Any]:
        while True:
            one = find(run.scope, zone, name)
            if one is None:
                raise not_found(run.scope.links.path(zone.path, "disks", name))
            _check_unused(run.scope, zone, one, run.name)
            claimed = replace(one, used_by=run.name)
            if _put(run.scope, zone, one, claimed):
                return asdict(claimed)

    return Intent(**run.step(f"claim-disk/{name}", work))


def release(run: Run, zone: Zone, name: str) -> None:
    """No machine was made of it."""
    for one in _claimed(run, zone, name):
        if _put(run.scope, zone, one, replace(one, used_by="")):
            return


def forget(run: Run, zone: Zone, name: str) -> None:
    """It is a volume now, or is deleted."""
    for _ in _claimed(run, zone, name):
        run.scope.store.delete_document(run.scope.project.key, _KIND, _key(zone, name))


def _claimed(run: Run, zone: Zone, name: str) -> Iterator[Intent]:
    """The intent as it is, as long as it is this operation's."""
    while content := run.scope.store.document(run.scope.project.key, _KIND, _key(zone, name)):
        one = _parse(content)
        if one.used_by != run.name:
            return
        yield one


def check_unused(scope: Scope, zone: Zone, one: Intent) -> None:
    """Raises 400 while an operation makes a machine of it."""
    _check_unused(scope, zone, one, "")


def _check_unused(scope: Scope, zone: Zone, one: Intent, by: str) -> None:
    """by: name of the operation that may use it."""
    user = scope.store.operation(scope.project.key, one.used_by) if one.used_by not in ("", by) else None
    # One that ended without giving it back was cut off in the middle.
    if user is not None and user["status"] != "DONE":
        raise in_use(scope, zone, one.name, user["target"])


def in_use(scope: Scope, zone: Zone, name: str, user: str) -> ApiError:
    """400. user: path of what has the disk, below the project."""
    disk, user = scope.links.path(zone.path, "disks", name), scope.links.path(user)
    text = f"The disk resource '{disk}' is already being used by '{user}'"
    return ApiError(400, text, "resourceInUseByAnotherResource")


def _put(scope: Scope, zone: Zone, before: Intent, after: Intent) -> bool:
    key = _key(zone, before.name)
    return scope.store.put_document(scope.project.key, _KIND, key, _dump(after), expected=_dump(before))


def _key(zone: Zone, name: str) -> str:
    return f"{zone.id}/{name}"


def _dump(intent: Intent) -> bytes:
    return orjson.dumps(asdict(intent))


def _parse(content: bytes) -> Intent:
    return Intent(**orjson.loads(content))
