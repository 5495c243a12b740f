"""The disks of an instance: volumes of its machine, and what GCE says of each, kept in the machine's details.

`gce.disk` is of the boot disk and has its name and size: a machine with nothing else is shown without a question about
volumes. `gce.disks` has the data disks by the uuids of their volumes; one attached elsewhere is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from gstack.compute.v1 import instances_pb2 as pb
from translator_service.cloudstack.client import Answer
from translator_service.cloudstack.rows import Row
from translator_service.gce import naming
from translator_service.kept import details as kept
from translator_service.kept import fields, tags
from translator_service.places import Zone
from translator_service.resources.disks import view as disk_view
from translator_service.resources.disks.find import names_of, of_machine
from translator_service.resources.images import templates
from translator_service.scope import Scope

SCRATCH = "SCRATCH"
_SETTINGS = fields.names(pb.AttachedDisk.DESCRIPTOR) - {"initializeParams"}


def disk_of(row: Row) -> dict[str, Any]:
    """What is kept of the boot disk; {} for a machine made elsewhere, and for one without."""
    found: dict[str, Any] = kept.unpack(row.get("details") or {}, kept.DISK, {})
    return found if {"name", "sizeGb"} <= found.keys() else {}


def data_disks_of(row: Row) -> dict[str, dict[str, Any]]:
    """What is kept of data disks, by the uuids of their volumes, whether they are still attached or not."""
    found: dict[str, Any] = kept.unpack(row.get("details") or {}, kept.DISKS, {})
    return {key: value for key, value in found.items() if isinstance(value, dict)}


@dataclass(frozen=True)
class Attached:
    """volume: a row of listVolumes. name: of the disk. about: what is kept of it."""

    volume: Row
    name: str
    about: dict[str, Any]

    @property
    def is_boot(self) -> bool:
        return bool(self.volume.get("type") == "ROOT")

    @property
    def is_scratch(self) -> bool:
        return self.about.get("type") == SCRATCH

    @property
    def device_name(self) -> str:
        return str(self.about.get("deviceName") or self.name)

    @property
    def auto_delete(self) -> bool:
        """A root volume goes with its machine in CloudStack, and others stay, where nothing else was said."""
        return bool(self.about.get("autoDelete", self.is_boot))


def attached(row: Row, volumes: Sequence[Row] | None, name: Callable[[str], str | None]) -> list[Attached]:
    """The disks of a machine, the boot disk first, the others in the order of their devices.

    volumes: None when the details tell all. name: of a volume by its uuid, where it is known among those of its zone.
    """
    boot, data = disk_of(row), data_disks_of(row)
    if volumes is None:
        volumes = [_of_details("ROOT", boot, templateid=row.get("templateid"))] if boot else []
        volumes += [_of_details("DATADISK", about, id=key) for key, about in data.items()]
        return [Attached(one, str(one["name"]), data.get(one.get("id", ""), boot)) for one in volumes]
    ordered = sorted(volumes, key=lambda one: (one.get("type") != "ROOT", int(one.get("deviceid", 0))))
    return [
        # What is kept of the boot disk is its name when there is no better word: the volume's own is what finds it.
        Attached(
            one,
            name(one["id"]) or disk_view.name_of(one),
            boot if one.get("type") == "ROOT" else data.get(one["id"], {}),
        )
        for one in ordered
    ]


def _of_details(type: str, about: dict[str, Any], **more: Any) -> Row:
    """What there is of a row of listVolumes as long as none was asked for."""
    return {"type": type, "name": about.get("name", ""), "size": int(about.get("sizeGb", 0)) << 30, **more}


def add_to(scope: Scope, zone: Zone, instance: pb.Instance, disks: Sequence[Attached]) -> None:
    for position, disk in enumerate(disks):
        shown = instance.disks.add(
            kind="compute#attachedDisk",
            type=SCRATCH if disk.is_scratch else "PERSISTENT",
            mode="READ_WRITE",
            deviceName=disk.device_name,
            index=position,
            boot=disk.is_boot,
            autoDelete=disk.auto_delete,
            interface="SCSI",
            diskSizeGb=disk_view.size_gb(int(disk.volume.get("size", 0))),
            architecture=templates.architecture_of(scope, disk.volume.get("templateid")),
        )
        if not disk.is_scratch:
            shown.source = scope.links.of(zone.path, "disks", disk.name)
        licenses = disk.about.get("licenses") or disk_view.kept_of(disk.volume).get("licenses")
        if isinstance(licenses, list):
            shown.licenses.extend(one for one in licenses if isinstance(one, str))
        fields.put(shown, disk.about, _SETTINGS)


# Reading


def is_told_by_details(row: Row) -> bool:
    """Whether there is no disk to ask CloudStack about."""
    return bool(disk_of(row)) and not data_disks_of(row)


def of_instance(scope: Scope, zone: Zone, row: Row, shown: str) -> tuple[list[Row], dict[str, str], list[Answer]]:
    """(volumes of a machine, their names by uuid, the answers they came from). shown: the machine's GCE name.

    Names of disks attached here are kept, or in tags; of others it is found out which of several have them.
    """
    found: dict[str, str] = {}
    if disk_of(row):
        answer = scope.client.read("listVolumes", virtualmachineid=row["id"])
        volumes, answers = [one for one in answer.items if disk_view.is_shown(one)], [answer]
    else:
        volumes, found, answers = of_machine(scope, zone, row, shown)
    data = data_disks_of(row)
    unknown = [one for one in volumes if one.get("type") != "ROOT" and not _keep(found, one, data.get(one["id"], {}))]
    if unknown:
        more, others = names_of(scope, zone, unknown)
        found, answers = found | more, answers + others
    return volumes, found, answers


def _keep(found: dict[str, str], volume: Row, about: dict[str, Any]) -> bool:
    """Whether the name that a disk had when it was attached is its name still: others may not have taken it since."""
    own, name = disk_view.name_of(volume), about.get("name")
    if name in (own, naming.with_suffix(own, volume["id"])):
        found[volume["id"]] = str(name)
    elif tags.NAME in tags.of(volume):
        found[volume["id"]] = own
    return volume["id"] in found


# Keeping


def record(disk: pb.AttachedDisk, name: str, device_name: str, **more: Any) -> dict[str, Any]:
    """What is kept of a disk, as fields of AttachedDisk; besides them its name."""
    return {
        "name": name,
        "autoDelete": disk.autoDelete if disk.HasField("autoDelete") else False,
        "deviceName": device_name,
        "interface": "SCSI",
        **more,
        **{key: value for key, value in fields.kept(disk).items() if key not in ("initializeParams", "deviceName")},
    }


def free_device_name(taken: Collection[str], position: int) -> str:
    """As GCE names devices that nobody named. position: among the disks of the instance."""
    while f"persistent-disk-{position}" in taken:
        position += 1
    return f"persistent-disk-{position}"


def changes(
    row: Row,
    there: Sequence[Row],
    *,
    boot: dict[str, Any] | None = None,
    data: dict[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The details of a machine with other words about its disks.

    there: all its volumes; what is kept of others is dropped, and one that nothing is kept of is noted, so that it is
    asked for. boot: of the boot disk, {} for none. data: by uuid, besides those that are kept already.
    """
    known = {**data_disks_of(row), **(data or {})}
    found = {kept.DISKS: {one["id"]: known.get(one["id"], {}) for one in there if one.get("type") != "ROOT"}}
    return found | ({kept.DISK: boot} if boot is not None else {})
