"""Snapshots: CloudStack snapshots of volumes. They outlive their disks, so what is shown of those is kept with them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from gstack.compute.v1 import disks_pb2
from gstack.compute.v1 import snapshots_pb2 as pb
from gstack.kernel.errors import ApiError, already_exists, invalid, not_found, required, unsupported
from translator_service import places
from translator_service.cloudstack.client import Answer
from translator_service.cloudstack.errors import NO_SUCH_ROW, CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.collection import Items, Reading, gets, lists, permits
from translator_service.gce import naming
from translator_service.gce.labels import check_labels, label_fingerprint
from translator_service.gce.links import parse
from translator_service.gce.lists import Later
from translator_service.gce.naming import Index, number, slug
from translator_service.gce.times import from_cloudstack
from translator_service.kept import details, fields, tags
from translator_service.operations import engine
from translator_service.operations.cleanup import clear_away
from translator_service.operations.held import held
from translator_service.operations.run import OperationError, Parked, Run, handler
from translator_service.places import Zone
from translator_service.resources.disks import find as disk_find
from translator_service.resources.disks import intents
from translator_service.resources.disks.find import unique_rows
from translator_service.resources.disks.view import size_gb, to_disk
from translator_service.resources.tagged import Labelled, check_kept, sets_labels
from translator_service.rpc import rpc
from translator_service.scope import Scope

# States of Snapshot.State in CloudStack 4.22; what is not known yet is on its way.
_STATUS = {
    "CreatedOnPrimary": "UPLOADING",
    "BackingUp": "UPLOADING",
    "Copying": "UPLOADING",
    "BackedUp": "READY",
    "Error": "FAILED",
    "Destroying": "DELETING",
}
# Hidden are those that belong to a snapshot of a whole machine.
_GONE = ("Destroyed", "Expunged", "Hidden")
# Of the disk, when the snapshot is taken; with what the body keeps they are in the tag.
_OF_DISK = {"sourceDiskId", "architecture", "licenses", "guestOsFeatures"}
_SHOWN = (fields.names(pb.Snapshot.DESCRIPTOR) - {"labels"}) | _OF_DISK
_USABLE = "BackedUp"
# States of a volume of which no snapshot will ever be taken; in others that are not Ready one is soon.
_FAILED = ("UploadError", "UploadAbandoned", "RestoreError")
_LOST = ("Destroy", "Destroyed", "Destroying", "Expunging", "Expunged")
# Documents in the store: snapshots that operations are about to take, by name.
_NAMES = "snapshot-names"
# KVM and VMware take one snapshot of a machine's disks at a time.
_BUSY = "other active snapshot tasks"
_NOT_READY = "not in Ready state"
_PAUSES = (0.5, 1.0, 2.0)
_LATER = 5.0
_WORD = re.compile(r"[a-z0-9]+")
_KIND = "Snapshot"


# Mapping


def is_shown(row: Row) -> bool:
    """Whether a row of listSnapshots is a snapshot for GCE: not one that only serves what is made of a disk."""
    return row.get("state") not in _GONE and tags.EPHEMERAL not in tags.of(row)


def _name_of(row: Row) -> str:
    """The name of a snapshot, before duplicates are told apart."""
    return slug(row["name"])


def _names(rows: Iterable[Row]) -> Index:
    """The snapshots of a project by name. Of several with one name the oldest has it, but before those of other
    names that only become it."""
    shown = [row for row in rows if is_shown(row)]
    first = {row["id"]: row["name"] for row in shown if _name_of(row) == row["name"]}
    return Index(shown, "verbatim", label=_name_of, mapped=first)


def to_snapshot(scope: Scope, row: Row, name: str = "") -> pb.Snapshot:
    """A row of listSnapshots. name: the one that `_names` gave it."""
    name = name or _name_of(row)
    scope.environment.ids.remember(row["id"])
    kept: dict[str, Any] = details.unpack(tags.of(row), tags.SNAPSHOT, {})
    status, stored = _STATUS.get(row.get("state", ""), "CREATING"), int(row.get("physicalsize") or 0)
    snapshot = pb.Snapshot(
        kind="compute#snapshot",
        id=number(row["id"]),
        creationTimestamp=from_cloudstack(row.get("created", "")),
        name=name,
        status=status,
        diskSizeGb=size_gb(row.get("virtualsize") or 0),
        storageBytes=stored,
        creationSizeBytes=stored,
        storageBytesStatus="UP_TO_DATE" if status in ("READY", "DELETING") else "UPDATING",
        selfLink=scope.links.of("global", "snapshots", name),
        labels=tags.labels(row),
    )
    fields.put(snapshot, kept, _SHOWN)
    snapshot.labelFingerprint = label_fingerprint(snapshot.labels)
    _put_source(scope, snapshot, row, kept.get("sourceDisk"))
    if (row.get("snapshottype") or row.get("intervaltype") or "MANUAL") != "MANUAL":
        snapshot.autoCreated = True
    return snapshot


def _put_source(scope: Scope, snapshot: pb.Snapshot, row: Row, kept: object) -> None:
    """The disk as it was called when the snapshot was taken; elsewhere, as CloudStack's volume is called now."""
    if not snapshot.sourceDiskId and row.get("volumeid"):
        snapshot.sourceDiskId = str(number(row["volumeid"]))
    if isinstance(kept, str) and kept:
        snapshot.sourceDisk = scope.links.of(*kept.split("/"))
        return
    zone = places.zone_by_id(scope, str(row.get("zoneid") or ""))
    volume = str(row.get("volumename") or "")
    if zone and volume:
        # Not by its name for GCE, which is its machine's; disks are found by this one too.
        shown = volume if row.get("volumetype") == "ROOT" else slug(volume)
        snapshot.sourceDisk = scope.links.of(zone.path, "disks", shown)


# Reading


def _ask(scope: Scope, **question: str) -> list[Answer]:
    """Without showunique a snapshot has a row for each storage that holds it."""
    return scope.client.read_all("listSnapshots", showunique="true", **question)


def find(scope: Scope, text: str) -> tuple[str, Row, list[Answer]]:
    """(GCE name, row, the answers it came from) of one snapshot. Raises 404.

    One question finds a snapshot by its own name; one with a name that is no GCE name costs another.
    """
    found = None
    if naming.UUID.fullmatch(text) or naming.is_number(text):
        found = _by_id(scope, text)
    elif naming.is_askable(text):
        found = _by_name(scope, text)
    if found is None:
        raise not_found(_path(scope, text))
    return found


def resolve(scope: Scope, text: str, field: str) -> tuple[str, Row]:
    """(GCE name, row) of the snapshot that a reference means, from which something can be made. Raises 400 and 404."""
    reference = parse(text, field)
    if reference.collection not in ("", "snapshots"):
        raise invalid(field, f"'{text}'. The URL does not name a snapshot.")
    if not scope.owns(reference):
        raise not_found(f"projects/{reference.project}/global/snapshots/{reference.name}")
    name, row, _ = find(scope, reference.name)
    if row.get("state") != _USABLE:
        raise ApiError(400, f"The resource '{_path(scope, name)}' is not ready", "resourceNotReady", field)
    return name, row


def _by_id(scope: Scope, text: str) -> tuple[str, Row, list[Answer]] | None:
    known = scope.environment.ids.find(int(text)) if naming.is_number(text) else text
    try:
        answers = _ask(scope, **({"id": known} if known else {}))
    except CloudStackError as error:
        if error.code not in NO_SUCH_ROW:
            raise
        return None
    for name, row in _names(unique_rows(answers)):
        scope.environment.ids.remember(row["id"])
        if text.lower() in (row["id"], str(number(row["id"]))):
            return name, row, answers
    return None


def _by_name(scope: Scope, text: str) -> tuple[str, Row, list[Answer]] | None:
    answers = _ask(scope, name=text)
    if (found := _pick(answers, text)) is None:
        # `My Snapshot` is found by a part of it: no filter knows `my-snapshot`.
        stem = (naming.split_suffix(text) or (text, ""))[0]
        answers = [*answers, *_ask(scope, keyword=max(_WORD.findall(slug(stem)), key=len))]
        found = _pick(answers, text)
    return (*found, answers) if found else None


def _pick(answers: Iterable[Answer], text: str) -> tuple[str, Row] | None:
    """The snapshot with this name, which may also be CloudStack's own, or that of one of several."""
    known = _names(unique_rows(answers))
    for name, row in known:
        if name == text:
            return name, row
    for name, row in known:
        if text in (row["name"], naming.with_suffix(_name_of(row), row["id"])):
            return name, row
    return None


def _path(scope: Scope, name: str) -> str:
    return scope.links.path("global", "snapshots", name)


def _find(scope: Scope, place: None, text: str) -> Reading[Message]:
    name, row, answers = find(scope, text)
    return Reading(lambda: to_snapshot(scope, row, name), [*answers, scope.catalog(places.kind(scope))])


def _read(scope: Scope, place: None) -> Reading[Items]:
    answers = _ask(scope)

    def later(name: str, row: Row) -> Later:
        created = from_cloudstack(row.get("created", ""))
        return Later(name, created, number(row["id"]), lambda: to_snapshot(scope, row, name))

    def build() -> Items:
        return [("", later(name, row)) for name, row in _names(unique_rows(answers))]

    return Reading(build, [*answers, scope.catalog(places.kind(scope))])


def _look(scope: Scope, identity: str) -> Row | None:
    """The snapshot as it is now, None when it is gone."""
    try:
        rows = unique_rows(_ask(scope, id=identity))
    except CloudStackError as error:
        if error.code not in NO_SUCH_ROW:
            raise
        return None
    return next((row for row in rows if row.get("state") not in _GONE), None)


gets(
    "Snapshots",
    _find,
    calls=("listSnapshots",),
    differences="One call; one more for a snapshot made elsewhere with a name that GCE does not have. Of one made"
    " elsewhere the disk is named as CloudStack's volume.",
)
lists("Snapshots", _read, calls=("listSnapshots",))
permits("Snapshots", lambda scope, place, text: find(scope, text), calls=("listSnapshots",))
sets_labels(
    "Snapshots",
    Labelled("snapshots", _KIND, lambda scope, place, text: find(scope, text)[:2], _look),
    calls=("listSnapshots",),
)


# Taking


@rpc(
    "Snapshots.Insert",
    calls=("listVolumes", "listSnapshots", "createSnapshot"),
    differences="Of a disk that was never attached there is none. The chain, the kind and the places of storage are"
    " kept and change nothing. A snapshot holds what the disk does: no guest is asked to write its data first.",
)
def insert(scope: Scope, request: pb.InsertSnapshotRequest) -> Message:
    wanted = request.resource
    naming.check_new_name(wanted.name)
    zone, text = _reference(scope, wanted.sourceDisk)
    return _submit(scope, zone, text, wanted, type="insert")


@rpc(
    "Disks.CreateSnapshot",
    calls=("listVolumes", "listSnapshots", "createSnapshot"),
    differences="As snapshots.insert.",
)
def create_snapshot(scope: Scope, request: disks_pb2.CreateSnapshotDiskRequest) -> Message:
    wanted = request.resource
    if request.guestFlush:
        raise unsupported("guestFlush", "no guest is asked to write its data first.")
    naming.check_new_name(wanted.name)
    zone = places.resolve_zone(scope, request.zone)
    return _submit(scope, zone, request.disk, wanted, type="createSnapshot")


def _reference(scope: Scope, text: str) -> tuple[Zone, str]:
    """The zone, and what a reference calls a disk there."""
    field = "resource.sourceDisk"
    if not text:
        raise required(field)
    return disk_find.reference(scope, text, field)


def _submit(scope: Scope, zone: Zone, text: str, wanted: pb.Snapshot, type: str) -> Message:
    """type: that of the operation, which is on the disk unless it is an insert."""
    labels = check_labels(dict(wanted.labels), "resource.labels")
    name, row = _disk(scope, zone, text)
    if type != "insert" and wanted.sourceDisk:
        there, other = _reference(scope, wanted.sourceDisk)
        if there.id != zone.id or disk_find.find(scope, zone, other)[1]["id"] != row["id"]:
            raise invalid("resource.sourceDisk", f"'{wanted.sourceDisk}'. The request is to the disk '{name}'.")
    _check_free(scope, wanted.name)
    disk = to_disk(scope, zone, row, name)
    of_disk = pb.Snapshot(
        sourceDiskId=str(disk.id),
        architecture=disk.architecture,
        licenses=disk.licenses,
        guestOsFeatures=disk.guestOsFeatures,
    )
    about = MessageToDict(of_disk) | {"sourceDisk": f"{zone.path}/disks/{name}"} | fields.kept(wanted)
    about.pop("labels", None)
    check_kept(about)
    on_disk, path = type != "insert", f"{zone.path}/disks/{name}"
    return engine.submit(
        scope,
        type=type,
        target=path if on_disk else f"global/snapshots/{wanted.name}",
        also=[] if on_disk else [path],
        target_id=number(row["id"]) if on_disk else 0,
        handler="snapshots.take",
        payload={
            "disk": scope.links.path(zone.path, "disks", name),
            "volume": row["id"],
            "name": wanted.name,
            "tags": {**tags.pack(tags.LABELS, labels), **tags.pack(tags.SNAPSHOT, about)},
            "is_target": not on_disk,
        },
    )


def _disk(scope: Scope, zone: Zone, text: str) -> tuple[str, Row]:
    """(name, row) of a disk that has something in it. Raises 404, and 400 for one that CloudStack has not made yet."""
    if intent := intents.find(scope, zone, text):
        _check_contents(scope.links.path(zone.path, "disks", intent.name), intent.row)
    name, row, _ = disk_find.find(scope, zone, text)
    _check_contents(scope.links.path(zone.path, "disks", name), row)
    return name, row


def _check_contents(disk: str, row: Row) -> None:
    """Raises 400 for a disk of which there will be no snapshot, however long one waits."""
    if row.get("state") == "Allocated":
        raise _nothing_on(disk, "has never been attached to an instance")
    if row.get("state") in _FAILED:
        raise _nothing_on(disk, "has failed")


def _nothing_on(disk: str, why: str) -> ApiError:
    text = f"The disk '{disk}' {why}: there is nothing on it to take a snapshot of."
    return ApiError(400, f"Invalid resource usage: '{text}'.", "invalidUsage")


def _check_free(scope: Scope, name: str) -> None:
    """Raises 409."""
    try:
        find(scope, name)
    except ApiError as error:
        if error.code != 404:
            raise
        return
    raise already_exists(_path(scope, name))


@handler("snapshots.take")
def do_take(run: Run) -> None:
    payload = run.payload
    name = payload["name"]
    with held(run, _NAMES, name, _path(run.scope, name)):
        run.look("name-free", lambda scope: _check_free(scope, name))
        identity = take(run, "take", payload["volume"], payload["disk"], name, payload["tags"])
    if payload["is_target"]:
        run.set_target_id(number(identity))


def take(run: Run, step: str, volume: str, disk: str, name: str, tagged: dict[str, str]) -> str:
    """Take a snapshot of a volume and wait until it is usable. Returns CloudStack's id. What is half made when it
    fails is taken away again.

    step: the first part of its steps' names. disk: as errors name it. tagged: its tags; with `tags.EPHEMERAL` among
    them it is nobody's but the operation's, and not shown.
    """
    identity = ""
    try:
        identity = run.step(step, partial(_begin, run, step, volume, disk, name, tagged))
        run.progress(70)
        run.look(f"{step}/usable", lambda scope: _await_usable(run, scope, identity))
    except Exception as error:
        identity = identity or getattr(error, "entity", None) or ""
        if identity:
            clear_away(run, [(f"The snapshot '{name}'", partial(remove, run, f"{step}/undo", identity))])
        raise
    return identity


def _begin(run: Run, step: str, volume: str, disk: str, name: str, tagged: dict[str, str]) -> str:
    """Its tags come with it, so that nobody sees it without them for long."""
    for pause in (*_PAUSES, None):
        try:
            made = run.follow(step, "createSnapshot", volumeid=volume, name=name, **tags.parameters(tagged))
            return str(made["id"])
        except CloudStackError as refusal:
            if refusal.code != 431 or refusal.entity:
                raise
            _check_is_later(run, volume, disk, refusal)
        if pause:
            run.pause(pause)
    raise Parked(f"no snapshot of '{disk}' can be taken yet", _LATER)


def _check_is_later(run: Run, volume: str, disk: str, refusal: CloudStackError) -> None:
    """Raises what a refused snapshot has failed for, unless it is what passes: another one of the same machine, a
    volume that is moved or grows."""
    if _BUSY in refusal.text:
        return
    rows = run.client().rows_of_id("listVolumes", volume)
    if not rows or rows[0].get("state") in _LOST:
        raise not_found(disk)
    _check_contents(disk, rows[0])
    # It may have become so between the two answers.
    if rows[0].get("state") == "Ready" and _NOT_READY not in refusal.text:
        raise refusal


def _await_usable(run: Run, scope: Scope, identity: str) -> None:
    """The job may be over before the snapshot is what something can be made of (recordings, u 55)."""
    for pause in (*_PAUSES, None):
        row = _look(scope, identity)
        state = row.get("state") if row else "gone"
        if state == _USABLE:
            return
        if state in ("gone", "Error", "Destroying"):
            raise OperationError("RESOURCE_NOT_READY", "The snapshot could not be taken: it has failed in storage.")
        if pause:
            run.pause(pause)
    raise Parked("the snapshot is not usable yet", _LATER)


# Deleting


@rpc(
    "Snapshots.Delete",
    calls=("listSnapshots", "deleteSnapshot"),
    differences="Refused while a disk or an image is made of it.",
)
def delete(scope: Scope, request: pb.DeleteSnapshotRequest) -> Message:
    name, row, _ = find(scope, request.snapshot)
    _check_deletable(scope, name, row)
    return engine.submit(
        scope,
        type="delete",
        target=f"global/snapshots/{name}",
        target_id=number(row["id"]),
        handler="snapshots.delete",
        payload={"name": name, "id": row["id"]},
    )


def _check_deletable(scope: Scope, name: str, row: Row) -> None:
    """Raises 400 while it is made."""
    if row.get("jobid") and row.get("state") not in (_USABLE, "Error"):
        raise ApiError(400, f"The resource '{_path(scope, name)}' is not ready", "resourceNotReady")


@handler("snapshots.delete")
def do_delete(run: Run) -> None:
    name, identity = run.payload["name"], run.payload["id"]

    def check(scope: Scope) -> None:
        if row := _look(scope, identity):
            _check_deletable(scope, name, row)

    run.look("deletable", check)
    try:
        remove(run, "delete", identity)
    except CloudStackError as error:
        if error.code not in (431, 530, 536):
            raise
        path = _path(run.scope, name)
        text = f"The snapshot resource '{path}' cannot be deleted while it, or something of it, is being made."
        raise OperationError("RESOURCE_IN_USE_BY_ANOTHER_RESOURCE", text) from None


def remove(run: Run, step: str, identity: str) -> None:
    """Delete a snapshot; one that is gone by now is no failure."""
    try:
        run.job(step, "deleteSnapshot", id=identity)
    except CloudStackError:
        if run.look(f"{step}/there", lambda scope: _look(scope, identity) is not None):
            raise
