"""Zones: CloudStack zones. Also the resolver of zone and region names for all other collections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from gstack.compute.v1 import zones_pb2 as pb
from gstack.kernel.errors import invalid, not_found
from translator_service import lists
from translator_service.catalog import Kind
from translator_service.links import parse
from translator_service.naming import Row, number, slug
from translator_service.operations.render import UNKNOWN_TIME
from translator_service.rpc import rpc
from translator_service.scope import Scope


@dataclass(frozen=True)
class Zone:
    """A zone as other collections need it. id: CloudStack's uuid; security_groups: the kind of its network."""

    name: str
    id: str
    region: str
    security_groups: bool

    @property
    def path(self) -> str:
        return f"zones/{self.name}"


def kind(scope: Scope) -> Kind:
    """The cached list of zones. A zone needs a region, so a name without a dash gets `-a`."""

    def shown(row: Row) -> str:
        mapped = scope.names.zones.get(row["name"])
        name = mapped or (slug(row["name"]) if scope.environment.settings.naming == "rfc1035" else str(row["name"]))
        return name if "-" in name else f"{name}-a"

    return Kind(
        "zones",
        300.0,
        lambda client: client.read_all("listZones"),
        lambda rows: scope.environment.index(rows, mapped={row["id"]: shown(row) for row in rows}),
    )


def _zone(scope: Scope, name: str, row: Row) -> Zone:
    basic = row.get("networktype") == "Basic"
    return Zone(name, row["id"], scope.names.region(name), bool(row.get("securitygroupsenabled")) or basic)


def all_zones(scope: Scope) -> list[Zone]:
    return [_zone(scope, name, row) for name, row in scope.catalog(kind(scope)).index]


def scopes(scope: Scope, everywhere: bool = False) -> list[str]:
    """`zones/z` of every zone, the keys of aggregated lists. everywhere: all other scopes too (includeAllScopes)."""
    found = [zone.path for zone in all_zones(scope)]
    return ["global", *(f"regions/{region}" for region in regions(scope)), *found] if everywhere else found


def regions(scope: Scope) -> list[str]:
    """Names of all regions."""
    return sorted({zone.region for zone in all_zones(scope)})


def resolve(scope: Scope, name: str) -> Zone:
    """Raises 404."""
    row = scope.lookup(kind(scope), name)
    if row is None:
        raise not_found(scope.links.path("zones", name))
    return _zone(scope, scope.catalog(kind(scope)).index.name(row["id"]) or name, row)


def name_in(scope: Scope, zone: Zone, text: str, field: str, collection: str) -> str:
    """The name in a reference to something in this zone.

    Raises 400 for one to another zone or collection, 404 for one to another project.
    """
    reference = parse(text, field)
    if reference.collection not in ("", collection):
        raise invalid(field, f"'{text}'. The URL does not name one of {collection}.")
    if not scope.owns(reference):
        raise not_found(f"projects/{reference.project}/{zone.path}/{collection}/{reference.name}")
    if reference.zone and resolve(scope, reference.zone).id != zone.id:
        raise invalid(field, f"'{text}'. It must be in the zone '{zone.name}'.")
    return reference.name


def by_id(scope: Scope, zone_id: str) -> Zone | None:
    """The zone with CloudStack's uuid, None when the caller cannot see it."""
    index = scope.catalog(kind(scope)).index
    name = index.name(zone_id)
    row = index.find(zone_id)
    return _zone(scope, name, row) if name and row else None


def region_number(name: str) -> int:
    """The id of a region, which CloudStack has none for."""
    return number(f"region/{name}")


def resolve_region(scope: Scope, name: str) -> str:
    """The region's name, for its name or its numeric id. Raises 404."""
    for region in regions(scope):
        if name in (region, str(region_number(region))):
            return region
    raise not_found(scope.links.path("regions", name))


def zones_of(scope: Scope, region: str) -> list[Zone]:
    """The zones of a region. Raises 404."""
    region = resolve_region(scope, region)
    return [zone for zone in all_zones(scope) if zone.region == region]


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


@rpc("Zones.Get", calls=("listZones",))
def get(scope: Scope, request: pb.GetZoneRequest) -> Message:
    row = scope.lookup(kind(scope), request.zone)
    if row is None:
        raise not_found(scope.links.path("zones", request.zone))
    return to_zone(scope, scope.catalog(kind(scope)).index.name(row["id"]) or request.zone, row)


@rpc("Zones.List", calls=("listZones",))
def list_(scope: Scope, request: pb.ListZonesRequest) -> Any:
    entry = scope.catalog(kind(scope))

    def build() -> Message:
        return lists.page(scope, request, [to_zone(scope, *pair) for pair in entry.index], pb.ZoneList, "zones")

    return scope.reply([entry], request, build)
