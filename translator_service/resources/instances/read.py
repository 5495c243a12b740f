"""instances.get, list, aggregatedList."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from google.protobuf.message import Message

from translator_service import places
from translator_service.cloudstack.client import all_rows
from translator_service.cloudstack.rows import Row
from translator_service.collection import Items, Reading, gets, lists
from translator_service.gce.lists import Later
from translator_service.gce.naming import Index, number
from translator_service.gce.times import from_cloudstack
from translator_service.networking import networks
from translator_service.places import Zone
from translator_service.resources import disk_types, machine_types
from translator_service.resources.disks import view as disk_view
from translator_service.resources.images import templates
from translator_service.resources.instances import attached
from translator_service.resources.instances.find import AWAITED, awaited, find, path, under_way
from translator_service.resources.instances.view import DETAILS, index, to_instance
from translator_service.scope import Scope


def catalogs(scope: Scope) -> list[Any]:
    """The cached lists that an instance's links come from."""
    return [
        scope.catalog(kind(scope))
        for kind in (places.kind, networks.kind, machine_types.kind, disk_types.kind, templates.kind)
    ]


def reading(scope: Scope, zone: Zone, text: str) -> Reading[Message]:
    name, row, answers = find(scope, zone, text)
    busy = under_way(scope).get(path(zone, name))
    if not answers:
        return Reading(lambda: to_instance(scope, zone, name, row, None, "insert"))
    sources: list[Any] = [*answers, *catalogs(scope)]
    if attached.is_told_by_details(row):
        return Reading(lambda: to_instance(scope, zone, name, row, None, busy), sources, (busy,))
    volumes, names, found = attached.of_instance(scope, zone, row, name)
    build = lambda: to_instance(scope, zone, name, row, volumes, busy, names.get)  # noqa: E731
    return Reading(build, [*sources, *found], (busy,))


def _read(scope: Scope, zone: Zone | None) -> Reading[Items]:
    """All machines and all their volumes, side by side; and what is under insert, as long as CloudStack lacks it."""
    coming = awaited(scope, zone.path if zone else "")
    where = {"zoneid": zone.id} if zone else {}
    answers, volumes = scope.client.read_all_many(
        [("listVirtualMachines", {"details": DETAILS, **where}), ("listVolumes", where)]
    )
    busy = under_way(scope)

    def build() -> Items:
        by_machine: dict[str, list[Row]] = {}
        disks_of: dict[str, list[Row]] = {}
        for volume in all_rows(volumes):
            disks_of.setdefault(volume["zoneid"], []).append(volume)
            if volume.get("virtualmachineid") and disk_view.is_shown(volume):
                by_machine.setdefault(volume["virtualmachineid"], []).append(volume)
        # Only what is shown of a list is built.
        names = cache(lambda zone_id: disk_view.names(disks_of.get(zone_id, ())))
        by_zone: dict[str, list[Row]] = {}
        for row in all_rows(answers):
            by_zone.setdefault(row["zoneid"], []).append(row)
        for place in [zone] if zone else places.all_zones(scope):
            there = set()
            for name, row in index(scope, by_zone.get(place.id, ())):
                there.add(path(place, name))
                yield place.path, _later(scope, place, name, row, by_machine.get(row["id"], ()), busy, names)
            for target, row in coming.items():
                if target not in there and row["zoneid"] == place.id:
                    yield place.path, _later(scope, place, row["name"], row, None, {target: "insert"}, names)

    state = (*sorted(busy.items()), *(row[AWAITED] for row in coming.values()))
    return Reading(build, [*answers, *volumes, *catalogs(scope)], state)


def _later(
    scope: Scope,
    zone: Zone,
    name: str,
    row: Row,
    volumes: Sequence[Row] | None,
    busy: dict[str, str],
    names: Callable[[str], Index],
) -> Later:
    created = from_cloudstack(row.get("created", ""))
    work = busy.get(path(zone, name))

    def build() -> Message:
        return to_instance(scope, zone, name, row, volumes, work, names(zone.id).name)

    return Later(name, created, number(row["id"]), build)


gets(
    "Instances",
    reading,
    calls=("listVirtualMachines", "listVolumes"),
    differences="One call while the machine has only its boot disk, which its details tell of, two with further disks. "
    "A machine made elsewhere costs three more, side by side, for its disks. Disks attached elsewhere to a machine "
    "that had only its boot disk, and the size of such a boot disk that was resized elsewhere, are shown by list and "
    "by disks.get, not by get.",
)
lists("Instances", _read, calls=("listVirtualMachines", "listVolumes"))
