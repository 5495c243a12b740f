"""Zones and regions, for all other collections: where something is, and how names of places are resolved."""

from __future__ import annotations

from dataclasses import dataclass

from gstack.kernel.errors import invalid, not_found
from translator_service.cloudstack.catalog import Kind
from translator_service.cloudstack.rows import Row
from translator_service.gce.links import parse
from translator_service.gce.naming import number, slug
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


def scopes(scope: Scope, level: str = "", *, everywhere: bool = False) -> list[str]:
    """The keys of aggregated lists: `zones/z` of every zone, or `regions/r` of every region, or `global`.

    level: "zones", "regions" or "". everywhere: all of them (includeAllScopes).
    """
    found = {
        "": ["global"],
        "regions": [f"regions/{region}" for region in regions(scope)],
        "zones": [zone.path for zone in all_zones(scope)],
    }
    return [one for some in found.values() for one in some] if everywhere else found[level]


def regions(scope: Scope) -> list[str]:
    """Names of all regions."""
    return sorted({zone.region for zone in all_zones(scope)})


def resolve_zone(scope: Scope, name: str) -> Zone:
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
    if reference.zone and resolve_zone(scope, reference.zone).id != zone.id:
        raise invalid(field, f"'{text}'. It must be in the zone '{zone.name}'.")
    return reference.name


def zone_by_id(scope: Scope, zone_id: str) -> Zone | None:
    """The zone with CloudStack's uuid, None when the caller cannot see it."""
    index = scope.catalog(kind(scope)).index
    name = index.name(zone_id)
    row = index.find(zone_id)
    return _zone(scope, name, row) if name and row else None


def region_number(name: str) -> int:
    """The id of a region, which CloudStack has none for."""
    return number(f"region/{name}")


def resolve_region(scope: Scope, name: str) -> str:
    """The region's name, for its name, its numeric id, or what CloudStack's own names of its zones begin with.

    Raises 404.
    """
    for region in regions(scope):
        if name in (region, str(region_number(region))):
            return region
    for shown, row in scope.catalog(kind(scope)).index:
        verbatim = scope.names.region(str(row["name"]))
        if name in (verbatim, slug(verbatim)):
            return scope.names.region(shown)
    raise not_found(scope.links.path("regions", name))


def zones_of(scope: Scope, region: str) -> list[Zone]:
    """The zones of a region. Raises 404."""
    region = resolve_region(scope, region)
    return [zone for zone in all_zones(scope) if zone.region == region]
