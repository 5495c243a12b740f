"""Subnetworks: each CloudStack network is one subnetwork, in the region of its zone.

It is named like its GCE network when that network has no other one in the region, else `<network>-<zone>`. Also which
CloudStack network an interface of an instance gets.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from gstack.kernel.errors import ApiError, invalid, not_found
from translator_service import places
from translator_service.cloudstack.catalog import Entry
from translator_service.cloudstack.client import Answer
from translator_service.cloudstack.rows import Row
from translator_service.gce.links import parse
from translator_service.gce.naming import MAX_LENGTH, number, with_suffix
from translator_service.networking import networks
from translator_service.networking.networks import DEFAULT
from translator_service.places import Zone
from translator_service.scope import Scope


@dataclass(frozen=True)
class Subnetwork:
    """A subnetwork as other collections need it. network: GCE name; row: the CloudStack network."""

    name: str
    network: str
    zone: Zone
    row: Row = field(repr=False)

    @property
    def region(self) -> str:
        return self.zone.region

    def link(self, scope: Scope) -> str:
        return scope.links.of("regions", self.region, "subnetworks", self.name)


def table(scope: Scope) -> dict[str, Subnetwork]:
    """All subnetworks of the project by the uuid of their CloudStack network, the oldest first."""
    index, entry = networks.index(scope), scope.catalog(places.kind(scope))
    known = index.subnetworks
    if known is None or known[0] != entry.digest:
        known = index.subnetworks = (entry.digest, _table(scope, index))
    found: dict[str, Subnetwork] = known[1]
    return found


def _table(scope: Scope, index: networks.Networks) -> dict[str, Subnetwork]:
    placed = [(row, zone) for row in index.rows if (zone := networks.zone_of(scope, row))]
    siblings = Counter((index.name(row["id"]), zone.region) for row, zone in placed)
    # A network alone in its region keeps its name, whatever `<network>-<zone>` says of others.
    placed.sort(key=lambda pair: (index.is_lent(pair[0]), siblings[index.name(pair[0]["id"]), pair[1].region] > 1))
    taken: set[tuple[str, str]] = set()
    found = {}
    for row, zone in placed:
        network = index.name(row["id"]) or ""
        name = network
        if siblings[network, zone.region] > 1:
            name = f"{network}-{zone.name}"
        if len(name) > MAX_LENGTH or (zone.region, name) in taken:
            name = with_suffix(name, row["id"])
        taken.add((zone.region, name))
        found[row["id"]] = Subnetwork(name, network, zone, row)
    return found


def of_row(scope: Scope, row: Row) -> Subnetwork | None:
    """The subnetwork of a CloudStack network, None when the caller cannot see its zone."""
    return table(scope).get(row["id"])


def name_of(scope: Scope, network_id: str) -> str:
    """GCE name of the subnetwork with this uuid, "" when the caller cannot list it."""
    found = table(scope).get(network_id)
    return found.name if found else ""


def resolve(scope: Scope, text: str, zone: Zone, place: str) -> Subnetwork:
    """The subnetwork of this zone's region that a request refers to. place: the field. Raises 400 and 404."""
    reference = parse(text, place)
    if reference.collection not in ("", "subnetworks") or (reference.scope and not reference.region):
        raise invalid(place, f"'{text}'. The URL does not name a subnetwork.")
    if not scope.owns(reference):
        raise not_found(f"projects/{reference.project}/{reference.scope}/subnetworks/{reference.name}")
    if reference.region and places.resolve_region(scope, reference.region) != zone.region:
        raise invalid(place, f"'{text}'. The subnetwork must be in region '{zone.region}'.")
    return find(scope, zone.region, reference.name, zone)


def find(scope: Scope, region: str, name: str, zone: Zone | None = None) -> Subnetwork:
    """By the shown name, CloudStack's name, uuid or number, or by the name of its network. Raises 404.

    zone: whose part of a network with several in the region is meant; without one it is the oldest.
    """
    found = _known(scope, region, name, zone)
    if found is None:
        # A miss may be due to an old list; this reads it anew unless it is young.
        scope.lookup(networks.kind(scope), name)
        found = _known(scope, region, name, zone)
    if found is None:
        raise not_found(scope.links.path("regions", region, "subnetworks", name))
    return found


def _known(scope: Scope, region: str, name: str, zone: Zone | None) -> Subnetwork | None:
    is_lent = networks.index(scope).is_lent
    here = [found for found in table(scope).values() if found.region == region]
    # GCE has one of a network in a region, and clients make its name of the network's.
    parts = [found for found in here if found.network == name]
    parts.sort(key=lambda found: zone is None or found.zone.id != zone.id)
    meant = [found for found in here if found.name == name] + parts
    meant += [found for found in here if _is_alias(found.row, name)]
    return min(meant, key=lambda found: is_lent(found.row), default=None)


def _is_alias(row: Row, name: str) -> bool:
    return name.lower() == row["id"] or name in (row["name"], str(number(row["id"])))


def sources(scope: Scope) -> list[Answer | Entry]:
    """What an answer about networks, subnetworks and routes depends on."""
    return [scope.catalog(networks.kind(scope)), scope.catalog(places.kind(scope))]


def for_instance(
    scope: Scope, zone: Zone, network_text: str, subnetwork_text: str, field: str = "resource.networkInterfaces[0]"
) -> Row:
    """The CloudStack network that an instance in this zone gets.

    Raises 404 for what does not exist, 400 for what is not in this zone.
    """
    if subnetwork_text:
        return _by_subnetwork(scope, zone, network_text, subnetwork_text, field)
    wanted = networks.reference_to(scope, network_text or DEFAULT, f"{field}.network").name
    try:
        name = networks.find(scope, wanted)
    except ApiError:
        if wanted != DEFAULT:
            raise
        name = DEFAULT
    known = networks.index(scope)
    here = [row for row in known.members(name) if row["zoneid"] == zone.id]
    if here:
        return here[0]
    rows = [row for row in known.rows if row["zoneid"] == zone.id]
    names = ", ".join(sorted({f"'{known.name(row['id'])}'" for row in rows}))
    raise invalid(
        f"{field}.network",
        f"'{network_text or scope.links.path('global', 'networks', DEFAULT)}'. The network is not available in zone "
        f"'{zone.name}'. " + (f"Networks of the zone: {names}." if names else "The zone has no network."),
    )


def has_addresses(row: Row) -> bool:
    """Whether an instance in this network can have a public address of its own, by static NAT."""
    return not row.get("vpcid") and any(service["name"] == "StaticNat" for service in row.get("service", ()))


def _by_subnetwork(scope: Scope, zone: Zone, network_text: str, subnetwork_text: str, field: str) -> Row:
    place = f"{field}.subnetwork"
    found = resolve(scope, subnetwork_text, zone, place)
    if network_text and networks.resolve(scope, network_text, f"{field}.network") != found.network:
        raise invalid(
            place, f"'{subnetwork_text}'. The subnetwork must be in the network of the interface, '{network_text}'."
        )
    if found.zone.id != zone.id:
        raise invalid(
            place,
            f"'{subnetwork_text}'. The subnetwork is available in zone '{found.zone.name}', not in zone '{zone.name}'.",
        )
    return found.row
