"""Regions: groups of zones, told by their names. CloudStack's own regions are whole installations."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from gstack.compute.v1 import regions_pb2 as pb
from translator_service import places
from translator_service.collection import Items, Reading, gets, lists
from translator_service.gce.times import UNKNOWN_TIME
from translator_service.resources import projects
from translator_service.scope import Scope

# Which of a project's limits GCE shows per region.
_METRICS = ("CPUS", "DISKS_TOTAL_GB", "STATIC_ADDRESSES", "IN_USE_ADDRESSES", "INSTANCES")


def to_region(scope: Scope, name: str, quotas: list[Any]) -> pb.Region:
    """A region of the zones that carry its name."""
    members = places.zones_of(scope, name)
    return pb.Region(
        kind="compute#region",
        id=places.region_number(name),
        creationTimestamp=UNKNOWN_TIME,
        name=name,
        description=name,
        status="UP",
        zones=[scope.links.of(zone.path) for zone in members],
        quotas=[quota for quota in quotas if quota.metric in _METRICS],
        selfLink=scope.links.of("regions", name),
        supportsPzs=False,
    )


def _find(scope: Scope, place: None, name: str) -> Reading[Message]:
    return Reading(lambda: to_region(scope, places.resolve_region(scope, name), projects.quotas(scope)))


def _read(scope: Scope, place: None) -> Reading[Items]:
    quotas = projects.quotas(scope)
    digest = hash(tuple(quota.SerializeToString() for quota in quotas))
    return Reading(
        lambda: [("", to_region(scope, name, quotas)) for name in places.regions(scope)],
        [scope.catalog(places.kind(scope))],
        (digest,),
    )


_CALLS = ("listZones", "listAccounts")
_DIFFERENCES = "Quotas are those of the whole project."

gets("Regions", _find, calls=_CALLS, differences=_DIFFERENCES)
lists("Regions", _read, calls=_CALLS, differences=_DIFFERENCES)
