"""Networks: CloudStack guest networks, which are zonal, as GCE networks, which are global."""

from __future__ import annotations

from google.protobuf.message import Message

from gstack.compute.v1 import networks_pb2 as pb
from translator_service.cloudstack.rows import Row
from translator_service.collection import Items, Reading, gets, lists
from translator_service.gce.naming import number
from translator_service.gce.times import from_cloudstack
from translator_service.networking import networks, subnetworks
from translator_service.networking.networks import DEFAULT
from translator_service.scope import Scope


def to_network(scope: Scope, name: str, rows: list[Row]) -> pb.Network:
    """Rows of listNetworks that make up one network, the oldest first."""
    only = rows[0] if len(rows) == 1 else {}
    return pb.Network(
        kind="compute#network",
        id=number(rows[0]["id"]),
        creationTimestamp=from_cloudstack(rows[0].get("created", "")),
        name=name,
        description="Default network for the project" if name == DEFAULT else scope.described(only),
        selfLink=networks.link(scope, name),
        autoCreateSubnetworks=name == DEFAULT,
        subnetworks=sorted(found.link(scope) for row in rows if (found := subnetworks.of_row(scope, row))),
        routingConfig=pb.NetworkRoutingConfig(routingMode="REGIONAL"),
        mtu=1460,
        networkFirewallPolicyEnforcementOrder="AFTER_CLASSIC_FIREWALL",
    )


_DIFFERENCES = (
    "The shared networks of zones with security groups and isolated networks named `default` are the network"
    " `default`; any other isolated network, which exists in one zone only, is a network of its own. A network that"
    " another account lends is one too, with that account in its description, and never the network `default`."
)


def _find(scope: Scope, place: None, text: str) -> Reading[Message]:
    name = networks.find(scope, text)
    return Reading(lambda: to_network(scope, name, networks.index(scope).members(name)))


def _read(scope: Scope, place: None) -> Reading[Items]:
    known = networks.index(scope)
    return Reading(
        lambda: [("", to_network(scope, name, known.members(name))) for name, _ in known], subnetworks.sources(scope)
    )


_CALLS = ("listNetworks", "listZones")

gets("Networks", _find, calls=_CALLS, differences=_DIFFERENCES)
lists("Networks", _read, calls=_CALLS, differences=_DIFFERENCES)
