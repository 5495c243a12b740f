"""Subnetworks: each CloudStack network is one subnetwork, in the region of its zone.

It is named like its GCE network when that network has no other one in the region, else `<network>-<zone>`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from gstack.compute.v1 import subnetworks_pb2 as pb
from gstack.kernel.errors import invalid, not_found
from translator_service import lists
from translator_service.catalog import Entry
from translator_service.cloudstack.client import Answer
from translator_service.fingerprints import fingerprint
from translator_service.links import parse
from translator_service.naming import MAX_LENGTH, Row, number, with_suffix
from translator_service.operations.render import from_cloudstack
from translator_service.resources import networks, zones
from translator_service.resources.zones import Zone
from translator_service.rpc import rpc
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
    index, entry = networks.index(scope), scope.catalog(zones.kind(scope))
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


def resolve(scope: Scope, text: str, region: str, place: str) -> Subnetwork:
    """The subnetwork of this region that a request refers to. place: the field. Raises 400 and 404."""
    reference = parse(text, place)
    if reference.collection not in ("", "subnetworks") or (reference.scope and not reference.region):
        raise invalid(place, f"'{text}'. The URL does not name a subnetwork.")
    if not scope.owns(reference):
        raise not_found(f"projects/{reference.project}/{reference.scope}/subnetworks/{reference.name}")
    if reference.region not in ("", region):
        raise invalid(place, f"'{text}'. The subnetwork must be in region '{region}'.")
    return find(scope, region, reference.name)


def find(scope: Scope, region: str, name: str) -> Subnetwork:
    """By the shown name, CloudStack's name, uuid or number. Raises 404."""
    found = _known(scope, region, name)
    if found is None:
        # A miss may be due to an old list; this reads it anew unless it is young.
        scope.lookup(networks.kind(scope), name)
        found = _known(scope, region, name)
    if found is None:
        raise not_found(scope.links.path("regions", region, "subnetworks", name))
    return found


def _known(scope: Scope, region: str, name: str) -> Subnetwork | None:
    is_lent = networks.index(scope).is_lent
    here = [found for found in table(scope).values() if found.region == region]
    meant = [found for found in here if found.name == name] + [found for found in here if _is_alias(found.row, name)]
    return min(meant, key=lambda found: is_lent(found.row), default=None)


def _is_alias(row: Row, name: str) -> bool:
    return name.lower() == row["id"] or name in (row["name"], str(number(row["id"])))


def to_subnetwork(scope: Scope, subnetwork: Subnetwork) -> pb.Subnetwork:
    row = subnetwork.row
    cidr, gateway = row.get("cidr", ""), row.get("gateway", "")
    return pb.Subnetwork(
        kind="compute#subnetwork",
        id=number(row["id"]),
        creationTimestamp=from_cloudstack(row.get("created", "")),
        name=subnetwork.name,
        description=scope.described(row),
        network=networks.link(scope, subnetwork.network),
        ipCidrRange=cidr,
        gatewayAddress=gateway,
        region=scope.links.of("regions", subnetwork.region),
        selfLink=subnetwork.link(scope),
        privateIpGoogleAccess=False,
        fingerprint=fingerprint(row["id"], subnetwork.name, cidr, gateway),
        purpose="PRIVATE",
        stackType="IPV4_ONLY",
        state="READY",
        privateIpv6GoogleAccess="DISABLE_GOOGLE_ACCESS",
        enableFlowLogs=False,
    )


def sources(scope: Scope) -> list[Answer | Entry]:
    """What an answer about networks, subnetworks and routes depends on."""
    return [scope.catalog(networks.kind(scope)), scope.catalog(zones.kind(scope))]


_DIFFERENCES = "Each network of a zone is one subnetwork; it can be used in that zone only, not in its whole region."
_CALLS = ("listNetworks", "listZones")


@rpc("Subnetworks.Get", calls=_CALLS, differences=_DIFFERENCES)
def get(scope: Scope, request: pb.GetSubnetworkRequest) -> Message:
    region = zones.resolve_region(scope, request.region)
    return to_subnetwork(scope, find(scope, region, request.subnetwork))


@rpc("Subnetworks.List", calls=_CALLS, differences=_DIFFERENCES)
def list_(scope: Scope, request: pb.ListSubnetworksRequest) -> Any:
    region = zones.resolve_region(scope, request.region)

    def build() -> Message:
        found = [to_subnetwork(scope, one) for one in table(scope).values() if one.region == region]
        return lists.page(scope, request, found, pb.SubnetworkList, f"regions/{region}/subnetworks")

    return scope.reply(sources(scope), request, build)


@rpc("Subnetworks.AggregatedList", calls=_CALLS, differences=_DIFFERENCES)
def aggregated_list(scope: Scope, request: pb.AggregatedListSubnetworksRequest) -> Any:
    def build() -> Message:
        items = [(f"regions/{one.region}", to_subnetwork(scope, one)) for one in table(scope).values()]
        scopes = [f"regions/{region}" for region in zones.regions(scope)]
        return lists.aggregated(scope, request, items, scopes, pb.SubnetworkAggregatedList, "subnetworks")

    return scope.reply(sources(scope), request, build)
