"""images.insert: templates made of disks, snapshots and files; second names of other images' templates.

The operation: [snapshot of a running machine's disk ->] createTemplate or registerTemplate -> its tags -> what the
machine of the disk left in it is taken out [-> the snapshot goes]. When a step fails, what was made is taken away
again. Not in the package `images`, which disks, snapshots and instances are built on.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from google.protobuf.message import Message

from gstack.compute.v1 import images_pb2 as pb
from gstack.kernel.errors import ApiError, already_exists, invalid, unsupported
from translator_service import places
from translator_service.cloudstack.errors import CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.gce import naming
from translator_service.gce.labels import check_labels
from translator_service.gce.links import parse
from translator_service.gce.naming import number, slug
from translator_service.gce.times import cloudstack_time
from translator_service.kept import details, fields, tags
from translator_service.operations import engine
from translator_service.operations.cleanup import clear_away
from translator_service.operations.run import OperationError, Parked, Run, handler
from translator_service.places import Zone
from translator_service.resources import snapshots
from translator_service.resources.disks import find as disks
from translator_service.resources.disks import intents
from translator_service.resources.disks.view import DESTROYED_MACHINE, kept_of, size_gb
from translator_service.resources.images import references, second
from translator_service.resources.images.templates import architecture, kind, state_of, template_row, templates
from translator_service.resources.images.view import SOURCES, status
from translator_service.resources.tagged import check_kept
from translator_service.rpc import rpc
from translator_service.scope import Scope

_TEXT = 4096
# What users of CloudStack see of texts: no control characters, and none beyond three bytes.
_UNSHOWN = re.compile(r"[\x00-\x1f\x7f\U00010000-\U0010ffff]")
_FORMATS = {"qcow2": "QCOW2", "vhd": "VHD", "vhdx": "VHDX", "ova": "OVA", "raw": "RAW", "img": "RAW"}
_FILE = re.compile(r".*?\.(?P<ending>[a-z0-9]+)(?:\.(?:gz|bz2|zip))?", re.IGNORECASE)
_GOOGLES_FILE = re.compile(r"/storage/v1/b/(?P<bucket>[^/]+)/o/(?P<object>[^/]+)")
# How often a download is looked at, how long in one go, and until it is gone on with after that, in seconds.
_LOOK, _LOOKS, _LATER = 1.0, 10.0, 10.0
_PERCENT = re.compile(r"(\d{1,3})(?:\.\d+)?\s*%")
# Details of a machine that the template of its boot disk has too (recordings, e). Every machine made of the template
# would have them: ours, keys, passwords, and sizes.
_MACHINES_OWN = re.compile(
    r"gce\..*|SSH\..*|Encrypted\.Password|password|cpuNumber|cpuSpeed|memory|rootdisksize|deployvm|Message\..*"
    r"|(?:cpu|memory)OvercommitRatio"
)


@dataclass
class _Source:
    """What an image is made of. kind: "disk", "snapshot", "image" or "file"; id: CloudStack's, of a file its URL.

    size_gb: 0 when it is not known yet. template: the row that the image has its system from, {} for none. about: what
    is kept of the source with the image. inherited: what the image has of it unless it is asked to have another. more:
    for the operation.
    """

    kind: str
    id: str
    size_gb: int
    template: Row
    about: dict[str, Any]
    inherited: dict[str, Any] = field(default_factory=dict)
    os_type: str = ""
    more: dict[str, Any] = field(default_factory=dict)


@rpc(
    "Images.Insert",
    calls=(
        "listTemplates", "listVolumes", "listVirtualMachines", "listSnapshots", "listOsTypes", "listHypervisors",
        "createSnapshot", "createTemplate", "registerTemplate", "createTags", "updateTemplate", "deleteSnapshot",
    ),
    differences="An image made of a disk or a snapshot can be used in the zone of that. With forceCreate the disk of a "
    "running instance goes through a snapshot, which is deleted afterwards. An image made of an image, or of a disk "
    "that no instance has been made of, is another name for the same template; where that belongs to others, it is gone"
    " with it. A file is fetched by CloudStack, by http or https: a disk in a format of its hypervisors, told by the "
    "ending, never Google's tar archives. storageLocations are only kept.",
)  # fmt: skip
def insert(scope: Scope, request: pb.InsertImageRequest) -> Message:
    """Raises 400, 404, 409 and 412 for whatever the operation could not do."""
    wanted = request.resource
    naming.check_new_name(wanted.name)
    if wanted.family:
        naming.check_new_name(wanted.family, "resource.family")
    labels = check_labels(dict(wanted.labels), "resource.labels")
    path = f"global/images/{wanted.name}"
    _check_free(scope, wanted.name)
    if scope.store.is_busy(scope.project.key, path):
        raise already_exists(scope.links.path("global", "images", wanted.name))
    source = _source(scope, wanted, forced=request.forceCreate)
    _check_fits(wanted, source)
    about = source.inherited | fields.kept(wanted) | source.about
    about.pop("labels", None)
    about |= {"sourceType": "RAW"} | ({"sizeGb": source.size_gb} if source.size_gb else {})
    check_kept(about)
    payload = {
        "name": wanted.name,
        "kind": source.kind,
        "source": source.id,
        "force": request.forceCreate,
        "tags": {**tags.pack(tags.LABELS, labels), **tags.pack(tags.IMAGE, about)},
        "parameters": _parameters(wanted, source),
        "os_type": source.os_type,
        **source.more,
    }
    return engine.submit(scope, type="insert", target=path, handler="images.insert", payload=payload)


def _check_free(scope: Scope, name: str) -> None:
    """Raises 409 when an image of the project has the name. Asks CloudStack, whatever is known."""
    rows = scope.client.read_all("listTemplates", templatefilter="self", showunique="true")
    is_taken = any(slug(row["name"]) == name or row["name"] == name for answer in rows for row in answer.items)
    if is_taken or second.find(scope, name):
        raise already_exists(scope.links.path("global", "images", name))


# Sources


def _source(scope: Scope, wanted: pb.Image, *, forced: bool) -> _Source:
    given = [name for name in SOURCES if getattr(wanted, name)]
    if wanted.rawDisk.source:
        given.append("rawDisk.source")
    if len(given) != 1:
        text = "'{}'. Exactly one of sourceDisk, sourceSnapshot, sourceImage and rawDisk.source must be specified."
        raise invalid("resource", text.format(", ".join(given)))
    if given[0] == "sourceDisk":
        return _disk(scope, wanted.sourceDisk, forced=forced)
    if given[0] == "sourceSnapshot":
        return _snapshot(scope, wanted.sourceSnapshot)
    return _image(scope, wanted.sourceImage) if given[0] == "sourceImage" else _file(wanted.rawDisk)


def _disk(scope: Scope, text: str, *, forced: bool) -> _Source:
    zone, asked = disks.reference(scope, text, "resource.sourceDisk")
    if intent := intents.find(scope, zone, asked):
        path = scope.links.path(zone.path, "disks", intent.name)
        intents.check_unused(scope, zone, intent)
        row = templates(scope).find(intent.template)
        if row is None:
            raise ApiError(400, f"The image that the disk '{path}' is to be made from is gone.", "resourceNotReady")
        return _Source(
            "image", row["id"], size_gb(int(row.get("size") or 0)), row, _told("sourceDisk", path, intent.id)
        )
    shown, row, _ = disks.find(scope, zone, asked)
    _check_disk(scope, zone, shown, row, forced=forced)
    template = (templates(scope).find(row["templateid"]) if row.get("templateid") else None) or {}
    path = scope.links.path(zone.path, "disks", shown)
    return _Source(
        "disk",
        row["id"],
        size_gb(row.get("size", 0)),
        template,
        _told("sourceDisk", path, row["id"]),
        _inherited(kept_of(row)),
        more={"zone": zone.name, "disk": shown},
        os_type=str(template.get("ostypeid", "")),
    )


def _check_disk(scope: Scope, zone: Zone, name: str, row: Row, *, forced: bool) -> None:
    """Raises 400 for a disk that no image can be made of now."""
    disk = scope.links.path(zone.path, "disks", name)
    if row.get("state") == "Allocated":
        text = f"The disk '{disk}' has never been attached to an instance: there is nothing on it to make an image of."
        raise ApiError(400, f"Invalid resource usage: '{text}'.", "invalidUsage")
    if _is_running(row) and not forced:
        user = scope.links.path(zone.path, "instances", scope.machine_name(row["vmname"]))
        text = f"The disk resource '{disk}' is already being used by '{user}'"
        raise ApiError(400, text, "resourceInUseByAnotherResource", "resource.sourceDisk")


def _is_running(row: Row) -> bool:
    """Whether CloudStack makes no template of a volume because a machine may write to it."""
    return bool(row.get("vmname")) and row.get("vmstate") not in ("Stopped", *DESTROYED_MACHINE)


def _snapshot(scope: Scope, text: str) -> _Source:
    shown, row = snapshots.resolve(scope, text, "resource.sourceSnapshot")
    path = scope.links.path("global", "snapshots", shown)
    found = scope.client.read("listVolumes", id=row["volumeid"]).items if row.get("volumeid") else []
    template = (templates(scope).find(found[0]["templateid"]) if found and found[0].get("templateid") else None) or {}
    about = _told("sourceSnapshot", path, row["id"])
    inherited = _inherited(details.unpack(tags.of(row), tags.SNAPSHOT, {}))
    os_type = str(row.get("ostypeid") or template.get("ostypeid", ""))
    return _Source("snapshot", row["id"], size_gb(row.get("virtualsize") or 0), template, about, inherited, os_type)


def _image(scope: Scope, text: str) -> _Source:
    name = "resource.sourceImage"
    reference = parse(text, name)
    if reference.collection not in ("", "images", references.FAMILY):
        raise invalid(name, f"'{text}'. The URL does not name an image.")
    row = references.find(scope, reference)[0]
    project = reference.project or scope.project.name
    path = f"projects/{project}/global/images/{templates(scope).name(row['id']) or reference.name}"
    if not row.get("isready"):
        raise ApiError(400, f"The resource '{path}' is not ready", "resourceNotReady", name)
    if (state := state_of(row)) in ("OBSOLETE", "DELETED"):
        raise invalid(name, f"'{text}'. The image is {state.lower()} and cannot be used.")
    template = template_row(scope, row)
    about = _told("sourceImage", path, row["id"])
    return _Source("image", template["id"], size_gb(int(template.get("size") or 0)), template, about)


def _inherited(kept: dict[str, Any]) -> dict[str, Any]:
    return {key: kept[key] for key in ("licenses", "guestOsFeatures") if key in kept}


def _told(field: str, path: str, identity: str) -> dict[str, Any]:
    return {field: path, f"{field}Id": str(number(identity))}


def _file(raw: pb.Image.RawDisk) -> _Source:
    """The template's format by the ending of the URL."""
    name, url = "resource.rawDisk.source", raw.source
    try:
        parts = urlsplit(url)
    except ValueError:
        raise invalid(name, f"'{url}'. The URL is malformed.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise unsupported(
            name,
            f"'{url}'. Files are fetched by http or https only; there is no Cloud Storage to ask for others.",
        )
    if match := _GOOGLES_FILE.fullmatch(parts.path) if parts.hostname == "storage.googleapis.com" else None:
        # Where gcloud asks Google's API for a file, it can be fetched by everybody, if it is public.
        url = f"https://storage.googleapis.com/{match['bucket']}/{quote(unquote(match['object']))}"
    match = _FILE.fullmatch(urlsplit(url).path)
    form = _FORMATS.get(match["ending"].lower()) if match else None
    if form is None:
        endings = ", ".join(f".{ending}" for ending in _FORMATS)
        raise unsupported(
            name,
            f"'{raw.source}'. The file must be a disk in a format of the hypervisors, not a tar archive: the URL "
            f"must end in one of {endings}, or in one of these and .gz, .bz2 or .zip.",
        )
    if len(url) > 2048:
        raise invalid(name, "The URL has more than 2048 characters.")
    if raw.sha1Checksum and not re.fullmatch(r"[0-9a-f]{40}", raw.sha1Checksum):
        raise invalid("resource.rawDisk.sha1Checksum", f"'{raw.sha1Checksum}'. Must be 40 hexadecimal digits.")
    about = {"rawDisk": {"source": raw.source, "containerType": "TAR"}}
    if raw.sha1Checksum:
        about["rawDisk"]["sha1Checksum"] = raw.sha1Checksum
    more = {"format": form, "checksum": f"{{SHA-1}}{raw.sha1Checksum}" if raw.sha1Checksum else ""}
    return _Source("file", url, 0, {}, about, more=more)


def _check_fits(wanted: pb.Image, source: _Source) -> None:
    """Raises 400 for a size or an architecture that the image would not have."""
    size = wanted.diskSizeGb if wanted.HasField("diskSizeGb") else 0
    if size and source.kind == "file":
        raise unsupported("resource.diskSizeGb", f"'{size}'. The image has the size of the disk in the file.")
    if size and size < source.size_gb:
        text = f"'{size}'. The image cannot be smaller than what it is made of ({source.size_gb} GB)."
        raise invalid("resource.diskSizeGb", text)
    if size and size > source.size_gb:
        text = f"'{size}'. The image has the size of what it is made of ({source.size_gb} GB); disks may be larger."
        raise unsupported("resource.diskSizeGb", text)
    if wanted.architecture and source.template and wanted.architecture != architecture(source.template):
        raise invalid("resource.architecture", f"'{wanted.architecture}'. It is not the one of what it is made of.")


def _parameters(wanted: pb.Image, source: _Source) -> dict[str, str]:
    """Of createTemplate and registerTemplate alike."""
    text = _UNSHOWN.sub(" ", wanted.description).strip()[:_TEXT]
    found = {"name": wanted.name, "displaytext": text or wanted.name}
    # What the system can do, as the template says of whose disk this is.
    for key in ("passwordenabled", "isdynamicallyscalable", "requireshvm"):
        if key in source.template:
            found[key] = "true" if source.template[key] else "false"
    if wanted.architecture == "ARM64" or source.template.get("arch") == "aarch64":
        found["arch"] = "aarch64"
    return found


# The operation


@handler("images.insert")
def do_insert(run: Run) -> None:
    payload = run.payload
    name, made = payload["name"], dict[str, str]()
    run.look("name-free", lambda scope: _check_free(scope, name))
    if payload["kind"] == "image":
        _second_name(run)
        return
    try:
        if payload["kind"] == "file":
            _register(run, made)
        else:
            _create(run, made)
        run.set_target_id(number(made["template"]))
        run.job("tags", "createTags", resourceids=made["template"], resourcetype="Template", **_tags(run))
        run.scope.forget(kind(run.scope))
        if payload["kind"] == "file":
            _await_download(run, made["template"])
        else:
            _forget_machine(run, made["template"])
    except Exception:
        run.scope.forget(kind(run.scope))
        clear_away(run, _undo(run, made))
        raise
    run.scope.forget(kind(run.scope))
    if "snapshot" in made:
        clear_away(run, [(_temporary(name), partial(snapshots.remove, run, "snapshot/delete", made["snapshot"]))])


def _tags(run: Run) -> dict[str, str]:
    return tags.parameters(run.payload["tags"])


def _temporary(name: str) -> str:
    return f"The snapshot that the image '{name}' was made through"


def _undo(run: Run, made: dict[str, str]) -> list[tuple[str, Callable[[], object]]]:
    parts: list[tuple[str, Callable[[], object]]] = []
    if "template" in made:
        parts.append((f"The image '{run.payload['name']}'", partial(_remove, run, made["template"])))
    if "snapshot" in made:
        undo = partial(snapshots.remove, run, "undo-snapshot", made["snapshot"])
        parts.append((_temporary(run.payload["name"]), undo))
    return parts


def _remove(run: Run, template: str) -> None:
    """What failed may be gone already."""

    def is_there(scope: Scope) -> bool:
        return any(row["id"] == template for row in _rows(scope, template))

    if run.look("undo-look", is_there):
        run.job("undo-template", "deleteTemplate", id=template, forced="true")


def _rows(scope: Scope, template: str) -> list[Row]:
    """A row for each zone, none for one that is gone."""
    return scope.client.rows_of_id("listTemplates", template, templatefilter="self")


def _create(run: Run, made: dict[str, str]) -> None:
    """A template of a disk or a snapshot; made: ids of what there is, also when a step fails."""
    payload, source = run.payload, run.payload["source"]
    of = {"snapshotid": source}
    if payload["kind"] == "disk":
        of = {"volumeid": source}
        if run.look("disk", _look_at_disk(run)):
            disk = run.scope.links.path(places.resolve_zone(run.scope, payload["zone"]).path, "disks", payload["disk"])
            marked = {tags.EPHEMERAL: payload["name"]}
            made["snapshot"] = snapshots.take(run, "snapshot", source, disk, f"{payload['name']}-image", marked)
            of = {"snapshotid": made["snapshot"]}
    run.progress(30)
    os_type = payload["os_type"] or run.look("os-type", _default_os_type)
    try:
        done = run.job("template", "createTemplate", **payload["parameters"], **of, ostypeid=os_type)
    except CloudStackError as error:
        if error.entity:
            made["template"] = error.entity
        raise
    made["template"] = done["id"]
    run.progress(80)


def _look_at_disk(run: Run) -> Callable[[Scope], bool]:
    """Whether the disk needs a snapshot first, as it is when its turn comes."""
    payload = run.payload

    def look(scope: Scope) -> bool:
        zone = places.resolve_zone(scope, payload["zone"])
        rows = scope.client.read("listVolumes", id=payload["source"]).items
        if not rows:
            path = scope.links.path(zone.path, "disks", payload["disk"])
            raise OperationError("RESOURCE_NOT_FOUND", f"The resource '{path}' was not found", 404)
        _check_disk(scope, zone, payload["disk"], rows[0], forced=payload["force"])
        return _is_running(rows[0])

    return look


def _default_os_type(scope: Scope) -> str:
    wanted = scope.environment.settings.image_os_type
    for row in scope.client.read("listOsTypes", description=wanted).items:
        if row.get("description", "").lower() == wanted.lower():
            return str(row["id"])
    raise OperationError("INVALID_USAGE", f"There is no OS type '{wanted}' (setting image_os_type).")


def _forget_machine(run: Run, template: str) -> None:
    """Take out what the machine of the disk left in the template, or every machine made of it had that too."""
    found = run.look("details", lambda scope: next((row.get("details") or {} for row in _rows(scope, template)), {}))
    stay = {key: value for key, value in found.items() if not _MACHINES_OWN.fullmatch(key)}
    if stay == found:
        return
    run.call("clean", "updateTemplate", id=template, **(details.parameters(stay) or {"cleanupdetails": "true"}))


# Files


def _register(run: Run, made: dict[str, str]) -> None:
    payload = run.payload
    os_type = run.look("os-type", _default_os_type)

    def register(scope: Scope) -> str:
        # It has no job to ask for: what an interrupted try has made has our name, which was free.
        for answer in scope.client.read_all("listTemplates", templatefilter="self", name=payload["name"]):
            for row in answer.items:
                return str(row["id"])
        zones = ",".join(zone.id for zone in places.all_zones(scope))
        answer = scope.client.write(
            "registerTemplate",
            {
                **payload["parameters"],
                "url": payload["source"],
                "format": payload["format"],
                "hypervisor": _hypervisor(scope),
                "ostypeid": os_type,
                "zoneids": zones,
                **({"checksum": payload["checksum"]} if payload["checksum"] else {}),
            },
        )
        return str(answer.items[0]["id"])

    made["template"] = run.look("template", register)
    run.progress(20)


def _hypervisor(scope: Scope) -> str:
    if setting := scope.environment.settings.image_hypervisor:
        return setting
    rows = scope.client.read("listHypervisors").items
    if not rows:
        raise OperationError("INVALID_USAGE", "No hypervisor is known (setting image_hypervisor).")
    return str(rows[0]["name"])


def _await_download(run: Run, template: str) -> None:
    """Returns when it can be used in all zones. It may take hours, in which nobody's thread waits for it."""
    until = time.monotonic() + _LOOKS
    while True:
        rows = run.scope.client.read("listTemplates", templatefilter="self", id=template).items
        if not rows:
            raise OperationError("RESOURCE_NOT_FOUND", "The image was deleted while its file was fetched.", 404)
        if all(row.get("isready") for row in rows):
            return
        for row in rows:
            if status(row) == "FAILED":
                text = f"The image could not be made of '{run.payload['source']}': {row['status'].strip()}"
                raise OperationError("INVALID_USAGE", text)
        percents = [int(match[1]) for row in rows if (match := _PERCENT.search(row.get("status", "")))]
        if percents:
            run.progress(20 + min(*percents, 100) * 7 // 10)
        if time.monotonic() > until:
            raise Parked("the file is being fetched", _LATER)
        run.pause(_LOOK)


# Second names


def _second_name(run: Run) -> None:
    payload = run.payload

    def add(scope: Scope) -> str:
        scope.forget(kind(scope))
        if templates(scope).find(payload["source"]) is None:
            raise OperationError("RESOURCE_NOT_FOUND", "The image that it is to be made of is gone.", 404)
        second.check_room(scope)
        second.add(scope, identity, payload["name"], payload["source"], created, payload["tags"])
        return identity

    # The same after a crash.
    identity = str(uuid.uuid5(uuid.UUID(run.job_id("second")), payload["name"]))
    created = run.step("created", lambda: cloudstack_time(time.time()))
    run.set_target_id(number(run.look("second", add)))
    run.scope.forget(kind(run.scope))
