"""disks.get, list, aggregatedList, testIamPermissions, getIamPolicy."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import Message

from translator_service import places
from translator_service.cloudstack.catalog import Entry
from translator_service.cloudstack.client import Answer
from translator_service.cloudstack.rows import Row
from translator_service.collection import Items, Reading, gets, lists, permits
from translator_service.gce.lists import Later
from translator_service.gce.naming import number
from translator_service.gce.times import from_cloudstack
from translator_service.places import Zone
from translator_service.resources import disk_types
from translator_service.resources.disks import intents
from translator_service.resources.disks.find import find, unique_rows, with_intents
from translator_service.resources.disks.view import identity_of, names, to_disk
from translator_service.resources.images import templates
from translator_service.scope import Scope


def _catalogs(scope: Scope) -> list[Answer | Entry]:
    """The cached lists that a disk's links come from."""
    return [scope.catalog(one(scope)) for one in (places.kind, disk_types.kind, templates.kind)]


def _disks(scope: Scope, zone: Zone, rows: Iterable[Row]) -> list[Later]:
    def later(name: str, row: Row) -> Later:
        created = from_cloudstack(row.get("created", ""))
        return Later(name, created, number(identity_of(row)), lambda: to_disk(scope, zone, row, name))

    return [later(name, row) for name, row in names(rows)]


def _find(scope: Scope, zone: Zone, text: str) -> Reading[Message]:
    name, row, answers = find(scope, zone, text)
    # An intent is not of CloudStack's answers.
    sources = [] if intents.MARK in row else [*answers, *_catalogs(scope)]
    return Reading(lambda: to_disk(scope, zone, row, name), sources, (name, row["id"]))


def _read(scope: Scope, zone: Zone | None) -> Reading[Items]:
    # Before CloudStack is asked: what becomes a volume in between is in both, and shown once.
    coming = intents.of(scope, zone)
    answers = scope.client.read_all("listVolumes", **({"zoneid": zone.id} if zone else {}))

    def build() -> Items:
        by_zone: dict[str, list[Row]] = {}
        for row in with_intents(unique_rows(answers), coming):
            by_zone.setdefault(row["zoneid"], []).append(row)
        for place in [zone] if zone else places.all_zones(scope):
            for disk in _disks(scope, place, by_zone.get(place.id, ())):
                yield place.path, disk

    return Reading(build, [*answers, *_catalogs(scope)], intents.state(coming))


gets(
    "Disks",
    _find,
    calls=("listVolumes", "listVirtualMachines"),
    differences="Two calls; more for one that was not made here and has no name of its own. A boot disk that was not "
    "made here is named like its instance. Volumes that are deleted but not yet "
    "expunged are not shown.",
)
lists("Disks", _read, calls=("listVolumes",))
permits("Disks", find, calls=("listVolumes", "listVirtualMachines"))
