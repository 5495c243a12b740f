"""Machine types: CloudStack service offerings, and `custom-<cpus>-<mb>` by an offering with a free size."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from google.protobuf.message import Message

from gstack.compute.v1 import machine_types_pb2 as pb
from gstack.kernel.errors import invalid, not_found
from translator_service import places
from translator_service.cloudstack.catalog import Kind
from translator_service.cloudstack.rows import Row
from translator_service.collection import Items, Reading, gets, lists
from translator_service.gce.naming import number
from translator_service.gce.times import from_cloudstack
from translator_service.places import Zone
from translator_service.scope import Scope

_CUSTOM = re.compile(r"(?:[a-z0-9]+-)?custom-(\d{1,4})-(\d{1,7})")
# What GCE allows; CloudStack limits them by hypervisor and does not tell.
_DISKS, _DISKS_GB = 16, 64 * 1024


# MHz, where neither the offering nor GCE's name of the size tells.
_SPEED = "1000"


@dataclass(frozen=True)
class MachineType:
    """A resolved machine type. details: the free size to send with a deploy, empty for fixed ones."""

    name: str
    row: Row
    details: dict[str, str] = field(default_factory=dict)


def kind(scope: Scope) -> Kind:
    return Kind(
        "service offerings",
        300.0,
        lambda client: client.read_all("listServiceOfferings"),
        scope.environment.index,
    )


def _is_free(row: Row) -> bool:
    return bool(row.get("iscustomized"))


def in_zone(row: Row, zone: Zone) -> bool:
    """An offering without zones is for all of them; with zones it names them in a comma list."""
    return not row.get("zoneid") or zone.id in str(row["zoneid"]).split(",")


def _bound(row: Row, name: str, default: int) -> int:
    return int((row.get("serviceofferingdetails") or {}).get(name) or default)


def _fits(row: Row, cpus: int, memory: int) -> bool:
    """Whether an offering with a free size may have this one."""
    return (
        _is_free(row)
        and _bound(row, "mincpunumber", 1) <= cpus <= _bound(row, "maxcpunumber", 1 << 20)
        and _bound(row, "minmemory", 1) <= memory <= _bound(row, "maxmemory", 1 << 40)
    )


def _custom(scope: Scope, zone: Zone, cpus: int, memory: int) -> MachineType | None:
    """The size by an offering with bounds, else by one without."""
    fitting = [row for _, row in scope.catalog(kind(scope)).index if in_zone(row, zone) and _fits(row, cpus, memory)]
    fitting.sort(key=lambda row: not row.get("serviceofferingdetails"))
    if not fitting:
        return None
    details = {"cpuNumber": str(cpus), "memory": str(memory)}
    if not fitting[0].get("cpuspeed"):
        # An offering without a speed wants one with each machine, and refuses one otherwise.
        details["cpuSpeed"] = _SPEED
    return MachineType(f"custom-{cpus}-{memory}", fitting[0], details)


def resolve(scope: Scope, zone: Zone, text: str, field: str) -> MachineType:
    """What a request means by a machine type. Raises 404, and 400 for a free size that the zone does not offer."""
    name = places.name_in(scope, zone, text, field, "machineTypes")
    if match := _CUSTOM.fullmatch(name):
        custom = _custom(scope, zone, int(match[1]), int(match[2]))
        if custom is None:
            raise invalid(field, f"'{text}'. The zone '{zone.name}' offers no machine type of this size.")
        return custom
    row = scope.lookup(kind(scope), name)
    if row is None or not in_zone(row, zone) or _is_free(row):
        raise not_found(scope.links.path(zone.path, "machineTypes", name))
    return MachineType(scope.catalog(kind(scope)).index.name(row["id"]) or name, row)


def name_of(scope: Scope, zone: Zone, machine: Row) -> str:
    """Machine type of a row of listVirtualMachines."""
    index = scope.catalog(kind(scope)).index
    offering = machine.get("serviceofferingid", "")
    row = index.find(offering) if offering else None
    if row is not None and _is_free(row):
        return f"custom-{machine.get('cpunumber', 0)}-{machine.get('memory', 0)}"
    # An offering that was withdrawn is not listed any more; its machines still have its name.
    return index.name(offering) or scope.environment.name(str(machine.get("serviceofferingname", "unknown")))


def to_machine_type(scope: Scope, zone: Zone, name: str, row: Row, cpus: int = 0, memory: int = 0) -> pb.MachineType:
    """A row of listServiceOfferings; with the chosen size for one with a free size."""
    return pb.MachineType(
        kind="compute#machineType",
        id=number(f"{row['id']}/{name}") if cpus else number(row["id"]),
        creationTimestamp=from_cloudstack(row.get("created", "")),
        name=name,
        description=row.get("displaytext") or row["name"],
        guestCpus=cpus or int(row.get("cpunumber", 0)),
        memoryMb=memory or int(row.get("memory", 0)),
        imageSpaceGb=0,
        maximumPersistentDisks=_DISKS,
        maximumPersistentDisksSizeGb=_DISKS_GB,
        zone=zone.name,
        selfLink=scope.links.of(zone.path, "machineTypes", name),
        isSharedCpu=False,
        architecture="X86_64",
    )


def _find(scope: Scope, zone: Zone, name: str) -> Reading[Message]:
    found = resolve(scope, zone, name, "machineType")
    cpus, memory = int(found.details.get("cpuNumber", 0)), int(found.details.get("memory", 0))
    return Reading(lambda: to_machine_type(scope, zone, found.name, found.row, cpus, memory))


def _read(scope: Scope, zone: Zone | None) -> Reading[Items]:
    entry = scope.catalog(kind(scope))

    def build() -> Items:
        for place in [zone] if zone else places.all_zones(scope):
            for name, row in entry.index:
                if in_zone(row, place) and not _is_free(row):
                    yield place.path, to_machine_type(scope, place, name, row)

    return Reading(build, [entry, scope.catalog(places.kind(scope))])


gets(
    "MachineTypes",
    _find,
    calls=("listServiceOfferings",),
    differences="`custom-<cpus>-<mb>` is there when an offering with a free size has room for it.",
)
lists("MachineTypes", _read, calls=("listServiceOfferings",))
