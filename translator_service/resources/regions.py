"""Regions: groups of zones, told by their names. CloudStack's own regions are whole installations."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from gstack.compute.v1 import regions_pb2 as pb
from translator_service import lists
from translator_service.operations.render import UNKNOWN_TIME
from translator_service.resources import projects, zones
from translator_service.rpc import rpc
from translator_service.scope import Scope

# Which of a project's limits GCE shows per region.
_METRICS = ("CPUS", "DISKS_TOTAL_GB", "STATIC_ADDRESSES", "IN_USE_ADDRESSES", "INSTANCES")


def to_region(scope: Scope, name: str, quotas: list[Any]) -> pb.Region:
    """A region of the zones that carry its name."""
    members = zones.zones_of(scope, name)
    return pb.Region(
        kind="compute#region",
        id=zones.region_number(name),
        creationTimestamp=UNKNOWN_TIME,
        name=name,
        description=name,
        status="UP",
        zones=[scope.links.of(zone.path) for zone in members],
        quotas=[quota for quota in quotas if quota.metric in _METRICS],
        selfLink=scope.links.of("regions", name),
        supportsPzs=False,
    )


@rpc("Regions.Get", calls=("listZones", "listAccounts"), differences="Quotas are those of the whole project.")
def get(scope: Scope, request: pb.GetRegionRequest) -> Message:
    return to_region(scope, zones.resolve_region(scope, request.region), projects.quotas(scope))


@rpc("Regions.List", calls=("listZones", "listAccounts"), differences="Quotas are those of the whole project.")
def list_(scope: Scope, request: pb.ListRegionsRequest) -> Any:
    quotas = projects.quotas(scope)

    def build() -> Message:
        found = [to_region(scope, name, quotas) for name in zones.regions(scope)]
        return lists.page(scope, request, found, pb.RegionList, "regions")

    digest = hash(tuple(quota.SerializeToString() for quota in quotas))
    return scope.reply([scope.catalog(zones.kind(scope))], request, build, digest)
