"""Routes: what the routers of CloudStack networks do by themselves, told as GCE tells it. They cannot be changed."""

from __future__ import annotations

import hashlib
from typing import Any

from google.protobuf.message import Message

from gstack.compute.v1 import routes_pb2 as pb
from gstack.kernel.errors import not_found
from translator_service.cloudstack.rows import Row
from translator_service.collection import Items, Reading, gets, lists
from translator_service.gce.naming import number
from translator_service.gce.times import from_cloudstack
from translator_service.networking import networks, subnetworks
from translator_service.scope import Scope

_EVERYWHERE = "0.0.0.0/0"


def _route(scope: Scope, seed: str, network: str, row: Row, **fields: Any) -> pb.Route:
    name = f"default-route-{hashlib.sha256(seed.encode()).hexdigest()[:8]}"
    return pb.Route(
        kind="compute#route",
        id=number(seed),
        creationTimestamp=from_cloudstack(row.get("created", "")),
        name=name,
        network=networks.link(scope, network),
        selfLink=scope.links.of("global", "routes", name),
        **fields,
    )


def default_route(scope: Scope, network: str, row: Row) -> pb.Route:
    """The way to the Internet. row: the oldest CloudStack network of the GCE network."""
    return _route(
        scope,
        f"{row['id']}/internet",
        network,
        row,
        description="Default route to the Internet.",
        destRange=_EVERYWHERE,
        priority=1000,
        nextHopGateway=scope.links.of("global", "gateways", "default-internet-gateway"),
        routeType="STATIC",
    )


def subnet_route(scope: Scope, network: str, row: Row) -> pb.Route:
    """The way to the instances of one CloudStack network."""
    return _route(
        scope,
        f"{row['id']}/subnetwork",
        network,
        row,
        description=f"Default local route to the subnetwork {row['cidr']}.",
        destRange=row["cidr"],
        priority=0,
        nextHopNetwork=networks.link(scope, network),
        routeType="SUBNET",
    )


def _all(scope: Scope) -> list[pb.Route]:
    index = networks.index(scope)
    found = [default_route(scope, name, row) for name, row in index]
    for subnetwork in subnetworks.table(scope).values():
        if subnetwork.row.get("cidr"):
            found.append(subnet_route(scope, subnetwork.network, subnetwork.row))
    return found


_CALLS = ("listNetworks", "listZones")


_DIFFERENCES = "Routes follow from the networks and cannot be made or deleted."


def _find(scope: Scope, place: None, name: str) -> Reading[Message]:
    found = next((route for route in _all(scope) if name in (route.name, str(route.id))), None)
    if found is None:
        raise not_found(scope.links.path("global", "routes", name))
    return Reading(lambda: found)


def _read(scope: Scope, place: None) -> Reading[Items]:
    return Reading(lambda: [("", route) for route in _all(scope)], subnetworks.sources(scope))


gets("Routes", _find, calls=_CALLS, differences=_DIFFERENCES)
lists("Routes", _read, calls=_CALLS, differences=_DIFFERENCES)
