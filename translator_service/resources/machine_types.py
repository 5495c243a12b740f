"""Machine types: CloudStack service offerings, and Google's names by an offering of their size.

Of Google's there are the predefined ones (`e2-medium`), `custom-<cpus>-<mb>` with or without a series before it and
`-ext` after it, and `e2-custom-<micro, small or medium>-<mb>`, which has two CPUs. Such a name is a size, and stands
for the offering that the operator maps to it, for one of exactly this size, or for one with a free size and room for
it; lists do not show them. What a series means besides its size (the processor, the share of it, how much memory a CPU
may have) CloudStack does not know.
"""

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

_CUSTOM = re.compile(r"(?:[a-z][a-z0-9]*-)?custom-(\d{1,4})-(\d{1,7})(?:-ext)?")
# A share of two CPUs, with memory of choice.
_SHARED_CUSTOM = re.compile(r"e2-custom-(?:micro|small|medium)-(\d{1,7})")


# MB of memory for each CPU, and the numbers of CPUs, of Google's predefined machine types.
_FAMILIES: dict[str, tuple[float, tuple[int, ...]]] = {
    "e2-standard": (4096, (2, 4, 8, 16, 32)),
    "e2-highmem": (8192, (2, 4, 8, 16)),
    "e2-highcpu": (1024, (2, 4, 8, 16, 32)),
    "n1-standard": (3840, (1, 2, 4, 8, 16, 32, 64, 96)),
    "n1-highmem": (6656, (2, 4, 8, 16, 32, 64, 96)),
    "n1-highcpu": (921.6, (2, 4, 8, 16, 32, 64, 96)),
    "n2-standard": (4096, (2, 4, 8, 16, 32, 48, 64, 80, 96, 128)),
    "n2-highmem": (8192, (2, 4, 8, 16, 32, 48, 64, 80, 96)),
    "n2-highcpu": (1024, (2, 4, 8, 16, 32, 48, 64, 80, 96)),
    "n2d-standard": (4096, (2, 4, 8, 16, 32, 48, 64, 80, 96, 128, 224)),
    "n2d-highmem": (8192, (2, 4, 8, 16, 32, 48, 64, 80, 96)),
    "n2d-highcpu": (1024, (2, 4, 8, 16, 32, 48, 64, 80, 96, 128, 224)),
    "n4-standard": (4096, (2, 4, 8, 16, 32, 48, 64, 80)),
    "n4-highmem": (8192, (2, 4, 8, 16, 32, 48, 64, 80)),
    "n4-highcpu": (2048, (2, 4, 8, 16, 32, 48, 64, 80)),
    "c2-standard": (4096, (4, 8, 16, 30, 60)),
    "c2d-standard": (4096, (2, 4, 8, 16, 32, 56, 112)),
    "c2d-highmem": (8192, (2, 4, 8, 16, 32, 56, 112)),
    "c2d-highcpu": (2048, (2, 4, 8, 16, 32, 56, 112)),
    "c3-standard": (4096, (4, 8, 22, 44, 88, 176)),
    "c3-highmem": (8192, (4, 8, 22, 44, 88, 176)),
    "c3-highcpu": (2048, (4, 8, 22, 44, 88, 176)),
    "c3d-standard": (4096, (4, 8, 16, 30, 60, 90, 180, 360)),
    "c3d-highmem": (8192, (4, 8, 16, 30, 60, 90, 180, 360)),
    "c3d-highcpu": (2048, (4, 8, 16, 30, 60, 90, 180, 360)),
    "t2d-standard": (4096, (1, 2, 4, 8, 16, 32, 48, 60)),
}
_SHARED = {
    "e2-micro": (2, 1024),
    "e2-small": (2, 2048),
    "e2-medium": (2, 4096),
    "f1-micro": (1, 614),
    "g1-small": (1, 1740),
}


# CPUs and MB of each of Google's predefined machine types.
PREDEFINED = {
    f"{family}-{cpus}": (cpus, round(cpus * memory)) for family, (memory, sizes) in _FAMILIES.items() for cpus in sizes
} | _SHARED
# What GCE allows; CloudStack limits them by hypervisor and does not tell.
_DISKS, _DISKS_GB = 16, 64 * 1024


# MHz, where neither the offering nor GCE's name of the size tells.
_SPEED = "1000"


@dataclass(frozen=True)
class MachineType:
    """A resolved machine type. details: the free size to send with a deploy, empty for fixed ones.

    kept: what is to be kept of the name, when its offering has another.
    """

    name: str
    row: Row
    details: dict[str, str] = field(default_factory=dict)
    kept: str = ""


def kind(scope: Scope) -> Kind:
    return Kind(
        "service offerings",
        300.0,
        lambda client: client.read_all("listServiceOfferings"),
        lambda rows: scope.environment.index(rows, mapped=dict(scope.names.machine_types)),
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


def size_of(name: str) -> tuple[int, int] | None:
    """CPUs and MB of one of Google's names."""
    if match := _CUSTOM.fullmatch(name):
        return int(match[1]), int(match[2])
    if match := _SHARED_CUSTOM.fullmatch(name):
        return _SHARED["e2-micro"][0], int(match[1])
    return PREDEFINED.get(name)


def _is_custom(name: str) -> bool:
    return bool(_CUSTOM.fullmatch(name) or _SHARED_CUSTOM.fullmatch(name))


def _of_size(scope: Scope, zone: Zone, name: str, cpus: int, memory: int) -> MachineType | None:
    """The size by an offering of exactly this one, or by one with bounds, or by one without.

    A free size is one to begin with, so that is how a custom type is had where it can be.
    """
    here = [row for _, row in scope.catalog(kind(scope)).index if in_zone(row, zone)]
    exact = [row for row in here if not _is_free(row) and (row.get("cpunumber"), row.get("memory")) == (cpus, memory)]
    free = [row for row in here if _fits(row, cpus, memory)]
    free.sort(key=lambda row: not row.get("serviceofferingdetails"))
    fitting = free + exact if _is_custom(name) else exact + free
    if not fitting:
        return None
    details = {}
    if _is_free(fitting[0]):
        details = {"cpuNumber": str(cpus), "memory": str(memory)}
        if not fitting[0].get("cpuspeed"):
            # An offering without a speed wants one with each machine, and refuses one otherwise.
            details["cpuSpeed"] = _SPEED
    return MachineType(name, fitting[0], details, name)


def resolve(scope: Scope, zone: Zone, text: str, field: str) -> MachineType:
    """What a request means by a machine type. Raises 404, and 400 for a free size that the zone does not offer."""
    name = places.name_in(scope, zone, text, field, "machineTypes")
    row = scope.catalog(kind(scope)).index.find(name)
    if row is None and (size := size_of(name)):
        found = _of_size(scope, zone, name, *size)
        if found is None and _is_custom(name):
            raise invalid(field, f"'{text}'. The zone '{zone.name}' offers no machine type of this size.")
        if found is not None:
            return found
    row = row or scope.lookup(kind(scope), name)
    if row is None or not in_zone(row, zone) or _is_free(row):
        raise not_found(scope.links.path(zone.path, "machineTypes", name))
    return MachineType(scope.catalog(kind(scope)).index.name(row["id"]) or name, row)


def name_of(scope: Scope, zone: Zone, machine: Row, kept: str = "") -> str:
    """Machine type of a row of listVirtualMachines. kept: the name it was made with, good while it has that size."""
    size = machine.get("cpunumber", 0), machine.get("memory", 0)
    if kept and size_of(kept) == size:
        return kept
    index = scope.catalog(kind(scope)).index
    offering = machine.get("serviceofferingid", "")
    row = index.find(offering) if offering else None
    if row is not None and _is_free(row):
        return f"custom-{size[0]}-{size[1]}"
    # An offering that was withdrawn is not listed any more; its machines still have its name.
    return index.name(offering) or scope.environment.name(str(machine.get("serviceofferingname", "unknown")))


def to_machine_type(scope: Scope, zone: Zone, name: str, row: Row, cpus: int = 0, memory: int = 0) -> pb.MachineType:
    """A row of listServiceOfferings; with the size that a name of Google's stands for."""
    return pb.MachineType(
        kind="compute#machineType",
        id=number(f"{row['id']}/{name}") if cpus else number(row["id"]),
        creationTimestamp=from_cloudstack(row.get("created", "")),
        name=name,
        description=f"{cpus} vCPUs, {memory} MB RAM" if cpus else row.get("displaytext") or row["name"],
        guestCpus=cpus or int(row.get("cpunumber", 0)),
        memoryMb=memory or int(row.get("memory", 0)),
        imageSpaceGb=0,
        maximumPersistentDisks=_DISKS,
        maximumPersistentDisksSizeGb=_DISKS_GB,
        zone=zone.name,
        selfLink=scope.links.of(zone.path, "machineTypes", name),
        isSharedCpu=name in _SHARED or bool(_SHARED_CUSTOM.fullmatch(name)),
        architecture="X86_64",
    )


def _find(scope: Scope, zone: Zone, name: str) -> Reading[Message]:
    found = resolve(scope, zone, name, "machineType")
    cpus, memory = (found.kept and size_of(found.kept)) or (0, 0)
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
    differences="Google's predefined names, and `custom-<cpus>-<mb>` and the like, are there when an offering has their"
    " size, or one with a free size has room for it; a name's processor and memory limits mean nothing.",
)
lists("MachineTypes", _read, calls=("listServiceOfferings",))
