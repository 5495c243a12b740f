"""The disks of an instance that is to be made: what each is at submit, and how they are made and attached.

CloudStack makes a root volume with its machine, from a template. Whatever else the machine is to boot from is put in
its place (roots.py). Further disks are volumes of their own, made while the machine is, and attached before it starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.json_format import ParseDict

from gstack.compute.v1 import disks_pb2
from gstack.compute.v1 import instances_pb2 as pb
from gstack.kernel.errors import invalid, required, unsupported
from translator_service.cloudstack.errors import CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.gce import naming
from translator_service.gce.labels import check_labels
from translator_service.gce.links import parse
from translator_service.kept import details as kept
from translator_service.kept import fields
from translator_service.operations.run import Run
from translator_service.places import Zone
from translator_service.resources import disk_types, new_disks
from translator_service.resources.disk_types import DiskType
from translator_service.resources.disks import intents
from translator_service.resources.disks import view as disk_view
from translator_service.resources.images import references, templates
from translator_service.resources.instances import attached, roots, sources
from translator_service.resources.instances.attached import SCRATCH
from translator_service.resources.instances.disks import name_disk, refused_attach
from translator_service.resources.instances.view import DETAILS
from translator_service.resources.new_disks import Fields
from translator_service.resources.tagged import check_kept
from translator_service.scope import Scope

# Of a disk that is asked for without a type.
_DEFAULT_TYPE = DiskType(disk_types.STANDARD, None)
# Of one that nobody said a size of: that of GCE's.
_SCRATCH_GB = 375
_LOCAL = "local-ssd"


@dataclass
class Plan:
    """boot: what is kept of the boot disk, its name in it. parameters: of deployVirtualMachine. payload: what the
    operation needs. names: of the disks that it makes."""

    boot: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    payload: dict[str, Any] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    @property
    def preview(self) -> dict[str, Any]:
        """What is kept of the further disks, by anything: their volumes are not known."""
        return {f"{position}": one["about"] | {"sizeGb": one["size"]} for position, one in enumerate(self.data)}

    @property
    def data(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.payload.setdefault("data", [])
        return found

    @property
    def make(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.payload.setdefault("make", [])
        return found


# Submit


def plan(scope: Scope, zone: Zone, wanted: pb.Instance, machine: Row) -> Plan:
    """machine: its service offering. Raises 400, 404, and 409 for a name that another disk of the request has."""
    found = Plan()
    disks = list(pb.Instance(disks=wanted.disks).disks)
    if not disks and wanted.image:
        # API version v1beta16: the image stands in the instance itself, and the disk goes with it.
        asked = references.resolve(scope, wanted.image, zone, "resource.image")
        _from_image(
            found, wanted.name, pb.AttachedDisk(autoDelete=True), asked, _DEFAULT_TYPE, "resource.image", machine
        )
        return found
    if len(disks) > sources.MOST:
        raise invalid("resource.disks", f"An instance has at most {sources.MOST} disks.")
    boots = [position for position, disk in enumerate(disks) if disk.boot] or ([0] if disks else [])
    if len(boots) != 1:
        raise invalid("resource.disks", "exactly one boot disk must be specified.")
    _check_devices(disks)
    order = [*boots, *(position for position in range(len(disks)) if position not in boots)]
    taken = {disk.deviceName for disk in disks if disk.deviceName}
    for index, position in enumerate(order):
        disk, where = disks[position], f"resource.disks[{position}]"
        if not disk.deviceName:
            disk.deviceName = attached.free_device_name(taken, index)
            taken.add(disk.deviceName)
        if index == 0:
            _boot_disk(scope, zone, found, wanted.name, disk, where, machine)
        else:
            _further_disk(scope, zone, found, wanted.name, disk, where, index)
    _check_once(found)
    if found.data or "root" in found.payload:
        # Put in, or attached, before the first start: a guest finds all its disks when it boots.
        found.parameters["startvm"] = "false"
    return found


def _check_devices(disks: Sequence[pb.AttachedDisk]) -> None:
    seen: set[str] = set()
    for position, disk in enumerate(disks):
        sources.check_mode(disk, f"resource.disks[{position}]")
        if disk.deviceName in seen:
            text = f"'{disk.deviceName}'. Another disk of the instance has this device name."
            raise invalid(f"resource.disks[{position}].deviceName", text)
        seen |= {disk.deviceName} if disk.deviceName else set()


def _check_once(found: Plan) -> None:
    names = [found.boot["name"], *(one["about"]["name"] for one in found.data)]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise invalid("resource.disks", f"Two disks of the instance are called '{twice}'.")


def _boot_disk(
    scope: Scope, zone: Zone, found: Plan, instance: str, disk: pb.AttachedDisk, where: str, machine: Row
) -> None:
    initial, below = disk.initializeParams, f"{where}.initializeParams"
    if disk.type == SCRATCH:
        raise unsupported(f"{where}.type", "the boot disk must be PERSISTENT.")
    if disk.source:
        _boot_source(scope, zone, found, disk, where, machine)
        return
    _check_params(initial, below)
    if initial.sourceSnapshot:
        if initial.sourceImage:
            raise invalid(f"{below}.sourceSnapshot", "A disk is made from an image or from a snapshot.")
        made = _from_snapshot(scope, zone, found, initial.diskName or instance, disk, where)
        _put_root(scope, zone, found, {"make": made["make"]}, made["name"], made["volume"], below)
        found.boot = _record(disk, made["name"], sizeGb=made["size"])
        return
    if not initial.sourceImage:
        raise required(f"{below}.sourceImage")
    asked = references.resolve(scope, initial.sourceImage, zone, f"{below}.sourceImage")
    if initial.architecture and initial.architecture != templates.architecture(asked.row):
        raise invalid(f"{below}.architecture", f"'{initial.architecture}'. It is not the image's.")
    disk_type = _DEFAULT_TYPE
    if initial.diskType:
        disk_type = disk_types.for_boot_disk(scope, zone, initial.diskType, f"{below}.diskType")
    _from_image(found, instance, disk, asked, disk_type, below, machine)


def _record(disk: pb.AttachedDisk, name: str, **more: Any) -> dict[str, Any]:
    if disk.initializeParams.licenses:
        more["licenses"] = list(disk.initializeParams.licenses)
    return attached.record(disk, name, disk.deviceName or "persistent-disk-0", **more)


def _check_params(initial: pb.AttachedDiskInitializeParams, below: str) -> None:
    if initial.diskName:
        naming.check_new_name(initial.diskName, f"{below}.diskName")
    check_labels(dict(initial.labels), f"{below}.labels")
    check_kept(fields.kept(initial), below)


def _from_image(
    found: Plan,
    instance: str,
    disk: pb.AttachedDisk,
    asked: references.Asked,
    disk_type: DiskType,
    below: str,
    machine: Row,
) -> None:
    parameters = {"templateid": asked.row["id"]}
    if disk_type.row is not None:
        parameters["overridediskofferingid"] = disk_type.row["id"]
    wanted = (disk.initializeParams.diskSizeGb or 0) or disk.diskSizeGb
    size = _boot_size(wanted, asked.row, disk_type, f"{below}.diskSizeGb", machine, parameters)
    name = disk.initializeParams.diskName or instance
    found.boot, found.parameters = _record(disk, name, sizeGb=size), parameters
    found.payload["disk_tags"] = disk_view.tags_for(name, disk.initializeParams, disk.guestOsFeatures, disk_type, asked)
    found.names.append(name)


def _boot_size(
    size: int, template: Row, disk_type: DiskType, where: str, machine: Row, parameters: dict[str, str]
) -> int:
    """The size in GB that the disk will have, and the parameter that makes it so. size: what was asked for, or 0."""
    least = disk_view.size_gb(int(template.get("size", 0)))
    if size and size < least:
        raise invalid(where, f"'{size}'. Requested disk size cannot be smaller than the image size ({least} GB)")
    # Some offerings have a size that no request changes.
    fixed, what = int(machine.get("rootdisksize") or 0), "machine type"
    if disk_type.row is not None:
        fixed, what = _fixed(disk_type.row), "disk type"
    if fixed:
        if size and size != fixed:
            raise invalid(where, f"'{size}'. With this {what} the disk has {fixed} GB.")
        return fixed
    if disk_type.row is not None or (size and size != least):
        parameters["rootdisksize"] = str(size or least)
    return size or least


def _fixed(offering: Row) -> int:
    """The size that an offering gives a disk, 0 when it is free."""
    return 0 if offering.get("iscustomized") else int(offering.get("disksize") or 0)


def _boot_source(scope: Scope, zone: Zone, found: Plan, disk: pb.AttachedDisk, where: str, machine: Row) -> None:
    name, row = sources.find(scope, zone, disk.source, f"{where}.source")
    sources.check(disk, where, row)
    size = disk_view.size_gb(int(row.get("size", 0)))
    found.boot = _record(disk, name, sizeGb=size)
    if not row.get(intents.MARK):
        _put_root(scope, zone, found, {"id": row["id"]}, name, row, where)
        return
    # Made with its machine, as one from an image is.
    template = scope.lookup(templates.kind(scope), row["templateid"])
    if template is None:
        raise invalid(f"{where}.source", f"'{disk.source}'. The image that it is to be made from is gone.")
    offering = scope.lookup(disk_types.kind(scope), row["diskofferingid"]) if row.get("diskofferingid") else None
    found.parameters = {"templateid": row["templateid"]}
    if offering is not None:
        found.parameters["overridediskofferingid"] = offering["id"]
    _boot_size(size, template, DiskType("", offering), f"{where}.source", machine, found.parameters)
    found.payload |= {"intent": name, "kept": found.boot}


def _put_root(
    scope: Scope, zone: Zone, found: Plan, root: dict[str, Any], name: str, volume: Row | None, where: str
) -> None:
    template = roots.template_for(scope, zone, (volume or {}).get("templateid"), where)
    found.parameters = {"templateid": template["id"]}
    # CloudStack deploys from volumes on KVM only; that it is KVM is known where the volume's own template is.
    direct = "id" in root and template["id"] == (volume or {}).get("templateid") and roots.may_deploy_from(template)
    found.payload["root"] = {"name": name, "direct": direct, **root}


def _further_disk(
    scope: Scope, zone: Zone, found: Plan, instance: str, disk: pb.AttachedDisk, where: str, index: int
) -> None:
    initial, below = disk.initializeParams, f"{where}.initializeParams"
    if disk.source:
        name, row = sources.find(scope, zone, disk.source, f"{where}.source")
        if row.get(intents.MARK):
            raise unsupported(
                f"{where}.source",
                "the disk is to be made from an image, which happens with its machine only: it can be the boot disk of "
                "an instance.",
            )
        sources.check(disk, where, row)
        size = disk_view.size_gb(int(row.get("size", 0)))
        found.data.append({"id": row["id"], "size": size, "about": _record(disk, name)})
        return
    _check_params(initial, below)
    if initial.sourceImage:
        why = "only the boot disk of an instance can be made from an image here."
        raise unsupported(f"{below}.sourceImage", why)
    tail = f"-{index}"
    name = initial.diskName or f"{instance[: naming.MAX_LENGTH - len(tail)].rstrip('-')}{tail}"
    if initial.sourceSnapshot:
        if disk.type == SCRATCH:
            raise invalid(f"{below}.sourceSnapshot", "A scratch disk is blank.")
        made = _from_snapshot(scope, zone, found, name, disk, where)
        found.data.append({"make": made["make"], "size": made["size"], "about": _record(disk, name)})
        return
    if disk.type == SCRATCH:
        disk.autoDelete = True
        disk_type, usual = _local_type(scope, zone, initial.diskType, where), _SCRATCH_GB
    else:
        disk_type = disk_types.resolve(scope, zone, initial.diskType or disk_types.STANDARD, f"{below}.diskType")
        usual = 0
    if disk_type.row is None:
        raise invalid(f"{below}.diskType", f"'{disk_type.name}'. No offering of the zone is of this type.")
    asked = initial.diskSizeGb or disk.diskSizeGb or (usual if disk_type.row.get("iscustomized") else 0)
    size = disk_types.size_of(scope, disk_type.row, asked, f"{below}.diskSizeGb")
    create = new_disks.of_offering(name, zone, disk_type.row, size)
    made_tags = disk_view.tags_for(name, initial, disk.guestOsFeatures, disk_type, None)
    found.make.append({"name": name, "create": create, "tags": made_tags})
    found.names.append(name)
    about = _record(disk, name) | ({"type": SCRATCH} if disk.type == SCRATCH else {})
    found.data.append({"make": len(found.make) - 1, "size": size, "about": about})


def _local_type(scope: Scope, zone: Zone, text: str, where: str) -> DiskType:
    """The offering of a scratch disk: on the storage of the host."""

    def is_local(row: Row) -> bool:
        return bool(row.get("storagetype") == "local")

    if text and parse(text, f"{where}.initializeParams.diskType").name != _LOCAL:
        found = disk_types.resolve(scope, zone, text, f"{where}.initializeParams.diskType")
        if found.row is not None and is_local(found.row):
            return found
        why = f"'{text}'. Scratch disks are of a type that is on the local storage of hosts."
        raise invalid(f"{where}.initializeParams.diskType", why)
    index = scope.catalog(disk_types.kind(scope)).index
    rows = [row for _, row in index if is_local(row) and row.get("zoneid") in (None, zone.id)]
    if not rows:
        raise unsupported(f"{where}.type", "no disk type of this zone is on the local storage of hosts.")
    # The one with a free size, if there is one.
    row = min(rows, key=lambda row: (not row.get("iscustomized"), str(row.get("created", ""))))
    return DiskType(_LOCAL, row)


def _from_snapshot(
    scope: Scope, zone: Zone, found: Plan, name: str, disk: pb.AttachedDisk, where: str
) -> dict[str, Any]:
    """A disk that is to be made from a snapshot, by the rules of disks.insert."""
    initial, below = disk.initializeParams, f"{where}.initializeParams"
    kept_fields = {key: value for key, value in fields.kept(initial).items() if key in disk_view.KEPT}
    wanted = ParseDict(kept_fields, disks_pb2.Disk())
    wanted.MergeFrom(
        disks_pb2.Disk(
            name=name,
            labels=initial.labels,
            type=initial.diskType,
            sizeGb=initial.diskSizeGb or disk.diskSizeGb,
            sourceSnapshot=initial.sourceSnapshot,
        )
    )
    wanted.architecture = initial.architecture
    there = {one.type for one in wanted.guestOsFeatures}
    wanted.guestOsFeatures.extend(one for one in disk.guestOsFeatures if one.type not in there)
    named = Fields(f"{below}.diskSizeGb", f"{below}.diskType", f"{below}.sourceSnapshot", f"{below}.architecture")
    made = new_disks.from_snapshot(scope, zone, wanted, named)
    grow = int(made["grow"]["size"]) if "grow" in made else 0
    found.make.append(
        {"name": name, "create": made["parameters"], "tags": made["tags"], "grow": grow, "offering": made["offering"]}
    )
    found.names.append(name)
    return {"make": len(found.make) - 1, "name": name, "size": made["size"], "volume": made["disk"]}


# The operation


def claimed(run: Run, zone: Zone, parameters: dict[str, str]) -> dict[str, str]:
    """The parameters of a machine whose boot disk is made now, from what its intent says by now; sets the tags."""
    if (name := run.payload.get("intent")) is None:
        return parameters
    # Of one that became another machine's before, this tells whose it is.
    run.look("root-there", lambda scope: sources.find(scope, zone, name, "disks")[0])
    intent = intents.claim(run, zone, name)
    run.payload["disk_tags"] = intent.volume_tags
    boot = run.payload["kept"]
    if intent.size_gb == boot["sizeGb"]:
        return parameters
    grown = kept.parameters(kept.pack(kept.DISK, {**boot, "sizeGb": intent.size_gb}))
    return {**parameters, **grown, "rootdisksize": str(intent.size_gb)}


def make(run: Run, position: int) -> dict[str, Any]:
    """Make one of the disks of the payload, beside others: a part of a step."""
    one = run.payload["make"][position]

    def tag(volume: str, values: dict[str, str] = one["tags"]) -> None:
        run.tag(f"tag-disk/{position}", "Volume", volume, values)

    # Which type a snapshot's disk has, and so what its tags say, is known when it is there.
    of_snapshot = "offering" in one
    if of_snapshot:
        found = run.follow(f"disk/{position}", "createVolume", **one["create"])
    else:
        found = run.follow_with(f"disk/{position}", "createVolume", tag, **one["create"])
    try:
        if of_snapshot:
            if new_disks.is_of_another_type(one, found):
                raise CloudStackError(431, new_disks.ANOTHER_TYPE)
            tag(found["id"], new_disks.tags_of(run.scope, one, found))
        elif not found["beside"]:
            tag(found["id"])
        if one.get("grow"):
            run.follow(f"grow-disk/{position}", "resizeVolume", id=found["id"], size=str(one["grow"]))
    except CloudStackError as error:
        error.entity = found["id"]
        raise
    return {"id": found["id"]}


def key(position: int) -> str:
    """Of one of the disks of the payload among what an operation has made."""
    return f"disk/{position}"


def root_of(run: Run, made: dict[str, str]) -> str | None:
    """The volume that a machine is to boot from, None for one that is made with it."""
    root = run.payload.get("root")
    return None if root is None else root.get("id") or made.get(key(root.get("make", -1)))


def attach(run: Run, zone: Zone, machine: str, made: dict[str, str]) -> None:
    """Put the disks of a new machine into it, say so in its details, and start it."""
    payload = run.payload
    if (root := root_of(run, made)) is not None:
        name = payload["root"]["name"]
        if "id" in payload["root"]:
            volume = run.look("root-disk", lambda scope: roots.usable(scope, zone, name, root, machine))
            name_disk(run, "name-root", volume, name)
        roots.put_in(run, zone, machine, root, name, made)
    about: dict[str, dict[str, Any]] = {}
    for position, one in enumerate(payload["data"]):
        identity = one.get("id") or made[key(one["make"])]
        try:
            run.job(f"attach/{position}", "attachVolume", id=identity, virtualmachineid=machine)
        except CloudStackError as error:
            raise refused_attach(run, zone, error, one["about"]["name"]) from None
        about[identity] = one["about"]
    if about:
        rows = run.read("row", "listVirtualMachines", id=machine, details=DETAILS)
        update = kept.parameters_of_update(rows[0].get("details") or {}, {kept.DISKS: about})
        run.call("disk-details", "updateVirtualMachine", id=machine, **update)
    roots.start(run, machine)
