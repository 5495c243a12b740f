"""Zones: CloudStack zones."""

from __future__ import annotations

from google.protobuf.message import Message

from gstack.compute.v1 import zones_pb2 as pb
from translator_service import places
from translator_service.cloudstack.rows import Row
from translator_service.collection import Items, Reading, gets, lists
from translator_service.gce.naming import number
from translator_service.gce.times import UNKNOWN_TIME
from translator_service.scope import Scope


def to_zone(scope: Scope, name: str, row: Row) -> pb.Zone:
    """A row of listZones."""
    return pb.Zone(
        kind="compute#zone",
        id=number(row["id"]),
        creationTimestamp=UNKNOWN_TIME,
        name=name,
        description=row.get("description") or name,
        status="UP" if row.get("allocationstate") == "Enabled" else "DOWN",
        region=scope.links.of("regions", scope.names.region(name)),
        selfLink=scope.links.of("zones", name),
        supportsPzs=False,
    )


def _find(scope: Scope, place: None, name: str) -> Reading[Message]:
    zone = places.resolve_zone(scope, name)
    row = scope.catalog(places.kind(scope)).index.find(zone.id)
    assert row is not None
    return Reading(lambda: to_zone(scope, zone.name, row))


def _read(scope: Scope, place: None) -> Reading[Items]:
    entry = scope.catalog(places.kind(scope))
    return Reading(lambda: [("", to_zone(scope, *pair)) for pair in entry.index], [entry])


gets("Zones", _find, calls=("listZones",))
lists("Zones", _read, calls=("listZones",))
